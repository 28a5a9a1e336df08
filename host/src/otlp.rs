//! Metrics for a collector of OpenTelemetry, where the environment names one.

use std::sync::Arc;

use anyhow::anyhow;
use operator::clock::Clock;
use server::{OtlpExporter, OtlpOptions};

use crate::events::{Audience, Event};
use crate::exit::Error;
use crate::jobs::Jobs;

/// Begins to send the metrics of the jobs of this process, and says where to. `None`: nobody wants them.
///
/// # Errors
/// A variable makes no sense, or it cannot be begun.
pub(crate) fn start(
    jobs: &Arc<Jobs>,
    clock: &Arc<dyn Clock>,
    audience: Audience,
) -> Result<Option<OtlpExporter>, Error> {
    let refused = |why: anyhow::Error| Error::refused(why.context("metrics cannot be sent"));
    let options = OtlpOptions::of(|name| std::env::var_os(name));
    let Some(options) = options.map_err(|why| refused(anyhow!(why)))? else {
        return Ok(None);
    };
    audience.tell(&Event::Exporting {
        url: options.endpoint(),
    });
    let jobs = Arc::clone(jobs) as Arc<dyn server::Jobs>;
    let exporter = OtlpExporter::start(jobs, options, Arc::clone(clock));
    exporter.map(Some).map_err(|error| refused(error.into()))
}
