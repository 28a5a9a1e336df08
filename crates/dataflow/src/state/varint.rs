//! Lengths in as few bytes as they need: seven bits a byte, the lowest first, the high bit set on all
//! but the last (LEB128).

/// The most bytes that a varint has.
pub(super) const MAX: usize = 10;

/// How many bytes `value` takes.
#[inline]
pub(super) fn len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// The bytes of `value`, and how many of them count.
#[inline]
pub(super) fn encode(mut value: u64) -> ([u8; MAX], usize) {
    let mut bytes = [0; MAX];
    let mut len = 0;
    loop {
        bytes[len] = value as u8 & 0x7f;
        value >>= 7;
        len += 1;
        if value == 0 {
            return (bytes, len);
        }
        bytes[len - 1] |= 0x80;
    }
}

/// The value at the start of `bytes`, and what follows it. `None` if `bytes` ends before it does, or
/// it has more than 64 bits or needless bytes.
#[inline]
pub(super) fn read(bytes: &[u8]) -> Option<(u64, &[u8])> {
    if let [byte, rest @ ..] = bytes
        && *byte < 0x80
    {
        return Some((u64::from(*byte), rest));
    }
    let mut value = 0;
    for (index, byte) in bytes.iter().take(MAX).enumerate() {
        let part = u64::from(byte & 0x7f);
        value |= part.checked_shl(7 * index as u32)?;
        if *byte < 0x80 {
            let fits = index < MAX - 1 || *byte == 1;
            return (fits && *byte != 0).then_some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_back_from_the_bytes_it_needs() {
        for value in (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, u64::MAX >> bit]) {
            let (bytes, count) = encode(value);
            assert_eq!(count, len(value));
            assert_eq!(read(&bytes[..count]), Some((value, [].as_slice())));
            assert_eq!(read(&bytes[..count - 1]), None);
        }
        assert_eq!(read(&[0x80, 0]), None);
        assert_eq!(read(&[0xff; 11]), None);
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
            None
        );
    }
}
