//! `cargo xtask demo`: the flagship example, killed in the middle and resumed.
//!
//! Goal: show, not claim, that a kill loses nothing and counts nothing twice. Method: word count over
//! many copies of the text, so that it runs for some seconds; SIGKILL once some checkpoints
//! are complete; resume from the newest; compare the totals with those of a run left in peace and with
//! what awk counted (`examples/word-count/expected.csv`, times the copies). A run that ended before
//! the kill proves nothing and is repeated with more copies.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::{Result, build, root, story};

/// How many copies of the text to begin with, and the most to try.
const COPIES: u32 = 40;
const COPIES_MAX: u32 = 640;

/// How many checkpoints must be complete before the kill.
const CHECKPOINTS_BEFORE_KILL: u32 = 4;

/// The words of a result and how often each occurs.
type Totals = BTreeMap<String, u64>;

/// Runs the demonstration.
pub(crate) fn run() -> Result<()> {
    story::step(
        "Build the plugins and the host (the first time this takes minutes: Wasmtime is compiled)",
    );
    build::plugins()?;
    build::host()?;

    let mut copies = COPIES;
    let place = loop {
        let place = Place::prepare(copies)?;
        story::step(&format!(
            "Count the words of {copies} copies of the Old Testament, with a checkpoint every 100 ms"
        ));
        if place.kill_in_the_middle()? {
            break place;
        }
        story::line(
            "It was finished before it could be killed: this machine is fast. Once more, with more text.",
        );
        copies *= 4;
        if copies > COPIES_MAX {
            return Err("the job always finished before it could be killed".into());
        }
    };

    story::step("Resume from the newest checkpoint");
    place.run_to_the_end("killed.toml", &["-s", "latest"])?;

    story::step("The same job again, undisturbed");
    place.run_to_the_end("undisturbed.toml", &[])?;

    story::step("Compare");
    let counted_by_awk = expected(copies)?;
    let undisturbed = totals(&place.directory.join("undisturbed"))?;
    let resumed = totals(&place.directory.join("killed"))?;
    for (name, totals) in [
        ("killed and resumed", &resumed),
        ("undisturbed", &undisturbed),
        ("counted by awk", &counted_by_awk),
    ] {
        let sum = story::number(totals.values().sum());
        story::line(&format!(
            "{name:<20} {:>7} different words, {sum:>12} words in all",
            story::number(totals.len() as u64)
        ));
    }
    same("the undisturbed run", &undisturbed, "awk", &counted_by_awk)?;
    same(
        "the resumed run",
        &resumed,
        "the undisturbed run",
        &undisturbed,
    )?;
    let mut most: Vec<_> = resumed.iter().collect();
    most.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let most: Vec<String> = most
        .iter()
        .take(5)
        .map(|(word, count)| format!("{word} {}", story::number(**count)))
        .collect();
    story::line(&format!("the most frequent:   {}", most.join(", ")));
    story::done("Equal, word for word: the kill lost nothing and counted nothing twice.");
    Ok(())
}

/// A directory below `target/` with the job files, their input and whatever they write.
struct Place {
    directory: PathBuf,
}

impl Place {
    /// Makes it afresh, with that many copies of the text.
    fn prepare(copies: u32) -> Result<Self> {
        let directory = root().join("target/demo");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(directory.join("input"))?;
        let text = root().join("examples/word-count/input/kjv-old-testament.txt.gz");
        for copy in 0..copies {
            fs::copy(&text, directory.join(format!("input/{copy:03}.txt.gz")))?;
        }
        let place = Self { directory };
        for name in ["killed", "undisturbed"] {
            fs::write(place.directory.join(format!("{name}.toml")), job_file(name))?;
        }
        Ok(place)
    }

    /// Starts the job, kills it once enough checkpoints are complete, and checks that it died of it
    /// while it was at work. `false` if it had finished before.
    fn kill_in_the_middle(&self) -> Result<bool> {
        let mut host = Host::start(self, "killed.toml", &[])?;
        let mut completed = 0;
        while let Some(line) = host.next_line()? {
            if is_completion(&line) {
                completed += 1;
                story::line(&line);
            }
            if completed == CHECKPOINTS_BEFORE_KILL {
                let process = host.child.id();
                host.child.kill()?;
                let status = host.child.wait()?;
                if !died_by_sigkill(status) {
                    return Ok(false);
                }
                story::line(&format!(
                    "SIGKILL: process {process} is gone, in the middle of its work ({status})"
                ));
                return Ok(true);
            }
        }
        let status = host.child.wait()?;
        if status.success() {
            Ok(false)
        } else {
            Err(format!("the job failed ({status}):\n{}", host.said).into())
        }
    }

    /// Runs a job until it is finished, and tells how it started and ended.
    fn run_to_the_end(&self, job: &str, arguments: &[&str]) -> Result<()> {
        let started = Instant::now();
        let mut host = Host::start(self, job, arguments)?;
        let (mut completed, mut last) = (0, String::new());
        while let Some(line) = host.next_line()? {
            if is_completion(&line) {
                completed += 1;
                last = line;
            } else if line.starts_with("restoring from checkpoint") || line.starts_with("  `") {
                story::line(&line);
            }
        }
        let status = host.child.wait()?;
        if !status.success() {
            return Err(format!("the job failed ({status}):\n{}", host.said).into());
        }
        story::line(&format!("{completed} checkpoints, the last one: {last}"));
        story::line(&format!(
            "finished in {}",
            story::duration(started.elapsed())
        ));
        Ok(())
    }
}

/// A running host and what it said.
struct Host {
    child: Child,
    lines: BufReader<Box<dyn Read + Send>>,
    said: String,
}

impl Host {
    fn start(place: &Place, job: &str, arguments: &[&str]) -> Result<Self> {
        let job = place.directory.join(job);
        let mut command = Command::new(build::host_program());
        command
            .arg("run")
            .args(arguments)
            .arg(&job)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
            .env_remove("HIGHWATER_CONFIG")
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1");
        let shown_job = job
            .strip_prefix(root())
            .unwrap_or(&job)
            .display()
            .to_string();
        let shown: Vec<&str> = ["target/release/host", "run"]
            .iter()
            .chain(arguments)
            .copied()
            .chain([shown_job.as_str()])
            .collect();
        story::line(&format!("$ {}", shown.join(" ")));
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().ok_or("the host has no stderr")?;
        Ok(Self {
            child,
            lines: BufReader::new(Box::new(stderr)),
            said: String::new(),
        })
    }

    /// The next line on stderr, with shorter paths; `None` at its end.
    fn next_line(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        if self.lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&line);
        self.said.push_str(&line);
        let inside = format!("{}/", root().display());
        Ok(Some(line.trim_end().replace(&inside, "")))
    }
}

/// Whether a line says that a checkpoint is complete: `checkpoint 12 completed in …`.
fn is_completion(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("checkpoint")
        && words.next().is_some_and(|id| id.parse::<u64>().is_ok())
        && words.next() == Some("completed")
}

#[cfg(unix)]
fn died_by_sigkill(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(9)
}

#[cfg(not(unix))]
fn died_by_sigkill(status: ExitStatus) -> bool {
    !status.success()
}

/// The example's job over the copied input, with results and checkpoints of its own.
fn job_file(name: &str) -> String {
    format!(
        r#"# Written by `cargo xtask demo`: examples/word-count with more input and a checkpoint every 100 ms.
[job]
name = "{name}"
parallelism = 2

[checkpoint]
interval = "100ms"
dir = "checkpoints"

[[source]]
id = "verses"
connector = "file"
path = "input/*.txt.gz"
format = "lines"

[[operator]]
id = "split"
component = "../../plugins/target/wasm32-wasip2/release/split.wasm"
input = "verses"
config = {{ skip-fields = 1 }}

[[operator]]
id = "count"
component = "../../plugins/target/wasm32-wasip2/release/count.wasm"
input = "split"
config = {{ emit = "final" }}

[[sink]]
id = "totals"
connector = "file"
input = "count"
path = "{name}/"
format = "csv"
"#
    )
}

/// Adds up the lines `word,count` of the visible files of a result directory.
fn totals(directory: &Path) -> Result<Totals> {
    let mut totals = Totals::new();
    let entries = fs::read_dir(directory)
        .map_err(|error| format!("cannot read {}: {error}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() && !entry.file_name().to_string_lossy().starts_with('.') {
            add(&mut totals, &fs::read_to_string(entry.path())?, 1)?;
        }
    }
    Ok(totals)
}

/// What the example's input has, times the copies.
fn expected(copies: u32) -> Result<Totals> {
    let mut totals = Totals::new();
    let text = fs::read_to_string(root().join("examples/word-count/expected.csv"))?;
    add(&mut totals, &text, u64::from(copies))?;
    Ok(totals)
}

/// Adds the lines `word,count` of `text`, each count times `factor`. A word that stands in two lines
/// would hide that something was written twice, so it is refused.
fn add(totals: &mut Totals, text: &str, factor: u64) -> Result<()> {
    for line in text.lines().filter(|line| *line != "word,count") {
        let count = line
            .split_once(',')
            .and_then(|(word, count)| Some((word, count.parse::<u64>().ok()?)));
        let (word, count) = count.ok_or_else(|| format!("`{line}` is not `word,count`"))?;
        if totals.insert(word.to_owned(), count * factor).is_some() {
            return Err(format!("`{word}` stands in the result twice").into());
        }
    }
    Ok(())
}

/// Fails with the first difference.
fn same(left: &str, left_totals: &Totals, right: &str, right_totals: &Totals) -> Result<()> {
    let words: std::collections::BTreeSet<&String> =
        left_totals.keys().chain(right_totals.keys()).collect();
    for word in words {
        let (one, other) = (left_totals.get(word), right_totals.get(word));
        if one != other {
            return Err(format!("`{word}`: {left} has {one:?}, {right} has {other:?}").into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_completion_is_taken_for_one() {
        assert!(is_completion(
            "checkpoint 12 completed in 31 ms, 1.2 MiB: /a/chk-12/_metadata"
        ));
        assert!(!is_completion("checkpoint 12 failed: disk full"));
        assert!(!is_completion("checkpoint storage: completed"));
        assert!(!is_completion("restored checkpoint 12 completed"));
    }

    #[test]
    fn a_word_in_two_lines_is_refused() {
        let mut totals = Totals::new();
        add(&mut totals, "a,1\nb,2\n", 3).unwrap();
        assert_eq!(totals.get("b"), Some(&6));
        assert!(add(&mut totals, "a,1\n", 1).is_err());
    }

    #[test]
    fn the_first_difference_is_named() {
        let (mut one, mut other) = (Totals::new(), Totals::new());
        add(&mut one, "a,1\nb,2\n", 1).unwrap();
        add(&mut other, "a,1\nb,3\n", 1).unwrap();
        let error = same("one", &one, "other", &other).unwrap_err().to_string();
        assert_eq!(error, "`b`: one has Some(2), other has Some(3)");
        assert!(same("one", &one, "one", &one).is_ok());
    }
}
