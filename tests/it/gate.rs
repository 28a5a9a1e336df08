//! A gate in a job: an operator that stops at one record, within a call, until the test opens it. What is
//! to happen meanwhile so happens at a known place, whatever the speed of the machine.

use std::fs;

use crate::host::Running;
use crate::jobs;
use crate::scene::Scene;

/// The record at which it stops.
pub(crate) const HELD: &str = "held";

/// Where it looks; a directory of the scene.
const MARKERS: &str = "markers";

/// A closed gate in a scene.
pub(crate) struct Gate<'a> {
    scene: &'a Scene,
}

impl<'a> Gate<'a> {
    /// Makes what it needs in the scene.
    pub(crate) fn new(scene: &'a Scene) -> Self {
        fs::create_dir_all(scene.at(MARKERS)).expect("directories can be made");
        Self { scene }
    }

    /// The operator, which hands on what comes.
    pub(crate) fn operator(&self, id: &str, input: &str) -> String {
        let config = format!(
            "misdeed = \"wait\", on = \"{HELD}\", file = \"/markers/open\", once = \"/markers/waiting\""
        );
        let more = format!(
            "limits = {{ call-time = \"1h\" }}\n\
             grants = {{ dirs = [{{ host = {:?}, guest = \"/markers\", write = true }}] }}",
            self.scene.at(MARKERS)
        );
        jobs::operator_with(id, "faulty", input, &config, &more)
    }

    /// Waits until a record waits before it.
    pub(crate) fn holds(&self, running: &mut Running) {
        let waiting = self.scene.at(MARKERS).join("waiting");
        running.wait_until("record at the gate", || waiting.exists());
    }

    /// Lets it go on, and every later one.
    pub(crate) fn open(&self) {
        self.scene.write(&format!("{MARKERS}/open"), "");
    }
}
