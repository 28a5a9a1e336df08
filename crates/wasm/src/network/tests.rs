use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::task::{Context, Waker};

use super::*;

/// A clock that is set.
#[derive(Debug, Default)]
struct Set(AtomicI64);

impl Clock for Set {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A resolver that answers as the test wants, and counts how often it was asked. As the system's, it may
/// answer differently each time, late, or never.
#[derive(Debug, Default)]
struct Scripted {
    /// The answers to come; each that was given comes again after the others.
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    /// The names whose look-ups wait.
    held: watch::Sender<HashSet<String>>,
    asked: AtomicUsize,
}

impl Resolver for Scripted {
    fn look_up(&self, name: &str) -> Answer {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut answers = self.answers.lock().unwrap();
        let answer = answers.pop_front().unwrap_or_default();
        answers.push_back(answer.clone());
        let (name, mut held) = (name.to_owned(), self.held.subscribe());
        Box::pin(async move {
            let answered = held.wait_for(|held| !held.contains(&name)).await;
            drop(answered.expect("the resolver is there"));
            match answer.is_empty() {
                true => Err(io::Error::other("no such name")),
                false => Ok(answer),
            }
        })
    }
}

struct Scene {
    network: Network,
    resolver: Arc<Scripted>,
    clock: Arc<Set>,
}

impl Scene {
    fn new(endpoints: &[(&str, bool)]) -> Self {
        let endpoints = endpoints
            .iter()
            .map(|(text, private)| Endpoint::parse(text, *private).unwrap());
        let (resolver, clock) = (Arc::<Scripted>::default(), Arc::<Set>::default());
        Self {
            network: Network {
                resolver: Arc::<Scripted>::clone(&resolver),
                clock: Arc::<Set>::clone(&clock),
                wait: FOREVER,
                look_up_max: FOREVER,
                ..Network::new(endpoints.collect())
            },
            resolver,
            clock,
        }
    }

    /// What the names have from now on.
    fn answer(&self, addresses: &[&str]) {
        self.rotate(&[addresses]);
    }

    /// The same, with another answer for each look-up.
    fn rotate(&self, answers: &[&[&str]]) {
        let parse = |answer: &&[&str]| answer.iter().map(|it| it.parse().unwrap()).collect();
        *self.resolver.answers.lock().unwrap() = answers.iter().map(parse).collect();
    }

    /// Look-ups of these names, and of no others, wait from now on.
    fn hold(&self, names: &[&str]) {
        let names = names.iter().map(|it| (*it).to_owned()).collect();
        self.resolver.held.send_replace(names);
    }

    fn look_up(&self, name: &str) -> Lookup {
        wait(self.network.look_up(name))
    }

    fn may_connect(&self, address: &str) -> bool {
        wait(self.connect(address))
    }

    async fn connect(&self, address: &str) -> bool {
        self.network.may_connect(address.parse().unwrap()).await
    }

    fn later(&self, ms: i64) {
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.resolver.asked.load(Ordering::Relaxed)
    }
}

/// Longer than any test.
const FOREVER: Duration = Duration::from_hours(1);

/// Waits for something that hangs if the code is wrong.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let ended = runtime.block_on(async { time::timeout(Duration::from_mins(1), future).await });
    ended.expect("the look-up hangs")
}

/// Makes a call that waits, and drops it.
fn drop_halfway(call: impl Future) {
    let first = pin!(call).poll(&mut Context::from_waker(Waker::noop()));
    assert!(first.is_pending());
}

fn found(addresses: &[&str]) -> Lookup {
    Lookup::Found(addresses.iter().map(|it| it.parse().unwrap()).collect())
}

#[test]
fn addresses_of_the_job_file_are_granted_whatever_they_are() {
    let scene = Scene::new(&[
        ("127.0.0.1:80", false),
        ("[::1]:443", false),
        ("169.254.169.254:80", false),
    ]);
    for granted in [
        "127.0.0.1:80",
        "[::ffff:127.0.0.1]:80",
        "[::1]:443",
        "169.254.169.254:80",
    ] {
        assert!(scene.may_connect(granted), "{granted}");
    }
    for other in ["127.0.0.1:443", "10.0.0.1:80", "127.0.0.2:80", "[::1]:80"] {
        assert!(!scene.may_connect(other), "{other}");
    }
    assert_eq!(scene.look_up("127.0.0.1"), found(&["127.0.0.1"]));
    assert_eq!(scene.look_up("127.0.0.2"), Lookup::NotGranted);
    assert_eq!(scene.look_up("example.com"), Lookup::NotGranted);
    assert_eq!(scene.asked(), 0, "there is no name to be asked for");
}

#[test]
fn c166_a_name_stands_for_public_addresses_only() {
    let scene = Scene::new(&[("api.example.com:443", false)]);
    let not_public = [
        "127.0.0.1",
        "127.255.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.127.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::2",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:c0a8:101::1",
        "3fff::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ];
    for address in not_public {
        scene.answer(&[address]);
        assert_eq!(
            scene.look_up("api.example.com"),
            Lookup::NotPublic,
            "{address}"
        );
        let ip: IpAddr = address.parse().unwrap();
        let socket = SocketAddr::new(ip, 443).to_string();
        assert!(!scene.may_connect(&socket), "{address}");
    }
    let public = [
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "192.167.0.1",
        "198.20.0.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "64:ff9b::1.1.1.1",
        "2002:101:101::1",
    ];
    for address in public {
        scene.answer(&["10.0.0.1", address]);
        assert_eq!(
            scene.look_up("API.example.com"),
            found(&[address]),
            "{address}"
        );
        let ip: IpAddr = address.parse().unwrap();
        assert!(
            scene.may_connect(&SocketAddr::new(ip, 443).to_string()),
            "{address}"
        );
        assert!(!scene.may_connect(&SocketAddr::new(ip, 80).to_string()));
        assert!(!scene.may_connect("10.0.0.1:443"), "beside {address}");
    }
}

#[test]
fn c166_a_name_may_be_private_if_the_job_file_says_so() {
    let scene = Scene::new(&[("db.internal:5432", true), ("db.internal:80", false)]);
    scene.answer(&["10.1.2.3", "::1", "0.0.0.0", "224.0.0.1"]);
    assert_eq!(scene.look_up("db.internal"), found(&["10.1.2.3", "::1"]));
    assert!(scene.may_connect("10.1.2.3:5432") && scene.may_connect("[::1]:5432"));
    // Only with this port, and nothing that is no server's.
    for other in [
        "10.1.2.3:80",
        "0.0.0.0:5432",
        "224.0.0.1:5432",
        "10.1.2.4:5432",
    ] {
        assert!(!scene.may_connect(other), "{other}");
    }
}

#[test]
fn c166_addresses_of_a_name_expire() {
    let scene = Scene::new(&[("api.example.com:443", false)]);
    scene.answer(&["1.1.1.1"]);
    assert_eq!(scene.look_up("api.example.com"), found(&["1.1.1.1"]));
    scene.answer(&["1.0.0.1"]);
    scene.later(LIFETIME_MS - 1);
    // The name has another address by now, and this one still counts.
    assert!(scene.may_connect("1.1.1.1:443"));
    assert!(!scene.may_connect("1.0.0.1:443"));
    assert_eq!(scene.asked(), 1);
    scene.later(1);
    assert!(!scene.may_connect("1.1.1.1:443"), "it is another's now");
    assert!(
        scene.may_connect("1.0.0.1:443"),
        "found without being asked for"
    );
    assert_eq!(scene.asked(), 2);
    // A guest that tries addresses does not ask for names all the time; other ports ask for none.
    for last in 1..100 {
        assert!(!scene.may_connect(&format!("1.2.3.{last}:443")));
        assert!(!scene.may_connect(&format!("1.2.3.{last}:80")));
    }
    assert_eq!(scene.asked(), 2);
    // A name that is gone has no addresses; one that becomes private neither.
    for answer in [&[][..], &["127.0.0.1"]] {
        scene.answer(answer);
        scene.later(LIFETIME_MS);
        assert!(!scene.may_connect("1.0.0.1:443"));
        assert!(!scene.may_connect("127.0.0.1:443"));
    }
    scene.answer(&["1.0.0.1"]);
    scene.later(LIFETIME_MS);
    assert!(scene.may_connect("1.0.0.1:443"));
}

#[test]
fn c166_addresses_of_a_name_are_bounded() {
    let scene = Scene::new(&[("api.example.com:443", false)]);
    for round in 0..10 {
        let some: Vec<String> = (0..200).map(|it| format!("1.1.{round}.{it}")).collect();
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        scene.answer(&some);
        let handed_out = found(&some[..ADDRESSES_MAX]);
        assert_eq!(scene.look_up("api.example.com"), handed_out);
        assert!(scene.may_connect(&format!("1.1.{round}.0:443")));
        let known = scene.network.known();
        assert_eq!(known["api.example.com"].addresses.len(), ADDRESSES_MAX);
    }
    assert!(!scene.may_connect("1.1.0.0:443"), "the oldest go first");
}

#[test]
fn c166_what_a_guest_is_handed_it_may_connect_to() {
    let scene = Scene::new(&[("s3.example.com:443", false)]);
    let answers: [&[&str]; 3] = [
        &["1.1.1.1", "1.1.1.2"],
        &["10.0.0.1", "::ffff:1.1.1.3", "1.1.1.3"],
        &["1.1.1.4"],
    ];
    scene.rotate(&answers);
    for expected in [&["1.1.1.1", "1.1.1.2"][..], &["1.1.1.3"], &["1.1.1.4"]] {
        assert_eq!(scene.look_up("s3.example.com"), found(expected));
        for address in expected {
            assert!(scene.may_connect(&format!("{address}:443")), "{address}");
        }
    }
    assert_eq!(scene.asked(), answers.len());
    assert!(scene.may_connect("1.1.1.1:443"), "within the same minute");
}

#[test]
fn c166_all_who_need_a_look_up_wait_for_the_same_one() {
    let scene = Scene::new(&[("api.example.com:443", false)]);
    scene.answer(&["1.1.1.1"]);
    assert!(scene.may_connect("1.1.1.1:443"));
    scene.later(LIFETIME_MS);
    scene.hold(&["api.example.com"]);
    let subtasks = wait(async {
        tokio::join!(
            scene.connect("1.1.1.1:443"),
            scene.connect("1.1.1.1:443"),
            scene.network.look_up("api.example.com"),
            async { scene.hold(&[]) },
        )
    });
    assert_eq!(subtasks, (true, true, found(&["1.1.1.1"]), ()));
    assert_eq!(scene.asked(), 2);
}

#[test]
fn c166_a_look_up_outlives_the_call_that_needed_it() {
    let scene = Scene::new(&[("a.example.com:443", false), ("b.example.com:443", false)]);
    scene.answer(&["1.1.1.1"]);
    scene.hold(&["a.example.com", "b.example.com"]);
    wait(async {
        drop_halfway(scene.connect("1.1.1.1:443"));
        scene.hold(&[]);
        assert!(scene.connect("1.1.1.1:443").await);
    });
    assert_eq!(scene.asked(), 2, "each name once");
    // With the runtime it ends, and then the names are as they were.
    scene.later(LIFETIME_MS);
    scene.hold(&["a.example.com", "b.example.com"]);
    wait(async { drop_halfway(scene.connect("1.1.1.1:443")) });
    scene.hold(&[]);
    assert!(scene.may_connect("1.1.1.1:443"));
}

#[test]
fn c166_a_dead_name_does_not_keep_others() {
    // Whichever of them would be first.
    for dead in ["a.example.com", "b.example.com"] {
        let scene = Scene::new(&[("a.example.com:443", false), ("b.example.com:443", false)]);
        scene.answer(&["1.1.1.1"]);
        scene.hold(&[dead]);
        assert!(scene.may_connect("1.1.1.1:443"), "{dead} is dead");
    }
}

#[test]
fn c166_a_call_waits_for_an_answer_only_so_long() {
    let mut scene = Scene::new(&[("api.example.com:443", false)]);
    scene.answer(&["1.1.1.1"]);
    scene.hold(&["api.example.com"]);
    wait(async {
        scene.network.wait = Duration::from_millis(1);
        assert!(!scene.connect("1.1.1.1:443").await);
        let late = scene.network.look_up("api.example.com").await;
        assert_eq!(late, Lookup::Unanswered);
        // The answer that was late serves the next call.
        scene.network.wait = FOREVER;
        scene.hold(&[]);
        assert!(scene.connect("1.1.1.1:443").await);
        assert_eq!(scene.asked(), 1);
    });
}

#[test]
fn c166_a_look_up_that_never_ends_makes_room_for_another() {
    let mut scene = Scene::new(&[("api.example.com:443", false)]);
    scene.answer(&["1.1.1.1"]);
    scene.hold(&["api.example.com"]);
    scene.network.look_up_max = Duration::from_millis(1);
    assert!(!scene.may_connect("1.1.1.1:443"));
    scene.network.look_up_max = FOREVER;
    scene.hold(&[]);
    assert!(scene.may_connect("1.1.1.1:443"), "nobody has answered yet");
    assert_eq!(scene.asked(), 2);
}

#[test]
fn c166_the_next_look_up_is_counted_from_the_end_of_the_last() {
    let scene = Scene::new(&[("api.example.com:443", false)]);
    scene.hold(&["api.example.com"]);
    let (granted, ()) = wait(async {
        tokio::join!(scene.connect("1.1.1.1:443"), async {
            scene.later(LIFETIME_MS / 2);
            scene.hold(&[]);
        })
    });
    assert!(!granted, "the name has no addresses");
    scene.answer(&["1.1.1.1"]);
    scene.later(LIFETIME_MS - 1);
    assert!(!scene.may_connect("1.1.1.1:443"));
    assert_eq!(scene.asked(), 1);
    scene.later(1);
    assert!(scene.may_connect("1.1.1.1:443"));
}

#[test]
fn names_of_the_start_are_looked_up_there() {
    let resolve =
        |text: &str, private| Network::resolve(vec![Endpoint::parse(text, private).unwrap()]);
    let refused = resolve("localhost:8080", false).unwrap_err().to_string();
    assert!(
        refused.contains("`localhost`") && refused.contains("loopback"),
        "{refused}"
    );
    assert!(refused.contains("grants.private-network"), "{refused}");
    let network = resolve("LOCALHOST:8080", true).unwrap();
    assert!(network.allows("127.0.0.1:8080".parse().unwrap()));
    let unresolved = resolve("no-such-name.invalid:1", false).unwrap_err();
    assert!(matches!(unresolved, GrantError::Unresolved { .. }));
    let message = unresolved.to_string();
    assert!(message.starts_with("grants.network: "), "{message}");
}

#[test]
fn endpoints_are_hosts_with_ports() {
    for (text, problem) in [
        ("example.com", "is not of the form host:port"),
        ("example.com:http", "has no port from 1 to 65535"),
        ("example.com:0", "has no port from 1 to 65535"),
        ("127.0.0.1:99999", "has no port from 1 to 65535"),
        ("exa mple:1", "has a host name with characters"),
        ("a/b:1", "has a host name with characters"),
        (":80", "has no host before its port"),
        ("[::1", "has no IPv6 address in its brackets"),
        ("[::1]", "has no IPv6 address in its brackets"),
        ("[localhost]:1", "has no IPv6 address in its brackets"),
        ("::1:80", "has an IPv6 address that is not in brackets"),
        ("0:80", "has an address that is not of the form"),
        ("127.1:80", "has an address that is not of the form"),
        ("0x7f.0x1:80", "has an address that is not of the form"),
        ("1.2.3.4.:80", "has an address that is not of the form"),
        ("0.0.0.0:80", "has an address that no server has"),
        ("[::]:80", "has an address that no server has"),
        ("224.0.0.1:80", "has an address that no server has"),
    ] {
        for private in [false, true] {
            let parsed = Endpoint::parse(text, private);
            let refused = parsed.expect_err(text);
            assert!(refused.starts_with(problem), "{text}: {refused}");
        }
    }
    for text in [
        "example.com:80",
        "x1:80",
        "1.example:80",
        "[2001:db8::1]:80",
        "10.0.0.1:80",
    ] {
        Endpoint::parse(text, false).unwrap_or_else(|problem| panic!("{text} {problem}"));
    }
}
