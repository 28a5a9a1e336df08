//! The operator's log. Messages go to the host's log with the operator's id and subtask, at once: one
//! call of the host each, so not for every record.

use std::fmt;

use crate::bindings::highwater::operator::log::Level as WitLevel;
use crate::host::Host;

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step.
    Trace,
    /// For debugging.
    Debug,
    /// Worth knowing.
    Info,
    /// A person should look at it.
    Warn,
    /// Something failed.
    Error,
}

/// Logs a message; the macros [`info!`](crate::info!) and its like are shorter.
pub fn log(level: Level, message: fmt::Arguments<'_>) {
    let level = match level {
        Level::Trace => WitLevel::Trace,
        Level::Debug => WitLevel::Debug,
        Level::Info => WitLevel::Info,
        Level::Warn => WitLevel::Warn,
        Level::Error => WitLevel::Error,
    };
    match message.as_str() {
        Some(message) => Host::log(level, message),
        None => Host::log(level, &message.to_string()),
    }
}

/// Logs a formatted message at level trace.
#[macro_export]
macro_rules! trace {
    ($($message:tt)*) => { $crate::log::log($crate::log::Level::Trace, ::std::format_args!($($message)*)) };
}

/// Logs a formatted message at level debug.
#[macro_export]
macro_rules! debug {
    ($($message:tt)*) => { $crate::log::log($crate::log::Level::Debug, ::std::format_args!($($message)*)) };
}

/// Logs a formatted message at level info.
#[macro_export]
macro_rules! info {
    ($($message:tt)*) => { $crate::log::log($crate::log::Level::Info, ::std::format_args!($($message)*)) };
}

/// Logs a formatted message at level warn.
#[macro_export]
macro_rules! warn {
    ($($message:tt)*) => { $crate::log::log($crate::log::Level::Warn, ::std::format_args!($($message)*)) };
}

/// Logs a formatted message at level error.
#[macro_export]
macro_rules! error {
    ($($message:tt)*) => { $crate::log::log($crate::log::Level::Error, ::std::format_args!($($message)*)) };
}
