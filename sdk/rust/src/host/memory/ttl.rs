//! States whose entries expire, as hosts keep them: each value is stored after the time at which it expires.

use super::{Held, Host, Table};
use crate::bindings::exports::highwater::operator::guest::{Ttl, TtlRefresh};
use crate::bindings::highwater::operator::types::TimeDomain;
use crate::call::NO_TIMESTAMP;

/// Written before the first watermark, which will give it its time.
const UNDATED: i64 = i64::MAX;
/// The watermark after all input. It is no time at which something expires.
const END: i64 = i64::MAX;
const PREFIX: usize = 8;

fn split(stored: &[u8]) -> (i64, &[u8]) {
    let (expiry, value) = stored.split_at(PREFIX);
    let expiry = expiry.try_into().expect("it was written with one");
    (i64::from_le_bytes(expiry), value)
}

fn join(expiry: i64, value: &[u8]) -> Vec<u8> {
    [&expiry.to_le_bytes()[..], value].concat()
}

impl Host {
    fn ttl(&self, state: usize) -> Option<Ttl> {
        self.0.ttls.borrow().get(state).copied().flatten()
    }

    fn now(&self, ttl: Ttl) -> i64 {
        match ttl.time {
            TimeDomain::ProcessingTime => self.0.processing_time.get(),
            TimeDomain::EventTime => self.0.event_time.get().unwrap_or(NO_TIMESTAMP),
        }
    }

    fn expiry(&self, ttl: Ttl) -> i64 {
        match self.now(ttl) {
            NO_TIMESTAMP => UNDATED,
            now => now.saturating_add_unsigned(ttl.millis).min(UNDATED - 1),
        }
    }

    /// A value as it is stored.
    pub(super) fn dated(&self, state: u32, value: &[u8]) -> Vec<u8> {
        match self.ttl(state as usize) {
            None => value.to_vec(),
            Some(ttl) => join(self.expiry(ttl), value),
        }
    }

    /// A stored value as it is seen; `None` if it has expired.
    pub(super) fn see(&self, state: usize, stored: &[u8]) -> Option<Vec<u8>> {
        let Some(ttl) = self.ttl(state) else {
            return Some(stored.to_vec());
        };
        let (expiry, value) = split(stored);
        (expiry > self.now(ttl)).then(|| value.to_vec())
    }

    /// Whether reading extends the life of a state's entries.
    pub(super) fn extends(&self, state: u32) -> bool {
        let ttl = self.ttl(state as usize);
        ttl.is_some_and(|ttl| ttl.refresh == TtlRefresh::Read)
    }

    /// A stored value that was read.
    pub(super) fn extended(&self, state: u32, stored: &[u8]) -> Vec<u8> {
        match self.see(state as usize, stored) {
            Some(value) => self.dated(state, &value),
            None => stored.to_vec(),
        }
    }

    /// What is seen of what a state holds for a key; `None` if all of it has expired.
    pub(super) fn seen(&self, state: usize, held: &Held) -> Option<Held> {
        match held {
            Held::Value(stored) => self.see(state, stored).map(Held::Value),
            Held::Map(map) => {
                let entries = map.iter();
                let seen = entries
                    .filter_map(|(field, stored)| Some((field.clone(), self.see(state, stored)?)))
                    .collect::<std::collections::BTreeMap<_, _>>();
                (!seen.is_empty()).then_some(Held::Map(seen))
            }
            Held::List(list) => {
                let elements = list.iter();
                let seen: Vec<_> = elements
                    .filter_map(|stored| self.see(state, stored))
                    .collect();
                (!seen.is_empty()).then_some(Held::List(seen))
            }
        }
    }

    /// The watermark has reached a time. What was written before the first one lives on from here.
    pub(super) fn set_event_time(&self, watermark: i64) {
        if watermark == END {
            return;
        }
        if self.0.event_time.replace(Some(watermark)).is_some() {
            return;
        }
        let mut tables = self.0.tables.borrow_mut();
        for (state, (_, table)) in tables.iter_mut().enumerate() {
            let Some(ttl) = self.ttl(state) else {
                continue;
            };
            let expiry = self.expiry(ttl);
            let date = |stored: &mut Vec<u8>| {
                if let (UNDATED, value) = split(stored) {
                    *stored = join(expiry, value);
                }
            };
            date_all(table, date);
        }
    }
}

fn date_all(table: &mut Table, date: impl Fn(&mut Vec<u8>)) {
    for held in table.values_mut() {
        match held {
            Held::Value(stored) => date(stored),
            Held::Map(map) => map.values_mut().for_each(&date),
            Held::List(list) => list.iter_mut().for_each(&date),
        }
    }
}
