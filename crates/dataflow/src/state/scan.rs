//! Walking all keys of a value state, a page at a time.

use super::rows::SLOTS;
use super::table::Store;
use super::{KeyedState, StateError};
use crate::cells::Cells;

/// From here on a page is full, whatever its limit.
pub(super) const PAGE_BYTES: usize = 16 << 20;

impl KeyedState {
    /// Value state: appends at most `limit` keys that have a value, with their values, from `cursor`
    /// on (0 for the first page). Returns the cursor of the next page, `None` after the last; a page
    /// of large values ends early. Any number may be passed as cursor. It is no read that extends the life of
    /// what it sees.
    ///
    /// # Errors
    /// No such state, one of another kind, or cold state cannot be read.
    pub fn scan(
        &self,
        state: u32,
        cursor: u64,
        limit: u32,
        keys: &mut Cells,
        values: &mut Cells,
    ) -> Result<Option<u64>, StateError> {
        let store = self.store_of(state)?;
        let Store::Values(store) = store else {
            return Err(StateError::WrongKind {
                name: self.descriptors[state as usize].name.clone(),
                actual: store.kind(),
            });
        };
        // The cold keys come first.
        let cold = u64::from(self.keys.cold.used());
        if cursor < cold {
            return self
                .scan_cold(state, cursor as u32, limit, keys, values)
                .map(Some);
        }
        let view = self.view(state);
        let elsewhere = self.slots_scanned_cold();
        let end = (self.rows.chunks() * SLOTS) as u64;
        let (mut found, mut bytes) = (0, 0);
        for slot in cursor - cold..end {
            let number = slot as u32;
            if elsewhere.binary_search(&number).is_ok() {
                continue;
            }
            let stored = store.get(number, &self.rows, &self.heap);
            let Some(value) = stored.and_then(|stored| view.see(stored)) else {
                continue;
            };
            if found == limit || bytes >= PAGE_BYTES {
                return Ok(Some(cold + slot));
            }
            let key = self.rows.key(number, &self.heap);
            keys.push(key);
            values.push(value);
            found += 1;
            bytes += key.len() + value.len();
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::key::{KeyGroupRange, KeyGroups};
    use crate::state::{StateDescriptor, StateKind};

    fn state() -> KeyedState {
        let descriptor = |name: &str, kind| StateDescriptor {
            name: name.into(),
            kind,
            schema: "bytes".into(),
            schema_version: 1,
            ttl: None,
        };
        let descriptors = vec![
            descriptor("values", StateKind::Value),
            descriptor("maps", StateKind::Map),
        ];
        let range = KeyGroupRange { start: 0, end: 8 };
        KeyedState::new(descriptors, range, KeyGroups::new(8).unwrap())
    }

    #[test]
    fn every_key_with_a_value_comes_once_whatever_the_pages() {
        let mut state = state();
        let mut expected = BTreeMap::new();
        for number in 0..3000_u32 {
            let (key, value) = (number.to_string().into_bytes(), number.to_le_bytes());
            state.put(0, &key, &value).unwrap();
            if number % 3 == 0 {
                state.delete(0, &key).unwrap();
            } else {
                expected.insert(key, value.to_vec());
            }
        }
        for limit in [1, 7, 1024, u32::MAX] {
            let (mut keys, mut values, mut cursor) = (Cells::new(), Cells::new(), Some(0));
            while let Some(at) = cursor {
                let before = keys.len();
                cursor = state.scan(0, at, limit, &mut keys, &mut values).unwrap();
                assert!(keys.len() - before <= limit as usize);
            }
            let found: Vec<_> = keys.iter().zip(values.iter()).collect();
            let as_map = found.iter().map(|(k, v)| (k.to_vec(), v.to_vec()));
            assert_eq!(as_map.collect::<BTreeMap<_, _>>(), expected);
            assert_eq!(found.len(), expected.len());
        }
    }

    #[test]
    fn what_is_not_a_value_state_is_refused_and_any_cursor_is_safe() {
        let mut state = state();
        state.put(0, b"key", b"value").unwrap();
        let scan =
            |number, cursor| state.scan(number, cursor, 10, &mut Cells::new(), &mut Cells::new());
        assert!(matches!(scan(1, 0), Err(StateError::WrongKind { .. })));
        assert!(matches!(scan(2, 0), Err(StateError::NoState { .. })));
        assert_eq!(scan(0, u64::MAX), Ok(None));
        assert_eq!(scan(0, u64::from(u32::MAX) + 1), Ok(None));
    }
}
