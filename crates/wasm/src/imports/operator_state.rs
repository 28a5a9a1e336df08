//! The interface `operator-state`: lists and maps of a subtask, whatever the keys of its records.
//!
//! The same holds as for keyed state (see `link_state`): nothing is copied before it is counted, what is as long as
//! the guest wants goes in portions, and what goes back is bounded.

use dataflow::operator_state::AccessError;
use dataflow::{Cells, CellsRef};
use operator::text::size;
use operator::{Call, Failure, FailureKind};
use wasmtime::component::{LinkerInstance, WasmList};

use super::super::budget::in_ranges;
use super::super::guest::Guest;
use super::super::wire::{CellsResult, CellsView, Loaded, Page, protocol};
use super::{check_loaded, loaded_too_much, page_limit, shift, with_call, writing};

fn failure(error: AccessError) -> Failure {
    match error {
        AccessError::TooLarge { limit } => loaded_too_much(limit as u64),
        AccessError::Limit { limit } => Failure::new(
            FailureKind::StateLimit,
            format!(
                "operator state is limited to {} for each subtask (limits.state, at most 256 MiB): every \
                 checkpoint writes all of it; keep less, or keep it by key",
                size(limit)
            ),
        ),
        error => protocol(error.to_string()),
    }
}

/// The most bytes that an access returns.
fn access_max(guest: &Guest) -> usize {
    const COLUMN_BYTES_MAX: usize = 1 << 30;
    usize::try_from(guest.memory.limit())
        .unwrap_or(COLUMN_BYTES_MAX)
        .min(COLUMN_BYTES_MAX)
}

pub(super) fn link(state: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    link_lists(state)?;
    link_maps(state)
}

fn append(
    call: &mut Call,
    guest: &Guest,
    state: u32,
    elements: CellsRef<'_>,
) -> Result<(), Failure> {
    let (deadline, phase) = (guest.deadline, guest.phase);
    in_ranges(deadline, phase, elements.len(), [elements], |_, [part]| {
        call.operator_state
            .list_append(state, part)
            .map_err(failure)
    })
}

fn link_lists(state: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    state.func_wrap("list-load", |store, (state,): (u32,)| {
        with_call(store, |call, store| {
            let mut elements = Cells::new();
            call.operator_state
                .list_load(state, access_max(store.data()), &mut elements)
                .map_err(failure)?;
            Ok((CellsResult::from(elements),))
        })
    })?;
    state.func_wrap(
        "list-append",
        |store, (state, elements): (u32, CellsView)| {
            let bytes = elements.byte_len();
            writing(store, elements.count(), bytes, |call, store| {
                let elements = elements.read(store, "elements")?;
                append(call, store.data(), state, elements)
            })
        },
    )?;
    state.func_wrap(
        "list-replace",
        |store, (state, elements): (u32, CellsView)| {
            let bytes = elements.byte_len();
            writing(store, elements.count(), bytes, |call, store| {
                let elements = elements.read(store, "elements")?;
                call.operator_state.list_clear(state).map_err(failure)?;
                append(call, store.data(), state, elements)
            })
        },
    )
}

fn load(
    call: &Call,
    guest: &Guest,
    state: u32,
    fields: CellsRef<'_>,
) -> Result<(Loaded,), Failure> {
    let (mut values, mut absent) = (Cells::new(), Vec::new());
    let (deadline, phase) = (guest.deadline, guest.phase);
    in_ranges(deadline, phase, fields.len(), [fields], |range, [part]| {
        let before = absent.len();
        call.operator_state
            .map_load(state, part, access_max(guest), &mut values, &mut absent)
            .map_err(failure)?;
        shift(&mut absent[before..], range.start);
        check_loaded(guest, &values, &absent)
    })?;
    Ok((Loaded {
        values: values.into(),
        absent,
    },))
}

fn link_maps(state: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    type Scan = (u32, WasmList<u8>, bool, Option<WasmList<u8>>, u32);
    state.func_wrap("map-load", |store, (state, fields): (u32, CellsView)| {
        with_call(store, |call, store| {
            let fields = fields.read(store, "fields")?;
            load(call, store.data(), state, fields)
        })
    })?;
    state.func_wrap(
        "map-store",
        |store, (state, fields, values): (u32, CellsView, CellsView)| {
            let bytes = fields.byte_len() + values.byte_len();
            writing(store, fields.count(), bytes, |call, store| {
                let (fields, values) =
                    (fields.read(store, "fields")?, values.read(store, "values")?);
                let guest = store.data();
                let (deadline, phase) = (guest.deadline, guest.phase);
                let columns = [fields, values];
                in_ranges(
                    deadline,
                    phase,
                    fields.len(),
                    columns,
                    |_, [fields, values]| {
                        call.operator_state
                            .map_store(state, fields, values)
                            .map_err(failure)
                    },
                )
            })
        },
    )?;
    state.func_wrap("map-remove", |store, (state, fields): (u32, CellsView)| {
        let bytes = fields.byte_len();
        writing(store, fields.count(), bytes, |call, store| {
            let fields = fields.read(store, "fields")?;
            let guest = store.data();
            let (deadline, phase) = (guest.deadline, guest.phase);
            in_ranges(deadline, phase, fields.len(), [fields], |_, [fields]| {
                call.operator_state
                    .map_remove(state, fields)
                    .map_err(failure)
            })
        })
    })?;
    state.func_wrap(
        "map-scan",
        |store, (state, start, exclusive, end, limit): Scan| {
            with_call(store, |call, store| {
                let limit = page_limit(limit)?;
                let (mut fields, mut values) = (Cells::new(), Cells::new());
                let more = call
                    .operator_state
                    .map_scan(
                        state,
                        (start.as_le_slice(store), exclusive),
                        end.as_ref().map(|end| end.as_le_slice(store)),
                        (limit, access_max(store.data())),
                        (&mut fields, &mut values),
                    )
                    .map_err(failure)?;
                Ok((Page {
                    fields: fields.into(),
                    values: values.into(),
                    more,
                },))
            })
        },
    )
}
