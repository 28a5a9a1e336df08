//! JSON, for values whose shape changes often or is not ours.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Codec;
use crate::error::Result;
use crate::row::{Row, RowWriter};

/// A value kept in state, or emitted, as a JSON document.
///
/// Slower than the other codecs by far, but fields can be added with `#[serde(default)]` and every tool
/// reads it. A value that JSON cannot express (a map whose keys are no texts) becomes `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned + 'static> Codec for Json<T> {
    fn schema() -> String {
        "json".to_owned()
    }

    fn encode(&self, to: &mut Vec<u8>) {
        write(&self.0, to);
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        Ok(Self(serde_json::from_slice(bytes)?))
    }
}

impl<T: Serialize> Row for Json<T> {
    fn write(&self, row: &mut RowWriter<'_>) {
        let mut text = Vec::new();
        write(&self.0, &mut text);
        row.field(&text);
    }
}

fn write(value: &impl Serialize, to: &mut Vec<u8>) {
    let start = to.len();
    if serde_json::to_writer(&mut *to, value).is_err() {
        to.truncate(start);
        to.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Visit {
        page: String,
        #[serde(default)]
        seconds: u32,
    }

    #[test]
    fn fields_may_be_added() {
        assert_eq!(
            Json::<Visit>::decode(br#"{"page":"a"}"#).unwrap().0,
            Visit {
                page: "a".to_owned(),
                seconds: 0
            }
        );
        let mut bytes = Vec::new();
        Json(Visit {
            page: "b".to_owned(),
            seconds: 1,
        })
        .encode(&mut bytes);
        assert_eq!(bytes, br#"{"page":"b","seconds":1}"#);
    }
}
