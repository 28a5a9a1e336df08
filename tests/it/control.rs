//! A running job is asked for things: savepoints, stop, drain, rescale, and what there is to know. Conformance 30,
//! 80 to 84, 95.
//!
//! Every test has a directory of sockets of its own, so that it sees its own hosts only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::guests;
use crate::host::{self, Ended, Running};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::{Scene, all_files, visible_files};
use crate::servers::{Kind, Server};

/// Where a scene's sockets are, and nobody else's: clients look below both.
pub(crate) fn variables(scene: &Scene) -> Vec<(String, String)> {
    let places = [("XDG_RUNTIME_DIR", "run"), ("TMPDIR", "tmp")];
    let place = |(variable, name): (&str, &str)| {
        let directory = scene.at(name);
        fs::create_dir_all(&directory).expect("directories can be made");
        (variable.to_owned(), directory.display().to_string())
    };
    places.map(place).to_vec()
}

pub(crate) fn start(scene: &Scene, arguments: &[&str]) -> Running {
    host::start_with_variables(scene.path(), arguments, &variables(scene))
}

/// Runs a command that asks a host of the scene.
pub(crate) fn ask(scene: &Scene, arguments: &[&str]) -> Ended {
    start(scene, arguments).wait()
}

/// The same with `--json`: what it prints.
pub(crate) fn ask_json(scene: &Scene, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    json(&ask(scene, &arguments).with_code(0))
}

pub(crate) fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", ended.transcript()))
}

/// How many records the job of [`scene`] has in all.
pub(crate) const RECORDS: u64 = 9000;

/// A job that passes on [`RECORDS`] records in about three seconds, so that much can be asked of it meanwhile.
pub(crate) fn scene(name: &str) -> Scene {
    let scene = Scene::new();
    scene.write(
        "job.toml",
        numbers(name) + &jobs::keys("keys", "numbers", "out"),
    );
    scene
}

/// All but the sink of that job.
fn numbers(name: &str) -> String {
    let source = format!(
        "{}count = {RECORDS}\n\n",
        jobs::ENDLESS.trim_end().to_owned() + "\n"
    );
    jobs::head(name, "20ms") + &source.replace("rate = 2000", "rate = 3000")
}

/// What the job writes when nobody asks it for anything.
pub(crate) fn undisturbed(scene: &Scene) -> Vec<String> {
    let other = Scene::new();
    let job = fs::read_to_string(scene.at("job.toml")).expect("a job file");
    other.write("job.toml", job.replace("rate = 3000", "rate = 1000000"));
    host::run(other.path(), &["run", "job.toml"]).with_code(0);
    let lines = other.output("out");
    assert_eq!(lines.len() as u64, RECORDS);
    lines
}

/// The lines in the published files of checkpoints up to this one.
pub(crate) fn published_until(directory: &Path, checkpoint: u64) -> Vec<String> {
    let mut lines = Vec::new();
    for file in visible_files(directory) {
        let name = file.file_name().expect("a name").to_string_lossy();
        // After the token of the run, which may begin with a `c` as well.
        let number = name.split('-').nth(2).and_then(|it| it.strip_prefix('c'));
        let number: u64 = number.and_then(|it| it.parse().ok()).expect("a number");
        if number <= checkpoint {
            let text = fs::read_to_string(&file).expect("a readable file");
            lines.extend(text.lines().map(str::to_owned));
        }
    }
    lines
}

/// How many records sinks have taken, as the last event tells.
fn written(ended: &Ended) -> u64 {
    let events = ended.events();
    let last = events.last().expect("an event");
    assert_eq!(last["event"], "finished", "{last}");
    last["records-written"].as_u64().expect("a number")
}

#[test]
fn c80_a_savepoint_restores_without_its_job_directory_wherever_it_is() {
    let scene = scene("c80");
    let mut running = start(&scene, &["run", "job.toml", "-p", "2"]);
    running.checkpoints(2);
    let taken = ask(&scene, &["savepoint", "c80", "sp"]).with_code(0);
    let path = taken.stdout.lines().next().expect("a path").to_owned();
    assert!(
        path.starts_with(&scene.at("sp/savepoint-c80-").display().to_string()),
        "{path}"
    );
    let again = ask_json(&scene, &["savepoint", "c80", "sp"]);
    assert_ne!(again["savepoint"]["path"], path.as_str());
    running.checkpoints(1);
    running.kill().expect("it was still running");
    let shown = json(&host::run(
        scene.path(),
        &["checkpoints", "show", &path, "--json"],
    ));
    let id = shown["id"].as_u64().expect("a number");
    assert_eq!(shown["kind"], "savepoint");
    host::run(scene.path(), &["checkpoints", "verify", &path]).with_code(0);

    // The job directory is gone, the savepoint is elsewhere, and new output goes to another place.
    fs::remove_dir_all(scene.at("checkpoints")).expect("it can be removed");
    fs::rename(&path, scene.at("moved")).expect("it can be moved");
    let before = published_until(&scene.at("out"), id);
    assert!(!before.is_empty() && before.len() < RECORDS as usize);
    let resume = [
        "run",
        "job.toml",
        "-s",
        "moved",
        "-D",
        "sink.keys.path=out2",
    ];
    start(&scene, &resume).wait().with_code(0);
    let mut lines = [before, scene.output("out2")].concat();
    lines.sort();
    assert_same_lines(
        &lines,
        &undisturbed(&scene),
        "output before and after the savepoint",
    );

    // What a savepoint lists is removed, and only by its own command.
    let other = again["savepoint"]["path"].as_str().expect("a path");
    host::run(scene.path(), &["savepoints", "dispose", other]).with_code(0);
    assert!(!Path::new(other).exists() && scene.at("moved/_metadata").exists());
}

#[test]
fn c80_a_savepoint_is_taken_of_state_in_memory() {
    let scene = Scene::new();
    let totals = jobs::count("numbers") + &jobs::files("totals", "count", "out", "csv");
    let job = numbers("memory").replace("dir = \"checkpoints\"\n", "") + &totals;
    scene.write("job.toml", job);
    let mut running = start(&scene, &["run", "job.toml"]);
    running.checkpoints(2);
    let taken = ask(&scene, &["savepoint", "memory", "sp"]).with_code(0);
    let path = taken.stdout.lines().next().expect("a path");
    // Without a place for its state it is not stopped.
    let refused = ask(&scene, &["stop", "memory"]).with_code(2);
    refused.saying(&["in memory", "--savepoint-path"]);
    running.wait().with_code(0);
    let resume = ["run", "job.toml", "-s", path, "-D", "sink.totals.path=out2"];
    host::run(scene.path(), &resume).with_code(0);
    assert_same_lines(&scene.output("out2"), &scene.output("out"), "totals");
}

#[test]
fn c30_c81_after_a_stop_there_is_no_record_and_either_way_goes_on_there() {
    for resume_by_savepoint in [false, true] {
        let scene = scene("c81");
        let run = ["run", "job.toml", "--json", "-p", "2"];
        let mut running = start(&scene, &run);
        running.event("checkpoint-completed");
        let stopped = ask_json(&scene, &["stop", "c81", "--savepoint-path", "sp"]);
        let ended = running.wait().with_code(0);
        assert_eq!(stopped["ended"], "stopped");
        assert_eq!(
            ended.events().last().expect("an event")["outcome"],
            "stopped"
        );
        // What it has read is what it has published: no record comes after the barrier.
        let before = scene.output("out").len();
        assert_eq!(before as u64, written(&ended));
        assert!(before < RECORDS as usize, "it was stopped under load");
        // Whatever the retention, which is the default here.
        let (checkpoint, savepoint) = (&stopped["checkpoint"], &stopped["savepoint"]);
        assert!(checkpoint["id"].as_u64() < savepoint["id"].as_u64());
        let path = |taken: &Value| PathBuf::from(taken["path"].as_str().expect("a path"));
        assert!(path(checkpoint).join("_metadata").exists());
        let savepoint = path(savepoint).display().to_string();
        let resume: &[&str] = match resume_by_savepoint {
            true => &["run", "job.toml", "-s", &savepoint],
            false => &["run", "job.toml", "--resume"],
        };
        start(&scene, resume).wait().with_code(0);
        assert_same_lines(&scene.output("out"), &undisturbed(&scene), "output");
    }
}

#[test]
fn c30_c81_a_stop_without_a_savepoint_leaves_the_checkpoint() {
    let scene = scene("c30");
    let mut running = start(&scene, &["run", "job.toml"]);
    running.checkpoints(1);
    let stopped = ask(&scene, &["stop", "c30"]).with_code(0);
    running
        .wait()
        .with_code(0)
        .saying(&["job stopped after", "resume with: host run -s"]);
    let path = stopped.stdout.lines().next().expect("a path");
    assert!(Path::new(path).join("_metadata").exists(), "{path}");
    start(&scene, &["run", "job.toml", "-s", "latest"])
        .wait()
        .with_code(0);
    assert_same_lines(&scene.output("out"), &undisturbed(&scene), "output");
}

#[test]
fn c82_a_drained_job_has_told_its_totals_and_is_resumed_only_if_that_is_allowed() {
    let scene = Scene::new();
    let totals = jobs::count("numbers") + &jobs::files("totals", "count", "out", "csv");
    scene.write("job.toml", numbers("c82") + &totals);
    let mut running = start(&scene, &["run", "job.toml", "--json"]);
    running.event("checkpoint-completed");
    let stopped = ask_json(
        &scene,
        &["stop", "c82", "--drain", "--savepoint-path", "sp"],
    );
    assert_eq!(stopped["ended"], "drained");
    let ended = running.wait().with_code(0);
    assert_eq!(
        ended.events().last().expect("an event")["outcome"],
        "drained"
    );
    // The operator has seen the end of its input: a total for each word.
    let totals = scene.output("out");
    let sum = |lines: &[String]| -> u64 {
        let counts = lines.iter().filter_map(|line| line.rsplit(',').next());
        counts
            .map(|count| count.parse::<u64>().expect("a count"))
            .sum()
    };
    let told = sum(&totals);
    assert!(told > 0 && told < RECORDS, "{told}");
    let savepoint = stopped["savepoint"]["path"].as_str().expect("a path");
    let shown = ["checkpoints", "show", savepoint, "--json"];
    assert_eq!(json(&host::run(scene.path(), &shown))["drained"], true);
    for refused in [
        &["run", "job.toml", "-s", savepoint][..],
        &["run", "job.toml", "--resume"],
    ] {
        let ended = host::run(scene.path(), refused).with_code(2);
        ended.saying(&["all input was ended before checkpoint", "--allow-drained"]);
    }
    let resume = ["run", "job.toml", "--resume", "--allow-drained"];
    start(&scene, &resume).wait().with_code(0);
    // It has gone on from its positions, and tells its totals again, of all that it has read.
    let out = scene.output("out");
    assert_eq!(sum(&out), told + RECORDS);
}

#[test]
fn c83_list_status_checkpoint_interval_and_cancel() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("c83", "1h"));
    let mut running = start(&scene, &["run", "job.toml", "-p", "2"]);
    running.line_with("started").expect("it starts");
    let hosts = ask_json(&scene, &["list"]);
    assert_eq!(hosts[0]["process"], running.id());
    assert_eq!(hosts[0]["jobs"][0]["id"], "c83");
    let list = ask(&scene, &["list"]).with_code(0).stdout;
    assert!(list.contains("c83  running  2"), "{list}");
    let status = ask_json(&scene, &["status", "c83"]);
    assert_eq!(status["state"], "running");
    assert_eq!(status["parallelism"], 2);
    assert_eq!(status["interval-ms"], 3_600_000);
    assert_eq!(status["checkpoint"], Value::Null);

    let taken = ask_json(&scene, &["checkpoint", "c83", "--request-id", "one"]);
    assert_eq!(taken["checkpoint"]["id"], 1);
    // The same request is the same checkpoint.
    let again = ask_json(&scene, &["checkpoint", "c83", "--request-id", "one"]);
    assert_eq!(again["checkpoint"], taken["checkpoint"]);
    let ended = ask(&scene, &["cancel", "c83", "--request-id", "one"]);
    ended.with_code(2).saying(&["one"]);
    assert_eq!(
        ask_json(&scene, &["checkpoint", "c83"])["checkpoint"]["id"],
        2
    );

    let changed = ask_json(&scene, &["interval", "c83", "20ms"]);
    assert_eq!(
        (&changed["before"], &changed["now"]),
        (&"1h".into(), &"20ms".into())
    );
    running.checkpoints(5);
    assert_eq!(ask_json(&scene, &["status", "c83"])["interval-ms"], 20);

    let cancelled = ask_json(&scene, &["cancel", "c83"]);
    assert_eq!(cancelled["ended"], "cancelled");
    running.wait().with_code(0).saying(&["job cancelled"]);
    assert_eq!(ask_json(&scene, &["list"]), Value::Array(Vec::new()));
    ask(&scene, &["status", "c83"])
        .with_code(2)
        .saying(&["c83"]);
}

#[test]
fn c84_a_job_goes_on_at_another_parallelism() {
    let scene = scene("c84");
    let mut running = start(&scene, &["run", "job.toml", "--json"]);
    running.event("checkpoint-completed");
    for (before, now) in [("1", "3"), ("3", "2")] {
        let report = ask_json(&scene, &["rescale", "c84", "-p", now]);
        assert_eq!(
            (&report["before"], &report["now"]),
            (&before.into(), &now.into())
        );
        let parallelism = &ask_json(&scene, &["status", "c84"])["parallelism"];
        assert_eq!(parallelism.to_string(), now);
        running.event("checkpoint-completed");
    }
    // What it has already: nothing is to be done.
    let report = ask_json(&scene, &["rescale", "c84", "-p", "2"]);
    assert_eq!(report["checkpoint"], Value::Null);
    // More than there are key groups: refused, and the job goes on.
    let refused = ask(&scene, &["rescale", "c84", "-p", "200"]).with_code(2);
    refused.saying(&["cannot run at parallelism 200", "key groups, 128"]);
    let ended = running.wait().with_code(0);
    let restarts = ended.events().last().expect("an event")["restarts"].clone();
    assert_eq!(restarts, 0, "a rescale is no failure");
    assert_same_lines(&scene.output("out"), &undisturbed(&scene), "output");
}

#[test]
fn c95_a_socket_is_private_and_one_of_the_dead_is_replaced() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("c95", "1h"));
    let sockets = || -> Vec<PathBuf> {
        let files = fs::read_dir(scene.at("run/highwater")).expect("a directory");
        files.map(|file| file.expect("an entry").path()).collect()
    };
    let mode = |path: &Path| {
        fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    };
    let mut running = start(&scene, &["run", "job.toml"]);
    running.line_with("started").expect("it starts");
    assert_eq!(mode(&scene.at("run/highwater")), 0o700);
    let before = sockets();
    assert_eq!(before.len(), 1, "{before:?}");
    assert_eq!(mode(&before[0]), 0o600);
    running.kill().expect("it was still running");
    assert_eq!(sockets(), before, "who is killed leaves it");
    let mut running = start(&scene, &["run", "job.toml", "--resume"]);
    running.line_with("started").expect("it starts");
    let after = sockets();
    assert_eq!(after.len(), 1, "{after:?}");
    assert_ne!(after, before);
    running.signal("TERM");
    running.wait().with_code(0);
    assert!(sockets().is_empty());

    // Somebody else's place: the job runs, and says that it cannot be asked.
    fs::remove_dir(scene.at("run/highwater")).expect("it is empty");
    std::os::unix::fs::symlink(scene.at("elsewhere"), scene.at("run/highwater")).expect("a link");
    fs::create_dir(scene.at("elsewhere")).expect("a directory");
    let mut running = start(&scene, &["run", "job.toml", "--resume"]);
    running
        .line_with("cannot be asked for anything")
        .expect("a warning");
    running.line_with("started").expect("it starts");
    running.signal("TERM");
    running.wait().with_code(0);
    assert!(all_files(&scene.at("elsewhere")).is_empty());
}

#[test]
fn c83_mistakes_have_one_clear_message_and_leave_the_job_alone() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("mistakes", "20ms"));
    let mut running = start(&scene, &["run", "job.toml"]);
    running.checkpoints(1);
    let at = scene.at("job.toml/sp").display().to_string();
    for (arguments, code, texts) in [
        (&["status", "other"][..], 2, &["other", "mistakes"][..]),
        (
            &["savepoint", "mistakes"],
            2,
            &["no directory", "savepoint-dir"],
        ),
        (&["savepoint", "mistakes", &at], 1, &["job.toml/sp"]),
        (
            &["savepoint", "mistakes", "/"],
            2,
            &["root of the file system"],
        ),
        (
            &["savepoint", "mistakes", "checkpoints/mistakes"],
            2,
            &["mistakes"],
        ),
        (
            &["stop", "mistakes", "--savepoint-path", &at],
            1,
            &["job.toml/sp"],
        ),
        (&["rescale", "mistakes", "-p", "0"], 2, &["parallelism"]),
        (&["interval", "mistakes", "0s"], 2, &["at least 1ms"]),
    ] {
        let ended = ask(&scene, arguments);
        println!("{}", ended.transcript());
        ended.with_code(code).saying(texts);
        assert_eq!(
            ask_json(&scene, &["status", "mistakes"])["state"],
            "running"
        );
    }
    running.checkpoints(1);
    running.signal("TERM");
    let said = running.wait().with_code(0);
    assert!(!said.stderr.contains("failed"), "{}", said.transcript());
}

#[test]
fn c83_a_job_that_waits_for_its_restart_refuses_what_it_cannot_do() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(50));
    let job = guests::word_count_with_a_trap(&scene, "restarting", guests::Trap::Always)
        .replace("delay = \"10ms\"", "delay = \"1h\"");
    scene.write("job.toml", job);
    let mut running = start(&scene, &["run", "job.toml"]);
    running.line_with("restart 1 from").expect("it fails");
    assert_eq!(
        ask_json(&scene, &["status", "restarting"])["state"],
        "restarting"
    );
    for arguments in [
        &["stop", "restarting"][..],
        &["checkpoint", "restarting"],
        &["savepoint", "restarting", "sp"],
        &["rescale", "restarting", "-p", "2"],
    ] {
        let ended = ask(&scene, arguments).with_code(2);
        ended.saying(&["not possible now", "waits for its restart"]);
    }
    assert_eq!(
        ask_json(&scene, &["cancel", "restarting"])["ended"],
        "cancelled"
    );
    running.wait().with_code(0);
}

#[test]
fn c83_a_savepoint_to_a_storage_that_hangs_holds_nothing_up() {
    let server = Server::start(Kind::Moto);
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("hangs", "20ms"));
    let variables = [variables(&scene), server.variables()].concat();
    let run = ["run", "job.toml", "-D", "checkpoint.timeout=4s"];
    let mut running = host::start_with_variables(scene.path(), &run, &variables);
    running.checkpoints(1);
    let taken = ask(&scene, &["savepoint", "hangs", "s3://checkpoints/sp"]).with_code(0);
    assert!(
        taken
            .stdout
            .starts_with("s3://checkpoints/sp/savepoint-hangs-")
    );
    server.freeze();
    let asked = start(&scene, &["savepoint", "hangs", "s3://checkpoints/sp"]);
    running.checkpoints(10);
    // A client that goes takes nothing along.
    start(&scene, &["savepoint", "hangs", "s3://checkpoints/sp"]).kill();
    asked.wait().with_code(1).saying(&["s3://checkpoints/sp"]);
    running.checkpoints(2);
    server.thaw();
    ask(&scene, &["savepoint", "hangs", "s3://checkpoints/sp"]).with_code(0);
    ask(&scene, &["cancel", "hangs"]).with_code(0);
    running.wait().with_code(0);
}

#[test]
fn top_shows_what_a_job_and_its_threads_do() {
    let scene = scene("top");
    let mut running = start(&scene, &["run", "job.toml"]);
    running.checkpoints(1);
    let shown = ask(&scene, &["top", "--interval", "300ms"]).with_code(0);
    let job = shown
        .stdout
        .lines()
        .position(|line| line.starts_with("top "));
    let job = job.unwrap_or_else(|| panic!("{}", shown.stdout));
    let lines: Vec<&str> = shown.stdout.lines().collect();
    assert!(lines[0].starts_with("JOB") && lines[0].contains("HELD UP"));
    assert!(lines[job].contains("running x1"), "{}", lines[job]);
    assert!(lines[job].contains("ago"), "{}", lines[job]);
    assert!(
        lines[job + 1].contains("numbers -> keys"),
        "{}",
        shown.stdout
    );
    assert!(lines[job + 1].contains('%'), "{}", lines[job + 1]);
    assert!(!shown.stdout.contains('\u{1b}'), "a pipe is no terminal");
    running.signal("TERM");
    running.wait().with_code(0);
}
