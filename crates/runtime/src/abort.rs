//! Why a checkpoint was given up, and whether that counts against the job.
//!
//! The kinds are those of Flink's `CheckpointFailureReason`, as far as they can happen here. A kind
//! counts against `tolerable-failures` if it says something of the storage or of the pace: then more
//! of the same is to be expected, and nothing new is safe meanwhile. One that is but the consequence of
//! something else (the job failed or was stopped, a newer checkpoint is complete) does not.
//! `docs/checkpoints.md` has the table.

use std::fmt;

/// What kind of thing made a checkpoint be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It was not complete within `checkpoint.timeout`.
    Expired,
    /// A subtask could not take its snapshot: a source could not give its position, or a sink could
    /// not prepare its output. The job fails of it too.
    Declined,
    /// A subtask had to wait for a writer and there was no room to wait: writing earlier checkpoints
    /// has not caught up.
    WritersBusy,
    /// The state of a subtask could not be written.
    UploadFailed,
    /// The state of a subtask is larger than the storage takes.
    StateTooLarge,
    /// The metadata could not be written, or something stood in its place already.
    MetadataFailed,
    /// The checkpoint that it builds on is gone from the storage. The next one is a full one.
    BaseLost,
    /// The storage did not let it begin.
    BeginFailed,
    /// A newer one is complete.
    Subsumed,
    /// The job failed while it was in progress.
    JobFailed,
    /// The job was stopped while it was in progress.
    JobStopped,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Expired,
        Self::Declined,
        Self::WritersBusy,
        Self::UploadFailed,
        Self::StateTooLarge,
        Self::MetadataFailed,
        Self::BaseLost,
        Self::BeginFailed,
        Self::Subsumed,
        Self::JobFailed,
        Self::JobStopped,
    ];

    /// Its name for programs, which never changes.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Declined => "declined",
            Self::WritersBusy => "writers-busy",
            Self::UploadFailed => "upload-failed",
            Self::StateTooLarge => "state-too-large",
            Self::MetadataFailed => "metadata-failed",
            Self::BaseLost => "base-lost",
            Self::BeginFailed => "begin-failed",
            Self::Subsumed => "subsumed",
            Self::JobFailed => "job-failed",
            Self::JobStopped => "job-stopped",
        }
    }

    /// Whether it counts against `checkpoint.tolerable-failures`.
    #[must_use]
    pub fn counts(self) -> bool {
        match self {
            Self::Expired
            | Self::WritersBusy
            | Self::UploadFailed
            | Self::StateTooLarge
            | Self::MetadataFailed
            | Self::BaseLost
            | Self::BeginFailed => true,
            // A snapshot that could not be taken fails the job by itself, once.
            Self::Declined | Self::Subsumed | Self::JobFailed | Self::JobStopped => false,
        }
    }
}

/// Why a checkpoint was given up: for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The kind of thing that happened.
    pub kind: Kind,
    /// What happened, in words.
    pub text: String,
}

impl Reason {
    /// A reason.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    /// There was no room in the writers' queue.
    pub(crate) fn writers_busy() -> Self {
        Self::new(
            Kind::WritersBusy,
            "writing earlier checkpoints has not caught up",
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_code_of_its_own() {
        let codes: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
    }

    #[test]
    fn c23_what_only_follows_from_something_else_does_not_count() {
        let not_counted: Vec<&str> = Kind::ALL
            .iter()
            .filter(|kind| !kind.counts())
            .map(|kind| kind.code())
            .collect();
        assert_eq!(
            not_counted,
            ["declined", "subsumed", "job-failed", "job-stopped"]
        );
    }

    /// The table that users read has every code, and says of each whether it counts.
    #[test]
    fn the_documents_list_every_kind() {
        let text = include_str!("../../../docs/checkpoints.md");
        for kind in Kind::ALL {
            let counts = if kind.counts() { "yes" } else { "no" };
            let row = format!("| `{}` | {counts} |", kind.code());
            assert!(text.contains(&row), "docs/checkpoints.md lacks `{row}`");
        }
    }
}
