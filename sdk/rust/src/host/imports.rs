//! The host of a component: its imports.

use crate::bindings::highwater::operator::{
    log, metrics, operator_state, output, state, time, timers,
};
use crate::cells::Cells;

/// The host; see `wit/operator.wit` for what each function promises.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host;

#[expect(clippy::unused_self, reason = "the native stand-in has state")]
impl Host {
    pub(crate) fn load(&self, state: u32) -> state::Loaded {
        state::load(state)
    }

    pub(crate) fn store(&self, state: u32, keys: &[u32], values: &Cells) {
        state::store(state, keys, values);
    }

    pub(crate) fn clear(&self, state: u32, keys: &[u32]) {
        state::clear(state, keys);
    }

    pub(crate) fn get(&self, state: u32, key: &[u8]) -> Option<Vec<u8>> {
        state::get(state, key)
    }

    pub(crate) fn put(&self, state: u32, key: &[u8], value: &[u8]) {
        state::put(state, key, value);
    }

    pub(crate) fn delete(&self, state: u32, key: &[u8]) {
        state::delete(state, key);
    }

    pub(crate) fn scan(&self, state: u32, cursor: &[u8], limit: u32) -> state::Scanned {
        state::scan(state, cursor, limit)
    }

    pub(crate) fn map_load(&self, state: u32, keys: &[u32], fields: &Cells) -> state::Loaded {
        state::map_load(state, keys, fields)
    }

    pub(crate) fn map_store(&self, state: u32, keys: &[u32], fields: &Cells, values: &Cells) {
        state::map_store(state, keys, fields, values);
    }

    pub(crate) fn map_remove(&self, state: u32, keys: &[u32], fields: &Cells) {
        state::map_remove(state, keys, fields);
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
        state::map_scan(state, key, start, exclusive, end, limit)
    }

    pub(crate) fn list_append(&self, state: u32, keys: &[u32], elements: &Cells) {
        state::list_append(state, keys, elements);
    }

    pub(crate) fn list_load(&self, state: u32, key: u32) -> Cells {
        state::list_load(state, key)
    }

    pub(crate) fn register_timers(
        &self,
        domain: timers::TimeDomain,
        keys: &[u32],
        times: &[i64],
        tags: &[u32],
    ) {
        timers::register(domain, keys, times, tags);
    }

    pub(crate) fn delete_timers(
        &self,
        domain: timers::TimeDomain,
        keys: &[u32],
        times: &[i64],
        tags: &[u32],
    ) {
        timers::delete(domain, keys, times, tags);
    }

    pub(crate) fn operator_list_load(&self, state: u32) -> Cells {
        operator_state::list_load(state)
    }

    pub(crate) fn operator_list_append(&self, state: u32, elements: &Cells) {
        operator_state::list_append(state, elements);
    }

    pub(crate) fn operator_list_replace(&self, state: u32, elements: &Cells) {
        operator_state::list_replace(state, elements);
    }

    pub(crate) fn operator_map_load(&self, state: u32, fields: &Cells) -> state::Loaded {
        operator_state::map_load(state, fields)
    }

    pub(crate) fn operator_map_store(&self, state: u32, fields: &Cells, values: &Cells) {
        operator_state::map_store(state, fields, values);
    }

    pub(crate) fn operator_map_remove(&self, state: u32, fields: &Cells) {
        operator_state::map_remove(state, fields);
    }

    pub(crate) fn operator_map_scan(
        &self,
        state: u32,
        start: &[u8],
        exclusive: bool,
        end: Option<&[u8]>,
        limit: u32,
    ) -> state::Page {
        operator_state::map_scan(state, start, exclusive, end, limit)
    }

    pub(crate) fn emit(&self, output: u32, keys: &Cells, values: &Cells, timestamps: &[i64]) {
        output::emit(output, keys, values, timestamps);
    }

    pub(crate) fn emit_numbered(
        &self,
        output: u32,
        key_numbers: &[u32],
        values: &Cells,
        timestamps: &[i64],
    ) {
        output::emit_numbered(output, key_numbers, values, timestamps);
    }

    pub(crate) fn register_metric(&self, kind: metrics::Kind, name: &str) -> u32 {
        metrics::register(kind, name)
    }

    pub(crate) fn record_metrics(&self, metrics: &[u32], values: &[f64]) {
        metrics::record(metrics, values);
    }

    pub(crate) fn processing_time(&self) -> i64 {
        time::processing_time()
    }

    pub(crate) fn current_watermark(&self) -> i64 {
        time::current_watermark()
    }

    pub(crate) fn log(level: log::Level, message: &str) {
        log::log(level, message);
    }
}
