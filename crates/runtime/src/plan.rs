//! From the job graph to what runs: which nodes share a subtask, and which channels join subtasks.
//!
//! Nodes are chained where no record has to move: one input, equal parallelism, and partition forward
//! or a parallelism of 1, for then the one subtask gets every record whatever the partition.
//! Each chain (a tree, if a node has several consumers) is a vertex; a vertex runs as `parallelism`
//! subtasks, one thread each.

use dataflow::Partition;

use crate::graph::JobGraph;

/// Subtasks to run, vertex by vertex.
#[derive(Debug)]
pub(crate) struct ExecutionPlan {
    pub(crate) vertices: Vec<Vertex>,
}

/// Nodes that run in one subtask.
#[derive(Debug)]
pub(crate) struct Vertex {
    pub(crate) parallelism: u32,
    /// The nodes in topological order; the first one is fed from outside, the others from within.
    pub(crate) members: Vec<Member>,
    /// Edges that come in from other vertices, all to the first member.
    pub(crate) inputs: Vec<Input>,
}

/// A node within a vertex.
#[derive(Debug)]
pub(crate) struct Member {
    /// Index in the graph.
    pub(crate) node: usize,
    /// For each output port, where its records go.
    pub(crate) outputs: Vec<Vec<Target>>,
}

/// Where the records of a port go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To another member of the vertex.
    Member { member: usize, input: u32 },
    /// To another vertex: `edge` numbers the outgoing edges of this vertex.
    Edge { edge: usize },
}

/// An edge between two vertices, as the consumer sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    /// The producing vertex.
    pub(crate) vertex: usize,
    /// Number of the edge among those that leave it.
    pub(crate) edge: usize,
    /// The consumer's input.
    pub(crate) input: u32,
    pub(crate) partition: Partition,
}

impl ExecutionPlan {
    /// Plans a valid graph.
    pub(crate) fn of(graph: &JobGraph) -> Self {
        let mut vertices: Vec<Vertex> = Vec::new();
        // Where each node has gone: vertex and member.
        let mut places: Vec<(usize, usize)> = Vec::new();
        let mut edges_out: Vec<usize> = Vec::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            let member = Member {
                node: index,
                outputs: vec![Vec::new(); node.ports()],
            };
            let chained = match node.inputs.as_slice() {
                [edge]
                    if graph.nodes[edge.from].parallelism == node.parallelism
                        && (edge.partition == Partition::Forward || node.parallelism == 1) =>
                {
                    Some(edge)
                }
                _ => None,
            };
            if let Some(edge) = chained {
                let (vertex, upstream) = places[edge.from];
                let position = vertices[vertex].members.len();
                vertices[vertex].members.push(member);
                vertices[vertex].members[upstream].outputs[edge.port as usize].push(
                    Target::Member {
                        member: position,
                        input: edge.input,
                    },
                );
                places.push((vertex, position));
                continue;
            }
            let mut inputs = Vec::new();
            for edge in &node.inputs {
                let (vertex, upstream) = places[edge.from];
                let number = edges_out[vertex];
                edges_out[vertex] += 1;
                vertices[vertex].members[upstream].outputs[edge.port as usize]
                    .push(Target::Edge { edge: number });
                inputs.push(Input {
                    vertex,
                    edge: number,
                    input: edge.input,
                    partition: edge.partition,
                });
            }
            places.push((vertices.len(), 0));
            edges_out.push(0);
            vertices.push(Vertex {
                parallelism: node.parallelism,
                members: vec![member],
                inputs,
            });
        }
        Self { vertices }
    }

    /// How many subtasks there are in all.
    pub(crate) fn subtasks(&self) -> usize {
        self.vertices
            .iter()
            .map(|vertex| vertex.parallelism as usize)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use dataflow::KeyGroups;

    use super::*;
    use crate::graph::{Edge, Node, NodeKind, OperatorNode};
    use operator::sink::{Sink, SinkFactory};
    use operator::source::{Part, Source, SourceFactory};
    use operator::{BoxError, SubtaskContext};
    use operator::{Failure, FailureKind, Operator, OperatorFactory};

    /// Planning makes no instances.
    struct Never;

    impl SourceFactory for Never {
        fn create(
            &self,
            _: &SubtaskContext,
            _: Option<&[Part]>,
        ) -> Result<Box<dyn Source>, BoxError> {
            Err("not run".into())
        }

        fn describe_position(&self, _: &[Part]) -> String {
            String::new()
        }
    }

    impl OperatorFactory for Never {
        fn create(&self, _: &SubtaskContext, _: bool) -> Result<Box<dyn Operator>, Failure> {
            Err(Failure::new(FailureKind::Config, "not run"))
        }
    }

    impl SinkFactory for Never {
        fn delivery(&self) -> operator::sink::Delivery {
            operator::sink::Delivery::Nothing
        }

        fn create(
            &self,
            _: &SubtaskContext,
            _: Option<&[Part]>,
        ) -> Result<Box<dyn Sink>, BoxError> {
            Err("not run".into())
        }
    }

    /// The nodes of each vertex: a source, an operator after it, a sink after that.
    fn vertices(parallelism: [u32; 3], partitions: [Partition; 2]) -> Vec<Vec<usize>> {
        let operator = OperatorNode {
            factory: Arc::new(Never),
            states: Vec::new(),
            operator_states: Vec::new(),
            outputs: 1,
            state_limit: None,
            skip_overdue_timers: false,
            state_memory: None,
            labels: BTreeMap::new(),
        };
        let kinds = [
            NodeKind::Source(Arc::new(Never)),
            NodeKind::Operator(operator),
            NodeKind::Sink(Arc::new(Never)),
        ];
        let nodes = kinds.into_iter().enumerate().map(|(index, kind)| Node {
            id: index.to_string(),
            parallelism: parallelism[index],
            inputs: index
                .checked_sub(1)
                .map(|from| Edge {
                    from,
                    port: 0,
                    input: 0,
                    partition: partitions[from],
                })
                .into_iter()
                .collect(),
            kind,
            bad_records: None,
        });
        let graph = JobGraph {
            nodes: nodes.collect(),
            key_groups: KeyGroups::new(128).unwrap(),
        };
        let vertices = ExecutionPlan::of(&graph).vertices.into_iter();
        vertices
            .map(|vertex| vertex.members.iter().map(|member| member.node).collect())
            .collect()
    }

    #[test]
    fn nodes_are_chained_where_no_record_has_to_move() {
        use Partition::{Broadcast, Forward, Hash, Rebalance};
        assert_eq!(vertices([2; 3], [Forward, Forward]), [[0, 1, 2]]);
        assert_eq!(
            vertices([2; 3], [Hash, Forward]),
            [vec![0], vec![1, 2]],
            "keys decide between two subtasks"
        );
        for partition in [Hash, Rebalance, Broadcast] {
            assert_eq!(vertices([1; 3], [partition, partition]), [[0, 1, 2]]);
            assert_eq!(vertices([1, 2, 1], [partition, Rebalance]), [[0], [1], [2]]);
        }
    }
}
