//! Which records a generator makes, as a position records it: another `seed` or another number of keys
//! makes another stream, in which the old position means nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use dataflow::Batch;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{DistributionName, GeneratorOptions, RUN, Shape};

/// What determines the records: all options but how many there are and how fast they come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stream {
    /// By the key of the job file, as it takes effect.
    options: BTreeMap<String, Value>,
    /// CRC-32C of the first records. Differs from that of the same options only if another version
    /// makes other records of them.
    digest: u32,
}

impl Stream {
    /// The stream that `options` make, of which `shape` was computed.
    pub(super) fn of(options: &GeneratorOptions, shape: &Shape) -> Self {
        let mut map = BTreeMap::new();
        let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
        set("seed", json!(options.seed));
        set("value-size", json!(options.value_size));
        if let Some(keys) = options.keys {
            set("keys", json!(keys));
            set("key-prefix", json!(options.key_prefix));
            set("key-size", json!(shape.key_size));
            set("distribution", json!(options.distribution));
            if options.distribution == DistributionName::Zipf {
                let exponent = options.exponent.unwrap_or(super::distribution::EXPONENT);
                // As text, which is read back exactly.
                set("exponent", json!(exponent.to_string()));
            }
        }
        if let Some((start, interval)) = shape.times {
            let shown = DateTime::from_timestamp_millis(start).map_or_else(
                || json!(start),
                |start| json!(start.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            );
            set("timestamp.start", shown);
            let interval = Duration::from_millis(interval.unsigned_abs());
            let interval = humantime::format_duration(interval).to_string();
            set("timestamp.interval", json!(interval));
        }
        Self {
            options: map,
            digest: digest(shape),
        }
    }

    /// What differs of the stream that there is `now`, a line for each key.
    pub(super) fn differences(&self, now: &Self) -> Vec<String> {
        let keys: BTreeSet<_> = self.options.keys().chain(now.options.keys()).collect();
        let mut differences = Vec::new();
        for key in keys {
            let (was, is) = (self.options.get(key), now.options.get(key));
            if was != is {
                differences.push(format!("`{key}` was {} and is {}", shown(was), shown(is)));
            }
        }
        if differences.is_empty() && self.digest != now.digest {
            let text = "another version of the generator makes other records of the same options";
            differences.push(text.to_owned());
        }
        differences
    }
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "not set".to_owned(), |value| format!("`{value}`"))
}

fn digest(shape: &Shape) -> u32 {
    let mut batch = Batch::default();
    // Within the limits of a batch whatever the sizes are.
    let records = (Batch::TARGET_BYTES / shape.record_size().max(1)).clamp(1, RUN as usize);
    shape.push(0, records as u64, &mut batch);
    let mut crc = 0;
    for index in 0..batch.len() {
        if batch.is_keyed() {
            crc = crc32c::crc32c_append(crc, batch.keys.get(index));
        }
        crc = crc32c::crc32c_append(crc, batch.values.get(index));
    }
    for timestamp in &batch.timestamps {
        crc = crc32c::crc32c_append(crc, &timestamp.to_le_bytes());
    }
    crc
}
