//! `host serve`: several jobs in one process, each by itself.
//!
//! One thread, the main one, decides; every job has a thread that prepares it, launches it and waits for its end. What
//! the jobs share is what costs nothing to share: compiled components, the threads that storages wait on, the socket.

mod folder;

use std::collections::{BTreeMap, HashMap};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use job_file::checkpoint::Storage;
use job_file::http::{self, HttpSection};
use operator::clock::{Clock, SystemClock};
use operator::text::{line, name};
use runtime::Outcome;
use runtime::error::panic_message;
use wasm::Compiler;

use self::folder::{Content, Folder};
use super::job::{self, Loader};
use super::run::signals::{Phase, Signals};
use super::run::{
    conclude, finished_already, keep_stdout_for_events, not_listening, serve as answer,
};
use crate::assemble::Prepared;
use crate::cli::{HttpArguments, JobArguments, RestoreArguments, Serve};
use crate::events::{Audience, Event};
use crate::exit::{Error, Exit};
use crate::jobs::Jobs;
use crate::launch::{LaunchOptions, launch};

/// How often directories are looked at, and the end of the process is.
const LOOK: Duration = Duration::from_millis(250);

/// How many messages of the jobs' threads may wait.
const MESSAGES: usize = 64;

/// Runs jobs until all have ended, or a signal.
pub(crate) fn serve(arguments: &Serve) -> Result<Exit, Error> {
    let audience = match arguments.json {
        true => Audience::Program,
        false => Audience::Person,
    };
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for place in &arguments.places {
        match place.is_dir() {
            true => folders.push(Folder::new(place)),
            // One that does not exist is refused where it is read, with the others.
            false => files.push(place.clone()),
        }
    }
    let jobs = Arc::new(Jobs::default());
    Signals::listen(Phase::Serving(Arc::clone(&jobs)), audience).map_err(not_listening)?;
    let (sender, receiver) = sync_channel(MESSAGES);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let shared = Arc::new(Shared {
        jobs: Arc::clone(&jobs),
        loader: Arc::new(Loader::new(Compiler::Child, audience.notice())),
        clock: Arc::clone(&clock),
        config: arguments.config.clone(),
        audience,
        ids: Mutex::default(),
        live: AtomicUsize::new(0),
        sender,
    });
    let rest = http_section(&arguments.http)?;
    let rest = rest.map(|section| crate::rest::start(&section, &jobs, &clock, audience));
    let rest = rest.transpose()?;
    #[cfg(feature = "otlp")]
    let exporter = crate::otlp::start(&jobs, &clock, audience)?;
    let server = answer(&jobs);
    let mut serving = Serving {
        shared,
        receiver,
        served: BTreeMap::new(),
        worst: Exit::Finished,
    };
    files.iter().for_each(|file| serving.start(file, None));
    serving.go_on(&mut folders);
    if let Some(server) = server {
        server.close();
    }
    if let Some(rest) = rest {
        rest.close();
    }
    #[cfg(feature = "otlp")]
    if let Some(exporter) = exporter {
        exporter.close();
    }
    Ok(match jobs.is_ending() {
        true => Exit::Finished,
        false => serving.worst,
    })
}

/// What the command line says of the REST API.
fn http_section(arguments: &HttpArguments) -> Result<Option<HttpSection>, Error> {
    let Some(address) = &arguments.address else {
        return Ok(None);
    };
    let refused = |why: String| Error::refused(anyhow!("--http {}: {why}", name(address)));
    let address = http::parse_address(address).map_err(refused)?;
    if !address.ip().is_loopback() && arguments.token_file.is_none() {
        let hint = "give `--http-token-file` a file with a token of at least 16 characters, or listen on `127.0.0.1`";
        return Err(refused(http::NO_TOKEN.to_owned()).hint(hint));
    }
    for dir in &arguments.savepoint_dirs {
        http::check_savepoint_dir(dir).map_err(refused)?;
    }
    let absolute = |path: &PathBuf| job_file::checkpoint::absolute(path);
    let certificate = arguments.certificate.as_ref().map(absolute);
    let key = arguments.certificate_key.as_ref().map(absolute);
    let directory = |dir: &String| match dir.contains("://") {
        true => dir.clone(),
        false => absolute(&PathBuf::from(dir)).display().to_string(),
    };
    Ok(Some(HttpSection {
        address,
        token_file: arguments.token_file.as_ref().map(absolute),
        certificate: certificate.zip(key),
        hosts: arguments.hosts.clone(),
        read_only: arguments.read_only,
        savepoint_dirs: arguments.savepoint_dirs.iter().map(directory).collect(),
    }))
}

/// What all jobs have.
struct Shared {
    jobs: Arc<Jobs>,
    loader: Arc<Loader>,
    clock: Arc<dyn Clock>,
    config: Option<PathBuf>,
    audience: Audience,
    /// Which file each job that lives is of.
    ids: Mutex<HashMap<String, Holder>>,
    /// How many threads have a job that runs, or is about to.
    live: AtomicUsize,
    sender: SyncSender<Message>,
}

/// The file that a job is of.
struct Holder {
    file: PathBuf,
    /// The file is gone, and the job is about to be suspended: it may go on with another file.
    is_leaving: bool,
}

/// What has become of a start.
#[derive(Default)]
struct Attempt {
    /// The job, if it was found to be right.
    prepared: Option<Arc<Prepared>>,
    has_begun: bool,
    /// It is counted among those that live.
    is_live: bool,
    /// It was suspended: it can go on.
    was_suspended: bool,
    /// It was refused because another file has the job.
    held: Option<Held>,
}

/// A file that was refused because another one has its job.
struct Held {
    /// The other file.
    by: PathBuf,
    /// The job's id.
    job: String,
    /// The other file is about to give the job up, so nothing was said.
    is_silent: bool,
}

/// What a job's thread has to say.
enum Message {
    /// There is a job; it has this id.
    Begun(PathBuf, String),
    /// Its thread is over.
    Ended {
        file: PathBuf,
        exit: Exit,
        attempt: Attempt,
    },
    /// A changed job file is right and fits the newest checkpoint, or is not used.
    Checked(PathBuf, Option<Fits>),
}

/// What a changed job file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fits {
    /// The job that runs, changed.
    Same,
    /// Another job.
    Another,
}

/// What is known of a job file.
struct Served {
    state: State,
    /// The job as it ran last, to go back to.
    proven: Option<Arc<Prepared>>,
    /// To start again when it has ended, because the file has changed.
    again: bool,
    /// The file is gone, or changed while the job is being started: what is to be done then.
    later: Option<Later>,
    /// It was refused because another file has the job: when that one gives it up, this one takes over.
    held: Option<Held>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Running,
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Later {
    Suspend,
    Check,
}

struct Serving {
    shared: Arc<Shared>,
    receiver: Receiver<Message>,
    served: BTreeMap<PathBuf, Served>,
    /// The highest exit code of a job.
    worst: Exit,
}

impl Serving {
    /// Takes messages and looks at directories, until the end.
    fn go_on(&mut self, folders: &mut [Folder]) {
        loop {
            match self.receiver.recv_timeout(LOOK) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            while let Ok(message) = self.receiver.try_recv() {
                self.take(message);
            }
            if self.shared.jobs.is_ending() {
                // One that has not begun has changed nothing yet, and will not: it is not waited for.
                if self.shared.live.load(Ordering::SeqCst) == 0 {
                    return;
                }
                continue;
            }
            let folders_now = folders.iter_mut();
            let changes = folders_now.flat_map(|folder| folder.changes(self.shared.audience));
            let mut changes: Vec<(PathBuf, Content)> = changes.collect();
            // A file that was renamed is known to be gone when its job comes with another one.
            changes.sort_by_key(|(_, content)| *content != Content::Gone);
            for (file, content) in changes {
                match content {
                    Content::New => self.appeared(&file),
                    Content::Changed => self.changed(&file),
                    Content::Gone => self.removed(&file),
                }
            }
            let have_ended = self.served.values().all(|it| it.state == State::Ended);
            if folders.is_empty() && have_ended {
                return;
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Begun(file, id) => {
                let Some(served) = self.served.get_mut(&file) else {
                    return;
                };
                served.state = State::Running;
                match served.later.take() {
                    Some(Later::Suspend) => self.suspend(&id),
                    Some(Later::Check) => self.check(&file),
                    None => {}
                }
                // It has another job than it had, or it has the one still that it was about to give up.
                let others = self.held_by(&file, |held| held.is_silent || held.job != id);
                others.iter().for_each(|other| self.start(other, None));
            }
            Message::Checked(file, fits) => {
                let id = self.shared.id_of(&file);
                if let (Some(served), Some(id), Some(fits)) = (self.served.get_mut(&file), id, fits)
                {
                    served.again = true;
                    if fits == Fits::Another {
                        self.shared.is_leaving(&file, true);
                    }
                    self.suspend(&id);
                }
            }
            Message::Ended {
                file,
                exit,
                attempt,
            } => self.ended(&file, exit, attempt),
        }
    }

    fn ended(&mut self, file: &Path, exit: Exit, attempt: Attempt) {
        let Some(served) = self.served.get_mut(file) else {
            return;
        };
        served.state = State::Ended;
        let was_again = std::mem::take(&mut served.again);
        let later = served.later.take();
        let refused = !attempt.has_begun && exit != Exit::Finished;
        let stays = later != Some(Later::Suspend);
        if refused
            && stays
            && attempt.held.is_none()
            && let Some(proven) = served.proven.take()
        {
            // The file has changed since it was checked, or the checkpoint that it is to start from has.
            let audience = self.shared.audience;
            audience.say(&format!(
                "{}: the changed job did not start, so the job goes on as it was",
                line(&file.display().to_string())
            ));
            self.start(file, Some(proven));
            return;
        }
        // Only what was suspended for its changed file can go on as it was.
        let goes_on = was_again && attempt.was_suspended;
        served.proven = attempt.prepared.filter(|_| goes_on);
        if was_again || later == Some(Later::Check) {
            self.start(file, None);
            return;
        }
        served.held = attempt.held;
        let holder = served.held.as_ref().map(|held| held.by.clone());
        if !stays {
            self.gone(file);
        } else if holder.is_some_and(|holder| !self.served.contains_key(&holder)) {
            // It has gone since.
            self.start(file, None);
            return;
        }
        self.worst = self.worst.max(exit);
    }

    /// A file is gone and its job has ended: another file with the same job takes over.
    fn gone(&mut self, file: &Path) {
        self.served.remove(file);
        let others = self.held_by(file, |_| true);
        others.iter().for_each(|other| self.start(other, None));
    }

    /// The files that were refused because this one has the same job, or had.
    fn held_by(&self, file: &Path, wanted: impl Fn(&Held) -> bool) -> Vec<PathBuf> {
        let waits = |served: &Served| {
            let held = served.held.as_ref().filter(|held| held.by == file);
            served.state == State::Ended && held.is_some_and(&wanted)
        };
        let served = self.served.iter();
        let waiting = served.filter(|(_, served)| waits(served));
        waiting.map(|(path, _)| path.clone()).collect()
    }

    /// Has a job run on a thread of its own.
    #[expect(
        clippy::disallowed_methods,
        reason = "a job that is being prepared, or that waits for its directory, holds up no other"
    )]
    fn start(&mut self, file: &Path, prepared: Option<Arc<Prepared>>) {
        if self.shared.jobs.is_ending() {
            return;
        }
        let proven = self.served.remove(file).and_then(|served| served.proven);
        let served = Served {
            state: State::Starting,
            // What was started to go back to is not gone back to again.
            proven: proven.filter(|_| prepared.is_none()),
            again: false,
            later: None,
            held: None,
        };
        self.served.insert(file.to_owned(), served);
        let (shared, owned) = (Arc::clone(&self.shared), file.to_owned());
        let spawned = thread::Builder::new()
            .name("served-job".to_owned())
            .spawn(move || shared.run(&owned, prepared));
        if let Err(error) = spawned {
            let error = anyhow!(error).context("starting a thread for a job");
            self.shared.say_refused(file, &Error::failed(error));
            self.ended(file, Exit::Failed, Attempt::default());
        }
    }

    fn appeared(&mut self, file: &Path) {
        self.shared.is_leaving(file, false);
        match self.served.get_mut(file) {
            // It was gone for a moment: its job is about to be suspended.
            Some(served) if served.state == State::Running => {
                served.later = None;
                served.again = true;
            }
            Some(served) if served.state == State::Starting => served.later = Some(Later::Check),
            _ => self.start(file, None),
        }
    }

    fn changed(&mut self, file: &Path) {
        match self.served.get_mut(file) {
            Some(served) if served.state == State::Running => self.check(file),
            Some(served) if served.state == State::Starting => served.later = Some(Later::Check),
            _ => self.start(file, None),
        }
    }

    fn removed(&mut self, file: &Path) {
        self.shared.jobs.accept(file);
        self.shared.is_leaving(file, true);
        match self.served.get_mut(file) {
            Some(served) if served.state == State::Running => {
                served.later = Some(Later::Suspend);
                if let Some(id) = self.shared.id_of(file) {
                    self.suspend(&id);
                }
            }
            Some(served) if served.state == State::Starting => served.later = Some(Later::Suspend),
            _ => self.gone(file),
        }
    }

    fn suspend(&self, id: &str) {
        if let Some(entry) = self.shared.jobs.find(id) {
            entry.handle.suspend();
        }
    }

    /// Finds out, on a thread of its own, whether a job can go on with its changed file.
    #[expect(
        clippy::disallowed_methods,
        reason = "to compile a component may take a minute, and holds up no other job"
    )]
    fn check(&self, file: &Path) {
        let (shared, file) = (Arc::clone(&self.shared), file.to_owned());
        let spawned = thread::Builder::new()
            .name("job-check".to_owned())
            .spawn(move || {
                let fits = caught(|| shared.check(&file));
                let fits = fits.inspect_err(|error| {
                    shared.jobs.refuse(&file, error);
                    shared.say_refused(&file, error);
                    shared.audience.say(&format!(
                        "{}: the changed job file is not used, and the job goes on as it was",
                        line(&file.display().to_string())
                    ));
                });
                // Nobody listens any more at the end.
                let _ = shared.sender.send(Message::Checked(file, fits.ok()));
            });
        if let Err(error) = spawned {
            tracing::warn!("a changed job file is not looked at: {error}");
        }
    }
}

/// Does what a panic must not keep from being over: others wait to hear of it.
fn caught<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|panic| {
        let said = panic_message(&*panic);
        Err(Error::failed(anyhow!(
            "the host has panicked: {}",
            line(&said)
        )))
    })
}

impl Shared {
    fn arguments(&self, file: &Path) -> JobArguments {
        JobArguments {
            file: file.to_owned(),
            build: false,
            parallelism: None,
            http: None,
            overrides: Vec::new(),
            config: self.config.clone(),
        }
    }

    fn id_of(&self, file: &Path) -> Option<String> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids = ids.iter();
        let of_it = ids.find(|(_, holder)| holder.file == file);
        of_it.map(|(id, _)| id.clone())
    }

    /// A file is gone, or is back before its job was suspended.
    fn is_leaving(&self, file: &Path, is_leaving: bool) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = ids.values_mut().filter(|holder| holder.file == file);
        of_it.for_each(|holder| holder.is_leaving = is_leaving);
    }

    /// Runs a job to its end, on its thread.
    fn run(&self, file: &Path, prepared: Option<Arc<Prepared>>) {
        let mut attempt = Attempt::default();
        let outcome = caught(|| self.run_job(file, prepared, &mut attempt));
        let takes_over = attempt.held.as_ref().is_some_and(|held| held.is_silent);
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.retain(|_, holder| holder.file != file);
        drop(ids);
        let exit = outcome.unwrap_or_else(|error| {
            if (!self.jobs.is_ending() || attempt.has_begun) && !takes_over {
                self.say_refused(file, &error);
            }
            if !attempt.has_begun && !takes_over {
                self.jobs.refuse(file, &error);
            }
            error.exit()
        });
        if attempt.is_live {
            self.live.fetch_sub(1, Ordering::SeqCst);
        }
        let ended = Message::Ended {
            file: file.to_owned(),
            exit,
            attempt,
        };
        // Nobody listens any more at the end.
        let _ = self.sender.send(ended);
    }

    fn run_job(
        &self,
        file: &Path,
        prepared: Option<Arc<Prepared>>,
        attempt: &mut Attempt,
    ) -> Result<Exit, Error> {
        let begun_ms = self.clock.now_ms();
        let arguments = self.arguments(file);
        // Else it goes on as it was, because the changed file is refused.
        let is_as_it_stands = prepared.is_none();
        let prepared = match prepared {
            Some(prepared) => prepared,
            None => Arc::new(job::prepare(&arguments, &self.loader, &self.clock)?),
        };
        attempt.prepared = Some(Arc::clone(&prepared));
        let id = crate::launch::settings::job_id(&prepared.job);
        let audience = self.audience.of_job(&id);
        let _of_job = audience.span().entered();
        self.check_shared(&prepared)?;
        self.claim_id(&prepared, file, &mut attempt.held)?;
        let restore = RestoreArguments {
            // What is in memory is not resumed.
            resume: prepared.job.checkpoint.storage != Storage::Memory,
            ..RestoreArguments::default()
        };
        let options = LaunchOptions {
            job: &arguments,
            loader: &self.loader,
            restore: &restore,
            taken: None,
            clock: Arc::clone(&self.clock),
            begun_ms,
            audience,
            before: Box::new(|entry| {
                // Before the process may be found to be ending: then it waits for this one.
                self.live.fetch_add(1, Ordering::SeqCst);
                attempt.is_live = true;
                if !self.jobs.add(Arc::clone(entry)) {
                    return Err(Error::refused(anyhow!("the host is about to end")));
                }
                attempt.has_begun = true;
                if is_as_it_stands {
                    self.jobs.accept(file);
                }
                let begun = Message::Begun(file.to_owned(), entry.id.clone());
                // Nobody listens any more at the end.
                let _ = self.sender.send(begun);
                Ok(())
            }),
        };
        let Some(running) = launch(&prepared, options)? else {
            return Ok(finished_already(audience));
        };
        let entry = running.entry();
        let ended = running.wait()?;
        attempt.was_suspended = matches!(ended.outcome, Outcome::Suspended);
        conclude(ended, &entry, audience)
    }

    /// Standard input is for one, and standard output is taken if events go there.
    fn check_shared(&self, prepared: &Prepared) -> Result<(), Error> {
        let mut sources = prepared.job.sources.iter();
        if let Some(source) = sources.find(|it| it.connector.as_deref() == Some("stdin")) {
            let error = anyhow!(
                "source `{}` reads standard input, which several jobs would share",
                name(&source.node.id)
            );
            return Err(Error::refused(error).hint("run this job by `host run`"));
        }
        if prepared.job.http.is_some() {
            let message = "`[http]` is for `host run`: here all jobs are served on one address";
            let error = Error::refused(anyhow!("{message}"));
            return Err(error.hint("remove it, and give `host serve` the option `--http ADDR`"));
        }
        if self.audience.is_program() {
            keep_stdout_for_events(&prepared.job)?;
        }
        Ok(())
    }

    /// Two files with one job would write into each other's output.
    fn claim_id(
        &self,
        prepared: &Prepared,
        file: &Path,
        held: &mut Option<Held>,
    ) -> Result<(), Error> {
        let id = crate::launch::settings::job_id(&prepared.job);
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = ids.get(&id).filter(|other| other.file != file) {
            let error = anyhow!(
                "job `{}` is run already, by {}",
                name(&id),
                line(&other.file.display().to_string())
            );
            *held = Some(Held {
                by: other.file.clone(),
                job: id,
                is_silent: other.is_leaving,
            });
            let hint = "give one of them a `job.id` of its own; if the other file is removed, the job goes on with this one";
            return Err(Error::refused(error).hint(hint));
        }
        let holder = Holder {
            file: file.to_owned(),
            is_leaving: false,
        };
        ids.insert(id, holder);
        Ok(())
    }

    /// Whether a running job can go on with its changed file, or has to make room for another one.
    fn check(&self, file: &Path) -> Result<Fits, Error> {
        let prepared = job::prepare(&self.arguments(file), &self.loader, &self.clock)?;
        self.check_shared(&prepared)?;
        let id = crate::launch::settings::job_id(&prepared.job);
        let running = self.id_of(file);
        if running.is_some_and(|running| running != id) {
            return Ok(Fits::Another);
        }
        let entry = self.jobs.find(&id);
        if let Some(checkpoint) = entry.and_then(|entry| entry.newest_checkpoint()) {
            crate::launch::fits(&prepared, &checkpoint)?;
        }
        Ok(Fits::Same)
    }

    /// Says why a job did not start or has failed.
    fn say_refused(&self, file: &Path, error: &Error) {
        let place = file.display().to_string();
        match self.audience.is_program() {
            true => self.audience.of_job(&place).tell(&Event::Refused {
                error: error.to_string(),
                exit_code: error.exit() as u8,
            }),
            // All line breaks of an error are ours.
            false => self
                .audience
                .complain(&format!("{}: {error}", line(&place))),
        }
    }
}
