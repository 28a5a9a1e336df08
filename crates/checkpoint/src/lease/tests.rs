//! Two hosts and one job directory, with everything that can come in between.

mod interleaved;
mod taking;
mod watching;

pub(crate) use taking::{Clock, TIMEOUT_MS, terms};
