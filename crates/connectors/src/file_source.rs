//! The file source: lines, CSV or JSON lines from files, shared by all subtasks.
//!
//! Which files there are is settled once, when the job is prepared, and from then on by its
//! checkpoints: a restored job reads the files that its snapshot names, from the exact record, and
//! warns of new ones, or reads them too if it looks for some; see [`watch`]. A file that has changed before that
//! record is refused, because its records would be lost or doubled in silence; see [`comparison`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow, bail};
use dataflow::Batch;
use formats::RecordFormat;
use formats::blocks::Blocks;
use formats::compression::Compression;
use formats::csv_rows::CsvRows;
use formats::decoder::Decoder;
use formats::outcome::{Counts, DecodeError, Stopped};
use formats::plan::Plan;
use formats::text_limits::TextLimits;
use job_file::hints::listed;
use job_file::options::{OneOrMany, Options};
use job_file::problem::Problem;
use operator::source::{Part, Unreadable};
use operator::text::{counted, grouped, name};
use operator::{
    BoxError, InputChanged, Permanent, Source, SourceFactory, SourceStatus, SubtaskContext,
};

use self::comparison::Glance;
use self::inputs::InputFile;
use self::position::Position;
use self::split::{Done, Split};
use self::watch::{Watch, Watching};
use super::changed::Changed;
use super::connector::{Clock, PreparedSource, SourceConnector, SourceContext, read_and_prepare};
use super::event_time::{self, EventTime, EventTimes};
use super::text_options::text_options;

mod comparison;
mod first_time;
pub(crate) mod inputs;
mod position;
pub(crate) mod split;
mod watch;

/// The connector `file`.
pub(crate) const CONNECTOR: SourceConnector = SourceConnector {
    name: "file",
    prepare,
};

fn prepare(options: Options, context: &SourceContext<'_>) -> Result<PreparedSource, Vec<Problem>> {
    read_and_prepare(options, |options: &FileSourceOptions| {
        let factory = options.prepare(context.base_dir, &context.clock)?;
        Ok(PreparedSource {
            port: factory.plan().port(),
            factory: Arc::new(factory),
            bounded: options.watch.is_none(),
            max_parallelism: None,
            reads_text: true,
            selects: Some(inputs::selects(
                options
                    .path
                    .as_ref()
                    .map(OneOrMany::as_slice)
                    .unwrap_or_default(),
                context.base_dir,
            )),
            options: Options::effective(&options.effective()),
        })
    })
}

text_options! {
    /// Options of the connector `file` as a source.
    struct FileSourceOptions {
        /// Files, directories and glob patterns. `.gz` and `.zst` are read through.
        path: Option<OneOrMany>,
        /// How often it is looked for new files; if it is not set, those of the first start are all.
        #[serde(skip_serializing_if = "Option::is_none")]
        watch: Option<String>,
    }
}

/// Looking more often costs more than it brings.
const WATCH_LEAST_MS: i64 = 100;

/// What cannot be silent cannot be idle.
const NEVER_SILENT: &[(&str, &str)] = &[("idle", "files are read to their ends without a pause")];

/// What does not know what is still to come cannot wait for it.
const AS_THEY_COME: &[(&str, &str)] = &[(
    "max-drift",
    "with `watch` files are read as they come, and none waits for one that has not come yet",
)];

impl FileSourceOptions {
    /// Checks the options, finds the files, and reads the headers of CSV files.
    ///
    /// # Errors
    /// Everything that keeps the source from starting.
    pub(crate) fn prepare(
        &self,
        base_dir: &Path,
        clock: &Clock,
    ) -> Result<FileSourceFactory, Vec<Problem>> {
        let mut problems = Vec::new();
        let paths = self
            .path
            .as_ref()
            .map(OneOrMany::as_slice)
            .unwrap_or_default();
        if paths.is_empty() {
            problems.push(
                Problem::new("path", "is required")
                    .hint("a file, a directory or a pattern, or a list of them"),
            );
        }
        let every_ms = self.watch.as_ref().map(|text| {
            let every_ms = event_time::milliseconds(text, WATCH_LEAST_MS);
            every_ms.unwrap_or_else(|message| {
                problems.push(Problem::new("watch", message));
                WATCH_LEAST_MS
            })
        });
        let watching = every_ms.map(|every_ms| Watching {
            paths: paths.to_vec(),
            base_dir: base_dir.to_owned(),
            every_ms,
            clock: Clock::clone(clock),
            last: Arc::default(),
        });
        let files = match watching {
            // What cannot be looked at is reported by the first look of the job.
            Some(_) => inputs::look(paths, base_dir).map(|look| look.files),
            None => inputs::find(paths, base_dir),
        };
        let files = files.unwrap_or_else(|found| {
            problems.extend(found);
            Vec::new()
        });
        let is_settled = |file: &&InputFile| watching.as_ref().is_none_or(|it| it.is_settled(file));
        let initial: Vec<InputFile> = files.iter().filter(is_settled).cloned().collect();
        let limits = self.limits().read(self.format, &mut problems);
        let mut columns = None;
        if self.format == Some(RecordFormat::Csv) {
            // One that is still being written may not have all of its header yet.
            let with_headers = if initial.is_empty() { &files } else { &initial };
            match read_columns(with_headers, base_dir, limits) {
                Ok(found) => columns = found,
                Err(problem) => problems.push(problem),
            }
            if columns.is_none() && problems.is_empty() {
                let problem = match files.is_empty() {
                    true => Problem::new("path", "there is no file yet that says which columns there are")
                        .hint("the first file, or one with nothing but a header line, has to be there at the start"),
                    false => Problem::new("path", "no file has a header line: all are empty"),
                };
                problems.push(problem);
            }
        }
        let plan = self.plan(columns, limits, &mut problems);
        let meaningless = match watching {
            Some(_) => AS_THEY_COME,
            None => NEVER_SILENT,
        };
        let policy = self.policy(meaningless, &mut problems);
        match plan.filter(|_| problems.is_empty()) {
            Some(plan) => Ok(FileSourceFactory {
                base_dir: base_dir.to_owned(),
                files,
                initial,
                plan: Arc::new(plan),
                changed: self.changed,
                watching,
                event_times: policy.map(|policy| EventTimes::new(policy, Clock::clone(clock))),
                compared: Mutex::default(),
            }),
            None => Err(problems),
        }
    }
}

/// The columns that all files have in common. Empty files have none.
fn read_columns(
    files: &[InputFile],
    base_dir: &Path,
    limits: TextLimits,
) -> Result<Option<Vec<String>>, Problem> {
    let mut first: Option<(&str, Vec<String>)> = None;
    for file in files {
        let problem = |message: String| Problem::new("path", message);
        let mut counts = Counts::default();
        let mut read = || -> Result<Option<Vec<String>>, DecodeError> {
            let input = inputs::open(&base_dir.join(&file.name), Compression::of(&file.name), 0)?;
            let mut blocks = Blocks::new(input, 0, limits.record_bytes);
            blocks.skip_byte_order_mark()?;
            let names = CsvRows::new(limits.columns).read_names(&mut blocks, &mut counts)?;
            Ok(names.map(|(names, _)| names))
        };
        let names = match read() {
            Ok(names) => names,
            Err(DecodeError::Read(error)) => {
                return Err(problem(format!("cannot read `{}`: {error}", file.name)));
            }
            Err(DecodeError::Record(message)) => {
                let line = counts.lines + 1;
                return Err(problem(format!("`{}`, line {line}: {message}", file.name)));
            }
        };
        let Some(names) = names else { continue };
        match &first {
            None => first = Some((&file.name, names)),
            Some((_, columns)) if *columns == names => {}
            Some((other, columns)) => {
                let message = format!(
                    "the columns of `{}` ({}) are not those of `{other}` ({})",
                    file.name,
                    listed(&names),
                    listed(columns)
                );
                return Err(
                    problem(message).hint("files with other columns belong to another source")
                );
            }
        }
    }
    Ok(first.map(|(_, columns)| columns))
}

/// Makes file sources that share the same files.
pub(crate) struct FileSourceFactory {
    base_dir: PathBuf,
    /// What `path` stood for when the job was prepared.
    files: Vec<InputFile>,
    /// Those of them that a fresh start reads at once.
    initial: Vec<InputFile>,
    plan: Arc<Plan>,
    changed: Changed,
    /// How new files are looked for, if they are.
    watching: Option<Watching>,
    /// How watermarks are made, if they are.
    event_times: Option<EventTimes>,
    /// The position that was compared last: it is the same for all subtasks of an attempt, and
    /// comparing it may take reading much.
    compared: Mutex<Option<Compared>>,
}

/// A position whose files were compared.
struct Compared {
    attempt: u32,
    parts: Vec<Part>,
    position: Position,
}

impl FileSourceFactory {
    /// What to make of the files.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    fn packed_len(&self, name: &str) -> u64 {
        match self
            .files
            .binary_search_by(|file| file.name.as_str().cmp(name))
        {
            Ok(index) => self.files[index].len,
            // Known only from the snapshot. If it is gone, opening it tells.
            Err(_) => fs::metadata(self.base_dir.join(name)).map_or(0, |metadata| metadata.len()),
        }
    }

    fn create_source(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<FileSource, BoxError> {
        let first = context.subtask == 0;
        let position = match restored {
            None => Position {
                splits: self.initial.iter().map(Split::whole).collect(),
                done: Vec::new(),
                files: if first {
                    self.files_with_tails()
                } else {
                    Vec::new()
                },
                read_as: None,
                watched: None,
            },
            Some(parts) => self.compared(&context.operator, context.attempt, parts)?,
        };
        let watch = self.watching.as_ref().map(|it| it.of(context, &position));
        let watched = position.watched.flatten();
        let mut shares = deal_splits(self, position.splits, context.parallelism);
        let splits = match shares.get_mut(context.subtask as usize) {
            Some(share) => std::mem::take(share).into(),
            None => {
                let (subtask, parallelism) = (context.subtask, context.parallelism);
                return Err(format!("subtask {subtask} of {parallelism}").into());
            }
        };
        let (done, files) = match first {
            true => (position.done, position.files),
            false => (Vec::new(), Vec::new()),
        };
        let mut event_time = self.event_times.as_ref().map(|it| it.of(context));
        let to_come = match (&mut event_time, &watch) {
            (Some(event_time), Some(_)) => Some(event_time.marks.add(watched)),
            _ => None,
        };
        let splits = VecDeque::into_iter(splits).map(|split| {
            let mark = event_time.as_mut().map_or(0, |event_time| {
                first_time::add(event_time, &split, &self.base_dir, &self.plan)
            });
            Queued { split, mark }
        });
        let splits = splits.collect();
        if let Some(event_time) = &mut event_time {
            event_time.begin();
        }
        Ok(FileSource {
            base_dir: self.base_dir.clone(),
            plan: Arc::clone(&self.plan),
            splits,
            reading: None,
            aside: Vec::new(),
            event_time,
            passed: VecDeque::new(),
            done,
            files,
            changed: self.changed,
            watch,
            to_come,
            highest: watched,
            first,
            leaves_out: false,
            unreadable: None,
        })
    }

    /// The files with what tells one that grew from another one.
    fn files_with_tails(&self) -> Vec<InputFile> {
        let with_tail = |file: &InputFile| {
            let opened = inputs::open_file(&self.base_dir.join(&file.name));
            let tail = opened.and_then(|opened| inputs::tail_crc(&opened, file.len));
            InputFile {
                // A file that cannot be read fails the job when its turn comes.
                tail: tail.ok(),
                ..file.clone()
            }
        };
        self.initial.iter().map(with_tail).collect()
    }

    /// The position in `parts`, with files that are what they were, or that are accepted as they
    /// are.
    fn compared(&self, source: &str, attempt: u32, parts: &[Part]) -> Result<Position, BoxError> {
        let mut compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compared) = &*compared
            && compared.attempt == attempt
            && compared.parts == parts
        {
            return Ok(compared.position.clone());
        }
        let mut position = Position::read(parts)?;
        let comparison = comparison::compare(&mut position, &self.base_dir);
        if comparison.unknown > 0 {
            tracing::info!(
                source,
                "the checkpoint was written by a version that did not describe its input, so {} \
                 of its files are not compared",
                comparison.unknown
            );
        }
        if comparison.touched > 0 {
            tracing::info!(
                source,
                "{} files have other times than at the checkpoint, but what was read of them is \
                 the same",
                comparison.touched
            );
        }
        let files = &comparison.changed;
        let options = self.changed_options(&position);
        if !files.is_empty() || !options.is_empty() {
            match self.changed {
                Changed::Refuse => {
                    let put_back = match (options.is_empty(), files.is_empty()) {
                        (true, _) => "put the files back as they were",
                        (false, true) => "set the options back as they were",
                        (false, false) => "put the options and the files back as they were",
                    };
                    let texts = files.iter().map(|difference| difference.text.clone());
                    // The job has read them before: it is tried again whether they come back.
                    let may_come_back =
                        attempt > 0 && files.iter().all(|difference| difference.is_gone);
                    if may_come_back && options.is_empty() {
                        let texts: Vec<String> = texts.take(SHOWN).collect();
                        return Err(anyhow!("its input is not there: {}", texts.join("; ")).into());
                    }
                    let texts = options.into_iter().chain(texts).collect();
                    return Err(super::changed::refused(source, texts, put_back).into());
                }
                Changed::Accept => {
                    for text in options {
                        tracing::warn!(source, "accepted: {text}");
                    }
                    for text in comparison::accept(&mut position, &self.base_dir, files) {
                        tracing::warn!(source, "accepted: {text}");
                    }
                }
            }
        }
        self.warn_of_other_files(source, &position);
        *compared = Some(Compared {
            attempt,
            parts: parts.to_vec(),
            position: position.clone(),
        });
        Ok(position)
    }
}

/// How many files a warning names.
const SHOWN: usize = 3;

impl FileSourceFactory {
    /// The options that differ from those that the position was read with. Before the first record they
    /// may be anything.
    fn changed_options(&self, position: &Position) -> Vec<String> {
        let records = position.records();
        match &position.read_as {
            Some(was) if records > 0 => self.plan.read_as.differences(was, records),
            _ => Vec::new(),
        }
    }

    /// The position has all files that the job reads, with their ends. Others that `path` matches now are said to be
    /// left out, and so is what was appended; files that it does not match any more are said to be read all the same.
    /// Once for an attempt.
    fn warn_of_other_files(&self, source: &str, position: &Position) {
        let splits = position.splits.iter().map(|split| split.file.as_str());
        let done = position.done.iter().map(|done| done.file.as_str());
        let files = position.files.iter().map(|file| file.name.as_str());
        let known: BTreeSet<&str> = splits.clone().chain(done).chain(files).collect();
        let matched: BTreeSet<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        let new: Vec<&str> = matched.difference(&known).copied().collect();
        if !new.is_empty() && self.watching.is_none() {
            let (verb, them) = is_or_are(&new);
            tracing::warn!(
                source,
                "{} that `path` matches {verb} not read: {}; a job reads the files that existed when it first \
                 started: give {them} another source, or start afresh with `--fresh`",
                counted(new.len() as u64, "new file"),
                shown(&new)
            );
        }
        // The end of a packed file is known only when it is read.
        let open = |name: &str| {
            let mut splits = position.splits.iter();
            splits.any(|split| split.file == name && split.end.is_none())
        };
        let lengths = self.files.iter().map(|file| (file.name.as_str(), file.len));
        let lengths: BTreeMap<&str, u64> = lengths.collect();
        let has_grown = |file: &&InputFile| {
            let now = lengths.get(file.name.as_str());
            now.is_some_and(|now| *now > file.len) && !open(&file.name)
        };
        let grown = position.files.iter().filter(has_grown);
        let grown: Vec<&str> = grown.map(|file| file.name.as_str()).collect();
        if !grown.is_empty() {
            let verb = if grown.len() == 1 { "has" } else { "have" };
            tracing::warn!(
                source,
                "{} {verb} grown, and what was appended is not read: {}; a job reads its files to the ends that they \
                 had when it first started: put new records into a file with a source of its own, or start afresh with \
                 `--fresh`",
                counted(grown.len() as u64, "file"),
                shown(&grown)
            );
        }
        // A file that is done is not read again anyway, and one that is gone fails the job when its turn comes.
        let unread: BTreeSet<&str> = splits.collect();
        let left: Vec<&str> = unread.difference(&matched).copied().collect();
        if !left.is_empty() && self.watching.is_none() {
            let (verb, them) = is_or_are(&left);
            tracing::warn!(
                source,
                "{} that `path` does not match any more {verb} still read: {}; a job reads the files that existed \
                 when it first started: to leave {them} out start afresh with `--fresh`",
                counted(left.len() as u64, "file"),
                shown(&left)
            );
        }
    }
}

fn is_or_are(files: &[&str]) -> (&'static str, &'static str) {
    match files.len() {
        1 => ("is", "it"),
        _ => ("are", "them"),
    }
}

/// A few of the files, and how many more there are.
fn shown(files: &[&str]) -> String {
    let names: Vec<String> = files
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    match files.len().saturating_sub(SHOWN) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

fn deal_splits(
    factory: &FileSourceFactory,
    splits: Vec<Split>,
    parallelism: u32,
) -> Vec<Vec<Split>> {
    split::deal(splits, factory.plan.format, parallelism, |name| {
        factory.packed_len(name)
    })
}

impl SourceFactory for FileSourceFactory {
    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Source>, BoxError> {
        Ok(Box::new(self.create_source(context, restored)?))
    }

    fn compare(&self, source: &str, restored: &[Part]) -> Result<(), InputChanged> {
        let Err(error) = self.compared(source, 0, restored) else {
            return Ok(());
        };
        match error.downcast::<InputChanged>() {
            Ok(changed) => Err(*changed),
            // A position that cannot be read: creating the source tells.
            Err(_) => Ok(()),
        }
    }

    fn describe_position(&self, restored: &[Part]) -> String {
        describe_position(restored)
            .unwrap_or_else(|| "a position that is not a file source's".to_owned())
    }
}

/// How far a position is, in words. `None` if it is not a file source's.
pub(crate) fn describe_position(parts: &[Part]) -> Option<String> {
    let position = Position::read(parts).ok()?;
    let records = position.records();
    let Position { splits, done, .. } = position;
    let unfinished: BTreeSet<&str> = splits.iter().map(|split| split.file.as_str()).collect();
    let finished: BTreeSet<&str> = done.iter().map(|done| done.file.as_str()).collect();
    let finished = finished.difference(&unfinished).count() as u64;
    let mut text = format!(
        "{} read, {} of {} done",
        counted(records, "record"),
        grouped(finished),
        counted(finished + unfinished.len() as u64, "file")
    );
    let mut begun = splits.iter().filter(|split| split.is_begun());
    if let Some(split) = begun.next() {
        let offset = grouped(split.offset);
        text += &format!(", continues in {} at byte {offset}", split.file);
    }
    match begun.count() {
        0 => {}
        1 => text += " and in 1 more place",
        more => text += &format!(" and in {more} more places"),
    }
    Some(text)
}

/// One subtask's share of the files.
pub(crate) struct FileSource {
    base_dir: PathBuf,
    plan: Arc<Plan>,
    /// What is still to be read, in this order, without the split that is being read.
    splits: VecDeque<Queued>,
    reading: Option<Reading>,
    /// Splits that are begun, and wait because others are to be read first.
    aside: Vec<Reading>,
    /// What watermarks are made of, if they are made.
    event_time: Option<EventTime>,
    /// The splits that were read before the one that is being read, to their ends or for a while, the last one
    /// first.
    passed: VecDeque<Origin>,
    /// What was read to its end, by name and start.
    done: Vec<Done>,
    /// Of the first subtask all files of the job as it was started, of each those that it has taken since. By name.
    files: Vec<InputFile>,
    /// What to do about files that have changed.
    changed: Changed,
    /// What looks for new files, if any are to be read.
    watch: Option<Watch>,
    /// What stands for the files to come among the splits of [`EventTime`], if there are both: it is as far as the highest
    /// event time that was read, so that the end of all files is not the end of time.
    to_come: Option<usize>,
    /// That time.
    highest: Option<i64>,
    /// Whether this is the first subtask.
    first: bool,
    /// Whether what is no record is left out.
    leaves_out: bool,
    /// What was left out and not taken yet.
    unreadable: Option<Unreadable>,
}

/// A split that is not open.
struct Queued {
    split: Split,
    /// Its number among the splits of [`EventTime`].
    mark: usize,
}

/// How many splits are remembered for the places of records: a batch may hold the records of several.
const PASSED: usize = 64;

/// How many splits are kept open while others are read. Of the rest the position is kept: to go on, a packed one
/// is read from its beginning again.
const ASIDE: usize = 64;

/// How far a split was read, for the places of its records.
struct Origin {
    /// How many records were read at a stretch, the last of which is the last one counted.
    stretch: u64,
    file: String,
    start: u64,
    format: RecordFormat,
    counts: Counts,
}

impl Origin {
    /// Where the record is that was read this many records before the last one. With `leaves_out` lines between them may
    /// not be records, and do not count.
    fn of(&self, back: u64, leaves_out: bool) -> String {
        let file = name(&self.file);
        let record = self.counts.records - back;
        let readable = if leaves_out { "readable " } else { "" };
        let header = u64::from(self.format == RecordFormat::Csv);
        // Each record is one line, as far as lines and records have gone up together.
        match self.counts.lines == self.counts.records + header {
            true if self.start == 0 => format!("line {} of `{file}`", record + header),
            false if self.start == 0 => format!("{readable}record {record} of `{file}`"),
            // Another subtask counts what is before the split.
            _ => format!(
                "{readable}record {record} after byte {} of `{file}`",
                self.start
            ),
        }
    }
}

/// A split that is being read.
struct Reading {
    /// Its number among the splits of [`EventTime`].
    mark: usize,
    /// The highest event time in it, where watermarks are made.
    highest: Option<i64>,
    /// How many records it had when its turn came.
    turn_from: u64,
    /// As it was when it was opened.
    split: Split,
    blocks: Blocks,
    decoder: Decoder,
    counts: Counts,
    format: RecordFormat,
}

/// Whose turn it is.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it was returned; a box would be an allocation per poll"
)]
enum Turn {
    Read(Reading),
    /// Every split of this subtask is too far ahead of another subtask's.
    Wait,
    Over,
}

impl FileSource {
    fn poll_records(&mut self, batch: &mut Batch) -> anyhow::Result<SourceStatus> {
        loop {
            let mut reading = match self.turn()? {
                Turn::Read(reading) => reading,
                Turn::Wait => return Ok(SourceStatus::Idle { until: None }),
                Turn::Over => match self.wait_for_files()? {
                    SourceStatus::More => continue,
                    status => return Ok(status),
                },
            };
            let before = batch.len();
            let end = reading.split.end.unwrap_or(u64::MAX);
            let Reading {
                blocks,
                decoder,
                counts,
                ..
            } = &mut reading;
            let result = match decoder.decode(blocks, end, batch, counts) {
                Err(DecodeError::Record(message)) if self.leaves_out => {
                    let left_out = reading.leave_out(message);
                    self.reading = Some(reading);
                    self.unreadable = Some(left_out?);
                    return Ok(SourceStatus::More);
                }
                other => other,
            };
            let stopped = result.map_err(|error| reading.locate(error));
            if let Some(event_time) = &mut self.event_time {
                let read = batch.timestamps.get(before..).unwrap_or_default();
                let highest = event_time.read(reading.mark, read);
                reading.highest = reading.highest.max(highest);
                if let (Some(to_come), Some(highest)) = (self.to_come, highest) {
                    event_time.marks.read(to_come, highest);
                    self.highest = self.highest.max(Some(highest));
                }
            }
            match stopped {
                Ok(Stopped::Ended) => {
                    self.pass(&mut reading);
                    if let Some(event_time) = &mut self.event_time {
                        event_time.marks.end(reading.mark);
                    }
                    let done = reading.finish()?;
                    split::note_done(&mut self.done, done);
                    // The watermark of its end goes before the records of the next split. If they shared a batch, how
                    // full that was would decide which of them are late.
                    if self.event_time.is_some() {
                        return Ok(SourceStatus::More);
                    }
                }
                other => {
                    self.reading = Some(reading);
                    // A file is never blocked; were it, asking again is right.
                    return other.map(|_| SourceStatus::More);
                }
            }
        }
    }

    /// Takes the split that is to be read: the same one until its end, then the next one by name; or, if none may
    /// run ahead of the others by too much, another one when it has.
    fn turn(&mut self) -> anyhow::Result<Turn> {
        let reading = self.reading.take();
        let Some(event_time) = self.event_time.as_ref().filter(|it| it.is_aligned()) else {
            return match reading {
                Some(reading) => Ok(Turn::Read(reading)),
                None => self.next_by_name(),
            };
        };
        if let Some(reading) = reading {
            if event_time.may_read(reading.mark) {
                return Ok(Turn::Read(reading));
            }
            self.put_aside(reading);
        }
        let Some(event_time) = &self.event_time else {
            unreachable!("it was there just now")
        };
        let Some(slowest) = event_time.marks.slowest() else {
            // None is left, or those that are have no records.
            return self.next_by_name();
        };
        if !event_time.may_read(slowest) {
            event_time.wait_for(slowest);
            return Ok(Turn::Wait);
        }
        if let Some(at) = self.aside.iter().position(|it| it.mark == slowest) {
            return Ok(Turn::Read(self.aside.swap_remove(at)));
        }
        let at = self.splits.iter().position(|it| it.mark == slowest);
        match at.and_then(|at| self.splits.remove(at)) {
            Some(queued) => self.open(queued).map(Turn::Read),
            None => unreachable!("a split that has not ended is open, aside or queued"),
        }
    }

    /// All files are read: looks for new ones, if it is time to. Whether there are some, or when to ask again.
    fn wait_for_files(&mut self) -> anyhow::Result<SourceStatus> {
        let Some(watch) = &mut self.watch else {
            return Ok(SourceStatus::Ended);
        };
        if let Some(found) = watch.look() {
            self.compare_files(&found.all.files)?;
            found.new.into_iter().for_each(|file| self.take(file));
        }
        if !self.splits.is_empty() {
            return Ok(SourceStatus::More);
        }
        if let (Some(event_time), Some(to_come)) = (&mut self.event_time, self.to_come) {
            event_time.marks.silent(to_come, event_time.now());
        }
        let until = self.watch.as_ref().map(Watch::due_ms);
        Ok(SourceStatus::Idle { until })
    }

    /// Takes a new file: it is read after those that are here.
    fn take(&mut self, mut file: InputFile) {
        let opened = inputs::open_file(&self.base_dir.join(&file.name));
        let tail = opened.and_then(|opened| inputs::tail_crc(&opened, file.len));
        // A file that cannot be read fails the job when its turn comes.
        file.tail = tail.ok();
        let split = Split::whole(&file);
        let mark = self.event_time.as_mut().map_or(0, |event_time| {
            first_time::add(event_time, &split, &self.base_dir, &self.plan)
        });
        let at = self.files.partition_point(|other| other.name < file.name);
        self.files.insert(at, file);
        self.splits.push_back(Queued { split, mark });
    }

    /// Notices that files which this subtask knows are not what they were.
    fn compare_files(&mut self, found: &[InputFile]) -> anyhow::Result<()> {
        let Some(watch) = &mut self.watch else {
            return Ok(());
        };
        let (mut changed, mut grown) = (Vec::new(), Vec::new());
        for now in found {
            let at = self
                .files
                .binary_search_by(|known| known.name.cmp(&now.name));
            let Some(recorded) = at.ok().and_then(|at| self.files.get(at)) else {
                continue;
            };
            if !watch.is_touched(recorded, now) {
                continue;
            }
            match comparison::glance(recorded, now, &self.base_dir) {
                Glance::Same => {}
                Glance::Changed(text) => changed.push(text),
                Glance::Grown => grown.push(now.name.clone()),
            }
        }
        watch.warn_of_grown(grown);
        if changed.is_empty() {
            return Ok(());
        }
        let source = watch.source();
        match self.changed {
            Changed::Refuse => {
                let put_back = "put the files back as they were";
                Err(super::changed::refused(source, changed, put_back).into())
            }
            Changed::Accept => {
                for text in changed {
                    tracing::warn!(
                        source,
                        "accepted: {text}; what was read of it stays, and it is not read again"
                    );
                }
                Ok(())
            }
        }
    }

    fn next_by_name(&mut self) -> anyhow::Result<Turn> {
        match self.splits.pop_front() {
            Some(queued) => self.open(queued).map(Turn::Read),
            None => Ok(Turn::Over),
        }
    }

    fn open(&mut self, queued: Queued) -> anyhow::Result<Reading> {
        let Queued { split, mark } = queued;
        match Reading::open(split.clone(), mark, &self.base_dir, &self.plan) {
            Ok(reading) => Ok(reading),
            // A split that cannot be opened is not lost: the snapshot still knows it.
            Err(error) => {
                self.splits.push_front(Queued { split, mark });
                Err(error)
            }
        }
    }

    /// Notes where the records of a turn have come from.
    fn pass(&mut self, reading: &mut Reading) {
        if reading.counts.records == reading.turn_from {
            return;
        }
        self.passed.truncate(PASSED - 1);
        self.passed.push_front(reading.origin());
        reading.turn_from = reading.counts.records;
    }

    fn put_aside(&mut self, mut reading: Reading) {
        self.pass(&mut reading);
        self.aside.push(reading);
        if self.aside.len() > ASIDE {
            let mut longest = self.aside.remove(0);
            let (split, mark) = (longest.position(), longest.mark);
            self.splits.push_front(Queued { split, mark });
        }
    }
}

impl Reading {
    fn open(split: Split, mark: usize, base_dir: &Path, plan: &Arc<Plan>) -> anyhow::Result<Self> {
        let path = base_dir.join(&split.file);
        let compression = Compression::of(&split.file);
        let place = || {
            let Split {
                file,
                offset,
                records,
                ..
            } = &split;
            format!("cannot continue in file `{file}` at byte {offset} (record {records})")
        };
        let opened = || match split.is_begun() {
            true => place(),
            false => format!("cannot read file `{}`", split.file),
        };
        let len = fs::metadata(&path).with_context(opened)?.len();
        if let Some(end) = split.end
            && len < end
        {
            let error = anyhow!("it has {len} bytes, but it had {end} when the job first saw it");
            return Err(error.context(opened()));
        }
        let mut decoder = Decoder::new(Arc::clone(plan));
        let mut counts = Counts {
            records: split.records,
            lines: split.lines,
        };
        let failed = |error: DecodeError, line: u64| match error {
            DecodeError::Read(error) => anyhow::Error::new(error).context(opened()),
            DecodeError::Record(message) => {
                unreadable(format!("file `{}`, line {line}: {message}", split.file))
            }
        };
        let mut blocks = if plan.format == RecordFormat::Csv
            || compression != Compression::None
            || split.offset == 0
        {
            // From the beginning: there is a header, or no other way to get to the offset.
            let input = inputs::open(&path, compression, 0).with_context(opened)?;
            let mut blocks = Blocks::new(input, 0, plan.limits.record_bytes);
            blocks.keep_checksum(0, 0);
            blocks
                .skip_byte_order_mark()
                .map_err(|error| failed(error.into(), 1))?;
            let mut header = Counts::default();
            if let Err(error) = decoder.read_header(&mut blocks, &mut header) {
                return Err(failed(error, header.lines + 1));
            }
            if !split.is_begun() {
                counts = header;
            }
            blocks
        } else if split.is_begun() {
            open_behind(&path, &split, plan).with_context(opened)?
        } else {
            // The line that the cut falls into belongs to the split before, unless the cut is at
            // its first byte: the byte before the cut shows that.
            let before = split.offset - 1;
            let mut blocks = Blocks::new(
                inputs::open(&path, compression, before).with_context(opened)?,
                before,
                plan.limits.record_bytes,
            );
            blocks.skip_line().with_context(opened)?;
            blocks.keep_checksum(blocks.offset(), 0);
            blocks
        };
        if split.is_begun() && split.offset > blocks.offset() {
            if compression == Compression::None {
                blocks = open_behind(&path, &split, plan).with_context(opened)?;
            } else if !blocks.skip_to(split.offset).with_context(opened)? {
                let error = anyhow!("it ends at byte {} of its text", blocks.offset());
                return Err(error.context(opened()));
            }
            // To get here all of the text was read again.
            let crc = blocks.checksum().map(|checksum| checksum.crc);
            if compression != Compression::None
                && let Some(read) = split.read
                && read.from == 0
                && crc != Some(read.crc)
            {
                return Err(has_changed(&split).context(opened()));
            }
        }
        Ok(Self {
            mark,
            highest: split.highest,
            turn_from: counts.records,
            split,
            blocks,
            decoder,
            counts,
            format: plan.format,
        })
    }

    /// The split with the position in it.
    fn position(&mut self) -> Split {
        let packed = self.split.end.is_none();
        let tail = if packed { &[] } else { self.blocks.tail() };
        let (tail, tail_crc) = (tail.len() as u32, crc32c::crc32c(tail));
        let checksum = self.blocks.checksum();
        Split {
            offset: self.blocks.offset(),
            records: self.counts.records,
            lines: self.counts.lines,
            read: checksum.map(|checksum| split::Read {
                from: checksum.from,
                crc: checksum.crc,
                tail,
                tail_crc,
            }),
            highest: self.highest,
            ..self.split.clone()
        }
    }

    fn origin(&self) -> Origin {
        Origin {
            stretch: self.counts.records - self.turn_from,
            file: self.split.file.clone(),
            start: self.split.start,
            format: self.format,
            counts: self.counts,
        }
    }

    /// The split has been read to its end.
    fn finish(mut self) -> anyhow::Result<Done> {
        let read = self.blocks.checksum();
        let Split {
            file, start, end, ..
        } = self.split;
        let offset = self.blocks.offset();
        if let Some(end) = end
            && offset < end
        {
            bail!(
                "file `{file}` ends at byte {offset}, but it had {end} bytes when the job first saw it"
            );
        }
        Ok(Done {
            file,
            start,
            end,
            records: self.counts.records,
            read,
        })
    }

    /// Goes on after what is no record for this reason.
    fn leave_out(&mut self, message: String) -> anyhow::Result<Unreadable> {
        let file = name(&self.split.file);
        let origin = match self.split.start {
            0 => format!("line {} of `{file}`", self.counts.lines + 1),
            _ => format!("line at byte {} of `{file}`", self.blocks.offset()),
        };
        let left_out = self.decoder.leave_out(&mut self.blocks, &mut self.counts);
        match left_out.map_err(|error| self.locate(error.into()))? {
            Some(text) => Ok(Unreadable {
                message,
                origin,
                is_whole: text.bytes.len() as u64 == text.len,
                bytes: text.bytes,
            }),
            None => bail!("{origin} has no end yet, but a file has all that it will have"),
        }
    }

    /// Adds the place to an error.
    fn locate(&self, error: DecodeError) -> anyhow::Error {
        let file = &self.split.file;
        let offset = self.blocks.offset();
        match error {
            DecodeError::Read(error) => {
                let message = format!(
                    "cannot read file `{file}` after record {} (byte {offset})",
                    self.counts.records
                );
                anyhow::Error::new(error).context(message)
            }
            // Another subtask counts the lines before the split.
            DecodeError::Record(message) if self.split.start > 0 => {
                unreadable(format!("file `{file}`, line at byte {offset}: {message}"))
            }
            DecodeError::Record(message) => {
                let line = self.counts.lines + 1;
                unreadable(format!("file `{file}`, line {line}: {message}"))
            }
        }
    }
}

/// A line that is no record: it will be the same the next time.
fn unreadable(message: String) -> anyhow::Error {
    anyhow::Error::new(Permanent::new(message))
}

/// Opens a file that is not packed at the position of a split that is begun. The bytes before it are
/// read once more: they are compared, and belong to what the next position says.
fn open_behind(path: &Path, split: &Split, plan: &Plan) -> anyhow::Result<Blocks> {
    let back = split.read.map_or(0, |read| u64::from(read.tail));
    let at = split.offset.saturating_sub(back);
    let input = inputs::open(path, Compression::None, at)?;
    let mut blocks = Blocks::new(input, at, plan.limits.record_bytes);
    if !blocks.skip_to(split.offset)? {
        bail!("it ends at byte {}", blocks.offset());
    }
    match split.read {
        Some(read) if crc32c::crc32c(blocks.tail()) != read.tail_crc => {
            return Err(has_changed(split));
        }
        Some(read) => blocks.keep_checksum(read.from, read.crc),
        // A position of a version that kept no checksums: from here on there is one.
        None => blocks.keep_checksum(split.offset, 0),
    }
    Ok(blocks)
}

/// The comparison before the start found nothing, but the bytes themselves differ.
fn has_changed(split: &Split) -> anyhow::Error {
    let (file, offset) = (&split.file, split.offset);
    anyhow::Error::new(InputChanged {
        differences: vec![format!(
            "`{file}`: what was read before byte {offset} is not what it was"
        )],
        choices: "put the file back as it was, or start the job afresh".to_owned(),
    })
}

impl Source for FileSource {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        let status = self.poll_records(batch)?;
        Ok(match &mut self.event_time {
            Some(event_time) => event_time.polled(status),
            None => status,
        })
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        let begun = self.reading.iter_mut().chain(&mut self.aside);
        let begun: Vec<Split> = begun.map(Reading::position).collect();
        let queued = self.splits.iter().map(|queued| queued.split.clone());
        let splits = begun.into_iter().chain(queued);
        let read_as = self.first.then_some(&self.plan.read_as);
        let watched = self.watch.is_some().then_some(self.highest);
        let splits = splits.collect();
        let parts = position::parts(splits, &self.done, &self.files, read_as, watched);
        Ok(parts
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<_, _>>()?)
    }

    fn watermark(&self) -> Option<i64> {
        self.event_time.as_ref()?.marks.watermark()
    }

    fn is_idle(&self) -> bool {
        let event_time = self.event_time.as_ref();
        event_time.is_some_and(|event_time| event_time.marks.is_idle())
    }

    fn leave_out_unreadable(&mut self) {
        self.leaves_out = true;
    }

    fn take_unreadable(&mut self) -> Option<Unreadable> {
        self.unreadable.take()
    }

    fn origin(&self, mut back: u64) -> Option<String> {
        let reading = self.reading.as_ref().map(Reading::origin);
        for split in reading.iter().chain(&self.passed) {
            match back.checked_sub(split.stretch) {
                None => return Some(split.of(back, self.leaves_out)),
                Some(before) => back = before,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
