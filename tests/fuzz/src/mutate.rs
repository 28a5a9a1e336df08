//! From one input to another.

use std::ops::Range;

/// Draws numbers; the same ones from the same seed.
pub(crate) struct Random(u64);

impl Random {
    /// From a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 if that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 33) as usize)
            .checked_rem(bound)
            .unwrap_or(0)
    }

    fn pick<'a, T: ?Sized>(&mut self, some: &[&'a T]) -> Option<&'a T> {
        some.get(self.below(some.len())).copied()
    }
}

const NUMBERS: [u64; 18] = [
    0,
    1,
    2,
    7,
    16,
    100,
    127,
    128,
    255,
    256,
    65_535,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    u64::MAX,
];

/// Changes `input` in a few places, with pieces of `other` and words of the target.
pub(crate) fn mutate(
    input: &mut Vec<u8>,
    other: &[u8],
    words: &[&[u8]],
    most: usize,
    random: &mut Random,
) {
    // The first bytes choose what is made of the others, as a rule.
    if random.below(8) == 0
        && let Some(choice) = input.get_mut(random.below(3))
    {
        *choice = random.next() as u8;
    }
    let magnitude = random.below(4);
    for _ in 0..=random.below(1 << magnitude) {
        once(input, other, words, random);
    }
    input.truncate(most);
}

fn once(input: &mut Vec<u8>, other: &[u8], words: &[&[u8]], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let magnitude = random.below(8);
    let length = 1 + random.below(1 << magnitude);
    let end = (at + length).min(input.len());
    match random.below(12) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next() as u8,
        2 if at < input.len() => {
            let by = random.below(35) as u8;
            input[at] = input[at].wrapping_add(by).wrapping_sub(17);
        }
        3 => {
            // A number of some width, or what is elsewhere: many mistakes are about what is equal.
            let mut number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)];
            if random.below(2) == 0 {
                let from = random.below(input.len() + 1);
                let there = &input[from..(from + width).min(input.len())];
                number[..there.len()].copy_from_slice(there);
            }
            let end = (at + width).min(input.len());
            input[at..end].copy_from_slice(&number[..end - at]);
        }
        4 => drop(input.drain(at..end)),
        5 => {
            let piece = input[at..end].to_vec();
            let to = random.below(input.len() + 1);
            drop(input.splice(to..to, piece));
        }
        6 => {
            let from = random.below(other.len() + 1);
            let piece = &other[from..(from + length).min(other.len())];
            drop(input.splice(at..at, piece.iter().copied()));
        }
        7 => {
            // Ends as another one does.
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        8 | 9 => {
            let word = random.pick(words).unwrap_or(b"\0");
            let end = if random.below(2) == 0 {
                at
            } else {
                (at + word.len()).min(input.len())
            };
            drop(input.splice(at..end, word.iter().copied()));
        }
        10 => {
            // A number in text: some number, or about one that is elsewhere.
            let Some(digits) = digits(input, at) else {
                return;
            };
            let mut number = NUMBERS[random.below(NUMBERS.len())];
            if random.below(2) == 0
                && let Some(other) = self::digits(input, random.below(input.len() + 1))
                && let Ok(other) = String::from_utf8_lossy(&input[other]).parse::<u64>()
            {
                number = [other, other.saturating_add(1), other.saturating_sub(1)][random.below(3)];
            }
            drop(input.splice(digits, number.to_string().into_bytes()));
        }
        _ => {
            let byte = random.next() as u8;
            let count = length.min(64);
            drop(input.splice(at..at, std::iter::repeat_n(byte, count)));
        }
    }
}

/// Where the digits are that come next.
fn digits(input: &[u8], at: usize) -> Option<Range<usize>> {
    let rest = input.get(at..)?;
    let from = at + rest.iter().position(u8::is_ascii_digit)?;
    let digits = input[from..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    Some(from..from + digits.count())
}
