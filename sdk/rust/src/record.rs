//! What an operator is given: records, and the batch they come in.

mod key;

pub use key::{CurrentKey, Key, Whole};

use std::borrow::Cow;
use std::fmt;

use crate::bindings::highwater::operator::types as wit;
use crate::call::{Call, NO_TIMESTAMP, NONE};
use crate::cells::Cells;
use crate::error::{Error, Result};
use crate::fields::{FieldRef, Fields, FromField};
use crate::open::Kind;
use key::{Form, text};

/// What is known about the records of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub(crate) rows: bool,
    pub(crate) columns: Vec<String>,
    pub(crate) port: wit::Port,
}

impl Input {
    pub(crate) fn of(port: &wit::Port) -> Self {
        let columns = match &port.format {
            wit::Format::Row(columns) => columns.iter().map(|column| column.name.clone()).collect(),
            _ => Vec::new(),
        };
        Self {
            rows: matches!(port.format, wit::Format::Row(_)),
            columns,
            port: port.clone(),
        }
    }

    /// An input about which nothing is known.
    pub(crate) fn unknown() -> Self {
        Self::of(&wit::Port {
            name: "in".to_owned(),
            keyed: true,
            key_columns: Vec::new(),
            format: wit::Format::Row(Vec::new()),
        })
    }

    /// The name of what feeds it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.port.name
    }

    /// Whether its records have keys.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        self.port.keyed
    }

    /// Names of the value's columns, empty where they are not declared.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// What the text of the value's column with this name stands for; `None` if there is no such column.
    #[must_use]
    pub fn kind(&self, column: &str) -> Option<Kind> {
        let wit::Format::Row(columns) = &self.port.format else {
            return None;
        };
        let column = columns.iter().find(|other| other.name == column)?;
        Some(column.kind.into())
    }

    /// The columns of the key with their kinds, empty where they are not declared.
    #[must_use]
    pub fn key_columns(&self) -> Vec<(&str, Kind)> {
        let columns = self.port.key_columns.iter();
        columns
            .map(|column| (column.name.as_str(), column.kind.into()))
            .collect()
    }

    /// Whether its values are rows.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        self.rows
    }

    /// The column with this name.
    pub(crate) fn column(&self, name: &str) -> Result<Column> {
        if let Some(index) = self.columns.iter().position(|column| column == name) {
            return Ok(Column(index));
        }
        if self.columns.is_empty() {
            return Err(Error::config(format_args!(
                "`{}` declares no columns, so there is no column `{name}` in it; a source declares them \
                 with `format = \"csv\"`, an operator where it declares its output",
                self.name()
            )));
        }
        Err(Error::config(format_args!(
            "`{}` has no column `{name}`; it has {}{}",
            self.name(),
            listed(&self.columns),
            separated_by(&self.columns)
        )))
    }
}

/// How many names of columns a message lists, and how many characters of each: input names its columns
/// itself.
const LISTED: usize = 40;
const SHOWN: usize = 60;

fn listed(columns: &[String]) -> String {
    let names = columns.iter().take(LISTED).map(|name| {
        let shown: String = name.chars().take(SHOWN).collect();
        let cut = if shown.len() < name.len() { "…" } else { "" };
        format!("`{shown}{cut}`")
    });
    let names: Vec<String> = names.collect();
    let more = match columns.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.join(", ") + &more
}

/// A header that is one column with another separator in it was most likely not meant as one.
fn separated_by(columns: &[String]) -> &'static str {
    match columns {
        [one] if one.contains(';') => " (separated by semicolons? Highwater reads commas)",
        [one] if one.contains('\t') => " (separated by tabs? Highwater reads commas)",
        [one] if one.contains('|') => " (separated by `|`? Highwater reads commas)",
        _ => "",
    }
}

/// Where a field stands in the rows of an input; see [`OpenContext::column`](crate::OpenContext::column).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Column(usize);

impl Column {
    /// The field with this number, the first is 0.
    #[must_use]
    pub const fn at(index: usize) -> Self {
        Self(index)
    }

    /// The number of the field, the first is 0.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// Records that arrived together on one input.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    columns: &'a wit::Batch,
    /// The keys, which the call holds while it lasts.
    keys: &'a Cells,
    call: &'a Call,
    input: &'a Input,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(
        columns: &'a wit::Batch,
        keys: &'a Cells,
        call: &'a Call,
        input: &'a Input,
    ) -> Self {
        Self {
            columns,
            keys,
            call,
            input,
        }
    }

    /// Number of records.
    #[must_use]
    pub fn len(self) -> usize {
        self.columns.values.count()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Number of the input on which they arrived.
    #[must_use]
    pub fn input(self) -> u32 {
        self.columns.input
    }

    /// The records in order. As it goes it makes each record the current one, the one that states and
    /// the emitter are about.
    #[must_use]
    pub fn records(self) -> Records<'a> {
        Records {
            batch: self,
            next: 0,
            count: self.len(),
        }
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("input", &self.input())
            .field("len", &self.len())
            .finish()
    }
}

/// The records of a [`Batch`].
#[derive(Debug)]
pub struct Records<'a> {
    batch: Batch<'a>,
    next: usize,
    count: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        let Batch { columns, call, .. } = self.batch;
        let index = self.next;
        if index == self.count {
            call.leave_record();
            return None;
        }
        self.next += 1;
        let key = columns.key_numbers.get(index).copied().unwrap_or(NONE);
        let timestamp = columns
            .timestamps
            .get(index)
            .copied()
            .unwrap_or(NO_TIMESTAMP);
        call.enter_record(index as u32, key, timestamp);
        Some(Record {
            batch: self.batch,
            index,
            key,
            timestamp,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count - self.next, Some(self.count - self.next))
    }
}

impl ExactSizeIterator for Records<'_> {}

/// One record: a value, maybe a key, maybe an event time.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    batch: Batch<'a>,
    index: usize,
    key: u32,
    timestamp: i64,
}

impl<'a> Record<'a> {
    /// The key. A record without one has an empty key that, emitted, stays none.
    #[must_use]
    #[inline(always)]
    pub fn key(self) -> Key<'a> {
        let Batch {
            keys, call, input, ..
        } = self.batch;
        // Without keyed state the host does not number keys: there is one for each record.
        let number = if self.key == NONE {
            self.index as u32
        } else {
            self.key
        };
        Key::numbered(keys, number, input, call)
    }

    /// Number of the key within the batch, below the number of its distinct keys: for tables made by
    /// [`Operator::process_batch`](crate::Operator::process_batch). `None` without keyed state.
    #[must_use]
    #[inline]
    pub fn key_number(self) -> Option<u32> {
        Some(self.key).filter(|&key| key != NONE)
    }

    /// The value as it came: a row on an input of rows.
    #[must_use]
    #[inline]
    pub fn value(self) -> &'a [u8] {
        self.batch.columns.values.cell(self.index)
    }

    /// The value to be passed on: emitted it is what it was, however many fields that is.
    #[must_use]
    #[inline(always)]
    pub fn whole(self) -> Whole<'a> {
        let Batch {
            columns,
            call,
            input,
            ..
        } = self.batch;
        Whole {
            bytes: self.value(),
            form: Form::of(input.rows, || call.plain_values(&columns.values)),
        }
    }

    /// The value as one text. Of a row with one field this is the field without its quotes, of other
    /// rows the line. Fails if it is not UTF-8.
    pub fn text(self) -> Result<Cow<'a, str>> {
        text(self.value(), self.batch.input.rows)
    }

    /// The value read as a JSON document.
    #[cfg(feature = "serde")]
    pub fn json<T: serde::de::DeserializeOwned>(self) -> Result<T> {
        let document = if self.batch.input.rows {
            key::lone_field(self.value())
        } else {
            Cow::Borrowed(self.value())
        };
        Ok(serde_json::from_slice(&document)?)
    }

    /// The fields of the value, read as a row.
    #[must_use]
    #[inline]
    pub fn fields(self) -> Fields<'a> {
        Fields::new(self.value())
    }

    /// The field with this number (the first is 0), if the row is that long.
    #[must_use]
    #[inline]
    pub fn field(self, index: usize) -> Option<FieldRef<'a>> {
        self.fields().nth(index)
    }

    /// The field of the column with this name. Looks the name up each time; see
    /// [`OpenContext::column`](crate::OpenContext::column) for the way that does it once.
    pub fn field_named(self, name: &str) -> Result<FieldRef<'a>> {
        self.get(self.batch.input.column(name)?)
    }

    /// The field of a column.
    #[inline]
    pub fn get(self, column: Column) -> Result<FieldRef<'a>> {
        self.field(column.0).ok_or_else(|| self.too_short(column))
    }

    /// The fields of several columns, found in one walk along the row, in the order asked for.
    #[inline]
    pub fn columns<const N: usize>(self, columns: [Column; N]) -> Result<[FieldRef<'a>; N]> {
        let mut found = [None; N];
        let mut missing = N;
        for (index, field) in self.fields().enumerate() {
            for (column, found) in columns.iter().zip(&mut found) {
                if column.0 == index {
                    *found = Some(field);
                    missing -= 1;
                }
            }
            if missing == 0 {
                break;
            }
        }
        if missing > 0 {
            let column = columns
                .iter()
                .zip(&found)
                .find(|(_, found)| found.is_none())
                .map(|(column, _)| *column);
            return Err(self.too_short(column.unwrap_or(Column(0))));
        }
        Ok(found.map(|field| field.unwrap_or(FieldRef::EMPTY)))
    }

    /// The field of a column, read as a `T`.
    #[inline]
    pub fn parse<T: FromField>(self, column: Column) -> Result<T> {
        self.parse_field(column, self.get(column)?)
    }

    /// A field that was found in this column, read as a `T`.
    #[inline]
    pub(crate) fn parse_field<T: FromField>(
        self,
        column: Column,
        field: FieldRef<'a>,
    ) -> Result<T> {
        field
            .parse()
            .map_err(|error| error.context(self.describe(column)))
    }

    /// Event time in milliseconds since 1970-01-01 UTC.
    #[must_use]
    #[inline]
    pub fn timestamp(self) -> Option<i64> {
        Some(self.timestamp).filter(|&timestamp| timestamp != NO_TIMESTAMP)
    }

    /// Number of the input on which the record arrived.
    #[must_use]
    #[inline]
    pub fn input(self) -> u32 {
        self.batch.columns.input
    }

    #[cold]
    fn describe(self, column: Column) -> String {
        match self.batch.input.columns.get(column.0) {
            Some(name) => format!("column `{name}`"),
            None => format!("field {}", column.0),
        }
    }

    #[cold]
    fn too_short(self, column: Column) -> Error {
        let count = self.fields().count();
        Error::new(format_args!(
            "the row ends after {count} fields: {} is missing",
            self.describe(column)
        ))
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.key())
            .field("value", &String::from_utf8_lossy(self.value()))
            .field("timestamp", &self.timestamp())
            .finish()
    }
}
