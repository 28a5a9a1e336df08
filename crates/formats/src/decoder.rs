//! From text to records: lines, CSV and JSON lines into the columns of a batch.
//!
//! A [`Plan`] says what to make of the text and is the same for every split of a source; a
//! [`Decoder`] does it. Nothing is allocated per record. A record is consumed from the stream when
//! it is in the batch and not before, so the stream's offset is the source's position. A record
//! that cannot be read is reported by a call of its own, after all records before it.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

use dataflow::batch::NO_TIMESTAMP;
use dataflow::{Batch, row};
use memchr::{memchr, memchr_iter, memchr2};
use serde::de::IgnoredAny;

use super::blocks::{Blocks, Filled};
use super::csv_rows::CsvRows;
use super::format::RecordFormat;
use super::json_fields;
use super::outcome::{Counts, DecodeError, LeftOut, Stopped};
use super::plan::Plan;
use super::text_limits::TextLimits;

/// Decodes one stream after the other by the same plan.
pub struct Decoder {
    plan: Arc<Plan>,
    rows: CsvRows,
    json: JsonLines,
    failed: Option<DecodeError>,
    /// A line that is left out and whose end has not come yet.
    leaving_out: Option<LeftOut>,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new(plan: Arc<Plan>) -> Self {
        let names = plan
            .key
            .iter()
            .chain(plan.timestamp.iter().map(|(name, _)| name));
        let json = JsonLines {
            found: names.map(|_| None).collect(),
            key: Vec::new(),
        };
        Self {
            rows: CsvRows::new(plan.limits.columns),
            plan,
            json,
            failed: None,
            leaving_out: None,
        }
    }

    /// Reads the header of CSV, at the start of the stream; in other formats there is none and
    /// `false` is returned as for an empty stream.
    ///
    /// # Errors
    /// The stream cannot be read ([`ErrorKind::WouldBlock`]: not yet), or the header does not fit
    /// the plan.
    pub fn read_header(
        &mut self,
        blocks: &mut Blocks,
        counts: &mut Counts,
    ) -> Result<bool, DecodeError> {
        match self.plan.format {
            RecordFormat::Csv => self.rows.read_header(blocks, counts, &self.plan),
            RecordFormat::Lines | RecordFormat::JsonLines => Ok(false),
        }
    }

    /// Appends records that begin before byte `end` of the stream to `batch`, until it is full.
    ///
    /// # Errors
    /// Why the record that comes next, counted by `counts`, cannot be decoded.
    pub fn decode(
        &mut self,
        blocks: &mut Blocks,
        end: u64,
        batch: &mut Batch,
        counts: &mut Counts,
    ) -> Result<Stopped, DecodeError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let before = batch.len();
        let result = self.decode_format(blocks, end, batch, counts);
        if self.plan.timestamp.is_none() && !batch.timestamps.is_empty() {
            batch.timestamps.resize(batch.len(), NO_TIMESTAMP);
        }
        match result {
            Err(DecodeError::Read(error)) if error.kind() == ErrorKind::WouldBlock => {
                Ok(Stopped::Blocked)
            }
            // The error is kept, because a decompressor that is called again may take the broken place for an end.
            Err(error) if batch.len() > before => {
                self.failed = Some(error);
                Ok(Stopped::Full)
            }
            result => result,
        }
    }

    /// Consumes the record that [`Decoder::decode`] could not decode: a row of CSV, otherwise a line. A row whose
    /// end cannot be told, because a quote is not closed or because it is too long, is the line that it begins on.
    /// Returns what it was; `None` if its end has not come yet, and then this is to be called again before anything
    /// else is decoded.
    ///
    /// # Errors
    /// The stream cannot be read.
    pub fn leave_out(
        &mut self,
        blocks: &mut Blocks,
        counts: &mut Counts,
    ) -> io::Result<Option<LeftOut>> {
        if self.leaving_out.is_none() && self.plan.format == RecordFormat::Csv {
            match self.rows.leave_out(blocks, counts) {
                Ok(Some(row)) => return Ok(Some(row)),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let mut line = self.leaving_out.take().unwrap_or_default();
        loop {
            let data = blocks.data();
            let end = match self.plan.format {
                RecordFormat::Csv => memchr2(b'\n', b'\r', data),
                RecordFormat::Lines | RecordFormat::JsonLines => memchr(b'\n', data),
            };
            if let Some(at) = end {
                line.push(&data[..at]);
                let consumed = match &data[at..] {
                    [b'\r', b'\n', ..] => at + 2,
                    _ => at + 1,
                };
                blocks.consume(consumed);
                counts.lines += 1;
                line.strip_carriage_return();
                return Ok(Some(line));
            }
            // There may be more than memory holds.
            line.push(blocks.data());
            let len = blocks.data().len();
            blocks.consume(len);
            match blocks.fill() {
                Ok(Filled::Ended) if blocks.data().is_empty() => return Ok(Some(line)),
                Ok(_) => {}
                Err(error) => {
                    let blocked = error.kind() == ErrorKind::WouldBlock;
                    self.leaving_out = Some(line);
                    return if blocked { Ok(None) } else { Err(error) };
                }
            }
        }
    }

    fn decode_format(
        &mut self,
        blocks: &mut Blocks,
        end: u64,
        batch: &mut Batch,
        counts: &mut Counts,
    ) -> Result<Stopped, DecodeError> {
        let Self {
            plan, rows, json, ..
        } = self;
        match plan.format {
            RecordFormat::Csv => rows.decode(blocks, end, batch, counts, plan),
            RecordFormat::JsonLines => for_each_line(blocks, end, batch, counts, |line, batch| {
                let text = line.trim_ascii();
                if text.is_empty() {
                    return Ok(false);
                }
                json.push(text, batch, plan)?;
                Ok(true)
            }),
            RecordFormat::Lines if plan.key.is_empty() => {
                for_each_line(blocks, end, batch, counts, |line, batch| {
                    batch.values.push(line);
                    Ok(true)
                })
            }
            RecordFormat::Lines => for_each_line(blocks, end, batch, counts, |line, batch| {
                batch.keys.push(line);
                batch.values.push(line);
                Ok(true)
            }),
        }
    }
}

/// Calls `each` with the lines that begin before byte `end`, until the batch is full. `each` says
/// whether the line was a record.
fn for_each_line(
    blocks: &mut Blocks,
    end: u64,
    batch: &mut Batch,
    counts: &mut Counts,
    mut each: impl FnMut(&[u8], &mut Batch) -> Result<bool, String>,
) -> Result<Stopped, DecodeError> {
    loop {
        let base = blocks.offset();
        let scanned = blocks.searched();
        let data = blocks.data();
        let mut at = 0;
        let mut stop = batch.is_full().then_some(Ok(Stopped::Full));
        if stop.is_none() {
            for newline in memchr_iter(b'\n', &data[scanned..]) {
                if base + at as u64 >= end {
                    stop = Some(Ok(Stopped::Ended));
                    break;
                }
                let newline = scanned + newline;
                let line = &data[at..newline];
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if line.len() > blocks.record_bytes() {
                    let message = TextLimits::too_long(blocks.record_bytes());
                    stop = Some(Err(DecodeError::Record(message)));
                    break;
                }
                match each(line, batch) {
                    Ok(is_record) => counts.records += u64::from(is_record),
                    Err(message) => {
                        stop = Some(Err(DecodeError::Record(message)));
                        break;
                    }
                }
                counts.lines += 1;
                at = newline + 1;
                if batch.is_full() {
                    stop = Some(Ok(Stopped::Full));
                    break;
                }
            }
        }
        blocks.consume(at);
        if let Some(stop) = stop {
            return stop;
        }
        if blocks.offset() >= end {
            return Ok(Stopped::Ended);
        }
        blocks.set_searched();
        if blocks.fill()? == Filled::Ended && blocks.data().is_empty() {
            return Ok(Stopped::Ended);
        }
    }
}

/// JSON lines and the fields that are wanted of them.
struct JsonLines {
    /// Where the key's fields and the event time are in the line.
    found: Vec<Option<Range<usize>>>,
    key: Vec<u8>,
}

impl JsonLines {
    fn push(&mut self, text: &[u8], batch: &mut Batch, plan: &Plan) -> Result<(), String> {
        let valid = std::str::from_utf8(text).map_err(|_| "is not UTF-8".to_owned())?;
        serde_json::from_str::<IgnoredAny>(valid).map_err(|error| {
            format!("is not JSON: {error}").replace(" at line 1 column", " at column")
        })?;
        if let Some(at) = json_fields::too_deep(text, plan.limits.depth) {
            return Err(format!(
                "is nested deeper than {} at column {}; `max-depth` of the source allows more",
                plan.limits.depth,
                at + 1
            ));
        }
        if self.found.is_empty() {
            batch.values.push(text);
            return Ok(());
        }
        self.find(text, plan)?;
        let Self { found, key } = self;
        let value = |index: usize, name: &str| match &found[index] {
            Some(range) => json_fields::scalar_text(&text[range.clone()])
                .map_err(|message| format!("field `{name}` {message}")),
            None => Err(format!("has no field `{name}`")),
        };
        key.clear();
        for (index, name) in plan.key.iter().enumerate() {
            let field = value(index, name)?;
            match plan.key.len() {
                1 => key.extend_from_slice(&field),
                _ => row::push_field(key, &field, index == 0),
            }
        }
        if let Some((name, format)) = &plan.timestamp {
            let field = value(plan.key.len(), name)?;
            let time = format
                .read(&field)
                .map_err(|message| format!("field `{name}` {message}"))?;
            batch.timestamps.resize(batch.values.len(), NO_TIMESTAMP);
            batch.timestamps.push(time);
        }
        if !plan.key.is_empty() {
            batch.keys.push(key);
        }
        batch.values.push(text);
        Ok(())
    }

    fn find(&mut self, text: &[u8], plan: &Plan) -> Result<(), String> {
        self.found.fill(None);
        let time = plan.timestamp.as_ref().map(|(name, _)| name);
        let is_object = json_fields::for_each_field(text, |written, value| {
            for (place, name) in self.found.iter_mut().zip(plan.key.iter().chain(time)) {
                // Of a field that stands twice the last one counts, as for most readers of JSON.
                if json_fields::is_named(written, name) {
                    *place = Some(value.clone());
                }
            }
        });
        if is_object {
            Ok(())
        } else {
            Err("is not an object, so it has no fields".to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
