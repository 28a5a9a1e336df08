//! What a guest may use, and how much of it.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use super::binary::CORE_INSTANCES_MAX;

/// The limits of an operator, from the job file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes that one subtask's instance may have: linear memories, tables, core instances and
    /// its stack together. Less may stop an operator with large batches or a large heap; the default is 256 MiB.
    pub memory: u64,
    /// Beyond this many bytes, counted as those of `memory`, an instance is replaced between batches. Less recycles
    /// more often, for the price of opening the operator each time; by default none is replaced for that.
    pub recycle_memory: Option<u64>,
    /// The longest that one call may take, waiting included. Longer means that a hung operator is
    /// noticed later; the default is 10 s.
    pub call_time: Duration,
    /// The most bytes that one call may write: into keyed state and as output, all together. More let
    /// a call hold more of the host's memory until it returns; the default is 256 MiB.
    pub call_writes: u64,
    /// The longest that compiling it may take, where its code is not in the cache. Longer means that a
    /// component made to be slow holds up the start; the default is 1 min.
    pub compile_time: Duration,
    /// The most bytes of memory that compiling it may take; the default is 2 GiB.
    pub compile_memory: u64,
    /// How many files, directories, sockets, streams and other things of the host one instance may hold at
    /// once. More let an operator with many granted files take more of the process's descriptors; the
    /// default is 256.
    pub resources: u32,
    /// Runs the guest without interruption points, up to a fifth faster, at the price that nothing
    /// stops an endless loop: `call_time` does not hold.
    pub trusted: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            recycle_memory: None,
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
/// trap, which would not say why.
#[derive(Debug)]
pub(super) struct Memory {
    limit: u64,
    used: u64,
    refused: Option<u64>,
}

/// The stack on which a guest's calls run, with room for host functions beneath the guest's own.
pub(super) const STACK_BYTES: usize = 2 << 20;

impl Memory {
    /// What an element of a table takes: a pointer, and as much again while the table is moved to where it
    /// can grow.
    const ELEMENT_BYTES: u64 = 16;

    /// With what an instance takes whatever it does: its stack, and some bytes for its core instances.
    pub(super) fn new(limit: u64, instance_bytes: u64) -> Self {
        Self {
            limit,
            used: (STACK_BYTES as u64).saturating_add(instance_bytes),
            refused: None,
        }
    }

    /// Whether what it takes whatever it does fits; if not, that is a refusal.
    pub(super) fn fits(&mut self) -> bool {
        self.grow(0)
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Counts this many bytes more, if they fit.
    fn grow(&mut self, bytes: u64) -> bool {
        let wanted = self.used.saturating_add(bytes);
        if wanted > self.limit {
            self.refused = Some(wanted);
            return false;
        }
        self.used = wanted;
        true
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
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let elements = desired.saturating_sub(current) as u64;
        Ok(self.grow(elements.saturating_mul(Self::ELEMENT_BYTES)))
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize
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
    fn c167_the_limit_is_on_memories_tables_and_stack_together() {
        let stack = STACK_BYTES as u64;
        let mut memory = Memory::new(stack + 107, 7);
        assert!(memory.fits());
        assert!(!Memory::new(stack + 6, 7).fits());
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(!memory.memory_growing(0, 41, None).unwrap());
        assert_eq!(memory.refused(), Some(stack + 108));
        assert!(memory.memory_growing(0, 8, None).unwrap());
        assert!(memory.table_growing(0, 1, None).unwrap());
        assert!(memory.table_growing(1, 2, None).unwrap());
        assert!(!memory.table_growing(2, 3, None).unwrap());
        assert!(!memory.table_growing(0, usize::MAX, None).unwrap());
        assert!(!memory.memory_growing(60, 61, None).unwrap());
        memory.begin_call();
        assert_eq!((memory.refused(), memory.used()), (None, stack + 107));
    }

    #[test]
    fn what_a_guest_forbids_itself_is_not_our_refusal() {
        let mut memory = Memory::new(STACK_BYTES as u64, 0);
        assert!(!memory.memory_growing(0, 2, Some(1)).unwrap());
        assert!(!memory.table_growing(0, 2, Some(1)).unwrap());
        assert_eq!(memory.refused(), None);
    }
}
