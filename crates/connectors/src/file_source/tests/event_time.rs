//! Watermarks of files: how far each has been read, and which of them is read next.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use operator::source::Waker;

use super::*;

const OPTIONS: &str =
    "path = \"*\"\nformat = \"json-lines\"\ntimestamp = { field = \"t\", format = \"unix-ms\" }";

const DAY: i64 = 86_400_000;

/// Records with these times, a line each.
fn lines(times: impl IntoIterator<Item = i64>) -> Vec<u8> {
    let lines = times.into_iter().map(|time| format!("{{\"t\":{time}}}\n"));
    lines.collect::<String>().into_bytes()
}

/// A source of files with these times, and its clock.
fn files(
    directory: &TempDir,
    files: &[(&str, Vec<i64>)],
    watermark: &str,
) -> (FileSourceFactory, Arc<AtomicI64>) {
    for (name, times) in files {
        write(directory, name, &lines(times.iter().copied()));
    }
    let options = format!("{OPTIONS}\nwatermark = {{ {watermark} }}");
    let options: FileSourceOptions = read_right(&options);
    let now = Arc::new(AtomicI64::new(0));
    let clock: Clock = {
        let now = Arc::clone(&now);
        Arc::new(move || now.load(Ordering::SeqCst))
    };
    (options.prepare(directory.path(), &clock).ok().unwrap(), now)
}

/// Polls with a batch that has room for `room` records, and returns their times.
fn poll(source: &mut dyn Source, room: usize) -> (Vec<i64>, SourceStatus) {
    let mut batch = Batch::default();
    let filled = Batch::TARGET_RECORDS - room;
    (0..filled).for_each(|_| batch.push(None, b"", 0));
    let status = source.poll(&mut batch).unwrap();
    (batch.timestamps[filled..].to_vec(), status)
}

#[test]
fn c62_files_whose_times_lie_days_apart_are_not_late_for_each_other() {
    let directory = TempDir::new().unwrap();
    let day = |day: i64| -> Vec<i64> { (0..10).map(|it| day * DAY + it * 1000).collect() };
    // By name the later one comes first.
    let times = [
        ("a", day(9)),
        ("b", day(2)),
        ("c", day(5)),
        ("d", Vec::new()),
    ];
    let (factory, now) = files(&directory, &times, "out-of-orderness = \"5s\"");
    let mut source = create(&factory, None);
    let mut watermark = i64::MIN;
    let mut seen = Vec::new();
    loop {
        now.fetch_add(200, Ordering::SeqCst);
        let (times, status) = poll(&mut *source, 1);
        let is_at_end = times.is_empty();
        for time in times {
            assert!(time > watermark, "{time} is late at {watermark}");
            seen.push(time);
        }
        let next = source.watermark().unwrap_or(i64::MIN);
        assert!(next >= watermark);
        watermark = next;
        let expected = match seen.len() {
            // Held by the file that is not begun, and then by what is read of it …
            ..=10 => 2 * DAY,
            20 if is_at_end => 5 * DAY,
            11..=20 => 2 * DAY + (seen.len() as i64 - 11) * 1000,
            // … and by nothing after the end of the last one.
            _ => 5 * DAY + (seen.len() as i64 - 21) * 1000,
        };
        if status == SourceStatus::Ended {
            break;
        }
        assert_eq!(watermark, expected - 5_001, "after {}", seen.len());
    }
    assert_eq!(seen.len(), 30);
}

#[test]
fn c62_the_watermark_of_a_file_that_ends_goes_before_the_records_of_the_next_one() {
    let directory = TempDir::new().unwrap();
    let times = [("a", vec![1_000, 2_000]), ("b", vec![90_000, 500])];
    let (factory, _) = files(&directory, &times, "out-of-orderness = \"1s\"");
    let mut source = create(&factory, None);
    // There is room for all of them, and the clock stands still.
    let room = Batch::TARGET_RECORDS;
    let (first, status) = poll(&mut *source, room);
    assert_eq!((first, status), (vec![1_000, 2_000], SourceStatus::More));
    assert_eq!(source.watermark(), Some(88_999));
    // So this record of 500 ms is late in every run.
    let (second, _) = poll(&mut *source, room);
    assert_eq!(second, [90_000, 500]);
}

#[test]
fn the_watermark_is_a_maximum_over_the_batch_and_waits_for_its_interval() {
    let directory = TempDir::new().unwrap();
    let times = [("a", vec![7_000, 9_000, 8_000, 1_000, 20_000, 30_000])];
    let (factory, now) = files(&directory, &times, "out-of-orderness = \"1s\"");
    let mut source = create(&factory, None);
    poll(&mut *source, 4);
    assert_eq!(source.watermark(), Some(7_999));
    now.store(199, Ordering::SeqCst);
    poll(&mut *source, 1);
    assert_eq!(source.watermark(), Some(7_999));
    now.store(200, Ordering::SeqCst);
    poll(&mut *source, 1);
    assert_eq!(source.watermark(), Some(28_999));
}

#[test]
fn the_position_has_the_highest_timestamp_of_each_split() {
    let directory = TempDir::new().unwrap();
    let times = [("a", vec![9_000, 5_000, 6_000]), ("b", vec![20_000])];
    let (factory, _) = files(&directory, &times, "out-of-orderness = \"1s\"");
    let mut source = create(&factory, None);
    poll(&mut *source, 2);
    let parts = through_json(&source.snapshot().unwrap());
    let part = parts.iter().find_map(|part| part.get("reading")).unwrap();
    assert_eq!(part["highest-timestamp"], 9_000);
    // The next one does not begin lower, though all that it reads itself is lower.
    let mut restored = create(&factory, Some(&parts));
    poll(&mut *restored, 1);
    assert_eq!(restored.watermark(), Some(7_999));
    // A position of a version that kept none is read; its split holds the watermark at what comes next.
    let mut older = parts.clone();
    for part in &mut older {
        if let Some(split) = part.get_mut("reading") {
            split.as_object_mut().unwrap().remove("highest-timestamp");
        }
    }
    let mut restored = create(&factory, Some(&older));
    poll(&mut *restored, 1);
    assert_eq!(restored.watermark(), Some(4_999));
    // Without watermarks nothing is recorded of times.
    let plain = prepare(&directory, OPTIONS).unwrap();
    let mut source = create(&plain, Some(&older));
    poll(&mut *source, 1);
    let parts = source.snapshot().unwrap();
    assert!(!format!("{parts:?}").contains("highest"), "{parts:?}");
}

#[test]
fn a_first_record_that_cannot_be_read_fails_when_its_turn_comes() {
    let directory = TempDir::new().unwrap();
    let (factory, _) = files(
        &directory,
        &[("a", vec![9_000])],
        "out-of-orderness = \"1s\"",
    );
    let mut source = create(&factory, None);
    assert_eq!(poll(&mut *source, 1).0, [9_000]);
    let known = source.watermark();
    write(&directory, "b", b"\n\n{\"x\":1}\n");
    let (factory, _) = files(&directory, &[], "out-of-orderness = \"1s\"");
    let mut source = create(&factory, None);
    assert_eq!(poll(&mut *source, 1).0, [9_000]);
    assert_eq!(source.watermark(), known, "it has no records");
    // The end of the first one is a poll of its own.
    assert_eq!(poll(&mut *source, 1), (Vec::new(), SourceStatus::More));
    let mut batch = Batch::default();
    let error = source.poll(&mut batch).unwrap_err();
    assert_eq!(error_chain(&*error), "file `b`, line 3: has no field `t`");
}

#[test]
fn c62_the_first_record_of_a_file_holds_the_watermark_also_behind_a_bad_line() {
    let directory = TempDir::new().unwrap();
    let watermark = |text: &[u8]| {
        write(&directory, "b", text);
        let times = [("a", vec![9_000])];
        let (factory, _) = files(&directory, &times, "out-of-orderness = \"1s\"");
        let mut source = create(&factory, None);
        source.leave_out_unreadable();
        assert_eq!(poll(&mut *source, 1).0, [9_000]);
        source.watermark()
    };
    let held = watermark(b"{\"t\":5000}\n");
    assert!(held < watermark(b"{\"t\":9000}\n"));
    assert_eq!(watermark(b"{\"x\":1}\n]\n{\"t\":5000}\n"), held);
}

#[test]
fn c77_a_file_that_runs_ahead_waits_for_the_slowest_one() {
    let directory = TempDir::new().unwrap();
    let second = |from: i64, to: i64| -> Vec<i64> { (from..to).map(|it| it * 1000).collect() };
    // `c` begins where `a` is halfway; `d` is alone at the end.
    let all = [
        ("a", second(0, 200)),
        ("b", second(0, 150)),
        ("c", second(100, 300)),
        ("d", second(500, 600)),
    ];
    let (factory, _) = files(
        &directory,
        &all,
        "out-of-orderness = \"0s\", max-drift = \"10s\"",
    );
    // Also when it goes on from positions.
    for restored_every in [usize::MAX, 7] {
        let mut source = create(&factory, None);
        let mut left: Vec<i64> = all.iter().flat_map(|(_, times)| times.clone()).collect();
        left.sort_unstable();
        let mut polls = 0;
        loop {
            let (times, status) = poll(&mut *source, 4);
            assert!(matches!(status, SourceStatus::More | SourceStatus::Ended));
            for time in &times {
                // Drift, and a batch: what is read at once is not looked at in between.
                assert!(
                    *time <= left[0] + 10_000 + 4 * 1_000,
                    "{time} before {}",
                    left[0]
                );
                let at = left.binary_search(time).expect("a record comes once");
                left.remove(at);
            }
            polls += 1;
            if status == SourceStatus::Ended {
                break;
            }
            if polls % restored_every == 0 {
                let parts = through_json(&source.snapshot().unwrap());
                source = create(&factory, Some(&parts));
            }
        }
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn more_files_than_are_kept_open_may_wait_for_each_other() {
    let directory = TempDir::new().unwrap();
    let names: Vec<String> = (0..ASIDE + 20).map(|it| format!("{it:03}")).collect();
    let all: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), vec![0, 10_000, 20_000, 30_000]))
        .collect();
    let (factory, _) = files(
        &directory,
        &all,
        "out-of-orderness = \"0s\", max-drift = \"1s\"",
    );
    let mut source = create(&factory, None);
    let mut seen: Vec<i64> = Vec::new();
    loop {
        let (times, status) = poll(&mut *source, 1);
        seen.extend(times);
        // Who is to blame for a record is known, in whatever order files are read.
        let origin = source.origin(0).unwrap();
        assert!(origin.starts_with("line "), "{origin}");
        if status == SourceStatus::Ended {
            break;
        }
    }
    assert_eq!(seen.len(), 4 * all.len());
    assert!(
        seen.windows(2).all(|pair| pair[1] >= pair[0] - 10_000),
        "each file is at most one record ahead"
    );
}

#[test]
fn c77_a_subtask_waits_for_the_others_and_is_woken() {
    let directory = TempDir::new().unwrap();
    let second = |from: i64, to: i64| -> Vec<i64> { (from..to).map(|it| it * 1000).collect() };
    let all = [("a", second(0, 100)), ("b", second(0, 100))];
    let (factory, _) = files(
        &directory,
        &all,
        "out-of-orderness = \"0s\", max-drift = \"10s\"",
    );
    let woken = Arc::new(AtomicU32::new(0));
    let mut sources: Vec<_> = (0..2)
        .map(|subtask| {
            let woken = Arc::clone(&woken);
            let waker = Waker::new(move || {
                woken.fetch_add(1, Ordering::SeqCst);
            });
            let context = SubtaskContext {
                waker,
                ..context(subtask, 2)
            };
            factory.create(&context, None).unwrap()
        })
        .collect();
    let quick = &mut sources[0];
    let mut last = 0;
    loop {
        let (times, status) = poll(&mut **quick, 1);
        if let SourceStatus::Idle { .. } = status {
            break;
        }
        last = times[0];
    }
    assert_eq!(last, 11_000, "the first that is ahead by more");
    assert!(!quick.is_idle());
    assert_eq!(woken.load(Ordering::SeqCst), 0);
    // The other one moves on, and ends.
    assert_eq!(poll(&mut *sources[1], 1).0, [0]);
    assert_eq!(poll(&mut *sources[1], 1).0, [1_000]);
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert_eq!(poll(&mut *sources[0], 1).0, [12_000]);
    // Neither gets far without the other, so they go by turns until both have ended.
    let mut read = [0, 0];
    let mut ended = [false, false];
    while ended != [true, true] {
        for (subtask, source) in sources.iter_mut().enumerate() {
            let (times, status) = poll(&mut **source, 50);
            read[subtask] += times.len();
            ended[subtask] |= status == SourceStatus::Ended;
        }
    }
    assert_eq!(read, [100 - 13, 100 - 2]);
    assert!(woken.load(Ordering::SeqCst) >= 2);
}
