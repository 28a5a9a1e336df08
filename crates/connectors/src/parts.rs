//! What a checkpoint holds of a source or sink, in words, without the job that wrote it.
//!
//! A checkpoint does not say which connector a source or sink had, but what each records has a shape of its
//! own. What has none that this version knows is shown as it is, as much of it as a person reads.

use operator::source::Part;
use operator::text::{grouped, name};

use super::file_sink::prepared::describe_prepared;
use super::{file_source, generator, stdin};

/// How many parts of an unknown kind are shown.
const UNKNOWN_SHOWN: usize = 3;

/// What a source has read, or from where it continues: one line; of an unknown source several. None of a
/// source without a position. All text is escaped and bounded.
pub fn positions(parts: &[Part]) -> Vec<String> {
    let known = [
        file_source::describe_position,
        generator::describe_position,
        stdin::describe_position,
    ];
    described(parts, &known)
}

/// What a sink has prepared, likewise.
pub fn prepared(parts: &[Part]) -> Vec<String> {
    described(parts, &[describe_prepared])
}

/// What to say of a sink that cannot take what the checkpoint has prepared for it.
pub(crate) fn of_another_connector(parts: &[Part]) -> String {
    let it = prepared(parts).into_iter().next().unwrap_or_default();
    format!(
        "the checkpoint has prepared output of another connector for this sink ({it}), which would be lost: \
         change the connector back, or give the new sink an `id` of its own and start with `-n`, which \
         publishes what is in files and drops the rest"
    )
}

/// Puts the parts of one kind into words; `None` if they are of another.
type Describe = fn(&[Part]) -> Option<String>;

fn described(parts: &[Part], known: &[Describe]) -> Vec<String> {
    if parts.is_empty() {
        return Vec::new();
    }
    if let Some(text) = known.iter().find_map(|describe| describe(parts)) {
        return vec![name(&text).into_owned()];
    }
    let shown = parts.iter().take(UNKNOWN_SHOWN);
    let mut lines: Vec<String> = shown
        .map(|part| name(&part.to_string()).into_owned())
        .collect();
    if let Some(more @ 1..) = parts.len().checked_sub(UNKNOWN_SHOWN) {
        lines.push(format!(
            "and {} more (`--json` shows all)",
            grouped(more as u64)
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn positions_are_in_words_and_bounded() {
        let reading = json!({"reading": {
            "file": "in/b.csv", "start": 0, "end": 99_999, "offset": 12_345, "records": 1_500, "lines": 9,
        }});
        let pending: Vec<_> = (0..1000)
            .map(|n| json!([format!("in/c{n:04}"), 0, 5]))
            .collect();
        let files: Vec<_> = (0..1002)
            .map(|n| json!([format!("in/{n}"), 5, 1, 1, null]))
            .collect();
        let parts = [
            json!({"done": [["in/a.csv", 0, 7, 2, 0, 7, 5]]}),
            json!({"pending": pending}),
            json!({"files": files}),
            reading.clone(),
        ];
        assert_eq!(
            positions(&parts),
            ["1,502 records read, 1 of 1,002 files done, continues in in/b.csv at byte 12,345"]
        );
        assert_eq!(
            positions(&[json!({"splits": [[0, 1], [1, 1999]]})]),
            ["continues after 2,000 generated records"]
        );
        assert_eq!(
            positions(&[json!({"records": 1})]),
            ["stdin cannot be read again: continues after 1 record with what comes now"]
        );
        assert_eq!(positions(&[]), [""; 0]);
        let odd: Vec<_> = (0..5)
            .map(|n| json!({"offset": n, "\u{1b}[2J": "x".repeat(9000)}))
            .collect();
        let lines = positions(&odd);
        assert_eq!(lines.len(), 4);
        assert!(
            lines
                .iter()
                .all(|line| line.len() < 600 && !line.contains('\u{1b}'))
        );
        assert_eq!(lines[3], "and 2 more (`--json` shows all)");
    }

    #[test]
    fn prepared_files_are_counted() {
        let file = |counter: u32, records: u64| {
            json!({
                "staging": format!(".highwater/place/a0-s0000-{counter:06}.csv.pending"),
                "file": format!("part-4f71dcd192b7-c000001-g1-a0-s0000-{counter:06}.csv"),
                "bytes": 1024, "records": records, "checkpoint": 1,
            })
        };
        assert_eq!(prepared(&[file(0, 1)]), ["1 file with 1 record, 1.0 KiB"]);
        assert_eq!(
            prepared(&[file(0, 1), file(1, 1_000)]),
            ["2 files with 1,001 records, 2.0 KiB"]
        );
        assert_eq!(prepared(&[json!(7)]), ["7"]);
    }
}
