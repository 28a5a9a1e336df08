//! The operations that were begun, by job and request id: so that one is begun once, however often it is asked for,
//! and its outcome can be asked for later.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::Ticket;
use crate::api::{Code, Failure, OperationState, OperationStatus, Report, Request};

/// How soon a client that was answered "in progress" asks again. One that does not has gone. Flink's client waits for up
/// to two seconds, on a machine with much to do for longer.
const RETURN_MAX: Duration = Duration::from_secs(4);

/// The operations of all jobs of a process.
#[derive(Debug)]
pub(crate) struct Operations {
    max: usize,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    entries: HashMap<Key, Arc<Entry>>,
    /// The keys of all entries, oldest first.
    order: VecDeque<Key>,
}

/// A job's id and a request's.
type Key = (String, String);

/// One operation.
#[derive(Debug)]
pub(crate) struct Entry {
    status: watch::Sender<OperationStatus>,
    /// Until when a client is expected that has heard "in progress" and wants to know more.
    expected: Mutex<Option<Instant>>,
}

/// What a request has come to.
pub(crate) enum Entered {
    /// A new operation. It is begun with the ticket.
    New(Arc<Entry>, Box<dyn Ticket>),
    /// One that was begun before.
    Known(Arc<Entry>),
}

impl Operations {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            book: Mutex::default(),
        }
    }

    /// The operation of this request: a new one, or the one that has its id.
    ///
    /// # Errors
    /// The id is another operation's, or too many operations are in progress.
    pub(crate) fn enter(&self, job: &str, request: Request) -> Result<Entered, Failure> {
        let mut book = locked(&self.book);
        let key = (job.to_owned(), request.request_id.clone());
        if let Some(entry) = book.entries.get(&key) {
            let status = entry.status.borrow();
            if status.operation == request.operation {
                return Ok(Entered::Known(Arc::clone(entry)));
            }
            let message = format!(
                "request id `{}` is that of another operation ({})",
                request.request_id,
                status.operation.word()
            );
            let failure = Failure::new(Code::Conflict, message);
            return Err(failure.hint("use a fresh id for every operation"));
        }
        book.make_room(self.max)?;
        let entry = Arc::new(Entry {
            status: watch::Sender::new(OperationStatus {
                request_id: request.request_id,
                job: job.to_owned(),
                operation: request.operation,
                version: 0,
                state: OperationState::InProgress {
                    progress: "begun".to_owned(),
                },
            }),
            expected: Mutex::new(None),
        });
        book.entries.insert(key.clone(), Arc::clone(&entry));
        book.order.push_back(key);
        let ticket = Box::new(Handle(Arc::clone(&entry)));
        Ok(Entered::New(entry, ticket))
    }

    pub(crate) fn find(&self, job: &str, request_id: &str) -> Option<Arc<Entry>> {
        let key = (job.to_owned(), request_id.to_owned());
        locked(&self.book).entries.get(&key).cloned()
    }

    /// Ends all that are in progress: the process ends.
    pub(crate) fn end_all(&self) {
        for entry in locked(&self.book).entries.values() {
            let message = "the host ended before the operation did";
            entry.end(Err(Failure::new(Code::Ended, message)));
        }
    }

    /// Until when clients are expected that wait for an outcome and are not connected now.
    pub(crate) fn expected_until(&self) -> Option<Instant> {
        let book = locked(&self.book);
        let expected = book.entries.values();
        expected.filter_map(|entry| *locked(&entry.expected)).max()
    }
}

impl Book {
    /// Forgets the oldest operation that has ended, if there are `max` already.
    fn make_room(&mut self, max: usize) -> Result<(), Failure> {
        if self.order.len() < max {
            return Ok(());
        }
        let ended = self.order.iter().position(|key| {
            let entry = self.entries.get(key);
            entry.is_none_or(|entry| entry.status.borrow().state.has_ended())
        });
        let forgotten = ended.and_then(|index| self.order.remove(index));
        let Some(key) = forgotten else {
            let message = format!("{max} operations are in progress, and no more can be");
            return Err(Failure::new(Code::Busy, message).hint("wait until one has ended"));
        };
        self.entries.remove(&key);
        Ok(())
    }
}

impl Entry {
    /// How far it is, once it is further than `seen` or has ended, at the latest after `wait`.
    pub(crate) async fn wait(&self, seen: Option<u64>, wait: Duration) -> OperationStatus {
        let mut receiver = self.status.subscribe();
        let is_news =
            |status: &OperationStatus| Some(status.version) != seen || status.state.has_ended();
        // Neither can the sender go, nor does it matter which of the two it was.
        let _ = timeout(wait, receiver.wait_for(is_news)).await;
        let status = receiver.borrow().clone();
        let is_expected = !wait.is_zero() && !status.state.has_ended();
        *locked(&self.expected) = is_expected.then(|| Instant::now() + RETURN_MAX);
        status
    }

    /// How far it is now. Whoever hears that it is in progress asks again.
    pub(crate) fn now(&self) -> OperationStatus {
        let status = self.status.borrow().clone();
        let is_expected = !status.state.has_ended();
        *locked(&self.expected) = is_expected.then(|| Instant::now() + RETURN_MAX);
        status
    }

    /// Whoever has begun it asks what became of it.
    pub(crate) fn expect_client(&self) {
        *locked(&self.expected) = Some(Instant::now() + RETURN_MAX);
    }

    fn change(&self, state: OperationState) {
        self.status.send_if_modified(|status| {
            // What has ended stays so: the host may have given it up before the ticket came.
            if status.state.has_ended() {
                return false;
            }
            status.version += 1;
            status.state = state;
            true
        });
    }

    fn end(&self, outcome: Result<Report, Failure>) {
        self.change(match outcome {
            Ok(report) => OperationState::Done {
                report: Box::new(report),
            },
            Err(error) => OperationState::Failed { error },
        });
    }
}

/// The ticket of an operation.
struct Handle(Arc<Entry>);

impl Ticket for Handle {
    fn progress(&self, text: &str) {
        self.0.change(OperationState::InProgress {
            progress: text.to_owned(),
        });
    }

    fn finish(self: Box<Self>, outcome: Result<Report, Failure>) {
        self.0.end(outcome);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nothing happens if it was finished.
        let message = "the job ended before the operation did";
        self.0.end(Err(Failure::new(Code::Ended, message)));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Operation;

    fn request(id: &str) -> Request {
        Request {
            request_id: id.to_owned(),
            operation: Operation::Checkpoint,
        }
    }

    fn begin(operations: &Operations, id: &str) -> Box<dyn Ticket> {
        match operations.enter("job", request(id)) {
            Ok(Entered::New(_, ticket)) => ticket,
            Ok(Entered::Known(_)) => panic!("`{id}` is known"),
            Err(failure) => panic!("{failure}"),
        }
    }

    #[test]
    fn what_has_ended_is_forgotten_first_and_what_is_in_progress_never() {
        let operations = Operations::new(3);
        let _first = begin(&operations, "1");
        begin(&operations, "2").finish(Ok(Report::default()));
        let third = begin(&operations, "3");
        let _fourth = begin(&operations, "4");
        assert!(operations.find("job", "2").is_none());
        let refused = operations.enter("job", request("5")).err().unwrap();
        assert_eq!(refused.code, Code::Busy);
        // What is known is answered all the same.
        assert!(matches!(
            operations.enter("job", request("1")),
            Ok(Entered::Known(_))
        ));
        drop(third);
        let _fifth = begin(&operations, "5");
        assert!(operations.find("job", "1").is_some());
        assert!(operations.find("job", "3").is_none());
    }

    #[test]
    fn an_outcome_stays_what_it_was() {
        let operations = Operations::new(3);
        let ticket = begin(&operations, "1");
        operations.end_all();
        ticket.finish(Ok(Report::default()));
        let entry = operations.find("job", "1").unwrap();
        let status = entry.status.borrow();
        let OperationState::Failed { error } = &status.state else {
            panic!("{status:?}")
        };
        assert_eq!((error.code, status.version), (Code::Ended, 1));
    }
}
