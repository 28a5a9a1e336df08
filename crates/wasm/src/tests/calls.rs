//! Whatever a guest passes to the host: every import called with words from a seed, most of them nearly
//! right. The host answers or refuses, it never panics, and a call that failed has changed nothing.
//!
//! The oracle walks the whole state before and after each call. What was answered has done what its import does,
//! as far as its words tell without the guest's memory: a read changes nothing; a write changes its own state
//! and only the keys that it names, as many as it names, with as many bytes as it says; what is emitted has as many
//! records as it says.
//!
//! One guest does it all: the first word of a record says which import it calls, and whether it fails after that;
//! the others are the arguments as the canonical ABI flattens them. `HIGHWATER_CALLS` says how many calls are
//! made, `HIGHWATER_SEED` repeats those of one seed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Instant;

use dataflow::KeyGroupRange;
use dataflow::operator_state::{Descriptor, OperatorState, Scope};
use dataflow::state::timer_states;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

use super::*;

/// Every function that a guest may import: interface, name, how many words its parameters take (with the
/// place of the result, where that is in memory), and whether it returns a word.
pub(super) const IMPORTS: [(&str, &str, usize, bool); 28] = [
    ("state", "load", 2, false),
    ("state", "load-some", 4, false),
    ("state", "store", 7, false),
    ("state", "clear", 3, false),
    ("state", "get", 4, false),
    ("state", "put", 5, false),
    ("state", "delete", 3, false),
    ("state", "scan", 5, false),
    ("state", "map-load", 8, false),
    ("state", "map-store", 11, false),
    ("state", "map-remove", 7, false),
    ("state", "map-scan", 10, false),
    ("state", "list-append", 7, false),
    ("state", "list-load", 3, false),
    ("output", "emit", 11, false),
    ("output", "emit-numbered", 9, false),
    ("log", "log", 3, false),
    ("metrics", "register", 3, true),
    ("metrics", "record", 4, false),
    ("timers", "register", 7, false),
    ("timers", "delete", 7, false),
    ("operator-state", "list-load", 2, false),
    ("operator-state", "list-append", 5, false),
    ("operator-state", "list-replace", 5, false),
    ("operator-state", "map-load", 6, false),
    ("operator-state", "map-store", 9, false),
    ("operator-state", "map-remove", 5, false),
    ("operator-state", "map-scan", 9, false),
];

/// The states of a [`guest`]: a keyed one of each kind, and timers.
pub(super) fn keyed_states(range: KeyGroupRange, groups: KeyGroups) -> KeyedState {
    let kinds = [StateKind::Value, StateKind::Map, StateKind::List];
    let states = (0..).zip(kinds).map(|(number, kind)| StateDescriptor {
        name: format!("n{number}"),
        kind,
        schema: "bytes".into(),
        schema_version: 1,
        ttl: None,
    });
    KeyedState::new(states.chain(timer_states()).collect(), range, groups)
}

/// Its operator states: a list, which has the number after the keyed ones, and a map.
pub(super) fn operator_states() -> OperatorState {
    let scopes = [("list", Scope::Split), ("map", Scope::Broadcast)];
    let states = scopes.map(|(name, scope)| Descriptor {
        name: name.into(),
        scope,
        schema: "bytes".into(),
        schema_version: 1,
    });
    OperatorState::new(states.into(), LIST)
}

/// The numbers of its operator states.
pub(super) const LIST: u32 = 3;
pub(super) const MAP: u32 = 4;

/// Where those of event time are in a walk of keyed state; those of processing time come after them.
const TIMERS: u32 = 3;

/// Added to the number of an import: the guest fails after its call, which must then have done nothing.
const FAILS: u32 = 256;

/// The words after the first: as many as the longest list of parameters has.
const WORDS: usize = 11;

/// Where the guest has something that could be meant: offsets of cells of three bytes, zeros, numbers of
/// keys, any bytes.
pub(super) const AREAS: [u32; 4] = [4096, 8192, 12288, 16384];

/// How many calls, unless `HIGHWATER_CALLS` says otherwise.
const CALLS: u64 = 20_000;

/// A guest that calls what its record says. A number beyond the imports is returned as the address of the
/// result. `any` is in the last of its areas; `more` is further items.
pub(super) fn guest(any: &[u8; 512], more: &str) -> Vec<u8> {
    let mut imports = String::new();
    let mut calls = String::new();
    // No result is at the end of memory.
    let result = format!(
        "(if (result i32) (i32.lt_u (i32.load (local.get 1)) (i32.const {FAILS})) (then (global.get $ok)) (else (i32.const -16)))"
    );
    for (at, (interface, name, words, returns)) in IMPORTS.iter().enumerate() {
        let params = "i32 ".repeat(*words);
        let returned = if *returns { "(result i32)" } else { "" };
        let _ = writeln!(
            imports,
            "(import \"highwater:operator/{interface}@0.2.0\" \"{name}\" (func $f{at} (param {params}) {returned}))"
        );
        let word = |index: usize| format!("(i32.load offset={} (local.get 1))", 4 + 4 * index);
        let arguments: String = (0..*words).map(word).collect();
        let call = format!("(call $f{at} {arguments})");
        let call = if *returns {
            format!("(drop {call})")
        } else {
            call
        };
        let _ = writeln!(
            calls,
            "(if (i32.eq (i32.and (i32.load (local.get 1)) (i32.const 255)) (i32.const {at})) (then {call} (return {result})))"
        );
    }
    let escaped = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("\\{b:02x}")).collect() };
    let offsets: Vec<u8> = (0..64u32).flat_map(|at| (3 * at).to_le_bytes()).collect();
    let numbers: Vec<u8> = [0u32, 1, 2, 1]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    let [at_offsets, _, at_numbers, at_any] = AREAS;
    let items = format!(
        "(data (i32.const {at_offsets}) \"{}\") (data (i32.const {at_numbers}) \"{}\") (data (i32.const {at_any}) \"{}\") {more}",
        escaped(&offsets),
        escaped(&numbers),
        escaped(any),
    );
    let process = format!("{calls} (i32.load offset=4 (local.get 1))");
    // The name of its output is at this address.
    let open = "(drop (call $f17 (i32.const 0) (i32.const 384) (i32.const 3))) (global.get $ok)";
    operator(&[
        ("imports", &imports),
        ("items", &items),
        ("open", open),
        ("process", &process),
    ])
}

/// A word that could be an address, a length or a number of something, or is none.
fn word(random: &mut Xoshiro256PlusPlus) -> u32 {
    let any = random.next_u64();
    let small = (any >> 32) as u32;
    match any % 16 {
        0..=3 => small % 4,
        4..=5 => small % 70,
        6..=9 => AREAS[small as usize % AREAS.len()],
        10 => AREAS[small as usize % AREAS.len()] + 4 * (small % 64),
        11 => 131_072 - small % 16,
        12 => u32::MAX - small % 4,
        13 => 1 << (small % 32),
        14 => (1 << 31) - small % 3,
        _ => small,
    }
}

/// A list of cells that is right, in four words: data and offsets, each with its length.
fn cells(random: &mut Xoshiro256PlusPlus) -> [u32; 4] {
    let count = random.next_u64() as u32 % 4;
    [AREAS[3], 3 * count, AREAS[0], count + 1]
}

/// A record for one call.
fn call(random: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    let which = random.next_u64() as u32 % (IMPORTS.len() as u32 + 2);
    let mut words: Vec<u32> = (0..WORDS).map(|_| word(random)).collect();
    // Half of them right but for one word, so that what comes after the first check is reached.
    if random.next_u64().is_multiple_of(2) {
        let state = random.next_u64() as u32 % 3;
        let (keys, [a, b, c, d]) = ([AREAS[2], cells(random)[3] - 1], cells(random));
        let [e, f, g, h] = cells(random);
        let import = IMPORTS.get(which as usize);
        words = match import.map(|import| import.1) {
            _ if import.is_some_and(|import| import.0 == "timers") => {
                let [key, count] = keys;
                let domain = state % 2;
                let times = AREAS[3];
                vec![
                    domain, key, count, times, count, AREAS[1], count, 0, 0, 0, 0,
                ]
            }
            Some(name) if import.is_some_and(|import| import.0 == "operator-state") => match name {
                "list-load" => vec![LIST, AREAS[1], 0, 0, 0, 0, 0, 0, 0, 0, 0],
                "list-append" | "list-replace" => vec![LIST, a, b, c, d, 0, 0, 0, 0, 0, 0],
                "map-scan" => vec![MAP, a, b, state % 2, keys[1] % 2, e, f, 100, AREAS[1], 0, 0],
                "map-store" => vec![MAP, a, b, c, d, a, b, c, d, 0, 0],
                _ => vec![MAP, a, b, c, d, AREAS[1], 0, 0, 0, 0, 0],
            },
            Some("emit") => vec![0, a, b, c, d, e, f, g, h, AREAS[1], h - 1],
            Some("emit-numbered") => vec![0, keys[0], d - 1, a, b, c, d, AREAS[1], d - 1, 0, 0],
            Some("get" | "put" | "delete") => vec![state, a, b, e, f, 0, 0, 0, 0, 0, 0],
            Some("scan") => vec![state, 0, 0, 100, AREAS[1], 0, 0, 0, 0, 0, 0],
            Some("map-scan") => vec![
                state,
                keys[0] % 2,
                a,
                b,
                0,
                keys[0] / 2 % 2,
                a,
                b,
                100,
                AREAS[1],
                0,
            ],
            Some("record") => vec![AREAS[1], d - 1, AREAS[1], d - 1, 0, 0, 0, 0, 0, 0, 0],
            Some("log" | "register") => vec![1, AREAS[0], 5, 0, 0, 0, 0, 0, 0, 0, 0],
            _ => vec![state, keys[0], d - 1, a, b, c, d, e, f, g, h],
        };
        if random.next_u64().is_multiple_of(2) {
            let at = random.next_u64() as usize % words.len();
            words[at] = word(random);
        }
    }
    let fails = random.next_u64().is_multiple_of(8);
    [if fails { which | FAILS } else { which }]
        .iter()
        .chain(&words)
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

/// State, key, field, place in a list, value.
type Entry = (u32, Vec<u8>, Option<Vec<u8>>, Option<u64>, Vec<u8>);

fn held(state: &KeyedState) -> BTreeSet<Entry> {
    let own = |bytes: &[u8]| bytes.to_vec();
    let walked = state.walk();
    walked
        .map(|it| {
            (
                it.state,
                own(it.key),
                it.field.map(own),
                it.index,
                own(it.value),
            )
        })
        .collect()
}

/// How many entries of an operator's list and map there are, and bytes.
type Lengths = Vec<(u64, u64)>;

/// As [`effect`], for operator states.
fn operator_state_effect(
    (interface, name): (&str, &str),
    words: &[u32],
    before: &Lengths,
    after: &Lengths,
) -> Result<(), String> {
    let cells = |offsets: u32| u64::from(offsets.saturating_sub(1));
    let [(elements_before, _), (fields_before, _)] = before[..] else {
        return Err("there are other operator states".into());
    };
    let [(elements, _), (fields, _)] = after[..] else {
        return Err("there are other operator states".into());
    };
    let other = match words[0] {
        LIST => 1,
        _ => 0,
    };
    let is_right = match (interface, name) {
        ("operator-state", "list-append") => elements == elements_before + cells(words[4]),
        ("operator-state", "list-replace") => elements == cells(words[4]),
        ("operator-state", "map-store") => {
            (fields_before..=fields_before + cells(words[4])).contains(&fields)
        }
        ("operator-state", "map-remove") => fields <= fields_before,
        _ => before == after,
    };
    match is_right && before[other] == after[other] {
        true => Ok(()),
        false => Err(format!("operator state was {before:?} and is {after:?}")),
    }
}

/// Whether what changed is what an import does that was given these words. What it did instead, otherwise.
fn effect(
    (interface, name): (&str, &str),
    words: &[u32],
    before: &BTreeSet<Entry>,
    after: &BTreeSet<Entry>,
    emitted: usize,
) -> Result<(), String> {
    let holds = |right: bool, what: &str| if right { Ok(()) } else { Err(what.to_owned()) };
    let gone: Vec<&Entry> = before.difference(after).collect();
    let new: Vec<&Entry> = after.difference(before).collect();
    let changed = || gone.iter().chain(&new);
    // Cells have one offset more than there are of them, or none.
    let cells = |offsets: u32| offsets.saturating_sub(1) as usize;
    let records = match name {
        "emit" => cells(words[8]),
        "emit-numbered" => cells(words[6]),
        _ => 0,
    };
    holds(
        emitted == records,
        &format!("{emitted} records were emitted"),
    )?;
    let writes = [
        "store",
        "clear",
        "put",
        "delete",
        "map-store",
        "map-remove",
        "list-append",
    ];
    if interface == "timers" {
        let (domain, count) = (words[0], words[2] as usize);
        let of_it = changed()
            .all(|entry| entry.0 == TIMERS + domain && matches!(&entry.1[..], [b'a'..=b'c']));
        let adds = match name {
            "register" => gone.is_empty() && new.len() <= count,
            _ => new.is_empty() && gone.len() <= count,
        };
        return holds(of_it && adds, "other timers are there");
    }
    if interface != "state" || !writes.contains(&name) {
        return holds(new.is_empty() && gone.is_empty(), "state is changed");
    }
    let of_it = changed().all(|entry| entry.0 == words[0]);
    holds(of_it, "another state is changed")?;
    let count = words[2] as usize;
    match name {
        "put" => {
            let (key, value) = (words[2] as usize, words[4] as usize);
            let is_it =
                |entry: &&Entry| (entry.0, entry.1.len(), entry.4.len()) == (words[0], key, value);
            // It may have been there.
            let there = match &new[..] {
                [] => after.iter().any(|entry| is_it(&entry)),
                [one] => is_it(one),
                _ => false,
            };
            let replaced = gone.iter().all(|old| new.iter().any(|new| new.1 == old.1));
            holds(there && replaced, "something else is put")
        }
        "delete" => {
            let one = gone.len() <= 1 && gone.iter().all(|entry| entry.1.len() == count);
            holds(one && new.is_empty(), "something else is deleted")
        }
        _ => {
            let keys: BTreeSet<&[u8]> = changed().map(|entry| entry.1.as_slice()).collect();
            let named = keys.len() <= count && keys.iter().all(|key| matches!(key, [b'a'..=b'c']));
            holds(named, "keys are changed that were not named")?;
            let adds = match name {
                "clear" | "map-remove" => new.is_empty(),
                "list-append" => gone.is_empty() && new.len() == count,
                _ => {
                    let of = |entry: &Entry| (entry.1.clone(), entry.2.clone());
                    let added: BTreeSet<_> = new.iter().map(|entry| of(entry)).collect();
                    new.len() <= count && gone.iter().all(|entry| added.contains(&of(entry)))
                }
            };
            holds(adds, "other entries are there")
        }
    }
}

/// A guest, its state, and what became of its calls.
struct Caller {
    operator: Box<dyn Operator>,
    call: Call,
    answered: [u64; IMPORTS.len()],
    refused: [u64; IMPORTS.len()],
    // Holds what the operator runs in.
    _bench: Bench,
}

impl Caller {
    fn new(any: &[u8; 512]) -> Self {
        let bench = Bench::new();
        let limits = Limits {
            memory: 8 << 20,
            call_writes: 64 << 10,
            call_time: Duration::from_secs(5),
            ..Limits::default()
        };
        let operator = bench.create(&guest(any, ""), &limits).unwrap();
        Self {
            operator,
            call: Call::default(),
            answered: [0; IMPORTS.len()],
            refused: [0; IMPORTS.len()],
            _bench: bench,
        }
        .with_empty_state()
    }

    fn with_empty_state(mut self) -> Self {
        self.empty_state();
        self
    }

    fn empty_state(&mut self) {
        let groups = KeyGroups::new(128).unwrap();
        self.call = Call {
            state: keyed_states(groups.range_of(0, 1), groups),
            operator_state: operator_states(),
            output: Output::new(1),
            ..Call::default()
        };
    }

    /// Whether each import was answered and refused.
    fn has_seen_all(&self) -> bool {
        // Only `register` has its place in `open`.
        let in_open =
            |which: usize| (IMPORTS[which].0, IMPORTS[which].1) == ("metrics", "register");
        let is_answered = |which: usize| self.answered[which] > 0 || in_open(which);
        (0..IMPORTS.len()).all(|which| is_answered(which) && self.refused[which] > 0)
    }

    /// Makes the call that `record` says. `at` is what a failure names.
    fn call(&mut self, record: &[u8], at: &dyn std::fmt::Display) {
        // As the guest distinguishes imports.
        let which = usize::from(record[0]);
        let (mut batch, mut resolved) = (Batch::default(), Resolved::default());
        for key in ["a", "b", "c"] {
            batch.push(Some(key.as_bytes()), record, 0);
        }
        batch.compute_hashes();
        let keys = batch.keys.as_ref();
        self.call
            .state
            .resolve(keys, &batch.hashes, &mut resolved)
            .unwrap();
        // Walking much takes long.
        let elements = self.call.operator_state.seal().held()[0].0;
        if self.call.state.stats().keys > 100 || elements > 1000 {
            self.empty_state();
            self.call
                .state
                .resolve(keys, &batch.hashes, &mut resolved)
                .unwrap();
        }
        let (stats, before) = (self.call.state.stats(), held(&self.call.state));
        let lengths = self.call.operator_state.seal().held();
        let outcome = self.operator.process(0, &batch, &resolved, &mut self.call);
        match outcome {
            Ok(()) => {
                self.call.state.commit();
                self.call.operator_state.commit();
                if let Some(count) = self.answered.get_mut(which) {
                    *count += 1;
                }
                let words: Vec<u32> = record[4..]
                    .as_chunks()
                    .0
                    .iter()
                    .copied()
                    .map(u32::from_le_bytes)
                    .collect();
                let name = IMPORTS.get(which).map_or(("", ""), |it| (it.0, it.1));
                let emitted = self.call.output.batch(0).map_or(0, Batch::len);
                let now = self.call.operator_state.seal().held();
                let effect = effect(name, &words, &before, &held(&self.call.state), emitted)
                    .and_then(|()| operator_state_effect(name, &words, &lengths, &now));
                if let Err(what) = effect {
                    panic!("call {at}: `{name:?}` was answered, but {what}: {words:?}");
                }
            }
            Err(failure) => {
                let message = &failure.message;
                assert!(
                    !message.is_empty() && message.len() < 4096,
                    "call {at}: {message}"
                );
                assert!(
                    !message.chars().any(char::is_control),
                    "call {at}: {message:?}"
                );
                self.call.state.rollback();
                self.call.operator_state.rollback();
                assert_eq!(self.call.state.stats(), stats, "call {at}: {failure}");
                let now = self.call.operator_state.seal().held();
                assert_eq!(now, lengths, "call {at}: {failure}");
                assert!(
                    held(&self.call.state) == before,
                    "call {at}: it failed, but has changed state: {failure}"
                );
                if let Some(count) = self.refused.get_mut(which) {
                    *count += 1;
                }
            }
        }
        self.call.output.clear();
    }
}

#[test]
fn c61_whatever_a_guest_passes_is_answered_or_refused_and_a_failure_changes_nothing() {
    let seed = number("HIGHWATER_SEED").unwrap_or_else(|| RandomState::new().hash_one("calls"));
    println!("replay with HIGHWATER_SEED={seed}");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut any = [0; 512];
    random.fill_bytes(&mut any);
    let mut caller = Caller::new(&any);
    let calls = number("HIGHWATER_CALLS").unwrap_or(CALLS);
    // Some imports want so much to be right that a seed may need more calls until one is answered.
    for at in 0..calls.saturating_mul(20) {
        if at >= calls && caller.has_seen_all() {
            break;
        }
        caller.call(&call(&mut random), &at);
    }
    assert!(
        caller.has_seen_all(),
        "answered {:?}, refused {:?}",
        caller.answered,
        caller.refused
    );
}

/// Calls one after the other from the files of `tests/fuzz/corpus/guest/`, each as many words as a record has;
/// then, for `HIGHWATER_FUZZ_SECONDS`, such files with changed words. What breaks is written there.
#[test]
fn c61_changed_calls_of_the_corpus_are_answered_or_refused() {
    let corpus =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/guest");
    let mut files: Vec<_> = std::fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut caller = Caller::new(&[b'x'; 512]);
    let mut inputs = Vec::new();
    for file in files {
        let input = std::fs::read(&file).unwrap();
        calls_of(&mut caller, &input, &file.display());
        inputs.push(input);
    }
    // Where no import is answered and refused, the corpus holds nothing.
    assert!(caller.answered.iter().filter(|count| **count > 0).count() > 10);
    assert!(caller.refused.iter().filter(|count| **count > 0).count() > 10);

    let seed = number("HIGHWATER_SEED").unwrap_or_else(|| RandomState::new().hash_one("calls"));
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let time = Duration::from_secs(number("HIGHWATER_FUZZ_SECONDS").unwrap_or(0));
    let begun = Instant::now();
    let mut count = 0_u64;
    while begun.elapsed() < time {
        let mut input = inputs[random.next_u64() as usize % inputs.len()].clone();
        for _ in 0..=random.next_u64() % 8 {
            let at = random.next_u64() as usize % (input.len() / 4) * 4;
            match random.next_u64() % 4 {
                0 => input[at..at + 4].copy_from_slice(&word(&mut random).to_le_bytes()),
                1 => input[at] ^= 1 << (random.next_u64() % 8),
                2 => input.extend(call(&mut random)),
                _ => {
                    // A call in another place.
                    let from = at / RECORD * RECORD;
                    let piece = input[from..(from + RECORD).min(input.len())].to_vec();
                    let to = random.next_u64() as usize % (input.len() / RECORD + 1) * RECORD;
                    drop(input.splice(to..to, piece));
                }
            }
        }
        input.truncate(100 * RECORD);
        let path = corpus.join(format!("found-{:08x}", crc32c::crc32c(&input)));
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            calls_of(&mut caller, &input, &path.display());
        }));
        if let Err(panic) = tried {
            std::fs::write(&path, &input).unwrap();
            eprintln!(
                "seed {seed}; to see it again: cargo test --release -p wasm --lib c61_changed_calls"
            );
            std::panic::resume_unwind(panic);
        }
        count += 1;
    }
    println!("{count} changed inputs, seed {seed}");
}

/// Bytes of a call: which import, and its words.
const RECORD: usize = 4 * (1 + WORDS);

fn calls_of(caller: &mut Caller, input: &[u8], at: &dyn std::fmt::Display) {
    caller.empty_state();
    for record in input.chunks_exact(RECORD) {
        caller.call(record, at);
    }
}
