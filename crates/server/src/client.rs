//! The client: finds the hosts of the user, and asks them.

pub(crate) mod exchange;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use operator::text::name;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

use crate::api::{
    Code, Failure, HostStatus, JobStatus, OperationState, OperationStatus, Report, Request,
};
use crate::directories::{Directories, is_gone, process_of};
use crate::view::JobView;
use exchange::{Trouble, exchange};

/// How long a host gets for an answer at once.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How much longer one may take that waits for an operation: the job may need all cores.
const ANSWER_LATE_MAX: Duration = Duration::from_secs(30);

/// How long one answer waits for an operation.
const WAIT: Duration = Duration::from_secs(30);

/// How often a request is sent again when its answer was lost, or the host has too much to do.
const REPEATS_MAX: u32 = 5;

/// How long it waits before, times the number of the repetition.
const REPEAT_AFTER: Duration = Duration::from_millis(100);

/// What stays as it is in a segment of a path.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Knows where hosts may be. Its methods and those of a [`Host`] block.
#[derive(Clone, Debug)]
pub struct Client {
    directories: Directories,
    runtime: Arc<Runtime>,
}

/// A process that answered.
#[derive(Clone, Debug)]
pub struct Host {
    client: Client,
    place: Place,
    status: HostStatus,
}

/// Where a host is reached.
#[derive(Clone, Debug)]
enum Place {
    Socket(PathBuf),
}

/// The hosts of a user.
#[derive(Debug)]
pub struct Hosts {
    /// Those that answered.
    pub hosts: Vec<Host>,
    /// Those that did not.
    pub silent: Vec<Silent>,
}

/// A host that lives and did not answer: it may be stopped (`SIGSTOP`), or another version.
#[derive(Debug)]
pub struct Silent {
    /// Its process.
    pub process: Option<u32>,
    /// Why.
    pub failure: Failure,
}

/// A job, and the host that has it.
#[derive(Debug)]
pub struct Found {
    /// The host.
    pub host: Host,
    /// The job.
    pub job: JobStatus,
}

impl Client {
    /// For the hosts of the user of this process.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn new() -> Result<Self, Failure> {
        Self::with(Directories::of_user())
    }

    /// For hosts in other places.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(directories: Directories) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| Failure::new(Code::Failed, format!("starting failed: {error}")))?;
        Ok(Self {
            directories,
            runtime: Arc::new(runtime),
        })
    }

    /// All hosts of the user.
    ///
    /// # Errors
    /// The directory of the sockets is not private, or cannot be read.
    pub fn hosts(&self) -> Result<Hosts, Failure> {
        let connected = self.runtime.block_on(self.directories.connect_all());
        let connected = connected.map_err(|error| Failure::new(Code::Failed, error.to_string()))?;
        let mut found = Hosts {
            hosts: Vec::new(),
            silent: Vec::new(),
        };
        for (path, connected) in connected {
            let process = process_of(&path);
            let place = Place::Socket(path);
            let asked = match connected {
                Ok(()) => self.host(place),
                Err(error) => Err(Trouble::Unreachable(error)),
            };
            match asked {
                Ok(host) => found.hosts.push(host),
                // It ended in the meantime.
                Err(Trouble::Unreachable(error)) if is_gone(&error) => {}
                Err(trouble) => found.silent.push(Silent {
                    process,
                    failure: trouble.failure(process),
                }),
            }
        }
        Ok(found)
    }

    fn host(&self, place: Place) -> Result<Host, Trouble> {
        let mut host = Host {
            client: self.clone(),
            place,
            status: HostStatus {
                version: String::new(),
                process: 0,
            },
        };
        host.status = host.ask(Method::GET, "/v1", None, ANSWER_MAX)?;
        Ok(host)
    }

    /// The host that has a job with this id or name, only this process if one is given. A job that has ended counts
    /// only if no other has the name.
    ///
    /// # Errors
    /// There is no such job, or there are several. [`Code::Lost`] if a host that may have it does not answer.
    pub fn find(&self, wanted: &str, process: Option<u32>) -> Result<Found, Failure> {
        let Hosts { hosts, mut silent } = self.hosts()?;
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for host in hosts {
            if process.is_some_and(|process| process != host.process()) {
                continue;
            }
            let jobs = match host.jobs() {
                Ok(jobs) => jobs,
                Err(failure) => {
                    let process = Some(host.process());
                    silent.push(Silent { process, failure });
                    continue;
                }
            };
            for job in jobs {
                match job.id == wanted || job.name == wanted {
                    true => {
                        let host = host.clone();
                        found.push(Found { host, job });
                    }
                    false => others.push(job.name),
                }
            }
        }
        // Of another process nothing is to be known.
        silent.retain(|it| process.is_none() || it.process.is_none() || it.process == process);
        if found.iter().any(|it| it.job.id == wanted) {
            found.retain(|it| it.job.id == wanted);
        }
        if found.iter().any(|it| !it.job.state.has_ended()) {
            found.retain(|it| !it.job.state.has_ended());
        }
        match (found.pop(), found.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                found.push(last);
                Err(several(wanted, &found))
            }
            (None, _) => Err(none(wanted, process, &others, &silent)),
        }
    }
}

fn several(wanted: &str, found: &[Found]) -> Failure {
    let each = found.iter().map(|Found { host, job }| {
        let (id, state) = (name(&job.id), job.state.word());
        format!("id `{id}` in process {}, {state}", host.process())
    });
    let each: Vec<_> = each.take(10).collect();
    let message = format!(
        "there are {} jobs `{}`: {}",
        found.len(),
        name(wanted),
        each.join("; ")
    );
    let hint = "name one by its id, or its process by --process";
    Failure::new(Code::Conflict, message).hint(hint)
}

fn none(wanted: &str, process: Option<u32>, others: &[String], silent: &[Silent]) -> Failure {
    if let Some(silent) = silent.first() {
        let message = format!(
            "it is unknown whether there is a job `{}`: {}",
            name(wanted),
            silent.failure
        );
        return Failure::new(Code::Lost, message).hint("`host list` lists the hosts that answer");
    }
    let scope = process.map_or_else(String::new, |process| format!(" in process {process}"));
    let rest = match (others.is_empty(), process) {
        (false, _) => format!("there are {}", crate::http::listed(others.iter())),
        (true, Some(_)) => "it is not a host of this user that runs a job".to_owned(),
        (true, None) => "no host of this user runs a job".to_owned(),
    };
    let message = format!("there is no job `{}`{scope}: {rest}", name(wanted));
    Failure::new(Code::NotFound, message).hint("`host list` lists the jobs that run")
}

impl Host {
    /// Its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.status.process
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.status.version
    }

    /// Its jobs.
    ///
    /// # Errors
    /// It does not answer.
    pub fn jobs(&self) -> Result<Vec<JobStatus>, Failure> {
        self.ask(Method::GET, "/v1/jobs", None, ANSWER_MAX)
            .map_err(|trouble| self.failure(trouble))
    }

    /// Its jobs in full, but for what subtasks did for each checkpoint.
    ///
    /// # Errors
    /// It does not answer, or is of a version that sends something else.
    pub fn views(&self) -> Result<Vec<JobView>, Failure> {
        self.ask(Method::GET, "/v1/views", None, ANSWER_MAX)
            .map_err(|trouble| self.failure(trouble))
    }

    /// One of them, by id or name.
    ///
    /// # Errors
    /// It has no such job, or does not answer.
    pub fn job(&self, job: &str) -> Result<JobStatus, Failure> {
        self.ask(Method::GET, &job_path(job), None, ANSWER_MAX)
            .map_err(|trouble| self.failure(trouble))
    }

    /// Begins an operation, and does not wait for its end.
    ///
    /// # Errors
    /// It was not begun, or it is unknown whether it was.
    pub fn begin(&self, job: &str, request: &Request) -> Result<OperationStatus, Failure> {
        self.post(job, request, Duration::ZERO)
    }

    /// Does an operation. `progress` gets how far it is, whenever that changes.
    ///
    /// # Errors
    /// It was not done, or it is unknown whether it was ([`Code::Lost`]).
    pub fn run(
        &self,
        job: &str,
        request: &Request,
        mut progress: impl FnMut(&str),
    ) -> Result<Report, Failure> {
        let mut status = self.post(job, request, WAIT)?;
        loop {
            match status.state {
                OperationState::Done { report } => return Ok(*report),
                OperationState::Failed { error } => return Err(error),
                OperationState::InProgress { progress: text } => progress(&text),
            }
            status = self.operation(job, &request.request_id, Some(status.version), WAIT)?;
        }
    }

    /// How far an operation is: as soon as its version is not `seen`, at the latest after `wait`.
    ///
    /// # Errors
    /// The host does not know it, or does not answer.
    pub fn operation(
        &self,
        job: &str,
        request_id: &str,
        seen: Option<u64>,
        wait: Duration,
    ) -> Result<OperationStatus, Failure> {
        let id = utf8_percent_encode(request_id, UNRESERVED);
        let seen = seen.map_or_else(String::new, |seen| format!("&seen={seen}"));
        let path = format!(
            "{}/operations/{id}?wait={}{seen}",
            job_path(job),
            wait.as_millis()
        );
        self.ask_again(&Method::GET, &path, None, wait)
    }

    fn post(
        &self,
        job: &str,
        request: &Request,
        wait: Duration,
    ) -> Result<OperationStatus, Failure> {
        request.check()?;
        let path = format!("{}/operations?wait={}", job_path(job), wait.as_millis());
        let body = serde_json::to_vec(request).map_err(|error| {
            Failure::bad_request(format!("the request cannot be written: {error}"))
        })?;
        self.ask_again(&Method::POST, &path, Some(body), wait)
    }

    /// Asks, and again if the answer was lost. That does no harm, because the same request id is the same operation.
    fn ask_again(
        &self,
        method: &Method,
        path: &str,
        body: Option<Vec<u8>>,
        wait: Duration,
    ) -> Result<OperationStatus, Failure> {
        let mut was_sent = false;
        for repeat in 1.. {
            let asked = self.ask(method.clone(), path, body.clone(), wait + ANSWER_LATE_MAX);
            let trouble = match asked {
                Ok(status) => return Ok(status),
                Err(trouble) => trouble,
            };
            let is_worth_it = match &trouble {
                Trouble::Lost(_) => {
                    was_sent = true;
                    true
                }
                Trouble::Refused(failure) => failure.code == Code::Busy,
                Trouble::Unreachable(error) => error.kind() == io::ErrorKind::WouldBlock,
                Trouble::Silent | Trouble::Unintelligible(_) => false,
            };
            if !is_worth_it || repeat > REPEATS_MAX {
                let is_known = method == Method::GET && !matches!(trouble, Trouble::Refused(_));
                return Err(match was_sent || is_known {
                    true => lost(self.process(), &trouble),
                    false => self.failure(trouble),
                });
            }
            let pause = REPEAT_AFTER * repeat;
            self.client.runtime.block_on(async { sleep(pause).await });
        }
        unreachable!("it returns after a few repetitions")
    }

    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        longest: Duration,
    ) -> Result<T, Trouble> {
        let Place::Socket(socket) = &self.place;
        let Client {
            runtime,
            directories,
        } = &self.client;
        let asked = runtime.block_on(async {
            let stream = directories.connect(socket).await;
            let stream = stream.map_err(Trouble::Unreachable)?;
            exchange(stream, method, path, body.unwrap_or_default(), longest).await
        })?;
        serde_json::from_slice(&asked).map_err(|error| Trouble::Unintelligible(error.to_string()))
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        trouble.failure(Some(self.process()))
    }
}

/// What became of a request is unknown.
fn lost(process: u32, trouble: &Trouble) -> Failure {
    let message = match trouble {
        Trouble::Unreachable(_) | Trouble::Lost(_) => format!(
            "the host (process {process}) ended before it answered, so it is unknown whether this was done"
        ),
        other => format!(
            "it is unknown whether this was done: {}",
            other.describe(Some(process))
        ),
    };
    let hint = "see what the host printed, and `host list` and `host checkpoints list DIR`";
    Failure::new(Code::Lost, message).hint(hint)
}

fn job_path(job: &str) -> String {
    format!("/v1/jobs/{}", utf8_percent_encode(job, UNRESERVED))
}
