//! Keys that somebody chose so that they meet in one place of a table. Conformance 163.
//!
//! Method: the same job with ordinary keys and with such, run, restored, looked at; the processor time
//! of both is compared. That is no measurement: where tables are chains, these keys take hundreds of
//! times as long, and a limit of processor time ends the run.

use std::process::{Command, Stdio};

use dataflow::key;

use crate::host::{self, Ended};
use crate::jobs;
use crate::scene::Scene;

/// How many keys a job has, and how many checkpoints look at them.
const KEYS: u64 = 40_000;

/// How much more processor time than with ordinary keys is taken for a chain, and the seconds of it
/// that are not looked at: programs start, and machines are busy.
const TIMES_MAX: f64 = 5.0;
const SECONDS_FREE: f64 = 1.0;

/// After this many seconds of processor time a run is ended.
const SECONDS_MAX: f64 = 60.0;

/// Keys of 32 bytes with one hash: their first word takes the first product of XXH3 to zero, whatever
/// the second one is.
fn with_one_hash(number: u64) -> Vec<u8> {
    let digits = format!("{number:08}");
    let first = [0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe];
    [&first[..], digits.as_bytes(), &[b'-'; 16]].concat()
}

/// Keys of the same length with other hashes.
fn ordinary(number: u64) -> Vec<u8> {
    let mut key = with_one_hash(number);
    key[0] = b'+';
    key
}

/// The key of eight bytes with this hash: XXH3 takes such keys through steps each of which can be taken
/// back.
fn with_hash(hash: u64) -> [u8; 8] {
    const FACTOR: u64 = 0x9fb2_1c65_1e98_df25;
    // By Newton: each step doubles the bits that are right.
    let inverse = (0..6).fold(FACTOR, |inverse, _| {
        inverse.wrapping_mul(2_u64.wrapping_sub(FACTOR.wrapping_mul(inverse)))
    });
    let back = |hash: u64| {
        let mut it = hash ^ hash >> 28 ^ hash >> 56;
        it = it.wrapping_mul(inverse);
        it ^= (it >> 35) + 8;
        it = it.wrapping_mul(inverse);
        // This step, taken 64 times, changes nothing.
        (0..63).fold(it, |it, _| it ^ it.rotate_left(49) ^ it.rotate_left(24))
    };
    let secret = back(key::hash(&[0; 8]));
    let [a, b, c, d, e, f, g, h] = (back(hash) ^ secret).to_le_bytes();
    [e, f, g, h, a, b, c, d]
}

/// Keys whose hashes differ in these bits only. Without what CSV would quote.
fn within(bits: u64) -> Vec<Vec<u8>> {
    let mut differing = 0_u64;
    let hashes = std::iter::from_fn(|| {
        let hash = 0x5a5a_0123_4567_0000 & !bits | differing;
        // The next number that has only such bits.
        differing = (differing | !bits).wrapping_add(1) & bits;
        Some(hash)
    });
    let keys = hashes.take(1 << bits.count_ones().min(20)).map(with_hash);
    let keys = keys.filter(|key| key.iter().all(|byte| !b"\n\r\",".contains(byte)));
    let keys: Vec<Vec<u8>> = keys.map(Vec::from).take(KEYS as usize).collect();
    assert_eq!(keys.len(), KEYS as usize, "there are not as many keys");
    assert_eq!(key::hash(&keys[1]) & !bits, 0x5a5a_0123_4567_0000 & !bits);
    keys
}

/// Runs the host, and adds the processor time that it took to `seconds`.
fn run(scene: &Scene, arguments: &[&str], seconds: &mut f64) -> Ended {
    let script = "ulimit -t $1; shift; \"$@\"; status=$?; times >&2; exit $status";
    let mut command = Command::new("sh");
    let limit = SECONDS_MAX.to_string();
    command.args(["-c", script, "sh", &limit, host::PROGRAM]);
    let ended = host::start_by(command, scene.path(), arguments, Stdio::null())
        .wait()
        .with_code(0);
    // `0m1.250000s 0m0.030000s`, of the processes that the shell started.
    let last = ended.stderr.lines().last().expect("times are reported");
    let user = last
        .split_once('s')
        .and_then(|(user, _)| user.split_once('m'));
    let (minutes, rest) = user.unwrap_or_else(|| panic!("`{last}` are no times"));
    let number = |text: &str| text.parse::<f64>().expect("a number");
    *seconds += 60.0 * number(minutes) + number(rest);
    ended
}

/// What is done with a job that has these keys, each of them three times: it runs, its checkpoints are
/// looked at, and another one starts from the newest. Returns the processor time.
fn all_that_is_done(keys: &[Vec<u8>], limits: &str) -> f64 {
    let scene = Scene::new();
    let rows = keys.iter().flat_map(|key| [key.as_slice(), b"\n"].concat());
    let rows: Vec<u8> = b"k\n".iter().copied().chain(rows).collect();
    scene.input(&rows, 3, "csv");
    let source = "[[source]]\nid = \"rows\"\nconnector = \"file\"\npath = \"input/*.csv\"\nformat = \"csv\"\nkey = [\"k\"]\n\n";
    let job = jobs::head("flood", "50ms")
        + source
        + &jobs::operator_with("count", "count", "rows", "emit = \"every-update\"", limits)
        + &jobs::discard("nowhere", "count");
    let job = job.replace("[job]\n", "[job]\nscratch-dir = \"scratch\"\n");
    scene.write(
        "job.toml",
        job.replace(
            "[checkpoint]\n",
            "[checkpoint]\nretained = 2\nretain-on-finish = true\n",
        ),
    );
    let mut seconds = 0.0;
    let ended = run(&scene, &["run", "job.toml"], &mut seconds);
    let newest = ended.completions().pop().expect("one is complete").id;
    let newest = format!("checkpoints/flood/chk-{newest}");
    run(&scene, &["checkpoints", "verify", &newest], &mut seconds);
    let exported = run(&scene, &["checkpoints", "export", &newest], &mut seconds);
    assert_eq!(exported.stdout.lines().count(), keys.len());
    let both = ["checkpoints", "diff", &newest, &newest];
    run(&scene, &both, &mut seconds);
    // Another job, which reads everything again.
    let again = ["run", "-s", &newest, "-D", "job.id=again", "job.toml"];
    run(&scene, &again, &mut seconds);
    seconds
}

/// Fails if these keys cost far more than ordinary ones.
fn costs_no_more(keys: &[(&str, Vec<Vec<u8>>)], limits: &str) {
    let ordinary: Vec<Vec<u8>> = (0..KEYS).map(ordinary).collect();
    let ordinary = all_that_is_done(&ordinary, limits);
    for (name, keys) in keys {
        let seconds = all_that_is_done(keys, limits);
        println!("{name}: {seconds:.2} s, ordinary ones {ordinary:.2} s");
        assert!(
            seconds < TIMES_MAX * ordinary + SECONDS_FREE,
            "{name} take {seconds:.2} s, ordinary ones {ordinary:.2} s"
        );
    }
}

#[test]
fn c163_keys_that_collide_cost_no_more_than_others() {
    let keys = [
        (
            "keys with one hash",
            (0..KEYS).map(with_one_hash).collect::<Vec<_>>(),
        ),
        // The lowest 16 bits are not looked at by the index.
        ("keys that are one for the index", within(0xffff)),
        // Of the batch's table too, whatever its size.
        (
            "keys that go to one place with many tags",
            within(0x00ff_0000_0000_ffff),
        ),
        // As many tables as there are.
        (
            "keys that differ in the table",
            within(0xff00_0000_0000_ffff),
        ),
    ];
    costs_no_more(&keys, "");
}

#[test]
fn c163_keys_that_collide_cost_no_more_than_others_on_disk() {
    let keys = [(
        "keys with one hash",
        (0..KEYS).map(with_one_hash).collect::<Vec<_>>(),
    )];
    costs_no_more(&keys, "limits = { state-memory = \"1MiB\" }");
}
