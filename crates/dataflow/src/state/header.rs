//! What a segment says about itself, and whether that is what it is said to be.
//!
//! A segment is found by what a checkpoint's metadata says of it. Both are under checksums, but nothing
//! keeps them from contradicting each other: a checkpoint may have been put together by hand, or by a
//! program with an error. State that belongs elsewhere must not be restored, nor be dropped in silence
//! because it does not belong where it was found.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;

use super::codec::{self, Block, BlockKind, BlockReader, Cursor};
use super::timers::is_timer;
use super::ttl::{TOO_SHORT, has_expiries};
use super::{RestoreError, StateKind, Times, TtlTime};
use crate::element::CheckpointId;
use crate::key::{self, KeyGroupRange, KeyGroups};

pub(super) const KEY_TWICE: &str = "a key comes twice, in this block or before it,";
pub(super) const NO_TIMER: &str = "an entry of timers that is none";
pub(super) const FIELD_TWICE: &str =
    "a field of a key's map comes twice, in this block or before it,";

/// How many entries are decoded at a time.
const AT_ONCE: usize = 256;

/// Of how many keys of a state it is remembered which they were, to find one that comes twice. They
/// take 128 MiB.
const REMEMBERED_MAX: usize = if cfg!(test) { 100 } else { 8 << 20 };

/// What a checkpoint's metadata says of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The checkpoint that wrote it.
    pub checkpoint: CheckpointId,
    /// The checkpoint that wrote the segment before it; `None` if it is the first of its subtask.
    pub after: Option<CheckpointId>,
    /// Whether it is a delta.
    pub delta: bool,
    /// Key groups of the job.
    pub key_groups: KeyGroups,
    /// Those of the subtask that wrote it.
    pub range: KeyGroupRange,
    /// The states that it may have.
    pub states: Vec<OriginState>,
    /// How many bytes it has, decompressed.
    pub bytes: u64,
    /// When the checkpoint was taken that is restored. What had expired then is left out.
    pub taken: Times,
}

/// What a checkpoint's metadata says of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginState {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub kind: StateKind,
    /// The clock by which its entries expire; `None`: they do not.
    pub expires_by: Option<TtlTime>,
}

/// What a segment says about itself.
pub(super) struct Header {
    pub(super) full: bool,
    checkpoint: u64,
    base: u64,
    pub(super) key_groups: KeyGroups,
    /// Key groups of the subtask that wrote it.
    pub(super) range: KeyGroupRange,
    pub(super) states: Vec<HeaderState>,
}

/// A state in a [`Header`].
pub(super) struct HeaderState {
    pub(super) name: String,
    pub(super) kind: StateKind,
    /// The clock by which its entries expire, each value after its expiry; `None`: they do not.
    pub(super) expires_by: Option<TtlTime>,
    /// About how many entries follow.
    pub(super) entries: u64,
}

/// A header as it is stored.
struct Raw<'a> {
    delta: u8,
    checkpoint: u64,
    base: u64,
    key_groups: u32,
    range: KeyGroupRange,
    hash: &'a [u8],
    /// Name, kind, entries.
    states: Vec<(&'a [u8], u8, u64)>,
    /// Bytes after it.
    left: usize,
}

/// `None` if the bytes end too early.
fn parse<'a>(cursor: &mut Cursor<'a>) -> Option<Raw<'a>> {
    let delta = cursor.byte()?;
    let (checkpoint, base) = (cursor.u64()?, cursor.u64()?);
    let key_groups = cursor.u32()?;
    let (start, end) = (cursor.u32()?, cursor.u32()?);
    let hash = cursor.string()?;
    let count = cursor.varint()?;
    let mut states = Vec::new();
    for _ in 0..count {
        states.push((cursor.string()?, cursor.byte()?, cursor.varint()?));
    }
    Some(Raw {
        delta,
        checkpoint,
        base,
        key_groups,
        range: KeyGroupRange { start, end },
        hash,
        states,
        left: cursor.0.len(),
    })
}

impl Header {
    /// Reads the first block.
    pub(super) fn read(reader: &mut BlockReader<'_>) -> Result<Self, RestoreError> {
        match reader.next()? {
            Some(Block {
                kind: BlockKind::Header,
                ..
            }) => {}
            _ => return Err(reader.corrupt("the segment has no header")),
        }
        reader.complete(|mut cursor| parse(&mut cursor).is_some())?;
        let header = parse(&mut reader.rest())
            .ok_or("the header is cut short".to_owned())
            .and_then(Self::new);
        header.map_err(|what| reader.corrupt(&what))
    }

    fn new(raw: Raw<'_>) -> Result<Self, String> {
        if raw.left > 0 {
            return Err("bytes follow the header in its block".to_owned());
        }
        if raw.hash != key::KEY_HASH_NAME.as_bytes() {
            return Err(format!(
                "the segment deals keys by `{}`",
                String::from_utf8_lossy(raw.hash)
            ));
        }
        let key_groups = KeyGroups::new(raw.key_groups)
            .ok_or_else(|| format!("the segment claims to have {} key groups", raw.key_groups))?;
        let KeyGroupRange { start, end } = raw.range;
        if start >= end || end > key_groups.count() {
            return Err(format!(
                "the segment claims to have key groups {start}..{end} of {key_groups}"
            ));
        }
        if raw.delta > 1 {
            return Err(format!("there is no form {} of a segment", raw.delta));
        }
        let mut states = Vec::with_capacity(raw.states.len());
        let mut names = HashSet::new();
        for (name, kind, entries) in raw.states {
            // Names are compared only, so that what is not UTF-8 is just a name that nobody declares.
            let name = String::from_utf8_lossy(name).into_owned();
            let (kind, expires_by) = codec::state_from_byte(kind)
                .ok_or_else(|| format!("state `{name}` is of no known kind"))?;
            if !names.insert(name.clone()) {
                return Err(format!("the header has state `{name}` twice"));
            }
            states.push(HeaderState {
                name,
                kind,
                expires_by,
                entries,
            });
        }
        Ok(Self {
            full: raw.delta == 0,
            checkpoint: raw.checkpoint,
            base: raw.base,
            key_groups,
            range: raw.range,
            states,
        })
    }

    /// What its blocks have to be like.
    pub(super) fn blocks(&self) -> Blocks {
        let states = self.states.iter().map(|state| (state.kind, false));
        Blocks {
            full: self.full,
            states: states.collect(),
        }
    }
}

impl Origin {
    /// What the header contradicts.
    pub(super) fn check(&self, header: &Header) -> Result<(), String> {
        let form = |delta| if delta { "a delta" } else { "full" };
        if header.full == self.delta {
            return Err(format!(
                "the segment is {}, where {} one is expected",
                form(!header.full),
                if self.delta { "a delta" } else { "a full" },
            ));
        }
        if header.checkpoint != self.checkpoint.0 {
            return Err(format!(
                "the segment was written by checkpoint {}, not {}",
                header.checkpoint, self.checkpoint
            ));
        }
        let base_fits = match self.delta {
            true => {
                let after = self.after.map_or(0, |after| after.0);
                header.base >= after && header.base < header.checkpoint
            }
            false => header.base == 0,
        };
        if !base_fits {
            return Err(format!(
                "the segment of checkpoint {} does not build on what comes before it, but on {}",
                header.checkpoint, header.base
            ));
        }
        if header.key_groups != self.key_groups {
            return Err(format!(
                "the segment has {} key groups, {} are expected",
                header.key_groups, self.key_groups
            ));
        }
        if header.range != self.range {
            let [was, expected] = [header.range, self.range].map(|it| (it.start, it.end));
            return Err(format!(
                "the segment has key groups {}..{}, those of its subtask are {}..{}",
                was.0, was.1, expected.0, expected.1
            ));
        }
        for state in &header.states {
            let said = self.states.iter().find(|said| said.name == state.name);
            match said {
                Some(said) if said.kind != state.kind => {
                    return Err(format!(
                        "state `{}` is a {:?} state in the segment and a {:?} state in the metadata",
                        state.name, state.kind, said.kind
                    ));
                }
                Some(said) if said.expires_by != state.expires_by => {
                    let by = |time| match time {
                        None => "do not expire",
                        Some(TtlTime::Processing) => "expire by the clock",
                        Some(TtlTime::Event) => "expire by the watermark",
                    };
                    return Err(format!(
                        "entries of state `{}` {} in the segment and {} in the metadata",
                        state.name,
                        by(state.expires_by),
                        by(said.expires_by)
                    ));
                }
                Some(_) => {}
                None => {
                    return Err(format!(
                        "the metadata has no state `{}`, which the segment has",
                        state.name
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What the blocks of a segment have to be like, and which came.
pub(super) struct Blocks {
    full: bool,
    /// Kind of each state, and whether it has had entries.
    states: Vec<(StateKind, bool)>,
}

impl Blocks {
    /// Takes the next block; otherwise why it cannot follow.
    pub(super) fn admit(&mut self, block: Block) -> Result<(), &'static str> {
        let Some((state, has_entries)) = self.states.get_mut(block.state as usize) else {
            return Err("a block of a state that the header does not have");
        };
        let removes = matches!(
            block.kind,
            BlockKind::RemovedKeys | BlockKind::RemovedFields
        );
        let fits = match block.kind {
            BlockKind::Values => *state == StateKind::Value,
            BlockKind::MapEntries | BlockKind::RemovedFields => {
                matches!(*state, StateKind::Map | StateKind::Timers)
            }
            BlockKind::ListElements => *state == StateKind::List,
            _ => true,
        };
        if !fits {
            return Err("a block of another kind than its state");
        }
        if removes && self.full {
            return Err("a full segment removes something");
        }
        if removes && *has_entries {
            return Err("a state has removals after its entries");
        }
        *has_entries |= !removes;
        Ok(())
    }
}

/// Decodes a segment to its end, and compares it with what is said of it. Finds all that
/// [`super::KeyedState::restore_as`] would, in little memory: nothing is kept but a hash of each key
/// (and field) of a full segment, one state at a time, to find one that comes twice (of states with more
/// than 8,388,608 entries only a restore finds it).
///
/// # Errors
/// [`RestoreError::Corrupt`] if it is not what was written, or not what is said;
/// [`RestoreError::Io`] if it cannot be read.
pub fn check_segment(segment: &mut dyn io::Read, origin: &Origin) -> Result<(), RestoreError> {
    let mut reader = BlockReader::new(segment)?;
    let header = Header::read(&mut reader)?;
    origin
        .check(&header)
        .map_err(|what| reader.corrupt(&what))?;
    let mut blocks = header.blocks();
    let mut seen = Seen::new();
    while let Some(block) = reader.next()? {
        blocks.admit(block).map_err(|what| reader.corrupt(what))?;
        let once = header.full && matches!(block.kind, BlockKind::Values | BlockKind::MapEntries);
        if once && let Some(twice) = seen.begin(block) {
            return Err(reader.corrupt(twice));
        }
        let timers = is_timers(&header, block);
        let expire = header.states[block.state as usize].expires_by.is_some();
        let mut entries = reader.entries(block)?;
        let mut some = Vec::with_capacity(AT_ONCE);
        loop {
            entries.read(AT_ONCE, &mut some)?;
            if some.is_empty() {
                break;
            }
            for entry in &some {
                let hash = key::hash(entry.key);
                let group = header.key_groups.group_of(hash);
                if !header.range.contains(group) {
                    return Err(entries.misplaced(group, header.range));
                }
                if timers && !is_timer(entry.field, entry.value) {
                    return Err(entries.corrupt(NO_TIMER));
                }
                if once {
                    seen.push(hash, (entry.key, entry.field));
                }
                if expire && !has_expiries(block.kind, entry) {
                    return Err(entries.corrupt(TOO_SHORT));
                }
            }
        }
    }
    match seen.twice() {
        None => Ok(()),
        Some(twice) => Err(reader.corrupt(twice)),
    }
}

/// Whether the entries of a block are timers, or removals of some.
pub(super) fn is_timers(header: &Header, block: Block) -> bool {
    let state = header.states.get(block.state as usize);
    let fields = matches!(block.kind, BlockKind::MapEntries | BlockKind::RemovedFields);
    fields && state.is_some_and(|state| state.kind == StateKind::Timers)
}

/// The keys of a value state, or the keys and fields of a map state.
struct Seen {
    state: u32,
    kind: BlockKind,
    /// Two hashes of each; the second one cannot be foreseen, so that keys with one hash are not taken
    /// for one key.
    entries: Vec<(u64, u64)>,
    second: RandomState,
    too_many: bool,
}

impl Seen {
    fn new() -> Self {
        Self {
            state: 0,
            kind: BlockKind::Values,
            entries: Vec::new(),
            second: RandomState::new(),
            too_many: false,
        }
    }

    /// Entries of this block's state follow. Returns what comes twice of the state before, if it is
    /// another.
    fn begin(&mut self, block: Block) -> Option<&'static str> {
        if block.state == self.state && block.kind == self.kind {
            return None;
        }
        let twice = self.twice();
        (self.state, self.kind) = (block.state, block.kind);
        self.entries.clear();
        self.too_many = false;
        twice
    }

    fn push(&mut self, hash: u64, entry: (&[u8], &[u8])) {
        self.too_many |= self.entries.len() == REMEMBERED_MAX;
        if self.too_many {
            self.entries.clear();
        } else {
            self.entries.push((hash, self.second.hash_one(entry)));
        }
    }

    fn twice(&mut self) -> Option<&'static str> {
        self.entries.sort_unstable();
        let distinct = self.entries.windows(2).all(|pair| pair[0] != pair[1]);
        (!distinct).then_some(match self.kind {
            BlockKind::MapEntries => FIELD_TWICE,
            _ => KEY_TWICE,
        })
    }
}

#[cfg(test)]
mod tests;
