//! `host top`: what all jobs of the user do, again and again.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use operator::clock::{Clock, SystemClock};
use operator::text::{counted, name, size};
use server::api::Node;
use server::view::{JobView, Subtask, Vertex};
use server::{Client, Hosts};

use super::refused;
use crate::cli::Top;
use crate::commands::checkpoints::table;
use crate::commands::print;
use crate::exit::{Error, Exit};

/// Puts the cursor to the upper left corner and empties the terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// `host top`.
#[expect(
    clippy::disallowed_methods,
    reason = "a person looks on, and it is of no job"
)]
pub(crate) fn top(arguments: &Top) -> Result<Exit, Error> {
    let client = Client::new().map_err(refused)?;
    let clock = SystemClock::new();
    let once = arguments.once || !io::stdout().is_terminal();
    let mut before = look(&client, &clock)?;
    loop {
        thread::sleep(arguments.interval.max(Duration::from_millis(100)));
        let now = look(&client, &clock)?;
        let text = describe(&before, &now);
        if once {
            print(&text)?;
            return Ok(Exit::Finished);
        }
        // Whoever has closed the terminal sees no more of it.
        print(&format!("{CLEAR}{text}"))?;
        before = now;
    }
}

/// All jobs at a time.
struct Look {
    at_ms: i64,
    /// With the processes that they are in.
    jobs: Vec<(u32, JobView)>,
    /// Hosts that did not answer, in words.
    silent: Vec<String>,
}

fn look(client: &Client, clock: &SystemClock) -> Result<Look, Error> {
    let Hosts { hosts, silent } = client.hosts().map_err(refused)?;
    let silent = silent.iter().map(|silent| silent.failure.to_string());
    let mut look = Look {
        at_ms: clock.now_ms(),
        jobs: Vec::new(),
        silent: silent.collect(),
    };
    for host in hosts {
        match host.views() {
            Ok(views) => {
                let process = host.process();
                look.jobs
                    .extend(views.into_iter().map(|view| (process, view)));
            }
            Err(failure) => look.silent.push(failure.to_string()),
        }
    }
    Ok(look)
}

fn describe(before: &Look, now: &Look) -> String {
    let seconds = now.at_ms.saturating_sub(before.at_ms).max(1) as f64 / 1000.0;
    let known: HashMap<_, _> = before
        .jobs
        .iter()
        .map(|(process, view)| ((*process, view.rest_id.as_str()), view))
        .collect();
    let heading = [
        "JOB",
        "STATE",
        "IN/S",
        "OUT/S",
        "BUSY",
        "HELD UP",
        "LAG",
        "STATE SIZE",
        "CHECKPOINT",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    for (process, view) in &now.jobs {
        let before = known.get(&(*process, view.rest_id.as_str())).copied();
        rows.push(job_row(view, before, seconds, now.at_ms));
        for (at, vertex) in view.vertices.iter().enumerate() {
            // After a restart they count from 0 again, and may be others.
            let before = before.and_then(|before| before.vertices.get(at));
            let before = before.filter(|it| it.subtasks.len() == vertex.subtasks.len());
            rows.push(vertex_row(vertex, before, seconds, now.at_ms));
        }
    }
    let mut text = match now.jobs.is_empty() {
        true => "no host of this user runs a job\n".to_owned(),
        false => table(&rows),
    };
    for silent in &now.silent {
        text.push_str(&operator::text::line(silent));
        text.push('\n');
    }
    text
}

fn job_row(view: &JobView, before: Option<&JobView>, seconds: f64, now_ms: i64) -> [String; 9] {
    let total = |nodes: &[Node]| nodes.iter().map(|node| node.records).sum::<u64>();
    let rate = |of: fn(&JobView) -> &[Node]| {
        let before = before.map(|before| total(of(before)));
        per_second(before, total(of(view)), seconds)
    };
    let newest = view.status.checkpoint.as_ref();
    let checkpoint = newest.map_or_else(
        || "-".to_owned(),
        |newest| {
            let age = now_ms.saturating_sub(newest.completed_at);
            format!("{}, {} ago", newest.id, short(age))
        },
    );
    // What went wrong belongs where somebody looks first.
    let failed = match (
        view.status.checkpoint_failure.is_some(),
        view.status.failed_checkpoints,
    ) {
        (true, failed) => format!(" ({failed} failed)"),
        (false, _) => String::new(),
    };
    let restarts = match view.status.restarts {
        0 => String::new(),
        restarts => format!(" ({})", counted(restarts.into(), "restart")),
    };
    let members = view.vertices.iter().flat_map(|vertex| &vertex.subtasks);
    let state: u64 = members.map(state_bytes).sum();
    [
        name(&view.status.name).into_owned(),
        format!(
            "{} x{}{restarts}",
            view.status.state.word(),
            view.status.parallelism
        ),
        rate(|view| &view.status.sources),
        rate(|view| &view.status.sinks),
        String::new(),
        String::new(),
        String::new(),
        size(state),
        checkpoint + &failed,
    ]
}

fn vertex_row(vertex: &Vertex, before: Option<&Vertex>, seconds: f64, now_ms: i64) -> [String; 9] {
    let is_sink = vertex.members.last().is_some_and(|it| it.kind == "sink");
    let records =
        |vertex: &Vertex, of: &dyn Fn(&Subtask) -> u64| vertex.subtasks.iter().map(of).sum();
    let rate = |of: &dyn Fn(&Subtask) -> u64| {
        let before = before.map(|before| records(before, of));
        per_second(before, records(vertex, of), seconds)
    };
    // That of the subtask that is held up most, or else works most: it sets the pace.
    let shares = before.map(|before| {
        let each = vertex.subtasks.iter().zip(&before.subtasks);
        each.map(|(now, before)| Shares::between(before, now)).fold(
            Shares::default(),
            |most, it| match most.order() < it.order() {
                true => it,
                false => most,
            },
        )
    });
    let shown = |of: fn(&Shares) -> f64| {
        let percent = |shares: &Shares| format!("{:.0} %", of(shares) * 100.0);
        shares.as_ref().map_or_else(|| "-".to_owned(), percent)
    };
    let watermarks = vertex
        .subtasks
        .iter()
        .filter_map(|subtask| subtask.watermark);
    let lag = watermarks.min().map_or_else(String::new, |watermark| {
        short(now_ms.saturating_sub(watermark))
    });
    let state: u64 = vertex.subtasks.iter().map(state_bytes).sum();
    [
        format!("  {}", name(&vertex.name)),
        format!("x{}", vertex.subtasks.len()),
        rate(&|subtask| {
            let first = subtask.members.first();
            first.map_or(0, |member| member.records_in)
        }),
        rate(&|subtask| {
            let last = subtask.members.last();
            // A sink hands nothing on: what it writes leaves the chain.
            last.map_or(0, |member| match is_sink {
                true => member.records_in,
                false => member.records_out,
            })
        }),
        shown(|shares| shares.busy),
        shown(|shares| shares.held_up),
        lag,
        match state {
            0 => String::new(),
            state => size(state),
        },
        String::new(),
    ]
}

/// The shares of a time in which a subtask worked, and had no room for its output.
#[derive(Clone, Copy, Default)]
struct Shares {
    busy: f64,
    held_up: f64,
}

impl Shares {
    fn between(before: &Subtask, now: &Subtask) -> Self {
        let took = |of: fn(&Subtask) -> u64| of(now).saturating_sub(of(before)) as f64;
        let busy = took(|subtask| subtask.busy_ms);
        let held_up = took(|subtask| subtask.back_pressured_ms);
        let all = (busy + held_up + took(|subtask| subtask.idle_ms)).max(1.0);
        Self {
            busy: busy / all,
            held_up: held_up / all,
        }
    }

    fn order(&self) -> f64 {
        2.0 * self.held_up + self.busy
    }
}

fn state_bytes(subtask: &Subtask) -> u64 {
    subtask
        .members
        .iter()
        .map(|member| member.state_bytes)
        .sum()
}

/// A rate. What has become less was counted from 0 again.
fn per_second(before: Option<u64>, now: u64, seconds: f64) -> String {
    let Some(grown) = before.and_then(|before| now.checked_sub(before)) else {
        return "-".to_owned();
    };
    let rate = grown as f64 / seconds;
    match rate {
        rate if rate >= 1e6 => format!("{:.2} M", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1} k", rate / 1e3),
        rate => format!("{rate:.0}"),
    }
}

/// A time for a person, in its largest unit.
fn short(ms: i64) -> String {
    let seconds = ms / 1000;
    match seconds.abs() {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min", seconds / 60),
        6000..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_times_are_short() {
        assert_eq!(per_second(Some(10), 2510, 1.0), "2.5 k");
        assert_eq!(per_second(Some(0), 3_500_000, 1.0), "3.50 M");
        assert_eq!(per_second(Some(10), 20, 2.0), "5");
        assert_eq!(per_second(Some(10), 5, 2.0), "-", "it has begun again");
        assert_eq!(per_second(None, 5, 2.0), "-");
        let shown = [99_000, 100_000, 7_200_000, 864_000_000].map(short);
        assert_eq!(shown, ["99 s", "1 min", "2 h", "10 d"]);
    }
}
