//! What operators on text need, eight bytes of ASCII at a time.

/// How many bytes are looked at together, one bit for each.
const BLOCK: usize = 64;

/// The words of a text from left to right: its runs of letters, in any script.
///
/// They are what `text.split(|c: char| !c.is_alphabetic())` gives without the empty ones, but ASCII is
/// looked through eight bytes at a time.
///
/// ```
/// # use highwater::text::Words;
/// let words: Vec<&str> = Words::of("Let there be light: 3 élans!").collect();
/// assert_eq!(words, ["Let", "there", "be", "light", "élans"]);
/// ```
#[derive(Clone, Debug)]
pub struct Words<'a> {
    text: &'a str,
    /// Where the block begins that `letters` is about.
    block: usize,
    /// Bit i is set if `text[block + i]` belongs to a letter that was not passed yet.
    letters: u64,
}

impl<'a> Words<'a> {
    /// The words of `text`.
    #[must_use]
    #[inline]
    pub fn of(text: &'a str) -> Self {
        Self {
            text,
            block: 0,
            letters: letters(text, 0),
        }
    }

    /// Goes on to the next block, if there is one.
    #[inline]
    fn advance(&mut self) -> bool {
        self.block += BLOCK;
        let more = self.block < self.text.len();
        if more {
            self.letters = letters(self.text, self.block);
        }
        more
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        while self.letters == 0 {
            if !self.advance() {
                return None;
            }
        }
        let first = self.letters.trailing_zeros();
        let start = self.block + first as usize;
        let mut end = first + (!(self.letters >> first)).trailing_zeros();
        // A word that reaches the end of its block may go on in the next.
        while end as usize >= BLOCK {
            self.letters = 0;
            if !self.advance() {
                return self.text.get(start..);
            }
            end = (!self.letters).trailing_zeros();
        }
        self.letters &= !0 << end;
        self.text.get(start..self.block + end as usize)
    }
}

/// Writes `text` in lower case into `to`, in the place of what is there. The memory of `to` is used again.
///
/// ```
/// # use highwater::text::lower_case;
/// let mut line = String::from("what was here before");
/// lower_case("Fiat LUX, ÉLAN", &mut line);
/// assert_eq!(line, "fiat lux, élan");
/// ```
pub fn lower_case(text: &str, to: &mut String) {
    let mut bytes = std::mem::take(to).into_bytes();
    bytes.clear();
    bytes.extend_from_slice(text.as_bytes());
    let (words, rest) = bytes.as_chunks_mut::<8>();
    let mut all = 0;
    for bytes in words {
        let word = u64::from_le_bytes(*bytes);
        all |= word;
        *bytes = lower_ascii(word).to_le_bytes();
    }
    for byte in rest {
        all |= u64::from(*byte);
        byte.make_ascii_lowercase();
    }
    let ascii = all & every(0x80) == 0;
    if !ascii {
        bytes.clear();
    }
    // ASCII or nothing, so it is UTF-8.
    *to = String::from_utf8(bytes).unwrap_or_default();
    if !ascii {
        to.extend(text.chars().flat_map(char::to_lowercase));
    }
}

/// Eight ASCII bytes in lower case.
#[inline]
fn lower_ascii(word: u64) -> u64 {
    let bytes = word & every(0x7f);
    // The high bit of each byte: not below `A`, and not above `Z`.
    let from_a = bytes + every(0x80 - b'A');
    let above_z = bytes + every(0x7f - b'Z');
    let upper = from_a & !above_z & every(0x80);
    word | upper >> 2
}

/// Which of the bytes of the block that begins at `at` belong to letters.
#[inline(never)]
fn letters(text: &str, at: usize) -> u64 {
    let bytes = text.as_bytes();
    let block = &bytes[at.min(bytes.len())..bytes.len().min(at + BLOCK)];
    let (words, rest) = block.as_chunks::<8>();
    let (mut letters, mut all) = (0, 0);
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        letters |= ascii_letters(word) << (8 * index);
        all |= word;
    }
    if !rest.is_empty() {
        let word = match bytes.last_chunk::<8>() {
            // The rest stands at the end of the text.
            Some(last) => u64::from_le_bytes(*last) >> (8 * (8 - rest.len())),
            None => rest
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        letters |= ascii_letters(word) << (8 * words.len());
        all |= word;
    }
    if all & every(0x80) != 0 {
        return letters_of_any_script(text, at);
    }
    letters
}

/// Which of eight ASCII bytes are letters: a bit for each.
#[inline]
fn ascii_letters(word: u64) -> u64 {
    let lower = (word | every(0x20)) & every(0x7f);
    // The high bit of each byte: not below `a`, and not above `z`.
    let from_a = lower + every(0x80 - b'a');
    let above_z = lower + every(0x7f - b'z');
    let found = (from_a & !above_z & every(0x80)) >> 7;
    // Bit i of the highest byte of the product is the lowest bit of byte i.
    found.wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[cold]
#[inline(never)]
fn letters_of_any_script(text: &str, at: usize) -> u64 {
    // A letter may have begun in the block before.
    let begin = text.floor_char_boundary(at);
    let mut letters = 0;
    for (offset, letter) in text[begin..].char_indices() {
        let start = begin + offset;
        if start >= at + BLOCK {
            break;
        }
        if letter.is_alphabetic() {
            for byte in start.max(at)..(start + letter.len_utf8()).min(at + BLOCK) {
                letters |= 1 << (byte - at);
            }
        }
    }
    letters
}

/// A word of eight equal bytes.
const fn every(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) {
        let found: Vec<_> = Words::of(text).collect();
        let expected: Vec<_> = text
            .split(|c: char| !c.is_alphabetic())
            .filter(|word| !word.is_empty())
            .collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn every_ascii_character_is_told_as_the_library_does() {
        for byte in 0..128_u8 {
            let character = char::from(byte);
            check(&format!("a{character}b"));
            check(&character.to_string().repeat(100));
        }
    }

    #[test]
    fn lower_case_is_that_of_the_library() {
        let ascii: String = (0..128_u8).map(char::from).collect();
        let mut line = String::new();
        for text in [&ascii, "", "É", "ÀÖ 語 Z", "ABCDEFGÉ", "İSTANBUL", "ΟΔΟΣ"] {
            for length in text.char_indices().map(|(at, _)| at).chain([text.len()]) {
                lower_case(&text[..length], &mut line);
                let expected: String = text[..length]
                    .chars()
                    .flat_map(char::to_lowercase)
                    .collect();
                assert_eq!(line, expected);
            }
        }
    }

    #[test]
    fn words_of_every_length_are_found_wherever_they_stand() {
        for letter in ["x", "é", "語", "𐐷"] {
            for before in 0..70 {
                for length in [0, 1, 2, 7, 8, 9, 63, 64, 65, 200] {
                    let word = letter.repeat(length);
                    check(&format!("{}{word}", " ".repeat(before)));
                    check(&format!("{}{word}, {word}!", "-".repeat(before)));
                }
            }
        }
    }

    #[test]
    fn scripts_may_be_mixed() {
        let pieces = [
            "a", "Z", "é", "語", "—", " ", "3", "\u{301}", "𐐷", "😀", "\0",
        ];
        let mut state = 1_u64;
        for length in 0..300 {
            let text: String = (0..length)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    pieces[(state >> 33) as usize % pieces.len()]
                })
                .collect();
            check(&text);
        }
    }
}
