//! What a guest may use, and how much of it.

use std::time::Duration;

use wasmtime::ResourceLimiter;

/// The limits of an operator, from the job file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The most bytes of linear memory that one subtask's instance may have. Less may stop an
    /// operator with large batches or a large heap; the default is 256 MiB.
    pub(crate) memory: u64,
    /// The longest that one call may take, waiting included. Longer means that a hung operator is
    /// noticed later; the default is 10 s.
    pub(crate) call_time: Duration,
    /// The most bytes that one call may write: into keyed state and as output, all together. More let
    /// a call hold more of the host's memory until it returns; the default is 256 MiB.
    pub(crate) call_writes: u64,
    /// The longest that compiling it may take, where its code is not in the cache. Longer means that a
    /// component made to be slow holds up the start; the default is 1 min.
    pub(crate) compile_time: Duration,
    /// The most bytes of memory that compiling it may take; the default is 2 GiB.
    pub(crate) compile_memory: u64,
    /// How many files, directories, sockets, streams and other things of the host one instance may hold at
    /// once. More let an operator with many granted files take more of the process's descriptors; the
    /// default is 256.
    pub(crate) resources: u32,
    /// Runs the guest without interruption points, up to a fifth faster, at the price that nothing
    /// stops an endless loop: `call_time` does not hold.
    pub(crate) trusted: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            call_time: Duration::from_secs(10),
            call_writes: 256 << 20,
            compile_time: Duration::from_secs(60),
            compile_memory: 2 << 30,
            resources: 256,
            trusted: false,
        }
    }
}

/// Refuses memory beyond the limit and remembers that it did: guests answer a refusal with a plain
/// trap, which would not tell why.
#[derive(Debug)]
pub(super) struct Memory {
    limit: u64,
    used: u64,
    refused: Option<u64>,
}

impl Memory {
    /// Elements in one table. Interpreters have up to 8,000; an element takes 8 bytes of ours.
    const TABLE_ELEMENTS: usize = 100_000;

    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            used: 0,
            refused: None,
        }
    }

    /// Bytes of linear memory in use.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Forgets earlier refusals.
    pub(super) fn begin_call(&mut self) {
        self.refused = None;
    }

    /// How much the guest wanted in all, when it was refused during this call.
    pub(super) fn refused(&self) -> Option<u64> {
        self.refused
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // The guest's own maximum: not our refusal, and not to be counted as used.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self
            .used
            .saturating_sub(current as u64)
            .saturating_add(desired as u64);
        if wanted > self.limit {
            self.refused = Some(wanted);
            return Ok(false);
        }
        self.used = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= Self::TABLE_ELEMENTS)
    }

    // A component of one language has about ten core instances, a composed one a few times that.
    fn instances(&self) -> usize {
        200
    }

    fn tables(&self) -> usize {
        200
    }

    fn memories(&self) -> usize {
        32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_on_all_memories_together() {
        let mut memory = Memory::new(100);
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(!memory.memory_growing(0, 41, None).unwrap());
        assert_eq!(memory.refused(), Some(101));
        assert!(memory.memory_growing(0, 40, None).unwrap());
        assert!(!memory.memory_growing(60, 61, None).unwrap());
        memory.begin_call();
        assert_eq!((memory.refused(), memory.used()), (None, 100));
    }
}
