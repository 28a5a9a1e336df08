//! Whole jobs on one thread, moved by a random generator: a tool for tests.
//!
//! What runs is what runs in production: subtasks, routers, the coordinator, what writers do. Only
//! who comes next is drawn from a seed, and time passes when the simulation says so. So an unlucky
//! interleaving is found by trying many seeds, and a seed that has found one finds it again.
//!
//! Writers are interleaved with everything else at every durable step, and may stall there.
//!
//! Faults come in through what a job has anyway: its operators, sources and sinks, and a
//! [`FaultyStorage`]. When that has crashed, by its plan or by [`Simulation::crash_after`], the
//! simulation drops everything where it stands, as a process does that is killed.

mod turns;

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use checkpoint::storage::FaultyStorage;
use operator::clock::Clock;

use crate::assembly::Assembly;
use crate::attempt::{Attempt, End};
use crate::driver::Driver;
use crate::error::Error;
use crate::events::Event;
use crate::inbox::Inbox;
use crate::job::{Job, Mover};
use crate::members::{Unmade, leave};
use crate::on_threads::WRITERS;
use crate::report::{JobEvent, Outcome};
use crate::requests::Stop;
use crate::subtask::{Step, Subtask};
use crate::writer::discard;

use turns::{Crew, Turns};

pub use crate::random::Random;

/// One of this many turns lets a millisecond pass, on average.
const TURNS_PER_MS: u64 = 8;

/// How slow subtasks are; drawn again in each attempt, so that some run far ahead of others.
const PACES: [u64; 4] = [1, 1, 4, 16];

/// At most this many turns are taken between the end of an attempt and the moment when all notice.
const TURNS_BEHIND_END: u64 = 16;

/// The longest stall of a durable step, in milliseconds.
const STALL_MS: u64 = 300;

/// The longest nap of a subtask, in milliseconds.
const NAP_MS: u64 = 4000;

/// Part of the names of a lease's entries.
const LEASE: &str = "/_lease/";

/// One of this many chances is taken to let a record through.
const CHANCES_PER_LEAK: u64 = 4;

/// A clock that stands still until it is moved. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<AtomicI64>);

impl VirtualClock {
    /// A clock that shows this many milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn at(now_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now_ms)))
    }

    /// Lets time pass until `now_ms`, if that is not over.
    pub fn advance_to(&self, now_ms: i64) {
        self.0.fetch_max(now_ms, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl checkpoint::lease::Time for VirtualClock {
    fn now_ms(&self) -> i64 {
        Clock::now_ms(self)
    }

    fn wait_ms(&self, ms: u64) {
        self.advance_to(Clock::now_ms(self).saturating_add_unsigned(ms));
    }
}

/// Moves jobs; see the module. One simulation is one process: it ends with a crash.
#[derive(Debug)]
pub struct Simulation {
    random: Random,
    clock: VirtualClock,
    storage: FaultyStorage,
    crash_after: Option<u64>,
    /// One of this many durable steps of writers stalls.
    stall_one_in: Option<u64>,
    /// One of this many turns of subtasks is followed by a nap.
    nap_one_in: Option<u64>,
    lets_records_through: bool,
    turns: u64,
    stalls: u64,
    naps: u64,
    trace: u64,
    before_turns: BeforeTurns,
}

/// What is called ahead of every turn.
#[derive(Default)]
struct BeforeTurns(Option<Box<dyn FnMut() + Send>>);

impl BeforeTurns {
    fn call(&mut self) {
        if let Some(call) = &mut self.0 {
            call();
        }
    }
}

impl fmt::Debug for BeforeTurns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeTurns")
    }
}

impl Simulation {
    /// Takes its turns from `random`. The job is to read this clock, and its checkpoints are to be in
    /// this storage.
    #[must_use]
    pub fn new(random: Random, clock: VirtualClock, storage: FaultyStorage) -> Self {
        Self {
            random,
            clock,
            storage,
            crash_after: None,
            stall_one_in: None,
            nap_one_in: None,
            lets_records_through: false,
            turns: 0,
            stalls: 0,
            naps: 0,
            trace: 0,
            before_turns: BeforeTurns::default(),
        }
    }

    /// Calls this ahead of every turn, and of every wait, with nothing of the job in the middle of
    /// anything: it may hold the process there while others go on, ask something of the job, or crash
    /// the storage.
    #[must_use]
    pub fn before_turns(self, call: impl FnMut() + Send + 'static) -> Self {
        Self {
            before_turns: BeforeTurns(Some(Box::new(call))),
            ..self
        }
    }

    /// Crashes after this many turns, if the job takes that many.
    #[must_use]
    pub fn crash_after(self, turns: u64) -> Self {
        Self {
            crash_after: Some(turns),
            ..self
        }
    }

    /// One of this many durable steps of writers stalls for a while, on average.
    #[must_use]
    pub fn stalling(self, one_in: u64) -> Self {
        Self {
            stall_one_in: Some(one_in),
            ..self
        }
    }

    /// After one of this many turns, on average, a subtask does nothing for a long while, so that
    /// checkpoints expire in the middle of their alignment.
    #[must_use]
    pub fn napping(self, one_in: u64) -> Self {
        Self {
            nap_one_in: Some(one_in),
            ..self
        }
    }

    /// Plants a mistake, for a test of the tests: now and then a barrier is overtaken by the record
    /// after it, as if the alignment had let one through.
    #[must_use]
    pub fn letting_records_through(self) -> Self {
        Self {
            lets_records_through: true,
            ..self
        }
    }

    /// Runs a job to its end, or until the crash: then it is [`Outcome::Suspended`].
    ///
    /// # Panics
    /// Nobody can move and no time is waited for: the job would hang for ever.
    pub fn run(&mut self, job: &Job, mut report: impl FnMut(JobEvent)) -> Outcome {
        job.run_on(self, &mut report)
    }

    /// Turns taken so far.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// How many durable steps have stalled so far.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    /// How many naps subtasks have taken so far.
    #[must_use]
    pub fn naps(&self) -> u64 {
        self.naps
    }

    /// A number for all that was done so far, in order: the same for the same seed and the same job.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace
    }

    fn has_crashed(&mut self) -> bool {
        if self.crash_after.is_some_and(|turns| self.turns >= turns) {
            self.storage.crash();
        }
        self.storage.has_crashed()
    }

    /// Draws how slow each of this many subtasks is.
    fn draw_paces(&mut self, subtasks: usize) -> Vec<u64> {
        let mut pace = || PACES[self.random.below(PACES.len() as u64) as usize];
        (0..subtasks).map(|_| pace()).collect()
    }

    /// Draws one of what can be done.
    fn draw(&mut self, moves: &[Move], stage: &Stage<'_>) -> Move {
        let mut drawn = moves[self.random.below(moves.len() as u64) as usize];
        // A slow subtask lets others go first, most of the time.
        if let Move::Subtask(number) = drawn
            && !self.random.one_in(stage.paces[number])
        {
            drawn = moves[self.random.below(moves.len() as u64) as usize];
        }
        self.turns += 1;
        self.trace =
            Random::new(self.trace ^ drawn.number() ^ (moves.len() as u64) << 32).next_u64();
        if self.random.one_in(TURNS_PER_MS) {
            self.clock.advance_to(self.clock.now_ms() + 1);
        }
        drawn
    }

    /// Takes turns until the attempt ends.
    fn drive(
        &mut self,
        stage: &mut Stage<'_>,
        driver: &mut Driver<'_>,
        report: &mut dyn FnMut(JobEvent),
    ) -> End {
        loop {
            self.before_turns.call();
            if self.has_crashed() {
                return End::Stopped(Stop::Suspend);
            }
            let now = self.clock.now_ms();
            let mut moves = stage.moves(now);
            if !stage.events.is_empty() {
                moves.push(Move::Event);
            }
            if driver.deadline().is_some_and(|deadline| deadline <= now) {
                moves.push(Move::Deadline);
            }
            if moves.is_empty() {
                let waited_for = stage.waited_for().chain(stage.held_until());
                let next = waited_for.chain(driver.deadline()).min();
                let Some(next) = next else {
                    panic!("the job hangs: nobody can move, nothing is waited for")
                };
                self.clock.advance_to(next);
                continue;
            }
            let end = match self.draw(&moves, stage) {
                Move::Event => {
                    let event = stage.events.pop_front();
                    driver.on(event, self.clock.now_ms(), report)
                }
                Move::Deadline => driver.on(None, self.clock.now_ms(), report),
                other => {
                    self.take(other, stage);
                    None
                }
            };
            stage.collect();
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Lets subtasks and writers go on for a little, as they do before they learn of the end.
    fn overrun(&mut self, stage: &mut Stage<'_>) {
        for _ in 0..self.random.below(TURNS_BEHIND_END) {
            self.before_turns.call();
            let moves = stage.moves(self.clock.now_ms());
            if moves.is_empty() || self.has_crashed() {
                return;
            }
            let drawn = self.draw(&moves, stage);
            self.take(drawn, stage);
            stage.collect();
        }
    }

    /// Does what was drawn.
    fn take(&mut self, drawn: Move, stage: &mut Stage<'_>) {
        if let Move::Subtask(number) = drawn
            && self.lets_records_through
            && self.random.one_in(CHANCES_PER_LEAK)
        {
            stage.actors[number].inbox.let_one_through();
        }
        let writer_at_step = stage.take(drawn);
        if let Move::Subtask(number) = drawn
            && self
                .nap_one_in
                .is_some_and(|one_in| self.random.one_in(one_in))
        {
            self.naps += 1;
            let nap = 1 + self.random.below(NAP_MS);
            stage.actors[number].asleep_until = self.clock.now_ms().saturating_add_unsigned(nap);
        }
        if let Some(writer) = writer_at_step
            && self
                .stall_one_in
                .is_some_and(|one_in| self.random.one_in(one_in))
        {
            self.stalls += 1;
            let stall = 1 + self.random.below(STALL_MS);
            stage.held_until[writer] = self.clock.now_ms().saturating_add_unsigned(stall);
        }
    }

    /// Takes turns until everybody has left and everything queued is written.
    fn wind_up(&mut self, stage: &mut Stage<'_>) {
        for actor in &mut stage.actors {
            actor.asleep_until = i64::MIN;
        }
        loop {
            self.before_turns.call();
            let moves = stage.moves(self.clock.now_ms());
            if self.has_crashed() {
                return;
            }
            if moves.is_empty() {
                let Some(next) = stage.held_until().min() else {
                    return;
                };
                self.clock.advance_to(next);
                continue;
            }
            let drawn = self.draw(&moves, stage);
            self.take(drawn, stage);
            stage.collect();
        }
    }
}

impl Mover for Simulation {
    fn run(&mut self, attempt: &Attempt<'_>, report: &mut dyn FnMut(JobEvent)) -> (End, u64) {
        // What was given up between the attempts is removed before the first turn.
        attempt.store.wait_for_cleaning();
        let Assembly {
            plan,
            inboxes,
            in_progress,
            writers,
            tasks,
            subtasks,
        } = attempt.assemble();
        let turns = Arc::new(Turns::default());
        let crew = Crew::start(Arc::clone(&turns), tasks, &in_progress, &attempt.events);
        let crew = crew.expect("a simulation has threads for its writers");
        self.storage.pause_before_steps(move |object| {
            // Who puts an entry of the lease holds the lease: others that need it could not go on.
            if !object.contains(LEASE) {
                turns.pause();
            }
        });
        let mut stage = Stage {
            attempt,
            paces: self.draw_paces(subtasks.len()),
            actors: subtasks.into_iter().map(Actor::new).collect(),
            crew,
            held_until: [i64::MIN; WRITERS],
            events: VecDeque::new(),
        };
        let mut driver = Driver::new(attempt, &plan, &inboxes, &in_progress, writers);
        let end = self.drive(&mut stage, &mut driver, report);
        let unsettled = driver.leave(&end);
        self.overrun(&mut stage);
        inboxes.iter().flatten().for_each(|inbox| inbox.close());
        let given_up = in_progress.clear();
        self.wind_up(&mut stage);
        // After a crash writers find that their steps never happen.
        stage.finish_tasks();
        given_up.into_iter().for_each(discard);
        attempt.store.wait_for_cleaning();
        let crashed = self.has_crashed();
        let rest = stage.events.drain(..);
        let next_id = unsettled.settle(rest, self.clock.now_ms(), &mut |event| {
            // A process that is gone reports nothing.
            if !crashed {
                report(event);
            }
        });
        match crashed {
            true => (End::Stopped(Stop::Suspend), next_id),
            false => (end, next_id),
        }
    }

    fn wait(&mut self, job: &Job, delay_ms: u64) -> Option<Stop> {
        // Closing slots gives checkpoints up: they are deleted before anything goes on.
        job.store().wait_for_cleaning();
        self.before_turns.call();
        job.refuse_commands();
        if self.storage.has_crashed() {
            // The process is gone, and waits for nothing.
            return Some(Stop::Suspend);
        }
        let until = self.clock.now_ms().saturating_add_unsigned(delay_ms);
        self.clock.advance_to(until);
        None
    }
}

/// Something that can be done next.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// The driver takes its next event.
    Event,
    /// The driver takes notice of the time.
    Deadline,
    /// A writer goes on to its next durable step, or to the end of its task.
    Writer(usize),
    /// A subtask is made, or steps.
    Subtask(usize),
}

impl Move {
    fn number(self) -> u64 {
        match self {
            Self::Event => 0,
            Self::Deadline => 1,
            Self::Writer(writer) => 2 + writer as u64,
            Self::Subtask(number) => 2 + (WRITERS + number) as u64,
        }
    }
}

/// All that takes part in an attempt but its driver.
struct Stage<'a> {
    attempt: &'a Attempt<'a>,
    actors: Vec<Actor>,
    /// For each of them: it uses one in this many turns, where others can move.
    paces: Vec<u64>,
    crew: Crew,
    /// Until when each writer is stalled.
    held_until: [i64; WRITERS],
    /// Taken from the job's queue as they come, so that nobody finds it full.
    events: VecDeque<(u32, Event)>,
}

impl Stage<'_> {
    /// What subtasks and writers can do at this time.
    fn moves(&mut self, now: i64) -> Vec<Move> {
        let busy = self.crew.busy();
        let writers = (0..WRITERS)
            .filter(|writer| busy[*writer] && self.held_until[*writer] <= now)
            .map(Move::Writer);
        let actors = self.actors.iter().enumerate();
        let ready = actors.filter(|(_, actor)| actor.can_move(now));
        writers
            .chain(ready.map(|(number, _)| Move::Subtask(number)))
            .collect()
    }

    /// The times until which writers are stalled that have something to do.
    fn held_until(&self) -> impl Iterator<Item = i64> {
        let busy = self.crew.busy();
        (0..WRITERS)
            .filter(move |writer| busy[*writer])
            .map(|writer| self.held_until[writer])
    }

    /// Lets every writer come to the end of its task, whatever that is worth.
    fn finish_tasks(&mut self) {
        for writer in 0..WRITERS {
            while self.crew.busy()[writer] {
                self.crew.go_on(writer);
                self.attempt.store.wait_for_cleaning();
                self.collect();
            }
        }
    }

    /// The times that subtasks wait for.
    fn waited_for(&self) -> impl Iterator<Item = i64> {
        self.actors.iter().filter_map(Actor::waits_until)
    }

    /// Does what was drawn. Returns the writer that has come to a durable step by that.
    fn take(&mut self, drawn: Move) -> Option<usize> {
        let mut at_step = None;
        match drawn {
            Move::Event | Move::Deadline => unreachable!("the driver's"),
            Move::Writer(writer) => at_step = self.crew.go_on(writer).then_some(writer),
            Move::Subtask(number) => {
                if let Err(error) = self.actors[number].take_turn(self.attempt) {
                    self.attempt.events.send(Event::Failed(Box::new(error)));
                }
            }
        }
        // Deletions have a thread of their own; it is held in step with us.
        self.attempt.store.wait_for_cleaning();
        at_step
    }

    fn collect(&mut self) {
        self.events.extend(self.attempt.receiver.try_iter());
    }
}

/// A subtask and how far it is.
struct Actor {
    inbox: Arc<Inbox>,
    state: ActorState,
    /// The end of its nap.
    asleep_until: i64,
}

enum ActorState {
    Unmade(Box<Unmade>),
    Running(Box<Subtask>),
    /// Until its inbox signals, or until this time.
    Waiting(Box<Subtask>, Option<i64>),
    Over,
}

impl Actor {
    fn new(unmade: Unmade) -> Self {
        Self {
            inbox: Arc::clone(&unmade.subtask.inbox),
            state: ActorState::Unmade(Box::new(unmade)),
            asleep_until: i64::MIN,
        }
    }

    /// When it can move, unless something happens before; `None`: that is what it waits for.
    fn waits_until(&self) -> Option<i64> {
        let until = match &self.state {
            ActorState::Unmade(_) | ActorState::Running(_) => i64::MIN,
            ActorState::Waiting(..) if self.inbox.is_signalled() => i64::MIN,
            ActorState::Waiting(_, until) => (*until)?,
            ActorState::Over => return None,
        };
        Some(until.max(self.asleep_until))
    }

    fn can_move(&self, now: i64) -> bool {
        if self.asleep_until > now {
            return false;
        }
        match &self.state {
            ActorState::Unmade(_) | ActorState::Running(_) => true,
            ActorState::Waiting(_, until) => {
                self.inbox.is_signalled() || until.is_some_and(|until| until <= now)
            }
            ActorState::Over => false,
        }
    }

    fn take_turn(&mut self, attempt: &Attempt<'_>) -> Result<(), Error> {
        // Over, unless it comes to something else.
        let mut subtask = match mem::replace(&mut self.state, ActorState::Over) {
            ActorState::Unmade(unmade) => {
                self.state = ActorState::Running(Box::new(unmade.make()?));
                return Ok(());
            }
            ActorState::Running(subtask) => subtask,
            ActorState::Waiting(subtask, _) => {
                // Takes the signal; there is nothing to wait for.
                self.inbox.wait(Some(std::time::Duration::ZERO));
                subtask
            }
            ActorState::Over => unreachable!("it cannot move"),
        };
        self.state = match subtask.step()? {
            Step::Again => ActorState::Running(subtask),
            Step::Wait(until) => ActorState::Waiting(subtask, until),
            Step::Over => {
                leave(&attempt.events, &self.inbox);
                ActorState::Over
            }
        };
        Ok(())
    }
}
