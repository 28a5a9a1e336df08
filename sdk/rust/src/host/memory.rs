//! The host of an operator that is run natively: state in memory, output in a list.
//!
//! It keeps the host's promises: what a call does counts only once it is committed, and calls that
//! would trap a component (an unknown state, columns of other lengths) panic.

mod operator_state;
mod timers;
mod ttl;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::bindings::exports::highwater::operator::guest::Ttl;
use crate::bindings::highwater::operator::{log, metrics, state};
use crate::call::NO_TIMESTAMP;
use crate::cells::Cells;

/// What a state holds for one key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Held {
    Value(Vec<u8>),
    Map(BTreeMap<Vec<u8>, Vec<u8>>),
    List(Vec<Vec<u8>>),
}

type Table = BTreeMap<Vec<u8>, Held>;

/// A state, a key, and what the state held for it before the current call.
type Replaced = (usize, Vec<u8>, Option<Held>);

/// A record that was emitted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Emission {
    pub(crate) output: u32,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Vec<u8>,
    pub(crate) timestamp: i64,
}

/// A metric's value, recorded in a call that succeeded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observation {
    pub(crate) kind: metrics::Kind,
    pub(crate) name: String,
    pub(crate) value: f64,
}

/// The stand-in; clones share what they hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host(Rc<Memory>);

#[derive(Debug, Default)]
struct Memory {
    /// Every state's name and table; what the operator numbers are the first `Memory::declared`.
    tables: RefCell<Vec<(String, Table)>>,
    declared: Cell<usize>,
    /// The keys of the current call, by number.
    keys: RefCell<Cells>,
    /// What the current call replaced.
    undo: RefCell<Vec<Replaced>>,
    emitted: RefCell<Vec<Emission>>,
    committed: Cell<usize>,
    metrics: RefCell<Vec<(metrics::Kind, String)>>,
    observed: RefCell<Vec<Observation>>,
    processing_time: Cell<i64>,
    timers: RefCell<timers::Timers>,
    /// How long entries of each declared state live.
    ttls: RefCell<Vec<Option<Ttl>>>,
    /// The last watermark that was a time.
    event_time: Cell<Option<i64>>,
}

/// What harnesses do with it.
impl Host {
    /// Gives the states their numbers; what is held under these names is kept.
    pub(crate) fn declare(&self, names: &[String]) {
        let mut tables = self.0.tables.borrow_mut();
        let mut old = std::mem::take(&mut *tables);
        for name in names {
            let kept = old
                .iter()
                .position(|(other, _)| other == name)
                .map(|at| old.remove(at).1);
            tables.push((name.clone(), kept.unwrap_or_default()));
        }
        self.0.declared.set(names.len());
        tables.append(&mut old);
    }

    /// Says how long entries of the declared states live.
    pub(crate) fn set_ttls(&self, ttls: Vec<Option<Ttl>>) {
        *self.0.ttls.borrow_mut() = ttls;
    }

    /// Begins a call about these keys.
    pub(crate) fn begin(&self, keys: Cells) {
        *self.0.keys.borrow_mut() = keys;
    }

    /// The call returned ok: its effects stay.
    pub(crate) fn commit(&self) {
        self.0.undo.borrow_mut().clear();
        self.0.timers.borrow_mut().commit();
        self.0.committed.set(self.0.emitted.borrow().len());
    }

    /// The call failed: nothing of it stays.
    pub(crate) fn rollback(&self) {
        let mut tables = self.0.tables.borrow_mut();
        for (state, key, held) in self.0.undo.borrow_mut().drain(..).rev() {
            match held {
                Some(held) => tables[state].1.insert(key, held),
                None => tables[state].1.remove(&key),
            };
        }
        self.0.timers.borrow_mut().rollback();
        self.0.emitted.borrow_mut().truncate(self.0.committed.get());
    }

    pub(crate) fn take_emitted(&self) -> Vec<Emission> {
        self.0.committed.set(0);
        self.0.emitted.take()
    }

    pub(crate) fn take_observed(&self) -> Vec<Observation> {
        self.0.observed.take()
    }

    pub(crate) fn set_processing_time(&self, milliseconds: i64) {
        self.0.processing_time.set(milliseconds);
    }

    /// How many entries all states hold: values, entries of maps, elements of lists.
    pub(crate) fn entries(&self) -> usize {
        let tables = self.0.tables.borrow();
        let held = tables.iter().enumerate().flat_map(|(state, (_, table))| {
            table
                .values()
                .filter_map(move |held| self.seen(state, held))
        });
        held.map(|held| match held {
            Held::Value(_) => 1,
            Held::Map(map) => map.len(),
            Held::List(list) => list.len(),
        })
        .sum()
    }

    /// What the state with this name holds, by key.
    pub(crate) fn table(&self, name: &str) -> Table {
        let tables = self.0.tables.borrow();
        let found = tables.iter().position(|(other, _)| other == name);
        let Some(state) = found else {
            return Table::new();
        };
        let table = tables[state].1.iter();
        table
            .filter_map(|(key, held)| Some((key.clone(), self.seen(state, held)?)))
            .collect()
    }
}

/// What operators call.
impl Host {
    fn key(&self, number: u32) -> Vec<u8> {
        let keys = self.0.keys.borrow();
        assert!(
            (number as usize) < keys.count(),
            "there is no key {number}, the batch has {}",
            keys.count()
        );
        keys.cell(number as usize).to_vec()
    }

    fn read<R>(&self, state: u32, key: &[u8], read: impl FnOnce(Option<&Held>) -> R) -> R {
        assert!(
            (state as usize) < self.0.declared.get(),
            "there is no state {state}"
        );
        read(self.0.tables.borrow()[state as usize].1.get(key))
    }

    fn change(&self, state: u32, key: Vec<u8>, change: impl FnOnce(Option<Held>) -> Option<Held>) {
        assert!(
            (state as usize) < self.0.declared.get(),
            "there is no state {state}"
        );
        let mut tables = self.0.tables.borrow_mut();
        let table = &mut tables[state as usize].1;
        let old = table.remove(&key);
        self.0
            .undo
            .borrow_mut()
            .push((state as usize, key.clone(), old.clone()));
        if let Some(held) = change(old) {
            table.insert(key, held);
        }
    }

    fn load_cells(&self, cells: impl Iterator<Item = Option<Vec<u8>>>) -> state::Loaded {
        let mut loaded = state::Loaded {
            values: Cells::empty(),
            absent: Vec::new(),
        };
        for (position, cell) in (0..).zip(cells) {
            loaded.values.push(cell.as_deref().unwrap_or_default());
            if cell.is_none() {
                loaded.absent.push(position);
            }
        }
        loaded
    }

    pub(crate) fn load(&self, state: u32) -> state::Loaded {
        let count = self.0.keys.borrow().count() as u32;
        self.load_cells((0..count).map(|number| self.get(state, &self.key(number))))
    }

    pub(crate) fn store(&self, state: u32, keys: &[u32], values: &Cells) {
        assert_eq!(keys.len(), values.count(), "one value per key");
        for (&number, value) in keys.iter().zip(values.iter()) {
            self.put(state, &self.key(number), value);
        }
    }

    pub(crate) fn clear(&self, state: u32, keys: &[u32]) {
        keys.iter()
            .for_each(|&number| self.delete(state, &self.key(number)));
    }

    pub(crate) fn get(&self, state: u32, key: &[u8]) -> Option<Vec<u8>> {
        let stored = self.read(state, key, |held| match held {
            None => None,
            Some(Held::Value(value)) => Some(value.clone()),
            Some(_) => panic!("state {state} is no value state"),
        })?;
        if self.extends(state) {
            let extended = self.extended(state, &stored);
            self.change(state, key.to_vec(), |_| Some(Held::Value(extended)));
        }
        self.see(state as usize, &stored)
    }

    pub(crate) fn put(&self, state: u32, key: &[u8], value: &[u8]) {
        let value = self.dated(state, value);
        self.change(state, key.to_vec(), |_| Some(Held::Value(value)));
    }

    pub(crate) fn delete(&self, state: u32, key: &[u8]) {
        self.change(state, key.to_vec(), |_| None);
    }

    pub(crate) fn scan(&self, state: u32, cursor: &[u8], limit: u32) -> state::Scanned {
        assert!(limit > 0, "a page has at least one key");
        let tables = self.0.tables.borrow();
        let table = &tables[state as usize].1;
        let mut scanned = state::Scanned {
            keys: Cells::empty(),
            values: Cells::empty(),
            cursor: Vec::new(),
            more: false,
        };
        // The cursor is the last key with a byte in front, so that it is never empty.
        let mut rest = table
            .iter()
            .filter(|(key, _)| cursor.is_empty() || key.as_slice() > &cursor[1..])
            .filter_map(|(key, held)| Some((key, self.seen(state as usize, held)?)));
        for (key, held) in rest.by_ref().take(limit as usize) {
            let Held::Value(value) = held else {
                panic!("state {state} is no value state")
            };
            scanned.keys.push(key);
            scanned.values.push(&value);
            scanned.cursor = [b"k", key.as_slice()].concat();
        }
        scanned.more = rest.next().is_some();
        scanned
    }

    fn map(held: Option<Held>) -> BTreeMap<Vec<u8>, Vec<u8>> {
        match held {
            None => BTreeMap::new(),
            Some(Held::Map(map)) => map,
            Some(_) => panic!("the state is no map state"),
        }
    }

    pub(crate) fn map_load(&self, state: u32, keys: &[u32], fields: &Cells) -> state::Loaded {
        assert_eq!(keys.len(), fields.count(), "one field per key");
        self.load_cells(keys.iter().zip(fields.iter()).map(|(&number, field)| {
            let stored = self.read(state, &self.key(number), |held| {
                Self::map(held.cloned()).get(field).cloned()
            })?;
            self.entry_was_read(state, number, field);
            self.see(state as usize, &stored)
        }))
    }

    fn entry_was_read(&self, state: u32, number: u32, field: &[u8]) {
        if !self.extends(state) {
            return;
        }
        self.change(state, self.key(number), |held| {
            let mut map = Self::map(held);
            if let Some(stored) = map.get_mut(field) {
                *stored = self.extended(state, stored);
            }
            Some(Held::Map(map))
        });
    }

    pub(crate) fn map_store(&self, state: u32, keys: &[u32], fields: &Cells, values: &Cells) {
        assert!(
            keys.len() == fields.count() && keys.len() == values.count(),
            "one field and value per key"
        );
        for ((&number, field), value) in keys.iter().zip(fields.iter()).zip(values.iter()) {
            self.change(state, self.key(number), |held| {
                let mut map = Self::map(held);
                map.insert(field.to_vec(), self.dated(state, value));
                Some(Held::Map(map))
            });
        }
    }

    pub(crate) fn map_remove(&self, state: u32, keys: &[u32], fields: &Cells) {
        assert_eq!(keys.len(), fields.count(), "one field per key");
        for (&number, field) in keys.iter().zip(fields.iter()) {
            self.change(state, self.key(number), |held| {
                let mut map = Self::map(held);
                map.remove(field);
                Some(Held::Map(map)).filter(|held| *held != Held::Map(BTreeMap::new()))
            });
        }
    }

    pub(crate) fn map_scan(
        &self,
        state: u32,
        key: u32,
        start: &[u8],
        exclusive: bool,
        end: Option<&[u8]>,
        limit: u32,
    ) -> state::Page {
        let map = self.read(state, &self.key(key), |held| {
            Self::map(held.and_then(|held| self.seen(state as usize, held)))
        });
        let page = Self::page(&map, start, exclusive, end, limit);
        for field in page.fields.iter() {
            self.entry_was_read(state, key, field);
        }
        page
    }

    /// At most `limit` entries of a map.
    fn page(
        map: &BTreeMap<Vec<u8>, Vec<u8>>,
        start: &[u8],
        exclusive: bool,
        end: Option<&[u8]>,
        limit: u32,
    ) -> state::Page {
        let mut rest = map.iter().filter(|(field, _)| {
            let is_after = match exclusive {
                true => field.as_slice() > start,
                false => field.as_slice() >= start,
            };
            is_after && end.is_none_or(|end| field.as_slice() < end)
        });
        let mut page = state::Page {
            fields: Cells::empty(),
            values: Cells::empty(),
            more: false,
        };
        for (field, value) in rest.by_ref().take(limit as usize) {
            page.fields.push(field);
            page.values.push(value);
        }
        page.more = rest.next().is_some();
        page
    }

    fn list(held: Option<Held>) -> Vec<Vec<u8>> {
        match held {
            None => Vec::new(),
            Some(Held::List(list)) => list,
            Some(_) => panic!("the state is no list state"),
        }
    }

    pub(crate) fn list_append(&self, state: u32, keys: &[u32], elements: &Cells) {
        assert_eq!(keys.len(), elements.count(), "one element per key");
        for (&number, element) in keys.iter().zip(elements.iter()) {
            self.change(state, self.key(number), |held| {
                let mut list = Self::list(held);
                list.push(self.dated(state, element));
                Some(Held::List(list))
            });
        }
    }

    pub(crate) fn list_load(&self, state: u32, key: u32) -> Cells {
        let mut cells = Cells::empty();
        let list = self.read(state, &self.key(key), |held| {
            Self::list(held.and_then(|held| self.seen(state as usize, held)))
        });
        if self.extends(state) && !list.is_empty() {
            self.change(state, self.key(key), |held| {
                let list = Self::list(held);
                let extended = list.iter().map(|stored| self.extended(state, stored));
                Some(Held::List(extended.collect()))
            });
        }
        list.iter().for_each(|element| cells.push(element));
        cells
    }

    pub(crate) fn emit(&self, output: u32, keys: &Cells, values: &Cells, timestamps: &[i64]) {
        let count = values.count();
        assert!(
            keys.count() == 0 || keys.count() == count,
            "one key per record, or none"
        );
        assert!(
            timestamps.is_empty() || timestamps.len() == count,
            "one timestamp per record, or none"
        );
        let mut emitted = self.0.emitted.borrow_mut();
        for (index, value) in values.iter().enumerate() {
            emitted.push(Emission {
                output,
                key: (keys.count() > 0).then(|| keys.cell(index).to_vec()),
                value: value.to_vec(),
                timestamp: timestamps.get(index).copied().unwrap_or(NO_TIMESTAMP),
            });
        }
    }

    pub(crate) fn emit_numbered(
        &self,
        output: u32,
        key_numbers: &[u32],
        values: &Cells,
        timestamps: &[i64],
    ) {
        let mut keys = Cells::empty();
        key_numbers
            .iter()
            .for_each(|&number| keys.push(&self.key(number)));
        self.emit(output, &keys, values, timestamps);
    }

    pub(crate) fn register_metric(&self, kind: metrics::Kind, name: &str) -> u32 {
        let mut metrics = self.0.metrics.borrow_mut();
        let number = metrics
            .iter()
            .position(|(_, other)| other == name)
            .unwrap_or(metrics.len());
        if number == metrics.len() {
            metrics.push((kind, name.to_owned()));
        }
        number as u32
    }

    pub(crate) fn record_metrics(&self, metrics: &[u32], values: &[f64]) {
        let registered = self.0.metrics.borrow();
        let mut observed = self.0.observed.borrow_mut();
        for (&metric, &value) in metrics.iter().zip(values) {
            let (kind, name) = registered[metric as usize].clone();
            observed.push(Observation { kind, name, value });
        }
    }

    pub(crate) fn processing_time(&self) -> i64 {
        self.0.processing_time.get()
    }

    pub(crate) fn log(level: log::Level, message: &str) {
        eprintln!("{level:?}: {message}");
    }
}
