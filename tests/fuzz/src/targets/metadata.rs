//! Metadata whose checksum is right: the body is JSON up to the first zero byte, the inline bytes follow it.
//! The first byte chooses the version.
//!
//! Promises: it is read or refused, in memory that its size warrants; what is read is the same after it is
//! written again; what `verify` finds right can be exported.

use std::sync::Arc;

use checkpoint::export::{Filter, export};
use checkpoint::storage::{MemoryStorage, Storage};
use checkpoint::{Completed, Error, Metadata, verify};

use super::{Target, seal};
use crate::memory;

pub(super) const TARGET: Target = Target {
    name: "metadata",
    run,
    words: &[
        b"\"segments\":[",
        b"\"file\":null",
        b"\"file\":\"chk-1/data-0\"",
        b"\"offset\":",
        b"\"length\":",
        b"\"compressed\":{\"codec\":\"lz4\",\"raw-length\":10}",
        b"\"zstd\"",
        b"\"written-by\":1",
        b"\"delta\":true",
        b"\"kind\":\"map\"",
        b"\"kind\":\"list\"",
        b"\"savepoint\"",
        b"\"ttl-ms\":",
        b"\"parts\":[",
        b"{}",
        b"[",
        b"]",
        b"null",
        b"true",
        b"1e999",
        b"-1",
        b"0.1",
        b"\"ended-inputs\":[0]",
        b"\"watermark\":",
        b"\"run\":\"a\"",
        b"../",
        b"\"labels\":{\"a\":\"b\"}",
        b"\\u0000",
        b"\"previous\":",
        b"\"source\"",
        b"\"sink\"",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    ],
    bytes_max: 8 << 10,
    memory_max: 64 << 20,
};

fn open(version: u32, body: &[u8], inline: &[u8]) -> (usize, Result<Completed, Error>) {
    let storage = MemoryStorage::new();
    let file = seal::metadata(version, body, inline);
    let bytes = file.len();
    storage
        .put_new("job/chk-1/_metadata", vec![file.into()])
        .expect("memory takes it");
    let (most, opened) = memory::most(|| Completed::open(Arc::new(storage), "job/chk-1"));
    // A subtask of a few letters has a few hundred bytes in memory.
    assert!(
        most <= (1 << 20) + 200 * bytes,
        "{most} bytes of memory for a file of {bytes}"
    );
    (bytes, opened)
}

fn run(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    let end = rest
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(rest.len());
    let (body, inline) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    let (_, opened) = open(1 + u32::from(choice % 2), body, inline);
    let Ok(opened) = opened else { return };
    let again = |metadata: &Metadata| {
        let body = serde_json::to_vec(metadata).expect("what was read is written");
        let (_, opened) = open(2, &body, inline);
        opened.expect("what was read and written is read again")
    };
    let second = again(opened.metadata());
    assert_eq!(
        second.metadata(),
        opened.metadata(),
        "it changes when it is written again"
    );
    let report = verify(&opened);
    if report.is_good() {
        let exported: Result<u64, Error> = export(&opened, &Filter::default(), |_| Ok(()));
        if let Err(error) = exported {
            panic!("`verify` finds it right, but it is not exported: {error}");
        }
    }
}
