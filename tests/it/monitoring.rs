//! Prometheus itself reads the metrics of a running job, the alert rules and each query of the dashboard that
//! `docs/monitoring/` has.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::host;
use crate::jobs;
use crate::plugins::root;
use crate::rest::documented_metrics;
use crate::scene::Scene;
use crate::servers;

/// After which a test fails, because something hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// A server of Prometheus that ends with the test.
struct Prometheus {
    child: Child,
    address: String,
}

impl Prometheus {
    /// One that looks at a host every second.
    fn start(scene: &Scene, host: &str) -> Self {
        // Free until somebody else asks for one by name.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let alerts = root().join("docs/monitoring/alerts.yml");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{alerts:?}]\n\
             scrape_configs:\n  - job_name: highwater\n    honor_labels: true\n    static_configs: [{{ targets: [{host:?}] }}]\n"
        );
        let config = scene.write("prometheus.yml", config);
        let child = Command::new(servers::installed("prometheus-server/usr/bin/prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--web.listen-address={address}"))
            .arg(format!(
                "--storage.tsdb.path={}",
                scene.at("tsdb").display()
            ))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .spawn()
            .expect("Prometheus runs");
        Self { child, address }
    }

    /// The `data` of an answer; `None` while it starts.
    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        let host = &self.address;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: {host}\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let answer: Value = serde_json::from_str(body).ok()?;
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        Some(answer["data"].clone())
    }

    /// What it says of a query, as soon as that is something.
    fn query(&self, query: &str) -> Value {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let found = self.wait_for(query, || {
            let data = self.get(&path)?;
            let is_empty = data["result"].as_array().is_none_or(Vec::is_empty);
            (!is_empty).then_some(data)
        });
        found["result"].clone()
    }

    fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(begun.elapsed() < DEADLINE, "{what} stays without an answer");
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The queries of the dashboard, with what Grafana would put in the place of its variables.
fn queries() -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/monitoring/dashboard.json")).expect("a file");
    let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let queries = targets.map(|target| {
        let query = target["expr"].as_str().expect("a query");
        query
            .replace("$__rate_interval", "10s")
            .replace("$job", ".*")
    });
    queries.collect()
}

/// The names in a query that could be those of metrics.
fn names(query: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    // What stands in braces, brackets and after `by` and `on` are labels and times.
    let mut depth = 0;
    let outside: String = query
        .chars()
        .filter(|character| {
            depth += i32::from(matches!(character, '{' | '['));
            let is_outside = depth == 0;
            depth -= i32::from(matches!(character, '}' | ']'));
            is_outside
        })
        .collect();
    for word in outside.split(|it: char| !it.is_ascii_alphanumeric() && it != '_') {
        if word.contains('_') && !matches!(word, "group_left" | "min_over_time") {
            names.insert(word.to_owned());
        }
    }
    names
}

#[test]
fn prometheus_reads_the_metrics_the_alerts_and_every_query_of_the_dashboard() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("watched", "200ms"));
    let arguments = [
        "run",
        "job.toml",
        "--json",
        "--http",
        "127.0.0.1:0",
        "-p",
        "2",
    ];
    let mut running = host::start(scene.path(), &arguments);
    let url = running.event("listening")["url"].clone();
    let address = url.as_str().and_then(|url| url.strip_prefix("http://"));
    running.event("started");
    let prometheus = Prometheus::start(&scene, address.expect("a URL"));

    let target = prometheus.wait_for("the target", || {
        let targets = prometheus.get("/api/v1/targets")?;
        let target = targets["activeTargets"][0].clone();
        (target["health"] != "unknown" && target.is_object()).then_some(target)
    });
    assert_eq!(target["health"], "up", "{target}");

    let documented = documented_metrics();
    // Nothing of the kind happens to this job.
    let stay_empty = [
        "bad_records_total",
        "num_late_records_dropped",
        "checkpoint_failures_total",
        "restore_seconds",
        "watermark_lag_seconds",
    ];
    let queries = queries();
    assert!(queries.len() > 20, "{queries:?}");
    for query in &queries {
        let names = names(query);
        assert!(!names.is_empty(), "{query} asks for nothing");
        for name in &names {
            assert!(
                documented.contains(name),
                "{name} of {query} is not documented"
            );
        }
        if stay_empty.iter().any(|name| names.contains(*name)) {
            let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prometheus.wait_for(query, || {
                prometheus.get(&format!("/api/v1/query?query={encoded}"))
            });
        } else {
            prometheus.query(query);
        }
    }
    let read = "sum by (job) (rate(num_records_in{job=\"watched\", operator=\"numbers\"}[10s]))";
    let read = prometheus.query(read);
    assert_eq!(
        read[0]["metric"]["job"], "watched",
        "the labels of the docs are there"
    );
    let rate: f64 = read[0]["value"][1]
        .as_str()
        .and_then(|rate| rate.parse().ok())
        .expect("a rate");
    assert!(rate > 0.0, "{read}");

    let rules = prometheus.wait_for("the rules", || {
        let rules = prometheus.get("/api/v1/rules")?["groups"][0]["rules"].clone();
        let all = rules.as_array()?;
        let are_evaluated = all.iter().all(|rule| rule["health"] != "unknown");
        (are_evaluated && !all.is_empty()).then(|| all.clone())
    });
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_eq!(rule["state"], "inactive", "the job is well: {rule}");
        let query = rule["query"].as_str().expect("a query");
        for name in names(query) {
            assert!(
                documented.contains(&name),
                "{name} of {query} is not documented"
            );
        }
    }
    running.signal("TERM");
    running.wait().with_code(0);
}
