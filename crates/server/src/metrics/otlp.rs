//! Metrics as a request of OTLP, the protocol of OpenTelemetry (1.x, `ExportMetricsServiceRequest`).
//!
//! Of its messages those fields are here that are sent. The crate with all of them brings an SDK that would count once
//! more what is counted here.

use prost::Message;

use super::{Kind, Metric, Number};

#[derive(Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_metrics: Vec<ResourceMetrics>,
}

#[derive(Message)]
struct ResourceMetrics {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_metrics: Vec<ScopeMetrics>,
}

#[derive(Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct ScopeMetrics {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<OtlpMetric>,
}

#[derive(Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Message)]
struct OtlpMetric {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    description: String,
    #[prost(string, tag = "3")]
    unit: String,
    #[prost(message, optional, tag = "5")]
    gauge: Option<Gauge>,
    #[prost(message, optional, tag = "7")]
    sum: Option<Sum>,
}

#[derive(Message)]
struct Gauge {
    #[prost(message, repeated, tag = "1")]
    data_points: Vec<Point>,
}

#[derive(Message)]
struct Sum {
    #[prost(message, repeated, tag = "1")]
    data_points: Vec<Point>,
    #[prost(int32, tag = "2")]
    aggregation_temporality: i32,
    #[prost(bool, tag = "3")]
    is_monotonic: bool,
}

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`: each value is since the start.
const CUMULATIVE: i32 = 2;

#[derive(Message)]
struct Point {
    #[prost(fixed64, tag = "2")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "3")]
    time_unix_nano: u64,
    #[prost(double, optional, tag = "4")]
    as_double: Option<f64>,
    #[prost(sfixed64, optional, tag = "6")]
    as_int: Option<i64>,
    #[prost(message, repeated, tag = "7")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    string_value: Option<String>,
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            string_value: Some(value.to_owned()),
        }),
    }
}

fn nanos(ms: i64) -> u64 {
    ms.max(0).unsigned_abs().saturating_mul(1_000_000)
}

/// Encodes metrics of a process with these attributes. Counters count since `since_ms` at the latest.
pub(crate) fn request(
    metrics: &[Metric],
    attributes: &[(String, String)],
    since_ms: i64,
    now_ms: i64,
) -> Vec<u8> {
    let times = (nanos(since_ms), nanos(now_ms));
    let metrics = metrics.iter().filter(|metric| !metric.samples.is_empty());
    let attributes = attributes.iter();
    let request = Request {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes: attributes
                    .map(|(key, value)| attribute(key, value))
                    .collect(),
            }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(Scope {
                    name: "highwater".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                metrics: metrics.map(|metric| encode(metric, times)).collect(),
            }],
        }],
    };
    request.encode_to_vec()
}

fn encode(metric: &Metric, (start_time_unix_nano, time_unix_nano): (u64, u64)) -> OtlpMetric {
    let points = metric.samples.iter().map(|sample| {
        let (as_int, as_double) = match sample.value {
            Number::Whole(value) => (Some(i64::try_from(value).unwrap_or(i64::MAX)), None),
            Number::Real(value) => (None, Some(value)),
        };
        let labels = sample.labels.iter();
        Point {
            start_time_unix_nano,
            time_unix_nano,
            as_double,
            as_int,
            attributes: labels
                .map(|(label, value)| attribute(label, value))
                .collect(),
        }
    });
    let data_points = points.collect();
    let (gauge, sum) = match metric.family.kind {
        Kind::Gauge => (Some(Gauge { data_points }), None),
        Kind::Counter => {
            let sum = Sum {
                data_points,
                aggregation_temporality: CUMULATIVE,
                is_monotonic: true,
            };
            (None, Some(sum))
        }
    };
    OtlpMetric {
        name: metric.family.name.to_owned(),
        description: metric.family.help.to_owned(),
        // In the words of UCUM.
        unit: match metric.family.name {
            name if name.contains("_bytes") => "By",
            name if name.contains("_seconds") => "s",
            name if name.ends_with("_ms") => "ms",
            _ => "1",
        }
        .to_owned(),
        gauge,
        sum,
    }
}
