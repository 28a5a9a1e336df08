//! A job file.
//!
//! Oracles:
//!
//! - Each problem names a line and a column that the file has.
//! - Problems do not hide each other: with an unknown key more in each section that takes no others, and an
//!   unknown table at the end, there are the same problems and one for each of them, at its line.
//! - What is accepted means what the plain reader of TOML finds in it: each key comes back in the form that
//!   `host check` shows, with the same number, text, list, duration or size.
//! - That form is a job file that means the same.

use std::path::Path;
use std::sync::Arc;

use connectors::{Registry, SourceContext};
use job_file::effective::{Settled, SettledNode, to_toml};
use job_file::options::Options;
use job_file::problem::Problems;
use job_file::wiring::NodeRef;
use job_file::{JobFile, NamedText, Surroundings, read};
use toml::Value;

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "job-file",
    run,
    words: &[
        b"[job]\n",
        b"[checkpoint]\n",
        b"[restart]\n",
        b"[[source]]\n",
        b"[[operator]]\n",
        b"[[sink]]\n",
        b"name = ",
        b"id = ",
        b"connector = ",
        b"\"generator\"",
        b"\"stdin\"",
        b"\"stdout\"",
        b"\"discard\"",
        b"input = ",
        b"inputs = [",
        b"component = ",
        b"parallelism = ",
        b"key-groups = ",
        b"interval = ",
        b"\"10s\"",
        b"\"1ms\"",
        b"\"64MiB\"",
        b"mode = ",
        b"strategy = ",
        b"\"exponential-delay\"",
        b"\"failure-rate\"",
        b"\"fixed-delay\"",
        b"backoff-multiplier = ",
        b"jitter-factor = ",
        b"storage = ",
        b"\"filesystem\"",
        b"\"memory\"",
        b"dir = ",
        b"\"s3://b/a\"",
        b"retained = ",
        b"compression = ",
        b"config = {",
        b"grants = {",
        b"limits = {",
        b"env = [",
        b"network = [",
        b"format = ",
        b"\"csv\"",
        b"\"json-lines\"",
        b"timestamp = {",
        b"partition = ",
        b"build = ",
        b"attempts = ",
        b"delay = ",
        b"inf",
        b"nan",
        b"-1",
        b"1e400",
        b"'''",
        b"\"\"\"",
        b"\\u0000",
        b"\\U0001F600",
        b"\xc3\xa9",
        b"# ",
        b"true",
        b"1979-05-27T07:32:00Z",
        b"\r\n",
        b"\t",
        b"[[[[",
        b"]",
        b"}",
        b"= ",
        b"\n",
        b"a.b.c = ",
        b"watermark = ",
    ],
    bytes_max: 4 << 10,
    memory_max: 64 << 20,
};

fn parse(text: &str) -> (Option<JobFile>, Problems) {
    let mut problems = Problems::default();
    let named = NamedText {
        file: Arc::from("job.toml"),
        base: Path::new("/base"),
        text,
    };
    let job = read(&named, &Surroundings::default(), &mut problems);
    (job, problems)
}

fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (job, problems) = parse(text);
    // As a user sees them: a line for each, and one for its hint.
    let lines: Vec<&str> = text.split('\n').collect();
    for said in problems.to_string().lines() {
        assert!(!said.contains(char::is_control), "{said:?}");
        if said.starts_with("  hint: ") || said.is_empty() {
            continue;
        }
        let place: Option<(usize, usize)> =
            said.strip_prefix("error: job.toml:").and_then(|rest| {
                let mut numbers = rest.splitn(3, ':');
                Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
            });
        let Some((line, column)) = place else {
            panic!("a problem without a place in the file: {said}");
        };
        // The place after the last character is one.
        let found = line.checked_sub(1).and_then(|line| lines.get(line));
        let found = found.unwrap_or_else(|| panic!("there is no such line: {said}"));
        let columns = 1..=found.chars().count() + 1;
        assert!(columns.contains(&column), "there is no such column: {said}");
    }
    if job.is_some() {
        all_at_once(text, &problems);
    }
    let Some(job) = job.filter(|_| problems.is_empty()) else {
        return;
    };
    let shown = to_toml(&job, &settled(&job));
    let (again, problems) = parse(&shown);
    assert!(
        problems.is_empty(),
        "what it means is no job file:\n{problems}\n{shown}"
    );
    let again = again.expect("there are no problems");
    let [said, means]: [Value; 2] =
        [text, &shown].map(|text| toml::from_str(text).expect("it was read"));
    if let Some(what) = lost(&said, Some(&means), "") {
        panic!("{what}\n{shown}");
    }
    let plain = |job: &JobFile| {
        let grants = job.operators.iter().map(|it| it.grants.clone());
        (
            (job.checkpoint.clone(), job.restart.clone()),
            (
                job.job.name.clone(),
                job.job.parallelism,
                job.job.scratch_dir.clone(),
            ),
            grants.collect::<Vec<_>>(),
        )
    };
    assert_eq!(
        plain(&again),
        plain(&job),
        "it means something else when it is read again"
    );
    assert_eq!(
        to_toml(&again, &settled(&again)),
        shown,
        "it means something else when it is read again"
    );
}

/// The messages, without the places, sorted.
fn messages(problems: &Problems) -> Vec<String> {
    let text = problems.to_string();
    let mut messages: Vec<String> = text
        .lines()
        .filter_map(|said| said.strip_prefix("error: job.toml:"))
        .filter_map(|said| said.splitn(3, ':').nth(2).map(str::to_owned))
        .collect();
    messages.sort();
    messages
}

/// Puts unknown keys beside what there is: each is a problem, and all others stay.
fn all_at_once(text: &str, problems: &Problems) {
    const UNKNOWN: &str = "zz-unknown";
    let closed = ["[job]", "[checkpoint]", "[restart]", "[[operator]]"];
    let Ok(before) = toml::from_str::<Value>(text) else {
        return;
    };
    if text.contains(UNKNOWN) {
        return;
    }
    let mut changed = String::new();
    let mut at = Vec::new();
    let mut number = 0;
    for line in text.split_inclusive('\n') {
        number += 1;
        changed.push_str(line);
        if line.ends_with('\n') && closed.contains(&line.trim()) {
            number += 1;
            at.push(number);
            changed.push_str("zz-unknown = 1\n");
        }
    }
    // What looks like a section may be in a text.
    let keys = |value: &Value| {
        let tables = |name: &str| value.get(name).into_iter();
        let operators = tables("operator").filter_map(Value::as_array).flatten();
        let sections = ["job", "checkpoint", "restart"]
            .into_iter()
            .flat_map(tables);
        let mut closed = operators.chain(sections);
        closed
            .by_ref()
            .filter(|it| it.get(UNKNOWN).is_some())
            .count()
    };
    let is_meant = toml::from_str::<Value>(&changed).is_ok_and(|after| keys(&after) == at.len());
    if !is_meant || keys(&before) > 0 {
        return;
    }
    if !text.is_empty() && !text.ends_with('\n') {
        changed.push('\n');
    }
    at.push(number + 1);
    changed.push_str("[zz-unknown]\n");
    let (_, after) = parse(&changed);
    let said = after.to_string();
    for line in &at {
        let place = format!("error: job.toml:{line}:");
        let mut lines = said.lines();
        let found = lines.any(|said| said.starts_with(&place) && said.contains(UNKNOWN));
        assert!(
            found,
            "an unknown key in line {line} is not a problem:\n{said}\n{changed}"
        );
    }
    let mut left = messages(&after);
    for message in messages(problems) {
        match left.iter().position(|it| *it == message) {
            Some(at) => drop(left.remove(at)),
            None => panic!("a problem is hidden by another: {message}\n{changed}"),
        }
    }
    assert_eq!(
        left.len(),
        at.len(),
        "there are more problems: {left:?}\n{changed}"
    );
}

/// What a file says and what it means lacks or has otherwise.
fn lost(said: &Value, means: Option<&Value>, path: &str) -> Option<String> {
    let Some(means) = means else {
        return Some(format!("`{path}` is lost"));
    };
    match (said, means) {
        (Value::Table(said), Value::Table(means)) => said.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            let one_input = Value::Array(means.get("input").cloned().into_iter().collect());
            match key.as_str() {
                // Are from the root there.
                "dir" | "scratch-dir" | "component" | "build-dir" | "host" => {
                    let there = means.contains_key(key);
                    (!there).then(|| format!("`{path}` is lost"))
                }
                // Nothing that may be in it is supported.
                "state" if path == ".operator.state" => None,
                "inputs" if !means.contains_key("inputs") => lost(value, Some(&one_input), &path),
                key => lost(value, means.get(key), &path),
            }
        }),
        (Value::Array(said), Value::Array(means)) if said.len() == means.len() => {
            let mut pairs = said.iter().zip(means);
            pairs.find_map(|(said, means)| lost(said, Some(means), path))
        }
        (said, means) if is_same(said, means) => None,
        (said, means) => Some(format!("`{path}` is {said}, but means {means}")),
    }
}

fn is_same(said: &Value, means: &Value) -> bool {
    match (said, means) {
        (Value::Integer(said), Value::Float(means)) => *said as f64 == *means,
        (Value::Float(said), Value::Float(means)) => said == means || said.is_nan(),
        (Value::String(said), Value::String(means)) => {
            let durations = [said, means].map(|it| match it.trim() {
                "0" => Some(std::time::Duration::ZERO),
                text => humantime::parse_duration(text).ok(),
            });
            let sizes = [said, means].map(|it| size(it));
            let both = |same: bool, is_one: bool| same && is_one;
            said == means
                || both(durations[0] == durations[1], durations[0].is_some())
                || both(sizes[0] == sizes[1], sizes[0].is_some())
                || (said.contains('.') && sizes[1].is_some())
        }
        (said, means) => said == means,
    }
}

/// A size without a fraction.
fn size(text: &str) -> Option<u128> {
    let text = text.trim().to_ascii_lowercase();
    let unit = text.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let number: u128 = text[..text.len() - unit.len()].parse().ok()?;
    let units = ["kb", "mb", "gb", "tb"].iter().zip(1..);
    let binary = ["kib", "mib", "gib", "tib"].iter().zip(1..);
    let unit = unit.trim_start();
    let decimal = units.map(|(name, power)| (*name, 1000_u128.pow(power)));
    let binary = binary.map(|(name, power)| (*name, 1024_u128.pow(power)));
    let mut all = [("", 1), ("b", 1)].into_iter().chain(decimal).chain(binary);
    let (_, factor) = all.find(|(name, _)| *name == unit)?;
    Some(number * factor)
}

/// As the host settles it, without files and components.
fn settled(job: &JobFile) -> Settled {
    let sources = (0..job.sources.len()).map(NodeRef::Source);
    let operators = (0..job.operators.len()).map(NodeRef::Operator);
    let sinks = (0..job.sinks.len()).map(NodeRef::Sink);
    let nodes = sources.chain(operators).chain(sinks);
    Settled {
        key_groups: job.job.key_groups.map_or(128, dataflow::KeyGroups::count),
        nodes: nodes
            .map(|node| SettledNode {
                node,
                parallelism: node.node(job).parallelism.unwrap_or(job.job.parallelism),
                partition: match node {
                    NodeRef::Source(_) => None,
                    NodeRef::Operator(index) => job.operators[index].partition,
                    NodeRef::Sink(index) => job.sinks[index].partition,
                },
                options: options(job, node),
            })
            .collect(),
    }
}

/// The options with their defaults, where finding them opens no file.
fn options(job: &JobFile, node: NodeRef) -> Options {
    match node {
        NodeRef::Source(index) => {
            let source = &job.sources[index];
            let options = source.options.clone();
            match source.connector.as_deref() {
                Some(connector @ ("generator" | "stdin")) => {
                    let context = SourceContext {
                        base_dir: &job.base,
                        clock: Arc::new(|| 0),
                    };
                    let prepared = Registry::default().source(connector, options.clone(), &context);
                    prepared.map_or(options, |source| source.options)
                }
                _ => options,
            }
        }
        NodeRef::Sink(index) => job.sinks[index].options.clone(),
        NodeRef::Operator(index) => {
            let limits = job.operators[index].node.table.get("limits");
            limits
                .and_then(|limits| limits.item.value.to_toml().as_table().cloned())
                .unwrap_or_default()
                .into()
        }
    }
}
