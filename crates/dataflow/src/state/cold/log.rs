//! The log: records one after the other, in files that are written once, front to back.
//!
//! A file consists of pieces, and no record lies across two. The piece that is being filled is in
//! memory. Which records are live is known by a bit for each unit at which one may begin, in memory
//! too, in parts that are copied when they change after a snapshot was sealed. A file without live
//! records is given up.
//!
//! An address is the number of a file, and the unit in it at which the record begins.

use std::io;
use std::sync::Arc;

use super::piece::{PIECE, PIECE_UNITS, Piece};
use super::record::UNIT;
use super::sealed::{SealedFile, SealedLog};
use super::{ColdFile, ColdStorage, damaged};

/// Bits of an address that say where in its file it lies.
const UNIT_BITS: u32 = 21;
/// The most pieces of a file: 64 MiB. Removing more takes too long for one call.
const FILE_PIECES_MAX: usize = (1 << UNIT_BITS) / PIECE_UNITS;
/// The fewest: a small log has small files too, so that cleaning begins early.
const FILE_PIECES_MIN: usize = if cfg!(test) { 2 } else { 32 };
/// How many files share a log while they are smaller than they may get.
const FILES_AIM: usize = 32;
const FILES_MAX: usize = 1 << (32 - UNIT_BITS);
/// Records that lie no further apart are read together, up to a piece.
const GAP: usize = 512;

#[derive(Debug)]
struct File {
    file: Arc<dyn ColdFile>,
    pieces: Arc<Vec<Arc<Piece>>>,
    /// How many pieces it gets.
    pieces_max: usize,
    /// Units of its records, and how many of those are not live any more.
    units: u32,
    dead: u32,
    /// Whether it is waiting to be cleaned.
    listed: bool,
}

#[derive(Debug)]
pub(super) struct Log {
    storage: Box<dyn ColdStorage>,
    files: Vec<Option<File>>,
    /// The file that is being written, if one is.
    current: Option<usize>,
    /// Its last piece.
    piece: Vec<u8>,
    /// Files of which more than half is dead.
    to_clean: Vec<usize>,
    /// Units of all records, and of those that are not live any more.
    units: u64,
    dead: u64,
    /// Bytes appended since the start.
    pub(super) appended: u64,
}

/// The file of an address, its piece there, and the byte in that.
fn split(address: u32) -> (usize, usize, usize) {
    let unit = address as usize & ((1 << UNIT_BITS) - 1);
    let file = (address >> UNIT_BITS) as usize;
    (file, unit / PIECE_UNITS, unit % PIECE_UNITS * UNIT)
}

/// The address of a byte in a piece of a file.
pub(super) fn address(file: usize, piece: usize, byte: usize) -> u32 {
    (file << UNIT_BITS | (piece * PIECE_UNITS + byte / UNIT)) as u32
}

impl Log {
    pub(super) fn new(storage: Box<dyn ColdStorage>) -> Self {
        Self {
            storage,
            files: Vec::new(),
            current: None,
            piece: Vec::new(),
            to_clean: Vec::new(),
            units: 0,
            dead: 0,
            appended: 0,
        }
    }

    fn file(&self, number: usize) -> io::Result<&File> {
        let file = self.files.get(number).and_then(Option::as_ref);
        file.ok_or_else(|| io::Error::other("an address of cold state leads to no file"))
    }

    /// Appends a record, which fills its units; `newest` is its newest version. Returns its address.
    /// If it fails, nothing has been appended.
    pub(super) fn append(&mut self, record: &[u8], newest: u32) -> io::Result<u32> {
        if self.piece.len() + record.len() > PIECE {
            self.end_piece()?;
        }
        let number = match self.current {
            Some(number) => number,
            None => self.begin_file()?,
        };
        let Some(file) = &mut self.files[number] else {
            return Err(io::Error::other(
                "the file that is being written was removed",
            ));
        };
        let units = (record.len() / UNIT) as u32;
        file.units += units;
        self.units += u64::from(units);
        self.appended += record.len() as u64;
        let pieces = Arc::make_mut(&mut file.pieces);
        if self.piece.is_empty() {
            pieces.push(Arc::new(Piece::new()));
        }
        let last = pieces.len() - 1;
        let piece = Arc::make_mut(&mut pieces[last]);
        let unit = self.piece.len() / UNIT;
        piece.set(unit);
        piece.newest = piece.newest.max(newest);
        let address = address(number, last, self.piece.len());
        self.piece.extend_from_slice(record);
        Ok(address)
    }

    /// Writes the piece that is in memory.
    fn end_piece(&mut self) -> io::Result<()> {
        let Some(number) = self.current else {
            return Ok(());
        };
        let file = self.file(number)?;
        let (pieces, full) = (file.pieces.len(), file.pieces.len() == file.pieces_max);
        let file = Arc::clone(&file.file);
        let len = self.piece.len();
        self.piece.resize(PIECE, 0);
        let written = file.write_at(((pieces - 1) * PIECE) as u64, &self.piece);
        self.piece.truncate(len);
        written?;
        self.piece.clear();
        if full {
            self.current = None;
            self.list(number);
        }
        Ok(())
    }

    fn begin_file(&mut self) -> io::Result<usize> {
        let number = self.files.iter().position(Option::is_none);
        let number = number.unwrap_or(self.files.len());
        if number == FILES_MAX {
            let most = (FILES_MAX * FILE_PIECES_MAX * PIECE) >> 30;
            return Err(io::Error::other(format!(
                "one subtask has more than {most} GiB of cold state; give the operator a higher parallelism"
            )));
        }
        let file = File {
            file: self.storage.create()?,
            pieces: Arc::default(),
            pieces_max: (self.units as usize / PIECE_UNITS / FILES_AIM)
                .clamp(FILE_PIECES_MIN, FILE_PIECES_MAX),
            units: 0,
            dead: 0,
            listed: false,
        };
        if number == self.files.len() {
            self.files.push(None);
        }
        self.files[number] = Some(file);
        self.current = Some(number);
        Ok(number)
    }

    /// Lists a file for cleaning if more than half of it is dead, or gives it up if all is.
    fn list(&mut self, number: usize) {
        let Some(file) = self.files.get_mut(number).and_then(Option::as_mut) else {
            return;
        };
        if self.current == Some(number) {
            return;
        }
        if file.dead == file.units {
            self.units -= u64::from(file.units);
            self.dead -= u64::from(file.dead);
            self.files[number] = None;
            self.to_clean.retain(|other| *other != number);
        } else if !file.listed && file.dead > file.units / 2 {
            file.listed = true;
            self.to_clean.push(number);
        }
    }

    /// The record at an address, of this many units, is not needed any more.
    pub(super) fn kill(&mut self, address: u32, units: u32) {
        let (number, piece, byte) = split(address);
        let Some(file) = self.files.get_mut(number).and_then(Option::as_mut) else {
            return;
        };
        file.dead += units;
        self.dead += u64::from(units);
        let piece = Arc::make_mut(&mut Arc::make_mut(&mut file.pieces)[piece]);
        let unit = byte / UNIT;
        piece.unset(unit);
        self.list(number);
    }

    /// Reads records, whose addresses and units are in the order of the addresses. Each is given to
    /// `take` with its number among them.
    pub(super) fn read(
        &self,
        places: &[(u32, u32)],
        mut take: impl FnMut(usize, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut at = 0;
        while let Some(&(first, units)) = places.get(at) {
            let (number, piece, start) = split(first);
            let mut end = start + units as usize * UNIT;
            let mut count = 1;
            // Those that follow closely.
            while let Some(&(next, units)) = places.get(at + count) {
                let (next_number, next_piece, next_start) = split(next);
                if (next_number, next_piece) != (number, piece) || next_start > end + GAP {
                    break;
                }
                end = next_start + units as usize * UNIT;
                count += 1;
            }
            let file = self.file(number)?;
            let some = if self.current == Some(number) && piece + 1 == file.pieces.len() {
                self.piece.get(start..end)
            } else {
                bytes.resize(end - start, 0);
                file.file
                    .read_at((piece * PIECE + start) as u64, &mut bytes)?;
                Some(bytes.as_slice())
            };
            for (index, &(address, units)) in places.iter().enumerate().skip(at).take(count) {
                let from = split(address).2 - start;
                let record = some.and_then(|some| some.get(from..from + units as usize * UNIT));
                take(index, record.ok_or_else(|| damaged(&file.file))?)?;
            }
            at += count;
        }
        Ok(())
    }

    /// Which file an address is in, for an error.
    pub(super) fn place_of(&self, address: u32) -> Option<&Arc<dyn ColdFile>> {
        Some(&self.files.get(split(address).0)?.as_ref()?.file)
    }

    /// The next file to be cleaned.
    pub(super) fn next_to_clean(&mut self) -> Option<usize> {
        self.to_clean.pop()
    }

    /// The file `number` and one of its pieces; `None` if there is no such piece (any more). Not of
    /// the file that is being written.
    pub(super) fn piece(
        &self,
        number: usize,
        piece: usize,
    ) -> Option<(&Arc<dyn ColdFile>, &Arc<Piece>)> {
        let file = self.files.get(number)?.as_ref()?;
        Some((&file.file, file.pieces.get(piece)?))
    }

    /// Bytes of live records, and of others in the same files.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let unit = UNIT as u64;
        ((self.units - self.dead) * unit, self.dead * unit)
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> u64 {
        let pieces = self.units as usize / PIECE_UNITS + 2 * self.files.len();
        (self.piece.capacity() + pieces * size_of::<Piece>()) as u64
    }

    /// The log as it is now.
    pub(super) fn seal(&self) -> SealedLog {
        let files = self.files.iter().enumerate().filter_map(|(number, file)| {
            let file = file.as_ref()?;
            Some(SealedFile {
                file: Arc::clone(&file.file),
                pieces: Arc::clone(&file.pieces),
                is_last: self.current == Some(number),
            })
        });
        SealedLog::new(files.collect(), self.piece.clone())
    }
}
