//! Which servers a guest may connect to: those that the job file names, at the addresses they have now.
//!
//! What must hold:
//! - A name stands for the addresses that were found for it within the last [`LIFETIME_MS`], and for at
//!   most [`ADDRESSES_MAX`] of them. An earlier owner of an address has no claim on it.
//! - Of those, only public ones count, unless the job file says otherwise: else the one who answers for a
//!   name decides which machine inside the firewall is reached.
//! - An address that the job file has itself is granted whatever it is.
//! - A guest is handed no address of a name that it may not connect to.
//! - A resolver that is slow or silent delays those who ask for its names, and nobody else. A name has one
//!   look-up under way at most. That belongs to no call, so it goes on when a call is dropped.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use operator::clock::{Clock, SystemClock};
use tokio::sync::watch;
use tokio::time;

use super::grant_error::GrantError;

/// How long a name stands for an address after it was looked up. The system's resolver does not say for
/// how long its answers are good.
const LIFETIME_MS: i64 = 60_000;

/// How many addresses a name may stand for. Those that were found last count.
const ADDRESSES_MAX: usize = 64;

/// How long a call waits for an answer: longer than the 5 s after which resolvers ask their next server,
/// and shorter than the default of `limits.call-time`.
const WAIT: Duration = Duration::from_secs(7);

/// How long a look-up may take. The system's cannot be stopped, so that each which is given up before its
/// end may keep a thread; this bounds how often.
const LOOK_UP_MAX: Duration = Duration::from_mins(1);

/// The addresses of a name, as soon as they are known.
type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + Sync>>;

/// Looks names up.
trait Resolver: Send + Sync + fmt::Debug {
    /// The addresses that a name has now.
    fn look_up(&self, name: &str) -> Answer;
}

/// That of the system.
#[derive(Debug)]
struct SystemResolver;

impl Resolver for SystemResolver {
    fn look_up(&self, name: &str) -> Answer {
        let name = name.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// A server of the job file: `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    host: Host,
    port: u16,
    /// Whether it may have an address that is not public.
    private: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    Address(IpAddr),
}

impl Endpoint {
    /// Reads `host:port`; an IPv6 address is in brackets.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str, private: bool) -> Result<Self, &'static str> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or("is not of the form host:port")?;
        let host = Host::parse(host)?;
        let port = port.parse().ok().filter(|port| *port != 0);
        Ok(Self {
            host,
            port: port.ok_or("has no port from 1 to 65535")?,
            private,
        })
    }

    /// The key of `grants` that has it.
    fn key(&self) -> &'static str {
        match self.private {
            true => "private-network",
            false => "network",
        }
    }

    /// Whether its name may stand for this address.
    fn admits(&self, address: IpAddr) -> bool {
        match kind(address) {
            None => true,
            Some(_) => self.private && !address.is_unspecified() && !address.is_multicast(),
        }
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(rest) = text.strip_prefix('[') {
            let address = rest.strip_suffix(']').and_then(|it| it.parse().ok());
            let address: Ipv6Addr = address.ok_or("has no IPv6 address in its brackets")?;
            return Self::address(address.to_canonical());
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Self::address(address.into());
        }
        let of_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        // No such name exists, and resolvers take one for an address: `0`, `127.1`, `0x7f.1`.
        let last = text.strip_suffix('.').unwrap_or(text).rsplit('.').next();
        let is_numeric = last.is_some_and(|last| {
            let (digits, radix) = last.strip_prefix("0x").map_or((last, 10), |it| (it, 16));
            !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix))
        });
        match text {
            "" => Err("has no host before its port"),
            _ if text.contains(':') => Err("has an IPv6 address that is not in brackets"),
            _ if !text.chars().all(of_name) => {
                Err("has a host name with characters that no name has")
            }
            _ if is_numeric => Err("has an address that is not of the form 192.0.2.1"),
            _ => Ok(Self::Name(text.to_ascii_lowercase())),
        }
    }

    fn address(address: IpAddr) -> Result<Self, &'static str> {
        if address.is_unspecified() || address.is_multicast() {
            return Err("has an address that no server has");
        }
        Ok(Self::Address(address))
    }
}

/// What became of a name that a guest asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// It stands for these addresses now, the resolver's first one first.
    Found(Vec<IpAddr>),
    /// It is not granted, so nobody was asked.
    NotGranted,
    /// It has no addresses.
    Unknown,
    /// The resolver has not answered yet.
    Unanswered,
    /// It has none that it may stand for.
    NotPublic,
}

/// A look-up that is under way: what it finds, as soon as it has ended.
type Running = watch::Receiver<Option<Lookup>>;

/// What is known of a name.
#[derive(Debug, Default)]
struct Known {
    /// Each with the time until which it counts, the one that was found last at the end.
    addresses: Vec<(IpAddr, i64)>,
    /// Its look-up, if one is under way.
    running: Option<Running>,
    /// When it may be looked up again because an address is not known.
    again_at: i64,
    /// Whether it was reported that it has addresses that do not count.
    reported: bool,
}

impl Known {
    /// Its look-up, unless that has ended or was dropped with the runtime that it ran in.
    fn running(&self) -> Option<&Running> {
        let running = self.running.as_ref();
        running.filter(|it| it.has_changed().is_ok())
    }
}

/// The servers that may be reached. A clone shares what is known of them.
#[derive(Clone, Debug)]
pub(super) struct Network {
    endpoints: Arc<[Endpoint]>,
    /// By name.
    known: Arc<Mutex<HashMap<String, Known>>>,
    resolver: Arc<dyn Resolver>,
    clock: Arc<dyn Clock>,
    /// [`WAIT`].
    wait: Duration,
    /// [`LOOK_UP_MAX`].
    look_up_max: Duration,
}

impl Default for Network {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Network {
    fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints: endpoints.into(),
            known: Arc::default(),
            resolver: Arc::new(SystemResolver),
            clock: Arc::new(SystemClock::new()),
            wait: WAIT,
            look_up_max: LOOK_UP_MAX,
        }
    }

    /// These servers. Looks their names up, so that a name that is wrong is found at the start.
    ///
    /// # Errors
    /// A name has no address, or none that it may stand for.
    pub(super) fn resolve(endpoints: Vec<Endpoint>) -> Result<Self, GrantError> {
        let network = Self::new(endpoints);
        for endpoint in &*network.endpoints {
            let Host::Name(name) = &endpoint.host else {
                continue;
            };
            let found = (name.as_str(), endpoint.port).to_socket_addrs();
            let found = found.map_err(|error| GrantError::Unresolved {
                key: endpoint.key(),
                name: name.clone(),
                reason: error.to_string(),
            })?;
            let found: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
            let usable = found.iter().any(|address| endpoint.admits(*address));
            let first = found.first().and_then(|it| Some((*it, kind(*it)?)));
            if let Some((address, kind)) = first.filter(|_| !usable) {
                return Err(GrantError::NotPublic {
                    key: endpoint.key(),
                    name: name.clone(),
                    address,
                    kind,
                    mend: match endpoint.private {
                        true => "no server can have it".into(),
                        false => format!(
                            "if that is meant, write `{name}:{}` to grants.private-network instead",
                            endpoint.port
                        ),
                    },
                });
            }
            network.end(name, Ok(found));
        }
        Ok(network)
    }

    /// Whether anything may be reached.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Looks up a name that a guest asks for, if it is granted: a name is a message to its server.
    pub(super) async fn look_up(&self, name: &str) -> Lookup {
        if let Ok(address) = name.parse::<IpAddr>() {
            let address = address.to_canonical();
            let host = Host::Address(address);
            return match self.endpoints.iter().any(|endpoint| endpoint.host == host) {
                true => Lookup::Found(vec![address]),
                false => Lookup::NotGranted,
            };
        }
        let name = name.to_ascii_lowercase();
        if self.endpoints_of(&name).next().is_none() {
            return Lookup::NotGranted;
        }
        let running = self.running(self.known().entry(name.clone()).or_default(), &name);
        let ended = time::timeout(self.wait, ended(running)).await;
        ended.unwrap_or(Lookup::Unanswered)
    }

    /// Whether a guest may connect to this address. One that is not known is looked for among the
    /// addresses that the names with this port have now, once in [`LIFETIME_MS`]: a guest may have asked
    /// for them long ago.
    pub(super) async fn may_connect(&self, address: SocketAddr) -> bool {
        let address = canonical(address);
        if self.allows(address) {
            return true;
        }
        let look_ups = self.look_ups(address.port()).into_iter();
        let mut look_ups: Vec<_> = look_ups.map(|it| Box::pin(ended(it))).collect();
        // Names that have not answered do not matter once another has this address.
        let settled = poll_fn(|context| {
            look_ups.retain_mut(|it| it.as_mut().poll(context).is_pending());
            match look_ups.is_empty() || self.allows(address) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        match time::timeout(self.wait, settled).await {
            Ok(()) => self.allows(address),
            Err(_) => false,
        }
    }

    /// Whether this address is granted, or one of a granted name.
    fn allows(&self, address: SocketAddr) -> bool {
        let now = self.clock.now_ms();
        let known = self.known();
        let mut endpoints = self.endpoints.iter();
        endpoints.any(|endpoint| {
            endpoint.port == address.port()
                && match &endpoint.host {
                    Host::Address(granted) => *granted == address.ip(),
                    Host::Name(name) => {
                        let mut addresses =
                            known.get(name).into_iter().flat_map(|it| &it.addresses);
                        endpoint.admits(address.ip())
                            && addresses.any(|(ip, until)| *ip == address.ip() && now < *until)
                    }
                }
        })
    }

    /// The look-ups of the names with this port: those that are under way, and of names whose last one
    /// ended long enough ago.
    fn look_ups(&self, port: u16) -> Vec<Running> {
        let now = self.clock.now_ms();
        let mut known = self.known();
        let mut look_ups = Vec::new();
        for endpoint in self.endpoints.iter().filter(|it| it.port == port) {
            if let Host::Name(name) = &endpoint.host {
                let known = known.entry(name.clone()).or_default();
                if known.again_at <= now || known.running().is_some() {
                    look_ups.push(self.running(known, name));
                }
            }
        }
        look_ups
    }

    /// The look-up of a name that is under way, or else one that starts.
    #[expect(
        clippy::disallowed_methods,
        reason = "it outlives the call that began it, for the calls that wait for the same name"
    )]
    fn running(&self, known: &mut Known, name: &str) -> Running {
        if let Some(running) = known.running() {
            return running.clone();
        }
        let (sender, running) = watch::channel(None);
        known.running = Some(running.clone());
        let (network, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            let answer = network.resolver.look_up(&name);
            let outcome = match time::timeout(network.look_up_max, answer).await {
                Ok(found) => network.end(&name, found),
                // The name does not count as looked up.
                Err(_) => {
                    network.known().entry(name).or_default().running = None;
                    Lookup::Unanswered
                }
            };
            sender.send_replace(Some(outcome));
        });
        running
    }

    /// Ends the look-up of a name with what was found.
    fn end(&self, name: &str, found: io::Result<Vec<IpAddr>>) -> Lookup {
        let mut known = self.known();
        let known = known.entry(name.to_owned()).or_default();
        known.running = None;
        known.again_at = self.clock.now_ms() + LIFETIME_MS;
        match found.map(|found| self.learn(known, name, &found)) {
            Err(_) => Lookup::Unknown,
            Ok(learned) if learned.is_empty() => Lookup::NotPublic,
            Ok(learned) => Lookup::Found(learned),
        }
    }

    /// Notes what a name stands for now, and returns it.
    fn learn(&self, known: &mut Known, name: &str, found: &[IpAddr]) -> Vec<IpAddr> {
        let now = self.clock.now_ms();
        known.addresses.retain(|(_, until)| now < *until);
        let mut learned = Vec::new();
        for address in found {
            let address = address.to_canonical();
            if learned.len() == ADDRESSES_MAX {
                break;
            }
            if learned.contains(&address) {
                continue;
            }
            if self
                .endpoints_of(name)
                .any(|endpoint| endpoint.admits(address))
            {
                known.addresses.retain(|(other, _)| *other != address);
                known.addresses.push((address, now + LIFETIME_MS));
                learned.push(address);
            } else if let Some(kind) = kind(address)
                && !std::mem::replace(&mut known.reported, true)
            {
                tracing::warn!(
                    "`{name}` has the address {address}, which is {kind}: components do not reach it there, because `grants.network` is for public addresses"
                );
            }
        }
        let too_many = known.addresses.len().saturating_sub(ADDRESSES_MAX);
        known.addresses.drain(..too_many);
        learned
    }

    fn endpoints_of(&self, name: &str) -> impl Iterator<Item = &Endpoint> {
        let wanted = name.to_owned();
        let endpoints = self.endpoints.iter();
        endpoints
            .filter(move |endpoint| matches!(&endpoint.host, Host::Name(name) if *name == wanted))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a look-up found, when it has ended.
async fn ended(mut running: Running) -> Lookup {
    let outcome = running.wait_for(Option::is_some).await;
    let outcome = outcome.ok().and_then(|it| it.clone());
    outcome.unwrap_or(Lookup::Unanswered)
}

/// An address without what does not belong to it: IPv4 in IPv6 clothes, scopes, flow labels.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What an address is that is not public, by IANA's registries of special addresses; `None` if it is
/// public.
fn kind(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    Some(match (a, b, c) {
        (0, ..) => "unspecified",
        (127, ..) => "loopback",
        (169, 254, _) => "link-local",
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => "private",
        (100, 64..=127, _) => "shared by the customers of a provider",
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => {
            "reserved"
        }
        (224..=239, ..) => "multicast",
        (240.., ..) => "reserved",
        _ => return None,
    })
}

fn kind_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(address) = address.to_ipv4_mapped() {
        return kind_v4(address);
    }
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    Some(match (a, b) {
        _ if address.is_unspecified() => "unspecified",
        _ if address.is_loopback() => "loopback",
        // Translated to IPv4 on the way, so it is what that is.
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => return kind_v4(embedded(g, h)),
        (0x2002, _) => return kind_v4(embedded(b, c)),
        (0xfc00..=0xfdff, _) => "private",
        (0xfe80..=0xfebf, _) => "link-local",
        (0xff00.., _) => "multicast",
        (0x2001, 0..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => "reserved",
        (0x2000..=0x3fff, _) => return None,
        _ => "reserved",
    })
}

#[cfg(test)]
mod tests;
