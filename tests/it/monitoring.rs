//! Prometheus itself reads the metrics of a running job, the alert rules and each query of the dashboard that
//! `docs/monitoring/` has; and a collector of OpenTelemetry gets the same.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::host;
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
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
            .replace("$instance", ".*")
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

/// A collector of OpenTelemetry on a port of its own: the requests that it got, with their heads. It answers each with this
/// status.
fn collector(status: &'static str) -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            let mut reader = BufReader::new(&stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a line");
                let line = line.trim_end().to_lowercase();
                if line.is_empty() {
                    break;
                }
                if let Some(bytes) = line.strip_prefix("content-length: ") {
                    length = bytes.parse().expect("a number");
                }
                head += &(line + "\n");
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            // Before the answer: whoever has got that is counted.
            if sender.send((head, body)).is_err() {
                return;
            }
            (&stream).write_all(answer.as_bytes()).expect("it listens");
        }
    });
    (address, requests)
}

/// What the protocol's own classes read in a request.
fn decoded(scene: &Scene, body: &[u8]) -> Value {
    let script = "
import sys
from google.protobuf.json_format import MessageToJson
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
request = ExportMetricsServiceRequest()
request.ParseFromString(open(sys.argv[1], 'rb').read())
print(MessageToJson(request))
";
    let output = Command::new(servers::installed("otlp/bin/python"))
        .args(["-c", script])
        .arg(scene.write("request", body))
        .output()
        .expect("python runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

#[test]
fn a_collector_of_opentelemetry_gets_what_is_documented() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("sent", "50ms"));
    let (address, requests) = collector("200 OK");
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let variables = [
        set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}")),
        set("OTEL_METRIC_EXPORT_INTERVAL", "200"),
        set("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a-secret"),
        set("OTEL_RESOURCE_ATTRIBUTES", "team=streams"),
    ];
    let arguments = ["run", "job.toml", "--json"];
    let mut running = host::start_with_variables(scene.path(), &arguments, &variables);
    let exporting = running.event("exporting");
    assert_eq!(exporting["url"], format!("http://{address}/v1/metrics"));
    running.checkpoints(3);
    // What is sent from now on has them.
    let before = requests.try_iter().count();
    let (head, body) = requests.recv_timeout(DEADLINE).expect("a request");
    assert!(head.starts_with("post /v1/metrics "), "{head}");
    assert!(
        head.contains("content-type: application/x-protobuf"),
        "{head}"
    );
    assert!(head.contains("api-key: a-secret"), "{head}");
    let request = decoded(&scene, &body);
    let resource = request["resourceMetrics"][0]["resource"]["attributes"].to_string();
    for part in ["service.name", "highwater", "process.pid", "streams"] {
        assert!(resource.contains(part), "{resource}");
    }
    let metrics = &request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
    let documented = documented_metrics();
    let mut seen = BTreeSet::new();
    for metric in metrics.as_array().expect("metrics") {
        let name = metric["name"].as_str().expect("a name").to_owned();
        assert!(documented.contains(&name), "{name} is not documented");
        assert!(
            metric["gauge"].is_object() != metric["sum"].is_object(),
            "{metric}"
        );
        assert_eq!(
            metric["sum"].is_object(),
            name.ends_with("_total"),
            "{metric}"
        );
        seen.insert(name);
    }
    let of = |name: &str| {
        let mut all = metrics.as_array().expect("metrics").iter();
        all.find(|metric| metric["name"] == name)
            .unwrap_or_else(|| panic!("no {name}"))
    };
    let completed = &of("number_of_completed_checkpoints")["gauge"]["dataPoints"][0];
    assert_eq!(completed["attributes"][0]["value"]["stringValue"], "sent");
    assert!(
        completed["asInt"] != "0",
        "{completed} after {before} requests"
    );
    let calls = &of("operator_calls_total")["sum"];
    assert_eq!(calls["isMonotonic"], true, "{calls}");
    assert_eq!(
        calls["aggregationTemporality"],
        "AGGREGATION_TEMPORALITY_CUMULATIVE"
    );
    assert_eq!(of("checkpoint_age_seconds")["unit"], "s");

    running.signal("TERM");
    let ended = running.wait().with_code(0);
    assert!(
        !ended.transcript().contains("a-secret"),
        "headers are never shown"
    );
    // The last one says how it ended.
    let (_, last) = requests.try_iter().last().expect("requests");
    assert!(decoded(&scene, &last).to_string().contains("suspended"));
}

#[test]
fn a_collector_that_refuses_or_is_away_costs_a_warning_and_nothing_else() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 1, "txt");
    scene.write("job.toml", jobs::word_count("refused"));
    let (address, requests) = collector("503 Service Unavailable");
    let run = |endpoint: &str, more: &[(&str, &str)]| {
        let set = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let given = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_METRIC_EXPORT_INTERVAL", "20"),
        ];
        let variables: Vec<_> = given.iter().chain(more).map(set).collect();
        host::start_with_variables(scene.path(), &["run", "job.toml"], &variables).wait()
    };
    let ended = run(&format!("http://{address}"), &[]).with_code(0);
    assert!(requests.try_iter().count() > 0);
    let warnings = ended.stderr.matches("metrics are not taken").count();
    assert_eq!(warnings, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("503"), "{}", ended.stderr);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "what is written beside",
    );
    // Nobody listens on port 1; nor is everything an address.
    fs::remove_dir_all(scene.at("out")).expect("a directory");
    fs::remove_dir_all(scene.at("checkpoints")).expect("a directory");
    run("http://127.0.0.1:1", &[]).with_code(0);
    run("localhost", &[])
        .with_code(2)
        .saying(&["OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"]);
    run(
        "http://localhost:4318",
        &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
    )
    .with_code(2)
    .saying(&["OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"]);
}

#[test]
fn a_collector_that_never_answers_holds_up_neither_the_job_nor_its_end() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("silent", "50ms"));
    // It accepts, and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let variables = [
        set("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        set("OTEL_METRIC_EXPORT_INTERVAL", "20"),
        // As long as this test would wait.
        set("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000"),
    ];
    let arguments = ["run", "job.toml", "--json"];
    let mut running = host::start_with_variables(scene.path(), &arguments, &variables);
    let (asked, _) = listener.accept().expect("a request");
    running.checkpoints(2);
    running.signal("TERM");
    running.wait().with_code(0);
    drop(asked);
}
