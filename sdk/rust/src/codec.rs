//! How state becomes bytes.
//!
//! The encodings are plain on purpose: numbers are little-endian and of fixed width, a lone text is its
//! UTF-8. Their names are part of every checkpoint, which so can be read without the operator.

mod map_key;
mod varint;

#[cfg(feature = "serde")]
mod json;

pub use map_key::MapKey;
pub use varint::{SignedVarint, Varint};

#[cfg(feature = "serde")]
pub use json::Json;

use crate::error::{Error, Result};

/// A type whose values can be kept in state: numbers, `bool`, `String`, `Vec<u8>`, `()`, options, arrays
/// and tuples of them, `Json` of anything (feature `serde`), and structs by
/// [`codec!`](crate::codec!).
///
/// ```
/// # use highwater::Codec;
/// let mut bytes = Vec::new();
/// (7u32, Some("seven".to_owned())).encode(&mut bytes);
/// assert_eq!(bytes, b"\x07\0\0\0\x01\x05\0\0\0seven");
/// assert_eq!(<(u32, Option<String>)>::decode(&bytes).unwrap(), (7, Some("seven".to_owned())));
/// assert_eq!(<(u32, Option<String>)>::schema(), "(u32,string?)");
/// ```
pub trait Codec: Sized + 'static {
    /// Version of the encoding; raise it when values written before cannot be read any more, and
    /// implement [`Operator::migrate`](crate::Operator::migrate).
    const VERSION: u32 = 1;

    /// Whether a value is decoded as quickly as it is seen whether it is decoded already: then all values
    /// of a call are decoded at once.
    #[doc(hidden)]
    const QUICK: bool = false;

    /// Names the encoding. State written under one name is not read under another.
    fn schema() -> String;

    /// Appends the value.
    fn encode(&self, to: &mut Vec<u8>);

    /// Reads a value that takes all of `bytes`.
    fn decode(bytes: &[u8]) -> Result<Self>;

    /// Appends the value so that its end can be found when more follows. Unless the type does it in a
    /// better way: its length (u32), then [`Codec::encode`].
    #[inline]
    fn encode_part(&self, to: &mut Vec<u8>) {
        let length_at = to.len();
        to.extend_from_slice(&[0; 4]);
        self.encode(to);
        let length = (to.len() - length_at - 4) as u32;
        to[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Reads what [`Codec::encode_part`] wrote from the front of `bytes`.
    #[inline]
    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        let length = u32::decode_part(bytes)? as usize;
        let (part, rest) = bytes
            .split_at_checked(length)
            .ok_or_else(|| wrong::<Self>(bytes.len()))?;
        *bytes = rest;
        Self::decode(part)
    }
}

/// The error for bytes that are no `T`.
#[cold]
fn wrong<T: Codec>(length: usize) -> Error {
    Error::new(format_args!(
        "{length} bytes of state are not a `{}`",
        T::schema()
    ))
}

macro_rules! fixed {
    ($($kind:ty)*) => {$(
        impl Codec for $kind {
            const QUICK: bool = true;

            fn schema() -> String {
                stringify!($kind).to_owned()
            }

            #[inline]
            fn encode(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn decode(bytes: &[u8]) -> Result<Self> {
                match bytes.try_into() {
                    Ok(bytes) => Ok(Self::from_le_bytes(bytes)),
                    Err(_) => Err(wrong::<Self>(bytes.len())),
                }
            }

            #[inline]
            fn encode_part(&self, to: &mut Vec<u8>) {
                self.encode(to);
            }

            #[inline]
            fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
                match bytes.split_first_chunk() {
                    Some((part, rest)) => {
                        *bytes = rest;
                        Ok(Self::from_le_bytes(*part))
                    }
                    None => Err(wrong::<Self>(bytes.len())),
                }
            }
        }
    )*};
}
fixed!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64);

/// Reads parts that take all of `bytes`.
#[inline]
fn whole<T: Codec>(mut bytes: &[u8]) -> Result<T> {
    let length = bytes.len();
    let value = T::decode_part(&mut bytes)?;
    if bytes.is_empty() {
        Ok(value)
    } else {
        Err(wrong::<T>(length))
    }
}

impl Codec for bool {
    fn schema() -> String {
        "bool".to_owned()
    }

    #[inline]
    fn encode(&self, to: &mut Vec<u8>) {
        to.push(u8::from(*self));
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<Self> {
        whole(bytes)
    }

    #[inline]
    fn encode_part(&self, to: &mut Vec<u8>) {
        self.encode(to);
    }

    #[inline]
    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        match u8::decode_part(bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(wrong::<Self>(1)),
        }
    }
}

/// A mark: that the key has it is all there is to know.
impl Codec for () {
    fn schema() -> String {
        "unit".to_owned()
    }

    fn encode(&self, _to: &mut Vec<u8>) {}

    fn decode(bytes: &[u8]) -> Result<Self> {
        whole(bytes)
    }

    fn encode_part(&self, _to: &mut Vec<u8>) {}

    fn decode_part(_bytes: &mut &[u8]) -> Result<Self> {
        Ok(())
    }
}

impl Codec for String {
    fn schema() -> String {
        "string".to_owned()
    }

    #[inline]
    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        String::from_utf8(bytes.to_vec()).map_err(|_| wrong::<Self>(bytes.len()))
    }
}

impl Codec for Vec<u8> {
    fn schema() -> String {
        "bytes".to_owned()
    }

    #[inline]
    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self);
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        Ok(bytes.to_vec())
    }
}

/// A byte 0 for `None`; a byte 1 and the value.
impl<T: Codec> Codec for Option<T> {
    const VERSION: u32 = T::VERSION;

    fn schema() -> String {
        format!("{}?", T::schema())
    }

    #[inline]
    fn encode(&self, to: &mut Vec<u8>) {
        self.encode_part(to);
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<Self> {
        whole(bytes)
    }

    #[inline]
    fn encode_part(&self, to: &mut Vec<u8>) {
        to.push(u8::from(self.is_some()));
        if let Some(value) = self {
            value.encode_part(to);
        }
    }

    #[inline]
    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        Ok(if bool::decode_part(bytes)? {
            Some(T::decode_part(bytes)?)
        } else {
            None
        })
    }
}

impl<T: Codec, const N: usize> Codec for [T; N] {
    const VERSION: u32 = T::VERSION;

    fn schema() -> String {
        format!("[{};{N}]", T::schema())
    }

    #[inline]
    fn encode(&self, to: &mut Vec<u8>) {
        self.encode_part(to);
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<Self> {
        whole(bytes)
    }

    #[inline]
    fn encode_part(&self, to: &mut Vec<u8>) {
        self.iter().for_each(|item| item.encode_part(to));
    }

    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        let items = (0..N)
            .map(|_| T::decode_part(bytes))
            .collect::<Result<Vec<T>>>()?;
        items.try_into().map_err(|_| wrong::<Self>(bytes.len()))
    }
}

/// The larger of the versions of a type's parts.
const fn newest(versions: &[u32]) -> u32 {
    let mut newest = 1;
    let mut at = 0;
    while at < versions.len() {
        if versions[at] > newest {
            newest = versions[at];
        }
        at += 1;
    }
    newest
}

macro_rules! tuples {
    ($(($($name:ident $index:tt)*))*) => {$(
        impl<$($name: Codec),*> Codec for ($($name,)*) {
            const VERSION: u32 = newest(&[$($name::VERSION),*]);

            fn schema() -> String {
                format!("({})", [$($name::schema()),*].join(","))
            }

            #[inline]
            fn encode(&self, to: &mut Vec<u8>) {
                self.encode_part(to);
            }

            #[inline]
            fn decode(bytes: &[u8]) -> Result<Self> {
                whole(bytes)
            }

            #[inline]
            fn encode_part(&self, to: &mut Vec<u8>) {
                $(self.$index.encode_part(to);)*
            }

            #[inline]
            fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
                Ok(($($name::decode_part(bytes)?,)*))
            }
        }
    )*};
}
tuples! {
    (A 0)
    (A 0 B 1)
    (A 0 B 1 C 2)
    (A 0 B 1 C 2 D 3)
    (A 0 B 1 C 2 D 3 E 4)
    (A 0 B 1 C 2 D 3 E 4 F 5)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7)
}

/// Makes a struct a [`Codec`]: its fields one after the other, in the order listed here, which must be
/// all of them. The schema names the fields and their types, so a change of either is noticed.
///
/// ```
/// # use highwater::Codec;
/// #[derive(Clone, Default)]
/// struct Delays { flights: u64, worst: Option<i64> }
/// highwater::codec!(Delays { flights, worst });
///
/// assert_eq!(Delays::schema(), "{flights:u64,worst:i64?}");
/// ```
///
/// A version other than 1 stands after the name: `codec!(Delays, version 2 { flights, worst })`.
#[macro_export]
macro_rules! codec {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        $crate::codec!($name, version 1 { $($field),+ });
    };
    ($name:ident, version $version:literal { $($field:ident),+ $(,)? }) => {
        impl $crate::Codec for $name {
            const VERSION: u32 = $version;

            fn schema() -> ::std::string::String {
                let fields = [$($crate::codec::field_schema(stringify!($field), |whole: &$name| &whole.$field)),+];
                ::std::format!("{{{}}}", fields.join(","))
            }

            #[inline]
            fn encode(&self, to: &mut ::std::vec::Vec<u8>) {
                $($crate::Codec::encode_part(&self.$field, to);)+
            }

            #[inline]
            fn decode(mut bytes: &[u8]) -> $crate::Result<Self> {
                let value = Self { $($field: $crate::Codec::decode_part(&mut bytes)?),+ };
                $crate::codec::expect_end(bytes).map(|()| value)
            }
        }
    };
}

/// For [`codec!`](crate::codec!): name and schema of a struct's field.
#[doc(hidden)]
pub fn field_schema<S, T: Codec>(name: &str, _field: fn(&S) -> &T) -> String {
    format!("{name}:{}", T::schema())
}

/// For [`codec!`](crate::codec!): that all bytes were read.
#[doc(hidden)]
#[inline]
pub fn expect_end(rest: &[u8]) -> Result<()> {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(Error::new(format_args!(
            "{} bytes of state too many",
            rest.len()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    fn check<T: Codec + PartialEq + Debug>(value: T, schema: &str, bytes: &[u8]) {
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        assert_eq!(encoded, bytes, "{schema}");
        assert_eq!(T::decode(bytes).unwrap(), value);
        assert_eq!(T::schema(), schema);
        encoded.push(b'x');
        assert!(
            T::decode(&encoded).is_err() || matches!(schema, "string" | "bytes"),
            "{schema} with a byte too many"
        );
        assert!(
            bytes.is_empty()
                || T::decode(&bytes[1..]).is_err()
                || matches!(schema, "string" | "bytes")
        );
    }

    #[test]
    fn values_survive_and_their_bytes_are_as_documented() {
        check(258u64, "u64", b"\x02\x01\0\0\0\0\0\0");
        check(-2i16, "i16", b"\xfe\xff");
        check(1.5f64, "f64", &1.5f64.to_le_bytes());
        check(true, "bool", b"\x01");
        check((), "unit", b"");
        check("süß".to_owned(), "string", "süß".as_bytes());
        check(vec![1u8, 2], "bytes", b"\x01\x02");
        check(Some(3u8), "u8?", b"\x01\x03");
        check(None::<String>, "string?", b"\0");
        check([1u16, 2], "[u16;2]", b"\x01\0\x02\0");
        check(
            ("a".to_owned(), 1u8, (true, ())),
            "(string,u8,(bool,unit))",
            b"\x01\0\0\0a\x01\x01",
        );
    }

    #[derive(Clone, Debug, PartialEq)]
    struct Totals {
        count: u32,
        name: String,
        last: Option<u8>,
    }
    crate::codec!(Totals, version 3 { count, name, last });

    #[test]
    fn structs_are_their_fields() {
        let totals = Totals {
            count: 1,
            name: "x".to_owned(),
            last: Some(9),
        };
        check(
            totals,
            "{count:u32,name:string,last:u8?}",
            b"\x01\0\0\0\x01\0\0\0x\x01\x09",
        );
        assert_eq!(<(u8, Totals)>::VERSION, 3);
        assert_eq!(u8::VERSION, 1);
    }
}
