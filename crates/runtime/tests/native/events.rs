//! Native sources of records with event times: out of order, some of them late, with splits that end early or fall
//! silent for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dataflow::Batch;
use dataflow::watermark::{Policy, SplitWatermarks};
use operator::clock::Clock;
use operator::source::{Part, SourceStatus};
use operator::{BoxError, Source, SourceFactory, SubtaskContext};
use runtime::simulation::{Random, VirtualClock};
use serde_json::json;

use super::feeds::Pace;
use super::steps::digest;
use super::trouble::{Place, Trouble};

/// How long a split is silent before nobody waits for it.
const IDLE_MS: i64 = 10;

/// A record as it travels: its value has all of this but the key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Event {
    pub(crate) key: String,
    /// Unique in the job.
    pub(crate) id: String,
    pub(crate) time: i64,
    /// It may come after the watermark has passed it. All others come before.
    pub(crate) may_be_late: bool,
}

impl Event {
    /// The value of its record.
    pub(crate) fn value(&self) -> String {
        let mark = if self.may_be_late { "?" } else { "" };
        format!("{}@{}{mark}", self.id, self.time)
    }

    /// Of a record.
    pub(crate) fn read(key: &[u8], value: &[u8]) -> Self {
        let [key, value] = [key, value].map(|cell| String::from_utf8(cell.to_vec()).unwrap());
        let (id, time) = value.rsplit_once('@').unwrap();
        let may_be_late = time.ends_with('?');
        Self {
            key,
            id: id.to_owned(),
            time: time.trim_end_matches('?').parse().unwrap(),
            may_be_late,
        }
    }

    /// Where it comes from: records of one key and of one of these keep their order as long as nothing deals them
    /// out.
    pub(crate) fn split(&self) -> &str {
        self.id.rsplit_once('.').unwrap().0
    }
}

/// What a source gives, whatever becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    pub(crate) id: String,
    splits: Vec<u64>,
    /// The records of each split, and the highest time up to each.
    events: Arc<Vec<Vec<(Event, i64)>>>,
    keys: u64,
    /// The event time of the first records, and how far it is from one to the next.
    first: i64,
    step: i64,
    /// How far a record may be out of order.
    bound: i64,
    /// One of this many is further back than that.
    late_one_in: Option<u64>,
    /// After this many records of a split it falls silent for a while.
    silent_after: Option<u64>,
    /// Watermarks as connectors make them, with this interval; or drawn ones.
    interval: Option<i64>,
    /// It does not end before processes are healthy.
    pub(crate) endless: bool,
    /// It gives its last record when these operators have reached the watermark of those before it.
    pub(crate) waits_for: Vec<String>,
}

impl Feed {
    /// Draws one.
    pub(crate) fn draw(id: String, random: &mut Random) -> Self {
        let most = [3, 10, 20, 40][random.below(4) as usize];
        let splits = 1 + random.below(4);
        let mut feed = Self {
            id,
            splits: (0..splits).map(|_| random.below(most + 1)).collect(),
            events: Arc::default(),
            keys: [1, 3, 8][random.below(3) as usize],
            first: [-500, 0, 300, 1_000][random.below(4) as usize],
            step: 1 + random.below(30) as i64,
            bound: random.below(60) as i64,
            late_one_in: random.one_in(3).then(|| 2 + random.below(8)),
            silent_after: random.one_in(3).then(|| 2 + random.below(10)),
            interval: (!random.one_in(3)).then(|| random.below(10) as i64),
            endless: random.one_in(10),
            waits_for: Vec::new(),
        };
        let split = |(split, count): (usize, &u64)| {
            let events = (0..*count).map(|index| feed.make(split, index));
            let reached = events.scan(i64::MIN, |reached, event| {
                *reached = event.time.max(*reached);
                Some((event, *reached))
            });
            reached.collect()
        };
        feed.events = Arc::new(feed.splits.iter().enumerate().map(split).collect());
        feed
    }

    /// What is drawn, in words.
    pub(crate) fn words(&self) -> Vec<&'static str> {
        let words = [
            (self.late_one_in.is_some(), "late feed"),
            (self.silent_after.is_some(), "silent feed"),
            (self.interval.is_some(), "feed with a policy"),
            (self.interval.is_none(), "feed with drawn watermarks"),
            (!self.waits_for.is_empty(), "waiting feed"),
        ];
        let words = words.into_iter().filter(|(is_so, _)| *is_so);
        words.map(|(_, word)| word).collect()
    }

    /// Whether it can wait in its last split: nobody is silent, and there is a record to wait with.
    pub(crate) fn can_wait(&self) -> bool {
        let last = self.last_split().map(|split| self.splits[split]);
        self.silent_after.is_none() && !self.endless && last.is_some_and(|count| count > 1)
    }

    /// Whether its splits fall silent, and nobody waits for them then.
    pub(crate) fn falls_silent(&self) -> bool {
        self.silent_after.is_some()
    }

    fn last_split(&self) -> Option<usize> {
        self.splits.iter().rposition(|count| *count > 0)
    }

    /// Makes record `index` of a split.
    fn make(&self, split: usize, index: u64) -> Event {
        let id = format!("{}.{split}.{index}", self.id);
        let digest = digest(id.as_bytes()) >> 8;
        let spread = digest % (self.bound as u64 + 1);
        let mut time = self.first + index as i64 * self.step + spread as i64;
        let is_late = |one_in| index > 0 && (digest / 64).is_multiple_of(one_in);
        let is_late = self.late_one_in.is_some_and(is_late);
        if is_late {
            time -= self.bound + 1 + (digest / 128 % 200) as i64;
        }
        Event {
            key: (digest / 4 % self.keys).to_string(),
            id,
            time,
            // Who is silent is not waited for.
            may_be_late: is_late || self.silent_after.is_some(),
        }
    }

    /// All of them.
    pub(crate) fn events(&self) -> Vec<Event> {
        let events = self.events.iter().flatten();
        events.map(|(event, _)| event.clone()).collect()
    }

    /// Record `index` of a split.
    fn event(&self, split: usize, index: u64) -> Option<&Event> {
        let (event, _) = self.events[split].get(index as usize)?;
        Some(event)
    }

    /// The highest time of the first `count` records of a split.
    fn reached(&self, split: usize, count: u64) -> Option<i64> {
        let (_, reached) = self.events[split].get(count.checked_sub(1)? as usize)?;
        Some(*reached)
    }
}

/// The highest watermark that each operator has reached. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse(Arc<Mutex<BTreeMap<String, i64>>>);

impl Pulse {
    /// An operator has reached a watermark.
    pub(crate) fn note(&self, operator: &str, watermark: i64) {
        let mut reached = self.0.lock().unwrap();
        let reached = reached.entry(operator.to_owned()).or_insert(i64::MIN);
        *reached = watermark.max(*reached);
    }

    fn have_reached(&self, operators: &[String], watermark: i64) -> bool {
        let reached = self.0.lock().unwrap();
        let has = |operator| {
            reached
                .get(operator)
                .is_some_and(|reached| *reached >= watermark)
        };
        operators.iter().all(has)
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
    pub(crate) pulse: Pulse,
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
        let mut random = self.random.clone();
        let mut random = Random::new(random.next_u64() ^ u64::from(context.subtask));
        let mut marks = self.feed.interval.map(|interval_ms| {
            SplitWatermarks::new(Policy {
                out_of_orderness_ms: self.feed.bound,
                idle_ms: self.feed.silent_after.map(|_| IDLE_MS),
                interval_ms,
                max_drift_ms: None,
            })
        });
        let mut splits = Vec::new();
        for (split, next) in all {
            if split as u32 % context.parallelism != context.subtask {
                continue;
            }
            let reached = self.feed.reached(split, next);
            if let Some(marks) = &mut marks {
                let knows_first = random.one_in(2);
                let first = self.feed.event(split, 0).map(|event| event.time);
                marks.add(reached.or(first.filter(|_| knows_first)));
            }
            splits.push(Split {
                split,
                next,
                reached,
                silence: None,
            });
        }
        Ok(Box::new(ReadingSubtask {
            reading: self.clone(),
            random,
            splits,
            marks,
            drawn: None,
            is_silent: false,
        }))
    }

    fn describe_position(&self, restored: &[Part]) -> String {
        format!("at {restored:?}")
    }
}

struct Split {
    split: usize,
    next: u64,
    reached: Option<i64>,
    /// The record before which it was silent last, and until when.
    silence: Option<(u64, i64)>,
}

struct ReadingSubtask {
    reading: Reading,
    random: Random,
    splits: Vec<Split>,
    /// As connectors have it.
    marks: Option<SplitWatermarks>,
    /// The watermark, if it is drawn.
    drawn: Option<i64>,
    /// All splits that have not ended are silent.
    is_silent: bool,
}

impl ReadingSubtask {
    /// Until when a split gives nothing, though it has more.
    fn silent_until(&mut self, index: usize, now: i64) -> Option<i64> {
        let Reading { feed, pulse, .. } = &self.reading;
        let split = &mut self.splits[index];
        let is_last = split.next + 1 == feed.splits[split.split];
        if !feed.waits_for.is_empty() && feed.last_split() == Some(split.split) && is_last {
            let watermark = split.reached.unwrap() - feed.bound - 1;
            return (!pulse.have_reached(&feed.waits_for, watermark)).then_some(now + 5);
        }
        let falls_silent = |after: u64| split.next > 0 && split.next.is_multiple_of(after);
        if feed.silent_after.is_some_and(falls_silent)
            && split.silence.is_none_or(|(before, _)| before != split.next)
        {
            let silence = self.random.below(4 * IDLE_MS as u64) as i64;
            split.silence = Some((split.next, now + silence));
        }
        let until = split.silence.map(|(_, until)| until);
        until.filter(|until| *until > now)
    }

    /// Reads a few records of each split. Returns when the next silence is over, if all are silent.
    fn read(&mut self, batch: &mut Batch, now: i64) -> Option<i64> {
        let mut over = None;
        let mut all_silent = true;
        for index in 0..self.splits.len() {
            let mut is_silent = false;
            for _ in 0..self.random.below(5) {
                let (split, next) = (self.splits[index].split, self.splits[index].next);
                if next == self.reading.feed.splits[split] {
                    break;
                }
                if let Some(until) = self.silent_until(index, now) {
                    over = over.into_iter().chain([until]).min();
                    is_silent = true;
                    if let Some(marks) = &mut self.marks {
                        marks.silent(index, now);
                    }
                    break;
                }
                let Some(event) = self.reading.feed.event(split, next) else {
                    break;
                };
                let value = event.value();
                let time = event.time;
                batch.push(Some(event.key.as_bytes()), value.as_bytes(), time);
                let split = &mut self.splits[index];
                split.next += 1;
                split.reached = split.reached.max(Some(time));
                if let Some(marks) = &mut self.marks {
                    marks.read(index, time);
                }
            }
            let split = &self.splits[index];
            let has_ended = split.next == self.reading.feed.splits[split.split];
            all_silent &= has_ended || is_silent;
            if has_ended && let Some(marks) = &mut self.marks {
                marks.end(index);
            }
        }
        self.is_silent = over.is_some() && all_silent;
        over.filter(|_| all_silent)
    }

    /// What the splits that have not ended have in common; now and then less than that, or nothing.
    fn draw_watermark(&mut self) {
        let Feed { bound, splits, .. } = &self.reading.feed;
        let mut live = self.splits.iter().filter(|it| it.next < splits[it.split]);
        let first = live.next().and_then(|split| split.reached);
        let lowest = live.fold(first, |lowest, split| lowest.min(split.reached));
        let Some(lowest) = lowest else { return };
        let lag = match self.random.below(3) {
            0 => 0,
            1 => self.random.below(50) as i64,
            _ => return,
        };
        self.drawn = self.drawn.max(Some(lowest - bound - 1 - lag));
    }

    fn has_ended(&self) -> bool {
        let splits = &self.reading.feed.splits;
        self.splits.iter().all(|it| it.next == splits[it.split])
    }
}

impl Source for ReadingSubtask {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        if self.reading.trouble.strikes(Place::Poll) {
            return Err("planted while reading".into());
        }
        let now = self.reading.clock.now_ms();
        let silent_until = self.read(batch, now);
        if let Some(marks) = &mut self.marks {
            marks.tick(now);
        } else {
            self.draw_watermark();
        }
        if self.has_ended() {
            let goes_on = self.reading.feed.endless && !self.reading.ends;
            return Ok(match goes_on {
                true => SourceStatus::Idle { until: None },
                false => SourceStatus::Ended,
            });
        }
        let tick = self.marks.as_ref().and_then(SplitWatermarks::next_tick);
        let random = &mut self.random;
        let pause = match (silent_until, self.reading.pace) {
            (Some(until), _) => Some(until),
            (None, Pace::Free) => None,
            (None, Pace::Trickle) => Some(0),
            (None, Pace::Slow) => Some(now + random.below(6) as i64),
            (None, Pace::Dozing) => random.one_in(8).then(|| now + random.below(100) as i64),
        };
        Ok(match pause {
            None => SourceStatus::More,
            Some(until) => SourceStatus::Idle {
                until: tick.into_iter().chain([until]).min(),
            },
        })
    }

    fn watermark(&self) -> Option<i64> {
        match &self.marks {
            Some(marks) => marks.watermark(),
            None => self.drawn,
        }
    }

    fn is_idle(&self) -> bool {
        match &self.marks {
            Some(marks) => marks.is_idle(),
            None => self.is_silent && self.reading.feed.silent_after.is_some(),
        }
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        if self.reading.trouble.strikes(Place::Position) {
            return Err("planted while telling the position".into());
        }
        let part = |it: &Split| json!({"split": it.split, "next": it.next});
        Ok(self.splits.iter().map(part).collect())
    }
}
