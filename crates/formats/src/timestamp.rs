//! Event times from text.

use std::ops::RangeInclusive;

use chrono::format::{Item, Parsed, StrftimeItems};
use chrono::{DateTime, NaiveTime};
use serde::{Deserialize, Serialize};

/// `timestamp = { field = "time_hour", format = "rfc3339" }` of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a table such as `{ field = \"time\" }`"
)]
pub struct TimestampOptions {
    /// The column or top-level field that holds the event time.
    pub field: String,
    /// `rfc3339`, `unix-s`, `unix-ms`, or a pattern such as `%Y-%m-%d %H:%M:%S`. A pattern without
    /// an offset means UTC, one without a time midnight.
    #[serde(default = "rfc3339")]
    pub format: String,
}

fn rfc3339() -> String {
    "rfc3339".to_owned()
}

/// The event times that a record may have: those that RFC 3339 can write. What is beyond is a slip, for example
/// microseconds that were taken for milliseconds.
const RANGE: RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

/// How an event time is written.
#[derive(Clone, Debug)]
pub enum TimestampFormat {
    /// `2013-01-01T10:00:00Z`, with any offset and fraction.
    Rfc3339,
    /// Seconds since the epoch, with or without a fraction.
    UnixSeconds,
    /// Milliseconds since the epoch.
    UnixMillis,
    /// A strftime pattern, with its text.
    Pattern(Vec<Item<'static>>, String),
}

impl TimestampFormat {
    /// Reads the `format` of [`TimestampOptions`].
    ///
    /// # Errors
    /// It is neither a name nor a pattern that makes a date.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "rfc3339" => return Ok(Self::Rfc3339),
            "unix-s" => return Ok(Self::UnixSeconds),
            "unix-ms" => return Ok(Self::UnixMillis),
            _ => {}
        }
        if !text.contains('%') {
            return Err(format!("unknown format `{text}`"));
        }
        let items: Vec<Item<'static>> = StrftimeItems::new(text).map(Item::to_owned).collect();
        if items.contains(&Item::Error) {
            return Err(format!("`{text}` is not a pattern of date and time"));
        }
        let pattern = Self::Pattern(items, text.to_owned());
        // A pattern that cannot read back what it writes lacks something, for example the year.
        let sample = pattern.write_sample();
        match sample
            .as_deref()
            .map(|sample| pattern.read(sample.as_bytes()))
        {
            Some(Ok(_)) => Ok(pattern),
            _ => Err(format!("`{text}` does not make a whole date")),
        }
    }

    fn write_sample(&self) -> Option<String> {
        use std::fmt::Write as _;
        let Self::Pattern(items, _) = self else {
            return None;
        };
        let mut sample = String::new();
        let time = DateTime::from_timestamp(981_173_106, 789_000_000)?;
        // Formatting fails, instead of panicking, when written through `write!`.
        write!(sample, "{}", time.format_with_items(items.iter())).ok()?;
        Some(sample)
    }

    /// Milliseconds since the epoch.
    ///
    /// # Errors
    /// `text` is not an event time in this format; says so without the place.
    pub fn read(&self, text: &[u8]) -> Result<i64, String> {
        let ms = match self {
            Self::Rfc3339 => read_utc(text).or_else(|| {
                let text = std::str::from_utf8(text).ok()?;
                DateTime::parse_from_rfc3339(text)
                    .ok()
                    .map(|time| time.timestamp_millis())
            }),
            Self::UnixSeconds => read_seconds(text),
            Self::UnixMillis => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.trim().parse().ok()),
            Self::Pattern(items, _) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| read_pattern(items, text)),
        };
        let shown = || String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
        match ms {
            Some(ms) if RANGE.contains(&ms) => Ok(ms),
            // One such time would make the highest watermark there is, and all later records late.
            Some(_) => Err(format!(
                "`{}` is beyond the range of event times, the years 0000 to 9999, in the format {}",
                shown(),
                self.name()
            )),
            None if text.is_empty() => Err("is empty, but it should be an event time".to_owned()),
            None => Err(format!(
                "`{}` is not an event time in the format {}",
                shown(),
                self.name()
            )),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Rfc3339 => "rfc3339, for example 2013-01-01T10:00:00Z",
            Self::UnixSeconds => "unix-s, seconds since 1970",
            Self::UnixMillis => "unix-ms, milliseconds since 1970",
            Self::Pattern(_, text) => text,
        }
    }
}

fn read_pattern(items: &[Item<'static>], text: &str) -> Option<i64> {
    let mut parsed = Parsed::new();
    chrono::format::parse(&mut parsed, text, items.iter()).ok()?;
    let offset = parsed.offset().unwrap_or(0);
    let has_hour = parsed.hour_div_12().is_some() || parsed.hour_mod_12().is_some();
    if has_hour && parsed.minute().is_none() {
        parsed.set_minute(0).ok()?;
    }
    let local = if has_hour || parsed.timestamp().is_some() {
        parsed.to_naive_datetime_with_offset(offset).ok()?
    } else if parsed.minute().is_some() || parsed.second().is_some() {
        return None;
    } else {
        parsed.to_naive_date().ok()?.and_time(NaiveTime::MIN)
    };
    local
        .and_utc()
        .timestamp_millis()
        .checked_sub(i64::from(offset) * 1000)
}

/// `-12.345` as -12345: seconds with as many digits after the point as milliseconds have; the
/// rest is cut off.
fn read_seconds(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let mut ms = 0;
    for index in 0..3 {
        ms = ms * 10 + i64::from(fraction.as_bytes().get(index).copied().unwrap_or(b'0') - b'0');
    }
    Some(sign * seconds.checked_mul(1000)?.checked_add(ms)?)
}

/// The common case of RFC 3339 without a detour: `2013-01-01T10:00:00Z`, also with a fraction.
/// `None` for everything else, right or wrong.
fn read_utc(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_at_checked(19)?;
    let (rest, zulu) = rest.split_at_checked(rest.len().checked_sub(1)?)?;
    if zulu != b"Z" {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        let mut number = 0_i64;
        for byte in &date[range] {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            number = number * 10 + i64::from(digit);
        }
        Some(number)
    };
    let marks = [date[4], date[7], date[10], date[13], date[16]];
    if marks != *b"--T::" {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // A leap second goes the long way.
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let ms = match rest {
        [] => 0,
        [b'.', fraction @ ..]
            if !fraction.is_empty() && fraction.iter().all(u8::is_ascii_digit) =>
        {
            let digit =
                |index: usize| i64::from(fraction.get(index).copied().unwrap_or(b'0') - b'0');
            digit(0) * 100 + digit(1) * 10 + digit(2)
        }
        _ => return None,
    };
    // Days since the epoch in the Gregorian calendar, with years that begin in March so that the
    // leap day is the last of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days =
        365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
            - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: &str, text: &str) -> Option<i64> {
        TimestampFormat::parse(format)
            .unwrap()
            .read(text.as_bytes())
            .ok()
    }

    #[test]
    fn the_short_way_and_the_long_way_agree() {
        let mut seconds = -62_135_596_800_i64;
        while seconds < 253_402_300_799 {
            let time = DateTime::from_timestamp(seconds, 0).unwrap();
            let text = time.format("%Y-%m-%dT%H:%M:%SZ").to_string();
            assert_eq!(read_utc(text.as_bytes()), Some(seconds * 1000), "{text}");
            seconds += 86_400 * 17 + 12_345;
        }
    }

    #[test]
    fn rfc3339_is_read_with_any_offset_and_fraction() {
        assert_eq!(
            read("rfc3339", "2013-01-01T10:00:00Z"),
            Some(1_357_034_400_000)
        );
        assert_eq!(
            read("rfc3339", "2013-01-01T10:00:00.25Z"),
            Some(1_357_034_400_250)
        );
        assert_eq!(
            read("rfc3339", "2013-01-01T10:00:00.1239Z"),
            Some(1_357_034_400_123)
        );
        assert_eq!(
            read("rfc3339", "2013-01-01T12:00:00+02:00"),
            Some(1_357_034_400_000)
        );
        assert_eq!(
            read("rfc3339", "2012-02-29T00:00:00Z"),
            Some(1_330_473_600_000)
        );
        for wrong in [
            "",
            "2013-01-01",
            "2013-02-29T00:00:00Z",
            "2013-13-01T00:00:00Z",
            "NA",
            "2013-01-01T10:00:00.Z",
        ] {
            assert_eq!(read("rfc3339", wrong), None, "{wrong}");
        }
    }

    #[test]
    fn unix_times_are_seconds_or_milliseconds() {
        assert_eq!(read("unix-s", "12"), Some(12_000));
        assert_eq!(read("unix-s", "-1.5"), Some(-1_500));
        assert_eq!(read("unix-s", "12.3456"), Some(12_345));
        assert_eq!(read("unix-ms", "12"), Some(12));
        assert_eq!(read("unix-ms", "-9223372036854775808"), None);
        assert_eq!(
            read("unix-ms", "253402300799999"),
            read("rfc3339", "9999-12-31T23:59:59.999Z")
        );
        assert_eq!(
            read("unix-ms", "-62167219200000"),
            read("rfc3339", "0000-01-01T00:00:00Z")
        );
        for beyond in [
            "253402300800000",
            "-62167219200001",
            "9214646400000000000",
            "-9223372036854775808",
        ] {
            let error = TimestampFormat::UnixMillis.read(beyond.as_bytes());
            let expected = format!("`{beyond}` is beyond the range of event times");
            assert!(error.unwrap_err().starts_with(&expected), "{beyond}");
        }
        for wrong in ["", "x", "1.", "1e9", "--1", "99999999999999999999"] {
            assert_eq!(read("unix-s", wrong), None, "{wrong}");
        }
    }

    #[test]
    fn patterns_read_dates_times_and_offsets() {
        assert_eq!(
            read("%Y-%m-%d %H:%M:%S", "2013-01-01 10:00:00"),
            Some(1_357_034_400_000)
        );
        assert_eq!(read("%d.%m.%Y", "01.01.2013"), Some(1_356_998_400_000));
        assert_eq!(
            read("%d.%m.%Y %H", "01.01.2013 10"),
            Some(1_357_034_400_000)
        );
        assert_eq!(
            read("%Y-%m-%dT%H:%M:%S%z", "2013-01-01T12:00:00+0200"),
            Some(1_357_034_400_000)
        );
        assert_eq!(read("%s", "1357034400"), Some(1_357_034_400_000));
        for wrong in ["%H:%M", "%Q", "never", "%Y"] {
            assert!(TimestampFormat::parse(wrong).is_err(), "{wrong}");
        }
    }
}
