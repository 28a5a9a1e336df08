//! From the hash of a key to its slot.
//!
//! Buckets of one cache line each hold twelve slots and one byte of each one's hash, so that the
//! first look at memory almost always gives the right slot (a table with its tags elsewhere needs
//! two, one after the other). A full bucket sends slots on to the next one and counts them, so that
//! a search knows where to stop and a removal leaves nothing behind.
//!
//! 256 such tables instead of one: a table that grows places all its slots anew, and this way that
//! is a pause for a 256th of the keys. The low bits of a hash decide the key group, of which a
//! subtask sees only a few values, so table, bucket and tag are cut from the others: bits 16 to 63.
//! What is called a slot here is the number of a cold key where its highest bit is set.

/// Slots per bucket.
const SLOTS: usize = 12;
/// Slots per bucket, on average, from which on a table grows: above, too many buckets are full.
const SLOTS_AVERAGE_MAX: usize = 9;
const SHARD_BITS: u32 = 8;
/// How many tables there are.
pub(super) const SHARDS: usize = 1 << SHARD_BITS;

/// Stands for no slot.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// The slots by hash. The caller knows what the keys of slots are.
#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[Shard]>,
    /// Buckets of all tables.
    buckets: usize,
}

#[derive(Debug, Default)]
struct Shard {
    buckets: Vec<Bucket>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket {
    slots: [u32; SLOTS],
    /// A byte of the hash of each slot, 0 where there is none.
    tags: [u8; SLOTS],
    /// How many slots have been sent on from here.
    sent_on: u32,
}

const EMPTY: Bucket = Bucket {
    slots: [NO_SLOT; SLOTS],
    tags: [0; SLOTS],
    sent_on: 0,
};

/// Which bytes of `tags` are `tag`: bit 7 of each.
#[inline]
fn matches(tags: [u8; SLOTS], tag: u8) -> u128 {
    const ONES: u128 = 0x01010101_01010101_01010101;
    const LOW: u128 = ONES * 0x7f;
    let mut bytes = [0; 16];
    bytes[..SLOTS].copy_from_slice(&tags);
    let differing = u128::from_le_bytes(bytes) ^ (ONES * u128::from(tag));
    // Bit 7 of a byte is set by the sum if one of its low bits is, and by itself otherwise.
    !(((differing & LOW) + LOW) | differing) & (ONES << 7)
}

/// As [`matches`], but only the lowest one counts: above it, others may be wrong. Costs less.
#[inline]
fn first_match(tags: [u8; SLOTS], tag: u8) -> u128 {
    const ONES: u128 = 0x01010101_01010101_01010101;
    let mut bytes = [0; 16];
    bytes[..SLOTS].copy_from_slice(&tags);
    let differing = u128::from_le_bytes(bytes) ^ (ONES * u128::from(tag));
    differing.wrapping_sub(ONES) & !differing & (ONES << 7)
}

#[inline]
fn position(matches: u128) -> usize {
    (matches.trailing_zeros() / 8) as usize
}

/// The byte of a hash that is kept with the slot: bits 48 to 55, but never 0.
#[inline]
fn tag(hash: u64) -> u8 {
    ((hash >> 48) as u8).max(1)
}

impl Shard {
    /// The bucket to look into first, by bits 16 to 47; there must be one.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        ((u64::from((hash >> 16) as u32) * self.buckets.len() as u64) >> 32) as usize
    }

    fn next(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() {
            0
        } else {
            bucket + 1
        }
    }

    fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<(usize, usize)> {
        if self.buckets.is_empty() {
            return None;
        }
        let mut at = self.home(hash);
        // Every bucket may be full and have sent slots on, so the count ends the search at last.
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[at];
            let mut found = matches(bucket.tags, tag(hash));
            while found != 0 {
                if is(bucket.slots[position(found)]) {
                    return Some((at, position(found)));
                }
                found &= found - 1;
            }
            if bucket.sent_on == 0 {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Places a slot; there must be a vacancy.
    fn place(&mut self, hash: u64, slot: u32) {
        let mut at = self.home(hash);
        loop {
            let next = self.next(at);
            let bucket = &mut self.buckets[at];
            let vacant = matches(bucket.tags, 0);
            if vacant != 0 {
                bucket.slots[position(vacant)] = slot;
                bucket.tags[position(vacant)] = tag(hash);
                self.len += 1;
                return;
            }
            bucket.sent_on += 1;
            at = next;
        }
    }

    fn remove(&mut self, hash: u64, slot: u32) {
        let Some((bucket, position)) = self.find(hash, |other| other == slot) else {
            return;
        };
        self.buckets[bucket].tags[position] = 0;
        self.len -= 1;
        let mut at = self.home(hash);
        while at != bucket {
            self.buckets[at].sent_on -= 1;
            at = self.next(at);
        }
    }

    /// Places all slots anew, in `buckets` buckets.
    fn resize(&mut self, buckets: usize, hash_of: impl Fn(u32) -> u64) {
        let old = std::mem::replace(&mut self.buckets, vec![EMPTY; buckets]);
        self.len = 0;
        let mut slots = Vec::with_capacity(old.len() * SLOTS);
        for bucket in &old {
            let taken = bucket
                .slots
                .iter()
                .zip(&bucket.tags)
                .filter(|(_, tag)| **tag != 0);
            slots.extend(taken.map(|(slot, _)| *slot));
        }
        drop(old);
        // The keys first, then the buckets: neither pass waits for what the other fetches.
        let hashes: Vec<u64> = slots.iter().map(|slot| hash_of(*slot)).collect();
        slots
            .iter()
            .zip(hashes)
            .for_each(|(slot, hash)| self.place(hash, *slot));
    }
}

impl Default for Index {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            buckets: 0,
        }
    }
}

impl Index {
    /// The table that a hash belongs to, of [`SHARDS`].
    #[inline]
    pub(super) fn shard_of(hash: u64) -> usize {
        (hash >> (64 - SHARD_BITS)) as usize
    }

    /// Fetches one table as a whole, for many slots that are to be added to it: in the order of memory,
    /// for which the processor need not wait.
    pub(super) fn touch_shard(&self, shard: usize) {
        let buckets = self.shards[shard].buckets.iter();
        std::hint::black_box(buckets.fold(0, |all, bucket| all ^ bucket.sent_on));
    }

    /// Fetches the bucket that [`Index::guess`] will look into. What is returned means nothing.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u32 {
        let shard = &self.shards[Self::shard_of(hash)];
        let bucket = shard.buckets.get(shard.home(hash));
        bucket.map_or(0, |bucket| bucket.sent_on)
    }

    /// The slot that most likely has this hash, if any: the first guess of `find`, without looking
    /// at keys or at more than one bucket.
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> u32 {
        let shard = &self.shards[Self::shard_of(hash)];
        let Some(bucket) = shard.buckets.get(shard.home(hash)) else {
            return NO_SLOT;
        };
        let found = first_match(bucket.tags, tag(hash));
        bucket
            .slots
            .get(position(found))
            .copied()
            .unwrap_or(NO_SLOT)
    }

    /// The slot with this hash of whose key `is` says that it is the one.
    pub(super) fn find(&self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        let shard = &self.shards[Self::shard_of(hash)];
        let (bucket, position) = shard.find(hash, is)?;
        Some(shard.buckets[bucket].slots[position])
    }

    /// Adds a slot that is not there.
    pub(super) fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        let number = Self::shard_of(hash);
        let shard = &mut self.shards[number];
        let buckets = shard.buckets.len();
        if shard.len >= buckets * SLOTS_AVERAGE_MAX {
            // All tables have about as many slots. So that they do not grow at the same time, the
            // third step is of different size for each.
            let grown = match buckets {
                0 => 1,
                1..16 => buckets * 2,
                16 => 17 + number % 8,
                _ => buckets + buckets / 2,
            };
            shard.resize(grown, hash_of);
            self.buckets += grown - buckets;
        }
        shard.place(hash, slot);
    }

    /// Puts `new` in the place of `old`, which has the same hash.
    pub(super) fn replace(&mut self, hash: u64, old: u32, new: u32) {
        let shard = &mut self.shards[Self::shard_of(hash)];
        if let Some((bucket, position)) = shard.find(hash, |slot| slot == old) {
            shard.buckets[bucket].slots[position] = new;
        }
    }

    /// Removes a slot, if it is there.
    pub(super) fn remove(&mut self, hash: u64, slot: u32) {
        self.shards[Self::shard_of(hash)].remove(hash, slot);
    }

    /// Makes room for `additional` slots with evenly spread hashes.
    pub(super) fn reserve(&mut self, additional: usize, hash_of: impl Fn(u32) -> u64) {
        let share = additional >> SHARD_BITS;
        if share == 0 {
            return;
        }
        for shard in &mut self.shards {
            // Some get more than their share, and must not grow again for that.
            let len = shard.len + share + share / 32 + 16;
            let wanted = len.div_ceil(SLOTS_AVERAGE_MAX);
            if wanted > shard.buckets.len() {
                self.buckets += wanted - shard.buckets.len();
                shard.resize(wanted, &hash_of);
            }
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> u64 {
        (self.buckets * size_of::<Bucket>()) as u64
    }

    /// How many slots there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes that all go to one table, and in groups of twenty to one bucket with one tag.
    fn crowded(slot: u32) -> u64 {
        u64::from(slot / 20) << 40
    }

    fn spread(slot: u32) -> u64 {
        crate::key::hash(&slot.to_le_bytes())
    }

    #[test]
    fn slots_are_found_until_they_are_removed() {
        for hash_of in [crowded, spread] {
            let mut index = Index::default();
            for slot in 0..3000 {
                index.insert(hash_of(slot), slot, hash_of);
            }
            for removed in [0..0, 0..1000, 1500..2999] {
                removed.for_each(|slot| index.remove(hash_of(slot), slot));
            }
            let left = |slot: u32| !(slot < 1000 || (1500..2999).contains(&slot));
            for slot in 0..3000 {
                assert_eq!(
                    index.find(hash_of(slot), |other| other == slot),
                    left(slot).then_some(slot)
                );
            }
            for slot in (0..3000).filter(|slot| !left(*slot)) {
                index.insert(hash_of(slot), slot, hash_of);
            }
            index.reserve(10_000, hash_of);
            assert!(
                (0..3000)
                    .all(|slot| index.find(hash_of(slot), |other| other == slot) == Some(slot))
            );
            assert_eq!(index.len(), 3000);
            (0..3000).for_each(|slot| index.remove(hash_of(slot), slot));
            let buckets = index.shards.iter().flat_map(|shard| &shard.buckets);
            assert!(
                buckets
                    .into_iter()
                    .all(|bucket| bucket.sent_on == 0 && bucket.tags == [0; SLOTS])
            );
        }
    }

    #[test]
    fn the_first_guess_is_right_as_a_rule() {
        let mut index = Index::default();
        (0..10_000).for_each(|slot| index.insert(spread(slot), slot, spread));
        let right = (0..10_000)
            .filter(|slot| index.guess(spread(*slot)) == *slot)
            .count();
        assert!(right > 9000, "{right}");
    }
}
