//! How far an attempt is with reading the state that it goes on from.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use checkpoint::store::Completed;

use crate::graph::{JobGraph, NodeKind};
use crate::report::RestoreProgress;

/// What an attempt has to read, and has read. Its subtasks count together.
#[derive(Debug, Default)]
pub(crate) struct Restoring {
    began_at: i64,
    total_bytes: u64,
    read_bytes: AtomicU64,
}

impl Restoring {
    /// Of an attempt that begins now.
    pub(crate) fn new(graph: &JobGraph, checkpoint: Option<&Completed>, now_ms: i64) -> Self {
        Self {
            began_at: now_ms,
            total_bytes: checkpoint.map_or(0, |checkpoint| bytes(graph, checkpoint)),
            read_bytes: AtomicU64::new(0),
        }
    }

    /// `None`: there is nothing to read.
    pub(crate) fn progress(&self) -> Option<RestoreProgress> {
        (self.total_bytes > 0).then(|| RestoreProgress {
            began_at: self.began_at,
            total_bytes: self.total_bytes,
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
        })
    }

    /// What counts in `self` what is read from the stored bytes of `segment`.
    pub(crate) fn counted<R: Read>(self: &Arc<Self>, stored: u64, from: R) -> Counted<R> {
        Counted {
            from,
            left: stored,
            restoring: Arc::clone(self),
        }
    }
}

/// Bytes of keyed state that the subtasks of a graph read from a checkpoint, as they are stored: those that two of them
/// have a part of count twice.
fn bytes(graph: &JobGraph, checkpoint: &Completed) -> u64 {
    let Ok(groups) = checkpoint.key_groups() else {
        // It is found to be damaged by whoever reads it.
        return 0;
    };
    let mut total = 0_u64;
    for node in &graph.nodes {
        let NodeKind::Operator(_) = &node.kind else {
            continue;
        };
        let Some(operator) = checkpoint.operator(&node.id) else {
            continue;
        };
        let parallelism = u32::try_from(operator.subtasks.len()).unwrap_or(u32::MAX);
        for (old, subtask) in (0..).zip(&operator.subtasks) {
            let stored = subtask.segments.iter().map(|segment| segment.length);
            let stored = stored.fold(0, u64::saturating_add);
            let range = groups.range_of(old, parallelism);
            let readers = (0..node.parallelism)
                .filter(|new| groups.range_of(*new, node.parallelism).overlaps(range));
            total = total.saturating_add(stored.saturating_mul(readers.count() as u64));
        }
    }
    total
}

/// Counts what is read. What it gives may be larger than what is stored, because that is compressed: then the rest
/// counts when it is dropped.
pub(crate) struct Counted<R> {
    from: R,
    /// Stored bytes that have not been counted.
    left: u64,
    restoring: Arc<Restoring>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        let counts = self.left.min(read as u64);
        self.left -= counts;
        self.restoring
            .read_bytes
            .fetch_add(counts, Ordering::Relaxed);
        Ok(read)
    }
}

impl<R> Drop for Counted<R> {
    fn drop(&mut self) {
        let left = self.left;
        self.restoring.read_bytes.fetch_add(left, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_counted_up_to_what_is_stored() {
        let restoring = Arc::new(Restoring {
            total_bytes: 30,
            ..Restoring::default()
        });
        let read = || restoring.progress().map(|it| it.read_bytes);
        let mut larger = restoring.counted(10, &[0; 25][..]);
        let mut to = [0; 8];
        assert_eq!((larger.read(&mut to).ok(), read()), (Some(8), Some(8)));
        assert_eq!((larger.read(&mut to).ok(), read()), (Some(8), Some(10)));
        drop(larger);
        assert_eq!(read(), Some(10));
        let smaller = restoring.counted(20, &[0; 5][..]);
        drop(smaller);
        assert_eq!(read(), Some(30));
        assert_eq!(Restoring::default().progress(), None);
    }
}
