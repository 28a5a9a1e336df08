//! The right answers, from something that shares no code with what is tested: awk over the very files
//! that the job reads, and for small inputs a few lines of Rust.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;

use crate::plugins::root;
use crate::scene::visible_files;

/// Counts words as `word,count`: without the first field of each line, in lower case, cut at
/// whatever is not a letter. The line that `examples/word-count/README.md` shows.
const WORD_COUNT: &str = r#"{ $1 = ""; $0 = tolower($0); gsub(/[^a-z]+/, " "); for (i = 1; i <= NF; i++) n[$i]++ } END { for (w in n) print w "," n[w] }"#;

/// Sums flights up as `carrier,origin,flights,cancelled,mean_delay,worst_delay`. The lines that
/// `examples/flight-delays/README.md` shows.
const FLIGHT_DELAYS: &str = r#"
$1 == "year"    { next }
                { k = $10 "," $13; n[k]++ }
$6 == "NA"      { cancelled[k]++; next }
                { sum[k] += $6; flown[k]++; if (!(k in worst) || $6 > worst[k]) worst[k] = $6 }
END { for (k in n) if (flown[k]) printf "%s,%d,%d,%.2f,%d\n", k, n[k], cancelled[k], sum[k] / flown[k], worst[k]
                   else printf "%s,%d,%d,,\n", k, n[k], cancelled[k] }"#;

/// What awk counts in the text files of a directory, sorted.
pub(crate) fn word_count(input: &Path) -> Vec<String> {
    awk(WORD_COUNT, &[], input)
}

/// What awk finds in the flight files of a directory, sorted.
pub(crate) fn flight_delays(input: &Path) -> Vec<String> {
    awk(FLIGHT_DELAYS, &["-F", ","], input)
}

fn awk(program: &str, arguments: &[&str], input: &Path) -> Vec<String> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(input)
        .expect("there is input")
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    files.sort();
    let output = Command::new("awk")
        .env("LC_ALL", "C")
        .args(arguments)
        .arg(program)
        .args(files)
        .output()
        .expect("awk is installed");
    assert!(
        output.status.success(),
        "awk failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = sorted(
        String::from_utf8(output.stdout)
            .expect("awk prints text")
            .lines()
            .map(str::to_owned),
    );
    assert!(
        !lines.is_empty(),
        "awk found nothing in {}",
        input.display()
    );
    lines
}

/// Counts words as awk does, in Rust.
pub(crate) fn count_words(text: &str) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for word in text.lines().flat_map(words) {
        *counts.entry(word).or_default() += 1;
    }
    sorted(
        counts
            .into_iter()
            .map(|(word, count)| format!("{word},{count}")),
    )
}

/// The words of a verse, whose first field is its number.
pub(crate) fn words(line: &str) -> impl Iterator<Item = String> {
    let verse = line.split_once(' ').map_or("", |(_, verse)| verse);
    let words = verse.split(|letter: char| !letter.is_ascii_alphabetic());
    let words = words.filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase)
}

/// How often each key stands in the visible files of a sink of lines with keys, as `key,count`.
pub(crate) fn count_keys(output: &Path) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for file in visible_files(output) {
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
        for line in text.lines() {
            let key = line.split_once('\t').map_or(line, |(key, _)| key);
            match counts.get_mut(key) {
                Some(count) => *count += 1,
                None => _ = counts.insert(key.to_owned(), 1),
            }
        }
    }
    sorted(
        counts
            .into_iter()
            .map(|(key, count)| format!("{key},{count}")),
    )
}

/// Lines in the order in which results are compared.
fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}

/// The whole text of the word-count example.
pub(crate) fn bible() -> Vec<u8> {
    gunzip(&root().join("examples/word-count/input/kjv-old-testament.txt.gz"))
}

/// A month of the flights of the flight-delays example.
pub(crate) fn flights() -> Vec<u8> {
    gunzip(&root().join("examples/flight-delays/input/flights-2013-01.csv.gz"))
}

/// The first verses of the text, for tests that need no more.
pub(crate) fn verses(count: usize) -> String {
    let text = String::from_utf8(bible()).expect("the text is UTF-8");
    text.split_inclusive('\n').take(count).collect()
}

/// The content of a gzip file.
pub(crate) fn gunzip(path: &Path) -> Vec<u8> {
    let file =
        File::open(path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    let mut bytes = Vec::new();
    GzDecoder::new(file)
        .read_to_end(&mut bytes)
        .expect("a sound gzip file");
    bytes
}

/// Checks that two sorted lists of lines are equal, and shows the first differences if not.
pub(crate) fn assert_same_lines(found: &[String], expected: &[String], what: &str) {
    if found == expected {
        return;
    }
    let missing: Vec<_> = expected
        .iter()
        .filter(|line| found.binary_search(line).is_err())
        .take(5)
        .collect();
    let surplus: Vec<_> = found
        .iter()
        .filter(|line| expected.binary_search(line).is_err())
        .take(5)
        .collect();
    panic!(
        "{what}: {} lines instead of {}; missing, for example: {missing:#?}; not expected: {surplus:#?}",
        found.len(),
        expected.len()
    );
}
