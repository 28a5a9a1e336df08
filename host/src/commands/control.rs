//! The commands that ask a running host: which jobs there are, how one is, and what it is to do.
//!
//! What a job, a directory or a sink is called comes from outside: a person gets it through [`operator::text`]; JSON
//! has it as it is.

mod operation;
mod report;
mod status;
mod top;

pub(crate) use operation::{cancel, checkpoint, interval, rescale, savepoint, stop};
pub(crate) use status::{list, status};
pub(crate) use top::top;

use server::api::{Code, Failure};
use server::{Client, Found};

use crate::cli::RunningJob;
use crate::exit::{Error, Exit};

/// The job that the command line names. Nothing was asked of it yet, so what is wrong is a refusal.
fn find(wanted: &RunningJob) -> Result<Found, Error> {
    let found = Client::new().and_then(|client| client.find(&wanted.job, wanted.process));
    found.map_err(|failure| match failure.code {
        // It may be there.
        Code::Lost => failed(failure),
        _ => refused(failure),
    })
}

fn refused(failure: Failure) -> Error {
    error(Exit::Refused, failure)
}

/// The error of an operation that was not done.
fn failed(failure: Failure) -> Error {
    let exit = match failure.code {
        Code::BadRequest | Code::NotFound | Code::Conflict | Code::Busy | Code::Forbidden => {
            Exit::Refused
        }
        Code::Failed | Code::Ended | Code::Lost => Exit::Failed,
    };
    error(exit, failure)
}

fn error(exit: Exit, failure: Failure) -> Error {
    let error = Error::with(exit, anyhow::anyhow!(failure.message));
    match failure.hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_and_failed_is_one_code_and_what_was_refused_another() {
        for (code, exit) in [
            (Code::Conflict, Exit::Refused),
            (Code::NotFound, Exit::Refused),
            (Code::BadRequest, Exit::Refused),
            (Code::Failed, Exit::Failed),
            (Code::Ended, Exit::Failed),
            (Code::Lost, Exit::Failed),
        ] {
            let error = failed(Failure::new(code, "no\u{1b}[2J").hint("a\nb"));
            assert_eq!(error.exit(), exit, "{code:?}");
            assert_eq!(error.to_string(), "error: no\\u{1b}[2J\n  hint: a\\nb");
        }
    }
}
