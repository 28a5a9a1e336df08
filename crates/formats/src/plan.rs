//! What a source makes of text: the options that file and stdin have in common, checked.

use dataflow::port::{self, Column, ColumnKind, Port};
use job_file::hints::suggest;
use job_file::options::OneOrMany;
use job_file::problem::Problem;

use super::format::RecordFormat;
use super::read_as::ReadAs;
use super::text_limits::TextLimits;
use super::timestamp::{TimestampFormat, TimestampOptions};

/// What to make of a stream of text.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How records are written.
    pub format: RecordFormat,
    /// The fields that make the key, in this order; empty for records without a key. Of lines it is
    /// `line`.
    pub key: Vec<String>,
    /// The field that holds the event time.
    pub timestamp: Option<(String, TimestampFormat)>,
    /// The columns of CSV, if they are known before: then every header must be equal.
    pub columns: Option<Vec<String>>,
    /// What a position records of these options.
    pub read_as: ReadAs,
    /// How much a record may be.
    pub limits: TextLimits,
}

impl Plan {
    /// Checks the options that sources of text have in common. `columns` are those of CSV where they
    /// are known.
    pub fn new(
        format: Option<RecordFormat>,
        key: Option<&OneOrMany>,
        timestamp: Option<&TimestampOptions>,
        columns: Option<Vec<String>>,
        limits: TextLimits,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let before = problems.len();
        if format.is_none() && !problems.iter().any(|problem| problem.key == "format") {
            problems.push(Problem::new("format", "is required").hint(RecordFormat::LIST));
        }
        let key = key.map(|key| key.as_slice().to_vec());
        if key.as_ref().is_some_and(Vec::is_empty) {
            problems.push(
                Problem::new("key", "names no field")
                    .hint("leave it out for records without a key"),
            );
        }
        let key = key.unwrap_or_default();
        for (index, name) in key.iter().enumerate() {
            if key[..index].contains(name) {
                problems.push(Problem::new("key", format!("names `{name}` twice")));
            }
        }
        if format == Some(RecordFormat::Lines) {
            if key.iter().any(|name| name != "line") {
                let hint = "use `key = \"line\"` for the whole line, or another format";
                problems.push(Problem::new("key", "lines have no fields").hint(hint));
            }
            if timestamp.is_some() {
                problems.push(Problem::new(
                    "timestamp",
                    "lines have no fields to take an event time from",
                ));
            }
        }
        if let Some(columns) = &columns {
            let known: Vec<&str> = columns.iter().map(String::as_str).collect();
            let mut check = |place: &str, name: &String| {
                if !columns.contains(name) {
                    let hint = suggest(name, &known, "the columns are");
                    problems.push(
                        Problem::new(place, format!("there is no column `{name}`")).hint(hint),
                    );
                }
            };
            key.iter().for_each(|name| check("key", name));
            timestamp
                .iter()
                .for_each(|timestamp| check("timestamp.field", &timestamp.field));
        }
        let written = timestamp.cloned();
        let timestamp = timestamp.and_then(|options| match TimestampFormat::parse(&options.format) {
            Ok(format) => Some((options.field.clone(), format)),
            Err(message) => {
                let hint = "use `rfc3339`, `unix-s`, `unix-ms` or a pattern such as `%Y-%m-%d %H:%M:%S`";
                problems.push(Problem::new("timestamp.format", message).hint(hint));
                None
            }
        });
        let format = format.filter(|_| problems.len() == before)?;
        Some(Self {
            read_as: ReadAs {
                format,
                key: key.clone(),
                timestamp: written,
            },
            format,
            key,
            timestamp,
            columns,
            limits,
        })
    }

    /// What the records look like downstream.
    pub fn port(&self) -> Port {
        let column = |name: &String| Column {
            name: name.clone(),
            kind: ColumnKind::Text,
        };
        let format = match self.format {
            RecordFormat::Lines => port::Format::Text,
            RecordFormat::JsonLines => port::Format::Json,
            RecordFormat::Csv => {
                port::Format::Row(self.columns.iter().flatten().map(column).collect())
            }
        };
        Port {
            name: "out".to_owned(),
            keyed: !self.key.is_empty(),
            key_columns: self.key.iter().map(column).collect(),
            format,
        }
    }
}
