//! `host checkpoints export`: every entry of a checkpoint's keyed state, for people and programs.
//!
//! Bytes that are readable text are written as such; all others, and text that begins with `0x`, as
//! `0x` and hex digits. So what is written can be told apart and read back.

use std::borrow::Cow;
use std::io::{self, BufWriter, Write};

use checkpoint::export::{Entry, Filter};
use serde::Serialize;

use super::open;
use crate::cli::{Export, ExportFormat};
use crate::exit::{Error, Exit};

/// What begins bytes that are written as hex digits.
const HEX: &str = "0x";

/// An entry as it is written, in both formats.
#[derive(Serialize)]
struct Line<'a> {
    operator: &'a str,
    state: &'a str,
    kind: &'a str,
    key: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    value: Cow<'a, str>,
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
    let exported = begin(arguments.format, &mut to)
        .map_err(Failure::Output)
        .and_then(|()| {
            checkpoint::export::export(&checkpoint, &filter, |entry| {
                Ok::<(), Failure>(write(arguments.format, &line(&entry), &mut to)?)
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

fn line<'a>(entry: &Entry<'a>) -> Line<'a> {
    Line {
        operator: entry.operator,
        state: entry.state,
        kind: entry.kind,
        key: readable(entry.key),
        field: entry.field.map(readable),
        index: entry.index,
        value: readable(entry.value),
    }
}

/// Bytes as text.
fn readable(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(HEX) && !text.chars().any(char::is_control) => text.into(),
        _ => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            std::iter::once(HEX.to_owned())
                .chain(digits)
                .collect::<String>()
                .into()
        }
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
            serde_json::to_writer(&mut *to, line)?;
            writeln!(to)
        }
        ExportFormat::Csv => {
            let index = line.index.map(|index| index.to_string());
            let cells = [
                line.operator,
                line.state,
                line.kind,
                &line.key,
                line.field.as_deref().unwrap_or_default(),
                index.as_deref().unwrap_or_default(),
                &line.value,
            ];
            let cells = cells.map(quoted);
            writeln!(to, "{}", cells.join(","))
        }
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

    #[test]
    fn both_formats_have_the_same_fields() {
        let line = line(&Entry {
            operator: "count",
            state: "seen",
            kind: "map",
            key: b"a,b",
            field: Some(b"f\"g"),
            index: None,
            value: &[7],
        });
        let mut text = Vec::new();
        write(ExportFormat::JsonLines, &line, &mut text).unwrap();
        write(ExportFormat::Csv, &line, &mut text).unwrap();
        let expected = concat!(
            r#"{"operator":"count","state":"seen","kind":"map","key":"a,b","field":"f\"g","value":"0x07"}"#,
            "\n",
            r#"count,seen,map,"a,b","f""g",,0x07"#,
            "\n"
        );
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
