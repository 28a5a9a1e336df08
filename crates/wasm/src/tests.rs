//! Guests that do well and guests that do not, each as small as it can be.

mod calls;
pub(super) mod guests;
mod harness;
mod hostile;
mod scripts;
mod throughput;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dataflow::port::{Format, Port};
use dataflow::state::{KeyedState, Resolved, StateDescriptor, StateKind};
use dataflow::{Batch, Cells, CheckpointId, KeyGroups};
use operator::source::Waker;
use operator::{
    Call, Failure, FailureKind, JobIdentity, Operator, OperatorFactory, Output, SubtaskContext,
};
use tempfile::TempDir;

use self::guests::{EMIT, PASS_ON, operator, operator_of, with_world};
use super::component::LoadErrorReason;
use super::factory::Factory;
use super::world::WorldVersion;
use super::*;

/// Without a cache, and in this process, which is no `host` that could be its own child.
const OPTIONS: Options = Options {
    cache_dir: None,
    compiler: Compiler::InProcess,
    notice: |_| (),
};

/// A host without cache and a directory for components.
struct Bench {
    host: Host,
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            host: Host::new(&OPTIONS).unwrap(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("guest.wasm");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self, bytes: &[u8], limits: &Limits) -> Component {
        self.host
            .load(&self.file(bytes), limits)
            .map_err(|error| error.reason)
            .unwrap()
    }

    fn refusal(&self, bytes: &[u8]) -> String {
        let error = self
            .host
            .load(&self.file(bytes), &Limits::default())
            .map(|_| ())
            .unwrap_err();
        error.reason.to_string()
    }

    fn create(&self, bytes: &[u8], limits: &Limits) -> Result<Box<dyn Operator>, Failure> {
        factory(&self.load(bytes, limits), "{}", Grants::default()).create(&subtask(), false)
    }
}

fn factory(component: &Component, config: &str, grants: Grants) -> Arc<Factory> {
    let description = component.describe(config, &[], &grants).unwrap();
    let inputs = vec![Port {
        name: "out".into(),
        keyed: true,
        key_columns: Vec::new(),
        format: Format::Text,
    }];
    let spec = OperatorSpec {
        id: "op".into(),
        config: config.into(),
        grants,
        inputs,
        description,
        key_groups: KeyGroups::new(128).unwrap(),
    };
    component.factory(spec).unwrap()
}

fn subtask() -> SubtaskContext {
    SubtaskContext {
        operator: "op".into(),
        subtask: 0,
        parallelism: 1,
        job: JobIdentity::default(),
        run: "00000000".into(),
        generation: 0,
        attempt: 0,
        waker: Waker::new(|| {}),
    }
}

fn records(count: usize) -> Batch {
    let mut batch = Batch::default();
    for index in 0..count {
        batch.push(
            Some(format!("key {index}").as_bytes()),
            format!("value {index}").as_bytes(),
            index as i64,
        );
    }
    batch
}

/// Calls `process` with ten records; gives what was emitted.
fn process(operator: &mut dyn Operator) -> Result<Batch, Failure> {
    let mut call = Call {
        output: Output::new(1),
        processing_time: 1_700_000_000_000,
        ..Call::default()
    };
    operator.process(0, &records(10), &Resolved::default(), &mut call)?;
    call.output
        .settle(&Resolved::default(), &mut records(10))
        .unwrap();
    Ok(call.output.take(0, Batch::default).unwrap_or_default())
}

const SHORT: Duration = Duration::from_millis(50);

#[test]
fn c58_what_is_not_an_operator_is_refused_by_name() {
    let bench = Bench::new();
    let good = operator(&[]);
    let component = wat::parse_str("(component)").unwrap();
    let other_world = wat::parse_str("(component (component $c) (instance $i (instantiate $c)) (export \"wasi:http/incoming-handler@0.2.0\" (instance $i)))").unwrap();
    for (bytes, expected) in [
        (
            b"id,name\n1,2\n".to_vec(),
            "it is not WebAssembly: it begins with the text \"id,name\\n1,2\\n\"",
        ),
        (good[..good.len() - 10].to_vec(), "it is truncated"),
        (
            wat::parse_str("(module)").unwrap(),
            "it is a core module, not a component",
        ),
        (
            component,
            "it exports neither `highwater:operator/guest@0.1.0` nor `highwater:operator/guest@0.2.0`, so it is not an operator; it exports nothing",
        ),
        (other_world, "it exports `wasi:http/incoming-handler@0.2.0`"),
        (
            with_world("(module (memory (export \"memory\") 1))"),
            "it is a core module that cannot be made a component",
        ),
        (
            b"\0asm\x0d\0\x01\0\x07\x01\xff".to_vec(),
            "it is not valid WebAssembly",
        ),
    ] {
        let refusal = bench.refusal(&bytes);
        assert!(refusal.contains(expected), "{refusal}");
    }
    let missing = bench
        .host
        .load(&bench.dir.path().join("none.wasm"), &Limits::default())
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(missing.reason, LoadErrorReason::Read(_)));
}

#[test]
fn c57_imports_that_are_not_there_are_refused_by_name() {
    let bench = Bench::new();
    let import = |name: &str| {
        let wat = format!("(component (import \"{name}\" (instance (export \"f\" (func)))))");
        bench.refusal(&wat::parse_str(wat).unwrap())
    };
    for (name, expected) in [
        (
            "wasi:http/outgoing-handler@0.2.0",
            "it imports `wasi:http/outgoing-handler@0.2.0`, which this host does not provide",
        ),
        (
            "wasi:io/poll@0.3.0",
            "it imports `wasi:io/poll@0.3.0`, which this host does not provide",
        ),
        (
            "wasi:io/pools@0.2.0",
            "it imports `wasi:io/pools@0.2.0`, which this host does not provide",
        ),
        (
            "wasi:sockets/tcp@0.2.0-rc-2023-11-10",
            "it imports `wasi:sockets/tcp@0.2.0-rc-2023-11-10`, which this host does not provide",
        ),
        (
            "highwater:operator/timers@0.2.0",
            "it imports the function `f` of `highwater:operator/timers@0.2.0`, which this version of the host does not have",
        ),
        (
            "highwater:operator/state@0.3.0",
            "it is built for version 0.3.0 of the interface `highwater:operator/state`; this host supports 0.1.x and 0.2.x",
        ),
        (
            "highwater:operator/operator-state@0.1.0",
            "it imports `highwater:operator/operator-state@0.1.0`, which this host does not provide",
        ),
        (
            "highwater:operator/state@0.1.9",
            "it imports the function `f` of `highwater:operator/state@0.1.9`, which this version of the host does not have",
        ),
        (
            "highwater:operator/joins@0.1.0",
            "it imports `highwater:operator/joins@0.1.0`, which this host does not provide",
        ),
    ] {
        let refusal = import(name);
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn c57_everything_of_wasi_that_is_promised_is_linked() {
    let target = Bench::new().host;
    let target = target.target(false).unwrap();
    for (package, interfaces) in world::WASI {
        for interface in *interfaces {
            // The first and the last version.
            for version in ["0.2.0", "0.2.12"] {
                let name = format!("wasi:{package}/{interface}@{version}");
                let text = format!("(component (import \"{name}\" (instance)))");
                let bytes = wat::parse_str(text).unwrap();
                let component = wasmtime::component::Component::new(&target.engine, bytes).unwrap();
                if let Err(error) = target.linker.instantiate_pre(&component) {
                    panic!("{name}: {error:#}");
                }
            }
        }
    }
}

#[test]
fn c57_every_import_of_the_world_is_linked() {
    let bench = Bench::new();
    let target = bench.host.target(false).unwrap();
    let mut resolve = wit_parser::Resolve::default();
    for (version, wit, count) in [
        (
            WorldVersion::V01,
            include_str!("../../../wit/0.1/operator.wit"),
            6,
        ),
        (
            WorldVersion::V02,
            include_str!("../../../wit/operator.wit"),
            7,
        ),
    ] {
        let package = resolve.push_source("operator.wit", wit).unwrap();
        let world = resolve.select_world(&[package], Some("operator")).unwrap();
        let linked = every_import_is_linked(&resolve, world, version, target);
        assert_eq!(
            linked, count,
            "state, timers, time, output, log, metrics, operator-state"
        );
    }
}

fn every_import_is_linked(
    resolve: &wit_parser::Resolve,
    world: wit_parser::WorldId,
    version: WorldVersion,
    target: &engine::Target,
) -> usize {
    let mut count = 0;
    for key in resolve.worlds[world].imports.keys() {
        let wit_parser::WorldKey::Interface(id) = key else {
            panic!("the world imports interfaces");
        };
        let interface = resolve.id_of(*id).unwrap();
        let short = interface
            .split_once('/')
            .unwrap()
            .1
            .split_once('@')
            .unwrap()
            .0;
        let (_, known) = imports::interfaces(version)
            .find(|(name, _)| *name == short)
            .unwrap();
        let functions: Vec<&str> = resolve.interfaces[*id]
            .functions
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(*known, functions, "{interface}");
        if functions.is_empty() {
            continue;
        }
        let text = format!("(component (import \"{interface}\" (instance)))");
        let component =
            wasmtime::component::Component::new(&target.engine, wat::parse_str(text).unwrap())
                .unwrap();
        if let Err(error) = target.linker.instantiate_pre(&component) {
            panic!("{interface}: {error:#}");
        }
        count += 1;
    }
    count
}

#[test]
fn an_operator_of_either_version_runs_and_the_newer_one_learns_what_feeds_it() {
    let bench = Bench::new();
    // Of 0.2 the names of its inputs are what it was given: the first word of each port is its name.
    let inputs =
        "(i32.store (i32.const 132) (local.get 2)) (i32.store (i32.const 136) (local.get 3))";
    for version in ["0.1", "0.2"] {
        let describe = match version {
            "0.1" => "(i32.const 128)".to_owned(),
            _ => format!(
                "{inputs} (if (i32.eq (local.get 3) (i32.const 1)) (then
                   (i32.store (i32.const 132) (local.get 2)))) (i32.const 128)"
            ),
        };
        let parts = [
            ("imports", EMIT),
            ("process", PASS_ON),
            ("describe", &describe),
        ];
        let parts =
            parts.map(|(name, part)| (name, part.replace("@0.2.0", &format!("@{version}.0"))));
        let parts: Vec<(&str, &str)> = parts
            .iter()
            .map(|(name, part)| (*name, &part[..]))
            .collect();
        let component = bench.load(&operator_of(version, &parts), &Limits::default());
        assert_eq!(component.world_version(), format!("{version}.0"));
        let fed = Port {
            name: "verses".into(),
            keyed: true,
            key_columns: Vec::new(),
            format: Format::Text,
        };
        let described = component
            .describe("{}", &[fed], &Grants::default())
            .unwrap();
        let expected = if version == "0.1" { "in" } else { "verses" };
        assert_eq!(described.inputs, [expected]);
        let mut operator = factory(&component, "{}", Grants::default())
            .create(&subtask(), false)
            .unwrap();
        assert_eq!(process(&mut *operator).unwrap(), records(10));
    }
}

#[test]
fn what_a_version_of_the_world_cannot_declare_is_refused_by_name() {
    let bench = Bench::new();
    for (version, scope, expected) in [
        (
            "0.1",
            1,
            "state `n` has the scope `operator`, which a component of version 0.1 cannot use",
        ),
        (
            "0.1",
            2,
            "state `n` has the scope `broadcast`, which a component of version 0.1 cannot use",
        ),
        (
            "0.2",
            1,
            "state `n` has the scope `operator-split` and the kind `value`; with this scope its kind is `list`",
        ),
        (
            "0.2",
            2,
            "state `n` has the scope `operator-union` and the kind `value`; with this scope its kind is `list`",
        ),
        (
            "0.2",
            3,
            "state `n` has the scope `broadcast` and the kind `value`; with this scope its kind is `map`",
        ),
    ] {
        let describe = format!("(i32.store8 (i32.const 329) (i32.const {scope})) (i32.const 128)");
        let guest = operator_of(version, &[("describe", &describe)]);
        let component = bench.load(&guest, &Limits::default());
        let failure = component
            .describe("{}", &[], &Grants::default())
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::Config);
        assert!(failure.message.contains(expected), "{failure}");
    }
}

#[test]
fn c73_operator_state_that_was_not_declared_is_refused_in_every_function_and_phase() {
    let bench = Bench::new();
    // No cells: no bytes, and the one offset 0 at a place that is zero.
    let cells = "(i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 1)";
    let result = "(i32.const 2048)";
    let scan = "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1)";
    for (name, words, arguments) in [
        ("list-load", 2, result.to_owned()),
        ("list-append", 5, cells.to_owned()),
        ("list-replace", 5, cells.to_owned()),
        ("map-load", 6, format!("{cells} {result}")),
        ("map-store", 9, format!("{cells} {cells}")),
        ("map-remove", 5, cells.to_owned()),
        ("map-scan", 9, format!("{scan} {result}")),
    ] {
        let import = format!(
            "(import \"highwater:operator/operator-state@0.2.0\" \"{name}\" (func $f (param {})))",
            "i32 ".repeat(words)
        );
        let call = format!("(call $f (i32.const 1) {arguments}) (global.get $ok)");
        let guest = |phase: &str| operator(&[("imports", &import), (phase, &call)]);
        let mut operator = bench.create(&guest("process"), &Limits::default()).unwrap();
        let failure = process(&mut *operator).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Protocol, "{name}: {failure}");
        let expected = "state 1 is none of the 0 operator states";
        assert!(failure.message.contains(expected), "{name}: {failure}");
        let failure = bench
            .create(&guest("open"), &Limits::default())
            .map(drop)
            .unwrap_err();
        let expected = "state and output cannot be used in `open`";
        assert!(failure.message.contains(expected), "{name}: {failure}");
    }
}

/// The import of `register`.
const REGISTER: &str = "(import \"highwater:operator/timers@0.2.0\" \"register\" (func $register (param i32 i32 i32 i32 i32 i32 i32)))";

#[test]
fn timers_may_be_imported_and_a_call_of_them_fails_unless_they_are_declared() {
    let bench = Bench::new();
    let call = |imports: &str, body: &str| {
        let guest = operator(&[("imports", imports), ("process", body)]);
        process(&mut *bench.create(&guest, &Limits::default()).unwrap())
    };
    assert_eq!(
        call(&format!("{EMIT} {REGISTER}"), PASS_ON).unwrap(),
        records(10)
    );
    let register = "(call $register (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (global.get $ok)";
    let failure = call(REGISTER, register).unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (
            FailureKind::Protocol,
            "the operator does not declare that it uses timers (`uses-timers` of its description)"
        )
    );
}

/// The import of the clock.
const CLOCK: &str = "(import \"wasi_snapshot_preview1\" \"clock_time_get\" (func $clock (param i32 i64 i32) (result i32)))";

/// The body of a `process` that emits the 16 bytes at 600.
const EMIT_TWO: &str =
    "(call $emit (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 512) (i32.const 1)
    (i32.const 600) (i32.const 16) (i32.const 512) (i32.const 2) (i32.const 0) (i32.const 0))
  (global.get $ok)";

/// Their offsets.
const TWO: &str = "(data (i32.const 512) \"\\00\\00\\00\\00\\10\\00\\00\\00\")";

fn two(output: &Batch) -> (u64, u64) {
    let (first, second) = output.values.get(0).split_at(8);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    (number(first), number(second))
}

#[test]
fn a_core_module_may_read_clocks_while_the_host_puts_something_into_its_memory() {
    let bench = Bench::new();
    // As Go's collector does. The wall clock at 600, the monotonic one at 608.
    let guest = operator(&[
        ("imports", &format!("{EMIT} {CLOCK}")),
        ("items", TWO),
        (
            "allocate",
            "(drop (call $clock (i32.const 0) (i64.const 0) (i32.const 600)))
             (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 608)))",
        ),
        ("process", EMIT_TWO),
    ]);
    for clock in [false, true] {
        let grants = Grants {
            clock,
            ..Grants::default()
        };
        let component = bench.load(&guest, &Limits::default());
        let mut operator = factory(&component, "{}", grants)
            .create(&subtask(), false)
            .unwrap();
        for _ in 0..3 {
            let (wall, monotonic) = two(&process(&mut *operator).unwrap());
            assert_eq!(wall == 1_700_000_000_000_000_000, !clock, "{wall}");
            assert!(monotonic >= 1_000_000_000, "{monotonic}");
        }
    }
}

#[test]
fn no_clock_of_a_core_module_begins_at_zero() {
    let bench = Bench::new();
    // Read before any function of the operator is called, as Go's runtime does; then while it describes itself.
    let guest = operator(&[
        ("imports", &format!("{EMIT} {CLOCK}")),
        (
            "items",
            "(func (export \"_initialize\") (call $read))
             (func $read
               (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 600)))
               (if (i64.eqz (i64.load (i32.const 600))) (then (unreachable))))",
        ),
        ("describe", "(call $read) (i32.const 128)"),
        ("process", PASS_ON),
    ]);
    let mut operator = bench.create(&guest, &Limits::default()).unwrap();
    assert_eq!(process(&mut *operator).unwrap(), records(10));
}

#[test]
fn a_core_module_that_sleeps_finds_that_time_has_passed() {
    let bench = Bench::new();
    // A subscription at 700: the monotonic clock, for 5 s; and once more until a moment 3 s later.
    let guest = operator(&[
        (
            "imports",
            &format!(
                "{EMIT} {CLOCK} (import \"wasi_snapshot_preview1\" \"poll_oneoff\" (func $poll (param i32 i32 i32 i32) (result i32)))"
            ),
        ),
        ("items", TWO),
        (
            "process",
            &format!(
                "(drop (call $clock (i32.const 1) (i64.const 0) (i32.const 600)))
                 (i32.store (i32.const 716) (i32.const 1))
                 (i64.store (i32.const 724) (i64.const 5000000000))
                 (drop (call $poll (i32.const 700) (i32.const 800) (i32.const 1) (i32.const 900)))
                 (i64.store (i32.const 724) (i64.add (i64.load (i32.const 600)) (i64.const 8000000000)))
                 (i32.store16 (i32.const 740) (i32.const 1))
                 (drop (call $poll (i32.const 700) (i32.const 800) (i32.const 1) (i32.const 900)))
                 (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 608)))
                 {EMIT_TWO}"
            ),
        ),
    ]);
    let mut operator = bench.create(&guest, &Limits::default()).unwrap();
    let (before, after) = two(&process(&mut *operator).unwrap());
    assert_eq!(after - before, 8_000_000_000);
}

#[test]
fn a_core_module_without_a_world_gets_that_of_the_host() {
    let bench = Bench::new();
    let described = operator(&[("imports", EMIT), ("process", PASS_ON)]);
    // The custom section that bindings leave is the last.
    let section = wasmparser::Parser::new(0)
        .parse_all(&described)
        .find_map(|payload| match payload.unwrap() {
            wasmparser::Payload::CustomSection(section) => Some(section.range().start),
            _ => None,
        })
        .unwrap();
    let bare = wasm_without_tail(&described, section);
    assert_eq!(
        binary::kind(&bare),
        Ok(binary::Kind::Core(binary::Core::Exporting))
    );
    let mut operator = bench.create(&bare, &Limits::default()).unwrap();
    assert_eq!(process(&mut *operator).unwrap(), records(10));
}

/// A module without the custom section that has `at` within, and what follows it.
fn wasm_without_tail(module: &[u8], at: usize) -> Vec<u8> {
    let mut end = 8;
    for payload in wasmparser::Parser::new(0).parse_all(module) {
        if let Some((id, range)) = payload.unwrap().as_section()
            && id != 0
            && range.end < at
        {
            end = end.max(range.end);
        }
    }
    module[..end].to_vec()
}

#[test]
fn a_core_module_describes_itself_as_a_component_does() {
    let bench = Bench::new();
    let component = bench.load(&operator(&[]), &Limits::default());
    assert_eq!(component.world_version(), "0.2.0");
    assert_eq!(component.digest().len(), 64);
    let description = component.describe("{}", &[], &Grants::default()).unwrap();
    assert_eq!(description.inputs, ["in"]);
    assert_eq!(
        description.outputs,
        [Port {
            name: "out".into(),
            keyed: true,
            key_columns: Vec::new(),
            format: Format::Bytes
        }]
    );
    assert_eq!(
        (
            description.states[0].name.as_str(),
            description.states[0].kind,
            description.states[0].schema_version
        ),
        ("n", StateKind::Value, 1)
    );
}

#[test]
fn records_pass_through_a_guest_unchanged() {
    let bench = Bench::new();
    let mut operator = bench
        .create(
            &operator(&[("imports", EMIT), ("process", PASS_ON)]),
            &Limits::default(),
        )
        .unwrap();
    for _ in 0..3 {
        assert_eq!(process(&mut *operator).unwrap(), records(10));
    }
    operator.checkpoint_complete(CheckpointId(1)).unwrap();
    operator.close().unwrap();
}

#[test]
fn a_returned_failure_keeps_the_instance_and_names_the_record() {
    let bench = Bench::new();
    let mut operator = bench
        .create(
            &operator(&[("process", "(global.get $failed)")]),
            &Limits::default(),
        )
        .unwrap();
    let failure = process(&mut *operator).unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.as_str(), failure.record),
        (FailureKind::Returned, "no good", Some(3))
    );
}

#[test]
fn c59_after_a_trap_a_fresh_instance_goes_on() {
    let bench = Bench::new();
    // Traps in the first call that this instance gets, if it was opened fresh; not if restored.
    let guest = operator(&[
        ("imports", EMIT),
        ("items", "(global $restored (mut i32) (i32.const 0))"),
        (
            "open",
            "(global.set $restored (local.get 11)) (global.get $ok)",
        ),
        (
            "process",
            &format!("(if (i32.eqz (global.get $restored)) (then (unreachable))) {PASS_ON}"),
        ),
    ]);
    let mut operator = bench.create(&guest, &Limits::default()).unwrap();
    let failure = process(&mut *operator).unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (
            FailureKind::Trap,
            "`process` trapped: wasm `unreachable` instruction executed"
        )
    );
    let backtrace = failure.backtrace.unwrap();
    assert!(backtrace.contains("!process"), "{backtrace}");
    assert_eq!(process(&mut *operator).unwrap(), records(10));
}

#[test]
fn c56_an_endless_loop_is_stopped_at_its_time_limit() {
    let bench = Bench::new();
    let mut operator = bench
        .create(
            &operator(&[("process", "(loop (br 0)) (unreachable)")]),
            &Limits {
                call_time: SHORT,
                ..Limits::default()
            },
        )
        .unwrap();
    let failure = process(&mut *operator).unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (
            FailureKind::TimeLimit,
            "`process` took longer than limits.call-time = 50ms"
        )
    );
    // Also where it is met first.
    let open = bench.create(
        &guests::operator(&[("open", "(loop (br 0)) (unreachable)")]),
        &Limits {
            call_time: SHORT,
            ..Limits::default()
        },
    );
    assert_eq!(open.map(|_| ()).unwrap_err().kind, FailureKind::TimeLimit);
}

#[test]
fn c56_memory_beyond_the_limit_is_refused_and_told() {
    let bench = Bench::new();
    let limits = Limits {
        memory: 4 << 20,
        ..Limits::default()
    };
    let guest = operator(&[(
        "process",
        "(if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then (unreachable))) (global.get $ok)",
    )]);
    let failure = process(&mut *bench.create(&guest, &limits).unwrap()).unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (
            FailureKind::MemoryLimit,
            "`process` wanted 64.6 MiB of memory, more than limits.memory = 4.0 MiB"
        )
    );
    process(&mut *bench.create(&guest, &Limits::default()).unwrap()).unwrap();
    // An instance that does not even start.
    let component = bench.load(
        &guest,
        &Limits {
            memory: 1 << 10,
            ..Limits::default()
        },
    );
    assert_eq!(
        component
            .describe("{}", &[], &Grants::default())
            .unwrap_err()
            .kind,
        FailureKind::MemoryLimit
    );
}

#[test]
fn c160_what_a_guest_hands_over_takes_no_more_of_the_host_than_its_memory_may_have() {
    let bench = Bench::new();
    // Four million inputs without a name: 32 MiB of the guest, 96 MiB of the host.
    let guest = operator(&[(
        "describe",
        "(drop (memory.grow (i32.const 520)))
         (i32.store (i32.const 132) (i32.const 131072))
         (i32.store (i32.const 136) (i32.const 4000000))
         (i32.const 128)",
    )]);
    let limits = Limits {
        memory: 64 << 20,
        ..Limits::default()
    };
    let component = bench.load(&guest, &limits);
    let failure = component
        .describe("{}", &[], &Grants::default())
        .unwrap_err();
    let expected = "`describe` passed too much to the host at once: what it hands over in one call may take \
                    64.0 MiB of the host";
    assert!(failure.message.contains(expected), "{failure}");
}

#[test]
fn c160_the_host_stops_in_the_middle_of_what_it_does_for_a_call() {
    const ELEMENTS: usize = 12_000_000;
    let bench = Bench::new();
    // Empty elements for key 0: their keys and offsets are zeros of fresh memory.
    let append = format!(
        "(drop (memory.grow (i32.const 800)))
         (call $append (i32.const 0) (i32.const 131072) (i32.const {ELEMENTS})
           (i32.const 0) (i32.const 0) (i32.const 131072) (i32.const {}))
         (global.get $ok)",
        ELEMENTS + 1
    );
    let guest = operator(&[
        (
            "imports",
            "(import \"highwater:operator/state@0.2.0\" \"list-append\" (func $append (param i32 i32 i32 i32 i32 i32 i32)))",
        ),
        ("process", &append),
    ]);
    let limits = Limits {
        call_time: SHORT,
        call_writes: u64::MAX,
        ..Limits::default()
    };
    let mut operator = bench.create(&guest, &limits).unwrap();
    let groups = KeyGroups::new(128).unwrap();
    let list = StateDescriptor {
        name: "n".into(),
        kind: StateKind::List,
        schema: "u64".into(),
        schema_version: 1,
        ttl: None,
    };
    let mut call = Call {
        state: KeyedState::new(vec![list], groups.range_of(0, 1), groups),
        output: Output::new(1),
        ..Call::default()
    };
    let (mut batch, mut resolved) = (records(1), Resolved::default());
    batch.compute_hashes();
    let keys = batch.keys.as_ref();
    call.state
        .resolve(keys, &batch.hashes, &mut resolved)
        .unwrap();
    let failure = operator
        .process(0, &batch, &resolved, &mut call)
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimeLimit, "{failure}");
    let mut appended = Cells::new();
    call.state.list_load(0, 0, &mut appended).unwrap();
    assert!(
        (1..ELEMENTS).contains(&appended.len()),
        "{} elements",
        appended.len()
    );
    call.state.rollback();
    assert_eq!(call.state.stats().bytes, 0);
}

#[test]
fn c61_columns_that_do_not_fit_are_refused() {
    let bench = Bench::new();
    let emit = |arguments: &str| {
        let process_body = format!("(call $emit {arguments}) (global.get $ok)");
        let guest = operator(&[
            ("imports", EMIT),
            ("process", &process_body),
            (
                "items",
                "(data (i32.const 512) \"\\00\\00\\00\\00\\05\\00\\00\\00\\ff\\ff\\ff\\ff\\01\\00\\00\\00\")",
            ),
        ]);
        process(&mut *bench.create(&guest, &Limits::default()).unwrap()).unwrap_err()
    };
    let no_cells = "(i32.const 0) (i32.const 0) (i32.const 512) (i32.const 1)";
    for (arguments, expected) in [
        // output, keys (data, offsets), values (data, offsets), timestamps
        (
            format!("(i32.const 9) {no_cells} {no_cells} (i32.const 0) (i32.const 0)"),
            "there is no output 9, the operator has 1",
        ),
        (
            format!(
                "(i32.const 0) {no_cells} (i32.const 0) (i32.const 5) (i32.const 512) (i32.const 0) (i32.const 0) (i32.const 0)"
            ),
            "values: offsets must start with 0",
        ),
        (
            format!(
                "(i32.const 0) {no_cells} (i32.const 0) (i32.const 5) (i32.const 512) (i32.const 4) (i32.const 0) (i32.const 0)"
            ),
            "values: offsets decrease at cell 2",
        ),
        (
            format!(
                "(i32.const 0) {no_cells} (i32.const 0) (i32.const 4) (i32.const 512) (i32.const 2) (i32.const 0) (i32.const 0)"
            ),
            "values: offsets end at 5, but there are 4 bytes of data",
        ),
        (
            format!(
                "(i32.const 0) {no_cells} (i32.const 0) (i32.const 5) (i32.const 512) (i32.const 2) (i32.const 0) (i32.const 7)"
            ),
            "1 values, but 7 timestamps",
        ),
        // Lists that reach out of the guest's memory.
        (
            format!(
                "(i32.const 0) {no_cells} (i32.const 0) (i32.const -1) (i32.const 512) (i32.const 2) (i32.const 0) (i32.const 0)"
            ),
            "out of bounds",
        ),
        (
            format!(
                "(i32.const 0) {no_cells} (i32.const 0) (i32.const 5) (i32.const 512) (i32.const -1) (i32.const 0) (i32.const 0)"
            ),
            "out of bounds",
        ),
    ] {
        let failure = emit(&arguments);
        assert_eq!(failure.kind, FailureKind::Protocol, "{failure}");
        assert!(failure.message.contains(expected), "{failure}");
    }
}

#[test]
fn state_and_output_are_out_of_reach_outside_of_records() {
    let bench = Bench::new();
    let body = "(call $emit (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 512) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 512) (i32.const 1) (i32.const 0) (i32.const 0)) (global.get $ok)";
    let failure = bench
        .create(
            &operator(&[("imports", EMIT), ("open", body)]),
            &Limits::default(),
        )
        .map(|_| ())
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Protocol);
    assert_eq!(
        failure.message,
        "state and output cannot be used in `open`, only in `process`, `on-timers`, `on-watermark` and `end-of-input`"
    );
}

#[test]
fn what_a_core_module_prints_before_it_traps_is_in_the_failure() {
    let bench = Bench::new();
    let guest = operator(&[
        (
            "imports",
            "(import \"wasi_snapshot_preview1\" \"fd_write\" (func $write (param i32 i32 i32 i32) (result i32)))",
        ),
        (
            "items",
            "(data (i32.const 600) \"panic: out of luck\\n\") (data (i32.const 640) \"\\58\\02\\00\\00\\13\\00\\00\\00\")",
        ),
        (
            "process",
            "(drop (call $write (i32.const 2) (i32.const 640) (i32.const 1) (i32.const 648))) (unreachable)",
        ),
    ]);
    let failure = process(&mut *bench.create(&guest, &Limits::default()).unwrap()).unwrap_err();
    assert_eq!(
        failure.message,
        "`process` trapped: panic: out of luck (wasm `unreachable` instruction executed)"
    );
}

#[test]
fn c57_clock_and_randomness_are_the_runtimes_unless_granted() {
    let bench = Bench::new();
    // Emits one record: eight bytes of wall clock, eight of randomness.
    let guest = operator(&[
        (
            "imports",
            &format!(
                "{EMIT} (import \"wasi_snapshot_preview1\" \"clock_time_get\" (func $clock (param i32 i64 i32) (result i32)))
                 (import \"wasi_snapshot_preview1\" \"random_get\" (func $random (param i32 i32) (result i32)))"
            ),
        ),
        ("items", "(data (i32.const 512) \"\\00\\00\\00\\00\\10\\00\\00\\00\")"),
        (
            "process",
            "(drop (call $clock (i32.const 0) (i64.const 0) (i32.const 600)))
             (drop (call $random (i32.const 608) (i32.const 8)))
             (call $emit (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 512) (i32.const 1)
               (i32.const 600) (i32.const 16) (i32.const 512) (i32.const 2) (i32.const 0) (i32.const 0))
             (global.get $ok)",
        ),
    ]);
    let component = bench.load(&guest, &Limits::default());
    let run = |grants: Grants| {
        let mut operator = factory(&component, "{}", grants)
            .create(&subtask(), false)
            .unwrap();
        let output = process(&mut *operator).unwrap();
        let (time, random) = output.values.get(0).split_at(8);
        (
            u64::from_le_bytes(time.try_into().unwrap()),
            random.to_vec(),
        )
    };
    let (time, random) = run(Grants::default());
    assert_eq!(time, 1_700_000_000_000_000_000);
    assert_eq!(run(Grants::default()), (time, random.clone()));
    let (real_time, real_random) = run(Grants {
        clock: true,
        random: true,
        ..Grants::default()
    });
    assert_ne!(real_time, time);
    assert_ne!(real_random, random);
}

#[test]
fn metrics_are_read_from_the_factory() {
    let bench = Bench::new();
    let guest = operator(&[
        (
            "imports",
            "(import \"highwater:operator/metrics@0.2.0\" \"register\" (func $register (param i32 i32 i32) (result i32)))
             (import \"highwater:operator/metrics@0.2.0\" \"record\" (func $record (param i32 i32 i32 i32)))",
        ),
        ("items", "(data (i32.const 512) \"seen\") (data (i32.const 520) \"\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\24\\40\")"),
        ("open", "(drop (call $register (i32.const 0) (i32.const 512) (i32.const 4))) (global.get $ok)"),
        ("process", "(call $record (i32.const 520) (i32.const 1) (i32.const 528) (i32.const 1)) (global.get $ok)"),
    ]);
    let factory = factory(
        &bench.load(&guest, &Limits::default()),
        "{}",
        Grants::default(),
    );
    let mut operator = factory.create(&subtask(), false).unwrap();
    process(&mut *operator).unwrap();
    process(&mut *operator).unwrap();
    let metrics = factory.metrics();
    assert_eq!((metrics["seen"].value, metrics["seen"].count), (20.0, 2));
}

#[test]
fn trusted_guests_run_on_an_engine_of_their_own() {
    let bench = Bench::new();
    let guest = operator(&[("imports", EMIT), ("process", PASS_ON)]);
    let mut operator = bench
        .create(
            &guest,
            &Limits {
                trusted: true,
                ..Limits::default()
            },
        )
        .unwrap();
    assert_eq!(process(&mut *operator).unwrap(), records(10));
}

#[test]
fn guests_are_called_where_a_tokio_runtime_is_at_hand_and_where_none_is() {
    let bench = Bench::new();
    let component = bench.load(
        &operator(&[("imports", EMIT), ("process", PASS_ON)]),
        &Limits::default(),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let factory = runtime.block_on(async { factory(&component, "{}", Grants::default()) });
    let mut operator = factory.create(&subtask(), false).unwrap();
    let mut operator = std::thread::spawn(move || {
        process(&mut *operator).unwrap();
        operator
    })
    .join()
    .unwrap();
    let _entered = runtime.enter();
    process(&mut *operator).unwrap();
}
