//! Cold storage in memory, which fails and damages on demand: for tests.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{ColdFile, ColdStorage};

/// What a test knows of a storage.
#[derive(Debug, Default)]
pub(in super::super) struct Watch {
    /// Files that there are.
    pub(in super::super) files: AtomicU64,
    /// Bytes in them.
    pub(in super::super) bytes: AtomicU64,
    /// How often something was read.
    pub(in super::super) reads: AtomicU64,
    /// How many bytes were.
    pub(in super::super) read_bytes: AtomicU64,
    /// Whether the disk is full.
    pub(in super::super) full: AtomicBool,
    /// Whether what is read has a bit turned over.
    pub(in super::super) damaged: AtomicBool,
}

#[derive(Debug, Default)]
pub(in super::super) struct MemoryStorage(pub(in super::super) Arc<Watch>);

#[derive(Debug)]
struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
    watch: Arc<Watch>,
}

fn check_full(watch: &Watch) -> io::Result<()> {
    if watch.full.load(Ordering::Relaxed) {
        return Err(io::Error::new(io::ErrorKind::StorageFull, "memory is full"));
    }
    Ok(())
}

impl ColdStorage for MemoryStorage {
    fn create(&mut self) -> io::Result<Arc<dyn ColdFile>> {
        check_full(&self.0)?;
        self.0.files.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(MemoryFile {
            bytes: Mutex::default(),
            watch: Arc::clone(&self.0),
        }))
    }
}

impl ColdFile for MemoryFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        check_full(&self.watch)?;
        let mut file = self.bytes.lock().unwrap();
        assert_eq!(offset, file.len() as u64, "files are written front to back");
        file.extend_from_slice(bytes);
        let len = bytes.len() as u64;
        self.watch.bytes.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let file = self.bytes.lock().unwrap();
        let at = offset as usize;
        let found = file.get(at..at + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        if self.watch.damaged.load(Ordering::Relaxed) {
            bytes[9] ^= 1;
        }
        self.watch.reads.fetch_add(1, Ordering::Relaxed);
        let len = bytes.len() as u64;
        self.watch.read_bytes.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let len = self.bytes.lock().unwrap().len() as u64;
        self.watch.bytes.fetch_sub(len, Ordering::Relaxed);
        self.watch.files.fetch_sub(1, Ordering::Relaxed);
    }
}
