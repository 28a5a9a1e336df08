//! Nothing that others wrote steers a terminal or passes for a line of ours. Conformance 151.
//!
//! Goal: what a guest says, what metadata holds and what files are called is read and cannot act. Method:
//! a hostile component, metadata written again with a right checksum, and files with odd names; then every
//! line that the host prints for people is looked through.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::guests::misdeed;
use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle;
use crate::scene::Scene;

/// A text that would clear the screen, begin a line of its own and turn what follows around.
const HOSTILE: &str = "x\nerror: all is well\u{1b}[2J\u{202e}\u{9b}1m";

/// The longest line that a person may get: a cut line of text, and what we say around it.
const LINE_BYTES_MAX: usize = 9 << 10;

/// Checks everything that was printed for people.
fn check(ended: &Ended, printed: &str) {
    for line in printed.lines() {
        let odd = line.chars().find(|c| {
            c.is_control()
                || ('\u{2028}'..='\u{202e}').contains(c)
                || ('\u{2066}'..='\u{2069}').contains(c)
        });
        assert_eq!(odd, None, "in {line:?} of\n{}", ended.transcript());
        assert!(
            line.len() <= LINE_BYTES_MAX,
            "{} bytes in a line",
            line.len()
        );
        assert!(
            !line.starts_with("error: all is well"),
            "a forged line in\n{}",
            ended.transcript()
        );
    }
}

#[test]
fn c151_what_a_guest_logs_stays_one_line_each() {
    let (scene, job) = misdeed("misdeed = \"log\"", "");
    scene.write("job.toml", job);
    let ended = host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    check(&ended, &ended.stderr);
    let lines = ended.stderr.lines();
    let finished = lines.filter(|line| line.starts_with("job finished in "));
    assert_eq!(finished.count(), 1, "{}", ended.transcript());
    ended.saying(&["x\\njob finished\\r\\nerror: all is well\\u{1b}[2J\\u{202e}\\u{9b}31m"]);
}

#[test]
fn c151_what_a_guest_returns_stays_one_line() {
    let (scene, job) = misdeed("misdeed = \"error-text\"", "");
    scene.write("job.toml", job);
    let ended = host::run(scene.path(), &["run", "job.toml"]).with_code(1);
    check(&ended, &ended.stderr);
    ended.saying(&["x\\njob finished\\r\\nerror: all is well\\u{1b}[2J\\u{202e}"]);
}

#[test]
fn c151_names_of_files_stay_one_line() {
    let scene = Scene::new();
    scene.write(&format!("input/{HOSTILE}.gz"), "not packed at all\n");
    let job = jobs::word_count("names").replace("*.txt", "*.gz");
    scene.write("job.toml", job);
    let ended = host::run(scene.path(), &["run", "job.toml"]);
    assert_ne!(ended.status.code(), Some(0), "{}", ended.transcript());
    check(&ended, &ended.stderr);
    ended
        .saying(&["x\\nerror: all is well\\u{1b}[2J"])
        .without_panic();
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

/// Writes the metadata of a checkpoint again, its body changed, with a right checksum.
fn rewrite(path: &Path, change: impl FnOnce(&mut Value)) {
    let bytes = fs::read(path).expect("metadata");
    let length = u64::from_le_bytes(bytes[12..20].try_into().expect("eight bytes")) as usize;
    let mut body: Value = serde_json::from_slice(&bytes[20..20 + length]).expect("JSON");
    change(&mut body);
    let body = serde_json::to_vec(&body).expect("JSON");
    let mut written = bytes[..12].to_vec();
    written.extend((body.len() as u64).to_le_bytes());
    written.extend(&body);
    written.extend(&bytes[20 + length..bytes.len() - 4]);
    let checksum = crc32c(&written);
    written.extend(checksum.to_le_bytes());
    fs::write(path, written).expect("metadata can be written");
}

/// A word count whose two checkpoints are kept, the newer one with hostile texts wherever there is one.
fn hostile_checkpoint(scene: &Scene) -> PathBuf {
    scene.input(&oracle::bible(), 4, "txt");
    let kept = "interval = \"30ms\"\nretained = 2\nretain-on-finish = true\ncompression = \"none\"";
    scene.write(
        "job.toml",
        jobs::word_count("show").replace("interval = \"30ms\"", kept),
    );
    let ended = host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let newest = ended.completions().pop().expect("a checkpoint");
    let path = PathBuf::from(newest.path);
    rewrite(&path, |body| {
        body["job-name"] = json!(HOSTILE);
        body["writer"] = json!(format!("{HOSTILE}{}", "w".repeat(1 << 20)));
        for operator in body["operators"].as_array_mut().expect("operators") {
            operator["labels"] = json!({ HOSTILE: HOSTILE });
            for state in operator["states"].as_array_mut().into_iter().flatten() {
                state["name"] = json!(HOSTILE);
            }
            if operator["role"] == "source" {
                operator["id"] = json!(HOSTILE);
            }
        }
    });
    path
}

#[test]
fn c151_what_metadata_holds_stays_one_line_each() {
    let scene = Scene::new();
    let path = hostile_checkpoint(&scene);
    let newest = path.to_str().expect("a path");
    let directory = path.parent().and_then(Path::parent).expect("a directory");
    let other = fs::read_dir(directory)
        .expect("a directory")
        .flatten()
        .map(|entry| entry.path())
        .find(|other| other.join("_metadata").is_file() && !path.starts_with(other))
        .expect("an older checkpoint");
    let other = other.to_str().expect("a path");
    for arguments in [
        &["checkpoints", "list", "checkpoints"][..],
        &["checkpoints", "show", newest],
        &["checkpoints", "verify", newest],
        &["checkpoints", "diff", other, newest],
        &["checkpoints", "gc", "checkpoints", "--dry-run"],
        &["run", "-s", newest, "job.toml"],
    ] {
        let ended = host::run(scene.path(), arguments);
        check(&ended, &ended.stdout);
        check(&ended, &ended.stderr);
        println!("{arguments:?}:\n{}", ended.transcript());
    }
    // Programs get it as it is.
    let shown = host::run(scene.path(), &["checkpoints", "show", newest, "--json"]);
    if shown.status.code() == Some(0) {
        let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
        assert_eq!(shown["job-name"], HOSTILE);
    }
}

#[test]
fn the_checksum_of_these_tests_is_that_of_the_format() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}
