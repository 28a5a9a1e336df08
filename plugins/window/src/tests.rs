use super::*;
use highwater::ErrorKind;
use highwater::testing::{Harness, Setup};

const MINUTE: i64 = 60_000;

fn setup(config: &str) -> Setup<Windowed> {
    Harness::setup()
        .rows(["tail", "delay", "distance"])
        .config(config)
}

fn open(config: &str) -> Harness<Windowed> {
    setup(config).open().unwrap()
}

/// Adds flights: the minute of each, its carrier, and its value.
fn fly(windows: &mut Harness<Windowed>, flights: &[(i64, &str, &str)]) {
    let flights: Vec<_> = flights
        .iter()
        .map(|(minute, carrier, flight)| (*carrier, *flight, minute * MINUTE))
        .collect();
    windows.process_timed(&flights).unwrap();
}

const FLIGHTS: [(i64, &str, &str); 6] = [
    (1, "UA", "N1,4,100"),
    (5, "AA", "N2,NA,200"),
    (3, "UA", "N3,-2,150.5"),
    (9, "UA", "N1,,"),
    (12, "UA", "N3,30,7"),
    (31, "AA", "N2,1,2"),
];

fn check(config: &str, expect: &[&str]) {
    let mut windows = open(config);
    fly(&mut windows, &FLIGHTS[..3]);
    windows.restart().unwrap();
    fly(&mut windows, &FLIGHTS[3..]);
    windows.end_of_input(0).unwrap();
    assert_eq!(windows.take_rows(), expect, "{config}");
    assert_eq!(windows.entries(), 0, "{config}");
}

#[test]
fn tumbling_windows_have_every_aggregate() {
    check(
        r#"{"window": "tumbling", "size": "10min", "missing": "NA", "aggregates":
            ["count", "sum(delay)", "sum(distance)", "min(delay)", "max(distance)", "mean(delay)", "first(tail)",
             "last(tail) as last", "distinct(tail)", "quantile(delay, 0.5)"]}"#,
        &[
            "AA,0,600000,1,,200,,200,,N2,N2,1,",
            "UA,0,600000,3,2,250.5,-2,150.5,1,N1,N1,2,4",
            "UA,600000,1200000,1,30,7,30,7,30,N3,N3,1,30",
            "AA,1800000,2400000,1,1,2,1,2,1,N2,N2,1,1",
        ],
    );
}

#[test]
fn sliding_cumulative_and_session_windows_are_chosen() {
    check(
        r#"{"window": "sliding", "size": "20min", "slide": "10min", "aggregates": ["count"]}"#,
        &[
            "AA,-600000,600000,1",
            "UA,-600000,600000,3",
            "AA,0,1200000,1",
            "UA,0,1200000,4",
            "UA,600000,1800000,1",
            "AA,1200000,2400000,1",
            "AA,1800000,3000000,1",
        ],
    );
    check(
        r#"{"window": "cumulative", "size": "20min", "step": "10min", "aggregates": ["distinct(tail)", "quantile(distance, 1)"]}"#,
        &[
            "AA,0,600000,1,200",
            "UA,0,600000,2,150.5",
            "AA,0,1200000,1,200",
            "UA,0,1200000,2,150.5",
            "AA,1200000,2400000,1,2",
        ],
    );
    check(
        r#"{"window": "session", "gap": "6min", "aggregates": ["count", "first(tail)"], "firing": true}"#,
        &[
            "AA,300000,660000,1,N2,on-time",
            "UA,60000,1080000,4,N1,on-time",
            "AA,1860000,2220000,1,N2,on-time",
        ],
    );
    check(
        r#"{"window": "tumbling", "size": "1h", "offset": "50min", "aggregates": ["count"]}"#,
        &["AA,-600000,3000000,2", "UA,-600000,3000000,4"],
    );
}

#[test]
fn late_and_early_results_are_as_configured() {
    let mut windows = open(
        r#"{"window": "tumbling", "size": "10min", "aggregates": ["count"], "allowed-lateness": "5min", "late": "output",
            "early-after": 2, "early-every": "1s", "firing": true}"#,
    );
    assert_eq!(windows.outputs(), ["out", "late"]);
    fly(&mut windows, &FLIGHTS[..4]);
    assert_eq!(windows.take_rows(), ["UA,0,600000,2,early"]);
    windows.set_time(1000).unwrap();
    windows.set_watermark(10 * MINUTE).unwrap();
    fly(&mut windows, &FLIGHTS[1..2]);
    windows.set_watermark(15 * MINUTE).unwrap();
    fly(&mut windows, &FLIGHTS[1..2]);
    assert_eq!(
        windows.take_rows(),
        [
            "AA,0,600000,1,early",
            "UA,0,600000,3,early",
            "AA,0,600000,1,on-time",
            "UA,0,600000,3,on-time",
            "AA,0,600000,2,late",
            "AA,N2,NA,200"
        ]
    );
    assert_eq!(windows.entries(), 0);
    let mut windows = open(r#"{"window": "tumbling", "size": "10min", "aggregates": ["count"]}"#);
    windows.set_watermark(10 * MINUTE).unwrap();
    fly(&mut windows, &FLIGHTS[..1]);
    assert_eq!(windows.take_metric("late-records"), [1.0]);
}

#[test]
fn sums_of_whole_numbers_are_exact_and_estimates_are_close() {
    let mut windows = open(
        r#"{"window": "sliding", "size": "10min", "slide": "1min", "aggregates":
            ["sum(distance)", "max(distance)", "distinct(tail)", "quantile(delay, 0.9)", "quantile(delay, 0)"]}"#,
    );
    let flights: Vec<_> = (0..20_000_i64)
        .map(|n| {
            (
                "UA",
                format!("N{},{},{}", n % 5000, n % 1000, i64::MAX - 1),
                n % 10 * MINUTE,
            )
        })
        .collect();
    for batch in flights.chunks(1000) {
        windows.process_timed(batch).unwrap();
    }
    windows.set_watermark(10 * MINUTE - 1).unwrap();
    let rows = windows.take_rows();
    let last: Vec<&str> = rows.last().unwrap().split(',').collect();
    let sum = i128::from(i64::MAX - 1) * 20_000;
    assert_eq!(
        last[..5],
        [
            "UA",
            "0",
            "600000",
            &sum.to_string(),
            &(i64::MAX - 1).to_string()
        ]
    );
    let (distinct, quantile): (f64, f64) = (last[5].parse().unwrap(), last[6].parse().unwrap());
    assert!((distinct / 5000.0 - 1.0).abs() < 0.06, "{distinct} of 5000");
    assert!((quantile - 900.0).abs() < 10.0, "{quantile} for 900");
    assert_eq!(last[7], "0");
}

#[test]
fn wrong_configurations_are_refused_with_the_key() {
    let tumbling = |rest: &str| format!(r#"{{"window": "tumbling", "size": "1h", {rest}}}"#);
    let with = |rest: &str| format!(r#"{{"aggregates": ["count"], {rest}}}"#);
    for (config, expected) in [
        ("{}".to_owned(), "config: missing field `window`"),
        (
            with(r#""window": "hopping""#),
            "config: unknown variant `hopping`, expected one of `tumbling`",
        ),
        (with(r#""window": "tumbling""#), "config: `size` is missing"),
        (
            with(r#""window": "tumbling", "size": "0s""#),
            "config: `size` is `0s`: it must be at least 1ms",
        ),
        (
            with(r#""window": "tumbling", "size": "10us""#),
            "config: `size` is `10us`: it must be at least 1ms",
        ),
        (
            with(r#""window": "tumbling", "size": "soon""#),
            "config: `size` is `soon`, which is no length of time",
        ),
        (
            with(r#""window": "tumbling", "size": "5000years""#),
            "config: `size` is `5000years`, which is too long",
        ),
        (
            with(r#""window": "tumbling", "size": 10"#),
            "config: `size` is `10`, which has no unit: write it like `size = \"10s\"`",
        ),
        (
            with(r#""window": "tumbling", "size": [1]"#),
            "config: expected a length of time like \"15min\"",
        ),
        (
            with(r#""window": "tumbling", "size": "1ms 500us""#),
            "config: `size` is `1ms 500us`: it must be a whole number of milliseconds",
        ),
        (
            with(r#""window": "tumbling", "size": "1h", "slide": "1m""#),
            "config: `slide` means nothing with `window = \"tumbling\"`, which has `size`",
        ),
        (
            with(r#""window": "sliding", "size": "1h""#),
            "config: `slide` is missing",
        ),
        (
            with(r#""window": "sliding", "size": "1h", "slide": "0s""#),
            "config: `slide` is `0s`",
        ),
        (
            with(r#""window": "sliding", "size": "1h", "slide": "7ms""#),
            "window `windows`: a window of 3600000 ms is made of 3600000 slices",
        ),
        (
            with(r#""window": "cumulative", "size": "1h", "step": "7min""#),
            "config: `size` must be a multiple of `step`",
        ),
        (
            with(r#""window": "session", "gap": "0s""#),
            "config: `gap` is `0s`",
        ),
        (
            with(r#""window": "session", "gap": "1s", "offset": "1s""#),
            "config: `offset` means nothing",
        ),
        (
            tumbling(r#""aggregates": []"#),
            "config: `aggregates` is empty",
        ),
        (
            tumbling(r#""aggregates": ["median(delay)"]"#),
            "config: `aggregates`: `median(delay)`: there is no aggregate `median`; there are `count`",
        ),
        (
            tumbling(r#""aggregates": ["sum"]"#),
            "config: `aggregates`: `sum`: it needs a column in parentheses",
        ),
        (
            tumbling(r#""aggregates": ["sum(delay"]"#),
            "config: `aggregates`: `sum(delay`: the parenthesis is not closed",
        ),
        (
            tumbling(r#""aggregates": ["count(delay)"]"#),
            "config: `aggregates`: `count(delay)`: `count` counts records",
        ),
        (
            tumbling(r#""aggregates": ["quantile(delay)"]"#),
            "config: `aggregates`: `quantile(delay)`: it needs a column and a number",
        ),
        (
            tumbling(r#""aggregates": ["quantile(delay, 95)"]"#),
            "config: `aggregates`: `quantile(delay, 95)`: `95` is not a number from 0 to 1",
        ),
        (
            tumbling(r#""aggregates": ["sum(dely)"]"#),
            "config: `aggregates`: `sum(dely)`: `in` has no column `dely`; it has `tail`, `delay`, `distance`",
        ),
        (
            tumbling(r#""aggregates": ["count", "count"]"#),
            "config: two columns of the result are called `count`",
        ),
        (
            tumbling(r#""aggregates": ["count as "]"#),
            "config: `aggregates`: `count as `: a name is missing after `as`",
        ),
        (
            tumbling(r#""aggregates": ["count"], "key-columns": ["count"]"#),
            "config: two columns of the result are called `count`",
        ),
        (
            tumbling(r#""aggregates": ["count"], "allowed-lateness": "-1s""#),
            "config: `allowed-lateness` is `-1s`",
        ),
        (
            tumbling(r#""aggregates": ["count"], "allowed-lateness": "500us""#),
            "config: `allowed-lateness` is `500us`: it must be at least 1ms",
        ),
        (
            tumbling(r#""aggregates": ["count"], "late": "keep""#),
            "config: unknown variant `keep`",
        ),
        (
            tumbling(r#""aggregates": ["count"], "early-every": "0s""#),
            "config: `early-every` is `0s`",
        ),
        (
            tumbling(r#""aggregates": ["count"], "early-after": 0"#),
            "config: `early-after` is 0",
        ),
        (
            tumbling(r#""aggregates": ["count"], "group-by": ["tail"]"#),
            "config: unknown field `group-by`",
        ),
    ] {
        let error = setup(&config).open().unwrap_err();
        assert!(error.message().starts_with(expected), "{config}: {error}");
        assert_eq!(error.kind(), ErrorKind::Config, "{config}");
    }
}

#[test]
fn a_value_that_is_no_number_is_an_error_at_its_record() {
    let mut windows = open(r#"{"window": "tumbling", "size": "1h", "aggregates": ["max(delay)"]}"#);
    let error = windows
        .process_timed(&[("UA", "N1,4,1", 0), ("UA", "N1,NA,1", 0)])
        .unwrap_err();
    assert_eq!(
        error.message(),
        "column `delay`: `NA` is not a number; a text that stands for a missing value is named in `missing`"
    );
    assert_eq!(error.record(), Some(1));
}

#[test]
fn state_of_other_aggregates_has_another_schema() {
    let schema = |aggregates: &str| {
        let config =
            format!(r#"{{"window": "session", "gap": "1s", "aggregates": [{aggregates}]}}"#);
        open(&config).states()[0].1.to_owned()
    };
    assert_eq!(
        schema(r#""count as n", "quantile(delay, 0.5)""#),
        "session_1000_newest_first[(first:svarint,more:(last:i64?,late:bool,\
         early:(records:u32,changed:bool,due:i64?)?)?,\
         aggregate:(all:u8,count:(kind:u8,kept:varint),quantile#28#0#2e#5#29#_delay:(kind:u8,kept:bytes)))]"
    );
    assert_ne!(schema(r#""sum(delay)""#), schema(r#""sum(distance)""#));
}
