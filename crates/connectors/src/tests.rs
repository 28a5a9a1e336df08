//! The registry, and what all connectors have in common.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use checkpoint::storage::Permissions;
use dataflow::port::{Format, Port};
use job_file::problem::{Problem, brief};
use tempfile::TempDir;

use super::*;

fn source(connector: &str, options: &str, base_dir: &Path) -> Result<PreparedSource, Vec<Problem>> {
    let context = SourceContext {
        base_dir,
        clock: Arc::new(|| 0),
    };
    Registry::default().source(connector, options.parse().unwrap(), &context)
}

fn sink(
    connector: &str,
    options: &str,
    base_dir: &Path,
    input_ports: &[Port],
) -> Result<PreparedSink, Vec<Problem>> {
    let context = SinkContext {
        base_dir,
        input_ports,
        has_checkpoints: true,
        permissions: Permissions::default(),
        has_rows_of_sources: false,
    };
    Registry::default().sink(connector, options.parse().unwrap(), &context)
}

fn source_problems(connector: &str, table: &str) -> Vec<String> {
    let directory = TempDir::new().unwrap();
    let problems = source(connector, table, directory.path()).err().unwrap();
    problems.iter().map(brief).collect()
}

#[test]
fn a_prepared_source_tells_what_comes_out_of_it() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("a.csv"), "carrier,delay\nAA,1\n").unwrap();
    let table = "path = \"a.csv\"\nformat = \"csv\"\nkey = \"carrier\"";
    let prepared = source("file", table, directory.path()).ok().unwrap();
    assert!(prepared.bounded && prepared.port.keyed);
    assert_eq!(prepared.port.key_columns[0].name, "carrier");
    let Format::Row(columns) = prepared.port.format else {
        panic!("CSV makes rows")
    };
    assert_eq!(
        columns
            .iter()
            .map(|column| column.name.as_str())
            .collect::<Vec<_>>(),
        ["carrier", "delay"]
    );
    let prepared = source("generator", "keys = 5", directory.path())
        .ok()
        .unwrap();
    assert!(!prepared.bounded);
    let shown = "seed = 0\nkeys = 5\nkey-prefix = \"k\"\nvalue-size = 16\ndistribution = \"uniform\"\nchanged = \"refuse\"";
    assert_eq!(prepared.options, shown.parse().unwrap());
    let prepared = source("stdin", "format = \"lines\"", directory.path())
        .ok()
        .unwrap();
    assert_eq!(
        (prepared.bounded, prepared.max_parallelism),
        (false, Some(1))
    );
}

#[test]
fn unknown_connectors_and_keys_get_a_hint() {
    assert_eq!(
        source_problems("kafka", ""),
        ["`connector`: there is no source `kafka`; hint: use one of `file`, `generator`, `stdin`"]
    );
    assert_eq!(
        source_problems("fiel", ""),
        ["`connector`: there is no source `fiel`; hint: did you mean `file`?"]
    );
    assert!(source_problems("discard", "")[0].contains("`discard` is a sink, not a source"));
    let found = source_problems("generator", "keyz = 5\ncount = \"many\"\nrate = -1.0");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found[1].contains("did you mean `keys`?") || found[0].contains("did you mean `keys`?"),
        "{found:?}"
    );
    assert!(found[2].starts_with("`rate`"), "{found:?}");
}

#[test]
fn a_key_of_the_wrong_type_is_not_also_called_missing() {
    let found = source_problems("file", "path = 3\nformat = \"txt\"");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        !found.iter().any(|problem| problem.contains("is required")),
        "{found:?}"
    );
}

#[test]
fn sinks_are_checked_against_their_inputs() {
    let directory = TempDir::new().unwrap();
    let port = Port {
        name: "out".to_owned(),
        keyed: true,
        key_columns: Vec::new(),
        format: Format::Bytes,
    };
    let prepare = |connector: &str, table: &str| {
        let result = sink(
            connector,
            table,
            directory.path(),
            std::slice::from_ref(&port),
        );
        result.map_err(|problems| problems.iter().map(brief).collect::<Vec<_>>().join("\n"))
    };
    assert!(
        prepare("stdout", "format = \"csv\"")
            .err()
            .unwrap()
            .contains("write them as `lines`")
    );
    assert!(
        prepare("file", "path = \"out\"\nformat = \"json-lines\"")
            .err()
            .unwrap()
            .contains("write them as `lines`")
    );
    assert!(
        prepare("discard", "format = \"csv\"")
            .err()
            .unwrap()
            .contains("`format`: unknown key")
    );
    assert!(prepare("discard", "").is_ok());
    assert!(prepare("stdout", "format = \"lines\"\ndelivery = \"immediate\"").is_ok());
    assert!(
        prepare("stdin", "")
            .err()
            .unwrap()
            .contains("`stdin` is a source, not a sink")
    );
}

/// Asks each connector for its keys by a key that none has.
#[test]
fn the_connectors_keys_are_documented() {
    const DOCS: &str = include_str!("../../../docs/job-file.md");
    let mut checked = 0;
    for part in DOCS.split("\n### ") {
        let Some((head, text)) = part.split_once('\n') else {
            continue;
        };
        let (role, connector) = match head.split_once(' ') {
            Some((role @ ("source" | "sink"), name)) => (role, name.trim_matches('`')),
            _ => continue,
        };
        let found = if role == "source" {
            source(connector, "quite-another-key = 1", Path::new("/")).err()
        } else {
            sink(connector, "quite-another-key = 1", Path::new("/"), &[]).err()
        };
        let hint = found
            .into_iter()
            .flatten()
            .find(|problem| problem.key == "quite-another-key")
            .and_then(|problem| problem.hint)
            .unwrap_or_default();
        let known: BTreeSet<&str> = hint.split('`').skip(1).step_by(2).collect();
        let documented: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert_eq!(documented, known, "keys of {head}");
        checked += 1;
    }
    let registry = Registry::default();
    let known = registry.source_names().len() + registry.sink_names().len();
    assert_eq!(checked, known);
}

/// A connector that is not ours, and one that takes the place of ours.
#[test]
fn connectors_can_be_added() {
    fn refuse(
        _: job_file::options::Options,
        _: &SourceContext<'_>,
    ) -> Result<PreparedSource, Vec<Problem>> {
        Err(vec![Problem::new("path", "is not for you")])
    }
    let connector = |name| SourceConnector {
        name,
        prepare: refuse,
    };
    let registry = Registry::default()
        .with_source(connector("queue"))
        .with_source(connector("file"));
    assert_eq!(
        registry.source_names(),
        ["generator", "stdin", "queue", "file"]
    );
    for name in ["queue", "file"] {
        let context = SourceContext {
            base_dir: Path::new("/"),
            clock: Arc::new(|| 0),
        };
        let found = registry
            .source(name, "".parse().unwrap(), &context)
            .err()
            .unwrap();
        assert_eq!(found, [Problem::new("path", "is not for you")]);
    }
}
