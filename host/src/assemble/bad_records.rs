//! Records that are left out: the port of dead letters, and what the runtime has to know.

use std::path::PathBuf;
use std::sync::Arc;

use dataflow::port::{Format, Port};
use job_file::JobFile;
use job_file::bad_records::{BadRecords, DEAD_LETTER, Rate};
use operator::capsule::Subject;
use runtime::bad_records::RateLimit;

/// Whether a node has a port for dead letters.
pub(super) fn has_dead_letters(bad_records: Option<&BadRecords>) -> bool {
    bad_records.is_some_and(|bad| bad.dead_letter.is_some())
}

/// That port.
pub(super) fn port() -> Port {
    Port {
        name: DEAD_LETTER.to_owned(),
        keyed: false,
        key_columns: Vec::new(),
        format: Format::Json,
    }
}

/// What the runtime does with bad records of the node `id`. `component` is the digest of an operator's, `upstream`
/// what feeds each of its inputs.
pub(super) fn policy(
    job: &JobFile,
    id: &str,
    bad: &BadRecords,
    component: Option<String>,
    upstream: Vec<Vec<String>>,
) -> Arc<runtime::bad_records::BadRecords> {
    let file = std::path::absolute(&*job.file);
    let file = file.unwrap_or_else(|_| PathBuf::from(&*job.file));
    Arc::new(runtime::bad_records::BadRecords {
        tries: bad.retries,
        limit: bad.limit.as_ref().map(rate_limit),
        has_dead_letters: bad.dead_letter.is_some(),
        subject: Subject {
            job: job.job.name.clone(),
            job_file: file.display().to_string(),
            operator: id.to_owned(),
            component,
        },
        upstream,
    })
}

fn rate_limit(rate: &Rate) -> RateLimit {
    let period = i64::try_from(rate.period.as_millis()).unwrap_or(i64::MAX);
    RateLimit::new(rate.count, period, rate.text.clone())
}
