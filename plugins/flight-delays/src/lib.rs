//! Sums up flights per key, say per carrier and airport: how many there were, how many of them were
//! cancelled, the mean and the worst delay at departure in minutes.
//!
//! ```toml
//! config = { delay = "dep_delay", missing = "NA", emit = "final" }     # or "every-update"
//! ```
//!
//! `delay` is the column of the delay; a flight whose delay is `missing` never left. Where all flights
//! of a key were cancelled, mean and worst delay are empty.

use highwater::{Column, Emitter, Error, Kind, OpenContext, Operator, Record, Result, ValueState};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    delay: String,
    missing: String,
    emit: Emit,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Emit {
    EveryUpdate,
    Final,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            delay: "dep_delay".to_owned(),
            missing: "NA".to_owned(),
            emit: Emit::Final,
        }
    }
}

/// What is known about the flights of a key.
#[derive(Clone, Default)]
struct Flights {
    count: u64,
    cancelled: u64,
    delay_sum: i64,
    delay_worst: Option<i64>,
}
highwater::codec!(Flights {
    count,
    cancelled,
    delay_sum,
    delay_worst
});

impl Flights {
    /// flights, cancelled, mean delay, worst delay
    fn row(&self) -> (u64, u64, Option<String>, Option<i64>) {
        let flown = self.count - self.cancelled;
        let mean = (flown > 0).then(|| format!("{:.2}", self.delay_sum as f64 / flown as f64));
        (self.count, self.cancelled, mean, self.delay_worst)
    }
}

struct FlightDelays {
    config: Config,
    delay: Column,
    flights: ValueState<Flights>,
}

impl Operator for FlightDelays {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        ctx.output("out").columns([
            ("flights", Kind::Integer),
            ("cancelled", Kind::Integer),
            ("mean_delay", Kind::Float),
            ("worst_delay", Kind::Integer),
        ]);
        Ok(Self {
            delay: ctx.column(&config.delay)?,
            flights: ctx.value_state("flights"),
            config,
        })
    }

    fn process(&mut self, flight: Record, out: &mut Emitter) -> Result<()> {
        let delay = flight.get(self.delay)?;
        let delay: Option<i64> = if delay == self.config.missing.as_str() {
            None
        } else {
            let named =
                |error: Error| error.context(format_args!("column `{}`", self.config.delay));
            Some(delay.parse().map_err(named)?)
        };
        let mut flights = self.flights.get()?.unwrap_or_default();
        flights.count += 1;
        match delay {
            None => flights.cancelled += 1,
            Some(delay) => {
                flights.delay_sum += delay;
                flights.delay_worst = flights.delay_worst.max(Some(delay));
            }
        }
        self.flights.set(&flights)?;
        match self.config.emit {
            Emit::EveryUpdate => out.emit(flight.key(), flights.row()),
            Emit::Final => Ok(()),
        }
    }

    fn end_of_input(&mut self, _input: u32, out: &mut Emitter) -> Result<()> {
        match self.config.emit {
            Emit::EveryUpdate => Ok(()),
            Emit::Final => self
                .flights
                .for_each(|key, flights| out.emit(key, flights.row())),
        }
    }
}

highwater::export!(FlightDelays);

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    const FLIGHTS: [(&str, &str); 5] = [
        ("UA,EWR", "517,2"),
        ("UA,EWR", "533,-4"),
        ("AA,JFK", "NA,NA"),
        ("UA,EWR", "NA,NA"),
        ("UA,EWR", "542,33"),
    ];

    fn open(config: &str) -> Harness<FlightDelays> {
        Harness::setup()
            .rows(["dep_time", "dep_delay"])
            .config(config)
            .open()
            .unwrap()
    }

    #[test]
    fn flights_are_summed_up_per_key() {
        let mut delays = open("{}");
        delays.process(&FLIGHTS[..3]).unwrap();
        delays.process(&FLIGHTS[3..]).unwrap();
        assert!(delays.take_rows().is_empty());
        delays.end_of_input(0).unwrap();
        assert_eq!(delays.take_rows(), ["AA,JFK,1,1,,", "UA,EWR,4,1,10.33,33"]);
    }

    #[test]
    fn every_update_is_emitted_if_wanted() {
        let mut delays = open(r#"{"emit": "every-update"}"#);
        delays.process(&FLIGHTS[..3]).unwrap();
        delays.end_of_input(0).unwrap();
        assert_eq!(
            delays.take_rows(),
            ["UA,EWR,1,0,2.00,2", "UA,EWR,2,0,-1.00,2", "AA,JFK,1,1,,"]
        );
    }

    #[test]
    fn a_delay_that_is_no_number_is_an_error_at_its_record() {
        let error = open("{}")
            .process(&[("k", "1,2"), ("k", "3,late")])
            .unwrap_err();
        assert_eq!(
            error.message(),
            "column `dep_delay`: `late` is not a whole number in range"
        );
        assert_eq!(error.record(), Some(1));
    }
}
