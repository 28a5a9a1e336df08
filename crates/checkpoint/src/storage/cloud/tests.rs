//! Against servers that speak S3: moto's, also behind a proxy that breaks what passes, and s3rver.

#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "gcs")]
mod google;
mod pages;
mod proxy;

use std::collections::HashSet;
use std::error::Error as StdError;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::thread;

use super::*;
use dataflow::CheckpointId;

use crate::completed::Completed;
use crate::fixture::{LARGE, metadata, noise, read, take, write};
use crate::savepoint::dispose_in;
use crate::storage::servers::{self, BUCKET, Kind, Server};
use crate::storage::{FileStorage, contract};
use crate::store::{Compression, Options};
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, Pending, SavepointTarget};
use proxy::{Fate, Proxy};

const PATIENCE: Duration = Duration::from_secs(240);

fn bucket(prefix: &str) -> Remote {
    Remote::parse(&format!("s3://{BUCKET}/{prefix}"), "directory").unwrap()
}

fn storage(endpoint: &str, prefix: &str) -> CloudStorage {
    CloudStorage::open(&bucket(prefix), PATIENCE, &servers::variables(endpoint)).unwrap()
}

fn bytes(text: &'static str) -> Vec<Bytes> {
    vec![Bytes::from_static(text.as_bytes())]
}

#[test]
fn s3_keeps_the_contract() {
    let server = Server::start(Kind::Moto);
    let count = AtomicUsize::new(0);
    contract::check(&|| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(storage(&server.endpoint(), &format!("contract/{number}")))
    });
    assert_eq!(server.unfinished_uploads(), 0);
}

#[test]
fn names_are_stored_as_they_are_and_listed_page_by_page() {
    let server = Server::start(Kind::Moto);
    let storage = storage(&server.endpoint(), "a b/100%ä");
    let put = |numbers: Range<usize>| {
        let storage = storage.clone();
        thread::spawn(move || {
            for number in numbers {
                let name = format!("my job ~{}/chk-{number}", number / 1100);
                storage.put_new(&name, bytes("x")).unwrap();
            }
        })
    };
    // A page has a thousand.
    let threads: Vec<_> = (0..4).map(|n| put(n * 300..(n + 1) * 300)).collect();
    threads.into_iter().for_each(|it| it.join().unwrap());
    let objects = storage.list("my job ~0").unwrap().objects;
    assert_eq!(objects.len(), 1100);
    assert!(objects.is_sorted_by(|a, b| a.name < b.name));
    assert_eq!(
        storage.list("").unwrap().directories,
        ["my job ~0", "my job ~1"]
    );
    assert_eq!(
        storage.location("my job ~0/chk-7"),
        format!("s3://{BUCKET}/a b/100%ä/my job ~0/chk-7")
    );
    // By its full name from the bucket's root, as `-s` does it.
    let root = CloudStorage::open(
        &bucket("").root(),
        PATIENCE,
        &servers::variables(&server.endpoint()),
    );
    let name = "a b/100%ä/my job ~0/chk-7";
    assert_eq!(root.unwrap().read(name, 0..9).unwrap(), "x");
}

#[test]
fn checkpoints_are_written_read_moved_and_subsumed() {
    let server = Server::start(Kind::Moto);
    for (prefix, compression) in [
        ("none", Compression::None),
        ("lz4", Compression::Lz4),
        ("zstd", Compression::Zstd),
    ] {
        let options = Options {
            compression,
            ..Options::default()
        };
        let storage: Arc<dyn Storage> = Arc::new(storage(&server.endpoint(), prefix));
        let store = CheckpointStore::with_storage(Arc::clone(&storage), "job", options).unwrap();
        // Inline, sharing a file, put at once, uploaded in parts.
        let lengths = [100, 30_000, LARGE, 18 * LARGE];
        let full = lengths.map(|length| noise(length as u64, length));
        take(&store, 1, &full.clone().map(|raw| (None, raw))).unwrap();
        let delta = noise(9, 2 * LARGE);
        take(&store, 2, &[(Some(1), delta.clone())]).unwrap();
        store.wait_for_cleaning();
        assert_eq!(store.take_warnings(), [""; 0]);
        let metadata = |keys: Vec<String>| -> Vec<String> {
            let it = keys.into_iter();
            it.filter(|key| key.ends_with("_metadata")).collect()
        };
        assert_eq!(
            metadata(server.keys(&format!("{prefix}/"))),
            [format!("{prefix}/job/chk-2/_metadata")]
        );
        let found = Completed::open(storage, "job/chk-2").unwrap();
        assert!(verify(&found).is_good());
        assert!(read(&found, 0).unwrap() == [full[0].clone(), delta]);
        let path = format!("s3://{BUCKET}/{prefix}/job/chk-2/_metadata");
        assert_eq!(found.path(), Some(path));
        store.delete_all().unwrap();
        drop(store);
        assert_eq!(server.keys(&format!("{prefix}/")), [""; 0]);
    }
    assert_eq!(server.unfinished_uploads(), 0);
}

#[test]
fn c80_savepoints_are_in_s3_while_checkpoints_are_files_and_the_other_way_round() {
    let server = Server::start(Kind::Moto);
    let bucket: Arc<dyn Storage> = Arc::new(storage(&server.endpoint(), "saved"));
    let directory = tempfile::tempdir().unwrap();
    let files: Arc<dyn Storage> = Arc::new(FileStorage::open(directory.path()).unwrap());
    for (checkpoints, savepoints) in [(&files, &bucket), (&bucket, &files)] {
        let options = Options::default();
        let store = CheckpointStore::with_storage(Arc::clone(checkpoints), "job", options).unwrap();
        take(&store, 1, &[(None, noise(1, LARGE))]).unwrap();
        let target = SavepointTarget::with_storage(Arc::clone(savepoints), "job").unwrap();
        let state = [noise(2, 7 * LARGE), noise(3, 30_000)];
        let begin = |id| store.begin_savepoint(CheckpointId(id), &target).unwrap();
        let fill = |pending: &Pending| -> Vec<_> {
            let parts = (0..).zip(&state);
            parts
                .map(|(subtask, bytes)| {
                    let written = write(pending, subtask, None, bytes).unwrap();
                    (0, subtask, written)
                })
                .collect()
        };
        let (whole, given_up) = (begin(2), begin(3));
        let written = fill(&whole);
        fill(&given_up);
        take(&store, 4, &[(Some(1), noise(4, 100))]).unwrap();
        let savepoint = whole.complete(metadata(2, 2), written).unwrap();
        given_up.discard().unwrap();
        store.delete_all().unwrap();
        drop(store);
        let name = savepoint.contents().directory.clone();
        let left = savepoints.list("").unwrap().directories;
        assert_eq!(left, std::slice::from_ref(&name), "no other is left");
        let found = Completed::open(Arc::clone(savepoints), &name).unwrap();
        assert!(verify(&found).is_good());
        assert!(read(&found, 0).unwrap().concat() == state[0]);
        dispose_in(savepoints, &name).unwrap();
        assert!(savepoints.list("").unwrap().directories.is_empty());
    }
    assert_eq!(server.keys("saved/"), [""; 0]);
    assert_eq!(server.unfinished_uploads(), 0);
}

/// Whether a request is the one whose answer gets lost, or the like: by its first line.
fn is_put_of(line: &str, name: &str) -> bool {
    line.starts_with("PUT ") && line.contains(name)
}

#[test]
fn a_put_that_meets_itself_has_succeeded() {
    let server = Server::start(Kind::Moto);
    for fate in [Fate::AnswerLost, Fate::DoneBut503] {
        let name = format!("x-{fate:?}");
        let proxy = Proxy::start(server.port(), {
            let name = name.clone();
            move |line, nth| match is_put_of(line, &name) && nth == 0 {
                true => fate,
                false => Fate::Passed,
            }
        });
        let storage = storage(&proxy.endpoint(), "retry");
        storage.put_new(&name, bytes("mine")).unwrap();
        assert!(proxy.struck(), "{fate:?} did not happen");
        assert_eq!(storage.read(&name, 0..9).unwrap(), "mine");
        assert!(
            proxy
                .lines()
                .iter()
                .filter(|line| is_put_of(line, &name))
                .count()
                > 1
        );
    }
}

#[test]
fn a_rivals_object_is_not_ours_even_if_it_says_the_same() {
    let server = Server::start(Kind::Moto);
    // The first try does not get there; before the second, the rival does.
    let endpoint = server.endpoint();
    let rival = Mutex::new(Some(storage(&endpoint, "rivals")));
    let proxy = Proxy::start(server.port(), move |line, nth| {
        if is_put_of(line, "/rivals/x") && nth == 0 {
            let rival = rival.lock().unwrap().take();
            rival.unwrap().put_new("x", bytes("same")).unwrap();
            return Fate::Refused503;
        }
        Fate::Passed
    });
    let storage = storage(&proxy.endpoint(), "rivals");
    let put = storage.put_new("x", bytes("same"));
    assert!(proxy.struck());
    assert!(matches!(put, Err(Error::AlreadyExists { .. })), "{put:?}");
}

#[test]
fn a_completion_that_meets_itself_has_succeeded() {
    let server = Server::start(Kind::Moto);
    for fate in [Fate::AnswerLost, Fate::DoneBut503] {
        let name = format!("x-{fate:?}");
        let proxy = Proxy::start(server.port(), {
            move |line, nth| match line.starts_with("POST ") && line.contains("uploadId=") {
                true if nth == 0 => fate,
                _ => Fate::Passed,
            }
        });
        let storage = storage(&proxy.endpoint(), "complete");
        let raw = noise(1, 9 * LARGE);
        let mut writer = storage.create(&name).unwrap();
        writer.append(&raw).unwrap();
        writer.finish().unwrap();
        assert!(proxy.struck(), "{fate:?} did not happen");
        assert!(storage.read(&name, 0..1 << 30).unwrap() == raw);
    }
    assert_eq!(server.unfinished_uploads(), 0);
}

#[test]
fn passing_trouble_is_overcome_wherever_it_strikes() {
    let server = Server::start(Kind::Moto);
    // Every kind of request is refused the first time: `nth` counts those of one first line.
    let proxy = Proxy::start(server.port(), |_, nth| match nth {
        0 => Fate::Refused503,
        _ => Fate::Passed,
    });
    let storage: Arc<dyn Storage> = Arc::new(storage(&proxy.endpoint(), "trouble"));
    let store = CheckpointStore::with_storage(storage, "job", Options::default()).unwrap();
    let raw = [noise(1, 30_000), noise(2, 9 * LARGE)];
    let completed = take(&store, 1, &raw.clone().map(|raw| (None, raw))).unwrap();
    for (subtask, raw) in raw.into_iter().enumerate() {
        assert!(read(&completed, subtask).unwrap() == [raw]);
    }
    let verbs: HashSet<String> = proxy
        .lines()
        .iter()
        .map(|line| line[..4].to_owned())
        .collect();
    assert!(verbs.len() >= 4, "{verbs:?}");
}

#[test]
fn an_upload_that_fails_or_is_given_up_leaves_nothing() {
    let server = Server::start(Kind::Moto);
    let proxy = Proxy::start(server.port(), |line, _| {
        match line.contains("partNumber=2") && line.contains("/fails") {
            true => Fate::Refused403,
            false => Fate::Passed,
        }
    });
    let storage = storage(&proxy.endpoint(), "uploads");
    let mut writer = storage.create("fails").unwrap();
    let written = writer
        .append(&noise(1, 17 * LARGE))
        .and_then(|()| writer.finish());
    let message = written.unwrap_err();
    let cause = StdError::source(&message).unwrap().to_string();
    assert!(cause.starts_with("403 Forbidden: AccessDenied"), "{cause}");
    let mut writer = storage.create("dropped").unwrap();
    writer.append(&noise(1, 17 * LARGE)).unwrap();
    assert_eq!(
        server.unfinished_uploads(),
        1,
        "there was something to abort"
    );
    drop(writer);
    assert_eq!(server.unfinished_uploads(), 0);
    assert_eq!(server.keys("uploads/"), [""; 0]);
}

#[test]
fn a_storage_that_ignores_conditions_is_refused() {
    let create = |server: &Server| {
        CloudStorage::create(&bucket("probe"), PATIENCE, &server.variables()).map(drop)
    };
    let moto = Server::start(Kind::Moto);
    create(&moto).unwrap();
    assert_eq!(moto.keys(""), [""; 0], "the probe is gone");
    let s3rver = Server::start(Kind::S3rver);
    match create(&s3rver) {
        Err(Error::Incompatible(message)) => {
            assert!(message.contains("s3://checkpoints/probe is in a storage that ignores"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(s3rver.keys(""), [""; 0], "the probe is gone");
    // One that says that it does not know them.
    let proxy = Proxy::start(moto.port(), |line, _| match line.starts_with("PUT ") {
        true => Fate::NotImplemented501,
        false => Fate::Passed,
    });
    let variables = servers::variables(&proxy.endpoint());
    let created = CloudStorage::create(&bucket("probe"), PATIENCE, &variables);
    assert!(
        matches!(created, Err(Error::Incompatible(_))),
        "{created:?}"
    );
}

#[test]
fn what_cannot_be_reached_is_named_with_its_cause_and_without_a_secret() {
    let said = |bucket: &Remote, variables: &[(String, String)]| {
        let error = CloudStorage::create(bucket, Duration::from_secs(4), variables).unwrap_err();
        assert!(matches!(error, Error::Storage { .. }), "{error:?}");
        let cause = StdError::source(&error).unwrap().to_string();
        let said = format!("{error}: {cause}");
        assert!(!said.contains("never-shown"), "{said}");
        assert!(said.contains(&bucket.to_string()), "{said}");
        said
    };
    let server = Server::start(Kind::Moto);
    let missing = Remote::parse("s3://nobodys/x", "directory").unwrap();
    let missing = said(&missing, &server.variables());
    assert!(missing.contains("NoSuchBucket"), "{missing}");
    assert!(missing.ends_with(&server.endpoint()), "{missing}");

    server.freeze();
    let frozen = said(&bucket("x"), &server.variables());
    server.thaw();
    assert!(frozen.contains("answer"), "{frozen}");

    let gone = server.variables();
    drop(server);
    let gone = said(&bucket("x"), &gone);
    assert!(
        gone.contains("cannot connect: Connection refused"),
        "{gone}"
    );
}

#[test]
fn storages_of_a_bucket_share_their_connection_as_long_as_one_lives() {
    let open = |prefix: &str, port: u16| storage(&format!("http://127.0.0.1:{port}"), prefix);
    let (one, other) = (open("one", 7), open("two", 7));
    assert!(Arc::ptr_eq(&one.connection, &other.connection));
    assert!(!Arc::ptr_eq(&one.connection, &open("one", 9).connection));
    let gone = Arc::downgrade(&one.connection);
    drop((one, other));
    assert_eq!(gone.strong_count(), 0);
}
