//! Where an operator's output goes.
//!
//! What is emitted is appended to columns that are handed to the host when the call ends, or before,
//! when they grow large. Their memory is used again for the next batch.

use std::fmt;
use std::rc::Rc;

use crate::bindings::highwater::operator::types as wit;
use crate::call::{Call, NO_TIMESTAMP};
use crate::cells::CellsWriter;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::record::CurrentKey;
use crate::row::{Row, RowWriter};

/// Bytes, those of the offsets included, at which an output is handed to the host within a call.
const FLUSH_BYTES: usize = 256 * 1024;

/// Emits records. Keys and values are anything that is a [`Row`].
///
/// A record emitted while a record is processed takes over its event time, one emitted while a timer of event
/// time fires the timer's. What a call emits counts only if the call returns ok.
pub struct Emitter {
    shared: Shared,
    outputs: Vec<Buffer>,
}

#[derive(Debug)]
struct Shared {
    call: Rc<Call>,
    host: Host,
}

/// What was emitted on one output and the host has not got yet.
#[derive(Debug)]
struct Buffer {
    number: u32,
    name: String,
    keyed: bool,
    /// Whether the output's format is rows: then fields are quoted where need be.
    rows: bool,
    /// Numbers of keys of the batch, as long as all keys are such.
    key_numbers: Vec<u32>,
    /// The keys, if not all are.
    keys: CellsWriter,
    values: CellsWriter,
    /// One for each value, or none as long as no record has event time.
    timestamps: Vec<i64>,
}

impl Emitter {
    pub(crate) fn new(call: Rc<Call>, host: Host, ports: &[wit::Port]) -> Self {
        let outputs = (0..)
            .zip(ports)
            .map(|(number, port)| Buffer {
                number,
                name: port.name.clone(),
                keyed: port.keyed,
                rows: matches!(port.format, wit::Format::Row(_)),
                key_numbers: Vec::new(),
                keys: CellsWriter::new(),
                values: CellsWriter::new(),
                timestamps: Vec::new(),
            })
            .collect();
        Self {
            shared: Shared { call, host },
            outputs,
        }
    }

    /// Emits a record on the first output.
    #[inline(always)]
    pub fn emit(&mut self, key: impl Row, value: impl Row) -> Result<()> {
        self.first().emit(key, value)
    }

    /// Emits a record without a key on the first output, which must be declared
    /// [`unkeyed`](crate::open::OutputBuilder::unkeyed).
    #[inline(always)]
    pub fn emit_unkeyed(&mut self, value: impl Row) -> Result<()> {
        self.first().emit_unkeyed(value)
    }

    /// Emits a record with an event time of its own (milliseconds since 1970-01-01 UTC) on the first
    /// output.
    #[inline(always)]
    pub fn emit_at(&mut self, timestamp: i64, key: impl Row, value: impl Row) -> Result<()> {
        self.first().emit_at(timestamp, key, value)
    }

    /// The key of the current record or timer, to emit under: `out.emit(out.key(), value)`.
    #[must_use]
    #[inline]
    pub fn key(&self) -> CurrentKey {
        CurrentKey::of(&self.shared.call)
    }

    /// The output with this name. If there is none, emitting on it fails.
    #[inline]
    pub fn to<'a>(&'a mut self, name: &'a str) -> Output<'a> {
        let Self { shared, outputs } = self;
        Output {
            shared,
            name,
            buffer: outputs.iter_mut().find(|output| output.name == name),
        }
    }

    #[inline(always)]
    fn first(&mut self) -> Output<'_> {
        let Self { shared, outputs } = self;
        Output {
            shared,
            name: "",
            buffer: outputs.first_mut(),
        }
    }

    /// Hands everything to the host.
    pub(crate) fn flush(&mut self) {
        self.outputs
            .iter_mut()
            .for_each(|output| output.flush(&self.shared.host));
    }

    /// Forgets what the host has not got yet.
    pub(crate) fn discard(&mut self) {
        self.outputs.iter_mut().for_each(Buffer::reset);
    }
}

/// One of an operator's outputs; see [`Emitter::to`].
pub struct Output<'a> {
    shared: &'a Shared,
    name: &'a str,
    buffer: Option<&'a mut Buffer>,
}

impl Output<'_> {
    /// Emits a record.
    #[inline(always)]
    pub fn emit(self, key: impl Row, value: impl Row) -> Result<()> {
        let timestamp = self.shared.call.timestamp();
        self.emit_at(timestamp, key, value)
    }

    /// Emits a record with an event time of its own, in milliseconds since 1970-01-01 UTC.
    #[inline(always)]
    pub fn emit_at(self, timestamp: i64, key: impl Row, value: impl Row) -> Result<()> {
        let Some(buffer) = self.buffer else {
            return Err(no_output(self.name));
        };
        if !buffer.keyed || key.is_absent() {
            return Err(buffer.wrong_key());
        }
        match key.key_number(buffer.rows) {
            Some(number) if buffer.keys.is_empty() => buffer.key_numbers.push(number),
            _ => buffer.push_key(key, self.shared),
        }
        buffer.push(timestamp, value, self.shared);
        Ok(())
    }

    /// Emits a record without a key; the output must be declared
    /// [`unkeyed`](crate::open::OutputBuilder::unkeyed).
    #[inline(always)]
    pub fn emit_unkeyed(self, value: impl Row) -> Result<()> {
        let Some(buffer) = self.buffer else {
            return Err(no_output(self.name));
        };
        if buffer.keyed {
            return Err(buffer.wrong_key());
        }
        buffer.push(self.shared.call.timestamp(), value, self.shared);
        Ok(())
    }
}

impl Buffer {
    /// Appends a key as bytes.
    #[inline]
    fn push_key(&mut self, key: impl Row, shared: &Shared) {
        if !self.key_numbers.is_empty() {
            self.spell_out(shared);
        }
        key.write(&mut RowWriter::new(&mut self.keys.bytes, self.rows));
        self.keys.seal();
    }

    /// Puts the bytes of keys in the place of their numbers: one came that has none.
    #[cold]
    #[inline(never)]
    fn spell_out(&mut self, shared: &Shared) {
        let keys = shared.call.keys();
        for number in self.key_numbers.drain(..) {
            self.keys.bytes.append(keys.cell(number as usize));
            self.keys.seal();
        }
    }

    #[inline(always)]
    fn push(&mut self, timestamp: i64, value: impl Row, shared: &Shared) {
        if timestamp != NO_TIMESTAMP || !self.timestamps.is_empty() {
            if self.timestamps.len() < self.values.count() {
                self.fill_timestamps();
            }
            self.timestamps.push(timestamp);
        }
        value.write(&mut RowWriter::new(&mut self.values.bytes, self.rows));
        self.values.seal();
        if self.keys.bytes.len() + self.values.bytes.len() + self.values.count() * 8 > FLUSH_BYTES {
            shared.call.hand_over();
            self.flush(&shared.host);
        }
    }

    /// Gives the records that came before the first one with an event time none.
    #[cold]
    #[inline(never)]
    fn fill_timestamps(&mut self) {
        self.timestamps.resize(self.values.count(), NO_TIMESTAMP);
    }

    #[cold]
    #[inline(never)]
    fn flush(&mut self, host: &Host) {
        if self.values.is_empty() {
            return;
        }
        let values = self.values.take();
        if self.key_numbers.is_empty() {
            let keys = self.keys.take();
            host.emit(self.number, &keys, &values, &self.timestamps);
            self.keys.put_back(keys);
        } else {
            host.emit_numbered(self.number, &self.key_numbers, &values, &self.timestamps);
            self.key_numbers.clear();
        }
        self.values.put_back(values);
        self.timestamps.clear();
    }

    fn reset(&mut self) {
        self.key_numbers.clear();
        self.keys.clear();
        self.values.clear();
        self.timestamps.clear();
    }

    #[cold]
    fn wrong_key(&self) -> Error {
        let name = &self.name;
        if self.keyed {
            return Error::new(format_args!(
                "output `{name}` carries keys and this record has none: emit it with a key, or declare the output \
                 with `ctx.output(\"{name}\").unkeyed()`"
            ));
        }
        Error::new(format_args!(
            "output `{name}` is declared without keys: use `emit_unkeyed`"
        ))
    }
}

#[cold]
fn no_output(name: &str) -> Error {
    Error::new(format_args!(
        "there is no output `{name}`: declare it in `open` with `ctx.output(\"{name}\")`"
    ))
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.outputs.iter().map(|output| &output.name))
            .finish()
    }
}

impl fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Output")
            .field(&self.buffer.as_ref().map(|buffer| &buffer.name))
            .finish()
    }
}
