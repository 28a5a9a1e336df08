use std::sync::atomic::{AtomicI64, Ordering};

use super::*;

#[derive(Debug, Default)]
struct At(AtomicI64);

impl Clock for At {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

const ID: CheckpointId = CheckpointId(7);

/// Two sources, an operator of two subtasks that both of them feed.
fn notes() -> (PhaseTimes, Arc<At>) {
    let place = |operator: &str, subtask, parallelism, channels| SubtaskInfo {
        operator: operator.into(),
        subtask,
        parallelism,
        channels,
    };
    let clock = Arc::new(At::default());
    let channels = || vec![(0, 0), (1, 1)];
    let places = vec![
        place("fast", 0, 1, vec![]),
        place("slow", 0, 1, vec![]),
        place("join", 0, 2, channels()),
        place("join", 1, 2, channels()),
    ];
    let notes = PhaseTimes::new(Arc::clone(&clock) as Arc<dyn Clock>, places);
    notes.begin(ID);
    (notes, clock)
}

fn slowest(notes: &PhaseTimes) -> (Option<String>, Option<u32>, Phase, String) {
    let slowest = notes.slowest(ID, &|_, channel| channel * 3).unwrap();
    (
        slowest.operator,
        slowest.subtask,
        slowest.phase,
        slowest.text,
    )
}

fn pass(notes: &PhaseTimes, subtask: usize) {
    notes.aligned(ID, subtask);
    notes.sealed(ID, subtask, 0);
}

#[test]
fn the_slowest_is_who_the_others_wait_for() {
    let (notes, clock) = notes();
    pass(&notes, 0);
    notes.barrier(ID, 2, 0);
    let (operator, subtask, phase, text) = slowest(&notes);
    assert_eq!(
        (operator.as_deref(), subtask, phase),
        (Some("slow"), Some(0), Phase::Trigger)
    );
    assert!(text.contains("`slow` had not taken up"), "{text}");

    pass(&notes, 1);
    let (operator, subtask, phase, text) = slowest(&notes);
    assert_eq!(
        (operator.as_deref(), subtask, phase),
        (Some("join"), Some(0), Phase::Alignment)
    );
    assert!(
        text.contains("1 of 2 barriers had come")
            && text.contains("input 1 from `slow`, behind 3 elements"),
        "{text}"
    );

    notes.barrier(ID, 2, 1);
    notes.aligned(ID, 2);
    notes.at(ID, 2, &"sink".into());
    let (operator, _, phase, text) = slowest(&notes);
    assert_eq!(
        (operator.as_deref(), phase),
        (Some("sink"), Phase::Snapshot)
    );
    assert!(text.contains("`join` subtask 0 of 2"), "{text}");

    notes.sealed(ID, 2, 0);
    let (_, subtask, phase, text) = slowest(&notes);
    assert_eq!((subtask, phase), (Some(1), Phase::Barrier));
    assert!(text.contains("behind what it was working on"), "{text}");

    pass(&notes, 3);
    assert_eq!(slowest(&notes).2, Phase::Writer);
    clock.0.store(10, Ordering::SeqCst);
    notes.uploading(ID, 3);
    clock.0.store(30, Ordering::SeqCst);
    notes.uploading(ID, 2);
    clock.0.store(50, Ordering::SeqCst);
    let (_, subtask, phase, text) = slowest(&notes);
    assert_eq!((subtask, phase), (Some(1), Phase::Upload));
    assert!(text.contains("for 40 ms"), "{text}");
    assert_eq!(notes.slowest(ID, &|_, _| 0).unwrap().missing, 4);

    (0..4).for_each(|subtask| notes.written(ID, subtask, 0));
    assert_eq!(slowest(&notes).2, Phase::Metadata);
    notes.end(ID);
    assert_eq!(notes.slowest(ID, &|_, _| 0), None);
}

#[test]
fn a_completed_checkpoint_tells_the_longest_of_each_phase() {
    let (notes, clock) = notes();
    let at = |ms| clock.0.store(ms, Ordering::SeqCst);
    for subtask in [0, 1] {
        at(1);
        pass(&notes, subtask);
    }
    at(3);
    notes.barrier(ID, 2, 0);
    notes.barrier(ID, 3, 0);
    at(4);
    notes.barrier(ID, 2, 1);
    pass(&notes, 2);
    at(9);
    notes.barrier(ID, 3, 1);
    notes.aligned(ID, 3);
    at(11);
    notes.sealed(ID, 3, 0);
    (0..3).for_each(|subtask| notes.written(ID, subtask, 0));
    at(20);
    notes.written(ID, 3, 0);
    notes.acknowledged(ID);
    at(25);
    let longest = |us, subtask| Longest {
        us,
        operator: "join".into(),
        subtask,
    };
    let phases = notes.phases(ID);
    assert_eq!(phases.start_delay, longest(3000, 0));
    assert_eq!(phases.alignment, longest(6000, 1));
    assert_eq!(phases.snapshot, longest(2000, 1));
    assert_eq!(phases.metadata_us, 5000);
    // The first source's snapshot waited longest, since time 1.
    assert_eq!(
        (phases.upload.us, phases.upload.operator),
        (10_000, "fast".into())
    );
}
