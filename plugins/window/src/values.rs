//! Numbers as columns hold them: whole ones stay exact.

use std::cmp::Ordering;

use highwater::{Error, FieldRef, Result, Row, RowWriter};

/// A number of a column.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Whole(i64),
    Float(f64),
}

impl Number {
    /// The number in a field; none if it says that it is not one (`NaN`).
    pub(crate) fn read(field: FieldRef<'_>) -> Result<Option<Self>> {
        if let Ok(whole) = field.parse::<i64>() {
            return Ok(Some(Self::Whole(whole)));
        }
        let float: f64 = field.parse().map_err(|error: Error| {
            Error::new(format_args!(
                "{}; a text that stands for a missing value is named in `missing`",
                error.message()
            ))
        })?;
        Ok(Some(Self::Float(float)).filter(|_| !float.is_nan()))
    }

    pub(crate) fn as_float(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Float(float) => float,
        }
    }

    /// As it is kept: one of the two.
    pub(crate) fn parts(self) -> (Option<i64>, Option<f64>) {
        match self {
            Self::Whole(whole) => (Some(whole), None),
            Self::Float(float) => (None, Some(float)),
        }
    }

    pub(crate) fn of(parts: (Option<i64>, Option<f64>)) -> Self {
        match parts {
            (Some(whole), _) => Self::Whole(whole),
            (None, float) => Self::Float(float.unwrap_or_default()),
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(one), Self::Whole(two)) => Some(one.cmp(two)),
            (one, two) => one.as_float().partial_cmp(&two.as_float()),
        }
    }
}

impl Row for Number {
    fn write(&self, row: &mut RowWriter<'_>) {
        match self {
            Self::Whole(whole) => whole.write(row),
            Self::Float(float) => float.write(row),
        }
    }
}

/// A sum. That of whole numbers is exact, whatever their order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Total {
    whole: i128,
    /// The sum of numbers with a fraction, once there was one.
    fraction: Option<f64>,
    count: u64,
}

/// What is kept of a total.
type Parts = (i128, Option<f64>, u64);

impl Total {
    pub(crate) fn add(&mut self, number: Number) {
        match number {
            // 2^64 of the largest numbers fit.
            Number::Whole(whole) => self.whole += i128::from(whole),
            Number::Float(float) => self.fraction = Some(self.fraction.unwrap_or(0.0) + float),
        }
        self.count += 1;
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.whole += other.whole;
        if let Some(fraction) = other.fraction {
            self.fraction = Some(self.fraction.unwrap_or(0.0) + fraction);
        }
        self.count += other.count;
    }

    /// The sum, whole or not; none of no numbers.
    pub(crate) fn sum(self) -> Option<std::result::Result<i128, f64>> {
        match (self.count, self.fraction) {
            (0, _) => None,
            (_, None) => Some(Ok(self.whole)),
            (_, Some(fraction)) => Some(Err(self.whole as f64 + fraction)),
        }
    }

    pub(crate) fn mean(self) -> Option<f64> {
        let sum = match self.sum()? {
            Ok(whole) => whole as f64,
            Err(float) => float,
        };
        Some(sum / self.count as f64)
    }

    pub(crate) fn parts(self) -> Parts {
        (self.whole, self.fraction, self.count)
    }

    pub(crate) fn of((whole, fraction, count): Parts) -> Self {
        Self {
            whole,
            fraction,
            count,
        }
    }
}
