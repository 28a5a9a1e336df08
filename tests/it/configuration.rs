//! What is set outside of the job file: `--config`, `$HIGHWATER_CONFIG` and their precedence; and `--build`.

use std::fs;
use std::process::{Command, Stdio};

use crate::host::{self, Ended, PROGRAM};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::plugins;
use crate::scene::{Scene, all_files};

/// A scene with a word count that leaves to others what may be set elsewhere.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(200));
    let job = jobs::word_count("configured")
        .replace("interval = \"30ms\"\ndir = \"checkpoints\"\n", "")
        .replace(jobs::RESTART, "");
    scene.write("job.toml", job);
    scene
}

/// Runs `host` with `$HIGHWATER_CONFIG` set to this.
fn with_variable(scene: &Scene, config: &str, arguments: &[&str]) -> Ended {
    let variable = [("HIGHWATER_CONFIG".to_owned(), config.to_owned())];
    host::start_with_variables(scene.path(), arguments, &variable).wait()
}

/// The effective value of a key in what `host check` prints.
fn effective(checked: &Ended, section: &str, key: &str) -> String {
    let shown: toml::Table = checked.stdout.parse().expect("it prints TOML");
    let value = shown.get(section).and_then(|section| section.get(key));
    value.map_or_else(|| "not set".to_owned(), |it| it.to_string())
}

#[test]
fn a_global_configuration_gives_defaults_by_option_or_by_variable() {
    let scene = scene();
    // Ours and Flink's names side by side; paths are relative to the file.
    scene.write(
        "etc/global.toml",
        "[checkpoint]\nretain-on-finish = true\n\n[state]\ncheckpoints.dir = \"kept\"\n\n\
         [execution.checkpointing]\ninterval = \"20ms\"\n",
    );
    let stored = |scene: &Scene| {
        let files = all_files(&scene.at("etc/kept"));
        files
            .iter()
            .filter(|file| file.ends_with("_metadata"))
            .count()
    };
    let by_option = ["run", "job.toml", "--config", "etc/global.toml"];
    let ended = host::run(scene.path(), &by_option).with_code(0);
    assert!(
        ended.stderr.contains("every 20ms"),
        "{}",
        ended.transcript()
    );
    assert_eq!(stored(&scene), 1);
    fs::remove_dir_all(scene.at("etc/kept")).expect("they can be removed");
    with_variable(&scene, "etc/global.toml", &["run", "job.toml", "--fresh"]).with_code(0);
    assert_eq!(stored(&scene), 1);
    // Set to nothing, it is not set.
    fs::remove_dir_all(scene.at("etc/kept")).expect("they can be removed");
    let ended = with_variable(&scene, "", &["run", "job.toml"]).with_code(0);
    assert!(ended.stderr.contains("memory"), "{}", ended.transcript());
    assert_eq!(stored(&scene), 0);
}

#[test]
fn what_is_set_nearer_counts() {
    let scene = scene();
    scene.write(
        "variable.toml",
        "[checkpoint]\ninterval = \"1s\"\nretained = 2\n",
    );
    scene.write(
        "option.toml",
        "[checkpoint]\ninterval = \"2s\"\n\n[restart]\nstrategy = \"fixed-delay\"\nattempts = 5\n",
    );
    let job = fs::read_to_string(scene.at("job.toml")).expect("the job");
    let interval = "[checkpoint]\ninterval = \"3s\"\n";
    scene.write("nearer.toml", job.replace("[checkpoint]\n", interval));
    let check = |job: &str, more: &[&str]| {
        let arguments = [&["check", job], more].concat();
        with_variable(&scene, "variable.toml", &arguments).with_code(0)
    };
    let by_variable = check("job.toml", &[]);
    assert_eq!(effective(&by_variable, "checkpoint", "interval"), "\"1s\"");
    assert_eq!(effective(&by_variable, "checkpoint", "retained"), "2");
    // The option's file is read in the place of the variable's, not over it.
    let config = ["--config", "option.toml"];
    let by_option = check("job.toml", &config);
    assert_eq!(effective(&by_option, "checkpoint", "interval"), "\"2s\"");
    assert_eq!(effective(&by_option, "checkpoint", "retained"), "1");
    assert_eq!(effective(&by_option, "restart", "attempts"), "5");
    let by_job = check("nearer.toml", &config);
    assert_eq!(effective(&by_job, "checkpoint", "interval"), "\"3s\"");
    assert_eq!(effective(&by_job, "restart", "attempts"), "5");
    let set = ["-D", "checkpoint.interval=4s"];
    let by_line = check("nearer.toml", &[&config[..], &set].concat());
    assert_eq!(effective(&by_line, "checkpoint", "interval"), "\"4s\"");
}

#[test]
fn a_global_configuration_that_is_wrong_is_refused_by_its_name() {
    let scene = scene();
    scene.write(
        "wrong.toml",
        "[checkpoint]\nintervall = \"1s\"\n\n[job]\nname = \"x\"\n",
    );
    for wrong in ["wrong.toml", "missing.toml"] {
        let config = ["run", "job.toml", "--config", wrong];
        let by_option = host::run(scene.path(), &config);
        let by_variable = with_variable(&scene, wrong, &["run", "job.toml"]);
        for ended in [by_option, by_variable] {
            ended.with_code(2).saying(&[wrong]).without_panic();
        }
    }
    host::run(scene.path(), &["run", "job.toml", "--config", "wrong.toml"])
        .with_code(2)
        .saying(&[
            "wrong.toml:2",
            "intervall",
            "did you mean `interval`",
            "job",
        ]);
    assert!(scene.output("out").is_empty(), "nothing was processed");
}

#[test]
fn c154_flinks_configuration_has_its_effect_and_the_start_says_what_it_means() {
    let scene = scene();
    let flink = |backend: &str, storage: &str, retention: &str| {
        format!(
            "state.checkpoints.dir = \"kept\"\nstate.backend.type = {backend:?}\n\
             execution.checkpointing.storage = {storage:?}\nexecution.checkpointing.interval = \"20 ms\"\n\
             execution.checkpointing.externalized-checkpoint-retention = {retention:?}\n"
        )
    };
    let run = |config: String| {
        scene.write("etc/flink.toml", config);
        let arguments = [
            "run",
            "job.toml",
            "--fresh",
            "--config",
            "etc/flink.toml",
            "-D",
            "checkpoint.retain-on-finish=true",
        ];
        host::run(scene.path(), &arguments).with_code(0)
    };
    let kept = |scene: &Scene| {
        let files = all_files(&scene.at("etc/kept"));
        files.iter().any(|file| file.ends_with("_metadata"))
    };
    run(flink("rocksdb", "filesystem", "RETAIN_ON_CANCELLATION")).saying(&[
        "state backend: disk: in files below",
        "`count` (256.0 MiB)",
        "checkpoint storage: filesystem, every 20ms",
        "etc/kept",
    ]);
    assert!(kept(&scene));
    run(flink("hashmap", "filesystem", "RETAIN_ON_CANCELLATION"))
        .saying(&["state backend: memory: all keyed state stays there"]);
    fs::remove_dir_all(scene.at("etc/kept")).expect("they can be removed");
    scene.write(
        "etc/flink.toml",
        flink("hashmap", "jobmanager", "RETAIN_ON_CANCELLATION"),
    );
    let config = ["run", "job.toml", "--config", "etc/flink.toml"];
    host::run(scene.path(), &config)
        .with_code(0)
        .saying(&["checkpoint storage: memory"]);
    assert!(!kept(&scene), "nothing was written");
    for retention in [
        "RETAIN_ON_CANCELLATION",
        "DELETE_ON_CANCELLATION",
        "NO_EXTERNALIZED_CHECKPOINTS",
    ] {
        scene.write("etc/flink.toml", flink("hashmap", "filesystem", retention));
        let check = ["check", "job.toml", "--config", "etc/flink.toml"];
        let checked = host::run(scene.path(), &check).with_code(0);
        let ours = format!("{:?}", retention.to_lowercase().replace('_', "-"));
        assert_eq!(effective(&checked, "checkpoint", "retention"), ours);
    }
    let checked = host::run(
        scene.path(),
        &["check", "job.toml", "-D", "state.backend.type=rocksdb"],
    )
    .with_code(0);
    assert_eq!(effective(&checked, "job", "state-backend"), "\"disk\"");
    assert!(checked.stdout.contains("state-memory = \"256MiB\""));
}

#[test]
fn c154_flinks_other_keys_are_refused_wherever_they_stand() {
    let scene = scene();
    let job = fs::read_to_string(scene.at("job.toml")).expect("the job");
    for (key, instead) in [
        (
            "high-availability.storageDir",
            "all that a successor needs is in `checkpoint.dir`",
        ),
        ("high-availability.type", "`host run --standby`"),
        (
            "state.backend.rocksdb.memory.managed",
            "state-backend = \"disk\"",
        ),
        ("execution.state-recovery.path", "`host run -s CHECKPOINT`"),
        ("rest.port", "a socket that only their user can open"),
    ] {
        let line = format!("{key} = \"x\"\n");
        scene.write("flink.toml", &line);
        scene.write("in-job.toml", format!("{line}{job}"));
        let option = format!("{key}=x");
        for arguments in [
            ["check", "job.toml", "--config", "flink.toml"].as_slice(),
            &["check", "job.toml", "-D", &option],
            &["check", "in-job.toml"],
        ] {
            host::run(scene.path(), arguments).with_code(2).saying(&[
                key,
                "is a key of Flink's that is not taken here",
                instead,
            ]);
        }
    }
}

/// A word count whose components are built by these commands.
fn built_by(scene: &Scene, split: &str, count: &str) {
    fs::create_dir(scene.at("source")).expect("a directory can be made");
    let mut job = jobs::word_count("built");
    for (plugin, command) in [("split", split), ("count", count)] {
        let component = plugins::component(plugin);
        fs::copy(&component, scene.at(&format!("source/{plugin}.wasm"))).expect("a copy");
        job = job.replace(
            &format!("component = {component:?}"),
            &format!("component = \"{plugin}.wasm\"\nbuild = {command:?}\nbuild-dir = \"source\""),
        );
    }
    scene.write("input/some.txt", oracle::verses(200));
    scene.write("job.toml", job);
}

#[test]
fn build_runs_each_command_in_its_directory_before_anything_is_loaded() {
    let scene = Scene::new();
    // What a build prints is no output of the job, and one that two operators share is run once.
    let command = "echo building; cp *.wasm ..; echo again >> ../times";
    built_by(&scene, command, command);
    // Without the option nothing is built.
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(2)
        .saying(&["split.wasm", "count.wasm"])
        .without_panic();
    assert!(!scene.at("times").exists());
    let ended = host::run(scene.path(), &["run", "job.toml", "--build", "--json"]).with_code(0);
    assert!(ended.stderr.contains("building"), "{}", ended.transcript());
    assert!(ended.events().len() > 1, "stdout has events alone");
    let times = fs::read_to_string(scene.at("times")).expect("it was run");
    assert_eq!(times.lines().count(), 1);
    let expected = oracle::count_words(&oracle::verses(200));
    assert_same_lines(&scene.output("out"), &expected, "output of what was built");
    // `check` builds as well.
    fs::remove_file(scene.at("count.wasm")).expect("it can be removed");
    host::run(scene.path(), &["check", "job.toml", "--build"]).with_code(0);
}

#[test]
fn builds_that_fail_are_all_named_and_nothing_runs() {
    let scene = Scene::new();
    built_by(&scene, "exit 7", "no-such-compiler");
    host::run(scene.path(), &["run", "job.toml", "--build"])
        .with_code(2)
        .saying(&[
            "operator.split.build",
            "`exit 7` failed",
            "operator.count.build",
            "`no-such-compiler` failed",
        ])
        .without_panic();
    assert!(scene.output("out").is_empty(), "nothing was processed");
}

#[test]
fn a_build_does_not_read_what_is_meant_for_the_job() {
    let scene = Scene::new();
    built_by(&scene, "cp *.wasm ..; cat", "cat");
    let job = fs::read_to_string(scene.at("job.toml")).expect("the job");
    let stdin = "[[source]]\nid = \"verses\"\nconnector = \"stdin\"\nformat = \"lines\"\n\n";
    scene.write("job.toml", job.replace(jobs::VERSES, stdin));
    let verses = fs::File::open(scene.at("input/some.txt")).expect("the input");
    let arguments = ["run", "job.toml", "--build"];
    let input = Stdio::from(verses);
    host::start_by(Command::new(PROGRAM), scene.path(), &arguments, input)
        .wait()
        .with_code(0);
    let expected = oracle::count_words(&oracle::verses(200));
    assert_same_lines(
        &scene.output("out"),
        &expected,
        "output of what came by stdin",
    );
}
