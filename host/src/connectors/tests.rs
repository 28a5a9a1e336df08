use dataflow::port::{Format, Port};
use tempfile::TempDir;

use super::*;

fn clock() -> Clock {
    Arc::new(|| 0)
}

fn source_problems(connector: &str, table: &str) -> Vec<String> {
    let directory = TempDir::new().unwrap();
    let problems = source(connector, table.parse().unwrap(), directory.path(), clock())
        .err()
        .unwrap();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_prepared_source_tells_what_comes_out_of_it() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("a.csv"), "carrier,delay\nAA,1\n").unwrap();
    let table = "path = \"a.csv\"\nformat = \"csv\"\nkey = \"carrier\""
        .parse()
        .unwrap();
    let prepared = source("file", table, directory.path(), clock())
        .ok()
        .unwrap();
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
    let table = "keys = 5".parse().unwrap();
    let prepared = source("generator", table, directory.path(), clock())
        .ok()
        .unwrap();
    assert!(!prepared.bounded);
    assert_eq!(prepared.options["value-size"].as_integer(), Some(16));
    let prepared = source(
        "stdin",
        "format = \"lines\"".parse().unwrap(),
        directory.path(),
        clock(),
    )
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
fn keys_of_later_versions_are_named_as_such() {
    let found = source_problems("generator", "watermark = { out-of-orderness = \"5s\" }");
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("`watermark`: is not supported by this version"),
        "{found:?}"
    );
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
        let context = SinkContext {
            has_checkpoints: true,
            ..SinkContext::default()
        };
        let result = sink(
            connector,
            table.parse().unwrap(),
            directory.path(),
            std::slice::from_ref(&port),
            context,
        );
        result.map_err(|problems| {
            problems
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        })
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
