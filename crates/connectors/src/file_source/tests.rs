//! Goal: whatever the format, the packing and the moment, a source that stops and one that goes on
//! from its position deliver together exactly what one undisturbed source delivers.

use std::io::Write as _;

use dataflow::row;
use job_file::options::read_right;
use job_file::problem::brief;
use operator::SourceFactory as _;
use tempfile::TempDir;

use super::*;
use crate::testing::{Random, Record, context, error_chain, take_all, take_one, through_json};

fn prepare(directory: &TempDir, options: &str) -> Result<FileSourceFactory, Vec<String>> {
    let options: FileSourceOptions = read_right(options);
    let shown = |problems: Vec<Problem>| problems.iter().map(brief).collect();
    let clock: Clock = Arc::new(|| 0);
    options.prepare(directory.path(), &clock).map_err(shown)
}

fn write(directory: &TempDir, name: &str, content: &[u8]) {
    let path = directory.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Two members or frames, cut in the middle of whatever is there.
fn packed(name: &str, content: &[u8]) -> Vec<u8> {
    let (head, tail) = content.split_at(content.len() / 2);
    match Compression::of(name) {
        Compression::None => content.to_vec(),
        Compression::Gzip => [gzip(head), gzip(tail)].concat(),
        Compression::Zstd => [
            zstd::encode_all(head, 1).unwrap(),
            zstd::encode_all(tail, 1).unwrap(),
        ]
        .concat(),
    }
}

fn create(factory: &FileSourceFactory, restored: Option<&[Part]>) -> Box<dyn Source> {
    factory.create(&context(0, 1), restored).unwrap()
}

fn values(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.value.as_str()).collect()
}

/// Stops after every number of records, goes on from the position, and compares.
fn check_resume_everywhere(options: &str, files: &[(&str, &[u8])]) -> Vec<Record> {
    let directory = TempDir::new().unwrap();
    for (name, content) in files {
        write(&directory, name, &packed(name, content));
    }
    let factory = prepare(&directory, options).unwrap();
    let keyed = factory.plan().port().keyed;
    let whole = take_all(&mut *create(&factory, None)).unwrap();
    for stop in 0..=whole.len() {
        let mut first = create(&factory, None);
        let mut read: Vec<Record> = (0..stop)
            .map(|_| {
                take_one(&mut *first, keyed)
                    .unwrap()
                    .expect("there are more")
            })
            .collect();
        let parts = through_json(&first.snapshot().unwrap());
        drop(first);
        let mut second = create(&factory, Some(&parts));
        assert_eq!(
            second.snapshot().unwrap(),
            parts,
            "a position survives a restore without a poll"
        );
        read.extend(take_all(&mut *second).unwrap());
        assert_eq!(read, whole, "stopped after {stop} records at {parts:?}");
        let all_done = through_json(&second.snapshot().unwrap());
        assert_eq!(
            take_all(&mut *create(&factory, Some(&all_done))).unwrap(),
            []
        );
    }
    whole
}

const NAMES: [[&str; 2]; 3] = [["a.x", "b.x"], ["a.x.gz", "b.x.gz"], ["a.x.zst", "b.x.zst"]];

#[test]
fn lines_resume_at_every_record() {
    for [a, b] in NAMES {
        let records = check_resume_everywhere(
            "path = \"*.x*\"\nformat = \"lines\"",
            &[
                (a, b"\xef\xbb\xbfone\r\n\ntwo \0\xff\nthree"),
                (b, b"four\n\n"),
                ("c.x", b""),
            ],
        );
        assert_eq!(
            values(&records),
            ["one", "", "two \0\u{ff}", "three", "four", ""]
        );
        assert!(records.iter().all(|record| record.key.is_none()));
    }
    let keyed = check_resume_everywhere(
        "path = \"a.x\"\nformat = \"lines\"\nkey = \"line\"",
        &[("a.x", b"one\ntwo\n")],
    );
    assert_eq!(keyed[1].key.as_deref(), Some("two"));
}

#[test]
fn csv_resumes_at_every_record() {
    for [a, b] in NAMES {
        let records = check_resume_everywhere(
            "path = [\"a.x*\", \"b.x*\"]\nformat = \"csv\"\nkey = [\"v\", \"k\"]\n\
             timestamp = { field = \"t\", format = \"unix-s\" }",
            &[
                (
                    a,
                    b"\xef\xbb\xbfk,v,t\r\na,1,1\r\n\r\n\"b,\"\"c\"\"\",\"x\ny\",2\r\n,,3",
                ),
                (b, b"\"k\",\"v\",t\nd,\"\",4\n5\" pipe,e,5\n\n"),
            ],
        );
        assert_eq!(
            values(&records),
            [
                "a,1,1",
                "\"b,\"\"c\"\"\",\"x\ny\",2",
                ",,3",
                "d,,4",
                "\"5\"\" pipe\",e,5"
            ]
        );
        let keys: Vec<_> = records
            .iter()
            .filter_map(|record| record.key.as_deref())
            .collect();
        assert_eq!(
            keys,
            [
                "1,a",
                "\"x\ny\",\"b,\"\"c\"\"\"",
                ",",
                ",d",
                "e,\"5\"\" pipe\""
            ]
        );
        let times: Vec<_> = records.iter().map(|record| record.timestamp).collect();
        assert_eq!(times, [1000, 2000, 3000, 4000, 5000]);
    }
}

#[test]
fn json_lines_resume_at_every_record() {
    for [a, b] in NAMES {
        let records = check_resume_everywhere(
            "path = \".\"\nformat = \"json-lines\"\nkey = \"k\"\ntimestamp = { field = \"t\" }",
            &[
                (a, b"{\"k\":\"a,b\",\"t\":\"1970-01-01T00:00:01Z\"}\r\n\n  \n {\"t\":\"1970-01-01T00:00:02Z\" , \"k\": 1.50}\n"),
                (b, br#"{"k":true,"x":{"k":1},"t":"1970-01-01T00:00:03Z"}"#),
            ],
        );
        let keys: Vec<_> = records
            .iter()
            .filter_map(|record| record.key.as_deref())
            .collect();
        assert_eq!(keys, ["a,b", "1.50", "true"]);
        assert_eq!(
            records[1].value,
            r#"{"t":"1970-01-01T00:00:02Z" , "k": 1.50}"#
        );
        assert_eq!(records[2].timestamp, 3000);
    }
}

#[test]
fn rows_that_were_written_field_by_field_are_read_back_so() {
    let mut random = Random(7);
    let mut expected: Vec<Vec<Vec<u8>>> = Vec::new();
    for crlf in [false, true] {
        for always_quote in [false, true] {
            let directory = TempDir::new().unwrap();
            let mut text = Vec::new();
            let line_end = if crlf { "\r\n" } else { "\n" };
            let mut write_record = |fields: &[&[u8]]| {
                for (index, field) in fields.iter().enumerate() {
                    let quote = always_quote || field.iter().any(|byte| b",\"\r\n".contains(byte));
                    text.extend_from_slice(if index == 0 { b"" } else { b"," });
                    text.extend_from_slice(if quote { b"\"" } else { b"" });
                    for byte in *field {
                        text.extend_from_slice(if *byte == b'"' {
                            b"\"\""
                        } else {
                            std::slice::from_ref(byte)
                        });
                    }
                    text.extend_from_slice(if quote { b"\"" } else { b"" });
                }
                text.extend_from_slice(line_end.as_bytes());
            };
            write_record(&[b"a", b"b,\"", b"c"]);
            expected.clear();
            for _ in 0..20_000 {
                let mut field = || -> Vec<u8> {
                    let len = random.below(if random.0.is_multiple_of(1000) {
                        3000
                    } else {
                        12
                    });
                    (0..len)
                        .map(|_| b"abc,\"\r\n \x00\xff"[random.below(10) as usize])
                        .collect()
                };
                let record = vec![field(), field(), field()];
                write_record(&[&record[0], &record[1], &record[2]]);
                expected.push(record);
            }
            write(&directory, "rows.csv", &text);
            let factory = prepare(&directory, "path = \"rows.csv\"\nformat = \"csv\"").unwrap();
            assert_eq!(
                factory.plan().columns.as_deref().unwrap(),
                ["a", "b,\"", "c"]
            );
            let mut source = create(&factory, None);
            let mut read = Vec::new();
            loop {
                let mut batch = Batch::default();
                let status = source.poll(&mut batch).unwrap();
                for value in batch.values.iter() {
                    let mut fields = Vec::new();
                    row::for_each_field(value, |_, field| fields.push(field.to_vec()));
                    read.push(fields);
                }
                if status == SourceStatus::Ended {
                    break;
                }
            }
            assert_eq!(read.len(), expected.len());
            assert!(read == expected, "crlf {crlf}");
        }
    }
}

/// Lines of all lengths, so that ranges begin in their middle, at their ends, and after them.
fn many_lines(seed: u64, bytes: usize) -> String {
    let mut random = Random(seed);
    let mut text = String::new();
    let mut number = 0;
    while text.len() < bytes {
        let padding = match random.below(50) {
            0 => random.below(20_000),
            _ => random.below(100),
        };
        text += &format!(
            "{{\"n\":{number},\"p\":\"{}\"}}\n",
            "x".repeat(padding as usize)
        );
        number += 1;
    }
    text
}

#[test]
fn splits_are_shared_and_dealt_anew_at_every_parallelism() {
    let directory = TempDir::new().unwrap();
    let big = many_lines(1, 9 << 20);
    let packed_lines = many_lines(2, 100_000);
    write(&directory, "big.jsonl", big.as_bytes());
    write(
        &directory,
        "more.jsonl.gz",
        &packed("more.jsonl.gz", packed_lines.as_bytes()),
    );
    write(&directory, "small.jsonl", b"{\"small\":1}");
    for format in ["lines", "json-lines"] {
        let factory = prepare(&directory, &format!("path = \".\"\nformat = \"{format}\"")).unwrap();
        let mut whole: Vec<Record> = take_all(&mut *create(&factory, None)).unwrap();
        whole.sort();
        assert_eq!(
            whole.len(),
            big.lines().count() + packed_lines.lines().count() + 1
        );
        for (seed, parallelisms) in [(3, [1, 3, 2]), (4, [4, 1, 5]), (5, [2, 7, 3])] {
            let mut random = Random(seed);
            let mut read = Vec::new();
            let mut parts: Option<Vec<Part>> = None;
            for (round, parallelism) in parallelisms.into_iter().enumerate() {
                let last = round + 1 == parallelisms.len();
                let mut next = Vec::new();
                let mut busy = 0;
                for subtask in 0..parallelism {
                    let mut source = factory
                        .create(&context(subtask, parallelism), parts.as_deref())
                        .unwrap();
                    let before = read.len();
                    if last {
                        read.extend(take_all(&mut *source).unwrap());
                    } else {
                        for _ in 0..random.below(12) {
                            let mut batch = Batch::default();
                            source.poll(&mut batch).unwrap();
                            read.extend(crate::testing::records(&batch));
                        }
                        for _ in 0..random.below(20) {
                            read.extend(take_one(&mut *source, false).unwrap());
                        }
                    }
                    busy += usize::from(read.len() > before);
                    next.extend(through_json(&source.snapshot().unwrap()));
                }
                assert!(!last || busy > 1, "one big file is shared");
                parts = Some(next);
            }
            read.sort();
            assert!(
                read == whole,
                "seed {seed}: {} records, not {}",
                read.len(),
                whole.len()
            );
            let parts = parts.unwrap();
            assert_eq!(
                factory.describe_position(&parts),
                format!(
                    "{} read, 3 of 3 files done",
                    counted(whole.len() as u64, "record")
                )
            );
            // Pieces are joined, with their checksums, as far as they are neighbours.
            let done = Position::read(&parts).unwrap().done;
            let crc = crc32c::crc32c(big.as_bytes());
            let to = big.len() as u64;
            let whole = Done {
                file: "big.jsonl".to_owned(),
                start: 0,
                end: Some(to),
                records: big.lines().count() as u64,
                read: Some(formats::blocks::Checksum { from: 0, to, crc }),
            };
            assert_eq!(done[0], whole);
            assert_eq!(done.len(), 3, "{done:?}");
        }
    }
}

/// What a source says that reads `content` to the end.
fn failure(name: &str, content: &[u8], options: &str) -> String {
    let directory = TempDir::new().unwrap();
    write(&directory, name, content);
    let factory = prepare(&directory, &format!("path = \"{name}\"\n{options}")).unwrap();
    take_all(&mut *create(&factory, None)).unwrap_err()
}

#[test]
fn broken_records_are_named_with_file_and_line() {
    let error = failure(
        "a.csv",
        b"k,v\na,1\n\n\"x\ny\",2\nb\nc,3\n",
        "format = \"csv\"",
    );
    assert_eq!(
        error,
        "file `a.csv`, line 6: has 1 field, but the header names 2"
    );
    let error = failure("a.csv", b"k,v\na,1\nb,\"2\nc,3\n", "format = \"csv\"");
    assert_eq!(
        error,
        "file `a.csv`, line 3: a quoted field is never closed"
    );
    let time = "timestamp = { field = \"t\" }";
    let error = failure(
        "a.csv",
        b"t\n2013-01-01T10:00:00Z\nNA\n",
        &format!("format = \"csv\"\n{time}"),
    );
    assert!(
        error.starts_with("file `a.csv`, line 3: column `t` `NA` is not an event time"),
        "{error}"
    );
    let error = failure("a.jsonl", b"{}\n\n{\"a\":}\n", "format = \"json-lines\"");
    assert_eq!(
        error,
        "file `a.jsonl`, line 3: is not JSON: expected value at column 6"
    );
    let error = failure(
        "a.jsonl",
        b"{\"k\":1}\n{}\n",
        "format = \"json-lines\"\nkey = \"k\"",
    );
    assert_eq!(error, "file `a.jsonl`, line 2: has no field `k`");
    let error = failure(
        "a.jsonl",
        b"{\"k\":null}\n",
        "format = \"json-lines\"\nkey = \"k\"",
    );
    assert_eq!(error, "file `a.jsonl`, line 1: field `k` is null");
    let error = failure("a.jsonl", b"[1]\n", "format = \"json-lines\"\nkey = \"k\"");
    assert_eq!(
        error,
        "file `a.jsonl`, line 1: is not an object, so it has no fields"
    );
    let error = failure(
        "a.jsonl",
        b"{\"t\":[]}\n",
        &format!("format = \"json-lines\"\n{time}"),
    );
    assert_eq!(
        error,
        "file `a.jsonl`, line 1: field `t` is a list, not a text or a number"
    );
    let error = failure("a.jsonl", b"\"\xff\"\n", "format = \"json-lines\"");
    assert_eq!(error, "file `a.jsonl`, line 1: is not UTF-8");
}

#[test]
fn a_packed_file_that_is_cut_off_or_broken_is_no_end() {
    let lines = many_lines(9, 300_000);
    for name in ["a.gz", "a.zst"] {
        let whole = packed(name, lines.as_bytes());
        for end in [
            whole.len() - 1,
            whole.len() - 5,
            whole.len() / 2 + 9,
            whole.len() / 3,
            30,
            3,
        ] {
            let error = failure(name, &whole[..end], "format = \"lines\"");
            assert!(
                error.starts_with(&format!("cannot read file `{name}`")),
                "{end}: {error}"
            );
        }
    }
    let mut broken = packed("a.gz", lines.as_bytes());
    let middle = broken.len() / 4;
    broken[middle] ^= 0x55;
    let error = failure("a.gz", &broken, "format = \"lines\"");
    assert!(
        error.starts_with("cannot read file `a.gz` after record "),
        "{error}"
    );
}

#[test]
fn records_before_a_broken_one_are_delivered_and_the_error_comes_again() {
    let directory = TempDir::new().unwrap();
    write(&directory, "a.jsonl", b"1\n2\n]\n");
    let factory = prepare(&directory, "path = \"a.jsonl\"\nformat = \"json-lines\"").unwrap();
    let mut source = create(&factory, None);
    let mut batch = Batch::default();
    assert_eq!(source.poll(&mut batch).unwrap(), SourceStatus::More);
    assert_eq!(batch.len(), 2);
    let parts = source.snapshot().unwrap();
    for _ in 0..2 {
        assert!(
            source
                .poll(&mut Batch::default())
                .unwrap_err()
                .to_string()
                .contains("line 3")
        );
    }
    let mut restored = create(&factory, Some(&parts));
    assert!(
        restored
            .poll(&mut Batch::default())
            .unwrap_err()
            .to_string()
            .contains("line 3")
    );
}

/// What a source that resumes at `parts` says; a new process, so a new factory.
fn resume_error(directory: &TempDir, options: &str, parts: &[Part]) -> String {
    let factory = prepare(directory, options).unwrap();
    let refused = factory.compare("s", parts).unwrap_err();
    let error = factory.create(&context(0, 1), Some(parts)).err().unwrap();
    assert_eq!(error.to_string(), refused.to_string());
    refused.differences.join("\n")
}

#[test]
fn a_file_that_is_gone_or_shorter_fails_the_restore() {
    for name in ["a.txt", "a.txt.gz", "a.csv"] {
        let format = if name == "a.csv" { "csv" } else { "lines" };
        let directory = TempDir::new().unwrap();
        write(&directory, "other.csv", b"first line\n");
        write(
            &directory,
            name,
            &packed(name, b"first line\nsecond line\nthird line\n"),
        );
        let options = format!("path = [\"{name}\", \"other.csv\"]\nformat = \"{format}\"");
        let mut source = create(&prepare(&directory, &options).unwrap(), None);
        take_one(&mut *source, false).unwrap();
        let parts = source.snapshot().unwrap();
        let others = format!("path = \"other.csv\"\nformat = \"{format}\"");
        write(&directory, name, &packed(name, b"first line"));
        let error = resume_error(&directory, &others, &parts);
        assert!(error.starts_with(&format!("`{name}` has ")), "{error}");
        fs::remove_file(directory.path().join(name)).unwrap();
        let error = resume_error(&directory, &others, &parts);
        assert_eq!(error, format!("`{name}` is gone"));
    }
}

/// Positions at every record, each with all changes that a file can suffer before it.
#[test]
fn every_changed_byte_before_the_position_is_noticed() {
    let text = b"\xef\xbb\xbfk,v\na,1\n\n\"b\",\"2\n2\"\nc,3";
    for name in ["a.csv", "a.csv.gz", "a.csv.zst"] {
        let directory = TempDir::new().unwrap();
        write(&directory, name, &packed(name, text));
        write(&directory, "z.csv", b"k,v\nz,0\n");
        let options = format!("path = [\"{name}\", \"z.csv\"]\nformat = \"csv\"");
        let others = "path = \"z.csv\"\nformat = \"csv\"";
        let mut source = create(&prepare(&directory, &options).unwrap(), None);
        for _ in 0..4 {
            take_one(&mut *source, false).unwrap();
            let parts = through_json(&source.snapshot().unwrap());
            let position = Position::read(&parts).unwrap();
            let split = position.splits.iter().find(|split| split.file == name);
            let read = split.map_or(text.len(), |split| split.offset as usize);
            for at in 0..text.len() {
                let mut changed = text.to_vec();
                changed[at] ^= 0x40;
                write(&directory, name, &packed(name, &changed));
                let factory = prepare(&directory, others).unwrap();
                let found = factory.compare("s", &parts);
                if at < read {
                    let differences = found.unwrap_err().differences;
                    assert!(differences[0].contains("were read and are not what they were"));
                } else if Compression::of(name) != Compression::None {
                    // Not what was read; of a file that is not packed the end is compared as well.
                    assert_eq!(found.err(), None, "{name}, byte {at} at {read}");
                }
            }
            write(&directory, name, &packed(name, text));
            let factory = prepare(&directory, others).unwrap();
            assert_eq!(factory.compare("s", &parts), Ok(()), "{name} at {read}");
            // A position that goes on from the times of now.
            let again = create(&factory, Some(&parts)).snapshot().unwrap();
            assert_eq!(Position::read(&again).unwrap().done, position.done);
        }
    }
}

#[test]
fn what_was_read_to_its_end_may_be_removed_and_may_grow_but_not_change() {
    let directory = TempDir::new().unwrap();
    write(&directory, "a.txt", b"a1\na2\n");
    write(&directory, "b.txt", b"b1\nb2\n");
    let options = "path = \"*.txt\"\nformat = \"lines\"";
    let mut source = create(&prepare(&directory, options).unwrap(), None);
    for _ in 0..3 {
        take_one(&mut *source, false).unwrap();
    }
    let parts = source.snapshot().unwrap();
    let rest = || {
        let factory = prepare(&directory, options).unwrap();
        let records = take_all(&mut *create(&factory, Some(&parts))).unwrap();
        values(&records).join(" ")
    };
    write(&directory, "a.txt", b"a1\na2\na3\n");
    assert_eq!(rest(), "b2");
    write(&directory, "a.txt", b"a1\nA2\n");
    let error = resume_error(&directory, options, &parts);
    assert!(
        error.starts_with("`a.txt`: bytes 0 to 6 were read"),
        "{error}"
    );
    fs::remove_file(directory.path().join("a.txt")).unwrap();
    assert_eq!(rest(), "b2");
}

#[test]
fn changed_files_that_are_accepted_are_read_on_and_compared_as_they_are_from_then_on() {
    let directory = TempDir::new().unwrap();
    write(&directory, "a.txt", b"a1\na2\na3\na4\n");
    write(&directory, "b.txt", b"b1\n");
    write(&directory, "c.txt", b"c1\nc2\n");
    write(&directory, "d.txt", b"d1\n");
    let options = "path = \"*.txt\"\nformat = \"lines\"";
    let accepting = format!("{options}\nchanged = \"accept\"");
    let mut source = create(&prepare(&directory, options).unwrap(), None);
    take_one(&mut *source, false).unwrap();
    let parts = source.snapshot().unwrap();
    write(&directory, "a.txt", b"x\na1\na2\na3\na4\n");
    write(&directory, "b.txt", b"");
    write(&directory, "c.txt", b"C1\nC2\nC3\n");
    fs::remove_file(directory.path().join("d.txt")).unwrap();
    let error = resume_error(&directory, options, &parts);
    assert_eq!(error.lines().count(), 4, "{error}");
    let factory = prepare(&directory, &accepting).unwrap();
    let mut source = create(&factory, Some(&parts));
    let accepted = source.snapshot().unwrap();
    let rest = take_all(&mut *source).unwrap();
    assert_eq!(values(&rest).join(" "), "1 a2 a3 a4 C1 C2 C3");
    // What was accepted is what is compared next.
    let factory = prepare(&directory, options).unwrap();
    assert_eq!(factory.compare("s", &accepted), Ok(()));
    write(&directory, "a.txt", b"y\na1\na2\na3\na4\n");
    let error = resume_error(&directory, options, &accepted);
    assert!(
        error.starts_with("`a.txt`: bytes 0 to 3 were read"),
        "{error}"
    );
}

#[test]
fn positions_of_versions_that_described_no_files_are_read() {
    let directory = TempDir::new().unwrap();
    write(&directory, "a.txt", b"a1\na2\na3\n");
    write(&directory, "b.txt.gz", &gzip(b"b1\nb2\n"));
    write(&directory, "c.txt", b"c1\n");
    let options = "path = \"*.txt*\"\nformat = \"lines\"";
    let factory = prepare(&directory, options).unwrap();
    let parts = [
        serde_json::json!({"reading": {
            "file": "a.txt", "start": 0, "end": 9, "offset": 3, "records": 1, "lines": 1
        }}),
        serde_json::json!({"reading": {
            "file": "b.txt.gz", "start": 0, "end": null, "offset": 3, "records": 1, "lines": 1
        }}),
        serde_json::json!({"done": [["c.txt", 0, 3, 1]]}),
    ];
    assert_eq!(factory.compare("s", &parts), Ok(()));
    let mut source = create(&factory, Some(&parts));
    assert_eq!(take_one(&mut *source, false).unwrap().unwrap().value, "a2");
    // From here on there is something to compare.
    let parts = source.snapshot().unwrap();
    let rest = take_all(&mut *source).unwrap();
    assert_eq!(values(&rest), ["a3", "b2"]);
    write(&directory, "a.txt", b"a1\nA2\na3\n");
    let error = resume_error(&directory, options, &parts);
    assert!(
        error.starts_with("`a.txt`: bytes 3 to 6 were read"),
        "{error}"
    );
}

#[test]
fn a_restore_reads_the_files_of_the_snapshot_and_no_others() {
    let directory = TempDir::new().unwrap();
    write(&directory, "in/a.txt", b"a1\na2\n");
    write(&directory, "in/b.txt", b"b1\n");
    let options = "path = \"in\"\nformat = \"lines\"";
    let factory = prepare(&directory, options).unwrap();
    let mut source = create(&factory, None);
    assert_eq!(take_one(&mut *source, false).unwrap().unwrap().value, "a1");
    let parts = source.snapshot().unwrap();
    assert_eq!(
        factory.describe_position(&parts),
        "1 record read, 0 of 2 files done, continues in in/a.txt at byte 3"
    );
    write(&directory, "in/0.txt", b"new\n");
    write(&directory, "in/a.txt", b"a1\na2\na3\n");
    let later = prepare(&directory, options).unwrap();
    let rest = take_all(&mut *create(&later, Some(&parts))).unwrap();
    assert_eq!(
        values(&rest),
        ["a2", "b1"],
        "what was appended later is not part of the split"
    );
    let error = later
        .create(&context(0, 1), Some(&[serde_json::json!({"splits": []})]))
        .err()
        .unwrap();
    assert!(error_chain(&*error).contains("not a file source's"));
}

#[test]
fn paths_are_files_directories_and_patterns() {
    let directory = TempDir::new().unwrap();
    for name in [
        "a.txt",
        "b.log",
        ".hidden",
        "sub/c.txt",
        "sub/.d",
        "sub/deep/e.txt",
        "odd[1].txt",
    ] {
        write(&directory, name, b"x\n");
    }
    let names = |path: &str| {
        let factory = prepare(&directory, &format!("path = {path}\nformat = \"lines\"")).unwrap();
        factory
            .files
            .iter()
            .map(|file| file.name.clone())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        names("\".\""),
        "./a.txt ./b.log ./odd[1].txt".replace("./", "")
    );
    assert_eq!(names("\"*.txt\""), "a.txt odd[1].txt");
    assert_eq!(names("\"odd[1].txt\""), "odd[1].txt");
    assert_eq!(names("\"sub/\""), "sub/c.txt");
    assert_eq!(
        names("\"**/*.txt\""),
        "a.txt odd[1].txt sub/c.txt sub/deep/e.txt"
    );
    assert_eq!(
        names("[\"b.log\", \"*\", \".hidden\"]"),
        ".hidden a.txt b.log odd[1].txt"
    );
    let absolute = directory.path().join("a.txt");
    assert_eq!(
        names(&format!("\"file://{}\"", absolute.display())),
        "a.txt"
    );
}

#[test]
fn problems_are_found_before_the_start_and_all_at_once() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("empty")).unwrap();
    write(&directory, "a.csv", b"k,v\n");
    write(&directory, "b.csv", b"k,w\n");
    write(&directory, "twice.csv", b"k,k\n");
    write(&directory, "cut.csv.gz", &gzip(b"k,v\n")[..12]);
    let problems = |options: &str| prepare(&directory, options).err().unwrap().join("\n");
    let found = problems(
        "path = [\"none.txt\", \"*.none\", \"empty\", \"s3://b/x\"]\nformat = \"lines\"\nkey = \"k\"",
    );
    for part in [
        "cannot read `none.txt`",
        "no file matches `*.none`",
        "the directory `empty` holds no files",
        "s3 URLs are not supported",
        "`key`: lines have no fields",
    ] {
        assert!(found.contains(part), "{found}");
    }
    assert!(problems("").contains("`path`: is required"));
    assert!(problems("path = \"a.csv\"").contains("`format`: is required"));
    let found = problems("path = [\"a.csv\", \"b.csv\"]\nformat = \"csv\"");
    assert!(
        found.contains("the columns of `b.csv` (k,w) are not those of `a.csv` (k,v)"),
        "{found}"
    );
    assert!(problems("path = \"twice.csv\"\nformat = \"csv\"").contains("column `k` twice"));
    assert!(
        problems("path = \"cut.csv.gz\"\nformat = \"csv\"").contains("cannot read `cut.csv.gz`")
    );
    let found = problems(
        "path = \"a.csv\"\nformat = \"csv\"\nkey = \"kk\"\ntimestamp = { field = \"t\", format = \"iso\" }",
    );
    assert!(
        found.contains("there is no column `kk`; hint: did you mean `k`?"),
        "{found}"
    );
    assert!(
        found.contains("`timestamp.field`: there is no column `t`"),
        "{found}"
    );
    assert!(
        found.contains("`timestamp.format`: unknown format `iso`"),
        "{found}"
    );
}

/// Of any length, also shorter than the header of a compressed file. An empty file is left to the decoder.
#[test]
fn a_text_named_as_a_compressed_file_is_refused() {
    let directory = TempDir::new().unwrap();
    for (name, compression, program) in [
        ("a.gz", Compression::Gzip, "gzip"),
        ("a.zst", Compression::Zstd, "zstd"),
    ] {
        let path = directory.path().join(name);
        for text in ["a", "a text\n", "a text that is longer than a header\n"] {
            fs::write(&path, text).unwrap();
            let error = inputs::open(&path, compression, 0).err().unwrap();
            let wanted = format!("but it is not compressed with {program}");
            assert!(error.to_string().contains(&wanted), "{error}");
        }
        fs::write(&path, "").unwrap();
        assert!(inputs::open(&path, compression, 0).is_ok());
    }
    // A frame without data, as some programs put first.
    let path = directory.path().join("skippable.zst");
    fs::write(&path, [0x5e, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]).unwrap();
    assert!(inputs::open(&path, Compression::Zstd, 0).is_ok());
}

mod event_time;
mod watch;
