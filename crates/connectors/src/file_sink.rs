//! The file sink: files that appear when their checkpoint completes, each record in exactly one.
//!
//! Records go to a file in the staging place (`staging`). `prepare` ends the file, makes it durable,
//! and reports it with its length, its checksum and the name (`names`) that it will have; `commit` gives
//! it that name. A crash before the checkpoint completes leaves a staged file that no part names, and
//! the next start removes it; a crash after it leaves one that a part names, and the restore commits
//! it (`prepared`). There are no empty files.
//!
//! A file has the permissions of published output from the beginning, so that publishing is a rename and
//! nothing else. While it is staged nobody gets to it, because the directory above it is private.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, anyhow, bail};
use checkpoint::storage::Permissions;
use dataflow::port::Port;
use dataflow::{Batch, CheckpointId};
use formats::RecordFormat;
use formats::encoder::{Encoder, EncoderOptions};
use job_file::options::Options;
use job_file::problem::Problem;
use job_file::units;
use operator::source::Part;
use operator::text::counted;
use operator::{
    BoxError, Delivery, JobIdentity, Origin, Published, Sink, SinkFactory, SubtaskContext,
    Withdrawn,
};
use serde::{Deserialize, Serialize};

use self::names::{NoteName, PartName, StagedName, Writer};
use self::prepared::{PreparedFile, Written};
use self::staging::Staging;
use super::connector::{PreparedSink, SinkConnector, SinkContext, read_and_prepare};
use super::parts::of_another_connector;
use super::paths::resolved;

mod durable;
mod names;
pub mod orphans;
pub(crate) mod prepared;
mod published;
mod notes;
mod place;
mod staging;
mod trouble;

/// How much text is written to a file at once.
const BLOCK: usize = 256 << 10;

/// The connector `file`.
pub(crate) const CONNECTOR: SinkConnector = SinkConnector {
    name: "file",
    prepare,
};

fn prepare(options: Options, context: &SinkContext<'_>) -> Result<PreparedSink, Vec<Problem>> {
    read_and_prepare(options, |options: &FileSinkOptions| {
        let mut factory =
            options.prepare(context.base_dir, context.input_ports, context.permissions)?;
        if context.has_rows_of_sources {
            factory.trust_rows();
        }
        Ok(PreparedSink {
            writes: Some(factory.example()),
            factory: Arc::new(factory),
            options: Options::effective(options),
        })
    })
}

/// Options of the connector `file` as a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FileSinkOptions {
    /// The directory for the files. It is made if it does not exist.
    pub(crate) path: Option<String>,
    /// How records are written.
    pub(crate) format: Option<RecordFormat>,
    /// CSV: whether every file begins with the names of the columns.
    pub(crate) header: bool,
    /// Lines: whether the key and a tab stand before the value.
    pub(crate) with_key: bool,
    /// A file that has reached this size is ended, and another begun. Unset: a file per subtask and
    /// checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) roll_size: Option<String>,
}

impl FileSinkOptions {
    /// Checks the options, the ports, and that the directory can be written.
    ///
    /// # Errors
    /// Everything that keeps the sink from starting.
    pub(crate) fn prepare(
        &self,
        base_dir: &Path,
        ports: &[Port],
        permissions: Permissions,
    ) -> Result<FileSinkFactory, Vec<Problem>> {
        let mut problems = Vec::new();
        let options = EncoderOptions {
            format: self.format,
            header: self.header,
            with_key: self.with_key,
        };
        let encoder = Encoder::new(&options, ports)
            .map_err(|found| problems.extend(found))
            .ok();
        let roll_size = match self.roll_size.as_deref().map(units::parse_size) {
            None => u64::MAX,
            Some(Ok(0)) => {
                problems.push(Problem::new("roll-size", "must be more than 0"));
                0
            }
            Some(Ok(size)) => size,
            Some(Err(message)) => {
                problems.push(Problem::new("roll-size", message));
                0
            }
        };
        let root = match self.path.as_deref() {
            None | Some("") => {
                problems
                    .push(Problem::new("path", "is required").hint("the directory for the files"));
                PathBuf::new()
            }
            Some(path) => match resolve(path, base_dir) {
                Ok(root) => root,
                Err(problem) => {
                    problems.push(problem);
                    PathBuf::new()
                }
            },
        };
        match encoder.filter(|_| problems.is_empty()) {
            Some(encoder) => Ok(FileSinkFactory {
                root,
                encoder: Arc::new(encoder),
                roll_size,
                permissions,
                shared: Arc::default(),
            }),
            None => Err(problems),
        }
    }
}

/// The sink's directory, which exists and can be written or can be made.
fn resolve(written: &str, base_dir: &Path) -> Result<PathBuf, Problem> {
    let problem = |message: String| Problem::new("path", message);
    let local = match written.split_once("://") {
        Some(("file", rest)) => rest.strip_prefix("localhost").unwrap_or(rest),
        Some((scheme, _)) => {
            let message = format!("`{written}`: {scheme} URLs are not supported by this version");
            return Err(problem(message).hint("use a directory of the file system"));
        }
        None => written,
    };
    let root = base_dir.join(local);
    // A missing directory is made in the nearest one that exists.
    let existing = root
        .ancestors()
        .find(|ancestor| fs::symlink_metadata(ancestor).is_ok())
        .unwrap_or(&root);
    let metadata = fs::metadata(existing).map_err(|error| unusable(existing, &error))?;
    if !metadata.is_dir() {
        let file = existing.display();
        let message = if existing == root {
            format!("`{file}` is a file, but the sink writes a directory of files")
        } else {
            format!("`{file}` is a file, so `{}` cannot be made", root.display())
        };
        return Err(problem(message).hint("name a directory; it is made if it does not exist"));
    }
    // The only way to learn whether it can be written is to do it.
    let probe = existing.join(durable::probe_name());
    // Never through a link that has the name, nor over a file.
    let probed = File::create_new(&probe).and_then(|_| fs::remove_file(&probe));
    probed.map_err(|error| {
        let directory = existing.display();
        let unwritable = problem(format!(
            "cannot write to the directory `{directory}`: {error}"
        ));
        match error.kind() {
            ErrorKind::PermissionDenied => unwritable
                .hint("let the user who runs the job write there, or name another directory"),
            ErrorKind::ReadOnlyFilesystem => {
                unwritable.hint("make the file system writable, or name another directory")
            }
            _ => unwritable.hint("name another directory"),
        }
    })?;
    Ok(root)
}

/// The problem of a path that exists and cannot be looked at, or leads nowhere.
fn unusable(path: &Path, error: &io::Error) -> Problem {
    let shown = path.display();
    if error.kind() == ErrorKind::NotFound {
        let message = format!("`{shown}` is a symbolic link to something that does not exist");
        return Problem::new("path", message)
            .hint("make the directory that it leads to, or remove it");
    }
    Problem::new("path", format!("cannot use `{shown}`: {error}"))
}

/// Makes file sinks that write to the same directory.
pub(crate) struct FileSinkFactory {
    root: PathBuf,
    encoder: Arc<Encoder>,
    roll_size: u64,
    /// Who may read what is staged. What is published has the permissions that the umask gives.
    permissions: Permissions,
    shared: Arc<Mutex<Shared>>,
}

impl FileSinkFactory {
    /// A file such as the sink publishes.
    fn example(&self) -> PathBuf {
        let name = PartName {
            writer: Writer {
                run: "0a1b2c3d4e5f".to_owned(),
                generation: 1,
                attempt: 0,
                subtask: 0,
            },
            checkpoint: 1,
            counter: 0,
            extension: self.encoder.format().extension().to_owned(),
        };
        resolved(&self.root).join(name.to_string())
    }
}

/// What the subtasks of a sink have in common.
#[derive(Default)]
struct Shared {
    /// Open from the first start to the orderly end.
    staging: Option<Arc<Staging>>,
    /// The attempt whose first subtask cleaned up. The others must not: there is new output by then.
    cleaned_for: Option<u32>,
    /// Sinks that were neither closed nor dropped.
    live: u32,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Every change is complete when the lock is given back, whatever happened to a thread later.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FileSinkFactory {
    /// See [`Encoder::trust_rows`].
    pub(crate) fn trust_rows(&mut self) {
        Arc::make_mut(&mut self.encoder).trust_rows();
    }

    fn create_sink(
        &self,
        context: &SubtaskContext,
        parts: Option<&[Part]>,
    ) -> anyhow::Result<FileSink> {
        if !names::is_run(&context.run) {
            let run = &context.run;
            bail!("the run's token `{run}` is not 1 to 32 lowercase letters and digits");
        }
        let restored: Vec<PreparedFile> = parts
            .unwrap_or_default()
            .iter()
            .map(PreparedFile::read)
            .collect::<Result<_, _>>()?;
        // Under one lock: the first subtask of an attempt cleans, before any of them stages a file of it. The
        // others come later, and would take each other's new files for leftovers.
        let staging = {
            let mut shared = lock(&self.shared);
            let staging = self.open_staging(&mut shared, context, parts.is_some())?;
            if shared.cleaned_for != Some(context.attempt) {
                staging.clean(&restored)?;
                shared.cleaned_for = Some(context.attempt);
            }
            shared.live += 1;
            staging
        };
        let live = Live {
            shared: Arc::clone(&self.shared),
            counted: true,
        };
        // All subtasks get all prepared files, whatever the parallelism was. Dealt by their place in that list,
        // each has exactly one subtask that publishes it.
        let mine = |index: usize| {
            index as u64 % u64::from(context.parallelism) == u64::from(context.subtask)
        };
        let share: Vec<&PreparedFile> = restored
            .iter()
            .enumerate()
            .filter(|(index, _)| mine(*index))
            .map(|(_, file)| file)
            .collect();
        let published = prepared::publish(&self.root, &share, &context.run)?;
        warn_of_taken(&self.root, &published.taken);
        if let Some(first) = published.others.first() {
            tracing::info!(
                "output of the run that took the checkpoint stays with it, `{first}` among it: it is not in `{}`",
                self.root.display()
            );
        }
        // After they were renamed out of there. Places in which others still have files are not empty, and stay.
        if !share.is_empty() {
            staging.remove_other_places(&restored);
        }
        let writer = Writer {
            run: context.run.clone(),
            generation: context.generation,
            attempt: context.attempt,
            subtask: context.subtask,
        };
        // Only where there is no generation can another process have had this place and attempt.
        let counters = restored.iter().filter_map(|file| {
            let (_, leaf) = file.place();
            let staged = StagedName::parse(leaf)?;
            let same = (staged.attempt, staged.subtask) == (writer.attempt, writer.subtask)
                && staging.path_of(leaf) == file.staging;
            same.then(|| staged.counter.saturating_add(1))
        });
        let counter = counters.max().unwrap_or(0);
        Ok(FileSink {
            root: self.root.clone(),
            encoder: Arc::clone(&self.encoder),
            roll_size: self.roll_size,
            staging: Some(staging),
            live,
            writer,
            counter,
            text: Vec::new(),
            open: None,
            sealed: Vec::new(),
            prepared: Vec::new(),
            notes: VecDeque::new(),
            records: 0,
        })
    }

    /// The staging place, which is kept, with its lock, from attempt to attempt.
    fn open_staging(
        &self,
        shared: &mut Shared,
        context: &SubtaskContext,
        resumes: bool,
    ) -> anyhow::Result<Arc<Staging>> {
        if let Some(staging) = &shared.staging {
            trouble::check_directory(&self.root)?;
            if staging.is_there() {
                return Ok(Arc::clone(staging));
            }
        } else if !durable::make_directories(&self.root)? && resumes {
            tracing::warn!(
                "the output directory `{}` did not exist and was made again: what earlier runs of the \
                 job have published is not in it",
                self.root.display()
            );
        }
        let staging = Staging::open(
            &self.root,
            &context.job,
            context.generation,
            self.permissions,
        )?;
        Ok(Arc::clone(shared.staging.insert(Arc::new(staging))))
    }
}

/// Says that files are gone that were published.
fn warn_of_taken(root: &Path, taken: &[String]) {
    const SHOWN: usize = 3;
    if taken.is_empty() {
        return;
    }
    let names: Vec<String> = taken
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    let more = match taken.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    tracing::warn!(
        "published output is not in `{}` any more, so it was moved away or deleted: {}{more}; it is not \
         written again",
        root.display(),
        names.join(", ")
    );
}

impl SinkFactory for FileSinkFactory {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Sink>, BoxError> {
        match self.create_sink(context, restored) {
            Ok(sink) => Ok(Box::new(sink)),
            Err(error) => Err(trouble::classify(error, &self.root)),
        }
    }

    fn published_after(&self, origin: &Origin, after: u64) -> Result<Published, BoxError> {
        let header = self.encoder.header();
        Ok(published::after(&self.root, origin, after, header)?)
    }

    fn place(&self) -> Option<String> {
        let root = std::path::absolute(&self.root);
        Some(root.as_ref().unwrap_or(&self.root).display().to_string())
    }

    fn published_by_other_runs(&self, run: &str) -> Result<Published, BoxError> {
        Ok(published::of_other_runs(&self.root, run)?)
    }

    fn check_restored(&self, run: &str, parts: &[Part]) -> Result<(), BoxError> {
        if !parts.is_empty() && !parts.iter().any(prepared::is_file) {
            return Err(of_another_connector(parts).into());
        }
        for part in parts {
            PreparedFile::read(part)?.check(&self.root, run)?;
        }
        Ok(())
    }

    fn withdraw(
        &self,
        origin: &Origin,
        after: u64,
        kept: Option<&[Part]>,
    ) -> Result<Withdrawn, BoxError> {
        let read = |parts: &[Part]| parts.iter().map(PreparedFile::read).collect();
        let kept: Option<Vec<PreparedFile>> = kept.map(read).transpose()?;
        Ok(published::withdraw(
            &self.root,
            origin,
            after,
            kept.as_deref(),
        )?)
    }

    fn can_withdraw(&self) -> bool {
        true
    }

    fn abandon(&self, job: &JobIdentity, generation: u64) -> Result<(), BoxError> {
        // Sinks that were dropped without an orderly end have left the place, with its lock, to an
        // attempt that does not come.
        drop(
            lock(&self.shared)
                .staging
                .take_if(|staging| staging.is_of(job)),
        );
        Ok(staging::abandon(&self.root, job, generation)?)
    }
}

/// Counts a sink as live until it is closed or dropped.
struct Live {
    shared: Arc<Mutex<Shared>>,
    counted: bool,
}

impl Live {
    /// Counts the sink no more; returns how many are left.
    fn release(&mut self) -> u32 {
        let mut shared = lock(&self.shared);
        if std::mem::replace(&mut self.counted, false) {
            shared.live = shared.live.saturating_sub(1);
        }
        shared.live
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.release();
    }
}

/// One subtask's files.
struct FileSink {
    root: PathBuf,
    encoder: Arc<Encoder>,
    roll_size: u64,
    /// `None` once closed.
    staging: Option<Arc<Staging>>,
    live: Live,
    writer: Writer,
    /// Number of the next file.
    counter: u64,
    /// Encoded, not yet written to the open file.
    text: Vec<u8>,
    open: Option<OpenFile>,
    /// Ended, not yet part of a checkpoint.
    sealed: Vec<SealedFile>,
    /// Part of a checkpoint, not yet committed.
    prepared: Vec<PreparedFile>,
    /// What this subtask has noted, the oldest first.
    notes: VecDeque<(PathBuf, NoteName)>,
    /// Records taken by this instance, for messages.
    records: u64,
}

/// A file that is staged; the checkpoint that will hold it is not known yet.
struct SealedFile {
    /// Where it is, relative to the sink's directory.
    staging: String,
    counter: u64,
    bytes: u64,
    crc32c: u32,
    records: u64,
    written: Option<Written>,
}

/// The file that is being written.
struct OpenFile {
    file: File,
    /// What is known of it so far.
    sealed: SealedFile,
}

impl FileSink {
    fn write_batch(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let fits = self.encoder.fits(batch);
        for index in 0..batch.len() {
            if self.open.is_none() {
                self.open()?;
            }
            self.encoder
                .encode(batch, index, fits, &mut self.text)
                .map_err(|message| {
                    // The record would come again, and be the same.
                    trouble::permanent(format!(
                        "cannot write record {} of this attempt: {message}",
                        self.records + 1
                    ))
                })?;
            self.records += 1;
            let Some(open) = &mut self.open else { continue };
            open.sealed.records += 1;
            let bytes = open.sealed.bytes + self.text.len() as u64;
            if bytes >= self.roll_size {
                self.seal()?;
            } else if self.text.len() >= BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn staging(&self) -> anyhow::Result<&Staging> {
        self.staging
            .as_deref()
            .ok_or_else(|| anyhow!("the sink is closed"))
    }

    fn open(&mut self) -> anyhow::Result<()> {
        let leaf = StagedName {
            attempt: self.writer.attempt,
            subtask: self.writer.subtask,
            counter: self.counter,
            extension: self.encoder.format().extension().to_owned(),
        };
        let staging = self.staging()?.path_of(&leaf.to_string());
        let path = self.root.join(&staging);
        let file = File::options().write(true).create_new(true).open(&path);
        let file = file.with_context(|| format!("cannot create `{}`", path.display()))?;
        let sealed = SealedFile {
            staging,
            counter: self.counter,
            bytes: 0,
            crc32c: 0,
            records: 0,
            written: None,
        };
        self.counter += 1;
        self.open = Some(OpenFile { file, sealed });
        self.text.clear();
        self.text.extend_from_slice(self.encoder.header());
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if let Some(OpenFile { file, sealed }) = &mut self.open {
            file.write_all(&self.text).with_context(|| {
                format!(
                    "cannot write `{}`",
                    self.root.join(&sealed.staging).display()
                )
            })?;
            sealed.bytes += self.text.len() as u64;
            sealed.crc32c = crc32c::crc32c_append(sealed.crc32c, &self.text);
        }
        self.text.clear();
        Ok(())
    }

    /// Ends the open file and makes its content durable. Its name is made durable by `prepare`.
    fn seal(&mut self) -> anyhow::Result<()> {
        self.flush()?;
        if let Some(OpenFile { file, mut sealed }) = self.open.take() {
            let path = self.root.join(&sealed.staging);
            file.sync_all()
                .with_context(|| format!("cannot sync `{}`", path.display()))?;
            let metadata = file
                .metadata()
                .with_context(|| format!("cannot look at `{}`", path.display()))?;
            sealed.written = Some(Written::of(&metadata));
            self.sealed.push(sealed);
        }
        Ok(())
    }

    fn prepare_files(&mut self, id: CheckpointId) -> anyhow::Result<()> {
        self.seal()?;
        if self.sealed.is_empty() {
            return Ok(());
        }
        self.staging()?.sync()?;
        for sealed in std::mem::take(&mut self.sealed) {
            let name = PartName {
                writer: self.writer.clone(),
                checkpoint: id.0,
                counter: sealed.counter,
                extension: self.encoder.format().extension().to_owned(),
            };
            self.prepared.push(PreparedFile {
                staging: sealed.staging,
                file: name.to_string(),
                bytes: sealed.bytes,
                crc32c: Some(sealed.crc32c),
                records: sealed.records,
                checkpoint: id.0,
                written: sealed.written,
            });
        }
        Ok(())
    }

    fn commit_files(&mut self, id: CheckpointId) -> anyhow::Result<()> {
        let ready = self.prepared.iter().filter(|file| file.checkpoint <= id.0);
        let ready: Vec<&PreparedFile> = ready.collect();
        let published = prepared::publish(&self.root, &ready, &self.writer.run)?;
        warn_of_taken(&self.root, &published.taken);
        self.prepared.retain(|file| file.checkpoint > id.0);
        self.notes.extend(published.notes);
        while let Some((path, note)) = self.notes.front()
            && notes::is_outdated(note.checkpoint, id.0)
        {
            durable::remove_file(path)?;
            self.notes.pop_front();
        }
        Ok(())
    }

    /// Records that were taken and are not published.
    fn uncommitted(&self) -> u64 {
        let open = self.open.iter().map(|open| open.sealed.records);
        let sealed = self.sealed.iter().map(|file| file.records);
        let prepared = self.prepared.iter().map(|file| file.records);
        open.chain(sealed).chain(prepared).sum()
    }
}

impl Sink for FileSink {
    fn write(&mut self, batch: &Batch) -> Result<(), BoxError> {
        self.write_batch(batch)
            .map_err(|error| trouble::classify(error, &self.root))
    }

    fn prepare(&mut self, id: CheckpointId) -> Result<Vec<Part>, BoxError> {
        self.prepare_files(id)
            .map_err(|error| trouble::classify(error, &self.root))?;
        Ok(self
            .prepared
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<_, _>>()?)
    }

    fn commit(&mut self, id: CheckpointId) -> Result<(), BoxError> {
        self.commit_files(id)
            .map_err(|error| trouble::classify(error, &self.root))
    }

    fn close(&mut self) -> Result<(), BoxError> {
        let records = self.uncommitted();
        if records > 0 {
            let root = self.root.display();
            let records = counted(records, "record");
            return Err(anyhow!(
                "the sink ends with output in `{root}` that was never committed: {records}"
            )
            .into());
        }
        drop(self.staging.take());
        // The last one to be closed clears the staging place away. One that is dropped leaves it, and
        // the lock, to the next attempt.
        if self.live.release() == 0 {
            let staging = lock(&self.live.shared).staging.take();
            if let Some(staging) = staging.and_then(Arc::into_inner) {
                staging.remove();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
