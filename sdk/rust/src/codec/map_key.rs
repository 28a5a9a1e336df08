//! How the fields of a map state become bytes: so that the order of the bytes is the order of the
//! values, because the host iterates in that order.

use crate::error::{Error, Result};

/// A type that can be the key within a [`MapState`](crate::MapState): whole numbers, `bool`, `String`,
/// `Vec<u8>` and tuples of them. Numbers are big-endian with the sign turned, texts are themselves.
///
/// ```
/// # use highwater::codec::MapKey;
/// let encoded = |key: i32| { let mut to = Vec::new(); key.encode_key(&mut to); to };
/// assert!(encoded(-5) < encoded(3) && encoded(3) < encoded(300));
/// ```
pub trait MapKey: Sized + 'static {
    /// Names the encoding.
    fn key_schema() -> String;

    /// Appends the key.
    fn encode_key(&self, to: &mut Vec<u8>);

    /// Reads a key that takes all of `bytes`.
    fn decode_key(bytes: &[u8]) -> Result<Self>;

    /// Appends the key so that its end can be found and the order holds when more follows. Unless the
    /// type does it in a better way: a byte 0 becomes 0 255, and 0 0 ends it.
    fn encode_key_part(&self, to: &mut Vec<u8>) {
        let start = to.len();
        self.encode_key(to);
        let zeros = to[start..].iter().filter(|&&byte| byte == 0).count();
        if zeros > 0 {
            let plain = to.split_off(start);
            for byte in plain {
                to.push(byte);
                if byte == 0 {
                    to.push(255);
                }
            }
        }
        to.extend_from_slice(&[0, 0]);
    }

    /// Reads what [`MapKey::encode_key_part`] wrote from the front of `bytes`.
    fn decode_key_part(bytes: &mut &[u8]) -> Result<Self> {
        let mut plain = Vec::new();
        loop {
            match **bytes {
                [0, 255, ..] => {
                    plain.push(0);
                    *bytes = &bytes[2..];
                }
                [0, 0, ..] => {
                    *bytes = &bytes[2..];
                    return Self::decode_key(&plain);
                }
                [0, ..] | [] => return Err(wrong::<Self>()),
                [byte, ..] => {
                    plain.push(byte);
                    *bytes = &bytes[1..];
                }
            }
        }
    }
}

#[cold]
fn wrong<K: MapKey>() -> Error {
    Error::new(format_args!(
        "the field of a map state is not a `{}`",
        K::key_schema()
    ))
}

fn whole<K: MapKey>(mut bytes: &[u8]) -> Result<K> {
    let key = K::decode_key_part(&mut bytes)?;
    if bytes.is_empty() {
        Ok(key)
    } else {
        Err(wrong::<K>())
    }
}

macro_rules! numbers {
    ($($kind:ty, $flip:expr;)*) => {$(
        impl MapKey for $kind {
            fn key_schema() -> String {
                stringify!($kind).to_owned()
            }

            #[inline]
            fn encode_key(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&(*self ^ $flip).to_be_bytes());
            }

            #[inline]
            fn decode_key(bytes: &[u8]) -> Result<Self> {
                whole(bytes)
            }

            #[inline]
            fn encode_key_part(&self, to: &mut Vec<u8>) {
                self.encode_key(to);
            }

            #[inline]
            fn decode_key_part(bytes: &mut &[u8]) -> Result<Self> {
                let (part, rest) = bytes.split_first_chunk().ok_or_else(wrong::<Self>)?;
                *bytes = rest;
                Ok(Self::from_be_bytes(*part) ^ $flip)
            }
        }
    )*};
}
numbers! {
    u8, 0; u16, 0; u32, 0; u64, 0; u128, 0;
    i8, i8::MIN; i16, i16::MIN; i32, i32::MIN; i64, i64::MIN; i128, i128::MIN;
}

impl MapKey for bool {
    fn key_schema() -> String {
        "bool".to_owned()
    }

    fn encode_key(&self, to: &mut Vec<u8>) {
        to.push(u8::from(*self));
    }

    fn decode_key(bytes: &[u8]) -> Result<Self> {
        whole(bytes)
    }

    fn encode_key_part(&self, to: &mut Vec<u8>) {
        self.encode_key(to);
    }

    fn decode_key_part(bytes: &mut &[u8]) -> Result<Self> {
        match u8::decode_key_part(bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(wrong::<Self>()),
        }
    }
}

impl MapKey for String {
    fn key_schema() -> String {
        "string".to_owned()
    }

    #[inline]
    fn encode_key(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.as_bytes());
    }

    fn decode_key(bytes: &[u8]) -> Result<Self> {
        String::from_utf8(bytes.to_vec()).map_err(|_| wrong::<Self>())
    }
}

impl MapKey for Vec<u8> {
    fn key_schema() -> String {
        "bytes".to_owned()
    }

    #[inline]
    fn encode_key(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self);
    }

    fn decode_key(bytes: &[u8]) -> Result<Self> {
        Ok(bytes.to_vec())
    }
}

macro_rules! tuples {
    ($(($($name:ident $index:tt)*))*) => {$(
        impl<$($name: MapKey),*> MapKey for ($($name,)*) {
            fn key_schema() -> String {
                format!("({})", [$($name::key_schema()),*].join(","))
            }

            fn encode_key(&self, to: &mut Vec<u8>) {
                self.encode_key_part(to);
            }

            fn decode_key(bytes: &[u8]) -> Result<Self> {
                whole(bytes)
            }

            fn encode_key_part(&self, to: &mut Vec<u8>) {
                $(self.$index.encode_key_part(to);)*
            }

            fn decode_key_part(bytes: &mut &[u8]) -> Result<Self> {
                Ok(($($name::decode_key_part(bytes)?,)*))
            }
        }
    )*};
}
tuples! {
    (A 0)
    (A 0 B 1)
    (A 0 B 1 C 2)
    (A 0 B 1 C 2 D 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    fn check<K: MapKey + Ord + Debug>(mut keys: Vec<K>) {
        keys.sort();
        let encoded: Vec<Vec<u8>> = keys
            .iter()
            .map(|key| {
                let mut bytes = Vec::new();
                key.encode_key(&mut bytes);
                bytes
            })
            .collect();
        assert!(encoded.is_sorted(), "{keys:?} {encoded:?}");
        for (key, bytes) in keys.iter().zip(&encoded) {
            assert_eq!(K::decode_key(bytes).unwrap(), *key);
        }
    }

    #[test]
    fn bytes_are_ordered_as_the_keys() {
        check(vec![0, 1, -1, 255, 256, -256, i64::MIN, i64::MAX]);
        check(vec![0u16, 1, 255, 256, u16::MAX]);
        check(vec![true, false]);
        check(
            ["", "a", "b", "ab", "a\0", "a\0b"]
                .map(str::to_owned)
                .to_vec(),
        );
        let mut pairs = Vec::new();
        for text in ["", "\0", "a", "a\0", "ab", "b"] {
            pairs.extend([-1i8, 0, 1].map(|number| (text.to_owned(), number)));
        }
        check(pairs);
    }

    #[test]
    fn broken_bytes_are_an_error() {
        for bytes in [
            &b""[..],
            b"a",
            b"a\0",
            b"a\0\x01",
            b"a\0\0",
            b"a\0\0\x01\x02",
        ] {
            assert!(<(String, u8)>::decode_key(bytes).is_err(), "{bytes:?}");
        }
    }
}
