//! The row encoding: fields of a key or value as one line of CSV (RFC 4180) without its line end.
//!
//! Fields are separated by commas. A field that holds a comma, a double quote, a carriage return or
//! a line feed is put in double quotes, with each inner quote doubled. So
//! most fields are their own text, a count is its digits, and every language can read a row.

use crate::cells::CellsRef;

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

/// Whether each of `rows` has `fields` fields, as [`count_fields`] counts them.
///
/// A sink asks this of all that it writes, and most rows are short. So 16 bytes are one step, and without
/// quotes the steps have no branch that depends on the length of a row of up to 16 bytes.
#[must_use]
pub fn all_have_fields(rows: CellsRef<'_>, fields: usize) -> bool {
    // Of one field each, a comma tells as much as quotes do: none is the rule.
    let last = if fields == 1 { b',' } else { b'"' };
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\r' | b'\n') | (*byte == last);
    // No early end, so that the compiler vectorises it.
    let special = rows
        .data()
        .iter()
        .fold(false, |special, byte| special | is_special(byte));
    if fields == 1 && !special {
        return true;
    }
    let mut starts_and_ends = rows.offsets().windows(2);
    let ends = |pair: &[u32]| (pair[0] as usize, pair[1] as usize);
    if special {
        return starts_and_ends.all(|pair| {
            let (start, end) = ends(pair);
            count_fields(&rows.data()[start..end]) == Some(fields)
        });
    }
    starts_and_ends.fold(true, |all, pair| {
        let (start, end) = ends(pair);
        all & (count_commas(rows.data(), start, end) + 1 == fields)
    })
}

/// Bytes of one step.
const CHUNK: usize = 16;

/// Masks of the first 0 to 16 bytes of a chunk.
const FIRST: [u128; CHUNK + 1] = {
    let mut masks = [u128::MAX; CHUNK + 1];
    let mut len = 0;
    while len < CHUNK {
        masks[len] = (1 << (8 * len)) - 1;
        len += 1;
    }
    masks
};

/// How many commas `data[start..end]` has.
#[inline]
fn count_commas(data: &[u8], mut start: usize, end: usize) -> usize {
    let mut commas = 0;
    loop {
        let chunk = match data[start..].first_chunk::<CHUNK>() {
            Some(chunk) => *chunk,
            None => last_chunk(data, start),
        };
        let left = end - start;
        commas += count_commas_of(u128::from_le_bytes(chunk) & FIRST[left.min(CHUNK)]);
        if left <= CHUNK {
            return commas;
        }
        start += CHUNK;
    }
}

/// What is left of `data`, less than a chunk, and zeros.
#[cold]
#[inline(never)]
fn last_chunk(data: &[u8], start: usize) -> [u8; CHUNK] {
    let mut chunk = [0; CHUNK];
    let rest = &data[start..];
    chunk[..rest.len()].copy_from_slice(rest);
    chunk
}

/// How many of the bytes are commas.
#[inline]
fn count_commas_of(chunk: u128) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const LOW: u64 = 0x7F * ONES;
    // Of each byte 1, unless it is a comma: the sum carries into its highest bit if any of the seven
    // lower ones differs, and from no byte into the next.
    let others = |word: u64| {
        let differs = word ^ (u64::from(b',') * ONES);
        ((((differs & LOW) + LOW) | differs) >> 7) & ONES
    };
    let others = others(chunk as u64) + others((chunk >> 64) as u64);
    // The highest byte of the product is the sum of all bytes, at most 16.
    CHUNK - (others.wrapping_mul(ONES) >> 56) as usize
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
/// bytes after a closing quote belong to the field, an open quote ends with the row.
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
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::cells::Cells;

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
    fn commas_are_counted_wherever_a_row_ends() {
        let data: Vec<u8> = (0..64u8).map(|it| it.wrapping_mul(91) | 0x20).collect();
        let data = [&data[..], b",,-,\x2D\xAC\x2C\0,,,,,,,,,,,,,,,,,,"].concat();
        for start in 0..=data.len() {
            for end in start..=data.len() {
                let row = &data[start..end];
                let commas = row.iter().filter(|byte| **byte == b',').count();
                assert_eq!(count_commas(&data, start, end), commas, "{row:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn rows_together_are_counted_as_each_alone(
            fields in 0usize..5,
            rows in vec(row_of_fields(), 0..6),
            more in vec(row_of_any_bytes(), 0..3),
        ) {
            // Rows of as many fields as the first has, so that some batches are right.
            let fields = rows.first().filter(|_| fields > 0).map_or(fields, Vec::len);
            let rows = rows.iter().map(|row| {
                let row: Vec<&[u8]> = row.iter().cycle().take(fields.max(1)).map(Vec::as_slice).collect();
                row.join(&b',')
            });
            let right: Vec<Vec<u8>> = rows.collect();
            for rows in [right.clone(), [right, more].concat()] {
                let each = rows.iter().all(|row| count_fields(row) == Some(fields));
                let cells: Cells = rows.iter().map(Vec::as_slice).collect();
                prop_assert_eq!(all_have_fields(cells.as_ref(), fields), each, "{:?}", rows);
            }
        }
    }

    /// Fields without commas outside of quotes.
    fn row_of_fields() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let plain = "[a-z.\u{0}\u{7f}é-]{0,20}".prop_map(String::into_bytes);
        let quoted = "\"[a,\n]{0,9}(\"\")?[,x]?\"".prop_map(String::into_bytes);
        vec(prop_oneof![9 => plain, 1 => quoted], 1..5)
    }

    fn row_of_any_bytes() -> impl Strategy<Value = Vec<u8>> {
        let bytes = select(b"a,\"\n\r-\xAC".to_vec());
        vec(bytes, 0..40)
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
