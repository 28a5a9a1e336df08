//! Windows that keep their records.

use super::Aggregate;
use crate::call::NO_TIMESTAMP;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::record::Record;

/// Keeps the values of all records, for results that no accumulator of fixed size gives.
///
/// They are one value in state, written back with each batch that adds to it, and limited to 16 MiB: prefer an
/// aggregate that needs less where there is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Collect;

/// The values that [`Collect`] has kept, in the order of event time, and of arrival where that is equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected(Vec<(i64, Vec<u8>)>);

impl Collected {
    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values, as they came: rows on an input of rows.
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|(_, value)| value.as_slice())
    }

    /// The values with their event times.
    pub fn timed(&self) -> impl Iterator<Item = (Option<i64>, &[u8])> {
        let time = |time: i64| Some(time).filter(|&time| time != NO_TIMESTAMP);
        self.0
            .iter()
            .map(move |(at, value)| (time(*at), value.as_slice()))
    }

    /// The fields of each value, read as a row.
    pub fn rows(&self) -> impl Iterator<Item = Fields<'_>> {
        self.values().map(Fields::new)
    }

    fn insert(&mut self, time: i64, value: Vec<u8>) {
        let at = self.0.partition_point(|(other, _)| *other <= time);
        self.0.insert(at, (time, value));
    }
}

/// Event time and bytes of each value.
impl Codec for Collected {
    fn schema() -> String {
        "[(i64,bytes)]".to_owned()
    }

    fn encode(&self, to: &mut Vec<u8>) {
        for (time, value) in &self.0 {
            time.encode_part(to);
            value.encode_part(to);
        }
    }

    fn decode(mut bytes: &[u8]) -> Result<Self> {
        let mut collected = Self::default();
        while !bytes.is_empty() {
            let time = i64::decode_part(&mut bytes)?;
            let value = Vec::<u8>::decode_part(&mut bytes)?;
            if collected.0.last().is_some_and(|(last, _)| *last > time) {
                return Err(Error::new("collected records are not in order of time"));
            }
            collected.0.push((time, value));
        }
        Ok(collected)
    }
}

impl Aggregate for Collect {
    type Accumulator = Collected;
    type Result = Collected;

    fn create(&self) -> Collected {
        Collected::default()
    }

    fn add(&self, to: &mut Collected, record: Record<'_>) -> Result<()> {
        let time = record.timestamp().unwrap_or(NO_TIMESTAMP);
        to.insert(time, record.value().to_vec());
        Ok(())
    }

    fn merge(&self, into: &mut Collected, from: &Collected) -> Result<()> {
        // Stable, so what arrived before stays before.
        into.0.extend_from_slice(&from.0);
        into.0.sort_by_key(|(time, _)| *time);
        Ok(())
    }

    fn result(&self, of: &Collected) -> Result<Collected> {
        Ok(of.clone())
    }
}
