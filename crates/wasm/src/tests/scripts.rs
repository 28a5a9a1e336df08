//! Records for the plugin `script`, drawn from a seed, and the operator itself, to be run natively. The
//! black-box tests take them too.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::Rng as _;

#[path = "../../../../plugins/script/src/lib.rs"]
mod script;

pub(crate) use script::Script;

/// The keys of all records, as they are written in a row.
pub(crate) const KEYS: [&str; 6] = ["a", "b", "c", "d", "\"e,f\"", ""];

/// What emits all that the states hold for a record's key.
pub(crate) const ALL: [&str; 4] = ["get", "text", "walk", "list"];

/// A number below `bound`.
fn below(random: &mut Xoshiro256PlusPlus, bound: u64) -> u64 {
    random.next_u64() % bound
}

/// A key.
fn key(random: &mut Xoshiro256PlusPlus) -> &'static str {
    KEYS[below(random, KEYS.len() as u64) as usize]
}

/// A record with a command that succeeds.
pub(crate) fn record(random: &mut Xoshiro256PlusPlus) -> (&'static str, String) {
    let (n, field) = (below(random, 1000), below(random, 8) as i64 - 4);
    let other = KEYS[below(random, 4) as usize];
    let command = match below(random, 24) {
        0 | 1 => format!("add {n}"),
        2 => format!("set {n}"),
        3 => "clear".to_owned(),
        4 => "get".to_owned(),
        5 => format!("of {other} get"),
        6 => format!("of {other} set {n}"),
        7 => format!("of {other} clear"),
        8 => format!("append {n}"),
        9 => "forget".to_owned(),
        10 => "text".to_owned(),
        11..=13 => format!("insert {field} {n}"),
        14 | 15 => format!("remove {field}"),
        16 => format!("look {field}"),
        17 => "walk".to_owned(),
        18 => "empty".to_owned(),
        19 | 20 => format!("push {n}"),
        21 => "list".to_owned(),
        22 => "drop".to_owned(),
        _ => match below(random, 2) {
            0 => format!("reject {n}"),
            _ => format!("at {n} late"),
        },
    };
    (key(random), command)
}

/// Commands that fail, for any key.
pub(crate) const FAILING: [&str; 8] = [
    "what",
    "add x",
    "push 65536",
    "insert 4294967296 x",
    "look",
    "nowhere",
    "keyless",
    "nest",
];
