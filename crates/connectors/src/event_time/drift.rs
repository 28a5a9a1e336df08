//! How far the subtasks of a source are, so that none runs ahead of the others by more than `max-drift`.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use operator::SubtaskContext;
use operator::source::Waker;

/// The board of the attempt that runs.
#[derive(Default)]
pub(super) struct Boards(Mutex<Option<(u32, Arc<Board>)>>);

/// How far each subtask of an attempt is.
pub(super) struct Board(Box<[Place]>);

struct Place {
    /// The highest timestamp in the subtask's slowest active split; the highest number if none is active.
    lowest: AtomicI64,
    /// The subtask waits until the slowest of all is here; [`NOTHING`] if it does not wait.
    waits_for: AtomicI64,
    waker: Mutex<Option<Waker>>,
}

/// More than anything that a subtask waits for: what it waits for is below a timestamp.
const NOTHING: i64 = i64::MAX;

impl Boards {
    /// The board that a subtask shares with the others of its attempt.
    pub(super) fn join(&self, context: &SubtaskContext) -> Arc<Board> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let board = match &*current {
            Some((attempt, board)) if *attempt == context.attempt => Arc::clone(board),
            _ => {
                // A subtask that has not shown how far it is holds the others: all are made before any reads.
                let place = |_| Place {
                    lowest: AtomicI64::new(i64::MIN),
                    waits_for: AtomicI64::new(NOTHING),
                    waker: Mutex::default(),
                };
                let board = Arc::new(Board((0..context.parallelism).map(place).collect()));
                *current = Some((context.attempt, Arc::clone(&board)));
                board
            }
        };
        if let Some(place) = board.0.get(context.subtask as usize) {
            let mut waker = place.waker.lock().unwrap_or_else(PoisonError::into_inner);
            *waker = Some(context.waker.clone());
        }
        board
    }
}

impl Board {
    /// A subtask's slowest split is at `lowest`. Who waited for that is woken.
    pub(super) fn show(&self, subtask: usize, lowest: i64) {
        let Some(place) = self.0.get(subtask) else {
            return;
        };
        // With all accesses in one order, either we see that somebody waits, or they see how far we are.
        if place.lowest.swap(lowest, Ordering::SeqCst) == lowest {
            return;
        }
        let lowest = self.lowest();
        for place in &self.0 {
            if place.waits_for.load(Ordering::SeqCst) <= lowest {
                place.wake();
            }
        }
    }

    fn lowest(&self) -> i64 {
        let all = self.0.iter();
        let all = all.map(|place| place.lowest.load(Ordering::SeqCst));
        all.min().unwrap_or(i64::MAX)
    }

    /// How far the slowest of the other subtasks is.
    pub(super) fn lowest_but(&self, subtask: usize) -> i64 {
        let all = self.0.iter().enumerate();
        let others = all.filter(|(other, _)| *other != subtask);
        let lowest = others.map(|(_, place)| place.lowest.load(Ordering::SeqCst));
        lowest.min().unwrap_or(i64::MAX)
    }

    /// A subtask is to be woken when the slowest of all is at `wanted`.
    pub(super) fn wait_for(&self, subtask: usize, wanted: i64) {
        let Some(place) = self.0.get(subtask) else {
            return;
        };
        place.waits_for.store(wanted, Ordering::SeqCst);
        // It may have come there in between, and the one who saw to that has not seen us.
        if self.lowest_but(subtask) >= wanted {
            place.wake();
        }
    }
}

impl Place {
    fn wake(&self) {
        if self.waits_for.swap(NOTHING, Ordering::SeqCst) != NOTHING {
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waker) = &*waker {
                waker.wake();
            }
        }
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lowest = self.0.iter().map(|place| &place.lowest);
        f.debug_list().entries(lowest).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::testing::context;

    fn joined(boards: &Boards, subtask: u32, attempt: u32) -> (Arc<Board>, Arc<AtomicU32>) {
        let woken = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&woken);
        let context = SubtaskContext {
            attempt,
            waker: Waker::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            }),
            ..context(subtask, 2)
        };
        (boards.join(&context), woken)
    }

    #[test]
    fn who_waits_is_woken_once_when_the_slowest_has_come_there() {
        let boards = Boards::default();
        let (board, first) = joined(&boards, 0, 0);
        let (_, second) = joined(&boards, 1, 0);
        let woken = || (first.load(Ordering::SeqCst), second.load(Ordering::SeqCst));
        assert_eq!(board.lowest_but(0), i64::MIN, "it has not begun");
        board.show(0, 1_000);
        board.show(1, 0);
        board.wait_for(0, 500);
        board.show(1, 499);
        assert_eq!(woken(), (0, 0));
        board.show(1, 500);
        board.show(1, 600);
        assert_eq!(woken(), (1, 0));
        // It is there already.
        board.wait_for(0, 600);
        assert_eq!(woken(), (2, 0));
        // The end of the slowest, and its silence, are as far as can be.
        board.wait_for(0, 900);
        board.show(1, i64::MAX);
        assert_eq!(woken(), (3, 0));
    }

    #[test]
    fn every_attempt_begins_with_a_board_of_its_own() {
        let boards = Boards::default();
        joined(&boards, 0, 0).0.show(0, 7);
        let (board, _) = joined(&boards, 1, 1);
        assert_eq!(board.lowest_but(1), i64::MIN);
        assert!(Arc::ptr_eq(&board, &joined(&boards, 0, 1).0));
    }
}
