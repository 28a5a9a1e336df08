//! Native sources for simulated jobs, of any speed.

use dataflow::Batch;
use dataflow::batch::NO_TIMESTAMP;
use operator::clock::Clock;
use operator::source::{Part, SourceStatus};
use operator::{BoxError, Source, SourceFactory, SubtaskContext};
use runtime::simulation::{Random, VirtualClock};
use serde_json::json;

use super::steps::digest;
use super::trouble::{Place, Trouble};

/// What a source gives, whatever becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    pub(crate) id: String,
    /// How many records each split has. None, perhaps.
    pub(crate) splits: Vec<u64>,
    pub(crate) keys: u64,
    /// Every second record has the same key.
    pub(crate) skewed: bool,
    /// It does not end before processes are healthy.
    pub(crate) endless: bool,
}

impl Feed {
    /// Draws one.
    pub(crate) fn draw(id: String, random: &mut Random) -> Self {
        // Some have very little, or nothing, and end early.
        let most = [0, 8, 60, 120][random.below(4) as usize];
        let splits = 1 + random.below(4);
        Self {
            id,
            splits: (0..splits).map(|_| random.below(most + 1)).collect(),
            keys: [1, 3, 12, 40][random.below(4) as usize],
            skewed: random.one_in(2),
            endless: random.one_in(8),
        }
    }

    /// Record `index` of a split: key and value.
    pub(crate) fn record(&self, split: usize, index: u64) -> (String, String) {
        let value = format!("{}.{split}.{index}", self.id);
        let digest = digest(value.as_bytes()) >> 8;
        let key = match self.skewed && digest.is_multiple_of(2) {
            true => 0,
            false => (digest / 2) % self.keys,
        };
        (key.to_string(), value)
    }
}

/// How a process reads a feed.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) feed: Feed,
    pub(crate) pace: Pace,
    /// Whether an endless one ends all the same.
    pub(crate) ends: bool,
    pub(crate) clock: VirtualClock,
    pub(crate) random: Random,
    pub(crate) trouble: Trouble,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As fast as records are taken.
    Free,
    /// A few records at a time, so that batches stay small and channels fill up.
    Trickle,
    /// With pauses of a few milliseconds.
    Slow,
    /// With a long pause now and then, in which others run far ahead.
    Dozing,
}

impl Pace {
    pub(crate) fn draw(random: &mut Random) -> Self {
        [Self::Free, Self::Trickle, Self::Slow, Self::Dozing][random.below(4) as usize]
    }
}

impl SourceFactory for Reading {
    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Source>, BoxError> {
        if self.trouble.strikes(Place::Create) {
            return Err("planted at creation".into());
        }
        let position = |part: &Part| {
            let number = |name| part[name].as_u64().unwrap();
            (number("split") as usize, number("next"))
        };
        let all: Vec<(usize, u64)> = match restored {
            None => (0..self.feed.splits.len())
                .map(|split| (split, 0))
                .collect(),
            Some(parts) => parts.iter().map(position).collect(),
        };
        let mine =
            |(split, _): &(usize, u64)| *split as u32 % context.parallelism == context.subtask;
        let mut random = self.random.clone();
        let seed = random.next_u64() ^ u64::from(context.subtask);
        Ok(Box::new(ReadingSubtask {
            random: Random::new(seed),
            splits: all.into_iter().filter(mine).collect(),
            reading: self.clone(),
        }))
    }

    fn describe_position(&self, restored: &[Part]) -> String {
        format!("at {restored:?}")
    }
}

struct ReadingSubtask {
    reading: Reading,
    random: Random,
    /// Split and next index within it.
    splits: Vec<(usize, u64)>,
}

impl Source for ReadingSubtask {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        if self.reading.trouble.strikes(Place::Poll) {
            return Err("planted while reading".into());
        }
        let feed = &self.reading.feed;
        for (split, next) in &mut self.splits {
            for _ in 0..self.random.below(6) {
                if *next < feed.splits[*split] {
                    let (key, value) = feed.record(*split, *next);
                    batch.push(Some(key.as_bytes()), value.as_bytes(), NO_TIMESTAMP);
                    *next += 1;
                }
            }
        }
        let at_end = |(split, next): &(usize, u64)| *next == feed.splits[*split];
        if self.splits.iter().all(at_end) {
            return Ok(match feed.endless && !self.reading.ends {
                true => SourceStatus::Idle { until: None },
                false => SourceStatus::Ended,
            });
        }
        let now = self.reading.clock.now_ms();
        let mut idle = |most| SourceStatus::Idle {
            until: Some(now.saturating_add_unsigned(self.random.below(most))),
        };
        Ok(match self.reading.pace {
            Pace::Free => SourceStatus::More,
            Pace::Trickle => SourceStatus::Idle { until: Some(0) },
            Pace::Slow => idle(6),
            Pace::Dozing => match idle(8) {
                SourceStatus::Idle { until } if until == Some(now) => idle(100),
                _ => SourceStatus::More,
            },
        })
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        if self.reading.trouble.strikes(Place::Position) {
            return Err("planted while telling the position".into());
        }
        let part = |(split, next): &(usize, u64)| json!({"split": split, "next": next});
        Ok(self.splits.iter().map(part).collect())
    }
}
