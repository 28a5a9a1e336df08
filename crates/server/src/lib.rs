//! How a running job is asked for things: an HTTP API that every host serves on a Unix socket of its user, and the
//! client of it. It works on what implements [`Jobs`], and knows neither job files nor the runtime.

pub mod api;

use api::{Failure, JobStatus, Operation, Report};

/// The jobs of a process, as the server sees them.
pub trait Jobs: Send + Sync + 'static {
    /// All of them, also those that have ended in this process.
    fn jobs(&self) -> Vec<JobStatus>;

    /// Begins an operation on the job with this id (see [`JobStatus::id`]). Returns at once: what becomes of it is
    /// said through the ticket.
    fn begin(&self, job: &str, operation: Operation, ticket: Box<dyn Ticket>);
}

/// One operation that was begun. Dropped before it has ended, it fails: the job ended first.
pub trait Ticket: Send {
    /// Says how far it is, in words for a person.
    fn progress(&self, text: &str);

    /// Ends it.
    fn finish(self: Box<Self>, outcome: Result<Report, Failure>);
}
