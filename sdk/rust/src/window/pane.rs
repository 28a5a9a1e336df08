//! What a window keeps of a key: its panes, in one value.
//!
//! A pane is what is aggregated and emitted as a whole: a slice of windows that overlap, a session, or the records
//! counted so far. Most keys have one or two at a time, so they are loaded and stored together, and a lone one
//! costs no memory of its own.
//!
//! The newest stands first, and the others are decoded only where they are needed: most records fall into the newest
//! slice, however many a window has.

use crate::codec::{Codec, SignedVarint};
use crate::error::Result;

/// A pane. Its times are those of its slice, or of its first and last record.
#[derive(Debug, PartialEq)]
pub(crate) struct Pane<A> {
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// Late records were added since windows with this pane were emitted.
    pub(crate) late: bool,
    /// Records were added since the last early result. Kept only where there are early results.
    pub(crate) changed: bool,
    /// How many records, where they are counted.
    pub(crate) records: u32,
    pub(crate) accumulator: A,
}

impl<A> Pane<A> {
    pub(crate) fn new(time: i64, accumulator: A) -> Self {
        Self {
            first: time,
            last: time,
            late: false,
            changed: false,
            records: 0,
            accumulator,
        }
    }
}

/// The panes of a key, by their times.
#[derive(Debug, PartialEq)]
pub struct Panes<A> {
    /// Those that are decoded: all that came after the others, at least one unless there is none.
    panes: Few<Pane<A>>,
    /// Those before, as they are stored.
    packed: Vec<u8>,
    /// The timer of the clock that is registered for early results.
    pub(crate) early_at: Option<i64>,
}

/// A list that keeps a lone item in place.
#[derive(Debug, PartialEq)]
enum Few<P> {
    One(P),
    Many(Vec<P>),
}

impl<A> Default for Panes<A> {
    fn default() -> Self {
        Self {
            panes: Few::Many(Vec::new()),
            packed: Vec::new(),
            early_at: None,
        }
    }
}

impl<A> Panes<A> {
    /// Those that are decoded: the newest at least, after [`Panes::unpack`] all.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[Pane<A>] {
        match &self.panes {
            Few::One(pane) => std::slice::from_ref(pane),
            Few::Many(panes) => panes,
        }
    }

    /// The same, to be changed.
    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [Pane<A>] {
        match &mut self.panes {
            Few::One(pane) => std::slice::from_mut(pane),
            Few::Many(panes) => panes,
        }
    }

    /// Adds a pane at this place of [`Panes::as_slice`].
    #[inline]
    pub(crate) fn insert(&mut self, at: usize, pane: Pane<A>) {
        if self.as_slice().is_empty() {
            self.panes = Few::One(pane);
        } else {
            self.many().insert(at, pane);
        }
    }

    fn many(&mut self) -> &mut Vec<Pane<A>> {
        if let Few::One(_) = self.panes {
            let one = std::mem::replace(&mut self.panes, Few::Many(Vec::new()));
            if let (Few::One(pane), Few::Many(panes)) = (one, &mut self.panes) {
                panes.push(pane);
            }
        }
        match &mut self.panes {
            Few::Many(panes) => panes,
            Few::One(_) => unreachable!("it was made a list above"),
        }
    }

    /// Takes out the pane at this place.
    pub(crate) fn remove(&mut self, at: usize) -> Pane<A> {
        debug_assert!(self.packed.is_empty(), "all are decoded");
        match std::mem::replace(&mut self.panes, Few::Many(Vec::new())) {
            Few::One(pane) => {
                assert_eq!(at, 0, "there is one pane");
                pane
            }
            Few::Many(mut panes) => {
                let removed = panes.remove(at);
                self.panes = Few::Many(panes);
                removed
            }
        }
    }

    /// Removes all panes that `keep` does not want.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Pane<A>) -> bool) {
        debug_assert!(self.packed.is_empty(), "all are decoded");
        match &mut self.panes {
            Few::One(pane) if keep(pane) => {}
            Few::One(_) => self.panes = Few::Many(Vec::new()),
            Few::Many(panes) => panes.retain(keep),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }
}

/// What is known for early results, where there are some: how many records, whether it has changed, and, with
/// the newest pane, the timer.
type Early = (u32, bool, Option<i64>);

/// What most panes do not have: a last time that is another one than the first, late records, early results.
type More = (Option<i64>, bool, Option<Early>);

impl<A: Codec> Pane<A> {
    fn encode(&self, early_at: Option<i64>, to: &mut Vec<u8>) {
        SignedVarint(self.first).encode_part(to);
        let last = Some(self.last).filter(|&last| last != self.first);
        let early: Early = (self.records, self.changed, early_at);
        let early = Some(early).filter(|&early| early != (0, false, None));
        let more: More = (last, self.late, early);
        Some(more)
            .filter(|&more| more != (None, false, None))
            .encode_part(to);
        self.accumulator.encode_part(to);
    }

    /// Also returns the timer for early results, which the newest pane may have.
    #[inline]
    fn decode(bytes: &mut &[u8]) -> Result<(Self, Option<i64>)> {
        let first = SignedVarint::decode_part(bytes)?.0;
        let more = Option::<More>::decode_part(bytes)?;
        let (last, late, early) = more.unwrap_or_default();
        let (records, changed, early_at) = early.unwrap_or_default();
        let pane = Self {
            first,
            last: last.unwrap_or(first),
            late,
            changed,
            records,
            accumulator: A::decode_part(bytes)?,
        };
        Ok((pane, early_at))
    }
}

impl<A: Codec> Panes<A> {
    /// Decodes those that are not yet.
    #[inline]
    pub(crate) fn unpack(&mut self) -> Result<()> {
        if self.packed.is_empty() {
            return Ok(());
        }
        self.unpack_all()
    }

    fn unpack_all(&mut self) -> Result<()> {
        let mut bytes = &self.packed[..];
        // A guess, and no more than that: a count of few records takes as many bytes.
        let mut panes = Vec::with_capacity(2 + (bytes.len() / 8).min(30));
        while !bytes.is_empty() {
            panes.push(Pane::decode(&mut bytes)?.0);
        }
        self.packed.clear();
        panes.reverse();
        panes.append(self.many());
        self.panes = Few::Many(panes);
        Ok(())
    }
}

/// One pane after the other, the newest first: its first time, what else there is, the accumulator. A lone pane of a
/// count takes 8 bytes or a few more, which hosts keep in place.
impl<A: Codec> Codec for Panes<A> {
    const VERSION: u32 = A::VERSION;

    fn schema() -> String {
        schema(&A::schema())
    }

    #[inline]
    fn encode(&self, to: &mut Vec<u8>) {
        let mut early_at = self.early_at;
        for pane in self.as_slice().iter().rev() {
            pane.encode(early_at.take(), to);
        }
        to.extend_from_slice(&self.packed);
    }

    #[inline]
    fn decode(mut bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let (newest, early_at) = Pane::decode(&mut bytes)?;
        Ok(Self {
            panes: Few::One(newest),
            packed: bytes.to_vec(),
            early_at,
        })
    }
}

/// The schema of panes whose accumulators have this one. Tools that show state read it.
pub(crate) fn schema(accumulator: &str) -> String {
    format!(
        "[(first:svarint,more:(last:i64?,late:bool,early:(records:u32,changed:bool,due:i64?)?)?,\
         aggregate:{accumulator})]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Varint;

    #[test]
    fn panes_survive_with_all_that_is_known_of_them() {
        let pane = |number: i64| Pane {
            first: -number,
            last: number,
            late: number & 1 != 0,
            changed: number & 2 != 0,
            records: number as u32 % 3,
            accumulator: (number, "x".repeat(number as usize)),
        };
        for count in 0..10 {
            for early_at in [None, Some(7)] {
                let mut panes = Panes::default();
                (0..count).for_each(|number| panes.insert(number as usize, pane(number)));
                // It goes when the last pane does.
                panes.early_at = early_at.filter(|_| count > 0);
                let mut bytes = Vec::new();
                panes.encode(&mut bytes);
                let unpacked = |bytes: &[u8]| {
                    let mut panes = Panes::<(i64, String)>::decode(bytes)?;
                    panes.unpack()?;
                    Ok::<_, crate::Error>(panes)
                };
                assert_eq!(unpacked(&bytes).unwrap(), panes);
                // Also if only the newest is decoded, and another one comes.
                let mut packed = Panes::<(i64, String)>::decode(&bytes).unwrap();
                assert_eq!(packed.as_slice().len(), count.min(1) as usize);
                packed.insert(packed.as_slice().len(), pane(10));
                panes.insert(count as usize, pane(10));
                let (mut one, mut other) = (Vec::new(), Vec::new());
                packed.encode(&mut one);
                panes.encode(&mut other);
                assert_eq!(one, other);
                if count > 0 {
                    assert!(unpacked(&bytes[..bytes.len() - 1]).is_err());
                }
            }
        }
        assert!(Panes::<u8>::decode(&[0, 2, 0]).is_err());
    }

    #[test]
    fn a_count_takes_few_bytes() {
        let mut panes = Panes::default();
        panes.insert(0, Pane::new(1_700_000_000_000, Varint(100)));
        let mut bytes = Vec::new();
        panes.encode(&mut bytes);
        assert_eq!(bytes.len(), 8);
    }
}
