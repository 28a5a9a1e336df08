//! `host checkpoints export`: every entry of a checkpoint's keyed state, for people and programs.
//!
//! Values whose schema is known are written as what they are, a number as a number; see
//! [`checkpoint::schema`], and `docs/checkpoint-format.md`. Of the others bytes that are readable text are
//! written as such, all others, and text that begins with `0x`, as `0x` and hex digits.

use std::borrow::Cow;
use std::io::{self, BufWriter, Write};

use checkpoint::export::{ExportedEntry, Filter};
use checkpoint::schema::{Schema, Shown, hex, readable};

use super::open;
use crate::cli::{Export, ExportFormat};
use crate::exit::{Error, Exit};

/// An entry as it is written, in both formats.
struct Line<'a> {
    operator: &'a str,
    state: &'a str,
    kind: &'a str,
    key: Cow<'a, str>,
    field: Option<Shown<'a>>,
    index: Option<u64>,
    value: Shown<'a>,
}

/// The schema of the state whose entries come: they come state by state.
#[derive(Default)]
struct Current {
    /// Kind and text.
    of: (String, String),
    schema: Option<Schema>,
}

impl Current {
    fn schema(&mut self, entry: &ExportedEntry<'_>) -> Option<&Schema> {
        if (self.of.0.as_str(), self.of.1.as_str()) != (entry.kind, entry.schema) {
            self.of = (entry.kind.to_owned(), entry.schema.to_owned());
            self.schema = match entry.kind {
                "map" | "timers" | "broadcast" => Schema::of_map(entry.schema),
                _ => Schema::of_values(entry.schema),
            };
        }
        self.schema.as_ref()
    }
}

/// Why an export ended.
enum Failure {
    Checkpoint(checkpoint::Error),
    Output(io::Error),
}

impl From<checkpoint::Error> for Failure {
    fn from(error: checkpoint::Error) -> Self {
        Self::Checkpoint(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Prints what is asked for, as it is read.
pub(crate) fn export(arguments: &Export) -> Result<Exit, Error> {
    let checkpoint = open(&arguments.place)?;
    let filter = Filter {
        operator: arguments.operator.clone(),
        state: arguments.state.clone(),
    };
    let mut to = BufWriter::new(io::stdout().lock());
    let mut current = Current::default();
    let exported = begin(arguments.format, &mut to)
        .map_err(Failure::Output)
        .and_then(|()| {
            checkpoint::export::export(&checkpoint, &filter, |entry| {
                Ok::<(), Failure>(write(
                    arguments.format,
                    &line(&entry, current.schema(&entry)),
                    &mut to,
                )?)
            })
        })
        .and_then(|_| Ok(to.flush()?));
    match exported {
        Ok(()) => Ok(Exit::Finished),
        // A reader that has seen enough (`| head`) is no error.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Exit::Finished)
        }
        Err(Failure::Output(error)) => Err(Error::failed(
            anyhow::Error::new(error).context("writing to stdout"),
        )),
        Err(Failure::Checkpoint(error)) => Err(Error::checkpoint(
            error,
            format!("exporting {}", arguments.place),
        )),
    }
}

fn line<'a>(entry: &ExportedEntry<'a>, schema: Option<&Schema>) -> Line<'a> {
    // What is no value of its schema is shown as the bytes that it is, so that nobody takes it for one.
    let shown = |bytes: &'a [u8], of: fn(&Schema, &'a [u8]) -> Option<Shown<'a>>| match schema {
        None => Shown::Text(readable(bytes)),
        Some(schema) => of(schema, bytes).unwrap_or_else(|| Shown::Text(hex(bytes).into())),
    };
    Line {
        operator: entry.operator,
        state: entry.state,
        kind: entry.kind,
        key: readable(entry.key),
        field: entry.field.map(|field| shown(field, Schema::field)),
        index: entry.index,
        value: shown(entry.value, Schema::value),
    }
}

fn begin(format: ExportFormat, to: &mut impl Write) -> io::Result<()> {
    match format {
        ExportFormat::JsonLines => Ok(()),
        ExportFormat::Csv => writeln!(to, "operator,state,kind,key,field,index,value"),
    }
}

fn write(format: ExportFormat, line: &Line<'_>, to: &mut impl Write) -> io::Result<()> {
    match format {
        ExportFormat::JsonLines => {
            let mut before = '{';
            let mut text = |name: &str, text: &str, to: &mut dyn Write| {
                write!(to, "{before}\"{name}\":")?;
                before = ',';
                Ok::<_, io::Error>(serde_json::to_writer(to, text)?)
            };
            text("operator", line.operator, to)?;
            text("state", line.state, to)?;
            text("kind", line.kind, to)?;
            text("key", &line.key, to)?;
            if let Some(field) = &line.field {
                write_json("field", field, to)?;
            }
            if let Some(index) = line.index {
                write!(to, ",\"index\":{index}")?;
            }
            write_json("value", &line.value, to)?;
            writeln!(to, "}}")
        }
        ExportFormat::Csv => {
            let index = line.index.map(|index| index.to_string());
            let cells = [
                line.operator,
                line.state,
                line.kind,
                &line.key,
                line.field.as_ref().map_or("", cell),
                index.as_deref().unwrap_or_default(),
                cell(&line.value),
            ];
            let cells = cells.map(quoted);
            writeln!(to, "{}", cells.join(","))
        }
    }
}

fn write_json(name: &str, shown: &Shown<'_>, to: &mut impl Write) -> io::Result<()> {
    write!(to, ",\"{name}\":")?;
    match shown {
        Shown::Text(text) => Ok(serde_json::to_writer(to, text)?),
        Shown::Json(json) => write!(to, "{json}"),
    }
}

fn cell<'s>(shown: &'s Shown<'_>) -> &'s str {
    match shown {
        Shown::Text(text) => text,
        Shown::Json(json) => json,
    }
}

/// A cell of CSV, quoted where it has to be.
fn quoted(cell: &str) -> Cow<'_, str> {
    match cell.contains([',', '"']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")).into(),
        false => cell.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_where_they_can_be_read_back_from_it() {
        for (bytes, text) in [
            (&b"w\xc3\xb6rd, \"x\""[..], "wörd, \"x\""),
            (b"", ""),
            (b"0x01", "0x30783031"),
            (b"a\nb", "0x610a62"),
            (&[0, 255], "0x00ff"),
        ] {
            assert_eq!(readable(bytes), text);
        }
    }

    fn written(schema: &str, field: Option<&[u8]>, value: &[u8]) -> String {
        let entry = ExportedEntry {
            operator: "count",
            state: "seen",
            kind: if field.is_some() { "map" } else { "value" },
            schema,
            key: b"a,b",
            field,
            index: None,
            value,
        };
        let mut current = Current::default();
        let line = line(&entry, current.schema(&entry));
        let mut text = Vec::new();
        write(ExportFormat::JsonLines, &line, &mut text).unwrap();
        write(ExportFormat::Csv, &line, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn both_formats_have_the_same_fields() {
        for (schema, field, value, expected) in [
            (
                "mine",
                Some(&b"f\"g"[..]),
                &[7][..],
                [
                    r#"{"operator":"count","state":"seen","kind":"map","key":"a,b","field":"f\"g","value":"0x07"}"#,
                    r#"count,seen,map,"a,b","f""g",,0x07"#,
                ],
            ),
            (
                "i8=(u8,string)",
                Some(&[0x7f]),
                b"\x05\x01\0\0\0x",
                [
                    r#"{"operator":"count","state":"seen","kind":"map","key":"a,b","field":-1,"value":[5,"x"]}"#,
                    r#"count,seen,map,"a,b",-1,,"[5,""x""]""#,
                ],
            ),
            (
                "string",
                None,
                b"hi",
                [
                    r#"{"operator":"count","state":"seen","kind":"value","key":"a,b","value":"hi"}"#,
                    r#"count,seen,value,"a,b",,,hi"#,
                ],
            ),
            (
                "u64",
                None,
                b"hi",
                [
                    r#"{"operator":"count","state":"seen","kind":"value","key":"a,b","value":"0x6869"}"#,
                    r#"count,seen,value,"a,b",,,0x6869"#,
                ],
            ),
        ] {
            assert_eq!(written(schema, field, value), expected.join("\n") + "\n");
        }
    }
}
