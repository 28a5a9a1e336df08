//! What happens to a job's checkpoints when it ends.

use job_file::checkpoint::{CheckpointSection, Retention};

/// How a job ended, as far as it decides what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All input was processed.
    Finished,
    /// It was cancelled.
    Cancelled,
    /// It failed and is not restarted.
    Failed,
    /// It was suspended, or never began: it is to go on.
    Suspended,
    /// It was stopped at a checkpoint: it may go on.
    Stopped,
}

/// Whether the newest checkpoints are kept.
pub(crate) fn keeps(section: &CheckpointSection, ending: Ending) -> bool {
    match (ending, section.retention) {
        (Ending::Suspended | Ending::Stopped, _) => true,
        (Ending::Finished, _) => section.retain_on_finish,
        (_, Retention::NoExternalized) => false,
        (Ending::Cancelled, Retention::DeleteOnCancellation) => false,
        (Ending::Failed, Retention::DeleteOnCancellation) => true,
        (_, Retention::RetainOnCancellation) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c32_to_c35_what_is_kept_by_policy_and_ending() {
        use Ending::{Cancelled, Failed, Finished, Stopped, Suspended};
        let cases: [(Retention, &[Ending]); 3] = [
            (Retention::NoExternalized, &[Suspended, Stopped]),
            (
                Retention::DeleteOnCancellation,
                &[Failed, Suspended, Stopped],
            ),
            (
                Retention::RetainOnCancellation,
                &[Cancelled, Failed, Suspended, Stopped],
            ),
        ];
        for (retention, kept) in cases {
            let section = CheckpointSection {
                retention,
                ..CheckpointSection::default()
            };
            for ending in [Finished, Cancelled, Failed, Suspended, Stopped] {
                assert_eq!(
                    keeps(&section, ending),
                    kept.contains(&ending),
                    "{retention:?} {ending:?}"
                );
            }
            let section = CheckpointSection {
                retain_on_finish: true,
                ..section
            };
            assert!(keeps(&section, Finished), "{retention:?}");
        }
    }
}
