//! Checkpoints in a bucket of a real S3 server on loopback, and buckets that cannot hold any.

use crate::host::{self, Completion, Ended, Running};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::Scene;
use crate::servers::{self, Kind, Server};

const DIR: &str = "checkpoint.dir=s3://checkpoints/jobs";

/// Starts `host` where it finds the server.
fn start(scene: &Scene, server: &Server, arguments: &[&str]) -> Running {
    host::start_with_variables(scene.path(), arguments, &server.variables())
}

fn run(scene: &Scene, server: &Server, arguments: &[&str]) -> Ended {
    start(scene, server, arguments).wait()
}

/// A word count with its checkpoints in the bucket, killed in the middle; and its last checkpoint.
fn killed(server: &Server, name: &str, more: &[&str]) -> (Scene, Completion) {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 24, "txt");
    scene.write("job.toml", jobs::word_count(name));
    let id = format!("job.id={name}");
    // Not waited for longer than need be, by who comes after the kill.
    let lease = "checkpoint.lease-timeout=3s";
    let arguments = ["run", "job.toml", "-D", DIR, "-D", &id, "-D", lease];
    let mut running = start(&scene, server, &[&arguments, more].concat());
    let last = running.checkpoints(2);
    running.kill().expect("killed in the middle");
    assert_eq!(
        last.path,
        format!("s3://checkpoints/jobs/{name}/chk-2/_metadata")
    );
    (scene, last)
}

/// The output is what an independent tool computes.
fn assert_exact(scene: &Scene) {
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output after the kill",
    );
}

#[test]
fn a_job_that_was_killed_resumes_from_a_bucket_however_its_state_is_compressed() {
    let server = Server::start(Kind::Moto);
    // Written by one setting, resumed with another.
    for (before, after) in [("none", "lz4"), ("lz4", "zstd"), ("zstd", "none")] {
        let setting = |value: &str| format!("checkpoint.compression={value}");
        let (scene, _) = killed(&server, before, &["-D", &setting(before)]);
        let setting = setting(after);
        let id = format!("job.id={before}");
        let latest = ["run", "job.toml", "-D", DIR, "-D", &id, "-s", "latest"];
        // The lease of who was killed is waited for: a bucket has no locks that tell.
        let arguments = [&latest[..], &["-D", &setting]].concat();
        run(&scene, &server, &arguments)
            .with_code(0)
            .saying(&["restoring from checkpoint"]);
        assert_exact(&scene);
    }
    assert_eq!(server.unfinished_uploads(), 0);
}

#[test]
fn c37_a_checkpoint_in_a_bucket_is_named_by_its_url() {
    let server = Server::start(Kind::Moto);
    let (scene, last) = killed(&server, "c37", &[]);
    let chk = last.path.strip_suffix("_metadata").expect("it ends so");
    for (spec, parallelism) in [(last.path.as_str(), "1"), (chk, "2")] {
        // Without a directory of its own for checkpoints: only the URL says where they are.
        let job = jobs::word_count("c37")
            .replace("dir = \"checkpoints\"\n", "")
            .replace("out", &format!("out-{}", spec.len()));
        scene.write("elsewhere.toml", job);
        run(
            &scene,
            &server,
            &["run", "elsewhere.toml", "-s", spec, "-p", parallelism],
        )
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
        assert_same_lines(
            &scene.output(&format!("out-{}", spec.len())),
            &oracle::word_count(&scene.at("input")),
            spec,
        );
    }
    for (spec, said) in [
        ("s3://checkpoints/jobs/c37/chk-99", "does not exist"),
        (
            "s3://checkpoints/jobs/c37/chk-99",
            "s3://checkpoints/jobs/c37/chk-2",
        ),
        ("s3://checkpoints/jobs/c73", "does not exist"),
        ("s3://checkpoints/jobs", "no completed checkpoint"),
        ("s3://elsewhere/jobs", "NoSuchBucket"),
        ("wasbs://checkpoints/jobs", "is written az://"),
        ("s3://key:password@checkpoints/x", "AWS_ACCESS_KEY_ID"),
    ] {
        let ended = run(&scene, &server, &["run", "job.toml", "-s", spec])
            .with_code(2)
            .saying(&[said])
            .without_panic();
        assert!(!ended.stderr.contains("password"), "{}", ended.stderr);
    }
}

#[test]
fn c16_a_prefix_that_was_moved_restores() {
    let server = Server::start(Kind::Moto);
    let (scene, last) = killed(&server, "c16", &["-D", "checkpoint.inline-threshold=0B"]);
    let keys = server.keys("jobs/c16/");
    assert!(keys.iter().any(|key| key.contains("/shared/")), "{keys:?}");
    for key in keys {
        let moved = key.replace("jobs/c16/", "moved/else/where/");
        server.copy(&key, &moved);
        server.delete(&key);
    }
    run(&scene, &server, &["run", "job.toml", "-s", &last.path]).with_code(2);
    run(
        &scene,
        &server,
        &["run", "job.toml", "-s", "s3://checkpoints/moved/else/where"],
    )
    .with_code(0)
    .saying(&["restoring from checkpoint"]);
    assert_exact(&scene);
}

#[test]
fn c14_checkpoints_in_a_bucket_are_listed_shown_and_verified() {
    let server = Server::start(Kind::Moto);
    let (scene, last) = killed(
        &server,
        "c14",
        &[
            "-D",
            "checkpoint.inline-threshold=0B",
            "-D",
            "checkpoint.compression=zstd",
        ],
    );
    let checkpoints =
        |command: &str, place: &str| run(&scene, &server, &["checkpoints", command, place]);
    for place in ["s3://checkpoints/jobs/", "s3://checkpoints/jobs/c14"] {
        let list = checkpoints("list", place).with_code(0);
        let path = last.path.trim_end_matches("/_metadata");
        assert!(list.stdout.contains(path), "{}", list.stdout);
    }
    let show = checkpoints("show", &last.path).with_code(0);
    assert!(show.stdout.contains("operator `count`"), "{}", show.stdout);
    checkpoints("verify", "s3://checkpoints/jobs").with_code(0);

    let state = server
        .keys("jobs/c14/shared/")
        .pop()
        .expect("state in a file");
    server.overwrite(&state, b"not what was written");
    let verify = checkpoints("verify", "s3://checkpoints/jobs").with_code(3);
    let name = state.rsplit('/').next().expect("a key has a name");
    assert!(verify.stdout.contains(name), "{}", verify.stdout);
    let arguments = ["run", "job.toml", "-D", DIR, "-s", "latest"];
    run(&scene, &server, &arguments)
        .with_code(3)
        .saying(&["corrupt", name]);
}

#[test]
fn buckets_that_cannot_hold_checkpoints_are_refused_at_the_start() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(500));
    scene.write("job.toml", jobs::word_count("refused"));
    let refused = |dir: &str, variables: &[(String, String)], said: &[&str]| {
        let dir = format!("checkpoint.dir={dir}");
        let arguments = ["run", "job.toml", "-D", &dir];
        let ended = host::start_with_variables(scene.path(), &arguments, variables)
            .wait()
            .with_code(2)
            .saying(said)
            .without_panic();
        assert!(
            !ended.transcript().contains("never-shown"),
            "a secret is shown"
        );
    };
    let s3rver = Server::start(Kind::S3rver);
    refused(
        "s3://checkpoints/jobs",
        &s3rver.variables(),
        &["s3://checkpoints/jobs", "ignores conditional writes"],
    );

    let moto = Server::start(Kind::Moto);
    let endpoint = moto.endpoint();
    refused(
        "s3://nobodys/jobs",
        &moto.variables(),
        &["s3://nobodys/jobs", "NoSuchBucket", &endpoint],
    );
    let without = |names: &[&str]| -> Vec<(String, String)> {
        let all = moto.variables().into_iter();
        all.filter(|(name, _)| !names.contains(&name.as_str()))
            .collect()
    };
    refused(
        "s3://checkpoints/jobs",
        &without(&["AWS_ALLOW_HTTP"]),
        &["AWS_ALLOW_HTTP"],
    );
    let mut nobody = without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
    nobody.push((
        "AWS_METADATA_ENDPOINT".to_owned(),
        "http://127.0.0.1:1".to_owned(),
    ));
    refused(
        "s3://checkpoints/jobs",
        &nobody,
        &["there are no credentials", "AWS_SECRET_ACCESS_KEY"],
    );
    drop(moto);
    refused(
        "s3://checkpoints/jobs",
        &servers::variables(&endpoint),
        &["s3://checkpoints/jobs", &endpoint, "Connection refused"],
    );
}

#[test]
fn c12_of_a_storage_that_hangs_the_log_says_so() {
    let server = Server::start(Kind::Moto);
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("hangs", "30ms"));
    let lease = ["-D", "checkpoint.lease-timeout=2s"];
    let arguments = [&["run", "job.toml", "-D", DIR][..], &lease].concat();
    let mut running = start(&scene, &server, &arguments);
    running.checkpoints(1);
    server.freeze();
    let warned = running.line_with("has not answered for 2s");
    server.thaw();
    let warned = warned.expect("a warning");
    assert!(warned.contains("lease of the job directory"), "{warned}");
    running.line_with("answers again").expect("the end of it");
    running.checkpoints(1);
    running.signal("TERM");
    running.wait().with_code(0);
}

#[test]
fn c12_storage_that_goes_away_fails_checkpoints_with_the_reason_and_the_job_goes_on() {
    let server = Server::start(Kind::Moto);
    let scene = Scene::new();
    scene.write("job.toml", jobs::counting("c12", "30ms"));
    let arguments = [
        "run",
        "job.toml",
        "-D",
        DIR,
        "-D",
        "checkpoint.timeout=4s",
        "-D",
        "checkpoint.tolerable-failures=1000",
    ];
    let mut running = start(&scene, &server, &arguments);
    let before = running.checkpoints(1);
    server.freeze();
    let failed = running.line_with("failed").expect("a failed checkpoint");
    server.thaw();
    assert!(
        failed.contains("answer"),
        "the reason is reported: {failed}"
    );
    assert!(
        failed.contains("s3://checkpoints/jobs"),
        "and the place: {failed}"
    );
    let after = running.checkpoints(2);
    assert!(after.id > before.id + 2, "{before:?} {after:?}");

    drop(server);
    let failed = running.line_with("failed").expect("a failed checkpoint");
    assert!(
        failed.contains("connect"),
        "the reason is reported: {failed}"
    );
    let ended = running.kill().expect("it still goes on");
    let said = ended.transcript();
    assert!(
        !said.contains("restarting"),
        "it never had to restart:\n{said}"
    );
}
