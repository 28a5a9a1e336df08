//! What a writer holds of a large segment: a piece of it, however large it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataflow::CheckpointId;
use dataflow::state::SegmentStats;

use crate::compression::BLOCK_BYTES_MAX;
use crate::fixture::{OPERATOR, filed, hand_on, noise};
use crate::storage::{MemoryStorage, ObjectWriter, Storage};
use crate::store::{Compression, Options};
use crate::{CheckpointStore, Result};

/// Counts the bytes that it was handed.
#[derive(Debug)]
struct Counting {
    inner: MemoryStorage,
    handed: Arc<AtomicU64>,
}

#[derive(Debug)]
struct CountingWriter {
    inner: Box<dyn ObjectWriter>,
    handed: Arc<AtomicU64>,
}

impl ObjectWriter for CountingWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.handed.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        self.inner.append(bytes)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.inner.finish()
    }
}

impl Storage for Counting {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(CountingWriter {
            inner: self.inner.create(name)?,
            handed: Arc::clone(&self.handed),
        }))
    }

    hand_on!(inner: put_new read list delete make_directory remove_directory location);
}

#[test]
fn what_was_encoded_is_handed_to_the_storage_and_not_kept() {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 128;
    // It does not get smaller, so bytes that were encoded and bytes that are stored can be compared.
    let whole = noise(1, PIECES * PIECE);
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let handed = Arc::new(AtomicU64::new(0));
        let counting = Counting {
            inner: MemoryStorage::new(),
            handed: Arc::clone(&handed),
        };
        let options = Options {
            compression,
            ..filed()
        };
        let store = CheckpointStore::with_storage(Arc::new(counting), "job", options).unwrap();
        let pending = store.begin(CheckpointId(1)).unwrap();
        let mut most = 0;
        let encode = |to: &mut dyn std::io::Write| {
            let mut encoded = 0;
            for piece in whole.chunks(PIECE) {
                to.write_all(piece)?;
                encoded += piece.len() as u64;
                most = most.max(encoded.saturating_sub(handed.load(Ordering::SeqCst)));
            }
            Ok(SegmentStats {
                bytes: whole.len() as u64,
                ..SegmentStats::default()
            })
        };
        let hint = whole.len() as u64;
        let written = pending.write_with(OPERATOR, 0, None, hint, encode);
        assert!(written.unwrap().bytes() >= hint, "{compression:?}");
        // A segment up to this size is not given a file of its own; a block waits until it is full.
        let file = 1 << 20;
        assert!(most > 0, "{compression:?}");
        assert!(
            most <= file + BLOCK_BYTES_MAX as u64,
            "{compression:?}: {most}"
        );
    }
}
