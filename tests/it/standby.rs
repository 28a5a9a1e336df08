//! `host run --standby`: a process that waits for the owner of a job directory, and takes its place.
//! Conformance 85, 86, 129, 144, 155.
//!
//! Method: owners are killed (SIGKILL), stopped (SIGSTOP), signalled or left to their end while standbys wait
//! for them. What a job must commit is what the same job commits alone, undisturbed. A storm kills one owner
//! after the other, at moments from a seed, five times; `HIGHWATER_STANDBY_KILLS=50` makes it that many. A kill
//! counts only if the process died of it, and the standby said that it takes over.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::control;
use crate::gate::{Gate, HELD};
use crate::guests::NO_RESTART;
use crate::host::{self, Running};
use crate::jobs;
use crate::kills::Moments;
use crate::oracle::assert_same_lines;
use crate::scene::{Scene, all_files, contents};
use crate::servers::{Kind, Server};

/// Longer than any test is let run: nobody is waited for in it.
const NEVER: &str = "checkpoint.lease-timeout=1h";

/// How often an owner is killed, if nothing else is asked for.
const KILLS: u64 = 5;

/// How many standbys wait for one owner.
const MANY: usize = 10;

const STANDBY: [&str; 4] = ["run", "job.toml", "--standby", "--json"];

/// Numbers, each of them in the output at once and counted at the end.
fn job(count: u64, rate: &str) -> String {
    jobs::head("c85", "30ms").replace("name = ", "id = \"owned\"\nname = ")
        + &jobs::ENDLESS.replace("rate = 2000", &format!("count = {count}\n{rate}"))
        + &jobs::count("numbers")
        + &jobs::files("totals", "count", "out", "csv")
        + &jobs::keys("seen", "numbers", "seen")
}

/// A source of the lines of `input/*.txt`, each of them its own key.
fn lines_with_keys() -> String {
    jobs::VERSES.trim_end().to_owned() + "\nkey = \"line\"\n\n"
}

/// How many numbers there are, if little is done to their job.
const NUMBERS: u64 = 12_000;

fn scene() -> Scene {
    let scene = Scene::new();
    scene.write("job.toml", job(NUMBERS, "rate = 4000"));
    scene
}

/// The output is that of an undisturbed run.
fn assert_output(found: &Scene, count: u64) {
    let scene = Scene::new();
    scene.write("job.toml", job(count, ""));
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    for directory in ["out", "seen"] {
        assert_same_lines(
            &found.output(directory),
            &scene.output(directory),
            "output after takeovers",
        );
    }
}

/// Starts a standby, and waits until it waits.
fn stand_by(scene: &Scene, more: &[&str]) -> Running {
    let mut standby = host::start(scene.path(), &[&STANDBY, more].concat());
    standby.event("waiting");
    standby
}

/// What it takes over from, in one word.
fn takes_over(standby: &mut Running) -> String {
    let event = standby.event("took-over");
    event["because"].as_str().expect("a reason").to_owned()
}

fn kills() -> u64 {
    match std::env::var("HIGHWATER_STANDBY_KILLS") {
        Ok(kills) => kills
            .parse()
            .expect("HIGHWATER_STANDBY_KILLS is a whole number"),
        Err(_) => KILLS,
    }
}

/// Kills owners under load, each of which has a standby, and lets the last one come to its end.
fn storm(count: u64, because: &str, scene: &Scene, start: &dyn Fn() -> Running) {
    let mut moments = Moments::new();
    // The first one finds nobody to wait for.
    let mut owner = start();
    owner.event("started");
    let mut taken = 0;
    for kill in 1..=kills() {
        let mut standby = start();
        standby.event("waiting");
        for _ in 0..=moments.below(3) {
            owner.event("checkpoint-completed");
        }
        thread::sleep(Duration::from_millis(moments.below(40)));
        let killed = owner.kill().expect("there is input for longer");
        assert_eq!(takes_over(&mut standby), because, "kill {kill}");
        let restored = standby.event("restored")["checkpoint"].as_u64();
        let told = killed.completions().last().map(|last| last.id);
        assert!(restored >= told, "kill {kill}: {restored:?}, {told:?}");
        standby.event("started");
        standby.is_at_work();
        taken += 1;
        owner = standby;
    }
    owner.wait().with_code(0);
    println!("{taken} kills, each with a takeover");
    assert_output(scene, count);
}

/// As many numbers as the owners get to before they are killed, and some more.
fn numbers_of_a_storm() -> u64 {
    NUMBERS + kills() * 2_000
}

#[test]
fn c85_a_standby_takes_over_from_each_owner_that_is_killed() {
    let scene = Scene::new();
    let count = numbers_of_a_storm();
    scene.write("job.toml", job(count, "rate = 4000"));
    let arguments = [&STANDBY[..], &["-D", NEVER]].concat();
    storm(count, "gone", &scene, &|| {
        host::start(scene.path(), &arguments)
    });
}

/// Checkpoints in a bucket.
const BUCKET: [&str; 4] = [
    "-D",
    "checkpoint.dir=s3://checkpoints/jobs",
    "-D",
    "checkpoint.lease-timeout=2s",
];

/// A storm with its checkpoints in the server's `directory`, where no lock tells. An owner that is slower to
/// checkpoint gets further in its input until it is killed: so `count` and `rate` go together.
fn storm_over(server: &Server, directory: &str, lease: &str, count: u64, rate: u64) {
    let scene = Scene::new();
    scene.write("job.toml", job(count, &format!("rate = {rate}")));
    let directory = format!("checkpoint.dir={directory}");
    let lease = format!("checkpoint.lease-timeout={lease}");
    let arguments = [&STANDBY[..], &["-D", &directory, "-D", &lease]].concat();
    storm(count, "silent", &scene, &|| {
        host::start_with_variables(scene.path(), &arguments, &server.variables())
    });
}

#[test]
fn c85_a_standby_takes_over_from_each_owner_that_is_killed_in_a_bucket() {
    let server = Server::start(Kind::Moto);
    storm_over(
        &server,
        "s3://checkpoints/jobs",
        "2s",
        numbers_of_a_storm(),
        4000,
    );
}

#[test]
fn c129_a_standby_takes_over_from_each_owner_that_is_killed_in_azure() {
    let server = Server::start(Kind::Azurite);
    storm_over(
        &server,
        "az://checkpoints/jobs",
        "2s",
        numbers_of_a_storm(),
        4000,
    );
}

#[test]
fn c129_a_standby_takes_over_from_each_owner_that_is_killed_in_hdfs() {
    let server = Server::start(Kind::Hdfs);
    let directory = format!("{}/jobs", server.endpoint());
    // A file takes half a second there: a lease has to bear some of them one after the other.
    storm_over(&server, &directory, "5s", NUMBERS + kills() * 2_000, 1000);
}

#[test]
fn c85_of_ten_standbys_one_takes_over_and_the_others_wait_for_it() {
    let scene = scene();
    let arguments = ["-D", NEVER];
    let mut owner = host::start(
        scene.path(),
        &[&["run", "job.toml"], &arguments[..]].concat(),
    );
    owner.checkpoints(1);
    let mut standbys: Vec<Running> = (0..MANY).map(|_| stand_by(&scene, &arguments)).collect();
    owner.kill().expect("killed in the middle");
    // Each of them says that it takes over, or that it waits for the one that did.
    let mut winners = Vec::new();
    for (index, standby) in standbys.iter_mut().enumerate() {
        let event = standby.next_event().expect("it goes on");
        match event["event"].as_str() {
            Some("took-over") => winners.push((index, standby.id())),
            _ => assert_eq!(event["event"], "waiting"),
        }
    }
    let [(winner, id)] = winners[..] else {
        panic!("one takes over, not {winners:?}");
    };
    standbys.swap_remove(winner).wait().with_code(0);
    for standby in standbys {
        let ended = standby.wait().with_code(0);
        let events = ended.events();
        let last = events.last().expect("it says how it ended");
        assert_eq!(last["event"], "stood-down", "{}", ended.transcript());
        assert_eq!(last["why"], "finished");
        assert_eq!(events[events.len() - 2]["process"], id, "{events:?}");
    }
    assert_output(&scene, NUMBERS);
}

#[test]
fn c85_a_standby_that_waits_changes_nothing_and_ends_at_once() {
    let scene = scene();
    let arguments = ["run", "job.toml", "-D", NEVER];
    let mut owner = host::start(scene.path(), &arguments);
    owner.checkpoints(2);
    let outputs = ["checkpoints", "out", "seen"];
    let all = || outputs.map(|directory| contents(&scene.at(directory)));
    // While it stands still, whatever changes is not its doing.
    owner.while_stopped(|| {
        let before = all();
        let more = [&arguments[..], &["--standby"]].concat();
        let signals = ["TERM", "INT", "HUP"];
        let mut standbys = signals.map(|_| host::start(scene.path(), &more));
        for (standby, signal) in standbys.iter_mut().zip(signals) {
            let line = standby.line_with("standing by").expect("it says so");
            assert!(line.contains("must be shared"), "{line}");
            standby.signal(signal);
        }
        for standby in standbys {
            standby.wait().with_code(0).saying(&["changed nothing"]);
        }
        assert!(before == all(), "everything is as it was");
    });
    owner.wait().with_code(0);
    assert_output(&scene, NUMBERS);
}

#[test]
fn c85_a_job_that_is_cancelled_stopped_or_finishes_leaves_nothing_to_its_standby() {
    for (asked, why) in [
        (Some("cancel"), "cancelled"),
        (Some("stop"), "stopped"),
        (None, "finished"),
    ] {
        let scene = scene();
        let variables = control::variables(&scene);
        let mut owner = host::start_with_variables(scene.path(), &["run", "job.toml"], &variables);
        owner.checkpoints(1);
        let standby = stand_by(&scene, &[]);
        let mut told = host::start(scene.path(), &["run", "job.toml", "--standby"]);
        told.line_with("standing by").expect("it waits");
        let id = owner.id();
        if let Some(asked) = asked {
            let asked = [asked, "owned"];
            let answer = host::start_with_variables(scene.path(), &asked, &variables).wait();
            answer.with_code(0);
        }
        owner.wait().with_code(0);
        let ended = standby.wait().with_code(0);
        let last = ended.events().pop().expect("it says how it ended");
        assert_eq!(last["event"], "stood-down");
        assert_eq!(last["why"], why);
        assert_eq!(last["exit-code"], 0);
        let by = format!("was {why} by process {id}");
        told.wait().with_code(0).saying(&[&by]);
        if why == "stopped" {
            // It goes on when somebody wants it to.
            host::run(scene.path(), &["run", "job.toml", "--standby"]).with_code(0);
            assert_output(&scene, NUMBERS);
        }
    }
}

#[test]
fn c85_a_job_that_is_suspended_is_taken_over_at_once() {
    let scene = scene();
    let arguments = ["run", "job.toml", "-D", NEVER];
    let mut owner = host::start(scene.path(), &arguments);
    owner.checkpoints(1);
    let mut standby = stand_by(&scene, &["-D", NEVER]);
    owner.signal("TERM");
    owner.wait().with_code(0);
    assert_eq!(takes_over(&mut standby), "suspended");
    standby.event("restored");
    standby.wait().with_code(0);
    assert_output(&scene, NUMBERS);
}

#[test]
fn c85_a_job_that_fails_fails_its_standby_and_yesterdays_failure_does_not() {
    let scene = Scene::new();
    let gate = Gate::new(&scene);
    scene.write("input/some.txt", format!("before\n{HELD}\nboom\n"));
    let trap = "misdeed = \"trap\", on = \"boom\"";
    let job = jobs::head("c85", "30ms")
        + &lines_with_keys()
        + &gate.operator("gate", "verses")
        + &jobs::operator("faulty", "faulty", "gate", trap)
        + &jobs::files("lines", "faulty", "out", "lines");
    scene.write("job.toml", job.replace(jobs::RESTART, NO_RESTART));
    let mut owner = host::start(scene.path(), &["run", "job.toml"]);
    owner.line_with("started").expect("it starts");
    gate.holds(&mut owner);
    let standby = stand_by(&scene, &[]);
    let id = owner.id();
    gate.open();
    owner.wait().with_code(1);
    let by = format!("run by process {id}");
    let ended = standby.wait().with_code(1).saying(&[&by, "failed at"]);
    let last = ended.events().pop().expect("it says how it ended");
    assert_eq!(last["why"], "failed");
    assert_eq!(last["exit-code"], 1);
    // It waited for nobody, so it is a start like any other.
    let next = host::run(scene.path(), &STANDBY).with_code(1);
    let started = next.events().iter().any(|it| it["event"] == "started");
    assert!(started, "{}", next.transcript());
}

#[test]
fn c85_a_job_that_has_finished_before_needs_no_standby() {
    let scene = Scene::new();
    scene.write("job.toml", job(1_000, ""));
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    host::run(scene.path(), &["run", "job.toml", "--standby"])
        .with_code(0)
        .saying(&["has finished already"]);
    assert_output(&scene, 1_000);
}

#[test]
fn c86_a_paused_owner_is_succeeded_and_fenced_when_it_wakes() {
    let scene = scene();
    let lease = ["-D", "checkpoint.lease-timeout=2s"];
    let mut owner = host::start(scene.path(), &[&["run", "job.toml"], &lease[..]].concat());
    owner.checkpoints(2);
    let mut standby = stand_by(&scene, &lease);
    owner.stand_still();
    assert_eq!(takes_over(&mut standby), "silent");
    standby.checkpoints(2);
    owner.signal("CONT");
    owner
        .wait()
        .with_code(1)
        .saying(&["another has taken its place", "has taken it over"])
        .without_panic();
    let ended = standby.wait().with_code(0);
    assert_eq!(ended.events().last().expect("an end")["event"], "finished");
    assert_output(&scene, NUMBERS);
}

#[test]
fn c144_a_standby_looks_for_checkpoints_when_it_is_its_turn() {
    let scene = scene();
    let seldom = ["-D", "checkpoint.interval=1h", "-D", NEVER];
    let mut owner = host::start(scene.path(), &[&["run", "job.toml"], &seldom[..]].concat());
    owner.line_with("started").expect("it starts");
    let mut standby = stand_by(&scene, &seldom);
    owner.signal("USR1");
    let completed = owner.checkpoints(1);
    owner.kill().expect("killed in the middle");
    assert_eq!(takes_over(&mut standby), "gone");
    assert_eq!(standby.event("restored")["checkpoint"], completed.id);
    standby.wait().with_code(0);
    assert_output(&scene, NUMBERS);
}

#[test]
fn c155_a_standby_starts_where_a_killed_start_began() {
    let scene = scene();
    // Of another job.
    let mut other = host::start(
        scene.path(),
        &[
            "run",
            "job.toml",
            "-D",
            "job.id=other",
            "-D",
            "sink.totals.path=out2",
            "-D",
            "sink.seen.path=seen2",
        ],
    );
    let from = other.checkpoints(2);
    other.kill().expect("killed in the middle");
    let seldom = ["-D", "checkpoint.interval=1h", "-D", NEVER];
    let nowhere = ["-s", "checkpoints/other/chk-999"];
    // The job has never run, so what is named counts.
    host::run(scene.path(), &[&STANDBY[..], &seldom, &nowhere].concat())
        .with_code(2)
        .saying(&["chk-999"]);
    let named = ["-s", from.path.as_str()];
    let mut owner = host::start(scene.path(), &[&STANDBY[..], &seldom, &named].concat());
    assert_eq!(owner.event("restored")["checkpoint"], from.id);
    owner.event("started");
    // Now it does not count any more.
    for _ in 0..2 {
        let mut standby = stand_by(&scene, &[&seldom[..], &nowhere].concat());
        owner.kill().expect("killed before its first checkpoint");
        assert_eq!(takes_over(&mut standby), "gone");
        assert_eq!(standby.event("restored")["path"], from.path.as_str());
        standby.event("started");
        owner = standby;
    }
    owner.kill().expect("killed in the middle");
}

#[test]
fn a_standby_reads_the_input_that_is_there_when_it_takes_over() {
    let scene = Scene::new();
    let gate = Gate::new(&scene);
    scene.write("input/1.txt", format!("one\n{HELD}\n"));
    let job = jobs::head("c85", "30ms")
        + &lines_with_keys()
        + &gate.operator("gate", "verses")
        + &jobs::files("lines", "gate", "out", "lines");
    scene.write("job.toml", job);
    let mut owner = host::start(scene.path(), &["run", "job.toml", "-D", NEVER]);
    gate.holds(&mut owner);
    let mut standby = stand_by(&scene, &["-D", NEVER]);
    scene.write("input/1.txt", format!("one\n{HELD}\nmore\n"));
    scene.write("input/2.txt", "two\n");
    owner.kill().expect("killed at the gate");
    gate.open();
    takes_over(&mut standby);
    standby.wait().with_code(0);
    assert_eq!(scene.output("out"), [HELD, "more", "one", "two"]);
}

#[test]
fn a_standby_takes_columns_as_they_are_when_it_takes_over() {
    let scene = Scene::new();
    let id = [
        "-D",
        "job.id=owned",
        "-D",
        NEVER,
        "-D",
        "checkpoint.interval=1h",
    ];
    // Whatever owns the directory, and has no checkpoint.
    scene.write("owner.toml", jobs::counting("c85", "1h"));
    let mut owner = host::start(scene.path(), &[&["run", "owner.toml"], &id[..]].concat());
    owner.line_with("started").expect("it starts");
    let rows = "[[source]]\nid = \"rows\"\nconnector = \"file\"\npath = \"input/*.csv\"\n\
                format = \"csv\"\nkey = \"name\"\n\n";
    let job = jobs::head("c85", "1h")
        + rows
        + &jobs::operator("values", "select", "rows", "columns = [\"value\"]")
        + &jobs::files("out", "values", "out", "lines");
    scene.write("job.toml", job);
    scene.write("input/1.csv", "name,value\nx,1\n");
    let mut standby = stand_by(&scene, &id);
    scene.write("input/1.csv", "name,more,value\nx,y,2\n");
    owner.kill().expect("killed in the middle");
    takes_over(&mut standby);
    standby.wait().with_code(0);
    assert_eq!(scene.output("out"), ["2"]);
}

#[test]
fn a_standby_waits_for_a_storage_that_does_not_answer() {
    let server = Server::start(Kind::Moto);
    let scene = scene();
    let keeps_on = ["-D", "checkpoint.tolerable-failures=1000"];
    let run = |more: &[&str]| {
        let arguments = [&["run", "job.toml"], &BUCKET[..], &keeps_on, more].concat();
        host::start_with_variables(scene.path(), &arguments, &server.variables())
    };
    let mut owner = run(&[]);
    owner.checkpoints(1);
    let mut standby = run(&["--standby"]);
    standby.line_with("standing by").expect("it waits");
    server.freeze();
    standby
        .line_with("does not answer, and the standby goes on waiting")
        .expect("it warns");
    server.thaw();
    standby.line_with("answers again").expect("it says so");
    owner.kill().expect("killed in the middle");
    standby.line_with("taking over").expect("it takes over");
    let ended = standby.wait().with_code(0);
    let warnings = ended.stderr.matches("does not answer").count();
    assert_eq!(warnings, 1, "{}", ended.transcript());
    assert_output(&scene, NUMBERS);
}

#[test]
fn a_standby_does_not_begin_in_a_directory_that_is_not_mounted() {
    let scene = scene();
    let arguments = ["run", "job.toml", "-D", NEVER];
    let mut owner = host::start(scene.path(), &arguments);
    owner.checkpoints(1);
    let mut standby = host::start(scene.path(), &[&arguments[..], &["--standby"]].concat());
    standby.line_with("standing by").expect("it waits");
    // It makes directories that it misses.
    owner.stand_still();
    let (mounted, elsewhere) = (scene.at("checkpoints"), scene.at("elsewhere"));
    fs::rename(&mounted, &elsewhere).expect("a directory can be moved");
    fs::create_dir(&mounted).expect("what it was mounted on");
    standby
        .line_with("is not mounted any more")
        .expect("it warns");
    assert!(contents(&mounted).is_empty(), "nothing is made there");
    fs::remove_dir(&mounted).expect("it is empty");
    fs::rename(&elsewhere, &mounted).expect("a directory can be moved");
    standby.line_with("answers again").expect("it says so");
    owner.kill().expect("killed in the middle");
    standby.wait().with_code(0).saying(&["taking over"]);
    assert_output(&scene, NUMBERS);
}

#[test]
fn a_standby_reads_ahead_and_warns_of_damage() {
    let scene = Scene::new();
    scene.write("job.toml", job(10 * NUMBERS, "rate = 4000"));
    let files = ["-D", "checkpoint.inline-threshold=0B"];
    let seldom = ["-D", "checkpoint.interval=1h"];
    let lease = ["-D", "checkpoint.lease-timeout=15s"];
    let arguments = [&["run", "job.toml"], &files[..], &seldom, &lease].concat();
    let mut owner = host::start(scene.path(), &arguments);
    owner.line_with("started").expect("it starts");
    // The first may come before the first record, and hold nothing.
    let shared = scene.at("checkpoints/owned/shared");
    let completed = (0..100).find_map(|_| {
        owner.signal("USR1");
        let completed = owner.checkpoints(1).id;
        (!all_files(&shared).is_empty()).then_some(completed)
    });
    let completed = completed.expect("a checkpoint with state");
    // Its renewal puts it on record, and the standby reads what is on record.
    let lease = scene.at("checkpoints/owned/_lease");
    let record = format!("\"completed\":{completed}}}");
    owner.wait_until("renewal", || {
        let entries = contents_if_readable(&lease);
        entries.iter().any(|entry| entry.contains(&record))
    });
    owner.stand_still();
    let state = all_files(&shared).pop().expect("state in a file");
    fs::write(&state, "not what was written").expect("a file can be written");
    let mut standby = host::start(scene.path(), &[&arguments[..], &["--standby"]].concat());
    standby.line_with("standing by").expect("it waits");
    standby
        .line_with("is damaged")
        .expect("it warns while there is an owner");
    drop(owner);
    standby.wait().with_code(3).saying(&["corrupt"]);
}

/// The entries of a lease whose owner is at work: not what it is still writing, under another name.
fn contents_if_readable(directory: &Path) -> Vec<String> {
    let files = all_files(directory).into_iter();
    let is_entry = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.chars().all(|c| c.is_ascii_digit())
    };
    files
        .filter(is_entry)
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect()
}

#[test]
fn a_standby_is_refused_where_it_could_never_take_over() {
    let scene = scene();
    let memory = job(NUMBERS, "").replace("dir = \"checkpoints\"\n", "");
    scene.write("memory.toml", memory);
    for (arguments, said) in [
        (
            &["memory.toml"][..],
            "`--standby` needs checkpoints that outlive",
        ),
        (&["job.toml", "-s", "latest"], "leave `-s latest` out"),
        (&["job.toml", "--fresh"], "--fresh"),
        (&["job.toml", "--rewind", "repeat"], "--rewind"),
        (&["job.toml", "-s", "nowhere"], "nowhere"),
    ] {
        let arguments = [&["run", "--standby"], arguments].concat();
        host::run(scene.path(), &arguments)
            .with_code(2)
            .saying(&[said])
            .without_panic();
    }
    assert!(!scene.at("checkpoints").exists(), "nothing was made");
}
