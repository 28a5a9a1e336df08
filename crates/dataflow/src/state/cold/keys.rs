//! The keys that are cold: for each its place in the index, by which that finds it again when it grows,
//! and where its record lies.

/// From here on a number in the index is that of a cold key, below it is a slot.
pub(in crate::state) const FIRST_COLD: u32 = 1 << 31;

/// Entries per chunk: one long list would be copied when it grows.
const CHUNK: usize = 4096;

/// A cold key. As bytes, so that it takes twelve of them.
#[derive(Clone, Copy, Debug)]
struct PackedKey {
    /// The place in the index without its lowest 16 bits, which the index does not look at. If vacant:
    /// the next vacant number.
    place: [u8; 6],
    address: [u8; 4],
    /// Units of its record; `VACANT` or `RECALLED` if it has none.
    units: [u8; 2],
}

const VACANT: u16 = 0;
/// The key has a slot again, whose number is kept instead of the address.
const RECALLED: u16 = u16::MAX;

/// What a number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// Nothing.
    Vacant,
    /// A record of this many units at an address of the log.
    Record { address: u32, units: u32 },
    /// A key that was read back in this call, into this slot.
    Recalled(u32),
}

/// What is kept of a place in the index.
fn known(place: u64) -> [u8; 6] {
    let [_, _, known @ ..] = place.to_le_bytes();
    known
}

/// All cold keys, by their numbers from [`FIRST_COLD`] on.
#[derive(Debug, Default)]
pub(in super::super) struct ColdKeys {
    chunks: Vec<Box<[PackedKey]>>,
    used: u32,
    /// The first vacant number, if there is one; each leads to the next.
    vacant: Option<u32>,
    len: usize,
}

impl ColdKeys {
    fn entry(&self, number: u32) -> &PackedKey {
        let at = (number - FIRST_COLD) as usize;
        &self.chunks[at / CHUNK][at % CHUNK]
    }

    fn entry_mut(&mut self, number: u32) -> &mut PackedKey {
        let at = (number - FIRST_COLD) as usize;
        &mut self.chunks[at / CHUNK][at % CHUNK]
    }

    /// How many keys are cold.
    pub(in super::super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory that they take.
    pub(super) fn bytes(&self) -> u64 {
        (self.chunks.len() * CHUNK * size_of::<PackedKey>()) as u64
    }

    /// How many numbers have been given.
    pub(in super::super) fn used(&self) -> u32 {
        self.used
    }

    /// The place of a cold key in the index, as far as that needs it. That by which it was placed when
    /// it became cold: it stays there if its table of the index is keyed later, because the key is on
    /// the disk.
    #[inline]
    pub(in super::super) fn place_in_index(&self, number: u32) -> u64 {
        let [a, b, c, d, e, f] = self.entry(number).place;
        u64::from_le_bytes([0, 0, a, b, c, d, e, f])
    }

    /// Whether a number is that of a cold key with this place, as far as it is known.
    #[inline]
    pub(super) fn may_be(&self, number: u32, place: u64) -> bool {
        number >= FIRST_COLD && self.place_in_index(number) == place >> 16 << 16
    }

    pub(super) fn place(&self, number: u32) -> Lookup {
        let entry = self.entry(number);
        let address = u32::from_le_bytes(entry.address);
        match u16::from_le_bytes(entry.units) {
            VACANT => Lookup::Vacant,
            RECALLED => Lookup::Recalled(address),
            units => Lookup::Record {
                address,
                units: u32::from(units),
            },
        }
    }

    /// Adds a key with its record. `None` if there are too many.
    pub(super) fn insert(&mut self, place: u64, address: u32, units: u32) -> Option<u32> {
        let number = match self.vacant {
            Some(number) => {
                let [a, b, c, d, ..] = self.entry(number).place;
                let next = u32::from_le_bytes([a, b, c, d]);
                self.vacant = (next >= FIRST_COLD).then_some(next);
                number
            }
            None => {
                // The highest number means that there is none.
                let number = self
                    .used
                    .checked_add(FIRST_COLD)
                    .filter(|n| *n < u32::MAX)?;
                if self.used as usize == self.chunks.len() * CHUNK {
                    let vacant = PackedKey {
                        place: [0; 6],
                        address: [0; 4],
                        units: VACANT.to_le_bytes(),
                    };
                    self.chunks.push(vec![vacant; CHUNK].into());
                }
                self.used += 1;
                number
            }
        };
        *self.entry_mut(number) = PackedKey {
            place: known(place),
            address: address.to_le_bytes(),
            units: (units as u16).to_le_bytes(),
        };
        self.len += 1;
        Some(number)
    }

    /// A key has another place in the index now.
    pub(super) fn place_again(&mut self, number: u32, place: u64) {
        self.entry_mut(number).place = known(place);
    }

    /// The record of a key lies elsewhere now.
    pub(super) fn move_to(&mut self, number: u32, address: u32) {
        self.entry_mut(number).address = address.to_le_bytes();
    }

    /// A key has a slot again. Its number stays taken until [`ColdKeys::release`].
    pub(super) fn recall(&mut self, number: u32, slot: u32) {
        let entry = self.entry_mut(number);
        entry.address = slot.to_le_bytes();
        entry.units = RECALLED.to_le_bytes();
        self.len -= 1;
    }

    /// Gives the number of a key that was read back up.
    pub(super) fn release(&mut self, number: u32) {
        let next = self.vacant.replace(number).unwrap_or_default();
        let [a, b, c, d] = next.to_le_bytes();
        let entry = self.entry_mut(number);
        entry.place = [a, b, c, d, 0, 0];
        entry.units = VACANT.to_le_bytes();
    }
}
