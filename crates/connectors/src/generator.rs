//! The generator source: made-up records, the same for the same seed.
//!
//! Record `i` of the job is a function of the options and `i` alone, whatever the parallelism and
//! however often the job was restored. The records are dealt to a fixed number of splits (`i` mod
//! [`SPLITS`]), the splits to the subtasks; a position is the number of records taken of each split.

use std::sync::Arc;

use dataflow::Batch;
use dataflow::batch::NO_TIMESTAMP;
use dataflow::port::{Column, ColumnKind, Format, Port};
use formats::timestamp::TimestampFormat;
use job_file::options::Options;
use job_file::problem::Problem;
use job_file::units;
use operator::source::Part;
use operator::text::counted;
use operator::{BoxError, InputChanged, Source, SourceFactory, SourceStatus, SubtaskContext};
use serde::{Deserialize, Serialize};

use self::distribution::Distribution;
use self::stream::Stream;
use super::changed::Changed;
use super::connector::{Clock, PreparedSource, SourceConnector, SourceContext, read_and_prepare};
use super::event_time::{self, EventTime, EventTimes};

pub(crate) mod distribution;
mod stream;

/// How many splits the stream has: at a higher parallelism some subtasks have nothing to do.
pub(crate) const SPLITS: u64 = 128;

/// How many records of a split come in a row, when nothing prevents it.
const RUN: u64 = 16;

/// Keys and values come in at most this many bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The connector `generator`.
pub(crate) const CONNECTOR: SourceConnector = SourceConnector {
    name: "generator",
    prepare,
};

fn prepare(options: Options, context: &SourceContext<'_>) -> Result<PreparedSource, Vec<Problem>> {
    read_and_prepare(options, |options: &GeneratorOptions| {
        let factory = options.prepare(Clock::clone(&context.clock))?;
        Ok(PreparedSource {
            port: factory.port(),
            bounded: factory.is_bounded(),
            factory: Arc::new(factory),
            max_parallelism: None,
            reads_text: false,
            selects: None,
            options: Options::effective(&GeneratorOptions {
                watermark: event_time::effective(options.watermark.as_ref()),
                ..options.clone()
            }),
        })
    })
}

/// Options of the connector `generator`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct GeneratorOptions {
    /// Another seed makes other records.
    pub(crate) seed: u64,
    /// How many records in all. Unset: without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
    /// Records per second, of all subtasks together. Unset: as fast as they are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    /// How many distinct keys. Unset: records without keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keys: Option<u64>,
    /// What every key begins with; its number follows.
    pub(crate) key_prefix: String,
    /// Bytes of a key, filled with zeros before the number. Unset: as many as the highest needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_size: Option<u64>,
    /// Bytes of a value: printable text.
    pub(crate) value_size: u64,
    /// How often each key comes.
    pub(crate) distribution: DistributionName,
    /// How uneven `zipf` is: key number n comes in proportion to 1 / (n + 1)^exponent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exponent: Option<f64>,
    /// Event times. Unset: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timestamp: Option<GeneratorTimestamp>,
    /// How watermarks are made of them; see [`event_time::WatermarkOptions`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) watermark: Option<Options>,
    /// What to do when the job resumes and these options make other records.
    pub(crate) changed: Changed,
}

/// Names of the distributions of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DistributionName {
    /// Every key is as likely.
    #[default]
    Uniform,
    /// Few keys come often, many seldom.
    Zipf,
    /// Nine of ten records have one of the first tenth of the keys.
    Hotspot,
    /// One key after the other, in turn.
    Sequential,
}

/// Event times of made-up records: record `i` has `start` + `i` × `interval`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct GeneratorTimestamp {
    /// The first one, in RFC 3339.
    pub(crate) start: String,
    /// From each to the next, in whole milliseconds.
    pub(crate) interval: String,
}

impl Default for GeneratorTimestamp {
    fn default() -> Self {
        Self {
            start: "1970-01-01T00:00:00Z".to_owned(),
            interval: "1ms".to_owned(),
        }
    }
}

impl Default for GeneratorOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            count: None,
            rate: None,
            keys: None,
            key_prefix: "k".to_owned(),
            key_size: None,
            value_size: 16,
            distribution: DistributionName::Uniform,
            exponent: None,
            timestamp: None,
            watermark: None,
            changed: Changed::Refuse,
        }
    }
}

impl GeneratorOptions {
    /// Checks the options and computes what all records share.
    ///
    /// # Errors
    /// Everything that keeps the source from starting.
    pub(crate) fn prepare(&self, clock: Clock) -> Result<GeneratorFactory, Vec<Problem>> {
        let mut problems = Vec::new();
        if self.keys == Some(0) {
            problems.push(
                Problem::new("keys", "must be at least 1")
                    .hint("leave it out for records without keys"),
            );
        }
        if let Some(rate) = self.rate
            && !(rate.is_finite() && rate > 0.0)
        {
            problems.push(Problem::new(
                "rate",
                "must be more than 0 records per second",
            ));
        }
        if self.keys.is_none() {
            let set = [
                ("key-size", self.key_size.is_some()),
                (
                    "distribution",
                    self.distribution != DistributionName::Uniform,
                ),
            ];
            for (key, _) in set.into_iter().filter(|(_, set)| *set) {
                problems.push(Problem::new(key, "has no meaning without `keys`"));
            }
        }
        if self.exponent.is_some() && self.distribution != DistributionName::Zipf {
            problems.push(Problem::new(
                "exponent",
                "has a meaning only for `distribution = \"zipf\"`",
            ));
        }
        let distribution = Distribution::new(
            self.distribution,
            self.keys.unwrap_or(1).max(1),
            self.exponent,
        );
        let distribution = distribution.map_err(|problem| problems.push(problem)).ok();
        if self.value_size > MAX_BYTES {
            problems.push(Problem::new(
                "value-size",
                format!("must be at most {MAX_BYTES}"),
            ));
        }
        let digits = self.keys.unwrap_or(1).saturating_sub(1).max(1).ilog10() as usize + 1;
        let least = self.key_prefix.len() + digits;
        let key_size = self.key_size.unwrap_or(least as u64);
        if key_size < least as u64 || key_size > MAX_BYTES {
            let message =
                format!("must be between {least} (what prefix and number need) and {MAX_BYTES}");
            problems.push(Problem::new("key-size", message));
        }
        let times = self
            .timestamp
            .as_ref()
            .and_then(|timestamp| timestamp.parse(&mut problems));
        let kind = event_time::Kind {
            has_timestamps: self.timestamp.is_some(),
            meaningless: match self.rate {
                Some(_) => &[],
                None => &[("idle", "without `rate` the generator never pauses")],
            },
        };
        let policy = event_time::read(self.watermark.as_ref(), &kind, &mut problems);
        let Some(distribution) = distribution.filter(|_| problems.is_empty()) else {
            return Err(problems);
        };
        // The number takes as many digits as the highest needs; before it stand prefix and zeros.
        let mut key_zero = self.key_prefix.clone().into_bytes();
        key_zero.resize(key_size as usize, b'0');
        let shape = Shape {
            seed: mix(self.seed ^ 0x6869_6768_7761_7465),
            keyed: self.keys.is_some(),
            zero_keys: key_zero.repeat(RUN as usize),
            key_size: key_zero.len(),
            value_size: self.value_size as usize,
            text: printable_text(self.value_size as usize),
            distribution,
            times,
        };
        Ok(GeneratorFactory {
            stream: Stream::of(self, &shape),
            changed: self.changed,
            shape: Arc::new(shape),
            count: self.count.unwrap_or(u64::MAX),
            rate: self.rate,
            event_times: policy.map(|policy| EventTimes::new(policy, Clock::clone(&clock))),
            clock,
        })
    }
}

impl GeneratorTimestamp {
    fn parse(&self, problems: &mut Vec<Problem>) -> Option<(i64, i64)> {
        let start = TimestampFormat::Rfc3339
            .read(self.start.as_bytes())
            .map_err(|message| problems.push(Problem::new("timestamp.start", message)));
        let interval = units::parse_duration(&self.interval).and_then(|interval| {
            let ms = i64::try_from(interval.as_millis()).map_err(|_| "is too long".to_owned())?;
            match interval.subsec_nanos() % 1_000_000 {
                0 => Ok(ms),
                _ => Err(format!(
                    "`{}` is not a whole number of milliseconds",
                    self.interval
                )),
            }
        });
        let interval =
            interval.map_err(|message| problems.push(Problem::new("timestamp.interval", message)));
        Some((start.ok()?, interval.ok()?))
    }
}

/// What all records of a job share.
struct Shape {
    seed: u64,
    keyed: bool,
    /// The key with the number 0, for each record of a run.
    zero_keys: Vec<u8>,
    key_size: usize,
    value_size: usize,
    /// Values are pieces of this text.
    text: Vec<u8>,
    distribution: Distribution,
    /// Event time of record 0, and from each record to the next.
    times: Option<(i64, i64)>,
}

/// How many places there are in the text at which a value can begin.
const TEXT_PLACES: usize = 1 << 14;

fn printable_text(value_size: usize) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    let letter = |place: usize| LETTERS[(mix(place as u64) >> 58) as usize];
    (0..TEXT_PLACES + value_size.max(SHORT))
        .map(letter)
        .collect()
}

/// Values of up to this many bytes are copied as if they had that many.
const SHORT: usize = 16;

/// Spreads the bits of `number` over the result (the finalizer of splitmix64).
#[inline]
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Shape {
    /// Appends the records `first`, `first + SPLITS` … to the columns; at most [`RUN`].
    #[inline]
    fn push(&self, first: u64, count: u64, batch: &mut Batch) {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let count = count.min(RUN) as usize;
        let index = |place: usize| first + place as u64 * SPLITS;
        let mut random = [0; RUN as usize];
        for (place, random) in random[..count].iter_mut().enumerate() {
            *random = mix(self.seed.wrapping_add(index(place).wrapping_mul(STEP)));
        }
        if self.keyed {
            // All lookups of a run before the first use: so they wait for memory together.
            let mut numbers = [0; RUN as usize];
            for (place, number) in numbers[..count].iter_mut().enumerate() {
                *number = self.distribution.key_of(index(place), random[place]);
            }
            batch.keys.push_uniform(count, self.key_size, |keys| {
                let start = keys.len();
                keys.extend_from_slice(&self.zero_keys[..count * self.key_size]);
                let keys = keys[start..].chunks_exact_mut(self.key_size);
                for (key, number) in keys.zip(&numbers[..count]) {
                    add_decimal(key, *number);
                }
            });
        }
        batch.values.push_uniform(count, self.value_size, |values| {
            self.push_values(&random[..count], values);
        });
        if let Some((start, interval)) = self.times {
            batch
                .timestamps
                .resize(batch.values.len() - count, NO_TIMESTAMP);
            let times = (0..count).map(|place| event_time_of(start, interval, index(place)));
            batch.timestamps.extend(times);
        }
    }

    /// Appends a value for each random number: a piece of the text.
    #[inline]
    fn push_values(&self, random: &[u64], values: &mut Vec<u8>) {
        let (size, start) = (self.value_size, values.len());
        let end = start + random.len() * size;
        let place = |random: &u64| (*random as usize) % TEXT_PLACES;
        if size > SHORT {
            values.reserve(end - start);
            for place in random.iter().map(place) {
                values.extend_from_slice(&self.text[place..place + size]);
            }
            return;
        }
        // A copy of fixed length is two instructions. What is too much the next value overwrites.
        values.resize(end + SHORT, 0);
        for (index, place) in random.iter().map(place).enumerate() {
            let at = start + index * size;
            values[at..at + SHORT].copy_from_slice(&self.text[place..place + SHORT]);
        }
        values.truncate(end);
    }

    /// Bytes of a record.
    fn record_size(&self) -> usize {
        let key = if self.keyed { self.key_size } else { 0 };
        key + self.value_size
    }
}

/// The event time of a record.
#[inline]
fn event_time_of(start: i64, interval: i64, index: u64) -> i64 {
    let ms = interval.saturating_mul(i64::try_from(index).unwrap_or(i64::MAX));
    start.saturating_add(ms)
}

/// Adds `number` to the decimal number of enough zeros that `text` ends with.
#[inline]
fn add_decimal(text: &mut [u8], mut number: u64) {
    const EIGHT_DIGITS: u64 = 100_000_000;
    let mut end = text.len();
    while let Some(last) = text[..end].last_chunk_mut::<8>() {
        // A division is left out where it can be: few keys have more digits.
        let more = number >= EIGHT_DIGITS;
        let digits = if more { number % EIGHT_DIGITS } else { number };
        *last = (u64::from_le_bytes(*last) + eight_digits(digits as u32)).to_le_bytes();
        if !more {
            return;
        }
        number /= EIGHT_DIGITS;
        end -= 8;
    }
    for digit in text[..end].iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
}

/// The digits of a number below 10^8, as numbers, the first one in the lowest byte.
#[inline]
fn eight_digits(number: u32) -> u64 {
    // Two halves of four digits, then four quarters of two, then eight digits, each time all at once:
    // x / 100 is x * 5243 >> 19 for all x below 10,000, and x / 10 is x * 103 >> 10 below 100.
    let halves = u64::from(number / 10_000) | (u64::from(number % 10_000) << 32);
    let hundreds = ((halves * 5243) >> 19) & 0x0000_007f_0000_007f;
    let quarters = hundreds | ((halves - hundreds * 100) << 16);
    let tens = ((quarters * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | ((quarters - tens * 10) << 8)
}

/// Makes generator sources.
pub(crate) struct GeneratorFactory {
    shape: Arc<Shape>,
    stream: Stream,
    changed: Changed,
    count: u64,
    rate: Option<f64>,
    /// How watermarks are made, if they are.
    event_times: Option<EventTimes>,
    clock: Clock,
}

impl GeneratorFactory {
    /// Whether the stream ends.
    pub(crate) fn is_bounded(&self) -> bool {
        self.count != u64::MAX
    }

    /// What the records look like downstream.
    pub(crate) fn port(&self) -> Port {
        let key = Column {
            name: "key".to_owned(),
            kind: ColumnKind::Text,
        };
        let keyed = self.shape.keyed;
        Port {
            name: "out".to_owned(),
            keyed,
            key_columns: if keyed { vec![key] } else { Vec::new() },
            format: Format::Text,
        }
    }
}

/// What a checkpoint records.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    /// Of each split of a subtask its number and how many of its records were taken.
    splits: Vec<(u64, u64)>,
    /// Which records they were; the first subtask says so. A position that was written before this
    /// was recorded has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<Stream>,
}

fn read_parts(parts: &[Part]) -> Result<Position, BoxError> {
    let mut whole = Position::default();
    for part in parts {
        let position = Position::deserialize(part).map_err(|error| {
            format!("the snapshot has a position that is not a generator's: {part}: {error}")
        })?;
        whole.splits.extend(position.splits);
        whole.stream = whole.stream.or(position.stream);
    }
    Ok(whole)
}

impl SourceFactory for GeneratorFactory {
    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Source>, BoxError> {
        let restored = read_parts(restored.unwrap_or_default())?.splits;
        let mine = (0..SPLITS)
            .filter(|split| split % u64::from(context.parallelism) == u64::from(context.subtask));
        let splits: Vec<Split> = mine
            .map(|index| {
                let taken = restored
                    .iter()
                    .find(|(split, _)| *split == index)
                    .map_or(0, |(_, taken)| *taken);
                let len = split_len(index, self.count);
                Split { index, taken, len }
            })
            .collect();
        let share = splits.len() as f64 / SPLITS as f64;
        let pace = self
            .rate
            .map(|rate| Pace::new(rate * share, Arc::clone(&self.clock)));
        let rounds = splits
            .iter()
            .filter(|split| split.taken < split.len)
            .map(|split| split.taken)
            .min()
            .unwrap_or(0);
        let event_time = self.event_times.as_ref().map(|it| {
            let mut event_time = it.of(context);
            for split in &splits {
                let mark = event_time.marks.add(self.shape.reached(split));
                if split.taken >= split.len {
                    event_time.marks.end(mark);
                }
            }
            event_time.begin();
            event_time
        });
        Ok(Box::new(Generator {
            shape: Arc::clone(&self.shape),
            event_time,
            is_noted: true,
            splits,
            turn: 0,
            round_end: rounds + RUN,
            pace,
            stream: (context.subtask == 0).then(|| self.stream.clone()),
        }))
    }

    fn compare(&self, source: &str, restored: &[Part]) -> Result<(), InputChanged> {
        // A position that cannot be read: creating the source tells.
        let Ok(position) = read_parts(restored) else {
            return Ok(());
        };
        let mut differences = match &position.stream {
            Some(was) => was.differences(&self.stream),
            None => {
                tracing::info!(
                    source,
                    "the checkpoint was written by a version that did not describe its input, so \
                     the generator's options are not compared"
                );
                Vec::new()
            }
        };
        differences.extend(count_exceeded(&position.splits, self.count));
        if differences.is_empty() {
            return Ok(());
        }
        match self.changed {
            Changed::Refuse => {
                let put_back = "set the keys to what they were";
                Err(super::changed::refused(source, differences, put_back))
            }
            Changed::Accept => {
                tracing::warn!(
                    source,
                    "accepted: {}; it continues after {} as if they had been made by \
                     these options, so some of its records may be lost or doubled",
                    differences.join("; "),
                    counted(total(&position.splits), "record")
                );
                Ok(())
            }
        }
    }

    fn describe_position(&self, restored: &[Part]) -> String {
        describe_position(restored)
            .unwrap_or_else(|| "a position that is not a generator's".to_owned())
    }
}

/// How far a position is, in words. `None` if it is not a generator's.
pub(crate) fn describe_position(parts: &[Part]) -> Option<String> {
    let position = read_parts(parts).ok()?;
    let records = counted(total(&position.splits), "generated record");
    Some(format!("continues after {records}"))
}

/// How many of the numbers below `count` are `index` mod [`SPLITS`].
fn split_len(index: u64, count: u64) -> u64 {
    (count / SPLITS) + u64::from(index < count % SPLITS)
}

/// How many records were taken of all splits.
fn total(splits: &[(u64, u64)]) -> u64 {
    let taken = splits.iter().map(|(_, taken)| *taken);
    taken.fold(0, u64::saturating_add)
}

/// What is wrong with a `count` below records that were made already. A higher one is all right: the
/// stream just goes on.
fn count_exceeded(splits: &[(u64, u64)], count: u64) -> Option<String> {
    let beyond = splits
        .iter()
        .filter(|(index, taken)| *taken > split_len(*index, count));
    let last = beyond.map(|(index, taken)| (taken - 1).saturating_mul(SPLITS) + index + 1);
    let last = last.max()?;
    let made = match total(splits) {
        1 => "1 record was".to_owned(),
        records => format!("{records} records were"),
    };
    Some(format!(
        "`count` is {count}, but {made} made already, up to number {last}"
    ))
}

impl Shape {
    /// The event time of the record that was taken of a split last, or of its first one. Within a split times only
    /// go up, so it is the highest.
    fn reached(&self, split: &Split) -> Option<i64> {
        let (start, interval) = self.times?;
        let last = split.taken.saturating_sub(1);
        let index = last.saturating_mul(SPLITS).saturating_add(split.index);
        Some(event_time_of(start, interval, index))
    }
}

/// The records `index`, `index + SPLITS`, `index + 2 * SPLITS` … of the job.
#[derive(Clone, Copy, Debug)]
struct Split {
    index: u64,
    /// How many were taken.
    taken: u64,
    /// How many there are.
    len: u64,
}

/// Makes the records of a subtask's splits.
struct Generator {
    shape: Arc<Shape>,
    /// What watermarks are made of, if they are made. Its splits have the numbers of those here.
    event_time: Option<EventTime>,
    /// Whether it knows how far they are.
    is_noted: bool,
    splits: Vec<Split>,
    /// Which of the splits is next.
    turn: usize,
    /// Splits take turns: each comes up to this many records taken, then the next.
    round_end: u64,
    pace: Option<Pace>,
    /// What the position says of the stream; only the first subtask has it.
    stream: Option<Stream>,
}

impl Generator {
    fn generate(&mut self, batch: &mut Batch, mut wanted: u64) -> u64 {
        let mut made = 0;
        let before = batch.len();
        let mut behind = 0;
        let size = self.shape.record_size().max(1);
        let limit = self.event_time.as_ref().and_then(|it| {
            let max_drift = it.marks.policy().max_drift_ms?;
            Some(it.slowest().saturating_add(max_drift))
        });
        let shape = Arc::clone(&self.shape);
        let may_go_on = |split: &Split| {
            split.taken < split.len && limit.is_none_or(|limit| shape.reached(split) <= Some(limit))
        };
        while wanted > 0 && !batch.is_full() {
            let Some(split) = self.splits.get_mut(self.turn) else {
                self.turn = 0;
                self.round_end += RUN;
                // A whole round without a record: a split may be far ahead after a rescale, or all
                // are at their ends, or ahead of the slowest by too much.
                if behind == made {
                    let going_on = self.splits.iter().filter(|split| may_go_on(split));
                    match going_on.map(|split| split.taken).min() {
                        Some(taken) => self.round_end = self.round_end.max(taken + RUN),
                        None => break,
                    }
                }
                behind = made;
                continue;
            };
            let room = (Batch::TARGET_RECORDS.saturating_sub(batch.len())).min(
                Batch::TARGET_BYTES
                    .saturating_sub(batch.byte_len())
                    .div_ceil(size),
            ) as u64;
            if limit.is_some() && !may_go_on(split) {
                self.turn += 1;
                continue;
            }
            let left = self.round_end.min(split.len).saturating_sub(split.taken);
            let taken = left.min(wanted).min(room).min(RUN);
            if taken > 0 {
                self.shape
                    .push(split.taken * SPLITS + split.index, taken, batch);
            }
            split.taken += taken;
            made += taken;
            wanted -= taken;
            if split.taken >= self.round_end.min(split.len) {
                self.turn += 1;
            }
        }
        if self.shape.times.is_none() && !batch.timestamps.is_empty() && batch.len() > before {
            batch.timestamps.resize(batch.len(), NO_TIMESTAMP);
        }
        made
    }
}

impl Generator {
    fn make(&mut self, batch: &mut Batch) -> SourceStatus {
        let has_ended = |splits: &[Split]| splits.iter().all(|split| split.taken >= split.len);
        let wanted = match &mut self.pace {
            Some(pace) => match pace.due() {
                Ok(due) => due,
                Err(_) if has_ended(&self.splits) => return SourceStatus::Ended,
                Err(until) => {
                    self.note_times();
                    self.note_silence();
                    return SourceStatus::Idle { until: Some(until) };
                }
            },
            None => u64::MAX,
        };
        let made = self.generate(batch, wanted);
        if let Some(pace) = &mut self.pace {
            pace.made += made;
        }
        self.is_noted &= made == 0;
        // Of the idle ones and of those that wait for others the state must be right after every record.
        if self.event_time.as_ref().is_some_and(|it| {
            let policy = it.marks.policy();
            policy.idle_ms.or(policy.max_drift_ms).is_some() || it.marks.is_due(it.now())
        }) {
            self.note_times();
        }
        if has_ended(&self.splits) {
            return SourceStatus::Ended;
        }
        if let (0, Some(event_time)) = (made, &self.event_time)
            && let Some(slowest) = event_time.marks.slowest()
            && !event_time.may_read(slowest)
        {
            event_time.wait_for(slowest);
            return SourceStatus::Idle { until: None };
        }
        SourceStatus::More
    }

    /// Notes how far the splits are.
    fn note_times(&mut self) {
        let Some(event_time) = self.event_time.as_mut().filter(|_| !self.is_noted) else {
            return;
        };
        self.is_noted = true;
        for (mark, split) in self.splits.iter().enumerate() {
            if split.taken >= split.len {
                event_time.marks.end(mark);
            } else if let Some(reached) = self.shape.reached(split) {
                event_time.marks.read(mark, reached);
            }
        }
    }

    /// Nothing is due of the stream as a whole. A split that only waits for its turn is not silent: its records
    /// would be late.
    fn note_silence(&mut self) {
        if let Some(event_time) = &mut self.event_time {
            let now = event_time.now();
            for mark in 0..self.splits.len() {
                event_time.marks.silent(mark, now);
            }
        }
    }
}

impl Source for Generator {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        let status = self.make(batch);
        Ok(match &mut self.event_time {
            Some(event_time) => event_time.polled(status),
            None => status,
        })
    }

    fn watermark(&self) -> Option<i64> {
        self.event_time.as_ref()?.marks.watermark()
    }

    fn is_idle(&self) -> bool {
        let event_time = self.event_time.as_ref();
        event_time.is_some_and(|event_time| event_time.marks.is_idle())
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        let splits = self
            .splits
            .iter()
            .map(|split| (split.index, split.taken))
            .collect();
        let stream = self.stream.clone();
        Ok(vec![serde_json::to_value(Position { splits, stream })?])
    }
}

/// Holds a subtask to its share of the rate.
struct Pace {
    /// Records per millisecond.
    per_ms: f64,
    clock: Clock,
    /// Since when records are counted, milliseconds since the epoch.
    since: i64,
    /// How many were made since then.
    made: u64,
}

impl Pace {
    /// A source that was held up catches up at most this much, because a burst helps nobody.
    const CATCH_UP_MS: i64 = 1000;

    /// Records are asked for in portions of about this time.
    const PORTION_MS: f64 = 5.0;

    fn new(per_second: f64, clock: Clock) -> Self {
        let since = clock();
        Self {
            per_ms: per_second / 1000.0,
            clock,
            since,
            made: 0,
        }
    }

    /// How many records are due now, or when the next ones are.
    fn due(&mut self) -> Result<u64, i64> {
        let now = (self.clock)();
        let made_ms = (self.made as f64 / self.per_ms) as i64;
        let behind = now.saturating_sub(self.since.saturating_add(made_ms));
        // Neither a pause nor a clock that was set again counts as records to be made up for. At a
        // low rate a record or two may be that far away in the ordinary course.
        let most = Self::CATCH_UP_MS.max((2.0 / self.per_ms) as i64);
        if !(-most..=most).contains(&behind) {
            self.since = now.saturating_sub(behind.clamp(0, most));
            self.made = 0;
        }
        let allowed = now.saturating_sub(self.since).max(0) as f64 * self.per_ms;
        let due = allowed as u64;
        if due > self.made {
            return Ok(due - self.made);
        }
        let next = (self.made + 1) as f64;
        let portion = self.made as f64 + self.per_ms * Self::PORTION_MS;
        let ms = (next.max(portion) / self.per_ms).ceil() as i64;
        Err(self.since.saturating_add(ms).max(now.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests;
