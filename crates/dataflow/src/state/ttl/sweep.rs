//! Removing what has expired, a few entries at a time.
//!
//! A commit looks at as many stored entries as were written since the last one, and at a few more. So a
//! hand goes round over each state while as much is written as the state holds, and a state that many write
//! to is at most about twice as large as what is alive in it. What the hand removes is removed as by a call:
//! it is logged for deltas.

use std::ops::Range;

use super::super::rows::SLOTS;
use super::super::table::Store;
use super::super::{KeyedState, StateError, Table};
use super::refresh::dating;
use super::{NO_TIME, Ttl, UNDATED, View, split};

/// How many stored entries, or empty places for some, a commit looks at beyond those that were written.
const STEPS: usize = if cfg!(test) { 4 } else { 64 };
/// How much of what was written may wait to be matched by the sweep: a call may write millions.
const OWED_MAX: usize = 1 << 16;

/// How many cold keys are looked at between calls, beyond one for each entry that was written.
const COLD_STEPS: usize = if cfg!(test) { 4 } else { 16 };
const COLD_MAX: usize = 4096;

/// How far the sweep has come.
#[derive(Debug, Default)]
pub(in super::super) struct Sweep {
    /// Whether a state has a TTL.
    needed: bool,
    /// Per state, the place at which it goes on.
    hands: Vec<u32>,
    /// How many entries were written since the last commit.
    owed: usize,
    /// How many it has looked at beyond its measure, in a long list.
    ahead: usize,
    /// The cold key at which it goes on.
    cold: u32,
    /// How many entries were written since cold keys were looked at.
    cold_owed: usize,
}

/// What the hand has found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Expired,
    /// Written before there was a time.
    Undated,
}

fn judge(stored: &[u8], view: View) -> Found {
    match split(stored) {
        Some((UNDATED, _)) => Found::Undated,
        _ if view.has_expired(stored) => Found::Expired,
        _ => Found::Nothing,
    }
}

impl Sweep {
    pub(in super::super) fn new(tables: &[Table]) -> Self {
        Self {
            needed: tables.iter().any(|table| table.ttl.is_some()),
            hands: vec![0; tables.len()],
            ..Self::default()
        }
    }

    /// Whether there is something to be swept.
    #[inline]
    pub(in super::super) fn is_needed(&self) -> bool {
        self.needed
    }

    pub(super) fn written(&mut self, entries: usize) {
        self.owed = (self.owed + entries).min(OWED_MAX);
        self.cold_owed = (self.cold_owed + entries).min(COLD_MAX);
    }

    /// The numbers of the cold keys to look at next, of `keys` in all.
    pub(in super::super) fn next_cold(&mut self, keys: u32) -> Range<u32> {
        let steps = (COLD_STEPS + std::mem::take(&mut self.cold_owed)) as u32;
        let start = if self.cold < keys { self.cold } else { 0 };
        self.cold = start.saturating_add(steps).min(keys);
        start..self.cold
    }
}

impl KeyedState {
    /// Removes some of what has expired, as a part of what is committed next.
    pub(in super::super) fn sweep(&mut self) {
        let mut steps = STEPS + std::mem::take(&mut self.sweep.owed);
        let paid = self.sweep.ahead.min(steps);
        self.sweep.ahead -= paid;
        steps -= paid;
        for state in 0..self.tables.len() as u32 {
            let Some(ttl) = self.ttl(state) else {
                continue;
            };
            let now = self.times.of(ttl.time);
            if now == NO_TIME || steps == 0 {
                continue;
            }
            let swept = match &self.tables[state as usize].store {
                Store::Values(_) => self.sweep_values(state, ttl, now, steps),
                Store::Maps(_) => self.sweep_maps(state, ttl, now, steps),
                Store::Lists(_) => self.sweep_lists(state, ttl, now, steps),
                // They have no TTL.
                Store::Timers(_) => Ok(()),
            };
            // Removing needs no room, and what is written again has the size that it had.
            debug_assert!(swept.is_ok(), "{swept:?}");
        }
    }

    /// Whether a stored value of a state has expired, or is to be given an expiry.
    pub(in super::super) fn is_due(&self, state: u32, stored: &[u8]) -> bool {
        let ttl = self.tables.get(state as usize).and_then(|table| table.ttl);
        ttl.is_some_and(|ttl| {
            let known = self.times.of(ttl.time) != NO_TIME;
            known && judge(stored, self.view(state)) != Found::Nothing
        })
    }

    /// Removes what has expired of the values in some slots.
    pub(in super::super) fn sweep_slots(&mut self, slots: impl Iterator<Item = u32> + Clone) {
        for state in 0..self.tables.len() as u32 {
            let Some(ttl) = self.ttl(state) else {
                continue;
            };
            let now = self.times.of(ttl.time);
            if now != NO_TIME {
                let swept = self.sweep_values_in(state, ttl, now, slots.clone());
                debug_assert!(swept.is_ok(), "{swept:?}");
            }
        }
    }

    /// The next places of a state's hand, out of this many.
    fn next_places(&mut self, state: u32, places: usize, steps: usize) -> Range<u32> {
        let hand = &mut self.sweep.hands[state as usize];
        let places = places as u32;
        let start = if *hand < places { *hand } else { 0 };
        let end = start
            .saturating_add(u32::try_from(steps).unwrap_or(u32::MAX))
            .min(places);
        *hand = end;
        start..end
    }

    fn sweep_values(
        &mut self,
        state: u32,
        ttl: Ttl,
        now: i64,
        steps: usize,
    ) -> Result<(), StateError> {
        let slots = self.next_places(state, self.rows.chunks() * SLOTS, steps);
        self.sweep_values_in(state, ttl, now, slots)
    }

    fn sweep_values_in(
        &mut self,
        state: u32,
        ttl: Ttl,
        now: i64,
        slots: impl Iterator<Item = u32> + Clone,
    ) -> Result<(), StateError> {
        let view = self.view(state);
        let Store::Values(values) = &self.tables[state as usize].store else {
            return Ok(());
        };
        values.touch(slots.clone(), &self.rows, &self.heap);
        let found: Vec<(u32, Found)> = slots
            .filter_map(|slot| {
                let stored = values.get(slot, &self.rows, &self.heap)?;
                Some((slot, judge(stored, view))).filter(|(_, found)| *found != Found::Nothing)
            })
            .collect();
        if found.is_empty() {
            return Ok(());
        }
        self.alter(state, |change| {
            for (slot, found) in found {
                match found {
                    Found::Undated => change.set_value(slot, ttl.expiry(now)),
                    _ => change.remove_value(slot),
                }
            }
            Ok(())
        })
    }

    fn sweep_maps(
        &mut self,
        state: u32,
        ttl: Ttl,
        now: i64,
        steps: usize,
    ) -> Result<(), StateError> {
        let Store::Maps(maps) = &self.tables[state as usize].store else {
            return Ok(());
        };
        let places = maps.places();
        let places = self.next_places(state, places, steps);
        let view = self.view(state);
        let Store::Maps(maps) = &self.tables[state as usize].store else {
            return Ok(());
        };
        let found: Vec<(u32, Vec<u8>, Found)> = maps
            .at(places, &self.heap)
            .filter_map(|(slot, field, stored)| {
                let found = judge(stored, view);
                (found != Found::Nothing).then(|| (slot, field.to_vec(), found))
            })
            .collect();
        if found.is_empty() {
            return Ok(());
        }
        self.alter(state, |change| {
            for (slot, field, found) in found {
                match found {
                    Found::Undated => change.set_entry(slot, &field, ttl.expiry(now)),
                    _ => change.remove_entry(slot, &field),
                }
            }
            Ok(())
        })
    }

    /// A list of which less than half has expired stays as it is: it would be written again whole.
    fn sweep_lists(
        &mut self,
        state: u32,
        ttl: Ttl,
        now: i64,
        steps: usize,
    ) -> Result<(), StateError> {
        let slots = self.next_places(state, self.rows.chunks() * SLOTS, steps);
        let view = self.view(state);
        let mut looked = 0;
        let mut found = Vec::new();
        let Store::Lists(lists) = &self.tables[state as usize].store else {
            return Ok(());
        };
        for slot in slots.clone() {
            if looked >= steps {
                self.sweep.hands[state as usize] = slot;
                break;
            }
            let (mut all, mut expired, mut undated) = (0, 0, false);
            for stored in lists.get(slot, &self.heap) {
                all += 1;
                match judge(stored, view) {
                    Found::Expired => expired += 1,
                    Found::Undated => undated = true,
                    Found::Nothing => {}
                }
            }
            looked += all.max(1);
            if undated || (expired > 0 && expired >= all - expired) {
                found.push(slot);
            }
        }
        self.sweep.ahead += looked.saturating_sub(steps);
        if found.is_empty() {
            return Ok(());
        }
        self.alter(state, |change| {
            found
                .into_iter()
                .try_for_each(|slot| change.set_list(slot, view, dating(ttl, now)))
        })
    }
}
