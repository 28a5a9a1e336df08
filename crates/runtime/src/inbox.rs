//! A subtask's inbox: one bounded queue per input channel, and what the coordinator has to say.
//!
//! Everything that can make a subtask move goes through its inbox, so that there is one place to wait
//! and no polling. Senders never wait: a full channel refuses, the sender keeps the element and is
//! woken when there is room. That is back-pressure, and it keeps every queue bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

use dataflow::{Barrier, Batch, CheckpointId, Element};

use crate::spares::Spares;

/// How many elements a channel holds. Short queues keep alignment short; a few batches are enough to
/// keep both sides busy.
pub(crate) const CHANNEL_CAPACITY: usize = 4;

/// A producer that was refused is woken when so few elements are left in the channel: it can send some
/// before it has to wait again, and the consumer has something to do until the first of them comes.
const ROOM_WAKES: usize = CHANNEL_CAPACITY / 2;

/// What the coordinator has to say to a subtask.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    /// Every subtask is ready: sources may read, and timers fire.
    Start,
    /// To source subtasks: emit this barrier.
    Trigger(Barrier),
    /// What [`Barrier::pause`] has paused goes on.
    Resume,
    /// To source subtasks: end, wherever you are.
    EndInput,
    /// This checkpoint is complete. `rebase` names the nodes whose next snapshot must be full.
    Complete {
        id: CheckpointId,
        rebase: Arc<[usize]>,
    },
    /// This checkpoint will not complete. `full`: what it builds on is lost, so the next one must not
    /// build on anything.
    Abort { id: CheckpointId, full: bool },
    /// The job ends in order, everything is committed: close and leave.
    Finish,
}

/// What an inbox has next.
#[derive(Debug)]
pub(crate) enum Next {
    /// The attempt ends: leave at once.
    Closed,
    /// Something from the coordinator; it goes before elements.
    Control(Control),
    /// The next element of a channel.
    Element(usize, Element),
    /// Nothing now.
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    channels: Vec<Channel>,
    control: VecDeque<Control>,
    /// The channel to look at first, so that none starves.
    first: usize,
    /// Something has happened since the subtask last waited.
    signalled: bool,
    waiting: bool,
    closed: bool,
}

#[derive(Debug)]
struct Channel {
    queue: VecDeque<Element>,
    /// Batches that the consumer returns.
    spares: Vec<Batch>,
    /// Whom to wake when there is room again. Weak, for inboxes would hold each other for ever.
    producer: Weak<Inbox>,
    /// Whether the last element was refused, so that the producer waits for room.
    refused: bool,
}

impl Inbox {
    /// An inbox without channels.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                channels: Vec::new(),
                control: VecDeque::new(),
                first: 0,
                signalled: false,
                waiting: false,
                closed: false,
            }),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held is a mistake of ours that ends the attempt anyway; the
        // queues themselves are never left half changed.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds a channel that `producer` sends on; returns its number.
    pub(crate) fn add_channel(&self, producer: &Arc<Inbox>) -> usize {
        let mut state = self.lock();
        state.channels.push(Channel {
            queue: VecDeque::with_capacity(CHANNEL_CAPACITY),
            spares: Vec::with_capacity(CHANNEL_CAPACITY),
            producer: Arc::downgrade(producer),
            refused: false,
        });
        state.channels.len() - 1
    }

    /// Appends an element to a channel, or gives it back if the channel is full. What the consumer has
    /// returned goes to `spares`.
    #[expect(
        clippy::result_large_err,
        reason = "the element goes back to where it is kept; a box would be an allocation per batch"
    )]
    pub(crate) fn try_send(
        &self,
        channel: usize,
        element: Element,
        spares: &mut Spares,
    ) -> Result<(), Element> {
        let mut state = self.lock();
        let channel = &mut state.channels[channel];
        channel.refused = channel.queue.len() >= CHANNEL_CAPACITY;
        if channel.refused {
            return Err(element);
        }
        channel.queue.push_back(element);
        let returned = channel.spares.pop();
        self.signal(state);
        if let Some(batch) = returned {
            spares.give(batch);
        }
        Ok(())
    }

    /// Appends something from the coordinator. There are at most a few per checkpoint in progress,
    /// so this queue is bounded by their number.
    pub(crate) fn control(&self, control: Control) {
        let mut state = self.lock();
        state.control.push_back(control);
        self.signal(state);
    }

    /// Makes the subtask look again.
    pub(crate) fn wake(&self) {
        self.signal(self.lock());
    }

    /// Ends the attempt for this subtask.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.signal(state);
    }

    /// Whether the attempt has ended for this subtask.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn signal(&self, mut state: MutexGuard<'_, State>) {
        state.signalled = true;
        let waiting = state.waiting;
        drop(state);
        if waiting {
            self.changed.notify_one();
        }
    }

    /// Takes what is next: control first, then (with `blocked`, one flag per channel) an element of a
    /// channel that is not blocked, in turn. Without `blocked` no element is taken. The surplus of
    /// `spares` is returned to the channel's producer.
    pub(crate) fn next(&self, blocked: Option<&[bool]>, spares: &mut Spares) -> Next {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.closed {
            return Next::Closed;
        }
        if let Some(control) = state.control.pop_front() {
            return Next::Control(control);
        }
        let Some(blocked) = blocked else {
            return Next::Nothing;
        };
        let count = state.channels.len();
        for step in 0..count {
            let index = (state.first + step) % count;
            if blocked[index] {
                continue;
            }
            let channel = &mut state.channels[index];
            if let Some(element) = channel.queue.pop_front() {
                if channel.spares.len() < CHANNEL_CAPACITY {
                    channel.spares.extend(spares.surplus());
                }
                let wake = channel.refused && channel.queue.len() <= ROOM_WAKES;
                channel.refused &= !wake;
                let producer = wake.then(|| channel.producer.upgrade()).flatten();
                state.first = (index + 1) % count;
                // Never two inboxes locked at once.
                drop(guard);
                if let Some(producer) = producer {
                    producer.wake();
                }
                return Next::Element(index, element);
            }
        }
        Next::Nothing
    }

    /// How many elements wait in a channel.
    pub(crate) fn queued(&self, channel: usize) -> usize {
        self.lock().channels[channel].queue.len()
    }

    /// A mistake, for simulations that have to find it: where a barrier is next on a channel and
    /// records are queued after it, the first of them gets before it. Returns whether that happened.
    #[cfg(feature = "testing")]
    pub(crate) fn let_one_through(&self) -> bool {
        let mut state = self.lock();
        for Channel { queue, .. } in &mut state.channels {
            let Some((Element::Barrier(_), Element::Batch(batch))) =
                queue.front().zip(queue.get(1))
            else {
                continue;
            };
            let (first, rest) = (batch.slice(0..1), batch.slice(1..batch.len()));
            match rest.is_empty() {
                true => drop(queue.remove(1)),
                false => queue[1] = Element::Batch(rest),
            }
            queue.push_front(Element::Batch(first));
            return true;
        }
        false
    }

    /// Whether something has happened since the last wait, so that a wait would end at once.
    #[cfg(feature = "testing")]
    pub(crate) fn is_signalled(&self) -> bool {
        let state = self.lock();
        state.signalled || state.closed
    }

    /// Waits until something has happened since the last wait, or until `timeout`.
    pub(crate) fn wait(&self, timeout: Option<Duration>) {
        let mut state = self.lock();
        if !state.signalled && !state.closed {
            state.waiting = true;
            state = match timeout {
                None => self
                    .changed
                    .wait_while(state, |state| !state.signalled)
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(timeout) => {
                    self.changed
                        .wait_timeout_while(state, timeout, |state| !state.signalled)
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .0
                }
            };
            state.waiting = false;
        }
        state.signalled = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(watermark: i64) -> Element {
        Element::Watermark(watermark)
    }

    #[test]
    fn a_full_channel_refuses_and_wakes_its_producer_once_there_is_room() {
        let (producer, consumer) = (Inbox::new(), Inbox::new());
        let channel = consumer.add_channel(&producer);
        for index in 0..CHANNEL_CAPACITY {
            consumer
                .try_send(channel, element(index as i64), &mut Spares::default())
                .expect("there is room");
        }
        assert_eq!(
            consumer.try_send(channel, element(99), &mut Spares::default()),
            Err(element(99))
        );
        // With room for one element alone the producer would be woken, and wait again, for each.
        for index in 0..(CHANNEL_CAPACITY - ROOM_WAKES) as i64 {
            assert!(!producer.lock().signalled);
            let next = consumer.next(Some(&[false]), &mut Spares::default());
            assert!(
                matches!(next, Next::Element(0, Element::Watermark(at)) if at == index),
                "{next:?}"
            );
        }
        assert!(producer.lock().signalled);
        consumer
            .try_send(channel, element(99), &mut Spares::default())
            .expect("there is room again");
    }

    #[test]
    fn channels_take_turns_and_a_blocked_one_is_passed_over() {
        let (producer, consumer) = (Inbox::new(), Inbox::new());
        for channel in 0..3 {
            consumer.add_channel(&producer);
            for index in 0..2 {
                consumer
                    .try_send(channel, element(index), &mut Spares::default())
                    .expect("there is room");
            }
        }
        let mut order = Vec::new();
        while let Next::Element(channel, _) =
            consumer.next(Some(&[false, true, false]), &mut Spares::default())
        {
            order.push(channel);
        }
        assert_eq!(order, [0, 2, 0, 2]);
        assert!(matches!(
            consumer.next(Some(&[false; 3]), &mut Spares::default()),
            Next::Element(1, _)
        ));
    }

    #[test]
    fn control_goes_before_elements_and_closing_before_all() {
        let (producer, consumer) = (Inbox::new(), Inbox::new());
        consumer.add_channel(&producer);
        consumer
            .try_send(0, element(1), &mut Spares::default())
            .expect("there is room");
        consumer.control(Control::Start);
        assert!(matches!(
            consumer.next(Some(&[false]), &mut Spares::default()),
            Next::Control(Control::Start)
        ));
        consumer.close();
        assert!(matches!(
            consumer.next(Some(&[false]), &mut Spares::default()),
            Next::Closed
        ));
    }

    #[test]
    fn the_producer_gets_the_batches_that_the_consumer_does_not_need() {
        let (producer, consumer) = (Inbox::new(), Inbox::new());
        let channel = consumer.add_channel(&producer);
        let (mut here, mut there) = (Spares::default(), Spares::default());
        for _ in 0..100 {
            let mut batch = there.take();
            batch.push(None, b"value", 0);
            consumer
                .try_send(channel, Element::Batch(batch), &mut there)
                .expect("there is room");
            let Next::Element(0, Element::Batch(batch)) = consumer.next(Some(&[false]), &mut here)
            else {
                panic!("a batch was sent");
            };
            here.give(batch);
        }
        assert!(there.take().capacity_bytes() > 0);
    }

    #[test]
    fn what_happened_before_the_wait_ends_it() {
        let inbox = Inbox::new();
        inbox.wake();
        inbox.wait(None);
    }
}
