//! CSV (RFC 4180) into rows.
//!
//! A row without quotes is its own row encoding, so it is copied as it stands once its fields are
//! counted; every other row goes through csv-core and is encoded again. Rows end with LF, CRLF or
//! CR; empty lines are no rows. A row with another number of fields than the header is an error, and so is
//! text after the closing quote of a field, which csv-core takes as a part of it: as a rule a quote was
//! opened rows before and never closed.
//!
//! Invariants, whatever the input is: each byte is looked at a fixed number of times, and what is kept of
//! a row is at most a few times as long as a record may be.

use std::collections::HashSet;
use std::io;

use csv_core::ReadRecordResult;
use dataflow::batch::NO_TIMESTAMP;
use dataflow::{Batch, row};
use job_file::hints::{excerpt, listed, suggest};
use memchr::{memchr_iter, memchr3};

use super::blocks::Blocks;
use super::outcome::{Counts, DecodeError, LeftOut, Stopped};
use super::plan::Plan;
use super::text_limits::TextLimits;

/// The commas of a row longer than this are counted before they are written down: there may be
/// millions.
const LONG_ROW: usize = 64 << 10;

/// The rows of one CSV stream after the other.
pub struct CsvRows {
    /// Number of columns; before the header was read the most there may be.
    width: usize,
    /// Whether the header was read.
    has_header: bool,
    /// Columns of the key's fields.
    key: Vec<usize>,
    /// Column of the event time.
    timestamp: Option<usize>,
    reader: csv_core::Reader,
    /// How much of the data is known to hold no special byte.
    scanned: usize,
    /// How far csv-core has come in the row that comes next.
    quoted: Option<Quoted>,
    /// The fields of a row that went through csv-core, one after the other, and where they end.
    fields: Vec<u8>,
    ends: Vec<usize>,
    /// Where the commas of a row without quotes are.
    commas: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Quoted {
    /// Bytes of the row that were read.
    read: usize,
    /// Bytes of its fields that were written.
    written: usize,
    /// Fields of it that have ended.
    fields: usize,
    /// Whether the row is complete, but the byte after it may be the second half of its CRLF.
    complete: bool,
}

/// A row that lies at the start of the data.
#[derive(Clone, Copy, Debug)]
enum Row {
    /// Its fields are the first `len` bytes, between commas.
    Plain { len: usize, consumed: usize },
    /// Its fields are in `fields`, this many of them.
    Quoted { fields: usize, consumed: usize },
    /// There is no row any more.
    Ended,
}

impl CsvRows {
    /// Rows of a stream whose header names at most `columns` columns.
    pub fn new(columns: usize) -> Self {
        Self {
            width: columns,
            has_header: false,
            key: Vec::new(),
            timestamp: None,
            reader: row_reader(),
            scanned: 0,
            quoted: None,
            fields: Vec::new(),
            ends: Vec::new(),
            commas: Vec::new(),
        }
    }

    /// Reads the header and finds the plan's fields in it. `false` if the stream is empty.
    ///
    /// # Errors
    /// The stream cannot be read, or the header lacks a field or differs from what the plan knows.
    pub fn read_header(
        &mut self,
        blocks: &mut Blocks,
        counts: &mut Counts,
        plan: &Plan,
    ) -> Result<bool, DecodeError> {
        let Some((names, consumed)) = self.read_names(blocks, counts)? else {
            return Ok(false);
        };
        if let Some(columns) = &plan.columns
            && *columns != names
        {
            let message = format!(
                "the header names the columns {}, but {} were expected",
                listed(&names),
                listed(columns)
            );
            return Err(DecodeError::Record(message));
        }
        let find = |name: &String| {
            names
                .iter()
                .position(|column| column == name)
                .ok_or_else(|| {
                    let known: Vec<&str> = names.iter().map(String::as_str).collect();
                    let hint = suggest(name, &known, "the columns are");
                    DecodeError::Record(format!("the header has no column `{name}`; {hint}"))
                })
        };
        self.key = plan.key.iter().map(find).collect::<Result<_, _>>()?;
        self.timestamp = plan
            .timestamp
            .as_ref()
            .map(|(name, _)| find(name))
            .transpose()?;
        self.consume(blocks, consumed, counts);
        Ok(true)
    }

    /// Reads a header, and says how much of the data it is; nothing of it is consumed, so that an error is
    /// one of its first line. `None` if the stream is empty.
    ///
    /// # Errors
    /// The stream cannot be read, or the header is not UTF-8 or names a column twice.
    pub fn read_names(
        &mut self,
        blocks: &mut Blocks,
        counts: &mut Counts,
    ) -> Result<Option<(Vec<String>, usize)>, DecodeError> {
        loop {
            let row = self.next(blocks, counts)?;
            let (names, consumed) = match row {
                Row::Ended => return Ok(None),
                Row::Plain { len: 0, consumed } => {
                    self.consume(blocks, consumed, counts);
                    continue;
                }
                Row::Plain { len, consumed } => {
                    let row = &blocks.data()[..len];
                    self.check_width(memchr_iter(b',', row).count() + 1)?;
                    let names = row.split(|byte| *byte == b',').map(<[u8]>::to_vec);
                    (names.collect::<Vec<_>>(), consumed)
                }
                Row::Quoted { fields, consumed } => {
                    self.check_width(fields)?;
                    let names = (0..fields).map(|index| self.field(index).to_vec());
                    (names.collect(), consumed)
                }
            };
            let names: Result<Vec<String>, _> = names.into_iter().map(String::from_utf8).collect();
            let names =
                names.map_err(|_| DecodeError::Record("the header is not UTF-8".to_owned()))?;
            let mut seen = HashSet::with_capacity(names.len());
            if let Some(name) = names.iter().find(|name| !seen.insert(name.as_str())) {
                let name = excerpt(name);
                let message = format!("the header names the column `{name}` twice");
                return Err(DecodeError::Record(message));
            }
            self.width = names.len();
            self.has_header = true;
            return Ok(Some((names, consumed)));
        }
    }

    /// Appends rows that begin before byte `end` of the stream to `batch`, until it is full.
    ///
    /// # Errors
    /// Why the row that comes next cannot be decoded; it has not been consumed then.
    pub fn decode(
        &mut self,
        blocks: &mut Blocks,
        end: u64,
        batch: &mut Batch,
        counts: &mut Counts,
        plan: &Plan,
    ) -> Result<Stopped, DecodeError> {
        while !batch.is_full() {
            if blocks.offset() >= end {
                return Ok(Stopped::Ended);
            }
            match self.next(blocks, counts)? {
                Row::Ended => return Ok(Stopped::Ended),
                Row::Plain { len, consumed } => {
                    if len > 0 {
                        self.push_plain(&blocks.data()[..len], batch, plan)?;
                        counts.records += 1;
                    }
                    counts.lines += 1;
                    self.scanned = 0;
                    blocks.consume(consumed);
                }
                Row::Quoted { fields, consumed } => {
                    self.push_quoted(fields, batch, plan)?;
                    counts.records += 1;
                    self.consume(blocks, consumed, counts);
                }
            }
        }
        Ok(Stopped::Full)
    }

    /// Consumes the row that comes next whatever it holds, if its end can be told. `None`, and nothing is consumed,
    /// if it cannot: a quote is not closed before the end or has text after it, or the row is longer than a record
    /// may be.
    ///
    /// # Errors
    /// The stream cannot be read; of kind [`ErrorKind::WouldBlock`]: the end has not come yet.
    pub(crate) fn leave_out(
        &mut self,
        blocks: &mut Blocks,
        counts: &mut Counts,
    ) -> io::Result<Option<LeftOut>> {
        let mut end = RowEnd::default();
        let found = loop {
            let data = blocks.data();
            let most = blocks.record_bytes();
            if let Some((len, consumed)) = end.find(data, blocks.ended()) {
                // However much is at hand: what is left out must not depend on that.
                let is_told = len <= most && broken_quote(&data[..len]).is_none();
                break is_told.then_some((len, consumed));
            }
            if blocks.ended() || end.at > most {
                break None;
            }
            blocks.fill()?;
        };
        self.reader = row_reader();
        (self.scanned, self.quoted) = (0, None);
        let Some((len, consumed)) = found else {
            return Ok(None);
        };
        let mut row = LeftOut::default();
        row.push(&blocks.data()[..len]);
        self.consume(blocks, consumed, counts);
        Ok(Some(row))
    }

    /// Consumes a row that may span lines.
    fn consume(&mut self, blocks: &mut Blocks, consumed: usize, counts: &mut Counts) {
        let row = &blocks.data()[..consumed];
        counts.lines += memchr_iter(b'\n', row).count() as u64 + u64::from(row.ends_with(b"\r"));
        self.scanned = 0;
        self.quoted = None;
        blocks.consume(consumed);
    }

    /// Finds the row that comes next. Says the same again until the row is consumed.
    #[inline]
    fn next(&mut self, blocks: &mut Blocks, counts: &Counts) -> Result<Row, DecodeError> {
        loop {
            if self.quoted.is_some() {
                return self.next_quoted(blocks, counts);
            }
            let data = blocks.data();
            let Some(found) = memchr3(b'\n', b'"', b'\r', &data[self.scanned..]) else {
                if blocks.ended() {
                    return Ok(Row::Ended);
                }
                self.scanned = data.len();
                blocks.fill()?;
                continue;
            };
            self.scanned += found;
            let len = self.scanned;
            match (data[len], data.get(len + 1)) {
                (b'\n', _) => {
                    check_length(len, blocks)?;
                    return Ok(Row::Plain {
                        len,
                        consumed: len + 1,
                    });
                }
                (b'\r', Some(b'\n')) => {
                    check_length(len, blocks)?;
                    return Ok(Row::Plain {
                        len,
                        consumed: len + 2,
                    });
                }
                // The end of the input adds a line end, so after a CR something follows at last.
                (b'\r', None) if !blocks.ended() => {
                    blocks.fill()?;
                }
                (b'\r', _) => {
                    check_length(len, blocks)?;
                    return Ok(Row::Plain {
                        len,
                        consumed: len + 1,
                    });
                }
                _ => self.quoted = Some(Quoted::default()),
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn next_quoted(&mut self, blocks: &mut Blocks, counts: &Counts) -> Result<Row, DecodeError> {
        let mut row = self.quoted.unwrap_or_default();
        loop {
            let data = blocks.data();
            let unread = &data[row.read..];
            if row.complete {
                // After a CR the next byte decides whether the row has a byte more.
                let after_cr = data[row.read - 1] == b'\r';
                if !after_cr || !unread.is_empty() || blocks.ended() {
                    let crlf = after_cr && unread.first() == Some(&b'\n');
                    check_length(row.read - 1, blocks)?;
                    check_quotes(&data[..row.read - 1], counts)?;
                    return Ok(Row::Quoted {
                        fields: row.fields,
                        consumed: row.read + usize::from(crlf),
                    });
                }
            }
            if unread.is_empty() {
                if blocks.ended() {
                    if data.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                        let rest = data.len();
                        blocks.consume(rest);
                        (self.quoted, self.scanned) = (None, 0);
                        return Ok(Row::Ended);
                    }
                    let error = DecodeError::Record("a quoted field is never closed".to_owned());
                    return Err(explain(error, blocks, counts));
                }
                if let Err(error) = blocks.fill() {
                    return Err(explain(error.into(), blocks, counts));
                }
                continue;
            }
            // With room for all of the input and one field more the reader stops only at the end
            // of the row or of the input, or to ask for room for more fields.
            let room = row.written + unread.len() + 1;
            if self.fields.len() < room {
                self.fields.resize(room, 0);
            }
            if self.ends.len() <= row.fields {
                if row.fields > self.width {
                    return Err(self.wrong_width(&format!("more than {}", self.width)));
                }
                self.ends.resize((self.ends.len() * 2).max(64), 0);
            }
            let (fields, ends) = (
                &mut self.fields[row.written..],
                &mut self.ends[row.fields..],
            );
            let (result, read, written, ended) = self.reader.read_record(unread, fields, ends);
            row.read += read;
            row.written += written;
            row.fields += ended;
            row.complete = result == ReadRecordResult::Record;
            self.quoted = Some(row);
        }
    }

    /// A field of the row that went through csv-core.
    fn field(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.fields[start..self.ends[index]]
    }

    #[inline]
    fn check_width(&self, fields: usize) -> Result<(), DecodeError> {
        if fields == self.width || (!self.has_header && fields < self.width) {
            return Ok(());
        }
        Err(self.wrong_width(&fields.to_string()))
    }

    #[cold]
    fn wrong_width(&self, fields: &str) -> DecodeError {
        DecodeError::Record(match self.has_header {
            true => {
                let plural = if fields == "1" { "" } else { "s" };
                let width = self.width;
                format!("has {fields} field{plural}, but the header names {width}")
            }
            false => format!(
                "the header names {fields} columns, and the source's `max-columns` is {}",
                self.width
            ),
        })
    }

    #[inline]
    fn push_plain(
        &mut self,
        row: &[u8],
        batch: &mut Batch,
        plan: &Plan,
    ) -> Result<(), DecodeError> {
        if self.key.is_empty() && self.timestamp.is_none() {
            self.check_width(memchr_iter(b',', row).count() + 1)?;
            batch.values.push(row);
            return Ok(());
        }
        if row.len() > LONG_ROW {
            self.check_width(memchr_iter(b',', row).count() + 1)?;
        }
        find_commas(row, &mut self.commas);
        self.check_width(self.commas.len() + 1)?;
        let field = |index: usize| {
            let start = if index == 0 {
                0
            } else {
                self.commas[index - 1] + 1
            };
            &row[start..self.commas.get(index).copied().unwrap_or(row.len())]
        };
        if let Some(index) = self.timestamp {
            push_timestamp(field(index), batch, plan)?;
        }
        match self.key[..] {
            [] => {}
            [index] => batch.keys.push(field(index)),
            _ => batch.keys.push_with(|key| {
                for (place, index) in self.key.iter().enumerate() {
                    if place > 0 {
                        key.push(b',');
                    }
                    key.extend_from_slice(field(*index));
                }
            }),
        }
        batch.values.push(row);
        Ok(())
    }

    fn push_quoted(
        &mut self,
        fields: usize,
        batch: &mut Batch,
        plan: &Plan,
    ) -> Result<(), DecodeError> {
        self.check_width(fields)?;
        if let Some(index) = self.timestamp {
            push_timestamp(self.field(index), batch, plan)?;
        }
        if !self.key.is_empty() {
            batch.keys.push_with(|key| {
                for (place, index) in self.key.iter().enumerate() {
                    row::push_field(key, self.field(*index), place == 0);
                }
            });
        }
        batch.values.push_with(|value| {
            for index in 0..fields {
                row::push_field(value, self.field(index), index == 0);
            }
        });
        Ok(())
    }
}

/// A reader in the middle of a stream.
fn row_reader() -> csv_core::Reader {
    let mut reader = csv_core::Reader::new();
    // csv-core skips a byte order mark at its first call, but that call may come in the middle
    // of the stream. An empty line makes it the second.
    reader.read_record(b"\n", &mut [0], &mut [0]);
    reader
}

/// Looks for the end of a row by its quotes alone, as csv-core does.
#[derive(Default)]
struct RowEnd {
    /// How much was looked at.
    at: usize,
    field: Field,
}

/// Where in a field a place is.
#[derive(Clone, Copy, Default)]
enum Field {
    /// At its beginning: only here a quote opens it.
    #[default]
    Start,
    Unquoted,
    Quoted,
    /// After a quote in a quoted one: the end, unless another quote follows.
    Closed,
}

impl RowEnd {
    /// How long the row is and how much it takes with its line end, if it ends in `data`, which begins with the row
    /// and is not shorter than before. `is_all`: nothing comes after it.
    fn find(&mut self, data: &[u8], is_all: bool) -> Option<(usize, usize)> {
        while let Some(byte) = data.get(self.at) {
            self.field = match (self.field, byte) {
                (Field::Start | Field::Closed, b'"') => Field::Quoted,
                (Field::Quoted, b'"') => Field::Closed,
                (Field::Quoted, _) => Field::Quoted,
                (_, b'\n') => return Some((self.at, self.at + 1)),
                (_, b'\r') => {
                    return match data.get(self.at + 1) {
                        Some(b'\n') => Some((self.at, self.at + 2)),
                        None if !is_all => None,
                        _ => Some((self.at, self.at + 1)),
                    };
                }
                (_, b',') => Field::Start,
                _ => Field::Unquoted,
            };
            self.at += 1;
        }
        None
    }
}

/// Whether a row is no longer than it may be.
#[inline]
fn check_length(len: usize, blocks: &Blocks) -> Result<(), DecodeError> {
    match len <= blocks.record_bytes() {
        true => Ok(()),
        false => Err(DecodeError::Record(TextLimits::too_long(
            blocks.record_bytes(),
        ))),
    }
}

/// Whether nothing follows the closing quotes of a row's fields.
fn check_quotes(row: &[u8], counts: &Counts) -> Result<(), DecodeError> {
    match broken_quote(row) {
        Some(broken @ BrokenQuote::Followed(_)) => Err(DecodeError::Record(
            "text follows the closing quote of a field".to_owned() + &broken.place(row, counts),
        )),
        _ => Ok(()),
    }
}

/// Adds to the error of a row that has no end where its quotes are broken: the row may have begun long before.
#[cold]
fn explain(error: DecodeError, blocks: &Blocks, counts: &Counts) -> DecodeError {
    // That there is nothing to read now is no error of the row, and comes again and again.
    let DecodeError::Record(mut message) = error else {
        return error;
    };
    let row = blocks.data();
    if let Some(broken) = broken_quote(row) {
        message += &broken.place(row, counts);
    }
    DecodeError::Record(message)
}

/// What is wrong with the quotes of a row, and at which of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BrokenQuote {
    /// A quote that is not closed.
    Open(usize),
    /// Text after a closing quote.
    Followed(usize),
}

impl BrokenQuote {
    /// Where that is, to be added to a message, if it is in another line than the row begins in.
    fn place(self, row: &[u8], counts: &Counts) -> String {
        let (what, at) = match self {
            Self::Open(at) => ("the quote that is not closed is", at),
            Self::Followed(at) => ("the text after a closing quote is", at),
        };
        match memchr_iter(b'\n', &row[..at]).count() as u64 {
            0 => String::new(),
            more => format!("; {what} in line {}", counts.lines + 1 + more),
        }
    }
}

/// The first broken quote of a row, if there is one. Looks at quotes alone: each row with a quote passes here.
fn broken_quote(row: &[u8]) -> Option<BrokenQuote> {
    let mut quotes = quotes(row);
    while let Some(open) = quotes.next() {
        // Only at the beginning of a field a quote opens it.
        if open > 0 && !matches!(row[open - 1], b',' | b'\n' | b'\r') {
            continue;
        }
        loop {
            let Some(close) = quotes.next() else {
                return Some(BrokenQuote::Open(open));
            };
            match row.get(close + 1) {
                // A doubled quote is one within the field.
                Some(b'"') => drop(quotes.next()),
                Some(b',' | b'\n' | b'\r') | None => break,
                Some(_) => return Some(BrokenQuote::Followed(close + 1)),
            }
        }
    }
    None
}

/// Writes down where the commas of a row are. Fields are short: looking at eight bytes at once beats
/// a search that starts again after every comma.
#[inline]
fn find_commas(row: &[u8], commas: &mut Vec<usize>) {
    commas.clear();
    let (chunks, rest) = row.as_chunks::<8>();
    for (index, chunk) in chunks.iter().enumerate() {
        let mut found = equal::<b','>(*chunk);
        while found != 0 {
            commas.push(index * 8 + found.trailing_zeros() as usize / 8);
            found &= found - 1;
        }
    }
    let start = row.len() - rest.len();
    commas.extend(
        rest.iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b',')
            .map(|(index, _)| start + index),
    );
}

/// Where the quotes of a row are.
fn quotes(row: &[u8]) -> impl Iterator<Item = usize> {
    let (chunks, rest) = row.as_chunks::<8>();
    let start = row.len() - rest.len();
    let in_chunks = chunks.iter().enumerate().flat_map(|(index, chunk)| {
        let mut found = equal::<b'"'>(*chunk);
        std::iter::from_fn(move || {
            let bit = (found != 0).then(|| found.trailing_zeros())?;
            found &= found - 1;
            Some(index * 8 + bit as usize / 8)
        })
    });
    let in_rest = rest.iter().enumerate().filter(|(_, byte)| **byte == b'"');
    in_chunks.chain(in_rest.map(move |(index, _)| start + index))
}

/// The highest bit of each of eight bytes that are this one, and no other.
#[inline]
fn equal<const BYTE: u8>(eight: [u8; 8]) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let bytes = u64::from_le_bytes(eight) ^ u64::from_le_bytes([BYTE; 8]);
    !(((bytes & LOW) + LOW) | bytes | LOW)
}

#[inline]
fn push_timestamp(field: &[u8], batch: &mut Batch, plan: &Plan) -> Result<(), DecodeError> {
    let Some((name, format)) = &plan.timestamp else {
        return Ok(());
    };
    let time = format
        .read(field)
        .map_err(|message| DecodeError::Record(format!("column `{name}` {message}")))?;
    batch.timestamps.resize(batch.values.len(), NO_TIMESTAMP);
    batch.timestamps.push(time);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c164_broken_quotes_are_found() {
        use BrokenQuote::{Followed, Open};
        for (row, broken) in [
            ("\"a", Some(Open(0))),
            ("\"", Some(Open(0))),
            ("a,\"b\nc", Some(Open(2))),
            ("\"a\"\"b\",\"c\"\"", Some(Open(7))),
            ("\"a\nb\",x\"y,\"c,\nd\"\"", Some(Open(10))),
            ("\"a\"b", Some(Followed(3))),
            ("\"\"\"\" ,\"c", Some(Followed(4))),
            ("a,\"b\nc,\"d\"\n", Some(Followed(8))),
            ("\"a\",b", None),
            ("\"a\"\n", None),
            ("a\"b", None),
            ("", None),
        ] {
            assert_eq!(broken_quote(row.as_bytes()), broken, "{row:?}");
        }
    }

    #[test]
    fn commas_and_quotes_are_found_wherever_they_stand() {
        let mut state = 1_u64;
        for len in 0..200 {
            let row: Vec<u8> = (0..len)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    [b',', b'-', b',' + 0x80, 0, 0xff, b'"', b'"' + 0x80]
                        [(state >> 33) as usize % 7]
                })
                .collect();
            let mut commas = vec![7];
            find_commas(&row, &mut commas);
            let found = |byte| memchr_iter(byte, &row).collect::<Vec<_>>();
            assert_eq!(commas, found(b','), "{row:?}");
            assert_eq!(quotes(&row).collect::<Vec<_>>(), found(b'"'), "{row:?}");
        }
    }
}
