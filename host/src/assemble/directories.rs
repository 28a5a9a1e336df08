//! Directories that a job would write to twice, or read what it has written from.

use job_file::JobFile;
use job_file::problem::Problems;
use job_file::wiring::NodeRef;

use super::PreparedNode;

/// Refuses sinks that share a directory, and sources that would take the files of a sink for input when the job is
/// started again.
pub(super) fn check<'a>(
    job: &JobFile,
    nodes: impl Iterator<Item = (NodeRef, &'a PreparedNode)> + Clone,
    problems: &mut Problems,
) {
    let mut sinks: Vec<_> = nodes
        .clone()
        .filter_map(|(node, prepared)| match prepared {
            PreparedNode::Sink(sink) => Some((node, sink.writes.as_deref()?)),
            PreparedNode::Source(_) | PreparedNode::Operator(_) => None,
        })
        .collect();
    sinks.sort();
    let mut refuse = |node: NodeRef, message: String, hint: &str| {
        let hint = hint.to_owned();
        let (place, path) = (node.node(job).place_of("path"), node.path(job, "path"));
        problems.push(place, path, message, Some(hint));
    };
    for (at, (sink, writes)) in sinks.iter().enumerate() {
        let mut before = sinks[..at].iter();
        if let Some((first, _)) = before.find(|(_, other)| other.parent() == writes.parent()) {
            let id = &first.node(job).id;
            let message = format!("is also the directory of sink `{id}`");
            refuse(*sink, message, "give each sink a directory of its own");
        }
    }
    for (node, prepared) in nodes {
        let PreparedNode::Source(source) = prepared else {
            continue;
        };
        let Some(selects) = &source.selects else {
            continue;
        };
        for (sink, writes) in sinks.iter().filter(|(_, writes)| selects(writes)) {
            let id = &sink.node(job).id;
            let directory = writes.parent().unwrap_or(writes).display();
            refuse(
                node,
                format!(
                    "reads the files that sink `{id}` writes to `{directory}`: the next run would take the job's own \
                     output for input"
                ),
                "give the sink a directory of its own, or name the files of the source by a pattern that leaves those out",
            );
        }
    }
}
