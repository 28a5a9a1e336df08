//! What a source does whose input is not what it was when the position was recorded.

use operator::InputChanged;
use serde::{Deserialize, Serialize};

/// What to do about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Changed {
    /// Nothing is started, and every difference is named.
    #[default]
    Refuse,
    /// Continue at the same position of the changed input, with a warning: records may be lost or
    /// doubled.
    Accept,
}

/// How many differences are named.
const SHOWN: usize = 8;

/// The error of a source that refuses: what differs, and what the user can do. `put_back` says how
/// to get the old input.
pub(crate) fn refused(source: &str, mut differences: Vec<String>, put_back: &str) -> InputChanged {
    let more = differences.len().saturating_sub(SHOWN);
    if more > 0 {
        differences.truncate(SHOWN);
        differences.push(format!("and {more} more"));
    }
    InputChanged {
        differences,
        choices: format!(
            "{put_back}; or go on with the input as it is by `-D source.{source}.changed=accept` \
             (records may then be lost or doubled); or start afresh with `--fresh`"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_differences_are_named() {
        let differences = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(refused("s", differences(8), "x").differences.len(), 8);
        let changed = refused("s", differences(10), "put it back");
        assert_eq!(changed.differences.len(), 9);
        assert_eq!(changed.differences[8], "and 2 more");
        assert!(changed.choices.starts_with("put it back; or"));
        assert!(changed.choices.contains("-D source.s.changed=accept"));
    }
}
