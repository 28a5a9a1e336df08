//! Writes the bindings that are kept in the tree from `wit/`, or says whether they are fresh (`--check`):
//! those of the Rust SDK, and those of the counters in C and Go below `tests/guests/`.
//!
//! The bindings of the SDK are of the newest version of the world, those of the counters of 0.1, which every host
//! that speaks 0.2 still runs.
//!
//! The bindings of the SDK are kept because generating them in every build of every operator, with
//! the macro, costs half a minute where the SDK itself compiles in about a second. Those of the counters
//! are kept so that C and Go need no generator to be built.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "a chore prints"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use wit_bindgen_core::wit_parser::{Resolve, WorldId};
use wit_bindgen_core::{Files, WorldGenerator};

/// What the bindings of the SDK begin with.
const RUST_HEADER: &str = "\
// Generated from wit/ by `cargo run` in sdk/bindgen; edit the WIT instead. Paths name the SDK's own
// copy of wit-bindgen's runtime, so that an operator depends on `highwater` only.
";

/// What the bindings in Go depend on is kept beside them (`src/pkg` of the crate wit-bindgen-go).
const GO_RUNTIME: &str = "\nreplace go.bytecodealliance.org/pkg => ./pkg\n";

fn main() -> ExitCode {
    let check = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => {
            eprintln!("usage: highwater-bindgen [--check]");
            return ExitCode::from(2);
        }
    };
    match run(check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(check: bool) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut stale = Vec::new();
    for (path, fresh) in generate(&root.join("wit"))? {
        let path = root.join(path);
        if !check {
            let directory = path.parent().ok_or("a file without a directory")?;
            fs::create_dir_all(directory)
                .and_then(|()| fs::write(&path, fresh))
                .map_err(|error| format!("writing {}: {error}", path.display()))?;
        } else if fs::read(&path).ok().as_deref() != Some(&*fresh) {
            stale.push(format!("{} does not fit wit/", path.display()));
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}\nhint: `cargo run` in sdk/bindgen writes it again",
        stale.join("\n")
    ))
}

/// All bindings of the world `operator` for the WIT packages below `wit`, by their path from the root.
fn generate(wit: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, String> {
    let mut bindings = BTreeMap::new();

    let rust = files(wit, &mut rust().build())?;
    let (_, rust) = rust.iter().next().ok_or("the generator wrote nothing")?;
    bindings.insert(
        PathBuf::from("sdk/rust/src/bindings.rs"),
        [RUST_HEADER.as_bytes(), rust].concat(),
    );

    let c = wit_bindgen_c::Opts::default();
    let go = wit_bindgen_go::Opts {
        // `gofmt` may be missing, or another one.
        format: wit_bindgen_go::Format::False,
        ..Default::default()
    };
    for (directory, mut generator) in [
        ("tests/guests/c/bindings", c.build()),
        ("tests/guests/go", go.build()),
    ] {
        for (name, content) in files(&wit.join("0.1"), &mut *generator)?.iter() {
            let mut content = content.to_vec();
            if name == "go.mod" {
                content.extend_from_slice(GO_RUNTIME.as_bytes());
            }
            bindings.insert(Path::new(directory).join(name), content);
        }
    }
    Ok(bindings)
}

/// What the SDK's bindings are like.
fn rust() -> wit_bindgen_rust::Opts {
    wit_bindgen_rust::Opts {
        format: true,
        pub_export_macro: true,
        export_macro_name: Some("__export".to_owned()),
        default_bindings_module: Some("highwater::bindings".to_owned()),
        runtime_path: Some("wit_bindgen::rt".to_owned()),
        // Without it the section that describes the component would be named after this crate alone,
        // and two crates with bindings of one world could not be linked together.
        type_section_suffix: Some("highwater-sdk".to_owned()),
        generate_unused_types: true,
        additional_derive_attributes: vec!["PartialEq".to_owned()],
        ..wit_bindgen_rust::Opts::default()
    }
}

/// What a generator writes for the world.
fn files(wit: &Path, generator: &mut dyn WorldGenerator) -> Result<Files, String> {
    let (mut resolve, world) = world(wit)?;
    let mut files = Files::default();
    generator
        .generate(&mut resolve, world, &mut files)
        .map_err(|error| format!("{error:#}"))?;
    Ok(files)
}

fn world(wit: &Path) -> Result<(Resolve, WorldId), String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_dir(wit)
        .map_err(|error| format!("{error:#}"))?;
    let world = resolve
        .select_world(&[package], Some("operator"))
        .map_err(|error| format!("{error:#}"))?;
    Ok((resolve, world))
}
