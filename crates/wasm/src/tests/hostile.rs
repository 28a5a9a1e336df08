//! Every import with every value that means harm, one at a time: the call that passes it is refused with a
//! message that says what is wrong, changes nothing, and the next call works.
//!
//! What `calls` draws from a seed is written out here. A function is the list of its parameters ([`Of`]);
//! each kind of parameter has its hostile values, with what is said of them.

use super::calls::{AREAS, IMPORTS, LIST, MAP, guest, keyed_states, operator_states};
use super::*;

const OFFSETS: u32 = AREAS[0];
const ZEROS: u32 = AREAS[1];
const NUMBERS: u32 = AREAS[2];
const ANY: u32 = AREAS[3];
/// Where results are returned.
const RESULT: u32 = 24_576;
/// Numbers of keys: 0 and one that there is not; the largest; one twice.
const KEYS_WITH_7: u32 = 20_480;
const KEYS_WITH_MAX: u32 = 20_488;
const KEYS_TWICE: u32 = 20_496;
/// Offsets that begin with 1, that decrease, that are those of one huge cell.
const STARTING_AT_1: u32 = 20_512;
const DECREASING: u32 = 20_528;
const HUGE: u32 = 20_544;
/// A key of this subtask, one of another, and bytes that are no text.
const OWN_KEY: u32 = 20_560;
const FOREIGN_KEY: u32 = 20_568;
const NO_TEXT: u32 = 20_576;
/// A byte more than a cell may have.
const CELL: u32 = (16 << 20) + 1;
/// Zeros enough for it, beyond what the guest begins with.
const SPACE: u32 = 1 << 20;
/// An address where no guest here has memory.
const NOWHERE: u32 = 0xffff_0000;

/// A parameter, by what it is for.
#[derive(Clone, Copy, Debug)]
enum Of {
    /// The number of a state of this kind.
    State(StateKind),
    /// The number of a state of any kind.
    AnyState,
    /// The number of this operator state.
    OperatorState(u32),
    /// Event time or processing time.
    Domain,
    /// When two timers are to fire.
    Times,
    /// The tags of two timers.
    Tags,
    /// Numbers of two keys.
    Keys,
    /// The number of one key.
    Key,
    /// Two cells, by the name of their column.
    Cells(&'static str),
    /// The bytes of a key of this subtask.
    OwnKey,
    /// The bytes of a value, or of a field.
    Bytes,
    /// The cursor of a scan.
    Cursor,
    /// The most entries of a page.
    Limit,
    /// Yes or no.
    Flag,
    /// The number of an output.
    Output,
    /// Two keys of records that are emitted.
    EmittedKeys,
    /// Numbers of two keys of records that are emitted.
    EmittedNumbers,
    /// Two timestamps.
    Timestamps,
    /// A level of the log.
    Level,
    /// Text.
    Text,
    /// The numbers of two metrics.
    Metrics,
    /// Two values of metrics.
    Observed,
    /// Bytes, or nothing.
    End,
    /// Where the result goes.
    Result,
}

use Of::{
    AnyState, Bytes, Cells as Column, Cursor, Domain, EmittedKeys, EmittedNumbers, End, Flag, Key,
    Keys, Level, Limit, Metrics, Observed, OperatorState, OwnKey, State, Tags, Text, Times,
    Timestamps,
};
use StateKind::{List, Map, Timers, Value};

/// What every import but `register` takes, which is in [`names_of_metrics`]. The two functions of `time` take
/// nothing.
const PARAMETERS: [(&str, &str, &[Of]); 27] = [
    ("state", "load", &[State(Value), Of::Result]),
    ("state", "load-some", &[State(Value), Keys, Of::Result]),
    ("state", "store", &[State(Value), Keys, Column("values")]),
    ("state", "clear", &[AnyState, Keys]),
    ("state", "get", &[State(Value), OwnKey, Of::Result]),
    ("state", "put", &[State(Value), OwnKey, Bytes]),
    ("state", "delete", &[AnyState, OwnKey]),
    ("state", "scan", &[State(Value), Cursor, Limit, Of::Result]),
    (
        "state",
        "map-load",
        &[State(Map), Keys, Column("fields"), Of::Result],
    ),
    (
        "state",
        "map-store",
        &[State(Map), Keys, Column("fields"), Column("values")],
    ),
    ("state", "map-remove", &[State(Map), Keys, Column("fields")]),
    (
        "state",
        "map-scan",
        &[State(Map), Key, Bytes, Flag, End, Limit, Of::Result],
    ),
    (
        "state",
        "list-append",
        &[State(List), Keys, Column("elements")],
    ),
    ("state", "list-load", &[State(List), Key, Of::Result]),
    (
        "output",
        "emit",
        &[Of::Output, EmittedKeys, Column("values"), Timestamps],
    ),
    (
        "output",
        "emit-numbered",
        &[Of::Output, EmittedNumbers, Column("values"), Timestamps],
    ),
    ("log", "log", &[Level, Text]),
    ("metrics", "record", &[Metrics, Observed]),
    ("timers", "register", &[Domain, Keys, Times, Tags]),
    ("timers", "delete", &[Domain, Keys, Times, Tags]),
    (
        "operator-state",
        "list-load",
        &[OperatorState(LIST), Of::Result],
    ),
    (
        "operator-state",
        "list-append",
        &[OperatorState(LIST), Column("elements")],
    ),
    (
        "operator-state",
        "list-replace",
        &[OperatorState(LIST), Column("elements")],
    ),
    (
        "operator-state",
        "map-load",
        &[OperatorState(MAP), Column("fields"), Of::Result],
    ),
    (
        "operator-state",
        "map-store",
        &[OperatorState(MAP), Column("fields"), Column("values")],
    ),
    (
        "operator-state",
        "map-remove",
        &[OperatorState(MAP), Column("fields")],
    ),
    (
        "operator-state",
        "map-scan",
        &[OperatorState(MAP), Bytes, Flag, End, Limit, Of::Result],
    ),
];

/// Nothing is wrong with it.
const FINE: &str = "";

fn number(kind: StateKind) -> u32 {
    match kind {
        Value => 0,
        Map => 1,
        List => 2,
        Timers => unreachable!("no access names their state"),
    }
}

impl Of {
    /// The words of a value that is right.
    fn right(self) -> Vec<u32> {
        match self {
            State(kind) => vec![number(kind)],
            OperatorState(number) => vec![number],
            AnyState | Key | Of::Output | Flag | Domain => vec![0],
            Keys | EmittedNumbers => vec![NUMBERS, 2],
            Column(_) | EmittedKeys => vec![ANY, 6, OFFSETS, 3],
            OwnKey => vec![OWN_KEY, 1],
            Bytes | Text => vec![ANY, 3],
            End => vec![1, ANY, 3],
            Cursor => vec![0, 0],
            Limit => vec![100],
            Timestamps | Metrics | Observed | Times | Tags => vec![ZEROS, 2],
            Level => vec![1],
            Of::Result => vec![RESULT],
        }
    }

    /// The words of every value that is not, and what is said of each in a function that has these parameters.
    fn wrong(self, all: &[Of]) -> Vec<(Vec<u32>, String)> {
        let mut cases: Vec<(Vec<u32>, String)> = Vec::new();
        let mut case = |words: &[u32], says: &str| cases.push((words.to_vec(), says.to_owned()));
        let out_of_bounds = "out of bounds";
        let unaligned = "not aligned";
        // A list of this many bytes each at an address.
        let mut list = |at: u32, each: u32| {
            case(&[NOWHERE, 2], out_of_bounds);
            case(&[at, u32::MAX], out_of_bounds);
            case(&[at, 1 << 31], out_of_bounds);
            case(&[at, (1 << 26) / each], out_of_bounds);
            if each > 1 {
                case(&[at + 1, 2], unaligned);
            }
        };
        match self {
            State(_) | AnyState => {
                for state in [3, 1 << 16, u32::MAX] {
                    case(
                        &[state],
                        &format!("there is no state {state}, the operator has 3"),
                    );
                }
                for kind in [Value, Map, List] {
                    match self {
                        State(own) if own == kind => {}
                        State(_) => {
                            let says = format!("state `n{}` is a {kind:?} state", number(kind));
                            case(&[number(kind)], &says);
                        }
                        _ => case(&[number(kind)], FINE),
                    }
                }
            }
            OperatorState(own) => {
                for state in [0, 2, 5, u32::MAX] {
                    let says = format!("state {state} is none of the 2 operator states");
                    case(&[state], &says);
                }
                match own {
                    LIST => case(&[MAP], "state `map` has the scope"),
                    _ => case(&[LIST], "state `list` has the scope"),
                }
            }
            Domain => {
                for domain in [2, 256, u32::MAX] {
                    case(&[domain], "passed something unreadable");
                }
                case(&[1], FINE);
            }
            Times => {
                list(ZEROS, 8);
                case(&[ZEROS, 1], "2 keys, but 1 times and 2 tags");
                case(&[ZEROS, 7], "2 keys, but 7 times and 2 tags");
                // Whatever the bytes are as times.
                case(&[ANY, 2], FINE);
            }
            Tags => {
                list(ZEROS, 4);
                case(&[ZEROS, 1], "2 keys, but 2 times and 1 tags");
                case(&[0, 0], "2 keys, but 2 times and 0 tags");
                case(&[ANY, 2], FINE);
            }
            Keys => {
                list(NUMBERS, 4);
                case(&[KEYS_WITH_7, 2], "there is no key 7, the batch has 3");
                case(&[KEYS_TWICE, 2], FINE);
                match all.iter().find(|of| matches!(of, Column(_) | Times)) {
                    Some(Times) => {
                        case(&[NUMBERS, 1], "1 keys, but 2 times and 2 tags");
                        case(&[0, 0], "0 keys, but 2 times and 2 tags");
                    }
                    Some(Column(column)) => {
                        case(&[NUMBERS, 1], &format!("1 keys, but 2 {column}"));
                        case(&[0, 0], &format!("0 keys, but 2 {column}"));
                    }
                    _ => {
                        case(
                            &[KEYS_WITH_MAX, 1],
                            "there is no key 4294967295, the batch has 3",
                        );
                        case(&[0, 0], FINE);
                    }
                }
            }
            Key => {
                for key in [3, 1 << 16, u32::MAX] {
                    case(&[key], &format!("there is no key {key}, the batch has 3"));
                }
            }
            Column(name) => {
                let column = |says: &str| format!("{name}: {says}");
                case(&[ANY, 6, OFFSETS, 0], &column("offsets must start with 0"));
                case(
                    &[ANY, 6, STARTING_AT_1, 2],
                    &column("offsets must start with 0"),
                );
                case(
                    &[ANY, 6, DECREASING, 3],
                    &column("offsets decrease at cell 1"),
                );
                case(
                    &[ANY, 5, OFFSETS, 3],
                    &column("offsets end at 6, but there are 5 bytes"),
                );
                case(
                    &[ANY, 7, OFFSETS, 3],
                    &column("offsets end at 6, but there are 7 bytes"),
                );
                case(
                    &[ANY, 0, OFFSETS, 3],
                    &column("offsets end at 6, but there are 0 bytes"),
                );
                case(
                    &[SPACE, CELL, HUGE, 2],
                    &column("one of them is larger than 16 MiB"),
                );
                for words in [[NOWHERE, 6, OFFSETS, 3], [ANY, u32::MAX, OFFSETS, 3]] {
                    case(&words, out_of_bounds);
                }
                for words in [
                    [ANY, 6, NOWHERE, 3],
                    [ANY, 6, OFFSETS, u32::MAX],
                    [ANY, 6, OFFSETS, 1 << 30],
                ] {
                    case(&words, out_of_bounds);
                }
                case(&[ANY, 6, OFFSETS + 2, 3], unaligned);
                let columns = all.iter().filter(|of| matches!(of, Column(_))).count();
                let uneven = |cells: u32| match (all[0], columns, name) {
                    (Of::Output, ..) => format!("{cells} values, but 2 "),
                    (OperatorState(_), 2, "fields") => format!("{cells} fields, but 2 values"),
                    (OperatorState(_), 2, _) => format!("2 fields, but {cells} values"),
                    (OperatorState(_), ..) => FINE.to_owned(),
                    _ => format!("2 keys, but {cells} "),
                };
                case(&[ANY, 9, OFFSETS, 4], &uneven(3));
                case(&[0, 0, ZEROS, 1], &uneven(0));
            }
            EmittedKeys => {
                case(
                    &[ANY, 5, OFFSETS, 3],
                    "keys: offsets end at 6, but there are 5 bytes",
                );
                case(&[ANY, 6, DECREASING, 3], "keys: offsets decrease at cell 1");
                case(
                    &[SPACE, CELL, HUGE, 2],
                    "keys: one of them is larger than 16 MiB",
                );
                case(&[ANY, 3, OFFSETS, 2], "2 values, but 1 keys");
                case(&[ANY, 9, OFFSETS, 4], "2 values, but 3 keys");
                case(&[0, 0, ZEROS, 1], FINE);
                case(&[ANY, 6, NOWHERE, 3], out_of_bounds);
            }
            EmittedNumbers => {
                list(NUMBERS, 4);
                case(
                    &[KEYS_WITH_7, 2],
                    "there is no key 7 to emit, the batch has 3",
                );
                case(&[NUMBERS, 1], "2 values, but 1 key numbers");
                case(&[0, 0], "2 values, but 0 key numbers");
                case(&[KEYS_TWICE, 2], FINE);
            }
            Timestamps => {
                list(ZEROS, 8);
                case(&[ZEROS, 1], "2 values, but 1 timestamps");
                case(&[ZEROS, 7], "2 values, but 7 timestamps");
                case(&[0, 0], FINE);
            }
            OwnKey => {
                list(OWN_KEY, 1);
                case(&[FOREIGN_KEY, 1], "the key belongs to key group");
                if matches!(all.last(), Some(Bytes)) {
                    case(&[SPACE, CELL], "a key or value is larger than 16 MiB");
                }
            }
            Bytes => {
                list(ANY, 1);
                if matches!(all[1], OwnKey) {
                    case(&[SPACE, CELL], "a key or value is larger than 16 MiB");
                }
                case(&[0, 0], FINE);
            }
            End => {
                for words in [[1, NOWHERE, 2], [1, ANY, u32::MAX]] {
                    case(&words, out_of_bounds);
                }
                for which in [2, u32::MAX] {
                    case(&[which, ANY, 3], "passed something unreadable");
                }
                case(&[1, 0, 0], FINE);
                // What is beside nothing does not count.
                case(&[0, NOWHERE, u32::MAX], FINE);
            }
            Cursor => {
                list(ANY, 1);
                for words in [[ANY, 3], [ANY, 9], [NO_TEXT, 8], [ANY, 16], [ZEROS, 16]] {
                    case(&words, "the cursor of a scan is not one that the host gave");
                }
            }
            Limit => {
                case(&[0], "the limit of a scan must be at least 1");
                case(&[u32::MAX], FINE);
            }
            Flag => {
                case(&[1], FINE);
                case(&[u32::MAX], FINE);
            }
            Of::Output => {
                for port in [1, 1 << 16, u32::MAX] {
                    case(
                        &[port],
                        &format!("there is no output {port}, the operator has 1"),
                    );
                }
            }
            Level => {
                for level in [5, 256, u32::MAX] {
                    case(&[level], "passed something unreadable");
                }
            }
            Text => {
                list(ANY, 1);
                case(&[NO_TEXT, 8], "passed something unreadable");
                case(&[0, 0], FINE);
                case(&[SPACE, CELL], FINE);
            }
            Metrics => {
                list(ZEROS, 4);
                case(
                    &[KEYS_WITH_7, 2],
                    "there is no metric 7, the operator has 1",
                );
                case(&[ZEROS, 1], "1 metrics, but 2 values");
            }
            Observed => {
                list(ZEROS, 8);
                case(&[ZEROS, 3], "2 metrics, but 3 values");
                // Whatever the bytes are as numbers.
                case(&[ANY, 2], FINE);
            }
            Of::Result => {
                case(&[NOWHERE], out_of_bounds);
                case(&[RESULT + 1], unaligned);
            }
        }
        cases
    }
}

/// What the guest has in memory beside what `calls` gives it.
fn items(own_key: u8, foreign_key: u8) -> String {
    let mut items = String::new();
    let mut at = |address: u32, bytes: &[u8]| {
        let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        items += &format!("(data (i32.const {address}) \"{escaped}\")\n");
    };
    let words =
        |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    at(KEYS_WITH_7, &words(&[0, 7]));
    at(KEYS_WITH_MAX, &words(&[u32::MAX]));
    at(KEYS_TWICE, &words(&[1, 1]));
    at(STARTING_AT_1, &words(&[1, 6]));
    at(DECREASING, &words(&[0, 5, 3]));
    at(HUGE, &words(&[0, CELL]));
    at(OWN_KEY, &[own_key]);
    at(FOREIGN_KEY, &[foreign_key]);
    at(NO_TEXT, &[0xff; 8]);
    // Room for a cell that is too large.
    items + "(func $room (drop (memory.grow (i32.const 320)))) (start $room)"
}

#[test]
fn c61_every_import_refuses_every_hostile_value_by_its_name_and_changes_nothing() {
    let bench = Bench::new();
    let groups = KeyGroups::new(128).unwrap();
    let own = groups.range_of(0, 2);
    let (own_keys, foreign): (Vec<u8>, Vec<u8>) = (b'a'..=b'z').partition(|key| {
        let mut batch = Batch::default();
        batch.push(Some(&[*key]), b"", 0);
        batch.compute_hashes();
        own.contains(groups.group_of(batch.hashes[0]))
    });
    let limits = Limits {
        memory: 64 << 20,
        call_time: Duration::from_secs(60),
        ..Limits::default()
    };
    let guest = guest(&[7; 512], &items(own_keys[0], foreign[0]));
    let component = bench.load(&guest, &limits);
    let factory = factory(&component, "{}", Grants::default());
    let mut operator = factory.create(&subtask(), false).unwrap();
    let mut call_of = Call {
        state: keyed_states(own, groups),
        operator_state: operator_states(),
        output: Output::new(1),
        ..Call::default()
    };
    let mut process = |which: usize, words: &[u32]| {
        let which = u32::try_from(which).unwrap();
        let mut record = which.to_le_bytes().to_vec();
        record.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        record.resize(48, 0);
        let (mut batch, mut resolved) = (Batch::default(), Resolved::default());
        for key in &own_keys[..3] {
            batch.push(Some(&[*key]), &record, 0);
        }
        batch.compute_hashes();
        let keys = batch.keys.as_ref();
        call_of
            .state
            .resolve(keys, &batch.hashes, &mut resolved)
            .unwrap();
        let (before, metrics) = (call_of.state.stats(), factory.metrics());
        let lengths = call_of.operator_state.seal().held();
        let mut outcome = operator.process(0, &batch, &resolved, &mut call_of);
        if outcome.is_ok() {
            let settled = call_of.output.settle(&resolved, &mut batch);
            outcome =
                settled.map_err(|error| Failure::new(FailureKind::Protocol, error.to_string()));
        }
        match &outcome {
            Ok(()) => {
                call_of.state.commit();
                call_of.operator_state.commit();
            }
            Err(_) => {
                call_of.state.rollback();
                call_of.operator_state.rollback();
                assert_eq!(call_of.state.stats(), before);
                assert_eq!(call_of.operator_state.seal().held(), lengths);
                assert_eq!(factory.metrics(), metrics);
            }
        }
        call_of.output.clear();
        outcome
    };
    let mut tried = 0;
    let mut offences = Vec::new();
    for (interface, name, parameters) in PARAMETERS {
        let which = place_of(interface, name);
        let right: Vec<Vec<u32>> = parameters.iter().map(|of| of.right()).collect();
        assert_eq!(right.concat().len(), IMPORTS[which].2, "{name}");
        for (position, of) in parameters.iter().enumerate() {
            for (words, says) in of.wrong(parameters) {
                tried += 1;
                let mut arguments = right.clone();
                arguments[position].clone_from(&words);
                let said = match process(which, &arguments.concat()) {
                    Ok(()) => String::new(),
                    Err(failure) => failure.message,
                };
                let is_as_expected = match says.as_str() {
                    FINE => said.is_empty(),
                    says => said.contains(says),
                };
                if !is_as_expected {
                    offences.push(format!(
                        "{name}, {of:x?} {words:x?}: `{said}` is not `{says}`"
                    ));
                }
                let next = process(which, &right.concat());
                next.unwrap_or_else(|failure| panic!("{name} after {of:?} {words:x?}: {failure}"));
            }
        }
    }
    assert!(
        offences.is_empty(),
        "{} of {tried}:\n{}",
        offences.len(),
        offences.join("\n")
    );
    println!("{tried} hostile values");
}

/// The number of an import.
fn place_of(interface: &str, name: &str) -> usize {
    let mut imports = IMPORTS.iter();
    let found = imports.position(|import| (import.0, import.1) == (interface, name));
    found.unwrap()
}

/// An import in the world's text form.
fn import(which: usize) -> String {
    let (interface, name, words, returns) = IMPORTS[which];
    let result = if returns { "(result i32)" } else { "" };
    format!(
        "(import \"highwater:operator/{interface}@0.2.0\" \"{name}\" (func $f (param {}) {result}))",
        "i32 ".repeat(words)
    )
}

/// A call of it with these words.
fn call(which: usize, words: &[u32]) -> String {
    let words: String = words
        .iter()
        .map(|word| format!("(i32.const {})", *word as i32))
        .collect();
    match IMPORTS[which].3 {
        true => format!("(drop (call $f {words}))"),
        false => format!("(call $f {words})"),
    }
}

#[test]
fn c61_state_output_and_metrics_are_refused_in_every_phase_that_has_none() {
    let bench = Bench::new();
    for (interface, name, parameters) in PARAMETERS {
        let which = place_of(interface, name);
        if ["log", "metrics"].contains(&interface) {
            continue;
        }
        let words: Vec<u32> = parameters.iter().flat_map(|of| of.right()).collect();
        let body = call(which, &words);
        for (phase, value) in [
            ("describe", "(i32.const 128)"),
            ("open", "(global.get $ok)"),
            ("on-checkpoint-complete", "(global.get $ok)"),
            ("close", "(global.get $ok)"),
        ] {
            let guest = operator(&[
                ("imports", &import(which)),
                ("items", &items(b'a', b'b')),
                (phase, &format!("{body} {value}")),
            ]);
            let component = bench.load(&guest, &Limits::default());
            let failure = match phase {
                "describe" => component.describe("{}", &[], &Grants::default()).map(drop),
                _ => factory(&component, "{}", Grants::default())
                    .create(&subtask(), false)
                    .and_then(|mut operator| match phase {
                        "on-checkpoint-complete" => operator.checkpoint_complete(CheckpointId(1)),
                        _ => operator.close(),
                    }),
            };
            let failure = failure.expect_err(name);
            let expected = format!("state and output cannot be used in `{phase}`");
            assert_eq!(failure.kind, FailureKind::Protocol, "{name}: {failure}");
            assert!(failure.message.contains(&expected), "{name}: {failure}");
        }
    }
}

#[test]
fn c61_a_cursor_is_for_one_state_and_one_call() {
    let bench = Bench::new();
    let groups = KeyGroups::new(128).unwrap();
    let which = place_of("state", "scan");
    // The cursor of a result: its address and length.
    let scan = |state: u32, cursor: &str, length: &str| {
        format!(
            "(call $f (i32.const {state}) {cursor} {length} (i32.const 1) (i32.const {RESULT}))"
        )
    };
    let first = scan(0, "(i32.const 0)", "(i32.const 0)");
    let next = |state: u32| scan(state, "(global.get $at)", "(global.get $length)");
    let keep = format!(
        "(global.set $at (i32.load (i32.const {})))
         (global.set $length (i32.load (i32.const {})))",
        RESULT + 32,
        RESULT + 36
    );
    for (body, calls) in [
        // From a page to the next, and then with the same cursor in the next call.
        (
            format!(
                "(if (i32.eqz (global.get $at)) (then {first} {keep}))  {}",
                next(0)
            ),
            1,
        ),
        // In another state.
        (format!("{first} {keep} {}", next(1)), 0),
    ] {
        let guest = operator(&[
            ("imports", &import(which)),
            (
                "items",
                "(global $at (mut i32) (i32.const 0)) (global $length (mut i32) (i32.const 0))",
            ),
            ("process", &format!("{body} (global.get $ok)")),
        ]);
        let mut operator = bench.create(&guest, &Limits::default()).unwrap();
        let descriptors = ["one", "two"].map(|name| StateDescriptor {
            name: name.into(),
            kind: Value,
            schema: "bytes".into(),
            schema_version: 1,
            ttl: None,
        });
        let mut call = Call {
            state: KeyedState::new(descriptors.into(), groups.range_of(0, 1), groups),
            output: Output::new(1),
            ..Call::default()
        };
        for key in ["a", "b", "c"] {
            call.state.put(0, key.as_bytes(), b"1").unwrap();
            call.state.put(1, key.as_bytes(), b"2").unwrap();
        }
        let mut process = || operator.process(0, &records(1), &Resolved::default(), &mut call);
        for _ in 0..calls {
            process().unwrap();
        }
        let failure = process().unwrap_err();
        let expected =
            "the cursor of a scan is not one that the host gave in this call for this state";
        assert_eq!(
            (failure.kind, failure.message.as_str()),
            (FailureKind::Protocol, expected)
        );
    }
}

/// A guest that registers metrics in `open` as `calls` says, with this text at 1,024.
fn registering(text: &[u8], calls: &str) -> Vec<u8> {
    let escaped: String = text.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let which = place_of("metrics", "register");
    operator(&[
        ("imports", &import(which)),
        ("items", &format!("(data (i32.const 1024) \"{escaped}\")")),
        ("open", &format!("(local $n i32) {calls} (global.get $ok)")),
    ])
}

#[test]
fn c61_names_of_metrics() {
    let bench = Bench::new();
    let which = place_of("metrics", "register");
    let register = |kind: u32, at: u32, length: u32| call(which, &[kind, at, length]);
    let name = "the name of a metric must have 1 to 128 bytes";
    let many = "(loop $more (i32.store8 (i32.const 1024) (local.get $n)) (i32.store8 (i32.const 1025) (i32.const 65))
        (i32.store8 (i32.const 1024) (i32.add (i32.const 65) (i32.rem_u (local.get $n) (i32.const 26))))
        (i32.store8 (i32.const 1025) (i32.add (i32.const 65) (i32.div_u (local.get $n) (i32.const 26))))
        (drop (call $f (i32.const 0) (i32.const 1024) (i32.const 2)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $n) (i32.const 257))))";
    let long = [b'n'; 200];
    let cases: [(&[u8], String, &str); 11] = [
        (b"", register(0, 1024, 0), name),
        (&long, register(0, 1024, 129), name),
        (&long, register(0, 1024, 128), FINE),
        (b"a\x1b[2J", register(0, 1024, 5), name),
        ("\u{202e}".as_bytes(), register(0, 1024, 3), name),
        (
            b"\xff\xff",
            register(0, 1024, 2),
            "passed something unreadable",
        ),
        (b"a", register(0, 1024, u32::MAX), "out of bounds"),
        (b"a", register(0, NOWHERE, 1), "out of bounds"),
        (b"a", register(3, 1024, 1), "passed something unreadable"),
        (
            b"a",
            register(0, 1024, 1) + &register(1, 1024, 1),
            "metric `a` is registered as another kind",
        ),
        (
            b"aa",
            many.to_owned(),
            "an operator can have at most 256 metrics",
        ),
    ];
    for (text, calls, says) in cases {
        let created = bench.create(&registering(text, &calls), &Limits::default());
        let said = created.map_or_else(|failure| failure.message, |_| String::new());
        match says {
            FINE => assert_eq!(said, FINE, "{text:x?}"),
            says => assert!(said.contains(says), "{text:x?}: `{said}` is not `{says}`"),
        }
    }
    // A name that is registered twice is one metric; outside of `open` there is none.
    let twice = register(0, 1024, 1) + &register(0, 1024, 1);
    bench
        .create(&registering(b"a", &twice), &Limits::default())
        .unwrap();
    let late = operator(&[
        ("imports", &import(which)),
        (
            "process",
            &format!("{} (global.get $ok)", register(0, 384, 3)),
        ),
    ]);
    let failure = process(&mut *bench.create(&late, &Limits::default()).unwrap()).unwrap_err();
    assert_eq!(
        failure.message,
        "metrics are registered in `open`, not in `process`"
    );
}
