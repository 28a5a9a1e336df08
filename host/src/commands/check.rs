//! `host check`: everything that is wrong with a job, or what it means with all defaults; and what a start from a
//! checkpoint would do.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::anyhow;
use job_file::checkpoint::Storage;
use job_file::effective;
use operator::clock::{Clock, SystemClock};
use serde::Serialize;
use wasm::Compiler;

use super::job::{self, Loader};
use super::print;
use crate::assemble::Prepared;
use crate::cli::{Check, RestoreArguments};
use crate::events::{Audience, RestoredNode};
use crate::exit::{Error, Exit};
use crate::launch::{restore, settings, start};

/// Prints the effective job, or what a start from a checkpoint would do.
pub(crate) fn check(arguments: &Check) -> Result<Exit, Error> {
    if arguments.from.is_none()
        && let Some(option) = restore::upgrade_option(&arguments.upgrade)
    {
        let error = anyhow!("{option} has an effect only on a start from a checkpoint");
        return Err(Error::refused(error).hint("add `--from CHECKPOINT`"));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let loader = Loader::new(Compiler::Child, Audience::Person.notice());
    let prepared = job::prepare(&arguments.job, &loader, &clock)?;
    if let Some(from) = &arguments.from {
        return check_from(&prepared, from, arguments);
    }
    let graph = prepared.graph(None)?;
    prepared.try_open()?;
    if let Some(section) = &prepared.job.http {
        crate::rest::check(section)?;
        crate::rest::warn_of_readers(section);
    }
    for warning in settings::warnings(&prepared, None) {
        Audience::Person.tell(&warning);
    }
    let settled = prepared.settled(graph.key_groups);
    print(&effective::to_toml(&prepared.job, &settled))?;
    Ok(Exit::Finished)
}

/// What a start would do, for programs.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Would {
    checkpoint: u64,
    path: Option<String>,
    starts: bool,
    report: Vec<RestoredNode>,
}

/// Says what a start from a checkpoint would do to each part of it.
fn check_from(prepared: &Prepared, from: &str, arguments: &Check) -> Result<Exit, Error> {
    prepared.graph(None).map(drop)?;
    prepared.try_open()?;
    let restore = RestoreArguments {
        from: Some(from.to_owned()),
        upgrade: arguments.upgrade.clone(),
        allow_drained: arguments.allow_drained,
        fallback: arguments.fallback,
        ..RestoreArguments::default()
    };
    let dir = match &prepared.job.checkpoint.storage {
        Storage::Memory => None,
        Storage::Filesystem(dir) => Some(dir.to_string()),
    };
    restore::check_options(&restore, &prepared.job)?;
    let job_id = settings::job_id(&prepared.job);
    let checkpoint = restore::named(from, &restore, dir.as_deref(), &job_id)?;
    let tried = start::tried(prepared, &checkpoint, &restore);
    let would = |starts, report| Would {
        checkpoint: checkpoint.metadata().id,
        path: checkpoint.path(),
        starts,
        report,
    };
    let as_json = |would: &Would| {
        let json = serde_json::to_string(would).map_err(Error::failed)?;
        print(&format!("{json}\n"))
    };
    match tried {
        Ok(report) if arguments.json => {
            let report = report.entries.iter().map(restore::node).collect();
            as_json(&would(true, report))?;
            Ok(Exit::Finished)
        }
        Ok(report) => {
            let mut text = format!("the job would start from checkpoint {}", report.checkpoint);
            if let Some(path) = &report.path {
                let _ = write!(text, ": {}", checkpoint::shown(path));
            }
            for entry in &report.entries {
                let _ = write!(text, "\n  {}", operator::text::line(&entry.to_string()));
            }
            print(&format!("{text}\n"))?;
            Ok(Exit::Finished)
        }
        Err(error) => {
            if arguments.json {
                let refusal = start::refusal(prepared, &checkpoint, &restore)?;
                let report = refusal.iter().map(restore::node).collect();
                as_json(&would(false, report))?;
            }
            Err(error)
        }
    }
}
