//! Whether the files that a position names are still what they were: else records that come after
//! the position would be lost or doubled in silence.
//!
//! A file whose times are the recorded ones was not changed; of one that is being read the last
//! bytes before the position are compared all the same. Where the times differ, everything that was
//! read of the file is read again and its checksum compared, so that a file that was only touched,
//! copied or appended to is no change. What was not read is compared by its length and last bytes.
//!
//! This notices accidents and edits, not forgeries: CRC-32C collides for anyone who wants it to.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use chrono::{DateTime, SecondsFormat};
use formats::blocks::{Blocks, Checksum, TAIL};
use formats::compression::Compression;

use super::inputs::{self, InputFile, Stamp};
use super::position::Position;
use super::split::{self, Done, Split};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// The files that have changed, and how.
    pub(super) changed: Vec<Difference>,
    /// How many files have other times, but nothing else has changed.
    pub(super) touched: usize,
    /// How many files the position does not describe, as versions before did not.
    pub(super) unknown: usize,
}

/// How a file differs.
#[derive(Debug)]
pub(super) struct Difference {
    file: String,
    /// For a person; names the file.
    pub(super) text: String,
    /// It is not there, which may mend itself: a directory may be away for a moment.
    pub(super) is_gone: bool,
}

/// What a position has of one file.
#[derive(Default)]
struct OfFile {
    recorded: Option<InputFile>,
    splits: Vec<Split>,
    done: Vec<Done>,
}

enum Verdict {
    Same,
    Touched,
    Unknown,
    Gone(String),
    Changed(String),
}

/// Compares all files of a position with what they are now. Of those that have not changed the
/// position gets today's times, so that the next comparison need not read them again.
pub(super) fn compare(position: &mut Position, base_dir: &Path) -> Comparison {
    let mut comparison = Comparison::default();
    each_file(position, |name, of_file| {
        match compare_file(name, base_dir, of_file) {
            Verdict::Same => {}
            Verdict::Touched => comparison.touched += 1,
            Verdict::Unknown => comparison.unknown += 1,
            Verdict::Gone(text) => comparison.changed.push(Difference {
                file: name.to_owned(),
                text,
                is_gone: true,
            }),
            Verdict::Changed(text) => comparison.changed.push(Difference {
                file: name.to_owned(),
                text,
                is_gone: false,
            }),
        }
    });
    comparison
}

/// Takes files that have changed as they are now: their splits go on at the same bytes. Returns for
/// each what that means for its records.
pub(super) fn accept(
    position: &mut Position,
    base_dir: &Path,
    changed: &[Difference],
) -> Vec<String> {
    let mut consequences = Vec::new();
    each_file(position, |name, of_file| {
        if let Some(difference) = changed.iter().find(|difference| difference.file == name) {
            let consequence = accept_file(name, base_dir, of_file);
            consequences.push(format!("{}; {consequence}", difference.text));
        }
    });
    consequences
}

fn each_file(position: &mut Position, mut each: impl FnMut(&str, &mut OfFile)) {
    let mut files: BTreeMap<String, OfFile> = BTreeMap::new();
    for split in position.splits.drain(..) {
        let name = split.file.clone();
        files.entry(name).or_default().splits.push(split);
    }
    for done in position.done.drain(..) {
        let name = done.file.clone();
        files.entry(name).or_default().done.push(done);
    }
    for file in position.files.drain(..) {
        let name = file.name.clone();
        files.entry(name).or_default().recorded = Some(file);
    }
    for (name, mut of_file) in files {
        each(&name, &mut of_file);
        position.splits.append(&mut of_file.splits);
        position.done.append(&mut of_file.done);
        position.files.extend(of_file.recorded);
    }
}

fn compare_file(name: &str, base_dir: &Path, of_file: &mut OfFile) -> Verdict {
    let path = base_dir.join(name);
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        // Nothing of it is missing: input that was processed may be removed.
        Err(error) if error.kind() == ErrorKind::NotFound && of_file.splits.is_empty() => {
            return Verdict::Same;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Verdict::Gone(format!("`{name}` is gone"));
        }
        Err(error) => return Verdict::Changed(format!("`{name}` cannot be read: {error}")),
    };
    let (len, stamp) = (metadata.len(), Stamp::of(&metadata));
    let Some(recorded) = &mut of_file.recorded else {
        let end = of_file.splits.iter().filter_map(|split| split.end).max();
        if let Some(end) = end.filter(|end| len < *end) {
            return Verdict::Changed(shorter(name, len, end));
        }
        of_file.recorded = Some(as_it_is(name, &path, len, stamp));
        return Verdict::Unknown;
    };
    if len < recorded.len {
        return Verdict::Changed(shorter(name, len, recorded.len));
    }
    let same_times = stamp == recorded.stamp;
    let found = match same_times {
        true => find_in_tails(name, &path, &of_file.splits),
        false => find_in_all(name, &path, recorded, &of_file.splits, &of_file.done),
    };
    let recorded_len = recorded.len;
    match found {
        Ok(None) if same_times => Verdict::Same,
        Ok(None) => {
            // As it was looked at before it was read: a change meanwhile is noticed next time.
            recorded.stamp = stamp;
            Verdict::Touched
        }
        Ok(Some(what)) => {
            let longer = match len - recorded_len {
                0 => String::new(),
                1 => "1 byte longer, ".to_owned(),
                more => format!("{more} bytes longer, "),
            };
            let time = time(stamp.modified_ns);
            Verdict::Changed(format!("{what} ({longer}modified at {time})"))
        }
        Err(error) => Verdict::Changed(format!(
            "`{name}` cannot be read to where the job had read it: {error}"
        )),
    }
}

/// What a look at a file shows without reading it again.
pub(super) enum Glance {
    /// It is what it was, as far as that shows.
    Same,
    /// Something was appended.
    Grown,
    /// It has changed, and how.
    Changed(String),
}

/// Compares a file that was read, or is about to be, with what it is now, by its length and the last bytes that it had.
pub(super) fn glance(recorded: &InputFile, now: &InputFile, base_dir: &Path) -> Glance {
    if now.len < recorded.len {
        return Glance::Changed(shorter(&now.name, now.len, recorded.len));
    }
    let Some(tail) = recorded.tail else {
        return Glance::Same;
    };
    let opened = inputs::open_file(&base_dir.join(&now.name));
    match opened.and_then(|file| inputs::tail_crc(&file, recorded.len)) {
        Ok(found) if found != tail => Glance::Changed(replaced(recorded, "")),
        Ok(_) if now.len > recorded.len => Glance::Grown,
        // One that is gone, or changes at this moment: the next look shows.
        Ok(_) | Err(_) => Glance::Same,
    }
}

fn replaced(recorded: &InputFile, when: &str) -> String {
    let (name, len) = (&recorded.name, recorded.len);
    let from = len.saturating_sub(TAIL as u64);
    format!(
        "`{name}` was replaced or edited{when}: its bytes {from} to {len} are not what they were when the job first saw it"
    )
}

fn shorter(name: &str, len: u64, had: u64) -> String {
    let bytes = if len == 1 { "byte" } else { "bytes" };
    format!("`{name}` has {len} {bytes}, it had {had}")
}

fn time(ns: i64) -> String {
    DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The bytes right before each position, by one read for each: a change that fell between two ticks
/// of the file system's clock, or that was made while the clock was wrong, may show there.
fn find_in_tails(name: &str, path: &Path, splits: &[Split]) -> io::Result<Option<String>> {
    let mut file = None;
    for split in splits {
        let Some(read) = split.read.filter(|read| read.tail > 0) else {
            continue;
        };
        if file.is_none() {
            file = Some(inputs::open_file(path)?);
        }
        let Some(file) = &file else { continue };
        let mut bytes = [0; TAIL];
        let bytes = &mut bytes[..TAIL.min(read.tail as usize)];
        let from = split.offset.saturating_sub(bytes.len() as u64);
        file.read_exact_at(bytes, from)?;
        if crc32c::crc32c(bytes) != read.tail_crc {
            return Ok(Some(differs(name, from, split.offset)));
        }
    }
    Ok(None)
}

/// Everything that was read, and the end of what was not.
fn find_in_all(
    name: &str,
    path: &Path,
    recorded: &InputFile,
    splits: &[Split],
    done: &[Done],
) -> io::Result<Option<String>> {
    let compression = Compression::of(name);
    for expected in checksums(splits, done) {
        let (from, to) = (expected.from, expected.to);
        if checksum(path, compression, from, to)? != Some(expected) {
            return Ok(Some(differs(name, from, to)));
        }
    }
    let Some(tail) = recorded.tail.filter(|_| !splits.is_empty()) else {
        return Ok(None);
    };
    // A file that was read in part and packed again has another end and the same text.
    let begun = splits.iter().any(Split::is_begun) || !done.is_empty();
    if compression != Compression::None && begun {
        return Ok(None);
    }
    if inputs::tail_crc(&inputs::open_file(path)?, recorded.len)? == tail {
        return Ok(None);
    }
    Ok(Some(replaced(recorded, " before it was read")))
}

fn differs(name: &str, from: u64, to: u64) -> String {
    let text = match Compression::of(name) {
        Compression::None => "",
        Compression::Gzip | Compression::Zstd => "of its text ",
    };
    format!("`{name}`: bytes {from} to {to} {text}were read and are not what they were")
}

/// Of everything that was read, in the order in which it is stored.
fn checksums(splits: &[Split], done: &[Done]) -> Vec<Checksum> {
    let begun = splits.iter().filter_map(checksum_of_split);
    let mut all: Vec<_> = begun
        .chain(done.iter().filter_map(|done| done.read))
        .collect();
    all.sort_by_key(|checksum| checksum.from);
    all
}

fn checksum_of_split(split: &Split) -> Option<Checksum> {
    let read = split.read?;
    Some(Checksum {
        from: read.from,
        to: split.offset,
        crc: read.crc,
    })
}

/// The checksum of some bytes of a file's text; `None` if it ends before.
fn checksum(
    path: &Path,
    compression: Compression,
    from: u64,
    to: u64,
) -> io::Result<Option<Checksum>> {
    let start = match compression {
        Compression::None => from,
        Compression::Gzip | Compression::Zstd => 0,
    };
    let mut blocks = Blocks::new(inputs::open(path, compression, start)?, start, usize::MAX);
    if !blocks.skip_to(from)? {
        return Ok(None);
    }
    blocks.keep_checksum(from, 0);
    if !blocks.skip_to(to)? {
        return Ok(None);
    }
    Ok(blocks.checksum())
}

fn as_it_is(name: &str, path: &Path, len: u64, stamp: Stamp) -> InputFile {
    let tail = inputs::open_file(path).and_then(|file| inputs::tail_crc(&file, len));
    InputFile {
        name: name.to_owned(),
        len,
        stamp,
        tail: tail.ok(),
    }
}

fn accept_file(name: &str, base_dir: &Path, of_file: &mut OfFile) -> String {
    let path = base_dir.join(name);
    let compression = Compression::of(name);
    let metadata = fs::metadata(&path).ok();
    let ends = of_file.splits.iter().filter_map(|split| split.end);
    let had = of_file.recorded.as_ref().map(|recorded| recorded.len);
    let had = had.or(ends.max());
    let now = metadata.map(|metadata| (metadata.len(), Stamp::of(&metadata)));
    of_file.recorded = now.map(|(len, stamp)| as_it_is(name, &path, len, stamp));
    for done in &mut of_file.done {
        let again = |read: Checksum| checksum(&path, compression, read.from, read.to).ok()?;
        done.read = done.read.and_then(again);
    }
    let splits = std::mem::take(&mut of_file.splits);
    let consequence = consequence(&splits, now.is_some());
    for mut split in splits {
        let Some((len, _)) = now else {
            give_up(split, &mut of_file.done);
            continue;
        };
        // The last split of a file goes to its end, wherever that is now.
        split.end = split
            .end
            .map(|end| if Some(end) == had { len } else { end.min(len) });
        let beyond = split
            .end
            .is_some_and(|end| split.offset > end || split.start >= end);
        if beyond {
            give_up(split, &mut of_file.done);
        } else if !split.is_begun() {
            of_file.splits.push(split);
        } else {
            match read_again(&path, compression, &split) {
                // Its text ends before the position.
                Ok(None) => give_up(split, &mut of_file.done),
                Ok(Some(read)) => {
                    split.read = Some(read);
                    of_file.splits.push(split);
                }
                // Opening it again tells what is wrong.
                Err(_) => of_file.splits.push(Split {
                    read: None,
                    ..split
                }),
            }
        }
    }
    consequence
}

fn consequence(splits: &[Split], exists: bool) -> String {
    let begun = splits.iter().find(|split| split.is_begun());
    match (begun, splits.is_empty(), exists) {
        (_, true, _) => "it was read to its end and is not read again".to_owned(),
        (_, false, false) => "what was not yet read of it is lost".to_owned(),
        (Some(split), false, true) => format!(
            "the job continues at byte {} (after record {}), so records of it may be lost, doubled or cut",
            split.offset, split.records
        ),
        (None, false, true) => "it is read as it is now".to_owned(),
    }
}

/// Nothing more is read of a split.
fn give_up(split: Split, done: &mut Vec<Done>) {
    let piece = Done {
        file: split.file,
        start: split.start,
        end: split.end.map(|end| end.max(split.start)),
        records: split.records,
        read: None,
    };
    split::note_done(done, piece);
}

/// What was read of a split, as if it had been read today.
fn read_again(
    path: &Path,
    compression: Compression,
    split: &Split,
) -> io::Result<Option<split::Read>> {
    let from = split.read.map_or(0, |read| read.from).min(split.offset);
    let Some(Checksum { crc, .. }) = checksum(path, compression, from, split.offset)? else {
        return Ok(None);
    };
    let (mut tail, mut tail_crc) = (0, 0);
    if compression == Compression::None {
        tail = split.offset.min(TAIL as u64) as u32;
        tail_crc = inputs::tail_crc(&inputs::open_file(path)?, split.offset)?;
    }
    Ok(Some(split::Read {
        from,
        crc,
        tail,
        tail_crc,
    }))
}
