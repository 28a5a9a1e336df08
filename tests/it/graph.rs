//! Jobs that are more than a chain: several inputs, several consumers, every way to deal records.
//! Checkpoints are taken all the while, and each job is killed and resumed once.

use crate::host;
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::Scene;

/// Runs a job in which `count` gets every word `times` times, kills it, resumes it, and compares.
fn counts_every_word(times: usize, job: &str, parallelism: &str) {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 8, "txt");
    scene.write("job.toml", job);
    let mut running = host::start(scene.path(), &["run", "job.toml", "-p", parallelism]);
    running.checkpoints(2);
    running.kill().expect("killed in the middle");
    host::run(
        scene.path(),
        &["run", "job.toml", "-p", parallelism, "-s", "latest"],
    )
    .with_code(0)
    .saying(&["restoring from checkpoint"]);
    let mut expected: Vec<String> = Vec::new();
    for line in oracle::word_count(&scene.at("input")) {
        let (word, count) = line.split_once(',').expect("a word and its count");
        let count: usize = count.parse().expect("a count");
        expected.push(format!("{word},{}", count * times));
    }
    expected.sort();
    assert_same_lines(&scene.output("out"), &expected, "counts");
}

/// A job with these operators between `split` and the sink of `count`.
fn job(name: &str, between: &str) -> String {
    jobs::head(name, "30ms")
        + jobs::VERSES
        + &jobs::split()
        + between
        + &jobs::files("totals", "count", "out", "csv")
}

#[test]
fn two_ways_of_different_length_meet_again() {
    let count = jobs::count("one").replace("input = \"one\"", "inputs = [\"one\", \"three\"]");
    let between = jobs::pass("one", "split")
        + &jobs::pass("two", "split")
        + &jobs::pass("three", "two")
        + &count;
    counts_every_word(2, &job("diamond", &between), "2");
}

#[test]
fn two_sources_feed_one_operator() {
    let again = jobs::VERSES.replace("\"verses\"", "\"again\"");
    let split = jobs::split().replace("input = \"verses\"", "inputs = [\"verses\", \"again\"]");
    let text = job("two-sources", &jobs::count("split")).replace(&jobs::split(), &(again + &split));
    counts_every_word(2, &text, "2");
}

#[test]
fn broadcast_hands_every_record_to_every_subtask() {
    let between = jobs::operator_with(
        "everywhere",
        "faulty",
        "split",
        "misdeed = \"none\"",
        "partition = \"broadcast\"\nparallelism = 3",
    ) + &jobs::count("everywhere");
    counts_every_word(3, &job("broadcast", &between), "2");
}

#[test]
fn operators_may_differ_in_parallelism() {
    let between = jobs::operator_with(
        "wide",
        "faulty",
        "split",
        "misdeed = \"none\"",
        "partition = \"rebalance\"\nparallelism = 5",
    ) + &jobs::operator_with(
        "narrow",
        "faulty",
        "wide",
        "misdeed = \"none\"",
        "parallelism = 1",
    ) + &jobs::count("narrow");
    counts_every_word(1, &job("rebalance", &between), "2");
}

#[test]
fn an_output_may_have_several_consumers() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(500));
    let text = job("fan-out", &jobs::count("split"))
        + &jobs::keys("words", "split", "words")
        + &jobs::files("totals-again", "count", "again", "csv");
    scene.write("job.toml", text);
    host::run(scene.path(), &["run", "job.toml", "-p", "2"]).with_code(0);
    let expected = oracle::count_words(&oracle::verses(500));
    assert_same_lines(&scene.output("out"), &expected, "the first sink");
    assert_same_lines(&scene.output("again"), &expected, "the second sink");
    assert_same_lines(
        &oracle::count_keys(&scene.at("words")),
        &expected,
        "the words themselves",
    );
}
