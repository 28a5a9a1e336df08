//! Mutants: small mistakes, kept as patches, each of which a test must find.
//!
//! A promise that no test holds is one that the next change breaks unseen. Each file
//! `tests/mutants/<name>.patch` makes one mistake in the sources; before the diff it says
//!
//! ```text
//! Breaks: the promise, in a sentence.
//! Caught by: cargo test --package checkpoint --lib the_name_of_a_test
//! Set: quick
//! ```
//!
//! The patch is applied to a copy of the tree below `target/mutants`, the command is run there, and it has
//! to fail. The copy and its target directory stay, so that the next time only what changed is built; what
//! they begin with is copied from `target/`, for Wasmtime takes ten minutes.
//!
//! `quick` ones are tried by `cargo xtask test`: one for each of a few kinds of promise, whose crates are built
//! anyway. `nightly` has the others, and those that build the host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;
use std::{env, fs};

use crate::build::command;
use crate::chores::PURE;
use crate::{Result, root, story};

/// Where the patches are.
const PATCHES: &str = "tests/mutants";

/// What a copy of the tree begins with, if it is there: built artefacts, from and to.
const SEEDS: [(&str, &str); 3] = [
    ("target/debug", "target/mutants/built/debug"),
    ("target/release", "target/mutants/built/release"),
    ("plugins/target", "target/mutants/tree/plugins/target"),
];

/// Which mutants are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Set {
    Quick,
    Nightly,
}

/// A patch, and what it says of itself.
struct Mutant {
    name: String,
    patch: PathBuf,
    breaks: String,
    /// The command that must fail, in words.
    caught_by: Vec<String>,
    set: Set,
}

/// What became of a mutant; anything but `Killed` is a failure.
enum Fate {
    Killed,
    Survived,
    DoesNotApply(String),
    DoesNotBuild(String),
}

/// Tries those that are quick, as a part of all tests.
pub(crate) fn quick() -> Result<()> {
    run(|mutant| mutant.set == Set::Quick)
}

/// Tries the quick ones, all (`--all`), or those that are named.
pub(crate) fn mutants(arguments: &[String]) -> Result<()> {
    match arguments {
        [] => quick(),
        [all] if all == "--all" => run(|_| true),
        names => {
            let known: BTreeSet<String> = read()?.into_iter().map(|mutant| mutant.name).collect();
            if let Some(name) = names.iter().find(|name| !known.contains(*name)) {
                let known: Vec<String> = known.into_iter().collect();
                return Err(format!(
                    "there is no mutant `{name}` in {PATCHES}/; there are {}",
                    known.join(", ")
                )
                .into());
            }
            run(|mutant| names.contains(&mutant.name))
        }
    }
}

fn run(wanted: impl Fn(&Mutant) -> bool) -> Result<()> {
    let started = Instant::now();
    let mutants: Vec<Mutant> = read()?.into_iter().filter(wanted).collect();
    let tree = Tree::new()?;
    tree.synchronise()?;

    // A test that fails without the mutant, or that is not there, proves nothing.
    let commands: BTreeSet<&[String]> = mutants.iter().map(|it| it.caught_by.as_slice()).collect();
    for command in commands {
        tree.assert_passes(command)?;
    }

    let mut failures = Vec::new();
    for mutant in &mutants {
        let since = Instant::now();
        let fate = tree.try_out(mutant)?;
        let took = story::duration(since.elapsed());
        let (name, patch) = (&mutant.name, mutant.patch.display());
        match fate {
            Fate::Killed => eprintln!("    killed {name}, in {took}"),
            Fate::Survived => failures.push(format!(
                "{name} survived `{}`: no test holds that {}",
                mutant.caught_by.join(" "), mutant.breaks
            )),
            Fate::DoesNotApply(said) => failures.push(format!(
                "{patch} does not apply any more; make the mistake again by hand, put `git diff` in the \
                 place of the old diff, below the same lines, and take the mistake back\n{said}"
            )),
            Fate::DoesNotBuild(said) => failures.push(format!("{patch} does not build\n{said}")),
        }
    }
    tree.synchronise()?;
    if !failures.is_empty() {
        return Err(failures.join("\n").into());
    }
    let (count, took) = (mutants.len(), story::duration(started.elapsed()));
    eprintln!("    {count} mutants killed, in {took}");
    Ok(())
}

/// All mutants, in the order of their names.
fn read() -> Result<Vec<Mutant>> {
    let directory = root().join(PATCHES);
    let entries = fs::read_dir(&directory)
        .map_err(|error| format!("cannot list {}: {error}", directory.display()))?;
    let mut mutants = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "patch")
        {
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let mutant =
                parse(&path, &text).map_err(|problem| format!("{}: {problem}", path.display()))?;
            mutants.push(mutant);
        }
    }
    mutants.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(mutants)
}

/// Reads what a patch says of itself.
fn parse(path: &Path, text: &str) -> std::result::Result<Mutant, String> {
    // A line that begins with a space goes on with the one before it.
    let mut said: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        if line.starts_with("diff ") || line.starts_with("--- ") {
            break;
        }
        match (
            line.strip_prefix(' '),
            line.split_once(": "),
            said.last_mut(),
        ) {
            (Some(more), _, Some((_, value))) => {
                value.push(' ');
                value.push_str(more.trim());
            }
            (None, Some((key, value)), _) => said.push((key, value.trim().to_owned())),
            _ if line.trim().is_empty() => {}
            _ => {
                return Err(format!(
                    "`{line}` is none of `Breaks:`, `Caught by:` and `Set:`"
                ));
            }
        }
    }
    let value = |key: &str| {
        let found = said.iter().find(|(found, _)| *found == key);
        let found = found.map(|(_, value)| value.clone());
        found.ok_or_else(|| format!("it does not say `{key}: …` before the diff"))
    };
    let caught_by: Vec<String> = value("Caught by")?
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    if !caught_by.starts_with(&["cargo".to_owned(), "test".to_owned()]) {
        return Err("`Caught by:` begins with `cargo test`".to_owned());
    }
    Ok(Mutant {
        name: path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        patch: path.to_owned(),
        breaks: value("Breaks")?,
        caught_by,
        set: match value("Set")?.as_str() {
            "quick" => Set::Quick,
            "nightly" => Set::Nightly,
            other => return Err(format!("`Set:` is `quick` or `nightly`, not `{other}`")),
        },
    })
}

/// A copy of the tree.
struct Tree {
    path: PathBuf,
    /// Two runs at once would make each other's mistakes.
    _lock: fs::File,
}

impl Tree {
    fn new() -> Result<Self> {
        let path = root().join("target/mutants/tree");
        fs::create_dir_all(&path)
            .map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        let lock = fs::File::create(root().join("target/mutants/lock"))?;
        lock.lock()
            .map_err(|error| format!("cannot lock {}: {error}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// Makes it as the tree is now, changes that are not committed included. What is the same is not
    /// touched, so that it is not built again.
    fn synchronise(&self) -> Result<()> {
        let list = [
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ];
        let listed = said(&mut command("git", ".", &list))?;
        if !listed.status.success() {
            return Err(format!("`git ls-files` failed: {}", text(&listed.stderr)).into());
        }
        let names = text(&listed.stdout);
        let names: BTreeSet<&Path> = names
            .split('\0')
            .filter(|it| !it.is_empty())
            .map(Path::new)
            .collect();
        for name in &names {
            let (from, to) = (root().join(name), self.path.join(name));
            // Deleted, and not committed yet; what is here of it goes below.
            let Ok(content) = fs::read(&from) else {
                continue;
            };
            if fs::read(&to).is_ok_and(|found| found == content) {
                continue;
            }
            let directory = to.parent().unwrap_or(&self.path);
            let copied = fs::create_dir_all(directory).and_then(|()| fs::copy(&from, &to));
            copied.map_err(|error| format!("cannot copy {}: {error}", from.display()))?;
        }
        for name in self.files()? {
            if !root().join(&name).is_file() || !names.contains(name.as_path()) {
                fs::remove_file(self.path.join(&name))?;
            }
        }
        Ok(())
    }

    /// All files of the copy but those that are built.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let mut open = vec![PathBuf::new()];
        while let Some(below) = open.pop() {
            for entry in fs::read_dir(self.path.join(&below))? {
                let entry = entry?;
                let name = below.join(entry.file_name());
                if !entry.file_type()?.is_dir() {
                    files.push(name);
                } else if entry.file_name() != "target" {
                    open.push(name);
                }
            }
        }
        Ok(files)
    }

    fn try_out(&self, mutant: &Mutant) -> Result<Fate> {
        self.synchronise()?;
        let mut apply = Command::new("git");
        apply
            .current_dir(&self.path)
            // Not as a part of the repository around it.
            .env("GIT_CEILING_DIRECTORIES", root().join("target/mutants"))
            .arg("apply")
            .arg(&mutant.patch);
        let applied = said(&mut apply)?;
        if !applied.status.success() {
            return Ok(Fate::DoesNotApply(text(&applied.stderr)));
        }
        let built = self.cargo(&mutant.caught_by, true)?;
        if !built.status.success() {
            return Ok(Fate::DoesNotBuild(last_lines(&built)));
        }
        let tested = self.cargo(&mutant.caught_by, false)?;
        Ok(if tested.status.success() {
            Fate::Survived
        } else {
            Fate::Killed
        })
    }

    /// The command passes on what is not mutated, and it runs a test.
    fn assert_passes(&self, arguments: &[String]) -> Result<()> {
        let shown = arguments.join(" ");
        eprintln!("    $ {shown}");
        let tested = self.cargo(arguments, false)?;
        if !tested.status.success() {
            return Err(
                format!("`{shown}` fails without a mutant\n{}", last_lines(&tested)).into(),
            );
        }
        let is_run = |line: &str| line.starts_with("test ") && line.ends_with("... ok");
        if !text(&tested.stdout).lines().any(is_run) {
            return Err(format!("`{shown}` runs no test").into());
        }
        Ok(())
    }

    /// Runs `cargo test …` in the copy, or only builds what it needs.
    fn cargo(&self, arguments: &[String], only_build: bool) -> Result<Output> {
        let release = arguments.iter().any(|argument| argument == "--release");
        seed(release)?;
        let mut cargo = Command::new("cargo");
        cargo
            .current_dir(&self.path)
            .env("CARGO_TARGET_DIR", root().join("target/mutants/built"))
            .args(["test", "--locked"]);
        if only_build {
            cargo.arg("--no-run");
        }
        cargo.args(&arguments[2..]);
        // Chosen with all the others the dependencies have the features with which they are built for the tests. What
        // has a name is in one package only.
        if arguments.iter().any(|argument| argument == "--test") && !release {
            let packages = PURE.iter().flat_map(|package| ["--package", package]);
            cargo.args(packages);
        }
        // What is set for the tests around this one is not meant for it.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("HIGHWATER_") {
                cargo.env_remove(name);
            }
        }
        said(&mut cargo)
    }
}

/// Copies what was built of dependencies, the first time.
fn seed(release: bool) -> Result<()> {
    let profile = if release { "release" } else { "debug" };
    let needed: BTreeMap<&str, &str> = SEEDS
        .into_iter()
        .filter(|(from, _)| from.ends_with(profile) || release && from.ends_with("plugins/target"))
        .collect();
    for (from, to) in needed {
        let (from, to) = (root().join(from), root().join(to));
        if to.exists() || !from.exists() {
            continue;
        }
        eprintln!("    copying {} to {}", from.display(), to.display());
        let parent = to.parent().unwrap_or(root());
        fs::create_dir_all(parent)?;
        let mut copy = Command::new("cp");
        // With the times, by which cargo tells what is up to date.
        copy.arg("-a").arg(&from).arg(&to);
        let copied = said(&mut copy)?;
        if !copied.status.success() {
            return Err(format!("cannot copy {}: {}", from.display(), text(&copied.stderr)).into());
        }
    }
    Ok(())
}

/// Runs a command to its end and returns what it said.
fn said(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("cannot run `{program}`: {error}"))?;
    Ok(output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The end of what a command said, for a message.
fn last_lines(output: &Output) -> String {
    let all = text(&output.stdout) + &text(&output.stderr);
    let lines: Vec<&str> = all.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_says_what_it_breaks_and_what_catches_it() {
        let mutants = read().expect("all can be read");
        assert!(!mutants.is_empty());
        for mutant in mutants {
            let needs_wasm = mutant
                .caught_by
                .iter()
                .any(|word| word == "host" || word == "wasm");
            assert!(
                mutant.set == Set::Nightly || !needs_wasm,
                "{} builds the host, which is not quick",
                mutant.name
            );
        }
    }

    #[test]
    fn what_a_patch_says_may_go_over_lines() {
        let patch = "Breaks: one\n  two\nCaught by: cargo test --package a b\nSet: quick\n\n--- a/x\n+++ b/x\n";
        let mutant = parse(Path::new("a/some-name.patch"), patch).expect("a patch");
        assert_eq!(mutant.name, "some-name");
        assert_eq!(mutant.breaks, "one two");
        assert_eq!(mutant.caught_by.last().map(String::as_str), Some("b"));
        let wrong = |text: &str| parse(Path::new("x.patch"), text).err().expect("a problem");
        assert!(wrong("Breaks: x\n--- a/x").contains("`Caught by: …`"));
        assert!(wrong(&patch.replace("quick", "slow")).contains("not `slow`"));
        assert!(wrong("what is this\n").contains("is none of"));
    }
}
