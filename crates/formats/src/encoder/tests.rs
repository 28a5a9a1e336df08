use dataflow::Batch;
use dataflow::batch::NO_TIMESTAMP;
use job_file::problem::brief;

use super::*;

fn column(name: &str, kind: ColumnKind) -> Column {
    Column {
        name: name.to_owned(),
        kind,
    }
}

fn port(format: Format, key: &[&str]) -> Port {
    let key_columns = key
        .iter()
        .map(|name| column(name, ColumnKind::Text))
        .collect();
    Port {
        name: "out".to_owned(),
        keyed: true,
        key_columns,
        format,
    }
}

fn options(format: RecordFormat) -> EncoderOptions {
    EncoderOptions {
        format: Some(format),
        ..EncoderOptions::default()
    }
}

fn encode(
    options: &EncoderOptions,
    port: &Port,
    key: Option<&[u8]>,
    value: &[u8],
) -> Result<String, String> {
    let encoder = Encoder::new(options, std::slice::from_ref(port)).unwrap();
    let mut batch = Batch::default();
    batch.push(key, value, NO_TIMESTAMP);
    let mut text = b"before".to_vec();
    let fits = encoder.fits(&batch);
    let result = encoder.encode(&batch, 0, fits, &mut text);
    let text = String::from_utf8(text)
        .unwrap()
        .strip_prefix("before")
        .unwrap()
        .to_owned();
    match result {
        Ok(()) => Ok(text),
        Err(message) => {
            assert_eq!(text, "", "a record that fails leaves nothing");
            Err(message)
        }
    }
}

fn rows() -> Format {
    Format::Row(vec![
        column("flights", ColumnKind::Integer),
        column("mean", ColumnKind::Float),
        column("late", ColumnKind::Boolean),
        column("no\"te", ColumnKind::Text),
    ])
}

#[test]
fn csv_joins_key_and_value_fields() {
    let csv = options(RecordFormat::Csv);
    let encoded =
        |port: &Port, key: Option<&[u8]>, value: &[u8]| encode(&csv, port, key, value).unwrap();
    let undeclared = port(Format::Row(Vec::new()), &[]);
    assert_eq!(
        encoded(&undeclared, Some(b"a,\"b,c\""), b"1,\"x\ny\""),
        "a,\"b,c\",1,\"x\ny\"\n"
    );
    assert_eq!(encoded(&undeclared, Some(b""), b""), ",\n");
    assert_eq!(encoded(&undeclared, None, b"1,2"), "1,2\n");
    assert_eq!(encoded(&undeclared, None, b""), "\"\"\n");
    assert_eq!(
        encoded(&port(Format::Text, &[]), Some(b"a,b"), b"c\"d\ne"),
        "\"a,b\",\"c\"\"d\ne\"\n"
    );
    assert_eq!(
        encoded(
            &port(Format::Json, &["k"]),
            Some(b"a"),
            b"{\"x\":1,\"y\":2}"
        ),
        "a,\"{\"\"x\"\":1,\"\"y\"\":2}\"\n"
    );
    assert_eq!(
        encoded(&port(Format::Text, &["j", "k"]), Some(b"a,b"), b"c"),
        "a,b,c\n"
    );
}

#[test]
fn csv_headers_name_key_and_value_columns() {
    let with_header = EncoderOptions {
        header: true,
        ..options(RecordFormat::Csv)
    };
    let header = |port: &Port| {
        let encoder = Encoder::new(&with_header, std::slice::from_ref(port));
        encoder
            .map(|encoder| String::from_utf8(encoder.header().to_vec()).unwrap())
            .map_err(|problems| brief(&problems[0]))
    };
    assert_eq!(
        header(&port(rows(), &["carrier", "or,igin"])).unwrap(),
        "carrier,\"or,igin\",flights,mean,late,\"no\"\"te\"\n"
    );
    assert_eq!(header(&port(Format::Text, &[])).unwrap(), "key,value\n");
    assert!(
        header(&port(Format::Row(Vec::new()), &["k"]))
            .unwrap_err()
            .contains("does not declare its columns")
    );
    assert!(
        header(&port(rows(), &[]))
            .unwrap_err()
            .contains("does not declare the columns of its key")
    );
    let unkeyed = Port {
        keyed: false,
        ..port(rows(), &[])
    };
    assert_eq!(
        header(&unkeyed).unwrap(),
        "flights,mean,late,\"no\"\"te\"\n"
    );
}

#[test]
fn lines_hold_one_record_each_or_fail() {
    let lines = options(RecordFormat::Lines);
    let with_key = EncoderOptions {
        with_key: true,
        ..lines
    };
    let text = port(Format::Text, &[]);
    assert_eq!(encode(&lines, &text, Some(b"k"), b"a b").unwrap(), "a b\n");
    assert_eq!(
        encode(&with_key, &text, Some(b"k"), b"a\tb").unwrap(),
        "k\ta\tb\n"
    );
    let error = encode(&lines, &text, Some(b"the key"), b"a\nb").unwrap_err();
    assert!(
        error.contains("the key") && error.contains("line break"),
        "{error}"
    );
    assert!(encode(&with_key, &text, Some(b"a\tb"), b"c").is_err());
    let bytes = port(Format::Bytes, &[]);
    for (value, expected) in [
        (&b""[..], ""),
        (b"f", "Zg=="),
        (b"fo", "Zm8="),
        (b"foo", "Zm9v"),
        (b"foob\xff\n", "Zm9vYv8K"),
    ] {
        assert_eq!(
            encode(&lines, &bytes, Some(b"k"), value).unwrap(),
            format!("{expected}\n")
        );
    }
    assert_eq!(
        encode(&with_key, &bytes, Some(b"f"), b"fo").unwrap(),
        "Zg==\tZm8=\n"
    );
}

#[test]
fn json_objects_take_names_and_types_from_the_declared_columns() {
    let json = options(RecordFormat::JsonLines);
    let declared = port(rows(), &["carrier", "flights"]);
    assert_eq!(
        encode(
            &json,
            &declared,
            Some(b"\"A,A\",7"),
            b"12,-0.5e3,true,\"say \"\"hi\"\"\""
        )
        .unwrap(),
        "{\"carrier\":\"A,A\",\"flights\":12,\"mean\":-0.5e3,\"late\":true,\"no\\\"te\":\"say \\\"hi\\\"\"}\n"
    );
    assert_eq!(
        encode(&json, &declared, Some(b"AA,1"), b"NA,,no,").unwrap(),
        "{\"carrier\":\"AA\",\"flights\":\"NA\",\"mean\":null,\"late\":\"no\",\"no\\\"te\":\"\"}\n"
    );
    let error = encode(&json, &declared, Some(b"AA,1"), b"1,2").unwrap_err();
    assert!(
        error.contains("the value has 2 fields, but 4 are declared"),
        "{error}"
    );
    assert!(
        encode(&json, &declared, Some(b"AA"), b"1,2,true,x")
            .unwrap_err()
            .contains("the key has 1 fields")
    );
    assert!(
        encode(&json, &declared, Some(b"\xff,1"), b"1,2,true,x")
            .unwrap_err()
            .contains("not UTF-8")
    );
    let undeclared = port(Format::Row(Vec::new()), &[]);
    assert_eq!(
        encode(&json, &undeclared, Some(b"a,b"), b"1,2").unwrap(),
        "{\"key\":\"a,b\",\"value\":\"1,2\"}\n"
    );
    assert_eq!(
        encode(&json, &undeclared, None, b"x").unwrap(),
        "{\"value\":\"x\"}\n"
    );
    assert_eq!(
        encode(&json, &port(Format::Text, &["word"]), Some(b"a,b"), b"3").unwrap(),
        "{\"word\":\"a,b\",\"value\":\"3\"}\n"
    );
}

#[test]
fn json_documents_pass_as_one_line() {
    let json = options(RecordFormat::JsonLines);
    let documents = port(Format::Json, &[]);
    assert_eq!(
        encode(&json, &documents, Some(b"k"), b"{\n\"a\": 1}").unwrap(),
        "{ \"a\": 1}\n"
    );
    assert!(encode(&json, &documents, None, b" ").is_err());
}

#[test]
fn numbers_are_those_of_json() {
    for number in [
        "0",
        "-1",
        "10.5",
        "1e9",
        "1.0E-7",
        "123456789012345678901234567890",
    ] {
        assert!(is_json_number(number.as_bytes()), "{number}");
        assert!(
            serde_json::from_str::<serde_json::Value>(number).is_ok(),
            "{number}"
        );
    }
    for number in [
        "", "-", "+1", "01", ".5", "1.", "1e", "NaN", "inf", "1 ", "0x1", "1e+-1",
    ] {
        assert!(!is_json_number(number.as_bytes()), "{number}");
    }
}

#[test]
fn what_does_not_fit_the_port_is_refused_before_the_start() {
    let problems = |options: &EncoderOptions, ports: &[Port]| {
        let problems = Encoder::new(options, ports).unwrap_err();
        problems.iter().map(brief).collect::<Vec<_>>().join("\n")
    };
    for format in [RecordFormat::Csv, RecordFormat::JsonLines] {
        let found = problems(&options(format), &[port(Format::Bytes, &[])]);
        assert!(found.contains("write them as `lines`"), "{found}");
    }
    let wrong = EncoderOptions {
        header: true,
        with_key: true,
        ..options(RecordFormat::JsonLines)
    };
    let found = problems(&wrong, &[port(Format::Json, &[])]);
    assert!(
        found.contains("`header`") && found.contains("`with-key`"),
        "{found}"
    );
    let keyless = Port {
        keyed: false,
        ..port(Format::Text, &[])
    };
    let with_key = EncoderOptions {
        with_key: true,
        ..options(RecordFormat::Lines)
    };
    assert!(problems(&with_key, std::slice::from_ref(&keyless)).contains("have no key"));
    let mixed = [port(rows(), &["k"]), port(Format::Text, &[])];
    assert!(problems(&options(RecordFormat::Csv), &mixed).contains("not of the same kind"));
    assert!(Encoder::new(&options(RecordFormat::Lines), &mixed).is_ok());
    assert!(problems(&EncoderOptions::default(), &mixed).contains("`format`: is required"));
}

#[test]
fn csv_rows_have_the_fields_that_are_declared() {
    let csv = options(RecordFormat::Csv);
    let two = Format::Row(vec![
        column("a", ColumnKind::Text),
        column("b", ColumnKind::Text),
    ]);
    let port = port(two, &["k"]);
    let encoder = Encoder::new(&csv, std::slice::from_ref(&port)).unwrap();
    // Of each batch the values, and the one that is wrong.
    let batches: [(&[&str], Option<usize>); 9] = [
        (&["1,2", ",", "x,"], None),
        (&["1,2", "\"x,\",y", "\"two\nlines\",z"], None),
        (&["1,2", "3", "4,5"], Some(1)),
        (&["1,2", "3,4,5"], Some(1)),
        (&["1,2", "3,4", ""], Some(2)),
        (&["", "1,2"], Some(0)),
        (&["1,2", "3,4,"], Some(1)),
        (&["1,2", "\"x,y\""], Some(1)),
        (&["1,2", "two\nlines,3"], Some(1)),
    ];
    for (values, wrong) in batches {
        let mut batch = Batch::default();
        for value in values {
            batch.push(Some(b"key"), value.as_bytes(), NO_TIMESTAMP);
        }
        let fits = encoder.fits(&batch);
        assert!(!fits || wrong.is_none(), "{values:?}");
        for index in 0..values.len() {
            let mut text = Vec::new();
            let result = encoder.encode(&batch, index, fits, &mut text);
            let is_wrong = wrong == Some(index);
            assert_eq!(result.is_err(), is_wrong, "{values:?} {index}: {result:?}");
        }
    }
    // One has too many and another too few: the commas of all together are right.
    let mut batch = Batch::default();
    for value in ["3", "4,5,6"] {
        batch.push(Some(b"key"), value.as_bytes(), NO_TIMESTAMP);
    }
    assert!(!encoder.fits(&batch));
    // Where sources alone feed the sink, they have seen to it.
    let mut trusting = encoder.clone();
    trusting.trust_rows();
    assert!(trusting.fits(&batch));
    let message = encode(&csv, &port, Some(b"j,k"), b"1,2").unwrap_err();
    assert!(
        message.contains("the key has 2 fields, but `out` declares 1 column: k"),
        "{message}"
    );
}
