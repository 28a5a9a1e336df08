//! A job file.
//!
//! Promises: each problem names a line and a column that the file has; what a job file means, written as
//! `host check` shows it, is a job file that means the same.

use std::path::Path;
use std::sync::Arc;

use connectors::{Registry, SourceContext};
use job_file::effective::{Settled, SettledNode, to_toml};
use job_file::options::Options;
use job_file::problem::Problems;
use job_file::wiring::NodeRef;
use job_file::{JobFile, NamedText, Surroundings, read};

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
                partition: None,
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
