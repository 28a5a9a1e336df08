use super::*;
use crate::bad_records::{self, Bad, BadRecordsResult};
use crate::neighbours::NeighbourResult;
use crate::suite::{ChangedResult, LatencyResult, LostResult, RestoreResult};
use crate::takeover::TakeoverResult;
use crate::targets;
use crate::windows::{WindowsResult, Work};

fn run(records: u64, peak_kib: u64, pauses: &[u64]) -> Measured {
    let taken = |pause: &u64| Taken {
        id: 1,
        ms: 30,
        bytes: 26_000,
        phases: Phases {
            start_delay: 100,
            alignment: 200,
            pause: *pause,
            upload: 20_000,
            metadata: 5_000,
        },
        changed: Some(1000),
    };
    Measured {
        records,
        wall_s: 2.0,
        cpu_s: 1.0,
        peak_kib,
        checkpoints: pauses.iter().map(taken).collect(),
        longest_steps: Spread::of([4000.0, 6000.0]),
        steps: Spread::of([50.0]),
        ..Measured::default()
    }
}

fn case(case: Case, wasm: Vec<Measured>) -> CaseResult {
    CaseResult {
        case,
        native: wasm.clone(),
        limit: Vec::new(),
        wasm,
    }
}

fn results() -> Results {
    const MILLION: u64 = 1_000_000;
    let few = Case::new(Workload::Count, 1000);
    let many = Case::new(Workload::Count, MILLION);
    let every = many.clone().every(1000);
    Results {
        cases: vec![
            case(few, vec![run(16 * MILLION, 10_000, &[])]),
            case(
                many.clone(),
                vec![
                    run(10 * MILLION, 60_000, &[]),
                    run(20 * MILLION, 60_000, &[]),
                ],
            ),
            case(
                every.clone(),
                vec![
                    run(9 * MILLION, 110_000, &[50]),
                    run(19 * MILLION, 110_000, &[70]),
                ],
            ),
        ],
        latencies: vec![LatencyResult {
            case: many,
            rate: 1e6,
            microseconds: Spread::of([1000.0]).into_iter().collect(),
        }],
        changed: vec![ChangedResult {
            case: every.clone(),
            checkpoints: run(1, 1, &[1]).checkpoints,
        }],
        lost: vec![LostResult {
            case: every.clone(),
            rounds: vec![vec![6.0, 5.0, -4.0], vec![10.0]],
        }],
        pauses: vec![PauseResult {
            case: every.clone(),
            rounds: vec![run(1, 1, &[40, 1500]), run(1, 1, &[60])],
        }],
        restores: vec![RestoreResult {
            case: every,
            seconds: vec![1.0, 3.0],
            bare_seconds: vec![1.0, 1.0],
            peak_kib: 1024,
        }],
        starts: vec![(20.0, 10_240)],
        takeover: Some(TakeoverResult {
            killed_ms: vec![60.0, 510.0],
            silent_ms: vec![1500.0, 2040.0],
            lease_ms: 2000.0,
        }),
        neighbours: vec![NeighbourResult {
            misdeed: "loop".to_owned(),
            speed: vec![1.0, 0.9],
            paced: vec![1.0],
            bad_peak_kib: 20_480,
        }],
        windows: [
            (Work::Nothing, 40),
            (Work::Count, 10),
            (Work::Tumbling, 4),
            (Work::Sliding, 1),
            (Work::Timers, 2),
        ]
        .map(|(work, millions)| WindowsResult {
            work,
            runs: vec![run(millions * MILLION, 60_000, &[])],
        })
        .into(),
        bad_records: [
            (bad_records::Work::None, Bad::None, 40),
            (bad_records::Work::None, Bad::Error, 20),
            (bad_records::Work::None, Bad::Trap, 2),
            (bad_records::Work::Orders, Bad::None, 20),
            (bad_records::Work::Orders, Bad::Error, 12),
            (bad_records::Work::Orders, Bad::Trap, 3),
        ]
        .map(|(work, bad, millions)| BadRecordsResult {
            work,
            bad,
            runs: vec![run(millions * MILLION, 60_000, &[])],
        })
        .into(),
    }
}

#[test]
fn every_row_of_a_table_has_a_cell_for_every_column() {
    let text = text(&results()).unwrap();
    let mut columns = None;
    for line in text.lines() {
        if !line.starts_with('|') {
            columns = None;
            continue;
        }
        let cells = line.matches('|').count();
        assert_eq!(*columns.get_or_insert(cells), cells, "{line}");
    }
    assert!(!text.contains("NaN"), "{text}");
    let bad = "does `loop`: 0.95 (0.90–1.00) × their speed alone";
    assert!(text.contains(bad), "{text}");
    for row in [
        "| hands on | errors | 10.00 | 0.500 × |",
        "| reads JSON | errors | 6.00 | 0.600 × |",
    ] {
        assert!(text.contains(row), "{text}");
    }
}

#[test]
fn figures_are_those_of_the_rounds() {
    let results = results();
    assert_eq!(bytes_per_entry(&results, &results.cases[1]), 51.2);
    let targets = targets::all(&results);
    let target = |what: &str| {
        let found = targets.iter().find(|target| target.what.contains(what));
        let target = found.unwrap_or_else(|| panic!("there is no target for {what}"));
        (target.figure, target.ends, target.holds)
    };
    let (lost, ends, holds) = target("all of 1 M keys changing");
    assert!((lost - 7.5).abs() < 1e-9, "{lost}");
    let (low, high) = ends.unwrap();
    assert!((low - 5.0).abs() < 1e-9 && (high - 10.0).abs() < 1e-9);
    assert!(holds);
    // The slowest of three is the 99th percentile.
    assert_eq!(target("snapshot pause, 1 M keys"), (1.5, None, false));
    assert_eq!(target("to a bare one"), (2.0, Some((1.0, 3.0)), true));
    assert_eq!(target("whose lock tells"), (510.0, None, false));
    assert_eq!(target("beyond its lease time"), (40.0, None, true));
    assert_eq!(target("tumbling count"), (0.4, None, true));
    assert_eq!(target("sliding count"), (0.1, None, false));
    // Less 25 ns each: 475 to 75.
    let (timer, _, holds) = target("a timer registered and fired");
    assert!((timer - 475.0 / 75.0).abs() < 1e-9 && !holds, "{timer}");
    assert!(target("10 M keys, a checkpoint every second").0.is_nan());
}

#[test]
fn the_middle_of_two_is_between_them() {
    assert_eq!(median([3.0, 1.0]), 2.0);
    assert_eq!(median([5.0, 1.0, 2.0]), 2.0);
    assert!(median([]).is_nan());
    assert_eq!(spread(&[2.0, 1.0], 1), "1.5 (1.0–2.0)");
    assert_eq!(spread(&[], 1), "–");
}
