//! Bytes being written: keys and values on their way out.
//!
//! Keys, fields and numbers mostly have a few bytes. A copy whose length is not known while compiling
//! is a call out of the guest, which costs more than those bytes do. So short pieces are written in
//! moves of fixed size, which may overlap, into room that is known to be there, and they are looked
//! through eight bytes at a time.

use std::fmt;

/// Pieces up to this length are short.
const SHORT: usize = 32;

/// Room is made in steps of at least this.
const STEP: usize = 1024;

/// Bytes, and room for more after them.
#[derive(Debug, Default)]
pub(crate) struct Bytes {
    /// What was written and, from `used` on, the room. It is filled, so that writing into it needs no
    /// more than its place.
    all: Vec<u8>,
    used: usize,
}

impl Bytes {
    /// How many were written.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// What was written.
    pub(crate) fn written(&self) -> &[u8] {
        &self.all[..self.used]
    }

    /// Forgets what was written and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// What was written, to be given back by [`Bytes::put_back`].
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.all.truncate(self.used);
        self.used = 0;
        std::mem::take(&mut self.all)
    }

    /// Makes a buffer the room.
    pub(crate) fn put_back(&mut self, buffer: Vec<u8>) {
        self.all = buffer;
    }

    /// The next `N` bytes of the room, if there are as many.
    #[inline(always)]
    fn room<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        self.all.get_mut(self.used..)?.first_chunk_mut()
    }

    /// Makes room for at least `length` bytes.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, length: usize) {
        // Room that is not needed is filled in vain, and every call but the first starts with as much as
        // the one before has used; so the steps are small. The memory below grows in larger ones.
        let step = (self.all.len() / 8).max(STEP);
        self.all.resize(self.used + length + SHORT + step, 0);
    }

    /// Appends bytes.
    #[inline(always)]
    pub(crate) fn append(&mut self, from: &[u8]) {
        let length = from.len();
        match self.room::<SHORT>() {
            Some(room) if length <= SHORT => {
                copy_short(from, room, |_| 0);
                self.used += length;
            }
            _ => self.append_long(from),
        }
    }

    /// Appends a field, unless it [needs quotes](needs_quotes) and they are `quoted` here: then nothing
    /// is appended and the answer is `false`. A short field is looked through as it is copied.
    #[inline(always)]
    pub(crate) fn append_unless(&mut self, field: &[u8], quoted: bool) -> bool {
        let length = field.len();
        match self.room::<SHORT>() {
            Some(room) if length <= SHORT => {
                let suspicious = copy_short(field, room, below_quotes);
                if suspicious != 0 && quoted && certainly_needs_quotes(field) {
                    return false;
                }
                self.used += length;
                true
            }
            _ => self.append_long_unless(field, quoted),
        }
    }

    #[inline(never)]
    fn append_long_unless(&mut self, field: &[u8], quoted: bool) -> bool {
        let plain = !quoted || !needs_quotes(field);
        if plain {
            self.append_long(field);
        }
        plain
    }

    #[inline(never)]
    fn append_long(&mut self, from: &[u8]) {
        let end = self.used + from.len();
        // Room for a short piece is made even for an empty one: else every empty one would end up here.
        if end + SHORT > self.all.len() {
            self.grow(from.len());
        }
        self.all[self.used..end].copy_from_slice(from);
        self.used = end;
    }

    /// Appends one byte.
    #[inline(always)]
    pub(crate) fn push(&mut self, byte: u8) {
        if self.used == self.all.len() {
            self.grow(1);
        }
        self.all[self.used] = byte;
        self.used += 1;
    }

    /// Appends a number's decimal digits.
    #[inline(always)]
    pub(crate) fn append_decimal(&mut self, number: u64) {
        match self.room::<8>() {
            Some(room) if number < TEN_TO_8 => {
                let digits = eight_digits(number);
                // The last digit stays even if it is a zero.
                let zeros = (digits | 1 << 56).trailing_zeros() / 8;
                *room = ((digits | every(b'0')) >> (8 * zeros)).to_le_bytes();
                self.used += 8 - zeros as usize;
            }
            _ => self.append_large_decimal(number),
        }
    }

    #[inline(never)]
    fn append_large_decimal(&mut self, number: u64) {
        // At most 20 digits.
        if self.room::<24>().is_none() {
            self.grow(24);
        }
        let (head, tail) = (number / TEN_TO_8, number % TEN_TO_8);
        if head == 0 {
            return self.append_decimal(number);
        }
        self.append_large_decimal(head);
        let digits = eight_digits(tail) | every(b'0');
        self.append(&digits.to_le_bytes());
    }
}

impl fmt::Write for Bytes {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.append(text.as_bytes());
        Ok(())
    }
}

/// Copies at most as many bytes as there is room. Shows all of them to `test`, word by word, some of
/// them twice and those of short pieces with `~` between them, and joins what it finds.
#[inline(always)]
fn copy_short(from: &[u8], to: &mut [u8; SHORT], test: impl Fn(u64) -> u64) -> u64 {
    #[inline(always)]
    fn ends<const N: usize>(from: &[u8], to: &mut [u8; SHORT]) -> Option<([u8; N], [u8; N])> {
        let (first, last) = (from.first_chunk::<N>()?, from.last_chunk::<N>()?);
        to[..N].copy_from_slice(first);
        to[from.len() - N..from.len()].copy_from_slice(last);
        Some((*first, *last))
    }
    let found = match from.len() {
        16..=SHORT => ends::<16>(from, to).map(|(first, last)| {
            let (first, last) = (u128::from_le_bytes(first), u128::from_le_bytes(last));
            let low = test(first as u64) | test(last as u64);
            low | test((first >> 64) as u64) | test((last >> 64) as u64)
        }),
        8..16 => ends::<8>(from, to)
            .map(|(first, last)| test(u64::from_le_bytes(first)) | test(u64::from_le_bytes(last))),
        4..8 => ends::<4>(from, to).map(|(first, last)| {
            let (first, last) = (u32::from_le_bytes(first), u32::from_le_bytes(last));
            test(u64::from(first) | u64::from(last) << 32)
        }),
        // One to three bytes are the first, the middle and the last, of which some may be the same.
        1..4 => {
            let (middle, last) = (from.len() / 2, from.len() - 1);
            let bytes = [from[0], from[middle], from[last]];
            (to[0], to[middle], to[last]) = (bytes[0], bytes[1], bytes[2]);
            let [first, middle, last] = bytes.map(u64::from);
            Some(test(every(b'~') << 24 | first | middle << 8 | last << 16))
        }
        _ => None,
    };
    found.unwrap_or(0)
}

const TEN_TO_8: u64 = 100_000_000;

/// The eight digits of a number below 10^8, as numbers, the first one in the lowest byte.
#[inline(always)]
fn eight_digits(number: u64) -> u64 {
    /// The two digits of each number below 100.
    const PAIRS: [u16; 100] = {
        let mut pairs = [0; 100];
        let mut pair = 0;
        while pair < 100 {
            pairs[pair] = (pair / 10 + pair % 10 * 256) as u16;
            pair += 1;
        }
        pairs
    };
    // Each remainder also says that the index is in range.
    let four = |number: u32| {
        let first = u32::from(PAIRS[(number / 100 % 100) as usize]);
        first | u32::from(PAIRS[(number % 100) as usize]) << 16
    };
    let number = number as u32;
    let first = u64::from(four(number / 10_000 % 10_000));
    first | u64::from(four(number % 10_000)) << 32
}

/// A word of eight equal bytes.
const fn every(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Whether a row must quote this field: it holds a comma, a double quote or a line break.
#[inline(always)]
pub(crate) fn needs_quotes(field: &[u8]) -> bool {
    any_word(field, below_quotes) && certainly_needs_quotes(field)
}

/// Not 0 if one of the eight bytes may make quotes necessary. What does lies below the letters, the
/// digits, `-` and `.`, so one look is enough for most fields.
#[inline(always)]
fn below_quotes(word: u64) -> u64 {
    below(word, b',' + 1)
}

/// Whether none of the fields in a column needs quotes: so that it need not be asked of each.
pub(crate) fn none_needs_quotes(column: &[u8]) -> bool {
    let (blocks, rest) = column.as_chunks::<64>();
    let none = |block: &[u8; 64]| {
        let (words, _) = block.as_chunks::<8>();
        let found = words.iter().fold(0, |found, word| {
            found | below_quotes(u64::from_le_bytes(*word))
        });
        // A column that does need them mostly shows it in one of its first blocks.
        found == 0 || !certainly_needs_quotes(block)
    };
    blocks.iter().all(none) && !needs_quotes(rest)
}

#[inline(never)]
fn certainly_needs_quotes(field: &[u8]) -> bool {
    any_word(field, |word| {
        [b',', b'"', b'\n', b'\r']
            .iter()
            .fold(0, |found, byte| found | below(word ^ every(*byte), 1))
    })
}

/// Not 0 if one of the eight bytes is less than `limit`, which is at most 128.
#[inline(always)]
fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(every(limit)) & !word & every(0x80)
}

/// Whether `test` finds something in one of the words that the bytes make up. The last two may
/// overlap, and a short field is filled up with `~`.
#[inline(always)]
fn any_word(bytes: &[u8], test: impl Fn(u64) -> u64) -> bool {
    if let Some(last) = bytes.last_chunk::<8>() {
        let last = test(u64::from_le_bytes(*last));
        let (words, _) = bytes.as_chunks::<8>();
        let found = words
            .iter()
            .fold(last, |found, word| found | test(u64::from_le_bytes(*word)));
        return found != 0;
    }
    let word = match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32
        }
        _ => bytes
            .iter()
            .fold(every(b'~'), |word, byte| word << 8 | u64::from(*byte)),
    };
    test(word) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_every_length_are_appended_wherever_the_room_ends() {
        let piece: Vec<u8> = (0..100).collect();
        for length in 0..piece.len() {
            let (mut bytes, mut expected) = (Bytes::default(), Vec::new());
            while expected.len() < 3 * STEP {
                bytes.append(&piece[..length]);
                bytes.push(b'|');
                expected.extend_from_slice(&piece[..length]);
                expected.push(b'|');
            }
            assert_eq!(bytes.written(), expected, "pieces of {length}");
            let taken = bytes.take();
            assert_eq!(taken, expected);
            bytes.put_back(taken);
            bytes.append(b"anew");
            assert_eq!(bytes.written(), b"anew");
        }
    }

    #[test]
    fn decimals_are_those_of_the_library() {
        let mut bytes = Bytes::default();
        let powers = (0..20).map(|power| 10u64.pow(power));
        let numbers = powers
            .flat_map(|power| {
                [
                    power - 1,
                    power,
                    power + 1,
                    power.wrapping_mul(7),
                    power.wrapping_mul(9),
                ]
            })
            .chain((0..64).map(|bit| 1 << bit))
            .chain((0..100_000).map(|number| number * 997))
            .chain([u64::MAX]);
        for number in numbers {
            bytes.clear();
            bytes.append_decimal(number);
            assert_eq!(bytes.written(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn what_needs_quotes_is_found_in_a_column() {
        for length in [0, 1, 63, 64, 200] {
            let mut column = b"so! so-".repeat(30)[..length].to_vec();
            assert!(none_needs_quotes(&column), "{length}");
            for place in 0..length {
                let byte = std::mem::replace(&mut column[place], b',');
                assert!(!none_needs_quotes(&column), "{place} of {length}");
                column[place] = byte;
            }
        }
    }

    #[test]
    fn what_needs_quotes_is_found_wherever_it_stands() {
        let mut row = Bytes::default();
        for length in 0..36 {
            for filler in [b'a', b' ', 0xc3, 0] {
                let mut field = vec![filler; length];
                for place in 0..length {
                    for byte in 0..=255 {
                        field[place] = byte;
                        let special = b",\"\r\n".contains(&byte);
                        assert_eq!(
                            needs_quotes(&field),
                            special,
                            "{byte} at {place} of {length}"
                        );
                        row.clear();
                        assert_eq!(row.append_unless(&field, true), !special, "{field:?}");
                        let kept = if special { 0 } else { length };
                        assert_eq!(row.written(), &field[..kept]);
                    }
                    field[place] = filler;
                }
            }
        }
    }
}
