//! Metrics as text for Prometheus (version 0.0.4).

use std::fmt::Write;

use super::{Family, Metric, Number};

/// Writes metrics with their samples.
pub(crate) fn text(metrics: &[Metric]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for metric in metrics.iter().filter(|metric| !metric.samples.is_empty()) {
        let Family { name, kind, help } = metric.family;
        let kind = kind.word();
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for sample in &metric.samples {
            text.push_str(name);
            for (index, (label, value)) in sample.labels.iter().enumerate() {
                text.push(if index == 0 { '{' } else { ',' });
                let _ = write!(text, "{label}=\"");
                escape(&mut text, value);
                text.push('"');
            }
            if !sample.labels.is_empty() {
                text.push('}');
            }
            let _ = match sample.value {
                Number::Whole(value) => writeln!(text, " {value}"),
                Number::Real(value) => writeln!(text, " {value}"),
            };
        }
    }
    text
}

/// Writes a label's value.
fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}
