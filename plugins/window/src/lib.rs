//! Aggregates the records of each key over windows of time.
//!
//! ```toml
//! config = { window = "tumbling", size = "1h", aggregates = ["count", "mean(dep_delay) as mean_delay"] }
//! ```
//!
//! The key is that of the records: a source's `key`, or what `select` makes one. A result has the key, the window's
//! start and end in milliseconds since 1970-01-01 UTC, and the aggregates in the order of their names in `aggregates`.
//!
//! - `window`: `"tumbling"` (with `size`), `"sliding"` (`size`, `slide`), `"cumulative"` (`size`, `step`) or
//!   `"session"` (`gap`). `offset` moves the windows, but for sessions.
//! - `aggregates`: `count`, and `sum`, `min`, `max`, `mean`, `first`, `last`, `distinct` of a column, as in
//!   `"sum(distance)"`, or `"quantile(dep_delay, 0.95)"`; with another name by `as`. `distinct` and `quantile` are
//!   approximate: of sketches.
//! - `missing`: a text that stands for no value, like `"NA"`, in every column. An empty field has no value either.
//! - `allowed-lateness`: windows are kept for this long, and their results come again.
//! - `late`: `"drop"`, or `"output"` for an output `late`.
//! - `early-every`, `early-after`: results of windows that have not ended, by the clock or with every n records.
//! - `firing = true` adds a column `firing`: `early`, `on-time` or `late`.
//! - `key-columns`: names of the key's columns, for sinks that write names; those of the input unless given.

mod aggregates;
mod config;
mod values;

use highwater::window::Firing;
use highwater::{
    Batch, Cumulative, Emitter, Fired, Kind, OpenContext, Operator, Record, Result, Row, RowWriter,
    Session, Sliding, Span, Window,
};

use aggregates::{Aggregates, Results};
use config::{Config, Windows};

/// The window that the configuration asks for.
enum Chosen {
    /// Tumbling windows are sliding ones that do not overlap.
    Sliding(Window<Sliding, Aggregates>),
    Cumulative(Window<Cumulative, Aggregates>),
    Session(Window<Session, Aggregates>),
}

/// Does the same with whichever window.
macro_rules! each {
    ($chosen:expr, $window:ident => $body:expr) => {
        match $chosen {
            Chosen::Sliding($window) => $body,
            Chosen::Cumulative($window) => $body,
            Chosen::Session($window) => $body,
        }
    };
}

struct Windowed {
    chosen: Chosen,
    shows_firing: bool,
}

/// A result: the window, its aggregates, and why it is emitted.
struct Line<'a>(Span, &'a Results, Option<&'static str>);

impl Row for Line<'_> {
    fn write(&self, row: &mut RowWriter<'_>) {
        self.0.write(row);
        self.1.write(row);
        if let Some(firing) = self.2 {
            row.plain(firing.as_bytes());
        }
    }
}

fn emit(shows_firing: bool, span: Span, results: &Results, out: &mut Emitter) -> Result<()> {
    let firing = match span.firing() {
        Firing::Early => "early",
        Firing::OnTime => "on-time",
        Firing::Late => "late",
    };
    out.emit(
        out.key(),
        Line(span, results, shows_firing.then_some(firing)),
    )
}

impl Operator for Windowed {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        let windows = config.windows()?;
        let aggregates = Aggregates::open(ctx, &config)?;
        let mut columns = vec![
            ("window_start".to_owned(), Kind::Integer),
            ("window_end".to_owned(), Kind::Integer),
        ];
        columns.extend(aggregates.columns());
        if config.firing {
            columns.push(("firing".to_owned(), Kind::Text));
        }
        config::check_names(&config.key_columns, &columns)?;
        let mut key = ctx.key_columns("key-columns", &config.key_columns)?;
        if config.key_columns.is_empty() && config::clashes(&key, &columns) {
            key.clear();
        }
        if key.is_empty() {
            config::check_names(&["key".to_owned()], &columns)?;
        }
        ctx.output("out").key_columns(key).columns(columns);
        macro_rules! declare {
            ($assigner:expr) => {
                config.apply(ctx.window("windows", $assigner, aggregates))?
            };
        }
        let chosen = match windows {
            Windows::Sliding(sliding) => Chosen::Sliding(declare!(sliding)),
            Windows::Cumulative(cumulative) => Chosen::Cumulative(declare!(cumulative)),
            Windows::Session(session) => Chosen::Session(declare!(session)),
        };
        Ok(Self {
            chosen,
            shows_firing: config.firing,
        })
    }

    fn process_batch(&mut self, batch: Batch<'_>, out: &mut Emitter) -> Result<()> {
        let firing = self.shows_firing;
        each!(&self.chosen, window => batch.records().try_for_each(|record| {
            window.add(record, out, |span, results, out| emit(firing, span, &results, out))
        }))
    }

    fn process(&mut self, record: Record<'_>, out: &mut Emitter) -> Result<()> {
        let firing = self.shows_firing;
        each!(&self.chosen, window => window.add(record, out, |span, results, out| {
            emit(firing, span, &results, out)
        }))
    }

    fn on_timers(&mut self, fired: Fired<'_>, out: &mut Emitter) -> Result<()> {
        let firing = self.shows_firing;
        each!(&self.chosen, window => fired.timers().try_for_each(|timer| {
            window
                .on_timer(timer, out, |span, results, out| emit(firing, span, &results, out))
                .map(drop)
        }))
    }
}

highwater::export!(Windowed);

#[cfg(test)]
mod tests;
