//! Many checkpoints, one after the other: memory, open files, threads and files on disk do not grow.
//!
//! Method: a job whose state is written as deltas and rebased all the time, looked at from outside
//! (`/proc`, the directory) as checkpoints are completed. The start is left out; of the rest the first
//! third is compared with the last, so that a leak of one per checkpoint shows as growth and a cycle of
//! deltas does not. `cargo xtask soak` does the same for ten minutes, at 24 checkpoints a second.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::host;
use crate::jobs;
use crate::plugins::root;
use crate::scene::{Scene, all_files};

/// How many checkpoints are enough to see a leak of one object each.
const CHECKPOINTS: usize = 300;

/// In a long run, and how often it is looked at: about once a second.
const CHECKPOINTS_PER_SECOND: usize = 24;

/// Files that writers and the cleaner may have open at a moment, above the least that was seen: each
/// writer has a file and its directory, the cleaner a directory, and a look into the job's directory.
const TRANSIENT_FILES: u64 = 12;

/// What a process is at a moment.
struct Sample {
    checkpoint: u64,
    seconds: f64,
    resident_kib: u64,
    open_files: u64,
    threads: u64,
    stored_files: u64,
}

impl Sample {
    fn take(checkpoint: u64, begun: Instant, id: u32, checkpoints: &Path) -> Self {
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it is running");
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number
                .and_then(|number| number.parse().ok())
                .expect("a number")
        };
        let open_files = fs::read_dir(format!("/proc/{id}/fd")).expect("it is running");
        Self {
            checkpoint,
            seconds: begun.elapsed().as_secs_f64(),
            resident_kib: field("VmRSS:"),
            open_files: open_files.count() as u64,
            threads: field("Threads:"),
            stored_files: all_files(checkpoints).len() as u64,
        }
    }
}

/// The least, the middle and the most of what samples have.
fn spread(samples: &[Sample], what: impl Fn(&Sample) -> u64) -> (u64, u64, u64) {
    let mut numbers: Vec<u64> = samples.iter().map(what).collect();
    numbers.sort_unstable();
    (
        numbers[0],
        numbers[numbers.len() / 2],
        numbers[numbers.len() - 1],
    )
}

fn table(samples: &[Sample]) -> String {
    let mut text = "checkpoint,seconds,resident_kib,open_files,threads,stored_files\n".to_owned();
    for sample in samples {
        let Sample {
            checkpoint,
            seconds,
            resident_kib,
            open_files,
            threads,
            stored_files,
        } = sample;
        writeln!(
            text,
            "{checkpoint},{seconds:.1},{resident_kib},{open_files},{threads},{stored_files}"
        )
        .expect("a string takes all");
    }
    text
}

/// Fails if anything grew between the first and the last third of the samples.
fn assert_no_growth(samples: &[Sample]) {
    let third = samples.len() / 3;
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    let mut summary = String::new();
    let mut compare = |name: &str, what: &dyn Fn(&Sample) -> u64| {
        let (first, last) = (spread(first, what), spread(last, what));
        writeln!(
            summary,
            "{name:<13} first third {first:?}, last third {last:?} (least, middle, most)"
        )
        .expect("a string takes all");
        (first, last)
    };
    let resident = compare("resident KiB", &|sample| sample.resident_kib);
    let open = compare("open files", &|sample| sample.open_files);
    let threads = compare("threads", &|sample| sample.threads);
    let stored = compare("stored files", &|sample| sample.stored_files);
    println!("{summary}");

    // The storage has as many as have ever been busy at once: writers, cleaner, lease.
    assert!(threads.1.2 <= threads.0.2 + 2, "threads leak:\n{summary}");
    assert!(open.1.0 <= open.0.0, "open files leak:\n{summary}");
    assert!(
        open.1.2 <= open.0.0 + TRANSIENT_FILES,
        "open files leak:\n{summary}"
    );
    // Chains of deltas are as long as deltas are small, which depends on the machine's pace.
    assert!(
        stored.1.2 <= 2 * stored.0.2 + 8,
        "stored files grow:\n{summary}"
    );
    // A tenth, and what an allocator may keep.
    let most = resident.0.1 + resident.0.1 / 10 + 4096;
    assert!(resident.1.1 <= most, "memory grows:\n{summary}");
}

/// Runs the job for this many checkpoints at this interval, and looks at it at every `every`-th.
fn soak(checkpoints: usize, interval: &str, every: usize) -> Vec<Sample> {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("soak", interval));
    let options = [
        [
            "-D",
            "source.numbers.keys=20000",
            "-D",
            "source.numbers.rate=20000",
        ]
        .as_slice(),
        // Every delta is a file.
        &["-D", "checkpoint.inline-threshold=0B"],
    ]
    .concat();
    let arguments = [
        ["run", "job.toml", "--json", "-p", "2"].as_slice(),
        &options,
    ]
    .concat();
    let mut running = host::start(scene.path(), &arguments);
    let begun = Instant::now();
    let mut samples = Vec::new();
    for number in 1..=checkpoints {
        let id = running.event("checkpoint-completed")["id"]
            .as_u64()
            .expect("a number");
        if number % every == 0 {
            running.is_at_work();
            samples.push(Sample::take(
                id,
                begun,
                running.id(),
                &scene.at("checkpoints"),
            ));
        }
    }
    let ended = running.kill().expect("an endless job is still running");
    assert!(
        !ended.stdout.contains("checkpoint-failed"),
        "{}",
        ended.transcript()
    );
    samples
}

#[test]
fn many_checkpoints_leave_no_growth() {
    let minutes = std::env::var("HIGHWATER_SOAK_MINUTES").ok();
    let Some(minutes) = minutes else {
        let samples = soak(CHECKPOINTS, "10ms", 1);
        return assert_no_growth(&samples[samples.len() / 10..]);
    };
    let minutes: usize = minutes
        .parse()
        .expect("HIGHWATER_SOAK_MINUTES is a whole number");
    let checkpoints = minutes * 60 * CHECKPOINTS_PER_SECOND;
    let samples = soak(checkpoints, "41ms", CHECKPOINTS_PER_SECOND);
    let file = root().join("target/soak.csv");
    fs::write(&file, table(&samples)).expect("a file can be written");
    let seconds = samples.last().expect("it was looked at").seconds;
    println!(
        "{checkpoints} checkpoints in {seconds:.0} s, {:.1} a second; every look at it: {}",
        checkpoints as f64 / seconds,
        file.display()
    );
    assert_no_growth(&samples[samples.len() / 10..]);
}
