//! What users get wrong, and the messages: one clear message that names the place, exit code 2,
//! and not a record processed.

use crate::host;
use crate::jobs;
use crate::oracle;
use crate::plugins;
use crate::scene::Scene;

/// A word-count job over a few verses, changed by `change`, is refused with all these texts.
fn refused(change: impl FnOnce(String) -> String, texts: &[&str]) {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(10));
    scene.write("job.toml", change(jobs::word_count("refused")));
    for command in ["check", "run"] {
        host::run(scene.path(), &[command, "job.toml"])
            .with_code(2)
            .saying(texts)
            .without_panic();
    }
    assert!(scene.output("out").is_empty(), "nothing was processed");
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_key() {
    refused(
        |job| job.replace("[checkpoint]\n", "[checkpoint]\nintervall = \"1s\"\n"),
        &["job.toml:5", "intervall", "`interval`"],
    );
}

#[test]
fn a_value_of_the_wrong_type_is_refused() {
    refused(
        |job| job.replace("[job]\n", "[job]\nparallelism = \"two\"\n"),
        &["job.toml:2", "job.parallelism", "integer"],
    );
}

#[test]
fn a_budget_of_memory_for_what_cannot_leave_it_is_refused() {
    let limits = "config = { skip-fields = 1 }\nlimits = { state-memory = \"1MiB\" }";
    refused(
        |job| job.replace("config = { skip-fields = 1 }", limits),
        &["operator.split.limits.state-memory", "no value state"],
    );
}

#[test]
fn a_duration_that_is_none_is_refused() {
    refused(
        |job| job.replace("\"30ms\"", "\"soon\""),
        &["checkpoint.interval", "soon"],
    );
}

#[test]
fn a_cycle_is_refused_and_shown() {
    let cycle = |job: String| {
        job + &jobs::operator("ping", "split", "pong", "")
            + &jobs::operator("pong", "split", "ping", "")
            + &jobs::discard("nowhere", "pong")
    };
    refused(cycle, &["cycle", "ping", "pong"]);
}

#[test]
fn two_operators_with_one_id_are_refused() {
    refused(|job| job + &jobs::count("split"), &["`count`", "already"]);
}

#[test]
fn an_input_that_nobody_feeds_is_refused() {
    refused(
        |job| job.replace("input = \"split\"", "input = \"splt\""),
        &["splt", "`split`"],
    );
}

#[test]
fn a_missing_component_is_refused() {
    let missing = plugins::component("count").display().to_string();
    refused(
        |job| job.replace(&missing, "no/such/component.wasm"),
        &["count", "no/such/component.wasm"],
    );
}

#[test]
fn what_is_not_toml_is_refused() {
    refused(|job| job + "\n[[sink\n", &["job.toml:", "TOML"]);
}

#[test]
fn every_problem_is_told_at_once() {
    refused(
        |job| {
            job.replace("[job]\n", "[job]\nparallelism = 0\nnmae = \"x\"\n")
                .replace("\"30ms\"", "\"soon\"")
        },
        &["job.parallelism", "nmae", "checkpoint.interval"],
    );
}

#[test]
fn an_operator_config_that_its_component_refuses_is_refused() {
    refused(
        |job| job.replace("emit = \"final\"", "emit = \"sometimes\""),
        &["count", "sometimes"],
    );
}

#[test]
fn a_missing_job_file_is_refused() {
    let scene = Scene::new();
    host::run(scene.path(), &["run", "missing.toml"])
        .with_code(2)
        .saying(&["missing.toml"])
        .without_panic();
}

#[test]
fn unknown_arguments_are_refused() {
    let scene = Scene::new();
    host::run(scene.path(), &["run", "--no-such-option", "job.toml"])
        .with_code(2)
        .saying(&["--no-such-option"]);
}

#[test]
fn unreadable_input_is_refused() {
    let scene = Scene::new();
    scene.write(
        "job.toml",
        jobs::word_count("refused").replace("input/*.txt", "input/missing.txt"),
    );
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(2)
        .saying(&["verses", "missing.txt"])
        .without_panic();
}

#[test]
fn a_pattern_that_no_file_matches_is_refused() {
    let scene = Scene::new();
    scene.write("job.toml", jobs::word_count("refused"));
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(2)
        .saying(&["verses", "*.txt"])
        .without_panic();
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    // A file where a directory is wanted stops the superuser as well.
    for (option, named) in [
        ("checkpoint.dir=blocked/checkpoints", "blocked"),
        ("sink.totals.path=blocked/out", "blocked"),
    ] {
        let scene = Scene::new();
        scene.write("input/some.txt", oracle::verses(10));
        scene.write("blocked", "a file");
        scene.write("job.toml", jobs::word_count("refused"));
        host::run(scene.path(), &["run", "job.toml", "-D", option])
            .with_code(2)
            .saying(&[named])
            .without_panic();
        assert!(scene.output("out").is_empty(), "nothing was processed");
    }
}

#[test]
fn a_checkpoint_of_another_job_is_refused() {
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(300));
    scene.write("job.toml", jobs::word_count("mine"));
    let other = jobs::word_count("other")
        .replace("\"split\"", "\"cut\"")
        .replace("\"count\"", "\"sum\"");
    scene.write("other.toml", other);
    let ended = host::run(
        scene.path(),
        &[
            "run",
            "other.toml",
            "-D",
            "checkpoint.retain-on-finish=true",
            "-D",
            "sink.totals.path=other-out",
        ],
    )
    .with_code(0);
    let other = ended.completions().pop().expect("a checkpoint at the end");
    host::run(scene.path(), &["run", "job.toml", "-s", &other.path])
        .with_code(2)
        .saying(&["sum"])
        .without_panic();
    // And `latest` means the latest of this job.
    host::run(scene.path(), &["run", "job.toml", "-s", "latest"])
        .with_code(2)
        .saying(&["mine"])
        .without_panic();
    assert!(scene.output("out").is_empty(), "nothing was processed");
}

#[test]
fn two_sinks_with_one_directory_are_refused() {
    refused(
        |job| job + &jobs::files("again", "count", "./out/../out/", "csv"),
        &[
            "sink.again.path: is also the directory of sink `totals`",
            "give each sink a directory of its own",
        ],
    );
}

#[test]
fn a_source_that_would_read_what_a_sink_writes_is_refused() {
    let reads = "source.verses.path: reads the files that sink `totals` writes to";
    for pattern in [
        "input/",
        "input/*.csv",
        "**/*.csv",
        "./input/part-*",
        "none/../input/./*.csv",
        "also/*.csv",
        "al*/*.csv",
        "./input//./*.csv",
    ] {
        let scene = Scene::new();
        scene.write("input/some.txt", oracle::verses(10));
        scene.write("input/old.csv", "a\n");
        scene.write("input/part-old", "a\n");
        std::os::unix::fs::symlink("input", scene.path().join("also")).expect("a link");
        std::fs::create_dir(scene.path().join("none")).expect("a directory");
        let path = format!("path = {pattern:?}");
        let job = jobs::word_count("own")
            .replace("path = \"input/*.txt\"", &path)
            .replace("path = \"out\"", "path = \"input\"");
        scene.write("job.toml", &job);
        for command in ["check", "run"] {
            host::run(scene.path(), &[command, "job.toml"])
                .with_code(2)
                .saying(&[reads])
                .without_panic();
        }
        // Over a link it is the same directory.
        std::os::unix::fs::symlink("input", scene.path().join("link")).expect("a link");
        scene.write(
            "job.toml",
            job.replace("path = \"input\"", "path = \"link\""),
        );
        host::run(scene.path(), &["check", "job.toml"])
            .with_code(2)
            .saying(&[reads]);
    }
    // Other files of the directory are input as others are.
    let scene = Scene::new();
    scene.write("input/some.txt", oracle::verses(10));
    let job = jobs::word_count("others").replace("path = \"out\"", "path = \"input\"");
    scene.write("job.toml", job);
    for _ in 0..2 {
        host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    }
}

#[test]
fn columns_that_joined_sources_have_in_other_places_are_refused() {
    let scene = Scene::new();
    scene.write("a/a.csv", "k,x,y\nA,1,100\n");
    scene.write("b/b.csv", "k,y,x\nB,200,2\n");
    let source = |id: &str| {
        format!(
            "[[source]]\nid = \"{id}\"\nconnector = \"file\"\npath = \"{id}\"\nformat = \"csv\"\nkey = \"k\"\n\
             timestamp = {{ field = \"x\", format = \"unix-s\" }}\n\n"
        )
    };
    let window = jobs::operator(
        "sums",
        "window",
        "a",
        "window = \"tumbling\", size = \"1h\", aggregates = [\"sum(x)\"]",
    );
    let job = |operator: String| {
        let joined = operator.replace("input = \"a\"", "inputs = [\"a\", \"b\"]");
        let id = operator.split('"').nth(1).expect("an id").to_owned();
        scene.write(
            "job.toml",
            jobs::head("joined", "30ms")
                + &source("a")
                + &source("b")
                + &joined
                + &jobs::files("out", &id, "out", "csv"),
        );
    };
    job(window);
    for command in ["check", "run"] {
        host::run(scene.path(), &[command, "job.toml"])
            .with_code(2)
            .saying(&["column `x` has another place in `b` than in `a`"]);
    }
    // Who reads no column may have both, and who reads one that has its place in all of them.
    scene.write("b/b.csv", "k,x,z\nB,2,200\n");
    job(jobs::operator(
        "sums",
        "window",
        "a",
        "window = \"tumbling\", size = \"1h\", aggregates = [\"sum(x)\", \"max(x)\"]",
    ));
    host::run(
        scene.path(),
        &["run", "job.toml", "-D", "sink.out.path=sums"],
    )
    .with_code(0);
    assert_eq!(scene.output("sums"), ["A,0,3600000,1,1", "B,0,3600000,2,2"]);
    job(jobs::count("a"));
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    assert_eq!(scene.output("out"), ["A,1", "B,1"]);
}

#[test]
fn names_for_more_fields_than_a_key_has_are_refused() {
    let scene = Scene::new();
    scene.write("input/some.csv", "key,time,n\na,1,2\n");
    let job = jobs::head("named", "30ms")
        + &jobs::timed_rows("out-of-orderness = \"0s\"")
        + &jobs::operator(
            "sums",
            "window",
            "records",
            "window = \"tumbling\", size = \"1h\", aggregates = [\"sum(n)\"], key-columns = [\"shop\", \"x\"]",
        )
        + &jobs::files("out", "sums", "out", "json-lines");
    scene.write("job.toml", &job);
    host::run(scene.path(), &["check", "job.toml"])
        .with_code(2)
        .saying(&["`key-columns` has 2 names (shop, x), but the key has 1 field (key)"]);
    scene.write(
        "job.toml",
        job.replace(", key-columns = [\"shop\", \"x\"]", ""),
    );
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    let line = r#"{"key":"a","window_start":0,"window_end":3600000,"sum_n":2}"#;
    assert_eq!(scene.output("out"), [line]);
}

#[test]
fn a_mistake_in_the_configuration_that_a_record_shows_fails_the_job() {
    let scene = Scene::new();
    scene.write("input/some.csv", "key,time,n\na,1,2\n");
    let timed = jobs::timed_rows("out-of-orderness = \"0s\"");
    let untimed: String = timed
        .lines()
        .filter(|line| !line.starts_with("timestamp") && !line.starts_with("watermark"))
        .map(|line| format!("{line}\n"))
        .collect();
    let job = jobs::head("timeless", "30ms")
        + &untimed
        + &jobs::operator(
            "sums",
            "window",
            "records",
            "window = \"tumbling\", size = \"1h\", aggregates = [\"sum(n)\"]",
        )
        + &jobs::discard("nowhere", "sums");
    scene.write("job.toml", job);
    // 2 is for what was refused before any record was processed.
    host::run(scene.path(), &["run", "job.toml"])
        .with_code(1)
        .saying(&["job.toml:", "operator.sums", "the record has no event time"]);
}

#[test]
fn keys_of_a_source_that_are_nearly_right_are_told_from_others() {
    refused(
        |job| {
            let lines = "format = \"lines\"\ntimestamp = \"time\"\nwatermark = \"5min\"\ndead_letter = \"bad\"\n";
            job.replacen("format = \"lines\"\n", lines, 1)
        },
        &[
            "source.verses.timestamp: invalid type: string \"time\", expected a table such as `{ field = \"time\" }`",
            "source.verses.watermark: invalid type: string \"5min\", expected a table",
            "write `watermark = { … }` with its keys",
            "source.verses.dead_letter: unknown key",
            "did you mean `dead-letter`?",
        ],
    );
}

#[test]
fn a_key_of_two_json_fields_is_one_field_of_a_count() {
    let scene = Scene::new();
    scene.write("input/some.jsonl", "{\"k\":\"a\",\"v\":\"b\"}\n");
    let source = jobs::keyed_rows("")
        .replace("input/*.csv", "input/*.jsonl")
        .replace("\"csv\"", "\"json-lines\"")
        .replace("key = \"key\"", "key = [\"k\", \"v\"]");
    let job = jobs::head("pairs", "30ms")
        + &source
        + &jobs::count("records")
        + &jobs::files("totals", "count", "out", "csv");
    scene.write("job.toml", job);
    host::run(scene.path(), &["run", "job.toml"]).with_code(0);
    assert_eq!(scene.output("out").len(), 1);
}
