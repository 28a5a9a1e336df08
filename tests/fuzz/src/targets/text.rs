//! CSV and JSON lines. The first two bytes choose the options of the source and the pieces in which the text
//! comes; the text follows.
//!
//! The oracle is a model of both formats ([`text_model`]) that knows no limits: the source
//! gives its records, with their keys and event times, up to the same first mistake, or some of the first of them
//! if a limit ends it. The same records and the same refusal come however the text comes. What a sink writes
//! is read as it was, by the source and by the model, and by serde_json: numbers and booleans as they were
//! written, everything else as text.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;

use dataflow::port::{Column, ColumnKind, Format, Port};
use dataflow::{Batch, row};
use formats::RecordFormat;
use formats::blocks::Blocks;
use formats::decoder::Decoder;
use formats::encoder::{Encoder, EncoderOptions};
use formats::outcome::{Counts, DecodeError, Stopped};
use formats::plan::Plan;
use formats::read_as::ReadAs;
use formats::text_limits::TextLimits;
use formats::timestamp::TimestampFormat;
use serde_json::value::RawValue;

use super::Target;
use super::text_model::{self, Record, Records, Wanted};
use crate::mutate::Random;

pub(super) const CSV: Target = Target {
    name: "csv",
    run: csv,
    words: &[
        b"\n",
        b"\r\n",
        b"\r",
        b"\"",
        b"\"\"",
        b",",
        b"k,v,t\n",
        b"\"k\",v\r\n",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\0",
        b"2026-01-01T00:00:00Z",
        b"2024-02-29T23:59:58.9876+01:30",
        b"1700000000000",
        b"\"a\nb\"",
        b"-1",
    ],
    bytes_max: 8 << 10,
    memory_max: 16 << 20,
};

pub(super) const JSON: Target = Target {
    name: "json",
    run: json,
    words: &[
        b"\n",
        b"\r\n",
        b"{\"k\":",
        b"\"v\":",
        b"\"t\":",
        b"}",
        b"[",
        b"]",
        b"\\u0000",
        b"\\ud800",
        b"\\udc00",
        b"\\\"",
        b"null",
        b"true",
        b"1e999",
        b"-0",
        b"0.1",
        b"\xef\xbb\xbf",
        b"\"\\u006b\":",
        b"[[[[[[[[",
        b"]]]]]]]]",
        b",",
        b"2026-01-01T00:00:00Z",
        b"1700000000000",
        b" ",
        b"\t",
    ],
    bytes_max: 8 << 10,
    memory_max: 16 << 20,
};

/// What becomes of a text.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    records: Vec<Record>,
    counts: Counts,
    refused: Option<String>,
}

/// Gives out a text in pieces; sometimes it has nothing for the moment.
struct Pieces {
    text: Vec<u8>,
    at: usize,
    most: usize,
    random: Random,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.random.below(4) == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = 1 + self.random.below(self.most);
        let count = count.min(buffer.len()).min(self.text.len() - self.at);
        buffer[..count].copy_from_slice(&self.text[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// What the first byte chooses.
fn plan(format: RecordFormat, choice: u8) -> Arc<Plan> {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let small = choice & 1 != 0;
    Arc::new(Plan {
        read_as: ReadAs {
            format,
            key: Vec::new(),
            timestamp: None,
        },
        format,
        key: match choice >> 1 & 3 {
            0 => names(&[]),
            1 => names(&["k"]),
            _ => names(&["v", "k"]),
        },
        timestamp: match choice >> 3 & 3 {
            1 => Some((
                "t".to_owned(),
                TimestampFormat::parse("rfc3339").expect("it is one"),
            )),
            2 => Some((
                "t".to_owned(),
                TimestampFormat::parse("unix-ms").expect("it is one"),
            )),
            _ => None,
        },
        columns: None,
        limits: TextLimits {
            record_bytes: if small { 24 } else { 1 << 20 },
            columns: if small { 3 } else { 100 },
            depth: if small { 4 } else { 128 },
        },
    })
}

fn decoded(plan: &Arc<Plan>, input: Box<dyn Read + Send>) -> Outcome {
    let mut blocks = Blocks::new(input, 0, plan.limits.record_bytes);
    let mut decoder = Decoder::new(Arc::clone(plan));
    let mut outcome = Outcome {
        records: Vec::new(),
        counts: Counts::default(),
        refused: None,
    };
    loop {
        let begun = blocks.skip_byte_order_mark().map_err(DecodeError::from);
        match begun.and_then(|()| decoder.read_header(&mut blocks, &mut outcome.counts)) {
            Ok(_) => break,
            Err(DecodeError::Read(error)) if error.kind() == ErrorKind::WouldBlock => {}
            Err(DecodeError::Read(error)) => panic!("memory is read: {error}"),
            Err(DecodeError::Record(message)) => {
                outcome.refused = Some(refusal(message));
                return outcome;
            }
        }
    }
    loop {
        let mut batch = Batch::default();
        let stopped = decoder.decode(&mut blocks, u64::MAX, &mut batch, &mut outcome.counts);
        for index in 0..batch.len() {
            let key = batch.is_keyed().then(|| batch.keys.get(index).to_vec());
            let time = batch.timestamps.get(index).copied();
            outcome
                .records
                .push((key, batch.values.get(index).to_vec(), time));
        }
        assert_eq!(outcome.records.len() as u64, outcome.counts.records);
        match stopped {
            Ok(Stopped::Full | Stopped::Blocked) => {}
            Ok(Stopped::Ended) => return outcome,
            Err(DecodeError::Record(message)) => {
                outcome.refused = Some(refusal(message));
                return outcome;
            }
            Err(DecodeError::Read(error)) => panic!("memory is read: {error}"),
        }
    }
}

/// Stands for a refusal by a limit.
const BEYOND: &str = "beyond a limit";

/// A refusal as far as it may not depend on the pieces: which of two limits a record exceeds first does, and
/// whether a quote was open there; and what else is wrong with it may be seen before it is too long, or not.
fn refusal(message: String) -> String {
    let limits = ["`max-record-size`", "`max-columns`"];
    match limits.iter().any(|limit| message.contains(limit)) {
        true => BEYOND.to_owned(),
        false => message,
    }
}

/// Decodes a text whole and in pieces, which must not differ.
fn read(plan: &Arc<Plan>, pieces: u8, text: &[u8]) -> Outcome {
    let whole = decoded(plan, Box::new(io::Cursor::new(text.to_vec())));
    let in_pieces = Pieces {
        text: text.to_vec(),
        at: 0,
        most: [1, 3, 50, 1000][usize::from(pieces % 4)],
        random: Random::new(u64::from(pieces)),
    };
    let mut in_pieces = decoded(plan, Box::new(in_pieces));
    let (of_whole, of_pieces) = (whole.refused.as_deref(), in_pieces.refused.as_deref());
    let is_beyond = of_whole == Some(BEYOND) || of_pieces == Some(BEYOND);
    if is_beyond && of_whole.is_some() && of_pieces.is_some() {
        in_pieces.refused.clone_from(&whole.refused);
    }
    assert_eq!(whole, in_pieces, "the records depend on the pieces");
    if let Some(message) = &whole.refused {
        assert!(
            !message.is_empty() && message.len() < 4096,
            "a message of {} bytes",
            message.len()
        );
    }
    whole
}

/// What a plan asks of the model.
fn wanted(plan: &Plan) -> Wanted<'_> {
    Wanted {
        key: &plan.key,
        timestamp: plan.timestamp.as_ref().map(|(name, format)| {
            let read: text_model::Time = match format {
                TimestampFormat::Rfc3339 => text_model::rfc3339,
                _ => text_model::unix_ms,
            };
            (name.as_str(), read)
        }),
    }
}

/// Holds an outcome to what the model says.
fn compare(outcome: &Outcome, (records, wrong): &Records) {
    let count = outcome.records.len();
    let is_beyond = outcome.refused.as_deref() == Some(BEYOND);
    assert!(
        records.get(..count) == Some(&outcome.records),
        "the records are not those of the model: {:?}, {records:?}",
        outcome.records
    );
    assert!(
        is_beyond || (count == records.len() && *wrong == outcome.refused.is_some()),
        "the model has {} records and says {wrong}: {:?} after {count}",
        records.len(),
        outcome.refused
    );
}

fn port(format: Format) -> Port {
    Port {
        name: "out".to_owned(),
        keyed: false,
        key_columns: Vec::new(),
        format,
    }
}

/// Columns of these kinds, one after the other.
fn columns(count: usize, kinds: &[ColumnKind]) -> Vec<Column> {
    let column = |index| Column {
        name: format!("c{index}"),
        kind: kinds[index % kinds.len()],
    };
    (0..count).map(column).collect()
}

fn encoder(format: RecordFormat, header: bool, port: &Port) -> Encoder {
    let options = EncoderOptions {
        format: Some(format),
        header,
        with_key: false,
    };
    Encoder::new(&options, std::slice::from_ref(port))
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// Rows of fields that are drawn from the bytes.
fn rows(text: &[u8], columns: usize) -> (Batch, Vec<Vec<Vec<u8>>>) {
    let fields: Vec<Vec<u8>> = text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let rows: Vec<Vec<Vec<u8>>> = fields
        .chunks_exact(columns)
        .map(<[Vec<u8>]>::to_vec)
        .collect();
    let mut batch = Batch::default();
    for fields in &rows {
        let mut value = Vec::new();
        for (index, field) in fields.iter().enumerate() {
            row::push_field(&mut value, field, index == 0);
        }
        batch.push(None, &value, 0);
    }
    (batch, rows)
}

fn csv(input: &[u8]) {
    let Some(([choice, pieces], text)) = input.split_first_chunk::<2>() else {
        return;
    };
    let plan_of_text = plan(RecordFormat::Csv, *choice);
    let outcome = read(&plan_of_text, *pieces, text);
    compare(&outcome, &text_model::csv(text, &wanted(&plan_of_text)));
    for (_, value, _) in &outcome.records {
        let mut fields = 0;
        row::for_each_field(value, |_, _| fields += 1);
        assert!(
            fields <= plan_of_text.limits.columns,
            "a record of {fields} columns"
        );
        // Quotes of the row encoding may be more than those of the text, by one for each byte.
        assert!(
            value.len() <= 3 * plan_of_text.limits.record_bytes + 2,
            "a record of {} bytes",
            value.len()
        );
    }

    // What is written is read as it was.
    let count = 1 + usize::from(choice >> 5);
    let port = port(Format::Row(columns(count, &[ColumnKind::Text])));
    let encoder = encoder(RecordFormat::Csv, true, &port);
    let (batch, rows) = rows(text, count);
    let mut written = encoder.header().to_vec();
    let fits = encoder.fits(&batch);
    for index in 0..batch.len() {
        encoder
            .encode(&batch, index, fits, &mut written)
            .unwrap_or_else(|error| panic!("it is not written: {error}"));
    }
    let again = read(&plan(RecordFormat::Csv, 0), *pieces, &written);
    assert_eq!(again.refused, None);
    let found: Vec<Vec<Vec<u8>>> = again
        .records
        .iter()
        .map(|(_, value, _)| {
            let mut fields = Vec::new();
            row::for_each_field(value, |_, field| fields.push(field.to_vec()));
            fields
        })
        .collect();
    assert_eq!(found, rows, "what was written is not what is read");
    let nothing = Wanted {
        key: &[],
        timestamp: None,
    };
    compare(&again, &text_model::csv(&written, &nothing));
}

fn json(input: &[u8]) {
    let Some(([choice, pieces], text)) = input.split_first_chunk::<2>() else {
        return;
    };
    let plan_of_text = plan(RecordFormat::JsonLines, *choice);
    let outcome = read(&plan_of_text, *pieces, text);
    let model = text_model::json(text, &wanted(&plan_of_text), plan_of_text.limits.depth);
    if let Some(model) = model {
        compare(&outcome, &model);
    }

    // What a source reads, a sink writes, and a source reads again.
    let document = encoder(RecordFormat::JsonLines, false, &port(Format::Json));
    let mut batch = Batch::default();
    for (_, value, _) in &outcome.records {
        assert!(
            value.len() <= plan_of_text.limits.record_bytes,
            "a record of {} bytes",
            value.len()
        );
        let parsed: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(value);
        assert!(parsed.is_ok(), "a record that is no JSON");
        batch.push(None, value, 0);
    }
    let mut written = Vec::new();
    let fits = document.fits(&batch);
    for index in 0..batch.len() {
        document
            .encode(&batch, index, fits, &mut written)
            .unwrap_or_else(|error| panic!("it is not written: {error}"));
    }
    let again = read(&plan(RecordFormat::JsonLines, 0), *pieces, &written);
    assert_eq!(again.refused, None);
    // A carriage return between the parts of a document is space, and is written as such.
    let expected = outcome.records.iter().map(|(_, value, _)| {
        let space = |byte: &u8| if *byte == b'\r' { b' ' } else { *byte };
        value.iter().map(space).collect::<Vec<u8>>()
    });
    assert!(
        again.records.iter().map(|it| it.1.clone()).eq(expected),
        "what was written is not what is read"
    );

    // Fields become members of an object.
    let count = 1 + usize::from(choice >> 5);
    let kinds = match pieces & 128 == 0 {
        true => vec![ColumnKind::Text],
        false => vec![
            ColumnKind::Integer,
            ColumnKind::Text,
            ColumnKind::Boolean,
            ColumnKind::Float,
        ],
    };
    let columns = columns(count, &kinds);
    let object = encoder(
        RecordFormat::JsonLines,
        false,
        &port(Format::Row(columns.clone())),
    );
    let (batch, rows) = rows(text, count);
    let fits = object.fits(&batch);
    for (index, fields) in rows.iter().enumerate() {
        let mut line = Vec::new();
        let is_text = fields
            .iter()
            .all(|field| std::str::from_utf8(field).is_ok());
        match object.encode(&batch, index, fits, &mut line) {
            Ok(()) => {
                assert!(is_text, "bytes that are no text become JSON");
                let members: BTreeMap<String, &RawValue> =
                    serde_json::from_slice(&line).expect("a sink writes JSON");
                assert_eq!(members.len(), count);
                for (column, field) in columns.iter().zip(fields) {
                    same_member(column, field, members[&column.name].get());
                }
                assert_eq!(
                    line.iter().filter(|byte| **byte == b'\n').count(),
                    1,
                    "a record is one line"
                );
            }
            Err(message) => assert!(!is_text && line.is_empty(), "it is not written: {message}"),
        }
    }
}

/// Whether a member of an object is what a field of this column becomes: a number or a boolean as it is
/// written if it is one, null if it is empty, a text otherwise.
fn same_member(column: &Column, field: &[u8], member: &str) {
    let field = std::str::from_utf8(field).expect("it is text");
    let plain = match column.kind {
        ColumnKind::Text => None,
        _ if field.is_empty() => Some("null"),
        ColumnKind::Boolean => Some(field).filter(|field| ["true", "false"].contains(field)),
        ColumnKind::Integer | ColumnKind::Float => {
            let is_value =
                serde_json::from_str::<&RawValue>(field).is_ok_and(|it| it.get() == field);
            let begins = field.starts_with(|first: char| first == '-' || first.is_ascii_digit());
            Some(field).filter(|_| is_value && begins)
        }
    };
    match plain {
        Some(plain) => assert_eq!(member, plain, "what was written is not what is read"),
        None => {
            let text: String = serde_json::from_str(member).expect("it is a text");
            assert_eq!(text, field, "what was written is not what is read");
        }
    }
}
