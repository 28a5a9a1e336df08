//! Checkpoints that are neither in files nor in S3, against a real server on loopback: a job is killed and goes on.

use crate::host;
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::Scene;
use crate::servers::{Kind, Server};

/// A word count with its checkpoints in `dir`, killed in the middle and resumed from there.
fn killed_and_resumed(dir: &str, variables: &[(String, String)]) {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 24, "txt");
    scene.write("job.toml", jobs::word_count("remote"));
    let dir_is = format!("checkpoint.dir={dir}");
    // Not waited for longer than need be, by who comes after the kill.
    let lease = "checkpoint.lease-timeout=3s";
    let arguments = ["run", "job.toml", "-D", &dir_is, "-D", lease];
    let start = |arguments: &[&str]| host::start_with_variables(scene.path(), arguments, variables);
    let mut running = start(&arguments);
    let last = running.checkpoints(2);
    running.kill().expect("killed in the middle");
    assert_eq!(last.path, format!("{dir}/remote/chk-2/_metadata"));
    let list = start(&["checkpoints", "list", dir]).wait().with_code(0);
    assert!(list.stdout.contains(dir), "{}", list.stdout);
    start(&["checkpoints", "verify", &last.path])
        .wait()
        .with_code(0);
    start(&[&arguments[..], &["-s", "latest"]].concat())
        .wait()
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    assert_same_lines(
        &scene.output("out"),
        &oracle::word_count(&scene.at("input")),
        "output after the kill",
    );
}

#[test]
fn c129_a_job_that_was_killed_resumes_from_azure() {
    let server = Server::start(Kind::Azurite);
    killed_and_resumed("az://checkpoints/flink", &server.variables());
}

#[test]
fn c129_a_job_that_was_killed_resumes_from_hdfs() {
    let server = Server::start(Kind::Hdfs);
    let dir = format!("{}/flink/checkpoints", server.endpoint());
    killed_and_resumed(&dir, &server.variables());
}

/// A stub of ours, not Google's own server.
#[test]
fn c129_a_job_that_was_killed_resumes_from_a_stub_of_google() {
    let server = Server::start(Kind::Google);
    killed_and_resumed("gs://checkpoints/flink", &server.variables());
}
