//! What one call of a guest may cost: time, bytes, output, descriptors, memory of every kind. Conformance
//! 160, 167.
//!
//! Method: an operator that wants far more than its limits, in a host whose memory and work can be looked
//! at while it waits for a restart. The call must fail by the name of the limit, and the host must not have
//! done, or held, what was asked of it.

use std::fs;
use std::process::{Command, Stdio};

use crate::guests::{NO_RESTART, memory_of, misdeed};
use crate::host::{self, PROGRAM, Running};
use crate::jobs;
use crate::modules;
use crate::plugins;
use crate::scene::{Scene, visible_files};

/// After its failure the job waits, so that there is a process to look at.
const PATIENT: &str = "[restart]\nstrategy = \"fixed-delay\"\ndelay = \"1h\"\n\n";

/// Runs a job until an operator has failed with all these texts in one line, and waits for its restart.
fn failed(scene: &Scene, job: &str, texts: &[&str]) -> Running {
    scene.write("job.toml", job.replace(NO_RESTART, PATIENT));
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    let first = texts.first().expect("a text");
    let line = running.line_with(first).unwrap_or_default();
    for text in texts {
        assert!(line.contains(text), "no `{text}` in `{line}`");
    }
    running.line_with("restart 1").expect("it is to restart");
    running
}

/// Hundredths of seconds of processor time that a process has used.
fn processor_time(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process is there");
    let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |field: usize| fields[field].parse::<u64>().expect("a number");
    // User and system, fields 14 and 15 of proc(5).
    number(11) + number(12)
}

#[test]
fn c160_a_call_is_stopped_while_the_host_works_for_it() {
    // Eight million fields in one call of the host take it longer than half a minute.
    let config = "misdeed = \"store-many\", count = 8_000_000";
    let limits = "limits = { call-time = \"1s\", call-writes = \"2GiB\" }";
    let (scene, job) = misdeed(config, limits);
    let texts = ["limits.call-time = 1s", "`faulty`", "`process`"];
    let running = failed(&scene, &job, &texts);
    let used = processor_time(running.id());
    println!("{used} hundredths of a second");
    // Work, not time: starting, compiling, the call, and taking back what it did.
    assert!(
        used < 1000,
        "the host worked for {used} hundredths of a second"
    );
    running.kill();
}

#[test]
fn c160_output_counts_on_all_outputs_together_with_the_keys_given_by_number() {
    let scene = Scene::new();
    // The key is 512 KiB long, and each of 16 outputs gets it 400 times: 3 GiB.
    scene.write("input/0.txt", "x".repeat(512 << 10) + "\n");
    let faulty = jobs::operator_with(
        "faulty",
        "faulty",
        "verses",
        "misdeed = \"emit-numbered\", count = 400",
        "limits = { memory = \"64MiB\" }",
    );
    let job = jobs::head("numbered", "30ms")
        + &keyed_verses()
        + &faulty
        + &jobs::discard("none", "faulty");
    let job = job.replace(jobs::RESTART, NO_RESTART);
    let running = failed(
        &scene,
        &job,
        &["limits.call-writes", "`faulty`", "256.0 MiB"],
    );
    let peak = memory_of(running.id(), "VmHWM");
    println!("{peak} KiB at most");
    assert!(peak < 400 << 10, "the host took {peak} KiB");
    running.kill();
}

#[test]
fn c160_what_a_call_loads_is_bounded_by_the_memory_that_is_to_hold_it() {
    // 8 MiB a hundred and twenty times, for a guest with 64 MiB.
    let config = "misdeed = \"load-large\", count = 120";
    let (scene, job) = misdeed(config, "limits = { memory = \"64MiB\" }");
    let texts = ["limits.memory", "`faulty`", "64.0 MiB"];
    let running = failed(&scene, &job, &texts);
    let peak = memory_of(running.id(), "VmHWM");
    println!("{peak} KiB at most");
    assert!(peak < 400 << 10, "the host took {peak} KiB");
    running.kill();
}

/// The lines of the input, each its own key.
fn keyed_verses() -> String {
    jobs::VERSES.trim_end().to_owned() + "\nkey = \"line\"\n\n"
}

/// A grant of the directory `data` of a scene, read-only.
const DATA: &str = "grants = { dirs = [{ host = \"data\", guest = \"/data\" }] }";

#[test]
fn c160_open_files_are_bounded_and_what_the_host_opens_is_not_touched() {
    let open = |count: u32| {
        let config = format!("misdeed = \"open-files\", file = \"/data/some\", count = {count}");
        let (scene, job) = misdeed(&config, DATA);
        scene.write("data/some", "text");
        (scene, job)
    };
    let (scene, job) = open(30_000);
    let texts = ["limits.resources = 256", "`faulty`", "`process`"];
    let running = failed(&scene, &job, &texts);
    let open_now = fs::read_dir(format!("/proc/{}/fd", running.id())).expect("descriptors");
    // What the guest had open is closed.
    assert!(open_now.count() < 100);
    running.kill();
    // Fewer are no misdeed.
    let (scene, job) = open(100);
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
}

#[test]
fn c160_a_pipe_in_a_granted_directory_keeps_no_call_waiting() {
    let (scene, job) = misdeed("misdeed = \"read\", file = \"/data/pipe\"", DATA);
    scene.write("data/some", "text");
    let made = Command::new("mkfifo")
        .arg(scene.path().join("data/pipe"))
        .status();
    assert!(made.expect("mkfifo").success());
    scene.write("job.toml", job);
    // It gets an error: a wait would end at the time limit, and leave a thread and a descriptor.
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let texts = visible_files(&scene.path().join("out"));
    let mut texts = texts
        .iter()
        .map(|path| fs::read_to_string(path).expect("output"));
    assert!(texts.any(|text| text.contains("ot supported")));
}

#[test]
fn c160_instances_that_may_open_more_than_there_is_do_not_start() {
    let (scene, job) = misdeed("misdeed = \"none\"", DATA);
    scene.write("data/some", "text");
    scene.write("job.toml", job);
    let run = |limit: &str, arguments: &[&str]| {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script, PROGRAM]);
        host::start_by(shell, scene.path(), arguments, Stdio::null()).wait()
    };
    // One instance fits into half of what there is, two do not.
    run("600", &["run", "job.toml"]).with_code(0);
    run("600", &["run", "job.toml", "--fresh", "-p", "2"])
        .with_code(2)
        .saying(&[
            "faulty",
            "limits.resources = 256",
            "ulimit -n",
            "44 of the 300",
        ]);
    let fewer = ["run", "job.toml", "--fresh", "-p", "2", "-D"];
    let fewer = [&fewer[..], &["operator.faulty.limits.resources=100"]].concat();
    run("600", &fewer).with_code(0);
}

#[test]
fn c160_lists_of_directories_are_bounded() {
    let config = "misdeed = \"list-directories\", file = \"/data\", count = 100";
    let (scene, job) = misdeed(config, DATA);
    for number in 0..2000 {
        scene.write(&format!("data/{number}"), "");
    }
    let texts = ["more than 4 directories", "`faulty`", "`process`"];
    failed(&scene, &job, &texts).kill();
}

/// A job with an operator that is a module of these parts, and that is not restarted.
fn module(parts: &[(&str, &str)], limits: &str) -> (Scene, String) {
    let scene = Scene::new();
    scene.write("input/0.txt", "a line\n");
    let component = scene.write("module.wasm", modules::operator(parts));
    let job = jobs::head("module", "30ms")
        + &keyed_verses()
        + &format!(
            "[[operator]]\nid = \"module\"\ncomponent = {component:?}\ninput = \"verses\"\n{limits}\n\n"
        )
        + &jobs::discard("none", "module");
    (scene, job.replace(jobs::RESTART, NO_RESTART))
}

#[test]
fn c167_tables_count_in_the_memory_limit() {
    let limits = "limits = { memory = \"64MiB\" }";
    // 90 tables of 99,000 elements: from the start, and by growing.
    let declared = "(table 99000 funcref)\n".repeat(90);
    let (scene, job) = module(&[("items", &declared)], limits);
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(2)
        .saying(&["module", "limits.memory = 64.0 MiB"])
        .without_panic();
    let empty = "(table 0 funcref)\n".repeat(90);
    let grow = (0..90).map(|table| {
        format!(
            "(if (i32.eq (table.grow {table} (ref.null func) (i32.const 99000)) (i32.const -1)) (then (unreachable)))\n"
        )
    });
    let grow = grow.collect::<String>() + "(global.get $ok)";
    let parts = [("items", empty.as_str()), ("end-of-input", grow.as_str())];
    let (scene, job) = module(&parts, limits);
    failed(
        &scene,
        &job,
        &["limits.memory = 64.0 MiB", "`module`", "`end-of-input`"],
    )
    .kill();
}

/// A number as WebAssembly writes it.
fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A section of a component or a module.
fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &leb128(content.len()), content].concat()
}

/// How many core modules a component has of its own.
fn core_modules(component: &[u8]) -> usize {
    let (mut rest, mut count) = (&component[8..], 0);
    while let Some((id, tail)) = rest.split_first() {
        let digits = tail
            .iter()
            .position(|byte| byte & 0x80 == 0)
            .expect("a number")
            + 1;
        let size = tail[..digits].iter().rev();
        let size = size.fold(0, |size, byte| size << 7 | usize::from(byte & 0x7f));
        count += usize::from(*id == 1);
        rest = &tail[digits + size..];
    }
    count
}

#[test]
fn c167_core_instances_count_in_the_memory_limit() {
    // A module of 300,000 globals, and 180 instances of it: 900 MB.
    let mut component = fs::read(plugins::component("faulty")).expect("a component");
    let number = core_modules(&component);
    let globals = [leb128(300_000), b"\x7e\x01\x42\x00\x0b".repeat(300_000)].concat();
    let module = [&b"\0asm\x01\0\0\0"[..], &section(6, &globals)].concat();
    let instance = [vec![0], leb128(number), vec![0]].concat();
    component.extend(section(1, &module));
    component.extend(section(2, &[leb128(180), instance.repeat(180)].concat()));
    let (scene, job) = misdeed("misdeed = \"none\"", "limits = { memory = \"64MiB\" }");
    let path = scene.write("many.wasm", component);
    let faulty = plugins::component("faulty").display().to_string();
    scene.write(
        "job.toml",
        job.replace(&faulty, &path.display().to_string()),
    );
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(2)
        .saying(&["faulty", "limits.memory = 64.0 MiB"])
        .without_panic();
}
