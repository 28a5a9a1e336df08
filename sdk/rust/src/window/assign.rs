//! Which windows there are.

use std::time::Duration;

use super::counted::Counted;
use super::grid::Grid;
use super::plan::Plan;
use super::session::Sessions;

/// Assigns records to windows: [`Tumbling`], [`Sliding`], [`Cumulative`], [`Session`], [`Every`] or [`Global`].
pub trait Assigner: private::Sealed + 'static {
    /// How it is done.
    #[doc(hidden)]
    type Plan: Plan;

    /// The plan, or what is wrong with the assigner.
    #[doc(hidden)]
    fn plan(&self) -> Result<Self::Plan, String>;
}

mod private {
    /// Only the assigners of this crate are known.
    pub trait Sealed {}
    impl Sealed for super::Tumbling {}
    impl Sealed for super::Sliding {}
    impl Sealed for super::Cumulative {}
    impl Sealed for super::Session {}
    impl Sealed for super::Every {}
    impl Sealed for super::Global {}
}

/// The most milliseconds of a window, so that no sum of times is too large.
const LENGTH_MAX: u128 = 1 << 60;

/// A length in milliseconds.
fn milliseconds(what: &str, length: Duration) -> Result<i64, String> {
    match length.as_millis() {
        LENGTH_MAX.. => Err(format!("{what} is too long")),
        _ if has_fraction(length) => Err(fraction(what, length)),
        length => Ok(length as i64),
    }
}

/// Whether there is less than a millisecond in it, which times do not have.
pub(super) fn has_fraction(length: Duration) -> bool {
    !length.subsec_nanos().is_multiple_of(1_000_000)
}

pub(super) fn fraction(what: &str, length: Duration) -> String {
    if length.as_millis() == 0 {
        format!("{what} is less than a millisecond")
    } else {
        format!("{what} of {length:?} is not a whole number of milliseconds")
    }
}

/// A length of at least one millisecond.
fn positive(what: &str, length: Duration) -> Result<i64, String> {
    match milliseconds(what, length)? {
        0 => Err(format!("{what} is 0")),
        length => Ok(length),
    }
}

const fn seconds(count: u64, each: u64) -> Duration {
    Duration::from_secs(count.saturating_mul(each))
}

/// Windows of one length, one after the other: `Tumbling::hours(1)`.
///
/// They begin at multiples of their length since 1970-01-01 UTC; see [`Tumbling::offset`].
#[derive(Clone, Copy, Debug)]
pub struct Tumbling {
    size: Duration,
    offset: Duration,
}

impl Tumbling {
    /// Windows of this length.
    #[must_use]
    pub const fn of(size: Duration) -> Self {
        Self {
            size,
            offset: Duration::ZERO,
        }
    }

    /// Windows of `count` seconds.
    #[must_use]
    pub const fn seconds(count: u64) -> Self {
        Self::of(seconds(count, 1))
    }

    /// Windows of `count` minutes.
    #[must_use]
    pub const fn minutes(count: u64) -> Self {
        Self::of(seconds(count, 60))
    }

    /// Windows of `count` hours.
    #[must_use]
    pub const fn hours(count: u64) -> Self {
        Self::of(seconds(count, 3600))
    }

    /// Windows of `count` days.
    #[must_use]
    pub const fn days(count: u64) -> Self {
        Self::of(seconds(count, 86_400))
    }

    /// Moves all windows forward: days that begin at 22:00 UTC are `Tumbling::days(1).offset(…)` by 22 hours.
    #[must_use]
    pub const fn offset(mut self, offset: Duration) -> Self {
        self.offset = offset;
        self
    }
}

impl Assigner for Tumbling {
    type Plan = Grid;

    fn plan(&self) -> Result<Grid, String> {
        let size = positive("the window's length", self.size)?;
        Grid::sliding(size, size, milliseconds("the offset", self.offset)?)
    }
}

/// Windows of one length that overlap: every `slide` another one begins.
///
/// A record is kept once, in its slice: the greatest common divisor of length and slide. A window's result is
/// merged from its slices, so lengths that are multiples of the slide cost least. With a slide longer than the
/// windows, records between two windows are in none and are ignored.
#[derive(Clone, Copy, Debug)]
pub struct Sliding {
    size: Duration,
    slide: Duration,
    offset: Duration,
}

impl Sliding {
    /// Windows of this length, one each `slide`.
    #[must_use]
    pub const fn of(size: Duration, slide: Duration) -> Self {
        Self {
            size,
            slide,
            offset: Duration::ZERO,
        }
    }

    /// Windows of `count` seconds, one each `slide` seconds.
    #[must_use]
    pub const fn seconds(count: u64, slide: u64) -> Self {
        Self::of(seconds(count, 1), seconds(slide, 1))
    }

    /// Windows of `count` minutes, one each `slide` minutes.
    #[must_use]
    pub const fn minutes(count: u64, slide: u64) -> Self {
        Self::of(seconds(count, 60), seconds(slide, 60))
    }

    /// Windows of `count` hours, one each `slide` hours.
    #[must_use]
    pub const fn hours(count: u64, slide: u64) -> Self {
        Self::of(seconds(count, 3600), seconds(slide, 3600))
    }

    /// Moves all windows forward; see [`Tumbling::offset`].
    #[must_use]
    pub const fn offset(mut self, offset: Duration) -> Self {
        self.offset = offset;
        self
    }
}

impl Assigner for Sliding {
    type Plan = Grid;

    fn plan(&self) -> Result<Grid, String> {
        let size = positive("the window's length", self.size)?;
        let slide = positive("the slide", self.slide)?;
        Grid::sliding(size, slide, milliseconds("the offset", self.offset)?)
    }
}

/// Windows that grow by `step` until they have their full length, and begin again: the sum of the day, every hour.
///
/// The full length must be a multiple of the step. A record is kept once, in the slice of its step.
#[derive(Clone, Copy, Debug)]
pub struct Cumulative {
    size: Duration,
    step: Duration,
    offset: Duration,
}

impl Cumulative {
    /// Windows that grow to this length in steps.
    #[must_use]
    pub const fn of(size: Duration, step: Duration) -> Self {
        Self {
            size,
            step,
            offset: Duration::ZERO,
        }
    }

    /// Windows that grow to `count` minutes, by `step` minutes.
    #[must_use]
    pub const fn minutes(count: u64, step: u64) -> Self {
        Self::of(seconds(count, 60), seconds(step, 60))
    }

    /// Windows that grow to `count` hours, by `step` hours.
    #[must_use]
    pub const fn hours(count: u64, step: u64) -> Self {
        Self::of(seconds(count, 3600), seconds(step, 3600))
    }

    /// Moves all windows forward; see [`Tumbling::offset`].
    #[must_use]
    pub const fn offset(mut self, offset: Duration) -> Self {
        self.offset = offset;
        self
    }
}

impl Assigner for Cumulative {
    type Plan = Grid;

    fn plan(&self) -> Result<Grid, String> {
        let size = positive("the window's length", self.size)?;
        let step = positive("the step", self.step)?;
        Grid::cumulative(size, step, milliseconds("the offset", self.offset)?)
    }
}

/// Windows that end when a key was silent for a gap: `Session::minutes(30)`.
///
/// Records of one key that are at most the gap apart belong together; a record between two sessions joins them.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    gap: Duration,
}

impl Session {
    /// Sessions that end after this much silence.
    #[must_use]
    pub const fn gap(gap: Duration) -> Self {
        Self { gap }
    }

    /// Sessions that end after `count` seconds of silence.
    #[must_use]
    pub const fn seconds(count: u64) -> Self {
        Self::gap(seconds(count, 1))
    }

    /// Sessions that end after `count` minutes of silence.
    #[must_use]
    pub const fn minutes(count: u64) -> Self {
        Self::gap(seconds(count, 60))
    }

    /// Sessions that end after `count` hours of silence.
    #[must_use]
    pub const fn hours(count: u64) -> Self {
        Self::gap(seconds(count, 3600))
    }
}

impl Assigner for Session {
    type Plan = Sessions;

    fn plan(&self) -> Result<Sessions, String> {
        positive("the gap", self.gap).map(Sessions::new)
    }
}

/// Windows of a number of records of a key: `Every::records(100)`. Needs no event times. A window that is not full
/// at the end of input gives no result.
#[derive(Clone, Copy, Debug)]
pub struct Every {
    records: u32,
}

impl Every {
    /// Windows of `count` records.
    #[must_use]
    pub const fn records(count: u32) -> Self {
        Self { records: count }
    }
}

impl Assigner for Every {
    type Plan = Counted;

    fn plan(&self) -> Result<Counted, String> {
        match self.records {
            0 => Err("a window of 0 records never ends".to_owned()),
            count => Ok(Counted::new(Some(count))),
        }
    }
}

/// One window of all records of a key, which ends with the input. Useful with early results; see
/// [`Window::early_every`](crate::Window::early_every). Needs no event times.
#[derive(Clone, Copy, Debug, Default)]
pub struct Global;

impl Assigner for Global {
    type Plan = Counted;

    fn plan(&self) -> Result<Counted, String> {
        Ok(Counted::new(None))
    }
}
