//! Operator state: kept as keyed state is, under the one key that no record has.

use std::collections::BTreeMap;

use super::{Held, Host};
use crate::bindings::highwater::operator::state;
use crate::cells::Cells;

/// Where it is kept. Tables of operator state have no other key.
const KEY: &[u8] = b"";

impl Host {
    fn own_list(&self, state: u32) -> Vec<Vec<u8>> {
        self.read(state, KEY, |held| Self::list(held.cloned()))
    }

    fn own_map(&self, state: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.read(state, KEY, |held| Self::map(held.cloned()))
    }

    pub(crate) fn operator_list_load(&self, state: u32) -> Cells {
        let mut cells = Cells::empty();
        self.own_list(state)
            .iter()
            .for_each(|element| cells.push(element));
        cells
    }

    pub(crate) fn operator_list_append(&self, state: u32, elements: &Cells) {
        let mut list = self.own_list(state);
        list.extend(elements.iter().map(<[u8]>::to_vec));
        self.change(state, KEY.to_vec(), |_| Some(Held::List(list)));
    }

    pub(crate) fn operator_list_replace(&self, state: u32, elements: &Cells) {
        let list = elements.iter().map(<[u8]>::to_vec).collect();
        self.change(state, KEY.to_vec(), |_| Some(Held::List(list)));
    }

    pub(crate) fn operator_map_load(&self, state: u32, fields: &Cells) -> state::Loaded {
        let map = self.own_map(state);
        self.load_cells(fields.iter().map(|field| map.get(field).cloned()))
    }

    pub(crate) fn operator_map_store(&self, state: u32, fields: &Cells, values: &Cells) {
        assert_eq!(fields.count(), values.count(), "one value per field");
        let mut map = self.own_map(state);
        let entries = fields.iter().zip(values.iter());
        map.extend(entries.map(|(field, value)| (field.to_vec(), value.to_vec())));
        self.change(state, KEY.to_vec(), |_| Some(Held::Map(map)));
    }

    pub(crate) fn operator_map_remove(&self, state: u32, fields: &Cells) {
        let mut map = self.own_map(state);
        fields.iter().for_each(|field| drop(map.remove(field)));
        self.change(state, KEY.to_vec(), |_| Some(Held::Map(map)));
    }

    pub(crate) fn operator_map_scan(
        &self,
        state: u32,
        start: &[u8],
        exclusive: bool,
        end: Option<&[u8]>,
        limit: u32,
    ) -> state::Page {
        Self::page(&self.own_map(state), start, exclusive, end, limit)
    }
}
