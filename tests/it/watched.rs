//! New files that a source finds while its job runs. Conformance 124, 148.

use std::fs;

use crate::host;
use crate::jobs;
use crate::kills::Moments;
use crate::oracle::assert_same_lines;
use crate::scene::Scene;

/// Lines of `input/*.txt`, new files included, as they are into `out/`.
fn job() -> String {
    let watching = jobs::VERSES.replace(
        "format = \"lines\"\n",
        "format = \"lines\"\nwatch = \"100ms\"\n",
    );
    jobs::head("watched", "30ms") + &watching + &jobs::files("lines", "verses", "out", "lines")
}

/// Lines that no other file has.
fn lines(file: usize) -> Vec<String> {
    (0..40).map(|line| format!("{file:03}-{line:02}")).collect()
}

/// Puts a file there as a whole, as a good writer does.
fn put(scene: &Scene, file: usize) -> Vec<String> {
    let lines = lines(file);
    scene.write("input/.new", lines.join("\n") + "\n");
    let to = scene.at(&format!("input/{file:03}.txt"));
    fs::rename(scene.at("input/.new"), to).expect("it can be renamed");
    lines
}

/// How often the job is killed.
const KILLS: usize = 12;

#[test]
fn c124_new_files_are_read_once_each_through_kills_and_rescaling() {
    let scene = Scene::new();
    scene.write("job.toml", job());
    fs::create_dir_all(scene.at("input")).expect("a directory");
    let mut moments = Moments::new();
    let (mut expected, mut file) = (Vec::new(), 0);
    let mut put_some = |count: u64| {
        for _ in 0..count {
            expected.extend(put(&scene, file));
            file += 1;
        }
        expected.clone()
    };
    let run = |parallelism: u64| {
        let parallelism = parallelism.to_string();
        let arguments = ["run", "job.toml", "--resume", "-p", &parallelism];
        host::start(scene.path(), &arguments)
    };
    let (mut resumed, mut killed) = (0, 0);
    while killed < KILLS {
        put_some(moments.below(3));
        let mut running = run(1 + moments.below(3));
        if killed > 0 {
            running
                .line_with("restoring from checkpoint")
                .expect("it goes on");
            resumed += 1;
        }
        running.checkpoints(1 + moments.below(3) as usize);
        put_some(1 + moments.below(3));
        running.checkpoints(1 + moments.below(12) as usize);
        killed += usize::from(running.kill().is_some());
    }
    assert!(resumed + 1 >= KILLS);
    let expected = put_some(1);
    let mut running = run(2);
    running.wait_until("output of every file", || {
        scene.output("out").len() >= expected.len()
    });
    // Nothing more comes of what was read.
    running.checkpoints(10);
    running.signal("TERM");
    running.wait().with_code(0).without_panic();
    assert_same_lines(&scene.output("out"), &expected, "the lines of all files");
}

#[test]
fn c124_c148_what_happens_to_files_while_the_job_runs_is_noticed() {
    let scene = Scene::new();
    scene.write("job.toml", job());
    fs::create_dir_all(scene.at("input")).expect("a directory");
    let mut expected = put(&scene, 0);
    let mut running = host::start(scene.path(), &["run", "job.toml", "--resume"]);
    running.wait_until("output", || scene.output("out") == expected);
    // One that is appended to is not read again, and that is said.
    let grown = lines(0).join("\n") + "\nmore\n";
    scene.write("input/000.txt", grown);
    running
        .line_with("1 file has grown, and what was appended is not read: `input/000.txt`")
        .expect("it is noticed");
    // What is no file keeps nobody from the others.
    fs::create_dir_all(scene.at("input/directory.txt")).expect("a directory");
    std::os::unix::net::UnixListener::bind(scene.at("input/socket.txt")).expect("a socket");
    running
        .line_with("socket.txt` is neither a file nor a directory")
        .expect("it is noticed");
    expected.extend(put(&scene, 1));
    running.wait_until("output of the second file", || {
        scene.output("out") == expected
    });
    fs::remove_file(scene.at("input/socket.txt")).expect("it can be removed");
    // One that is replaced fails the job, and so does the next start. By default a job that fails leaves nothing; here
    // there is something to choose.
    scene.write("input/001.txt", lines(2).join("\n") + "\n");
    let ended = running.wait().with_code(1);
    ended.saying(&[
        "its input has changed since the checkpoint: `input/001.txt` was replaced or edited",
        "changed=accept",
    ]);
    let again = host::run(scene.path(), &["run", "job.toml", "--resume"]).with_code(2);
    again.saying(&["`input/001.txt`: bytes 0 to 280 were read and are not what they were"]);
    // It goes on if that is accepted, and reads nothing twice.
    let accept = [
        "run",
        "job.toml",
        "--resume",
        "-D",
        "source.verses.changed=accept",
    ];
    let mut running = host::start(scene.path(), &accept);
    expected.extend(put(&scene, 3));
    running.wait_until("output of the last file", || {
        scene.output("out").len() >= expected.len()
    });
    running.checkpoints(5);
    running.signal("TERM");
    running.wait().with_code(0).without_panic();
    assert_same_lines(&scene.output("out"), &expected, "the lines of all files");
}

#[test]
fn c124_a_source_without_watch_says_what_it_leaves_out() {
    let scene = Scene::new();
    let job = job();
    scene.write("job.toml", &job);
    fs::create_dir_all(scene.at("input")).expect("a directory");
    let mut expected = put(&scene, 0);
    let mut running = host::start(scene.path(), &["run", "job.toml"]);
    running.wait_until("output", || scene.output("out") == expected);
    running.checkpoints(2);
    assert!(running.kill().is_some());
    put(&scene, 1);
    // Without `watch` the job ends with the files that it has; with it, the other one is read again.
    scene.write("job.toml", job.replace("watch = \"100ms\"\n", ""));
    let ended = host::run(scene.path(), &["run", "job.toml", "-s", "latest"]).with_code(0);
    ended.saying(&["1 new file that `path` matches is not read: `input/001.txt`"]);
    expected.sort();
    assert_same_lines(
        &scene.output("out"),
        &expected,
        "the lines of the first file",
    );
}
