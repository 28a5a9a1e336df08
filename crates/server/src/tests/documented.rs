//! What `docs/control.md` shows is what is sent and understood.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{Failure, HostStatus, JobStatus, OperationStatus, Request};

/// Whether a value is read as `T`, and written again as it was.
fn is<T: Serialize + DeserializeOwned>(value: &Value) -> bool {
    let read = T::deserialize(value);
    read.is_ok_and(|read| serde_json::to_value(read).unwrap() == *value)
}

#[test]
fn c83_the_documented_json_is_what_goes_over_the_wire() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/control.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut counts = [0; 5];
    for block in text.split("```json\n").skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        let value: Value = serde_json::from_str(block).unwrap();
        let kinds = [
            is::<HostStatus>(&value),
            is::<Vec<JobStatus>>(&value),
            is::<OperationStatus>(&value),
            is::<Failure>(&value),
            Request::parse(block.as_bytes()).is_ok() && is::<Request>(&value),
        ];
        let kind = kinds.iter().position(|is_it| *is_it);
        counts[kind.unwrap_or_else(|| panic!("it is none of them: {block}"))] += 1;
    }
    assert_eq!(counts, [1, 1, 3, 1, 6]);
}
