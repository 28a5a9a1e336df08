//! The file sink: files that appear when their checkpoint completes, each record in exactly one.
//!
//! Records go to a file in the [staging place](staging). `prepare` ends the file, makes it durable
//! and reports it; `commit` renames it to `part-<job>-<subtask>-<counter>.<extension>`. A crash before
//! the checkpoint completes leaves a pending file that no part names, and the next start removes it; a
//! crash behind it leaves one that a part names, and the restore commits it. There are no empty files.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, anyhow};
use dataflow::port::Port;
use dataflow::{Batch, CheckpointId};
use runtime::source::Part;
use runtime::{BoxError, Delivery, Sink, SinkFactory, SubtaskContext};
use serde::{Deserialize, Serialize};

use self::staging::{PreparedFile, Staging};
use super::encoder::{Encoder, EncoderOptions};
use super::format::RecordFormat;
use super::options::Problem;
use crate::units;

pub(crate) mod staging;

/// How much text is written to a file at once.
const BLOCK: usize = 256 << 10;

/// Options of the connector `file` as a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FileSinkOptions {
    /// The directory for the files. It is made if it is not there.
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
    // What is not there is made in the nearest directory that is.
    let existing = root
        .ancestors()
        .find(|ancestor| fs::symlink_metadata(ancestor).is_ok())
        .unwrap_or(&root);
    let metadata = fs::metadata(existing)
        .map_err(|error| problem(format!("cannot use `{}`: {error}", existing.display())))?;
    if !metadata.is_dir() {
        let what = if existing == root { "" } else { " in the way" };
        let message = format!(
            "`{}` is a file{what}, but the sink writes a directory of files",
            existing.display()
        );
        return Err(problem(message));
    }
    // The only way to learn whether it can be written is to do it.
    let probe = existing.join(format!(".highwater-probe-{}", std::process::id()));
    let probed = File::create(&probe).and_then(|_| fs::remove_file(&probe));
    probed
        .map_err(|error| problem(format!("cannot write to `{}`: {error}", existing.display())))?;
    Ok(root)
}

/// Makes file sinks that write to the same directory.
pub(crate) struct FileSinkFactory {
    root: PathBuf,
    encoder: Arc<Encoder>,
    roll_size: u64,
    shared: Arc<Mutex<Shared>>,
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
    fn create_sink(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> anyhow::Result<FileSink> {
        let restored: Vec<PreparedFile> = restored
            .unwrap_or_default()
            .iter()
            .map(PreparedFile::read)
            .collect::<Result<_, _>>()?;
        fs::create_dir_all(&self.root)
            .with_context(|| format!("cannot create `{}`", self.root.display()))?;
        let staging = {
            let mut shared = lock(&self.shared);
            // The lock is kept from attempt to attempt.
            let staging = match &shared.staging {
                Some(staging) => Arc::clone(staging),
                None => Arc::new(Staging::open(
                    &self.root,
                    &context.job_id,
                    context.generation,
                )?),
            };
            if shared.cleaned_for != Some(context.attempt) {
                staging.clean(&restored)?;
                shared.cleaned_for = Some(context.attempt);
            }
            shared.staging = Some(Arc::clone(&staging));
            shared.live += 1;
            staging
        };
        let live = Live {
            shared: Arc::clone(&self.shared),
            counted: true,
        };
        let mine = |index: usize| {
            index as u64 % u64::from(context.parallelism) == u64::from(context.subtask)
        };
        let share: Vec<&PreparedFile> = restored
            .iter()
            .enumerate()
            .filter(|(index, _)| mine(*index))
            .map(|(_, file)| file)
            .collect();
        for file in &share {
            file.commit(&self.root)?;
        }
        if !share.is_empty() {
            staging::sync_directory(&self.root)?;
            staging.remove_other_places(&restored);
        }
        let prefix = format!(
            "part-{}-{}-",
            staging::short_job_id(&context.job_id),
            context.subtask
        );
        let counter = next_counter(&self.root, &prefix, &restored)?;
        Ok(FileSink {
            root: self.root.clone(),
            encoder: Arc::clone(&self.encoder),
            roll_size: self.roll_size,
            staging: Some(staging),
            live,
            prefix,
            counter,
            text: Vec::new(),
            open: None,
            sealed: Vec::new(),
            prepared: Vec::new(),
            records: 0,
        })
    }
}

/// One more than the highest counter among the files in the directory and those that the restored
/// parts will bring there.
fn next_counter(root: &Path, prefix: &str, restored: &[PreparedFile]) -> anyhow::Result<u64> {
    let counter = |name: &str| -> Option<u64> {
        let digits = name.strip_prefix(prefix)?.split('.').next()?;
        digits.parse().ok()
    };
    let mut next = 0;
    let failed = || format!("cannot list `{}`", root.display());
    for entry in fs::read_dir(root).with_context(failed)? {
        let name = entry.with_context(failed)?.file_name();
        next = next.max(
            name.to_str()
                .and_then(counter)
                .map_or(0, |counter| counter.saturating_add(1)),
        );
    }
    for file in restored {
        next = next.max(counter(&file.file).map_or(0, |counter| counter.saturating_add(1)));
    }
    Ok(next)
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
        Ok(Box::new(self.create_sink(context, restored)?))
    }

    fn abandon(&self, job_id: &str, generation: u64) -> Result<(), BoxError> {
        // Sinks that were dropped without an orderly end have left the place, with its lock, to an
        // attempt that does not come.
        drop(
            lock(&self.shared)
                .staging
                .take_if(|staging| staging.is_of(job_id)),
        );
        Ok(staging::abandon(&self.root, job_id, generation)?)
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
    /// What the names of this subtask's files begin with.
    prefix: String,
    /// Number of the next file.
    counter: u64,
    /// Encoded, not yet written to the open file.
    text: Vec<u8>,
    open: Option<OpenFile>,
    /// Ended, not yet part of a checkpoint.
    sealed: Vec<PreparedFile>,
    /// Part of a checkpoint, not yet committed.
    prepared: Vec<PreparedFile>,
    /// Records taken by this instance, for messages.
    records: u64,
}

/// The file that is being written.
struct OpenFile {
    file: File,
    /// How it will be reported.
    prepared: PreparedFile,
}

impl FileSink {
    fn write_batch(&mut self, batch: &Batch) -> anyhow::Result<()> {
        for index in 0..batch.len() {
            if self.open.is_none() {
                self.open()?;
            }
            self.encoder
                .encode(batch, index, &mut self.text)
                .map_err(|message| {
                    anyhow!(
                        "cannot write record {} of this attempt: {message}",
                        self.records + 1
                    )
                })?;
            self.records += 1;
            let Some(open) = &mut self.open else { continue };
            open.prepared.records += 1;
            let bytes = open.prepared.bytes + self.text.len() as u64;
            if bytes >= self.roll_size {
                self.seal()?;
            } else if self.text.len() >= BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn open(&mut self) -> anyhow::Result<()> {
        let staging = self
            .staging
            .as_ref()
            .ok_or_else(|| anyhow!("the sink is closed"))?;
        let name = format!(
            "{}{:06}.{}",
            self.prefix,
            self.counter,
            self.encoder.format().extension()
        );
        let path = staging.path_of(&name);
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(self.root.join(&path));
        let file =
            file.with_context(|| format!("cannot create `{}`", self.root.join(&path).display()))?;
        self.counter += 1;
        let prepared = PreparedFile {
            staging: path,
            file: name,
            bytes: 0,
            records: 0,
            checkpoint: 0,
        };
        self.open = Some(OpenFile { file, prepared });
        self.text.clear();
        self.text.extend_from_slice(self.encoder.header());
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if let Some(OpenFile { file, prepared }) = &mut self.open {
            file.write_all(&self.text).with_context(|| {
                format!(
                    "cannot write `{}`",
                    self.root.join(&prepared.staging).display()
                )
            })?;
            prepared.bytes += self.text.len() as u64;
        }
        self.text.clear();
        Ok(())
    }

    /// Ends the open file and makes its content durable. Its name is made durable by `prepare`.
    fn seal(&mut self) -> anyhow::Result<()> {
        self.flush()?;
        if let Some(OpenFile { file, prepared }) = self.open.take() {
            file.sync_all().with_context(|| {
                format!(
                    "cannot sync `{}`",
                    self.root.join(&prepared.staging).display()
                )
            })?;
            self.sealed.push(prepared);
        }
        Ok(())
    }

    fn prepare_files(&mut self, id: CheckpointId) -> anyhow::Result<()> {
        self.seal()?;
        if !self.sealed.is_empty() {
            let staging = self
                .staging
                .as_ref()
                .ok_or_else(|| anyhow!("the sink is closed"))?;
            staging.sync()?;
            let sealed = self.sealed.drain(..);
            self.prepared.extend(sealed.map(|file| PreparedFile {
                checkpoint: id.0,
                ..file
            }));
        }
        Ok(())
    }

    fn commit_files(&mut self, id: CheckpointId) -> anyhow::Result<()> {
        let ready = self.prepared.iter().filter(|file| file.checkpoint <= id.0);
        let mut renamed = 0;
        for file in ready {
            file.commit(&self.root)?;
            renamed += 1;
        }
        if renamed > 0 {
            // Until here a crash may undo the renames; the restore does them again.
            staging::sync_directory(&self.root)?;
            self.prepared.retain(|file| file.checkpoint > id.0);
        }
        Ok(())
    }
}

impl Sink for FileSink {
    fn write(&mut self, batch: &Batch) -> Result<(), BoxError> {
        Ok(self.write_batch(batch)?)
    }

    fn prepare(&mut self, id: CheckpointId) -> Result<Vec<Part>, BoxError> {
        self.prepare_files(id)?;
        Ok(self
            .prepared
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<_, _>>()?)
    }

    fn commit(&mut self, id: CheckpointId) -> Result<(), BoxError> {
        Ok(self.commit_files(id)?)
    }

    fn close(&mut self) -> Result<(), BoxError> {
        let uncommitted = self
            .open
            .iter()
            .map(|open| &open.prepared)
            .chain(&self.sealed)
            .chain(&self.prepared);
        let records: u64 = uncommitted.map(|file| file.records).sum();
        if records > 0 {
            return Err(anyhow!(
                "{records} records in `{}` were never committed",
                self.root.display()
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
mod tests;
