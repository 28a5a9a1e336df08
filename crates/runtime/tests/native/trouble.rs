//! Failures of sources, operators and sinks, anywhere, from a seed.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use runtime::simulation::Random;

/// Where something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Create,
    Process,
    Timers,
    Watermark,
    EndOfInput,
    Complete,
    Poll,
    Position,
    Write,
    Prepare,
    Commit,
}

/// Strikes a few times. Clones are the same trouble.
#[derive(Clone, Debug)]
pub(crate) struct Trouble(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Random,
    left: u64,
    struck: BTreeMap<Place, u64>,
}

impl Trouble {
    /// At most this many times.
    pub(crate) fn new(mut random: Random, at_most: u64) -> Self {
        let left = random.below(at_most + 1);
        let struck = BTreeMap::new();
        Self(Arc::new(Mutex::new(State {
            random,
            left,
            struck,
        })))
    }

    /// Whether whatever happens at this place fails now.
    pub(crate) fn strikes(&self, place: Place) -> bool {
        let mut state = self.0.lock().unwrap();
        // What is rare is struck as often as what is frequent.
        let one_in = match place {
            Place::Process | Place::Poll | Place::Write | Place::Timers | Place::Watermark => 300,
            Place::Create | Place::Complete | Place::Position => 100,
            Place::Prepare | Place::Commit => 60,
            Place::EndOfInput => 15,
        };
        if state.left == 0 || !state.random.one_in(one_in) {
            return false;
        }
        state.left -= 1;
        *state.struck.entry(place).or_default() += 1;
        true
    }

    /// How often it struck, and where.
    pub(crate) fn struck(&self) -> BTreeMap<Place, u64> {
        self.0.lock().unwrap().struck.clone()
    }
}
