//! Batches that were used, for their memory.
//!
//! A batch that has been consumed is emptied and filled again by the maker of the next one: in the same
//! subtask, or in the one at the other end of a channel, which returns what it does not need. So in the
//! steady state no batch is allocated.

use dataflow::Batch;

/// How many batches a subtask keeps: what its members and its channels' ends may need at a time.
const KEPT: usize = 8;

/// Batches larger than this are not kept.
const BYTES_MAX: usize = 4 * Batch::TARGET_BYTES;

/// The spare batches of a subtask, all empty.
#[derive(Debug, Default)]
pub(crate) struct Spares(Vec<Batch>);

impl Spares {
    /// An empty batch.
    pub(crate) fn take(&mut self) -> Batch {
        self.0.pop().unwrap_or_default()
    }

    /// Keeps a batch that nobody needs any more.
    pub(crate) fn give(&mut self, mut batch: Batch) {
        if self.0.len() < KEPT && (1..=BYTES_MAX).contains(&batch.capacity_bytes()) {
            batch.clear();
            self.0.push(batch);
        }
    }

    /// A batch for others, if there are many.
    pub(crate) fn surplus(&mut self) -> Option<Batch> {
        if self.0.len() > KEPT / 2 {
            self.0.pop()
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(bytes: usize) -> Batch {
        let mut batch = Batch::default();
        batch.push(Some(b"key"), &vec![0; bytes], 7);
        batch
    }

    #[test]
    fn a_batch_is_empty_when_it_comes_back_and_few_are_kept() {
        let mut spares = Spares::default();
        for _ in 0..3 * KEPT {
            spares.give(used(100));
        }
        assert_eq!(spares.0.len(), KEPT);
        while spares.surplus().is_some() {}
        assert_eq!(spares.0.len(), KEPT / 2);
        let batch = spares.take();
        assert_eq!(batch, Batch::default());
        assert!(batch.capacity_bytes() >= 100);
    }

    #[test]
    fn what_holds_nothing_or_far_too_much_is_not_kept() {
        let mut spares = Spares::default();
        spares.give(Batch::default());
        spares.give(used(BYTES_MAX + 1));
        assert!(spares.0.is_empty());
    }
}
