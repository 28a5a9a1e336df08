//! Names of Flink's that are taken nowhere here, each with what to do instead. Somebody who brings a
//! configuration along gets an answer for every key of it, and none is accepted without an effect.

use super::hints::nearest;
use super::keys::flink_names;

/// The message for such a name.
const NOT_TAKEN: &str = "is a key of Flink's that is not taken here";

/// Names and families of names: `state.backend.rocksdb` is also everything below it. The longest one that fits
/// a name counts.
const INSTEAD: &[(&str, &str)] = &[
    (
        "$internal.pipeline.job-id",
        "write `job.id` in the job file",
    ),
    ("akka", ONE_PROCESS),
    ("blob", ONE_PROCESS),
    ("classloader", NO_JVM),
    (
        "cleanup-strategy",
        "leave it out: what a job leaves is removed by its next start, and by `host checkpoints gc`",
    ),
    (
        "client",
        "leave it out: `host savepoint`, `host stop` and the like have options of their own",
    ),
    ("cluster", ONE_PROCESS),
    ("containerized", ONE_PROCESS),
    ("env", NO_JVM),
    (
        "execution",
        "leave it out: see docs/job-file.md for what a job file says of how a job runs",
    ),
    (
        "execution.attached",
        "leave it out: `host run` stays until the job ends, `host serve` runs jobs behind",
    ),
    ("execution.batch", STREAMING),
    (
        "execution.buffer-timeout",
        "leave it out: a batch goes on when it is full, or when nothing more is there to read",
    ),
    (
        "execution.checkpointing.aligned-checkpoint-timeout",
        UNALIGNED,
    ),
    ("execution.checkpointing.alignment-timeout", UNALIGNED),
    (
        "execution.checkpointing.checkpoints-after-tasks-finish",
        "leave it out: checkpoints go on when some sources have ended, always",
    ),
    (
        "execution.checkpointing.cleaner",
        "leave it out: checkpoints that are not kept are removed in the background",
    ),
    (
        "execution.checkpointing.create-subdir",
        "leave it out: each job has a directory of its own in `checkpoint.dir`, named by `job.id`",
    ),
    (
        "execution.checkpointing.file-merging",
        "leave it out: state of at most `checkpoint.inline-threshold` goes into `_metadata`, the rest of a subtask into one file",
    ),
    ("execution.checkpointing.force-unaligned", UNALIGNED),
    (
        "execution.checkpointing.interval-during-backlog",
        "leave it out: `checkpoint.interval` holds all the time, and `host interval` changes it while the job runs",
    ),
    ("execution.checkpointing.local-backup", LOCAL_RECOVERY),
    ("execution.checkpointing.local-copy", LOCAL_RECOVERY),
    (
        "execution.checkpointing.prefer-checkpoint-for-recovery",
        "leave it out: a job goes on from its newest checkpoint, or from the one that `-s` names",
    ),
    (
        "execution.checkpointing.recover-without-channel-state",
        UNALIGNED,
    ),
    ("execution.checkpointing.snapshot-compression", COMPRESSION),
    ("execution.checkpointing.unaligned", UNALIGNED),
    (
        "execution.checkpointing.write-buffer-size",
        "leave it out: the host chooses the size of its writes",
    ),
    (
        "execution.checkpointing.id-of-ignored-in-flight-data",
        UNALIGNED,
    ),
    (
        "execution.checkpointing.checkpoint-id-of-ignored-in-flight-data",
        UNALIGNED,
    ),
    (
        "execution.checkpointing.max-subtasks-per-channel-state-file",
        UNALIGNED,
    ),
    ("execution.runtime-mode", STREAMING),
    ("execution.savepoint", STARTING),
    ("execution.savepoint-restore-mode", STARTING),
    (
        "execution.shutdown-on-attached-exit",
        "leave it out: a job ends with its `host run`",
    ),
    ("execution.state-recovery", STARTING),
    (
        "execution.state-recovery.ignore-unclaimed-state",
        "start with `--allow-non-restored-state`",
    ),
    (
        "execution.savepoint.ignore-unclaimed-state",
        "start with `--allow-non-restored-state`",
    ),
    (
        "execution.target",
        "leave it out: jobs run where `host run` does",
    ),
    (
        "external-resource",
        "leave it out: what a component may reach stands in `grants` of its operator",
    ),
    (
        "fs",
        "write a path, a `file://` or an `s3://` URL wherever a place is named",
    ),
    (
        "heartbeat",
        "write `checkpoint.lease-timeout`: after this long without a sign of life an owner is taken for dead",
    ),
    ("high-availability", STANDBY),
    (
        "high-availability.storageDir",
        "leave it out: all that a successor needs is in `checkpoint.dir` (Flink's `state.checkpoints.dir`), \
      which the machines share",
    ),
    (
        "high-availability.cluster-id",
        "leave it out: `job.id` and `checkpoint.dir` name what a standby waits for",
    ),
    (
        "high-availability.zookeeper.client.session-timeout",
        "write `checkpoint.lease-timeout`: after this long without a sign of \
      life an owner is taken for dead",
    ),
    ("high-availability.zookeeper.client", STANDBY),
    (
        "historyserver",
        "leave it out: `host checkpoints` and the job's event log tell what was",
    ),
    ("io.tmp.dirs", "write `job.scratch-dir` in the job file"),
    ("io", ONE_PROCESS),
    ("jmx", NO_JVM),
    (
        "job-result-store",
        "leave it out: how a job ended is in its directory below `checkpoint.dir`",
    ),
    ("jobmanager", ONE_PROCESS),
    (
        "jobmanager.execution.failover-strategy",
        "leave it out: after a failure the whole job starts again from its newest checkpoint",
    ),
    ("jobstore", ONE_PROCESS),
    ("kubernetes", ONE_PROCESS),
    ("mesos", ONE_PROCESS),
    (
        "metrics",
        "leave it out: metrics come with `host status --json` and with the events of `host run --json`",
    ),
    (
        "parallelism",
        "write `job.parallelism` in the job file, or start with `-p`",
    ),
    ("pekko", ONE_PROCESS),
    (
        "pipeline",
        "leave it out: see docs/job-file.md for what a job file says of sources, operators and sinks",
    ),
    (
        "pipeline.auto-watermark-interval",
        "write `watermark = { interval = … }` to the source in the job file",
    ),
    (
        "pipeline.max-parallelism",
        "write `job.key-groups` in the job file",
    ),
    ("pipeline.name", "write `job.name` in the job file"),
    (
        "pipeline.operator-chaining",
        "leave it out: nodes between which no record has to move share a thread; `partition` of a node changes that",
    ),
    ("plugin", NO_JVM),
    ("process", ONE_PROCESS),
    (
        "python",
        "leave it out: operators are components, see docs/languages.md",
    ),
    (
        "queryable-state",
        "use `host checkpoints export`: state is read from checkpoints",
    ),
    ("resourcemanager", ONE_PROCESS),
    (
        "rest",
        "leave it out: `host serve` and `host run` are asked through a socket that only their user can open",
    ),
    (
        "restart-strategy",
        "write one of the parameters in docs/job-file.md, `[restart]`",
    ),
    (
        "s3",
        "set it in the environment: `AWS_ACCESS_KEY_ID`, `AWS_REGION`, `AWS_ENDPOINT_URL`, … (docs/job-file.md, \
      Checkpoints in S3)",
    ),
    ("scheduler-mode", ONE_PROCESS),
    (
        "security",
        "leave it out: who may read and reach what is in docs/security.md",
    ),
    ("slot", ONE_PROCESS),
    ("slotmanager", ONE_PROCESS),
    ("sql-client", NO_SQL),
    ("sql-gateway", NO_SQL),
    (
        "state",
        "leave it out: state is kept as `job.state-backend` and `limits` of the operators say",
    ),
    (
        "state.backend.async",
        "leave it out: state is always written while the job goes on",
    ),
    (
        "state.backend.changelog",
        "leave it out: `checkpoint.incremental` writes only what changed",
    ),
    ("state.backend.forst", SPILLING),
    ("state.backend.fs", "write `checkpoint.inline-threshold`"),
    (
        "state.backend.fs.checkpointdir",
        "write `checkpoint.dir` (Flink's `state.checkpoints.dir`)",
    ),
    (
        "state.backend.latency-track",
        "leave it out: `host status` tells where time goes",
    ),
    ("state.backend.local-recovery", LOCAL_RECOVERY),
    ("state.backend.ndb", SPILLING),
    ("state.backend.rocksdb", SPILLING),
    (
        "state.changelog",
        "leave it out: `checkpoint.incremental` writes only what changed",
    ),
    (
        "state.checkpoint.cleaner",
        "leave it out: checkpoints that are not kept are removed in the background",
    ),
    (
        "state.checkpoints.create-subdir",
        "leave it out: each job has a directory of its own in `checkpoint.dir`, named by `job.id`",
    ),
    (
        "state.storage.fs.write-buffer-size",
        "leave it out: the host chooses the size of its writes",
    ),
    (
        "state.ttl",
        "write `state.<name> = { ttl = … }` to the operator in the job file",
    ),
    ("table", NO_SQL),
    ("task", ONE_PROCESS),
    (
        "task.cancellation",
        "leave it out: a call of a component is stopped after `limits.call-time`",
    ),
    ("taskmanager", ONE_PROCESS),
    (
        "taskmanager.memory.managed",
        "write `limits.state-memory` to the operator in the job file: memory for keyed state, of each subtask",
    ),
    (
        "taskmanager.memory",
        "write `limits.memory` to the operator in the job file: the component's own memory, of each subtask",
    ),
    (
        "taskmanager.numberOfTaskSlots",
        "write `job.parallelism` in the job file: each subtask is a thread of the one process",
    ),
    ("taskmanager.state.local", LOCAL_RECOVERY),
    (
        "taskmanager.tmp.dirs",
        "write `job.scratch-dir` in the job file",
    ),
    (
        "web",
        "leave it out: `host status` shows a job while it runs",
    ),
    ("yarn", ONE_PROCESS),
    ("zookeeper", STANDBY),
];

const COMPRESSION: &str = "write `checkpoint.compression = \"lz4\"` or `\"zstd\"`";
const LOCAL_RECOVERY: &str = "leave it out: after a failure state is read from `checkpoint.dir`, no copy of it is kept beside";
const NO_JVM: &str =
    "leave it out: there is no Java here; operators are components that run sandboxed";
const NO_SQL: &str = "leave it out: there is no SQL here";
const ONE_PROCESS: &str = "leave it out: a job is one process, without job and task managers; its `limits` stand in the job file";
const SPILLING: &str = "write `state-backend = \"disk\"` (Flink's `state.backend.type: rocksdb`), and \
     `limits.state-memory` to operators whose budget should be another";
const STANDBY: &str = "leave it out and start the job twice with `host run --standby`: the second one takes over when the first is gone; \
     the lease in `checkpoint.dir` decides who runs, so no other service is needed (docs/standby.md)";
const STARTING: &str = "say it at the start: `host run -s CHECKPOINT`, with `--claim-mode`, `--resume`, … (docs/starting.md)";
const STREAMING: &str = "leave it out: every job streams, and one whose sources end ends too";
const UNALIGNED: &str = "leave it out: barriers are always aligned, and nothing in flight is part of a checkpoint; \
     `mode = \"at-least-once\"` waits for no barrier";

/// What is said of a name of Flink's that is not among those that are taken, and what to do instead. `None`: it does
/// not look like one of Flink's.
pub(crate) fn instead(path: &str) -> Option<(&'static str, String)> {
    let fits = |name: &str| {
        let rest = path.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let (name, hint) = INSTEAD
        .iter()
        .filter(|(name, _)| fits(name))
        .max_by_key(|(name, _)| name.len())?;
    // What is only known by its family may as well be a slip of the hand.
    if !name.contains('.')
        && let Some(near) = nearest(path, flink_names().iter().map(String::as_str))
    {
        return Some(("unknown key", format!("did you mean `{near}`?")));
    }
    Some((NOT_TAKEN, (*hint).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::keys::from_flink;
    use super::*;

    #[test]
    fn the_longest_name_that_fits_counts_and_a_slip_is_recognised() {
        let hint = |path: &str| instead(path).unwrap_or_default().1;
        assert!(hint("state.backend.rocksdb.memory.managed").contains("state-backend = \"disk\""));
        assert!(hint("execution.checkpointing.unaligned.enabled").contains("always aligned"));
        assert!(hint("taskmanager.memory.managed.size").contains("`limits.state-memory`"));
        assert!(hint("taskmanager.memory.process.size").contains("`limits.memory`"));
        assert!(hint("high-availability").contains("`host run --standby`"));
        assert!(hint("high-availability.zookeeper.quorum").contains("`host run --standby`"));
        assert!(hint("state.checkpoint.dir").contains("did you mean `state.checkpoints.dir`?"));
        assert_eq!(instead("colour.of.the.house"), None);
        assert_eq!(instead("executions.x"), None);
        assert_eq!(instead("state-backend"), None);
    }

    #[test]
    fn no_name_is_both_taken_and_refused() {
        for (name, hint) in INSTEAD {
            assert_eq!(
                from_flink(name).filter(|key| key.key != "strategy"),
                None,
                "{name}"
            );
            assert!(!hint.is_empty() && !hint.ends_with('.'), "{name}: {hint}");
        }
    }
}
