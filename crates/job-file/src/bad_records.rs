//! `on-error` and what goes with it: what becomes of records that cannot be processed, or read.

use std::time::Duration;

use super::JobFile;
use super::hints::did_you_mean;
use super::node::InputRef;
use super::problem::{Place, Problems};
use super::section::Section;
use super::units::parse_duration;

/// The output of a node to which its dead letters go.
pub const DEAD_LETTER: &str = "dead-letter";

/// How often a record is tried alone before it is to blame, where `retries` does not say so.
pub const RETRIES: u32 = 3;

/// What becomes of records that cannot be processed, or read. `None` of the whole: the job fails.
#[derive(Clone, Debug, PartialEq)]
pub struct BadRecords {
    /// How often a record is tried alone before it is to blame.
    pub retries: u32,
    /// How many there may be.
    pub limit: Option<Rate>,
    /// The sink that gets them, and where that stands. `None`: they are skipped.
    pub dead_letter: Option<(String, Place)>,
}

/// How many in which time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In what time.
    pub period: Duration,
    /// As it is written.
    pub text: String,
}

#[derive(Clone, Copy, PartialEq)]
enum OnError {
    Fail,
    Skip,
    DeadLetter,
}

const ON_ERROR: &[(&str, OnError)] = &[
    ("fail", OnError::Fail),
    ("skip", OnError::Skip),
    (DEAD_LETTER, OnError::DeadLetter),
];

impl BadRecords {
    /// Reads the keys of an operator. `None` if the job is to fail, or what is given is wrong, which has been noted.
    pub(crate) fn of_operator(section: &mut Section<'_, '_>) -> Option<Self> {
        let retries = section.integer("retries", 1..=100);
        let others = &["retries", "on-error-limit", DEAD_LETTER];
        let read = Self::read(section, others)?;
        Some(Self {
            retries: retries.unwrap_or(RETRIES),
            ..read
        })
    }

    /// Reads the keys of a source: what it cannot read once it can never read.
    pub(crate) fn of_source(section: &mut Section<'_, '_>) -> Option<Self> {
        Self::read(section, &["on-error-limit", DEAD_LETTER])
    }

    /// `others` are the keys that go with `on-error`.
    fn read(section: &mut Section<'_, '_>, others: &[&str]) -> Option<Self> {
        let limit = section
            .string("on-error-limit")
            .map(|text| parse_rate(&text));
        let limit = match limit {
            Some(Err(message)) => {
                let hint =
                    "write how many in which time: `on-error-limit = \"100/min\"`".to_owned();
                section.problem("on-error-limit", message, Some(hint));
                None
            }
            Some(Ok(rate)) => Some(rate),
            None => None,
        };
        let sink = section.string(DEAD_LETTER);
        let was_given = section.has("on-error");
        let on_error = section.choice("on-error", ON_ERROR);
        match on_error {
            None if was_given => {}
            None | Some(OnError::Fail) => {
                for key in others.iter().copied() {
                    if section.has(key) {
                        let message =
                            "has no effect, because the job fails at the first bad record";
                        let hint =
                            "set `on-error = \"skip\"` or `\"dead-letter\"`, or leave it out";
                        section.problem(key, message, Some(hint.to_owned()));
                    }
                }
                sink.as_ref()?;
            }
            Some(OnError::Skip) => {
                if section.has(DEAD_LETTER) {
                    let hint = "set `on-error = \"dead-letter\"`, or leave it out".to_owned();
                    let message = "has no effect with `on-error = \"skip\"`";
                    section.problem(DEAD_LETTER, message, Some(hint));
                }
            }
            Some(OnError::DeadLetter) => {
                if !section.has(DEAD_LETTER) {
                    let hint = "name the sink that gets bad records: `dead-letter = \"<sink>\"`";
                    section.problem(DEAD_LETTER, "is missing", Some(hint.to_owned()));
                }
            }
        }
        let place = section.place_of(DEAD_LETTER);
        Some(Self {
            retries: 1,
            limit,
            // Where it has no effect, too: that is refused, and that nothing feeds the sink is no mistake of its own.
            dead_letter: sink.map(|sink| (sink, place)),
        })
    }
}

/// `100/min`, `5/10s`.
fn parse_rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("`{text}` is not a number in a time");
    let (count, period) = text.split_once('/').ok_or_else(wrong)?;
    let count: u32 = count.trim().parse().map_err(|_| wrong())?;
    if !(1..=1_000_000).contains(&count) {
        return Err(format!("allows {count}, but 1 to 1000000 are possible"));
    }
    let period = period.trim();
    let period = match period.starts_with(|c: char| c.is_ascii_digit()) {
        true => parse_duration(period),
        false => parse_duration(&format!("1{period}")),
    };
    let period = period.map_err(|_| wrong())?;
    if period < Duration::from_millis(1) {
        return Err(wrong());
    }
    Ok(Rate {
        count,
        period,
        text: text.to_owned(),
    })
}

/// Gives each sink of dead letters the outputs that it reads. What is wrong goes to `problems`.
pub(crate) fn feed_sinks(job: &mut JobFile, problems: &mut Problems) {
    let sources = job.sources.iter();
    let sources = sources.map(|it| ("source", &it.node.id, it.bad_records.as_ref()));
    let operators = job.operators.iter();
    let operators = operators.map(|it| ("operator", &it.node.id, it.bad_records.as_ref()));
    let letters: Vec<(&str, String, String, Place)> = sources
        .chain(operators)
        .filter_map(|(kind, node, bad_records)| {
            let (sink, place) = bad_records?.dead_letter.clone()?;
            Some((kind, node.clone(), sink, place))
        })
        .collect();
    for (kind, node, sink, place) in letters {
        let Some(found) = job.sinks.iter_mut().find(|it| it.node.id == sink) else {
            let sinks = job.sinks.iter().map(|it| it.node.id.as_str());
            problems.push(
                place,
                format!("{kind}.{node}.{DEAD_LETTER}"),
                format!("there is no sink `{sink}`"),
                did_you_mean(&sink, sinks),
            );
            // One of those that nothing feeds was meant, as a rule.
            for sink in &mut job.sinks {
                sink.inputs.take_if(|inputs| inputs.refs.is_empty());
            }
            continue;
        };
        if let Some(inputs) = &mut found.inputs {
            inputs.refs.push(InputRef {
                node,
                port: Some(DEAD_LETTER.to_owned()),
                place,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_in_a_time() {
        for (text, count, seconds) in [
            ("100/min", 100, 60),
            ("1/s", 1, 1),
            ("5 / 10s", 5, 10),
            ("1000000/h", 1_000_000, 3600),
        ] {
            let rate = parse_rate(text).unwrap();
            assert_eq!(
                (rate.count, rate.period.as_secs()),
                (count, seconds),
                "{text}"
            );
        }
        for text in [
            "",
            "100",
            "/min",
            "100/",
            "x/min",
            "0/min",
            "1000001/s",
            "1/0s",
            "-1/s",
        ] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
