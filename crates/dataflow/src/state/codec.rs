//! The segment format: the keyed state of one subtask of one operator, full or as a delta.
//!
//! All numbers are little-endian; a *varint* is an unsigned LEB128 of at most 64 bits without needless
//! bytes; a *string* is a varint length and as many bytes.
//!
//! A segment is the 8 bytes `89 48 57 53 45 47 0D 0A` (`\x89HWSEG\r\n`), the format version as `u32`
//! (1), and blocks. Nothing follows the last block. A block is
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the payload, `u32`, 1 to 1,048,576 |
//! | 4 | CRC-32C, `u32`, of the block's number (`u32`, from 0, so that blocks cannot be lost or change places), and the payload |
//! | … | payload; its first byte says what the block is |
//!
//! | first byte | block | then |
//! |---|---|---|
//! | 1 | header, the first block and no other | see below |
//! | 2 | values | entries: key, value (strings) |
//! | 3 | map entries | entries: key, field, value (strings) |
//! | 4 | list elements | entries: key (string), `u8` 1 if the list starts here and 0 if it goes on, varint number of elements, the elements (strings) |
//! | 5 | removed keys | entries: key (string): all that the state held for it |
//! | 6 | removed map entries | entries: key, field (strings) |
//! | 7 | continuation | bytes that belong to the header, or to the one entry of the block before |
//! | 255 | end, the last block and no other | number of entries of the segment, `u64`; number of blocks with header and end, `u64` |
//!
//! The header continues with a `u8` that is 1 for a delta and 0 for a full segment; the checkpoint's
//! number, `u64`; the base's number, `u64` (0 if full): that of the checkpoint on which the delta was
//! taken, which is not always the one that wrote the segment before it, for empty deltas are not stored;
//! the number of key groups, `u32`; first key group of the subtask and the one after its last, `u32`
//! each; the name of the hash by which keys fall into groups (string); the number of states, varint; and per state its name (string), its
//! kind, `u8` (0 value, 1 map, 2 list, 3 timers), and about how many entries follow, varint (for a reader that
//! makes room; not to be relied on). To the kind, 128 is added if the state's entries expire by the clock, 64
//! if by the watermark: then each value or element begins with the time at which it expires, `i64`,
//! milliseconds since the epoch (the largest number: it has none yet).
//!
//! Blocks 2 to 6 continue with the number of the state in the header's table, `u32`, from 0; the number of
//! entries that begin in the block, `u32`; and these entries. An entry is stored in one block if one can
//! hold it; a larger one begins a block of its own, alone, and goes on in continuations. So does a header that
//! is larger than a block.
//!
//! A delta is applied to what its base holds: the removals of a state come before its entries, and
//! an entry replaces what there is, except that list elements are appended unless the list starts
//! again. Timers are stored as map entries without a value, whose field is the time (`i64` with its highest bit
//! turned round) and the tag (`u32`), both big-endian. Segments of one subtask are applied in order, the full one first; those of different
//! subtasks have no key in common. A full segment removes nothing, and has each value and map entry
//! once; a long list has several entries, of which only the first starts it.

use std::io;

use super::{RestoreError, StateKind, TtlTime, varint};
use crate::key::KeyGroupRange;

pub(super) const MAGIC: [u8; 8] = *b"\x89HWSEG\r\n";
pub(super) const VERSION: u32 = 1;
/// Added to the kind of a state in a header.
const EXPIRES: u8 = 0x80;
const EXPIRES_BY_WATERMARK: u8 = 0x40;
/// The most bytes of a block's payload.
pub(super) const BLOCK_MAX: usize = 1 << 20;
/// Payload bytes in front of a block's entries.
const BLOCK_START: usize = 9;
/// Bytes of a block in front of its payload.
const FRAME: usize = 8;

/// What a block holds: the first byte of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum BlockKind {
    Header = 1,
    Values = 2,
    MapEntries = 3,
    ListElements = 4,
    RemovedKeys = 5,
    RemovedFields = 6,
    Continuation = 7,
    End = 255,
}

impl BlockKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Header,
            Self::Values,
            Self::MapEntries,
            Self::ListElements,
            Self::RemovedKeys,
            Self::RemovedFields,
            Self::Continuation,
            Self::End,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

pub(super) fn kind_byte(kind: StateKind) -> u8 {
    match kind {
        StateKind::Value => 0,
        StateKind::Map => 1,
        StateKind::List => 2,
        StateKind::Timers => 3,
    }
}

pub(super) fn kind_from_byte(byte: u8) -> Option<StateKind> {
    StateKind::ALL
        .into_iter()
        .find(|kind| kind_byte(*kind) == byte)
}

/// What a header says of a state's kind, and of the clock by which its entries expire.
pub(super) fn state_byte(kind: StateKind, expires_by: Option<TtlTime>) -> u8 {
    let flag = match expires_by {
        None => 0,
        Some(TtlTime::Processing) => EXPIRES,
        Some(TtlTime::Event) => EXPIRES_BY_WATERMARK,
    };
    kind_byte(kind) | flag
}

pub(super) fn state_from_byte(byte: u8) -> Option<(StateKind, Option<TtlTime>)> {
    let expires_by = match byte & (EXPIRES | EXPIRES_BY_WATERMARK) {
        0 => None,
        EXPIRES => Some(TtlTime::Processing),
        EXPIRES_BY_WATERMARK => Some(TtlTime::Event),
        _ => return None,
    };
    let kind = kind_from_byte(byte & !(EXPIRES | EXPIRES_BY_WATERMARK))?;
    Some((kind, expires_by))
}

/// At most how many bytes an entry takes beside its value and field, if keys have at most `key_len_max`.
pub(super) fn entry_overhead(key_len_max: usize) -> u64 {
    // Three lengths below 4 GiB, the two numbers of a list.
    key_len_max as u64 + 15 + 6
}

/// Bytes of a string.
pub(super) fn string_len(string: &[u8]) -> usize {
    varint::len(string.len() as u64) + string.len()
}

/// Appends a string; as words, where it has the length of a key or a counter.
#[inline]
pub(super) fn push_string(to: &mut Vec<u8>, string: &[u8]) {
    if let Ok(string) = string.try_into() {
        let word = u64::from_le_bytes(string);
        to.push(8);
        to.extend_from_slice(&word.to_le_bytes());
    } else if let Ok(string) = string.try_into() {
        let word = u128::from_le_bytes(string);
        to.push(16);
        to.extend_from_slice(&word.to_le_bytes());
    } else {
        let (prefix, len) = varint::encode(string.len() as u64);
        to.extend_from_slice(&prefix[..len]);
        to.extend_from_slice(string);
    }
}

/// Writes blocks.
pub(super) struct BlockWriter<'a> {
    to: &'a mut dyn io::Write,
    /// The payload so far; empty between blocks.
    payload: Vec<u8>,
    state: u32,
    /// Entries that begin in this block.
    count: u32,
    /// Number of this block.
    number: u32,
    entries: u64,
    bytes: u64,
}

impl<'a> BlockWriter<'a> {
    /// Writes what comes before the first block.
    pub(super) fn new(to: &'a mut dyn io::Write) -> io::Result<Self> {
        to.write_all(&MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        let bytes = (MAGIC.len() + 4) as u64;
        Ok(Self {
            to,
            payload: Vec::new(),
            state: 0,
            count: 0,
            number: 0,
            entries: 0,
            bytes,
        })
    }

    /// Writes a block of its own, continued if it is too large.
    pub(super) fn block(&mut self, kind: BlockKind, payload: &[u8]) -> io::Result<()> {
        self.flush()?;
        self.payload.push(kind as u8);
        self.raw(payload)?;
        self.flush()
    }

    /// Begins an entry of `len` bytes.
    #[inline]
    pub(super) fn entry(&mut self, kind: BlockKind, state: u32, len: usize) -> io::Result<()> {
        let fits = self.payload.first() == Some(&(kind as u8))
            && self.state == state
            && self.payload.len() + len <= BLOCK_MAX;
        if !fits {
            self.flush()?;
            self.payload.push(kind as u8);
            self.payload.extend_from_slice(&state.to_le_bytes());
            self.payload.extend_from_slice(&[0; 4]);
            self.state = state;
        }
        self.count += 1;
        Ok(())
    }

    /// Writes an entry of strings.
    #[inline]
    pub(super) fn strings<const N: usize>(
        &mut self,
        kind: BlockKind,
        state: u32,
        strings: [&[u8]; N],
    ) -> io::Result<()> {
        let len = strings.iter().map(|string| string_len(string)).sum();
        self.entry(kind, state, len)?;
        if self.payload.len() + len > BLOCK_MAX {
            return strings.iter().try_for_each(|string| self.string(string));
        }
        self.payload.reserve(len);
        for string in strings {
            push_string(&mut self.payload, string);
        }
        Ok(())
    }

    /// Appends a string to the entry.
    #[inline]
    pub(super) fn string(&mut self, string: &[u8]) -> io::Result<()> {
        self.varint(string.len() as u64)?;
        self.raw(string)
    }

    /// Appends a varint to the entry.
    #[inline]
    pub(super) fn varint(&mut self, value: u64) -> io::Result<()> {
        let (bytes, len) = varint::encode(value);
        self.raw(&bytes[..len])
    }

    /// Appends bytes to the entry.
    #[inline]
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.payload.len() + bytes.len() <= BLOCK_MAX {
            self.payload.extend_from_slice(bytes);
            return Ok(());
        }
        self.raw_across_blocks(bytes)
    }

    #[cold]
    fn raw_across_blocks(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let (head, rest) = bytes.split_at(bytes.len().min(BLOCK_MAX - self.payload.len()));
            self.payload.extend_from_slice(head);
            if rest.is_empty() {
                return Ok(());
            }
            self.flush()?;
            self.payload.push(BlockKind::Continuation as u8);
            bytes = rest;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.payload.is_empty() {
            return Ok(());
        }
        if self.count > 0 {
            self.payload[BLOCK_START - 4..BLOCK_START].copy_from_slice(&self.count.to_le_bytes());
        }
        let len = u32::try_from(self.payload.len()).expect("a block is cut at 1 MiB");
        self.to.write_all(&len.to_le_bytes())?;
        self.to
            .write_all(&checksum(self.number, &self.payload).to_le_bytes())?;
        self.to.write_all(&self.payload)?;
        self.bytes += (FRAME + self.payload.len()) as u64;
        self.entries += u64::from(self.count);
        self.number += 1;
        self.count = 0;
        self.payload.clear();
        Ok(())
    }

    /// Writes the last block. Returns how many bytes the segment has.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        let mut payload = self.entries.to_le_bytes().to_vec();
        payload.extend_from_slice(&(u64::from(self.number) + 1).to_le_bytes());
        self.block(BlockKind::End, &payload)?;
        self.to.flush()?;
        Ok(self.bytes)
    }
}

fn checksum(number: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), payload)
}

/// Reads blocks and checks them.
pub(super) struct BlockReader<'a> {
    from: &'a mut dyn io::Read,
    /// Bytes read so far.
    offset: u64,
    /// Where the block that was read last starts.
    block: u64,
    /// Number of the next block.
    number: u32,
    /// Entries of the blocks so far.
    entries: u64,
    /// The block and the continuations that were asked for.
    payload: Vec<u8>,
    /// How much of the payload has been taken.
    taken: usize,
}

/// A block that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) kind: BlockKind,
    /// Number of the state in the header's table.
    pub(super) state: u32,
    /// How many entries begin in it.
    pub(super) count: u32,
}

/// An entry of any kind. What its kind does not have is empty.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry<'a> {
    pub(super) key: &'a [u8],
    pub(super) field: &'a [u8],
    pub(super) value: &'a [u8],
    /// List elements: whether the list starts here.
    pub(super) starts: bool,
    /// List elements: how many.
    pub(super) count: u64,
    /// List elements: each after its length.
    pub(super) elements: Cursor<'a>,
}

/// The entries of a block that have not been read.
pub(super) struct Entries<'a> {
    cursor: Cursor<'a>,
    kind: BlockKind,
    left: u32,
    offset: u64,
}

/// Takes what it is asked for from the front of some bytes; `None` if they end too early.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn varint(&mut self) -> Option<u64> {
        let (value, rest) = varint::read(self.0)?;
        self.0 = rest;
        Some(value)
    }

    #[inline]
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = varint::read(self.0)?;
        let (string, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(string)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    #[inline]
    fn entry(&mut self, kind: BlockKind) -> Option<Entry<'a>> {
        let key = self.string()?;
        let mut entry = Entry {
            key,
            ..Entry::default()
        };
        match kind {
            BlockKind::Values => entry.value = self.string()?,
            BlockKind::MapEntries => (entry.field, entry.value) = (self.string()?, self.string()?),
            BlockKind::RemovedFields => entry.field = self.string()?,
            BlockKind::ListElements => {
                entry.starts = match self.byte()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                entry.count = self.varint()?;
                entry.elements = *self;
                for _ in 0..entry.count {
                    self.string()?;
                }
            }
            _ => {}
        }
        Some(entry)
    }
}

impl<'a> BlockReader<'a> {
    /// Reads and checks what comes before the first block.
    pub(super) fn new(from: &'a mut dyn io::Read) -> Result<Self, RestoreError> {
        let mut reader = Self {
            from,
            offset: 0,
            block: 0,
            number: 0,
            entries: 0,
            payload: Vec::new(),
            taken: 0,
        };
        let mut start = [0; 12];
        reader.read(&mut start)?;
        if start[..8] != MAGIC {
            return Err(reader.corrupt("this is not a state segment"));
        }
        let version = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
        if version != VERSION {
            return Err(reader.corrupt(&format!("segment format version {version} is not known")));
        }
        Ok(reader)
    }

    /// An error in the block that was read last.
    pub(super) fn corrupt(&self, what: &str) -> RestoreError {
        RestoreError::Corrupt {
            what: what.to_owned(),
            offset: self.block,
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), RestoreError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.from.read(rest) {
                Ok(0) => {
                    let what = "the segment is truncated".to_owned();
                    return Err(RestoreError::Corrupt {
                        what,
                        offset: self.offset,
                    });
                }
                Ok(count) => {
                    self.offset += count as u64;
                    rest = &mut rest[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Appends the payload of the next block.
    fn read_payload(&mut self) -> Result<(), RestoreError> {
        self.block = self.offset;
        let mut frame = [0; FRAME];
        self.read(&mut frame)?;
        let [len, expected] = [0, 4]
            .map(|at| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]));
        let len = len as usize;
        if len == 0 || len > BLOCK_MAX {
            return Err(self.corrupt(&format!("a block of {len} bytes")));
        }
        let start = self.payload.len();
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(start + len, 0);
        self.read(&mut payload[start..])?;
        if checksum(self.number, &payload[start..]) != expected {
            return Err(self.corrupt("a block does not match its checksum"));
        }
        self.payload = payload;
        self.number = self
            .number
            .checked_add(1)
            .ok_or_else(|| self.corrupt("too many blocks"))?;
        Ok(())
    }

    /// The next block; `None` at the end of a whole segment.
    pub(super) fn next(&mut self) -> Result<Option<Block>, RestoreError> {
        let first = self.number == 0;
        self.payload.clear();
        self.taken = 0;
        self.read_payload()?;
        let mut cursor = Cursor(&self.payload);
        let kind = cursor.byte().and_then(BlockKind::from_byte);
        let block = match kind {
            Some(kind @ BlockKind::Header) if first => Some(Block {
                kind,
                state: 0,
                count: 0,
            }),
            Some(BlockKind::End) if !first => {
                let totals = cursor.u64().zip(cursor.u64());
                if totals != Some((self.entries, u64::from(self.number))) || !cursor.0.is_empty() {
                    return Err(
                        self.corrupt("the totals at the end of the segment do not match it")
                    );
                }
                self.check_nothing_follows()?;
                return Ok(None);
            }
            None | Some(BlockKind::Header | BlockKind::Continuation | BlockKind::End) => None,
            Some(kind) if !first => {
                let numbers = cursor.u32().zip(cursor.u32());
                numbers.map(|(state, count)| Block { kind, state, count })
            }
            Some(_) => None,
        };
        let block = block.ok_or_else(|| self.corrupt("a block that is not allowed here"))?;
        self.taken = self.payload.len() - cursor.0.len();
        self.entries += u64::from(block.count);
        Ok(Some(block))
    }

    fn check_nothing_follows(&mut self) -> Result<(), RestoreError> {
        loop {
            match self.from.read(&mut [0]) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(self.corrupt("bytes follow the end of the segment")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads continuations until `is_whole` accepts what is left of the block.
    pub(super) fn complete(
        &mut self,
        is_whole: impl Fn(Cursor<'_>) -> bool,
    ) -> Result<(), RestoreError> {
        while !is_whole(Cursor(&self.payload[self.taken..])) {
            let start = self.payload.len();
            self.read_payload()?;
            if self.payload[start] != BlockKind::Continuation as u8 {
                return Err(self.corrupt("an entry is cut short before this block"));
            }
            self.payload.remove(start);
        }
        Ok(())
    }

    /// All that is left of the block.
    pub(super) fn rest(&mut self) -> Cursor<'_> {
        let rest = Cursor(&self.payload[self.taken..]);
        self.taken = self.payload.len();
        rest
    }

    /// The entries of `block`.
    pub(super) fn entries(&mut self, block: Block) -> Result<Entries<'_>, RestoreError> {
        // One that is continued is alone in its block.
        if block.count == 1 {
            self.complete(|mut cursor| cursor.entry(block.kind).is_some())?;
        }
        let offset = self.block;
        let Block { kind, count, .. } = block;
        Ok(Entries {
            cursor: self.rest(),
            kind,
            left: count,
            offset,
        })
    }
}

impl<'a> Entries<'a> {
    /// The error that a key is in a segment of other key groups.
    #[cold]
    pub(super) fn misplaced(&self, group: u32, range: KeyGroupRange) -> RestoreError {
        let KeyGroupRange { start, end } = range;
        RestoreError::Corrupt {
            what: format!("a key of key group {group} in a segment of {start}..{end},"),
            offset: self.offset,
        }
    }

    /// The error that an entry is not what it has to be, or was here before.
    #[cold]
    pub(super) fn corrupt(&self, what: &'static str) -> RestoreError {
        RestoreError::Corrupt {
            what: what.into(),
            offset: self.offset,
        }
    }

    /// Reads up to `count` entries; none at the end of a block that has as many as it says.
    pub(super) fn read(
        &mut self,
        count: usize,
        to: &mut Vec<Entry<'a>>,
    ) -> Result<(), RestoreError> {
        let corrupt = |what: &str| {
            Err(RestoreError::Corrupt {
                what: what.to_owned(),
                offset: self.offset,
            })
        };
        to.clear();
        while self.left > 0 && to.len() < count {
            let Some(entry) = self.cursor.entry(self.kind) else {
                return corrupt("an entry is cut short or malformed");
            };
            to.push(entry);
            self.left -= 1;
        }
        if to.is_empty() && !self.cursor.0.is_empty() {
            return corrupt("a block has more than its entries");
        }
        Ok(())
    }
}
