//! How a running job is asked for things: an HTTP API that every host serves on a Unix socket of its user, and the
//! client of it. It works on what implements [`Jobs`], and knows neither job files nor the runtime.
//!
//! - [`Server`] answers in the process that runs the jobs, on one thread;
//! - [`Client`] finds the hosts of the user and asks them;
//! - [`api`] is what goes over the wire, [`Directories`] where the sockets are.
//!
//! Whoever may connect may end a job, so the socket is for its user only: its directory is private, the socket is,
//! and both ends ask the system who the other is. Nothing that a client sends sizes an allocation or is kept
//! without a bound ([`Limits`]).

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::too_many_lines,
        reason = "tests start threads and read the clock"
    )
)]

pub mod api;
mod access;
mod directories;
mod flink;
mod front;
mod http;
mod log;
mod metrics;
mod operations;
#[cfg(feature = "otlp")]
mod otlp;
mod page;
mod rest;
mod server;
pub mod view;

mod client;

use api::{Failure, JobStatus, Operation, RefusedFile, Report};
use view::JobView;

pub use access::{Access, Token};
pub use client::{Client, Found, Host, Hosts, Silent};
pub use directories::Directories;
pub use log::{LogLine, RecentLog};
#[cfg(feature = "otlp")]
pub use otlp::{OtlpExporter, OtlpOptions};
pub use rest::{RestOptions, RestServer, Tls};
pub use server::{Limits, Server};

/// The jobs of a process, as the server sees them. All methods are called on the server's one thread, so they
/// return at once.
pub trait Jobs: Send + Sync + 'static {
    /// All of them, also those that have ended in this process.
    fn jobs(&self) -> Vec<JobStatus>;

    /// All of them in full.
    fn views(&self) -> Vec<JobView>;

    /// Job files that the process does not run as they stand.
    fn refused(&self) -> Vec<RefusedFile> {
        Vec::new()
    }

    /// Begins an operation on the job with this id (see [`JobStatus::id`]). Returns at once: what becomes of it is
    /// said through the ticket, also that it is refused.
    fn begin(&self, job: &str, operation: Operation, ticket: Box<dyn Ticket>);
}

/// One operation that was begun. Dropped before it has ended, it fails: the job ended first.
pub trait Ticket: Send {
    /// Says how far it is, in words for a person.
    fn progress(&self, text: &str);

    /// Ends it.
    fn finish(self: Box<Self>, outcome: Result<Report, Failure>);
}

#[cfg(test)]
mod tests;
