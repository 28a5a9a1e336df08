//! What happens when a component misbehaves, and what is no component at all. Conformance 56–59, 61, 150.
//!
//! Misdeeds are those of the plugin `faulty`: it hands every record on unchanged, except for the one
//! that its configuration names.

use std::fs;

use crate::host;
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::plugins;
use crate::scene::Scene;

/// How often the operator traps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trap {
    /// At the trigger's first arrival, and never again: a file in a granted directory remembers it.
    Once,
    /// At every arrival of the trigger.
    Always,
}

/// The word that triggers a misdeed. It stands alone in the last file of the input, so that it comes
/// when checkpoints have been completed.
const TRIGGER: &str = "abracadabra";

/// Puts the trigger after all other input.
fn write_trigger(scene: &Scene) {
    scene.write("input/last.txt", format!("Zz1:1 {TRIGGER}\n"));
}

/// The first failure is the last.
pub(crate) const NO_RESTART: &str = "[restart]\nstrategy = \"none\"\n\n";

/// What no guest should find.
const SECRET: &str = "nobody's business";

/// Where the operator that traps once remembers that it did; a directory of the scene.
const MARKERS: &str = "markers";

/// Word count with an operator between `split` and `count` that traps at the trigger.
pub(crate) fn word_count_with_a_trap(scene: &Scene, name: &str, trap: Trap) -> String {
    write_trigger(scene);
    fs::create_dir_all(scene.at(MARKERS)).expect("directories can be made");
    let grants = format!(
        "grants = {{ dirs = [{{ host = {:?}, guest = \"/markers\", write = true }}] }}",
        scene.at(MARKERS)
    );
    let config = match trap {
        Trap::Once => {
            format!("misdeed = \"trap\", on = \"{TRIGGER}\", once = \"/markers/trapped\"")
        }
        Trap::Always => format!("misdeed = \"trap\", on = \"{TRIGGER}\""),
    };
    jobs::head(name, "30ms")
        + jobs::VERSES
        + &jobs::split()
        + &jobs::operator_with("faulty", "faulty", "split", &config, &grants)
        + &jobs::count("faulty")
        + &jobs::files("totals", "count", "out", "csv")
}

/// Whether the operator that traps once has done so.
pub(crate) fn has_trapped(scene: &Scene) -> bool {
    scene.at(MARKERS).join("trapped").is_file()
}

/// Makes it trap once more.
pub(crate) fn forget_the_trap(scene: &Scene) {
    // It may not have trapped yet, which is as good.
    let _ = fs::remove_file(scene.at(MARKERS).join("trapped"));
}

/// A job in which `faulty` commits a misdeed at the trigger, and that is not restarted.
pub(crate) fn misdeed(config: &str, more: &str) -> (Scene, String) {
    let scene = Scene::new();
    scene.write("input/0.txt", oracle::verses(50));
    write_trigger(&scene);
    let job = jobs::head("misdeed", "30ms")
        + jobs::VERSES
        + &jobs::split()
        + &jobs::operator_with(
            "faulty",
            "faulty",
            "split",
            &format!("{config}, on = \"{TRIGGER}\""),
            more,
        )
        + &jobs::files("words", "faulty", "out", "lines");
    (scene, job.replace(jobs::RESTART, NO_RESTART))
}

/// Runs such a job: it fails with exit code 1, names the operator, and says all these texts.
fn fails(config: &str, more: &str, texts: &[&str]) {
    let (scene, job) = misdeed(config, more);
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(1)
        .saying(&["faulty"])
        .saying(texts)
        .without_panic();
}

#[test]
fn an_operator_that_always_traps_fails_the_job_by_its_restart_strategy() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(500));
    let job = word_count_with_a_trap(&scene, "always", Trap::Always);
    for (strategy, restarts) in [(NO_RESTART, 0), (jobs::RESTART, 3)] {
        scene.write("job.toml", job.replace(jobs::RESTART, strategy));
        let ended = host::run(scene.path(), &["run", "job.toml", "--json"]).with_code(1);
        let restarted = ended
            .stdout
            .lines()
            .filter(|line| line.contains("\"restarted\""))
            .count();
        assert_eq!(
            restarted,
            restarts,
            "restarts under {strategy}:\n{}",
            ended.transcript()
        );
        // Which operator, which subtask, which record, and where in the guest.
        ended
            .saying(&["faulty", "subtask", "record", "backtrace"])
            .without_panic();
        assert!(
            scene.output("out").is_empty(),
            "a job that failed has committed nothing"
        );
    }
}

#[test]
fn c56_an_endless_loop_is_stopped_at_its_time_limit() {
    fails(
        "misdeed = \"loop\"",
        "limits = { call-time = \"200ms\" }",
        &["call-time", "200"],
    );
}

#[test]
fn c56_memory_beyond_the_limit_is_refused() {
    fails(
        "misdeed = \"memory\"",
        "limits = { memory = \"16MiB\" }",
        &["memory", "16"],
    );
}

#[test]
fn c57_nothing_that_was_not_granted_reaches_a_component() {
    let (scene, job) = misdeed("misdeed = \"look-around\"", "");
    scene.write("job.toml", job);
    scene.write("secret", SECRET);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    // Every word has an empty value; whatever else stands there was found.
    let found = scene.output("out");
    assert!(
        !found.is_empty() && found.iter().all(|line| line.trim_matches('"').is_empty()),
        "{found:?}"
    );
}

#[test]
fn c57_an_environment_variable_is_seen_if_it_is_granted_and_no_other() {
    for (grants, is_granted) in [("", false), ("grants = { env = [\"GRANTED\"] }", true)] {
        let (scene, job) = misdeed("misdeed = \"look-around\"", grants);
        scene.write("job.toml", job);
        let variables = ["GRANTED", "WITHHELD"].map(|name| (name.to_owned(), SECRET.to_owned()));
        host::start_with_variables(scene.path(), &["run", "job.toml"], &variables)
            .wait()
            .with_code(0);
        let mut found = scene.output("out");
        found.retain(|line| line.contains(SECRET));
        let expected: &[&str] = match is_granted {
            true => &["GRANTED=nobody's business"],
            false => &[],
        };
        assert_eq!(found, expected, "with `{grants}`");
    }
}

#[test]
fn c57_a_granted_directory_is_seen_and_no_other() {
    for (grants, is_granted) in [
        ("", false),
        (
            "grants = { dirs = [{ host = \"granted\", guest = \"/there\" }] }",
            true,
        ),
    ] {
        let (scene, job) = misdeed("misdeed = \"read\", file = \"/there/secret\"", grants);
        scene.write("job.toml", job);
        scene.write("granted/secret", SECRET);
        host::run(scene.path(), &["run", "job.toml"]).with_code(0);
        let is_found = scene.output("out").iter().any(|line| line.contains(SECRET));
        assert_eq!(
            is_found,
            is_granted,
            "with `{grants}`: {:?}",
            scene.output("out")
        );
    }
}

#[test]
fn c57_without_a_granted_clock_time_stands_still_during_a_call() {
    let (scene, job) = misdeed("misdeed = \"clock\"", "");
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let found = scene.output("out");
    let times: Vec<&String> = found.iter().filter(|line| line.contains(',')).collect();
    assert!(times.len() == 1 && times[0].ends_with(",0"), "{times:?}");
}

#[test]
fn c57_with_a_granted_clock_time_passes_during_a_call() {
    let (scene, job) = misdeed("misdeed = \"clock\"", "grants = { clock = true }");
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let found = scene.output("out");
    let times: Vec<&String> = found.iter().filter(|line| line.contains(',')).collect();
    assert!(times.len() == 1 && !times[0].ends_with(",0"), "{times:?}");
}

#[test]
fn c57_an_import_that_is_neither_wasis_nor_ours_is_refused_by_its_name() {
    for import in [
        "acme:database/tables@1.0.0",
        "wasi:io/poll@0.3.0",
        "highwater:operator/joins@0.1.0",
    ] {
        let component =
            format!("(component (import \"{import}\" (instance (export \"f\" (func)))))");
        refused(&wat::parse_str(component).expect("a component"), &[import]);
    }
}

#[test]
fn c57_a_component_that_imports_what_is_not_granted_is_refused() {
    let component = r#"(component (import "wasi:http/outgoing-handler@0.2.6" (instance (export "handle" (func)))))"#;
    refused(
        &wat::parse_str(component).expect("a component"),
        &["wasi:http/outgoing-handler"],
    );
}

/// A job whose operator `count` is made of these bytes is refused with all these texts.
fn refused(bytes: &[u8], texts: &[&str]) {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(10));
    let component = scene.write("odd.wasm", bytes);
    let job = jobs::word_count("odd").replace(
        &plugins::component("count").display().to_string(),
        &component.display().to_string(),
    );
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(2)
        .saying(&["count", "odd.wasm"])
        .saying(texts)
        .without_panic();
    assert!(scene.output("out").is_empty(), "nothing was processed");
}

#[test]
fn c58_a_component_of_another_world_is_refused() {
    refused(
        &wat::parse_str("(component)").expect("a component"),
        &["highwater:operator"],
    );
}

#[test]
fn c58_a_core_module_that_is_no_operator_is_refused() {
    refused(&wat::parse_str("(module)").expect("a module"), &["module"]);
}

#[test]
fn c58_a_truncated_component_is_refused() {
    let whole = fs::read(plugins::component("count")).expect("a component");
    refused(&whole[..whole.len() / 2], &[]);
    refused(&[], &[]);
}

#[test]
fn c58_what_is_not_wasm_at_all_is_refused() {
    refused(b"#!/bin/sh\necho not wasm\n", &["WebAssembly"]);
}

#[test]
fn c59_state_survives_the_component_that_trapped() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    // Checkpoints in memory: nothing but this process knows the state, and every instance is made again.
    let job =
        word_count_with_a_trap(&scene, "c59", Trap::Once).replace("dir = \"checkpoints\"\n", "");
    scene.write("job.toml", job);
    let ended = host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    assert!(has_trapped(&scene), "the operator trapped");
    ended.saying(&["checkpoint storage: memory", "restart 1 from checkpoint"]);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "state after fresh instances took over",
    );
}

#[test]
fn c61_columns_that_do_not_fit_are_refused() {
    for (misdeed, reason) in [
        ("bad-columns", "offsets end at 1073741824"),
        ("uneven-columns", "2 values, but 1 keys"),
        ("bad-output", "there is no output 99"),
        ("bad-state", "there is no state 99"),
        ("bad-key", "there is no key 4294967294"),
    ] {
        let texts = ["subtask", reason];
        fails(&format!("misdeed = \"{misdeed}\""), "", &texts);
    }
}

#[test]
fn c61_a_job_whose_guest_passed_nonsense_publishes_nothing_of_that_call_and_goes_on_without_it() {
    let (scene, job) = misdeed("misdeed = \"bad-columns\"", "");
    scene.write("job.toml", &job);
    let refused = host::run(scene.path(), &["run", "job.toml"]);
    refused
        .with_code(1)
        .saying(&["offsets end at"])
        .without_panic();
    assert!(scene.output("out").is_empty(), "nothing is published");
    // The same job with an operator that behaves, where the other one left it.
    scene.write("job.toml", job.replace("bad-columns", "none"));
    host::run(scene.path(), &["run", "job.toml", "--resume"]).with_code(0);
    let (verses, mut words) = (oracle::verses(50), 1);
    for line in oracle::count_words(&verses) {
        let (_, count) = line.split_once(',').expect("a word and its count");
        words += count.parse::<usize>().expect("a count");
    }
    assert_eq!(scene.output("out").len(), words, "each word once");
}

/// The most memory that a host with one such operator may have taken at any time: 64 MiB for what the
/// call wrote, as much again for where it is copied to, and what the program takes by itself.
const RESIDENT_KIB_MAX: u64 = 400 << 10;

/// A number of `/proc/<process>/status`, in KiB.
pub(crate) fn memory_of(process: u32, what: &str) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{process}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|rest| rest.trim_start_matches(':').trim().split(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no {what} in {status}"))
}

#[test]
fn c150_what_one_call_writes_is_bounded_in_the_hosts_memory() {
    for fill in [
        "fill-value",
        "fill-keys",
        "fill-list",
        "fill-map",
        "fill-output",
    ] {
        let limits = "limits = { memory = \"64MiB\", call-writes = \"64MiB\" }";
        let (scene, job) = misdeed(&format!("misdeed = \"{fill}\""), limits);
        // It waits for its restart, so that there is a process to look at.
        let patient = "[restart]\nstrategy = \"fixed-delay\"\ndelay = \"1h\"\n\n";
        scene.write("job.toml", job.replace(NO_RESTART, patient));
        let mut running = host::start(scene.path(), &["run", "job.toml"]);
        let failed = running.line_with("limits.call-writes").unwrap_or_default();
        for text in ["`faulty`", "`process`", "limits.call-writes = 64.0 MiB"] {
            assert!(failed.contains(text), "{fill}: no `{text}` in `{failed}`");
        }
        running.line_with("restart 1").expect("it is to restart");
        let peak = memory_of(running.id(), "VmHWM");
        println!("{fill}: {peak} KiB at most");
        assert!(peak < RESIDENT_KIB_MAX, "{fill} took {peak} KiB");
        running.kill();
    }
}

#[test]
fn c150_a_call_that_writes_too_much_fails_the_job_by_its_restart_strategy() {
    fails(
        "misdeed = \"fill-list\"",
        "limits = { call-writes = \"1MiB\" }",
        &["call-writes", "1.0 MiB", "subtask 0", "raise that limit"],
    );
}

#[test]
fn c94_a_fresh_instance_that_does_not_open_fails_the_job() {
    let scene = Scene::new();
    scene.write("input/0.txt", oracle::verses(2000));
    fs::create_dir_all(scene.at(MARKERS)).expect("directories can be made");
    let more = format!(
        "limits = {{ recycle-memory = \"8MiB\" }}\n\
         grants = {{ dirs = [{{ host = {:?}, guest = \"/markers\", write = true }}] }}",
        scene.at(MARKERS)
    );
    let config = "misdeed = \"leak\", count = 4096, file = \"/markers/opened\"";
    let job = jobs::head("fresh", "1h")
        + jobs::VERSES
        + &jobs::split()
        + &jobs::operator_with("leaky", "faulty", "split", config, &more)
        + &jobs::discard("nowhere", "leaky");
    scene.write("job.toml", job.replace(jobs::RESTART, NO_RESTART));
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(1)
        .saying(&[
            "leaky",
            "`open` failed in the fresh instance after the last one was recycled",
        ]);
}

/// Loses 4 KiB with each of many thousand words.
#[test]
fn c94_an_operator_that_leaks_is_recycled_and_nothing_else_changes() {
    let scene = Scene::new();
    scene.write("input/0.txt", oracle::verses(2000));
    let run = |name: &str, limits: &str| {
        let job = jobs::head(name, "1h").replace("dir =", "retain-on-finish = true\ndir =")
            + jobs::VERSES
            + &jobs::split()
            + &jobs::operator_with(
                "leaky",
                "faulty",
                "split",
                "misdeed = \"leak\", count = 4096",
                &format!("limits = {{ {limits} }}"),
            )
            + &jobs::count("leaky")
            + &jobs::files("totals", "count", &format!("out-{name}"), "csv");
        scene.write(
            &format!("{name}.toml"),
            job.replace(jobs::RESTART, NO_RESTART),
        );
        host::run(scene.path(), &["run", &format!("{name}.toml"), "--json"])
    };
    let exported = |name: &str| {
        let job = format!("checkpoints/{name}");
        let exported = host::run(scene.path(), &["checkpoints", "export", &job]);
        exported.with_code(0).stdout
    };
    run("undisturbed", "memory = \"1GiB\"").with_code(0);
    let recycled = run("recycled", "memory = \"16MiB\", recycle-memory = \"8MiB\"").with_code(0);
    let finished = recycled.events().pop().expect("an event");
    let count = &finished["metrics"]["leaky"]["recycled-instances"]["value"];
    assert!(count.as_f64() > Some(2.0), "{finished}");
    assert_same_lines(
        &scene.output("out-recycled"),
        &scene.output("out-undisturbed"),
        "recycled or not",
    );
    assert_eq!(exported("recycled"), exported("undisturbed"));
    // What would be without an effect, or without an end.
    run("high", "recycle-memory = \"256MiB\"")
        .with_code(2)
        .saying(&["limits.recycle-memory", "less than limits.memory = 256MiB"]);
    run("low", "recycle-memory = \"1MiB\"")
        .with_code(2)
        .saying(&[
            "operator.leaky.limits.recycle-memory: a fresh instance takes",
            "limits.recycle-memory = 1024 KiB",
        ]);
    // `check` as well, at the place that says so.
    let check = ["check", "recycled.toml", "-D"];
    let option = "operator.leaky.limits.recycle-memory=1MiB";
    host::run(scene.path(), &[&check[..], &[option]].concat())
        .with_code(2)
        .saying(&[
            "-D operator.leaky.limits.recycle-memory",
            "a fresh instance takes",
            "more than limits.recycle-memory = 1024 KiB",
        ]);
}
