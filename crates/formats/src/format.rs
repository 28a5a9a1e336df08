//! The text formats that files and pipes have in common.

use serde::{Deserialize, Serialize};

/// How records are written in a stream of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordFormat {
    /// A record per line.
    Lines,
    /// CSV (RFC 4180); in a source the first line names the columns.
    Csv,
    /// A JSON document per line.
    JsonLines,
}

impl RecordFormat {
    /// The formats as a hint lists them.
    pub const LIST: &str = "one of `lines`, `csv`, `json-lines`";

    /// The usual extension of a file of this format.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Lines => "txt",
            Self::Csv => "csv",
            Self::JsonLines => "jsonl",
        }
    }
}
