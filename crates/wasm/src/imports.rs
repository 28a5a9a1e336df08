//! What the host does for a guest: state, output, time, log, metrics.
//!
//! Columns are read in place in the guest's memory, after one pass over their offsets. Nothing
//! that a guest passes is trusted, and nothing it passes sizes an allocation beyond the limits below, or
//! keeps the host busy beyond [the budget of the call](super::budget); what does not fit ends the call with [`FailureKind::Protocol`].

mod operator_state;

use dataflow::state::{KeyedState, StateError, TimeDomain};
use dataflow::{Batch, Cells, CellsRef};
use operator::text::size;
use operator::{Call, Failure, FailureKind};
use wasmtime::component::{Linker, LinkerInstance, WasmList, WasmStr};
use wasmtime::{StoreContext, StoreContextMut};
use xxhash_rust::xxh3::xxh3_64;

use super::budget::{PORTION_ENTRIES, Writes, in_portions, until_done};
use super::console::Stream;
use super::guest::Guest;
use super::metrics::lock;
use super::phase::Phase;
use super::wire::{
    CellsResult, CellsView, Level, Loaded, Page, Scanned, WireMetricKind, WireTimeDomain, protocol,
};
use super::world::WorldVersion;

/// The functions of the interfaces of 0.1 that this host has; a component that imports others was built for
/// a newer one. 0.2 has the same and more.
const INTERFACES: &[(&str, &[&str])] = &[
    ("types", &[]),
    (
        "state",
        &[
            "load",
            "load-some",
            "store",
            "clear",
            "get",
            "put",
            "delete",
            "scan",
            "map-load",
            "map-store",
            "map-remove",
            "map-scan",
            "list-append",
            "list-load",
        ],
    ),
    ("timers", &["register", "delete"]),
    ("time", &["processing-time", "current-watermark"]),
    ("output", &["emit", "emit-numbered"]),
    ("log", &["log"]),
    ("metrics", &["register", "record"]),
];

/// What 0.2 has beside those.
const INTERFACES_02: &[(&str, &[&str])] = &[(
    "operator-state",
    &[
        "list-load",
        "list-append",
        "list-replace",
        "map-load",
        "map-store",
        "map-remove",
        "map-scan",
    ],
)];

/// The interfaces of a version, each with its functions.
pub(super) fn interfaces(
    version: WorldVersion,
) -> impl Iterator<Item = &'static (&'static str, &'static [&'static str])> {
    let more = match version {
        WorldVersion::V01 => &[],
        WorldVersion::V02 => INTERFACES_02,
    };
    INTERFACES.iter().chain(more)
}

/// The most entries in a page of a scan; the bytes are limited by the state itself.
const PAGE_ENTRIES_MAX: u32 = 65_536;
/// The most values of metrics in one call of `record`: some for each record of a batch.
const METRIC_VALUES_MAX: usize = 1 << 20;
/// The most records that a guest can emit on one output in one call.
const EMIT_RECORDS_MAX: usize = 16 << 20;

/// Adds all interfaces of all versions to a linker.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    for version in WorldVersion::ALL {
        let mut state = linker.instance(&version.interface("state"))?;
        link_state(&mut state)?;
        match version {
            WorldVersion::V01 => link_map_scan_01(&mut state)?,
            WorldVersion::V02 => {
                link_map_scan(&mut state)?;
                operator_state::link(&mut linker.instance(&version.interface("operator-state"))?)?;
            }
        }
        link_timers(&mut linker.instance(&version.interface("timers"))?)?;
        link_output(&mut linker.instance(&version.interface("output"))?)?;
        link_time(&mut linker.instance(&version.interface("time"))?)?;
        link_log(&mut linker.instance(&version.interface("log"))?)?;
        link_metrics(&mut linker.instance(&version.interface("metrics"))?)?;
    }
    link_preview1(&mut linker.instance(super::adapter::INTERFACE)?)
}

/// Runs `access` on the state and output of the current call, with the guest's memory beside it.
fn with_call<R>(
    store: StoreContextMut<'_, Guest>,
    access: impl FnOnce(&mut Call, &StoreContext<'_, Guest>) -> Result<R, Failure>,
) -> wasmtime::Result<R> {
    counting(store, (0, 0), 0, access)
}

/// As [`with_call`], for an access that writes this many entries of state, with these bytes in all.
fn writing<R>(
    store: StoreContextMut<'_, Guest>,
    entries: usize,
    bytes: usize,
    access: impl FnOnce(&mut Call, &StoreContext<'_, Guest>) -> Result<R, Failure>,
) -> wasmtime::Result<R> {
    counting(store, (entries, Writes::ENTRY_BYTES), bytes, access)
}

/// As [`with_call`], for an access that emits this many records, with these bytes in all.
fn emitting<R>(
    store: StoreContextMut<'_, Guest>,
    records: usize,
    bytes: usize,
    access: impl FnOnce(&mut Call, &StoreContext<'_, Guest>) -> Result<R, Failure>,
) -> wasmtime::Result<R> {
    counting(store, (records, Writes::RECORD_BYTES), bytes, access)
}

/// What is written is counted before any of it is looked at or copied, so that the host holds no more of a
/// call than `limits.call-writes`.
fn counting<R>(
    mut store: StoreContextMut<'_, Guest>,
    (count, each): (usize, u64),
    bytes: usize,
    access: impl FnOnce(&mut Call, &StoreContext<'_, Guest>) -> Result<R, Failure>,
) -> wasmtime::Result<R> {
    let guest = store.data_mut();
    let mut call = guest.call.take().ok_or_else(|| {
        protocol(format!(
            "state and output cannot be used in `{}`, only in `process`, `on-timers`, `on-watermark` and `end-of-input`",
            guest.phase.name()
        ))
    })?;
    let guest = store.data_mut();
    if let Err(failure) = guest.writes.count(guest.phase, count, each, bytes) {
        guest.call = Some(call);
        return Err(failure.into());
    }
    let result = access(&mut call, &StoreContext::from(&store));
    store.data_mut().call = Some(call);
    Ok(result?)
}

fn state_failure(error: StateError) -> Failure {
    if let StateError::TooLarge { limit } = error {
        return loaded_too_much(limit as u64);
    }
    let kind = match error {
        StateError::Limit { .. } => FailureKind::StateLimit,
        StateError::Cold { .. } => FailureKind::Disk,
        _ => FailureKind::Protocol,
    };
    if let StateError::Limit { limit } = error {
        let limit = size(limit);
        let message = format!(
            "state is limited to {limit} for each subtask by `limits.state`: raise it in the job file, or keep less"
        );
        return Failure::new(kind, message);
    }
    Failure::new(kind, error.to_string())
}

fn loaded_too_much(limit: u64) -> Failure {
    let message = format!(
        "one access to state takes or returns at most {}, which is limits.memory or 1 GiB; load less at once, or \
         raise that limit in the job file",
        size(limit)
    );
    Failure::new(FailureKind::MemoryLimit, message)
}

/// What an access has loaded so far must fit into the guest's memory.
fn check_loaded(guest: &Guest, values: &Cells, absent: &[u32]) -> Result<(), Failure> {
    let numbers = (values.len() + absent.len()) * size_of::<u32>();
    let limit = guest.memory.limit();
    if (values.byte_len() + numbers) as u64 > limit {
        return Err(loaded_too_much(limit));
    }
    Ok(())
}

/// Positions within a portion become those within the whole.
fn shift(positions: &mut [u32], at: usize) {
    if at > 0 {
        positions
            .iter_mut()
            .for_each(|position| *position += at as u32);
    }
}

fn load_some(
    call: &mut Call,
    guest: &Guest,
    state: u32,
    numbers: &[u32],
) -> Result<(Loaded,), Failure> {
    let (mut values, mut absent) = (Cells::new(), Vec::new());
    in_portions(
        guest.deadline,
        guest.phase,
        numbers,
        [],
        |at, numbers, []| {
            let before = absent.len();
            call.state
                .load(state, Some(numbers), &mut values, &mut absent)
                .map_err(state_failure)?;
            shift(&mut absent[before..], at);
            check_loaded(guest, &values, &absent)
        },
    )?;
    Ok((Loaded {
        values: values.into(),
        absent,
    },))
}

fn map_load(
    call: &mut Call,
    guest: &Guest,
    state: u32,
    numbers: &[u32],
    fields: CellsRef<'_>,
) -> Result<(Loaded,), Failure> {
    let (mut values, mut absent) = (Cells::new(), Vec::new());
    in_portions(
        guest.deadline,
        guest.phase,
        numbers,
        [fields],
        |at, numbers, [fields]| {
            let before = absent.len();
            call.state
                .map_load(state, numbers, fields, &mut values, &mut absent)
                .map_err(state_failure)?;
            shift(&mut absent[before..], at);
            check_loaded(guest, &values, &absent)
        },
    )?;
    Ok((Loaded {
        values: values.into(),
        absent,
    },))
}

fn load(call: &mut Call, state: u32) -> Result<(Loaded,), Failure> {
    // Room for the numbers of a whole batch, so that it need not grow.
    let mut values = Cells::with_capacity(Batch::TARGET_RECORDS, 8 * Batch::TARGET_RECORDS);
    let mut absent = Vec::new();
    call.state
        .load(state, None, &mut values, &mut absent)
        .map_err(state_failure)?;
    Ok((Loaded {
        values: values.into(),
        absent,
    },))
}

/// The cursor of a page that begins at a place of a state, for the guest: the place, and what shows that it
/// was given for this state and in this call.
fn cursor(guest: &Guest, state: u32, at: u64) -> [u8; 16] {
    let mut cursor = [0; 16];
    let (place, proof) = cursor.split_at_mut(8);
    place.copy_from_slice(&at.to_le_bytes());
    let given = [guest.calls, u64::from(state), at].map(u64::to_le_bytes);
    proof.copy_from_slice(&xxh3_64(given.as_flattened()).to_le_bytes());
    cursor
}

/// The place that a guest's cursor stands for. Any place is safe to scan from; but what is none of the
/// host's, or of another call or state, would leave out keys in silence.
fn place_of(guest: &Guest, state: u32, bytes: &[u8]) -> Result<u64, Failure> {
    let Some(place) = bytes.first_chunk() else {
        return match bytes {
            [] => Ok(0),
            _ => Err(no_cursor()),
        };
    };
    let at = u64::from_le_bytes(*place);
    match bytes == cursor(guest, state, at) {
        true => Ok(at),
        false => Err(no_cursor()),
    }
}

fn no_cursor() -> Failure {
    protocol("the cursor of a scan is not one that the host gave in this call for this state")
}

/// How many entries a page may have, so that a guest's number does not decide.
fn page_limit(asked: u32) -> Result<u32, Failure> {
    match asked {
        0 => Err(protocol("the limit of a scan must be at least 1")),
        asked => Ok(asked.min(PAGE_ENTRIES_MAX)),
    }
}

#[expect(clippy::too_many_lines, reason = "a table: one entry for each import")]
fn link_state(state: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    // What all of them must do, because a guest chooses every number and every length here:
    // - Lists arrive as views into the guest's memory. Nothing is copied before `writing` has counted it.
    // - Nothing interrupts the host, so what is as long as the guest wants goes through `in_portions` or
    //   `until_done`, which look at the deadline.
    // - What goes back to the guest is bounded: by `page_limit`, by `check_loaded` after each portion, or by
    //   the state itself (`StateError::TooLarge`).
    state.func_wrap("load", |store, (state,): (u32,)| {
        with_call(store, |call, _| load(call, state))
    })?;
    state.func_wrap("load-some", |store, (state, keys): (u32, WasmList<u32>)| {
        with_call(store, |call, store| {
            load_some(call, store.data(), state, keys.as_le_slice(store))
        })
    })?;
    state.func_wrap(
        "store",
        |store, (state, keys, values): (u32, WasmList<u32>, CellsView)| {
            writing(store, keys.len(), values.byte_len(), |call, store| {
                let values = values.read(store, "values")?;
                let (guest, keys) = (store.data(), keys.as_le_slice(store));
                in_portions(
                    guest.deadline,
                    guest.phase,
                    keys,
                    [values],
                    |_, keys, [values]| {
                        call.state.store(state, keys, values).map_err(state_failure)
                    },
                )
            })
        },
    )?;
    state.func_wrap("clear", |store, (state, keys): (u32, WasmList<u32>)| {
        writing(store, keys.len(), 0, |call, store| {
            let (guest, keys) = (store.data(), keys.as_le_slice(store));
            in_portions(guest.deadline, guest.phase, keys, [], |_, keys, []| {
                // A key has one value, but a map or a list of any size: within a portion of keys it is
                // portions of entries that take the time.
                let mut left = keys;
                until_done(guest.deadline, guest.phase, || {
                    let done = call
                        .state
                        .clear_some(state, left, PORTION_ENTRIES)
                        .map_err(state_failure)?;
                    left = &left[done..];
                    Ok(left.is_empty())
                })
            })
        })
    })?;
    state.func_wrap("get", |store, (state, key): (u32, WasmList<u8>)| {
        with_call(store, |call, store| {
            let value = call
                .state
                .get(state, key.as_le_slice(store))
                .map_err(state_failure)?;
            Ok((value.map(<[u8]>::to_vec),))
        })
    })?;
    state.func_wrap(
        "put",
        |store, (state, key, value): (u32, WasmList<u8>, WasmList<u8>)| {
            writing(store, 1, key.len() + value.len(), |call, store| {
                let (key, value) = (key.as_le_slice(store), value.as_le_slice(store));
                // The other accesses get cells, which check this when they are read.
                if key.len().max(value.len()) > CellsView::CELL_BYTES_MAX {
                    return Err(protocol(format!(
                        "a key or value is larger than {} MiB",
                        CellsView::CELL_BYTES_MAX >> 20
                    )));
                }
                call.state.put(state, key, value).map_err(state_failure)
            })
        },
    )?;
    state.func_wrap("delete", |store, (state, key): (u32, WasmList<u8>)| {
        writing(store, 1, key.len(), |call, store| {
            let (guest, key) = (store.data(), key.as_le_slice(store));
            until_done(guest.deadline, guest.phase, || {
                call.state
                    .delete_some(state, key, PORTION_ENTRIES)
                    .map_err(state_failure)
            })
        })
    })?;
    state.func_wrap(
        "scan",
        |store, (state, cursor, limit): (u32, WasmList<u8>, u32)| {
            with_call(store, |call, store| {
                let at = place_of(store.data(), state, cursor.as_le_slice(store))?;
                let limit = page_limit(limit)?;
                let (mut keys, mut values) = (Cells::new(), Cells::new());
                let next = call
                    .state
                    .scan(state, at, limit, &mut keys, &mut values)
                    .map_err(state_failure)?;
                let cursor = next.map(|next| self::cursor(store.data(), state, next).to_vec());
                let cursor = cursor.unwrap_or_default();
                Ok((Scanned {
                    keys: keys.into(),
                    values: values.into(),
                    cursor,
                    more: next.is_some(),
                },))
            })
        },
    )?;
    state.func_wrap(
        "map-load",
        |store, (state, keys, fields): (u32, WasmList<u32>, CellsView)| {
            with_call(store, |call, store| {
                let fields = fields.read(store, "fields")?;
                map_load(call, store.data(), state, keys.as_le_slice(store), fields)
            })
        },
    )?;
    state.func_wrap(
        "map-store",
        |store, (state, keys, fields, values): (u32, WasmList<u32>, CellsView, CellsView)| {
            let bytes = fields.byte_len() + values.byte_len();
            writing(store, keys.len(), bytes, |call, store| {
                let (fields, values) =
                    (fields.read(store, "fields")?, values.read(store, "values")?);
                let (guest, keys) = (store.data(), keys.as_le_slice(store));
                let columns = [fields, values];
                in_portions(
                    guest.deadline,
                    guest.phase,
                    keys,
                    columns,
                    |_, keys, [fields, values]| {
                        call.state
                            .map_store(state, keys, fields, values)
                            .map_err(state_failure)
                    },
                )
            })
        },
    )?;
    state.func_wrap(
        "map-remove",
        |store, (state, keys, fields): (u32, WasmList<u32>, CellsView)| {
            writing(store, keys.len(), fields.byte_len(), |call, store| {
                let fields = fields.read(store, "fields")?;
                let (guest, keys) = (store.data(), keys.as_le_slice(store));
                in_portions(
                    guest.deadline,
                    guest.phase,
                    keys,
                    [fields],
                    |_, keys, [fields]| {
                        call.state
                            .map_remove(state, keys, fields)
                            .map_err(state_failure)
                    },
                )
            })
        },
    )?;
    state.func_wrap(
        "list-append",
        |store, (state, keys, elements): (u32, WasmList<u32>, CellsView)| {
            writing(store, keys.len(), elements.byte_len(), |call, store| {
                let elements = elements.read(store, "elements")?;
                let (guest, keys) = (store.data(), keys.as_le_slice(store));
                in_portions(
                    guest.deadline,
                    guest.phase,
                    keys,
                    [elements],
                    |_, keys, [elements]| {
                        call.state
                            .list_append(state, keys, elements)
                            .map_err(state_failure)
                    },
                )
            })
        },
    )?;
    state.func_wrap("list-load", |store, (state, key): (u32, u32)| {
        with_call(store, |call, _| {
            let mut elements = Cells::new();
            call.state
                .list_load(state, key, &mut elements)
                .map_err(state_failure)?;
            Ok((CellsResult::from(elements),))
        })
    })
}

/// `map-scan` without an end.
fn link_map_scan_01(state: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    state.func_wrap(
        "map-scan",
        |store, (state, key, start, exclusive, limit): (u32, u32, WasmList<u8>, bool, u32)| {
            with_call(store, |call, store| {
                let start = start.as_le_slice(store);
                map_scan(call, state, key, (start, exclusive), None, limit)
            })
        },
    )
}

fn link_map_scan(state: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    type Scan = (u32, u32, WasmList<u8>, bool, Option<WasmList<u8>>, u32);
    state.func_wrap(
        "map-scan",
        |store, (state, key, start, exclusive, end, limit): Scan| {
            with_call(store, |call, store| {
                let start = start.as_le_slice(store);
                let end = end.as_ref().map(|end| end.as_le_slice(store));
                map_scan(call, state, key, (start, exclusive), end, limit)
            })
        },
    )
}

fn map_scan(
    call: &mut Call,
    state: u32,
    key: u32,
    (start, exclusive): (&[u8], bool),
    end: Option<&[u8]>,
    limit: u32,
) -> Result<(Page,), Failure> {
    let limit = page_limit(limit)?;
    let (mut fields, mut values) = (Cells::new(), Cells::new());
    let more = call
        .state
        .map_scan(
            state,
            key,
            start,
            exclusive,
            end,
            limit,
            &mut fields,
            &mut values,
        )
        .map_err(state_failure)?;
    Ok((Page {
        fields: fields.into(),
        values: values.into(),
        more,
    },))
}

fn link_output(output: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    output.func_wrap(
        "emit",
        |store, (output, keys, values, timestamps): (u32, CellsView, CellsView, WasmList<i64>)| {
            let bytes = keys.byte_len() + values.byte_len();
            emitting(store, values.count(), bytes, |call, store| {
                let (keys, values) = (keys.read(store, "keys")?, values.read(store, "values")?);
                check_records(call, output, values.len())?;
                call.output
                    .emit(output, keys, values, timestamps.as_le_slice(store))
                    .map_err(|error| protocol(error.to_string()))
            })
        },
    )?;
    output.func_wrap(
        "emit-numbered",
        |store,
         (output, numbers, values, timestamps): (
            u32,
            WasmList<u32>,
            CellsView,
            WasmList<i64>,
        )| {
            emitting(store, values.count(), values.byte_len(), |call, store| {
                let (numbers, values) =
                    (numbers.as_le_slice(store), values.read(store, "values")?);
                check_records(call, output, values.len())?;
                call.output
                    .emit_numbered(output, numbers, values, timestamps.as_le_slice(store))
                    .map_err(|error| protocol(error.to_string()))
            })
        },
    )
}

/// Records without bytes would not count towards the limit of `Output`.
fn check_records(call: &Call, output: u32, records: usize) -> Result<(), Failure> {
    let emitted = call.output.batch(output).map_or(0, Batch::len);
    if emitted + records > EMIT_RECORDS_MAX {
        return Err(protocol(format!(
            "one call emitted more than {EMIT_RECORDS_MAX} records"
        )));
    }
    Ok(())
}

fn link_time(time: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    time.func_wrap("processing-time", |store, (): ()| {
        let guest: &Guest = store.data();
        Ok((guest
            .call
            .as_ref()
            .map_or_else(|| guest.clock.now_ms(), |call| call.processing_time),))
    })?;
    time.func_wrap("current-watermark", |store, (): ()| {
        let guest: &Guest = store.data();
        Ok((guest.watermark,))
    })
}

fn link_log(log: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    log.func_wrap("log", |store, (level, message): (Level, WasmStr)| {
        let message = message.to_str(&store)?;
        let guest: &Guest = store.data();
        guest.console.log(level, &message);
        Ok(())
    })
}

fn link_metrics(metrics: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    metrics.func_wrap(
        "register",
        |store, (kind, name): (WireMetricKind, WasmStr)| {
            let name = name.to_str(&store)?;
            let guest: &Guest = store.data();
            if guest.phase != Phase::Open {
                return Err(protocol(format!(
                    "metrics are registered in `open`, not in `{}`",
                    guest.phase.name()
                ))
                .into());
            }
            Ok((lock(&guest.metrics).register(kind, &name)?,))
        },
    )?;
    metrics.func_wrap(
        "record",
        |mut store: StoreContextMut<'_, Guest>,
         (numbers, values): (WasmList<u32>, WasmList<f64>)| {
            if numbers.len() != values.len() {
                return Err(protocol(format!(
                    "{} metrics, but {} values",
                    numbers.len(),
                    values.len()
                ))
                .into());
            }
            if values.len() > METRIC_VALUES_MAX {
                return Err(protocol(format!(
                    "one call recorded more than {METRIC_VALUES_MAX} values of metrics"
                ))
                .into());
            }
            let values = values
                .iter(&mut store)?
                .collect::<wasmtime::Result<Vec<f64>>>()?;
            let guest: &Guest = store.data();
            // What a probe does was done before, and counted if it was ok.
            if guest.call.as_ref().is_some_and(|call| call.probing) {
                return Ok(());
            }
            let mut metrics = lock(&guest.metrics);
            metrics.record(numbers.as_le_slice(&store), values.into_iter())?;
            Ok(())
        },
    )
}

/// What a timer takes of the host, beside its key.
const TIMER_BYTES: usize = 24;

type TimersArg = (WireTimeDomain, WasmList<u32>, WasmList<i64>, WasmList<u32>);

fn link_timers(timers: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    type Change = fn(&mut KeyedState, TimeDomain, &[u32], &[i64], &[u32]) -> Result<(), StateError>;
    let changes: [(&str, Change); 2] = [
        ("register", KeyedState::register_timers),
        ("delete", KeyedState::delete_timers),
    ];
    for (name, change) in changes {
        timers.func_wrap(
            name,
            move |store, (domain, keys, times, tags): TimersArg| {
                let bytes = keys.len() * TIMER_BYTES;
                writing(store, keys.len(), bytes, |call, store| {
                    let (guest, keys) = (store.data(), keys.as_le_slice(store));
                    let (times, tags) = (times.as_le_slice(store), tags.as_le_slice(store));
                    if keys.len() != times.len() || keys.len() != tags.len() {
                        return Err(protocol(format!(
                            "{} keys, but {} times and {} tags",
                            keys.len(),
                            times.len(),
                            tags.len()
                        )));
                    }
                    let (deadline, phase) = (guest.deadline, guest.phase);
                    in_portions(deadline, phase, keys, [], |at, keys, []| {
                        let part = at..at + keys.len();
                        let (times, tags) = (&times[part.clone()], &tags[part]);
                        change(&mut call.state, domain.into(), keys, times, tags)
                            .map_err(state_failure)
                    })
                })
            },
        )?;
    }
    Ok(())
}

/// What the adapter of core modules imports.
fn link_preview1(host: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    host.func_wrap("write", |store, (stream, bytes): (u32, WasmList<u8>)| {
        let stream = if stream == 2 {
            Stream::Err
        } else {
            Stream::Out
        };
        let guest: &Guest = store.data();
        guest.console.print(stream, bytes.as_le_slice(&store));
        Ok(())
    })?;
    host.func_wrap("now", |store, (clock,): (u32,)| {
        let guest: &Guest = store.data();
        Ok((guest.ambient.now(clock),))
    })?;
    host.func_wrap("random", |mut store, (): ()| {
        let guest: &mut Guest = store.data_mut();
        Ok((guest.ambient.random(),))
    })?;
    host.func_wrap("exit", |_, (status,): (u32,)| -> wasmtime::Result<()> {
        Err(Failure::new(
            FailureKind::Trap,
            format!("the operator ended itself with exit status {status}"),
        )
        .into())
    })
}
