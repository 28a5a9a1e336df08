//! Server and client together, over real sockets. [`Double`] stands for the running jobs: as they do, it ends
//! operations from other threads, later, as failures too, or by dropping the ticket.

mod closing;
mod documented;
mod hostile;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::api::{
    Code, Failure, JobState, JobStatus, Node, Operation, OperationState, OperationStatus, Report,
    Request, Taken,
};
use crate::view::JobView;
use crate::{Client, Directories, Host, Jobs, Limits, Server, Ticket};

/// After which a test fails, because something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Double {
    jobs: Mutex<Vec<JobStatus>>,
    views: Mutex<Vec<JobView>>,
    begun: Mutex<Vec<(String, Operation)>>,
    /// Of operations that go on until the test ends them.
    held: Mutex<Vec<Box<dyn Ticket>>>,
    is_held: Condvar,
}

impl Jobs for Double {
    fn jobs(&self) -> Vec<JobStatus> {
        self.jobs.lock().unwrap().clone()
    }

    fn views(&self) -> Vec<JobView> {
        self.views.lock().unwrap().clone()
    }

    fn begin(&self, job: &str, operation: Operation, ticket: Box<dyn Ticket>) {
        let begun = (job.to_owned(), operation.clone());
        self.begun.lock().unwrap().push(begun);
        match operation {
            Operation::Checkpoint => drop(thread::spawn(move || {
                ticket.progress("1 of 2 subtasks has written its state");
                ticket.finish(Ok(taken(7)));
            })),
            Operation::Savepoint { .. } | Operation::Stop { .. } => {
                self.held.lock().unwrap().push(ticket);
                self.is_held.notify_all();
            }
            // Refused at once, on the server's own thread.
            Operation::Rescale { .. } => {
                let failure = Failure::new(Code::Conflict, "job `a` restarts");
                ticket.finish(Err(failure.hint("wait until it runs")));
            }
            // The job ends.
            Operation::Cancel => drop(thread::spawn(move || drop(ticket))),
            Operation::Dispose { .. } => ticket.finish(Ok(Report::default())),
            Operation::Interval { .. } => drop(thread::spawn(move || {
                ticket.finish(Err(Failure::new(Code::Failed, "no")));
            })),
        }
    }
}

impl Double {
    /// The ticket of an operation that was begun or is about to be.
    fn held(&self) -> Box<dyn Ticket> {
        let held = self.held.lock().unwrap();
        let (mut held, timeout) = self
            .is_held
            .wait_timeout_while(held, DEADLINE, |held| held.is_empty())
            .unwrap();
        assert!(!timeout.timed_out(), "no operation was begun");
        held.remove(0)
    }

    fn begun(&self) -> Vec<(String, Operation)> {
        self.begun.lock().unwrap().clone()
    }
}

fn taken(id: u64) -> Report {
    Report {
        checkpoint: Some(Taken {
            id,
            path: Some(format!("/cp/chk-{id}")),
            bytes: u64::MAX,
            ..Taken::default()
        }),
        ..Report::default()
    }
}

fn job(name: &str, id: &str, state: JobState) -> JobStatus {
    JobStatus {
        name: name.to_owned(),
        id: id.to_owned(),
        state,
        process: std::process::id(),
        job_file: "/jobs/job.toml".to_owned(),
        parallelism: 2,
        started_at: 1,
        restarts: 0,
        last_failure: None,
        interval_ms: Some(1000),
        directory: None,
        checkpoint: None,
        completed_checkpoints: 3,
        failed_checkpoints: 0,
        checkpoint_failure: None,
        sources: vec![Node {
            id: "in".to_owned(),
            records: 12,
        }],
        sinks: Vec::new(),
        bad_records: Vec::new(),
    }
}

/// A server, what it serves, and a client of it.
struct Setting {
    jobs: Arc<Double>,
    server: Server,
    client: Client,
    directories: Directories,
    _parent: TempDir,
}

impl Setting {
    fn new(limits: Limits) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let directories = Directories::at(parent.path().join("control"));
        let jobs = Arc::new(Double::default());
        *jobs.jobs.lock().unwrap() = vec![
            job("a", "id-a", JobState::Running),
            job("b/ü %2F?", "id-b", JobState::Running),
        ];
        let shared: Arc<dyn Jobs> = Arc::<Double>::clone(&jobs);
        let server = Server::start_with(shared, directories.clone(), limits).unwrap();
        Self {
            client: Client::with(directories.clone()).unwrap(),
            jobs,
            server,
            directories,
            _parent: parent,
        }
    }

    fn host(&self) -> Host {
        host(&self.client)
    }

    fn socket(&self) -> PathBuf {
        self.server.socket().to_owned()
    }

    /// What the server answers to these bytes, until it closes the connection.
    fn raw(&self, request: &[u8]) -> String {
        raw(&self.socket(), request)
    }
}

fn host(client: &Client) -> Host {
    let mut found = client.hosts().unwrap();
    assert!(found.silent.is_empty(), "{:?}", found.silent);
    found.hosts.pop().expect("there is a host")
}

fn raw(socket: &PathBuf, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // The server may have heard enough.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it hangs"),
            Err(_) => break,
        }
    }
    String::from_utf8(answer).unwrap()
}

fn request(id: &str, operation: Operation) -> Request {
    let request_id = id.to_owned();
    Request {
        request_id,
        operation,
    }
}

fn savepoint() -> Operation {
    Operation::Savepoint {
        directory: Some("/sp".to_owned()),
    }
}

/// Does something on another thread, and fails if that hangs.
fn in_time<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(what()));
    receive
}

fn got<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(DEADLINE).expect("it hangs")
}

#[test]
fn a_client_finds_the_host_and_hears_of_its_jobs() {
    let setting = Setting::new(Limits::default());
    let host = setting.host();
    assert_eq!(host.process(), std::process::id());
    assert_eq!(host.version(), env!("CARGO_PKG_VERSION"));
    let jobs = host.jobs().unwrap();
    assert_eq!(jobs, setting.jobs.jobs());
    for wanted in ["b/ü %2F?", "id-b"] {
        assert_eq!(host.job(wanted).unwrap().id, "id-b");
        assert_eq!(setting.client.find(wanted, None).unwrap().job.id, "id-b");
    }
    let socket = setting.socket();
    setting.server.close();
    assert!(!socket.exists());
    assert!(setting.client.hosts().unwrap().hosts.is_empty());
    assert_eq!(host.jobs().unwrap_err().code, Code::Lost);
}

#[test]
fn an_unknown_job_is_refused_with_the_names_that_there_are() {
    let setting = Setting::new(Limits::default());
    for failure in [
        setting.client.find("c\u{1b}", None).unwrap_err(),
        setting.host().job("c\u{1b}").unwrap_err(),
        setting
            .host()
            .begin("c\u{1b}", &request("1", Operation::Cancel))
            .unwrap_err(),
    ] {
        assert_eq!(failure.code, Code::NotFound);
        let text = failure.to_string();
        assert!(
            text.contains("`a`") && text.contains("`c\\u{1b}`"),
            "{text}"
        );
    }
    let elsewhere = setting.client.find("a", Some(1)).unwrap_err();
    assert!(elsewhere.message.contains("process 1"), "{elsewhere}");
    assert!(setting.jobs.begun().is_empty());
}

#[test]
fn a_name_of_two_jobs_is_refused_and_an_id_is_not() {
    let setting = Setting::new(Limits::default());
    let twice = [("x", "id-1"), ("x", "id-2"), ("id-1", "id-3")];
    *setting.jobs.jobs.lock().unwrap() = twice
        .map(|(name, id)| job(name, id, JobState::Running))
        .to_vec();
    for failure in [
        setting.host().job("x").unwrap_err(),
        setting.client.find("x", None).unwrap_err(),
    ] {
        assert_eq!(failure.code, Code::Conflict);
        let text = failure.to_string();
        assert!(text.contains("`id-1`") && text.contains("`id-2`"), "{text}");
    }
    assert_eq!(setting.client.find("id-1", None).unwrap().job.name, "x");
    // One that has ended is no longer meant.
    setting.jobs.jobs.lock().unwrap()[0].state = JobState::Finished;
    assert_eq!(setting.client.find("x", None).unwrap().job.id, "id-2");
}

#[test]
fn jobs_of_two_hosts_are_told_apart_by_process_or_id() {
    let setting = Setting::new(Limits::default());
    let other = Arc::new(Double::default());
    *other.jobs.lock().unwrap() = vec![job("a", "id-other", JobState::Running)];
    let limits = Limits::default();
    let second = Server::start_with(other, setting.directories.clone(), limits).unwrap();
    assert_eq!(setting.client.hosts().unwrap().hosts.len(), 2);
    let failure = setting.client.find("a", None).unwrap_err();
    assert_eq!(failure.code, Code::Conflict);
    for part in [
        "id-a",
        "id-other",
        &format!("process {}", std::process::id()),
    ] {
        assert!(failure.message.contains(part), "{failure}");
    }
    let found = setting.client.find("id-other", None).unwrap();
    assert_eq!(found.job.name, "a");
    drop(second);
    assert_eq!(setting.client.find("a", None).unwrap().job.id, "id-a");
}

#[test]
fn an_operation_ends_as_it_ends() {
    let setting = Setting::new(Limits::default());
    let host = setting.host();
    let mut heard = Vec::new();
    let run = |id: &str, operation, heard: &mut Vec<String>| {
        host.run("a", &request(id, operation), |text| {
            heard.push(text.to_owned())
        })
    };
    let report = run("1", Operation::Checkpoint, &mut heard).unwrap();
    assert_eq!(report, taken(7));
    // What came faster than it was asked for is not heard.
    assert!(heard.len() <= 2, "{heard:?}");
    let failure = run("2", Operation::Rescale { parallelism: 3 }, &mut heard).unwrap_err();
    assert_eq!(failure.code, Code::Conflict);
    assert_eq!(failure.hint.as_deref(), Some("wait until it runs"));
    let interval = Operation::Interval { interval_ms: None };
    assert_eq!(
        run("3", interval, &mut heard).unwrap_err().code,
        Code::Failed
    );
    let failure = run("4", Operation::Cancel, &mut heard).unwrap_err();
    assert_eq!(failure.code, Code::Ended);
    assert!(failure.message.contains("job ended"), "{failure}");
}

#[test]
fn progress_is_heard_as_it_comes_and_the_outcome_after_it() {
    let setting = Setting::new(Limits::default());
    let host = setting.host();
    let (progress, heard) = mpsc::channel();
    let ran = in_time(move || {
        host.run("a", &request("1", savepoint()), |text| {
            progress.send(text.to_owned()).unwrap();
        })
    });
    let ticket = setting.jobs.held();
    ticket.progress("half");
    while got(&heard) != "half" {}
    ticket.progress("whole");
    assert_eq!(got(&heard), "whole");
    ticket.finish(Ok(taken(8)));
    assert_eq!(got(&ran).unwrap(), taken(8));
}

#[test]
fn c83_the_same_request_id_is_the_same_operation() {
    let setting = Setting::new(Limits::default());
    let host = setting.host();
    let first = host.begin("a", &request("1", savepoint())).unwrap();
    assert_eq!((first.version, first.job.as_str()), (0, "id-a"));
    // By id or by name.
    let again = host.begin("id-a", &request("1", savepoint())).unwrap();
    assert_eq!(again, first);
    let other = Operation::Savepoint { directory: None };
    for different in [other, Operation::Cancel] {
        let failure = host.begin("a", &request("1", different)).unwrap_err();
        assert_eq!(failure.code, Code::Conflict);
    }
    let conflict = setting.raw(&post("a", r#"{"request-id":"1","operation":"cancel"}"#));
    assert!(conflict.starts_with("HTTP/1.1 409 "), "{conflict}");
    // Another job's is another one.
    host.begin("id-b", &request("1", savepoint())).unwrap();
    setting.jobs.held().finish(Ok(taken(3)));
    let ended = host.begin("a", &request("1", savepoint())).unwrap();
    let done = OperationState::Done {
        report: Box::new(taken(3)),
    };
    assert_eq!(ended.state, done);
    let run = host.run("a", &request("1", savepoint()), |_| {}).unwrap();
    assert_eq!(run, taken(3));
    let begun = [("id-a", savepoint()), ("id-b", savepoint())];
    assert_eq!(
        setting.jobs.begun(),
        begun.map(|(job, it)| (job.to_owned(), it))
    );
    // It can be asked for when the job is gone.
    setting.jobs.jobs.lock().unwrap().clear();
    let still = host.operation("id-a", "1", None, Duration::ZERO).unwrap();
    assert_eq!(still.state, done);
}

#[test]
fn two_clients_wait_for_the_same_operation_and_both_get_its_outcome() {
    let setting = Setting::new(Limits::default());
    let clients = [(), ()].map(|()| {
        let directories = setting.directories.clone();
        in_time(move || {
            let host = host(&Client::with(directories).unwrap());
            host.run("a", &request("both", savepoint()), |_| {})
        })
    });
    let ticket = setting.jobs.held();
    // Neither keeps others waiting.
    assert_eq!(setting.host().jobs().unwrap().len(), 2);
    ticket.finish(Ok(taken(4)));
    for client in &clients {
        assert_eq!(got(client).unwrap(), taken(4));
    }
    assert_eq!(setting.jobs.begun().len(), 1);
}

#[test]
fn a_wait_ends_by_news_by_the_end_or_by_its_time() {
    let setting = Setting::new(Limits::default());
    let host = setting.host();
    host.begin("a", &request("1", savepoint())).unwrap();
    let ask = move |seen, wait_ms| {
        let wait = Duration::from_millis(wait_ms);
        host.operation("a", "1", seen, wait).unwrap()
    };
    assert_eq!(ask(Some(0), 20).version, 0);
    assert_eq!(ask(None, 600_000).version, 0);
    let ticket = setting.jobs.held();
    ticket.progress("half");
    assert_eq!(ask(Some(0), 600_000).version, 1);
    drop(ticket);
    let status: OperationStatus = ask(Some(1), 600_000);
    assert!(status.state.has_ended());
    // Nothing more will come.
    assert_eq!(ask(Some(status.version), 600_000), status);
}

fn post(job: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /v1/jobs/{job}/operations HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
