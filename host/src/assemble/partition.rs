//! How many subtasks each node has, and how records are dealt to them.

use dataflow::KeyGroups;
use dataflow::Partition;
use dataflow::port::Port;
use job_file::JobFile;
use job_file::bad_records::DEAD_LETTER;
use job_file::problem::Problems;
use job_file::wiring::{NodeRef, Wiring};

use super::ports::{Facts, Link, port_of, producer_of};

/// The number of subtasks of the node at `index`: its own, or the job's as far as it can use them.
pub(crate) fn parallelism(
    job: &JobFile,
    node: NodeRef,
    facts: Option<&Facts>,
    problems: &mut Problems,
) -> u32 {
    let most = facts.and_then(|facts| facts.max_parallelism);
    let own = node.node(job).parallelism;
    match (own, most) {
        (Some(own), Some(most)) if own > most => {
            let message = match most {
                1 => format!("this {} has one subtask at most, not {own}", node.kind()),
                _ => format!(
                    "this {} has {most} subtasks at most, not {own}",
                    node.kind()
                ),
            };
            let (place, path) = (
                node.node(job).place_of("parallelism"),
                node.path(job, "parallelism"),
            );
            problems.push(place, path, message, None);
            most
        }
        (Some(own), _) => own,
        (None, most) => job.job.parallelism.min(most.unwrap_or(u32::MAX)),
    }
}

/// The job's key groups: its own, or else those of the checkpoint that it starts from, or else as many
/// as Flink gives to its highest parallelism. `None`, with a problem, where a parallelism is higher.
pub(crate) fn key_groups(
    job: &JobFile,
    order: &[NodeRef],
    parallelism: &[u32],
    of_checkpoint: Option<KeyGroups>,
    problems: &mut Problems,
) -> Option<KeyGroups> {
    let highest = parallelism.iter().copied().max().unwrap_or(1);
    let (groups, whose) = match (job.job.key_groups, of_checkpoint) {
        (Some(groups), _) => (groups, "`job.key-groups`"),
        (None, Some(groups)) => (groups, "the checkpoint's key groups,"),
        (None, None) => return Some(KeyGroups::default_for(highest)),
    };
    let mut fits = true;
    for (node, parallelism) in order.iter().zip(parallelism) {
        if *parallelism <= groups.count() {
            continue;
        }
        fits = false;
        let own = node.node(job).parallelism.is_some();
        let (place, path) = if own {
            (
                node.node(job).place_of("parallelism"),
                node.path(job, "parallelism"),
            )
        } else {
            (job.places.parallelism.clone(), "job.parallelism".to_owned())
        };
        let message = format!("parallelism {parallelism} is above {whose} {groups}");
        let hint = "a key group is the smallest share of a subtask".to_owned();
        problems.push(place, path, message, Some(hint));
    }
    fits.then_some(groups)
}

/// How the records of a link are dealt to the subtasks of the node at `index`.
pub(crate) fn partition(
    job: &JobFile,
    wiring: &Wiring,
    facts: &[Option<Facts>],
    parallelism: &[u32],
    index: usize,
    link: &Link,
    problems: &mut Problems,
) -> Partition {
    let consumer = wiring.order[index];
    let wanted = match consumer {
        NodeRef::Source(_) => None,
        NodeRef::Operator(operator) => job.operators[operator].partition,
        NodeRef::Sink(sink) => job.sinks[sink].partition,
    };
    let keyed_state = facts[index].as_ref().is_some_and(|facts| facts.keyed_state);
    let (from, to) = (parallelism[link.from], parallelism[index]);
    let partition = wanted.unwrap_or(match (keyed_state, from == to) {
        (true, _) => Partition::Hash,
        (false, true) => Partition::Forward,
        (false, false) => Partition::Rebalance,
    });
    let situation = Situation {
        producer: producer_of(link, wiring),
        port: port_of(link, facts),
        partition,
        keyed_state,
        from,
        to,
    };
    if let Some((message, hint)) = situation.problem(job) {
        let key = if wanted.is_some() {
            "partition"
        } else {
            consumer.inputs(job).map_or("input", |inputs| inputs.key)
        };
        let (place, path) = (consumer.node(job).place_of(key), consumer.path(job, key));
        problems.push(place, path, message, hint);
    }
    partition
}

struct Situation<'a> {
    producer: NodeRef,
    port: Option<&'a Port>,
    partition: Partition,
    keyed_state: bool,
    from: u32,
    to: u32,
}

impl Situation<'_> {
    fn problem(&self, job: &JobFile) -> Option<(String, Option<String>)> {
        let id = &self.producer.node(job).id;
        let unkeyed = self.port.is_some_and(|port| !port.keyed);
        let (from, to) = (self.from, self.to);
        match self.partition {
            Partition::Hash if unkeyed && self.keyed_state => Some((
                format!("the component keeps state per key, but `{id}` gives records no key"),
                self.key_hint(),
            )),
            Partition::Hash if unkeyed => Some((
                format!("records are partitioned by key, but `{id}` gives them none"),
                self.key_hint(),
            )),
            Partition::Forward if from != to => Some((
                format!(
                    "`forward` joins equal parallelisms, but `{id}` has {from} and this has {to}"
                ),
                Some("use `rebalance`, or the same parallelism".to_owned()),
            )),
            Partition::Rebalance | Partition::Broadcast if self.keyed_state && to > 1 => Some((
                format!(
                    "the component keeps state per key, so its {to} subtasks cannot be fed by `{}`",
                    self.partition
                ),
                Some("use `hash`, or leave `partition` out".to_owned()),
            )),
            _ if self.keyed_state && unkeyed => Some((
                format!("the component keeps state per key, but `{id}` gives records no key"),
                self.key_hint(),
            )),
            _ => None,
        }
    }

    fn key_hint(&self) -> Option<String> {
        match self.producer {
            NodeRef::Source(_) => {
                Some("name the field to be the key in the source: `key = \"…\"`".into())
            }
            _ if self.port.is_some_and(|port| port.name == DEAD_LETTER) => {
                Some("leave `partition` out: dead letters have no key".into())
            }
            _ => None,
        }
    }
}
