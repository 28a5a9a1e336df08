//! Rows that an operator emits have the fields that it declares: a reader of the files takes the third field
//! for the third column.

use crate::host;
use crate::jobs;
use crate::scene::Scene;

const SOURCE: &str = "\
[[source]]
id = \"pairs\"
connector = \"file\"
path = \"input/*.csv\"
format = \"csv\"
key = [\"a\", \"b\"]

";

/// Runs a job with this operator and a sink of this format.
fn run(operator: &str, sink: &str) -> (Scene, host::Ended) {
    run_from(SOURCE, operator, sink)
}

/// The same with another source.
fn run_from(source: &str, operator: &str, sink: &str) -> (Scene, host::Ended) {
    let scene = Scene::new();
    scene.write("input/pairs.csv", "a,b\nx,y\n\"p,q\",r\n");
    scene.write(
        "job.toml",
        jobs::head("rows", "1h") + source + operator + sink,
    );
    let ended = host::run(scene.path(), &["run", "job.toml"]);
    (scene, ended)
}

#[test]
fn a_csv_sink_refuses_rows_that_have_other_fields_than_columns() {
    let stdout =
        "[[sink]]\nid = \"out\"\nconnector = \"stdout\"\ninput = \"it\"\nformat = \"csv\"\n";
    let count = |columns: &str| {
        let config = format!("emit = \"final\", key-columns = [{columns}]");
        jobs::operator("it", "count", "pairs", &config)
    };
    for sink in [jobs::files("out", "it", "out", "csv"), stdout.to_owned()] {
        let (scene, ended) = run(&count("\"one\""), &sink);
        ended
            .with_code(2)
            .saying(&["`key-columns` has 1 name (one), but the key has 2 fields (a, b)"]);
        assert!(scene.output("out").is_empty(), "nothing is published");
        let (_, ended) = run(&count("\"one\", \"two\", \"three\""), &sink);
        ended.with_code(2).saying(&[
            "`key-columns` has 3 names (one, two, three), but the key has 2 fields (a, b)",
        ]);
        let dedupe = jobs::operator("it", "dedupe", "pairs", "columns = [\"one\"]");
        let (_, ended) = run(&dedupe, &sink);
        ended
            .with_code(2)
            .saying(&["`columns` are one, but those of `pairs` are a,b"]);
        // A line is one field, whose column has no name.
        let lines = SOURCE
            .replace("\"csv\"", "\"lines\"")
            .replace("[\"a\", \"b\"]", "\"line\"");
        let dedupe = jobs::operator("it", "dedupe", "pairs", "columns = [\"one\", \"two\"]");
        let (_, ended) = run_from(&lines, &dedupe, &sink);
        let ended = ended.with_code(1).saying(&[
            "sink `out`",
            "the value has 1 field, but `it` declares 2 columns: one,two",
        ]);
        // It would have as many again.
        assert!(
            !ended.stderr.contains("restart 1"),
            "{}",
            ended.transcript()
        );
    }
    // As many as are declared, and where nothing is declared any number.
    for columns in ["\"one\", \"two\"", ""] {
        let (scene, ended) = run(&count(columns), &jobs::files("out", "it", "out", "csv"));
        ended.with_code(0);
        assert_eq!(scene.output("out"), ["\"p,q\",r,1", "x,y,1"]);
    }
}
