use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::aggregate::{Collect, Count, First, Last, Max, Mean, Min, Sum};
use crate::error::Error;
use crate::metrics::Gauge;
use crate::testing::Harness;
use crate::timer::Fired;
use crate::{Operator, WindowOperator};

const MINUTE: i64 = 60_000;

/// All ready-made aggregates of one column, in one window.
struct All {
    all: Window<Tumbling, Numbers>,
}

type Numbers = (Count, Sum<i64>, Min<i64>, Max, Mean, First, Last<i64>);
type Results = (
    u64,
    i64,
    Option<i64>,
    Option<f64>,
    f64,
    Option<String>,
    Option<i64>,
);

impl WindowOperator<Results> for All {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let n = ctx.column("n")?;
        let numbers = (
            Count,
            Sum::of(n).missing("NA"),
            Min::of(n).missing("NA"),
            Max::of(n).missing("NA"),
            Mean::of(n).missing("NA"),
            First::of(n),
            Last::of(n).missing("NA"),
        );
        Ok(Self {
            all: ctx.window("all", Tumbling::minutes(1), numbers),
        })
    }

    fn emit(&mut self, window: Span, results: Results, out: &mut Emitter) -> Result<()> {
        let (count, sum, min, max, mean, first, last) = results;
        out.emit(
            out.key(),
            (window, count, (sum, min, max), mean, first, last),
        )
    }
}
crate::export!(All { all });

#[test]
fn aggregates_of_a_column_skip_what_is_missing() {
    let mut all = Harness::<All>::setup().rows(["n"]).open().unwrap();
    all.process_timed(&[
        ("a", "3", 10),
        ("a", "-4", 5),
        ("b", "NA", 7),
        ("a", "", 20),
        ("a", "NA", 15),
        ("a", "8", 10),
    ])
    .unwrap();
    all.restart().unwrap();
    all.process_timed(&[("a", "2", 10), ("b", "5", MINUTE)])
        .unwrap();
    all.end_of_input(0).unwrap();
    assert_eq!(
        all.take_rows(),
        [
            "a,0,60000,6,9,-4,8,2.25,-4,2",
            "b,0,60000,1,0,,,NaN,NA,",
            "b,60000,120000,1,5,5,5,5,5,5",
        ]
    );
    assert_eq!(all.entries(), 0);
}

#[test]
fn a_field_that_is_no_number_and_a_sum_that_is_too_large_are_reported() {
    let mut all = Harness::<All>::setup().rows(["n"]).open().unwrap();
    let error = all
        .process_timed(&[("a", "1", 0), ("a", "x", 0)])
        .unwrap_err();
    assert_eq!(
        error.message(),
        "column `n`: `x` is not a whole number in range"
    );
    assert_eq!(error.record(), Some(1));
    let largest = i64::MAX.to_string();
    let error = all
        .process_timed(&[("a", largest.as_str(), 0), ("a", "1", 0)])
        .unwrap_err();
    assert!(
        error.message().starts_with("a sum does not fit `i64`"),
        "{error}"
    );
    assert_eq!(all.entries(), 0, "a failed call leaves no trace");
}

#[test]
fn records_need_an_event_time_that_makes_sense() {
    let mut all = Harness::<All>::setup().rows(["n"]).open().unwrap();
    let error = all.process(&[("a", "1")]).unwrap_err();
    assert!(
        error
            .message()
            .starts_with("the record has no event time, so it falls into no window of `all`"),
        "{error}"
    );
    // A restart does not give the records an event time.
    assert_eq!(error.kind(), crate::ErrorKind::Config);
    for time in [i64::MIN + 1, i64::MAX, 1 << 62] {
        let error = all.process_timed(&[("a", "1", time)]).unwrap_err();
        assert!(error.message().contains("out of range"), "{time}: {error}");
    }
    for time in [1 << 61, -(1 << 61)] {
        all.process_timed(&[("a", "1", time)]).unwrap();
    }
    all.end_of_input(0).unwrap();
    assert_eq!(all.take().len(), 2);
}

/// Windows as a closure makes them, with the records they hold.
struct Shown<A: Assigner>(Window<A, Collect>);

/// How a test's window is made.
trait Make: Sized + 'static {
    type Assigner: Assigner;
    fn make(ctx: &mut OpenContext) -> Window<Self::Assigner, Collect>;
}

struct Made<M: Make>(Shown<M::Assigner>);

impl<M: Make> Operator for Made<M> {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        Ok(Self(Shown(M::make(ctx))))
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        self.0.0.add(record, out, show)
    }

    fn on_timer(&mut self, timer: Timer<'_>, out: &mut Emitter) -> Result<()> {
        self.0.0.on_timer(timer, out, show).map(drop)
    }
}

fn show(span: Span, held: crate::aggregate::Collected, out: &mut Emitter) -> Result<()> {
    let values: Vec<_> = held.values().map(String::from_utf8_lossy).collect();
    let minutes = |time: i64| time as f64 / MINUTE as f64;
    out.emit(
        out.key(),
        (
            format!("{:?}", span.firing()),
            minutes(span.start()),
            minutes(span.end()),
            values.join(" "),
        ),
    )
}

/// A type that makes a window.
macro_rules! make {
    ($name:ident: $assigner:ty = $make:expr) => {
        struct $name;
        impl Make for $name {
            type Assigner = $assigner;
            fn make(ctx: &mut OpenContext) -> Window<$assigner, Collect> {
                let make: fn(&mut OpenContext) -> Window<$assigner, Collect> = $make;
                make(ctx)
            }
        }
    };
}

fn at(minute: i64, values: &[&'static str]) -> Vec<(&'static str, &'static str, i64)> {
    values
        .iter()
        .map(|value| ("k", *value, minute * MINUTE))
        .collect()
}

#[test]
fn c67_late_records_are_dropped_and_counted() {
    make!(Plain: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(10), Collect));
    let mut plain = Harness::<Made<Plain>>::open().unwrap();
    plain.process_timed(&at(1, &["a"])).unwrap();
    // One millisecond before the end, nothing is closed.
    plain.set_watermark(10 * MINUTE - 2).unwrap();
    plain.process_timed(&at(9, &["b"])).unwrap();
    plain.set_watermark(10 * MINUTE - 1).unwrap();
    plain.process_timed(&at(9, &["late", "too"])).unwrap();
    plain.process_timed(&at(10, &["c"])).unwrap();
    assert_eq!(plain.take_metric("late-records"), [2.0]);
    plain.end_of_input(0).unwrap();
    assert_eq!(plain.take_rows(), ["k,OnTime,0,10,a b", "k,OnTime,10,20,c"]);
    assert_eq!(plain.entries(), 0);
}

#[test]
fn c67_late_records_go_to_their_output_as_they_came() {
    make!(Sent: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(10), Collect).late_to("late"));
    let mut sent = Harness::<Made<Sent>>::open().unwrap();
    assert_eq!(sent.outputs(), ["out", "late"]);
    sent.set_watermark(10 * MINUTE - 1).unwrap();
    sent.process_timed(&at(3, &["x,\"y,z\""])).unwrap();
    let late = sent.take();
    assert_eq!(
        (
            late[0].output.as_str(),
            late[0].key.as_deref(),
            late[0].value.as_str(),
            late[0].timestamp
        ),
        ("late", Some("k"), "x,\"y,z\"", Some(3 * MINUTE))
    );
    assert!(sent.take_metric("late-records").is_empty());
}

#[test]
fn c67_within_the_allowed_lateness_results_come_again_updated() {
    make!(Lenient: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(10), Collect).allowed_lateness(Duration::from_secs(300)));
    let mut lenient = Harness::<Made<Lenient>>::open().unwrap();
    lenient.process_timed(&at(1, &["a"])).unwrap();
    lenient.set_watermark(12 * MINUTE).unwrap();
    lenient.process_timed(&at(2, &["b", "c"])).unwrap();
    assert_eq!(lenient.take_rows(), ["k,OnTime,0,10,a"]);
    lenient.set_watermark(13 * MINUTE).unwrap();
    assert_eq!(lenient.take_rows(), ["k,Late,0,10,a b c"]);
    lenient.set_watermark(14 * MINUTE).unwrap();
    assert!(lenient.take_rows().is_empty(), "nothing is new");
    lenient.set_watermark(15 * MINUTE - 1).unwrap();
    assert_eq!(lenient.entries(), 0, "closed");
    lenient.process_timed(&at(2, &["late"])).unwrap();
    assert_eq!(lenient.take_metric("late-records"), [1.0]);
}

thread_local! {
    /// The minutes of lateness that `Growing` and `GrowingVisits` allow.
    static LATENESS: Cell<u64> = const { Cell::new(0) };
}

fn lateness() -> Duration {
    Duration::from_secs(60 * LATENESS.get())
}

#[test]
fn windows_are_removed_though_more_lateness_is_allowed_after_a_restart() {
    make!(Growing: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(10), Collect).allowed_lateness(lateness()));
    make!(GrowingVisits: Session = |ctx| ctx.window("w", Session::minutes(9), Collect).allowed_lateness(lateness()));
    fn run<M: Make>(before: u64, restart_at: i64) {
        LATENESS.set(before);
        let mut windows = Harness::<Made<M>>::open().unwrap();
        windows
            .process_timed(&[("k", "a", MINUTE), ("k", "b", 11 * MINUTE)])
            .unwrap();
        windows.set_watermark(restart_at * MINUTE).unwrap();
        LATENESS.set(30);
        windows.restart().unwrap();
        windows.set_watermark(50 * MINUTE - 2).unwrap();
        assert_eq!(windows.take().len(), 2);
        assert_ne!(
            windows.entries(),
            0,
            "the second window is still open for late records"
        );
        windows.set_watermark(50 * MINUTE - 1).unwrap();
        assert_eq!(
            windows.entries(),
            0,
            "{before}, {restart_at}: {:?}",
            windows.timers()
        );
    }
    for (before, restart_at) in [(0, 5), (0, 15), (5, 5), (5, 12), (5, 17), (5, 22)] {
        run::<Growing>(before, restart_at);
        run::<GrowingVisits>(before, restart_at);
    }
}

#[test]
fn sessions_exactly_one_gap_apart_are_one() {
    make!(Visits: Session = |ctx| ctx.window("w", Session::minutes(10), Collect));
    let mut visits = Harness::<Made<Visits>>::open().unwrap();
    visits
        .process_timed(&[
            ("k", "a", 0),
            ("k", "c", 20 * MINUTE),
            ("k", "b", 10 * MINUTE),
            ("k", "d", 30 * MINUTE + 1),
        ])
        .unwrap();
    // The timers of sessions that have grown fire too early, and nothing is emitted twice.
    visits.set_watermark(30 * MINUTE - 2).unwrap();
    assert!(visits.take_rows().is_empty());
    visits.set_watermark(30 * MINUTE - 1).unwrap();
    assert_eq!(visits.take_rows(), ["k,OnTime,0,30,a b c"]);
    visits.end_of_input(0).unwrap();
    assert_eq!(visits.take().len(), 1);
    assert_eq!(visits.entries(), 0);
}

#[test]
fn early_results_come_by_the_clock_and_by_records() {
    make!(ByClock: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(10), Collect).early_every(Duration::from_secs(1)));
    let mut early = Harness::<Made<ByClock>>::open().unwrap();
    early.set_time(500).unwrap();
    early.process_timed(&at(1, &["a"])).unwrap();
    early.set_time(1400).unwrap();
    early.process_timed(&at(2, &["b"])).unwrap();
    assert!(early.take_rows().is_empty());
    early.set_time(1500).unwrap();
    assert_eq!(early.take_rows(), ["k,Early,0,10,a b"]);
    early.set_time(9000).unwrap();
    assert!(early.take_rows().is_empty(), "nothing has changed");
    early.process_timed(&at(3, &["c"])).unwrap();
    early.set_watermark(10 * MINUTE).unwrap();
    assert_eq!(early.take_rows(), ["k,OnTime,0,10,a b c"]);
    assert_eq!(early.entries(), 0, "the timer of the clock is deleted");

    make!(ByRecords: Session = |ctx| ctx.window("w", Session::minutes(10), Collect).early_after(2));
    let mut early = Harness::<Made<ByRecords>>::open().unwrap();
    early
        .process_timed(&at(1, &["a", "b", "c", "d", "e"]))
        .unwrap();
    early.end_of_input(0).unwrap();
    assert_eq!(
        early.take_rows(),
        [
            "k,Early,1,11,a b",
            "k,Early,1,11,a b c d",
            "k,OnTime,1,11,a b c d e"
        ]
    );
}

#[test]
fn an_early_result_whose_timer_was_skipped_comes_after_the_next_record() {
    make!(Tumbled: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(10), Collect).early_every(Duration::from_secs(1)));
    make!(Visits: Session = |ctx| ctx.window("w", Session::minutes(9), Collect).early_every(Duration::from_secs(1)));
    make!(All: Global = |ctx| ctx.window("w", Global, Collect).early_every(Duration::from_secs(1)));
    fn run<M: Make>() {
        let mut early = Harness::<Made<M>>::open().unwrap();
        early.process_timed(&at(1, &["a"])).unwrap();
        early.set_processing_time(1500);
        early.restart_without_overdue_timers().unwrap();
        early.set_time(1500).unwrap();
        assert!(early.take_rows().is_empty(), "the timer was dropped");
        early.process_timed(&at(1, &["b"])).unwrap();
        early.set_time(1501).unwrap();
        let rows = early.take_rows();
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert!(rows[0].starts_with("k,Early,") && rows[0].ends_with(",a b"));
        early.process_timed(&at(1, &["c"])).unwrap();
        early.set_time(2500).unwrap();
        assert!(early.take_rows().is_empty(), "it is due after a second");
        early.set_time(2501).unwrap();
        assert_eq!(early.take_rows().len(), 1);
        early.end_of_input(0).unwrap();
        assert_eq!(early.entries(), 0);
    }
    run::<Tumbled>();
    run::<Visits>();
    run::<All>();
}

#[test]
fn an_early_result_that_is_due_is_not_put_off_by_records() {
    make!(Due: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(10), Collect).early_every(Duration::from_secs(1)));
    let mut early = Harness::<Made<Due>>::open().unwrap();
    early.process_timed(&at(1, &["a"])).unwrap();
    // Batches come before the host looks at its timers.
    early.set_processing_time(1000);
    early.process_timed(&at(1, &["b"])).unwrap();
    early.set_processing_time(1900);
    early.process_timed(&at(1, &["c"])).unwrap();
    early.set_time(1900).unwrap();
    assert_eq!(early.take_rows(), ["k,Early,0,10,a b c"]);
    assert_eq!(early.timers().len(), 1, "that of the end");
}

/// A window with timers of the operator's own, which emits something after the window's results too.
struct AfterResults {
    window: Window<Tumbling, Collect>,
    timers: Timers,
}

impl Operator for AfterResults {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let window = ctx.window("w", Tumbling::minutes(10), Collect);
        Ok(Self {
            window: window.early_every(Duration::from_secs(1)),
            timers: ctx.timers(),
        })
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        if record.text()? == "timer of the window" {
            let tag = Alarm::Early.tag(0);
            return self.timers.register_processing_time(100, tag);
        }
        self.window.add(record, out, show)
    }

    fn on_timer(&mut self, timer: Timer<'_>, out: &mut Emitter) -> Result<()> {
        self.window.on_timer(timer, out, show)?;
        out.emit(timer.key(), "after")
    }
}

#[test]
fn what_is_emitted_after_results_has_the_time_of_the_timer() {
    let mut operator = Harness::<AfterResults>::open().unwrap();
    operator.process_timed(&at(1, &["a"])).unwrap();
    operator.set_time(1000).unwrap();
    let emitted = operator.take().into_iter();
    let times: Vec<_> = emitted.map(|record| record.timestamp).collect();
    assert_eq!(times, [Some(10 * MINUTE - 1), None]);
}

#[test]
fn a_timer_of_another_time_leaves_the_early_result_due() {
    let mut operator = Harness::<AfterResults>::open().unwrap();
    operator.process_timed(&at(1, &["a"])).unwrap();
    operator
        .process_timed(&at(1, &["timer of the window"]))
        .unwrap();
    operator.set_time(100).unwrap();
    assert_eq!(operator.take_rows(), ["k,after"]);
    operator.set_time(1000).unwrap();
    assert_eq!(operator.take_rows(), ["k,Early,0,10,a", "k,after"]);
    operator.process_timed(&at(1, &["b"])).unwrap();
    operator.set_watermark(10 * MINUTE).unwrap();
    assert_eq!(operator.entries(), 0, "{:?}", operator.timers());
}

#[test]
fn windows_of_a_number_of_records_need_no_time() {
    make!(Pairs: Every = |ctx| ctx.window("w", Every::records(2), Collect));
    let mut pairs = Harness::<Made<Pairs>>::open().unwrap();
    pairs
        .process(&[("k", "a"), ("l", "b"), ("k", "c"), ("k", "d")])
        .unwrap();
    let emitted = pairs.take();
    assert_eq!(emitted.len(), 1);
    assert!(emitted[0].value.ends_with(",a c"), "{emitted:?}");
    assert_eq!(emitted[0].timestamp, None);
    pairs.end_of_input(0).unwrap();
    assert!(pairs.take().is_empty(), "what is not full gives no result");

    make!(Whole: Global = |ctx| ctx.window("w", Global, Collect));
    let mut whole = Harness::<Made<Whole>>::open().unwrap();
    whole.process(&[("k", "a"), ("k", "b")]).unwrap();
    whole.set_watermark(i64::MAX - 1).unwrap();
    assert!(whole.take().is_empty());
    whole.end_of_input(0).unwrap();
    assert_eq!(whole.take().len(), 1);
    assert_eq!(whole.entries(), 0);
}

#[test]
fn wrong_windows_are_refused_with_their_names() {
    make!(Zero: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(0), Collect));
    make!(Short: Sliding = |ctx| ctx.window("w", Sliding::of(Duration::from_secs(1), Duration::from_micros(1)), Collect));
    make!(Uneven: Cumulative = |ctx| ctx.window("w", Cumulative::minutes(10, 3), Collect));
    make!(Fine: Sliding = |ctx| ctx.window("w", Sliding::of(Duration::from_millis(86_400_001), Duration::from_secs(60)), Collect));
    make!(Never: Every = |ctx| ctx.window("w", Every::records(0), Collect));
    make!(Long: Session = |ctx| ctx.window("w", Session::gap(Duration::MAX), Collect));
    make!(Fraction: Session = |ctx| {
        let window = ctx.window("w", Session::gap(Duration::from_micros(1500)), Collect);
        window.allowed_lateness(Duration::from_micros(2500)).early_every(Duration::from_micros(1))
    });
    make!(Early: Global = |ctx| ctx.window("w", Global, Collect).early_after(0).early_every(Duration::ZERO));
    fn problem<M: Make>() -> String {
        let error = Harness::<Made<M>>::open().unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Config);
        error.message().to_owned()
    }
    for (problem, expected) in [
        (problem::<Zero>(), "window `w`: the window's length is 0"),
        (
            problem::<Short>(),
            "window `w`: the slide is less than a millisecond",
        ),
        (
            problem::<Uneven>(),
            "window `w`: the window's length of 600000 ms is not a multiple of the step of 180000 ms",
        ),
        (
            problem::<Fine>(),
            "window `w`: a window of 86400001 ms is made of 86400001 slices of 1 ms",
        ),
        (
            problem::<Never>(),
            "window `w`: a window of 0 records never ends",
        ),
        (problem::<Long>(), "window `w`: the gap is too long"),
        (
            problem::<Fraction>(),
            "window `w`: the gap of 1.5ms is not a whole number of milliseconds; window `w`: the allowed lateness of \
             2.5ms is not a whole number of milliseconds; window `w`: the interval of early results is less than a \
             millisecond",
        ),
        (
            problem::<Early>(),
            "window `w`: early results come after 1 record at least, not 0; window `w`: the interval of early results is less than a millisecond",
        ),
    ] {
        assert!(problem.starts_with(expected), "{problem}");
    }
}

#[test]
fn the_schema_names_the_lengths() {
    make!(Plain: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(1).offset(Duration::from_secs(90)), Collect));
    let plain = Harness::<Made<Plain>>::open().unwrap();
    assert_eq!(
        plain.states(),
        [(
            "w",
            "sliding_60000_60000_30000_newest_first[(first:svarint,more:(last:i64?,late:bool,\
             early:(records:u32,changed:bool,due:i64?)?)?,aggregate:[(i64,bytes)])]"
        )]
    );
}

/// Two windows and timers of its own in one operator.
struct Both {
    minutes: Window<Tumbling, Count>,
    hours: Window<Sliding, Count>,
    timers: Timers,
}

impl Operator for Both {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        Ok(Self {
            minutes: ctx.window("minutes", Tumbling::minutes(1), Count),
            hours: ctx.window("hours", Sliding::minutes(60, 30), Count),
            timers: ctx.timers(),
        })
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        self.timers.register_event_time(0, 7)?;
        self.minutes.add(record, out, |_, _, _| Ok(()))?;
        self.hours.add(record, out, |_, _, _| Ok(()))
    }

    fn on_timer(&mut self, timer: Timer<'_>, out: &mut Emitter) -> Result<()> {
        let emit = |name: &'static str| {
            move |span: Span, count: u64, out: &mut Emitter| {
                out.emit(out.key(), (name, span.start() / MINUTE, count))
            }
        };
        if self.minutes.on_timer(timer, out, emit("minute"))?
            || self.hours.on_timer(timer, out, emit("hour"))?
        {
            return Ok(());
        }
        out.emit(timer.key(), ("own", timer.tag()))
    }
}

#[test]
fn windows_and_timers_share_an_operator() {
    let mut both = Harness::<Both>::open().unwrap();
    both.process_timed(&[("k", "", 0), ("k", "", 31 * MINUTE)])
        .unwrap();
    both.end_of_input(0).unwrap();
    assert_eq!(
        both.take_rows(),
        [
            "k,own,7",
            "k,minute,0,1",
            "k,hour,-30,1",
            "k,minute,31,1",
            "k,hour,0,2",
            "k,hour,30,1"
        ]
    );
    assert_eq!(both.entries(), 0);
}

/// Counts its calls for timers, and says how many results each has given.
struct Fires<M: Make>(Window<M::Assigner, Collect>, Gauge);

impl<M: Make> Operator for Fires<M> {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        Ok(Self(M::make(ctx), ctx.gauge("results")))
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        self.0.add(record, out, show)
    }

    fn on_timers(&mut self, fired: Fired<'_>, out: &mut Emitter) -> Result<()> {
        let mut results = 0;
        for timer in fired.timers() {
            self.0.on_timer(timer, out, |span, kept, out| {
                results += 1;
                show(span, kept, out)
            })?;
        }
        self.1.set(f64::from(results));
        Ok(())
    }
}

/// The windows of this many records of a key, a minute apart.
const RECORDS: i64 = 2500;

/// Ends many windows with one watermark, and then the rest with the input. Returns how many results each call gave.
fn fire_many<M: Make>(keys: &[&str], value: &str, windows: usize) -> Vec<f64> {
    let mut fires = Harness::<Fires<M>>::open().unwrap();
    // Each batch is before all others, so its first window has a timer that the next batch leaves behind.
    for from in (0..RECORDS / 100).rev().map(|n| n * 100) {
        let batch: Vec<_> = (from..from + 100)
            .flat_map(|n| keys.iter().map(move |key| (*key, value, n * MINUTE)))
            .collect();
        fires.process_timed(&batch).unwrap();
    }
    let mut ends: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut results = Vec::new();
    for watermark in [(RECORDS - 10) * MINUTE - 1, i64::MAX] {
        fires.set_watermark(watermark).unwrap();
        for emitted in fires.take() {
            ends.entry(emitted.key).or_default().push(emitted.timestamp);
        }
        results.extend(fires.take_metric("results"));
    }
    assert_eq!(ends.len(), keys.len());
    for ends in ends.values() {
        assert_eq!(ends.len(), windows);
        assert!(ends.is_sorted());
    }
    assert_eq!(fires.entries(), 0);
    results
}

#[test]
fn windows_that_end_with_one_watermark_take_few_calls() {
    let many = usize::try_from(RECORDS).unwrap();
    make!(Minutes: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(1), Collect));
    let results = fire_many::<Minutes>(&["k"], "x", many);
    // Each call gives twice as much ahead as the one before.
    let ahead = [
        1.0, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 65.0, 129.0, 257.0, 513.0, 1025.0,
    ];
    assert_eq!(results, [&ahead[..], &[431.0], &[1.0; 10]].concat());
    make!(Overlapping: Sliding = |ctx| ctx.window("w", Sliding::minutes(3, 1), Collect));
    let results = fire_many::<Overlapping>(&["k"], "x", many + 2);
    assert_eq!(results, [&ahead[..], &[431.0], &[1.0; 12]].concat());
    make!(Sessions: Session = |ctx| ctx.window("w", Session::seconds(20), Collect));
    let results = fire_many::<Sessions>(&["k"], "x", many);
    assert_eq!(results.iter().filter(|&&given| given > 1.0).count(), 12);
    make!(Kept: Tumbling = |ctx| {
        let window = ctx.window("w", Tumbling::minutes(1), Collect);
        window.allowed_lateness(Duration::from_secs(3600))
    });
    let results = fire_many::<Kept>(&["k"], "x", many);
    assert_eq!(results.iter().filter(|&&given| given > 1.0).count(), 12);
    assert!(results.len() < 120, "{results:?}");
}

#[test]
fn a_call_that_gives_results_ahead_of_one_key_puts_off_the_others() {
    make!(Minutes: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(1), Collect));
    let many = usize::try_from(RECORDS).unwrap();
    let results = fire_many::<Minutes>(&["a", "b", "c"], "x", many);
    assert!(
        results.iter().all(|&given| given <= 1024.0 + 3.0),
        "{results:?}"
    );
    assert!(results.len() < 30, "{results:?}");
}

#[test]
fn a_call_gives_no_more_ahead_when_its_output_is_large() {
    make!(Minutes: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(1), Collect));
    let value = "x".repeat(1000);
    let many = usize::try_from(RECORDS).unwrap();
    let results = fire_many::<Minutes>(&["k"], &value, many);
    assert!(results.iter().all(|&given| given < 270.0), "{results:?}");
    assert!(results.len() < 30, "{results:?}");
}

#[test]
fn an_operator_with_two_windows_gives_nothing_ahead() {
    struct Two(Window<Tumbling, Collect>, Window<Tumbling, Collect>);
    impl Operator for Two {
        fn open(ctx: &mut OpenContext) -> Result<Self> {
            let mut minutes =
                |name: &str, minutes| ctx.window(name, Tumbling::minutes(minutes), Collect);
            Ok(Self(minutes("one", 1), minutes("two", 2)))
        }
        fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
            self.0.add(record, out, show)?;
            self.1.add(record, out, show)
        }
        fn on_timer(&mut self, timer: Timer<'_>, out: &mut Emitter) -> Result<()> {
            let _ = self.0.on_timer(timer, out, show)? || self.1.on_timer(timer, out, show)?;
            Ok(())
        }
    }
    let mut two = Harness::<Two>::open().unwrap();
    let batch: Vec<_> = (0..200).map(|n| ("k", "x", n * MINUTE)).collect();
    two.process_timed(&batch).unwrap();
    two.end_of_input(0).unwrap();
    let ends: Vec<_> = two.take().iter().map(|emitted| emitted.timestamp).collect();
    assert_eq!(ends.len(), 300);
    assert!(ends.is_sorted());
}

#[test]
fn what_fails_while_results_are_given_ahead_is_reported() {
    struct Fails(Window<Tumbling, Collect>);
    impl Operator for Fails {
        fn open(ctx: &mut OpenContext) -> Result<Self> {
            Ok(Self(ctx.window("w", Tumbling::minutes(1), Collect)))
        }
        fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
            self.0.add(record, out, show)
        }
        fn on_timer(&mut self, timer: Timer<'_>, out: &mut Emitter) -> Result<()> {
            let emit = |span: Span, kept, out: &mut Emitter| match span.start() {
                start if start == 7 * MINUTE => Err(Error::new("no")),
                _ => show(span, kept, out),
            };
            self.0.on_timer(timer, out, emit).map(drop)
        }
    }
    let mut fails = Harness::<Fails>::open().unwrap();
    let batch: Vec<_> = (0..200).map(|n| ("k", "x", n * MINUTE)).collect();
    fails.process_timed(&batch).unwrap();
    // Calls of 1, 2 and 3 results, and one of the windows 6 to 10, which is taken back as a whole.
    assert_eq!(fails.end_of_input(0).unwrap_err().message(), "no");
    assert_eq!(fails.take().len(), 6);
    assert_eq!((fails.entries(), fails.timers().len()), (195, 194));
    // The next one gives what its own timer is for.
    assert_eq!(fails.end_of_input(0).unwrap_err().message(), "no");
    assert_eq!(fails.take().len(), 1);
}

#[test]
fn each_window_of_a_key_has_a_timer_of_its_own() {
    let ends = |fires: &Harness<_>, minutes: &[i64]| {
        let timers: Vec<_> = fires.timers().iter().map(|timer| timer.time).collect();
        let expected: Vec<_> = minutes.iter().map(|end| end * MINUTE - 1).collect();
        assert_eq!(timers, expected);
    };
    make!(Overlapping: Sliding = |ctx| ctx.window("w", Sliding::minutes(3, 1), Collect));
    let mut fires = Harness::<Fires<Overlapping>>::open().unwrap();
    fires.process_timed(&[("k", "x", 10 * MINUTE)]).unwrap();
    ends(&fires, &[11, 12, 13]);
    // They are registered once, whatever the order of the slices is.
    for (time, minutes) in [
        (9, &[10, 11, 12, 13][..]),
        (14, &[10, 11, 12, 13, 15, 16, 17]),
        (12, &[10, 11, 12, 13, 14, 15, 16, 17]),
    ] {
        fires.process_timed(&[("k", "x", time * MINUTE)]).unwrap();
        ends(&fires, minutes);
    }
    fires.set_watermark(12 * MINUTE).unwrap();
    ends(&fires, &[13, 14, 15, 16, 17]);
}

/// Sums numbers, and has no result for 7.
struct NoSeven;

impl Aggregate for NoSeven {
    type Accumulator = u64;
    type Result = u64;

    fn create(&self) -> u64 {
        0
    }

    fn add(&self, to: &mut u64, record: Record<'_>) -> Result<()> {
        *to += record.text()?.parse::<u64>().unwrap();
        Ok(())
    }

    fn merge(&self, into: &mut u64, from: &u64) -> Result<()> {
        *into += from;
        Ok(())
    }

    fn result(&self, of: &u64) -> Result<u64> {
        match of {
            7 => Err(Error::new("7 is no result")),
            of => Ok(*of),
        }
    }
}

struct Sums<A: Assigner>(Window<A, NoSeven>);

trait Declared: Assigner {
    fn declared() -> Self;
}

impl Declared for Tumbling {
    fn declared() -> Self {
        Self::minutes(1)
    }
}

impl Declared for Session {
    fn declared() -> Self {
        Self::seconds(20)
    }
}

impl<A: Declared> Operator for Sums<A> {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        Ok(Self(ctx.window("w", A::declared(), NoSeven)))
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        self.0.add(record, out, |_, _, _| Ok(()))
    }

    fn on_timer(&mut self, timer: Timer<'_>, out: &mut Emitter) -> Result<()> {
        let emit = |_: Span, sum: u64, out: &mut Emitter| out.emit(out.key(), sum);
        self.0.on_timer(timer, out, emit).map(drop)
    }
}

#[test]
fn a_window_without_a_result_fails_alone() {
    fn check<A: Declared>() {
        let mut sums = Harness::<Sums<A>>::open().unwrap();
        let batch: Vec<_> = (0..200).map(|n| ("k", n.to_string(), n * MINUTE)).collect();
        sums.process_timed(&batch).unwrap();
        let error = sums.end_of_input(0).unwrap_err();
        assert_eq!(error.message(), "7 is no result");
        assert_eq!(sums.take().len(), 7);
    }
    check::<Tumbling>();
    check::<Session>();
}

#[test]
fn few_windows_of_each_key_end_in_the_order_of_time() {
    make!(Minutes: Tumbling = |ctx| ctx.window("w", Tumbling::minutes(1), Collect));
    let mut fires = Harness::<Fires<Minutes>>::open().unwrap();
    let batch: Vec<_> = (0..90)
        .flat_map(|n| ["a", "b"].map(|key| (key, "x", n * MINUTE)))
        .collect();
    fires.process_timed(&batch).unwrap();
    fires.end_of_input(0).unwrap();
    let ends: Vec<_> = fires
        .take()
        .iter()
        .map(|emitted| emitted.timestamp)
        .collect();
    assert_eq!(ends.len(), 180);
    assert!(ends.is_sorted());
}
