//! A hash index over entries that live elsewhere, emptied between batches and never shrunk below use:
//! no allocation once it has grown.

/// Slots above which [`Index::clear`] gives memory back.
const KEPT_SLOTS: usize = 1 << 16;

/// Finds entries (numbers below 2^32 - 1) by hash and equality, with linear probing.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Hash and entry + 1; an entry of 0 is a free slot. The length is a power of two, or zero.
    slots: Vec<(u32, u32)>,
    used: usize,
}

impl Index {
    /// The entry with this hash for which `same` is true.
    pub(crate) fn find(&self, hash: u32, same: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        loop {
            match self.slots[at] {
                (_, 0) => return None,
                (found, entry) if found == hash && same(entry - 1) => return Some(entry - 1),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Adds an entry that is not there yet.
    pub(crate) fn insert(&mut self, hash: u32, entry: u32) {
        if (self.used + 1) * 2 > self.slots.len() {
            let grown = vec![(0, 0); (self.slots.len() * 2).max(64)];
            let old = std::mem::replace(&mut self.slots, grown);
            old.into_iter()
                .filter(|slot| slot.1 != 0)
                .for_each(|slot| self.place(slot));
        }
        self.place((hash, entry + 1));
        self.used += 1;
    }

    fn place(&mut self, slot: (u32, u32)) {
        let mask = self.slots.len() - 1;
        let mut at = slot.0 as usize & mask;
        while self.slots[at].1 != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets all entries.
    pub(crate) fn clear(&mut self) {
        if self.used == 0 {
            return;
        }
        self.used = 0;
        if self.slots.len() > KEPT_SLOTS {
            self.slots = Vec::new();
        } else {
            self.slots.fill((0, 0));
        }
    }
}

/// A quick hash of bytes. The entries of one call are few enough that nobody gains by collisions.
pub(crate) fn hash(seed: u32, bytes: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = u64::from(seed) ^ (bytes.len() as u64) << 32;
    for chunk in bytes.chunks(8) {
        let word = chunk
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u64::from(byte));
        hash = (hash.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    }
    (hash.wrapping_mul(FACTOR) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_until_cleared() {
        let names: Vec<String> = (0..1000).map(|number| format!("key-{number}")).collect();
        let mut index = Index::default();
        for round in 0..2 {
            for (entry, name) in (0u32..).zip(&names) {
                let hash = hash(round, name.as_bytes());
                assert_eq!(
                    index.find(hash, |other| names[other as usize] == *name),
                    None
                );
                index.insert(hash, entry);
            }
            for (entry, name) in (0u32..).zip(&names) {
                let hash = hash(round, name.as_bytes());
                assert_eq!(
                    index.find(hash, |other| names[other as usize] == *name),
                    Some(entry)
                );
            }
            index.clear();
        }
    }
}
