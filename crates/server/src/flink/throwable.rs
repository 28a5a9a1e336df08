//! A failure as Flink's client can read it.
//!
//! The client takes the field `serialized-throwable` of a `failure-cause` and reads nothing else: bytes of Java's
//! serialisation in Base64, which must hold an `org.apache.flink.util.SerializedThrowable`. If the field is missing
//! the client fails with a `NullPointerException` of its own instead of saying what happened. So the bytes are
//! written here, by the *Object Serialization Stream Protocol* of Java, with our message in them. The class wraps
//! the exception that it stands for, too; that may be `null`, and is, because no class of ours is known to Java.

use serde_json::{Value, json};

/// What stands where Flink has the name of an exception's class.
const CLASS: &str = "highwater.Failure";

/// Bytes of a message that are sent; a string of Java's protocol has at most 65,535.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// The field `failure-cause`.
pub(super) fn failure_cause(message: &str) -> Value {
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let message = &message[..end];
    let trace = format!("{CLASS}: {message}\n");
    json!({
        "class": CLASS,
        "stack-trace": trace,
        "serialized-throwable": base64(&serialized(message, &trace)),
    })
}

const TC_NULL: u8 = 0x70;
const TC_REFERENCE: u8 = 0x71;
const TC_CLASSDESC: u8 = 0x72;
const TC_OBJECT: u8 = 0x73;
const TC_STRING: u8 = 0x74;
const TC_ENDBLOCKDATA: u8 = 0x78;

/// The class writes its fields by the default way.
const SC_SERIALIZABLE: u8 = 0x02;

/// It has a `writeObject` of its own, which ends its data with a mark.
const SC_WRITE_METHOD: u8 = 0x01;

/// The first handle; every class, object and string that is written gets the next one.
const BASE_HANDLE: u32 = 0x007e_0000;

/// The handle of the string `Ljava/lang/String;`, the second thing that is written.
const STRING_TYPE_HANDLE: u32 = BASE_HANDLE + 1;

/// The type of a field.
enum Type {
    /// A string.
    String,
    /// Another class or an array, which is named here for the first time.
    First(&'static str),
}

/// A `SerializedThrowable` with this message, without a cause and without the exception that it stands for.
fn serialized(message: &str, trace: &str) -> Vec<u8> {
    let mut out = vec![0xac, 0xed, 0x00, 0x05, TC_OBJECT];
    let fields = [
        (
            "fullStringifiedStackTrace",
            Type::First("Ljava/lang/String;"),
        ),
        ("originalErrorClassName", Type::String),
        ("serializedException", Type::First("[B")),
    ];
    let name = "org.apache.flink.util.SerializedThrowable";
    class(
        &mut out,
        name,
        7_284_183_123_441_947_635,
        SC_SERIALIZABLE,
        &fields,
    );
    class(
        &mut out,
        "java.lang.Exception",
        -3_387_516_993_124_229_948,
        SC_SERIALIZABLE,
        &[],
    );
    let fields = [
        ("cause", Type::First("Ljava/lang/Throwable;")),
        ("detailMessage", Type::String),
        ("stackTrace", Type::First("[Ljava/lang/StackTraceElement;")),
        ("suppressedExceptions", Type::First("Ljava/util/List;")),
    ];
    let flags = SC_SERIALIZABLE | SC_WRITE_METHOD;
    class(
        &mut out,
        "java.lang.Throwable",
        -3_042_686_055_658_047_285,
        flags,
        &fields,
    );
    // `java.lang.Object` is not serialised.
    out.push(TC_NULL);
    // The fields of `Throwable`: no cause, the message, neither stack nor suppressed exceptions.
    out.push(TC_NULL);
    string(&mut out, message);
    out.extend([TC_NULL, TC_NULL, TC_ENDBLOCKDATA]);
    // Those of `SerializedThrowable`.
    string(&mut out, trace);
    string(&mut out, CLASS);
    out.push(TC_NULL);
    out
}

fn class(out: &mut Vec<u8>, name: &str, uid: i64, flags: u8, fields: &[(&str, Type)]) {
    out.push(TC_CLASSDESC);
    utf(out, name);
    out.extend(uid.to_be_bytes());
    out.push(flags);
    out.extend(
        u16::try_from(fields.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    for (name, kind) in fields {
        out.push(match kind {
            Type::First(name) if name.starts_with('[') => b'[',
            Type::First(_) | Type::String => b'L',
        });
        utf(out, name);
        match kind {
            Type::First(name) => string(out, name),
            Type::String => {
                out.push(TC_REFERENCE);
                out.extend(STRING_TYPE_HANDLE.to_be_bytes());
            }
        }
    }
    out.push(TC_ENDBLOCKDATA);
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.push(TC_STRING);
    utf(out, text);
}

/// Java's modified UTF-8 after its length: NUL has two bytes, and what is beyond 16 bits two times three. A text of
/// at most [`MESSAGE_BYTES_MAX`] bytes fits, with what is added to it: no character more than doubles.
fn utf(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    out.extend([0, 0]);
    for unit in text.encode_utf16() {
        let [high, low] = [(unit >> 6) as u8 & 0x3f | 0x80, unit as u8 & 0x3f | 0x80];
        match unit {
            0x01..=0x7f => out.push(unit as u8),
            0 | 0x80..=0x7ff => out.extend([(unit >> 6) as u8 | 0xc0, low]),
            _ => out.extend([(unit >> 12) as u8 | 0xe0, high, low]),
        }
    }
    let length = u16::try_from(out.len() - start - 2).expect("messages and names are short");
    out[start..start + 2].copy_from_slice(&length.to_be_bytes());
}

/// Base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 0x3f];
            text.push(if place > chunk.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}
