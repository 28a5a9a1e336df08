//! What a standby would restore is read before it has to be: into the memory that the system keeps files in,
//! and to notice damage while there is an owner that could still take another checkpoint.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use checkpoint::{Completed, Result};

use crate::exit::causes;

/// How much is read between two pauses.
const PIECE_BYTES: usize = 1 << 20;

/// The pause: 32 MiB a second at most, so that the owner's disk or network hardly notices.
const PAUSE: Duration = Duration::from_millis(31);

/// Reads the metadata of a checkpoint, or of a newer one.
type Reader = Box<dyn Fn(u64) -> Result<Completed> + Send>;

/// A part of a file: its path, and where it begins.
type Part = (Option<String>, u64, u64);

/// Reads checkpoints on a thread of its own. Dropped, it stops after the piece that is being read.
pub(super) struct ReadAhead {
    wanted: SyncSender<u64>,
    stop: Arc<AtomicBool>,
    newest: u64,
}

impl ReadAhead {
    /// Begins. `with_state`: state is read as well as metadata. `None` if there is no thread to be had,
    /// which costs a standby nothing but time at the takeover.
    #[expect(
        clippy::disallowed_methods,
        reason = "it belongs to no job, nobody waits for it, and what it fails at is a matter of the restore"
    )]
    pub(super) fn start(reader: Reader, with_state: bool) -> Option<Self> {
        let (wanted, checkpoints) = mpsc::sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::Builder::new()
            .name("read-ahead".to_owned())
            .spawn(move || read_all(&checkpoints, &reader, with_state, &stopped))
            .ok()?;
        Some(Self {
            wanted,
            stop,
            newest: 0,
        })
    }

    /// This is the newest checkpoint. If an older one is still being read, a later call gets its turn.
    pub(super) fn newest(&mut self, id: u64) {
        if id > self.newest && self.wanted.try_send(id).is_ok() {
            self.newest = id;
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read_all(checkpoints: &Receiver<u64>, reader: &Reader, with_state: bool, stop: &AtomicBool) {
    let mut known = BTreeSet::new();
    while let Ok(id) = checkpoints.recv() {
        // It has been subsumed, or the storage does not answer: the next one tells.
        let Ok(checkpoint) = reader(id) else {
            continue;
        };
        if !with_state {
            continue;
        }
        let id = checkpoint.metadata().id;
        let outcome = read_state(&checkpoint, &mut known, stop);
        if let Err(error) = outcome
            && error.kind() == io::ErrorKind::InvalidData
            // Its files go when it is subsumed, after its metadata.
            && reader(id).is_ok_and(|still| still.metadata().id == id)
        {
            tracing::warn!(
                "checkpoint {id}, from which this standby would go on now, is damaged: {}",
                causes(&error)
            );
        }
    }
}

/// Reads what was not read before, and keeps in mind what was.
fn read_state(
    checkpoint: &Completed,
    known: &mut BTreeSet<Part>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut now = BTreeSet::new();
    for (_, _, segment) in checkpoint.segments() {
        let part = (segment.file.clone(), segment.offset, segment.length);
        if part.0.is_some() && !known.contains(&part) {
            let mut reader = checkpoint.read(segment).map_err(io::Error::other)?;
            while reader.read(&mut piece)? > 0 {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                pause();
            }
        }
        now.insert(part);
    }
    *known = now;
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing depends on how long it is"
)]
fn pause() {
    thread::sleep(PAUSE);
}
