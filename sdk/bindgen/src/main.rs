//! Writes `sdk/rust/src/bindings.rs` from `wit/`, or says whether it is fresh (`--check`).
//!
//! The bindings are kept in the tree because generating them in every build of every operator, with
//! the macro, costs half a minute where the SDK itself compiles in about a second.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;

/// What the file begins with.
const HEADER: &str = "\
// Generated from wit/ by `cargo run` in sdk/bindgen; edit the WIT instead. Paths name the SDK's own
// copy of wit-bindgen's runtime, so that an operator depends on `highwater` only.
";

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
    let target: PathBuf = root.join("sdk/rust/src/bindings.rs");
    let fresh = generate(&root.join("wit"))?;
    if !check {
        return fs::write(&target, fresh)
            .map_err(|error| format!("writing {}: {error}", target.display()));
    }
    let kept = fs::read_to_string(&target)
        .map_err(|error| format!("reading {}: {error}", target.display()))?;
    if kept == fresh {
        return Ok(());
    }
    Err(format!(
        "{} does not fit wit/ any more\nhint: `cargo run` in sdk/bindgen writes it anew",
        target.display()
    ))
}

/// The bindings of the world `operator` for the WIT package in `wit`.
fn generate(wit: &Path) -> Result<String, String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_dir(wit)
        .map_err(|error| format!("{error:#}"))?;
    let world = resolve
        .select_world(&[package], Some("operator"))
        .map_err(|error| format!("{error:#}"))?;
    let options = wit_bindgen_rust::Opts {
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
    };
    let mut files = Files::default();
    wit_bindgen_core::WorldGenerator::generate(
        &mut options.build(),
        &mut resolve,
        world,
        &mut files,
    )
    .map_err(|error| format!("{error:#}"))?;
    let (_, bytes) = files.iter().next().ok_or("the generator wrote nothing")?;
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    Ok(format!("{HEADER}{text}"))
}
