//! Holds `docs/job-file.md` to the code: the same keys, the same names in Flink, the same defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Surroundings;
use super::checkpoint::CheckpointSection;
use super::keys::{self, Key};
use super::restart::RestartStrategy;
use super::tests::{fine, with};
use crate::connectors;

const DOCS: &str = include_str!("../../../docs/job-file.md");

struct Row {
    default: String,
    flink: Vec<String>,
}

/// The tables of keys, by the heading that they stand under.
fn tables() -> BTreeMap<String, BTreeMap<String, Row>> {
    let mut tables: BTreeMap<String, BTreeMap<String, Row>> = BTreeMap::new();
    let mut heading = String::new();
    let mut inside = false;
    for line in DOCS.lines() {
        if line.starts_with("##") {
            heading = line
                .trim_start_matches('#')
                .trim()
                .trim_matches('`')
                .to_owned();
        }
        inside = line.starts_with("| key | default | what it does, and what it costs | Flink |")
            || (inside && line.starts_with('|'));
        if !inside || !line.starts_with("| `") {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [key, default, _, flink] = cells.as_slice() else {
            panic!("a row of four cells: {line}")
        };
        let row = Row {
            default: (*default).to_owned(),
            flink: flink
                .split(", ")
                .map(|name| name.trim_matches('`').to_owned())
                .collect(),
        };
        tables
            .entry(heading.clone())
            .or_default()
            .insert(key.trim_matches('`').to_owned(), row);
    }
    tables
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let tables = tables();
    let sections: [(&str, &[Key]); 8] = [
        ("[job]", keys::JOB),
        ("[checkpoint]", keys::CHECKPOINT),
        ("[restart]", keys::RESTART),
        ("[[source]]", keys::SOURCE),
        ("[[operator]]", keys::OPERATOR),
        ("limits", keys::LIMITS),
        ("grants", keys::GRANTS),
        ("[[sink]]", keys::SINK),
    ];
    for (heading, known) in sections {
        let documented: BTreeSet<&str> = tables[heading].keys().map(String::as_str).collect();
        let known: BTreeSet<&str> = known.iter().map(|key| key.name).collect();
        assert_eq!(documented, known, "keys of {heading}");
    }
}

#[test]
fn flinks_names_are_those_that_the_global_configuration_takes() {
    let tables = tables();
    let mut documented = BTreeSet::new();
    for section in ["[checkpoint]", "[restart]"] {
        for (key, row) in &tables[section] {
            for name in row.flink.iter().filter(|name| *name != "–") {
                let found = keys::from_flink(name).unwrap_or_else(|| panic!("{name} is unknown"));
                assert_eq!(format!("[{}]", found.section), section);
                assert_eq!(found.key, key);
                documented.insert(name.clone());
            }
        }
    }
    let known: BTreeSet<String> = keys::flink_names().into_iter().collect();
    assert_eq!(documented, known);
}

/// Asks each connector for its keys by a key that none has.
#[test]
fn the_connectors_keys_are_documented() {
    let mut checked = 0;
    for part in DOCS.split("\n### ") {
        let Some((head, text)) = part.split_once('\n') else {
            continue;
        };
        let (role, connector) = match head.split_once(' ') {
            Some((role @ ("source" | "sink"), name)) => (role, name.trim_matches('`')),
            _ => continue,
        };
        let mut table = toml::Table::new();
        table.insert("quite-another-key".into(), 1.into());
        let found = if role == "source" {
            let clock: connectors::Clock = std::sync::Arc::new(|| 0);
            connectors::source(connector, table, Path::new("/"), clock).err()
        } else {
            let context = connectors::SinkContext::default();
            connectors::sink(connector, table, Path::new("/"), &[], context).err()
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
    assert_eq!(checked, connectors::SOURCES.len() + connectors::SINKS.len());
}

/// Writes the documented defaults out, and reads what leaving them out gives.
#[test]
fn defaults_are_as_documented() {
    let tables = tables();
    let explicit = |section: &str, wanted: &dyn Fn(&str) -> bool| {
        tables[section]
            .iter()
            .filter(|(key, row)| {
                wanted(key) && row.default.starts_with('`') && !row.default.contains(' ')
            })
            .map(|(key, row)| format!("{key} = {}\n", row.default.trim_matches('`')))
            .collect::<String>()
    };
    let checkpoint = explicit("[checkpoint]", &|_| true);
    assert_eq!(checkpoint.lines().count(), 13, "{checkpoint}");
    let job = fine(
        &with(&format!("[checkpoint]\n{checkpoint}")),
        &Surroundings::default(),
    );
    assert_eq!(job.checkpoint, CheckpointSection::default());

    for (strategy, parameters) in keys::RESTART_PARAMETERS {
        let head = format!("[restart]\nstrategy = \"{strategy}\"\n");
        let written = explicit("[restart]", &|key| parameters.contains(&key));
        let documented = fine(&with(&format!("{head}{written}")), &Surroundings::default());
        let default = fine(&with(&head), &Surroundings::default());
        assert_eq!(documented.restart, default.restart, "{strategy}");
        if *strategy == "exponential-delay" {
            assert_eq!(
                default.restart,
                RestartStrategy::default_exponential_delay()
            );
        }
    }
}
