//! The SDK's harness keeps the host's promises: the same operator, run natively in the harness and as a
//! component in the host, does the same. Every batch, drawn from a seed, gives the same output, the same error
//! at the same record, and the same state afterwards; some fail in the middle, and some come after a restart.
//!
//! `HIGHWATER_SEED` repeats what was drawn from a seed.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};

use highwater::testing::{Emitted, Harness};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

use super::scripts::{ALL, FAILING, KEYS, Script, record};
use super::*;

#[path = "../../../../tests/it/plugins.rs"]
#[allow(dead_code, reason = "the black-box tests take other parts of it")]
mod plugins;

/// How many batches are drawn.
const BATCHES: usize = 600;

/// What was emitted on an output, in order.
type Records = Vec<(Option<String>, String, Option<i64>)>;

/// The operator as a component, with what the host holds for it.
struct Hosted {
    factory: Arc<Factory>,
    operator: Box<dyn Operator>,
    call: Call,
    outputs: Vec<String>,
}

/// An error, as both sides have it.
#[derive(Debug, PartialEq)]
struct Refusal {
    message: String,
    record: Option<u32>,
}

impl Hosted {
    fn new(bench: &Bench) -> Self {
        let component = std::fs::read(plugins::component("script")).unwrap();
        let component = bench.load(&component, &Limits::default());
        let description = component.describe("{}", &[], &Grants::default()).unwrap();
        let groups = KeyGroups::new(128).unwrap();
        let call = Call {
            state: KeyedState::new(description.states.clone(), groups.range_of(0, 1), groups),
            output: Output::new(description.outputs.len() as u32),
            ..Call::default()
        };
        let outputs = description.outputs.iter().map(|port| port.name.clone());
        let outputs = outputs.collect();
        // As the harness has it: rows with keys, whose columns have no names.
        let input = Port {
            name: "in".into(),
            keyed: true,
            key_columns: Vec::new(),
            format: Format::Row(Vec::new()),
        };
        let spec = OperatorSpec {
            id: "op".into(),
            config: "{}".into(),
            grants: Grants::default(),
            inputs: vec![input],
            description,
            key_groups: groups,
        };
        let factory = component.factory(spec).unwrap();
        Self {
            operator: factory.create(&subtask(), false).unwrap(),
            factory,
            call,
            outputs,
        }
    }

    /// Handles a batch.
    fn process(&mut self, records: &[(&str, String)]) -> Result<(), Refusal> {
        let (mut batch, mut resolved) = (Batch::default(), Resolved::default());
        for (key, value) in records {
            let none = dataflow::batch::NO_TIMESTAMP;
            batch.push(Some(key.as_bytes()), value.as_bytes(), none);
        }
        batch.compute_hashes();
        let keys = batch.keys.as_ref();
        let state = &mut self.call.state;
        state.resolve(keys, &batch.hashes, &mut resolved).unwrap();
        let outcome = self.operator.process(0, &batch, &resolved, &mut self.call);
        self.end(outcome, &resolved, &mut batch)
    }

    fn end_of_input(&mut self, input: u32) -> Result<(), Refusal> {
        let outcome = self.operator.end_of_input(input, &mut self.call);
        self.end(outcome, &Resolved::default(), &mut Batch::default())
    }

    /// Ends a call as the runtime does.
    fn end(
        &mut self,
        outcome: Result<(), Failure>,
        resolved: &Resolved,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        match outcome {
            Ok(()) => {
                self.call.output.settle(resolved, batch).unwrap();
                self.call.state.commit();
                Ok(())
            }
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::Returned, "{failure}");
                self.call.state.rollback();
                self.call.output.clear();
                Err(Refusal {
                    message: failure.message,
                    record: failure.record.map(|record| record as u32),
                })
            }
        }
    }

    /// What the last call has emitted, by output.
    fn take(&mut self) -> Vec<Records> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let ports = 0..self.outputs.len();
        let batches = ports.map(|port| self.call.output.take(port, Batch::default));
        batches
            .map(Option::unwrap_or_default)
            .map(|batch| {
                let record = |at: usize| {
                    let key = (!batch.keys.is_empty()).then(|| text(batch.keys.get(at)));
                    let time = batch.timestamps.get(at).copied();
                    let time = time.filter(|time| *time != dataflow::batch::NO_TIMESTAMP);
                    (key, text(batch.values.get(at)), time)
                };
                (0..batch.len()).map(record).collect()
            })
            .collect()
    }

    /// The keys for which a state holds something.
    fn keys(&mut self, state: u32, kind: StateKind) -> BTreeSet<String> {
        let (mut batch, mut resolved) = (Batch::default(), Resolved::default());
        for key in KEYS {
            batch.push(Some(key.as_bytes()), b"", 0);
        }
        batch.compute_hashes();
        let keys = batch.keys.as_ref();
        let held = &mut self.call.state;
        held.resolve(keys, &batch.hashes, &mut resolved).unwrap();
        let mut found = BTreeSet::new();
        for (number, key) in KEYS.iter().enumerate() {
            let at = resolved.numbers[number];
            let (mut cells, mut more) = (Cells::new(), Cells::new());
            let holds = match kind {
                StateKind::Value => held.get(state, key.as_bytes()).unwrap().is_some(),
                StateKind::Map => {
                    held.map_scan(state, at, b"", false, None, 1, &mut cells, &mut more)
                        .unwrap();
                    !cells.is_empty()
                }
                StateKind::List => {
                    held.list_load(state, at, &mut cells).unwrap();
                    !cells.is_empty()
                }
                StateKind::Timers => unreachable!("no operator here has timers"),
            };
            if holds {
                found.insert((*key).to_owned());
            }
        }
        held.commit();
        found
    }
}

/// What a harness has emitted, by output.
fn by_output(emitted: Vec<Emitted>, outputs: &[String]) -> Vec<Records> {
    let mut records = vec![Records::new(); outputs.len()];
    for emitted in emitted {
        let output = outputs.iter().position(|name| *name == emitted.output);
        records[output.unwrap()].push((emitted.key, emitted.value, emitted.timestamp));
    }
    records
}

fn refusal(error: &highwater::Error) -> Refusal {
    Refusal {
        message: error.message().to_owned(),
        record: error.record(),
    }
}

#[test]
fn the_harness_of_the_sdk_does_what_the_host_does() {
    let seed = match std::env::var("HIGHWATER_SEED") {
        Ok(seed) => seed.parse().expect("HIGHWATER_SEED is a whole number"),
        Err(_) => RandomState::new().hash_one("harness"),
    };
    println!("replay with HIGHWATER_SEED={seed}");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let bench = Bench::new();
    let mut hosted = Hosted::new(&bench);
    let mut native = Harness::<Script>::open().unwrap();
    assert_eq!(native.outputs(), hosted.outputs);
    let kinds = [
        ("number", StateKind::Value),
        ("text", StateKind::Value),
        ("map", StateKind::Map),
        ("list", StateKind::List),
    ];
    let (mut failed, mut restarted, mut commands) = (0, 0, 0.0);
    for number in 0..BATCHES {
        let count = 1 + random.next_u64() % 12;
        let mut records: Vec<(&str, String)> = (0..count).map(|_| record(&mut random)).collect();
        if random.next_u64().is_multiple_of(5) {
            let at = random.next_u64() as usize % records.len();
            let command = FAILING[random.next_u64() as usize % FAILING.len()];
            records[at].1 = command.to_owned();
        }
        let shown = format!("batch {number} of seed {seed}: {records:?}");
        let there = hosted.process(&records);
        let here = native.process(&records).map_err(|error| refusal(&error));
        assert_eq!(here, there, "{shown}");
        failed += usize::from(here.is_err());
        let here = by_output(native.take(), &hosted.outputs);
        assert_eq!(here, hosted.take(), "{shown}");

        // All that exist, asked for by the operator itself.
        let all: Vec<(&str, String)> = KEYS
            .iter()
            .flat_map(|key| ALL.map(|command| (*key, command.to_owned())))
            .collect();
        hosted.process(&all).unwrap();
        native.process(&all).unwrap();
        let here = by_output(native.take(), &hosted.outputs);
        assert_eq!(here, hosted.take(), "state after {shown}");
        for (state, (name, kind)) in (0..).zip(kinds) {
            let here: BTreeSet<String> = native.keys(name).into_iter().collect();
            assert_eq!(
                here,
                hosted.keys(state, kind),
                "keys of `{name}` after {shown}"
            );
        }
        commands += native.take_metric("commands").iter().sum::<f64>();
        assert_eq!(
            hosted.factory.metrics()["commands"].value,
            commands,
            "{shown}"
        );

        if random.next_u64().is_multiple_of(20) {
            native.restart().unwrap();
            hosted.operator = hosted.factory.create(&subtask(), true).unwrap();
            restarted += 1;
        }
    }
    assert!(
        failed > BATCHES / 20 && failed < BATCHES / 2,
        "{failed} failed"
    );
    assert!(restarted > 0);

    // The end of an input, of one that there is not, and completions.
    for input in [0, 1] {
        let there = hosted.end_of_input(input);
        let here = native.end_of_input(input).map_err(|error| refusal(&error));
        match (here, there) {
            (Ok(()), Ok(())) => {
                // In no particular order.
                let sorted = |mut records: Vec<Records>| {
                    records.iter_mut().for_each(|records| records.sort());
                    records
                };
                let here = sorted(by_output(native.take(), &hosted.outputs));
                assert!(!here[0].is_empty(), "no key has a number");
                assert_eq!(here, sorted(hosted.take()));
            }
            (Err(here), Err(there)) => {
                let message = format!("`end-of-input` failed: {}", here.message);
                assert_eq!((message, here.record), (there.message, there.record));
            }
            (here, there) => panic!("{here:?} here, {there:?} there"),
        }
    }
    for checkpoint in [12, 13] {
        let there = hosted
            .operator
            .checkpoint_complete(CheckpointId(checkpoint));
        let here = native.complete_checkpoint(checkpoint);
        let there = there.map_err(|failure| failure.message);
        let here = here.map_err(|error| format!("`on-checkpoint-complete` failed: {error}"));
        assert_eq!(here, there);
    }
    native.close().unwrap();
    hosted.operator.close().unwrap();
}
