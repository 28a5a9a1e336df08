//! Walking everything there is, in an order that does not depend on how it came to be.

use super::KeyedState;
use super::rows::SLOTS;
use super::table::Store;
use super::timers::Timers;
use crate::key;

/// An entry that was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked<'a> {
    /// The key's group.
    pub group: u32,
    /// Number of the state.
    pub state: u32,
    /// The key.
    pub key: &'a [u8],
    /// Map state: the field. Timers: see [`super::timer_of_field`].
    pub field: Option<&'a [u8]>,
    /// List state: the place of the element in its list, from 0.
    pub index: Option<u64>,
    /// The value or element.
    pub value: &'a [u8],
}

impl KeyedState {
    /// All entries, by key group, state, key and field or place. So those of the subtasks of an operator,
    /// one subtask after the other, are in one order at any parallelism. Not of a
    /// state with a budget of memory: cold keys are not in it.
    pub fn walk(&self) -> impl Iterator<Item = Walked<'_>> {
        let slots = 0..(self.rows.chunks() * SLOTS) as u32;
        let states = 0..self.tables.len() as u32;
        let mut places: Vec<(u32, u32, u32)> = slots
            .filter_map(|slot| Some((slot, self.rows.get(slot).key.get(&self.heap)?)))
            .flat_map(|(slot, key)| {
                let group = self.key_groups.group_of(key::hash(key));
                states.clone().map(move |state| (group, state, slot))
            })
            .filter(|(_, state, slot)| !self.tables[*state as usize].is_absent(*slot, &self.rows))
            .collect();
        let key_of = |slot: u32| self.rows.key(slot, &self.heap);
        places.sort_unstable_by(|a, b| {
            (a.0, a.1)
                .cmp(&(b.0, b.1))
                .then_with(|| key_of(a.2).cmp(key_of(b.2)))
        });
        places.into_iter().flat_map(move |(group, state, slot)| {
            let view = self.view(state);
            let walked = Walked {
                group,
                state,
                key: self.rows.key(slot, &self.heap),
                field: None,
                index: None,
                value: &[],
            };
            let entries: Box<dyn Iterator<Item = Walked<'_>>> =
                match &self.tables[state as usize].store {
                    Store::Values(values) => Box::new(
                        values
                            .get(slot, &self.rows, &self.heap)
                            .and_then(|stored| view.see(stored))
                            .into_iter()
                            .map(move |value| Walked { value, ..walked }),
                    ),
                    Store::Maps(maps) | Store::Timers(Timers { maps, .. }) => {
                        let entries = maps.scan(slot, &[], &self.heap);
                        Box::new(entries.filter_map(move |(field, stored)| {
                            Some(Walked {
                                field: Some(field),
                                value: view.see(stored)?,
                                ..walked
                            })
                        }))
                    }
                    Store::Lists(lists) => {
                        let elements = lists.get(slot, &self.heap);
                        let elements = elements.filter_map(move |stored| view.see(stored));
                        Box::new((0..).zip(elements).map(move |(index, value)| Walked {
                            index: Some(index),
                            value,
                            ..walked
                        }))
                    }
                };
            entries
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::cells::Cells;
    use crate::key::{KeyGroupRange, KeyGroups};
    use crate::state::{KeyedState, Resolved, StateDescriptor, StateKind};

    type Flat = (u32, u32, Vec<u8>, Option<Vec<u8>>, Option<u64>, Vec<u8>);

    fn walked(state: &KeyedState) -> Vec<Flat> {
        let own = |bytes: &[u8]| bytes.to_vec();
        let flat = state.walk().map(|it| {
            let field = it.field.map(own);
            (
                it.group,
                it.state,
                own(it.key),
                field,
                it.index,
                own(it.value),
            )
        });
        flat.collect()
    }

    fn filled(range: KeyGroupRange, order: impl Iterator<Item = u32>) -> KeyedState {
        let kinds = [StateKind::Value, StateKind::Map, StateKind::List];
        let descriptors = kinds.map(|kind| StateDescriptor {
            name: format!("{kind:?}"),
            kind,
            schema: "bytes".into(),
            schema_version: 1,
            ttl: None,
        });
        let mut state = KeyedState::new(descriptors.into(), range, KeyGroups::new(8).unwrap());
        for number in order {
            let key = number.to_string().into_bytes();
            let mut keys = Cells::new();
            keys.push(&key);
            let hash = crate::key::hash(&key);
            if !range.contains(KeyGroups::new(8).unwrap().group_of(hash)) {
                continue;
            }
            let mut resolved = Resolved::default();
            state
                .resolve(keys.as_ref(), &[hash], &mut resolved)
                .unwrap();
            state.put(0, &key, &number.to_le_bytes()).unwrap();
            let mut cells = Cells::new();
            ["b", "a"]
                .iter()
                .for_each(|cell| cells.push(cell.as_bytes()));
            state
                .map_store(1, &[0, 0], cells.as_ref(), cells.as_ref())
                .unwrap();
            state.list_append(2, &[0, 0], cells.as_ref()).unwrap();
            if number % 3 == 0 {
                state.delete(0, &key).unwrap();
            }
            state.commit();
        }
        state
    }

    #[test]
    fn the_order_is_that_of_the_entries_and_not_of_their_history() {
        let all = KeyGroupRange { start: 0, end: 8 };
        let whole = walked(&filled(all, 0..200));
        assert_eq!(whole.len(), 133 + 400 + 400);
        assert!(
            whole
                .is_sorted_by(|a, b| { (a.0, a.1, &a.2, &a.3, a.4) < (b.0, b.1, &b.2, &b.3, b.4) })
        );
        assert!(whole == walked(&filled(all, (0..200).rev())));
        let halves = [(0, 3), (3, 8)]
            .map(|(start, end)| walked(&filled(KeyGroupRange { start, end }, 0..200)));
        assert!(whole == halves.concat(), "one subtask after the other");
    }
}
