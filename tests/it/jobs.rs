//! Job files, put together from their parts.
//!
//! Every job here keeps its checkpoints in `checkpoints/` beside it (unless it says otherwise) and
//! takes its text from `input/`. What differs from test to test is set by `-D` where that is shorter.

use std::fmt::Write;

use crate::plugins;

/// What happens after a failure, in every job here: a few tries, so that a job that cannot succeed ends.
pub(crate) const RESTART: &str = "\
[restart]
strategy = \"fixed-delay\"
attempts = 3
delay = \"10ms\"

";

/// `[job]`, `[checkpoint]` with checkpoints this often, and [`RESTART`].
pub(crate) fn head(name: &str, interval: &str) -> String {
    format!(
        "[job]\nname = \"{name}\"\n\n[checkpoint]\ninterval = \"{interval}\"\ndir = \"checkpoints\"\n\n{RESTART}"
    )
}

/// A source of the lines of `input/*.txt`.
pub(crate) const VERSES: &str = "\
[[source]]
id = \"verses\"
connector = \"file\"
path = \"input/*.txt\"
format = \"lines\"

";

/// An endless source: its records have a key (one of 100), a value, and never end.
pub(crate) const ENDLESS: &str = "\
[[source]]
id = \"numbers\"
connector = \"generator\"
rate = 2000
keys = 100
seed = 7

";

/// An endless job without output that counts the records of 100 keys, with a checkpoint this often.
pub(crate) fn counting(name: &str, interval: &str) -> String {
    head(name, interval) + ENDLESS + &count("numbers") + &discard("nowhere", "count")
}

/// The words of `input/*.txt` in `out/`: output that appears with every checkpoint.
pub(crate) fn words(name: &str, interval: &str) -> String {
    head(name, interval) + VERSES + &split() + &keys("words", "split", "out")
}

/// An operator of the plugin `plugin`, with the inside of its `config` table.
pub(crate) fn operator(id: &str, plugin: &str, input: &str, config: &str) -> String {
    operator_with(id, plugin, input, config, "")
}

/// The source `records`: rows of `input/*.csv` with their column `key` as key. `more` are lines of it.
pub(crate) fn keyed_rows(more: &str) -> String {
    format!(
        "[[source]]\nid = \"records\"\nconnector = \"file\"\npath = \"input/*.csv\"\nformat = \"csv\"\nkey = \"key\"\n{more}\n"
    )
}

/// The same with the event times of the column `time`, and what is said of watermarks.
pub(crate) fn timed_rows(watermark: &str) -> String {
    keyed_rows(&format!(
        "timestamp = {{ field = \"time\", format = \"unix-ms\" }}\nwatermark = {{ {watermark} }}\n"
    ))
}

/// An operator with more keys below.
pub(crate) fn operator_with(
    id: &str,
    plugin: &str,
    input: &str,
    config: &str,
    more: &str,
) -> String {
    let component = plugins::component(plugin);
    let mut text =
        format!("[[operator]]\nid = \"{id}\"\ncomponent = {component:?}\ninput = \"{input}\"\n");
    if !config.is_empty() {
        writeln!(text, "config = {{ {config} }}").expect("a string takes all");
    }
    text + more + "\n\n"
}

/// A sink into files of a directory.
pub(crate) fn files(id: &str, input: &str, path: &str, format: &str) -> String {
    format!(
        "[[sink]]\nid = \"{id}\"\nconnector = \"file\"\ninput = \"{input}\"\npath = \"{path}\"\nformat = \"{format}\"\n\n"
    )
}

/// A sink into files of lines, each with nothing but a record's key.
pub(crate) fn keys(id: &str, input: &str, path: &str) -> String {
    files(id, input, path, "lines").trim_end().to_owned() + "\nwith-key = true\n\n"
}

/// An operator without state that hands on what comes.
pub(crate) fn pass(id: &str, input: &str) -> String {
    operator(id, "faulty", input, "misdeed = \"none\"")
}

/// A sink that forgets.
pub(crate) fn discard(id: &str, input: &str) -> String {
    format!("[[sink]]\nid = \"{id}\"\nconnector = \"discard\"\ninput = \"{input}\"\n\n")
}

/// Words of `input/*.txt` counted into `out/`, a checkpoint every 30 ms: the job of most tests.
pub(crate) fn word_count(name: &str) -> String {
    head(name, "30ms")
        + VERSES
        + &split()
        + &count("split")
        + &files("totals", "count", "out", "csv")
}

/// The operator that makes words of verses.
pub(crate) fn split() -> String {
    operator("split", "split", "verses", "skip-fields = 1")
}

/// The operator that counts words and tells the totals at the end.
pub(crate) fn count(input: &str) -> String {
    operator("count", "count", input, "emit = \"final\"")
}

/// Flights of `input/*.csv` summed up per carrier and airport into `out/`.
pub(crate) fn flight_delays(name: &str) -> String {
    let flights = "\
[[source]]
id = \"flights\"
connector = \"file\"
path = \"input/*.csv\"
format = \"csv\"
key = [\"carrier\", \"origin\"]

";
    head(name, "30ms")
        + flights
        + &operator("delays", "flight-delays", "flights", "")
        + &files("delays-by-airport", "delays", "out", "csv")
}
