//! Whole numbers in as few bytes as they need.
//!
//! Hosts keep values of a few bytes in place, and look elsewhere for longer ones: so it pays that a count and a time
//! are short.

use super::{Codec, wrong};
use crate::error::Result;

/// A whole number, 0 or more, of which small ones take a byte: seven bits in each, the lowest first, and the highest
/// bit of each but the last.
///
/// ```
/// # use highwater::Codec;
/// # use highwater::codec::Varint;
/// let mut bytes = Vec::new();
/// Varint(300).encode(&mut bytes);
/// assert_eq!(bytes, [0xac, 0x02]);
/// assert_eq!(Varint::decode(&bytes).unwrap(), Varint(300));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Varint(pub u64);

/// The same for numbers below 0 as well: those close to 0 are short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignedVarint(pub i64);

impl Codec for Varint {
    fn schema() -> String {
        "varint".to_owned()
    }

    #[inline]
    fn encode(&self, to: &mut Vec<u8>) {
        let mut rest = self.0;
        if rest < 1 << GROUPED_BITS {
            let length = (u64::BITS - (rest | 1).leading_zeros()).div_ceil(7) as usize;
            // Every byte but the last one goes on.
            let more = HIGHEST & ((1 << (8 * (length - 1))) - 1);
            let end = to.len() + length;
            to.extend_from_slice(&(spread(rest) | more).to_le_bytes());
            to.truncate(end);
            return;
        }
        while rest >= 0x80 {
            to.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        to.push(rest as u8);
    }

    #[inline]
    fn decode(mut bytes: &[u8]) -> Result<Self> {
        let value = Self::decode_part(&mut bytes)?;
        if bytes.is_empty() {
            Ok(value)
        } else {
            Err(wrong::<Self>(bytes.len()))
        }
    }

    #[inline]
    fn encode_part(&self, to: &mut Vec<u8>) {
        self.encode(to);
    }

    #[inline]
    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        if let Some(&eight) = bytes.first_chunk::<8>() {
            let eight = u64::from_le_bytes(eight);
            let ends = !eight & HIGHEST;
            if ends != 0 {
                // All bits up to those of the first byte that does not go on.
                let own = eight & (ends ^ (ends - 1));
                *bytes = &bytes[ends.trailing_zeros() as usize / 8 + 1..];
                return Ok(Self(gather(own & !HIGHEST)));
            }
        }
        Self::decode_bytes(bytes)
    }
}

/// Numbers of no more bits are written, and read where eight bytes are at hand, without a step for each byte.
const GROUPED_BITS: u32 = 56;

/// The highest bit of each byte.
const HIGHEST: u64 = 0x8080_8080_8080_8080;

/// Seven bits in each byte, the lowest first: 28 in each half, then 14 in each quarter, then 7 in each eighth.
#[inline]
fn spread(number: u64) -> u64 {
    let halves = (number & 0x0fff_ffff) | ((number & 0x00ff_ffff_f000_0000) << 4);
    let quarters = (halves & 0x0000_3fff_0000_3fff) | ((halves & 0x0fff_c000_0fff_c000) << 2);
    (quarters & 0x007f_007f_007f_007f) | ((quarters & 0x3f80_3f80_3f80_3f80) << 1)
}

/// The reverse of [`spread`].
#[inline]
fn gather(bytes: u64) -> u64 {
    let quarters = (bytes & 0x007f_007f_007f_007f) | ((bytes & 0x7f00_7f00_7f00_7f00) >> 1);
    let halves = (quarters & 0x0000_3fff_0000_3fff) | ((quarters & 0x3fff_0000_3fff_0000) >> 2);
    (halves & 0x0fff_ffff) | ((halves & 0x0fff_ffff_0000_0000) >> 4)
}

impl Varint {
    /// As [`Codec::decode_part`], byte by byte: close to the end of a value, and for more than [`GROUPED_BITS`].
    fn decode_bytes(bytes: &mut &[u8]) -> Result<Self> {
        let mut value = 0_u64;
        for (index, &byte) in bytes.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << (7 * index);
            if shifted >> (7 * index) != bits {
                break;
            }
            value |= shifted;
            if byte < 0x80 {
                *bytes = &bytes[index + 1..];
                return Ok(Self(value));
            }
        }
        Err(wrong::<Self>(bytes.len()))
    }
}

impl Codec for SignedVarint {
    fn schema() -> String {
        "svarint".to_owned()
    }

    #[inline]
    fn encode(&self, to: &mut Vec<u8>) {
        Varint(((self.0 << 1) ^ (self.0 >> 63)) as u64).encode(to);
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<Self> {
        Varint::decode(bytes).map(Self::of)
    }

    #[inline]
    fn encode_part(&self, to: &mut Vec<u8>) {
        self.encode(to);
    }

    #[inline]
    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        Varint::decode_part(bytes).map(Self::of)
    }
}

impl SignedVarint {
    #[inline]
    fn of(folded: Varint) -> Self {
        Self((folded.0 >> 1) as i64 ^ -((folded.0 & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_survive_and_broken_bytes_do_not() {
        let numbers = (0..64)
            .flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit])
            .chain([u64::MAX])
            .chain((0..1000).map(|it: u64| it.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (it % 64)));
        for number in numbers {
            let mut bytes = Vec::new();
            Varint(number).encode(&mut bytes);
            assert_eq!(Varint::decode(&bytes).unwrap(), Varint(number));
            assert!(Varint::decode(&bytes[..bytes.len() - 1]).is_err());
            // By each of the two ways, whether more follows or not.
            let length = bytes.len();
            for more in 1..=8 {
                bytes.push(0xff);
                assert!(Varint::decode(&bytes).is_err());
                let mut part = &bytes[..];
                assert_eq!(Varint::decode_part(&mut part).unwrap(), Varint(number));
                assert_eq!(part, vec![0xff; more]);
            }
            let mut slow = Vec::new();
            let mut left = number;
            while left >= 0x80 {
                slow.push(left as u8 | 0x80);
                left >>= 7;
            }
            slow.push(left as u8);
            assert_eq!(bytes[..length], slow);
            for number in [number as i64, -(number as i64 >> 1) - 1] {
                let mut bytes = Vec::new();
                SignedVarint(number).encode(&mut bytes);
                assert_eq!(SignedVarint::decode(&bytes).unwrap(), SignedVarint(number));
            }
        }
        let mut bytes = Vec::new();
        SignedVarint(1_700_000_000_000).encode(&mut bytes);
        assert_eq!(bytes.len(), 6);
        for broken in [
            &[0xff; 10][..],
            &[0x80; 11],
            &[255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
        ] {
            assert!(Varint::decode(broken).is_err(), "{broken:?}");
        }
    }
}
