//! `[[sink]]`: where records go. What its connector understands is the connector's to read.

use dataflow::Partition;

use super::document::Table;
use super::node::{Inputs, Node, PARTITIONS};
use super::options::Options;
use super::secret;
use super::section::Section;
use super::source::connector_options;

/// A sink.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkSection {
    /// Its id and parallelism.
    pub node: Node,
    /// The connector's name. `None` if that is wrong, which has been noted.
    pub connector: Option<String>,
    /// What it writes. `None` if that is wrong, which has been noted.
    pub inputs: Option<Inputs>,
    /// How records are dealt to its subtasks, if it says so.
    pub partition: Option<Partition>,
    /// The keys that are the connector's.
    pub options: Options,
}

impl SinkSection {
    /// Reads a sink; `None` if it has no id.
    pub fn read(mut section: Section<'_, '_>, table: &Table) -> Option<Self> {
        let connector = section.required("connector", "file");
        let inputs = Inputs::read(&mut section);
        let partition = section.choice("partition", PARTITIONS);
        secret::refuse_in_connector(table, &mut section);
        let node = Node::read(&mut section, table, "results")?;
        Some(Self {
            node,
            connector,
            inputs,
            partition,
            options: connector_options(table, super::keys::SINK),
        })
    }
}
