//! From the hash of a key to its slot.
//!
//! Buckets of one cache line each hold twelve slots and one byte of each one's hash, so that the
//! first look at memory almost always gives the right slot (a table with its tags elsewhere needs
//! two, one after the other). A full bucket sends slots on to the next one and counts them, so that
//! a search knows where to stop and a removal leaves no mark.
//!
//! 256 such tables instead of one: a table that grows places all its slots again, and this way that
//! is a pause for a 256th of the keys. The low bits of a hash decide the key group, of which a
//! subtask sees only a few values, so table, bucket and tag are cut from the others: bits 16 to 63.
//! What is called a slot here is the number of a cold key where its highest bit is set.
//!
//! The hash is known to everybody, so somebody can send keys that all want one bucket, or have one
//! tag there. A search that meets too many of them, or a slot that lies too far from its bucket, makes
//! its table *keyed*: its slots are placed again, by a secret hash of their keys. What the caller
//! passes is therefore the *place* of a key: its hash, or in a keyed table [`keyed_place`].

/// Slots per bucket.
const SLOTS: usize = 12;
/// Slots per bucket, on average, from which on a table grows: above, too many buckets are full.
const SLOTS_AVERAGE_MAX: usize = 9;
/// How many keys with the tag of the one that is looked for, and in its way, a search may have to
/// compare. An even hash needs more than that once in 10^14 keys.
const STRANGERS_MAX: usize = 8;
/// How many buckets a slot may be sent on. An even hash needs more than that once in 10^12 keys.
const REACH_MAX: u32 = 48;
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
    /// Which tables are keyed, and whether any is.
    keyed: Box<[bool]>,
    any_keyed: bool,
    /// A table in which a search met too many keys.
    crowded: Option<usize>,
}

#[derive(Debug, Default)]
struct Shard {
    buckets: Vec<Bucket>,
    len: u32,
    /// No slot lies further from its first bucket than this many.
    reach: u32,
}

const _: () = assert!(size_of::<Shard>() == 32, "all shards fit the first cache");

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

/// The place of a key in a keyed table: which table it is, its hash still says.
#[inline]
pub(super) fn keyed_place(hash: u64, secret: u64) -> u64 {
    const TABLE: u64 = !(u64::MAX >> SHARD_BITS);
    hash & TABLE | secret & !TABLE
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
        // All buckets from here on may have sent slots on, but none of them further than this.
        for _ in 0..=self.reach {
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
        let mut passed = 0;
        loop {
            let next = self.next(at);
            let bucket = &mut self.buckets[at];
            let vacant = matches(bucket.tags, 0);
            if vacant != 0 {
                bucket.slots[position(vacant)] = slot;
                bucket.tags[position(vacant)] = tag(hash);
                self.len += 1;
                self.reach = self.reach.max(passed);
                return;
            }
            bucket.sent_on += 1;
            passed += 1;
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

    /// Places all slots again, in `buckets` buckets.
    fn resize(&mut self, buckets: usize, place_of: impl Fn(u32) -> u64) {
        let old = std::mem::replace(&mut self.buckets, vec![EMPTY; buckets]);
        (self.len, self.reach) = (0, 0);
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
        let places: Vec<u64> = slots.iter().map(|slot| place_of(*slot)).collect();
        slots
            .iter()
            .zip(places)
            .for_each(|(slot, place)| self.place(place, *slot));
    }
}

impl Default for Index {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            buckets: 0,
            keyed: [false; SHARDS].into(),
            any_keyed: false,
            crowded: None,
        }
    }
}

impl Index {
    /// The table that a hash belongs to, of [`SHARDS`].
    #[inline]
    pub(super) fn shard_of(hash: u64) -> usize {
        (hash >> (64 - SHARD_BITS)) as usize
    }

    /// Whether any table is keyed.
    #[inline]
    pub(super) fn any_keyed(&self) -> bool {
        self.any_keyed
    }

    /// Whether the table that a hash belongs to is keyed.
    #[inline]
    pub(super) fn is_keyed(&self, hash: u64) -> bool {
        self.any_keyed && self.keyed[Self::shard_of(hash)]
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

    /// The slot with this place of which `is` says that it is the one.
    pub(super) fn find(&self, place: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        let shard = &self.shards[Self::shard_of(place)];
        let (bucket, position) = shard.find(place, is)?;
        Some(shard.buckets[bucket].slots[position])
    }

    /// As [`Index::find`], where `is` has to fetch a key. Notes it if that were too many, for
    /// [`Index::relieve`].
    pub(super) fn look_up(&mut self, place: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut strangers = 0;
        let found = self.find(place, |slot| {
            let same = is(slot);
            strangers += usize::from(!same);
            same
        });
        if strangers > STRANGERS_MAX {
            self.crowded = Some(Self::shard_of(place));
        }
        found
    }

    /// Makes the table keyed in which a search met too many keys, if one did and it is not. `place_of`
    /// returns the place of a slot, in a table that is keyed or not.
    #[inline]
    pub(super) fn relieve(&mut self, place_of: impl Fn(u32, bool) -> u64) {
        if let Some(shard) = self.crowded.take() {
            self.key_shard(shard, place_of);
        }
    }

    /// Makes a table keyed, if it is not.
    #[cold]
    pub(super) fn key_shard(&mut self, number: usize, place_of: impl Fn(u32, bool) -> u64) {
        if !std::mem::replace(&mut self.keyed[number], true) {
            self.any_keyed = true;
            let shard = &mut self.shards[number];
            shard.resize(shard.buckets.len(), |slot| place_of(slot, true));
        }
    }

    /// Adds a slot that the index does not have. Its table may be keyed after that.
    pub(super) fn insert(&mut self, place: u64, slot: u32, place_of: impl Fn(u32, bool) -> u64) {
        let number = Self::shard_of(place);
        let keyed = self.keyed[number];
        let shard = &mut self.shards[number];
        let buckets = shard.buckets.len();
        if shard.len as usize >= buckets * SLOTS_AVERAGE_MAX {
            // All tables have about as many slots. So that they do not grow at the same time, the
            // third step is of different size for each.
            let grown = match buckets {
                0 => 1,
                1..16 => buckets * 2,
                16 => 17 + number % 8,
                _ => buckets + buckets / 2,
            };
            shard.resize(grown, |slot| place_of(slot, keyed));
            self.buckets += grown - buckets;
        }
        shard.place(place, slot);
        if shard.reach > REACH_MAX && !keyed {
            self.key_shard(number, place_of);
        }
    }

    /// Puts `new` where `old` is, which has the same place.
    pub(super) fn replace(&mut self, place: u64, old: u32, new: u32) {
        let shard = &mut self.shards[Self::shard_of(place)];
        if let Some((bucket, position)) = shard.find(place, |slot| slot == old) {
            shard.buckets[bucket].slots[position] = new;
        }
    }

    /// Removes a slot, if the index has it.
    pub(super) fn remove(&mut self, place: u64, slot: u32) {
        self.shards[Self::shard_of(place)].remove(place, slot);
    }

    /// Makes room for `additional` slots with evenly spread hashes.
    pub(super) fn reserve(&mut self, additional: usize, place_of: impl Fn(u32, bool) -> u64) {
        let share = additional >> SHARD_BITS;
        if share == 0 {
            return;
        }
        for (shard, keyed) in self.shards.iter_mut().zip(&self.keyed) {
            // Some get more than their share, and must not grow again for that.
            let len = shard.len as usize + share + share / 32 + 16;
            let wanted = len.div_ceil(SLOTS_AVERAGE_MAX);
            if wanted > shard.buckets.len() {
                self.buckets += wanted - shard.buckets.len();
                shard.resize(wanted, |slot| place_of(slot, *keyed));
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
        self.shards.iter().map(|shard| shard.len as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    fn spread(slot: u32) -> u64 {
        crate::key::hash(&slot.to_le_bytes())
    }

    fn secret(slot: u32) -> u64 {
        spread(slot ^ 0x5ec7_e700)
    }

    /// Hashes that all go to one table, and in groups of twenty to one bucket with one tag.
    fn crowded(slot: u32) -> u64 {
        u64::from(slot / 20) << 40
    }

    /// Hashes that all go to one table and one bucket, with many tags.
    fn in_one_bucket(slot: u32) -> u64 {
        u64::from(slot) << 48 & 0xff << 48
    }

    /// One after the other for each bucket more than fits, so that all send on, but never far.
    fn overflowing(slot: u32) -> u64 {
        u64::from(slot / 13) << 32 | u64::from(slot % 13) << 48
    }

    fn place_of(hash_of: fn(u32) -> u64) -> impl Fn(u32, bool) -> u64 + Copy {
        move |slot, keyed| match keyed {
            true => keyed_place(hash_of(slot), secret(slot)),
            false => hash_of(slot),
        }
    }

    /// Adds slots as a user of the index does. Returns how many others had to be compared.
    fn fill(index: &mut Index, slots: Range<u32>, hash_of: fn(u32) -> u64) -> usize {
        let (place_of, mut compared) = (place_of(hash_of), 0);
        for slot in slots {
            let place = place_of(slot, index.is_keyed(hash_of(slot)));
            let found = index.look_up(place, |other| {
                compared += 1;
                other == slot
            });
            assert_eq!(found, None);
            index.relieve(place_of);
            let place = place_of(slot, index.is_keyed(hash_of(slot)));
            index.insert(place, slot, place_of);
        }
        compared
    }

    #[test]
    fn slots_are_found_until_they_are_removed() {
        for hash_of in [crowded, in_one_bucket, overflowing, spread] {
            let mut index = Index::default();
            fill(&mut index, 0..3000, hash_of);
            let place_of = place_of(hash_of);
            let place = |index: &Index, slot: u32| place_of(slot, index.is_keyed(hash_of(slot)));
            for removed in [0..0, 0..1000, 1500..2999] {
                removed.for_each(|slot| index.remove(place(&index, slot), slot));
            }
            let left = |slot: u32| !(slot < 1000 || (1500..2999).contains(&slot));
            for slot in 0..3000 {
                assert_eq!(
                    index.find(place(&index, slot), |other| other == slot),
                    left(slot).then_some(slot)
                );
            }
            for slot in (0..3000).filter(|slot| !left(*slot)) {
                index.insert(place(&index, slot), slot, place_of);
            }
            index.reserve(10_000, place_of);
            assert!((0..3000).all(|slot| {
                index.find(place(&index, slot), |other| other == slot) == Some(slot)
            }));
            assert_eq!(index.len(), 3000);
            (0..3000).for_each(|slot| index.remove(place(&index, slot), slot));
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
        fill(&mut index, 0..10_000, spread);
        assert!(!index.any_keyed());
        let right = (0..10_000)
            .filter(|slot| index.guess(spread(*slot)) == *slot)
            .count();
        assert!(right > 9000, "{right}");
    }

    #[test]
    fn crowded_hashes_cost_no_more_than_even_ones() {
        const SLOTS: u32 = 20_000;
        let even = fill(&mut Index::default(), 0..SLOTS, spread);
        for hash_of in [
            |_| 0x0123_4567_89ab_cdef,
            crowded,
            in_one_bucket,
            overflowing,
        ] {
            let mut index = Index::default();
            let compared = fill(&mut index, 0..SLOTS, hash_of);
            assert!(
                compared < 3 * even,
                "{compared} compared, of even ones {even}"
            );
            assert!(index.any_keyed());
            // A search ends after as many buckets at last.
            let reach = index.shards.iter().map(|shard| shard.reach).max();
            assert!(reach.unwrap() <= REACH_MAX, "{reach:?}");
        }
    }

    #[test]
    fn only_the_tables_where_hashes_crowd_are_keyed() {
        let mut index = Index::default();
        fill(&mut index, 0..10_000, spread);
        fill(&mut index, 10_000..11_000, crowded);
        assert!(index.is_keyed(crowded(0)));
        assert_eq!(index.keyed.iter().filter(|keyed| **keyed).count(), 1);
    }
}
