//! The log as it was when a snapshot was sealed, to be read from another thread.

use std::io;
use std::sync::Arc;

use super::piece::{PIECE, Piece};
use super::record::{Held, Record};
use super::{ColdFile, damaged};

/// A file of a sealed log, which keeps it from being removed.
#[derive(Debug)]
pub(super) struct SealedFile {
    pub(super) file: Arc<dyn ColdFile>,
    pub(super) pieces: Arc<Vec<Arc<Piece>>>,
    /// Whether its last piece was not written yet.
    pub(super) is_last: bool,
}

/// All records that were live.
#[derive(Debug)]
pub(in super::super) struct SealedLog {
    files: Vec<SealedFile>,
    /// The piece that was not written yet.
    tail: Vec<u8>,
}

impl SealedLog {
    pub(super) fn new(files: Vec<SealedFile>, tail: Vec<u8>) -> Self {
        Self { files, tail }
    }

    /// Calls `write` with key and value of each entry of `state` that was written after interval
    /// `base` (all, if `None`).
    pub(in super::super) fn since(
        &self,
        state: u32,
        base: Option<u32>,
        mut write: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let newer = |version: u32| base.is_none_or(|base| version > base);
        let mut bytes = Vec::new();
        for SealedFile {
            file,
            pieces,
            is_last,
        } in &self.files
        {
            for (number, piece) in pieces.iter().enumerate() {
                if !newer(piece.newest) || !piece.has_live() {
                    continue;
                }
                let piece_bytes = if *is_last && number + 1 == pieces.len() {
                    &self.tail
                } else {
                    bytes.resize(PIECE, 0);
                    file.read_at((number * PIECE) as u64, &mut bytes)?;
                    &bytes
                };
                for start in piece.live() {
                    let record = piece_bytes.get(start..).and_then(Record::read);
                    let record = record.ok_or_else(|| damaged(file))?;
                    let wanted = |held: &Held<'_>| {
                        held.state == state && newer(u32::from_le_bytes(held.version))
                    };
                    if let Some(held) = record.held().find(wanted) {
                        write(record.key, held.value)?;
                    }
                }
            }
        }
        Ok(())
    }
}
