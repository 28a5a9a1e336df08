//! `cargo xtask soak`: 24 checkpoints a second for minutes, and nothing grows.
//!
//! What is run, looked at and judged is the test of `tests/it/soak.rs`, which takes some hundred
//! checkpoints when the tests run; here it takes as many as there are in the minutes asked for.

use crate::build::{self, cargo, run};
use crate::{Result, story};

/// How long, if nothing is said.
const MINUTES: u32 = 10;

/// Runs it.
pub(crate) fn soak(arguments: &[String]) -> Result<()> {
    let minutes = minutes(arguments)?;
    build::plugins()?;
    story::step(&format!("{minutes} minutes with a checkpoint every 41 ms"));
    let mut test = cargo(
        ".",
        &[
            "test",
            "--release",
            "--package",
            "host",
            "--test",
            "it",
            "--",
        ],
    );
    test.args([
        "--exact",
        "soak::many_checkpoints_leave_no_growth",
        "--nocapture",
    ]);
    test.env("HIGHWATER_SOAK_MINUTES", minutes.to_string());
    run(test)?;
    story::done("nothing has grown; target/soak.csv has every second of it");
    Ok(())
}

fn minutes(arguments: &[String]) -> Result<u32> {
    match arguments {
        [] => Ok(MINUTES),
        [option, minutes] if option == "--minutes" => match minutes.parse() {
            Ok(minutes) if minutes > 0 => Ok(minutes),
            _ => Err(format!("--minutes wants a whole number above 0, not `{minutes}`").into()),
        },
        _ => Err("usage: cargo xtask soak [--minutes N]".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_told_or_ten() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            minutes(&words)
        };
        assert_eq!(read(&[]).unwrap(), 10);
        assert_eq!(read(&["--minutes", "3"]).unwrap(), 3);
        for wrong in [
            ["--minutes", "0"].as_slice(),
            &["--minutes", "x"],
            &["--minutes"],
            &["3"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
