//! What a simulated job is drawn as: operators without time, or with.

use std::collections::BTreeMap;

use runtime::simulation::Random;

use super::judge::{Promise, judge};
use super::results::Seen;
use super::shapes::{self, Role, Shape};
use super::steps::Kind;
use super::timed;
use super::user::Outputs;

/// A job graph, whatever the parallelism of its nodes.
pub(crate) enum Drawn {
    Plain(Shape),
    Timed(timed::Shape),
}

impl Drawn {
    /// How often each kind of node is in it.
    pub(crate) fn count_nodes(&self, nodes: &mut BTreeMap<String, u64>) {
        let mut count = |kind: String| *nodes.entry(kind).or_default() += 1;
        let shape = match self {
            Self::Plain(shape) => shape,
            Self::Timed(shape) => return shape.words().into_iter().for_each(count),
        };
        for node in &shape.nodes {
            count(match &node.role {
                Role::Source(_) => "Source".to_owned(),
                Role::Step(kind) => format!("{kind:?}").split('(').next().unwrap().to_owned(),
                Role::Sink => "Sink".to_owned(),
            });
            let partitions = node.inputs.iter();
            partitions.for_each(|edge| count(edge.partition.to_string()));
        }
    }

    /// The ids of its sinks.
    pub(crate) fn sinks(&self) -> Vec<String> {
        match self {
            Self::Plain(shape) => {
                let sinks = shape.nodes.iter();
                let sinks = sinks.filter(|node| matches!(node.role, Role::Sink));
                sinks.map(|node| node.id.clone()).collect()
            }
            Self::Timed(shape) => shape.sinks(),
        }
    }

    pub(crate) fn draw_parallelism(&self, random: &mut Random) -> Vec<u32> {
        match self {
            Self::Plain(shape) => shape.draw_parallelism(random),
            Self::Timed(shape) => shape.draw_parallelism(random),
        }
    }

    pub(crate) fn is_endless(&self) -> bool {
        match self {
            Self::Plain(shape) => shape.is_endless(),
            Self::Timed(shape) => shape.is_endless(),
        }
    }

    /// Whether it emits at the end of its input what it would emit again if it went on after that.
    pub(crate) fn tells_end(&self) -> bool {
        let tells =
            |node: &shapes::ShapeNode| matches!(node.role, Role::Step(Kind::Mark | Kind::Totals));
        match self {
            Self::Plain(shape) => shape.nodes.iter().any(tells),
            // Everything would be late.
            Self::Timed(_) => true,
        }
    }

    /// Says what is wrong with what sinks have committed, if anything is.
    pub(crate) fn judge(
        &self,
        outputs: &Outputs,
        promise: Promise,
        seen: &mut Seen,
    ) -> Result<(), String> {
        match self {
            Self::Plain(shape) => shape
                .expected()
                .iter()
                .try_for_each(|expected| judge(expected, &outputs[&expected.sink], promise)),
            Self::Timed(shape) => shape.judge(outputs, promise, seen),
        }
    }
}
