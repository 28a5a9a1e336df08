//! Settings that switch protection off, and what can never happen, are reported before the start. Conformance 62, 166.

use crate::host;
use crate::jobs;
use crate::oracle;
use crate::scene::Scene;
use crate::servers::{Kind, Server};

#[test]
fn c166_switches_that_weaken_the_way_to_the_checkpoints_are_reported() {
    let server = Server::start(Kind::Moto);
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(20));
    scene.write("job.toml", jobs::word_count("weakened"));
    let mut variables = server.variables();
    variables.push((
        "AWS_ALLOW_INVALID_CERTIFICATES".to_owned(),
        "true".to_owned(),
    ));
    let bucket = "checkpoint.dir=s3://checkpoints/weakened";
    let keep = "checkpoint.retain-on-finish=true";
    let in_bucket = ["run", "job.toml", "-D", bucket, "-D", keep];
    let run = |arguments: &[&str]| {
        host::start_with_variables(scene.path(), arguments, &variables)
            .wait()
            .with_code(0)
    };
    let switches = ["AWS_ALLOW_HTTP", "AWS_ALLOW_INVALID_CERTIFICATES"];
    let person = run(&in_bucket);
    for switch in switches {
        let line = format!("warning: {switch}=true: ");
        let reported = person.stderr.lines().filter(|it| it.starts_with(&line));
        assert_eq!(reported.count(), 1, "{}", person.transcript());
    }
    let program = run(&[&in_bucket[..], &["--json", "-D", "job.id=again"]].concat());
    let events = program.events();
    let warnings = events.iter().filter(|event| event["event"] == "warning");
    let about: Vec<&str> = warnings
        .map(|event| event["about"].as_str().expect("what it is about"))
        .filter(|about| about.starts_with("AWS_"))
        .collect();
    assert_eq!(
        about,
        ["AWS_ALLOW_HTTP=true", "AWS_ALLOW_INVALID_CERTIFICATES=true"]
    );
    let started = events.iter().position(|event| event["event"] == "started");
    let warned = events.iter().position(|event| event["event"] == "warning");
    assert!(warned < started, "{}", program.transcript());
    run(&["checkpoints", "list", "s3://checkpoints/weakened"]).saying(&switches);
    // They mean nothing where no bucket is used.
    let local = run(&["run", "job.toml"]);
    assert!(!local.stderr.contains("AWS_"), "{}", local.transcript());
}

#[test]
fn c62_windows_that_never_end_for_want_of_a_watermark_are_reported() {
    let scene = Scene::new();
    let job = |more: &str| {
        jobs::head("silent", "30ms")
            + "\n[[source]]\nid = \"clicks\"\nconnector = \"generator\"\nkeys = 3\n\
               timestamp = { start = \"2026-01-01T00:00:00Z\", interval = \"1s\" }\n"
            + more
            + &jobs::operator_with("skip", "faulty", "clicks", "misdeed = \"none\"", "")
            + &jobs::operator_with(
                "windows",
                "window",
                "skip",
                "window = \"tumbling\", size = \"1min\", aggregates = [\"count\"]",
                "",
            )
            + &jobs::discard("nowhere", "windows")
    };
    let check = |more: &str| {
        scene.write("job.toml", job(more));
        host::run(scene.path(), &["check", "job.toml"]).with_code(0)
    };
    check("").saying(&[
        "warning: source.clicks, without `watermark`: it has no end",
        "in `windows`",
    ]);
    for fine in [
        "watermark = { out-of-orderness = \"0s\" }\n",
        // What ends fires all that is left.
        "count = 100\n",
    ] {
        let checked = check(fine);
        assert!(
            !checked.stderr.contains("warning"),
            "{}",
            checked.transcript()
        );
    }
}

#[test]
fn c166_an_operator_that_nothing_stops_is_reported() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(20));
    let job = jobs::head("trusted", "30ms")
        + jobs::VERSES
        + &jobs::operator_with(
            "split",
            "split",
            "verses",
            "skip-fields = 1",
            "limits = { trusted = true }",
        )
        + &jobs::discard("nowhere", "split");
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(0)
        .saying(&["warning: operator.split.limits.trusted=true: "]);
}
