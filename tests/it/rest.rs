//! The REST API, the metrics and the web page on TCP: who gets an answer, and what it says. Conformance 100 to 104.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::control;
use crate::host::{self, Running};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::plugins::root;
use crate::scene::Scene;
use crate::servers;

/// After which a test fails, because something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

const TOKEN: &str = "a-token-of-some-length";

/// What a request is answered with.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.body))
    }

    #[track_caller]
    fn with(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }
}

/// Where a host answers.
struct Rest {
    address: String,
    token: Option<&'static str>,
}

impl Rest {
    /// Of a host that was started with `--json`.
    fn of(running: &mut Running) -> Self {
        let event = running.event("listening");
        let url = event["url"].as_str().expect("a URL");
        let address = url.strip_prefix("http://").expect("plain text");
        Self {
            address: address.to_owned(),
            token: None,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the host listens");
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("a time is set");
        stream
    }

    /// Sends a request as it is, and reads what comes.
    fn raw(&self, request: &str) -> Answer {
        let answer = self.try_raw(request);
        answer.unwrap_or_else(|| panic!("no answer to {:.200}", request))
    }

    /// The same. `None`: the connection was closed without an answer.
    fn try_raw(&self, request: &str) -> Option<Answer> {
        let mut stream = self.connect();
        // It may be refused before it was read wholly.
        let _ = stream.write_all(request.as_bytes());
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
        Some(Answer {
            status: status?,
            head: head.to_lowercase(),
            body: body.to_owned(),
        })
    }

    /// As Flink's client does it: a body goes with every request.
    fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        if let Some(token) = self.token {
            request += &format!("authorization: Bearer {token}\r\n");
        }
        for header in headers {
            request += &format!("{header}\r\n");
        }
        request += &format!("content-length: {}\r\n\r\n{body}", body.len());
        self.raw(&request)
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    fn change(&self, method: &str, path: &str, body: &Value) -> Answer {
        let json = "content-type: application/json; charset=UTF-8";
        self.send(method, path, &[json], &body.to_string())
    }

    /// What becomes of something that takes its time, once it has.
    fn outcome(&self, path: &str) -> Value {
        let begun = Instant::now();
        loop {
            let answer = self.get(path).with(200).json();
            if answer["status"]["id"] == "COMPLETED" {
                return answer["operation"].clone();
            }
            assert!(begun.elapsed() < DEADLINE, "{path} does not end: {answer}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The only job's id in the REST API.
    fn job(&self) -> String {
        let jobs = self.get("/v1/jobs").with(200).json();
        jobs["jobs"][0]["id"].as_str().expect("an id").to_owned()
    }
}

/// How many records the job of [`scene`] has in all.
const RECORDS: u64 = 60_000;

/// A job that passes on [`RECORDS`] records in about twenty seconds: on a machine with much to do, an answer takes
/// its time.
fn scene(name: &str) -> Scene {
    let scene = control::scene(name);
    let job = fs::read_to_string(scene.at("job.toml")).expect("a job file");
    let count = format!("count = {}", control::RECORDS);
    assert!(job.contains(&count), "{job}");
    scene.write(
        "job.toml",
        job.replace(&count, &format!("count = {RECORDS}")),
    );
    scene
}

/// What the job writes when nobody asks it for anything.
fn undisturbed(scene: &Scene) -> Vec<String> {
    let other = Scene::new();
    let job = fs::read_to_string(scene.at("job.toml")).expect("a job file");
    other.write("job.toml", job);
    host::run(other.path(), &["run", "job.toml", "-D", FAST]).with_code(0);
    let lines = other.output("out");
    assert_eq!(lines.len() as u64, RECORDS);
    lines
}

const FAST: &str = "source.numbers.rate=1000000";

/// Suspends the job, has it go on to its end, and compares its output with that of an undisturbed run.
fn assert_undisturbed(scene: &Scene, running: Running) {
    running.signal("TERM");
    running.wait().with_code(0);
    host::run(scene.path(), &["run", "job.toml", "--resume", "-D", FAST]).with_code(0);
    assert_same_lines(
        &scene.output("out"),
        &undisturbed(scene),
        "what was asked meanwhile",
    );
}

/// Starts it, and waits until it answers.
fn start(scene: &Scene, more: &[&str]) -> (Running, Rest) {
    let arguments = ["run", "job.toml", "--json", "--http", "127.0.0.1:0"];
    let mut running = control::start(scene, &[&arguments[..], more].concat());
    let rest = Rest::of(&mut running);
    running.event("started");
    (running, rest)
}

/// Every `GET` that `docs/rest.md` has, with its job, vertex and checkpoint in place.
fn documented(job: &str, vertex: &str, checkpoint: u64) -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/openapi.json")).expect("a document");
    let document: Value = serde_json::from_str(&text).expect("it is JSON");
    let paths = document["paths"].as_object().expect("paths").iter();
    let gets = paths.filter(|(_, methods)| methods.get("get").is_some());
    // What is asked of an operation needs one.
    let plain = gets.filter(|(path, _)| !path.contains("{triggerid}"));
    let filled = plain.map(|(path, _)| {
        let path = path.replace("{jobid}", job).replace("{vertexid}", vertex);
        path.replace("{checkpointid}", &checkpoint.to_string())
    });
    filled.collect()
}

#[test]
fn c100_every_documented_path_answers_for_jobs_in_every_state() {
    let scene = scene("c100");
    let job = fs::read_to_string(scene.at("job.toml")).expect("a job file");
    // One that has ended, one that takes no checkpoints, one that is running.
    scene.write(
        "ended.toml",
        job.replace("rate = 3000", "rate = 1000000")
            .replace("\"c100\"", "\"ended\"")
            .replace("\"out\"", "\"out-ended\""),
    );
    scene.write(
        "plain.toml",
        job.replace("interval = \"20ms\"", "")
            .replace("\"c100\"", "\"plain\"")
            .replace("\"out\"", "\"out-plain\""),
    );
    let arguments = [
        "serve",
        "--json",
        "--http",
        "127.0.0.1:0",
        "ended.toml",
        "plain.toml",
        "job.toml",
    ];
    let mut running = control::start(&scene, &arguments);
    let rest = Rest::of(&mut running);
    let begun = Instant::now();
    let jobs = loop {
        let overview = rest.get("/v1/jobs/overview").with(200).json();
        let jobs = overview["jobs"].as_array().expect("a list").clone();
        let in_state = |state: &str| jobs.iter().filter(|job| job["state"] == state).count();
        if jobs.len() == 3 && in_state("FINISHED") >= 1 && in_state("RUNNING") >= 1 {
            break jobs;
        }
        assert!(begun.elapsed() < DEADLINE, "{overview}");
    };
    let mut states = BTreeMap::new();
    for job in &jobs {
        let id = job["jid"].as_str().expect("an id");
        assert!(
            id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
        let details = rest.get(&format!("/v1/jobs/{id}")).with(200).json();
        let vertex = details["vertices"][0]["id"].as_str().expect("a vertex");
        let checkpoints = rest
            .get(&format!("/v1/jobs/{id}/checkpoints"))
            .with(200)
            .json();
        let newest = checkpoints["history"][0]["id"].as_u64();
        for path in documented(id, vertex, newest.unwrap_or(1)) {
            let path = path.trim_start_matches("/v1");
            let answer = rest.get(&format!("/v1{path}"));
            let may_be_unknown = newest.is_none() && path.contains("/details/");
            let expected = if may_be_unknown { 404 } else { 200 };
            assert_eq!(answer.status, expected, "{path}: {}", answer.body);
            answer.json();
            // Without the version it is the same path.
            assert_eq!(rest.get(path).status, expected, "{path}");
        }
        let name = job["name"].as_str().expect("a name").to_owned();
        states.insert(
            name,
            checkpoints["counts"]["completed"]
                .as_u64()
                .expect("a number"),
        );
    }
    assert_eq!(states["plain"], 0);
    assert!(states["ended"] > 0, "{states:?}");
    rest.get("/v1/jobs/00000000000000000000000000000000")
        .with(404);
    rest.get("/v1/jobs/nonsense").with(400);
    rest.get("/v1/no/such/path").with(404);
    let wrong = rest
        .change("DELETE", "/v1/jobs/overview", &json!({}))
        .with(405);
    assert!(wrong.head.contains("allow: get, head"), "{}", wrong.head);
    running.signal("TERM");
    running.wait().with_code(0);
}

#[test]
fn c101_what_flinks_client_sends_lists_savepoints_and_stops_a_job() {
    let scene = scene("c101");
    let savepoints = scene.at("sp").display().to_string();
    let option = format!("checkpoint.savepoint-dir={savepoints}");
    let (running, rest) = start(&scene, &["-D", &option]);
    let job = rest.job();
    let overview = rest.get("/v1/jobs/overview").with(200).json();
    assert_eq!(overview["jobs"][0]["name"], "c101");
    assert_eq!(overview["jobs"][0]["state"], "RUNNING");

    let body = json!({
        "target-directory": null, "cancel-job": false, "formatType": "CANONICAL", "triggerId": null,
    });
    let path = format!("/v1/jobs/{job}/savepoints");
    let begun = rest.change("POST", &path, &body).with(202).json();
    let id = begun["request-id"].as_str().expect("an id");
    assert_eq!(id.len(), 32, "Flink's client reads no other");
    let taken = rest.outcome(&format!("{path}/{id}"));
    let location = taken["location"].as_str().expect("a place");
    host::run(scene.path(), &["checkpoints", "verify", location]).with_code(0);

    let checkpoints = format!("/v1/jobs/{job}/checkpoints");
    let body = json!({ "checkpointType": "CONFIGURED", "triggerId": null });
    let begun = rest.change("POST", &checkpoints, &body).with(202).json();
    let id = begun["request-id"].as_str().expect("an id");
    let taken = rest.outcome(&format!("{checkpoints}/{id}"));
    assert!(taken["checkpointId"].as_u64() > Some(0), "{taken}");

    // Savepoints that are not below allowed directories stay, and checkpoints in any case.
    let dispose = |path: &str| {
        let body = json!({ "savepoint-path": path });
        rest.change("POST", "/v1/savepoint-disposal", &body)
    };
    let elsewhere = control::ask_json(
        &scene,
        &[
            "savepoint",
            "c101",
            scene.at("mine").to_str().expect("text"),
        ],
    );
    let elsewhere = elsewhere["savepoint"]["path"]
        .as_str()
        .expect("a place")
        .to_owned();
    dispose(&elsewhere).with(403);
    dispose(&format!("{savepoints}/../mine")).with(403);
    host::run(scene.path(), &["checkpoints", "verify", &elsewhere]).with_code(0);
    let disposed = |path: &str| {
        let begun = dispose(path).with(202).json();
        let id = begun["request-id"].as_str().expect("an id").to_owned();
        rest.outcome(&format!("/v1/savepoint-disposal/{id}"))
    };
    let failed = disposed(&savepoints);
    assert!(failed["failure-cause"].is_object(), "{failed}");
    assert_eq!(disposed(location), json!({}));
    assert!(!PathBuf::from(location).exists());

    // Places that nobody has allowed, also if they are written such that what reads a URL makes them from others.
    let astray = format!("file://{savepoints}/.\t./elsewhere");
    rest.change("POST", &path, &json!({ "target-directory": astray }))
        .with(400);
    assert!(!scene.at("elsewhere").exists());
    let body = json!({ "target-directory": "/", "cancel-job": false });
    let refused = rest.change("POST", &path, &body).with(403).json();
    let said = refused["errors"][0].as_str().expect("a text");
    assert!(said.contains("no savepoint may be written"), "{said}");

    let body = json!({
        "targetDirectory": null, "drain": false, "formatType": "CANONICAL", "triggerId": null,
    });
    let stop = format!("/v1/jobs/{job}/stop");
    let begun = rest.change("POST", &stop, &body).with(202).json();
    let id = begun["request-id"].as_str().expect("an id");
    // The process is about to end, and the answer comes before.
    let stopped = rest.outcome(&format!("{path}/{id}"));
    let location = stopped["location"].as_str().expect("a place").to_owned();
    let ended = running.wait().with_code(0);
    let last = ended.events().pop().expect("an event");
    assert_eq!(last["outcome"], "stopped", "{last}");
    // Nothing is lost, nothing comes twice.
    host::run(
        scene.path(),
        &["run", "job.toml", "-s", &location, "-D", FAST],
    )
    .with_code(0);
    assert_same_lines(&scene.output("out"), &undisturbed(&scene), "c101");
}

#[test]
fn c101_a_savepoint_that_a_running_job_was_started_from_is_not_deleted() {
    let scene = scene("c101-needed");
    let savepoints = scene.at("sp").display().to_string();
    let option = format!("checkpoint.savepoint-dir={savepoints}");
    let (running, rest) = start(&scene, &["-D", &option]);
    let body = json!({ "target-directory": null });
    let path = format!("/v1/jobs/{}/savepoints", rest.job());
    let begun = rest.change("POST", &path, &body).with(202).json();
    let id = begun["request-id"].as_str().expect("an id");
    let taken = rest.outcome(&format!("{path}/{id}"));
    let location = taken["location"].as_str().expect("a place").to_owned();
    running.kill().expect("it was still running");

    // Its job directory belongs to a host that has died a moment ago.
    let arguments = ["-D", &option, "-s", &location, "-D", "job.id=other"];
    let (running, rest) = start(&scene, &arguments);
    let name = location.strip_prefix(&savepoints).expect("it is below");
    for written in [
        location.clone(),
        format!("{location}/"),
        format!("{savepoints}/{name}"),
        format!("file://{savepoints}//{name}"),
        format!("file:{location}"),
        format!("{savepoints}//{name}/_metadata"),
    ] {
        let body = json!({ "savepoint-path": written });
        rest.change("POST", "/v1/savepoint-disposal", &body)
            .with(409);
    }
    host::run(scene.path(), &["checkpoints", "verify", &location]).with_code(0);
    running.kill().expect("it was still running");
}

#[test]
fn c101_what_flinks_client_sends_cancels_a_job() {
    let scene = scene("c101-cancel");
    let (running, rest) = start(&scene, &[]);
    let path = format!("/v1/jobs/{}?mode=cancel", rest.job());
    let answer = rest.change("PATCH", &path, &json!({})).with(202);
    assert_eq!(answer.body, "{}");
    let ended = running.wait().with_code(0);
    assert_eq!(
        ended.events().pop().expect("an event")["outcome"],
        "cancelled"
    );
}

/// What Flink's own client says, and whether it succeeded.
fn flink(rest: &Rest, arguments: &[&str]) -> (bool, String) {
    let jars = servers::installed("flink/jars");
    let conf = servers::installed("flink/conf");
    let mut command = Command::new("java");
    command
        .arg(format!(
            "-Dlog4j.configurationFile={}",
            conf.join("log4j.properties").display()
        ))
        .args(["-XX:TieredStopAtLevel=1", "-Xmx256m"])
        .arg("-cp")
        .arg(jars.join("*"))
        .arg("org.apache.flink.client.cli.CliFrontend")
        .args([arguments[0], "-m", &rest.address])
        .args(&arguments[1..])
        .env("FLINK_CONF_DIR", conf);
    if let Some(token) = rest.token {
        let header = format!("Authorization:Bearer {token}");
        command.env("FLINK_REST_CLIENT_HEADERS", header);
    }
    let output = command.output().expect("java runs");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn c101_flinks_own_client_lists_savepoints_and_stops_a_job() {
    let scene = scene("c101-client");
    let option = format!("checkpoint.savepoint-dir={}", scene.at("sp").display());
    let slow = "source.numbers.rate=500";
    let (running, rest) = start(&scene, &["-D", &option, "-D", slow]);
    let job = rest.job();
    let ask = |arguments: &[&str]| {
        let (is_ok, said) = flink(&rest, arguments);
        assert!(is_ok, "{arguments:?}: {said}");
        said
    };
    let path_in = |said: &str| {
        let path = said.lines().find_map(|line| line.split_once("Path: "));
        let (_, path) = path.unwrap_or_else(|| panic!("no path: {said}"));
        path.trim().to_owned()
    };
    let listed = ask(&["list"]);
    assert!(
        listed.contains(&format!("{job} : c101-client (RUNNING)")),
        "{listed}"
    );
    let savepoint = path_in(&ask(&["savepoint", &job]));
    host::run(scene.path(), &["checkpoints", "verify", &savepoint]).with_code(0);
    ask(&["checkpoint", &job]);
    let (is_ok, said) = flink(&rest, &["savepoint", &job, "/"]);
    assert!(
        !is_ok && said.contains("no savepoint may be written"),
        "{said}"
    );
    ask(&["savepoint", "--dispose", &savepoint]);
    assert!(!PathBuf::from(&savepoint).exists());
    let savepoint = path_in(&ask(&["stop", &job]));
    let ended = running.wait().with_code(0);
    assert_eq!(
        ended.events().pop().expect("an event")["outcome"],
        "stopped"
    );
    host::run(
        scene.path(),
        &["run", "job.toml", "-s", &savepoint, "-D", FAST],
    )
    .with_code(0);
    assert_same_lines(&scene.output("out"), &undisturbed(&scene), "c101-client");
}

#[test]
fn c101_flinks_own_client_cancels_a_job_and_needs_the_token() {
    let scene = scene("c101-token");
    scene.write("token", format!("{TOKEN}\n"));
    let token = format!("http.token-file={}", scene.at("token").display());
    let slow = "source.numbers.rate=500";
    let (running, mut rest) = start(&scene, &["-D", &token, "-D", slow]);
    let (is_ok, said) = flink(&rest, &["list"]);
    assert!(!is_ok && said.contains("token"), "{said}");
    rest.token = Some(TOKEN);
    let job = rest.job();
    let (is_ok, said) = flink(&rest, &["cancel", &job]);
    assert!(is_ok, "{said}");
    let ended = running.wait().with_code(0);
    assert_eq!(
        ended.events().pop().expect("an event")["outcome"],
        "cancelled"
    );
}

#[test]
fn c102_nobody_gets_in_without_the_token_or_from_a_foreign_page() {
    let scene = scene("c102");
    scene.write("token", format!("{TOKEN}\n"));
    let token = format!("http.token-file={}", scene.at("token").display());
    let (running, mut rest) = start(&scene, &["-D", &token]);
    rest.token = Some(TOKEN);
    let job = rest.job();
    let cancel = format!("/v1/jobs/{job}?mode=cancel");
    for shown in [None, Some("a-token-of-some-other-length"), Some("")] {
        rest.token = shown;
        for path in ["/v1/jobs", "/metrics", "/v1/views", "/v1", "/no/such/path"] {
            let answer = rest.get(path).with(401);
            assert!(
                answer.head.contains("www-authenticate: bearer"),
                "{}",
                answer.head
            );
            assert!(!answer.body.contains("c102"), "{}", answer.body);
        }
        rest.change("PATCH", &cancel, &json!({})).with(401);
    }
    // The page says nothing of any job, and asks for the token.
    rest.token = None;
    assert!(rest.get("/").with(200).body.contains("<!doctype html>"));
    rest.token = Some(TOKEN);
    let json = "content-type: application/json";
    for foreign in [
        "origin: http://evil.example",
        "origin: null",
        "sec-fetch-site: cross-site",
        "sec-fetch-site: same-site",
    ] {
        rest.send("PATCH", &cancel, &[json, foreign], "{}")
            .with(403);
        rest.send("GET", "/v1/jobs", &[foreign], "").with(403);
    }
    // What a form of a foreign page can send.
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let kind = format!("content-type: {kind}");
        rest.send("PATCH", &cancel, &[&kind], "{}").with(415);
    }
    rest.send("PATCH", &cancel, &[], "{}").with(415);
    // A name that a stranger has made to resolve to this host.
    let request = format!(
        "GET /v1/jobs HTTP/1.1\r\nhost: evil.example\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
    );
    rest.raw(&request).with(421);
    assert_undisturbed(&scene, running);
}

#[test]
fn c102_an_address_that_others_reach_needs_a_token() {
    let scene = scene("c102-open");
    for address in ["0.0.0.0:0", "[::]:0"] {
        host::run(scene.path(), &["run", "job.toml", "--http", address])
            .with_code(2)
            .saying(&["a token is wanted", "http.token-file"]);
        host::run(scene.path(), &["serve", "job.toml", "--http", address])
            .with_code(2)
            .saying(&["a token is wanted", "--http-token-file"]);
    }
    assert!(!scene.at("out").exists(), "nothing of the job has run");
}

#[test]
fn c102_a_certificate_is_shown_and_checked_before_the_start() {
    let scene = scene("c102-tls");
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let ours = rcgen::generate_simple_self_signed(names.clone()).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(names).expect("a certificate");
    scene.write("cert.pem", ours.cert.pem());
    scene.write("key.pem", ours.signing_key.serialize_pem());
    scene.write("other.pem", other.signing_key.serialize_pem());
    scene.write("token", "short");
    for (options, said) in [
        (["cert.pem", "missing.pem", "-"], "`http.certificate-key`"),
        (
            ["cert.pem", "other.pem", "-"],
            "the key is not that of the certificate",
        ),
        (["key.pem", "key.pem", "-"], "has none in PEM"),
        (["cert.pem", "key.pem", "token"], "openssl rand -hex 24"),
    ] {
        let [certificate, key, token] = options;
        let mut arguments = vec![
            "job.toml".to_owned(),
            "-D".to_owned(),
            format!("http.certificate={certificate}"),
            "-D".to_owned(),
            format!("http.certificate-key={key}"),
            "-D".to_owned(),
            "http.address=127.0.0.1:0".to_owned(),
        ];
        if token != "-" {
            arguments.extend(["-D".to_owned(), format!("http.token-file={token}")]);
        }
        for command in ["check", "run"] {
            let arguments = std::iter::once(command).chain(arguments.iter().map(String::as_str));
            let arguments: Vec<&str> = arguments.collect();
            host::run(scene.path(), &arguments)
                .with_code(2)
                .saying(&["the REST API cannot be served", said]);
        }
    }
    assert!(!scene.at("checkpoints").exists(), "nothing was begun");

    let arguments = [
        "run",
        "job.toml",
        "--json",
        "--http",
        "127.0.0.1:0",
        "-D",
        "http.certificate=cert.pem",
        "-D",
        "http.certificate-key=key.pem",
    ];
    let mut running = control::start(&scene, &arguments);
    let url = running.event("listening")["url"]
        .as_str()
        .expect("a URL")
        .to_owned();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let script = "
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[2])
print(urllib.request.urlopen(sys.argv[1] + '/v1/jobs/overview', context=context).read().decode())
";
    let ask = |trusted: &str| {
        let mut python = Command::new("python3");
        let output = python
            .args(["-c", script, &url])
            .arg(scene.at(trusted))
            .output();
        output.expect("python runs")
    };
    let answer = ask("cert.pem");
    let said = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&answer.stdout).contains("c102-tls"));
    // Who trusts another certificate gets nothing, and plain text is no request.
    scene.write("other-cert.pem", other.cert.pem());
    let refused = ask("other-cert.pem");
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("CERTIFICATE_VERIFY_FAILED"), "{said}");
    let plain = Rest {
        address: url.replace("https://", ""),
        token: None,
    };
    assert!(
        plain
            .try_raw("GET /v1 HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .is_none()
    );
    assert_undisturbed(&scene, running);
}

#[test]
fn c102_nothing_can_be_changed_where_it_is_read_only() {
    let scene = scene("c102-read");
    let (running, rest) = start(&scene, &["-D", "http.read-only=true"]);
    let job = rest.job();
    let body = json!({});
    for (method, path) in [
        ("PATCH", format!("/v1/jobs/{job}?mode=cancel")),
        ("POST", format!("/v1/jobs/{job}/stop")),
        ("POST", format!("/v1/jobs/{job}/checkpoints")),
        ("POST", format!("/v1/jobs/{job}/operations")),
        ("PATCH", format!("/v1/jobs/{job}/rescaling?parallelism=2")),
        ("DELETE", format!("/v1/jobs/{job}")),
    ] {
        rest.change(method, &path, &body).with(403);
    }
    assert_eq!(rest.get("/v1").with(200).json()["read-only"], true);
    assert_undisturbed(&scene, running);
}

#[test]
fn c103_slow_huge_and_many_clients_leave_the_job_alone() {
    let scene = scene("c103");
    let (running, rest) = start(&scene, &[]);
    // More than may be connected: the rest is refused or closed, and nobody waits.
    let idle: Vec<TcpStream> = (0..300)
        .filter_map(|_| TcpStream::connect(&rest.address).ok())
        .collect();
    assert!(idle.len() > 100, "{} are connected", idle.len());
    let mut slow = rest.connect();
    let _ = slow.write_all(b"GET /v1/jobs HTTP/1.1\r\nhost: 127");
    drop(idle);
    // They have gone, and there is room again.
    let begun = Instant::now();
    loop {
        let answer = rest.try_raw("GET /v1/jobs HTTP/1.1\r\nhost: localhost\r\n\r\n");
        if answer.is_some_and(|answer| answer.status == 200) {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "no room again");
        thread::sleep(Duration::from_millis(20));
    }
    let job = rest.job();
    let path = format!("/v1/jobs/{job}/savepoints");
    let huge = "x".repeat(1 << 20);
    let json = "content-type: application/json";
    // It is not read to its end, so the answer may get lost.
    for (request, status) in [
        (
            format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\n{json}\r\ncontent-length: {}\r\n\r\n{huge}",
                huge.len()
            ),
            413,
        ),
        (
            format!("GET /v1/jobs HTTP/1.1\r\nhost: localhost\r\nx: {huge}\r\n\r\n"),
            431,
        ),
    ] {
        let answer = rest.try_raw(&request);
        let answered = answer.map_or(status, |answer| answer.status);
        assert_eq!(answered, status);
    }
    for malformed in ["nonsense\r\n\r\n", "GET /v1/jobs HTTP/9.9\r\n\r\n"] {
        rest.raw(malformed).with(400);
    }
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{\"drain\":1}",
        "{\"no-such-key\":1}",
    ] {
        let answer = rest.send(
            "POST",
            &format!("/v1/jobs/{job}/checkpoints"),
            &[json],
            body,
        );
        let expected = if body.is_empty() { 202 } else { 400 };
        assert_eq!(answer.status, expected, "`{body}`: {}", answer.body);
    }
    drop(slow);
    assert_undisturbed(&scene, running);
}

/// The labels and the value of a sample.
type Sample = (BTreeMap<String, String>, f64);

/// The metrics that `docs/metrics.md` lists.
pub(crate) fn documented_metrics() -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/metrics.md")).expect("a document");
    // Other tables are of variables.
    let is_metric = |line: &&str| line.ends_with("(gauge) |") || line.ends_with("(counter) |");
    let rows = text.lines().filter(is_metric);
    let rows = rows.filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split('`').next());
    names.map(str::to_owned).collect()
}

#[test]
fn c104_a_parser_of_prometheus_reads_every_documented_metric() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("c104", "50ms"));
    let (mut running, rest) = start(&scene, &["-p", "2"]);
    running.checkpoints(2);
    let answer = rest.get("/metrics").with(200);
    assert!(
        answer
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        answer.head
    );
    scene.write("metrics", &answer.body);
    let script = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families
seen, found = set(), {}
for family in text_string_to_metric_families(open(sys.argv[1]).read()):
    for sample in family.samples:
        series = (sample.name, tuple(sorted(sample.labels.items())))
        assert series not in seen, series
        seen.add(series)
        found.setdefault(sample.name, []).append([sample.labels, sample.value])
print(json.dumps(found))
";
    let output = Command::new(servers::installed("prometheus/bin/python"))
        .args(["-c", script])
        .arg(scene.at("metrics"))
        .output()
        .expect("python runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let found: BTreeMap<String, Vec<Sample>> =
        serde_json::from_slice(&output.stdout).expect("it is JSON");
    // Those need something to have happened first.
    let needs_more = [
        "bad_records_total",
        "recovered_batches_total",
        "operator_metric",
        "last_checkpoint_restore_timestamp_ms",
        "restore_seconds",
        "num_late_records_dropped",
        "current_output_watermark_ms",
        "watermark_lag_seconds",
    ];
    let documented = documented_metrics();
    for name in &documented {
        let is_there = found.contains_key(name) || needs_more.contains(&name.as_str());
        assert!(is_there, "{name} is documented and not there");
    }
    for name in found.keys() {
        assert!(
            documented.contains(name),
            "{name} is there and not documented"
        );
    }
    let one = |name: &str, label: (&str, &str)| {
        let has = |(labels, _): &&Sample| labels.get(label.0).is_some_and(|value| value == label.1);
        found[name]
            .iter()
            .filter(has)
            .map(|(_, value)| value)
            .sum::<f64>()
    };
    assert!(one("number_of_completed_checkpoints", ("job", "c104")) >= 2.0);
    assert_eq!(one("job_state", ("state", "running")), 1.0);
    assert!(one("num_records_in", ("operator", "count")) > 0.0);
    assert!(one("checkpoint_age_seconds", ("job", "c104")) < 60.0);
    running.kill().expect("it was still running");
}

#[test]
fn what_may_go_wrong_is_counted_from_zero() {
    let scene = Scene::new();
    scene.write(
        "job.toml",
        jobs::counting("zero", "50ms").replace("[[operator]]", "[[operator]]\non-error = \"skip\""),
    );
    let (running, rest) = start(&scene, &[]);
    let metrics = rest.get("/metrics").with(200).body;
    for line in [
        "bad_records_total{job=\"zero\",operator=\"count\"} 0",
        "checkpoint_failures_total{job=\"zero\",reason=\"expired\"} 0",
        "job_files_refused 0",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
    }
    assert!(!metrics.contains("bad_records_total{job=\"zero\",operator=\"numbers\"}"));
    rest.send(
        "POST",
        "/metrics",
        &["content-type: application/json"],
        "{}",
    )
    .with(405);
    running.kill().expect("it was still running");
}

#[test]
fn a_host_of_several_jobs_says_whose_line_it_is_and_what_it_does_not_run() {
    let scene = Scene::new();
    scene.input(oracle::verses(200).as_bytes(), 1, "txt");
    let trap = "misdeed = \"trap\", on = \"the\"";
    let job = |name: &str| {
        let job =
            jobs::word_count(name).replace("path = \"out\"", &format!("path = \"../out/{name}\""));
        let job = job
            .replace("\"input/", "\"../input/")
            .replace("dir = \"checkpoints\"", "dir = \"../checkpoints\"");
        let job = job.replace("input = \"split\"", "input = \"faulty\"");
        job + &jobs::operator("faulty", "faulty", "split", trap) + "on-error = \"skip\"\n"
    };
    scene.write("jobs/one.toml", job("one"));
    scene.write("jobs/other.toml", job("other"));
    scene.write("jobs/broken.toml", "garbage =");
    let arguments = [
        "serve",
        "jobs",
        "--json",
        "--http",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ];
    let mut running = control::start(&scene, &arguments);
    let rest = Rest::of(&mut running);
    for _ in 0..2 {
        running.event("finished");
    }
    let host = rest.get("/v1").with(200).json();
    let refused = host["refused"].as_array().expect("a list");
    assert_eq!(refused.len(), 1, "{host}");
    assert!(
        refused[0]["file"]
            .as_str()
            .is_some_and(|it| it.ends_with("broken.toml")),
        "{host}"
    );
    assert!(
        refused[0]["error"]
            .as_str()
            .is_some_and(|it| it.contains("1:")),
        "{host}"
    );
    assert!(
        rest.get("/metrics")
            .with(200)
            .body
            .contains("\njob_files_refused 1\n")
    );
    // It goes away with the file.
    fs::remove_file(scene.at("jobs/broken.toml")).expect("it is there");
    running.wait_until("nothing is refused", || {
        rest.get("/metrics")
            .with(200)
            .body
            .contains("\njob_files_refused 0\n")
    });
    let log = rest.get("/v1/log").with(200).json();
    let lines = log["lines"].as_array().expect("lines");
    for job in ["one", "other"] {
        let bad = format!("[{job}] a bad record is skipped");
        let of_job = |line: &&Value| {
            line["text"]
                .as_str()
                .is_some_and(|text| text.starts_with(&bad))
        };
        assert!(lines.iter().any(|line| of_job(&line)), "{bad}: {log}");
    }
    running.signal("TERM");
    let ended = running.wait().with_code(0);
    let said: Vec<Value> = ended
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for job in ["one", "other"] {
        for target in ["operator", "runtime::bad_records"] {
            let is_of = |line: &&Value| line["target"] == target && line["span"]["id"] == job;
            assert!(
                said.iter().any(|line| is_of(&line)),
                "{target} of {job}: {}",
                ended.stderr
            );
        }
    }
    assert!(
        said.iter().all(|line| line["fields"]["message"] != "close"),
        "{}",
        ended.stderr
    );
}

/// Files that a page of the host may name.
fn assets() -> Vec<PathBuf> {
    let directory = root().join("crates/server/src/page");
    let entries = fs::read_dir(directory).expect("the page's files");
    entries.map(|entry| entry.expect("a file").path()).collect()
}

#[test]
fn the_page_is_served_with_all_that_it_needs_and_nothing_else_may_be_loaded() {
    let scene = scene("page");
    let (running, rest) = start(&scene, &[]);
    for file in assets() {
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let path = if name == "index.html" {
            String::new()
        } else {
            name
        };
        let answer = rest.get(&format!("/{path}")).with(200);
        assert!(
            answer.head.contains("default-src 'none'"),
            "{path}: {}",
            answer.head
        );
        assert!(
            answer.head.contains("x-content-type-options: nosniff"),
            "{path}"
        );
        assert!(!answer.head.contains("access-control-allow"), "{path}");
        assert_eq!(
            answer.body,
            fs::read_to_string(&file).expect("text"),
            "{path}"
        );
    }
    running.kill().expect("it was still running");
}
