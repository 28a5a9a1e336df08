//! How much one record of text may be: the caps that keep broken and hostile input from eating memory
//! and time, and the options that move them.

use job_file::problem::Problem;
use job_file::units::{self, exact_size};

use super::format::RecordFormat;

/// The longest record in bytes, unless the job file says otherwise.
const RECORD_BYTES: &str = "64MiB";
/// The most columns of CSV, unless the job file says otherwise.
const COLUMNS: u32 = 10_000;
/// The deepest JSON, unless the job file says otherwise: what most readers of JSON take.
const DEPTH: u32 = 128;

/// No job file may ask for longer records: a subtask holds a few of them in memory.
const RECORD_BYTES_MAX: u64 = 1 << 30;
/// No job file may ask for more columns: each costs some memory in every part of a job.
const COLUMNS_MAX: u32 = 1_000_000;
/// No job file may ask for deeper JSON: its readers recurse.
const DEPTH_MAX: u32 = 100_000;

/// What a record of text may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextLimits {
    /// Bytes of a record, without its line end. Of CSV also of the header.
    pub record_bytes: usize,
    /// Columns of a CSV header.
    pub columns: usize,
    /// How deep objects and lists of a JSON line are nested in each other.
    pub depth: usize,
}

impl Default for TextLimits {
    fn default() -> Self {
        let record_bytes = units::parse_size(RECORD_BYTES).unwrap_or_default();
        Self {
            record_bytes: usize::try_from(record_bytes).unwrap_or(usize::MAX),
            columns: COLUMNS as usize,
            depth: DEPTH as usize,
        }
    }
}

/// The limits as a job file writes them. The connector's options have these three as keys of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextLimitOptions {
    /// `max-record-size`
    pub record_size: Option<String>,
    /// `max-columns`
    pub columns: Option<u32>,
    /// `max-depth`
    pub depth: Option<u32>,
}

impl TextLimitOptions {
    /// The limits; what is wrong with them goes to `problems`.
    pub fn read(&self, format: Option<RecordFormat>, problems: &mut Vec<Problem>) -> TextLimits {
        let mut limits = TextLimits::default();
        match self.record_size.as_deref().map(units::parse_size) {
            None => {}
            Some(Ok(size @ 1..=RECORD_BYTES_MAX)) => {
                limits.record_bytes = usize::try_from(size).unwrap_or(usize::MAX);
            }
            Some(Ok(_)) => problems.push(Problem::new(
                "max-record-size",
                "must be between 1 byte and 1 GiB",
            )),
            Some(Err(message)) => problems.push(Problem::new("max-record-size", message)),
        }
        let mut count = |key: &str, wanted: Option<_>, max, of: RecordFormat, name: &str| {
            let wanted = wanted?;
            if format.is_some_and(|format| format != of) {
                let message = format!("has a meaning only for `format = \"{name}\"`");
                problems.push(Problem::new(key, message));
            } else if !(1..=max).contains(&wanted) {
                problems.push(Problem::new(key, format!("must be between 1 and {max}")));
            }
            Some(wanted as usize)
        };
        if let Some(columns) = count(
            "max-columns",
            self.columns,
            COLUMNS_MAX,
            RecordFormat::Csv,
            "csv",
        ) {
            limits.columns = columns;
        }
        if let Some(depth) = count(
            "max-depth",
            self.depth,
            DEPTH_MAX,
            RecordFormat::JsonLines,
            "json-lines",
        ) {
            limits.depth = depth;
        }
        limits
    }

    /// The options with every default filled in that has a meaning for the format.
    pub fn effective(&self, format: Option<RecordFormat>) -> Self {
        let only = |of, default| (format == Some(of)).then_some(default);
        Self {
            record_size: Some(
                self.record_size
                    .clone()
                    .unwrap_or_else(|| RECORD_BYTES.to_owned()),
            ),
            columns: self.columns.or(only(RecordFormat::Csv, COLUMNS)),
            depth: self.depth.or(only(RecordFormat::JsonLines, DEPTH)),
        }
    }
}

impl TextLimits {
    /// Why a record is refused that is longer than [`TextLimits::record_bytes`].
    pub fn too_long(bytes: usize) -> String {
        format!(
            "a record is longer than {} (`max-record-size` of the source)",
            exact_size(bytes as u64)
        )
    }
}

#[cfg(test)]
mod tests {
    use job_file::problem::brief;

    use super::*;

    fn problems(format: RecordFormat, options: &TextLimitOptions) -> Vec<String> {
        let mut problems = Vec::new();
        options.read(Some(format), &mut problems);
        problems.iter().map(brief).collect()
    }

    #[test]
    fn limits_are_checked_and_say_what_they_are_for() {
        let options = TextLimitOptions {
            record_size: Some("1MiB".to_owned()),
            columns: Some(7),
            depth: None,
        };
        let mut found = Vec::new();
        let limits = options.read(Some(RecordFormat::Csv), &mut found);
        assert!(found.is_empty());
        assert_eq!((limits.record_bytes, limits.columns), (1 << 20, 7));
        assert_eq!(
            problems(RecordFormat::JsonLines, &options),
            ["`max-columns`: has a meaning only for `format = \"csv\"`"]
        );
        let wrong = TextLimitOptions {
            record_size: Some("2GiB".to_owned()),
            columns: None,
            depth: Some(0),
        };
        assert_eq!(
            problems(RecordFormat::JsonLines, &wrong),
            [
                "`max-record-size`: must be between 1 byte and 1 GiB",
                "`max-depth`: must be between 1 and 100000"
            ]
        );
        assert_eq!(
            problems(RecordFormat::Lines, &TextLimitOptions::default()).len(),
            0
        );
    }

    #[test]
    fn the_effective_options_name_each_limit_that_holds() {
        let effective = TextLimitOptions::default().effective(Some(RecordFormat::Csv));
        assert_eq!(effective.record_size.as_deref(), Some("64MiB"));
        assert_eq!((effective.columns, effective.depth), (Some(10_000), None));
    }
}
