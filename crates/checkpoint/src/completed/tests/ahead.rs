//! Reading ahead: how far, and what a reader does when a read fails.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fixture::{OPERATOR, hand_on};

use super::*;

/// What was asked of a [`Begins`].
#[derive(Debug, Default)]
struct Asked {
    /// Reads that were begun and are neither waited for nor dropped.
    under_way: AtomicUsize,
    most: AtomicUsize,
    begun: Mutex<Vec<Range<u64>>>,
    /// A read that begins here fails, once.
    fails_at: Mutex<Option<u64>>,
}

/// Begins reads early, and keeps count of them.
#[derive(Debug)]
struct Begins {
    inner: Arc<dyn Storage>,
    asked: Arc<Asked>,
}

/// A read that was begun.
struct UnderWay(Arc<Asked>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Storage for Begins {
    fn begin_read(&self, name: &str, range: Range<u64>) -> Result<Option<Reading>> {
        let asked = &self.asked;
        asked.begun.lock().unwrap().push(range.clone());
        let under_way = asked.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        asked.most.fetch_max(under_way, Ordering::SeqCst);
        let under_way = UnderWay(Arc::clone(asked));
        let failing = asked
            .fails_at
            .lock()
            .unwrap()
            .take_if(|at| *at == range.start);
        let read = match failing {
            Some(_) => Err(Error::Storage {
                action: "reading",
                object: self.location(name),
                source: "a lost connection".into(),
            }),
            None => self.inner.read(name, range),
        };
        Ok(Some(Reading::new(move || {
            drop(under_way);
            read
        })))
    }

    hand_on!(inner: create put_new read list delete make_directory remove_directory location);
}

const SEGMENT_BYTES: usize = 6 * CHUNK_BYTES as usize + 5;

/// A reader of a segment of six chunks and a bit, its bytes, and what it asks.
fn reader() -> (Box<dyn Read + Send>, Vec<u8>, Arc<Asked>) {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_str().unwrap();
    let bytes = noise(7, SEGMENT_BYTES);
    let store = CheckpointStore::open(dir, "job", filed()).unwrap();
    let checkpoint = take(&store, 1, &[(None, bytes.clone())]).unwrap();
    // Into memory, so that nothing of the directory is needed any more.
    let memory = MemoryStorage::new();
    let files = &checkpoint.contents().storage;
    let names = ["job/chk-1/_metadata".to_owned()].into_iter();
    for name in names.chain(checkpoint.files()) {
        let whole = files.read(&name, 0..1 << 30).unwrap();
        memory.put_new(&name, vec![whole]).unwrap();
    }
    let asked = Arc::new(Asked::default());
    let begins = Begins {
        inner: Arc::new(memory),
        asked: Arc::clone(&asked),
    };
    let checkpoint = Completed::open(Arc::new(begins), "job/chk-1").unwrap();
    let segment = &checkpoint.operator(OPERATOR).unwrap().subtasks[0].segments[0];
    let reader = checkpoint.read(segment).unwrap();
    (reader, bytes, asked)
}

#[test]
fn a_few_chunks_are_read_ahead_and_each_once() {
    let (mut reader, bytes, asked) = reader();
    let mut first = [0; 1];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(asked.under_way.load(Ordering::SeqCst), READS_AHEAD);
    let mut read = first.to_vec();
    reader.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    let chunks: Vec<Range<u64>> = (0..7)
        .map(|chunk| {
            let start = chunk * CHUNK_BYTES;
            start..(start + CHUNK_BYTES).min(SEGMENT_BYTES as u64)
        })
        .collect();
    assert_eq!(*asked.begun.lock().unwrap(), chunks);
    assert_eq!(asked.most.load(Ordering::SeqCst), READS_AHEAD + 1);
    assert_eq!(asked.under_way.load(Ordering::SeqCst), 0);
}

#[test]
fn a_reader_that_asks_again_after_an_error_goes_on_where_it_was() {
    let (mut reader, bytes, asked) = reader();
    *asked.fails_at.lock().unwrap() = Some(4 * CHUNK_BYTES);
    let mut read = Vec::new();
    let error = reader.read_to_end(&mut read).unwrap_err();
    let error = error.downcast::<Error>().unwrap();
    assert!(matches!(error, Error::Storage { .. }), "{error:?}");
    assert_eq!(read.len() as u64, 4 * CHUNK_BYTES);
    assert_eq!(asked.under_way.load(Ordering::SeqCst), 0);
    reader.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
}
