//! Asks things of a job that runs on threads, and waits for the answers.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use checkpoint::Completed;
use checkpoint::store::CheckpointStore;
use dataflow::Batch;
use operator::clock::{Clock, SystemClock};
use operator::source::{Part, SourceStatus};
use operator::{BoxError, Source, SourceFactory, SubtaskContext};
use runtime::control::{Command, Done, NotDone, Order, Requester};
use runtime::graph::NodeKind;
use runtime::{Job, JobEvent, JobGraph, JobHandle, Options, Outcome};

/// After this long a wait is taken for a hang.
const HANG: Duration = Duration::from_secs(120);

pub(crate) type Answer = Result<Done, NotDone>;

/// A job on a thread of its own.
pub(crate) struct Running {
    pub(crate) handle: JobHandle,
    events: Receiver<JobEvent>,
    thread: JoinHandle<Outcome>,
}

/// Starts a job.
pub(crate) fn start(
    graph: JobGraph,
    options: Options,
    store: &CheckpointStore,
    restore: Option<Completed>,
) -> Running {
    let clock = Arc::new(SystemClock::new());
    let job = Job::new(graph, options, store.clone(), restore, clock);
    let (sender, events) = channel();
    Running {
        handle: job.handle(),
        events,
        thread: std::thread::spawn(move || job.run(|event| sender.send(event).unwrap_or(()))),
    }
}

impl Running {
    /// Waits until sources have read this many records.
    pub(crate) fn wait_for_records(&self, records: u64) {
        wait_until(|| self.handle.records().0 >= records);
    }

    /// Waits for an event.
    pub(crate) fn wait_for(&self, wanted: impl Fn(&JobEvent) -> bool) -> JobEvent {
        loop {
            let event = self.events.recv_timeout(HANG).unwrap();
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Asks; the answer comes by what is returned.
    pub(crate) fn submit(&self, order: Order) -> Pending {
        submit(&self.handle, order)
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(&self, order: Order) -> Answer {
        self.submit(order).wait()
    }

    /// Waits for the end.
    pub(crate) fn end(self) -> Outcome {
        self.thread.join().unwrap()
    }
}

/// Waits until something is so.
pub(crate) fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + HANG;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never is");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn submit(handle: &JobHandle, order: Order) -> Pending {
    let (sender, receiver) = channel();
    let requester = Box::new(Asker(sender));
    handle.submit(Command { order, requester });
    Pending(receiver)
}

/// An answer to come.
pub(crate) struct Pending(Receiver<Answer>);

impl Pending {
    pub(crate) fn wait(self) -> Answer {
        let answer = self.0.recv_timeout(HANG);
        let answer = answer.expect("a command is answered, and not dropped");
        // It takes itself to answer, so that there is no second one.
        assert!(self.0.recv_timeout(HANG).is_err());
        answer
    }
}

struct Asker(Sender<Answer>);

impl Requester for Asker {
    fn progress(&self, text: &str) {
        assert!(!text.is_empty());
    }

    fn answer(self: Box<Self>, answer: Answer) {
        let _ = self.0.send(answer);
    }
}

/// Lets no source of a graph end before this is opened.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<AtomicBool>);

impl Held {
    /// Lets sources end.
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// The graph, with its sources held.
    pub(crate) fn hold(&self, mut graph: JobGraph) -> JobGraph {
        for node in &mut graph.nodes {
            if let NodeKind::Source(factory) = &node.kind {
                node.kind = NodeKind::Source(Arc::new(HeldFactory {
                    factory: Arc::clone(factory),
                    held: self.clone(),
                }));
            }
        }
        graph
    }
}

struct HeldFactory {
    factory: Arc<dyn SourceFactory>,
    held: Held,
}

struct HeldSource {
    source: Box<dyn Source>,
    held: Held,
}

impl SourceFactory for HeldFactory {
    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Source>, BoxError> {
        Ok(Box::new(HeldSource {
            source: self.factory.create(context, restored)?,
            held: self.held.clone(),
        }))
    }

    fn describe_position(&self, restored: &[Part]) -> String {
        self.factory.describe_position(restored)
    }
}

impl Source for HeldSource {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        let status = self.source.poll(batch)?;
        if status == SourceStatus::Ended && !self.held.0.load(Ordering::SeqCst) {
            let soon = SystemClock::new().now_ms() + 1;
            return Ok(SourceStatus::Idle { until: Some(soon) });
        }
        Ok(status)
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        self.source.snapshot()
    }
}
