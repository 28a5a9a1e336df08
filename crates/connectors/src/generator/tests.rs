//! Goal: the stream is a function of the options alone.

use std::sync::atomic::{AtomicI64, Ordering};

use job_file::options::read_right;

use super::*;
use crate::testing::{Record, context, records, take_all, take_one, through_json};

fn factory(options: &str, clock: Clock) -> GeneratorFactory {
    let options: GeneratorOptions = read_right(options);
    options.prepare(clock).ok().unwrap()
}

fn no_clock() -> Clock {
    Arc::new(|| 0)
}

fn problems(options: &str) -> Vec<String> {
    let options: GeneratorOptions = read_right(options);
    options
        .prepare(no_clock())
        .err()
        .unwrap()
        .iter()
        .map(|problem| problem.key.clone())
        .collect()
}

fn all(factory: &GeneratorFactory, parallelism: u32) -> Vec<Record> {
    let mut all = Vec::new();
    for subtask in 0..parallelism {
        all.extend(
            take_all(
                &mut *factory
                    .create(&context(subtask, parallelism), None)
                    .unwrap(),
            )
            .unwrap(),
        );
    }
    all.sort();
    all
}

#[test]
fn the_stream_is_the_same_at_every_parallelism_and_after_every_restore() {
    for options in [
        "count = 20001\nkeys = 1000",
        "count = 100\nkeys = 3\ndistribution = \"sequential\"\nvalue-size = 0",
        "count = 5000\nkeys = 50\ndistribution = \"zipf\"\nexponent = 1.3\nkey-size = 12\nkey-prefix = \"user-\"",
        "count = 3000\nseed = 9\ntimestamp = { start = \"2020-01-01T00:00:00Z\", interval = \"5ms\" }",
    ] {
        let factory = factory(options, no_clock());
        let whole = all(&factory, 1);
        for parallelism in [2, 3, 7, 200] {
            assert_eq!(all(&factory, parallelism), whole, "{options}");
        }
        let mut read = Vec::new();
        let mut parts: Option<Vec<Part>> = None;
        for (round, parallelism) in [3_u32, 1, 4, 2].into_iter().enumerate() {
            let mut next = Vec::new();
            for subtask in 0..parallelism {
                let mut source = factory
                    .create(&context(subtask, parallelism), parts.as_deref())
                    .unwrap();
                for _ in 0..(round * 13 + subtask as usize * 7) {
                    read.extend(take_one(&mut *source, factory.port().keyed).unwrap());
                }
                if round == 3 {
                    read.extend(take_all(&mut *source).unwrap());
                }
                next.extend(through_json(&source.snapshot().unwrap()));
            }
            parts = Some(next);
        }
        read.sort();
        assert_eq!(read, whole, "{options}");
        assert_eq!(
            factory.describe_position(&parts.unwrap()),
            format!(
                "continues after {}",
                counted(whole.len() as u64, "generated record")
            )
        );
    }
}

#[test]
fn keys_and_values_have_the_shape_that_was_asked_for() {
    let factory = factory(
        "count = 1000\nkeys = 101\nkey-prefix = \"user\"\nvalue-size = 33\ndistribution = \"sequential\"",
        no_clock(),
    );
    let whole = all(&factory, 1);
    let keys: std::collections::BTreeSet<_> = whole
        .iter()
        .map(|record| record.key.clone().unwrap())
        .collect();
    assert_eq!(keys.len(), 101);
    assert_eq!(keys.first().unwrap(), "user000");
    assert_eq!(keys.last().unwrap(), "user100");
    assert!(whole.iter().all(
        |record| record.value.len() == 33 && record.value.bytes().all(|b| b.is_ascii_graphic())
    ));
    let values: std::collections::BTreeSet<_> = whole.iter().map(|record| &record.value).collect();
    assert!(values.len() > 900);
}

#[test]
fn another_seed_makes_another_stream() {
    let first = all(
        &factory("count = 100\nkeys = 1000\nseed = 1", no_clock()),
        1,
    );
    assert_ne!(
        first,
        all(
            &factory("count = 100\nkeys = 1000\nseed = 2", no_clock()),
            1
        )
    );
}

#[test]
fn other_records_are_noticed_and_each_key_is_named() {
    let taken = |options: &str, count: usize| {
        let factory = factory(options, no_clock());
        let mut source = factory.create(&context(0, 1), None).unwrap();
        for _ in 0..count {
            take_one(&mut *source, factory.port().keyed).unwrap();
        }
        through_json(&source.snapshot().unwrap())
    };
    let differences = |options: &str, parts: &[Part]| {
        let found = factory(options, no_clock()).compare("g", parts);
        found
            .err()
            .map_or(Vec::new(), |changed| changed.differences)
    };
    let was = "keys = 100\ndistribution = \"zipf\"\nexponent = 1.1\ncount = 1000";
    let parts = taken(was, 200);
    for same in [
        was,
        "rate = 5.0",
        "count = 999",
        "count = 5000",
        "key-size = 3",
    ] {
        let options = match same.split_once(" = ") {
            Some(("rate" | "key-size", _)) => format!("{was}\n{same}"),
            Some(("count", _)) => was.replace("count = 1000", same),
            _ => same.to_owned(),
        };
        assert_eq!(differences(&options, &parts), [""; 0], "{options}");
    }
    for (from, to, key) in [
        ("keys = 100", "keys = 99", "`keys` was `100` and is `99`"),
        (
            "exponent = 1.1",
            "exponent = 1.2",
            "`exponent` was `\"1.1\"` and is `\"1.2\"`",
        ),
        (
            "count = 1000",
            "key-prefix = \"x\"",
            "`key-prefix` was `\"k\"` and is `\"x\"`",
        ),
        (
            "count = 1000",
            "key-size = 9",
            "`key-size` was `3` and is `9`",
        ),
        (
            "count = 1000",
            "value-size = 9",
            "`value-size` was `16` and is `9`",
        ),
        (
            "count = 1000",
            "timestamp = {}",
            "`timestamp.interval` was not set and is `\"1ms\"`",
        ),
        (
            "count = 1000",
            "count = 100",
            "`count` is 100, but 200 records were made already, up to number ",
        ),
    ] {
        let found = differences(&was.replace(from, to), &parts);
        assert!(found[0].starts_with(key), "{found:?}");
    }
    let found = differences("", &parts);
    assert_eq!(found.len(), 5, "{found:?}");
    // Another version that makes other records of the same options.
    let mut other = parts.clone();
    other[0]["stream"]["digest"] = serde_json::json!(1);
    assert_eq!(differences(was, &other).len(), 1);
    // A version that recorded nothing of this.
    other[0].as_object_mut().unwrap().remove("stream");
    assert_eq!(differences("seed = 3", &other), [""; 0]);
}

#[test]
fn the_rate_holds_and_a_pause_is_not_made_up_for() {
    for (rate, parallelism) in [(1000.0, 1), (1000.0, 4), (5_000_000.0, 2), (0.5, 1)] {
        let now = Arc::new(AtomicI64::new(1_000_000));
        let clock = Arc::clone(&now);
        let factory = factory(
            &format!("rate = {rate:?}\nkeys = 10"),
            Arc::new(move || clock.load(Ordering::Relaxed)),
        );
        let mut sources: Vec<_> = (0..parallelism)
            .map(|subtask| {
                factory
                    .create(&context(subtask, parallelism), None)
                    .unwrap()
            })
            .collect();
        let mut made = 0;
        let mut run = |until: i64, made: &mut usize| {
            while now.load(Ordering::Relaxed) < until {
                let mut wake = i64::MAX;
                for source in &mut sources {
                    loop {
                        let mut batch = Batch::default();
                        let status = source.poll(&mut batch).unwrap();
                        *made += records(&batch).len();
                        match status {
                            SourceStatus::Idle { until: Some(until) } => {
                                wake = wake.min(until);
                                break;
                            }
                            status => assert_eq!(status, SourceStatus::More),
                        }
                    }
                }
                assert!(wake > now.load(Ordering::Relaxed));
                now.store(wake.min(until), Ordering::Relaxed);
            }
        };
        let seconds = if rate < 1.0 {
            100.0
        } else if rate > 1e6 {
            0.2
        } else {
            10.0
        };
        run(1_000_000 + (seconds * 1000.0) as i64, &mut made);
        let expected = rate * seconds;
        assert!(
            (made as f64 - expected).abs() <= expected * 0.06 + 2.0,
            "{made} of {expected}"
        );
        let paused = 1_000_000 + 3_600_000;
        now.store(paused, Ordering::Relaxed);
        let before = made;
        run(paused + 1, &mut made);
        let most = if rate < 1.0 { 3.0 } else { rate * 1.1 };
        assert!(
            (made - before) as f64 <= most,
            "{} at once after an hour",
            made - before
        );
        now.store(5, Ordering::Relaxed);
        let before = made;
        run(5 + (seconds * 1000.0) as i64, &mut made);
        assert!(
            (made - before) as f64 > expected * 0.8 - 2.0,
            "a clock set back does not stop it"
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    assert_eq!(problems("keys = 0"), ["keys"]);
    assert_eq!(
        problems("rate = 0.0\nkeys = 10\nkey-size = 1"),
        ["rate", "key-size"]
    );
    assert_eq!(
        problems("key-size = 9\ndistribution = \"zipf\""),
        ["key-size", "distribution"]
    );
    assert_eq!(problems("keys = 9\nexponent = 1.0"), ["exponent"]);
    assert_eq!(problems("value-size = 99999999"), ["value-size"]);
    assert_eq!(
        problems("timestamp = { start = \"now\", interval = \"1us\" }"),
        ["timestamp.start", "timestamp.interval"]
    );
}
