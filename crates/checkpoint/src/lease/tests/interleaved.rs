//! A holder that is taken for dead and is not, and contenders for its lease, interleaved at every step
//! that their storage takes.
//!
//! Each of them runs on a thread and stops before every storage call until it is its turn. Who comes next
//! is what the test decides, so that an interleaving is a list of numbers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use bytes::Bytes;

use super::taking::{Clock, TIMEOUT_MS, terms};
use crate::lease::{Lease, Time, standing};
use crate::metadata::{self, Metadata};
use crate::storage::{Guard, Listing, MemoryStorage, ObjectWriter, Reading, Storage};
use crate::{Completed, Error, Result, fixture, names};

/// Whose turn it is.
#[derive(Debug)]
struct Turns {
    state: Mutex<Vec<At>>,
    changed: Condvar,
    /// Nobody stops: for what comes before and after the interleaving.
    off: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Running,
    Waiting,
    Over,
}

impl Turns {
    fn set(&self, actor: usize, at: At) {
        self.state.lock().unwrap()[actor] = at;
        self.changed.notify_all();
    }

    /// Stops until it is the actor's turn.
    fn wait(&self, actor: usize) {
        self.set(actor, At::Waiting);
        let state = self.state.lock().unwrap();
        drop(
            self.changed
                .wait_while(state, |state| state[actor] == At::Waiting),
        );
    }

    /// Who can take a step, once all have stopped.
    fn ready(&self) -> Vec<usize> {
        let state = self.state.lock().unwrap();
        let running = |state: &mut Vec<At>| state.contains(&At::Running);
        let state = self.changed.wait_while(state, running).unwrap();
        let all = 0..state.len();
        all.filter(|actor| state[*actor] == At::Waiting).collect()
    }
}

/// An actor that is over when this is dropped, also by a panic.
struct Leaves<'a>(&'a Turns, usize);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.set(self.1, At::Over);
    }
}

/// One actor's way to the storage.
#[derive(Debug)]
struct Stepped {
    inner: MemoryStorage,
    turns: Arc<Turns>,
    actor: usize,
    clock: Clock,
    /// Before this time it only looks on; there is nothing to come in between of.
    from: i64,
}

impl Stepped {
    fn step(&self) -> &MemoryStorage {
        if !self.turns.off.load(Ordering::SeqCst) && self.clock.now_ms() >= self.from {
            self.turns.wait(self.actor);
        }
        &self.inner
    }
}

#[deny(clippy::missing_trait_methods)]
impl Storage for Stepped {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        self.step().create(name)
    }
    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        self.step().put_new(name, parts)
    }
    fn read(&self, name: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        self.step().read(name, range)
    }
    fn begin_read(&self, name: &str, range: std::ops::Range<u64>) -> Result<Option<Reading>> {
        self.step().begin_read(name, range)
    }
    fn list(&self, directory: &str) -> Result<Listing> {
        self.step().list(directory)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.step().delete(name)
    }
    fn make_directory(&self, name: &str) -> Result<()> {
        self.inner.make_directory(name)
    }
    fn remove_directory(&self, name: &str) -> Result<()> {
        self.inner.remove_directory(name)
    }
    fn lock(&self, name: &str) -> Result<Option<Guard>> {
        self.inner.lock(name)
    }
    fn may_land_late(&self) -> bool {
        self.inner.may_land_late()
    }

    fn settle(&self, directory: &str) -> Result<()> {
        self.inner.settle(directory)
    }

    fn is_locked(&self, name: &str) -> Result<Option<bool>> {
        self.inner.is_locked(name)
    }
    fn location(&self, name: &str) -> String {
        self.inner.location(name)
    }
}

/// Puts the next checkpoint that is free, and says which it was if it counts.
fn complete(storage: &dyn Storage, lease: &Lease, number: u64) -> Result<Option<Metadata>> {
    let metadata = Metadata {
        generation: lease.generation(),
        holder: Some(lease.token().to_owned()),
        ..fixture::metadata(number, 1)
    };
    let name = names::metadata(&format!("job/chk-{number}"));
    let (bytes, _) = metadata::encode(&metadata, &[], &name)?;
    match storage.put_new(&name, vec![bytes]) {
        Err(Error::AlreadyExists { .. }) => return Ok(None),
        put => put?,
    }
    lease.confirm()?;
    Ok(Some(metadata))
}

/// Completes some checkpoints, with numbers after those that are used up, and renews in between.
fn work(storage: &dyn Storage, lease: &Lease, clock: &Clock) -> Vec<Metadata> {
    let mut completed = Vec::new();
    let used = |storage: &dyn Storage| crate::used::used(storage, "job").map(|used| used.id);
    let Ok(mut number) = used(storage) else {
        return completed;
    };
    for _ in 0..2 {
        number += 1;
        match complete(storage, lease, number) {
            Ok(metadata) => completed.extend(metadata),
            Err(Error::Fenced { .. }) => break,
            Err(error) => panic!("{error:?}"),
        }
        clock.advance(TIMEOUT_MS / 2);
        if lease.keep().is_err() {
            break;
        }
    }
    completed
}

/// Runs a holder and this many contenders; `next` chooses among those who are ready. Returns how many
/// steps there were, and whether a zombie put a checkpoint that nobody believes.
fn run(contenders: usize, next: &mut dyn FnMut(usize, &[usize]) -> usize) -> (usize, bool) {
    let memory = MemoryStorage::new();
    let turns = Arc::new(Turns {
        state: Mutex::new(vec![At::Running; contenders + 1]),
        changed: Condvar::new(),
        off: AtomicBool::new(true),
    });
    let clock = Clock::default();
    let plain: Arc<dyn Storage> = Arc::new(memory.clone());
    let stepped = |actor: usize, clock: &Clock, from: u64| -> Arc<dyn Storage> {
        Arc::new(Stepped {
            inner: memory.clone(),
            turns: Arc::clone(&turns),
            actor,
            clock: clock.clone(),
            from: from as i64,
        })
    };
    // By its clock it has only just renewed, so that it never notices by itself.
    let zombie = Lease::take(stepped(0, &clock, 0), "job", terms("zombie", &clock)).unwrap();
    turns.off.store(false, Ordering::SeqCst);
    let completed = Mutex::new(Vec::new());
    let leases = Mutex::new(Vec::new());
    let mut steps = 0;
    thread::scope(|scope| {
        let (turns, completed, leases) = (&*turns, &completed, &leases);
        let zombie = &zombie;
        let clock = &clock;
        let storage = stepped(0, clock, 0);
        scope.spawn(move || {
            let _leaves = Leaves(turns, 0);
            let done = work(&*storage, zombie, clock);
            completed.lock().unwrap().extend(done);
        });
        for actor in 1..=contenders {
            let clock = Clock::default();
            clock.advance(100 * TIMEOUT_MS);
            let storage = stepped(actor, &clock, 101 * TIMEOUT_MS);
            scope.spawn(move || {
                let _leaves = Leaves(turns, actor);
                let terms = terms(&format!("contender-{actor}"), &clock);
                match Lease::take(Arc::clone(&storage), "job", terms) {
                    Ok(lease) => {
                        let done = work(&*storage, &lease, &clock);
                        completed.lock().unwrap().extend(done);
                        leases.lock().unwrap().push(lease);
                    }
                    Err(Error::Held(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            });
        }
        loop {
            let ready = turns.ready();
            if ready.is_empty() {
                return;
            }
            turns.set(next(steps, &ready), At::Running);
            steps += 1;
        }
    });
    turns.off.store(true, Ordering::SeqCst);
    let mut leases = leases.into_inner().unwrap();
    leases.push(zombie);
    let holders = leases.iter().filter(|lease| lease.confirm().is_ok());
    assert!(holders.count() <= 1, "two holders");
    let last = standing(&*plain, "job").unwrap();
    let completed = completed.into_inner().unwrap();
    for metadata in &completed {
        last.check(metadata)
            .unwrap_or_else(|why| panic!("{} was complete: {why}", metadata.id));
    }
    let mut stands = plain.list("job").unwrap().directories;
    stands.retain(|name| name.contains("chk-"));
    let unbelieved = stands.iter().any(|directory| {
        let found = Completed::open(Arc::clone(&plain), directory).unwrap();
        last.check(found.metadata()).is_err()
    });
    // The lease can be taken again, whatever has happened.
    let clock = Clock::default();
    clock.advance(1_000 * TIMEOUT_MS);
    let next = Lease::take(plain, "job", terms("next", &clock)).unwrap();
    next.confirm().unwrap();
    (steps, unbelieved)
}

#[test]
fn c17_a_holder_and_a_contender_in_every_order_with_two_changes() {
    // Who begins, and when the other one comes in between, and when the first one again.
    let mut zombies = 0;
    let mut tried = 0;
    for first in 0..2 {
        let total = run(1, &mut |_, ready| turn(ready, first)).0;
        for one in 0..total {
            for two in one + 1..total + 1 {
                let (_, unbelieved) = run(1, &mut |step, ready| {
                    let changes = usize::from(step >= one) + usize::from(step >= two);
                    turn(ready, (first + changes) % 2)
                });
                zombies += usize::from(unbelieved);
                tried += 1;
            }
        }
    }
    assert!(tried > 500, "{tried}");
    assert!(zombies > 0, "a zombie has put a checkpoint after its end");
}

#[test]
fn c17_a_holder_and_two_contenders_in_random_orders() {
    let mut zombies = 0;
    for seed in 1..300_u32 {
        let mut random = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut actor = 0;
        let (_, unbelieved) = run(2, &mut |_, ready| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            if random % 4 == 0 {
                actor = (random >> 8) as usize % 3;
            }
            turn(ready, actor)
        });
        zombies += usize::from(unbelieved);
    }
    assert!(zombies > 0, "a zombie has put a checkpoint after its end");
}

/// This actor, if it is ready.
fn turn(ready: &[usize], actor: usize) -> usize {
    if ready.contains(&actor) {
        actor
    } else {
        ready[0]
    }
}
