//! Guests for the tests, written as core modules: small enough to see what each does wrong.

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A core module with the newest world's type attached, the way a C compiler leaves it.
pub(crate) fn with_world(wat: &str) -> Vec<u8> {
    with_world_of("0.2", wat)
}

/// The same of a version of the world.
fn with_world_of(version: &str, wat: &str) -> Vec<u8> {
    let wit = match version {
        "0.1" => include_str!("../../../../wit/0.1/operator.wit"),
        _ => include_str!("../../../../wit/operator.wit"),
    };
    let mut module = wat::parse_str(wat).expect("the text of a module");
    let mut resolve = Resolve::default();
    let package = resolve
        .push_source("operator.wit", wit)
        .expect("the world can be read");
    let world = resolve
        .select_world(&[package], Some("operator"))
        .expect("it has a world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("a module takes a section more");
    module
}

/// An operator whose functions succeed and do nothing, but for what `parts` puts in their place:
/// `(name, body)` for an exported function (its parameters are unnamed; `$ok` is the address of a
/// success, `$failed` of the failure "no good" at record 3), or `("imports", …)`, `("items", …)`, or
/// `("allocate", …)` for what comes first when the host needs memory.
pub(crate) fn operator(parts: &[(&str, &str)]) -> Vec<u8> {
    operator_of("0.2", parts)
}

/// The same, built for a version of the world: "0.1" or "0.2".
pub(crate) fn operator_of(version: &str, parts: &[(&str, &str)]) -> Vec<u8> {
    let guest = format!("highwater:operator/guest@{version}.0");
    let part = |name: &str, default: &'static str| {
        parts
            .iter()
            .find(|(part, _)| *part == name)
            .map_or(default.to_owned(), |(_, body)| (*body).to_owned())
    };
    let export = |name: &str, params: &str| {
        let body = part(name, "(global.get $ok)");
        format!("(func ${name} (export \"{guest}#{name}\") {params} (result i32) {body})\n")
    };
    let i32s = |count: usize| format!("(param {})", "i32 ".repeat(count));
    let mut wat = String::from("(module\n");
    wat += &part("imports", "");
    wat += "(memory (export \"memory\") 2)
        (global $ok i32 (i32.const 64))
        (global $failed i32 (i32.const 96))
        (global $next (mut i32) (i32.const 65536))
        ;; Address 128: the description. One output `out` of bytes, one value state `n`.
        (data (i32.const 128) \"\\00\\00\\00\\00\" \"\\00\\00\\00\\00\\00\\00\\00\\00\" \"\\00\\01\\00\\00\\01\\00\\00\\00\" \"\\40\\01\\00\\00\\01\\00\\00\\00\" \"\\00\")
        (data (i32.const 256) \"\\80\\01\\00\\00\\03\\00\\00\\00\" \"\\01\\00\\00\\00\" \"\\00\\00\\00\\00\\00\\00\\00\\00\" \"\\03\\00\\00\\00\")
        (data (i32.const 320) \"\\88\\01\\00\\00\\01\\00\\00\\00\" \"\\00\\00\\00\\00\" \"\\90\\01\\00\\00\\03\\00\\00\\00\" \"\\01\\00\\00\\00\" \"\\00\")
        (data (i32.const 384) \"out\") (data (i32.const 392) \"n\") (data (i32.const 400) \"u64\")
        ;; Address 96: a failure.
        (data (i32.const 96) \"\\01\\00\\00\\00\" \"\\00\\00\\00\\00\" \"\\a0\\01\\00\\00\\07\\00\\00\\00\" \"\\01\\00\\00\\00\\03\\00\\00\\00\")
        (data (i32.const 416) \"no good\")
        (func $allocate (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32)
          (local $at i32)\n";
    wat += &part("allocate", "");
    wat += "
          (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
          (global.set $next (i32.add (local.get $at) (local.get 3)))
          (block $fits (loop $grow
            (br_if $fits (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
            (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
            (unreachable)))
          (local.get $at))\n";
    wat += &part("items", "");
    let describe = part("describe", "(i32.const 128)");
    // The configuration, and in 0.2 what feeds the operator.
    let params = i32s(if version == "0.1" { 2 } else { 4 });
    wat += &format!("(func (export \"{guest}#describe\") {params} (result i32) {describe})\n");
    wat += &export("open", &i32s(12));
    wat += &export("process", &i32s(13));
    wat += &export("on-timers", &i32s(11));
    wat += &export("on-watermark", "(param i64)");
    wat += &export("end-of-input", &i32s(1));
    wat += &export("on-checkpoint-complete", "(param i64)");
    wat += &export("migrate", &i32s(6));
    wat += &export("close", "");
    wat += ")";
    with_world_of(version, &wat)
}

/// The import of `emit`.
pub(crate) const EMIT: &str = "(import \"highwater:operator/output@0.2.0\" \"emit\" (func $emit (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))";

/// The body of a `process` that emits what it was given.
pub(crate) const PASS_ON: &str = "
    (call $emit (i32.const 0)
      (local.get 7) (local.get 8) (local.get 9) (local.get 10)
      (local.get 1) (local.get 2) (local.get 3) (local.get 4)
      (local.get 5) (local.get 6))
    (global.get $ok)";
