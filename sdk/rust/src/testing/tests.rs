use std::time::Duration;

use super::*;
use crate::{
    Batch, Emitter, Kind, ListState, MapState, OpenContext, Record, Ttl, ValueState, bail,
};

/// Does what each record's value says, with a state of each kind.
struct Machine {
    value: ValueState<i64>,
    text: ValueState<String>,
    map: MapState<i32, String>,
    list: ListState<u16>,
    calls: crate::metrics::Counter,
    sizes: crate::metrics::Histogram,
}

impl Operator for Machine {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        ctx.output("out");
        ctx.output("rejected").unkeyed().text();
        Ok(Self {
            value: ctx.value_state("value"),
            text: ctx.value_state("text"),
            map: ctx.map_state("map"),
            list: ctx.list_state("list"),
            calls: ctx.counter("calls"),
            sizes: ctx.histogram("sizes"),
        })
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        let line = record.text()?;
        let words: Vec<&str> = line.split(' ').collect();
        self.calls.add(1);
        self.sizes.observe(line.len() as f64);
        match words[..] {
            ["add", n] => {
                let n = self.value.get()?.unwrap_or(0) + n.parse::<i64>()?;
                self.value.set(&n)?;
            }
            ["set", n] => self.value.set(&n.parse()?)?,
            ["clear"] => self.value.clear()?,
            ["get"] => out.emit(record.key(), self.value.get()?)?,
            ["get", key] => out.emit(key, self.value.get_for(key)?)?,
            ["set", key, n] => self.value.set_for(key, &n.parse()?)?,
            ["clear", key] => self.value.clear_for(key)?,
            ["append", text] => self
                .text
                .update(|old| old.get_or_insert_default().push_str(text))?,
            ["text"] => out.emit(record.key(), self.text.with(|text| text.cloned())?)?,
            ["insert", field, text] => self.map.insert(&field.parse()?, &text.to_owned())?,
            ["remove", field] => self.map.remove(&field.parse()?)?,
            ["look", field] => out.emit(record.key(), self.map.get(&field.parse()?)?)?,
            ["empty"] => self.map.clear()?,
            ["walk"] => {
                for entry in self.map.iter()? {
                    out.emit(record.key(), entry?)?;
                }
            }
            ["walk", first, end] => {
                let entries = self.map.range_before(&first.parse()?, &end.parse()?)?;
                for entry in entries {
                    out.emit(record.key(), entry?)?;
                }
            }
            ["walk", first] => {
                for entry in self.map.range(&first.parse()?)? {
                    out.emit(record.key(), entry?)?;
                }
            }
            ["push", n] => self.list.push(&n.parse()?)?,
            ["list"] => {
                for element in self.list.iter()? {
                    out.emit(record.key(), element?)?;
                }
            }
            ["drop"] => self.list.clear()?,
            ["reject", text] => out.to("rejected").emit_unkeyed(text)?,
            ["nowhere"] => out.to("nowhere").emit_unkeyed("")?,
            ["late"] => out.emit_at(7, record.key(), "late")?,
            ["keyless"] => out.emit_unkeyed("")?,
            ["nest"] => self.value.with(|_| self.value.get())?.map(|_| ())?,
            _ => bail!("what is `{line}`?"),
        }
        Ok(())
    }

    fn end_of_input(&mut self, _input: u32, out: &mut Emitter) -> Result<()> {
        self.value.for_each(|key, value| out.emit(key, value))
    }

    fn migrate(
        &mut self,
        state: &str,
        from_version: u32,
        value: &[u8],
        to: &mut Vec<u8>,
    ) -> Result<()> {
        to.extend_from_slice(value);
        to.extend_from_slice(format!("{state}{from_version}").as_bytes());
        Ok(())
    }
}

fn machine() -> Harness<Machine> {
    Harness::open().unwrap()
}

fn check(batches: &[&[(&str, &str)]], expect: &[&str]) {
    let mut machine = machine();
    for batch in batches {
        machine.process(batch).unwrap();
    }
    assert_eq!(machine.take_rows(), expect, "{batches:?}");
    // The same records one by one: what a call caches must not be seen.
    let mut single = Harness::<Machine>::open().unwrap();
    for record in batches.concat() {
        single.process(&[record]).unwrap();
    }
    assert_eq!(single.take_rows(), expect, "one by one: {batches:?}");
    for state in ["value", "text", "map", "list"] {
        assert_eq!(
            single.host.table(state),
            machine.host.table(state),
            "{state}"
        );
    }
}

#[test]
fn values_are_kept_per_key() {
    check(
        &[
            &[
                ("a", "add 1"),
                ("b", "add 5"),
                ("a", "add 2"),
                ("a", "get"),
                ("c", "get"),
            ],
            &[("b", "get"), ("a", "clear"), ("a", "get"), ("b", "set 9")],
            &[
                ("a", "get"),
                ("b", "get"),
                ("b", "clear"),
                ("b", "add 4"),
                ("b", "get"),
            ],
        ],
        &["a,3", "c,", "b,5", "a,", "a,", "b,9", "b,4"],
    );
}

#[test]
fn other_keys_are_reached_whether_in_the_batch_or_not() {
    check(
        &[
            &[
                ("a", "add 1"),
                ("b", "set a 10"),
                ("a", "get"),
                ("a", "get b"),
                ("b", "set c 30"),
                ("a", "get c"),
            ],
            &[
                ("c", "add 1"),
                ("a", "get c"),
                ("a", "clear c"),
                ("c", "get"),
                ("c", "clear a"),
                ("b", "get a"),
            ],
        ],
        &["a,10", "b,", "c,30", "c,31", "c,", "a,"],
    );
}

#[test]
fn values_are_changed_in_place() {
    check(
        &[
            &[("a", "append x"), ("a", "append y"), ("a", "text")],
            &[("a", "append z"), ("b", "text"), ("a", "text")],
        ],
        &["a,xy", "b,", "a,xyz"],
    );
}

#[test]
fn maps_are_ordered_and_see_what_was_just_written() {
    check(
        &[
            &[
                ("a", "insert 5 five"),
                ("a", "insert -1 minus"),
                ("b", "insert 5 cinq"),
                ("a", "look 5"),
                ("a", "walk"),
            ],
            &[
                ("a", "insert 7 seven"),
                ("a", "remove 5"),
                ("a", "look 5"),
                ("a", "walk"),
                ("b", "walk"),
                ("a", "walk 0"),
                ("a", "walk -1 7"),
                ("a", "walk 0 7"),
                ("a", "walk -1 8"),
            ],
            &[
                ("a", "insert 1 one"),
                ("a", "empty"),
                ("a", "look -1"),
                ("a", "insert 2 two"),
                ("a", "walk"),
                ("b", "look 5"),
            ],
        ],
        &[
            "a,five",
            "a,-1,minus",
            "a,5,five",
            "a,",
            "a,-1,minus",
            "a,7,seven",
            "b,5,cinq",
            "a,7,seven",
            "a,-1,minus",
            "a,-1,minus",
            "a,7,seven",
            "a,",
            "a,2,two",
            "b,cinq",
        ],
    );
}

#[test]
fn maps_longer_than_a_page_are_walked_whole() {
    let mut machine = machine();
    let inserts: Vec<(&str, String)> = (0..1000)
        .rev()
        .map(|n| ("a", format!("insert {n} x")))
        .collect();
    machine.process(&inserts).unwrap();
    machine.process(&[("a", "walk")]).unwrap();
    let expect: Vec<String> = (0..1000).map(|n| format!("a,{n},x")).collect();
    assert_eq!(machine.take_rows(), expect);
}

#[test]
fn lists_keep_their_order() {
    check(
        &[
            &[
                ("a", "push 1"),
                ("b", "push 9"),
                ("a", "push 2"),
                ("a", "list"),
                ("a", "push 3"),
            ],
            &[
                ("a", "list"),
                ("a", "drop"),
                ("a", "list"),
                ("a", "push 4"),
                ("a", "list"),
                ("b", "list"),
            ],
        ],
        &["a,1", "a,2", "a,1", "a,2", "a,3", "a,4", "b,9"],
    );
}

#[test]
fn a_failed_call_leaves_no_trace() {
    let mut machine = machine();
    machine
        .process(&[("a", "add 1"), ("a", "push 1"), ("a", "insert 1 x")])
        .unwrap();
    machine.take_metric("");
    let failing = [
        ("b", "add 1"),
        ("a", "add 1"),
        ("b", "set c 3"),
        ("a", "list"),
        ("a", "push 2"),
        ("a", "walk"),
    ];
    let error = machine
        .process(&[&failing[..], &[("a", "what")]].concat())
        .unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.record()),
        ("what is `what`?", Some(6))
    );
    assert_eq!(machine.take_rows(), [""; 0]);
    assert_eq!(machine.take_metric("calls"), [0.0; 0]);
    machine
        .process(&[
            ("a", "get"),
            ("b", "get"),
            ("c", "get"),
            ("a", "list"),
            ("a", "look 1"),
        ])
        .unwrap();
    assert_eq!(machine.take_rows(), ["a,1", "b,", "c,", "a,1", "a,x"]);
}

#[test]
fn all_keys_are_met_at_the_end_of_input() {
    let mut machine = machine();
    let records: Vec<(String, &str)> = (0..2500).map(|n| (format!("{n:04}"), "add 2")).collect();
    machine.process(&records).unwrap();
    machine.end_of_input(0).unwrap();
    let expect: Vec<String> = (0..2500).map(|n| format!("{n:04},2")).collect();
    assert_eq!(machine.take_rows(), expect);
}

#[test]
fn records_without_keys_have_no_state() {
    let mut machine = machine();
    let error = machine.process_unkeyed(&["add 1"]).unwrap_err();
    assert!(
        error.message().contains("state `value`") && error.message().contains("has none"),
        "{error}"
    );
    let error = machine.process_unkeyed(&["late"]).unwrap_err();
    assert!(
        error.message().contains("output `out` carries keys"),
        "{error}"
    );
}

#[test]
fn outputs_are_told_apart() {
    let mut machine = machine();
    machine
        .process_timed(&[
            ("a", "reject x,y", 3),
            ("a", "late", 4),
            ("b", "get", i64::MIN),
        ])
        .unwrap();
    let emitted = machine.take();
    let short: Vec<_> = emitted
        .iter()
        .map(|e| {
            (
                e.output.as_str(),
                e.key.as_deref(),
                e.value.as_str(),
                e.timestamp,
            )
        })
        .collect();
    assert_eq!(
        short,
        [
            ("out", Some("a"), "late", Some(7)),
            ("out", Some("b"), "", None),
            ("rejected", None, "x,y", Some(3))
        ]
    );
    for (record, message) in [
        ("nowhere", "no output `nowhere`"),
        ("keyless", "carries keys"),
        ("nest", "own update"),
    ] {
        let error = machine.process(&[("a", record)]).unwrap_err();
        assert!(error.message().contains(message), "{error}");
    }
}

#[test]
fn metrics_are_recorded_once_per_call() {
    let mut machine = machine();
    machine.process(&[("a", "get"), ("a", "get")]).unwrap();
    assert_eq!(machine.take_metric("calls"), [2.0]);
    machine.process(&[("a", "add 1"), ("a", "get")]).unwrap();
    assert_eq!(machine.take_metric("sizes"), [5.0, 3.0]);
}

#[test]
fn values_of_older_versions_are_migrated() {
    assert_eq!(
        machine().migrate("text", 1, &[b"a", b""]).unwrap(),
        [b"atext1".to_vec(), b"text1".to_vec()]
    );
}

#[test]
fn a_fresh_instance_finds_the_state() {
    let mut machine = machine();
    machine.process(&[("a", "add 1")]).unwrap();
    machine.restart().unwrap();
    machine.process(&[("a", "add 1"), ("a", "get")]).unwrap();
    assert_eq!(machine.take_rows(), ["a,2"]);
    assert_eq!(machine.value::<i64>("value", "a").unwrap(), Some(2));
    assert_eq!(machine.states()[2], ("map", "i32=string"));
}

/// Passes on some columns, the key and the whole value, in both kinds of formats.
struct Columns {
    third: crate::Column,
    first: crate::Column,
}

impl Operator for Columns {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        ctx.output("rows")
            .columns([("c", Kind::Text), ("a", Kind::Integer)])
            .unkeyed();
        ctx.output("texts").text();
        Ok(Self {
            third: ctx.column("c")?,
            first: ctx.column("a")?,
        })
    }

    fn process_batch(&mut self, batch: Batch<'_>, out: &mut Emitter) -> Result<()> {
        assert_eq!((batch.len(), batch.input()), (1, 0));
        for record in batch.records() {
            let [third, first] = record.columns([self.third, self.first])?;
            out.emit_unkeyed((third, first))?;
            out.to("texts").emit(record.key(), record.whole())?;
            out.to("texts").emit((record.key(), 1), third)?;
            record.parse::<i64>(self.first)?;
        }
        Ok(())
    }

    fn process(&mut self, _: Record<'_>, _: &mut Emitter) -> Result<()> {
        unreachable!("the batch is taken whole")
    }
}

#[test]
fn columns_are_found_and_passed_on() {
    let setup = || Harness::<Columns>::setup();
    let mut columns = setup().rows(["a", "b", "c"]).open().unwrap();
    columns
        .process(&[("k", "1,\"x,y\",\"say \"\"so\"\"\"")])
        .unwrap();
    assert_eq!(
        columns.take_rows(),
        [
            "\"say \"\"so\"\"\",1",
            "k,1,\"x,y\",\"say \"\"so\"\"\"",
            "k,1,say \"so\""
        ]
    );
    columns.process(&[("\"k,\"", "-1,b,c")]).unwrap();
    assert_eq!(columns.take_rows(), ["c,-1", "k,,-1,b,c", "k,,1,c"]);

    let error = columns.process(&[("k", "1,2")]).unwrap_err();
    assert_eq!(
        error.message(),
        "the row ends after 2 fields: column `c` is missing"
    );
    let error = columns.process(&[("k", "x,2,3")]).unwrap_err();
    assert_eq!(
        error.message(),
        "column `a`: `x` is not a whole number in range"
    );

    let error = setup().rows(["a", "b"]).open().unwrap_err();
    assert_eq!(error.message(), "`in` has no column `c`; it has `a`, `b`");
    assert_eq!(error.kind(), crate::ErrorKind::Config);
    let error = setup().rows(["a;b;c"]).open().unwrap_err();
    assert_eq!(
        error.message(),
        "`in` has no column `c`; it has `a;b;c` (separated by semicolons? Highwater reads commas)"
    );
    let names: [String; 50] = std::array::from_fn(|n| format!("{n}{}", "x".repeat(99)));
    let names = names.each_ref().map(String::as_str);
    let error = setup().rows(names).open().unwrap_err();
    assert!(error.message().len() < 3000, "{error}");
    assert!(error.message().ends_with("…` and 10 more"), "{error}");
    let error = setup().open().unwrap_err();
    assert!(
        error
            .message()
            .contains("`in` declares no columns, so there is no column `c`"),
        "{error}"
    );
}

/// Emits each record's own key, and on an odd one also a key of its own making.
struct Echo;

impl Operator for Echo {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        ctx.output("out");
        Ok(Self)
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        out.emit(record.key(), record.value().len())?;
        if record.value().len() % 2 == 1 {
            out.emit(("made", record.key()), "up")?;
        }
        Ok(())
    }
}

#[test]
fn own_keys_and_made_up_ones_keep_their_order() {
    let mut echo = Harness::<Echo>::open().unwrap();
    echo.process(&[("a", "12"), ("\"b,\"", "1234"), ("a", "")])
        .unwrap();
    assert_eq!(echo.take_rows(), ["a,2", "\"b,\",4", "a,0"]);
    echo.process(&[("a", "12"), ("\"b,\"", "123"), ("a", "")])
        .unwrap();
    assert_eq!(
        echo.take_rows(),
        ["a,2", "\"b,\",3", "made,\"b,\",up", "a,0"]
    );
}

/// Declares wrongly what its configuration says.
struct Mistaken;

impl Operator for Mistaken {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        if ctx.config_json().contains("twice") {
            let _: [ValueState<()>; 2] = [ctx.value_state("mark"), ctx.value_state("mark")];
        }
        ctx.ttl("other", Duration::from_secs(1));
        Ok(Self)
    }

    fn process(&mut self, _: Record<'_>, _: &mut Emitter) -> Result<()> {
        Ok(())
    }
}

#[test]
fn wrong_declarations_are_told_all_at_once() {
    let error = Harness::<Mistaken>::setup()
        .config("twice")
        .open()
        .unwrap_err();
    assert_eq!(
        error.message(),
        "state `mark` is declared twice; there is no state `other` to give a time to live"
    );
}

#[cfg(feature = "serde")]
#[test]
fn configuration_is_read_or_told_to_be_wrong() {
    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Config {
        min_length: usize,
    }
    struct Configured;
    impl Operator for Configured {
        fn open(ctx: &mut OpenContext) -> Result<Self> {
            let config: Config = ctx.config()?;
            if config.min_length == 3 {
                Ok(Self)
            } else {
                Err(Error::config("not 3"))
            }
        }
        fn process(&mut self, _: Record<'_>, _: &mut Emitter) -> Result<()> {
            Ok(())
        }
    }
    let open = |json: &str| Harness::<Configured>::setup().config(json).open();
    assert!(open(r#"{"min-length": 3}"#).is_ok());
    for (json, message) in [
        ("{}", "config: missing field `min-length`"),
        ("", "config: missing field `min-length`"),
        (
            r#"{"min-lenght": 3}"#,
            "config: unknown field `min-lenght`, expected `min-length`",
        ),
        (
            r#"{"min-length": "x"}"#,
            "config: invalid type: string \"x\", expected usize",
        ),
    ] {
        let error = open(json).unwrap_err();
        assert_eq!(
            (error.message(), error.kind()),
            (message, crate::ErrorKind::Config)
        );
    }
}

#[cfg(feature = "serde")]
#[test]
fn json_is_read_and_written() {
    struct Older;
    impl Operator for Older {
        fn open(ctx: &mut OpenContext) -> Result<Self> {
            ctx.output("out").json();
            Ok(Self)
        }
        fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
            let (name, age): (String, u32) = record.json()?;
            out.emit(record.key(), crate::Json((name, age + 1)))
        }
    }
    let mut older = Harness::<Older>::open().unwrap();
    older.process(&[("k", r#""[""Eve"",41]""#)]).unwrap();
    assert_eq!(older.take()[0].value, r#"["Eve",42]"#);
    assert!(older.process(&[("k", "{")]).is_err());
}

/// Says of a key what its states hold, and then adds to them what the record says. The configuration says how
/// long it lives.
struct Forgetful {
    value: ValueState<String>,
    map: MapState<String, String>,
    list: ListState<String>,
}

impl Operator for Forgetful {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let forgetful = Self {
            value: ctx.value_state("value"),
            map: ctx.map_state("map"),
            list: ctx.list_state("list"),
        };
        let mut ttl = Ttl::of(Duration::from_millis(match ctx.config_json() {
            "zero" => 0,
            _ => 100,
        }));
        if ctx.config_json() == "reads" {
            ttl = ttl.refreshed_by_reads();
        }
        if ctx.config_json() == "event" {
            ttl = ttl.in_event_time();
        }
        for state in ["value", "map", "list"] {
            ctx.ttl(state, ttl);
        }
        Ok(forgetful)
    }

    fn process(&mut self, record: Record, out: &mut Emitter) -> Result<()> {
        let value = self.value.get()?.unwrap_or_default();
        let map: Vec<String> = self
            .map
            .iter()?
            .map(|entry| Ok(entry?.0))
            .collect::<Result<_>>()?;
        let list: Vec<String> = self.list.iter()?.collect::<Result<_>>()?;
        out.emit(
            record.key(),
            format!("{value} {} {}", map.join("+"), list.join("+")),
        )?;
        let text = record.text()?.to_string();
        if !text.is_empty() {
            self.value.set(&text)?;
            self.map.insert(&text, &text)?;
            self.list.push(&text)?;
        }
        Ok(())
    }
}

fn seen(harness: &mut Harness<Forgetful>, text: &str) -> String {
    harness.process(&[("k", text)]).unwrap();
    harness.take()[0].value.clone()
}

fn forgetful(config: &str) -> Harness<Forgetful> {
    Harness::<Forgetful>::setup().config(config).open().unwrap()
}

#[test]
fn c74_entries_expire_by_the_clock_that_a_test_sets() {
    let mut harness = forgetful("writes");
    harness.set_time(1_000).unwrap();
    assert_eq!(seen(&mut harness, "a"), "  ");
    harness.set_time(1_060).unwrap();
    assert_eq!(seen(&mut harness, "b"), "a a a");
    harness.set_time(1_099).unwrap();
    assert_eq!(seen(&mut harness, ""), "b a+b a+b");
    harness.set_time(1_100).unwrap();
    assert_eq!(seen(&mut harness, ""), "b b b");
    assert_eq!(harness.entries(), 3);
    harness.set_time(1_160).unwrap();
    assert_eq!(harness.entries(), 0);
    assert_eq!(seen(&mut harness, ""), "  ");
}

#[test]
fn c74_a_read_extends_the_life_of_what_it_sees() {
    let mut harness = forgetful("reads");
    harness.set_time(1_000).unwrap();
    seen(&mut harness, "a");
    for time in [1_099, 1_198, 1_297] {
        harness.set_time(time).unwrap();
        assert_eq!(seen(&mut harness, ""), "a a a");
    }
    harness.set_time(1_397).unwrap();
    assert_eq!(seen(&mut harness, ""), "  ");
}

#[test]
fn c74_entries_expire_by_the_watermark() {
    let mut harness = forgetful("event");
    harness.set_time(1_000).unwrap();
    seen(&mut harness, "a");
    harness.set_time(9_000_000).unwrap();
    harness.set_watermark(50).unwrap();
    // What was there before the first watermark lives on from there.
    harness.set_watermark(149).unwrap();
    assert_eq!(seen(&mut harness, "b"), "a a a");
    harness.set_watermark(150).unwrap();
    assert_eq!(seen(&mut harness, ""), "b b b");
    harness.set_watermark(i64::MAX).unwrap();
    assert_eq!(seen(&mut harness, ""), "b b b");
}

#[test]
fn c154_a_ttl_of_nothing_is_refused_as_hosts_refuse_it() {
    let opened = Harness::<Forgetful>::setup().config("zero").open();
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Config);
    assert!(
        error
            .message()
            .starts_with("state `value` has a TTL of 0 ms"),
        "{error}"
    );
}

/// Passes on what comes, and says in the name of its second output what it knew when it was described.
struct PassOn;

impl Operator for PassOn {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        if ctx.config_json().contains("several") {
            ctx.declare_inputs(["left", "right"]);
        }
        ctx.output_like("out", 1);
        Ok(Self)
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        out.emit(record.key(), record.whole())
    }
}

#[test]
fn an_operator_that_passes_records_on_declares_the_columns_of_its_input() {
    let column = |name: &str, kind| wit::Column {
        name: name.to_owned(),
        kind,
    };
    let port = |value: &[&str]| wit::Port {
        name: "in".to_owned(),
        keyed: true,
        key_columns: vec![column("k", wit::ColumnKind::Integer)],
        format: wit::Format::Row(
            value
                .iter()
                .map(|name| column(name, wit::ColumnKind::Float))
                .collect(),
        ),
    };
    let out = |config: &str, inputs: &[wit::Port]| {
        let config = config.to_owned();
        let described = describe::<PassOn>(config, inputs, Host::default());
        described.unwrap().outputs[0].clone()
    };
    let expected = |value: &[&str]| wit::Port {
        name: "out".to_owned(),
        ..port(value)
    };
    let (a, b) = (port(&["a"]), port(&["b"]));
    assert_eq!(out("several", &[a.clone(), b.clone()]), expected(&["b"]));
    // Joined on one input: what they agree on.
    assert_eq!(out("{}", &[a.clone(), a.clone()]), expected(&["a"]));
    assert_eq!(out("{}", &[a, b]), expected(&[]));
    // Nothing is known.
    let unknown = out("{}", &[]);
    assert_eq!(unknown.format, wit::Format::Row(Vec::new()));
    assert!(unknown.key_columns.is_empty() && unknown.keyed);
}

/// Keeps positions of its own subtask, and rules that all subtasks have.
struct Own {
    positions: crate::OperatorList<u64>,
    all: crate::OperatorList<String>,
    rules: crate::BroadcastState<i32, String>,
    seen: ValueState<u64>,
}

impl Operator for Own {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        Ok(Self {
            positions: ctx.operator_list("positions"),
            all: ctx.union_list("all"),
            rules: ctx.broadcast("rules"),
            seen: ctx.value_state("seen"),
        })
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        let line = record.text()?;
        self.seen
            .update(|seen| *seen.get_or_insert_default() += 1)?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["at", n] => self.positions.push(&n.parse()?)?,
            ["first"] => {
                let positions = self.positions.get()?;
                self.positions.set(positions.iter().take(1))?;
            }
            ["join", word] => self.all.push(&word.to_owned())?,
            ["rule", n, rule] => self.rules.insert(&n.parse()?, &rule.to_owned())?,
            ["forget", n] => self.rules.remove(&n.parse()?)?,
            ["rules", first, end] => {
                for rule in self.rules.range(&first.parse()?, &end.parse()?) {
                    out.emit(record.key(), rule?)?;
                }
            }
            ["rules"] => {
                for rule in self.rules.iter() {
                    out.emit(record.key(), rule?)?;
                }
            }
            ["ask", n] => out.emit(record.key(), self.rules.get(&n.parse()?)?)?,
            _ => bail!("what is {line}?"),
        }
        Ok(())
    }
}

#[test]
fn c73_state_of_a_subtask_is_kept_whatever_the_keys() {
    let mut own = Harness::<Own>::open().unwrap();
    let mut process = |records: &[(&str, &str)]| own.process(records);
    process(&[
        ("a", "at 1"),
        ("b", "at 2"),
        ("a", "join x"),
        ("c", "rule 7 lucky"),
    ])
    .unwrap();
    // A call that fails leaves no trace.
    let failing = [
        ("a", "at 3"),
        ("a", "forget 7"),
        ("a", "join y"),
        ("a", "oops"),
    ];
    process(&failing).unwrap_err();
    process(&[
        ("b", "rule -1 odd"),
        ("b", "rules"),
        ("a", "rules 0 8"),
        ("a", "rules 0 7"),
    ])
    .unwrap();
    own.restart().unwrap();
    own.process(&[
        ("z", "ask 7"),
        ("z", "first"),
        ("z", "forget 7"),
        ("z", "ask 7"),
    ])
    .unwrap();
    assert_eq!(
        own.take_rows(),
        ["b,-1,odd", "b,7,lucky", "a,7,lucky", "z,lucky", "z,"]
    );
    assert_eq!(own.operator_list::<u64>("positions").unwrap(), [1]);
    assert_eq!(own.operator_list::<String>("all").unwrap(), ["x"]);
    assert_eq!(own.value::<u64>("seen", "a").unwrap(), Some(4));
}
