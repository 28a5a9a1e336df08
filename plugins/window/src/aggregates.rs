//! The aggregates of a configuration: how they are written, what they keep and what they result in.

use datasketches::hash::value::raw_bytes;
use datasketches::hll::{HllSketch, HllType, HllUnion};
use datasketches::tdigest::TDigestMut;
use highwater::codec::Varint;
use highwater::{
    Aggregate, Codec, Column, Error, FieldRef, Kind, OpenContext, Record, Result, Row, RowWriter,
};

use crate::config::Config;
use crate::values::{Number, Total};

/// Sketches of 2^12 registers: distinct counts are off by 1.6 % typically.
const DISTINCT_LG_K: u8 = 12;
/// Compression of the digests: quantiles are off by less than 1 % of the records, and by less near 0 and 1.
const QUANTILE_K: u16 = 200;

/// The most aggregates of a window.
const AGGREGATES_MAX: usize = 100;

/// A longer schema is replaced by its hash: hosts limit how long one is.
const SCHEMA_LEN_MAX: usize = 800;

/// What is asked of a column, or of the records.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Count,
    Sum,
    Min,
    Max,
    Mean,
    First,
    Last,
    Distinct,
    Quantile(f64),
}

const FUNCTIONS: &str = "`count`, `sum(column)`, `min(column)`, `max(column)`, `mean(column)`, `first(column)`, \
     `last(column)`, `distinct(column)` or `quantile(column, 0.95)`";

/// One of `aggregates`.
#[derive(Debug)]
struct One {
    function: Function,
    /// What it is of; nothing of `count`.
    column: Option<(String, Column)>,
    name: String,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Aggregates {
    all: Vec<One>,
    missing: Option<String>,
}

/// How an aggregate is written.
struct Written<'a> {
    function: Function,
    column: Option<&'a str>,
    name: Option<&'a str>,
}

fn wrong(text: &str, why: impl std::fmt::Display) -> Error {
    Error::config(format_args!("config: `aggregates`: `{text}`: {why}"))
}

/// Reads `quantile(dep_delay, 0.95) as p95`.
fn read(text: &str) -> Result<Written<'_>> {
    let (call, name) = match text.rsplit_once(" as ") {
        // A column may be called `a as b`: what follows the parenthesis is the name.
        Some((call, name)) if !name.contains(')') => (call.trim(), Some(name.trim())),
        _ => (text.trim(), None),
    };
    if name == Some("") {
        return Err(wrong(text, "a name is missing after `as`"));
    }
    let (function, argument) = match call.split_once('(') {
        Some((function, rest)) => match rest.strip_suffix(')') {
            Some(argument) => (function.trim(), Some(argument.trim())),
            None => return Err(wrong(text, "the parenthesis is not closed at the end")),
        },
        None => (call, None),
    };
    let mut column = argument;
    let function = match function {
        "count" => Function::Count,
        "sum" => Function::Sum,
        "min" => Function::Min,
        "max" => Function::Max,
        "mean" => Function::Mean,
        "first" => Function::First,
        "last" => Function::Last,
        "distinct" => Function::Distinct,
        "quantile" => {
            let (of, rank) = argument
                .and_then(|argument| argument.rsplit_once(','))
                .ok_or_else(|| {
                    wrong(
                        text,
                        "it needs a column and a number, like `quantile(delay, 0.95)`",
                    )
                })?;
            let number = rank.trim().parse().ok();
            let number = number.filter(|number| (0.0..=1.0).contains(number));
            column = Some(of.trim());
            Function::Quantile(number.ok_or_else(|| {
                wrong(
                    text,
                    format_args!("`{}` is not a number from 0 to 1", rank.trim()),
                )
            })?)
        }
        other => {
            return Err(wrong(
                text,
                format_args!("there is no aggregate `{other}`; there are {FUNCTIONS}"),
            ));
        }
    };
    match (function, column) {
        (Function::Count, Some("") | None) => column = None,
        (Function::Count, Some(_)) => {
            return Err(wrong(text, "`count` counts records and has no column"));
        }
        (_, Some("") | None) => return Err(wrong(text, "it needs a column in parentheses")),
        _ => {}
    }
    Ok(Written {
        function,
        column,
        name,
    })
}

impl Written<'_> {
    /// The name of the result's column unless one is given: `mean_dep_delay`.
    fn usual_name(&self) -> String {
        let function = match self.function {
            Function::Count => return "count".to_owned(),
            Function::Sum => "sum".to_owned(),
            Function::Min => "min".to_owned(),
            Function::Max => "max".to_owned(),
            Function::Mean => "mean".to_owned(),
            Function::First => "first".to_owned(),
            Function::Last => "last".to_owned(),
            Function::Distinct => "distinct".to_owned(),
            Function::Quantile(rank) => format!("quantile_{rank}"),
        };
        format!("{function}_{}", self.column.unwrap_or_default())
    }
}

impl Aggregates {
    pub(crate) fn open(ctx: &OpenContext, config: &Config) -> Result<Self> {
        if config.aggregates.is_empty() {
            return Err(Error::config(format_args!(
                "config: `aggregates` is empty: name one at least, like {FUNCTIONS}"
            )));
        }
        if config.aggregates.len() > AGGREGATES_MAX {
            return Err(Error::config(format_args!(
                "config: `aggregates` are {}, and at most {AGGREGATES_MAX} are computed",
                config.aggregates.len()
            )));
        }
        let mut all = Vec::new();
        for text in &config.aggregates {
            let written = read(text)?;
            let column = match written.column {
                None => None,
                Some(name) => {
                    let column = ctx.column(name);
                    let column = column.map_err(|error| wrong(text, error.message()))?;
                    Some((name.to_owned(), column))
                }
            };
            all.push(One {
                function: written.function,
                column,
                name: written
                    .name
                    .map_or_else(|| written.usual_name(), str::to_owned),
            });
        }
        Ok(Self {
            all,
            missing: config.missing.clone(),
        })
    }

    /// The columns of the results.
    pub(crate) fn columns(&self) -> impl Iterator<Item = (String, Kind)> {
        self.all.iter().map(|one| {
            let kind = match one.function {
                Function::Count | Function::Distinct => Kind::Integer,
                Function::First | Function::Last => Kind::Text,
                _ => Kind::Float,
            };
            (one.name.clone(), kind)
        })
    }
}

/// What is kept for one aggregate.
#[derive(Debug)]
enum Kept {
    Count(u64),
    Total(Total),
    Extreme(Option<Number>),
    /// With its event time.
    Text(Option<(i64, Vec<u8>)>),
    Distinct(HllSketch),
    Digest(TDigestMut),
}

/// What is kept for all of them, in their order.
#[derive(Debug)]
pub(crate) struct Accumulator(Vec<Kept>);

/// What they result in.
pub(crate) struct Results(Vec<Output>);

enum Output {
    None,
    Count(u64),
    Number(Number),
    /// A sum of whole numbers.
    Whole(i128),
    Text(Vec<u8>),
}

impl One {
    /// Function and column, of the characters that names in schemas have.
    fn id(&self) -> String {
        let mut id = String::new();
        let mut name = format!("{:?}", self.function).to_lowercase();
        if let Some((column, _)) = &self.column {
            name = name + "_" + column;
        }
        for letter in name.chars() {
            if letter.is_ascii_alphanumeric() || letter == '_' {
                id.push(letter);
            } else {
                id.push_str(&format!("#{:x}#", u32::from(letter)));
            }
        }
        id
    }

    fn create(&self) -> Kept {
        match self.function {
            Function::Count => Kept::Count(0),
            Function::Sum | Function::Mean => Kept::Total(Total::default()),
            Function::Min | Function::Max => Kept::Extreme(None),
            Function::First | Function::Last => Kept::Text(None),
            Function::Distinct => Kept::Distinct(
                HllSketch::new(DISTINCT_LG_K, HllType::Hll4)
                    .expect("the size is one that sketches have"),
            ),
            Function::Quantile(_) => Kept::Digest(
                TDigestMut::new(QUANTILE_K).expect("the size is one that digests have"),
            ),
        }
    }

    /// Adds a value of the column.
    fn add(&self, to: &mut Kept, field: FieldRef<'_>, time: i64) -> Result<()> {
        let number =
            || -> Result<Option<Number>> { Number::read(field).map_err(|error| self.named(error)) };
        match to {
            Kept::Count(count) => *count += 1,
            Kept::Total(total) => {
                if let Some(number) = number()? {
                    total.add(number);
                }
            }
            Kept::Extreme(extreme) => {
                if let Some(number) = number()? {
                    self.extreme(extreme, number);
                }
            }
            Kept::Text(text) => self.text(text, time, || field.bytes().into_owned()),
            Kept::Distinct(sketch) => sketch.update(raw_bytes::from_slice(&field.bytes())),
            Kept::Digest(digest) => {
                if let Some(number) = number()? {
                    digest.update(number.as_float());
                }
            }
        }
        Ok(())
    }

    fn named(&self, error: Error) -> Error {
        match &self.column {
            Some((name, _)) => error.context(format_args!("column `{name}`")),
            None => error,
        }
    }

    fn extreme(&self, held: &mut Option<Number>, number: Number) {
        let is_better = held.is_none_or(|held| match self.function {
            Function::Min => number < held,
            _ => number > held,
        });
        if is_better {
            *held = Some(number);
        }
    }

    fn text(&self, held: &mut Option<(i64, Vec<u8>)>, time: i64, text: impl FnOnce() -> Vec<u8>) {
        let is_better = held.as_ref().is_none_or(|(held, _)| match self.function {
            Function::First => time < *held,
            _ => time >= *held,
        });
        if is_better {
            *held = Some((time, text()));
        }
    }

    fn merge(&self, into: &mut Kept, from: &Kept) -> Result<()> {
        match (into, from) {
            (Kept::Count(into), Kept::Count(from)) => *into += from,
            (Kept::Total(into), Kept::Total(from)) => into.merge(*from),
            (Kept::Extreme(into), Kept::Extreme(Some(from))) => self.extreme(into, *from),
            (Kept::Text(into), Kept::Text(Some((time, text)))) => {
                self.text(into, *time, || text.clone())
            }
            (Kept::Distinct(into), Kept::Distinct(from)) => {
                let mut union = HllUnion::new(DISTINCT_LG_K)?;
                union.update(into);
                union.update(from);
                *into = union.to_sketch(HllType::Hll4);
            }
            (Kept::Digest(into), Kept::Digest(from)) => into.merge(from),
            (Kept::Extreme(_), Kept::Extreme(None)) | (Kept::Text(_), Kept::Text(None)) => {}
            _ => {
                return Err(Error::config(
                    "the state holds other aggregates than the configuration",
                ));
            }
        }
        Ok(())
    }

    fn result(&self, of: &Kept) -> Result<Output> {
        Ok(match of {
            Kept::Count(count) => Output::Count(*count),
            Kept::Total(total) if self.function == Function::Mean => total
                .mean()
                .map_or(Output::None, |mean| Output::Number(Number::Float(mean))),
            Kept::Total(total) => match total.sum() {
                None => Output::None,
                Some(Ok(whole)) => Output::Whole(whole),
                Some(Err(float)) => Output::Number(Number::Float(float)),
            },
            Kept::Extreme(extreme) => extreme.map_or(Output::None, Output::Number),
            Kept::Text(text) => match text {
                Some((_, text)) => Output::Text(text.clone()),
                None => Output::None,
            },
            Kept::Distinct(sketch) => Output::Count(sketch.estimate().round() as u64),
            Kept::Digest(digest) => {
                let Function::Quantile(rank) = self.function else {
                    return Err(Error::config(
                        "the state holds other aggregates than the configuration",
                    ));
                };
                let quantile = digest.clone().quantile(rank)?;
                quantile.map_or(Output::None, |value| Output::Number(Number::Float(value)))
            }
        })
    }
}

impl Aggregate for Aggregates {
    type Accumulator = Accumulator;
    type Result = Results;

    fn create(&self) -> Accumulator {
        Accumulator(self.all.iter().map(One::create).collect())
    }

    fn add(&self, to: &mut Accumulator, record: Record<'_>) -> Result<()> {
        self.check(to)?;
        let time = record.timestamp().unwrap_or(i64::MIN);
        for (one, kept) in self.all.iter().zip(&mut to.0) {
            let Some((_, column)) = &one.column else {
                if let Kept::Count(count) = kept {
                    *count += 1;
                }
                continue;
            };
            let field = record.get(*column)?;
            let is_missing = self
                .missing
                .as_deref()
                .is_some_and(|missing| field == missing);
            if !field.is_empty() && !is_missing {
                one.add(kept, field, time)?;
            }
        }
        Ok(())
    }

    fn merge(&self, into: &mut Accumulator, from: &Accumulator) -> Result<()> {
        self.check(into)?;
        self.check(from)?;
        for ((one, into), from) in self.all.iter().zip(&mut into.0).zip(&from.0) {
            one.merge(into, from)?;
        }
        Ok(())
    }

    fn result(&self, of: &Accumulator) -> Result<Results> {
        self.check(of)?;
        let results = self
            .all
            .iter()
            .zip(&of.0)
            .map(|(one, kept)| one.result(kept));
        results.collect::<Result<_>>().map(Results)
    }

    /// Names functions and columns, because what is kept of one column is nothing to another.
    fn schema(&self) -> String {
        let parts = self.all.iter().map(|one| {
            let kept = match one.function {
                Function::Count => "varint",
                Function::Sum | Function::Mean => "(whole:i128,fraction:f64?,count:u64)",
                Function::Min | Function::Max => "(i64?,f64?)?",
                Function::First | Function::Last => "(i64,bytes)?",
                Function::Distinct | Function::Quantile(_) => "bytes",
            };
            format!("{}:(kind:u8,kept:{kept})", one.id())
        });
        let schema = format!("(all:u8,{})", parts.collect::<Vec<_>>().join(","));
        if schema.len() <= SCHEMA_LEN_MAX {
            return schema;
        }
        // FNV-1a: the same in every version.
        let hash = schema
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("aggregates#{hash:016x}")
    }
}

impl Aggregates {
    fn check(&self, accumulator: &Accumulator) -> Result<()> {
        if accumulator.0.len() == self.all.len() {
            return Ok(());
        }
        Err(Error::config(format_args!(
            "the state holds {} aggregates, the configuration has {}",
            accumulator.0.len(),
            self.all.len()
        )))
    }
}

impl Row for Results {
    fn write(&self, row: &mut RowWriter<'_>) {
        for output in &self.0 {
            match output {
                Output::None => row.plain(b""),
                Output::Count(count) => count.write(row),
                Output::Number(number) => number.write(row),
                Output::Whole(whole) => whole.write(row),
                Output::Text(text) => row.field(text),
            }
        }
    }
}

/// How many there are, and each: a byte for its kind, and what is kept.
impl Codec for Accumulator {
    fn schema() -> String {
        "aggregates".to_owned()
    }

    fn encode(&self, to: &mut Vec<u8>) {
        self.encode_part(to);
    }

    fn decode(mut bytes: &[u8]) -> Result<Self> {
        let all = Self::decode_part(&mut bytes)?;
        if bytes.is_empty() {
            Ok(all)
        } else {
            Err(Error::config("the state holds more than the aggregates"))
        }
    }

    fn encode_part(&self, to: &mut Vec<u8>) {
        // There are at most `AGGREGATES_MAX`.
        to.push(self.0.len() as u8);
        for kept in &self.0 {
            match kept {
                Kept::Count(count) => {
                    to.push(0);
                    Varint(*count).encode_part(to);
                }
                Kept::Total(total) => {
                    to.push(1);
                    total.parts().encode_part(to);
                }
                Kept::Extreme(extreme) => {
                    to.push(2);
                    extreme.map(Number::parts).encode_part(to);
                }
                Kept::Text(text) => {
                    to.push(3);
                    text.encode_part(to);
                }
                Kept::Distinct(sketch) => {
                    to.push(4);
                    sketch.serialize().encode_part(to);
                }
                Kept::Digest(digest) => {
                    to.push(5);
                    // Writing one out compresses it first.
                    digest.clone().serialize().encode_part(to);
                }
            }
        }
    }

    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..u8::decode_part(bytes)? {
            all.push(match u8::decode_part(bytes)? {
                0 => Kept::Count(Varint::decode_part(bytes)?.0),
                1 => Kept::Total(Total::of(Codec::decode_part(bytes)?)),
                2 => Kept::Extreme(Option::decode_part(bytes)?.map(Number::of)),
                3 => Kept::Text(Option::decode_part(bytes)?),
                4 => Kept::Distinct(HllSketch::deserialize(&Vec::<u8>::decode_part(bytes)?)?),
                5 => Kept::Digest(TDigestMut::deserialize(&Vec::<u8>::decode_part(bytes)?)?),
                other => {
                    return Err(Error::config(format_args!(
                        "there is no aggregate of kind {other} in state"
                    )));
                }
            });
        }
        Ok(Self(all))
    }
}
