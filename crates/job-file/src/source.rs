//! `[[source]]`: where records come from. What its connector understands is the connector's to read.

use super::bad_records::BadRecords;
use super::document::Table;
use super::node::Node;
use super::options::Options;
use super::secret;
use super::section::Section;

/// A source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSection {
    /// Its id and parallelism.
    pub node: Node,
    /// The connector's name. `None` if that is wrong, which has been noted.
    pub connector: Option<String>,
    /// What becomes of what it cannot read as a record. `None`: the job fails.
    pub bad_records: Option<BadRecords>,
    /// The keys that are the connector's.
    pub options: Options,
}

impl SourceSection {
    /// Reads a source; `None` if it has no id.
    pub fn read(mut section: Section<'_, '_>, table: &Table) -> Option<Self> {
        let connector = section.required("connector", "file");
        secret::refuse_in_connector(table, &mut section);
        let bad_records = BadRecords::of_source(&mut section);
        let node = Node::read(&mut section, table, "words")?;
        Some(Self {
            node,
            connector,
            bad_records,
            options: connector_options(table, super::keys::SOURCE),
        })
    }
}

/// The part of a source's or sink's table that is its connector's.
pub(crate) fn connector_options(table: &Table, ours: &[super::keys::Key]) -> Options {
    let mut options = table.to_toml();
    options.retain(|name, _| !ours.iter().any(|key| key.name == name));
    Options {
        table: options,
        common: ours.iter().map(|key| key.name).collect(),
    }
}
