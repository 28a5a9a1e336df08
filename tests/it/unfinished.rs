//! What a job, an operator or a configuration may ask for has an effect or is refused by name. Conformance
//! 154.

use serde_json::Value;

use crate::guests::misdeed;
use crate::host;
use crate::jobs;
use crate::scene::Scene;

#[test]
fn c154_a_state_with_a_ttl_of_nothing_is_refused_by_name() {
    let (scene, job) = misdeed("misdeed = \"ttl\"", "");
    scene.write("job.toml", job);
    for command in ["check", "run"] {
        host::run(scene.path(), &[command, "job.toml"])
            .with_code(2)
            .saying(&["operator.faulty.", "state `hoard` has a TTL of 0 ms"])
            .without_panic();
    }
    assert!(scene.output("out").is_empty(), "nothing was processed");
}

#[test]
fn c154_metrics_are_told_at_the_end() {
    let scene = Scene::new();
    scene.write("input/some.txt", "Zz1:1 a b a a c b\n");
    let job = jobs::head("metrics", "30ms")
        + jobs::VERSES
        + &jobs::split()
        + &jobs::operator("dedupe", "dedupe", "split", "")
        + &jobs::files("words", "dedupe", "out", "csv");
    scene.write("job.toml", job);
    let ended = host::run(scene.path(), &["run", "job.toml", "-p", "2"]).with_code(0);
    ended.saying(&["job finished in ", "\n  `dedupe`: dropped = 3\n"]);
    let ended = host::run(scene.path(), &["run", "job.toml", "-p", "2", "--json"]).with_code(0);
    let finished = ended.events().pop().expect("events");
    assert_eq!(finished["event"], "finished");
    let dropped: &Value = &finished["metrics"]["dedupe"]["dropped"];
    assert_eq!(dropped["kind"], "counter");
    assert_eq!(dropped["value"].as_f64(), Some(3.0), "{finished}");
}

#[test]
fn c154_ready_made_operators_declare_nothing_that_is_refused() {
    let scene = Scene::new();
    scene.write("input/some.txt", "Zz1:1 a b\n");
    for (plugin, config) in [
        ("split", ""),
        ("count", ""),
        ("dedupe", ""),
        ("dedupe", "format = \"text\""),
        ("select", "columns = []"),
        ("faulty", "misdeed = \"none\""),
    ] {
        let job = jobs::head("plugins", "30ms")
            + jobs::VERSES
            + &jobs::split()
            + &jobs::operator(
                "it",
                plugin,
                if plugin == "split" { "verses" } else { "split" },
                config,
            )
            + &jobs::discard("nowhere", "it");
        scene.write("job.toml", job);
        let ended = host::run(scene.path(), &["check", "job.toml"]);
        assert!(
            !ended.stderr.contains("not supported"),
            "{plugin}: {}",
            ended.transcript()
        );
    }
}
