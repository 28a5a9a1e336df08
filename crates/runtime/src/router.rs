//! From a subtask's output to the channels of an edge: dealing records, cutting batches.
//!
//! Records wait here until their batch is full, a barrier or watermark or the end comes after them,
//! the subtask has nothing else to do, or they have waited [`LINGER_MS`].

use std::collections::VecDeque;
use std::sync::Arc;

use dataflow::Partition;
use dataflow::{Batch, Element, KeyGroups};

use crate::inbox::Inbox;
use crate::spares::Spares;

/// How long a record waits for others, in milliseconds.
pub(crate) const LINGER_MS: i64 = 5;

/// One outgoing edge of a subtask.
#[derive(Debug)]
pub(crate) struct Router {
    partition: Partition,
    key_groups: KeyGroups,
    targets: Vec<Target>,
    /// Rebalance: whose turn it is.
    turn: usize,
    /// Hash: the target of each key group.
    owners: Vec<u16>,
}

/// Where records are dealt to: one channel, or for a broadcast all of them, so that what waits for room
/// is held once and not for each.
#[derive(Debug)]
struct Target {
    channels: Vec<Channel>,
    /// Records that wait for their batch to fill.
    pending: Batch,
    /// Which records of the batch that is being dealt go here.
    picked: Vec<u32>,
    /// Elements that not all channels have taken. Bounded by what one step of the subtask emits, because
    /// it takes no further step while any is left.
    waiting: VecDeque<Element>,
}

#[derive(Debug)]
struct Channel {
    inbox: Arc<Inbox>,
    number: usize,
    /// How many of the elements that wait it has taken.
    taken: usize,
    /// The one that it has taken and had no room for.
    refused: Option<Element>,
}

/// Records without a key on an edge that deals them by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unkeyed;

impl Router {
    /// An edge to these channels (subtask by subtask of the consumer; for a forward edge only one).
    pub(crate) fn new(
        partition: Partition,
        key_groups: KeyGroups,
        channels: Vec<(Arc<Inbox>, usize)>,
    ) -> Self {
        let parallelism = channels.len() as u32;
        // There are at most as many targets as key groups, of which there are at most 2^15.
        let owner_of = |group| key_groups.subtask_of(group, parallelism) as u16;
        let owners = match partition {
            Partition::Hash => (0..key_groups.count()).map(owner_of).collect(),
            Partition::Forward | Partition::Rebalance | Partition::Broadcast => Vec::new(),
        };
        let channels = channels.into_iter().map(|(inbox, number)| Channel {
            inbox,
            number,
            taken: 0,
            refused: None,
        });
        let targets = match partition {
            Partition::Broadcast => vec![Target::new(channels.collect())],
            Partition::Forward | Partition::Rebalance | Partition::Hash => {
                channels.map(|channel| Target::new(vec![channel])).collect()
            }
        };
        Self {
            partition,
            key_groups,
            targets,
            turn: 0,
            owners,
        }
    }

    /// Deals the records of a batch.
    pub(crate) fn route(&mut self, mut batch: Batch, spares: &mut Spares) -> Result<(), Unkeyed> {
        match self.partition {
            Partition::Forward | Partition::Broadcast => self.targets[0].append(batch, spares),
            Partition::Rebalance => {
                let turn = self.turn;
                self.targets[turn].append(batch, spares);
                // In turn by batches, not records: the next one gets what comes after a full batch.
                if self.targets[turn].pending.is_empty() {
                    self.turn = (turn + 1) % self.targets.len();
                }
            }
            Partition::Hash => {
                if !batch.is_keyed() {
                    return Err(Unkeyed);
                }
                batch.compute_hashes();
                if let [only] = self.targets.as_mut_slice() {
                    only.append(batch, spares);
                    return Ok(());
                }
                self.deal(&batch, spares);
                spares.give(batch);
            }
        }
        Ok(())
    }

    /// Deals records to the owners of their keys: first it is written down which go where, then each
    /// target gets its own at once, column by column. Some records at a time, so that they stay in the
    /// cache.
    fn deal(&mut self, batch: &Batch, spares: &mut Spares) {
        let records = batch.len();
        for start in (0..records).step_by(Batch::TARGET_RECORDS) {
            let end = records.min(start + Batch::TARGET_RECORDS);
            for (record, hash) in (start as u32..).zip(&batch.hashes[start..end]) {
                let group = self.key_groups.group_of(*hash);
                let owner = self.owners[group as usize];
                self.targets[usize::from(owner)].picked.push(record);
            }
            for target in &mut self.targets {
                target.take_picked(batch, spares);
            }
        }
    }

    /// Sends what waits for its batch to fill.
    pub(crate) fn flush(&mut self, spares: &mut Spares) {
        if self.partition == Partition::Rebalance && !self.targets[self.turn].pending.is_empty() {
            // Else a trickle of records would go to one subtask for ever.
            self.targets[self.turn].flush(spares);
            self.turn = (self.turn + 1) % self.targets.len();
        }
        self.targets
            .iter_mut()
            .for_each(|target| target.flush(spares));
    }

    /// Sends an element after all records, on every channel.
    pub(crate) fn broadcast(&mut self, element: &Element, spares: &mut Spares) {
        for target in &mut self.targets {
            target.flush(spares);
            target.send(element.clone(), spares);
        }
    }

    /// Whether records wait for their batch to fill.
    pub(crate) fn has_pending(&self) -> bool {
        self.targets.iter().any(|target| !target.pending.is_empty())
    }

    /// Tries again to send what channels had no room for. Returns whether nothing is left.
    pub(crate) fn retry(&mut self, spares: &mut Spares) -> bool {
        let mut clear = true;
        for target in &mut self.targets {
            clear &= target.retry(spares);
        }
        clear
    }
}

impl Target {
    fn new(channels: Vec<Channel>) -> Self {
        Self {
            channels,
            pending: Batch::default(),
            picked: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    fn append(&mut self, batch: Batch, spares: &mut Spares) {
        if self.pending.is_empty() {
            if batch.is_full() {
                self.send_cut(batch, spares);
            } else {
                spares.give(std::mem::replace(&mut self.pending, batch));
            }
            return;
        }
        if self.pending.is_keyed() != batch.is_keyed() {
            self.flush(spares);
            return self.append(batch, spares);
        }
        // Hashes are kept only where both sides have them.
        if self.pending.hashes.len() == self.pending.keys.len()
            && batch.hashes.len() == batch.keys.len()
        {
            self.pending.hashes.extend_from_slice(&batch.hashes);
        } else {
            self.pending.hashes.clear();
        }
        self.pending.extend(
            batch.keys.as_ref(),
            batch.values.as_ref(),
            &batch.timestamps,
        );
        spares.give(batch);
        if self.pending.is_full() {
            self.flush(spares);
        }
    }

    /// Appends the picked records of a batch. On an edge that deals by key all have keys and hashes.
    fn take_picked(&mut self, batch: &Batch, spares: &mut Spares) {
        self.pending.extend_picked(batch, &self.picked);
        self.picked.clear();
        if self.pending.is_full() {
            self.flush(spares);
        }
    }

    fn flush(&mut self, spares: &mut Spares) {
        if !self.pending.is_empty() {
            let batch = std::mem::replace(&mut self.pending, spares.take());
            self.send_cut(batch, spares);
        }
    }

    /// Sends a batch, in parts of the target size if it is much larger.
    fn send_cut(&mut self, batch: Batch, spares: &mut Spares) {
        let mut parts = Parts::of(batch);
        while let Some(part) = parts.next(spares) {
            self.send(Element::Batch(part), spares);
        }
    }

    fn send(&mut self, element: Element, spares: &mut Spares) {
        if let [only] = self.channels.as_mut_slice()
            && only.refused.is_none()
            && self.waiting.is_empty()
        {
            only.send(element, spares);
        } else {
            self.waiting.push_back(element);
            self.retry(spares);
        }
    }

    /// Sends what waits, as far as there is room. Returns whether nothing is left.
    fn retry(&mut self, spares: &mut Spares) -> bool {
        let mut clear = true;
        for index in 0..self.channels.len() {
            while self.channels[index].retry(spares)
                && let Some(element) = self.take(index)
            {
                self.channels[index].send(element, spares);
            }
            clear &= self.channels[index].refused.is_none();
        }
        clear
    }

    /// The next element for a channel. The last channel to take it takes it away.
    fn take(&mut self, index: usize) -> Option<Element> {
        let at = self.channels[index].taken;
        let mut others = (0..self.channels.len()).filter(|other| *other != index);
        if at == 0 && others.all(|other| self.channels[other].taken > 0) {
            let element = self.waiting.pop_front()?;
            for (_, other) in (self.channels.iter_mut().enumerate()).filter(|(at, _)| *at != index)
            {
                other.taken -= 1;
            }
            return Some(element);
        }
        let element = self.waiting.get(at)?.clone();
        self.channels[index].taken += 1;
        Some(element)
    }
}

impl Channel {
    /// Sends an element, or keeps it until there is room. None may be kept before.
    fn send(&mut self, element: Element, spares: &mut Spares) {
        self.refused = self.inbox.try_send(self.number, element, spares).err();
    }

    /// Sends what is kept. Returns whether nothing is.
    fn retry(&mut self, spares: &mut Spares) -> bool {
        if let Some(element) = self.refused.take() {
            self.send(element, spares);
        }
        self.refused.is_none()
    }
}

/// A batch in parts of about the target size; whole if it is not more than twice as large.
pub(crate) struct Parts {
    /// `None` once nothing is left.
    batch: Option<Batch>,
    per_part: usize,
    at: usize,
}

impl Parts {
    /// The parts of `batch`.
    pub(crate) fn of(batch: Batch) -> Self {
        let records = batch.len();
        let per_part = if records <= 2 * Batch::TARGET_RECORDS
            && batch.byte_len() <= 2 * Batch::TARGET_BYTES
        {
            records.max(1)
        } else {
            let by_bytes = records * Batch::TARGET_BYTES / batch.byte_len().max(1);
            by_bytes.clamp(1, Batch::TARGET_RECORDS)
        };
        Self {
            batch: Some(batch),
            per_part,
            at: 0,
        }
    }

    /// The next part. `spares` gives the batches for them and gets the whole one in the end.
    pub(crate) fn next(&mut self, spares: &mut Spares) -> Option<Batch> {
        let batch = self.batch.as_ref()?;
        let records = batch.len();
        if self.at == 0 && self.per_part >= records {
            return self.batch.take();
        }
        let end = (self.at + self.per_part).min(records);
        let mut part = spares.take();
        part.extend_range(batch, self.at..end);
        self.at = end;
        if end == records
            && let Some(whole) = self.batch.take()
        {
            spares.give(whole);
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::Next;

    fn batch(records: usize) -> Batch {
        let mut batch = Batch::default();
        for index in 0..records {
            batch.push(
                Some(format!("key{index}").as_bytes()),
                b"value",
                index as i64,
            );
        }
        batch
    }

    fn cut(batch: Batch) -> Vec<Batch> {
        let (mut parts, mut spares) = (Parts::of(batch), Spares::default());
        std::iter::from_fn(|| parts.next(&mut spares)).collect()
    }

    fn router(partition: Partition, targets: usize) -> (Router, Vec<Arc<Inbox>>) {
        let producer = Inbox::new();
        let inboxes: Vec<Arc<Inbox>> = (0..targets).map(|_| Inbox::new()).collect();
        let targets = inboxes
            .iter()
            .map(|inbox| (Arc::clone(inbox), inbox.add_channel(&producer)))
            .collect();
        (
            Router::new(partition, KeyGroups::new(128).unwrap(), targets),
            inboxes,
        )
    }

    fn received(router: &mut Router, inboxes: &[Arc<Inbox>]) -> Vec<Vec<Batch>> {
        let mut all = vec![Vec::new(); inboxes.len()];
        loop {
            let clear = router.retry(&mut Spares::default());
            let mut got = false;
            for (inbox, all) in inboxes.iter().zip(&mut all) {
                while let Next::Element(_, Element::Batch(batch)) =
                    inbox.next(Some(&[false]), &mut Spares::default())
                {
                    all.push(batch);
                    got = true;
                }
            }
            if clear && !got {
                return all;
            }
        }
    }

    #[test]
    fn every_record_reaches_the_owner_of_its_key_with_all_columns() {
        let (mut router, inboxes) = router(Partition::Hash, 3);
        let whole = batch(5000);
        for part in cut(whole.clone()) {
            router.route(part, &mut Spares::default()).unwrap();
        }
        router.flush(&mut Spares::default());
        let groups = KeyGroups::new(128).unwrap();
        let mut records = 0;
        for (subtask, batches) in received(&mut router, &inboxes).iter().enumerate() {
            for batch in batches {
                assert_eq!(batch.hashes.len(), batch.len());
                for index in 0..batch.len() {
                    let hash = dataflow::key::hash(batch.keys.get(index));
                    assert_eq!(batch.hashes[index], hash);
                    assert_eq!(
                        groups.subtask_of(groups.group_of(hash), 3) as usize,
                        subtask
                    );
                    let original = batch.timestamps[index] as usize;
                    assert_eq!(whole.keys.get(original), batch.keys.get(index));
                }
                records += batch.len();
            }
        }
        assert_eq!(records, 5000);
    }

    #[test]
    fn a_trickle_is_dealt_in_turn() {
        let (mut router, inboxes) = router(Partition::Rebalance, 2);
        for _ in 0..4 {
            router.route(batch(1), &mut Spares::default()).unwrap();
            router.flush(&mut Spares::default());
        }
        let received = received(&mut router, &inboxes);
        assert_eq!(received.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn a_broadcast_reaches_all_and_elements_keep_their_order() {
        let (mut router, inboxes) = router(Partition::Broadcast, 2);
        router.route(batch(3), &mut Spares::default()).unwrap();
        router.broadcast(&Element::EndOfInput, &mut Spares::default());
        for inbox in &inboxes {
            assert!(
                matches!(inbox.next(Some(&[false]), &mut Spares::default()), Next::Element(0, Element::Batch(batch)) if batch.len() == 3)
            );
            assert!(matches!(
                inbox.next(Some(&[false]), &mut Spares::default()),
                Next::Element(0, Element::EndOfInput)
            ));
        }
    }

    #[test]
    fn a_broadcast_holds_once_what_waits_and_each_gets_all_in_order() {
        const SENT: usize = 20;
        // Who reads, by turns; all of it, in the end.
        for readers in [
            vec![0, 1, 2],
            vec![2, 0, 0, 0, 1],
            vec![1],
            vec![0, 0, 1, 1],
        ] {
            let (mut router, inboxes) = router(Partition::Broadcast, 3);
            let mut spares = Spares::default();
            for number in 0..SENT {
                let mut batch = batch(Batch::TARGET_RECORDS);
                batch.timestamps[0] = number as i64;
                router.route(batch, &mut spares).unwrap();
            }
            router.broadcast(&Element::EndOfInput, &mut spares);
            let [target] = router.targets.as_slice() else {
                panic!("{} targets", router.targets.len());
            };
            // Each has a full channel, and one that found no room.
            let taken = crate::inbox::CHANNEL_CAPACITY + 1;
            assert_eq!(target.waiting.len(), SENT + 1 - taken);
            let mut got = [0; 3];
            let mut read = |router: &mut Router, reader: usize| {
                let mut spares = Spares::default();
                router.retry(&mut spares);
                match inboxes[reader].next(Some(&[false]), &mut spares) {
                    Next::Element(0, Element::Batch(batch)) => {
                        assert_eq!(batch.timestamps[0], got[reader]);
                        got[reader] += 1;
                        true
                    }
                    Next::Element(0, Element::EndOfInput) => {
                        assert_eq!(got[reader], SENT as i64);
                        true
                    }
                    Next::Nothing => false,
                    other => panic!("{other:?}"),
                }
            };
            readers.iter().cycle().take(70).for_each(|reader| {
                read(&mut router, *reader);
            });
            (0..3).for_each(|reader| while read(&mut router, reader) {});
            assert_eq!(got, [SENT as i64; 3]);
            assert!(router.retry(&mut spares));
            assert!(router.targets[0].waiting.is_empty());
        }
    }

    #[test]
    fn nothing_overtakes_what_a_full_channel_refused() {
        let (mut router, inboxes) = router(Partition::Forward, 1);
        let mut spares = Spares::default();
        let sent = crate::inbox::CHANNEL_CAPACITY + 1;
        for _ in 0..sent {
            router.route(batch(1), &mut spares).unwrap();
            router.flush(&mut spares);
        }
        // There is room again by the time that something else is sent.
        let taken = inboxes[0].next(Some(&[false]), &mut spares);
        assert!(matches!(taken, Next::Element(0, Element::Batch(_))));
        router.broadcast(&Element::EndOfInput, &mut spares);
        for _ in 1..sent {
            router.retry(&mut spares);
            let next = inboxes[0].next(Some(&[false]), &mut spares);
            assert!(
                matches!(next, Next::Element(0, Element::Batch(_))),
                "{next:?}"
            );
        }
        router.retry(&mut spares);
        let last = inboxes[0].next(Some(&[false]), &mut spares);
        assert!(matches!(last, Next::Element(0, Element::EndOfInput)));
    }

    #[test]
    fn large_batches_are_cut_and_nothing_is_lost() {
        for records in [0, 1, 2048, 2049, 10_000] {
            let whole = batch(records);
            let parts = cut(whole.clone());
            assert_eq!(parts.iter().map(Batch::len).sum::<usize>(), records);
            assert!(
                parts
                    .iter()
                    .all(|part| part.len() <= 2 * Batch::TARGET_RECORDS)
            );
            let mut joined = Batch::default();
            for part in &parts {
                joined.extend(part.keys.as_ref(), part.values.as_ref(), &part.timestamps);
            }
            assert_eq!(joined, whole);
        }
    }

    #[test]
    fn records_without_a_key_are_refused_where_keys_decide() {
        let (mut router, _inboxes) = router(Partition::Hash, 2);
        let mut unkeyed = Batch::default();
        unkeyed.push(None, b"value", dataflow::batch::NO_TIMESTAMP);
        assert_eq!(router.route(unkeyed, &mut Spares::default()), Err(Unkeyed));
    }
}
