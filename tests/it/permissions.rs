//! Who may read what a job keeps on disk, and what is not its own. Conformance 159, 165.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::host::{self, Running};
use crate::jobs;
use crate::scene::Scene;

fn job(permissions: &str) -> String {
    let job = jobs::head("c165", "20ms") + jobs::ENDLESS;
    let key = format!("dir = \"checkpoints\"\nretained = 3\n{permissions}\n");
    let job = job.replace("dir = \"checkpoints\"\n", &key);
    job + &jobs::files("numbers-out", "numbers", "out", "lines")
}

/// Starts the job under a umask and waits for output.
fn start(scene: &Scene, umask: &str, arguments: &[&str]) -> Running {
    let mut command = Command::new("sh");
    let script = format!("umask {umask}; exec \"$0\" \"$@\"");
    command.args(["-c", &script, host::PROGRAM]);
    let mut running = host::start_by(command, scene.path(), arguments, Stdio::null());
    running.checkpoints(4);
    running
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::symlink_metadata(path).expect("it is there");
    metadata.permissions().mode() & 0o777
}

/// Everything beneath a directory.
fn beneath(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(beneath(&path));
        }
        found.push(path);
    }
    found
}

/// Checks what a running job has on disk: directories, files of state, and published output.
fn check(running: &Running, scene: &Scene, [directories, files, published]: [u32; 3]) {
    running.while_stopped(|| {
        let state = beneath(&scene.at("checkpoints"));
        let (inside, outside): (Vec<_>, Vec<_>) =
            beneath(&scene.at("out")).into_iter().partition(|path| {
                path.components()
                    .any(|part| part.as_os_str() == ".highwater")
            });
        let is = |names: &[PathBuf], leaf: &str| names.iter().any(|path| path.ends_with(leaf));
        assert!(is(&state, "_metadata") && is(&state, "_lease"), "{state:?}");
        assert!(!inside.is_empty() && !outside.is_empty(), "{outside:?}");
        for path in &state {
            let expected = if path.is_dir() { directories } else { files };
            assert_eq!(mode(path), expected, "{}", path.display());
        }
        for path in inside.iter().filter(|path| path.is_dir()) {
            assert_eq!(mode(path), directories, "{}", path.display());
        }
        for path in &outside {
            assert_eq!(mode(path), published, "{}", path.display());
        }
    });
}

#[test]
fn c165_state_is_its_owners_alone_under_any_umask() {
    for (umask, permissions, expected) in [
        ("000", "", [0o700, 0o600, 0o666]),
        ("022", "", [0o700, 0o600, 0o644]),
        ("077", "permissions = \"umask\"", [0o700, 0o600, 0o600]),
        ("007", "permissions = \"group\"", [0o770, 0o660, 0o660]),
        ("027", "permissions = \"group\"", [0o750, 0o640, 0o640]),
        ("022", "permissions = \"umask\"", [0o755, 0o644, 0o644]),
    ] {
        let scene = Scene::new();
        scene.write("job.toml", job(permissions));
        let running = start(&scene, umask, &["run", "job.toml"]);
        check(&running, &scene, expected);
        running.signal("TERM");
        running.wait().with_code(0);
    }
}

#[test]
fn c165_what_an_earlier_version_left_open_is_closed_when_the_job_goes_on() {
    let scene = Scene::new();
    scene.write("job.toml", job("permissions = \"umask\""));
    let running = start(&scene, "022", &["run", "job.toml"]);
    running.signal("TERM");
    running.wait().with_code(0);
    let own = scene.at("checkpoints/c165");
    assert_eq!(mode(&own), 0o755);
    scene.write("job.toml", job(""));
    let running = start(&scene, "022", &["run", "--resume", "job.toml"]);
    running.while_stopped(|| assert_eq!(mode(&own), 0o700));
    assert_eq!(mode(&scene.at("out/.highwater")), 0o700);
    running.signal("TERM");
    running.wait().with_code(0);
    // Asked to, it leaves the directory as its owner has made it.
    fs::set_permissions(&own, fs::Permissions::from_mode(0o750)).expect("it is ours");
    scene.write("job.toml", job("permissions = \"group\""));
    let running = start(&scene, "027", &["run", "--resume", "job.toml"]);
    running.while_stopped(|| assert_eq!(mode(&own), 0o750));
    running.signal("TERM");
    running.wait().with_code(0);
}

#[test]
fn c159_pipes_links_and_strange_names_in_a_job_directory_stay_and_keep_nobody_waiting() {
    let scene = Scene::new();
    scene.write("job.toml", job(""));
    let running = start(&scene, "022", &["run", "job.toml"]);
    running.signal("TERM");
    running.wait().with_code(0);
    let own = scene.at("checkpoints/c165");
    let precious = scene.write("precious/r1-c1-0.state", "precious");
    // As a checkpoint that was never finished would look, but none of it is a checkpoint's.
    fs::create_dir(own.join("chk-7000")).expect("a directory");
    let pipe = own.join("chk-7000/_metadata");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo can be run").success());
    symlink(&precious, own.join("shared/r1-c7000-0.state")).expect("a link");
    symlink(scene.at("precious"), own.join("chk-7001")).expect("a link");
    scene.write("checkpoints/c165/shared/notes.txt", "mine");
    scene.write("checkpoints/holiday/photo.txt", "mine");
    for arguments in [
        &["checkpoints", "list", "checkpoints"][..],
        &["checkpoints", "verify", "checkpoints/c165/chk-7000"],
        &["checkpoints", "show", "checkpoints/c165/chk-7000"],
        &["checkpoints", "gc", "checkpoints"],
        &["checkpoints", "forget", "checkpoints/c165"],
        &["checkpoints", "forget", "checkpoints/holiday"],
    ] {
        // What counts is that each ends, and what is there after it.
        let ended = host::run(scene.path(), arguments);
        assert!(!ended.stderr.contains("thread '"), "{}", ended.transcript());
        for (name, content) in [
            ("precious/r1-c1-0.state", "precious"),
            ("checkpoints/c165/shared/notes.txt", "mine"),
            ("checkpoints/holiday/photo.txt", "mine"),
        ] {
            let found = fs::read_to_string(scene.at(name)).expect(name);
            assert_eq!(found, content, "{name} after {arguments:?}");
        }
        assert!(fs::symlink_metadata(&pipe).is_ok(), "after {arguments:?}");
        assert!(own.join("chk-7001").is_symlink(), "after {arguments:?}");
    }
}
