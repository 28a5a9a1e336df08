//! The row encoding: fields of a key or value as one line of CSV (RFC 4180) without its line end.
//!
//! Fields are separated by commas. A field that holds a comma, a double quote, a carriage return or
//! a line feed is put in double quotes, with each inner quote doubled. So
//! most fields are their own text, a count is its digits, and every language can read a row.

/// Whether `field` needs quotes when it stands beside others.
fn needs_quotes(field: &[u8]) -> bool {
    field
        .iter()
        .any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n'))
}

/// Appends `field` to a row: a comma first unless the row starts here (`first`).
pub fn push_field(row: &mut Vec<u8>, field: &[u8], first: bool) {
    if !first {
        row.push(b',');
    }
    if !needs_quotes(field) {
        row.extend_from_slice(field);
        return;
    }
    row.push(b'"');
    for byte in field {
        if *byte == b'"' {
            row.push(b'"');
        }
        row.push(*byte);
    }
    row.push(b'"');
}

/// How many fields `row` has. `None` if it is not one row: a line break stands outside of quotes, or
/// quotes are not closed.
#[inline]
#[must_use]
pub fn count_fields(row: &[u8]) -> Option<usize> {
    let (mut commas, mut special) = (0, false);
    for byte in row {
        commas += usize::from(*byte == b',');
        special |= matches!(byte, b'"' | b'\r' | b'\n');
    }
    match special {
        false => Some(commas + 1),
        true => count_quoted_fields(row),
    }
}

fn count_quoted_fields(row: &[u8]) -> Option<usize> {
    let (mut fields, mut at_start, mut in_quotes) = (1, true, false);
    let mut bytes = row.iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if in_quotes => {
                // Doubled it stands for itself.
                in_quotes = bytes.next_if_eq(&&b'"').is_some();
            }
            _ if in_quotes => {}
            b'"' if at_start => in_quotes = true,
            b'\r' | b'\n' => return None,
            b',' => {
                fields += 1;
                at_start = true;
                continue;
            }
            _ => {}
        }
        at_start = false;
    }
    (!in_quotes).then_some(fields)
}

/// Calls `each` with every field of `row`, unquoted. An empty row is one empty field. Never fails:
/// bytes behind a closing quote belong to the field, an open quote ends with the row.
pub fn for_each_field(row: &[u8], mut each: impl FnMut(usize, &[u8])) {
    let mut unquoted = Vec::new();
    let mut rest = row;
    let mut index = 0;
    loop {
        let end;
        if rest.first() == Some(&b'"') {
            unquoted.clear();
            let mut at = 1;
            loop {
                match (rest.get(at), rest.get(at + 1)) {
                    (Some(b'"'), Some(b'"')) => {
                        unquoted.push(b'"');
                        at += 2;
                    }
                    (Some(b'"'), _) => {
                        at += 1;
                        break;
                    }
                    (Some(byte), _) => {
                        unquoted.push(*byte);
                        at += 1;
                    }
                    (None, _) => break,
                }
            }
            let tail = rest[at..]
                .iter()
                .position(|byte| *byte == b',')
                .unwrap_or(rest.len() - at);
            unquoted.extend_from_slice(&rest[at..at + tail]);
            end = at + tail;
            each(index, &unquoted);
        } else {
            end = rest
                .iter()
                .position(|byte| *byte == b',')
                .unwrap_or(rest.len());
            each(index, &rest[..end]);
        }
        if end == rest.len() {
            return;
        }
        rest = &rest[end + 1..];
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_as_they_are_read() {
        for (row, count) in [
            ("", Some(1)),
            ("a", Some(1)),
            ("a,b", Some(2)),
            ("a,", Some(2)),
            (",,", Some(3)),
            ("\"a,b\",c", Some(2)),
            ("\"a\"\"b,\",c", Some(2)),
            ("a\"b,c", Some(2)),
            ("a\"b,c\"", Some(2)),
            ("\"a\"b,c\"", Some(2)),
            ("\"two\nlines\",c", Some(2)),
            ("two\nlines,c", None),
            ("a,b\r", None),
            ("\"a\",b\n", None),
            ("\"open,a", None),
            ("a,\"", None),
        ] {
            assert_eq!(count_fields(row.as_bytes()), count, "{row:?}");
            if let Some(count) = count {
                let mut read = 0;
                for_each_field(row.as_bytes(), |_, _| read += 1);
                assert_eq!(read, count, "{row:?}");
            }
        }
    }

    #[test]
    fn fields_survive_the_row() {
        for fields in [
            vec!["a"],
            vec![""],
            vec!["a", "b"],
            vec!["", ""],
            vec!["a,b", "c\"d\"", "line\nend", ""],
            vec!["\"", ",", "\r"],
            vec!["ends", ""],
        ] {
            let mut row = Vec::new();
            for (index, field) in fields.iter().enumerate() {
                push_field(&mut row, field.as_bytes(), index == 0);
            }
            let mut read = Vec::new();
            for_each_field(&row, |_, field| {
                read.push(String::from_utf8(field.to_vec()).unwrap())
            });
            assert_eq!(read, fields, "{:?}", String::from_utf8_lossy(&row));
            assert_eq!(count_fields(&row), Some(fields.len()));
        }
    }
}
