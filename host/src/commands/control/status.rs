//! `host list` and `host status`: which jobs run, and how one is.

use operator::text::{counted, line, name};
use serde_json::json;
use server::api::{JobStatus, Node};
use server::{Client, Hosts};

use super::report::{describe_taken, duration};
use super::{find, refused};
use crate::cli::{List, RunningJob};
use crate::commands::checkpoints::{table, time};
use crate::commands::print;
use crate::exit::{Error, Exit};

/// `host list`.
pub(crate) fn list(arguments: &List) -> Result<Exit, Error> {
    let Hosts { hosts, silent } = Client::new()
        .and_then(|client| client.hosts())
        .map_err(refused)?;
    for silent in &silent {
        tracing::warn!("{}", silent.failure);
    }
    let mut answered = Vec::new();
    for host in &hosts {
        match host.jobs() {
            Ok(jobs) => answered.push((host, jobs)),
            // It ended in the meantime, or is about to.
            Err(failure) => tracing::warn!("{failure}"),
        }
    }
    if arguments.json {
        let hosts: Vec<_> = answered
            .iter()
            .map(|(host, jobs)| {
                json!({ "process": host.process(), "version": host.version(), "jobs": jobs })
            })
            .chain(silent.iter().map(|silent| {
                json!({ "process": silent.process, "version": null, "jobs": [], "error": silent.failure })
            }))
            .collect();
        print(&format!("{:#}\n", json!(hosts)))?;
        return Ok(Exit::Finished);
    }
    let jobs: Vec<_> = answered.into_iter().flat_map(|(_, jobs)| jobs).collect();
    print(&in_a_table(&jobs, silent.is_empty()))?;
    Ok(Exit::Finished)
}

fn in_a_table(jobs: &[JobStatus], all_answered: bool) -> String {
    if jobs.is_empty() {
        let text = match all_answered {
            true => "no host of this user runs a job\n",
            false => "no host of this user that answers runs a job\n",
        };
        return text.to_owned();
    }
    let heading = [
        "PROCESS",
        "JOB",
        "ID",
        "STATE",
        "PARALLELISM",
        "CHECKPOINT",
        "STARTED",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(jobs.iter().map(|job| {
        let checkpoint = job.checkpoint.as_ref();
        [
            job.process.to_string(),
            name(&job.name).into_owned(),
            name(&job.id).into_owned(),
            job.state.word().to_owned(),
            job.parallelism.to_string(),
            checkpoint.map_or_else(|| "-".to_owned(), |taken| taken.id.to_string()),
            time(job.started_at),
        ]
    }));
    table(&rows)
}

/// `host status`.
pub(crate) fn status(arguments: &RunningJob) -> Result<Exit, Error> {
    let job = find(arguments)?.job;
    let text = match arguments.json {
        true => {
            let value = serde_json::to_value(&job).map_err(Error::failed)?;
            format!("{value:#}\n")
        }
        false => describe(&job),
    };
    print(&text)?;
    Ok(Exit::Finished)
}

fn describe(job: &JobStatus) -> String {
    let mut text = String::new();
    // The one way in: each of the lines is one, whatever is in it.
    let mut add = |text_line: String| {
        text.push_str(&line(&text_line));
        text.push('\n');
    };
    add(format!(
        "job `{}`, id `{}`: {}",
        name(&job.name),
        name(&job.id),
        job.state.word()
    ));
    add(format!("  process      {}", job.process));
    add(format!("  job file     {}", job.job_file));
    add(format!("  started      {}", time(job.started_at)));
    add(format!("  parallelism  {}", job.parallelism));
    add(format!("  restarts     {}", job.restarts));
    if let Some(failure) = &job.last_failure {
        add(format!("  last failure {failure}"));
    }
    let every = match job.interval_ms {
        Some(interval) => format!("every {}", duration(interval)),
        None => "none periodically".to_owned(),
    };
    let directory = job.directory.as_deref().unwrap_or("memory");
    add(format!("  checkpoints  {every}, in {directory}"));
    add(format!(
        "               {} completed, {} failed",
        job.completed_checkpoints, job.failed_checkpoints
    ));
    if let Some(failure) = &job.checkpoint_failure {
        add(format!("  last failed  {failure}"));
    }
    if let Some(newest) = &job.checkpoint {
        add(format!("  newest       {}", describe_taken(newest)));
        if let Some(path) = &newest.path {
            add(format!("               {path}"));
        }
    }
    let mut add_all = |kind: &str, verb: &str, nodes: &[Node]| {
        for node in nodes {
            let records = counted(node.records, "record");
            add(format!("  {kind} `{}`: {records} {verb}", name(&node.id)));
        }
    };
    add_all("source", "read", &job.sources);
    add_all("sink", "written", &job.sinks);
    for bad in job.bad_records.iter().filter(|bad| bad.left_out > 0) {
        let left_out = counted(bad.left_out, "bad record");
        add(format!(
            "  operator `{}`: {left_out} left out",
            name(&bad.id)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::control::report::tests::job;

    #[test]
    fn c151_a_job_is_described_in_lines_of_ours() {
        let text = describe(&job());
        assert!(
            text.starts_with("job `or\\u{1b}ders`, id `orders`: running\n"),
            "{text}"
        );
        for part in [
            "  last failure it\\nfell\n",
            "  checkpoints  every 5s, in /cp/orders\n",
            "  newest       7: 2.0 KiB, in 34ms, completed 1970-01-01T00:00:00Z\n",
            "  source `in`: 1 record read\n",
            "  sink `out`: 1,200 records written\n",
            "  operator `sum`: 2 bad records left out\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn jobs_are_listed_with_what_tells_them_apart() {
        let text = in_a_table(&[job()], true);
        assert_eq!(text.lines().count(), 2, "{text}");
        for part in ["PROCESS", "7  ", "or\\u{1b}ders", "orders", "running"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert_eq!(in_a_table(&[], true), "no host of this user runs a job\n");
        let text = in_a_table(&[], false);
        assert_eq!(text, "no host of this user that answers runs a job\n");
    }
}
