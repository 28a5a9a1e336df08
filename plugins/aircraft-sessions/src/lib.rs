//! Sessions of aircraft: departures with at most `gap-hours` in between. Of each session with two departures or more it
//! emits the first and the last one, how many there are, and the largest delay.
//!
//! ```toml
//! config = { gap-hours = 8 }
//! ```
//!
//! The key is the aircraft. A row needs the columns `departed` and `dep_delay`.

use highwater::{
    Count, Emitter, First, Kind, Last, Max, OpenContext, Result, Session, Span, Window,
    WindowOperator,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    gap_hours: u64,
}

/// The first and the last departure, how many there are, and the largest delay.
type Flown = (Option<String>, Option<String>, u64, Option<i64>);

struct AircraftSessions {
    departures: Window<Session, (First, Last, Count, Max<i64>)>,
}

impl WindowOperator<Flown> for AircraftSessions {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        let (departed, delay) = (ctx.column("departed")?, ctx.column("dep_delay")?);
        ctx.output("out")
            .key_columns([("tailnum", Kind::Text)])
            .columns([
                ("first_departure", Kind::Text),
                ("last_departure", Kind::Text),
                ("departures", Kind::Integer),
                ("worst_delay", Kind::Integer),
            ]);
        let flown = (
            First::of(departed),
            Last::of(departed),
            Count,
            Max::of(delay),
        );
        Ok(Self {
            departures: ctx.window("departures", Session::hours(config.gap_hours), flown),
        })
    }

    fn emit(&mut self, _session: Span, flown: Flown, out: &mut Emitter) -> Result<()> {
        let (first, last, departures, worst_delay) = flown;
        match departures {
            0 | 1 => Ok(()),
            _ => out.emit(out.key(), (first, last, departures, worst_delay)),
        }
    }
}

highwater::export!(AircraftSessions { departures });

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    const HOUR: i64 = 3_600_000;

    fn sessions() -> Harness<AircraftSessions> {
        Harness::setup()
            .rows(["departed", "dep_delay"])
            .config(r#"{"gap-hours": 8}"#)
            .open()
            .unwrap()
    }

    #[test]
    fn departures_up_to_the_gap_apart_are_one_session() {
        let mut sessions = sessions();
        sessions
            .process_timed(&[
                ("N1", "18:00,-3", 18 * HOUR),
                ("N1", "02:00,5", 2 * HOUR),
                ("N2", "03:00,0", 3 * HOUR),
                // Joins the two of N1, which are 16 hours apart.
                ("N1", "10:00,0", 10 * HOUR),
                ("N2", "11:01,0", 11 * HOUR + 60_000),
            ])
            .unwrap();
        sessions.end_of_input(0).unwrap();
        assert_eq!(sessions.take_rows(), ["N1,02:00,18:00,3,5"]);
    }

    #[test]
    fn a_session_that_has_ended_leaves_nothing() {
        let mut sessions = sessions();
        sessions
            .process_timed(&[("N1", "00:00,7", 0), ("N1", "01:00,2", HOUR)])
            .unwrap();
        sessions.set_watermark(9 * HOUR - 1).unwrap();
        assert_eq!(sessions.take_rows(), ["N1,00:00,01:00,2,7"]);
        assert_eq!(sessions.entries(), 0);
    }
}
