//! What a component may reach over the network. Conformance 166.
//!
//! Method: a server on loopback of this test's own, and the plugin `dial`, which tries to connect to
//! whatever its records name. `localhost` and numbers in their old forms are names that every system
//! resolves to loopback.

use std::net::TcpListener;

use crate::host::{self, Ended};
use crate::jobs;
use crate::scene::Scene;

/// Servers on IPv4's and IPv6's loopback, on one port, as far as this machine has both.
struct Listening {
    port: u16,
    _servers: Vec<TcpListener>,
}

impl Listening {
    fn new() -> Self {
        let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = first.local_addr().expect("it is bound").port();
        let second = TcpListener::bind(("::1", port)).ok();
        Self {
            port,
            _servers: [Some(first), second].into_iter().flatten().collect(),
        }
    }

    fn at(&self, host: &str) -> String {
        format!("{host}:{}", self.port)
    }
}

/// A job that dials these servers with these grants.
fn dialing(servers: &[String], grants: &str) -> Scene {
    let scene = Scene::new();
    scene.write("input/servers.txt", servers.join("\n") + "\n");
    let job = jobs::head("dialing", "30ms")
        + jobs::VERSES
        + &jobs::operator_with("dial", "dial", "verses", "", grants)
        + &jobs::files("outcomes", "dial", "out", "csv");
    scene.write("job.toml", job);
    scene
}

/// What came of dialing, each server with its outcome.
fn outcomes(servers: &[String], grants: &str) -> Vec<String> {
    let scene = dialing(servers, grants);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let mut outcomes = scene.output("out");
    outcomes.retain(|line| line.contains(':'));
    outcomes
}

/// Runs a job that is refused before any record.
fn refused(grants: &str) -> Ended {
    let scene = dialing(&["127.0.0.1:1".to_owned()], grants);
    let ended = host::run(scene.path(), &["run", "job.toml"]).with_code(2);
    assert!(scene.output("out").is_empty());
    ended.without_panic()
}

#[test]
fn c166_an_address_that_the_job_file_names_is_reached_and_no_other() {
    let (granted, other) = (Listening::new(), Listening::new());
    let address = granted.at("127.0.0.1");
    let grants = format!("grants = {{ network = [{address:?}] }}");
    let servers = [
        address.clone(),
        other.at("127.0.0.1"),
        granted.at("127.0.0.2"),
        granted.at("localhost"),
    ];
    let mut expected = [
        format!("{address},connected"),
        format!("{},PermissionDenied", servers[1]),
        format!("{},PermissionDenied", servers[2]),
        format!("{},PermissionDenied", servers[3]),
    ];
    expected.sort();
    assert_eq!(outcomes(&servers, &grants), expected);
}

#[test]
fn c166_a_name_that_stands_for_loopback_is_refused_unless_the_job_file_says_so() {
    let server = Listening::new();
    // Numbers that a resolver takes for the loopback address.
    for number in ["2130706433", "127.1", "0x7f.1"] {
        let name = server.at(number);
        for key in ["network", "private-network"] {
            let said = format!("grants.{key}: `{name}` has an address that is not of the form");
            refused(&format!("grants = {{ {key} = [{name:?}] }}")).saying(&[&said]);
        }
    }
    for name in ["localhost", "LocalHost"] {
        let name = server.at(name);
        refused(&format!("grants = {{ network = [{name:?}] }}")).saying(&[
            "grants.network",
            &name.to_ascii_lowercase(),
            "loopback",
            "grants.private-network",
        ]);
    }
    let name = server.at("localhost");
    let grants = format!("grants = {{ private-network = [{name:?}] }}");
    let others = Listening::new();
    let mut expected = vec![
        format!("{name},connected"),
        format!("{},PermissionDenied", others.at("localhost")),
    ];
    expected.sort();
    assert_eq!(outcomes(&[name, others.at("localhost")], &grants), expected);
}

#[test]
fn c57_what_is_denied_is_told_with_the_grant_that_allows_it() {
    let server = Listening::new();
    let (address, name) = (server.at("127.0.0.1"), server.at("localhost"));
    for (servers, grants, texts) in [
        // Without any grant there are no sockets, and no names.
        (
            [&address, &name],
            String::new(),
            [
                "denied: opening a TCP socket is not granted; `grants = { network = [\"host:port\"] }`",
                "denied: looking up `localhost` is not granted; `grants = { network = [\"localhost:port\"] }`",
            ],
        ),
        // With one for another server.
        (
            [&address, &name],
            "grants = { network = [\"127.0.0.2:1\"] }".to_owned(),
            [
                &*format!(
                    "denied: connecting to {address} is not granted; `grants = {{ network = [\"{address}\"] }}`"
                ),
                "denied: looking up `localhost` is not granted",
            ],
        ),
    ] {
        let scene = dialing(&servers.map(String::clone), &grants);
        let ended = host::run(scene.path(), &["run", "job.toml"]).with_code(0);
        let ended = ended.saying(&texts);
        assert_eq!(
            ended.stderr.matches("denied: looking up").count(),
            1,
            "once, however often: {}",
            ended.transcript()
        );
        let mut outcomes = scene.output("out");
        outcomes.retain(|line| line.contains(':'));
        assert_eq!(outcomes.len(), 2, "{outcomes:?}");
        assert!(
            outcomes
                .iter()
                .all(|line| line.ends_with(",PermissionDenied")),
            "{outcomes:?}"
        );
    }
}
