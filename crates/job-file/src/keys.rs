//! The keys of the job file: the one table of their names, and of the names that Flink gives them.
//! What is not here is refused; a test holds `docs/job-file.md` to it.

/// A key of a section.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the job file.
    pub name: &'static str,
    /// Flink's names for it, today's first. The global configuration and `-D` accept them.
    pub flink: &'static [&'static str],
}

const fn key(name: &'static str) -> Key {
    Key { name, flink: &[] }
}

const fn flink(name: &'static str, flink: &'static [&'static str]) -> Key {
    Key { name, flink }
}

/// The tables at the top of a job file.
pub const TOP: &[Key] = &[
    key("job"),
    key("checkpoint"),
    key("restart"),
    key("http"),
    key("source"),
    key("operator"),
    key("sink"),
];

/// `[job]`.
pub const JOB: &[Key] = &[
    key("name"),
    key("parallelism"),
    key("key-groups"),
    key("id"),
    key("scratch-dir"),
    flink("state-backend", &["state.backend.type", "state.backend"]),
];

/// `[checkpoint]`.
pub const CHECKPOINT: &[Key] = &[
    flink("interval", &["execution.checkpointing.interval"]),
    flink("mode", &["execution.checkpointing.mode"]),
    flink(
        "storage",
        &[
            "execution.checkpointing.storage",
            "state.checkpoint-storage",
        ],
    ),
    flink(
        "dir",
        &["execution.checkpointing.dir", "state.checkpoints.dir"],
    ),
    flink(
        "savepoint-dir",
        &[
            "execution.checkpointing.savepoint-dir",
            "state.savepoints.dir",
        ],
    ),
    key("lease-timeout"),
    flink("timeout", &["execution.checkpointing.timeout"]),
    flink("min-pause", &["execution.checkpointing.min-pause"]),
    flink(
        "max-concurrent",
        &["execution.checkpointing.max-concurrent-checkpoints"],
    ),
    flink(
        "tolerable-failures",
        &["execution.checkpointing.tolerable-failed-checkpoints"],
    ),
    flink(
        "retained",
        &[
            "execution.checkpointing.num-retained",
            "state.checkpoints.num-retained",
        ],
    ),
    flink(
        "retention",
        &["execution.checkpointing.externalized-checkpoint-retention"],
    ),
    key("retain-on-finish"),
    flink(
        "incremental",
        &[
            "execution.checkpointing.incremental",
            "state.backend.incremental",
        ],
    ),
    flink(
        "inline-threshold",
        &[
            "execution.checkpointing.data-inline-threshold",
            "state.storage.fs.memory-threshold",
        ],
    ),
    key("max-state-size"),
    key("compression"),
    key("permissions"),
];

/// `[http]`.
pub const HTTP: &[Key] = &[
    key("address"),
    key("token-file"),
    key("certificate"),
    key("certificate-key"),
    key("hosts"),
    key("read-only"),
    key("savepoint-dirs"),
];

/// `[restart]`. In Flink the parameters carry the name of their strategy: see [`RESTART_PARAMETERS`].
pub const RESTART: &[Key] = &[
    flink("strategy", &["restart-strategy.type", "restart-strategy"]),
    key("attempts"),
    key("delay"),
    key("max-failures-per-interval"),
    key("failure-rate-interval"),
    key("initial-backoff"),
    key("max-backoff"),
    key("backoff-multiplier"),
    key("reset-backoff-threshold"),
    key("jitter-factor"),
    key("attempts-before-reset-backoff"),
];

/// The parameters of each restart strategy. Flink calls them
/// `restart-strategy.<strategy>.<parameter>`.
pub const RESTART_PARAMETERS: &[(&str, &[&str])] = &[
    ("none", &[]),
    ("fixed-delay", &["attempts", "delay"]),
    (
        "failure-rate",
        &[
            "max-failures-per-interval",
            "failure-rate-interval",
            "delay",
        ],
    ),
    (
        "exponential-delay",
        &[
            "initial-backoff",
            "max-backoff",
            "backoff-multiplier",
            "reset-backoff-threshold",
            "jitter-factor",
            "attempts-before-reset-backoff",
        ],
    ),
];

/// `[[source]]`; the rest of its keys are its connector's.
pub const SOURCE: &[Key] = &[
    key("id"),
    key("connector"),
    key("parallelism"),
    key("on-error"),
    key("on-error-limit"),
    key("dead-letter"),
];

/// `[[operator]]`.
pub const OPERATOR: &[Key] = &[
    key("id"),
    key("component"),
    key("build"),
    key("build-dir"),
    key("input"),
    key("inputs"),
    key("partition"),
    key("parallelism"),
    key("config"),
    key("limits"),
    key("grants"),
    key("on-error"),
    key("retries"),
    key("on-error-limit"),
    key("dead-letter"),
    key("state"),
    key("timers"),
];

/// `timers` of an operator.
pub const TIMERS: &[Key] = &[key("overdue")];

/// `limits` of an operator.
pub const LIMITS: &[Key] = &[
    key("memory"),
    key("recycle-memory"),
    key("call-time"),
    key("call-writes"),
    key("compile-time"),
    key("compile-memory"),
    key("resources"),
    key("state"),
    key("state-memory"),
    key("trusted"),
];

/// `grants` of an operator.
pub const GRANTS: &[Key] = &[
    key("env"),
    key("dirs"),
    key("network"),
    key("private-network"),
    key("clock"),
    key("random"),
];

/// An entry of `grants.dirs`.
pub const GRANTED_DIR: &[Key] = &[key("host"), key("guest"), key("write")];

/// `state.<name>` of an operator.
pub const STATE: &[Key] = &[key("ttl"), key("refresh"), key("time")];

/// `[[sink]]`; the rest of its keys are its connector's.
pub const SINK: &[Key] = &[
    key("id"),
    key("connector"),
    key("input"),
    key("inputs"),
    key("partition"),
    key("parallelism"),
];

/// What a Flink name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromFlink {
    /// `job`, `checkpoint` or `restart`.
    pub section: &'static str,
    /// The key in it.
    pub key: &'static str,
    /// The restart strategy that it is a parameter of.
    pub strategy: Option<&'static str>,
}

/// The sections with keys that have a name of Flink's.
const SECTIONS: [(&str, &[Key]); 3] = [
    ("job", JOB),
    ("checkpoint", CHECKPOINT),
    ("restart", RESTART),
];

/// Looks up one of Flink's names.
pub fn from_flink(name: &str) -> Option<FromFlink> {
    for (section, keys) in SECTIONS {
        if let Some(key) = keys.iter().find(|key| key.flink.contains(&name)) {
            return Some(FromFlink {
                section,
                key: key.name,
                strategy: None,
            });
        }
    }
    let (strategy, parameter) = name.strip_prefix("restart-strategy.")?.split_once('.')?;
    let (strategy, parameters) = RESTART_PARAMETERS.iter().find(|(s, _)| *s == strategy)?;
    let key = parameters.iter().find(|p| **p == parameter)?;
    Some(FromFlink {
        section: "restart",
        key,
        strategy: Some(strategy),
    })
}

/// All of Flink's names that have a meaning here.
pub fn flink_names() -> Vec<String> {
    let keys = SECTIONS.iter().flat_map(|(_, keys)| *keys);
    let plain = keys.flat_map(|key| key.flink);
    let parameters = RESTART_PARAMETERS.iter().flat_map(|(strategy, keys)| {
        keys.iter()
            .map(move |key| format!("restart-strategy.{strategy}.{key}"))
    });
    plain
        .map(|name| (*name).to_owned())
        .chain(parameters)
        .collect()
}

/// A size as Flink writes it: its `kb`, `mb` and `gb` are powers of 1024, and a number alone is bytes.
fn size_from_flink(value: &str) -> String {
    let plain = value.trim().to_lowercase();
    let number = plain.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &plain[number.len()..] {
        "k" | "kb" | "kibibytes" => "KiB",
        "m" | "mb" | "mebibytes" => "MiB",
        "g" | "gb" | "gibibytes" => "GiB",
        "bytes" => "B",
        _ => return value.to_owned(),
    };
    format!("{}{unit}", number.trim_end())
}

/// A value as Flink writes it, in our words: `EXACTLY_ONCE`, `jobmanager`, `fixeddelay`.
pub fn value_from_flink(key: &FromFlink, value: &str) -> String {
    let plain = value.to_lowercase().replace('_', "-");
    match (key.key, plain.as_str()) {
        ("storage", "jobmanager") => "memory".to_owned(),
        ("state-backend", "hashmap") => "memory".to_owned(),
        ("state-backend", "rocksdb") => "disk".to_owned(),
        ("inline-threshold", _) => size_from_flink(value),
        ("strategy", "off" | "disable" | "disabled") => "none".to_owned(),
        ("strategy", "fixeddelay") => "fixed-delay".to_owned(),
        ("strategy", "failurerate") => "failure-rate".to_owned(),
        ("strategy", "exponentialdelay") => "exponential-delay".to_owned(),
        ("mode" | "retention" | "storage" | "strategy", _) => plain,
        _ => value.to_owned(),
    }
}
