//! Text of any bytes, in pieces of any size, compressed or not: the decoder makes the records of it that a
//! plain reading of the whole makes, and fails at the same record.
//!
//! Method: texts are drawn from a seed out of bytes that matter (quotes, commas, line ends, marks) and
//! some that do not. The references below read a whole text byte by byte and share no code with the
//! decoder. A failure names the seed.

use std::io::{self, Read, Write as _};

use dataflow::row;
use job_file::options::OneOrMany;

use super::*;
use crate::compression::Compression;
use crate::testing::Random;
use crate::text_limits::TextLimits;

/// How many texts are tried for each format.
const SEEDS: u64 = 1000;

/// What comes of a text: the fields of each record, and whether a record after them is refused.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    records: Vec<Vec<Vec<u8>>>,
    is_refused: bool,
    /// How many were left out, where they are.
    left_out: usize,
}

/// Gives out a text in pieces of any size; sometimes it has nothing for the moment.
struct Pieces {
    text: Vec<u8>,
    at: usize,
    most: u64,
    random: Random,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.random.below(4) == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = 1 + self.random.below(self.most) as usize;
        let count = count.min(buffer.len()).min(self.text.len() - self.at);
        buffer[..count].copy_from_slice(&self.text[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn plan(format: RecordFormat, key: Option<&str>, limits: TextLimits) -> Arc<Plan> {
    let key = key.map(|key| OneOrMany::One(key.to_owned()));
    let plan = Plan::new(
        Some(format),
        key.as_ref(),
        None,
        None,
        limits,
        &mut Vec::new(),
    );
    Arc::new(plan.unwrap())
}

/// Decodes all that there is, asking again while there is nothing for the moment. `fields` takes a record
/// apart.
fn decoded(
    plan: &Arc<Plan>,
    input: Box<dyn Read + Send>,
    leaves_out: bool,
    fields: impl Fn(&Batch, usize) -> Vec<Vec<u8>>,
) -> Outcome {
    let mut blocks = Blocks::new(input, 0, plan.limits.record_bytes);
    let mut decoder = Decoder::new(Arc::clone(plan));
    let mut counts = Counts::default();
    let mut outcome = Outcome {
        records: Vec::new(),
        is_refused: false,
        left_out: 0,
    };
    let blocked = |error: &DecodeError| matches!(error, DecodeError::Read(error) if error.kind() == ErrorKind::WouldBlock);
    loop {
        let begun = blocks.skip_byte_order_mark().map_err(DecodeError::from);
        match begun.and_then(|()| decoder.read_header(&mut blocks, &mut counts)) {
            Err(error) if blocked(&error) => {}
            Err(_) => {
                outcome.is_refused = true;
                return outcome;
            }
            Ok(_) => break,
        }
    }
    loop {
        let mut batch = Batch::default();
        let stopped = decoder.decode(&mut blocks, u64::MAX, &mut batch, &mut counts);
        let records = (0..batch.len()).map(|index| fields(&batch, index));
        outcome.records.extend(records);
        assert_eq!(outcome.records.len() as u64, counts.records);
        match stopped {
            Ok(Stopped::Full | Stopped::Blocked) => {}
            Ok(Stopped::Ended) => return outcome,
            Err(DecodeError::Record(_)) if leaves_out => {
                while decoder
                    .leave_out(&mut blocks, &mut counts)
                    .unwrap()
                    .is_none()
                {}
                outcome.left_out += 1;
            }
            Err(DecodeError::Record(_)) => {
                outcome.is_refused = true;
                return outcome;
            }
            Err(DecodeError::Read(error)) => panic!("reading fails: {error}"),
        }
    }
}

/// The text in pieces, or through a file that may be compressed.
fn inputs_of(text: &[u8], random: &mut Random) -> Vec<Box<dyn Read + Send>> {
    let most = [1, 3, 50, 1 << 20][random.below(4) as usize];
    let pieces = Pieces {
        text: text.to_vec(),
        at: 0,
        most,
        random: Random(random.below(u64::MAX - 1) + 1),
    };
    let mut inputs: Vec<Box<dyn Read + Send>> = vec![Box::new(pieces)];
    let name = ["a", "a.gz", "a.zst"][random.below(3) as usize];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    let mut packed = Vec::new();
    // In as many members or frames as there are pieces, empty ones among them.
    let mut rest = text;
    for last in [false, false, true] {
        let count = match last {
            true => rest.len(),
            false => random.below(rest.len() as u64 + 1) as usize,
        };
        let (piece, more) = rest.split_at(count);
        rest = more;
        match Compression::of(name) {
            Compression::None => packed.extend_from_slice(piece),
            Compression::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(&mut packed, level);
                encoder.write_all(piece).unwrap();
                encoder.finish().unwrap();
            }
            Compression::Zstd => packed.extend(zstd::encode_all(piece, 1).unwrap()),
        }
    }
    std::fs::write(&path, packed).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    inputs.push(Compression::of(name).unpack(file).unwrap());
    inputs
}

fn draw(random: &mut Random, pieces: &[&[u8]]) -> Vec<u8> {
    let count = random.below(60);
    let mut text = Vec::new();
    for _ in 0..count {
        text.extend_from_slice(pieces[random.below(pieces.len() as u64) as usize]);
    }
    text
}

fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// Lines as everybody would cut them.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    let cut = |line: &mut &[u8]| *line = line.strip_suffix(b"\r").unwrap_or(line);
    lines.iter_mut().for_each(cut);
    lines
}

fn check(
    seed: u64,
    text: &[u8],
    plan: &Arc<Plan>,
    expected: &Outcome,
    leaves_out: bool,
    fields: impl Fn(&Batch, usize) -> Vec<Vec<u8>>,
) {
    let mut random = Random(seed);
    for input in inputs_of(text, &mut random) {
        let found = decoded(plan, input, leaves_out, &fields);
        let shown = text.escape_ascii();
        assert_eq!(&found, expected, "seed {seed}, text \"{shown}\"");
    }
}

fn value(batch: &Batch, index: usize) -> Vec<Vec<u8>> {
    vec![batch.values.get(index).to_vec()]
}

#[test]
fn c164_lines_are_the_same_however_they_come() {
    let pieces: &[&[u8]] = &[
        b"\n",
        b"\r\n",
        b"\r",
        b"a",
        b"bc",
        b"\0",
        b"\xff",
        b"\"",
        b",",
        b"\xef\xbb\xbf",
    ];
    for seed in 1..=SEEDS {
        let mut random = Random(seed);
        let text = draw(&mut random, pieces);
        let limits = TextLimits {
            record_bytes: [4, 1 << 20][random.below(2) as usize],
            ..TextLimits::default()
        };
        let plan = plan(RecordFormat::Lines, Some("line"), limits);
        let lines = lines(without_mark(&text));
        let short = lines
            .iter()
            .take_while(|line| line.len() <= limits.record_bytes);
        let records: Vec<_> = short.map(|line| vec![line.to_vec()]).collect();
        let expected = Outcome {
            is_refused: records.len() < lines.len(),
            records,
            left_out: 0,
        };
        check(seed, &text, &plan, &expected, false, value);
        let short = lines
            .iter()
            .filter(|line| line.len() <= limits.record_bytes);
        let records: Vec<_> = short.map(|line| vec![line.to_vec()]).collect();
        let expected = Outcome {
            is_refused: false,
            left_out: lines.len() - records.len(),
            records,
        };
        check(seed, &text, &plan, &expected, true, value);
    }
}

/// A reader of CSV as simple as can be: rows of fields, and the error of a quote that is not closed or that text
/// follows.
/// `None` in place of a row for the error. With `goes_on` what follows the line on which such a row begins comes after
/// it.
fn rows(text: &[u8], goes_on: bool) -> Vec<Option<Vec<Vec<u8>>>> {
    let mut text = text.to_vec();
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    let mut rows = Vec::new();
    let mut at = 0;
    'rows: while at < text.len() {
        if matches!(text[at], b'\n' | b'\r') {
            at += 1;
            continue;
        }
        let mut row = vec![Vec::new()];
        let mut starts = true;
        let end = text[at..]
            .iter()
            .position(|byte| matches!(byte, b'\n' | b'\r'));
        let after_line = at + end.unwrap() + 1;
        let mut is_closed = false;
        loop {
            let follows = |byte: &&u8| is_closed && !matches!(byte, b',' | b'\n' | b'\r');
            let Some(byte) = text.get(at).filter(|byte| !follows(byte)) else {
                rows.push(None);
                if !goes_on {
                    return rows;
                }
                at = after_line;
                continue 'rows;
            };
            at += 1;
            is_closed = false;
            let field = row.last_mut().unwrap();
            match byte {
                b'"' if starts => {
                    starts = false;
                    loop {
                        match (text.get(at), text.get(at + 1)) {
                            (None, _) => break,
                            (Some(b'"'), Some(b'"')) => {
                                field.push(b'"');
                                at += 2;
                            }
                            (Some(b'"'), _) => {
                                at += 1;
                                is_closed = true;
                                break;
                            }
                            (Some(other), _) => {
                                field.push(*other);
                                at += 1;
                            }
                        }
                    }
                }
                b',' => {
                    row.push(Vec::new());
                    starts = true;
                }
                b'\n' | b'\r' => break,
                other => {
                    field.push(*other);
                    starts = false;
                }
            }
        }
        rows.push(Some(row));
    }
    rows
}

#[test]
fn c164_csv_is_the_same_however_it_comes() {
    let pieces: &[&[u8]] = &[
        b"\n",
        b"\r\n",
        b"\r",
        b"\"",
        b"\"",
        b"\"\"",
        b",",
        b",",
        b"a",
        b"bc",
        b"\0",
        b"\xff",
        b"a,b\n",
        b"\"a\",b\r\n",
    ];
    let (mut whole, mut left_out) = (0, 0);
    for seed in 1..=SEEDS {
        let mut random = Random(seed);
        let good: &[&[u8]] = &[
            b"\n",
            b"\r",
            b"a,b\n",
            b"\"a\",b\r\n",
            b"\"x\ny\",\"\"\r",
            b"a,\"b\"\"\"\n",
            b"\0,\xff\n",
            b"\",\r\n\",a\"b\r\n",
        ];
        let header = ["\u{feff}k,v\r\n", "\n\r\nk,v\r", "\"k\",\"v\"\n", "k\n", ""];
        // Some texts are good throughout, or none would get far.
        let (headers, pieces) = match random.below(2) {
            0 => (3, good),
            _ => (5, pieces),
        };
        let mut text = header[random.below(headers) as usize].as_bytes().to_vec();
        text.extend(draw(&mut random, pieces));
        let plan = plan(RecordFormat::Csv, Some("k"), TextLimits::default());
        let all = rows(without_mark(&text), true);
        let mut rows = rows(without_mark(&text), false).into_iter();
        let mut expected = Outcome {
            records: Vec::new(),
            is_refused: false,
            left_out: 0,
        };
        // The same where bad rows are left out.
        let mut good = Outcome {
            records: Vec::new(),
            is_refused: false,
            left_out: 0,
        };
        match rows.next() {
            None => {}
            Some(Some(names)) => {
                let is_text = names.iter().all(|name| std::str::from_utf8(name).is_ok());
                let key = names.iter().position(|name| name == b"k");
                let is_distinct = (1..names.len()).all(|at| !names[..at].contains(&names[at]));
                match key.filter(|_| is_text && is_distinct) {
                    None => expected.is_refused = true,
                    Some(key) => {
                        for row in rows {
                            let Some(mut row) = row.filter(|row| row.len() == names.len()) else {
                                expected.is_refused = true;
                                break;
                            };
                            row.push(row[key].clone());
                            expected.records.push(row);
                        }
                        for row in all.into_iter().skip(1) {
                            match row.filter(|row| row.len() == names.len()) {
                                Some(mut row) => {
                                    row.push(row[key].clone());
                                    good.records.push(row);
                                }
                                None => good.left_out += 1,
                            }
                        }
                    }
                }
            }
            Some(None) => expected.is_refused = true,
        }
        whole += usize::from(!expected.is_refused && expected.records.len() > 1);
        good.is_refused = expected.is_refused && good.records.is_empty() && good.left_out == 0;
        left_out += good.left_out;
        // The fields of the row, and the key.
        let fields = |batch: &Batch, index: usize| {
            let mut fields = Vec::new();
            row::for_each_field(batch.values.get(index), |_, field| {
                fields.push(field.to_vec())
            });
            // A key is a row as well, of one field here.
            row::for_each_field(batch.keys.get(index), |_, field| {
                fields.push(field.to_vec())
            });
            fields
        };
        check(seed, &text, &plan, &expected, false, fields);
        check(seed, &text, &plan, &good, true, fields);
    }
    assert!(left_out > SEEDS as usize, "only {left_out} were left out");
    assert!(
        whole > SEEDS as usize / 50,
        "only {whole} texts were read wholly"
    );
}

#[test]
fn c164_what_is_left_out_of_csv_does_not_depend_on_how_it_comes() {
    let limits = TextLimits {
        record_bytes: 50,
        ..TextLimits::default()
    };
    let plan = plan(RecordFormat::Csv, None, limits);
    for lines in 0..60 {
        // A row that is closed, and longer than a record may be in most cases.
        let long = format!("\"{}\",1\r\n", "x\n".repeat(lines));
        let text = format!("k,v\na,1\n{long}b,2\n\"c,3\nd,4\n");
        let outcomes = [1, 3, 7, 48, 52, 1 << 20].map(|most| {
            let pieces = Pieces {
                text: text.clone().into_bytes(),
                at: 0,
                most,
                random: Random(1 + most),
            };
            decoded(&plan, Box::new(pieces), true, value)
        });
        assert!(
            outcomes.iter().all(|outcome| *outcome == outcomes[0]),
            "{lines}: {outcomes:?}"
        );
    }
}

#[test]
fn c164_json_lines_are_the_same_however_they_come() {
    let pieces: &[&[u8]] = &[
        b"\n",
        b"\r\n",
        b" ",
        b"{\"k\":\"a\"}\n",
        b"{\"k\":1,\"x\":[[[]]],\"k\":\"b\\u0041\"}\r\n",
        b" { \"x\" : {\"k\":[{\"]\":\"{[[\"}]} , \"\\u006b\":true}\n\n",
        b"{\"k\":null}\n",
        b"[1,2]\n",
        b"{\"k\":\"\0\"}\n",
        b"{\"k\":\"\xff\"}\n",
        b"{\"k\":[[[[[1]]]]]}\n",
    ];
    let (mut whole, mut left_out) = (0, 0);
    for seed in 1..=SEEDS {
        let mut random = Random(seed);
        // Most lines are good, or no text would get far.
        let pieces = &pieces[..[6, 6, pieces.len()][random.below(3) as usize]];
        let text = draw(&mut random, pieces);
        let limits = TextLimits {
            depth: [3, 4, 128][random.below(3) as usize],
            ..TextLimits::default()
        };
        let plan = plan(RecordFormat::JsonLines, Some("k"), limits);
        let mut expected = Outcome {
            records: Vec::new(),
            is_refused: false,
            left_out: 0,
        };
        let mut good = Outcome {
            records: Vec::new(),
            is_refused: false,
            left_out: 0,
        };
        for line in lines(&text) {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            match json_key(line, limits.depth) {
                Some(key) => good.records.push(vec![line.to_vec(), key.into_bytes()]),
                None => {
                    if good.left_out == 0 {
                        expected.records.clone_from(&good.records);
                        expected.is_refused = true;
                    }
                    good.left_out += 1;
                }
            }
        }
        if good.left_out == 0 {
            expected.records.clone_from(&good.records);
        }
        left_out += good.left_out;
        whole += usize::from(!expected.is_refused && expected.records.len() > 1);
        let fields = |batch: &Batch, index: usize| {
            vec![
                batch.values.get(index).to_vec(),
                batch.keys.get(index).to_vec(),
            ]
        };
        check(seed, &text, &plan, &expected, false, fields);
        check(seed, &text, &plan, &good, true, fields);
    }
    assert!(left_out > SEEDS as usize, "only {left_out} were left out");
    assert!(
        whole > SEEDS as usize / 50,
        "only {whole} texts were read wholly"
    );
}

/// The field `k` of a line that is a good record.
fn json_key(line: &[u8], depth: usize) -> Option<String> {
    fn depth_of(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
            serde_json::Value::Object(fields) => {
                1 + fields.values().map(depth_of).max().unwrap_or(0)
            }
            _ => 0,
        }
    }
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    if depth_of(&value) > depth {
        return None;
    }
    match value.get("k")? {
        serde_json::Value::String(text) => Some(text.clone()),
        scalar @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_)) => {
            Some(scalar.to_string())
        }
        _ => None,
    }
}

/// However many columns, records and pieces there are, each byte is looked at a few times.
#[test]
fn c164_work_is_linear_in_the_size_of_the_input() {
    /// Processor time of this thread would be better and cannot be had without unsafe code: so the
    /// bound is generous, and a quadratic reader misses it by far.
    fn time(text: &[u8], in_pieces: bool, plan: &Arc<Plan>) -> f64 {
        let text = text.to_vec();
        let input: Box<dyn Read + Send> = match in_pieces {
            false => Box::new(io::Cursor::new(text)),
            // As from a pipe: there is nothing more again and again in the middle of a record.
            true => Box::new(Pieces {
                text,
                at: 0,
                most: 256,
                random: Random(1),
            }),
        };
        let begun = std::time::Instant::now();
        let outcome = decoded(plan, input, false, |_, _| Vec::new());
        assert!(!outcome.is_refused);
        begun.elapsed().as_secs_f64()
    }
    type Make = fn(usize) -> String;
    let cases: [(&str, RecordFormat, Make); 6] = [
        ("columns", RecordFormat::Csv, |size| {
            (0..size).map(|n| format!("c{n},")).collect::<String>() + "k\n"
        }),
        ("rows of quotes", RecordFormat::Csv, |size| {
            "k\n".to_owned() + &"\"\"\"\"\r".repeat(size)
        }),
        ("one quoted field", RecordFormat::Csv, |size| {
            format!("k\n\"{}\"\n", "\"\"\n".repeat(size))
        }),
        ("carriage returns", RecordFormat::Csv, |size| {
            "k\n".to_owned() + &"\r".repeat(size)
        }),
        ("wide object", RecordFormat::JsonLines, |size| {
            let fields: String = (0..size).map(|n| format!("\"f{n}\":[{n}],")).collect();
            format!("{{{fields}\"k\":1}}\n")
        }),
        ("deep object", RecordFormat::JsonLines, |size| {
            format!(
                "{{\"k\":1,\"d\":{}{}}}\n",
                "[".repeat(size),
                "]".repeat(size)
            )
        }),
    ];
    let limits = TextLimits {
        columns: usize::MAX,
        depth: usize::MAX,
        ..TextLimits::default()
    };
    for ((name, format, make), in_pieces) in cases
        .into_iter()
        .flat_map(|case| [(case, false), (case, true)])
    {
        let plan = plan(format, Some("k"), limits);
        let (small, large) = (make(20_000), make(640_000));
        // The quickest of a few: something else may have run meanwhile.
        let quickest = |text: &str, tries: usize| {
            let times = (0..tries).map(|_| time(text.as_bytes(), in_pieces, &plan));
            times.fold(f64::MAX, f64::min)
        };
        let (small, large) = (quickest(&small, 5), quickest(&large, 2));
        // 32 times the size; quadratic would be a thousand times.
        assert!(
            large < small.max(0.001) * 32.0 * 8.0,
            "{name}, in pieces {in_pieces}: {small} s, {large} s"
        );
    }
}
