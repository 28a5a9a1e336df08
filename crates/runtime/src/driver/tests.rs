use std::sync::mpsc::{Receiver, sync_channel};

use checkpoint::CheckpointStore;
use dataflow::KeyGroups;
use dataflow::alignment::Mode;
use operator::clock::Clock;
use operator::source::{Part, Source, SourceFactory};
use operator::{BoxError, SubtaskContext};

use super::*;
use crate::assembly::Assembly;
use crate::coordinator::Settings;
use crate::events::Events;
use crate::graph::{JobGraph, Node};
use crate::inbox::Next;
use crate::options::Options;
use crate::phases::Phase;
use crate::requests::{Requests, Stop};
use crate::restart::Strategy;
use crate::simulation::VirtualClock;
use crate::spares::Spares;
use crate::writer::execute;

struct NeverMade;

impl SourceFactory for NeverMade {
    fn create(&self, _: &SubtaskContext, _: Option<&[Part]>) -> Result<Box<dyn Source>, BoxError> {
        Err("nobody asks for it".into())
    }

    fn describe_position(&self, _: &[Part]) -> String {
        String::new()
    }
}

/// A driver of one source subtask, which the test plays.
struct Scene<'a> {
    driver: Driver<'a>,
    assembly: &'a Assembly,
    requests: &'a Requests,
    events: Events,
    receiver: &'a Receiver<(u32, Event)>,
    told: Vec<JobEvent>,
}

impl Scene<'_> {
    fn on(&mut self, event: Option<Event>, now: i64) {
        let told = &mut self.told;
        let end = self
            .driver
            .on(event.map(|event| (0, event)), now, &mut |event| {
                told.push(event)
            });
        assert!(end.is_none(), "{end:?}");
    }

    /// Somebody asks for a checkpoint.
    fn request(&mut self, now: i64) {
        self.requests.request_checkpoint();
        self.on(Some(Event::Requested), now);
    }

    fn acknowledge(&mut self, id: u64, now: i64) {
        let event = Event::Acknowledged {
            id: CheckpointId(id),
            subtask: 0,
            members: Vec::new(),
        };
        self.assembly
            .in_progress
            .notes()
            .sealed(CheckpointId(id), 0, 0);
        self.assembly
            .in_progress
            .notes()
            .written(CheckpointId(id), 0, 0);
        self.on(Some(event), now);
    }

    /// A writer does what is queued; returns what it has to say.
    fn write(&self) -> Event {
        let task = self.assembly.tasks.checkpoints.try_recv().unwrap();
        execute(task, &self.assembly.in_progress, &self.events);
        self.receiver.try_recv().unwrap().1
    }

    /// The commands that the subtask got since the last look.
    fn controls(&self) -> Vec<String> {
        let inbox = &self.assembly.inboxes[0][0];
        std::iter::from_fn(|| match inbox.next(None, &mut Spares::default()) {
            Next::Control(Control::Complete { id, .. }) => Some(format!("complete {id}")),
            Next::Control(Control::Abort { id, .. }) => Some(format!("abort {id}")),
            Next::Control(Control::Trigger(barrier)) => Some(format!("trigger {}", barrier.id)),
            Next::Control(control) => Some(format!("{control:?}").to_lowercase()),
            _ => None,
        })
        .collect()
    }
}

fn with_scene(settings: Settings, test: impl FnOnce(Scene<'_>, &CheckpointStore)) {
    let graph = JobGraph {
        nodes: vec![Node {
            id: "source".into(),
            parallelism: 1,
            inputs: vec![],
            kind: NodeKind::Source(Arc::new(NeverMade)),
            bad_records: None,
        }],
        key_groups: KeyGroups::new(128).unwrap(),
    };
    let options = Options {
        name: "job".into(),
        id: "job-1".into(),
        run: "00000000".into(),
        checkpoint: settings,
        mode: Mode::ExactlyOnce,
        incremental: true,
        restart: Strategy::None,
        timer_calls_max: crate::options::TIMER_CALLS_MAX,
    };
    let store = CheckpointStore::memory(checkpoint::store::Options::default());
    let clock: Arc<dyn Clock> = Arc::new(VirtualClock::at(0));
    let (sender, receiver) = sync_channel(16);
    let (requests, events) = (
        Requests::default(),
        Events {
            attempt: 0,
            sender,
            counters: Arc::default(),
        },
    );
    let attempt = Attempt {
        graph: &graph,
        options: &options,
        store: &store,
        clock: &clock,
        restore: None,
        drained: false,
        number: 0,
        begun_at: 0,
        next_id: 1,
        events: events.clone(),
        receiver: &receiver,
        requests: &requests,
    };
    let assembly = attempt.assemble();
    let driver = Driver::new(
        &attempt,
        &assembly.plan,
        &assembly.inboxes,
        &assembly.in_progress,
        assembly.writers.clone(),
    );
    let mut scene = Scene {
        driver,
        assembly: &assembly,
        requests: &requests,
        events,
        receiver: &receiver,
        told: Vec::new(),
    };
    scene.on(Some(Event::Ready { subtask: 0 }), 0);
    assert_eq!(scene.controls(), ["start"]);
    test(scene, &store);
}

fn settings() -> Settings {
    Settings {
        timeout_ms: 100,
        max_concurrent: 3,
        tolerable_failures: 9,
        ..Settings::default()
    }
}

#[test]
fn c25_a_completion_is_told_ahead_of_a_checkpoint_that_is_asked_for_at_that_moment() {
    with_scene(settings(), |mut scene, _| {
        scene.request(10);
        scene.request(11);
        assert_eq!(scene.controls(), ["trigger 1", "trigger 2"]);
        scene.acknowledge(1, 20);
        scene.acknowledge(2, 20);
        let completed = scene.write();
        assert!(
            scene.assembly.tasks.checkpoints.try_recv().is_err(),
            "the second waits for its turn"
        );
        // The request and the completion are found by one look.
        scene.requests.request_checkpoint();
        scene.on(Some(completed), 30);
        assert_eq!(scene.controls(), ["complete 1", "trigger 3"]);
        let completed = scene.write();
        scene.on(Some(completed), 40);
        assert_eq!(scene.controls(), ["complete 2"]);
    });
}

#[test]
fn c21_what_is_complete_when_its_time_is_over_counts_as_complete() {
    with_scene(settings(), |mut scene, store| {
        scene.request(10);
        scene.acknowledge(1, 20);
        let completed = scene.write();
        scene.on(None, 110);
        assert_eq!(scene.told.len(), 1, "only that it has started");
        scene.on(Some(completed), 120);
        assert!(
            matches!(
                scene.told.last(),
                Some(JobEvent::CheckpointCompleted { id: 1, .. })
            ),
            "{:?}",
            scene.told
        );
        assert_eq!(scene.controls(), ["trigger 1", "complete 1"]);
        assert!(store.latest().is_some());
    });
}

#[test]
fn c21_what_is_not_complete_when_its_time_is_over_never_will_be() {
    with_scene(settings(), |mut scene, store| {
        scene.request(10);
        scene.acknowledge(1, 20);
        scene.on(None, 110);
        let Some(JobEvent::CheckpointFailed {
            id: 1,
            kind: AbortKind::Expired,
            reason,
            slowest: Some(slowest),
            ..
        }) = scene.told.last()
        else {
            panic!("{:?}", scene.told)
        };
        assert_eq!(slowest.phase, Phase::Metadata);
        assert!(
            reason.starts_with("expired after 100 ms: every"),
            "{reason}"
        );
        // The writer comes to it at last.
        let late = scene.write();
        assert!(matches!(late, Event::Declined { .. }), "{late:?}");
        let told = scene.told.len();
        scene.on(Some(late), 120);
        assert_eq!(scene.told.len(), told);
        assert_eq!(scene.controls(), ["trigger 1", "abort 1"]);
        assert!(store.latest().is_none());
    });
}

#[test]
fn c21_an_expired_checkpoint_names_the_source_that_took_no_notice() {
    with_scene(settings(), |mut scene, _| {
        scene.request(10);
        scene.on(None, 110);
        let Some(JobEvent::CheckpointFailed { reason, .. }) = scene.told.last() else {
            panic!("{:?}", scene.told)
        };
        assert_eq!(
            reason,
            "expired after 100 ms: `source` had not taken up the trigger: its source was busy \
             (1 of 1 subtasks had not acknowledged)"
        );
    });
}

#[test]
fn a_request_that_nobody_has_seen_to_is_left_to_the_next_attempt() {
    let settings = Settings {
        max_concurrent: 1,
        ..settings()
    };
    with_scene(settings, |mut scene, _| {
        scene.request(10);
        scene.request(11);
        assert!(!scene.requests.take_checkpoint());
        let (requests, receiver) = (scene.requests, scene.receiver);
        let error = Error::Panic {
            place: "here".into(),
            message: "planted".into(),
        };
        let end = End::Failed(error, Class::Retry);
        let mut told = Vec::new();
        let next = scene
            .driver
            .leave(&end)
            .settle(receiver.try_iter(), 20, &mut |event| told.push(event));
        assert_eq!(next, 2);
        assert!(
            matches!(
                told.as_slice(),
                [JobEvent::CheckpointFailed {
                    id: 1,
                    kind: AbortKind::JobFailed,
                    ..
                }]
            ),
            "{told:?}"
        );
        assert!(requests.take_checkpoint());
    });
}

#[test]
fn c25_what_was_complete_when_the_job_was_stopped_is_told_as_that() {
    with_scene(settings(), |mut scene, store| {
        scene.request(10);
        scene.request(11);
        scene.acknowledge(1, 20);
        let completed = scene.write();
        scene.requests.request_stop(Stop::Suspend);
        let end = scene.driver.on(Some((0, completed)), 30, &mut |_| {});
        let end = end.unwrap();
        assert!(matches!(end, End::Stopped(Stop::Suspend)), "{end:?}");
        let mut told = Vec::new();
        scene
            .driver
            .leave(&end)
            .settle([], 40, &mut |event| told.push(event));
        assert!(
            matches!(
                told.as_slice(),
                [
                    JobEvent::CheckpointCompleted { id: 1, .. },
                    JobEvent::CheckpointFailed {
                        id: 2,
                        kind: AbortKind::JobStopped,
                        ..
                    }
                ]
            ),
            "{told:?}"
        );
        assert!(store.latest().is_some());
    });
}
