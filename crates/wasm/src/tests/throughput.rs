//! What a record costs through a guest. Run by hand, with the components built:
//! `cargo test --release -p host throughput -- --ignored --nocapture`.

use std::time::Instant;

use super::*;
use dataflow::state::KeyedState;
use operator::OperatorInstance;
use std::path::Path;

/// The count of `plugins/`, or what `$HIGHWATER_GUEST` names.
fn count() -> PathBuf {
    std::env::var_os("HIGHWATER_GUEST").map_or_else(
        || {
            let plugins = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../plugins/target/wasm32-wasip2/release/count.wasm"
            );
            plugins.into()
        },
        PathBuf::from,
    )
}

/// Time that this thread has run: a machine that does other things as well does not count. Wall time
/// where the system does not say.
fn cpu_time() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = statistics.and_then(|line| line.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

/// Batches over `keys` keys, in an order that no cache foresees.
fn batches(keys: u64, records: usize) -> Vec<Batch> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let value = [b'v'; 80];
    let mut batch = || {
        let mut batch = Batch::default();
        for _ in 0..records {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            batch.push(
                Some(format!("key-{:08}", (random >> 33) % keys).as_bytes()),
                &value,
                0,
            );
        }
        batch.compute_hashes();
        batch
    };
    (0..(1 << 20) / records).map(|_| batch()).collect()
}

/// Nanoseconds per record of an operator that counts the records of a million keys, ten of each in ten seconds of event
/// time, with a watermark each second.
fn windowed(component: &Component, config: &str) -> f64 {
    const KEYS: u64 = 1_000_000;
    const RECORDS: usize = 1024;
    let factory = factory(component, config, Grants::default());
    let states = component
        .describe(config, &[], &Grants::default())
        .unwrap()
        .states;
    let groups = KeyGroups::new(128).unwrap();
    let state = KeyedState::new(states, groups.range_of(0, 1), groups);
    let operator = factory.create(&subtask(), false).unwrap();
    let mut instance = OperatorInstance::new(operator, state, true, 1);
    let batches = batches(KEYS, RECORDS);
    let per_second = KEYS as usize / RECORDS;
    let (mut spent, mut records) = (Duration::ZERO, 0);
    for second in 0..30 {
        // The first ten fill the state.
        let measured = second >= 10;
        for (index, batch) in batches.iter().take(per_second).enumerate() {
            let time = second * 1000 + (index * 1000 / per_second) as i64;
            let mut batch = batch.clone();
            batch.timestamps = vec![time; RECORDS];
            let start = cpu_time();
            instance.process(0, &mut batch, 0).unwrap();
            instance.take_output(0, Batch::default);
            if measured {
                spent += cpu_time() - start;
                records += RECORDS;
            }
        }
        let start = cpu_time();
        let watermark = (second + 1) * 1000 - 1;
        instance.set_watermark(watermark);
        while instance.has_timers()
            && instance
                .fire(dataflow::state::TimeDomain::Event, watermark, 0)
                .unwrap()
                > 0
        {
            instance.take_output(0, Batch::default);
        }
        if measured {
            spent += cpu_time() - start;
        }
    }
    spent.as_nanos() as f64 / records as f64
}

#[test]
#[ignore = "measures, judges nothing"]
fn throughput_of_windows() {
    let host = Host::new(&OPTIONS).unwrap();
    let load = |path: &Path| {
        let loaded = host.load(path, &Limits::default());
        loaded.map_err(|error| error.reason).unwrap()
    };
    let plain = windowed(&load(&count()), "{}");
    println!("plain count       {plain:6.1} ns/record");
    let windows = load(&count().with_file_name("bench_ops.wasm"));
    for op in ["tumbling", "sliding", "session"] {
        let config = format!(r#"{{"op": "{op}", "size": 10000, "slide": 1000}}"#);
        let nanos = windowed(&windows, &config);
        println!("{op:17} {nanos:6.1} ns/record, {:.2} x", plain / nanos);
    }
}

#[test]
#[ignore = "measures, judges nothing"]
fn throughput_of_a_keyed_count() {
    let host = Host::new(&OPTIONS).unwrap();
    for trusted in [false, true] {
        let component = host
            .load(
                &count(),
                &Limits {
                    trusted,
                    ..Limits::default()
                },
            )
            .map_err(|error| error.reason)
            .unwrap();
        for keys in [1_000, 1_000_000] {
            for records in [16, 128, 1024] {
                let factory = factory(&component, "{}", Grants::default());
                let states = component
                    .describe("{}", &[], &Grants::default())
                    .unwrap()
                    .states;
                let mut operator = factory.create(&subtask(), false).unwrap();
                let groups = KeyGroups::new(128).unwrap();
                let mut call = Call {
                    state: KeyedState::new(states, groups.range_of(0, 1), groups),
                    output: Output::new(1),
                    ..Call::default()
                };
                let mut resolved = Resolved::default();
                let batches = batches(keys, records);
                let mut best = f64::MAX;
                for _ in 0..5 {
                    let start = cpu_time();
                    for batch in &batches {
                        call.state
                            .resolve(batch.keys.as_ref(), &batch.hashes, &mut resolved)
                            .unwrap();
                        operator.process(0, batch, &resolved, &mut call).unwrap();
                        assert_eq!(call.output.batch(0).map_or(0, Batch::len), batch.len());
                        call.state.commit();
                        call.output.clear();
                    }
                    let time = cpu_time() - start;
                    best = best.min(time.as_nanos() as f64 / (batches.len() * records) as f64);
                }
                println!(
                    "trusted {trusted:5}  keys {keys:8}  batch {records:5}  {best:6.1} ns/record"
                );
            }
        }
    }
}
