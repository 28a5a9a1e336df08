//! Job files as users get them wrong, and the reports: text in, report out.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dataflow::state::{Refresh, Ttl, TtlTime};

use super::checkpoint::{Directory, Mode, Retention, Storage};
use super::wiring::{NodeRef, wire};
use super::*;

const FINE: &str = r#"
[job]
name = "wordcount"

[[source]]
id = "verses"
connector = "file"
path = "input/*.txt"

[[operator]]
id = "split"
component = "split.wasm"
input = "verses"

[[operator]]
id = "count"
component = "count.wasm"
input = "split.words"

[[sink]]
id = "counts"
connector = "file"
input = "count"
path = "out/"
"#;

fn report(text: &str, around: &Surroundings<'_>) -> Problems {
    let mut problems = Problems::default();
    let named = NamedText {
        file: "job.toml".into(),
        base: Path::new("/jobs/wc"),
        text,
    };
    if let Some(job) = read(&named, around, &mut problems) {
        wire(&job, &mut problems);
    }
    problems
}

pub(crate) fn fine(text: &str, around: &Surroundings<'_>) -> JobFile {
    let mut problems = Problems::default();
    let named = NamedText {
        file: "job.toml".into(),
        base: Path::new("/jobs/wc"),
        text,
    };
    let job = read(&named, around, &mut problems).unwrap();
    assert!(problems.is_empty(), "{problems}");
    job
}

#[track_caller]
fn check(text: &str, expected: &str) {
    let problems = report(text, &Surroundings::default());
    assert_eq!(format!("{problems}\n"), expected.trim_start());
}

/// A fine job file with `more` in front of it, whose first line is then line 1.
pub(crate) fn with(more: &str) -> String {
    format!("{more}{FINE}")
}

fn options(overrides: &[&str]) -> Vec<String> {
    overrides.iter().map(|text| (*text).to_owned()).collect()
}

#[track_caller]
fn check_overrides(overrides: &[&str], expected: &str) {
    let overrides = options(overrides);
    let around = Surroundings {
        overrides: &overrides,
        ..Surroundings::default()
    };
    let problems = report(FINE, &around);
    assert_eq!(format!("{problems}\n"), expected.trim_start());
}

#[test]
fn a_fine_job_file_has_its_defaults() {
    let job = fine(FINE, &Surroundings::default());
    assert_eq!(job.job.parallelism, 1);
    assert_eq!(job.checkpoint, CheckpointSection::default());
    assert_eq!(job.restart, RestartStrategy::None);
    let count = &job.operators[1];
    assert_eq!(
        count.component.as_deref(),
        Some(Path::new("/jobs/wc/count.wasm"))
    );
    let input = &count.inputs.as_ref().unwrap().refs[0];
    assert_eq!(
        (input.node.as_str(), input.port.as_deref()),
        ("split", Some("words"))
    );
    assert_eq!(
        job.sinks[0].options.table.keys().collect::<Vec<_>>(),
        ["path"]
    );
}

#[test]
fn with_periodic_checkpoints_a_job_restarts_by_default() {
    let job = fine(
        &with("[checkpoint]\ninterval = \"1s\"\n"),
        &Surroundings::default(),
    );
    assert_eq!(job.restart, RestartStrategy::default_exponential_delay());
    assert_eq!(job.checkpoint.interval, Some(Duration::from_secs(1)));
}

#[test]
fn producers_come_before_their_consumers_and_the_file_decides_the_rest() {
    let text = r#"
[job]
name = "j"
[[source]]
id = "b"
connector = "stdin"
[[source]]
id = "a"
connector = "stdin"
[[operator]]
id = "late"
component = "x.wasm"
inputs = ["early", "a"]
[[operator]]
id = "early"
component = "x.wasm"
input = "b"
[[sink]]
id = "out"
connector = "discard"
input = "late"
"#;
    let job = fine(text, &Surroundings::default());
    let mut problems = Problems::default();
    let wiring = wire(&job, &mut problems);
    assert!(problems.is_empty(), "{problems}");
    assert_eq!(
        wiring.order,
        [
            NodeRef::Source(0),
            NodeRef::Source(1),
            NodeRef::Operator(1),
            NodeRef::Operator(0),
            NodeRef::Sink(0)
        ]
    );
    assert_eq!(wiring.producers[3], [Some(2), Some(1)]);
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    check(
        &with("[checkpoint]\nintervall = \"1s\"\n[checkpoints]\ndir = \"x\"\n").replace(
            "component = \"count.wasm\"",
            "component = \"count.wasm\"\nparalellism = 2",
        ),
        r#"
error: job.toml:2:1: checkpoint.intervall: unknown key
  hint: did you mean `interval`?
error: job.toml:3:2: checkpoints: unknown key
  hint: did you mean `checkpoint`?
error: job.toml:22:1: operator.count.paralellism: unknown key
  hint: did you mean `parallelism`?
"#,
    );
}

#[test]
fn wrong_types_and_values_are_told_all_at_once() {
    check(
        &with(
            r#"[checkpoint]
interval = 5
timeout = "10 parsecs"
min-pause = "7"
max-concurrent = 0
retained = "many"
retain-on-finish = "yes"
inline-threshold = "5 apples"
mode = "exactly-twice"
tolerable-failures = -1
compression = "lz5"
"#,
        ),
        r#"
error: job.toml:2:1: checkpoint.interval: expected a duration such as "10s", found an integer
error: job.toml:3:1: checkpoint.timeout: `10 parsecs` is not a duration, write for example "500ms", "10s", "5min" or "1h"
error: job.toml:4:1: checkpoint.min-pause: `7` has no unit, write for example "7s" or "7ms"
error: job.toml:5:1: checkpoint.max-concurrent: must be at least 1, not 0
error: job.toml:6:1: checkpoint.retained: expected an integer, found a string
error: job.toml:7:1: checkpoint.retain-on-finish: expected `true` or `false`, found a string
error: job.toml:8:1: checkpoint.inline-threshold: `5 apples` is not a size, write for example "20KiB", "64MiB" or "1GiB"
error: job.toml:9:1: checkpoint.mode: `exactly-twice` is not one of its values
  hint: did you mean `exactly-once`?
error: job.toml:10:1: checkpoint.tolerable-failures: must be at least 0, not -1
error: job.toml:11:1: checkpoint.compression: `lz5` is not one of its values
  hint: did you mean `lz4`?
"#,
    );
}

#[test]
fn what_is_not_toml_is_shown_with_its_place() {
    check(
        "[job]\nname = \"x\nparallelism = 2\n[[source]\n",
        r#"
error: job.toml:2:10: this is not TOML: invalid basic string, expected `"`
error: job.toml:4:10: this is not TOML: unclosed array table, expected `]`
"#,
    );
}

#[test]
fn ids_are_unique_and_of_plain_characters() {
    check(
        &FINE
            .replace("id = \"counts\"", "id = \"count\"")
            .replace("id = \"verses\"", "id = \"the verses\""),
        r#"
error: job.toml:6:1: source.the verses.id: `the verses` holds the character ' '
  hint: ids are made of letters, digits, `-` and `_`
error: job.toml:13:1: operator.split.input: there is no source or operator `verses`
  hint: there are `count`, `split`, `the verses`
error: job.toml:21:1: sink.count.id: `count` is already the id of an operator (job.toml:16:1)
  hint: ids address state in checkpoints, each must be unique in its job
"#,
    );
}

#[test]
fn a_cycle_is_named() {
    check(
        &FINE.replace("input = \"verses\"", "inputs = [\"verses\", \"count\"]"),
        r#"
error: job.toml:13:1: operator.split.inputs: the graph has a cycle: split -> count -> split
  hint: records can only flow forward, from sources to sinks
"#,
    );
    check(
        &FINE.replace("input = \"verses\"", "input = \"split\""),
        r#"
error: job.toml:13:1: operator.split.input: the graph has a cycle: split -> split
  hint: records can only flow forward, from sources to sinks
"#,
    );
}

#[test]
fn a_dangling_input_names_the_nearest_node() {
    check(
        &FINE
            .replace("input = \"verses\"", "input = \"verse\"")
            .replace("input = \"count\"", "input = \"counts\""),
        r#"
error: job.toml:13:1: operator.split.input: there is no source or operator `verse`
  hint: did you mean `verses`?
error: job.toml:23:1: sink.counts.input: `counts` is a sink, it has no output
"#,
    );
}

#[test]
fn operators_and_sinks_need_an_input_and_jobs_need_both_ends() {
    check(
        "[job]\nname = \"j\"\n[[operator]]\nid = \"a\"\ncomponent = \"a.wasm\"\n[[sink]]\nid = \"s\"\nconnector = \"discard\"\ninputs = []\n",
        r#"
error: job.toml:1:1: source: a job needs at least one source
  hint: begin one with `[[source]]`
error: job.toml:4:1: operator.a: has no input
  hint: name the source or operator that it reads: `input = "…"`
error: job.toml:9:1: sink.s: nothing feeds this sink
  hint: name the source or operator that it reads: `input = "…"`
"#,
    );
}

#[test]
fn an_empty_file_says_what_a_job_needs() {
    check(
        "",
        r#"
error: job.toml:1:1: job.name: is missing
  hint: for example `name = "word-count"`
error: job.toml:1:1: sink: a job needs at least one sink
  hint: begin one with `[[sink]]`
error: job.toml:1:1: source: a job needs at least one source
  hint: begin one with `[[source]]`
"#,
    );
}

#[test]
fn single_brackets_are_mended() {
    check(
        "[job]\nname = \"j\"\n[source]\nid = \"a\"\n[[sink]]\nid = \"s\"\nconnector = \"discard\"\ninput = \"a\"\n",
        r#"
error: job.toml:3:1: source.a.connector: is missing
  hint: for example `connector = "file"`
error: job.toml:3:2: source: expected a list of tables, found a table
  hint: write `[[source]]` with two brackets
"#,
    );
}

#[test]
fn c03_filesystem_storage_without_a_directory_names_the_key() {
    check(
        &with("[checkpoint]\nstorage = \"filesystem\"\n"),
        r#"
error: job.toml:1:2: checkpoint.dir: is missing: `storage = "filesystem"` needs `checkpoint.dir`
  hint: for example `dir = "checkpoints"`, relative to the job file
"#,
    );
}

#[test]
fn c04_bad_directories_are_refused_where_they_stand() {
    check(
        &with("[checkpoint]\ndir = \"ftp://server/x\"\n"),
        r#"
error: job.toml:2:1: checkpoint.dir: unknown scheme `ftp://`
  hint: use a path, or a `file://`, `s3://`, `az://`, `gs://` or `hdfs://` URL
"#,
    );
    check(
        &with("[checkpoint]\ndir = \"/\"\n"),
        r#"
error: job.toml:2:1: checkpoint.dir: `/` is the root of the file system
  hint: name a directory of its own for checkpoints
"#,
    );
}

#[test]
fn c154_a_place_for_savepoints_is_read_under_all_its_names() {
    let read = |surroundings: &Surroundings<'_>| {
        let directory = fine(FINE, surroundings).checkpoint.savepoint_dir;
        directory.unwrap().to_string()
    };
    for text in [
        "[checkpoint]\nsavepoint-dir = \"/sp\"\n",
        "[state]\nsavepoints.dir = \"/sp\"\n",
        "[execution]\ncheckpointing.savepoint-dir = \"/sp\"\n",
    ] {
        assert_eq!(read(&global(text)), "/sp");
    }
    let overrides = ["state.savepoints.dir=/sp".to_owned()];
    let surroundings = Surroundings {
        overrides: &overrides,
        ..Surroundings::default()
    };
    assert_eq!(read(&surroundings), "/sp");
    check(
        &with("[checkpoint]\nsavepoint-dir = \"/\"\n"),
        r#"
error: job.toml:2:1: checkpoint.savepoint-dir: `/` is the root of the file system
  hint: name a directory of its own for checkpoints
"#,
    );
}

/// The job with more keys in its operator `count`.
fn operator(lines: &str) -> String {
    FINE.replace(
        "component = \"count.wasm\"",
        &format!("component = \"count.wasm\"\n{lines}"),
    )
}

#[test]
fn c91_what_is_said_of_bad_records_is_checked() {
    check(
        &operator("on-error = \"dead-letters\""),
        r#"
error: job.toml:18:1: operator.count.on-error: `dead-letters` is not one of its values
  hint: did you mean `dead-letter`?
"#,
    );
    check(
        &operator("retries = 2\non-error-limit = \"100\"\ndead-letter = \"counts\""),
        r#"
error: job.toml:18:1: operator.count.retries: has no effect, because the job fails at the first bad record
  hint: set `on-error = "skip"` or `"dead-letter"`, or leave it out
error: job.toml:19:1: operator.count.on-error-limit: `100` is not a number in a time
  hint: write how many in which time: `on-error-limit = "100/min"`
error: job.toml:19:1: operator.count.on-error-limit: has no effect, because the job fails at the first bad record
  hint: set `on-error = "skip"` or `"dead-letter"`, or leave it out
error: job.toml:20:1: operator.count.dead-letter: has no effect, because the job fails at the first bad record
  hint: set `on-error = "skip"` or `"dead-letter"`, or leave it out
"#,
    );
    check(
        &operator("on-error = \"skip\"\ndead-letter = \"counts\""),
        r#"
error: job.toml:19:1: operator.count.dead-letter: has no effect with `on-error = "skip"`
  hint: set `on-error = "dead-letter"`, or leave it out
"#,
    );
    check(
        &operator("on-error = \"dead-letter\""),
        r#"
error: job.toml:15:1: operator.count.dead-letter: is missing
  hint: name the sink that gets bad records: `dead-letter = "<sink>"`
"#,
    );
    check(
        &operator("on-error = \"dead-letter\"\ndead-letter = \"countz\""),
        r#"
error: job.toml:19:1: operator.count.dead-letter: there is no sink `countz`
  hint: did you mean `counts`?
"#,
    );
}

#[test]
fn that_nothing_feeds_a_sink_is_not_said_where_the_mistake_is_elsewhere() {
    let job = |on_error: &str, sink: &str| {
        let more = format!("on-error = \"{on_error}\"\ndead-letter = \"{sink}\"");
        operator(&more) + "\n[[sink]]\nid = \"bad\"\nconnector = \"discard\"\n"
    };
    check(
        &job("dead-leter", "bad"),
        r#"
error: job.toml:18:1: operator.count.on-error: `dead-leter` is not one of its values
  hint: did you mean `dead-letter`?
"#,
    );
    check(
        &job("skip", "bad"),
        r#"
error: job.toml:19:1: operator.count.dead-letter: has no effect with `on-error = "skip"`
  hint: set `on-error = "dead-letter"`, or leave it out
"#,
    );
    check(
        &job("dead-letter", "baad"),
        r#"
error: job.toml:19:1: operator.count.dead-letter: there is no sink `baad`
  hint: did you mean `bad`?
"#,
    );
}

#[test]
fn what_is_said_of_states_is_checked() {
    check(
        &FINE.replace(
            "component = \"count.wasm\"",
            r#"component = "count.wasm"
state.a = { tll = "1h" }
state.b = { ttl = "0s" }
state.c = { ttl = 5, refresh = "writ" }
state.d = { ttl = "off", time = "event" }
state.e = "1h"
state.f = { ttl = "10us" }"#,
        ),
        r#"
error: job.toml:18:7: operator.count.state.a.ttl: is missing
  hint: for how long entries live, as in `ttl = "24h"`, or `ttl = "off"`
error: job.toml:18:13: operator.count.state.a.tll: unknown key
  hint: did you mean `ttl`?
error: job.toml:19:13: operator.count.state.b.ttl: must be at least 1ms
error: job.toml:20:13: operator.count.state.c.ttl: expected a duration such as "10s", found an integer
error: job.toml:20:22: operator.count.state.c.refresh: `writ` is not one of its values
  hint: did you mean `write`?
error: job.toml:21:26: operator.count.state.d.time: nothing expires with `ttl = "off"`
error: job.toml:22:7: operator.count.state.e: expected a table, found a string
  hint: keys of it look like `state.e.ttl = "24h"`
error: job.toml:23:13: operator.count.state.f.ttl: must be at least 1ms
"#,
    );
    let text = FINE.replace(
        "component = \"count.wasm\"",
        r#"component = "count.wasm"
state.a = { ttl = "1d 30ms" }
state.b = { ttl = "5s", refresh = "read", time = "event" }
state."c.d" = { ttl = "off" }"#,
    );
    let job = fine(&text, &Surroundings::default());
    let states = job.operators.iter().flat_map(|operator| &operator.states);
    let states: Vec<_> = states
        .map(|state| (state.name.as_str(), state.ttl))
        .collect();
    let expected = [
        (
            "a",
            Some(Ttl {
                millis: 86_400_030,
                refresh: Refresh::Write,
                time: TtlTime::Processing,
            }),
        ),
        (
            "b",
            Some(Ttl {
                millis: 5_000,
                refresh: Refresh::Read,
                time: TtlTime::Event,
            }),
        ),
        ("c.d", None),
    ];
    assert_eq!(states, expected);
}

#[test]
fn limits_and_grants_are_strict_too() {
    check(
        &FINE.replace(
            "component = \"count.wasm\"",
            r#"component = "count.wasm"
build-dir = ".."
limits = { memory = "0", call-tim = "1s" }
grants = { env = "REGION", dirs = [{ host = "m" }, 3], network = [""], clock = 1 }"#,
        ),
        r#"
error: job.toml:18:1: operator.count.build-dir: is set, but `build` is not
error: job.toml:19:12: operator.count.limits.memory: must be more than zero
error: job.toml:19:26: operator.count.limits.call-tim: unknown key
  hint: did you mean `call-time`?
error: job.toml:20:12: operator.count.grants.env: expected an array of strings, found a string
error: job.toml:20:28: operator.count.grants.dirs: expected an array of tables, found an integer
error: job.toml:20:36: operator.count.grants.dirs.guest: is missing
  hint: for example `guest = "/models"`
error: job.toml:20:56: operator.count.grants.network: must not hold empty strings
error: job.toml:20:72: operator.count.grants.clock: expected `true` or `false`, found an integer
"#,
    );
}

#[test]
fn restart_parameters_belong_to_their_strategy() {
    check(
        &with(
            r#"[restart]
strategy = "exponential-delay"
attempts = 3
initial-backoff = "2min"
jitter-factor = 1.5
backoff-multiplier = 0.5
"#,
        ),
        r#"
error: job.toml:3:1: restart.attempts: is a parameter of `fixed-delay`, but the strategy is `exponential-delay`
error: job.toml:4:1: restart.initial-backoff: max-backoff (1m) is shorter than initial-backoff (2m)
error: job.toml:5:1: restart.jitter-factor: must be a number from 0 to 1, not 1.5
error: job.toml:6:1: restart.backoff-multiplier: must be a number of at least 1, not 0.5
"#,
    );
    check(
        &with("[restart]\ndelay = \"1s\"\n"),
        r#"
error: job.toml:1:2: restart.strategy: is missing
  hint: for example `strategy = "exponential-delay"`
"#,
    );
}

#[test]
fn flink_names_are_pointed_to_ours() {
    check(
        &with("state.checkpoints.dir = \"/x\"\n[restart-strategy.fixed-delay]\ndelay = \"1s\"\n"),
        r#"
error: job.toml:1:19: state.checkpoints.dir: is Flink's name, which only the global configuration and -D take
  hint: it is called `checkpoint.dir` in a job file
error: job.toml:3:1: restart-strategy.fixed-delay.delay: is Flink's name, which only the global configuration and -D take
  hint: it is called `restart.delay` in a job file
"#,
    );
}

#[test]
fn options_override_any_key() {
    let overrides = options(&[
        "checkpoint.interval=500ms",
        "checkpoint.dir=cp",
        "operator.count.parallelism=3",
        "operator.count.config.top=5",
        "source.verses.path=other/*.txt",
        "job.name=7",
        "state.checkpoints.num-retained=4",
        "execution.checkpointing.mode=AT_LEAST_ONCE",
    ]);
    let around = Surroundings {
        parallelism: Some(2),
        http: None,
        overrides: &overrides,
        global: None,
    };
    let job = fine(FINE, &around);
    assert_eq!(job.checkpoint.interval, Some(Duration::from_millis(500)));
    assert_eq!(
        job.checkpoint.storage,
        Storage::Filesystem(Directory::Path("/jobs/wc/cp".into()))
    );
    assert_eq!(job.operators[1].node.parallelism, Some(3));
    assert_eq!(job.operators[1].config, serde_json::json!({ "top": 5 }));
    assert_eq!(
        job.sources[0].options.table["path"].as_str(),
        Some("other/*.txt")
    );
    assert_eq!(job.job.name, "7");
    assert_eq!(job.job.parallelism, 2);
    assert_eq!(job.checkpoint.retained, 4);
    assert_eq!(job.checkpoint.mode, Mode::AtLeastOnce);
}

#[test]
fn wrong_options_are_shown_as_they_were_typed() {
    check_overrides(
        &[
            "checkpoint.interval",
            "checkpoint.intervall=1s",
            "checkpoint.interval=soon",
            "operator.cuont.parallelism=2",
            "operator.count=2",
            "job=7",
            "job.name.first=7",
            "jobs.name=x",
            "a b=1",
        ],
        r#"
error: -D a b=1: `a b` is not a key
  hint: keys look like `checkpoint.interval` or `operator.count.parallelism`
error: -D checkpoint.interval: it has no `=`
  hint: options look like `-D checkpoint.interval=500ms`
error: -D checkpoint.interval=soon: checkpoint.interval: `soon` is not a duration, write for example "500ms", "10s", "5min" or "1h"
error: -D checkpoint.intervall=1s: checkpoint.intervall: unknown key
  hint: did you mean `interval`?
error: -D job.name.first=7: job.name.first: `job.name` is not a table
error: -D job=7: job: is a table
  hint: name a key in it: `job.KEY=VALUE`
error: -D jobs.name=x: jobs.name: unknown key
  hint: did you mean `job`?
error: -D operator.count=2: operator.count: is a table
  hint: name a key in it: `operator.count.KEY=VALUE`
error: -D operator.cuont.parallelism=2: operator.cuont.parallelism: there is no operator `cuont`
  hint: did you mean `count`?
"#,
    );
}

#[test]
fn an_option_for_inputs_replaces_the_input_of_the_file() {
    let overrides = options(&["operator.count.inputs=[\"split\", \"verses\"]"]);
    let around = Surroundings {
        overrides: &overrides,
        ..Surroundings::default()
    };
    let job = fine(FINE, &around);
    assert_eq!(job.operators[1].inputs.as_ref().unwrap().refs.len(), 2);
}

#[test]
fn the_effective_job_is_a_job_file_that_means_the_same() {
    let text = with(
        r#"[checkpoint]
interval = "1500ms"
dir = "cp"
inline-threshold = "1000B"
[restart]
strategy = "failure-rate"
"#,
    )
    .replace(
        "component = \"count.wasm\"",
        r#"component = "count.wasm"
build = "make \"count\""
config = { top = 10, since = 2013-01-01T00:00:00Z, "odd key" = [1, { a = 1.5 }] }
grants = { dirs = [{ host = "m", guest = "/m", write = true }], clock = true }
state.seen = { ttl = "36h", refresh = "read", time = "event" }
state."odd name" = { ttl = "off" }"#,
    );
    let settled = |job: &JobFile| {
        let nodes = wire(job, &mut Problems::default()).order.into_iter();
        effective::Settled {
            key_groups: 128,
            nodes: nodes
                .map(|node| effective::SettledNode {
                    node,
                    parallelism: 2,
                    partition: (!matches!(node, NodeRef::Source(_)))
                        .then_some(dataflow::Partition::Hash),
                    options: match node {
                        NodeRef::Source(index) => job.sources[index].options.clone(),
                        NodeRef::Operator(_) => options::Options::default(),
                        NodeRef::Sink(index) => job.sinks[index].options.clone(),
                    },
                })
                .collect(),
        }
    };
    let job = fine(&text, &Surroundings::default());
    let written = effective::to_toml(&job, &settled(&job));
    let again = fine(&written, &Surroundings::default());
    assert_eq!(again.checkpoint, job.checkpoint, "{written}");
    assert_eq!(again.restart, job.restart, "{written}");
    assert_eq!(
        again.operators[1].config, job.operators[1].config,
        "{written}"
    );
    assert_eq!(
        again.operators[1].grants, job.operators[1].grants,
        "{written}"
    );
    let ttls = |job: &JobFile| {
        let states = job.operators[1].states.iter();
        let states: BTreeMap<_, _> = states
            .map(|state| (state.name.clone(), state.ttl))
            .collect();
        states
    };
    assert_eq!(ttls(&again), ttls(&job), "{written}");
    assert_eq!(ttls(&job).len(), 2);
    assert_eq!(effective::to_toml(&again, &settled(&again)), written);
}

const GLOBAL: &str = r#"
[checkpoint]
interval = "10s"
dir = "checkpoints"
[state]
checkpoints.num-retained = 3
[execution.checkpointing]
externalized-checkpoint-retention = "RETAIN_ON_CANCELLATION"
[restart-strategy]
type = "fixeddelay"
fixed-delay.attempts = 5
fixed-delay.delay = "3 s"
failure-rate.delay = "9 s"
"#;

fn global(text: &str) -> Surroundings<'_> {
    Surroundings {
        global: Some(NamedText {
            file: "conf.toml".into(),
            base: Path::new("/etc/highwater"),
            text,
        }),
        ..Surroundings::default()
    }
}

#[test]
fn the_global_configuration_gives_defaults_under_our_names_or_flinks() {
    let job = fine(&with("[checkpoint]\ninterval = \"1s\"\n"), &global(GLOBAL));
    assert_eq!(job.checkpoint.interval, Some(Duration::from_secs(1)));
    assert_eq!(
        job.checkpoint.storage,
        Storage::Filesystem(Directory::Path("/etc/highwater/checkpoints".into()))
    );
    assert_eq!(job.checkpoint.retained, 3);
    assert_eq!(job.checkpoint.retention, Retention::RetainOnCancellation);
    assert_eq!(
        job.restart,
        RestartStrategy::FixedDelay {
            attempts: 5,
            delay: Duration::from_secs(3)
        }
    );
}

#[test]
fn parameters_of_a_global_strategy_are_no_defaults_for_another() {
    let job = fine(
        &with("[restart]\nstrategy = \"failure-rate\"\n"),
        &global(GLOBAL),
    );
    assert_eq!(
        job.restart,
        RestartStrategy::FailureRate {
            max_failures_per_interval: 1,
            failure_rate_interval: Duration::from_secs(60),
            delay: Duration::from_secs(1)
        }
    );
}

#[test]
fn c154_what_flink_says_of_state_and_checkpoints_has_its_effect() {
    let text = r#"
state.checkpoints.dir = "kept"
state.savepoints.dir = "saved"
state.backend.type = "rocksdb"
[execution.checkpointing]
data-inline-threshold = "20 kb"
externalized-checkpoint-retention = "DELETE_ON_CANCELLATION"
storage = "filesystem"
"#;
    let job = fine(FINE, &global(text));
    let under = |path: &str| Directory::Path(format!("/etc/highwater/{path}").into());
    assert_eq!(job.checkpoint.storage, Storage::Filesystem(under("kept")));
    assert_eq!(job.checkpoint.savepoint_dir, Some(under("saved")));
    assert_eq!(job.checkpoint.inline_threshold, 20 << 10);
    assert_eq!(job.checkpoint.retention, Retention::DeleteOnCancellation);
    assert_eq!(job.job.state_backend, Some(StateBackend::Disk));

    let text = "state.backend = \"hashmap\"\nexecution.checkpointing.storage = \"jobmanager\"\nexecution.checkpointing.externalized-checkpoint-retention = \"NO_EXTERNALIZED_CHECKPOINTS\"\n";
    let job = fine(&with(""), &global(text));
    assert_eq!(job.checkpoint.storage, Storage::Memory);
    assert_eq!(job.checkpoint.retention, Retention::NoExternalized);
    assert_eq!(job.job.state_backend, Some(StateBackend::Memory));
    let text = "[job]\nstate-backend = \"disk\"\n";
    let job = fine(&with(""), &global(text));
    assert_eq!(job.job.state_backend, Some(StateBackend::Disk));
}

#[test]
fn c154_other_keys_of_flinks_are_refused_with_what_to_do() {
    let text = "state.backend.type = \"forst\"\nhigh-availability.type = \"zookeeper\"\nhigh-availability.storageDir = \"/ha\"\n\
        state.backend.rocksdb.memory.managed = true\nexecution.checkpointing.unaligned.enabled = true\ncolour = 1\n";
    let problems = report(FINE, &global(text));
    assert_eq!(
        format!("{problems}\n"),
        r#"
error: conf.toml:1:15: job.state-backend: `forst` is not one of its values
  hint: write `memory` (Flink's `hashmap`) or `disk` (Flink's `rocksdb`)
error: conf.toml:2:19: high-availability.type: is a key of Flink's that is not taken here
  hint: leave it out and start the job twice with `host run --standby`: the second one takes over when the first is gone; the lease in `checkpoint.dir` decides who runs, so no other service is needed (docs/standby.md)
error: conf.toml:3:19: high-availability.storageDir: is a key of Flink's that is not taken here
  hint: leave it out: all that a successor needs is in `checkpoint.dir` (Flink's `state.checkpoints.dir`), which the machines share
error: conf.toml:4:30: state.backend.rocksdb.memory.managed: is a key of Flink's that is not taken here
  hint: write `state-backend = "disk"` (Flink's `state.backend.type: rocksdb`), and `limits.state-memory` to operators whose budget should be another
error: conf.toml:5:35: execution.checkpointing.unaligned.enabled: is a key of Flink's that is not taken here
  hint: leave it out: barriers are always aligned, and nothing in flight is part of a checkpoint; `mode = "at-least-once"` waits for no barrier
error: conf.toml:6:1: colour: unknown key
"#
        .trim_start()
    );
}

#[test]
fn a_global_configuration_is_as_strict_as_a_job_file() {
    let text = "[checkpoint]\nintervall = \"1s\"\nretained = 0\n[job]\nname = \"x\"\n[state]\ncheckpoint.dir = \"/x\"\ncheckpoints.num-retained = 2\n";
    let problems = report(FINE, &global(text));
    assert_eq!(
        format!("{problems}\n"),
        r#"
error: conf.toml:2:1: checkpoint.intervall: unknown key
  hint: did you mean `interval`?
error: conf.toml:3:1: checkpoint.retained: must be at least 1, not 0
error: conf.toml:5:1: job.name: belongs in a job file
  hint: it has `job.state-backend`, `[checkpoint]`, `[restart]` and Flink's names for their keys
error: conf.toml:7:12: state.checkpoint.dir: unknown key
  hint: did you mean `state.checkpoints.dir`?
error: conf.toml:8:13: state.checkpoints.num-retained: `checkpoint.retained` is set twice under two names
"#
        .trim_start()
    );
}
