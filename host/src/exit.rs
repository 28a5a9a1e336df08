//! How the process ends: the exit codes that scripts and service managers rely on, and the errors
//! that lead to them.

pub(crate) use runtime::error::causes;

use std::fmt;
use std::process::ExitCode;

use job_file::problem::Problems;
use operator::text::line;

/// The exit codes. They are part of the command line's contract. What is worse is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Finished, or stopped, cancelled or suspended as asked.
    Finished = 0,
    /// The job failed.
    Failed = 1,
    /// Refused before any record was processed: arguments, job file, component, checkpoint.
    Refused = 2,
    /// The checkpoint is corrupt, and no fallback was allowed.
    Corrupt = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ends with another code than 0.
#[derive(Debug)]
pub(crate) enum Error {
    /// Things that are wrong with a job file and what it names.
    Problems {
        /// The code: 2, unless records were processed before it showed.
        exit: Exit,
        /// All of them.
        problems: Problems,
    },
    /// Anything else.
    Other {
        /// The code.
        exit: Exit,
        /// What happened, with its causes.
        error: anyhow::Error,
        /// Each thing that is wrong, where there are several.
        details: Vec<String>,
        /// What may mend it.
        hints: Vec<String>,
    },
}

impl Error {
    /// Nothing was processed, because of this.
    pub(crate) fn refused(error: impl Into<anyhow::Error>) -> Self {
        Self::with(Exit::Refused, error)
    }

    /// The job failed, because of this.
    pub(crate) fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self::with(Exit::Failed, error)
    }

    /// An error with this code.
    pub(crate) fn with(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self::Other {
            exit,
            error: error.into(),
            details: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// An error of the checkpoint crate, while `action` was being done before the start.
    pub(crate) fn checkpoint(error: checkpoint::Error, action: impl fmt::Display) -> Self {
        let exit = match error {
            checkpoint::Error::Corrupt { .. } => Exit::Corrupt,
            _ => Exit::Refused,
        };
        Self::with(exit, anyhow::Error::new(error).context(action.to_string()))
    }

    /// The error with one more thing that is wrong.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        if let Self::Other { details, .. } = &mut self {
            details.push(detail.into());
        }
        self
    }

    /// The error with one more hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Other { hints, .. } = &mut self {
            hints.push(hint.into());
        }
        self
    }

    /// The code to exit with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Problems { exit, .. } | Self::Other { exit, .. } => *exit,
        }
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::Problems {
            exit: Exit::Refused,
            problems,
        }
    }
}

impl fmt::Display for Error {
    /// The whole report, as it goes to the terminal: the chain of causes in one line, details and hints
    /// on lines of their own. All line breaks are ours (see [`operator::text`]).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problems { problems, .. } => problems.fmt(f),
            Self::Other {
                error,
                details,
                hints,
                ..
            } => {
                write!(f, "error: {}", causes(error.as_ref()))?;
                for detail in details {
                    write!(f, "\n  {}", line(detail))?;
                }
                for hint in hints {
                    write!(f, "\n  hint: {}", line(hint))?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_told_once_with_its_hints() {
        let error = anyhow::anyhow!("no such file")
            .context("opening a.wasm")
            .context("opening a.wasm: no such file");
        let error = Error::refused(error).hint("build it");
        assert_eq!(
            error.to_string(),
            "error: opening a.wasm: no such file\n  hint: build it"
        );
        assert_eq!(error.exit(), Exit::Refused);
    }

    #[test]
    fn c151_no_cause_detail_or_hint_has_line_breaks_of_its_own() {
        let error =
            anyhow::anyhow!("state `a\nerror: b\u{202e}` is gone").context("restoring \u{1b}[2J");
        let error = Error::refused(error).detail("x\ny").hint("do\nthis");
        assert_eq!(
            error.to_string(),
            "error: restoring \\u{1b}[2J: state `a\\nerror: b\\u{202e}` is gone\n  x\\ny\n  hint: do\\nthis"
        );
    }
}
