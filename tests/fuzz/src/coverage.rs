//! Which edges of the control flow an input takes: the counters that LLVM puts in (`.cargo/config.toml`).
#![expect(
    unsafe_code,
    reason = "the counters are memory that the compiler hands over by address"
)]

use std::slice;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

static COUNTERS: Mutex<Vec<&'static [AtomicU8]>> = Mutex::new(Vec::new());

/// Called by the program's start, once for everything that is linked into it.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *const AtomicU8, end: *const AtomicU8) {
    if start.is_null() || start >= end {
        return;
    }
    // SAFETY: both are of the section of counters, which is there as long as the program. All accesses
    // from here are atomic; those of the compiled code are single bytes.
    let counters = unsafe { slice::from_raw_parts(start, end.offset_from_unsigned(start)) };
    let mut all = COUNTERS
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    // Each part of the program calls it with the same section.
    if !all.iter().any(|known| known.as_ptr() == counters.as_ptr()) {
        all.push(counters);
    }
}

/// What was reached by the inputs so far.
pub(crate) struct Seen {
    counters: Vec<&'static [AtomicU8]>,
    /// For each counter a bit for each order of magnitude that was met.
    met: Vec<u8>,
}

impl Seen {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let counters = COUNTERS
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone();
        let count = counters.iter().map(|part| part.len()).sum();
        Self {
            counters,
            met: vec![0; count],
        }
    }

    /// Forgets what was counted, before an input runs.
    pub(crate) fn reset(&self) {
        for word in self.counters.iter().flat_map(|part| words(part)) {
            for counter in word
                .iter()
                .filter(|counter| counter.load(Ordering::Relaxed) != 0)
            {
                counter.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Whether the input that ran has reached something new.
    pub(crate) fn note(&mut self) -> bool {
        let mut is_new = false;
        let mut met = self.met.as_mut_slice();
        for part in &self.counters {
            let (of_part, others) = met.split_at_mut(part.len());
            met = others;
            let first = part.as_ptr().addr();
            for word in words(part) {
                let at = word.as_ptr().addr() - first;
                for (counter, met) in word.iter().zip(&mut of_part[at..]) {
                    let count = counter.load(Ordering::Relaxed);
                    if count == 0 {
                        continue;
                    }
                    let magnitude = 1 << (7 - count.leading_zeros());
                    is_new |= *met & magnitude == 0;
                    *met |= magnitude;
                }
            }
        }
        is_new
    }

    /// How many edges were taken, of how many.
    pub(crate) fn edges(&self) -> (usize, usize) {
        (
            self.met.iter().filter(|met| **met != 0).count(),
            self.met.len(),
        )
    }
}

/// The counters by eights, without those eights that are zero, which most are.
fn words(part: &'static [AtomicU8]) -> impl Iterator<Item = &'static [AtomicU8]> {
    part.chunks(8).filter(|eight| {
        let Ok(eight) = <&[AtomicU8; 8]>::try_from(*eight) else {
            return true;
        };
        // SAFETY: eight bytes, wherever they are; what another thread counts meanwhile is noted or not.
        unsafe { eight.as_ptr().cast::<u64>().read_unaligned() != 0 }
    })
}
