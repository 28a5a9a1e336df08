//! Holds `docs/job-file.md` to the code: the same keys, the same names in Flink, the same defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Surroundings;
use super::bad_records::BadRecords;
use super::checkpoint::CheckpointSection;
use super::keys::{self, Key};
use super::restart::RestartStrategy;
use super::tests::{fine, with};

const DOCS: &str = include_str!("../../../docs/job-file.md");

struct Row {
    default: String,
    what: String,
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
        let [key, default, what, flink] = cells.as_slice() else {
            panic!("a row of four cells: {line}")
        };
        let row = Row {
            default: (*default).to_owned(),
            what: (*what).to_owned(),
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
    let sections: [(&str, &[Key]); 11] = [
        ("[job]", keys::JOB),
        ("[checkpoint]", keys::CHECKPOINT),
        ("[restart]", keys::RESTART),
        ("[http]", keys::HTTP),
        ("[[source]]", keys::SOURCE),
        ("[[operator]]", keys::OPERATOR),
        ("limits", keys::LIMITS),
        ("timers", keys::TIMERS),
        ("state.<name>", keys::STATE),
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
    for section in ["[job]", "[checkpoint]", "[restart]"] {
        for (key, row) in &tables[section] {
            // What Flink says for a whole cluster is said of one job, and belongs in its job file alone.
            let taken = |name: &&String| section != "[job]" || keys::from_flink(name).is_some();
            for name in row.flink.iter().filter(|name| *name != "–").filter(taken) {
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
    assert_eq!(checkpoint.lines().count(), 14, "{checkpoint}");
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

/// A value for each key that is not its default, as a line of its section.
const OTHER_VALUES: &[(&str, &[&str])] = &[
    (
        "[job]",
        &[
            "name = \"other\"",
            "parallelism = 3",
            "key-groups = 64",
            "id = \"other\"",
            "scratch-dir = \"scratch\"",
            "state-backend = \"disk\"",
        ],
    ),
    (
        "[checkpoint]",
        &[
            "interval = \"3s\"",
            "mode = \"at-least-once\"",
            "storage = \"memory\"\ndir = \"d\"",
            "dir = \"d\"",
            "savepoint-dir = \"sp\"",
            "lease-timeout = \"3s\"",
            "timeout = \"3s\"",
            "min-pause = \"3s\"",
            "max-concurrent = 3",
            "tolerable-failures = 3",
            "retained = 3",
            "retention = \"retain-on-cancellation\"",
            "retain-on-finish = true",
            "incremental = false",
            "inline-threshold = \"3KiB\"",
            "max-state-size = \"3MiB\"",
            "compression = \"lz4\"",
            "permissions = \"group\"",
        ],
    ),
    (
        "[[source]]",
        &[
            "id = \"other\"",
            "connector = \"stdin\"",
            "parallelism = 3",
            "on-error = \"skip\"",
            "on-error-limit = \"1/s\"\non-error = \"skip\"",
            "dead-letter = \"other\"\non-error = \"dead-letter\"",
        ],
    ),
    (
        "[[operator]]",
        &[
            "id = \"other\"",
            "component = \"other.wasm\"",
            "build = \"true\"",
            "build-dir = \"..\"",
            "input = \"other\"",
            "inputs = [\"other\"]",
            "partition = \"broadcast\"",
            "parallelism = 3",
            "config = { a = 1 }",
            "limits = { memory = \"3MiB\" }",
            "grants = { clock = true }",
            "on-error = \"skip\"",
            "retries = 1\non-error = \"skip\"",
            "on-error-limit = \"1/s\"\non-error = \"skip\"",
            "dead-letter = \"other\"\non-error = \"dead-letter\"",
            "state.count.ttl = \"1h\"",
            "timers = { overdue = \"skip\" }",
        ],
    ),
    ("timers", &["overdue = \"skip\""]),
    (
        "state.<name>",
        &[
            "ttl = \"1h\"",
            "refresh = \"read\", ttl = \"1h\"",
            "time = \"event\", ttl = \"1h\"",
        ],
    ),
    (
        "limits",
        &[
            "memory = \"3MiB\"",
            "recycle-memory = \"3MiB\"",
            "call-time = \"3s\"",
            "call-writes = \"3MiB\"",
            "compile-time = \"3s\"",
            "compile-memory = \"3MiB\"",
            "resources = 30",
            "state = \"3MiB\"",
            "state-memory = \"3MiB\"",
            "trusted = true",
        ],
    ),
    (
        "grants",
        &[
            "env = [\"A\"]",
            "dirs = [{ host = \"a\", guest = \"/a\" }]",
            "network = [\"localhost:1\"]",
            "private-network = [\"localhost:1\"]",
            "clock = true",
            "random = true",
        ],
    ),
    (
        "[[sink]]",
        &[
            "id = \"other\"",
            "connector = \"stdout\"",
            "input = \"other\"",
            "inputs = [\"other\"]",
            "partition = \"rebalance\"",
            "parallelism = 3",
        ],
    ),
];

/// A small job in which one key of one section is set, or none.
fn job_with(heading: &str, line: Option<&str>) -> String {
    let key = line.map(|line| line.split([' ', '.']).next().unwrap_or_default());
    let mut text = String::new();
    for (section, lines) in [
        ("[job]", &["name = \"j\""][..]),
        ("[checkpoint]", &[]),
        (
            "[[source]]",
            &[
                "id = \"s\"",
                "connector = \"file\"",
                "path = \"i\"",
                "format = \"lines\"",
            ],
        ),
        (
            "[[operator]]",
            &[
                "id = \"o\"",
                "component = \"o.wasm\"",
                "input = \"s\"",
                "build = \"cargo\"",
            ],
        ),
        (
            "[[sink]]",
            &["id = \"k\"", "connector = \"discard\"", "input = \"o\""],
        ),
    ] {
        text.push_str(&format!("{section}\n"));
        let here = section == heading;
        for given in lines {
            // A key takes the place of its default, and `inputs` that of `input`.
            let name = given.split(' ').next();
            if !(here && (name == key || (key == Some("inputs") && name == Some("input")))) {
                text.push_str(&format!("{given}\n"));
            }
        }
        match line {
            Some(line) if here => text.push_str(&format!("{line}\n")),
            Some(line) if section == "[[operator]]" && !heading.starts_with('[') => {
                let heading = heading.replace("<name>", "count");
                text.push_str(&format!("{heading} = {{ {line} }}\n"));
            }
            _ => {}
        }
    }
    text
}

/// What the rest of the host gets to know of a job file: all but places and the tables that were read.
fn meaning(job: &super::JobFile) -> String {
    let inputs = |inputs: &Option<super::node::Inputs>| {
        let refs = inputs.iter().flat_map(|inputs| &inputs.refs);
        refs.map(|input| format!("{}.{:?}", input.node, input.port))
            .collect::<Vec<_>>()
    };
    let bad_records = |bad: &Option<BadRecords>| {
        let bad = bad.as_ref();
        bad.map(|bad| {
            let sink = bad.dead_letter.as_ref().map(|(sink, _)| sink.clone());
            (bad.retries, bad.limit.clone(), sink)
        })
    };
    let mut text = format!("{:?} {:?} {:?}", job.job, job.checkpoint, job.restart);
    for source in &job.sources {
        let node = &source.node;
        text += &format!(
            "{} {:?} {:?} {:?}",
            node.id,
            node.parallelism,
            source.connector,
            bad_records(&source.bad_records)
        );
    }
    for operator in &job.operators {
        let node = &operator.node;
        let states = operator.states.iter();
        let states: Vec<_> = states.map(|state| (&state.name, state.ttl)).collect();
        text += &format!(
            "{} {:?} {:?} {:?} {:?} {:?} {:?} {} {:?} {:?} {:?} {:?} {:?}",
            node.id,
            node.parallelism,
            operator.component,
            operator.build,
            operator.build_dir,
            inputs(&operator.inputs),
            operator.partition,
            operator.config,
            operator.limits,
            operator.grants,
            operator.overdue,
            states,
            bad_records(&operator.bad_records)
        );
    }
    for sink in &job.sinks {
        let node = &sink.node;
        text += &format!(
            "{} {:?} {:?} {:?} {:?}",
            node.id,
            node.parallelism,
            sink.connector,
            inputs(&sink.inputs),
            sink.partition
        );
    }
    text
}

/// A key that is read and changes nothing would be accepted without effect; one that is documented as
/// not supported is refused by name.
#[test]
fn c154_every_key_changes_the_job_or_is_refused_by_name() {
    let tables = tables();
    for (heading, lines) in OTHER_VALUES {
        let tried: BTreeSet<&str> = lines
            .iter()
            .filter_map(|line| line.split([' ', '.']).next())
            .collect();
        let documented: BTreeSet<&str> = tables[*heading].keys().map(String::as_str).collect();
        assert_eq!(tried, documented, "keys of {heading}");
        for line in *lines {
            let key = line.split([' ', '.']).next().unwrap_or_default();
            let read = |line: Option<&str>| {
                let mut problems = super::problem::Problems::default();
                let named = super::NamedText {
                    file: "job.toml".into(),
                    base: Path::new("/jobs"),
                    text: &job_with(heading, line),
                };
                let job = super::read(&named, &Surroundings::default(), &mut problems);
                (job.map(|job| meaning(&job)), problems.to_string())
            };
            let (job, problems) = read(Some(line));
            let what = &tables[*heading][key].what;
            if what.contains("ot in this version") {
                assert!(problems.contains(key), "{heading} {line}: {problems}");
                assert!(
                    problems.contains("not supported"),
                    "{heading} {line}: {problems}"
                );
            } else {
                // What is kept in memory would be on disk without the key.
                let (before, _) = read((key == "storage").then_some("dir = \"d\""));
                assert!(
                    job.is_some() || problems.contains("other"),
                    "{heading} {line}: {problems}"
                );
                assert_ne!(job, before, "{heading} {line} changes nothing");
            }
        }
    }
}

/// `docs/limits.md` has every key under `limits`, each with the default that the job file's page gives, and
/// no key that does not exist.
#[test]
fn c168_the_page_of_limits_has_every_key_with_its_default() {
    const PAGE: &str = include_str!("../../../docs/limits.md");
    let rows: Vec<Vec<&str>> = PAGE
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let known = &tables()["limits"];
    let mut documented = BTreeSet::new();
    for row in &rows {
        let [limit, default, key, _, _] = row.as_slice() else {
            panic!("a row of five cells: {row:?}")
        };
        let Some(name) = key.trim_matches('`').strip_prefix("limits.") else {
            continue;
        };
        let of_job_file = &known
            .get(name)
            .unwrap_or_else(|| panic!("there is no key {key}"))
            .default;
        documented.insert(name);
        let same = |text: &str| text.replace([' ', '`', '"'], "");
        let default = same(default);
        let fits = match of_job_file.as_str() {
            "not set" => default == "none",
            "`false`" => true,
            other => default == same(other),
        };
        // A limit that follows another has the least of it and a fixed one.
        assert!(
            fits || limit.contains("at most"),
            "{key}: {default}, {of_job_file}"
        );
    }
    let known: BTreeSet<&str> = known.keys().map(String::as_str).collect();
    assert_eq!(documented, known);
}
