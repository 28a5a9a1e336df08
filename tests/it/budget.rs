//! What one call of a guest may cost: output. Conformance 160.
//!
//! Method: an operator that wants far more than its limits, in a host whose memory and work can be looked
//! at while it waits for a restart. The call must fail by the name of the limit, and the host must not have
//! done, or held, what was asked of it.

use crate::guests::{NO_RESTART, memory_of};
use crate::host::{self, Running};
use crate::jobs;
use crate::scene::Scene;

/// After its failure the job waits, so that there is a process to look at.
const PATIENT: &str = "[restart]\nstrategy = \"fixed-delay\"\ndelay = \"1h\"\n\n";

/// Runs a job until an operator has failed with all these texts in one line, and waits for its restart.
fn failed(scene: &Scene, job: &str, texts: &[&str]) -> Running {
    scene.write("job.toml", job.replace(NO_RESTART, PATIENT));
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    let first = texts.first().expect("a text");
    let line = running.line_with(first).unwrap_or_default();
    for text in texts {
        assert!(line.contains(text), "no `{text}` in `{line}`");
    }
    running.line_with("restart 1").expect("it is to restart");
    running
}

#[test]
fn c160_output_counts_on_all_outputs_together_with_the_keys_given_by_number() {
    let scene = Scene::new();
    // The key is 512 KiB long, and each of 16 outputs gets it 400 times: 3 GiB.
    scene.write("input/0.txt", "x".repeat(512 << 10) + "\n");
    let faulty = jobs::operator_with(
        "faulty",
        "faulty",
        "verses",
        "misdeed = \"emit-numbered\", count = 400",
        "limits = { memory = \"64MiB\" }",
    );
    let job = jobs::head("numbered", "30ms")
        + &keyed_verses()
        + &faulty
        + &jobs::discard("none", "faulty");
    let job = job.replace(jobs::RESTART, NO_RESTART);
    let running = failed(
        &scene,
        &job,
        &["limits.call-writes", "`faulty`", "256.0 MiB"],
    );
    let peak = memory_of(running.id(), "VmHWM");
    println!("{peak} KiB at most");
    assert!(peak < 400 << 10, "the host took {peak} KiB");
    running.kill();
}

/// The lines of the input, each its own key.
fn keyed_verses() -> String {
    jobs::VERSES.trim_end().to_owned() + "\nkey = \"line\"\n\n"
}
