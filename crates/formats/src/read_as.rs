//! The options of a source that decide what the records that it has read are: recorded with its
//! position, and compared when the job resumes.
//!
//! State is kept by the earlier keys. With another key the same records would be looked for elsewhere:
//! totals would be split in two, and nobody would notice. A position that was written before this was
//! recorded has nothing to compare. Columns are not recorded: the header of every file is read at each
//! start, and what has changed of a file is found by its bytes.

use job_file::options::written;
use operator::text::counted;
use serde::{Deserialize, Serialize};

use super::format::RecordFormat;
use super::timestamp::TimestampOptions;

/// How records were read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadAs {
    /// How they are written.
    pub format: RecordFormat,
    /// The fields that make the key; empty for records without one.
    pub key: Vec<String>,
    /// The field that holds the event time.
    pub timestamp: Option<TimestampOptions>,
}

impl ReadAs {
    /// How these options differ from those that `records` were read with, a line for each.
    pub fn differences(&self, was: &Self, records: u64) -> Vec<String> {
        let shown = |read: &Self| {
            let format = written(&read.format);
            let key = match &read.key[..] {
                [] => NOT_SET.to_owned(),
                [one] => quoted(one),
                several => format!(
                    "[{}]",
                    several
                        .iter()
                        .map(|field| quoted(field))
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            };
            let timestamp = read
                .timestamp
                .as_ref()
                .map_or(NOT_SET.to_owned(), |timestamp| {
                    let (field, format) = (quoted(&timestamp.field), quoted(&timestamp.format));
                    format!("{{ field = {field}, format = {format} }}")
                });
            [
                ("format", format, ""),
                ("key", key, "; state is kept by the former"),
                ("timestamp", timestamp, ""),
            ]
        };
        let records = counted(records, "record");
        let pairs = shown(was).into_iter().zip(shown(self));
        pairs
            .filter(|((_, was, _), (_, now, _))| was != now)
            .map(|((option, was, what), (_, now, _))| {
                format!("`{option}` was {was} and is {now} after {records}{what}")
            })
            .collect()
    }
}

const NOT_SET: &str = "not set";

fn quoted(text: &str) -> String {
    written(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_as(kept: serde_json::Value) -> ReadAs {
        serde_json::from_value(kept).unwrap()
    }

    #[test]
    fn each_option_that_differs_is_named_with_both_values() {
        let was = read_as(json!({"format": "csv", "key": ["a"]}));
        assert!(was.differences(&was, 7).is_empty());
        let now = read_as(
            json!({"format": "json-lines", "key": ["a", "b"], "timestamp": {"field": "t"}}),
        );
        assert_eq!(
            now.differences(&was, 1234),
            [
                "`format` was \"csv\" and is \"json-lines\" after 1,234 records",
                "`key` was \"a\" and is [\"a\", \"b\"] after 1,234 records; state is kept by the former",
                "`timestamp` was not set and is { field = \"t\", format = \"rfc3339\" } after 1,234 records",
            ]
        );
        let without = read_as(json!({"format": "csv", "key": []}));
        assert_eq!(
            was.differences(&without, 1),
            ["`key` was not set and is \"a\" after 1 record; state is kept by the former"]
        );
    }
}
