//! The watermark of a source's subtask, made of the timestamps of its splits.

use std::collections::BTreeSet;

use super::NO_WATERMARK;

/// How a source makes watermarks. All times are in milliseconds, and none is negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How far a record's timestamp may be below the highest one before it.
    pub out_of_orderness_ms: i64,
    /// How long a split is silent before the others go on without it. `None`: they wait forever.
    pub idle_ms: Option<i64>,
    /// The least time between two watermarks.
    pub interval_ms: i64,
    /// How far a split may be ahead of the slowest one. `None`: any distance.
    pub max_drift_ms: Option<i64>,
}

impl Policy {
    /// The watermark of a split in which `highest` is the highest timestamp.
    #[must_use]
    pub fn watermark(&self, highest: i64) -> i64 {
        highest
            .saturating_sub(self.out_of_orderness_ms)
            .saturating_sub(1)
    }
}

/// The splits of a source's subtask, and the watermark that they have in common: the lowest of the active ones,
/// never lower than before.
///
/// Pure: a connector says what it has read, and what time it is. A split is a number, given by [`Self::add`].
#[derive(Clone, Debug)]
pub struct SplitWatermarks {
    policy: Policy,
    splits: Vec<Split>,
    /// The active ones by how far they are.
    active: BTreeSet<(i64, usize)>,
    /// The active ones that had nothing when they were asked last, by when they were first asked in vain.
    silent: BTreeSet<(i64, usize)>,
    watermark: i64,
    /// When the watermark last became higher.
    advanced_at: Option<i64>,
    /// A split has ended since the last tick.
    has_ended: bool,
    is_idle: bool,
}

#[derive(Clone, Copy, Debug)]
struct Split {
    /// The highest timestamp of what was read, or that of the record which comes first if nothing was.
    reached: i64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active { silent_since: Option<i64> },
    Idle,
    Ended,
}

impl SplitWatermarks {
    /// Without splits.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            splits: Vec::new(),
            active: BTreeSet::new(),
            silent: BTreeSet::new(),
            watermark: NO_WATERMARK,
            advanced_at: None,
            has_ended: false,
            is_idle: false,
        }
    }

    /// How they are made.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// One split more, and its number. `reached` is the highest timestamp of what was read of it before, or, if
    /// nothing was, that of its first record: what is not begun must hold the watermark, because its records
    /// would be late otherwise. `None` if neither is known: there is no watermark until it has been read from.
    pub fn add(&mut self, reached: Option<i64>) -> usize {
        let number = self.splits.len();
        let reached = reached.unwrap_or(NO_WATERMARK);
        self.splits.push(Split {
            reached,
            state: State::Active { silent_since: None },
        });
        self.active.insert((reached, number));
        number
    }

    /// Records were read of a split, the highest timestamp among them is this one. It is active.
    pub fn read(&mut self, split: usize, highest: i64) {
        let was = self.splits[split];
        self.leave(split);
        let reached = was.reached.max(highest);
        self.active.insert((reached, split));
        self.splits[split] = Split {
            reached,
            state: State::Active { silent_since: None },
        };
    }

    /// A split was asked at `now`, and had nothing. A split that nobody asks is not silent: that others are in
    /// its way is no reason to go on without it.
    pub fn silent(&mut self, split: usize, now: i64) {
        if let State::Active { silent_since } = &mut self.splits[split].state
            && silent_since.is_none()
        {
            *silent_since = Some(now);
            self.silent.insert((now, split));
        }
    }

    /// A split has been read to its end, so it holds nothing back.
    pub fn end(&mut self, split: usize) {
        self.leave(split);
        self.has_ended |= self.splits[split].state != State::Ended;
        self.splits[split].state = State::Ended;
    }

    /// Takes a split out of both sets.
    fn leave(&mut self, split: usize) {
        let Split { reached, state } = self.splits[split];
        if let State::Active { silent_since } = state {
            self.active.remove(&(reached, split));
            if let Some(since) = silent_since {
                self.silent.remove(&(since, split));
            }
        }
    }

    /// Brings watermark and idleness up to date. The watermark becomes higher at most every interval, and when a
    /// split has ended or idleness has changed.
    pub fn tick(&mut self, now: i64) {
        while let Some(at) = self.next_idle()
            && at <= now
            && let Some((_, split)) = self.silent.first().copied()
        {
            self.leave(split);
            self.splits[split].state = State::Idle;
        }
        let live = || {
            let splits = self.splits.iter();
            splits.filter(|split| split.state != State::Ended)
        };
        let is_idle = self.active.is_empty() && live().next().is_some();
        let may_advance = self.has_ended
            || is_idle != self.is_idle
            || self.next_advance().is_none_or(|at| at <= now);
        self.has_ended = false;
        self.is_idle = is_idle;
        let reached = self.reached();
        if may_advance && reached > self.watermark {
            self.watermark = reached;
            self.advanced_at = Some(now);
        }
    }

    /// The watermark that the splits have reached, whether or not it is time to say so.
    fn reached(&self) -> i64 {
        let reached = match self.active.first() {
            Some((lowest, _)) => Some(*lowest),
            // All are idle: nothing holds back what any of them has reached, in whatever order they fell silent.
            None => {
                let idle = self.splits.iter().filter(|it| it.state == State::Idle);
                idle.map(|split| split.reached).max()
            }
        };
        match reached {
            None | Some(NO_WATERMARK) => NO_WATERMARK,
            Some(reached) => self.policy.watermark(reached),
        }
    }

    /// From when on the watermark may become higher; `None` if it has never been.
    fn next_advance(&self) -> Option<i64> {
        self.advanced_at
            .map(|at| at.saturating_add(self.policy.interval_ms))
    }

    /// When the next split becomes idle if it stays silent.
    fn next_idle(&self) -> Option<i64> {
        let (since, _) = self.silent.first()?;
        Some(since.saturating_add(self.policy.idle_ms?))
    }

    /// Whether a tick at `now` may change anything of the watermark.
    #[must_use]
    pub fn is_due(&self, now: i64) -> bool {
        self.has_ended || self.is_idle || self.next_advance().is_none_or(|at| at <= now)
    }

    /// When to tick again though nothing is read meanwhile. `None`: nothing would change.
    #[must_use]
    pub fn next_tick(&self) -> Option<i64> {
        let waits = self.reached() > self.watermark;
        let advance = self.next_advance().filter(|_| waits);
        advance.into_iter().chain(self.next_idle()).min()
    }

    /// The watermark as of the last tick.
    #[must_use]
    pub fn watermark(&self) -> Option<i64> {
        Some(self.watermark).filter(|watermark| *watermark != NO_WATERMARK)
    }

    /// Whether all splits that have not ended are idle, as of the last tick.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// The active split that is least far.
    #[must_use]
    pub fn slowest(&self) -> Option<usize> {
        self.active.first().map(|(_, split)| *split)
    }

    /// How far the slowest active split is: the highest timestamp in it. `None` if no split is active.
    #[must_use]
    pub fn lowest(&self) -> Option<i64> {
        self.active.first().map(|(reached, _)| *reached)
    }

    /// How far the slowest active split of the whole source has to be before this one may go on. `None`: any
    /// distance is allowed.
    #[must_use]
    pub fn waits_for(&self, split: usize) -> Option<i64> {
        let max_drift = self.policy.max_drift_ms?;
        Some(self.splits[split].reached.saturating_sub(max_drift))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        out_of_orderness_ms: 5_000,
        idle_ms: Some(30_000),
        interval_ms: 200,
        max_drift_ms: Some(60_000),
    };

    #[test]
    fn the_watermark_is_the_highest_timestamp_less_the_bound_and_one() {
        let mut marks = SplitWatermarks::new(POLICY);
        let split = marks.add(None);
        marks.tick(0);
        assert_eq!(marks.watermark(), None);
        marks.read(split, 20_000);
        marks.tick(0);
        assert_eq!(marks.watermark(), Some(14_999));
        marks.read(split, 10_000);
        marks.tick(1_000);
        assert_eq!(marks.watermark(), Some(14_999));
    }

    #[test]
    fn the_watermark_waits_for_its_interval_but_not_at_the_end_of_a_split() {
        let mut marks = SplitWatermarks::new(POLICY);
        let (first, second) = (marks.add(Some(0)), marks.add(Some(90_000)));
        marks.tick(1_000);
        assert_eq!(marks.watermark(), Some(-5_001));
        marks.read(first, 10_000);
        marks.tick(1_199);
        assert_eq!(marks.watermark(), Some(-5_001));
        assert_eq!(marks.next_tick(), Some(1_200));
        marks.tick(1_200);
        assert_eq!(marks.watermark(), Some(4_999));
        assert_eq!(marks.next_tick(), None);
        // What is not begun holds it, and is no more than that.
        marks.end(first);
        marks.tick(1_201);
        assert_eq!(marks.watermark(), Some(84_999));
        marks.end(second);
        marks.tick(1_202);
        assert_eq!((marks.watermark(), marks.is_idle()), (Some(84_999), false));
    }

    #[test]
    fn a_split_that_was_asked_in_vain_for_long_enough_is_idle() {
        let mut marks = SplitWatermarks::new(POLICY);
        let (quick, slow) = (marks.add(None), marks.add(None));
        marks.read(quick, 100_000);
        marks.read(slow, 50_000);
        marks.silent(slow, 1_000);
        marks.silent(slow, 20_000);
        marks.tick(30_999);
        assert_eq!(marks.watermark(), Some(44_999));
        assert_eq!(marks.next_tick(), Some(31_000));
        marks.tick(31_000);
        assert_eq!(marks.next_tick(), Some(31_199));
        marks.tick(31_199);
        assert_eq!((marks.watermark(), marks.is_idle()), (Some(94_999), false));
        marks.silent(quick, 40_000);
        marks.tick(70_000);
        assert_eq!((marks.watermark(), marks.is_idle()), (Some(94_999), true));
        // It speaks again, of what is late: the watermark stays, and waits for it.
        marks.read(slow, 60_000);
        marks.tick(70_001);
        assert_eq!((marks.watermark(), marks.is_idle()), (Some(94_999), false));
        assert_eq!(marks.lowest(), Some(60_000));
        marks.read(slow, 200_000);
        marks.tick(70_002);
        assert_eq!(marks.watermark(), Some(194_999));
    }

    #[test]
    fn the_slowest_split_never_waits_and_nobody_waits_for_an_ended_one() {
        let mut marks = SplitWatermarks::new(POLICY);
        let (first, second) = (marks.add(Some(0)), marks.add(Some(0)));
        marks.read(first, 60_001);
        assert!(marks.waits_for(first) > marks.lowest());
        assert!(marks.waits_for(second) <= marks.lowest());
        marks.end(second);
        assert!(marks.waits_for(first) <= marks.lowest());
        assert_eq!(marks.slowest(), Some(first));
    }

    #[test]
    fn timestamps_at_the_ends_of_the_range_do_not_overflow() {
        let mut marks = SplitWatermarks::new(Policy {
            out_of_orderness_ms: i64::MAX,
            ..POLICY
        });
        let split = marks.add(Some(i64::MIN + 1));
        marks.tick(i64::MAX);
        assert_eq!(marks.watermark(), None);
        marks.read(split, i64::MAX);
        marks.silent(split, i64::MAX);
        marks.tick(i64::MAX);
        assert_eq!(marks.watermark(), Some(-1));
    }

    #[derive(Clone, Copy, Debug)]
    enum News {
        Read(i64),
        Silent,
        End,
    }

    /// What happens to which split, and how much time passes before the next tick.
    fn news() -> impl Strategy<Value = (usize, News, i64)> {
        let what = prop_oneof![
            6 => (-40..40_i64).prop_map(News::Read),
            3 => Just(News::Silent),
            1 => Just(News::End),
        ];
        (0..4_usize, what, 0..8_i64)
    }

    /// A split as the model has it: everything that happened to it, and when.
    #[derive(Clone, Debug, Default)]
    struct Model(Vec<(i64, News)>);

    impl Model {
        fn ended(&self) -> bool {
            matches!(self.0.last(), Some((_, News::End)))
        }

        fn reached(&self, first: Option<i64>) -> Option<i64> {
            let read = self.0.iter().filter_map(|(_, news)| match news {
                News::Read(time) => Some(*time),
                News::Silent | News::End => None,
            });
            read.chain(first).max()
        }

        /// Silent without a break since then.
        fn silent_since(&self) -> Option<i64> {
            let back = self.0.iter().rev();
            let silent = back.take_while(|(_, news)| matches!(news, News::Silent));
            silent.last().map(|(at, _)| *at)
        }
    }

    proptest! {
        #[test]
        fn equals_a_model_that_remembers_everything(
            firsts in prop::collection::vec(prop::option::of(-40..40_i64), 4),
            all in prop::collection::vec(news(), 0..80),
        ) {
            let policy = Policy { out_of_orderness_ms: 7, idle_ms: Some(10), interval_ms: 5, max_drift_ms: None };
            let mut marks = SplitWatermarks::new(policy);
            firsts.iter().for_each(|first| { marks.add(*first); });
            let mut model: [Model; 4] = Default::default();
            let (mut now, mut said, mut said_at, mut was_idle) = (100, None, None, false);
            for (split, it, pause) in all {
                if model[split].ended() {
                    continue;
                }
                model[split].0.push((now, it));
                match it {
                    News::Read(time) => marks.read(split, time),
                    News::Silent => marks.silent(split, now),
                    News::End => marks.end(split),
                }
                now += pause;
                marks.tick(now);
                let live: Vec<usize> = (0..4).filter(|split| !model[*split].ended()).collect();
                let is_idle = |split: &usize| model[*split].silent_since().is_some_and(|at| now - at >= 10);
                let active: Vec<usize> = live.iter().copied().filter(|split| !is_idle(split)).collect();
                let reached = |split: &usize| model[*split].reached(firsts[*split]);
                let all_reached = match active.is_empty() {
                    // Unknown is the least of all.
                    false => active.iter().map(reached).min().flatten(),
                    true => live.iter().filter_map(reached).max(),
                };
                let idle = active.is_empty() && !live.is_empty();
                let due = said_at.is_none_or(|at| now - at >= 5) || matches!(it, News::End) || idle != was_idle;
                let candidate = all_reached.map(|reached| reached - 7 - 1);
                if due && candidate > said {
                    (said, said_at) = (candidate, Some(now));
                }
                was_idle = idle;
                prop_assert_eq!(marks.watermark(), said);
                prop_assert_eq!(marks.is_idle(), idle);
                prop_assert_eq!(marks.lowest(), active.iter().map(|split| reached(split).unwrap_or(i64::MIN)).min());
                // A tick at the time that it names changes something, and none before does.
                if let Some(at) = marks.next_tick() {
                    let mut later = marks.clone();
                    later.tick(at - 1);
                    prop_assert_eq!((later.watermark(), later.active.len()), (marks.watermark(), marks.active.len()));
                    later.tick(at);
                    prop_assert_ne!((later.watermark(), later.active.len()), (marks.watermark(), marks.active.len()));
                }
            }
        }

        /// A source that was restored from the highest timestamps says nothing lower than what it has said.
        #[test]
        fn a_restored_source_does_not_go_back(all in prop::collection::vec((0..3_usize, -40..40_i64), 1..40)) {
            let policy = Policy { out_of_orderness_ms: 7, idle_ms: None, interval_ms: 1, max_drift_ms: None };
            let mut marks = SplitWatermarks::new(policy);
            let mut highest = [-50; 3];
            (0..3).for_each(|_| { marks.add(Some(-50)); });
            for (at, (split, time)) in all.into_iter().enumerate() {
                marks.read(split, time);
                marks.tick(at as i64);
                highest[split] = highest[split].max(time);
                let mut restored = SplitWatermarks::new(policy);
                highest.iter().for_each(|highest| { restored.add(Some(*highest)); });
                restored.tick(0);
                prop_assert!(restored.watermark() >= marks.watermark());
            }
        }
    }
}
