//! What every [`Storage`] promises, as a suite that any implementation or decorator can be put to.
//!
//! Meant for tests, here and in crates that add a storage: it panics at the first broken promise.

#![allow(
    clippy::disallowed_methods,
    reason = "a contract is for tests: its writers race"
)]

use std::sync::Arc;
use std::thread;

use bytes::Bytes;

use super::Storage;
use crate::{Error, Result};

/// Puts the storages that `make` makes (each empty) to the contract.
///
/// # Panics
/// A promise is broken; the message says which.
pub fn check(make: &dyn Fn() -> Arc<dyn Storage>) {
    what_was_put_is_read(&*make());
    a_taken_name_stays_taken(&*make());
    one_of_many_puts_wins(&make());
    a_stream_appears_whole_at_its_end(&*make());
    an_abandoned_stream_leaves_nothing(&*make());
    a_stream_does_not_overwrite(&*make());
    a_large_stream_does_not_overwrite(&*make());
    ranges_end_with_the_object(&*make());
    reads_may_be_begun_early(&*make());
    a_listing_has_one_level(&*make());
    deleting_twice_is_fine(&*make());
    directories_never_hide_objects(&*make());
}

fn put(storage: &dyn Storage, name: &str, bytes: &'static str) {
    storage
        .put_new(name, vec![Bytes::from_static(bytes.as_bytes())])
        .expect("a free name can be put");
}

fn whole(storage: &dyn Storage, name: &str) -> Bytes {
    storage
        .read(name, 0..1 << 30)
        .expect("an existing object can be read")
}

fn names(storage: &dyn Storage, directory: &str) -> Vec<String> {
    let listing = storage.list(directory).expect("a directory can be listed");
    listing
        .objects
        .into_iter()
        .map(|object| object.name)
        .collect()
}

fn what_was_put_is_read(storage: &dyn Storage) {
    let parts = ["con", "", "tract"].map(|part| Bytes::from_static(part.as_bytes()));
    storage
        .put_new("a/b/c", parts.to_vec())
        .expect("a free name can be put");
    assert_eq!(whole(storage, "a/b/c"), "contract", "parts are in order");
    storage
        .put_new("a/empty", Vec::new())
        .expect("an empty object can be put");
    assert_eq!(whole(storage, "a/empty"), "", "an empty object is empty");
    assert!(
        storage.location("a/b/c").ends_with("a/b/c"),
        "a location ends with the name"
    );
    assert!(
        matches!(storage.read("a/none", 0..1), Err(Error::NotFound(_))),
        "a missing object is not found"
    );
}

fn a_taken_name_stays_taken(storage: &dyn Storage) {
    put(storage, "a/b", "first");
    let second = storage.put_new("a/b", vec![Bytes::from_static(b"second")]);
    assert!(
        matches!(second, Err(Error::AlreadyExists { .. })),
        "a taken name is refused, got {second:?}"
    );
    assert_eq!(whole(storage, "a/b"), "first", "the first put stays");
}

fn one_of_many_puts_wins(storage: &Arc<dyn Storage>) {
    let put = |writer: u8| {
        let storage = Arc::clone(storage);
        thread::spawn(move || storage.put_new("race/x", vec![vec![writer; 4096].into()]))
    };
    let threads: Vec<_> = (0..4).map(put).collect();
    let outcomes: Vec<Result<()>> = threads
        .into_iter()
        .map(|thread| thread.join().expect("a put does not panic"))
        .collect();
    let won: Vec<u8> = (0..4)
        .filter(|&writer| outcomes[usize::from(writer)].is_ok())
        .collect();
    assert_eq!(won.len(), 1, "exactly one put wins: {outcomes:?}");
    assert_eq!(
        whole(&**storage, "race/x"),
        vec![won[0]; 4096],
        "the object is the winner's"
    );
}

fn a_stream_appears_whole_at_its_end(storage: &dyn Storage) {
    // More than two parts of an upload, in pieces that fit no boundary.
    const PIECE: usize = 1_000_003;
    const PIECES: usize = 20;
    let piece = |number: usize| vec![u8::try_from(number).unwrap_or(0); PIECE];
    let mut writer = storage.create("s/big").expect("a stream can be started");
    for number in 0..PIECES {
        writer.append(&piece(number)).expect("a stream takes bytes");
    }
    assert!(
        !names(storage, "s").contains(&"s/big".to_owned()),
        "a stream is invisible before its end"
    );
    assert!(
        matches!(storage.read("s/big", 0..1), Err(Error::NotFound(_))),
        "a stream is unreadable before its end"
    );
    writer.finish().expect("a stream can be finished");
    assert_eq!(names(storage, "s"), ["s/big"], "nothing is left beside it");
    for number in 0..PIECES {
        let start = (number * PIECE) as u64;
        let read = storage.read("s/big", start..start + PIECE as u64);
        assert!(
            read.expect("a range can be read") == piece(number),
            "piece {number} is what was written"
        );
    }
    let empty = storage.create("s/empty").expect("a stream can be started");
    empty.finish().expect("an empty stream can be finished");
    assert_eq!(whole(storage, "s/empty"), "", "an empty stream is empty");
}

fn an_abandoned_stream_leaves_nothing(storage: &dyn Storage) {
    let mut writer = storage.create("s/x").expect("a stream can be started");
    writer.append(b"bytes").expect("a stream takes bytes");
    drop(writer);
    assert_eq!(names(storage, "s"), [""; 0], "an abandoned stream is gone");
}

fn a_stream_does_not_overwrite(storage: &dyn Storage) {
    let mut writer = storage.create("s/x").expect("a stream can be started");
    writer.append(b"late").expect("a stream takes bytes");
    put(storage, "s/x", "first");
    let finished = writer.finish();
    assert!(
        matches!(finished, Err(Error::AlreadyExists { .. })),
        "a taken name is refused, got {finished:?}"
    );
    assert_eq!(whole(storage, "s/x"), "first", "what stood there stays");
    assert_eq!(names(storage, "s"), ["s/x"], "nothing is left beside it");
}

fn a_large_stream_does_not_overwrite(storage: &dyn Storage) {
    let mut writer = storage.create("s/x").expect("a stream can be started");
    put(storage, "s/x", "first");
    // More than one part of an upload.
    writer
        .append(&vec![1; 9 << 20])
        .expect("a stream takes bytes");
    let finished = writer.finish();
    assert!(
        matches!(finished, Err(Error::AlreadyExists { .. })),
        "a taken name is refused, got {finished:?}"
    );
    assert_eq!(whole(storage, "s/x"), "first", "what stood there stays");
    assert_eq!(names(storage, "s"), ["s/x"], "nothing is left beside it");
}

fn ranges_end_with_the_object(storage: &dyn Storage) {
    put(storage, "r", "0123456789");
    for (range, expected) in [
        (0..10, "0123456789"),
        (3..5, "34"),
        (8..20, "89"),
        (10..20, ""),
        (50..60, ""),
        (4..4, ""),
    ] {
        let read = storage.read("r", range.clone());
        assert_eq!(read.expect("a range can be read"), expected, "{range:?}");
    }
}

fn reads_may_be_begun_early(storage: &dyn Storage) {
    put(storage, "e", "0123456789");
    let begun: Vec<_> = [0..4, 4..8, 8..12, 12..16]
        .map(|range| storage.begin_read("e", range))
        .into_iter()
        .collect::<Result<_>>()
        .expect("reads can be begun");
    let expected = ["0123", "4567", "89", ""];
    // Waited for in any order, and not at all.
    for (place, (begun, expected)) in begun.into_iter().zip(expected).enumerate().rev() {
        if let Some(reading) = begun.filter(|_| place != 2) {
            assert_eq!(reading.wait().expect("an object can be read"), expected);
        }
    }
    let missing = storage.begin_read("none", 0..1);
    if let Some(missing) = missing.transpose() {
        let missing = missing.and_then(super::Reading::wait);
        assert!(matches!(missing, Err(Error::NotFound(_))));
    }
}

fn a_listing_has_one_level(storage: &dyn Storage) {
    for name in [
        "job/chk-2/m",
        "job/chk-2.x/m",
        "job/chk-10/m",
        "job/b",
        "job/a",
        "jobs/x",
    ] {
        put(storage, name, "four");
    }
    let listing = storage.list("job").expect("a directory can be listed");
    assert_eq!(
        listing.directories,
        ["job/chk-10", "job/chk-2", "job/chk-2.x"],
        "directories are one level down"
    );
    assert_eq!(names(storage, "job"), ["job/a", "job/b"], "so are objects");
    assert!(
        listing.objects.iter().all(|object| object.size == 4),
        "sizes are reported"
    );
    let top = storage.list("").expect("the top can be listed");
    assert_eq!(
        top.directories,
        ["job", "jobs"],
        "the top is listed by \"\""
    );
    let nothing = storage.list("none").expect("a missing directory is empty");
    assert_eq!(nothing, super::Listing::default());
}

fn deleting_twice_is_fine(storage: &dyn Storage) {
    put(storage, "d/x", "1");
    storage.delete("d/x").expect("an object can be deleted");
    storage.delete("d/x").expect("deleting is idempotent");
    storage.delete("none/x").expect("deleting is idempotent");
    assert!(matches!(storage.read("d/x", 0..1), Err(Error::NotFound(_))));
    put(storage, "d/x", "2");
    assert_eq!(whole(storage, "d/x"), "2", "a deleted name is free again");
}

fn directories_never_hide_objects(storage: &dyn Storage) {
    storage
        .make_directory("job/shared")
        .expect("a directory can be made");
    storage
        .make_directory("job/shared")
        .expect("an existing directory is fine");
    put(storage, "job/shared/x", "1");
    storage
        .remove_directory("job/shared")
        .expect("a directory that is not empty is left alone");
    assert_eq!(whole(storage, "job/shared/x"), "1");
    storage
        .delete("job/shared/x")
        .expect("an object can be deleted");
    for directory in ["job/shared", "job", "none"] {
        storage
            .remove_directory(directory)
            .expect("an empty or missing directory can be removed");
    }
    assert_eq!(
        storage.list("").expect("the top can be listed").directories,
        [""; 0]
    );
}
