//! Every answer holds exactly the fields that its table in `docs/rest.md` lists, with their types, and
//! `docs/openapi.json` says the same.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::*;

/// A part of a field's path.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Name(String),
    /// Every element of a list: `[]`.
    Each,
    /// Any name: `*`.
    Any,
}

/// A row of a table.
#[derive(Clone, Debug)]
struct Row {
    path: String,
    steps: Vec<Step>,
    /// One of these: a word, or the name of a table.
    types: Vec<Type>,
    is_optional: bool,
    text: String,
}

#[derive(Clone, Debug)]
enum Type {
    Word(String),
    Table(String),
}

/// The tables of `docs/rest.md`, by their headings.
struct Tables {
    rows: BTreeMap<String, Vec<Row>>,
    /// Requests with the status that they are answered with.
    asked: Vec<(String, String, String)>,
    /// What was found in an answer: heading and path.
    seen: RefCell<BTreeSet<(String, String)>>,
}

fn docs(name: &str) -> String {
    format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn read() -> Tables {
    let text = std::fs::read_to_string(docs("rest.md")).unwrap();
    let (mut rows, mut asked) = (BTreeMap::<String, Vec<Row>>::new(), vec![]);
    let (mut heading, mut columns) = (String::new(), "");
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let Some(title) = line.strip_prefix("### ") {
            heading = title.trim_matches('`').to_lowercase();
            columns = "";
        } else if line.starts_with("## ") {
            (heading, columns) = (String::new(), "");
        } else if !line.starts_with('|') {
            columns = "";
        } else if columns.is_empty() {
            columns = line;
        } else if columns == "| field | type | here |" && !line.starts_with("|-") {
            rows.entry(heading.clone()).or_default().push(row(&cells));
        } else if columns.starts_with("| request | status |") && !line.starts_with("|-") {
            let [request, status, text] = cells[..] else {
                panic!("{line}")
            };
            asked.push((request.trim_matches('`').into(), status.into(), text.into()));
        }
    }
    Tables {
        rows,
        asked,
        seen: RefCell::default(),
    }
}

fn row(cells: &[&str]) -> Row {
    let [path, kind, text] = cells else {
        panic!("{cells:?}")
    };
    let path = path.trim_matches('`');
    let mut steps = vec![];
    for name in path.split('.').filter(|name| !name.is_empty()) {
        let (name, is_list) = match name.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (name, false),
        };
        match name {
            "" => {}
            "*" => steps.push(Step::Any),
            name => steps.push(Step::Name(name.into())),
        }
        steps.extend(is_list.then_some(Step::Each));
    }
    let (kind, is_optional) = match kind.strip_suffix(", optional") {
        Some(kind) => (kind, true),
        None => (*kind, false),
    };
    let types = kind.split(" or ").map(|word| match word.strip_prefix('[') {
        Some(link) => Type::Table(link.split(']').next().unwrap().into()),
        None => Type::Word(word.into()),
    });
    Row {
        path: path.into(),
        steps,
        types: types.collect(),
        is_optional,
        text: (*text).into(),
    }
}

type Rest<'a> = Vec<(&'a [Step], &'a Row)>;

impl Tables {
    /// The rows of a table, with those of another in place of a row that stands for the whole.
    fn rows(&self, heading: &str) -> Vec<(&str, &Row)> {
        let (key, rows) = self
            .rows
            .get_key_value(heading)
            .unwrap_or_else(|| panic!("no table: {heading}"));
        let expand = |row: &'_ Row| match (row.path.as_str(), &row.types[..]) {
            (".", [Type::Table(name)]) => Some(name.clone()),
            _ => None,
        };
        let mut all = vec![];
        for row in rows {
            match expand(row) {
                Some(name) => {
                    self.see(key, row);
                    all.extend(self.rows(&name));
                }
                None => all.push((key.as_str(), row)),
            }
        }
        all
    }

    fn see(&self, heading: &str, row: &Row) {
        self.seen
            .borrow_mut()
            .insert((heading.into(), row.path.clone()));
    }

    /// What is wrong with a value that a table describes.
    fn check(&self, heading: &str, value: &Value) -> Result<(), String> {
        let rows = self.rows(heading);
        let rest = rows
            .iter()
            .map(|(_, row)| (row.steps.as_slice(), *row))
            .collect();
        self.check_rest(heading, rest, value, "")
    }

    fn check_rest(&self, table: &str, rows: Rest, value: &Value, at: &str) -> Result<(), String> {
        if let Some((_, row)) = rows.iter().find(|(steps, _)| steps.is_empty()) {
            let results = row.types.iter().map(|kind| self.check_type(kind, value));
            let results: Vec<_> = results.collect();
            let is_one = results.iter().any(Result::is_ok);
            // Rows come from this table or from one that is part of it.
            for (heading, known) in &self.rows {
                if known.iter().any(|known| std::ptr::eq(known, *row)) {
                    self.see(heading, row);
                }
            }
            return match is_one {
                true => Ok(()),
                false => Err(format!(
                    "{table}: `{at}`: {value} is none of {:?}: {results:?}",
                    row.types
                )),
            };
        }
        match value {
            Value::Array(values) => {
                let rest: Rest = rows
                    .iter()
                    .filter(|(steps, _)| steps[0] == Step::Each)
                    .map(|(steps, row)| (&steps[1..], *row))
                    .collect();
                if rest.len() != rows.len() {
                    return Err(format!("{table}: `{at}` is a list"));
                }
                values.iter().try_for_each(|value| {
                    self.check_rest(table, rest.clone(), value, &format!("{at}[]"))
                })
            }
            Value::Object(fields) => self.check_fields(table, &rows, fields, at),
            other => Err(format!("{table}: `{at}` is {other}")),
        }
    }

    fn check_fields(
        &self,
        table: &str,
        rows: &Rest,
        fields: &Map<String, Value>,
        at: &str,
    ) -> Result<(), String> {
        let of = |wanted: &Step| -> Rest {
            let found = rows.iter().filter(|(steps, _)| steps[0] == *wanted);
            found.map(|(steps, row)| (&steps[1..], *row)).collect()
        };
        for (name, value) in fields {
            let mut rest = of(&Step::Name(name.clone()));
            if rest.is_empty() {
                rest = of(&Step::Any);
            }
            if rest.is_empty() {
                return Err(format!("{table}: `{at}.{name}` is not listed"));
            }
            self.check_rest(table, rest, value, &format!("{at}.{name}"))?;
        }
        for (steps, _) in rows {
            let name = match &steps[0] {
                Step::Name(name) => name,
                Step::Each => return Err(format!("{table}: `{at}` is no list")),
                Step::Any => continue,
            };
            let is_needed = |(_, row): &(&[Step], &Row)| !row.is_optional;
            let is_kept = rows
                .iter()
                .any(|row| row.0[0] == steps[0] && is_needed(row));
            if is_kept && !fields.contains_key(name) {
                return Err(format!("{table}: `{at}.{name}` is missing"));
            }
        }
        Ok(())
    }

    fn check_type(&self, kind: &Type, value: &Value) -> Result<(), String> {
        let word = match kind {
            Type::Table(name) => return self.check(name, value),
            Type::Word(word) => word.as_str(),
        };
        let is_it = match word {
            "int" => value
                .as_i64()
                .is_some_and(|number| i32::try_from(number).is_ok()),
            "long" => value.is_i64(),
            "double" => value.is_f64(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            "object" => value.as_object().is_some_and(Map::is_empty),
            "list" => value.as_array().is_some_and(Vec::is_empty),
            other => panic!("there is no type `{other}`"),
        };
        is_it
            .then_some(())
            .ok_or_else(|| format!("{value} is no {word}"))
    }
}

/// Every `GET` that is known, of a job, with parameters where they change what is sent.
fn requests() -> Vec<(&'static str, String)> {
    let mut requests = vec![];
    for path in PATHS {
        let request = path.replace(":jobid", JOB).replace(":vertexid", COUNT);
        if path.ends_with("/metrics") {
            let names = "0.numRecordsIn,numRecordsIn,uptime,count.late";
            requests.push((*path, format!("{request}?get={names}")));
            requests.push((*path, format!("{request}?get={names}&agg=max")));
        }
        requests.push((*path, request));
    }
    requests
}

#[test]
fn c100_answers_hold_exactly_the_documented_fields() {
    let tables = read();
    let jobs = [
        job(JobState::Running),
        job(JobState::Starting),
        with_checkpoints(JobState::Running),
        with_checkpoints(JobState::Stopping),
        with_checkpoints(JobState::Restarting),
        with_checkpoints(JobState::Finished),
        with_checkpoints(JobState::Stopped),
        with_checkpoints(JobState::Cancelled),
        with_checkpoints(JobState::Suspended),
        with_checkpoints(JobState::Failed),
        // One that has not got as far as having vertices.
        JobView {
            vertices: vec![],
            ..job(JobState::Starting)
        },
    ];
    for view in jobs {
        let state = view.status.state;
        let history = view.checkpoints.history.clone();
        let views = [view];
        for (path, request) in requests() {
            let heading = format!("get {path}");
            let numbers: Vec<String> = match path.contains(":checkpointid") {
                true => history
                    .iter()
                    .map(|checkpoint| checkpoint.id.to_string())
                    .collect(),
                false => vec!["0".into()],
            };
            for number in numbers {
                let request = request.replace(":checkpointid", &number);
                match get(&views, &request) {
                    Ok(answer) => tables.check(&heading, &answer).unwrap_or_else(|error| {
                        panic!("{request} of a job that is {}: {error}", state.word())
                    }),
                    Err((404, _)) => {
                        let is_left_out = number == "5" || views[0].vertices.is_empty();
                        assert!(is_left_out, "{request}");
                    }
                    Err(refusal) => panic!("{request}: {refusal:?}"),
                }
            }
        }
    }
    for (heading, answer) in asked::answers() {
        let result = tables.check(heading, &answer);
        result.unwrap_or_else(|error| panic!("{error}: {answer}"));
    }
    // A row that no answer has would be tested by nothing.
    let seen = tables.seen.borrow();
    for (heading, rows) in &tables.rows {
        for row in rows {
            let path = &row.path;
            assert!(
                seen.contains(&(heading.clone(), path.clone())),
                "{heading}: {path} is never sent"
            );
        }
    }
}

#[test]
fn every_path_has_a_table_and_every_table_a_path() {
    let tables = read();
    let documented = tables
        .rows
        .keys()
        .filter_map(|heading| heading.strip_prefix("get "));
    let documented: BTreeSet<&str> = documented.collect();
    assert_eq!(documented, PATHS.iter().copied().collect());
}

#[test]
fn a_wrong_answer_does_not_pass() {
    let tables = read();
    let heading = "get /jobs";
    let right = json!({ "jobs": [{ "id": "a", "status": "b" }] });
    assert_eq!(tables.check(heading, &right), Ok(()));
    for wrong in [
        json!({ "jobs": [{ "id": "a" }] }),
        json!({ "jobs": [{ "id": "a", "status": 1 }] }),
        json!({ "jobs": [{ "id": "a", "status": "b", "more": 1 }] }),
        json!({ "jobs": {} }),
        json!({}),
        json!([]),
    ] {
        assert!(tables.check(heading, &wrong).is_err(), "{wrong}");
    }
}

/// The schema of what rows describe.
fn schema(rows: &Rest) -> Value {
    if let Some((_, row)) = rows.iter().find(|(steps, _)| steps.is_empty()) {
        let mut types: Vec<Value> = row.types.iter().map(type_schema).collect();
        let mut schema = match types.len() {
            1 => types.remove(0),
            _ => json!({ "anyOf": types }),
        };
        schema["description"] = row.text.clone().into();
        return schema;
    }
    let next = |wanted: &Step| -> Rest {
        let found = rows.iter().filter(|(steps, _)| steps[0] == *wanted);
        found.map(|(steps, row)| (&steps[1..], *row)).collect()
    };
    if rows[0].0[0] == Step::Each {
        return json!({ "type": "array", "items": schema(&next(&Step::Each)) });
    }
    let (mut properties, mut required) = (Map::new(), BTreeSet::new());
    let mut answer = json!({ "type": "object" });
    for (steps, row) in rows {
        match &steps[0] {
            Step::Name(name) => {
                properties.insert(name.clone(), schema(&next(&steps[0])));
                required.extend((!row.is_optional).then_some(name));
            }
            _ => answer["additionalProperties"] = schema(&next(&Step::Any)),
        }
    }
    if !properties.is_empty() {
        answer["properties"] = properties.into();
    }
    if !required.is_empty() {
        answer["required"] = json!(required);
    }
    answer
}

fn type_schema(kind: &Type) -> Value {
    match kind {
        Type::Table(name) => json!({ "$ref": format!("#/components/schemas/{name}") }),
        Type::Word(word) => match word.as_str() {
            "int" => json!({ "type": "integer", "format": "int32" }),
            "long" => json!({ "type": "integer", "format": "int64" }),
            "double" => json!({ "type": "number", "format": "double" }),
            "list" => json!({ "type": "array", "maxItems": 0 }),
            "object" => json!({ "type": "object", "maxProperties": 0 }),
            word => json!({ "type": word }),
        },
    }
}

fn open_api() -> Value {
    let tables = read();
    let of = |heading: &str| {
        let rows = tables.rows(heading);
        schema(
            &rows
                .iter()
                .map(|(_, row)| (row.steps.as_slice(), *row))
                .collect(),
        )
    };
    let named = |path: &str| {
        let segment = |segment: &str| match segment.strip_prefix(':') {
            Some(name) => format!("{{{name}}}"),
            None => segment.to_owned(),
        };
        path.split('/').map(segment).collect::<Vec<_>>().join("/")
    };
    let parameters = |path: &str| -> Value {
        let names = path
            .split('/')
            .filter_map(|segment| segment.strip_prefix(':'));
        let schema = json!({ "type": "string" });
        let parameter =
            |name| json!({ "name": name, "in": "path", "required": true, "schema": schema });
        names.map(parameter).collect()
    };
    let answered = |schema: Value| {
        json!({
            "description": "The answer.",
            "content": { "application/json": { "schema": schema } },
        })
    };
    let mut paths = Map::new();
    let mut add = |method: &str, path: &str, status: &str, answer: Value, text: &str| {
        let entry = paths.entry(named(path)).or_insert_with(|| json!({}));
        entry[method] = json!({
            "description": text,
            "parameters": parameters(path),
            "responses": { status: answer, "default": { "$ref": "#/components/responses/error" } },
        });
    };
    for path in PATHS {
        add("get", path, "200", answered(of(&format!("get {path}"))), "");
    }
    for (what, heading) in [
        ("savepoints", "savepoint status"),
        ("checkpoints", "checkpoint status"),
        ("rescaling", "rescaling status"),
    ] {
        let path = format!("/jobs/:jobid/{what}/:triggerid");
        add("get", &path, "200", answered(of(heading)), "");
    }
    let disposal = answered(of("disposal status"));
    add("get", "/savepoint-disposal/:triggerid", "200", disposal, "");
    for (request, status, text) in &tables.asked {
        let (method, path) = request.split_once(' ').unwrap();
        let answer = match path {
            "/jobs/:jobid" => answered(json!({ "type": "object", "maxProperties": 0 })),
            _ => answered(of("trigger")),
        };
        add(&method.to_lowercase(), path, status, answer, text);
    }
    let parts = tables
        .rows
        .keys()
        .filter(|heading| !heading.contains(' ') && *heading != "trigger");
    let parts: Map<String, Value> = parts.map(|name| (name.clone(), of(name))).collect();
    let error = json!({
        "type": "object",
        "properties": { "errors": { "type": "array", "items": { "type": "string" } } },
        "required": ["errors"],
    });
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Highwater's REST API in Flink's words", "version": "v1" },
        "servers": [{ "url": "/v1" }],
        "paths": paths,
        "components": { "schemas": parts, "responses": { "error": answered(error) } },
    })
}

/// `OPENAPI=write cargo test -p server openapi` writes it.
#[test]
fn openapi_says_what_the_page_says() {
    let expected = format!("{:#}\n", open_api());
    if std::env::var_os("OPENAPI").is_some() {
        std::fs::write(docs("openapi.json"), &expected).unwrap();
    }
    let found = std::fs::read_to_string(docs("openapi.json")).unwrap();
    assert!(
        found == expected,
        "docs/openapi.json is not what docs/rest.md says"
    );
}
