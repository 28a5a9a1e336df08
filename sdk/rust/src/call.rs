//! What the current exported call is about: its number, the current record and its key.
//!
//! One `Call` is shared by an operator's states and its emitter, so that `count.get()` needs no
//! argument. The record is set by [`Records`](crate::record::Records) as it goes.

use std::cell::{Cell, Ref, RefCell};

use crate::bytes::{Bytes, none_needs_quotes};
use crate::cells::Cells;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::index::{self, Index};
use crate::row::{Row, RowWriter};

/// No record, no key.
pub(crate) const NONE: u32 = u32::MAX;
/// The timestamp of a record without event time.
pub(crate) const NO_TIMESTAMP: i64 = i64::MIN;

#[derive(Debug)]
pub(crate) struct Call {
    /// Counts the calls; what a state has cached belongs to one.
    id: Cell<u64>,
    key: Cell<u32>,
    record: Cell<u32>,
    timestamp: Cell<i64>,
    /// The clocks, once the call has asked for them.
    watermark: Cell<Option<i64>>,
    processing_time: Cell<Option<i64>>,
    /// Whether an output grew so large that the host has a part of it already.
    handed_over: Cell<bool>,
    /// Whether keys are rows on the current input.
    key_rows: Cell<bool>,
    /// Whether no key, or no value, of the batch needs quotes in a row, once that was asked.
    plain_keys: Cell<Option<bool>>,
    plain_values: Cell<Option<bool>>,
    /// The distinct keys, if the host resolved them.
    keys: RefCell<Cells>,
    /// Numbers of keys by their bytes, filled when first asked for.
    numbers: RefCell<Index>,
    /// Where keys that are asked for are encoded.
    scratch: RefCell<Bytes>,
}

impl Call {
    pub(crate) fn new() -> Self {
        Self {
            id: Cell::new(0),
            key: Cell::new(NONE),
            record: Cell::new(NONE),
            timestamp: Cell::new(NO_TIMESTAMP),
            watermark: Cell::new(None),
            processing_time: Cell::new(None),
            handed_over: Cell::new(false),
            key_rows: Cell::new(true),
            plain_keys: Cell::new(None),
            plain_values: Cell::new(None),
            keys: RefCell::new(Cells::empty()),
            numbers: RefCell::default(),
            scratch: RefCell::default(),
        }
    }

    /// A call begins whose keys, if they were numbered, are `keys`.
    pub(crate) fn begin(&self, keys: Cells, key_rows: bool) {
        self.id.set(self.id.get() + 1);
        self.leave_record();
        self.watermark.set(None);
        self.processing_time.set(None);
        self.handed_over.set(false);
        self.key_rows.set(key_rows);
        self.plain_keys.set(None);
        self.plain_values.set(None);
        *self.keys.borrow_mut() = keys;
        self.numbers.borrow_mut().clear();
    }

    #[inline]
    pub(crate) fn enter_record(&self, record: u32, key: u32, timestamp: i64) {
        self.record.set(record);
        self.key.set(key);
        self.timestamp.set(timestamp);
    }

    /// A timer of this key fired: there is no record.
    #[inline]
    pub(crate) fn enter_timer(&self, key: u32, timestamp: i64) {
        self.enter_record(NONE, key, timestamp);
    }

    pub(crate) fn leave_record(&self) {
        self.enter_record(NONE, NONE, NO_TIMESTAMP);
    }

    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.id.get()
    }

    /// Number of the current record's key, larger than any where there is none.
    #[inline]
    pub(crate) fn key_number(&self) -> usize {
        self.key.get() as usize
    }

    /// Number of the current record's key.
    #[inline]
    pub(crate) fn key(&self, state: &str) -> Result<usize> {
        match self.key.get() {
            NONE => Err(self.no_key(state)),
            key => Ok(key as usize),
        }
    }

    /// Checks that `key`, which may come from [`Call::key_number`], is the number of a key of the call.
    pub(crate) fn check_key(&self, key: usize, state: &str) -> Result<()> {
        if key == NONE as usize {
            return Err(self.no_key(state));
        }
        if key >= self.keys().count() {
            return Err(Error::new(format_args!(
                "the host numbered a key {key} that it did not send"
            )));
        }
        Ok(())
    }

    #[cold]
    fn no_key(&self, state: &str) -> Error {
        if self.record.get() == NONE {
            return Error::new(format_args!(
                "state `{state}` is read or written where there is no current record; `get_for` and its like take a key"
            ));
        }
        Error::new(format_args!(
            "state `{state}` belongs to the record's key, but the record has none: give records keys at the source or \
             in the operator before"
        ))
    }

    /// Index of the current record in its batch.
    pub(crate) fn record(&self) -> Option<u32> {
        Some(self.record.get()).filter(|&record| record != NONE)
    }

    /// Event time of the current record.
    #[inline]
    pub(crate) fn timestamp(&self) -> i64 {
        self.timestamp.get()
    }

    /// The distinct keys of the call.
    #[inline]
    pub(crate) fn keys(&self) -> Ref<'_, Cells> {
        self.keys.borrow()
    }

    /// Whether none of the batch's keys, which are texts, needs quotes in a row.
    #[inline]
    pub(crate) fn plain_keys(&self, keys: &Cells) -> bool {
        plain(&self.plain_keys, keys)
    }

    /// Whether none of the batch's values, which are texts, needs quotes in a row.
    #[inline]
    pub(crate) fn plain_values(&self, values: &Cells) -> bool {
        plain(&self.plain_values, values)
    }

    /// Whether keys are rows on the current input.
    pub(crate) fn key_rows(&self) -> bool {
        self.key_rows.get()
    }

    /// The cell of the current key in [`Call::keys`]: without keyed state the host does not number keys, and
    /// there is one for each record.
    #[inline]
    pub(crate) fn current_cell(&self) -> u32 {
        match self.key.get() {
            NONE => self.record.get(),
            key => key,
        }
    }

    /// What is emitted from now on has this event time.
    #[inline]
    pub(crate) fn set_timestamp(&self, timestamp: i64) {
        self.timestamp.set(timestamp);
    }

    /// An output grew so large that a part of it is handed over before the call ends.
    #[cold]
    pub(crate) fn hand_over(&self) {
        self.handed_over.set(true);
    }

    /// Whether that has happened.
    #[inline]
    pub(crate) fn has_handed_over(&self) -> bool {
        self.handed_over.get()
    }

    /// The time of the host's clock, which stands still within a call: the host is asked once.
    #[inline]
    pub(crate) fn processing_time(&self, host: &Host) -> i64 {
        match self.processing_time.get() {
            Some(time) => time,
            None => {
                let time = host.processing_time();
                self.processing_time.set(Some(time));
                time
            }
        }
    }

    /// The watermark, which stands still within a call: the host is asked once.
    #[inline]
    pub(crate) fn watermark(&self, host: &Host) -> i64 {
        match self.watermark.get() {
            Some(watermark) => watermark,
            None => {
                let watermark = host.current_watermark();
                self.watermark.set(Some(watermark));
                watermark
            }
        }
    }

    /// Encodes `key` and hands it over with its number, if the call has it.
    pub(crate) fn with_key<R>(
        &self,
        key: &(impl Row + ?Sized),
        then: impl FnOnce(&[u8], Option<usize>) -> Result<R>,
    ) -> Result<R> {
        let mut bytes = self.scratch.take();
        bytes.clear();
        key.write(&mut RowWriter::new(&mut bytes, self.key_rows.get()));
        let number = self.number(bytes.written()).map(|number| number as usize);
        let result = then(bytes.written(), number);
        self.scratch.replace(bytes);
        result
    }

    fn number(&self, key: &[u8]) -> Option<u32> {
        let keys = self.keys.borrow();
        let mut numbers = self.numbers.borrow_mut();
        let same = |number: u32, key: &[u8]| keys.cell(number as usize) == key;
        if keys.count() > 0 && numbers.is_empty() {
            for (number, key) in (0..).zip(keys.iter()) {
                numbers.insert(index::hash(0, key), number);
            }
        }
        numbers.find(index::hash(0, key), |number| same(number, key))
    }
}

#[inline]
fn plain(known: &Cell<Option<bool>>, cells: &Cells) -> bool {
    #[cold]
    fn look(known: &Cell<Option<bool>>, cells: &Cells) -> bool {
        let plain = none_needs_quotes(&cells.data);
        known.set(Some(plain));
        plain
    }
    match known.get() {
        Some(plain) => plain,
        None => look(known, cells),
    }
}
