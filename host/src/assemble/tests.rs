//! Graphs as users get them wrong, judged by what their nodes declare.

use std::path::Path;

use dataflow::Partition;
use dataflow::port::Format;
use job_file::{NamedText, Surroundings};

use super::*;

fn port(name: &str, keyed: bool) -> Port {
    Port {
        name: name.into(),
        keyed,
        key_columns: Vec::new(),
        format: Format::Text,
    }
}

/// What the nodes of the tests declare, by the first letter of their id: a `k…` keeps state per key,
/// a `j…` joins two inputs, a `u…` gives records no key, an `o…` can only have one subtask.
fn facts_of(id: &str) -> Facts {
    let has = |letter: &str| id.starts_with(letter);
    Facts {
        inputs: if has("j") {
            vec!["left".into(), "right".into()]
        } else {
            vec!["in".into()]
        },
        outputs: vec![port("out", !has("u")), port("rejected", false)],
        keyed_state: has("k"),
        max_parallelism: has("o").then_some(1),
    }
}

struct Dealt {
    parallelism: Vec<u32>,
    partitions: Vec<Vec<Partition>>,
    report: String,
}

fn deal(job: &str, nodes: &[&str]) -> Dealt {
    let mut text = format!("[job]\nname = \"j\"\n{job}\n");
    for node in nodes {
        let (kind, rest) = node.split_once(' ').unwrap();
        let (id, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let what = match kind {
            "operator" => "component = \"x.wasm\"",
            _ => "connector = \"stdin\"",
        };
        text.push_str(&format!("[[{kind}]]\nid = \"{id}\"\n{what}\n"));
        for entry in rest.split("; ").filter(|entry| !entry.is_empty()) {
            text.push_str(&format!("{entry}\n"));
        }
    }
    let mut problems = Problems::default();
    let named = NamedText {
        file: "job.toml".into(),
        base: Path::new("/"),
        text: &text,
    };
    let job = job_file::read(&named, &Surroundings::default(), &mut problems).unwrap();
    let wiring = wire(&job, &mut problems);
    assert!(problems.is_empty(), "{problems}");
    let order = &wiring.order;
    let facts: Vec<Option<Facts>> = order
        .iter()
        .map(|node| Some(facts_of(&node.node(&job).id)))
        .collect();
    let parallelism: Vec<u32> = order
        .iter()
        .zip(&facts)
        .map(|(node, facts)| partition::parallelism(&job, *node, facts.as_ref(), &mut problems))
        .collect();
    let mut partitions = Vec::new();
    for index in 0..order.len() {
        let links = ports::links(&job, &wiring, &facts, index, &mut problems);
        ports::check_union(&job, &wiring, &facts, index, &links, &mut problems);
        let deal = |link: &Link| {
            partition::partition(
                &job,
                &wiring,
                &facts,
                &parallelism,
                index,
                link,
                &mut problems,
            )
        };
        partitions.push(links.iter().map(deal).collect());
    }
    partition::key_groups(&job, order, &parallelism, None, &mut problems);
    Dealt {
        parallelism,
        partitions,
        report: problems.to_string(),
    }
}

#[track_caller]
fn check(job: &str, nodes: &[&str], expected: &str) {
    let report = deal(job, nodes).report;
    let reported = report.lines().map(|line| {
        let line = line.strip_prefix("error: ").unwrap_or(line);
        match line.starts_with("job.toml:") {
            true => line.split_once(": ").map_or(line, |(_, rest)| rest),
            false => line,
        }
    });
    assert_eq!(reported.collect::<Vec<_>>().join("\n"), expected);
}

#[test]
fn records_are_dealt_by_key_only_where_state_asks_for_it() {
    let dealt = deal(
        "parallelism = 2",
        &[
            "source a",
            "operator b input = \"a\"",
            "operator k input = \"b\"",
            "operator wide input = \"b\"; parallelism = 3",
            "sink s inputs = [\"k\", \"wide\"]",
        ],
    );
    assert_eq!(dealt.report, "");
    assert_eq!(dealt.parallelism, [2, 2, 2, 3, 2]);
    assert_eq!(
        dealt.partitions,
        [
            vec![],
            vec![Partition::Forward],
            vec![Partition::Hash],
            vec![Partition::Rebalance],
            vec![Partition::Forward, Partition::Rebalance],
        ]
    );
}

#[test]
fn a_source_of_one_subtask_does_not_stop_the_job_from_having_more() {
    let dealt = deal(
        "parallelism = 4",
        &["source only", "sink s input = \"only\""],
    );
    assert_eq!(dealt.report, "");
    assert_eq!(dealt.parallelism, [1, 4]);
    check(
        "",
        &["source only parallelism = 2", "sink s input = \"only\""],
        "source.only.parallelism: this source has one subtask at most, not 2",
    );
}

#[test]
fn keyed_state_needs_keys_and_its_own_share_of_them() {
    check(
        "parallelism = 2",
        &[
            "source u",
            "operator k1 input = \"u\"",
            "operator k2 input = \"k1\"; partition = \"broadcast\"",
            "sink s input = \"k2\"",
        ],
        "operator.k1.input: the component keeps state per key, but `u` gives records no key\n  \
         hint: name the field to be the key in the source: `key = \"…\"`\n\
         operator.k2.partition: the component keeps state per key, so its 2 subtasks cannot be fed by `broadcast`\n  \
         hint: use `hash`, or leave `partition` out",
    );
}

#[test]
fn forward_joins_equal_parallelisms() {
    check(
        "parallelism = 2",
        &[
            "source a",
            "sink s input = \"a\"; partition = \"forward\"; parallelism = 3",
        ],
        "sink.s.partition: `forward` joins equal parallelisms, but `a` has 2 and this has 3\n  \
         hint: use `rebalance`, or the same parallelism",
    );
}

#[test]
fn outputs_and_inputs_are_matched_by_name_and_number() {
    check(
        "",
        &[
            "source a",
            "operator b input = \"a.rejectd\"",
            "operator join inputs = [\"a\", \"b\", \"b\"]",
            "sink s input = \"join.rejected\"",
        ],
        "operator.b.input: `a` has no output `rejectd`\n  \
         hint: did you mean `rejected`?\n\
         operator.join.inputs: the component has 2 inputs, 3 are given\n  \
         hint: write `inputs = [\"<left>\", \"<right>\"]`",
    );
}

#[test]
fn a_union_is_of_one_kind() {
    check(
        "",
        &[
            "source a",
            "source u",
            "operator b inputs = [\"a\", \"u\"]",
            "sink s input = \"b\"",
        ],
        "operator.b.inputs: `a` and `u` cannot be joined: only one of them gives records a key",
    );
}

#[test]
fn an_input_that_is_given_twice_is_refused() {
    check(
        "",
        &["source a", "sink s inputs = [\"a\", \"a\"]"],
        "sink.s.inputs: `a` is given twice: each of its records would count twice\n  \
         hint: leave one of them out",
    );
}

#[test]
fn c44_no_parallelism_is_above_the_key_groups() {
    check(
        "key-groups = 4\nparallelism = 5",
        &["source a parallelism = 2", "sink s input = \"a\""],
        "job.parallelism: parallelism 5 is above `job.key-groups` 4\n  \
         hint: a key group is the smallest share of a subtask",
    );
}
