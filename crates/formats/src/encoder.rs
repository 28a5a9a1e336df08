//! From records to text: what sinks write, by what the producing port says about its records.
//!
//! Which formats fit which port:
//!
//! | port | `lines` | `csv` | `json-lines` |
//! |---|---|---|---|
//! | row | the row as it is | key and value, one row | an object of the declared columns |
//! | text | the text | key and value as fields | `{"key": …, "value": …}` |
//! | JSON | the document | key and value as fields | the document |
//! | bytes | base64 | – | – |
//!
//! A record is always one line (of CSV: one row). What cannot be written so is an error that names
//! the record; nothing is mended silently.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use dataflow::Batch;
use dataflow::cells::CellsRef;
use dataflow::port::{Column, ColumnKind, Format, Port};
use dataflow::row;
use job_file::hints::listed;
use job_file::problem::Problem;
use operator::text::counted;

use super::format::RecordFormat;

/// Options that the sinks for text have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncoderOptions {
    /// How records are written.
    pub format: Option<RecordFormat>,
    /// CSV: whether the first line names the columns.
    pub header: bool,
    /// Lines: whether the key and a tab stand before the value.
    pub with_key: bool,
}

/// Writes records of certain ports as text.
#[derive(Clone, Debug)]
pub struct Encoder {
    shape: Shape,
    header: Vec<u8>,
    format: RecordFormat,
}

/// How a record becomes a line.
#[derive(Clone, Debug)]
enum Shape {
    /// The value; after the key and a tab where asked for.
    Line { with_key: bool, base64: bool },
    /// Fields. What is not a row already becomes one field.
    Row {
        key_is_row: bool,
        value_is_row: bool,
        /// The columns that a row must have, if they are declared and somebody has to see to it.
        key_columns: Vec<String>,
        value_columns: Vec<String>,
        /// What declares them.
        from: String,
    },
    /// The value is the document.
    Document,
    /// An object of key fields and value fields.
    Object { key: Fields, value: Fields },
}

/// How the fields of an object are named.
#[derive(Clone, Debug)]
enum Fields {
    /// The whole is one text of this name (which is written `"name":`).
    Text(String),
    /// A row of columns. A column without a name is left out, for another field has it.
    Columns(Vec<(Option<String>, ColumnKind)>),
}

/// Whether a port's keys are in the row encoding: a single field of text is not.
fn key_is_row(port: &Port) -> bool {
    matches!(port.format, Format::Row(_)) || port.key_columns.len() > 1
}

/// Checks that records of `port` can be written as `format`.
///
/// # Errors
/// Why not.
pub fn check(format: RecordFormat, options: &EncoderOptions, port: &Port) -> Result<(), String> {
    let name = &port.name;
    match (&port.format, format) {
        (Format::Bytes, RecordFormat::Csv | RecordFormat::JsonLines) => Err(format!(
            "`{name}` has bytes that only operators understand: write them as `lines` (base64)"
        )),
        (Format::Row(columns), RecordFormat::Csv) if options.header => {
            if columns.is_empty() {
                Err(format!(
                    "`header` needs names, but `{name}` does not declare its columns"
                ))
            } else if port.keyed && port.key_columns.is_empty() {
                Err(format!(
                    "`header` needs names, but `{name}` does not declare the columns of its key"
                ))
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    }
}

impl Encoder {
    /// Checks options and ports.
    ///
    /// # Errors
    /// Everything that does not fit.
    pub fn new(options: &EncoderOptions, ports: &[Port]) -> Result<Self, Vec<Problem>> {
        let Some(format) = options.format else {
            return Err(vec![
                Problem::new("format", "is required").hint(RecordFormat::LIST),
            ]);
        };
        let mut problems = Vec::new();
        if options.header && format != RecordFormat::Csv {
            problems.push(Problem::new(
                "header",
                "has a meaning only for `format = \"csv\"`",
            ));
        }
        if options.with_key && format != RecordFormat::Lines {
            problems.push(Problem::new(
                "with-key",
                "has a meaning only for `format = \"lines\"`",
            ));
        }
        for port in ports {
            if let Err(message) = check(format, options, port) {
                problems.push(Problem::new("format", message));
            }
            if options.with_key && !port.keyed {
                problems.push(Problem::new(
                    "with-key",
                    format!("records of `{}` have no key", port.name),
                ));
            }
        }
        let Some(first) = ports.first() else {
            problems.push(Problem::new("input", "there is no input"));
            return Err(problems);
        };
        for other in &ports[1..] {
            // Lines of values alone look the same from everywhere, but for bytes.
            let same = match format {
                RecordFormat::Lines if !options.with_key => {
                    (first.format == Format::Bytes) == (other.format == Format::Bytes)
                }
                // Without names it is the number of fields that makes a row.
                RecordFormat::Csv if !options.header => match (&first.format, &other.format) {
                    (Format::Row(columns), Format::Row(others)) => {
                        columns.len() == others.len()
                            && first.keyed == other.keyed
                            && first.key_columns.len() == other.key_columns.len()
                    }
                    (format, other_format) => {
                        format == other_format
                            && first.keyed == other.keyed
                            && first.key_columns == other.key_columns
                    }
                },
                _ => {
                    first.format == other.format
                        && first.keyed == other.keyed
                        && first.key_columns == other.key_columns
                }
            };
            if !same {
                let message = format!(
                    "records of `{}` and `{}` are not of the same kind",
                    first.name, other.name
                );
                problems.push(Problem::new("input", message).hint("give each a sink of its own"));
            }
        }
        match problems.is_empty() {
            true => Ok(Self {
                shape: Shape::new(format, options, ports, first),
                header: header(options, first),
                format,
            }),
            false => Err(problems),
        }
    }

    /// Looks at no row any more: each has the fields that its port declares.
    pub fn trust_rows(&mut self) {
        if let Shape::Row {
            key_columns,
            value_columns,
            ..
        } = &mut self.shape
        {
            key_columns.clear();
            value_columns.clear();
        }
    }

    /// How records are written.
    pub fn format(&self) -> RecordFormat {
        self.format
    }

    /// What every file begins with; may be empty.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Whether each row of the batch has the fields that are declared: [`Encoder::encode`] then looks at
    /// none of them, else at each.
    pub fn fits(&self, batch: &Batch) -> bool {
        let Shape::Row {
            key_columns,
            value_columns,
            ..
        } = &self.shape
        else {
            return true;
        };
        let keys = !batch.is_keyed() || all_have_fields(batch.keys.as_ref(), key_columns.len());
        keys && all_have_fields(batch.values.as_ref(), value_columns.len())
    }

    /// Appends record `index` of `batch` to `text`, with its line end. `fits` is what [`Encoder::fits`]
    /// says of the batch.
    ///
    /// # Errors
    /// Why the record cannot be written in this format, and which it is. Nothing was appended then.
    pub fn encode(
        &self,
        batch: &Batch,
        index: usize,
        fits: bool,
        text: &mut Vec<u8>,
    ) -> Result<(), String> {
        // What most jobs write fits every time.
        if let Shape::Row {
            key_is_row: true,
            value_is_row: true,
            key_columns,
            value_columns,
            ..
        } = &self.shape
            && batch.is_keyed()
            && (fits
                || (has_fields(batch.keys.get(index), key_columns)
                    && has_fields(batch.values.get(index), value_columns)))
        {
            batch.keys.as_ref().append_to(index, text);
            text.push(b',');
            batch.values.as_ref().append_to(index, text);
            text.push(b'\n');
            return Ok(());
        }
        let before = text.len();
        let key = batch.is_keyed().then(|| batch.keys.get(index));
        let value = batch.values.get(index);
        self.shape
            .encode(key, value, fits, text)
            .map_err(|message| {
                text.truncate(before);
                let shown = |cell: &[u8]| {
                    let cut = if cell.len() > 60 { "…" } else { "" };
                    format!(
                        "{:?}{cut}",
                        String::from_utf8_lossy(&cell[..cell.len().min(60)])
                    )
                };
                match key {
                    Some(key) => format!(
                        "record with key {} and value {}: {message}",
                        shown(key),
                        shown(value)
                    ),
                    None => format!("record with value {}: {message}", shown(value)),
                }
            })
    }
}

fn header(options: &EncoderOptions, port: &Port) -> Vec<u8> {
    let mut names = Vec::new();
    if options.header {
        if port.keyed {
            names.extend(port.key_columns.iter().map(|column| column.name.as_str()));
            if names.is_empty() {
                names.push("key");
            }
        }
        match &port.format {
            Format::Row(columns) => names.extend(columns.iter().map(|column| column.name.as_str())),
            Format::Text | Format::Json | Format::Bytes => names.push("value"),
        }
    }
    let mut header = Vec::new();
    for (index, name) in names.iter().enumerate() {
        row::push_field(&mut header, name.as_bytes(), index == 0);
    }
    if !names.is_empty() {
        header.push(b'\n');
    }
    header
}

impl Shape {
    fn new(format: RecordFormat, options: &EncoderOptions, ports: &[Port], port: &Port) -> Self {
        let names = |columns: &[Column]| columns.iter().map(|it| it.name.clone()).collect();
        match (format, &port.format) {
            (RecordFormat::Lines, _) => Self::Line {
                with_key: options.with_key,
                base64: port.format == Format::Bytes,
            },
            (RecordFormat::Csv, value) => Self::Row {
                key_is_row: key_is_row(port),
                value_is_row: matches!(value, Format::Row(_)),
                key_columns: match key_is_row(port) {
                    true => names(&port.key_columns),
                    false => Vec::new(),
                },
                value_columns: match value {
                    Format::Row(columns) => names(columns),
                    Format::Text | Format::Json | Format::Bytes => Vec::new(),
                },
                from: {
                    let names = ports.iter().map(|port| format!("`{}`", port.name));
                    names.collect::<Vec<_>>().join(" or ")
                },
            },
            (RecordFormat::JsonLines, Format::Json) => Self::Document,
            (RecordFormat::JsonLines, value) => {
                let columns = match value {
                    Format::Row(columns) => columns.as_slice(),
                    Format::Text | Format::Json | Format::Bytes => &[],
                };
                let value = if columns.is_empty() {
                    Fields::text("value")
                } else {
                    Fields::columns(columns, &[])
                };
                let key = match &port.key_columns[..] {
                    [] => Fields::text("key"),
                    [column] if !key_is_row(port) => Fields::text(&column.name),
                    // A source's key is often a column of its value as well.
                    key => Fields::columns(key, columns),
                };
                Self::Object { key, value }
            }
        }
    }

    /// Appends a record to `text`, with its line end. `fits`: its rows have the fields that are declared.
    fn encode(
        &self,
        key: Option<&[u8]>,
        value: &[u8],
        fits: bool,
        text: &mut Vec<u8>,
    ) -> Result<(), String> {
        match self {
            Self::Line { with_key, base64 } => {
                if *with_key {
                    let key = key.unwrap_or_default();
                    if memchr::memchr3(b'\t', b'\n', b'\r', key).is_some() && !base64 {
                        return Err(
                            "a key with a tab or a line break does not fit a line".to_owned()
                        );
                    }
                    push_cell(key, *base64, text);
                    text.push(b'\t');
                }
                if !base64 && memchr::memchr(b'\n', value).is_some() {
                    return Err("a value with a line break does not fit a line".to_owned());
                }
                push_cell(value, *base64, text);
            }
            Self::Row {
                key_is_row,
                value_is_row,
                key_columns,
                value_columns,
                from,
            } => {
                if !fits {
                    if let Some(key) = key {
                        check_fields("key", key, key_columns, from)?;
                    }
                    check_fields("value", value, value_columns, from)?;
                }
                if let Some(key) = key {
                    push_fields(key, *key_is_row, true, text);
                }
                push_fields(value, *value_is_row, key.is_none(), text);
                // An empty line would be no row to many readers; quoted it is one empty field.
                if key.is_none() && value.is_empty() {
                    text.extend_from_slice(b"\"\"");
                }
            }
            Self::Document => {
                if value.trim_ascii().is_empty() {
                    return Err("an empty value is not JSON".to_owned());
                }
                // Line breaks are mere space in JSON: inside strings they are escaped.
                let start = text.len();
                text.extend_from_slice(value);
                for byte in &mut text[start..] {
                    if matches!(*byte, b'\n' | b'\r') {
                        *byte = b' ';
                    }
                }
            }
            Self::Object {
                key: key_fields,
                value: value_fields,
            } => {
                text.push(b'{');
                let mut first = true;
                if let Some(key) = key {
                    key_fields.push("key", key, &mut first, text)?;
                }
                value_fields.push("value", value, &mut first, text)?;
                text.push(b'}');
            }
        }
        text.push(b'\n');
        Ok(())
    }
}

/// Whether every row has a field for each of its columns. Without columns anything goes.
fn all_have_fields(rows: CellsRef<'_>, columns: usize) -> bool {
    columns == 0 || row::all_have_fields(rows, columns)
}

/// Whether a row has a field for each of its columns. Without columns anything goes.
#[inline]
fn has_fields(row: &[u8], columns: &[String]) -> bool {
    columns.is_empty() || row::count_fields(row) == Some(columns.len())
}

/// A row that has other fields than its columns would shift what a reader sees in each column. Out of
/// line: it is called only where some row of the batch is wrong.
#[cold]
fn check_fields(what: &str, row: &[u8], columns: &[String], from: &str) -> Result<(), String> {
    if has_fields(row, columns) {
        return Ok(());
    }
    let declared = format!(
        "but {from} declares {}: {}",
        counted(columns.len() as u64, "column"),
        listed(columns)
    );
    Err(match row::count_fields(row) {
        Some(fields) => format!(
            "the {what} has {}, {declared}",
            counted(fields as u64, "field")
        ),
        None => {
            format!("the {what} is not one row of CSV (a line break or an open quote), {declared}")
        }
    })
}

fn push_fields(cell: &[u8], is_row: bool, first: bool, text: &mut Vec<u8>) {
    if !is_row {
        return row::push_field(text, cell, first);
    }
    if !first {
        text.push(b',');
    }
    text.extend_from_slice(cell);
}

fn push_cell(cell: &[u8], base64: bool, text: &mut Vec<u8>) {
    if base64 {
        push_base64(cell, text)
    } else {
        text.extend_from_slice(cell)
    }
}

/// Base64 of RFC 4648 with padding.
fn push_base64(bytes: &[u8], text: &mut Vec<u8>) {
    let start = text.len();
    let len = base64::encoded_len(bytes.len(), true).expect("what is in memory is no longer");
    text.resize(start + len, 0);
    let written = BASE64_STANDARD.encode_slice(bytes, &mut text[start..]);
    debug_assert_eq!(written, Ok(len));
}

impl Fields {
    fn text(name: &str) -> Self {
        Self::Text(json_name(name))
    }

    /// Fields of `columns`, but for those that are among `others`.
    fn columns(columns: &[Column], others: &[Column]) -> Self {
        let named = |column: &Column| {
            let shadowed = others.iter().any(|other| other.name == column.name);
            ((!shadowed).then(|| json_name(&column.name)), column.kind)
        };
        Self::Columns(columns.iter().map(named).collect())
    }

    /// Appends the fields of `cell` to an open object.
    fn push(
        &self,
        what: &str,
        cell: &[u8],
        first: &mut bool,
        text: &mut Vec<u8>,
    ) -> Result<(), String> {
        let mut push = |name: &str, kind: ColumnKind, field: &[u8]| {
            if !std::mem::replace(first, false) {
                text.push(b',');
            }
            text.extend_from_slice(name.as_bytes());
            push_json(kind, field, text)
        };
        match self {
            Self::Text(name) => push(name, ColumnKind::Text, cell),
            Self::Columns(columns) => {
                let mut result = Ok(());
                let mut fields = 0;
                row::for_each_field(cell, |index, field| {
                    fields = index + 1;
                    if let Some((Some(name), kind)) = columns.get(index)
                        && result.is_ok()
                    {
                        result = push(name, *kind, field);
                    }
                });
                if fields != columns.len() {
                    return Err(format!(
                        "the {what} has {fields} fields, but {} are declared",
                        columns.len()
                    ));
                }
                result
            }
        }
    }
}

/// `"name":`
fn json_name(name: &str) -> String {
    format!("{}:", serde_json::Value::from(name))
}

/// Appends a field by its kind. A number or boolean that is none (`NA`, for example) is written as
/// text, and as null where it is empty.
fn push_json(kind: ColumnKind, field: &[u8], text: &mut Vec<u8>) -> Result<(), String> {
    let field = std::str::from_utf8(field)
        .map_err(|_| "a field is not UTF-8, so it does not fit JSON".to_owned())?;
    let as_is = match kind {
        ColumnKind::Text => false,
        _ if field.is_empty() => {
            text.extend_from_slice(b"null");
            return Ok(());
        }
        ColumnKind::Boolean => matches!(field, "true" | "false"),
        ColumnKind::Integer | ColumnKind::Float => is_json_number(field.as_bytes()),
    };
    if as_is {
        text.extend_from_slice(field.as_bytes());
        return Ok(());
    }
    serde_json::to_writer(text, field).map_err(|error| error.to_string())
}

/// Whether `text` is a number by the grammar of JSON: `-0.5e3`, but not `+1`, `.5`, `01` or `NaN`.
fn is_json_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(text);
    if whole == 0 || (whole > 1 && text[0] == b'0') {
        return false;
    }
    let mut rest = &text[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = &fraction[count..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent
            .strip_prefix(b"-")
            .or(exponent.strip_prefix(b"+"))
            .unwrap_or(exponent);
        let count = digits(exponent);
        return count > 0 && count == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests;
