//! What programs read: with `--json`, one JSON object a line on stdout for every event.

use serde_json::Value;

use crate::guests;
use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle;
use crate::scene::Scene;

/// The events of a run, in order. Every line of stdout must be one.
fn events(ended: &Ended) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    for line in ended.stdout.lines() {
        let event: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("`{line}` is not JSON: {error}"));
        let name = event["event"]
            .as_str()
            .unwrap_or_else(|| panic!("`{line}` does not name its event"))
            .to_owned();
        events.push((name, event));
    }
    events
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_run_tells_its_life_as_json_lines() {
    let scene = Scene::new();
    scene.input(&oracle::bible(), 12, "txt");
    scene.write("job.toml", jobs::word_count("events"));
    let mut running = host::start(scene.path(), &["run", "job.toml", "--json"]);
    running.checkpoints(2);
    let first = events(&running.kill().expect("killed in the middle"));
    let first = names(&first);
    assert_eq!(first.first(), Some(&"started"));
    assert!(first.contains(&"checkpoint-completed"), "{first:?}");

    let second = events(
        &host::run(scene.path(), &["run", "job.toml", "--json", "-s", "latest"]).with_code(0),
    );
    let second = names(&second);
    assert!(second.contains(&"restored"), "{second:?}");
    assert_eq!(second.last(), Some(&"finished"));
}

#[test]
fn restarts_and_the_failure_are_events() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(500));
    let job = guests::word_count_with_a_trap(&scene, "events-failed", guests::Trap::Always);
    scene.write("job.toml", job);
    let ended = host::run(scene.path(), &["run", "job.toml", "--json"]).with_code(1);
    let told = events(&ended);
    let told = names(&told);
    assert_eq!(
        told.iter().filter(|name| **name == "restarted").count(),
        3,
        "{told:?}"
    );
    assert_eq!(told.last(), Some(&"failed"));
}
