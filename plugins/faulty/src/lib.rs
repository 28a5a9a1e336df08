//! Hands every record on unchanged, but for the one (its key or value is `on`; without `on` every one)
//! at which it does the `misdeed` of its configuration. For tests of the host.
//!
//! ```toml
//! config = { misdeed = "trap", on = "abracadabra", once = "/markers/trapped" }
//! ```
//!
//! With `once` the misdeed is done only if that file is not there yet, and makes it first: it has to lie
//! in a directory granted for writing, and so a fresh instance behaves. With `completions` it adds a line to
//! that file for each checkpoint that is reported complete.

mod misdeed;

use std::io::{ErrorKind, Write as _};

use highwater::{Emitter, Error, OpenContext, Operator, Record, Result, ValueState};
use serde::Deserialize;

use misdeed::Misdeed;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    misdeed: Misdeed,
    on: Option<String>,
    once: Option<std::path::PathBuf>,
    completions: Option<std::path::PathBuf>,
    /// For `sleep`.
    #[serde(default)]
    milliseconds: u64,
    /// For `read`, `wait`, `open-files` and `list-directories`; with `leak` it must not be there in `open`, which makes it.
    #[serde(default)]
    file: std::path::PathBuf,
    /// For `tell` and `tell-and-trap`.
    #[serde(default)]
    secret: String,
    /// Each record is an order as JSON, which is read before it is handed on: as much as an operator does at least.
    #[serde(default)]
    reads_orders: bool,
    /// How many: bytes of `leak`, entries of `store-many` and `load-large`, files of `open-files`, directories of
    /// `list-directories`, records of `emit-numbered` on each output.
    #[serde(default)]
    count: u32,
}

/// What `reads-orders` reads.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Order {
    number: u64,
    customer: String,
    article: String,
    amount: f64,
    at: String,
}

struct Faulty {
    config: Config,
    /// Only for `grow`, `hold` and `leak`, so that other misdeeds are those of an operator without state.
    hoard: Option<ValueState<Vec<u8>>>,
}

impl Operator for Faulty {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        let config: Config = ctx.config()?;
        ctx.output("out");
        config.misdeed.in_open(ctx)?;
        let opens_once = config.misdeed == Misdeed::Leak && !config.file.as_os_str().is_empty();
        if opens_once && !ctx.is_described() {
            std::fs::File::create_new(&config.file)?;
        }
        let hoards = matches!(
            config.misdeed,
            Misdeed::Grow | Misdeed::Hold | Misdeed::Leak
        );
        let hoard = hoards.then(|| ctx.value_state("hoard"));
        Ok(Self { config, hoard })
    }

    fn process(&mut self, record: Record, out: &mut Emitter) -> Result<()> {
        if self.is_triggered(record)? {
            self.config
                .misdeed
                .commit(&self.config, self.hoard.as_ref(), record, out)?;
        }
        if self.config.reads_orders {
            let order: Order = record.json()?;
            let is_whole = !(order.customer.is_empty() || order.article.is_empty());
            if !is_whole || order.amount < 0.0 || order.at.len() < 10 {
                highwater::bail!("order {} is not whole", order.number);
            }
        }
        out.emit(record.key(), record.whole())
    }

    fn on_checkpoint_complete(&mut self, checkpoint: u64) -> Result<()> {
        if let Some(path) = &self.config.completions {
            let mut file = std::fs::File::options()
                .append(true)
                .create(true)
                .open(path)?;
            writeln!(file, "{checkpoint}")?;
        }
        Ok(())
    }
}

impl Faulty {
    fn is_triggered(&self, record: Record<'_>) -> Result<bool> {
        let here = match &self.config.on {
            Some(on) => record.text()? == *on || record.key().text()? == *on,
            None => true,
        };
        match &self.config.once {
            Some(marker) if here => match std::fs::File::create_new(marker) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(Error::from(error).context("making the marker")),
            },
            _ => Ok(here),
        }
    }
}

highwater::export!(Faulty);

#[cfg(test)]
mod tests;
