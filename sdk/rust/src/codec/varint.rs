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
            .chain([u64::MAX]);
        for number in numbers {
            let mut bytes = Vec::new();
            Varint(number).encode(&mut bytes);
            assert_eq!(Varint::decode(&bytes).unwrap(), Varint(number));
            assert!(Varint::decode(&bytes[..bytes.len() - 1]).is_err());
            bytes.push(0);
            assert!(Varint::decode(&bytes).is_err());
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
