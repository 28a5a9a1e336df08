//! A user who asks a simulated job for anything at any moment, and notes what is answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use checkpoint::savepoint::SavepointTarget;
use runtime::control::{Command, Done, NotDone, Order, Requester, Taken};
use runtime::simulation::Random;
use runtime::{JobGraph, JobHandle};

use super::native::{Committed, number_in};

/// What sinks have, by their ids.
pub(crate) type Outputs = BTreeMap<String, Committed>;

/// A savepoint that was reported to the user, and the output up to it that was committed at that moment.
pub(crate) struct Saved {
    pub(crate) taken: Taken,
    pub(crate) committed: Outputs,
}

/// What the user has asked for and was told. Clones are the same ledger.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
pub(crate) struct Entries {
    asked: u64,
    /// What nobody has answered.
    open: BTreeMap<u64, &'static str>,
    /// How often each was done and not done.
    pub(crate) answers: BTreeMap<(&'static str, bool), u64>,
    pub(crate) saved: Vec<Saved>,
    /// The checkpoint at which the job has ended.
    pub(crate) stopped_at: Option<u64>,
}

impl Ledger {
    /// Ends it: whatever was asked must have been answered.
    pub(crate) fn close(&self) -> Result<Entries, String> {
        let entries = std::mem::take(&mut *self.0.lock().unwrap());
        match entries.open.is_empty() {
            true => Ok(entries),
            false => Err(format!("nobody answers {:?}", entries.open)),
        }
    }
}

/// Asks at random.
pub(crate) struct User {
    pub(crate) random: Random,
    /// One of this many moments it asks in.
    pub(crate) one_in: u64,
    /// How often it asks, so that a job comes to its end in spite of it.
    pub(crate) left: u64,
    pub(crate) handle: Arc<OnceLock<JobHandle>>,
    pub(crate) ledger: Ledger,
    pub(crate) target: SavepointTarget,
    /// What the job may be rescaled to.
    pub(crate) graphs: Vec<JobGraph>,
    pub(crate) may_stop: bool,
    pub(crate) may_drain: bool,
    /// Nothing but checkpoints moves the job.
    pub(crate) needs_interval: bool,
    pub(crate) committed: Outputs,
}

impl User {
    pub(crate) fn look(&mut self) {
        if self.left == 0 || !self.random.one_in(self.one_in) {
            return;
        }
        let Some(handle) = self.handle.get() else {
            return;
        };
        self.left -= 1;
        let random = &mut self.random;
        let (word, order) = match random.below(12) {
            0..=2 => ("checkpoint", Order::Checkpoint),
            3..=6 => ("savepoint", Order::Savepoint(self.target.clone())),
            7 => {
                let none = !self.needs_interval && random.one_in(4);
                let interval = (!none).then(|| 1 + random.below(20));
                ("interval", Order::Interval(interval))
            }
            8..=9 if self.may_stop => {
                let drain = self.may_drain && random.one_in(3);
                let savepoint = random.one_in(2).then(|| self.target.clone());
                let word = if drain { "drain" } else { "stop" };
                (word, Order::Stop { drain, savepoint })
            }
            _ => {
                let index = random.below(self.graphs.len() as u64) as usize;
                (
                    "rescale",
                    Order::Rescale(Box::new(self.graphs[index].clone())),
                )
            }
        };
        let mut entries = self.ledger.0.lock().unwrap();
        let number = entries.asked;
        entries.asked += 1;
        entries.open.insert(number, word);
        drop(entries);
        handle.submit(Command {
            order,
            requester: Box::new(Asker {
                number,
                word,
                ledger: self.ledger.clone(),
                committed: self.committed.clone(),
            }),
        });
    }
}

struct Asker {
    number: u64,
    word: &'static str,
    ledger: Ledger,
    committed: Outputs,
}

/// A copy of what is there now, as far as it is wanted.
fn copy(outputs: &Outputs, wanted: impl Fn(&str) -> bool) -> Outputs {
    let copy = |output: &Committed| -> Committed {
        let output = output.lock().unwrap();
        let wanted = output.iter().filter(|(name, _)| wanted(name));
        let copy = wanted.map(|(name, records)| (name.clone(), records.clone()));
        Arc::new(Mutex::new(copy.collect()))
    };
    outputs
        .iter()
        .map(|(sink, output)| (sink.clone(), copy(output)))
        .collect()
}

impl Requester for Asker {
    fn progress(&self, text: &str) {
        assert!(!text.is_empty());
    }

    fn answer(self: Box<Self>, answer: Result<Done, NotDone>) {
        let mut entries = self.ledger.0.lock().unwrap();
        assert!(entries.open.remove(&self.number).is_some());
        let key = (self.word, answer.is_ok());
        *entries.answers.entry(key).or_default() += 1;
        if let Ok(Done {
            checkpoint: Some(taken),
            ..
        }) = &answer
            && matches!(self.word, "stop" | "drain")
        {
            entries.stopped_at = Some(taken.id);
        }
        if let Ok(Done {
            savepoint: Some(taken),
            ..
        }) = answer
        {
            let before = |name: &str| number_in(name, 'c').unwrap() <= taken.id;
            entries.saved.push(Saved {
                committed: copy(&self.committed, before),
                taken,
            });
        }
    }
}
