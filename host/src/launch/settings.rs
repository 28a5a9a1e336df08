//! The job file's sections in the words of the runtime and of the checkpoint store.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use checkpoint::lease::{Holder, Terms};
use checkpoint::storage::{environment, weakened};
use dataflow::alignment;
use job_file::checkpoint::{CheckpointSection, Directory, Mode, Storage};
use job_file::restart::RestartStrategy;
use job_file::{JobFile, JobSection, StateBackend};
use operator::clock::Clock;
use operator::text::size;
use runtime::clock::LeaseTime;
use runtime::coordinator::Settings;
use runtime::restart::Strategy;

use crate::assemble::Prepared;
use crate::events::Event;

/// How the runtime is to run the job.
pub(crate) fn options(job: &JobFile, id: &str, run: &str) -> runtime::Options {
    let section = &job.checkpoint;
    runtime::Options {
        name: job.job.name.clone(),
        id: id.to_owned(),
        run: run.to_owned(),
        checkpoint: Settings {
            interval_ms: section.interval.map(at_least_one_ms),
            timeout_ms: at_least_one_ms(section.timeout),
            min_pause_ms: ms(section.min_pause),
            max_concurrent: section.max_concurrent,
            tolerable_failures: section.tolerable_failures,
        },
        mode: match section.mode {
            Mode::ExactlyOnce => alignment::Mode::ExactlyOnce,
            Mode::AtLeastOnce => alignment::Mode::AtLeastOnce,
        },
        incremental: section.incremental,
        restart: strategy(&job.restart),
        timer_calls_max: runtime::TIMER_CALLS_MAX,
    }
}

/// How the job keeps its checkpoints.
pub(crate) fn store_options(section: &CheckpointSection) -> checkpoint::store::Options {
    checkpoint::store::Options {
        inline_threshold: section.inline_threshold,
        max_state_size: section.max_state_size,
        retained: section.retained as usize,
        incremental: section.incremental,
        compression: section.compression,
        permissions: section.permissions,
        timeout: section.timeout,
    }
}

/// How this process takes job directories.
pub(crate) fn terms(timeout: Duration, clock: Arc<dyn Clock>) -> Terms {
    Terms {
        holder: holder(),
        timeout_ms: at_least_one_ms(timeout),
        time: Arc::new(LeaseTime(clock)),
    }
}

/// This process, as others are to know it.
fn holder() -> Holder {
    let read = |path: &str| fs::read_to_string(path).ok();
    let word = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let host = read("/proc/sys/kernel/hostname").or_else(|| std::env::var("HOSTNAME").ok());
    let host = host
        .and_then(word)
        .unwrap_or_else(|| "this host".to_owned());
    Holder {
        // The processes of one running kernel see each other's locks, whatever its name is in them.
        machine: read("/proc/sys/kernel/random/boot_id")
            .and_then(word)
            .unwrap_or_else(|| host.clone()),
        host,
        process: std::process::id(),
    }
}

/// The line that says where checkpoints are kept.
pub(crate) fn storage_line(section: &CheckpointSection, id: &str) -> String {
    let periodic = match section.interval {
        Some(interval) => format!("every {}", humantime::format_duration(interval)),
        None => "none periodically".to_owned(),
    };
    match &section.storage {
        Storage::Memory => {
            format!("checkpoint storage: memory, {periodic}; they end with this process")
        }
        Storage::Filesystem(dir) => {
            let kind = match dir {
                Directory::Path(_) => "filesystem",
                Directory::Remote(remote) => remote.scheme().title(),
            };
            let dir = dir.join(id);
            format!("checkpoint storage: {kind}, {periodic}, in {dir}")
        }
    }
}

/// The line that says where keyed state is kept, if the job or the machine says something of it. `operators` are those
/// that have some, each with the memory for it, if what does not fit goes to disk.
pub(crate) fn state_line(job: &JobSection, operators: &[(&str, Option<u64>)]) -> Option<String> {
    let named = |wanted: &dyn Fn(&Option<u64>) -> bool| {
        let some = operators.iter().filter(|(_, memory)| wanted(memory));
        let names: Vec<String> = some
            .map(|(id, memory)| match memory {
                Some(bytes) => format!("`{id}` ({})", size(*bytes)),
                None => format!("`{id}`"),
            })
            .collect();
        names.join(", ")
    };
    let (on_disk, in_memory) = (named(&Option::is_some), named(&Option::is_none));
    let scratch = job.scratch_dir();
    let spills = format!(
        "in files below {} beyond the memory for each subtask: {on_disk}",
        scratch.display()
    );
    let line = match (job.state_backend?, on_disk.is_empty(), in_memory.is_empty()) {
        (StateBackend::Memory, true, _) => "memory: all keyed state stays there".to_owned(),
        (StateBackend::Memory, false, _) => {
            format!("memory; by `limits.state-memory` {spills}")
        }
        (StateBackend::Disk, true, true) => "disk: no operator has keyed state".to_owned(),
        (StateBackend::Disk, false, true) => format!("disk: {spills}"),
        (StateBackend::Disk, true, false) => {
            format!("disk, but no value state is there to leave memory: {in_memory}")
        }
        (StateBackend::Disk, false, false) => {
            format!("disk: {spills}; in memory, without value state: {in_memory}")
        }
    };
    Some(format!("state backend: {line}"))
}

/// What the user should know before the job runs: outputs that nothing reads, timers that never fire, and settings that
/// switch protection off, of the job file and of the environment. `from` is the checkpoint that it is to start from.
pub(crate) fn warnings(prepared: &Prepared, from: Option<&str>) -> Vec<Event> {
    let job = &prepared.job;
    let in_bucket = matches!(
        job.checkpoint.storage,
        Storage::Filesystem(Directory::Remote(_))
    );
    let mut warnings = Vec::new();
    if in_bucket || from.is_some_and(checkpoint::is_remote) {
        let weakened = weakened(&environment()).into_iter();
        warnings.extend(weakened.map(|it| Event::Warning {
            about: format!("{}=true", it.variable),
            message: it.what.to_owned(),
        }));
    }
    let unread = prepared.unread_outputs().into_iter();
    warnings.extend(unread.map(|(operator, output)| Event::Warning {
        about: format!("operator.{operator}, output `{output}`"),
        message: format!(
            "nothing reads it, so its records are dropped: give them to a sink with `input = \"{operator}.{output}\"`"
        ),
    }));
    let waiting = prepared.timers_without_watermark().into_iter();
    warnings.extend(waiting.map(|(operator, source)| Event::Warning {
        about: format!("source.{source}, without `watermark`"),
        message: format!(
            "it has no end, so timers of event time in `{operator}`, windows among them, never fire: give it \
             `watermark = {{ out-of-orderness = \"10s\" }}`, with how far its records are out of order"
        ),
    }));
    for operator in job.operators.iter().filter(|it| it.limits.trusted) {
        warnings.push(Event::Warning {
            about: format!("operator.{}.limits.trusted=true", operator.node.id),
            message: "nothing stops an endless loop of it, `limits.call-time` included".to_owned(),
        });
    }
    for operator in &job.operators {
        let Some(bytes) = operator
            .limits
            .state_memory
            .filter(|it| *it < LITTLE_STATE_MEMORY)
        else {
            continue;
        };
        warnings.push(Event::Warning {
            about: format!("operator.{}.limits.state-memory={bytes}B", operator.node.id),
            message: format!(
                "that is less than one batch of records may bring, so nearly every key is read from disk: give it \
                 {} or more",
                size(LITTLE_STATE_MEMORY)
            ),
        });
    }
    warnings
}

/// Less memory than this for an operator's state makes the disk the pace of the job.
const LITTLE_STATE_MEMORY: u64 = 1 << 20;

/// The job's id: the name of its directory.
pub(crate) fn job_id(job: &JobFile) -> String {
    job.job.id.clone().unwrap_or_else(|| job.job.name.clone())
}

/// The id of a job whose checkpoints end with this process: two that run at once must not meet in
/// what they write.
pub(crate) fn memory_job_id(job: &JobFile, token: &str) -> String {
    format!("{}-{}", job_id(job), &token[..token.len().min(8)])
}

/// A token for a run that begins: twelve random hex digits.
pub(crate) fn new_token() -> String {
    // The hasher's keys are random in every process, and differ from one call to the next.
    let random = RandomState::new().hash_one(std::process::id());
    format!("{:012x}", random & 0xffff_ffff_ffff)
}

fn strategy(restart: &RestartStrategy) -> Strategy {
    match restart {
        RestartStrategy::None => Strategy::None,
        RestartStrategy::FixedDelay { attempts, delay } => Strategy::FixedDelay {
            attempts: *attempts,
            delay_ms: ms(*delay),
        },
        RestartStrategy::FailureRate {
            max_failures_per_interval,
            failure_rate_interval,
            delay,
        } => Strategy::FailureRate {
            max_failures_per_interval: *max_failures_per_interval,
            interval_ms: ms(*failure_rate_interval),
            delay_ms: ms(*delay),
        },
        RestartStrategy::ExponentialDelay {
            initial_backoff,
            max_backoff,
            backoff_multiplier,
            reset_backoff_threshold,
            jitter_factor,
            attempts_before_reset_backoff,
        } => Strategy::ExponentialDelay {
            initial_backoff_ms: ms(*initial_backoff),
            max_backoff_ms: ms(*max_backoff),
            backoff_multiplier: *backoff_multiplier,
            reset_backoff_threshold_ms: ms(*reset_backoff_threshold),
            jitter_factor: *jitter_factor,
            attempts_before_reset: *attempts_before_reset_backoff,
        },
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// For what must not be zero: "1us" is short, but it is not never.
pub(crate) fn at_least_one_ms(duration: Duration) -> u64 {
    ms(duration).max(1)
}
