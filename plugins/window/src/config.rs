//! The configuration, and what is wrong with it.

use std::time::Duration;

use highwater::window::Assigner;
use highwater::{Cumulative, Error, Kind, Result, Session, Sliding, Window};
use serde::Deserialize;

use crate::aggregates::Aggregates;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    window: WindowKind,
    size: Option<Length>,
    slide: Option<Length>,
    step: Option<Length>,
    gap: Option<Length>,
    offset: Option<Length>,
    pub(crate) aggregates: Vec<String>,
    pub(crate) missing: Option<String>,
    allowed_lateness: Option<Length>,
    #[serde(default)]
    late: Late,
    early_every: Option<Length>,
    early_after: Option<u32>,
    #[serde(default)]
    pub(crate) firing: bool,
    #[serde(default)]
    pub(crate) key_columns: Vec<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum WindowKind {
    Tumbling,
    Sliding,
    Cumulative,
    Session,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Late {
    #[default]
    Drop,
    Output,
}

/// Which windows there are.
pub(crate) enum Windows {
    Sliding(Sliding),
    Cumulative(Cumulative),
    Session(Session),
}

/// The most milliseconds of a length: 1000 years and some.
const LENGTH_MAX: u128 = 1 << 45;

/// A length as it was written: a text, or a number, to which a unit is missing.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a length of time like \"15min\"")]
enum Length {
    Text(String),
    Number(f64),
}

/// The length that stands at `key`.
fn length(key: &str, given: &Length) -> Result<Duration> {
    let text = match given {
        Length::Text(text) => text,
        Length::Number(number) => {
            return Err(Error::config(format_args!(
                "config: `{key}` is `{number}`, which has no unit: write it like `{key} = \"{number}s\"`"
            )));
        }
    };
    let length = humantime::parse_duration(text).map_err(|error| {
        Error::config(format_args!(
            "config: `{key}` is `{text}`, which is no length of time ({error}): write it like \"90s\", \"15min\" or \
             \"1h\""
        ))
    })?;
    if length.as_millis() > LENGTH_MAX {
        return Err(Error::config(format_args!(
            "config: `{key}` is `{text}`, which is too long"
        )));
    }
    if !length.subsec_nanos().is_multiple_of(1_000_000) {
        let rule = match length.as_millis() {
            0 => "at least 1ms",
            _ => "a whole number of milliseconds",
        };
        return Err(Error::config(format_args!(
            "config: `{key}` is `{text}`: it must be {rule}"
        )));
    }
    Ok(length)
}

/// A length that must be a millisecond at least.
fn positive(key: &str, given: &Length) -> Result<Duration> {
    match (length(key, given)?, given) {
        (Duration::ZERO, Length::Text(text)) => Err(Error::config(format_args!(
            "config: `{key}` is `{text}`: it must be at least 1ms"
        ))),
        (length, _) => Ok(length),
    }
}

impl WindowKind {
    fn name(self) -> &'static str {
        match self {
            Self::Tumbling => "tumbling",
            Self::Sliding => "sliding",
            Self::Cumulative => "cumulative",
            Self::Session => "session",
        }
    }

    /// The keys that say how long its windows are.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Tumbling => &["size"],
            Self::Sliding => &["size", "slide"],
            Self::Cumulative => &["size", "step"],
            Self::Session => &["gap"],
        }
    }
}

impl Config {
    pub(crate) fn windows(&self) -> Result<Windows> {
        let kind = self.window;
        let lengths = [
            ("size", &self.size),
            ("slide", &self.slide),
            ("step", &self.step),
            ("gap", &self.gap),
        ];
        let mut found = [Duration::ZERO; 4];
        for ((key, given), found) in lengths.into_iter().zip(&mut found) {
            let name = kind.name();
            match (kind.keys().contains(&key), given) {
                (true, Some(text)) => *found = positive(key, text)?,
                (true, None) => {
                    return Err(Error::config(format_args!(
                        "config: `{key}` is missing: `window = \"{name}\"` needs it, like `{key} = \"10min\"`"
                    )));
                }
                (false, Some(_)) => {
                    let keys = kind.keys().join("` and `");
                    return Err(Error::config(format_args!(
                        "config: `{key}` means nothing with `window = \"{name}\"`, which has `{keys}`"
                    )));
                }
                (false, None) => {}
            }
        }
        let [size, slide, step, gap] = found;
        let offset = match &self.offset {
            Some(_) if kind == WindowKind::Session => {
                return Err(Error::config(
                    "config: `offset` means nothing with `window = \"session\"`: sessions begin with their records",
                ));
            }
            Some(text) => length("offset", text)?,
            None => Duration::ZERO,
        };
        Ok(match kind {
            WindowKind::Tumbling => Windows::Sliding(Sliding::of(size, size).offset(offset)),
            WindowKind::Sliding => Windows::Sliding(Sliding::of(size, slide).offset(offset)),
            WindowKind::Cumulative => {
                if !size.as_millis().is_multiple_of(step.as_millis()) {
                    return Err(Error::config(
                        "config: `size` must be a multiple of `step`, so that the last step makes the window whole",
                    ));
                }
                Windows::Cumulative(Cumulative::of(size, step).offset(offset))
            }
            WindowKind::Session => Windows::Session(Session::gap(gap)),
        })
    }

    /// What does not depend on the kind of the window.
    pub(crate) fn apply<A: Assigner>(
        &self,
        mut window: Window<A, Aggregates>,
    ) -> Result<Window<A, Aggregates>> {
        if let Some(text) = &self.allowed_lateness {
            window = window.allowed_lateness(length("allowed-lateness", text)?);
        }
        if self.late == Late::Output {
            window = window.late_to("late");
        }
        if let Some(text) = &self.early_every {
            window = window.early_every(positive("early-every", text)?);
        }
        match self.early_after {
            Some(0) => Err(Error::config(
                "config: `early-after` is 0: it is a number of records, 1 at least",
            )),
            Some(records) => Ok(window.early_after(records)),
            None => Ok(window),
        }
    }
}

/// Whether some column of the result is called like one of the key.
pub(crate) fn clashes(key: &[(String, Kind)], columns: &[(String, Kind)]) -> bool {
    let mut names = columns.iter().map(|(name, _)| name);
    names.any(|name| key.iter().any(|(other, _)| other == name))
}

/// Refuses columns of one name.
pub(crate) fn check_names(key: &[String], columns: &[(String, Kind)]) -> Result<()> {
    let mut names: Vec<&str> = key.iter().map(String::as_str).collect();
    for (name, _) in columns {
        if names.contains(&name.as_str()) {
            return Err(Error::config(format_args!(
                "config: two columns of the result are called `{name}`: give one of `aggregates` another name with `as`"
            )));
        }
        names.push(name);
    }
    Ok(())
}
