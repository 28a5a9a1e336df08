//! For whom: connectors whose other side is text. Lines, CSV and JSON lines become batches, and batches become
//! text again.
//!
//! This crate answers: which bytes are a record, what of it is its key and its event time, and how it is
//! written. It opens nothing: a connector hands it a stream or takes its text.
//!
//! Modules in reading order.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_macros,
        clippy::too_many_lines,
        reason = "tests wait, print and measure"
    )
)]

mod format;
pub mod text_limits;
pub mod timestamp;
pub mod read_as;
pub mod plan;

pub mod compression;
pub mod blocks;
pub mod outcome;
mod json_fields;
pub mod csv_rows;
pub mod decoder;

pub mod encoder;

pub use format::RecordFormat;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
