//! Checkpoints that fail, each for a reason that is really there: a state beyond the limit, a name that
//! is taken, a full disk, a storage that is gone, read-only or stalled. Conformance 7–9, 12, 13, 21, 24,
//! 26, 31.
//!
//! Method: the host is stopped (SIGSTOP) while something is put in its way, so that which checkpoint
//! meets it does not depend on how fast anything is.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::host::{self, Ended, Running};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{Scene, all_files};

/// The first failure is the last.
const NO_RESTART: [&str; 2] = ["-D", "restart.attempts=0"];

/// What stands where metadata is to be written.
const OBSTACLE: &str = "somebody else's";

/// Numbers of completed and failed checkpoints, as `(id, completed)`, from `first` on.
fn history(ended: &Ended, first: u64) -> Vec<(u64, bool)> {
    let ends = ended.events().into_iter().filter_map(|event| {
        let completed = match event["event"].as_str()? {
            "checkpoint-completed" => true,
            "checkpoint-failed" => false,
            _ => return None,
        };
        Some((event["id"].as_u64()?, completed))
    });
    ends.filter(|(id, _)| *id >= first).collect()
}

fn reason(failed: &Value) -> &str {
    failed["reason"].as_str().expect("a failure has a reason")
}

/// The highest number of a checkpoint that has a directory.
fn highest(job: &Path) -> u64 {
    let entries = fs::read_dir(job).expect("the job's directory is there");
    let numbers = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.strip_prefix("chk-")?.parse().ok()
    });
    numbers.max().expect("a checkpoint was completed")
}

/// Puts something in the place of the metadata of checkpoints that have not begun: those at `offsets`
/// from the one that is returned.
pub(crate) fn obstruct(running: &Running, job: &Path, offsets: &[u64]) -> u64 {
    running.while_stopped(|| {
        // The next one may be in progress.
        let base = highest(job) + 2;
        for offset in offsets {
            let directory = job.join(format!("chk-{}", base + offset));
            fs::create_dir_all(&directory).expect("directories can be made");
            fs::write(directory.join("_metadata"), OBSTACLE).expect("files can be written");
        }
        base
    })
}

/// A counting job in `checkpoints/j` with these options, and its first checkpoint.
fn counting(name: &str, options: &[&str]) -> (Scene, Running, PathBuf) {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting(name, "50ms"));
    let always = ["run", "job.toml", "--json", "-D", "job.id=j"];
    let mut running = host::start(scene.path(), &[&always, options].concat());
    running.event("checkpoint-completed");
    let job = scene.at("checkpoints/j");
    (scene, running, job)
}

/// A job whose operator `holder` keeps the last value of each key, read line by line from stdin.
fn holding(scene: &Scene, interval: &str, options: &[&str]) -> Running {
    let lines = "\
[[source]]
id = \"lines\"
connector = \"stdin\"
format = \"json-lines\"
key = \"k\"

";
    let job = jobs::head("holding", interval).replace("dir = \"checkpoints\"\n", "")
        + lines
        + &jobs::operator("holder", "faulty", "lines", "misdeed = \"hold\"")
        + &jobs::discard("nowhere", "holder");
    scene.write("job.toml", job);
    let always = [
        "run",
        "job.toml",
        "--json",
        "-D",
        "checkpoint.incremental=false",
    ];
    host::start_with_input(scene.path(), &[&always, options].concat(), Stdio::piped())
}

/// A record for such a job, with a value of this length.
fn held(length: usize) -> String {
    format!("{{\"k\":\"a\",\"v\":\"{}\"}}", "x".repeat(length))
}

/// How many bytes a snapshot of `holder` has that holds this record: what a filesystem checkpoint says.
fn stored_size(record: &str) -> u64 {
    let scene = Scene::new();
    let options = [
        "-D",
        "checkpoint.dir=checkpoints",
        "-D",
        "checkpoint.retained=1000",
    ];
    let mut running = holding(&scene, "20ms", &options);
    running.feed(record);
    loop {
        let path = running.event("checkpoint-completed")["path"].clone();
        let path = path.as_str().expect("it is in a file");
        let show = host::run(scene.path(), &["checkpoints", "show", path, "--json"]).with_code(0);
        let shown: Value = serde_json::from_str(&show.stdout).expect("JSON");
        let operators = shown["operators"].as_array().expect("a list");
        let holder = operators.iter().find(|operator| operator["id"] == "holder");
        let size = &holder.expect("it is in the job")["subtasks"][0]["segments"][0]["length"];
        // Before the record has arrived there is nothing to store.
        if let Some(size) = size.as_u64() {
            return size;
        }
    }
}

#[test]
fn c07_memory_storage_takes_a_state_of_exactly_the_limit_and_not_a_byte_more() {
    let record = held(5000);
    let size = stored_size(&record);
    let limit = |limit: u64| format!("checkpoint.max-state-size={limit}B");
    let scene = Scene::new();

    let mut running = holding(&scene, "20ms", &["-D", &limit(size)]);
    running.feed(&record);
    while running.event("checkpoint-completed")["bytes"].as_u64() < Some(size) {}
    let ended = running.kill().expect("its input has no end");
    assert!(
        history(&ended, 0).iter().all(|(_, completed)| *completed),
        "{}",
        ended.transcript()
    );

    let mut running = holding(&scene, "20ms", &["-D", &limit(size - 1)]);
    running.feed(&record);
    let failed = running.event("checkpoint-failed");
    for named in [
        "state `hoard` of operator `holder`",
        &format!("{size} bytes"),
        &format!("={}", size - 1),
    ] {
        assert!(
            reason(&failed).contains(named),
            "{named} is not named: {failed}"
        );
    }
    let restarted = running.event("restarted");
    assert_eq!(
        restarted["attempt"], 1,
        "it fails over by its restart strategy"
    );
    running.kill().expect("its input has no end");
}

#[test]
fn c08_tolerated_failures_do_not_add_up_over_a_success() {
    let scene = Scene::new();
    let options = [
        "-D",
        "checkpoint.max-state-size=4KiB",
        "-D",
        "checkpoint.tolerable-failures=3",
    ];
    let mut running = holding(&scene, "500ms", &options);
    for _ in 0..3 {
        running.feed(&held(5000));
        running.event("checkpoint-failed");
        running.event("checkpoint-failed");
        // The state shrinks, and two more failures would have been tolerated until then.
        running.feed(&held(10));
        running.event("checkpoint-completed");
    }
    let ended = running.kill().expect("its input has no end");
    let failures = history(&ended, 0)
        .iter()
        .filter(|(_, completed)| !completed)
        .count();
    assert!(failures > 3, "more than are tolerated in a row");
    assert!(
        !ended.stdout.contains("\"restarted\""),
        "{}",
        ended.transcript()
    );
}

#[test]
fn c09_what_stands_in_the_place_of_metadata_fails_that_checkpoint_and_is_untouched() {
    let (_scene, mut running, job) = counting("c09", &["-D", "checkpoint.tolerable-failures=1"]);
    let taken = obstruct(&running, &job, &[0]);
    let failed = running.event("checkpoint-failed");
    assert_eq!(failed["id"], taken);
    let place = job.join(format!("chk-{taken}/_metadata"));
    assert!(
        reason(&failed).contains(&place.display().to_string()),
        "{failed}"
    );
    assert_eq!(running.event("checkpoint-completed")["id"], taken + 1);
    assert_eq!(
        fs::read_to_string(place).expect("it is still there"),
        OBSTACLE
    );
    running.kill().expect("an endless job is still running");
}

#[test]
fn c08_c24_so_many_failures_in_a_row_are_borne_and_a_success_starts_the_count_again() {
    let options = [
        &["-D", "checkpoint.tolerable-failures=2"],
        NO_RESTART.as_slice(),
    ]
    .concat();
    let (_scene, running, job) = counting("c24", &options);
    let base = obstruct(&running, &job, &[0, 1, 3, 4, 6, 7, 8]);
    let ended = running.wait().with_code(1);
    let expected: Vec<(u64, bool)> = [false, false, true, false, false, true, false, false, false]
        .into_iter()
        .zip(base..)
        .map(|(completed, id)| (id, completed))
        .collect();
    assert_eq!(history(&ended, base), expected, "{}", ended.transcript());
    let last = format!("checkpoint {}", base + 8);
    ended
        .saying(&[&last, "`checkpoint.tolerable-failures`=2", "already exists"])
        .without_panic();
}

/// Starts a job in namespaces of its own, where a directory is a file system of 4 MiB in memory.
///
/// # Panics
/// Nobody may have such namespaces here: what cannot be tried does not pass.
pub(crate) fn on_a_small_disk(scene: &Scene, directory: &str, arguments: &[&str]) -> Running {
    on_a_small_disk_with_variables(scene, directory, arguments, &[])
}

/// The same with these variables in its environment.
pub(crate) fn on_a_small_disk_with_variables(
    scene: &Scene,
    directory: &str,
    arguments: &[&str],
    variables: &[(String, String)],
) -> Running {
    fs::create_dir_all(scene.at(directory)).expect("directories can be made");
    let tried = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "none"])
        .arg(scene.at(directory))
        .output();
    let refusal = match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(refusal) = refusal {
        panic!(
            "this test needs a small file system, and `unshare -rm mount -t tmpfs none {directory}` says: \
             {refusal}\nWhat it needs: Linux with user namespaces for everybody (sysctl \
             kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0), the program \
             unshare of util-linux, and a container that allows both (docker run --privileged, or root)"
        );
    }
    let mut command = Command::new("unshare");
    command.envs(variables.iter().cloned());
    let script = format!("mount -t tmpfs -o size=4m none {directory} && exec \"$0\" \"$@\"");
    command.args(["-rm", "sh", "-c", &script, host::PROGRAM]);
    host::start_by(command, scene.path(), arguments, Stdio::null())
}

/// A directory as the process sees it that runs in namespaces of its own.
pub(crate) fn seen_by(running: &Running, directory: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", running.id()));
    root.join(directory.strip_prefix("/").expect("an absolute path"))
}

/// Names of the files that a job has stored, but for `_metadata` and what it names: left-overs.
fn partial_files(job: &Path) -> Vec<PathBuf> {
    let is_partial = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains('#') || name.contains(".part-")
    };
    all_files(job).into_iter().filter(is_partial).collect()
}

/// Keys enough for a state that does not fit what is left of a full disk.
const LARGE: [&str; 8] = [
    "-D",
    "source.numbers.keys=4000",
    "-D",
    "source.numbers.rate=20000",
    "-D",
    "source.numbers.distribution=sequential",
    "-D",
    "checkpoint.inline-threshold=0B",
];

#[test]
fn c12_a_full_disk_fails_checkpoints_until_there_is_room_again() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("c12", "50ms"));
    let arguments = [
        &["run", "job.toml", "--json", "-D", "job.id=j"],
        ["-D", "checkpoint.tolerable-failures=100000"].as_slice(),
        &["-D", "checkpoint.incremental=false"],
        &LARGE,
    ]
    .concat();
    let mut running = on_a_small_disk(&scene, "checkpoints", &arguments);
    running.event("checkpoint-completed");
    let disk = seen_by(&running, &scene.at("checkpoints"));
    let filler = disk.join("filler");
    running.while_stopped(|| {
        let mut file = fs::File::create(&filler).expect("a file can be made");
        while file.write_all(&[0; 4096]).is_ok() {}
    });
    let failed = running.event("checkpoint-failed");
    let full = "No space left on device";
    assert!(reason(&failed).contains(full), "{failed}");
    assert!(
        reason(&failed).contains("checkpoints/j"),
        "the path is not named: {failed}"
    );
    // It goes on, and goes on trying.
    running.event("checkpoint-failed");
    running.event("checkpoint-failed");
    fs::remove_file(&filler).expect("a file can be removed");
    let good = running.event("checkpoint-completed")["id"]
        .as_u64()
        .expect("a number");
    // What the failed ones wrote is gone by now, or will be when the cleaner gets to it.
    let newest = loop {
        let newest = running.event("checkpoint-completed")["id"]
            .as_u64()
            .expect("a number");
        let (partial, directories) = running.while_stopped(|| {
            let job = disk.join("j");
            let entries = fs::read_dir(&job).expect("the job's directory").flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let chk: Vec<String> = names.filter(|name| name.starts_with("chk-")).collect();
            (partial_files(&job), chk)
        });
        // One complete, one perhaps on its way in or out.
        if partial.is_empty() && directories.len() <= 2 {
            break newest;
        }
        assert!(
            newest < good + 100,
            "left behind: {partial:?} {directories:?}"
        );
    };
    assert!(newest > good);
    running.kill().expect("an endless job is still running");
}

#[test]
fn c12_a_file_that_may_not_grow_fails_its_checkpoint_and_is_removed() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("c12-limit", "50ms"));
    let mut command = Command::new("sh");
    // Files of at most 2 MiB (guests' memory counts too); beyond, a write fails instead of killing the process.
    let script = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\"";
    command.args(["-c", script, host::PROGRAM]);
    let arguments = [
        ["run", "job.toml", "--json", "-D", "job.id=j"].as_slice(),
        &[
            "-D",
            "checkpoint.tolerable-failures=2",
            "-D",
            "checkpoint.incremental=false",
        ],
        &["-D", "checkpoint.retention=retain-on-cancellation"],
        &LARGE,
        &[
            "-D",
            "source.numbers.keys=1000000",
            "-D",
            "source.numbers.rate=200000",
        ],
        &NO_RESTART,
    ]
    .concat();
    let ended = host::start_by(command, scene.path(), &arguments, Stdio::null())
        .wait()
        .with_code(1)
        .saying(&["File too large", "allows no more", "checkpoints/j"])
        .without_panic();
    let history = history(&ended, 0);
    let (before, failed) = history.split_at(history.len() - 3);
    assert!(
        failed.iter().all(|(_, completed)| !completed),
        "{history:?}"
    );
    assert!(
        before.iter().all(|(_, completed)| *completed),
        "{history:?}"
    );
    let job = scene.at("checkpoints/j");
    let partial = partial_files(&job);
    assert!(partial.is_empty(), "left behind: {partial:?}");
    if let Some((newest, _)) = before.last() {
        assert_eq!(
            highest(&job),
            *newest,
            "nothing is left of those that failed"
        );
        host::run(scene.path(), &["checkpoints", "verify", "checkpoints"]).with_code(0);
    }
}

#[test]
fn c13_a_directory_that_was_moved_away_fails_checkpoints_until_it_is_back() {
    for blocked_by_a_file in [false, true] {
        let options = [
            &["-D", "checkpoint.tolerable-failures=100000"],
            LARGE.as_slice(),
        ]
        .concat();
        let (scene, mut running, job) = counting("c13", &options);
        let (here, away) = (scene.at("checkpoints"), scene.at("away"));
        running.while_stopped(|| {
            fs::rename(&here, &away).expect("a directory can be moved");
            if blocked_by_a_file {
                fs::write(&here, "a file").expect("a file can be written");
            }
        });
        let failed = running.event("checkpoint-failed");
        let job = job.display().to_string();
        assert!(
            reason(&failed).contains(&job),
            "{job} is not named: {failed}"
        );
        let last = running.event("checkpoint-failed")["id"].as_u64();
        running.while_stopped(|| {
            if blocked_by_a_file {
                fs::remove_file(&here).expect("a file can be removed");
            }
            assert!(
                !here.exists(),
                "the host made a directory in the place of the one that is gone"
            );
            fs::rename(&away, &here).expect("a directory can be moved");
        });
        let good = running.event("checkpoint-completed");
        assert!(good["id"].as_u64() > last, "{good}");
        let path = good["path"].as_str().expect("it is in a file").to_owned();
        running.while_stopped(|| {
            // A newer one may have taken its place meanwhile.
            let place = if Path::new(&path).exists() {
                &path
            } else {
                "checkpoints"
            };
            host::run(scene.path(), &["checkpoints", "verify", place]).with_code(0);
        });
        running.kill().expect("an endless job is still running");
    }
}

#[test]
fn c13_a_disk_that_became_read_only_fails_checkpoints_until_it_is_writable() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("c13-ro", "50ms"));
    let arguments = [
        ["run", "job.toml", "--json", "-D", "job.id=j"].as_slice(),
        &["-D", "checkpoint.tolerable-failures=100000"],
    ]
    .concat();
    let mut running = on_a_small_disk(&scene, "checkpoints", &arguments);
    running.event("checkpoint-completed");
    let remount = |running: &Running, how: &str| {
        let id = running.id().to_string();
        // Refused as long as a file is open for writing, which is not for long.
        loop {
            let output = Command::new("nsenter")
                .args(["-t", &id, "-U", "-m", "--preserve-credentials"])
                .args(["mount", "-o", how])
                .arg(scene.at("checkpoints"))
                .output()
                .expect("nsenter is there, as unshare is");
            if output.status.success() {
                return;
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("busy"), "{said}");
        }
    };
    remount(&running, "remount,ro");
    let failed = running.event("checkpoint-failed");
    assert!(
        reason(&failed).contains("Read-only file system"),
        "{failed}"
    );
    let job = scene.at("checkpoints/j").display().to_string();
    assert!(
        reason(&failed).contains(&job),
        "{job} is not named: {failed}"
    );
    remount(&running, "remount,rw");
    running.event("checkpoint-completed");
    running.kill().expect("an endless job is still running");
}

#[test]
fn c21_a_checkpoint_that_hangs_expires_and_its_number_is_not_used_again() {
    let scene = Scene::new();
    // The first record is held up for longer than a checkpoint may take; no barrier gets past it.
    let markers = scene.at("markers");
    fs::create_dir_all(&markers).expect("directories can be made");
    let config = "misdeed = \"sleep\", milliseconds = 1500, once = \"/markers/slept\"";
    let grants = format!(
        "grants = {{ dirs = [{{ host = {markers:?}, guest = \"/markers\", write = true }}] }}"
    );
    let job = jobs::head("c21", "50ms")
        + jobs::ENDLESS
        + &jobs::operator_with("sleepy", "faulty", "numbers", config, &grants)
        + &jobs::count("sleepy")
        + &jobs::discard("nowhere", "count");
    scene.write("job.toml", job);
    let options = [
        "-D",
        "checkpoint.timeout=300ms",
        "-D",
        "checkpoint.tolerable-failures=100",
    ];
    let arguments = [
        ["run", "job.toml", "--json", "-D", "job.id=j"].as_slice(),
        &options,
    ]
    .concat();
    let mut running = host::start(scene.path(), &arguments);
    let expired = running.event("checkpoint-failed");
    assert!(
        reason(&expired).contains("expired after 300 ms"),
        "{expired}"
    );
    running.event("checkpoint-completed");
    running.event("checkpoint-completed");
    let ended = running.kill().expect("an endless job is still running");
    let history = history(&ended, 0);
    let ids: Vec<u64> = history.iter().map(|(id, _)| *id).collect();
    let all: Vec<u64> = (1..=ids.len() as u64).collect();
    assert_eq!(ids, all, "each number is used once, and its end reported");
    let gap = history
        .iter()
        .position(|(_, completed)| !completed)
        .expect("one expired");
    assert!(history[gap..].iter().any(|(_, completed)| *completed));
    let stored = scene.at(&format!("checkpoints/j/chk-{}", ids[gap]));
    assert!(
        !stored.exists(),
        "something is stored under the number that expired"
    );
}

#[test]
fn c26_what_was_prepared_for_an_aborted_checkpoint_is_committed_with_the_next() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    scene.write("job.toml", jobs::words("c26", "50ms"));
    let options = ["-D", "job.id=j", "-D", "checkpoint.tolerable-failures=3"];
    let arguments = [
        ["run", "job.toml", "--json", "-p", "2"].as_slice(),
        &options,
    ]
    .concat();
    let mut running = host::start(scene.path(), &arguments);
    running.event("checkpoint-completed");
    let base = obstruct(&running, &scene.at("checkpoints/j"), &[0, 1]);
    let ended = running.wait().with_code(0);
    let wanted = [(base, false), (base + 1, false), (base + 2, true)];
    let history = history(&ended, base);
    assert!(
        history.starts_with(&wanted),
        "the fault did not happen: {history:?}"
    );
    assert_same_lines(
        &oracle::count_keys(&scene.at("out")),
        &oracle::word_count(&scene.at("input")),
        "output after checkpoints that were aborted",
    );
}

/// Word count over text that comes on stdin, with no checkpoint but the last; all of the text is fed, but
/// its end is not reported yet, and a file stands where its checkpoints were.
fn blocked_at_its_end(scene: &Scene, options: &[&str]) -> Running {
    let lines = "[[source]]\nid = \"verses\"\nconnector = \"stdin\"\nformat = \"lines\"\n\n";
    let job = jobs::word_count("c31")
        .replace("\"30ms\"", "\"1h\"")
        .replace(jobs::VERSES, lines);
    scene.write("job.toml", job);
    let always = ["run", "job.toml", "--json"];
    let arguments = [always.as_slice(), options].concat();
    let mut running = host::start_with_input(scene.path(), &arguments, Stdio::piped());
    running.event("started");
    for verse in oracle::verses(500).lines() {
        running.feed(verse);
    }
    running.while_stopped(|| {
        fs::rename(scene.at("checkpoints"), scene.at("away")).expect("a directory can be moved");
        fs::write(scene.at("checkpoints"), "a file").expect("a file can be written");
    });
    running.end_input();
    running
}

#[test]
fn c31_a_job_whose_last_checkpoint_fails_does_not_report_success() {
    let scene = Scene::new();
    let mut running = blocked_at_its_end(&scene, &NO_RESTART);
    running.event("checkpoint-failed");
    running.event("failed");
    let ended = running.wait().with_code(1).without_panic();
    assert!(
        scene.output("out").is_empty(),
        "visible output:\n{}",
        ended.transcript()
    );
}

#[test]
fn c31_a_last_checkpoint_that_fails_is_taken_again_until_it_succeeds() {
    let scene = Scene::new();
    let options = [
        "-D",
        "checkpoint.tolerable-failures=1000",
        "-D",
        "checkpoint.interval=50ms",
    ];
    let mut running = blocked_at_its_end(&scene, &options);
    running.event("checkpoint-failed");
    running.event("checkpoint-failed");
    assert!(
        scene.output("out").is_empty(),
        "the totals are not committed"
    );
    running.while_stopped(|| {
        fs::remove_file(scene.at("checkpoints")).expect("a file can be removed");
        fs::rename(scene.at("away"), scene.at("checkpoints")).expect("it can be moved");
    });
    running.wait().with_code(0);
    assert_same_lines(
        &scene.output("out"),
        &oracle::count_words(&oracle::verses(500)),
        "output once the last checkpoint succeeded",
    );
}
