//! The newest lines of a host's log, for the web page.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// How many lines are kept.
const LINES_MAX: usize = 500;

/// The bytes of a line that are kept. A guest's backtrace is a line here, line breaks and all.
const LINE_BYTES_MAX: usize = 4096;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written, in milliseconds since 1970.
    pub at: i64,
    /// `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`.
    pub level: String,
    /// What it says.
    pub text: String,
    /// How often it was said, since the lines before it.
    pub count: u64,
}

/// Keeps the newest lines: at most 500, of 4 KiB each.
#[derive(Debug, Default)]
pub struct RecentLog {
    lines: Mutex<VecDeque<LogLine>>,
}

impl RecentLog {
    /// Without a line.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lines: Mutex::new(VecDeque::new()),
        }
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<LogLine>> {
        // Nothing in there can panic halfway.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line. One that says the same as another takes its place, so that what is said again and again, as by an
    /// operator that panics at each bad record, does not push out all others. If there are too many, the oldest one goes.
    pub fn push(&self, at: i64, level: &str, text: &str) {
        // Its line breaks are ours.
        let text = operator::text::lines(text);
        let end = text.floor_char_boundary(LINE_BYTES_MAX);
        let rest = if end < text.len() { "…" } else { "" };
        let mut line = LogLine {
            at,
            level: level.to_owned(),
            text: format!("{}{rest}", &text[..end]),
            count: 1,
        };
        let mut lines = self.locked();
        let is_same = |it: &LogLine| it.level == line.level && it.text == line.text;
        // The newest first: what is repeated was mostly said a moment ago.
        if let Some(same) = lines
            .iter()
            .rposition(is_same)
            .and_then(|at| lines.remove(at))
        {
            line.count += same.count;
        }
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The lines, the oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<LogLine> {
        self.locked().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_is_one_line() {
        let log = RecentLog::new();
        for at in 0..4 {
            log.push(at, "ERROR", "panicked");
            log.push(at, "INFO", &format!("line {}", at / 2));
        }
        let lines = log.lines();
        let shown: Vec<_> = lines
            .iter()
            .map(|it| (it.at, it.text.as_str(), it.count))
            .collect();
        assert_eq!(
            shown,
            [(1, "line 0", 2), (3, "panicked", 4), (3, "line 1", 2)]
        );
    }

    #[test]
    fn the_newest_lines_are_kept_and_long_ones_cut() {
        let log = RecentLog::new();
        for number in 0..LINES_MAX as i64 + 3 {
            log.push(number, "INFO", &format!("line {number}"));
        }
        log.push(1000, "WARN", &"x".repeat(LINE_BYTES_MAX * 2));
        let lines = log.lines();
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines[0].text, "line 4");
        let last = &lines[LINES_MAX - 1];
        assert_eq!((last.at, last.level.as_str()), (1000, "WARN"));
        assert_eq!(last.text.len(), LINE_BYTES_MAX + '…'.len_utf8());
    }
}
