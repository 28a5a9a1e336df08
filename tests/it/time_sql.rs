//! Windows over real flights give what an SQL engine gives over the same files. Conformance 68.
//!
//! The engine is DuckDB. Its scripts and results are committed, in `tests/sql/` and beside the examples about time. A job
//! that is to be disturbed needs more input than a month: it gets the same month in several years, of which the results
//! are those of the engine in other years. (No window is longer than a day, so each year begins as the first one.)

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::control::{ask_json, start};
use crate::guests::NO_RESTART;
use crate::host;
use crate::jobs;
use crate::kills::Moments;
use crate::oracle::{self, assert_same_lines};
use crate::plugins::root;
use crate::scene::Scene;
use crate::servers;

/// Copies what a script reads, and the script, into a scene.
fn with_files(scene: &Scene, folder: &str, names: &[&str]) {
    for name in names {
        let path = format!("{folder}/{name}");
        let content =
            fs::read(root().join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        scene.write(&path, content);
    }
}

/// Runs a script in a folder of the scene.
fn run_script(scene: &Scene, folder: &str, script: &str) {
    let output = Command::new(servers::installed("sql/bin/python"))
        .arg(root().join("tests/sql/run.py"))
        .arg(script)
        .current_dir(scene.at(folder))
        .output()
        .expect("Python runs");
    assert!(
        output.status.success(),
        "{folder}/{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Checks that files of a folder are in the scene as they are committed.
fn assert_committed(scene: &Scene, folder: &str, names: &[&str]) {
    let content = |path: &Path| {
        let is_packed = path.extension().is_some_and(|extension| extension == "gz");
        let content = match is_packed {
            true => oracle::gunzip(path),
            false => fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        };
        String::from_utf8(content).expect("it is text")
    };
    for name in names {
        let path = format!("{folder}/{name}");
        let (made, committed) = (content(&scene.at(&path)), content(&root().join(&path)));
        assert!(!made.is_empty(), "{path} is empty");
        // Not `assert_eq`, which would print both.
        assert!(made == committed, "{path} is not what the SQL engine gives");
    }
}

const REPORTS: [&str; 4] = [
    "input/reports-1.csv.gz",
    "input/reports-2.csv.gz",
    "input/reports-3.csv.gz",
    "input/reports-4.csv.gz",
];

const HOURLY: &str = "examples/hourly-delays";
const SESSIONS: &str = "examples/aircraft-sessions";
const WINDOWS: &str = "tests/sql";

#[test]
fn the_expected_results_are_what_the_sql_engine_gives() {
    let scene = Scene::new();
    with_files(&scene, HOURLY, &REPORTS);
    with_files(&scene, HOURLY, &["expected.sql"]);
    run_script(&scene, HOURLY, "expected.sql");
    assert_committed(&scene, HOURLY, &["expected.csv", "expected-late.csv"]);

    with_files(&scene, WINDOWS, &["windows.sql"]);
    run_script(&scene, WINDOWS, "windows.sql");
    let results = [
        "tumbling.csv",
        "sliding.csv",
        "cumulative.csv",
        "session.csv",
    ];
    assert_committed(&scene, WINDOWS, &results);

    with_files(&scene, SESSIONS, &REPORTS[..2]);
    with_files(&scene, SESSIONS, &["expected.sql"]);
    run_script(&scene, SESSIONS, "expected.sql");
    assert_committed(&scene, SESSIONS, &["expected.csv"]);
}

#[test]
fn the_reports_are_made_of_the_flights() {
    let scene = Scene::new();
    let flights = "input/flights-2013-01.csv.gz";
    with_files(&scene, "examples/flight-delays", &[flights]);
    with_files(&scene, HOURLY, &["make-input.sql"]);
    fs::create_dir(scene.at(HOURLY).join("input")).expect("a directory can be made");
    run_script(&scene, HOURLY, "make-input.sql");
    assert_committed(&scene, HOURLY, &REPORTS);
    for name in &REPORTS[..2] {
        let copy = fs::read(root().join(SESSIONS).join(name)).expect("it can be read");
        let original = fs::read(root().join(HOURLY).join(name)).expect("it can be read");
        assert!(copy == original, "{name} is the same for both examples");
    }
}

/// The year of the reports; further years are made of it.
const YEAR: u32 = 2013;

/// A source of all reports, by carrier. They come at most 28 minutes after a later departure.
const DEPARTURES: &str = "\
[[source]]
id = \"departures\"
connector = \"file\"
path = \"input/*.csv\"
format = \"csv\"
key = \"carrier\"
timestamp = { field = \"departed\" }
watermark = { out-of-orderness = \"30min\" }

";

/// A kind of window: the result of the engine, and the configuration of the operator.
struct Kind {
    result: &'static str,
    window: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind {
        result: "tumbling.csv",
        window: "window = \"tumbling\", size = \"6h\", offset = \"5h\"",
    },
    Kind {
        result: "sliding.csv",
        window: "window = \"sliding\", size = \"12h\", slide = \"3h\"",
    },
    Kind {
        result: "cumulative.csv",
        window: "window = \"cumulative\", size = \"24h\", step = \"6h\"",
    },
    Kind {
        result: "session.csv",
        window: "window = \"session\", gap = \"20min\"",
    },
];

/// What the results have beside carrier, start and end.
const AGGREGATES: &str =
    "aggregates = [\"count\", \"sum(dep_delay)\", \"min(dep_delay)\", \"max(dep_delay)\"]";

/// The fields of the results that are times.
const TIMES: [usize; 2] = [1, 2];

/// The lines of a committed result in this many years, sorted. The fields `times` are milliseconds since 1970.
fn results(path: &str, times: &[usize], years: u32) -> Vec<String> {
    let text =
        fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let shifted = |line: &str, year: u32| {
        let mut fields: Vec<String> = line.split(',').map(str::to_owned).collect();
        for field in times {
            let time: i64 = fields[*field].parse().expect("a time");
            fields[*field] = (time + milliseconds_until(year)).to_string();
        }
        fields.join(",")
    };
    let mut lines: Vec<String> = (0..years)
        .flat_map(|year| text.lines().map(move |line| shifted(line, year)))
        .collect();
    lines.sort();
    lines
}

/// From the first year to the one that comes this many years after it.
fn milliseconds_until(year: u32) -> i64 {
    let is_leap = |year: &u32| year.is_multiple_of(4);
    let leap_days = (YEAR..YEAR + year).filter(is_leap).count() as i64;
    (i64::from(year) * 365 + leap_days) * 86_400_000
}

fn in_year(text: &str, year: u32) -> String {
    text.replace(&format!("{YEAR}-"), &format!("{}-", YEAR + year))
}

/// Writes these reports of the example, unpacked, in this many years. The files are read in the order of time.
fn write_reports(scene: &Scene, names: &[&str], years: u32) {
    for name in names {
        let text = oracle::gunzip(&root().join(HOURLY).join(name));
        let text = String::from_utf8(text).expect("it is text");
        let name = name.trim_start_matches("input/").trim_end_matches(".gz");
        for year in 0..years {
            scene.write(
                &format!("input/{}-{name}", YEAR + year),
                in_year(&text, year),
            );
        }
    }
}

/// A job that sums up departures in windows of this kind, in a scene with reports of some years.
fn windows(name: &str, kind: &Kind, years: u32) -> Scene {
    let scene = Scene::new();
    write_reports(&scene, &REPORTS[..3], years);
    let config = format!("{}, {AGGREGATES}", kind.window);
    let job = jobs::head(name, "10ms").replace(jobs::RESTART, NO_RESTART)
        + DEPARTURES
        + &jobs::operator("delays", "window", "departures", &config)
        + &jobs::files("out", "delays", "out", "csv");
    scene.write("job.toml", job);
    scene
}

#[test]
fn c68_windows_equal_an_sql_engine_at_parallelism_1_2_and_4() {
    for kind in &KINDS {
        let scene = windows("windows", kind, 1);
        let expected = results(&format!("{WINDOWS}/{}", kind.result), &TIMES, 1);
        for parallelism in ["1", "2", "4"] {
            let output = scene.at("out");
            if output.exists() {
                fs::remove_dir_all(&output).expect("a directory can be removed");
            }
            host::run(scene.path(), &["run", "job.toml", "-p", parallelism]).with_code(0);
            let what = format!("{} at parallelism {parallelism}", kind.result);
            assert_same_lines(&scene.output("out"), &expected, &what);
        }
    }
}

/// How many years of reports a job has that is disturbed.
const YEARS: u32 = 40;

/// How often a job of each kind is killed.
const KILLS: usize = 6;

/// Kills a job again and again and resumes it, each time at another parallelism, until it has come to its end. Returns
/// how many runs were killed that had gone on from a checkpoint.
fn killed_and_rescaled(scene: &Scene, moments: &mut Moments) -> usize {
    let resume = |run: usize| {
        let parallelism = ["2", "4", "1"][run % 3];
        let arguments = ["run", "job.toml", "--resume", "--json", "-p", parallelism];
        host::start(scene.path(), &arguments)
    };
    let mut resumed = 0;
    for run in 0..KILLS {
        let mut running = resume(run);
        for _ in 0..=moments.below(2) {
            running.event("checkpoint-completed");
        }
        let killed = running.kill().expect("it was still running");
        let events = killed.events();
        resumed += usize::from(events.iter().any(|event| event["event"] == "restored"));
    }
    resume(KILLS).wait().with_code(0);
    resumed
}

#[test]
fn c68_windows_of_jobs_that_are_killed_and_rescaled_equal_an_sql_engine() {
    let mut moments = Moments::new();
    for kind in &KINDS {
        let scene = windows("killed", kind, YEARS);
        let resumed = killed_and_rescaled(&scene, &mut moments);
        assert_eq!(
            resumed,
            KILLS - 1,
            "every run but the first has gone on from a checkpoint"
        );
        let expected = results(&format!("{WINDOWS}/{}", kind.result), &TIMES, YEARS);
        assert_same_lines(&scene.output("out"), &expected, kind.result);
    }
}

#[test]
fn c68_windows_of_a_job_that_is_rescaled_while_it_runs_equal_an_sql_engine() {
    for kind in &KINDS {
        let scene = windows("rescaled", kind, YEARS);
        let mut running = start(&scene, &["run", "job.toml", "--json", "-p", "1"]);
        for parallelism in ["4", "2"] {
            running.event("checkpoint-completed");
            let report = ask_json(&scene, &["rescale", "rescaled", "-p", parallelism]);
            assert_eq!(report["now"], parallelism);
        }
        running.wait().with_code(0);
        let expected = results(&format!("{WINDOWS}/{}", kind.result), &TIMES, YEARS);
        assert_same_lines(&scene.output("out"), &expected, kind.result);
    }
}

/// The job of the example `hourly-delays` over unpacked reports of some years, one subtask of which reads all of them.
fn hourly_delays(years: u32) -> Scene {
    let scene = Scene::new();
    write_reports(&scene, &REPORTS, years);
    let source = DEPARTURES
        .replace("\"carrier\"", "\"origin\"")
        .trim_end()
        .to_owned()
        + "\nparallelism = 1\n\n";
    let config = "window = \"tumbling\", size = \"1h\", late = \"output\", \
                  aggregates = [\"count\", \"mean(dep_delay)\", \"max(dep_delay)\"]";
    let job = jobs::head("late", "10ms").replace(jobs::RESTART, NO_RESTART)
        + &source
        + &jobs::operator("delays", "window", "departures", config)
        + &jobs::files("out", "delays", "out", "csv")
        + &jobs::files("late", "delays.late", "late", "csv");
    scene.write("job.toml", job);
    scene
}

/// What is late in these years.
fn late_reports(years: u32) -> Vec<String> {
    let path = root().join(HOURLY).join("expected-late.csv");
    let text = fs::read_to_string(path).expect("it can be read");
    let mut lines: Vec<String> = (0..years)
        .flat_map(|year| {
            let text = in_year(&text, year);
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn c68_late_records_of_one_split_are_counted_exactly() {
    let scene = hourly_delays(1);
    // Nobody reads them here, so they are dropped.
    let job = fs::read_to_string(scene.at("job.toml")).expect("a job file");
    let (job, _) = job.split_once("[[sink]]\nid = \"late\"").expect("a sink");
    scene.write(
        "job.toml",
        job.replace("late = \"output\"", "late = \"drop\""),
    );
    let late = late_reports(1).len() as f64;
    for parallelism in ["1", "2", "4"] {
        let run = ["run", "job.toml", "--json", "-p", parallelism];
        let ended = host::run(scene.path(), &run).with_code(0);
        let events = ended.events();
        let finished = events.last().expect("it says how it ended");
        let counted = &finished["metrics"]["delays"]["late-records"]["value"];
        assert_eq!(counted.as_f64(), Some(late), "{finished}");
        let expected = results(&format!("{HOURLY}/expected.csv"), &TIMES, 1);
        let what = format!("hours at parallelism {parallelism}");
        assert_same_lines(&scene.output("out"), &expected, &what);
        fs::remove_dir_all(scene.at("out")).expect("a directory can be removed");
    }
}

#[test]
fn c68_late_records_stay_late_when_a_job_is_killed_and_rescaled() {
    let scene = hourly_delays(YEARS);
    let resumed = killed_and_rescaled(&scene, &mut Moments::new());
    assert_eq!(resumed, KILLS - 1);
    assert_same_lines(&scene.output("late"), &late_reports(YEARS), "late reports");
    let expected = results(&format!("{HOURLY}/expected.csv"), &TIMES, YEARS);
    assert_same_lines(&scene.output("out"), &expected, "hours");
}
