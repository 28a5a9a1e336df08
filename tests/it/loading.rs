//! Components of strangers: what it costs to load one, and what they say. Conformance 161, 162.
//!
//! Goal: whatever is in a component's file, loading it ends within the limits, by name, and leaves the host
//! as it was; whatever a component calls itself and its parts, and whatever it says, is bounded and escaped.
//! Method: generated components, each right but for one thing that is too much. Where something must not
//! even begin, the host runs with so little address space that it could not.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use crate::host::{self, Ended, Running};
use crate::jobs;
use crate::modules;
use crate::oracle::{self, assert_same_lines};
use crate::plugins;
use crate::scene::{Scene, all_files};
use crate::servers;

/// What an operator exports.
const GUEST: &str = "highwater:operator/guest@0.2.0";

/// KiB of address space in which a host reads a component and refuses it, and in which none of the bombs
/// below is compiled.
const LITTLE: u64 = 1 << 20;

/// After this long something hangs.
const HANG: Duration = Duration::from_secs(120);

/// The variable that names the directory of compiled components; empty: none.
const CACHE: &str = "HIGHWATER_CACHE_DIR";

/// A job whose operator `odd` is made of these bytes.
fn scene(bytes: &[u8], more: &str) -> Scene {
    let scene = Scene::new();
    scene.write("odd.wasm", bytes);
    write_job(&scene, "odd.wasm", more);
    scene
}

fn write_job(scene: &Scene, component: &str, more: &str) {
    scene.write("input/some.txt", oracle::verses(10));
    let operator = format!(
        "[[operator]]\nid = \"odd\"\ncomponent = \"{component}\"\ninput = \"verses\"\n{more}\n\n"
    );
    let job = jobs::head("odd", "30ms")
        .replace(jobs::RESTART, "[restart]\nstrategy = \"none\"\n\n")
        + jobs::VERSES
        + &operator
        + &jobs::discard("nowhere", "odd");
    scene.write("job.toml", job);
}

/// `host` in this many KiB of address space, without a cache.
fn start_in(scene: &Scene, address_space: u64, command: &str) -> Running {
    let mut shell = Command::new("sh");
    let script = format!("ulimit -v {address_space}; exec \"$0\" \"$@\"");
    shell.args(["-c", &script, host::PROGRAM]).env(CACHE, "");
    host::start_by(shell, scene.path(), &[command, "job.toml"], Stdio::null())
}

/// Both that load components refuse it within so much address space, with these texts and no others of
/// more than a few lines.
fn refused(scene: &Scene, address_space: u64, texts: &[&str]) {
    for command in ["check", "run"] {
        let ended = start_in(scene, address_space, command)
            .wait()
            .with_code(2)
            .saying(texts)
            .without_panic();
        modest(&ended);
    }
}

/// The longest line that a person may get: a cut line of text, and what we say around it.
const LINE_BYTES_MAX: usize = 9 << 10;

/// What was said is short, and steers no terminal.
fn modest(ended: &Ended) {
    for line in ended.stderr.lines().chain(ended.stdout.lines()) {
        assert!(
            line.len() <= LINE_BYTES_MAX,
            "{} bytes in a line",
            line.len()
        );
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    let said = ended.stderr.len() + ended.stdout.len();
    assert!(said < 256 << 10, "{said} bytes were said");
}

/// A function whose branches pass every local variable on: what a compiler makes of it has a size of
/// `locals` times `targets`.
fn bomb(locals: usize, targets: usize) -> String {
    let declared = "i32 ".repeat(locals);
    let changed: String = (0..locals)
        .map(|local| {
            let next = (local + 1) % locals;
            format!("(local.set {local} (i32.add (local.get {next}) (i32.const {local})))")
        })
        .collect();
    let targets = "$again ".repeat(targets);
    format!(
        "(func $bomb (export \"bomb\") (local {declared})
           (loop $again {changed} (br_table {targets} (local.get 0))))"
    )
}

/// Within what is given to the compiler, for which it takes gigabytes.
fn heavy() -> String {
    (0..8)
        .map(|index| bomb(120, 60_000).replace("bomb", &format!("bomb{index}")))
        .collect()
}

/// A component of a core module.
fn component(module: &[u8]) -> Vec<u8> {
    ComponentEncoder::default()
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .expect("a component")
}

/// An operator with one more section at its end.
fn with_section(id: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = component(&modules::operator(&[]));
    section(id, content, &mut bytes);
    bytes
}

fn section(id: u8, content: &[u8], to: &mut Vec<u8>) {
    to.push(id);
    leb128(content.len(), to);
    to.extend(content);
}

/// An operator with one more core module inside.
fn with_module(module: &[u8]) -> Vec<u8> {
    const CORE_MODULE: u8 = 1;
    with_section(CORE_MODULE, module)
}

/// An operator with one more component inside, which is instantiated with it.
fn with_component(inner: &[u8]) -> Vec<u8> {
    const COMPONENT: u8 = 4;
    const INSTANCE: u8 = 5;
    let mut bytes = with_section(COMPONENT, inner);
    let mut components = 0;
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.expect("a component") {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentSection { .. } if depth == 1 => components += 1,
            _ => {}
        }
    }
    // One instance, of the last component, without arguments.
    let mut instance = vec![1, 0];
    leb128(components - 1, &mut instance);
    instance.push(0);
    section(INSTANCE, &instance, &mut bytes);
    bytes
}

#[test]
fn c161_what_no_real_component_has_is_not_given_to_the_compiler() {
    let branches = "(br_if $again (local.get 1))".repeat(60_000) + "(br_table";
    for (items, texts) in [
        (
            bomb(1_000, 60_000),
            [
                "function 1 of its core module 0",
                "local variables times branches",
                "8000000",
            ],
        ),
        (
            bomb(1_000, 1).replace("(br_table", &branches),
            [
                "function 1 of its core module 0",
                "local variables times branches",
                "8000000",
            ],
        ),
        (
            bomb(30_000, 1),
            [
                "function 1 of its core module 0",
                "30000 local variables",
                "20000",
            ],
        ),
        (
            bomb(1, 600_000),
            [
                "function 1 of its core module 0",
                "600000 targets in branch tables",
                "500000",
            ],
        ),
    ] {
        let scene = scene(&modules::operator(&[("items", &items)]), "");
        refused(&scene, LITTLE, &["operator.odd.component", "odd.wasm"]);
        refused(&scene, LITTLE, &texts);
    }
}

#[test]
fn c161_what_is_no_operator_is_refused_before_it_is_compiled() {
    let heavy = format!("(component (core module {}))", heavy());
    let scene = scene(&wat::parse_str(heavy).expect("a component"), "");
    refused(&scene, LITTLE, &["exports neither", GUEST]);
}

#[test]
fn c161_a_compile_bomb_is_stopped_at_the_limit_of_memory() {
    let scene = scene(
        &modules::operator(&[("items", &heavy())]),
        "limits = { compile-memory = \"256MiB\" }",
    );
    let texts = [
        "operator.odd.component",
        "odd.wasm",
        "compiling it needed more memory than limits.compile-memory = 256.0 MiB",
    ];
    refused(&scene, 8 << 20, &texts);
}

#[test]
fn c161_a_compile_bomb_is_stopped_at_the_limit_of_time() {
    let scene = scene(
        &modules::operator(&[("items", &heavy())]),
        "limits = { compile-time = \"300ms\" }",
    );
    let texts = [
        "operator.odd.component",
        "odd.wasm",
        "compiling it took longer than limits.compile-time = 300ms",
    ];
    refused(&scene, 16 << 20, &texts);
}

/// The processes that this one has started, by their parents' account.
fn children(process: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|line| {
            line.split(' ')
                .filter_map(|id| id.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Whether a process is there and has not ended.
fn is_alive(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    })
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < HANG, "in vain: {what}");
        thread::yield_now();
    }
}

#[test]
fn c161_a_host_that_ends_while_it_compiles_leaves_no_process() {
    let scene = scene(&modules::operator(&[("items", &heavy())]), "");
    let mut signals = vec!["INT", "TERM", "KILL"];
    let mut late = 0;
    while let Some(signal) = signals.pop() {
        let running = start_in(&scene, 16 << 20, "run");
        let host = running.id();
        let mut compiling = Vec::new();
        until("it compiles in a process of its own", || {
            compiling = children(host);
            !compiling.is_empty()
        });
        running.signal(signal);
        let ended = running.wait();
        if ended.status.code() == Some(2) {
            // It had compiled it before the signal came, and found the job wrong, as it is.
            late += 1;
            assert!(late < 100, "SIG{signal} comes too late, or is ignored");
            signals.push(signal);
            continue;
        }
        assert_eq!(
            ended.status.code(),
            None,
            "SIG{signal}: {}",
            ended.transcript()
        );
        until("the process that compiles ends", || {
            !compiling.iter().any(|process| is_alive(*process))
        });
    }
}

#[test]
fn c161_only_a_regular_file_is_a_component() {
    let scene = Scene::new();
    symlink("/dev/zero", scene.at("link.wasm")).expect("links can be made");
    fs::create_dir(scene.at("directory.wasm")).expect("directories can be made");
    let made = Command::new("mkfifo").arg(scene.at("pipe.wasm")).status();
    assert!(made.is_ok_and(|status| status.success()), "a pipe");
    let large = fs::File::create(scene.at("large.wasm")).expect("a file");
    large.set_len(300 << 20).expect("holes take no room");
    for (component, text) in [
        (
            "/dev/zero",
            "/dev/zero cannot be used: it is a device, not a regular file",
        ),
        (
            "link.wasm",
            "link.wasm cannot be used: it is a device, not a regular file",
        ),
        (
            "pipe.wasm",
            "pipe.wasm cannot be used: it is a pipe, not a regular file",
        ),
        (
            "directory.wasm",
            "directory.wasm cannot be used: it is a directory, not a regular file",
        ),
        (
            "large.wasm",
            "large.wasm cannot be used: the file has more than 256.0 MiB",
        ),
        ("none.wasm", "none.wasm does not exist"),
    ] {
        write_job(&scene, component, "");
        refused(&scene, LITTLE, &["operator.odd.component", text]);
    }
}

/// Runs the word count with this cache; its output must be right.
fn counted_with_cache(scene: &Scene, cache: &str) -> Ended {
    let variables = [(CACHE.to_owned(), cache.to_owned())];
    let ended =
        host::start_with_variables(scene.path(), &["run", "job.toml", "--fresh"], &variables);
    ended.wait().with_code(0)
}

#[test]
fn c161_a_component_is_compiled_with_and_without_a_cache() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(500));
    scene.write("job.toml", jobs::word_count("cached"));
    scene.write("file", "");
    let expected = oracle::word_count(&scene.at("input"));
    let directory = scene.at("cache").display().to_string();
    let below_a_file = scene.at("file/cache").display().to_string();
    for cache in ["", &below_a_file, &directory, &directory] {
        // What an earlier run published stays where it is.
        let _ = fs::remove_dir_all(scene.at("out"));
        counted_with_cache(&scene, cache);
        assert_same_lines(&scene.output("out"), &expected, cache);
    }
    let entries = || {
        let mut entries = all_files(&scene.at("cache"));
        entries.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "cwasm")
        });
        entries
    };
    let kept = entries();
    assert_eq!(kept.len(), 2, "one for each component: {kept:?}");
    // The code of the cache is no component: nothing that is given as one is run as it is.
    let sealed = fs::read(&kept[0]).expect("an entry");
    scene.write("odd.wasm", &sealed);
    write_job(&scene, "odd.wasm", "");
    refused(&scene, LITTLE, &["odd.wasm", "it is not WebAssembly"]);
    // Nor without its seal.
    let elf = sealed
        .windows(4)
        .position(|bytes| bytes == b"\x7fELF")
        .expect("machine code");
    scene.write("odd.wasm", &sealed[elf..]);
    refused(
        &scene,
        LITTLE,
        &["odd.wasm", "compiled machine code", "its .wasm file"],
    );
}

#[test]
fn c161_what_starts_by_itself_is_stopped_at_the_time_limit() {
    let items = "(func $forever (loop (br 0))) (start $forever)";
    let scene = scene(
        &modules::operator(&[("items", items)]),
        "limits = { call-time = \"100ms\" }",
    );
    let texts = [
        "operator.odd.component",
        "`instantiation` took longer than limits.call-time",
    ];
    refused(&scene, 8 << 20, &texts);
}

#[test]
fn c161_components_of_odd_shapes_are_refused_by_name() {
    let nested = |depth: usize| {
        let component = b"\0asm\x0d\0\x01\0";
        let mut bytes = component.to_vec();
        for _ in 0..depth {
            let mut outer = component.to_vec();
            outer.push(4);
            leb128(bytes.len(), &mut outer);
            outer.extend(&bytes);
            bytes = outer;
        }
        bytes
    };
    // Each instantiates the one before it twice.
    let mut doubling = "(component (component $c0)".to_owned();
    for level in 1..60 {
        let inner = format!("(instance (instantiate $c{}))", level - 1);
        doubling += &format!("(component $c{level} {inner} {inner})");
    }
    doubling += "(instance (instantiate $c59)))";
    let doubling = wat::parse_str(doubling).expect("a component");
    let exports: String = (0..20_000)
        .map(|index| format!("(export \"e{index}\" (instance $i))"))
        .collect();
    let exports = format!("(component (component $c) (instance $i (instantiate $c)) {exports})");
    let types: String = (1..90)
        .map(|level| {
            let inner = level - 1;
            format!("(type $t{level} (tuple $t{inner} $t{inner}))")
        })
        .collect();
    let types = format!("(component (type $t0 (tuple u8 u8)) {types})");
    let functions = format!("(module {})", "(func)".repeat(600_000));
    let long = format!(
        "(component (import \"{}\" (func)))",
        "long-".repeat(10_000) + "x"
    );
    // Each has three bytes, and costs whoever goes through them more than that.
    let sections = |header: &[u8], count| [header, &[0, 1, 0].repeat(count)].concat();
    let cases = [
        ("nested", nested(5_000), "core modules and components"),
        (
            "sections",
            sections(b"\0asm\x0d\0\x01\0", 64 << 20),
            "it has more than 200000 sections, the most that this host reads",
        ),
        (
            "sections inside",
            with_module(&sections(b"\0asm\x01\0\0\0", 200_000)),
            "sections, more than the 200000",
        ),
        (
            "instances that double",
            with_component(&doubling),
            "limits.compile-",
        ),
        (
            "exports",
            wat::parse_str(exports).expect("a component"),
            "20000 exports",
        ),
        (
            "types that double",
            wat::parse_str(types).expect("a component"),
            "type size",
        ),
        (
            "functions",
            with_module(&wat::parse_str(functions).expect("a module")),
            "functions, more than the 500000",
        ),
        (
            "a long name",
            wat::parse_str(long).expect("a component"),
            "in the name of an import",
        ),
    ];
    for (case, bytes, text) in cases {
        println!("{case}: {} bytes", bytes.len());
        let limits = "limits = { compile-memory = \"512MiB\", compile-time = \"20s\" }";
        let scene = scene(&bytes, limits);
        refused(&scene, 8 << 20, &["odd.wasm", text]);
    }
}

/// A few changes of single bytes, or a piece that is gone or there twice.
fn change(bytes: &mut Vec<u8>, random: &mut Xoshiro256PlusPlus) {
    for _ in 0..=random.next_u32() % 4 {
        let at = random.next_u32() as usize % bytes.len();
        let until = (at + random.next_u32() as usize % 32).min(bytes.len());
        match random.next_u32() % 6 {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, random.next_u32() as u8),
            2 => bytes[at] ^= 1 << (random.next_u32() % 8),
            3 => drop(bytes.drain(at..until)),
            4 => {
                let piece = bytes[at..until].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes[at] = random.next_u32() as u8,
        }
    }
}

/// `HIGHWATER_SEED=<seed>` replays one, `HIGHWATER_COMPONENTS=10000` tries that many.
#[test]
fn c161_operators_with_changed_bytes_take_no_host_down() {
    let variable = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    // Number 44 gives a package that depends on itself, for which a parser calls itself for ever.
    let (first, count) = match variable("HIGHWATER_SEED") {
        Some(seed) => (seed, 1),
        None => (0, variable("HIGHWATER_COMPONENTS").unwrap_or(100)),
    };
    let module = modules::operator(&[("imports", modules::EMIT), ("process", modules::PASS_ON)]);
    let component = component(&module);
    for seed in first..first + count {
        println!("HIGHWATER_SEED={seed}");
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let whole = [&module, &component][random.next_u32() as usize % 2];
        let mut bytes = whole.clone();
        change(&mut bytes, &mut random);
        let scene = scene(&bytes, "limits = { call-time = \"100ms\" }");
        // Refused for what it is, or else because its input has no key.
        let ended = start_in(&scene, 8 << 20, "check")
            .wait()
            .with_code(2)
            .saying(&["operator.odd"])
            .without_panic();
        modest(&ended);
    }
}

/// `HIGHWATER_SEED=<seed>` replays one, `HIGHWATER_COMPONENTS=10000` tries that many, from
/// `HIGHWATER_FIRST_SEED` on.
#[test]
fn c161_components_and_operators_that_do_anything_take_no_host_down() {
    let variable = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let (first, count) = match variable("HIGHWATER_SEED") {
        Some(seed) => (seed, 1),
        None => (
            variable("HIGHWATER_FIRST_SEED")
                .unwrap_or_else(|| RandomState::new().hash_one("components") >> 24),
            variable("HIGHWATER_COMPONENTS").unwrap_or(60),
        ),
    };
    let made = Scene::new();
    made.write(
        "shape.wasm",
        modules::operator(&[("imports", &every_import()), ("open", "(i32.const 64)")]),
    );
    let mut smith = Command::new(servers::installed("smith/debug/highwater-smith"));
    let arguments = [first.to_string(), count.to_string()];
    smith.args(arguments).args(["shape.wasm", "."]);
    let status = smith.current_dir(made.path()).status();
    assert!(status.expect("it starts").success());
    // That it gets past the first check is what makes it worth the time.
    let mut processed = 0;
    for number in 0..count {
        let seed = first + number;
        println!("HIGHWATER_SEED={seed}");
        let bytes = fs::read(made.at(&format!("{number}.wasm"))).expect("a component");
        let scene = Scene::new();
        scene.write("odd.wasm", bytes);
        scene.write("input/some.txt", oracle::verses(10));
        let odd = "[[operator]]\nid = \"odd\"\ncomponent = \"odd.wasm\"\ninput = \"split\"\n\
                   limits = { call-time = \"100ms\", memory = \"64MiB\" }\n\n";
        let job = jobs::head("odd", "30ms")
            .replace(jobs::RESTART, "[restart]\nstrategy = \"none\"\n\n")
            + jobs::VERSES
            + &jobs::split()
            + odd
            + &jobs::discard("nowhere", "odd");
        scene.write("job.toml", job);
        let ended = host::run(scene.path(), &["run", "job.toml"]).without_panic();
        modest(&ended);
        let code = ended.status.code().expect("an exit code");
        assert!(code < 3, "{code}: {}", ended.stderr);
        processed += u64::from(code == 0 || ended.stderr.contains("`process`"));
        println!("{code} {}", ended.stderr);
    }
    println!("{processed} of {count} got records");
    assert!(count < 60 || processed > 0);
}

/// The imports of an operator that uses all that the host has: interface, function, how many parameters of
/// `i32` its core function has, and its result.
const IMPORTS: &[(&str, &str, usize, &str)] = &[
    ("state", "load", 2, ""),
    ("state", "load-some", 4, ""),
    ("state", "store", 7, ""),
    ("state", "clear", 3, ""),
    ("state", "get", 4, ""),
    ("state", "put", 5, ""),
    ("state", "delete", 3, ""),
    ("state", "scan", 5, ""),
    ("state", "map-load", 8, ""),
    ("state", "map-store", 11, ""),
    ("state", "map-remove", 7, ""),
    ("state", "map-scan", 10, ""),
    ("state", "list-append", 7, ""),
    ("state", "list-load", 3, ""),
    ("time", "processing-time", 0, "(result i64)"),
    ("time", "current-watermark", 0, "(result i64)"),
    ("output", "emit", 11, ""),
    ("output", "emit-numbered", 9, ""),
    ("log", "log", 3, ""),
    ("metrics", "register", 3, "(result i32)"),
    ("metrics", "record", 4, ""),
];

fn every_import() -> String {
    let import = |(interface, function, params, result): &(&str, &str, usize, &str)| {
        let params = "i32 ".repeat(*params);
        format!(
            "(import \"highwater:operator/{interface}@0.2.0\" \"{function}\" (func (param {params}) {result}))"
        )
    };
    IMPORTS.iter().map(import).collect()
}

fn leb128(mut number: usize, to: &mut Vec<u8>) {
    while number > 0x7f {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

#[test]
fn c161_a_custom_section_of_any_size_is_let_be() {
    let mut bytes = fs::read(plugins::component("count")).expect("a component");
    let mut content = b"\x04huge".to_vec();
    content.resize(64 << 20, b'x');
    section(0, &content, &mut bytes);
    let scene = scene(&bytes, "config = { emit = \"final\" }");
    let job = fs::read_to_string(scene.at("job.toml")).expect("the job");
    let keyed = jobs::split() + "[[operator]]\nid = \"odd\"";
    let job = job.replace("[[operator]]\nid = \"odd\"", &keyed).replace(
        "input = \"verses\"\nconfig = { emit",
        "input = \"split\"\nconfig = { emit",
    );
    scene.write("job.toml", job);
    host::run(scene.path(), &["check", "job.toml"]).with_code(0);
}

/// A custom section for the text of a module: this name, these bytes.
fn custom(name: &str, bytes: &[u8]) -> String {
    let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    format!("(@custom \"{name}\" \"{escaped}\")")
}

/// Debug information of a function that covers all of the code, and in which functions are inlined into each
/// other `depth` times, all with this name.
fn debug_info(depth: usize, name: &str) -> String {
    // 1: a unit, 2: a function, 3: an inlined function. All have children.
    let abbreviations = [
        [1, 0x11, 1, 0x11, 0x01, 0x12, 0x06, 0, 0],
        [2, 0x2e, 1, 0x11, 0x01, 0x12, 0x06, 0, 0],
        [3, 0x1d, 1, 0x11, 0x01, 0x12, 0x06, 0x03, 0x0e],
    ]
    .concat();
    // The last one's attributes end as well, and so does the list.
    let abbreviations = [abbreviations, vec![0, 0, 0]].concat();
    let range = [0, 0, 0, 0, 0xff, 0xff, 0, 0];
    let mut unit = vec![4, 0, 0, 0, 0, 0, 4];
    unit.push(1);
    unit.extend(range);
    unit.push(2);
    unit.extend(range);
    for _ in 0..depth {
        unit.push(3);
        unit.extend(range);
        // Where the name is in `.debug_str`.
        unit.extend([0; 4]);
    }
    unit.extend(vec![0; depth + 2]);
    let mut info = (unit.len() as u32).to_le_bytes().to_vec();
    info.extend(unit);
    let names = [name.as_bytes(), b"\0"].concat();
    custom(".debug_abbrev", &abbreviations)
        + &custom(".debug_info", &info)
        + &custom(".debug_str", &names)
}

/// The operator traps when it is asked to describe itself, and when it is opened.
const TRAPS: [(&str, &str); 1] = [("describe", "(call $odd) (i32.const 0)")];

/// Loads an operator that traps in a function `$odd`, with these items beside it: what is said is bounded.
fn traps(case: &str, items: &str) {
    let parts = [TRAPS[0], ("items", items)];
    let scene = scene(&modules::operator(&parts), "");
    println!("{case}");
    for command in ["check", "run"] {
        let ended = start_in(&scene, 12 << 20, command)
            .wait()
            .with_code(2)
            .saying(&["operator.odd.component", "`describe` trapped"])
            .without_panic();
        modest(&ended);
    }
}

#[test]
fn c162_debug_information_of_any_shape_is_harmless() {
    let odd = "(func $odd (unreachable))";
    traps("nested deep", &(odd.to_owned() + &debug_info(40_000, "f")));
    let name = "n".repeat(1 << 20);
    traps(
        "named long and often",
        &(odd.to_owned() + &debug_info(5_000, &name)),
    );
}

#[test]
fn c162_names_of_any_size_and_content_are_bounded_in_a_backtrace() {
    let doubling = "_Z1f1AIiiE1BIS0_S0_E1CIS1_S1_E1DIS2_S2_E1EIS3_S3_E1FIS4_S4_E1GIS5_S5_E";
    for (case, name) in [
        ("C++ that doubles", doubling.to_owned()),
        ("90 KB", "n".repeat(90_000)),
        (
            "escapes",
            "x\\0aerror: all is well\\1b[2J\\e2\\80\\ae".to_owned(),
        ),
    ] {
        // A function that calls itself shows its name in every frame.
        let items = format!(
            "(func $odd (@name \"{name}\") (param) (call $deep (i32.const 200)))
             (func $deep (@name \"{name}\") (param i32)
               (if (i32.eqz (local.get 0)) (then (unreachable)))
               (call $deep (i32.sub (local.get 0) (i32.const 1))))"
        );
        traps(case, &items);
    }
    // Names that are no text.
    let names = [&[1, 5, 1, 0, 2][..], &[0xff, 0xfe]].concat();
    let scene = scene(
        &modules::operator(&[("items", &custom("name", &names))]),
        "",
    );
    refused(&scene, 8 << 20, &["odd.wasm", "malformed UTF-8"]);
}

#[test]
fn c162_names_in_errors_of_other_crates_are_bounded() {
    let name = "a".repeat(90_000);
    let import = format!("(component (import \"{name}\" (func)))");
    for (bytes, text) in [
        (
            wat::parse_str(import).expect("a component"),
            "in the name of an import",
        ),
        (
            modules::with_world(&format!("(module (import \"{name}\" \"{name}\" (func)))")),
            "cannot be made a component",
        ),
        (
            modules::with_world(&format!(
                "(module (import \"wasi_snapshot_preview1\" \"{name}\\1b[2J\" (func)))"
            )),
            "cannot be made a component",
        ),
    ] {
        let scene = scene(&bytes, "");
        refused(&scene, 8 << 20, &["odd.wasm", text]);
    }
}
