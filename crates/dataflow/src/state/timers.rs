//! Timers: per key, in one of two domains of time, distinguished by time and tag.
//!
//! They are kept as a map per key whose fields are (time, tag), so that snapshots, deltas, restores and
//! rescaling treat them as they treat a map. Beside the map is a queue in the order of time, which is
//! not part of a snapshot: it is built when it is first needed. The map is the truth. An entry of the queue
//! whose timer is not in the map (deleted, or taken back) is passed over when its time comes.

use std::fmt;

pub(super) use self::queue::Due;
use self::queue::Queue;
use super::change::Tally;
use super::heap::Heap;
use super::maps::Maps;
use super::removals::Removals;
use super::table::Store;
use super::{KeyedState, Resolved, StateDescriptor, StateError, StateKind};

/// What the time of a timer is measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimeDomain {
    /// Event time: a timer fires when the watermark reaches it.
    #[default]
    Event,
    /// Wall-clock time.
    Processing,
}

impl TimeDomain {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Event, Self::Processing];

    /// The state in which the timers of this domain are kept.
    #[must_use]
    pub fn state_name(self) -> &'static str {
        match self {
            Self::Event => "timers/event-time",
            Self::Processing => "timers/processing-time",
        }
    }
}

impl fmt::Display for TimeDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event => "event-time",
            Self::Processing => "processing-time",
        })
    }
}

/// The states that an operator with timers has beside those that it declares.
#[must_use]
pub fn timer_states() -> [StateDescriptor; 2] {
    TimeDomain::ALL.map(|domain| StateDescriptor {
        name: domain.state_name().to_owned(),
        kind: StateKind::Timers,
        // Time and tag, and nothing: they are shown as a map of these.
        schema: "(i64,u32)=unit".to_owned(),
        schema_version: 1,
        ttl: None,
    })
}

/// Timers that fire together: no two of one key, in the order of their times. Timer `i` is that of key `i`
/// of `keys`.
#[derive(Clone, Debug, Default)]
pub struct Fired {
    /// What their times are measured in.
    pub domain: TimeDomain,
    /// Their keys; accesses by number mean these.
    pub keys: Resolved,
    /// When each was to fire, in milliseconds since 1970.
    pub times: Vec<i64>,
    /// What each was registered with.
    pub tags: Vec<u32>,
}

impl Fired {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    fn clear(&mut self) {
        self.keys.keys.clear();
        self.keys.numbers.clear();
        self.times.clear();
        self.tags.clear();
    }
}

/// Bytes of a field: the time with its sign turned round and the tag, both big-endian, so that the order of
/// the bytes is that of time and tag.
const FIELD: usize = 12;
/// Entries of the queue that may be without a timer, beside as many as there are timers.
const STALE_MAX: usize = 4096;
/// After how many timers that have to wait for others of their keys a call ends: each call looks at them again, so
/// that a key with very many timers of one time would cost the square of their number.
const WAITING_MAX: usize = 64;
/// For how many timers at least memory is fetched ahead.
const AHEAD_MIN: usize = 64;

/// The field of a timer.
fn field(time: i64, tag: u32) -> [u8; FIELD] {
    let mut field = [0; FIELD];
    field[..8].copy_from_slice(&(time as u64 ^ 1 << 63).to_be_bytes());
    field[8..].copy_from_slice(&tag.to_be_bytes());
    field
}

/// The time and tag of a field; `None` if it is none.
#[must_use]
#[inline]
pub fn timer_of_field(field: &[u8]) -> Option<(i64, u32)> {
    let (time, tag) = field.split_first_chunk::<8>()?;
    let tag = <[u8; 4]>::try_from(tag).ok()?;
    let time = u64::from_be_bytes(*time) ^ 1 << 63;
    Some((time as i64, u32::from_be_bytes(tag)))
}

/// Logs the removal of a timer of an earlier interval. A timer is written once: one of this interval is in no snapshot,
/// and its removal in no delta.
fn log_removal(removals: &mut Removals, key: &[u8], field: &[u8; FIELD]) {
    removals.fields.push(key);
    removals.fields.push(field);
}

/// Whether a map entry is that of a timer.
pub(super) fn is_timer(field: &[u8], value: &[u8]) -> bool {
    field.len() == FIELD && value.is_empty()
}

/// The timers of one domain.
#[derive(Debug, Default)]
pub(super) struct Timers {
    pub(super) maps: Maps,
    queue: Queue,
}

/// Which slots are in a batch of timers.
#[derive(Debug, Default)]
pub(super) struct InBatch(Vec<u64>);

impl InBatch {
    /// Notes a slot. Returns whether it was not there.
    fn insert(&mut self, slot: u32) -> bool {
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// Forgets these slots.
    fn forget(&mut self, slots: &[u32]) {
        slots
            .iter()
            .for_each(|slot| self.0[*slot as usize / 64] = 0);
    }
}

impl Timers {
    /// The call is over; `timers`: how many there are now.
    pub(super) fn commit(&mut self, timers: u64, heap: &mut Heap) {
        self.maps.commit(heap);
        self.queue.commit();
        // Not within a call: what it has deleted may come back.
        if self.queue.len > 2 * timers as usize + STALE_MAX {
            self.queue.is_built = false;
            self.build(heap);
        }
    }

    /// The call has failed and its changes to the map are taken back: so is what it has taken out.
    pub(super) fn put_back(&mut self) {
        self.queue.rollback();
    }

    /// As it is now, for a writer, who has no use for the queue.
    pub(super) fn seal(&mut self) -> Self {
        Self {
            maps: self.maps.seal(),
            queue: Queue::default(),
        }
    }

    /// Gives the queue what the map has, if it does not have it.
    fn build(&mut self, heap: &Heap) {
        if self.queue.is_built {
            return;
        }
        let mut queue = Queue::to_build();
        for (entry, slot, field) in self.maps.fields_by_entry(heap) {
            if let Some((time, tag)) = timer_of_field(field) {
                queue.push(Due::new(time, slot, tag, entry));
            }
        }
        self.queue = queue;
    }
}

impl KeyedState {
    /// The table of a domain's timers; `None` if the operator has no timers.
    fn timers_table(&self, domain: TimeDomain) -> Option<usize> {
        self.timers.map(|tables| tables[domain as usize] as usize)
    }

    fn timers(&mut self, domain: TimeDomain) -> Result<usize, StateError> {
        let table = self.timers_table(domain).ok_or(StateError::NoTimers)?;
        let Self { tables, heap, .. } = self;
        tables[table].timers().build(heap);
        Ok(table)
    }

    /// How many timers there are.
    #[must_use]
    pub fn timers_held(&self) -> u64 {
        let tables = self.timers.iter().flatten();
        let held = tables.map(|table| self.tables[*table as usize].counters.entries);
        held.sum()
    }

    /// Whether the operator has timers.
    #[must_use]
    pub fn has_timers(&self) -> bool {
        self.timers.is_some()
    }

    /// Registers timer `i` of key `numbers[i]` at `times[i]` with `tags[i]`. One that is there already stays.
    ///
    /// # Errors
    /// As [`KeyedState::store`], and the operator has no timers.
    pub fn register_timers(
        &mut self,
        domain: TimeDomain,
        numbers: &[u32],
        times: &[i64],
        tags: &[u32],
    ) -> Result<(), StateError> {
        let table = self.timers(domain)?;
        self.check_timers(numbers, times, tags)?;
        let before = self.before(table as u32);
        let Self {
            tables,
            heap,
            slots,
            version,
            ..
        } = self;
        let store = tables[table].timers();
        let of = |number: &u32| slots[*number as usize];
        store.maps.touch(numbers.iter().map(of));
        let mut tally = Tally::default();
        for ((number, time), tag) in numbers.iter().zip(times).zip(tags) {
            let slot = of(number);
            let added = store.maps.add(slot, &field(*time, *tag), *version, heap);
            let Some((change, entry)) = added else {
                continue;
            };
            tally.entries += 1;
            tally.written.0 += 1;
            tally.written.1 += FIELD as u64;
            tally.add(slot, change);
            store.queue.push(Due::new(*time, slot, *tag, entry));
        }
        self.open = true;
        self.finish(table as u32, before, tally)
    }

    /// Deletes timers. One that is not there is passed over.
    ///
    /// # Errors
    /// As [`KeyedState::register_timers`].
    pub fn delete_timers(
        &mut self,
        domain: TimeDomain,
        numbers: &[u32],
        times: &[i64],
        tags: &[u32],
    ) -> Result<(), StateError> {
        let number = self.timers(domain)?;
        self.check_timers(numbers, times, tags)?;
        let before = self.before(number as u32);
        let logged = !self.seals.is_empty();
        let Self {
            tables,
            heap,
            rows,
            slots,
            version,
            ..
        } = self;
        let table = &mut tables[number];
        let mut tally = Tally::default();
        for ((key, time), tag) in numbers.iter().zip(times).zip(tags) {
            let (slot, field) = (slots[*key as usize], field(*time, *tag));
            let maps = &mut table.timers().maps;
            let Some((change, written)) = maps.take(slot, &field, *version, heap) else {
                continue;
            };
            tally.entries -= 1;
            tally.add(slot, change);
            if logged && written != *version {
                log_removal(&mut table.removals, rows.key(slot, heap), &field);
                tally.removed = true;
            }
        }
        self.open = true;
        self.finish(number as u32, before, tally)
    }

    fn check_timers(&self, numbers: &[u32], times: &[i64], tags: &[u32]) -> Result<(), StateError> {
        super::access::check_even(numbers, times.len(), "times")?;
        super::access::check_even(numbers, tags.len(), "tags")?;
        self.check_numbers(numbers)
    }

    /// The timers of key `number`, by time and tag.
    ///
    /// # Errors
    /// No such key, or the operator has no timers.
    pub fn timers_of(
        &self,
        domain: TimeDomain,
        number: u32,
    ) -> Result<Vec<(i64, u32)>, StateError> {
        let table = self.timers_table(domain).ok_or(StateError::NoTimers)?;
        self.check_numbers(&[number])?;
        let Store::Timers(Timers { maps, .. }) = &self.tables[table].store else {
            unreachable!("it is a table of timers")
        };
        let held = maps.scan(self.slots[number as usize], &[], &self.heap);
        Ok(held
            .filter_map(|(field, _)| timer_of_field(field))
            .collect())
    }

    /// The time of the next timer of a domain, or an earlier one; `None` if there is none.
    pub fn next_timer(&mut self, domain: TimeDomain) -> Option<i64> {
        let table = self.timers(domain).ok()?;
        let queue = &self.tables[table].timers().queue;
        queue.next_time()
    }

    /// Takes timers that are due at `now` (at or before it) into `fired`: at most `count`, in the order of time and
    /// tag, each key once, until a key would come twice (among those of one time a little longer). So what a timer
    /// does to others of its key is done before these fire. By the numbers of `fired` their keys are accessed, as
    /// those of a batch; what was taken is back after a rollback.
    ///
    /// # Errors
    /// Cold state cannot be written. Nothing is taken then.
    pub fn take_timers(
        &mut self,
        domain: TimeDomain,
        now: i64,
        count: usize,
        fired: &mut Fired,
    ) -> Result<(), StateError> {
        // Not many more than last time: if keys come twice, a call ends after a few.
        let ahead = count.min(2 * fired.len() + AHEAD_MIN);
        fired.clear();
        fired.domain = domain;
        self.slots.clear();
        let number = self.timers(domain)?;
        self.release_idle();
        self.evict()?;
        let before = self.before(number as u32);
        let logged = !self.seals.is_empty();
        let Self {
            tables,
            heap,
            rows,
            slots,
            version,
            in_batch,
            due_next: next,
            ..
        } = self;
        let (Timers { maps, queue }, removals) = tables[number].timers_and_removals();
        queue.next(now, ahead, next);
        maps.touch_entries(next.iter().map(|due| (due.slot, due.entry)));
        let versions = next.iter().map(|due| rows.get(due.slot).cell.version[0]);
        std::hint::black_box(versions.fold(0, |all, some| all ^ some));
        let mut tally = Tally::default();
        // Those of keys that have one in the batch. They end it once all others of their time are in it.
        let mut waiting: Vec<Due> = Vec::new();
        while slots.len() < count && waiting.len() < WAITING_MAX {
            let until = waiting.first().map_or(now, |due| due.time);
            let Some(due) = queue.pop(until) else {
                break;
            };
            let field = field(due.time, due.tag);
            if !maps.is_at(due.entry, due.slot, &field, heap) {
                continue;
            }
            if !in_batch.insert(due.slot) {
                waiting.push(due);
                continue;
            }
            let (change, written) = maps.take_entry(due.entry, *version, heap);
            queue.take(due);
            tally.entries -= 1;
            tally.add(due.slot, change);
            let key = rows.key(due.slot, heap);
            if logged && written != *version {
                log_removal(removals, key, &field);
                tally.removed = true;
            }
            slots.push(due.slot);
            fired.keys.keys.push(key);
            fired.times.push(due.time);
            fired.tags.push(due.tag);
        }
        waiting
            .into_iter()
            .rev()
            .for_each(|due| queue.put_back(due));
        in_batch.forget(slots);
        fired.keys.numbers.extend(0..slots.len() as u32);
        self.open = true;
        self.finish(number as u32, before, tally)
    }

    /// Removes the timers of a domain that are due at `now`, without firing them. Returns how many. Only
    /// between calls.
    ///
    /// # Errors
    /// As [`KeyedState::take_timers`].
    pub fn skip_timers(&mut self, domain: TimeDomain, now: i64) -> Result<u64, StateError> {
        let mut fired = Fired::default();
        let mut skipped = 0;
        loop {
            self.take_timers(domain, now, SKIPPED_AT_ONCE, &mut fired)?;
            // One that takes nothing is to be ended, too.
            self.commit();
            if fired.is_empty() {
                return Ok(skipped);
            }
            skipped += fired.len() as u64;
        }
    }
}

const SKIPPED_AT_ONCE: usize = 4096;

mod queue;
#[cfg(test)]
mod tests;
