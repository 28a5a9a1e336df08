//! What a source makes of CSV and JSON lines, in the plainest way, without limits and in one piece. Shares no
//! code with what reads them: CSV is taken apart byte by byte, JSON by serde_json's values.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Reads an event time.
pub(super) type Time = fn(&[u8]) -> Option<i64>;

/// What is wanted of each record.
pub(super) struct Wanted<'a> {
    pub(super) key: &'a [String],
    pub(super) timestamp: Option<(&'a str, Time)>,
}

/// Key, value and event time.
pub(super) type Record = (Option<Vec<u8>>, Vec<u8>, Option<i64>);

/// The records before the first that is wrong, and whether there is one.
pub(super) type Records = (Vec<Record>, bool);

/// Milliseconds since the epoch, by chrono alone.
pub(super) fn rfc3339(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    in_range(time.timestamp_millis())
}

/// A number of milliseconds.
pub(super) fn unix_ms(text: &[u8]) -> Option<i64> {
    in_range(std::str::from_utf8(text).ok()?.trim().parse().ok()?)
}

/// Of the years 0000 to 9999 in UTC.
fn in_range(time: i64) -> Option<i64> {
    (-62_167_219_200_000..253_402_300_800_000)
        .contains(&time)
        .then_some(time)
}

/// The text after its byte order mark; `None` if that is of another encoding.
fn unmarked(text: &[u8]) -> Option<&[u8]> {
    let others: [&[u8]; 3] = [b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"];
    match others.iter().any(|mark| text.starts_with(mark)) {
        true => None,
        false => Some(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)),
    }
}

/// A row in the encoding of rows.
pub(super) fn encoded<F: AsRef<[u8]>>(fields: &[F]) -> Vec<u8> {
    let fields: Vec<Vec<u8>> = fields
        .iter()
        .map(|field| {
            let field = field.as_ref();
            if !field.iter().any(|byte| b",\"\r\n".contains(byte)) {
                return field.to_vec();
            }
            let doubled = field.iter().flat_map(|byte| match byte {
                b'"' => vec![b'"'; 2],
                byte => vec![*byte],
            });
            [b"\"".to_vec(), doubled.collect(), b"\"".to_vec()].concat()
        })
        .collect();
    fields.join(&b',')
}

/// The rows of a text, by RFC 4180, with rows that end with CR as well. Quotes count only where a field
/// begins, and nothing but a comma or the end of the row follows a closing one. `false` if a quote stays open or
/// is followed; of the rows then only those before it.
fn rows(text: &[u8]) -> (Vec<Vec<Vec<u8>>>, bool) {
    #[derive(PartialEq)]
    enum In {
        Start,
        Field,
        Quotes,
        QuoteInQuotes,
    }
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), Vec::new());
    let (mut state, mut quoted) = (In::Start, false);
    for byte in text.iter().copied().chain([b'\n']) {
        state = match (state, byte) {
            (In::Quotes, b'"') => In::QuoteInQuotes,
            (In::Quotes, byte) => {
                field.push(byte);
                In::Quotes
            }
            (In::Start, b'"') => {
                quoted = true;
                In::Quotes
            }
            (In::QuoteInQuotes, b'"') => {
                field.push(b'"');
                In::Quotes
            }
            (_, b',') => {
                row.push(std::mem::take(&mut field));
                In::Start
            }
            (_, b'\r' | b'\n') => {
                row.push(std::mem::take(&mut field));
                let row: Vec<Vec<u8>> = std::mem::take(&mut row);
                // An empty line is no row; one empty field in quotes is.
                if row.len() > 1 || !row[0].is_empty() || quoted {
                    rows.push(row);
                }
                quoted = false;
                In::Start
            }
            (In::QuoteInQuotes, _) => return (rows, false),
            (_, byte) => {
                field.push(byte);
                In::Field
            }
        };
    }
    (rows, state != In::Quotes)
}

/// Rows with a header.
pub(super) fn csv(text: &[u8], wanted: &Wanted<'_>) -> Records {
    let Some(text) = unmarked(text) else {
        return (Vec::new(), true);
    };
    let (rows, closed) = rows(text);
    let mut rows = rows.into_iter();
    let Some(header) = rows.next() else {
        return (Vec::new(), !closed);
    };
    let names: Option<Vec<String>> = header
        .iter()
        .map(|name| String::from_utf8(name.clone()).ok())
        .collect();
    let Some(names) = names else {
        return (Vec::new(), true);
    };
    let twice = (1..names.len()).any(|at| names[..at].contains(&names[at]));
    let find = |wanted: &str| names.iter().position(|name| name == wanted);
    let key: Option<Vec<usize>> = wanted.key.iter().map(|name| find(name)).collect();
    let time = wanted.timestamp.map(|(name, read)| (find(name), read));
    let (Some(key), false) = (key, twice || time.is_some_and(|(at, _)| at.is_none())) else {
        return (Vec::new(), true);
    };
    let mut records = Vec::new();
    for row in rows {
        let time = match time {
            _ if row.len() != names.len() => None,
            None => Some(None),
            Some((at, read)) => at.and_then(|at| read(&row[at])).map(Some),
        };
        let Some(time) = time else {
            return (records, true);
        };
        let fields: Vec<&Vec<u8>> = key.iter().map(|at| &row[*at]).collect();
        let key = (!fields.is_empty()).then(|| encoded(&fields));
        records.push((key, encoded(&row), time));
    }
    (records, !closed)
}

/// How deep a valid text is nested.
fn depth(text: &str) -> usize {
    let (mut open, mut most, mut quoted, mut escaped) = (0, 0, false, false);
    for letter in text.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => open += 1,
            '}' | ']' if !quoted => open -= 1,
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// Lines of JSON that are nested at most `deepest` levels. `None` where the model does not know: names that are no text.
pub(super) fn json(text: &[u8], wanted: &Wanted<'_>, deepest: usize) -> Option<Records> {
    let Some(text) = unmarked(text) else {
        return Some((Vec::new(), true));
    };
    let mut records = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let valid = std::str::from_utf8(line)
            .ok()
            .filter(|line| serde_json::from_str::<&RawValue>(line).is_ok())
            .filter(|line| depth(line) <= deepest);
        let Some(valid) = valid else {
            return Some((records, true));
        };
        let (mut key, mut time) = (None, None);
        if !wanted.key.is_empty() || wanted.timestamp.is_some() {
            let members = serde_json::from_str::<BTreeMap<String, &RawValue>>(valid);
            let members = match members {
                Ok(members) => members,
                Err(_) if valid.starts_with('{') => return None,
                Err(_) => return Some((records, true)),
            };
            let text_of = |name: &str| {
                let raw = members.get(name)?.get();
                match raw.as_bytes()[0] {
                    b'"' => serde_json::from_str::<String>(raw).ok(),
                    b'{' | b'[' | b'n' => None,
                    _ => Some(raw.to_owned()),
                }
            };
            let fields: Option<Vec<String>> = wanted.key.iter().map(|name| text_of(name)).collect();
            let at = wanted
                .timestamp
                .map(|(name, read)| text_of(name).and_then(|text| read(text.as_bytes())));
            let (Some(fields), false) = (fields, at == Some(None)) else {
                return Some((records, true));
            };
            time = at.flatten();
            key = match &fields[..] {
                [] => None,
                [one] => Some(one.clone().into_bytes()),
                some => Some(encoded(some)),
            };
        }
        records.push((key, line.to_vec(), time));
    }
    Some((records, false))
}
