//! The watermark of a subtask: the lowest of its active channels', or of its source's splits.

pub use self::splits::{Policy, SplitWatermarks};

mod splits;

/// The watermark before any has come.
pub const NO_WATERMARK: i64 = i64::MIN;

/// The watermark of an input that has ended: no record follows, not even a late one.
pub const END: i64 = i64::MAX;

/// Combines the watermarks of a subtask's input channels.
///
/// A channel that has had no watermark yet holds the others back. One that is idle does not, nor does one that
/// has ended. The common watermark never goes back: a channel that becomes active again below it holds it where
/// it is until that channel has caught up.
#[derive(Clone, Debug)]
pub struct CombinedWatermark {
    channels: Vec<Channel>,
    current: i64,
    idle: bool,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    watermark: i64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    Idle,
    Ended,
}

/// What a channel's news has changed for those who read the subtask's output. First the watermark is passed on,
/// then the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The common watermark is higher now.
    pub watermark: Option<i64>,
    /// Whether a watermark is to be expected has changed, or has to be repeated because a watermark was passed on.
    pub status: Option<Status>,
}

impl Change {
    /// A higher watermark, if there is one, and whether none is to be expected from now on.
    #[must_use]
    pub fn of(watermark: Option<i64>, was_idle: bool, is_idle: bool) -> Self {
        let turned = is_idle != was_idle;
        let status = match is_idle {
            true if turned || watermark.is_some() => Some(Status::Idle),
            false if turned => Some(Status::Active),
            _ => None,
        };
        Self { watermark, status }
    }
}

/// Whether others have to wait for a watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// They have to.
    Active,
    /// None is to be expected for now.
    Idle,
}

impl CombinedWatermark {
    /// No watermark on any of `channels` channels.
    #[must_use]
    pub fn new(channels: usize) -> Self {
        let channel = Channel {
            watermark: NO_WATERMARK,
            state: State::Active,
        };
        Self {
            channels: vec![channel; channels],
            current: NO_WATERMARK,
            idle: false,
        }
    }

    /// The watermark that all channels have reached.
    #[must_use]
    pub fn current(&self) -> i64 {
        self.current
    }

    /// Whether every channel that has not ended is idle.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// `channel` has reached `watermark`, and is active.
    pub fn advance(&mut self, channel: usize, watermark: i64) -> Change {
        let channel = &mut self.channels[channel];
        channel.watermark = channel.watermark.max(watermark);
        channel.state = State::Active;
        self.combine()
    }

    /// No watermark is to be expected of `channel` until its next one comes.
    pub fn idle(&mut self, channel: usize) -> Change {
        self.channels[channel].state = State::Idle;
        self.combine()
    }

    /// The input of `channel` has ended. After the last one the watermark is [`END`].
    pub fn end(&mut self, channel: usize) -> Change {
        self.channels[channel].state = State::Ended;
        self.combine()
    }

    fn combine(&mut self) -> Change {
        // A channel at the end has its end of input still to come. It is not idle, and its watermark is nobody
        // else's: with the others idle it would be the only one left to count.
        let live = || {
            let channels = self.channels.iter();
            channels.filter(|channel| channel.state != State::Ended && channel.watermark < END)
        };
        let watermarks = |state| {
            let those = live().filter(move |channel| channel.state == state);
            those.map(|channel| channel.watermark)
        };
        let has_ended = |channel: &Channel| channel.state == State::Ended;
        let (reached, idle) = if let Some(lowest) = watermarks(State::Active).min() {
            (lowest, false)
        } else if let Some(highest) = watermarks(State::Idle).max() {
            // Nothing holds back what the channels have reached, in whatever order they became idle.
            (highest, true)
        } else if self.channels.iter().all(has_ended) {
            (END, false)
        } else {
            (self.current, self.idle)
        };
        let watermark = (reached > self.current).then_some(reached);
        self.current = self.current.max(reached);
        let was_idle = std::mem::replace(&mut self.idle, idle);
        Change::of(watermark, was_idle, idle)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn advanced(watermark: i64) -> Change {
        Change {
            watermark: Some(watermark),
            status: None,
        }
    }

    fn turned(watermark: Option<i64>, status: Status) -> Change {
        Change {
            watermark,
            status: Some(status),
        }
    }

    const NOTHING: Change = Change {
        watermark: None,
        status: None,
    };

    #[test]
    fn the_slowest_channel_decides_and_the_watermark_never_goes_back() {
        let mut valve = CombinedWatermark::new(2);
        assert_eq!(valve.advance(0, 10), NOTHING);
        assert_eq!(valve.advance(1, 5), advanced(5));
        assert_eq!(valve.advance(1, 3), NOTHING);
        assert_eq!(valve.advance(1, 20), advanced(10));
        assert_eq!(valve.current(), 10);
    }

    #[test]
    fn an_idle_channel_holds_nothing_until_it_speaks_again() {
        let mut valve = CombinedWatermark::new(2);
        valve.advance(0, 10);
        assert_eq!(valve.idle(1), advanced(10));
        assert_eq!(valve.advance(0, 30), advanced(30));
        // Behind the others: what they had stays, and they wait for it from now on.
        assert_eq!(valve.advance(1, 20), NOTHING);
        assert_eq!(valve.advance(0, 40), NOTHING);
        assert_eq!(valve.advance(1, 35), advanced(35));
    }

    #[test]
    fn when_all_are_idle_the_order_in_which_they_became_so_does_not_matter() {
        for order in [[0, 1], [1, 0]] {
            let mut valve = CombinedWatermark::new(2);
            valve.advance(0, 10);
            valve.advance(1, 50);
            valve.idle(order[0]);
            let last = valve.idle(order[1]);
            assert_eq!(last.status, Some(Status::Idle));
            assert_eq!(valve.current(), 50);
            assert!(valve.is_idle());
            assert_eq!(valve.advance(0, 20), turned(None, Status::Active));
            assert_eq!(valve.advance(0, 60), advanced(60));
        }
    }

    #[test]
    fn an_ended_channel_holds_nothing_and_gives_nothing() {
        let mut valve = CombinedWatermark::new(3);
        valve.advance(0, 10);
        valve.advance(1, 20);
        assert_eq!(valve.advance(2, END), advanced(10));
        assert_eq!(valve.end(2), NOTHING);
        // The rest is idle, and its watermark counts, not that of the ended one.
        assert_eq!(valve.idle(0), advanced(20));
        assert_eq!(valve.idle(1), turned(None, Status::Idle));
        assert_eq!(valve.end(1), NOTHING);
        assert_eq!(valve.advance(0, END), NOTHING);
        assert_eq!(valve.end(0), turned(Some(END), Status::Active));
    }

    #[test]
    fn the_last_watermark_waits_for_the_last_end_of_input() {
        let mut valve = CombinedWatermark::new(2);
        assert_eq!(valve.advance(0, END), NOTHING);
        assert_eq!(valve.advance(1, END), NOTHING);
        assert_eq!(valve.end(1), NOTHING);
        assert_eq!(valve.end(0), advanced(END));
    }

    #[derive(Clone, Copy, Debug)]
    enum News {
        Watermark(i64),
        Idle,
        End,
    }

    fn news() -> impl Strategy<Value = (usize, News)> {
        let what = prop_oneof![
            6 => (-20..20_i64).prop_map(News::Watermark),
            2 => Just(News::Idle),
            1 => Just(News::End),
        ];
        (0..4_usize, what)
    }

    proptest! {
        /// Every channel's history is looked at as a whole after each of its news.
        #[test]
        fn equals_a_model_that_remembers_everything(all in prop::collection::vec(news(), 0..60)) {
            let mut valve = CombinedWatermark::new(4);
            let mut histories: [Vec<News>; 4] = Default::default();
            let (mut shown, mut shown_idle) = (NO_WATERMARK, false);
            for (channel, it) in all {
                if matches!(histories[channel].last(), Some(News::End)) {
                    continue;
                }
                histories[channel].push(it);
                let change = match it {
                    News::Watermark(watermark) => valve.advance(channel, watermark),
                    News::Idle => valve.idle(channel),
                    News::End => valve.end(channel),
                };
                // What a reader of the output knows.
                if let Some(watermark) = change.watermark {
                    prop_assert!(watermark > shown);
                    (shown, shown_idle) = (watermark, false);
                }
                if let Some(status) = change.status {
                    shown_idle = status == Status::Idle;
                }
                let highest = |history: &Vec<News>| {
                    let marks = history.iter().filter_map(|it| match it {
                        News::Watermark(watermark) => Some(*watermark),
                        News::Idle | News::End => None,
                    });
                    marks.max().unwrap_or(NO_WATERMARK)
                };
                let ended = |history: &&Vec<News>| matches!(history.last(), Some(News::End));
                let idle = |history: &&Vec<News>| matches!(history.last(), Some(News::Idle));
                let live: Vec<_> = histories.iter().filter(|history| !ended(history)).collect();
                let active: Vec<_> = live.iter().copied().filter(|history| !idle(history)).collect();
                let now = match (active.is_empty(), live.is_empty()) {
                    (false, _) => active.iter().copied().map(highest).min(),
                    (true, false) => live.iter().copied().map(highest).max(),
                    (true, true) => Some(END),
                };
                prop_assert_eq!(valve.current(), shown);
                prop_assert!(shown >= now.unwrap());
                // Higher only by what an earlier moment allowed.
                prop_assert!(change.watermark.is_none_or(|watermark| Some(watermark) == now));
                prop_assert_eq!(shown_idle, active.is_empty() && !live.is_empty());
                prop_assert_eq!(valve.is_idle(), shown_idle);
            }
        }
    }
}
