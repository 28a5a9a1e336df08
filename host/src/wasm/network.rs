//! Which servers a guest may connect to: those that the job file names, at the addresses they have now.
//!
//! What must hold:
//! - A name stands for the addresses that were found for it within the last [`LIFETIME_MS`], and for at
//!   most [`ADDRESSES_MAX`] of them. Whoever had an address before has no claim on it.
//! - Of those, only public ones count, unless the job file says otherwise: else whoever answers for a
//!   name decides which machine inside the firewall is reached.
//! - An address that the job file has itself is granted whatever it is.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime::clock::{Clock, SystemClock};

use super::grants::GrantError;

/// How long a name stands for an address after it was looked up. The system's resolver does not say for
/// how long its answers are good.
const LIFETIME_MS: i64 = 60_000;

/// How many addresses a name may stand for. Those that were found last count.
const ADDRESSES_MAX: usize = 64;

/// The addresses of a name, as soon as they are there.
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
    /// Reads `host:port`; an IPv6 address is in brackets. `None` if it is something else.
    pub(super) fn parse(text: &str, private: bool) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?;
                Host::Address(address.to_canonical())
            }
            None => match host.parse::<Ipv4Addr>() {
                Ok(address) => Host::Address(address.into()),
                Err(_) => Host::Name(host.to_ascii_lowercase()),
            },
        };
        if let Host::Name(name) = &host
            && (name.is_empty()
                || name.contains(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c)))
        {
            return None;
        }
        Some(Self {
            host,
            port,
            private,
        })
    }

    /// Whether its name may stand for this address.
    fn admits(&self, address: IpAddr) -> bool {
        match kind(address) {
            None => true,
            Some(_) => self.private && !address.is_unspecified() && !address.is_multicast(),
        }
    }
}

/// What became of a name that a guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// It stands for some addresses now.
    Found,
    /// It is not granted, so nobody was asked.
    NotGranted,
    /// It has no addresses.
    Unknown,
    /// It has none that it may stand for.
    NotPublic,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Known {
    /// Each with the time until which it counts, the one that was found last behind the others.
    addresses: Vec<(IpAddr, i64)>,
    /// When it may be looked up again because an address is not known.
    again_at: i64,
    /// Whether it was reported that it has addresses that do not count.
    reported: bool,
}

/// The servers that may be reached.
#[derive(Debug)]
pub(super) struct Network {
    endpoints: Vec<Endpoint>,
    /// By name.
    known: Mutex<HashMap<String, Known>>,
    resolver: Arc<dyn Resolver>,
    clock: Arc<dyn Clock>,
}

impl Default for Network {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Network {
    fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            known: Mutex::default(),
            resolver: Arc::new(SystemResolver),
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// These servers. Looks their names up, so that a name that is wrong is found at the start.
    ///
    /// # Errors
    /// A name has no address, or none that it may stand for.
    pub(super) fn resolve(endpoints: Vec<Endpoint>) -> Result<Self, GrantError> {
        let network = Self::new(endpoints);
        for endpoint in &network.endpoints {
            let Host::Name(name) = &endpoint.host else {
                continue;
            };
            let found = (name.as_str(), endpoint.port).to_socket_addrs();
            let found = found.map_err(|error| GrantError::Unresolved {
                name: name.clone(),
                reason: error.to_string(),
            })?;
            let found: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
            let usable = found.iter().any(|address| endpoint.admits(*address));
            let first = found.first().and_then(|it| Some((*it, kind(*it)?)));
            if let Some((address, kind)) = first.filter(|_| !usable) {
                return Err(GrantError::NotPublic {
                    name: name.clone(),
                    port: endpoint.port,
                    address,
                    kind,
                });
            }
            network.learn(name, &found);
        }
        Ok(network)
    }

    /// Whether anything may be reached.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Looks up a name that a guest asks for, if it is granted: a name is a message to whoever serves it.
    pub(super) async fn look_up(&self, name: &str) -> Lookup {
        if let Ok(address) = name.parse::<IpAddr>() {
            let host = Host::Address(address.to_canonical());
            return match self.endpoints.iter().any(|endpoint| endpoint.host == host) {
                true => Lookup::Found,
                false => Lookup::NotGranted,
            };
        }
        let name = name.to_ascii_lowercase();
        if self.endpoints_of(&name).next().is_none() {
            return Lookup::NotGranted;
        }
        match self.resolver.look_up(&name).await {
            Err(_) => Lookup::Unknown,
            Ok(found) if self.learn(&name, &found) => Lookup::Found,
            Ok(_) => Lookup::NotPublic,
        }
    }

    /// Whether a guest may connect to this address. One that is not known is looked for among the
    /// addresses that the names with this port have now, once in [`LIFETIME_MS`]: a guest may have asked
    /// for them long ago.
    pub(super) async fn may_connect(&self, address: SocketAddr) -> bool {
        let address = canonical(address);
        if self.allows(address) {
            return true;
        }
        for name in self.names_to_look_up(address.port()) {
            self.look_up(&name).await;
        }
        self.allows(address)
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

    /// The names with this port that were not looked up lately, which they count as from now on.
    fn names_to_look_up(&self, port: u16) -> HashSet<String> {
        let now = self.clock.now_ms();
        let mut known = self.known();
        let names = self.endpoints.iter().filter_map(|endpoint| {
            let Host::Name(name) = &endpoint.host else {
                return None;
            };
            let it = known.entry(name.clone()).or_default();
            let wanted = endpoint.port == port && it.again_at <= now;
            wanted.then(|| name.clone())
        });
        let names: HashSet<String> = names.collect();
        for name in &names {
            known.entry(name.clone()).or_default().again_at = now + LIFETIME_MS;
        }
        names
    }

    /// Notes what a name stands for now. Returns whether that is anything.
    fn learn(&self, name: &str, found: &[IpAddr]) -> bool {
        let until = self.clock.now_ms() + LIFETIME_MS;
        let mut known = self.known();
        let known = known.entry(name.to_owned()).or_default();
        known.again_at = until;
        known
            .addresses
            .retain(|(_, until)| self.clock.now_ms() < *until);
        let mut learned = 0;
        for address in found {
            let address = address.to_canonical();
            if learned == ADDRESSES_MAX {
                break;
            }
            if self
                .endpoints_of(name)
                .any(|endpoint| endpoint.admits(address))
            {
                known.addresses.retain(|(other, _)| *other != address);
                known.addresses.push((address, until));
                learned += 1;
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
        learned > 0
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
