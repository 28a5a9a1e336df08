//! A completed checkpoint, and how its state is read.
//!
//! Metadata is verified when a checkpoint is opened, state while it is read: a reader that has seen
//! the last byte of a segment knows that all of them are what was written.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use dataflow::operator_state::{Author, Pieces, Scope};
use dataflow::state::{Origin, OriginState, Times};
use dataflow::watermark::NO_WATERMARK;
use dataflow::{CheckpointId, KeyGroups};

use crate::compression::Decoder;
use crate::metadata::{
    self, Compressed, METADATA_BYTES_MAX, Metadata, Operator, Segment, kind_of, scope_of,
};
use crate::names;
use crate::storage::{Reading, Storage};
use crate::{Error, Result};

/// Bytes that a reader asks of the storage at once.
const CHUNK_BYTES: u64 = 4 << 20;

/// How many reads are under way while what came before them is looked at. With that they are what a
/// reader holds: 16 MiB. From an object storage one read at a time would be slower than its network.
const READS_AHEAD: usize = 3;

/// A completed checkpoint or savepoint: its metadata and how to read its state. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Completed(Arc<Contents>);

#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) storage: Arc<dyn Storage>,
    /// The directory that holds `_metadata`.
    pub(crate) directory: String,
    pub(crate) metadata: Metadata,
    pub(crate) inline: Bytes,
    pub(crate) metadata_bytes: u64,
    pub(crate) bytes_written: u64,
    /// Whether it has a path that outlives this process.
    pub(crate) lasting: bool,
    /// How a job sees it that has changed.
    pub(crate) changes: Changes,
}

/// How a job that has changed sees a checkpoint: operators under other ids, and without some of their states.
/// Nothing that is stored changes by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ids of sources, operators and sinks in the checkpoint, each with the one that it has in the job.
    pub renamed: Vec<(String, String)>,
    /// States that are dropped: the id of the operator in the checkpoint, and the name of the state.
    pub dropped: Vec<(String, String)>,
}

impl Changes {
    /// Whether everything stays as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.renamed.is_empty() && self.dropped.is_empty()
    }

    /// The id in the job of what has this one in the checkpoint.
    #[must_use]
    pub fn id_of<'a>(&'a self, old: &'a str) -> &'a str {
        let mut renamed = self.renamed.iter();
        renamed
            .find(|(from, _)| from == old)
            .map_or(old, |(_, to)| to)
    }

    /// The id in the checkpoint of what has this one in the job.
    #[must_use]
    pub fn old_id_of<'a>(&'a self, id: &'a str) -> &'a str {
        let mut renamed = self.renamed.iter();
        renamed
            .find(|(_, to)| to == id)
            .map_or(id, |(from, _)| from)
    }
}

impl Completed {
    pub(crate) fn new(contents: Contents) -> Self {
        Self(Arc::new(contents))
    }

    /// Makes sure that it is still there after a power loss, to be called before anything is built on
    /// it. A run that was killed after `_metadata` had got its name may not have flushed that name.
    ///
    /// # Errors
    /// [`Error::Storage`] if it cannot be made sure of.
    pub fn settle(&self) -> Result<()> {
        self.0.storage.settle(&self.0.directory)
    }

    /// Reads and verifies the metadata in `directory`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, [`Error::Corrupt`] if it is damaged, contradicts itself or
    /// is that of another checkpoint, [`Error::Incompatible`] if a later format wrote it.
    pub fn open(storage: Arc<dyn Storage>, directory: &str) -> Result<Self> {
        let name = names::metadata(directory);
        let object = storage.location(&name);
        let bytes = read_metadata(&*storage, &name, &object)?;
        if metadata::is_void(&bytes) {
            return Err(Error::NotFound(format!(
                "{object} is void: the checkpoint never completed"
            )));
        }
        let (metadata, inline) = metadata::decode(&bytes, &object)?;
        check_place(&metadata, directory).map_err(|what| Error::Corrupt { object, what })?;
        Ok(Self::new(Contents {
            storage,
            directory: directory.to_owned(),
            metadata,
            inline,
            metadata_bytes: bytes.len() as u64,
            bytes_written: bytes.len() as u64,
            lasting: true,
            changes: Changes::default(),
        }))
    }

    /// The same checkpoint, as a job sees it that has changed. Its operators have the ids that they have in the job.
    #[must_use]
    pub fn changed(&self, changes: Changes) -> Self {
        if changes.is_empty() {
            return self.clone();
        }
        let contents = &*self.0;
        let mut metadata = contents.metadata.clone();
        for operator in &mut metadata.operators {
            operator.id = changes.id_of(&operator.id).to_owned();
        }
        Self::new(Contents {
            storage: Arc::clone(&contents.storage),
            directory: contents.directory.clone(),
            metadata,
            inline: contents.inline.clone(),
            changes,
            ..*contents
        })
    }

    /// How it is seen by a job that has changed.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    /// Whether a state of an operator, by its id in the job, is dropped.
    #[must_use]
    pub fn drops(&self, operator: &str, state: &str) -> bool {
        let old = self.0.changes.old_id_of(operator);
        let mut dropped = self.0.changes.dropped.iter();
        dropped.any(|(of, name)| of == old && name == state)
    }

    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// The path or URL of `_metadata`, to be passed to `-s`; `None` in memory.
    #[must_use]
    pub fn path(&self) -> Option<String> {
        self.0.lasting.then(|| self.metadata_location())
    }

    /// Bytes that were written for this checkpoint, `_metadata` included. Of a checkpoint that was
    /// opened rather than taken, only the size of `_metadata` is known.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.0.bytes_written
    }

    /// The size of `_metadata`, inline segments included.
    #[must_use]
    pub fn metadata_bytes(&self) -> u64 {
        self.0.metadata_bytes
    }

    /// The operator with this id.
    #[must_use]
    pub fn operator(&self, id: &str) -> Option<&Operator> {
        self.0
            .metadata
            .operators
            .iter()
            .find(|operator| operator.id == id)
    }

    /// All segments and operator states, with their operator and subtask, in the order of the metadata.
    pub fn segments(&self) -> impl Iterator<Item = (&Operator, u32, &Segment)> {
        self.0.metadata.operators.iter().flat_map(|operator| {
            operator
                .subtasks
                .iter()
                .zip(0..)
                .flat_map(move |(subtask, index)| {
                    subtask
                        .stored()
                        .map(move |segment| (operator, index, segment))
                })
        })
    }

    /// The number of key groups of its job.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is no such number of them.
    pub fn key_groups(&self) -> Result<KeyGroups> {
        let count = self.0.metadata.key_groups;
        KeyGroups::new(count)
            .ok_or_else(|| self.corrupt(format!("it claims to have {count} key groups")))
    }

    /// The segments of a subtask in order, each with what it has to say of itself.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the operator has no such subtask, key groups or states.
    pub fn keyed<'a>(
        &self,
        operator: &'a Operator,
        subtask: u32,
    ) -> Result<Vec<(&'a Segment, Origin)>> {
        let key_groups = self.key_groups()?;
        let id = &operator.id;
        let parallelism = u32::try_from(operator.subtasks.len()).unwrap_or(u32::MAX);
        let found = operator
            .subtasks
            .get(subtask as usize)
            .ok_or_else(|| self.corrupt(format!("operator `{id}` has no subtask {subtask}")))?;
        let states: Option<Vec<_>> = operator
            .states
            .iter()
            .map(|state| {
                Some(OriginState {
                    name: state.name.clone(),
                    kind: kind_of(&state.kind)?,
                    expires_by: state.ttl().map(|ttl| ttl.time),
                })
            })
            .collect();
        let states = states
            .ok_or_else(|| self.corrupt(format!("operator `{id}` has states of no known kind")))?;
        let mut after = None;
        let segments = found.segments.iter().map(|segment| {
            let checkpoint = CheckpointId(segment.written_by);
            let origin = Origin {
                checkpoint,
                after: after.replace(checkpoint),
                delta: segment.delta,
                key_groups,
                range: key_groups.range_of(subtask, parallelism),
                states: states.clone(),
                bytes: segment
                    .compressed
                    .map_or(segment.length, |it| it.raw_length),
                taken: Times {
                    processing: self.metadata().completed_at(),
                    watermark: found.event_time().unwrap_or(NO_WATERMARK),
                },
            };
            (segment, origin)
        });
        Ok(segments.collect())
    }

    /// The operator state of all subtasks of an operator; `None` if it has none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not what was written, or of states that the metadata does not have,
    /// [`Error::Storage`] if it cannot be read.
    pub fn operator_state(&self, operator: &Operator) -> Result<Option<Pieces>> {
        if operator.operator_states.is_empty() {
            return Ok(None);
        }
        let mut pieces = Pieces::default();
        for subtask in (0..).take(operator.subtasks.len()) {
            self.subtask_operator_state(operator, subtask, &mut pieces)?;
        }
        Ok(Some(pieces))
    }

    /// Reads the operator state of one subtask and adds it to `pieces`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not what was written, or of states that the metadata does not have,
    /// [`Error::Storage`] if it cannot be read.
    pub(crate) fn subtask_operator_state(
        &self,
        operator: &Operator,
        subtask: u32,
        pieces: &mut Pieces,
    ) -> Result<()> {
        let id = &operator.id;
        let found = operator
            .subtasks
            .get(subtask as usize)
            .ok_or_else(|| self.corrupt(format!("operator `{id}` has no subtask {subtask}")))?;
        let Some(stored) = &found.operator_state else {
            pieces.push_none();
            return Ok(());
        };
        let corrupt = |what: String| Error::Corrupt {
            object: self.segment_location(stored),
            what: format!("{what}, in the operator state at byte {}", stored.offset),
        };
        let mut bytes = Vec::new();
        let mut reader = self.read(stored)?;
        // It grows with the bytes that come, which no claimed length replaces.
        if let Err(error) = reader.read_to_end(&mut bytes) {
            return Err(match error.downcast::<Error>() {
                Ok(error) => error,
                Err(source) => Error::Storage {
                    action: "reading",
                    object: self.segment_location(stored),
                    source: source.into(),
                },
            });
        }
        let author = Author {
            checkpoint: CheckpointId(stored.written_by),
            subtask,
            parallelism: operator.parallelism,
        };
        pieces
            .push(&bytes, author)
            .map_err(|error| corrupt(error.0))?;
        let declared = |name: &str, scope: Scope| {
            let mut states = operator.operator_states.iter();
            states.any(|state| state.name == name && scope_of(&state.kind) == Some(scope))
        };
        let states = pieces.states();
        match states.iter().find(|(name, scope)| !declared(name, *scope)) {
            None => Ok(()),
            Some((name, scope)) => Err(corrupt(format!(
                "it has state `{}` of scope `{}`, which the metadata does not declare",
                name.escape_debug(),
                scope.name()
            ))),
        }
    }

    fn corrupt(&self, what: String) -> Error {
        Error::Corrupt {
            object: self.metadata_location(),
            what,
        }
    }

    /// Reads one segment, checking length and checksum: an error of kind
    /// [`io::ErrorKind::InvalidData`] that wraps [`Error::Corrupt`] when they are not what was
    /// written, of another kind that wraps [`Error::Storage`] when it could not be read. The check is
    /// done before the last bytes are handed out; what is compressed is checked block by block, each
    /// before it is decompressed. Streams, reading ahead of what is asked for; memory is bounded.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the segment cannot be where it is said to be.
    pub fn read(&self, segment: &Segment) -> Result<Box<dyn Read + Send>> {
        let source = match &segment.file {
            None => Source::Inline(self.inline_range(segment)?),
            Some(file) => Source::File {
                storage: Arc::clone(&self.0.storage),
                name: self.resolve(file)?,
            },
        };
        let object = self.segment_location(segment);
        let stored = SegmentReader {
            object: object.clone(),
            source,
            range: segment.offset..segment.offset.saturating_add(segment.length),
            next: segment.offset,
            ahead: VecDeque::new(),
            chunk: Bytes::new(),
            checksum: 0,
            expected: segment.crc32c,
            finished: false,
        };
        let Some(Compressed { codec, raw_length }) = segment.compressed else {
            return Ok(Box::new(stored));
        };
        match Decoder::new(stored, codec, raw_length, object.clone(), segment.offset) {
            Ok(decoder) => Ok(Box::new(decoder)),
            Err(source) => Err(Error::Storage {
                action: "decompressing",
                object,
                source: source.into(),
            }),
        }
    }

    /// The names of the data files that it references.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        self.segments()
            .filter_map(|(_, _, segment)| segment.file.as_deref())
            .filter_map(|file| names::resolve(&self.0.directory, file).ok())
            .collect()
    }

    pub(crate) fn contents(&self) -> &Contents {
        &self.0
    }

    /// The bytes of an inline segment.
    pub(crate) fn inline_range(&self, segment: &Segment) -> Result<Bytes> {
        let start = usize::try_from(segment.offset).ok();
        let length = usize::try_from(segment.length).ok();
        let end = start
            .zip(length)
            .and_then(|(start, length)| start.checked_add(length));
        match start.zip(end) {
            Some((start, end)) if end <= self.0.inline.len() => Ok(self.0.inline.slice(start..end)),
            _ => Err(Error::Corrupt {
                object: self.metadata_location(),
                what: format!(
                    "a segment has {} bytes from inline byte {}, there are {}",
                    segment.length,
                    segment.offset,
                    self.0.inline.len()
                ),
            }),
        }
    }

    pub(crate) fn metadata_location(&self) -> String {
        self.0.storage.location(&names::metadata(&self.0.directory))
    }

    /// The object that a segment is in, as the user would name it.
    pub(crate) fn segment_location(&self, segment: &Segment) -> String {
        match &segment.file {
            None => format!("{} (inline)", self.metadata_location()),
            Some(file) => match names::resolve(&self.0.directory, file) {
                Ok(name) => self.0.storage.location(&name),
                Err(_) => file.clone(),
            },
        }
    }

    /// The name of the data file that a segment references.
    pub(crate) fn resolve(&self, file: &str) -> Result<String> {
        names::resolve(&self.0.directory, file)
            .map_err(|what| self.corrupt(format!("it references file `{file}`: {what}")))
    }
}

/// Whether metadata can be that of the checkpoint in this directory. A directory with a name of its own
/// has no number that could be another.
fn check_place(metadata: &Metadata, directory: &str) -> Result<(), String> {
    let id = metadata.id;
    if names::checkpoint_id(names::leaf(directory)).is_some_and(|number| number != id) {
        return Err(format!("it is the metadata of checkpoint {id}"));
    }
    let subtasks = metadata.operators.iter().flat_map(|it| &it.subtasks);
    let mut files = subtasks
        .flat_map(metadata::Subtask::stored)
        .filter_map(|it| it.file.as_deref());
    files.try_for_each(|file| match names::resolve(directory, file) {
        Ok(_) => Ok(()),
        Err(what) => Err(format!("it references file `{file}`: {what}")),
    })
}

fn read_metadata(storage: &dyn Storage, name: &str, object: &str) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    loop {
        let at = whole.len() as u64;
        let chunk = storage.read(name, at..at + CHUNK_BYTES)?;
        whole.extend_from_slice(&chunk);
        if (chunk.len() as u64) < CHUNK_BYTES {
            return Ok(whole.freeze());
        }
        // Not all of some huge file that is called `_metadata` by accident.
        if !metadata::begins_like_metadata(&whole) || whole.len() as u64 > METADATA_BYTES_MAX {
            return Err(Error::Corrupt {
                object: object.to_owned(),
                what: format!(
                    "it is not checkpoint metadata, or has more than {METADATA_BYTES_MAX} bytes"
                ),
            });
        }
    }
}

enum Source {
    Inline(Bytes),
    File {
        storage: Arc<dyn Storage>,
        name: String,
    },
}

struct SegmentReader {
    object: String,
    source: Source,
    range: Range<u64>,
    /// Where the next chunk begins.
    next: u64,
    /// The reads of the chunks from there on, as far as they were begun.
    ahead: VecDeque<Reading>,
    chunk: Bytes,
    checksum: u32,
    expected: u32,
    /// Whether the checksum was found right.
    finished: bool,
}

impl SegmentReader {
    fn corrupt(&self, what: String) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            Error::Corrupt {
                object: self.object.clone(),
                what,
            },
        )
    }

    /// The chunk that begins at `start`.
    fn chunk_at(&self, start: u64) -> Range<u64> {
        start..self.range.end.min(start.saturating_add(CHUNK_BYTES))
    }

    fn fetch(&mut self) -> io::Result<Bytes> {
        let (storage, name) = match &self.source {
            Source::Inline(bytes) => return Ok(bytes.clone()),
            Source::File { storage, name } => (Arc::clone(storage), name.clone()),
        };
        let expected = self.chunk_at(self.next);
        let chunk = match self.read_ahead(&*storage, &name) {
            Ok(Some(reading)) => reading.wait(),
            Ok(None) => storage.read(&name, expected.clone()),
            Err(error) => Err(error),
        };
        let chunk = chunk.map_err(|error| match error {
            Error::NotFound(_) => self.corrupt("the file is missing".to_owned()),
            error => io::Error::other(error),
        })?;
        if (chunk.len() as u64) < expected.end - expected.start {
            return Err(self.corrupt(format!(
                "the file ends at byte {}, bytes {}..{} are expected",
                expected.start + chunk.len() as u64,
                self.range.start,
                self.range.end
            )));
        }
        Ok(chunk)
    }

    /// Begins reads as far ahead as it goes. Returns that of the next chunk; `None` if the storage
    /// reads only what is asked for.
    fn read_ahead(&mut self, storage: &dyn Storage, name: &str) -> Result<Option<Reading>> {
        let begun = self.ahead.len() as u64 * CHUNK_BYTES;
        let mut chunk = self.chunk_at(self.next.saturating_add(begun));
        while self.ahead.len() <= READS_AHEAD && !chunk.is_empty() {
            match storage.begin_read(name, chunk.clone())? {
                Some(reading) => self.ahead.push_back(reading),
                None => break,
            }
            chunk = self.chunk_at(chunk.end);
        }
        Ok(self.ahead.pop_front())
    }

    /// Gets the next chunk. With the last one, the checksum is known before any of it is given out.
    fn advance(&mut self) -> io::Result<()> {
        let chunk = match self.next < self.range.end {
            // If it has to be read again, those after it were begun in vain.
            true => self.fetch().inspect_err(|_| self.ahead.clear())?,
            false => Bytes::new(),
        };
        let checksum = crc32c::crc32c_append(self.checksum, &chunk);
        let next = self.next + chunk.len() as u64;
        if next >= self.range.end {
            if checksum != self.expected {
                return Err(self.corrupt(format!(
                    "bytes {}..{} do not match their checksum",
                    self.range.start, self.range.end
                )));
            }
            self.finished = true;
        }
        // Only now, so that a reader that asks again after an error gets it again.
        (self.checksum, self.next, self.chunk) = (checksum, next, chunk);
        Ok(())
    }
}

impl Read for SegmentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.chunk.is_empty() {
            if self.finished {
                return Ok(0);
            }
            self.advance()?;
        }
        let count = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
