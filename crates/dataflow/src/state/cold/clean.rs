//! Cleaning: a file of which more than half is dead is read in order, what is live in it is appended
//! again, and the file is given up. So the log takes at most about twice as much as is live in it.

use std::io;
use std::sync::Arc;

use super::super::KeyedState;
use super::log::address;
use super::piece::PIECE;
use super::record::{Record, UNIT, units};
use super::{Cold, damaged};

/// A file that is being cleaned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cleaning {
    file: usize,
    /// The next piece of it.
    piece: usize,
}

/// So much is read between two calls at least.
const STEP: u64 = 1 << 20;

impl KeyedState {
    /// Cleans on for a while: twice as much as was appended since the last time, and a bit, so that it
    /// keeps up: reading a byte frees more than half of one.
    pub(super) fn clean(&mut self, cold: &mut Cold) -> io::Result<()> {
        let mut budget = STEP + 2 * (cold.log.appended - cold.appended);
        while budget > 0 {
            let Some(cleaning) = cold.cleaning.or_else(|| {
                let file = cold.log.next_to_clean()?;
                Some(Cleaning { file, piece: 0 })
            }) else {
                break;
            };
            cold.cleaning = None;
            if self.clean_piece(cold, cleaning, &mut budget)? {
                cold.cleaning = Some(Cleaning {
                    piece: cleaning.piece + 1,
                    ..cleaning
                });
            }
        }
        cold.appended = cold.log.appended;
        Ok(())
    }

    /// Moves what is live in a piece. Returns whether there is more in its file.
    fn clean_piece(
        &mut self,
        cold: &mut Cold,
        Cleaning {
            file: number,
            piece,
        }: Cleaning,
        budget: &mut u64,
    ) -> io::Result<bool> {
        // With its last live record the file was given up.
        let Some((file, live)) = cold.log.piece(number, piece) else {
            return Ok(false);
        };
        if !live.has_live() {
            return Ok(true);
        }
        let (file, live) = (Arc::clone(file), Arc::clone(live));
        let mut bytes = vec![0; PIECE];
        file.read_at((piece * PIECE) as u64, &mut bytes)?;
        *budget = budget.saturating_sub(PIECE as u64);
        for start in live.live() {
            let record = bytes.get(start..).and_then(Record::read);
            let record = record.ok_or_else(|| damaged(&file))?;
            let old = address(number, piece, start);
            let Some(cold_key) = self.keys.cold_at(record.key, old) else {
                return Err(io::Error::other("a live record of cold state has no key"));
            };
            let newest = record.held().map(|held| u32::from_le_bytes(held.version));
            let newest = newest.max().unwrap_or(0);
            let units = units(record.len);
            let whole = &bytes[start..start + units as usize * UNIT];
            let new = cold.log.append(whole, newest)?;
            self.keys.cold.move_to(cold_key, new);
            cold.log.kill(old, units);
            cold.stats.cleaned += whole.len() as u64;
        }
        Ok(true)
    }
}
