//! How often each generated key comes.

use job_file::problem::Problem;

use super::DistributionName;

/// The most keys that `zipf` can have: each costs 8 bytes of a table.
const MAX_ZIPF_KEYS: u64 = 1 << 24;

/// How uneven `zipf` is where nothing is said.
pub(super) const EXPONENT: f64 = 1.0;

/// Chooses the number of a record's key.
pub(super) enum Distribution {
    /// All of this many keys are as likely.
    Uniform(u64),
    /// This many keys in turn.
    Sequential(u64),
    /// Of this many keys the first tenth comes nine times out of ten.
    Hotspot(u64),
    /// Walker's alias table: column `c` stands for key `c` below its bar, and for its alias above.
    Zipf(Vec<Bar>),
}

/// A column of an alias table.
#[derive(Clone, Copy)]
pub(super) struct Bar {
    /// The share of the column that is its own, of 2^32.
    own: u32,
    alias: u32,
}

impl Distribution {
    /// # Errors
    /// The options do not make a distribution.
    pub(super) fn new(
        name: DistributionName,
        keys: u64,
        exponent: Option<f64>,
    ) -> Result<Self, Problem> {
        match name {
            DistributionName::Uniform => Ok(Self::Uniform(keys)),
            DistributionName::Sequential => Ok(Self::Sequential(keys)),
            DistributionName::Hotspot => Ok(Self::Hotspot(keys)),
            DistributionName::Zipf if keys > MAX_ZIPF_KEYS => Err(Problem::new(
                "keys",
                format!("can be at most {MAX_ZIPF_KEYS} for `zipf`"),
            )),
            DistributionName::Zipf => {
                let exponent = exponent.unwrap_or(EXPONENT);
                if !(exponent.is_finite() && (0.0..=20.0).contains(&exponent)) {
                    return Err(Problem::new("exponent", "must be between 0 and 20"));
                }
                Ok(Self::Zipf(alias_table(keys, exponent)))
            }
        }
    }

    /// The number of the key of record `index`, by 64 random bits.
    #[inline]
    pub(super) fn key_of(&self, index: u64, random: u64) -> u64 {
        match self {
            Self::Uniform(keys) => scale(random, *keys),
            Self::Sequential(keys) => index % keys,
            Self::Hotspot(keys) => {
                let hot = keys.div_ceil(10);
                // The lower bits choose the part, the upper ones the key in it.
                match (random as u32) < u32::MAX / 10 * 9 {
                    true => scale(random, hot),
                    false => (hot + scale(random, keys - hot)).min(keys - 1),
                }
            }
            Self::Zipf(bars) => {
                // The upper bits choose the column, the lower ones the part of it; they overlap
                // only where there are more columns than 2^32.
                let column = scale(random, bars.len() as u64);
                let bar = bars[column as usize];
                // Without a branch, which could only be guessed.
                let own = u64::from((random as u32) < bar.own).wrapping_neg();
                (column & own) | (u64::from(bar.alias) & !own)
            }
        }
    }
}

/// Evenly from 64 random bits to a number below `count`.
#[inline]
fn scale(random: u64, count: u64) -> u64 {
    ((u128::from(random) * u128::from(count)) >> 64) as u64
}

fn alias_table(keys: u64, exponent: f64) -> Vec<Bar> {
    let weight = |key: u64| ((key + 1) as f64).powf(-exponent);
    let total: f64 = (0..keys).map(weight).sum();
    let mean = total / keys as f64;
    // In units of a column's height.
    let mut heights: Vec<f64> = (0..keys).map(|key| weight(key) / mean).collect();
    let mut bars: Vec<Bar> = (0..keys as u32)
        .map(|key| Bar {
            own: u32::MAX,
            alias: key,
        })
        .collect();
    let (mut short, mut tall): (Vec<u32>, Vec<u32>) =
        (0..keys as u32).partition(|key| heights[*key as usize] < 1.0);
    while let (Some(low), Some(high)) = (short.pop(), tall.last().copied()) {
        // The low column is filled up by the high one, and is done.
        let missing = 1.0 - heights[low as usize];
        bars[low as usize] = Bar {
            own: (heights[low as usize] * 4_294_967_296.0) as u32,
            alias: high,
        };
        heights[high as usize] -= missing;
        if heights[high as usize] < 1.0 {
            tall.pop();
            short.push(high);
        }
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(name: DistributionName, keys: u64, exponent: Option<f64>, draws: u64) -> Vec<u64> {
        let distribution = Distribution::new(name, keys, exponent).ok().unwrap();
        let mut counts = vec![0; keys as usize];
        for index in 0..draws {
            let random = super::super::mix(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            counts[distribution.key_of(index, random) as usize] += 1;
        }
        counts
    }

    #[test]
    fn zipf_keys_come_in_proportion_to_their_rank() {
        let draws = 1_000_000;
        for (keys, exponent) in [
            (1, 1.0),
            (2, 1.0),
            (10, 0.0),
            (100, 1.0),
            (1000, 1.2),
            (10, 3.0),
        ] {
            let counts = counts(DistributionName::Zipf, keys, Some(exponent), draws);
            let weight = |key: usize| ((key + 1) as f64).powf(-exponent);
            let total: f64 = (0..keys as usize).map(weight).sum();
            for (key, count) in counts.into_iter().enumerate() {
                let expected = draws as f64 * weight(key) / total;
                let slack = 6.0 * expected.sqrt() + 6.0;
                assert!(
                    (count as f64 - expected).abs() < slack,
                    "key {key} of {keys}: {count}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn nine_of_ten_records_have_a_key_of_the_hot_tenth() {
        let counts = counts(DistributionName::Hotspot, 100, None, 1_000_000);
        let (hot, cold) = counts.split_at(10);
        assert!(hot.iter().all(|count| (88_000..92_000).contains(count)));
        assert!(cold.iter().all(|count| (1000..1250).contains(count)));
        for keys in [1, 2, 9] {
            let distribution = Distribution::new(DistributionName::Hotspot, keys, None);
            let distribution = distribution.unwrap();
            assert!((0..1000).all(|at| distribution.key_of(at, at << 54 | at << 22) < keys));
        }
    }

    #[test]
    fn uniform_keys_are_as_likely_and_sequential_ones_take_turns() {
        for count in counts(DistributionName::Uniform, 100, None, 1_000_000) {
            assert!((9_400..10_600).contains(&count), "{count}");
        }
        assert_eq!(counts(DistributionName::Sequential, 7, None, 70), [10; 7]);
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        assert!(Distribution::new(DistributionName::Zipf, 1 << 30, None).is_err());
        assert!(Distribution::new(DistributionName::Zipf, 10, Some(f64::NAN)).is_err());
        assert!(Distribution::new(DistributionName::Zipf, 10, Some(-1.0)).is_err());
    }
}
