//! What an instance has of the world outside, by its grants: clocks, randomness, directories, sockets.

use std::sync::Arc;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, HostMonotonicClock, HostWallClock, Rng, WasiCtx, clocks};

use super::call_clock::{CallClock, FrozenClock, MONOTONIC_START};
use super::console::{Console, Stream};
use super::grants::Granted;

/// The most bytes of randomness in one call: the host makes them without looking at the clock.
const RANDOM_BYTES_MAX: u64 = 4 << 20;

/// The WASI context of an instance.
///
/// # Errors
/// A granted directory cannot be opened.
pub(super) fn context(
    operator: &str,
    subtask: Option<u32>,
    granted: &Arc<Granted>,
    clock: &Arc<CallClock>,
    console: &Console,
) -> wasmtime::Result<WasiCtx> {
    let mut builder = WasiCtx::builder();
    builder
        .max_random_size(RANDOM_BYTES_MAX)
        .stdout(console.stream(Stream::Out))
        .stderr(console.stream(Stream::Err))
        .envs(&granted.env);
    for dir in &granted.dirs {
        let permissions = if dir.write {
            FsPerms::ReadWrite
        } else {
            FsPerms::ReadOnly
        };
        builder.preopened_dir(&dir.host, &dir.guest, permissions)?;
    }
    if !granted.clock {
        builder
            .wall_clock(FrozenClock(Arc::clone(clock)))
            .monotonic_clock(FrozenClock(Arc::clone(clock)));
    }
    if !granted.random {
        let seed = seed(operator, subtask);
        builder
            .secure_random(Xoshiro256PlusPlus::seed_from_u64(seed))
            .insecure_random(Xoshiro256PlusPlus::seed_from_u64(seed ^ 1))
            .insecure_random_seed(u128::from(seed));
    }
    if !granted.network.is_empty() {
        let granted = Arc::clone(granted);
        let console = console.clone();
        builder
            .allow_tcp(true)
            .socket_addr_check(move |address, reason| {
                let (granted, console) = (Arc::clone(&granted), console.clone());
                Box::pin(async move {
                    let connects = matches!(reason, SocketAddrUse::TcpConnect);
                    let may = match reason {
                        SocketAddrUse::TcpConnect => granted.network.may_connect(address).await,
                        // Connecting binds to any free port before; listening is never granted.
                        SocketAddrUse::TcpBind => {
                            address.ip().is_unspecified() && address.port() == 0
                        }
                        _ => false,
                    };
                    if !may && connects {
                        let grant = format!("grants = {{ network = [\"{address}\"] }}");
                        console.denied(&format!("connecting to {address}"), Some(&grant));
                    } else if !may {
                        console.denied(&format!("listening on {address}"), None);
                    }
                    may
                })
            });
    }
    Ok(builder.build())
}

/// Differs between operators and subtasks, is the same in every run.
fn seed(operator: &str, subtask: Option<u32>) -> u64 {
    dataflow::key::hash(operator.as_bytes())
        ^ u64::from(subtask.map_or(0, |subtask| subtask.wrapping_add(1))).rotate_left(32)
}

/// Clocks and randomness for core modules, under the same rules.
pub(super) struct Ambient {
    wall: Box<dyn HostWallClock + Send>,
    monotonic: Box<dyn HostMonotonicClock + Send>,
    random: Box<dyn Rng + Send>,
}

impl Ambient {
    pub(super) fn new(
        operator: &str,
        subtask: Option<u32>,
        granted: &Granted,
        clock: &Arc<CallClock>,
    ) -> Self {
        let frozen = || FrozenClock(Arc::clone(clock));
        let (wall, monotonic): (
            Box<dyn HostWallClock + Send>,
            Box<dyn HostMonotonicClock + Send>,
        ) = match granted.clock {
            true => (clocks::wall_clock(), clocks::monotonic_clock()),
            false => (Box::new(frozen()), Box::new(frozen())),
        };
        let random: Box<dyn Rng + Send> = match granted.random {
            true => wasmtime_wasi::thread_rng(),
            false => Box::new(Xoshiro256PlusPlus::seed_from_u64(seed(operator, subtask))),
        };
        Self {
            wall,
            monotonic,
            random,
        }
    }

    /// Nanoseconds of a preview1 clock: 0 is the wall clock.
    pub(super) fn now(&self, clock: u32) -> u64 {
        match clock {
            0 => u64::try_from(self.wall.now().as_nanos()).unwrap_or(u64::MAX),
            // A real one begins at 0.
            _ => self.monotonic.now().saturating_add(MONOTONIC_START),
        }
    }

    /// Eight bytes.
    pub(super) fn random(&mut self) -> u64 {
        self.random.next_u64()
    }
}
