//! What can be done wrong.

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs};

use highwater::bindings::highwater::operator::types::Cells;
use highwater::bindings::highwater::operator::{output, state};
use highwater::{Emitter, Error, OpenContext, Record, Result, ValueState, bail};
use serde::Deserialize;

use crate::Config;

/// A misdeed, by its name in the configuration.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Misdeed {
    /// Nothing.
    None,
    /// Panics, which traps.
    Trap,
    /// Recurses until the stack ends, which traps without a message.
    Overflow,
    /// Returns an error.
    Error,
    /// Never returns.
    Loop,
    /// Allocates without end.
    Memory,
    /// Emits columns whose offsets lie outside of their data.
    BadColumns,
    /// Emits two values with one key.
    UnevenColumns,
    /// Emits on an output that it has not declared.
    BadOutput,
    /// Reads a state that it has not declared.
    BadState,
    /// Writes the state of a key that the batch does not have.
    BadKey,
    /// Writes a value of 1 MiB into the state of each key it meets.
    Grow,
    /// Keeps the last value of each key in its state: as large as its input wants.
    Hold,
    /// Tries to see the environment and the file system, and emits all it finds.
    LookAround,
    /// Emits the contents of `file`.
    Read,
    /// Emits the time by the clocks of WASI.
    Clock,
    /// Writes to standard output.
    Stdout,
    /// Writes to standard error.
    Stderr,
    /// Sleeps for `milliseconds`.
    Sleep,
    /// Waits until `file` is there.
    Wait,
    /// Emits the event time of the record, or that it has none.
    EventTime,
    /// Emits 64 MiB before it fails.
    FloodAndFail,
    /// Writes values of 1 MiB into a value state, again and again, for one key.
    FillValue,
    /// Writes short values for ever new keys.
    FillKeys,
    /// Appends to a list without end.
    FillList,
    /// Adds fields to a map without end.
    FillMap,
    /// Emits on both of its outputs without end.
    FillOutput,
    /// Adds `count` fields to a map by one call of the host, in an order that takes the host long.
    StoreMany,
    /// Stores a value of 8 MiB, and loads it `count` times by one call of the host.
    LoadLarge,
    /// Emits `count` empty values with the key of the first record, by its number, on each of 16 outputs.
    EmitNumbered,
    /// Opens `file` `count` times, and keeps all of them open.
    OpenFiles,
    /// Lists the directory `file` `count` times, and keeps all lists.
    ListDirectories,
    /// Logs, and prints, what would pass for lines of the host, steers a terminal, and is very long.
    Log,
    /// Returns an error with such a text.
    ErrorText,
    /// Says its `secret` in every way that there is, and returns an error with it.
    Tell,
    /// The same, and panics with it.
    TellAndTrap,
    /// Loses `count` bytes of memory, and keeps the last value of each key in its state.
    Leak,
    /// Gives its state a time to live.
    Ttl,
    /// Fails in `open`, but lets itself be described.
    OpenError,
    /// Panics in `open`, but lets itself be described.
    OpenTrap,
    /// Refuses its configuration.
    Config,
}

impl Misdeed {
    /// Those that are done when the operator is opened.
    pub(crate) fn in_open(self, ctx: &mut OpenContext) -> Result<()> {
        match self {
            Misdeed::BadKey | Misdeed::FillValue | Misdeed::FillKeys | Misdeed::LoadLarge => {
                drop(ctx.value_state::<Vec<u8>>("hoard"))
            }
            Misdeed::FillList => drop(ctx.list_state::<Vec<u8>>("hoard")),
            Misdeed::EmitNumbered => {
                for port in 1..16 {
                    ctx.output(&port.to_string());
                }
            }
            Misdeed::FillMap | Misdeed::StoreMany => {
                drop(ctx.map_state::<Vec<u8>, Vec<u8>>("hoard"))
            }
            Misdeed::FillOutput => drop(ctx.output("more")),
            Misdeed::Ttl => {
                ctx.value_state::<Vec<u8>>("hoard");
                ctx.ttl("hoard", Duration::ZERO);
            }
            _ => {}
        }
        match self {
            Misdeed::Config => Err(Error::config("this configuration is never right")),
            Misdeed::OpenError if !ctx.is_described() => bail!("not today"),
            Misdeed::OpenTrap if !ctx.is_described() => panic!("not today"),
            _ => Ok(()),
        }
    }

    /// Those that are done at a record.
    pub(crate) fn commit(
        self,
        config: &Config,
        hoard: Option<&ValueState<Vec<u8>>>,
        record: Record<'_>,
        out: &mut Emitter,
    ) -> Result<()> {
        match self {
            Misdeed::None
            | Misdeed::OpenError
            | Misdeed::OpenTrap
            | Misdeed::Config
            | Misdeed::Ttl => {}
            Misdeed::Trap => panic!("a record that it cannot bear"),
            Misdeed::Overflow => {
                black_box(overflow(black_box(1)));
            }
            Misdeed::Error => bail!("a record that it does not like"),
            Misdeed::Loop => loop {
                black_box(());
            },
            Misdeed::Memory => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(black_box(vec![1u8; 1 << 20]));
                }
            }
            Misdeed::BadColumns => output::emit(0, &cells(&[0, 1]), &cells(&[0, 1 << 30]), &[]),
            Misdeed::UnevenColumns => output::emit(0, &cells(&[0, 1]), &cells(&[0, 1, 2]), &[]),
            Misdeed::BadOutput => output::emit(99, &cells(&[0, 1]), &cells(&[0, 1]), &[]),
            Misdeed::BadState => drop(state::load(99)),
            Misdeed::BadKey => state::store(0, &[u32::MAX - 1], &cells(&[0, 1])),
            Misdeed::Grow => {
                if let Some(hoard) = hoard {
                    hoard.update(|value| *value = Some(vec![1; 1 << 20]))?;
                }
            }
            Misdeed::Hold => {
                if let Some(hoard) = hoard {
                    hoard.set(&record.text()?.as_bytes().to_vec())?;
                }
            }
            Misdeed::LookAround => {
                for (name, value) in env::vars_os() {
                    let found = format!("{}={}", name.to_string_lossy(), value.to_string_lossy());
                    out.emit(record.key(), found)?;
                }
                for directory in [".", "/", "..", "/etc", "/proc/self", "/tmp"] {
                    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
                    for entry in entries {
                        let path = entry.path();
                        out.emit(record.key(), path.to_string_lossy())?;
                        out.emit(record.key(), fs::read_to_string(path).unwrap_or_default())?;
                    }
                }
                for file in ["secret", "/etc/passwd", "../secret"] {
                    out.emit(record.key(), fs::read_to_string(file).unwrap_or_default())?;
                }
            }
            Misdeed::Read => {
                let text = fs::read_to_string(&config.file);
                out.emit(record.key(), text.unwrap_or_else(|error| error.to_string()))?;
            }
            Misdeed::Clock => {
                let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
                let start = Instant::now();
                out.emit(
                    record.key(),
                    (since_1970.as_millis(), start.elapsed().as_nanos()),
                )?;
            }
            Misdeed::Stdout => println!("faulty says {}", record.text()?),
            Misdeed::Stderr => eprintln!("faulty complains about {}", record.text()?),
            Misdeed::Sleep => std::thread::sleep(Duration::from_millis(config.milliseconds)),
            Misdeed::Wait => {
                while !config.file.exists() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Misdeed::EventTime => {
                let time = record.timestamp();
                let time = time.map_or("none".to_owned(), |time| time.to_string());
                out.emit(record.key(), time)?;
            }
            Misdeed::FloodAndFail => {
                let megabyte = "x".repeat(1 << 20);
                for _ in 0..64 {
                    out.emit(record.key(), &megabyte)?;
                }
                bail!("enough");
            }
            Misdeed::FillValue => {
                let megabyte = large(1 << 20);
                loop {
                    state::store(0, &[0], &megabyte);
                }
            }
            Misdeed::FillKeys => {
                for number in 0_u64.. {
                    state::put(0, &number.to_le_bytes(), b"x");
                }
            }
            Misdeed::FillList => {
                let element = large(1 << 10);
                loop {
                    state::list_append(0, &[0], &element);
                }
            }
            Misdeed::FillMap => {
                let value = large(1 << 10);
                for number in 0_u64.. {
                    let field = Cells {
                        data: number.to_be_bytes().to_vec(),
                        offsets: vec![0, 8],
                    };
                    state::map_store(0, &[0], &field, &value);
                }
            }
            Misdeed::FillOutput => {
                let megabyte = large(1 << 20);
                for number in 0.. {
                    output::emit(number % 2, &cells(&[0, 1]), &megabyte, &[]);
                }
            }
            Misdeed::StoreMany => {
                // Each field far from the one before.
                let fields = (0..config.count).map(|number| number.reverse_bits().to_be_bytes());
                let column = Cells {
                    data: fields.flatten().collect(),
                    offsets: (0..=config.count).map(|field| 4 * field).collect(),
                };
                let values = Cells {
                    data: Vec::new(),
                    offsets: vec![0; config.count as usize + 1],
                };
                state::map_store(0, &vec![0; config.count as usize], &column, &values);
            }
            Misdeed::LoadLarge => {
                state::store(0, &[0], &large(8 << 20));
                drop(state::load_some(0, &vec![0; config.count as usize]));
            }
            Misdeed::EmitNumbered => {
                let values = Cells {
                    data: Vec::new(),
                    offsets: vec![0; config.count as usize + 1],
                };
                for port in 0..16 {
                    output::emit_numbered(port, &vec![0; config.count as usize], &values, &[]);
                }
            }
            Misdeed::OpenFiles => {
                let files = (0..config.count).map(|_| fs::File::open(&config.file));
                black_box(files.collect::<std::io::Result<Vec<_>>>()?);
            }
            Misdeed::ListDirectories => {
                let mut lists = Vec::new();
                for _ in 0..config.count {
                    let mut list = fs::read_dir(&config.file)?;
                    // Asked for one name, it reads some, and keeps its place in the rest.
                    black_box(list.next());
                    lists.push(list);
                }
            }
            Misdeed::Log => {
                highwater::warn!("{HOSTILE}");
                highwater::error!("{}", "\u{1b}".repeat(1 << 20));
                println!("{HOSTILE}");
            }
            Misdeed::ErrorText => bail!("{HOSTILE}"),
            Misdeed::Tell | Misdeed::TellAndTrap => {
                let secret = &config.secret;
                highwater::warn!("logged {secret}");
                println!("printed {secret}");
                eprintln!("complained {secret:?}");
                match self {
                    Misdeed::Tell => bail!("returned {secret}"),
                    _ => panic!("trapped with {secret}"),
                }
            }
            Misdeed::Leak => {
                std::mem::forget(black_box(vec![1_u8; config.count as usize]));
                if let Some(hoard) = hoard {
                    hoard.set(&record.text()?.as_bytes().to_vec())?;
                }
            }
        }
        Ok(())
    }
}

/// What a terminal must not get: a line of its own, an escape sequence, a mark that turns text around.
const HOSTILE: &str = "x\njob finished\r\nerror: all is well\u{1b}[2J\u{202e}\u{9b}31m";

/// A column with one cell of this many bytes.
fn large(bytes: u32) -> Cells {
    Cells {
        data: vec![1; bytes as usize],
        offsets: vec![0, bytes],
    }
}

/// A column with these offsets and less data than they say.
fn cells(offsets: &[u32]) -> Cells {
    Cells {
        data: b"xx"[..offsets.len() - 1].to_vec(),
        offsets: offsets.to_vec(),
    }
}

#[expect(unconditional_recursion, reason = "that is the misdeed")]
fn overflow(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    overflow(black_box(frame[1] + 1)) + frame[0]
}
