//! Against Hadoop's own NameNode and DataNode.

use std::error::Error as StdError;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::*;
use crate::completed::Completed;
use crate::fixture::{LARGE, noise, read, take};
use crate::storage::contract;
use crate::storage::servers::{Kind, Server};
use crate::store::Options;
use crate::verify::verify_bytes as verify;
use crate::{CheckpointStore, gc};

const PATIENCE: Duration = Duration::from_secs(240);

/// One for all tests: it takes seconds to start. It ends with this process.
static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(Kind::Hdfs));

fn remote(server: &Server, directory: &str) -> Remote {
    Remote::parse(&format!("{}/{directory}", server.endpoint()), "directory").unwrap()
}

fn storage(directory: &str) -> HdfsStorage {
    create(&SERVER, directory, &[]).unwrap()
}

fn create(server: &Server, directory: &str, variables: &[(&str, &str)]) -> Result<HdfsStorage> {
    let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let variables: Vec<(String, String)> = variables.iter().map(text).collect();
    let remote = remote(server, directory);
    HdfsStorage::create(&remote, PATIENCE, &variables, Permissions::Private)
}

fn bytes(text: &'static str) -> Vec<Bytes> {
    vec![Bytes::from_static(text.as_bytes())]
}

#[test]
fn hdfs_keeps_the_contract() {
    let count = AtomicUsize::new(0);
    contract::check(&|| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(storage(&format!("contract/{number}")))
    });
}

#[test]
fn of_many_who_make_a_file_in_hdfs_one_wins_and_nothing_else_is_left() {
    const ROUNDS: usize = 5;
    let writers: Vec<_> = (0..6)
        .map(|writer: u8| {
            // Each of them as if in a process of its own.
            let storage = storage("race");
            thread::spawn(move || {
                let put =
                    |round| storage.put_new(&format!("x/{round}"), vec![vec![writer; 99].into()]);
                (0..ROUNDS).map(put).collect::<Vec<_>>()
            })
        })
        .collect();
    let outcomes: Vec<Vec<Result<()>>> = writers.into_iter().map(|it| it.join().unwrap()).collect();
    let storage = storage("race");
    for round in 0..ROUNDS {
        let won: Vec<u8> = (0..6)
            .filter(|&writer| outcomes[usize::from(writer)][round].is_ok())
            .collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        assert_eq!(
            storage.read(&format!("x/{round}"), 0..1000).unwrap(),
            vec![won[0]; 99]
        );
    }
    let lost = outcomes.iter().flatten().filter(|it| it.is_err());
    assert!(
        lost.clone()
            .all(|it| matches!(it, Err(Error::AlreadyExists { .. }))),
        "{outcomes:?}"
    );
    assert_eq!(storage.list("x").unwrap().objects.len(), ROUNDS);
}

#[test]
fn names_are_stored_in_hdfs_as_they_are() {
    let deep = storage("a b/100%ä");
    deep.put_new("my job ~0/chk-7", bytes("x")).unwrap();
    let listed = deep.list("").unwrap();
    assert_eq!(listed.directories, ["my job ~0"]);
    let root = HdfsStorage::open(&remote(&SERVER, ""), PATIENCE, &[]).unwrap();
    let name = "a b/100%ä/my job ~0/chk-7";
    assert_eq!(root.read(name, 0..9).unwrap(), "x");
    assert_eq!(root.location(name), format!("{}/{name}", SERVER.endpoint()));
    let job = root.list("a b/100%ä/my job ~0").unwrap();
    assert_eq!(job.objects[0].name, name);
    assert!(job.objects[0].modified_at > 1_700_000_000_000);
    let colon = deep.put_new("12:30", bytes("x")).unwrap_err();
    assert!(
        StdError::source(&colon)
            .unwrap()
            .to_string()
            .contains("colon")
    );
}

#[test]
fn checkpoints_are_in_hdfs_and_what_was_never_finished_is_collected() {
    let storage = Arc::new(storage("jobs"));
    let store = CheckpointStore::with_storage(Arc::clone(&storage) as _, "job", Options::default())
        .unwrap();
    // Inline, sharing a file, in files of their own.
    let lengths = [100, 30_000, LARGE, 18 * LARGE];
    let full = lengths.map(|length| noise(length as u64, length));
    take(&store, 1, &full.clone().map(|raw| (None, raw))).unwrap();
    let delta = noise(9, 2 * LARGE);
    take(&store, 2, &[(Some(1), delta.clone())]).unwrap();
    store.wait_for_cleaning();
    assert_eq!(store.take_warnings(), [""; 0]);
    let found = Completed::open(Arc::clone(&storage) as _, "job/chk-2").unwrap();
    assert!(verify(&found).is_good());
    assert!(read(&found, 0).unwrap() == [full[0].clone(), delta]);
    drop((found, store));

    // As a process leaves it that is killed while it writes.
    let path = storage.path("job/chk-2/_metadata").unwrap();
    let staged = [
        format!("{path}#7"),
        storage
            .path("job/shared/r1-c2-9.state.part-0123456789abcdef-3")
            .unwrap(),
    ];
    for staged in staged {
        let left = storage.run(|client| async move {
            let mut file = super::create(&client, &staged, None).await?;
            file.write_bytes(Bytes::from_static(b"half")).await?;
            file.hsync().await?;
            Ok(())
        });
        left.unwrap();
    }
    let all = gc::Options {
        before: i64::MAX,
        dry_run: false,
    };
    let place = format!("{}/jobs", SERVER.endpoint());
    let report = gc::collect(&place, all, None).unwrap();
    let removed: Vec<&str> = report.removed.iter().map(|it| it.path.as_str()).collect();
    for leaf in ["_metadata#7", "r1-c2-9.state.part-0123456789abcdef-3"] {
        assert!(removed.iter().any(|it| it.ends_with(leaf)), "{removed:?}");
    }
    let found = Completed::open(storage, "job/chk-2").unwrap();
    assert!(verify(&found).is_good());
}

#[test]
fn what_is_made_in_hdfs_is_its_owners_alone_unless_the_user_says_otherwise() {
    for (permissions, directories, files) in [
        (Permissions::Private, 0o700, 0o600),
        (Permissions::Group, 0o770, 0o660),
        (Permissions::Umask, 0o755, 0o644),
    ] {
        let remote = remote(&SERVER, &format!("who/{permissions:?}"));
        let storage = HdfsStorage::create(&remote, PATIENCE, &[], permissions).unwrap();
        storage.make_directory("made").unwrap();
        storage.put_new("by/put", bytes("x")).unwrap();
        let mut stream = storage.create("by/stream").unwrap();
        stream.append(b"x").unwrap();
        stream.finish().unwrap();
        // Who only tidies up leaves what he makes to the same.
        let other = HdfsStorage::open(&remote, PATIENCE, &[]).unwrap();
        other.put_new("made/later", bytes("x")).unwrap();
        for (name, expected) in [
            ("made", directories),
            ("by", directories),
            ("by/put", files),
            ("by/stream", files),
            ("made/later", files),
        ] {
            let path = storage.path(name).unwrap();
            let found = storage.run(|client| async move { Ok(client.get_file_info(&path).await?) });
            assert_eq!(
                u32::from(found.unwrap().permission),
                expected,
                "{permissions:?}: {name}"
            );
        }
    }
}

/// What a proxy does with the first rename that passes.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It never arrives.
    RequestLost,
    /// It is carried out, and its answer never arrives.
    AnswerLost,
}

/// Passes a NameNode's connections on, and breaks one at a rename. What it returns says whether it has.
fn proxy(fate: Fate, meanwhile: impl Fn() + Send + 'static) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let struck = Arc::new(AtomicBool::new(false));
    let has_struck = Arc::clone(&struck);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (
                client.unwrap(),
                TcpStream::connect(("127.0.0.1", SERVER.port())).unwrap(),
            );
            let breaks = Arc::new(AtomicBool::new(false));
            let (mut back, mut answers, broken) = (
                client.try_clone().unwrap(),
                server.try_clone().unwrap(),
                Arc::clone(&breaks),
            );
            thread::spawn(move || {
                let mut bytes = [0; 1 << 16];
                while let Ok(length @ 1..) = answers.read(&mut bytes) {
                    if broken.load(Ordering::SeqCst) || back.write_all(&bytes[..length]).is_err() {
                        break;
                    }
                }
                drop(back.shutdown(Shutdown::Both));
            });
            let mut bytes = [0; 1 << 16];
            while let Ok(length @ 1..) = client.read(&mut bytes) {
                let is_rename = bytes[..length].windows(7).any(|it| it == b"rename2");
                if is_rename && !struck.swap(true, Ordering::SeqCst) {
                    breaks.store(true, Ordering::SeqCst);
                    meanwhile();
                    if matches!(fate, Fate::RequestLost) {
                        drop(server.shutdown(Shutdown::Both));
                        break;
                    }
                }
                if server.write_all(&bytes[..length]).is_err() {
                    break;
                }
            }
        }
    });
    (format!("hdfs://{address}"), has_struck)
}

#[test]
fn a_rename_whose_answer_or_request_is_lost_is_decided_by_a_look() {
    for fate in [Fate::AnswerLost, Fate::RequestLost] {
        let (url, struck) = proxy(fate, || {});
        let remote = Remote::parse(&format!("{url}/lost"), "directory").unwrap();
        let lossy = HdfsStorage::open(&remote, PATIENCE, &[]).unwrap();
        let name = format!("x-{fate:?}");
        lossy.put_new(&name, bytes("mine")).unwrap();
        assert!(struck.load(Ordering::SeqCst), "{fate:?} did not happen");
        assert_eq!(lossy.read(&name, 0..9).unwrap(), "mine");
        let again = lossy.put_new(&name, bytes("mine"));
        assert!(
            matches!(again, Err(Error::AlreadyExists { .. })),
            "{again:?}"
        );
        assert_eq!(
            lossy.list("").unwrap().objects.len(),
            match fate {
                Fate::AnswerLost => 1,
                Fate::RequestLost => 2,
            }
        );
    }
}

#[test]
fn a_rivals_file_in_hdfs_is_not_ours_even_if_it_says_the_same() {
    for fate in [Fate::AnswerLost, Fate::RequestLost] {
        let name = format!("x-{fate:?}");
        let rival = storage("rivals");
        let (url, struck) = proxy(fate, {
            let name = name.clone();
            move || rival.put_new(&name, bytes("same")).unwrap()
        });
        let remote = Remote::parse(&format!("{url}/rivals"), "directory").unwrap();
        let lossy = HdfsStorage::open(&remote, PATIENCE, &[]).unwrap();
        let put = lossy.put_new(&name, bytes("same"));
        assert!(struck.load(Ordering::SeqCst), "{fate:?} did not happen");
        assert!(matches!(put, Err(Error::AlreadyExists { .. })), "{put:?}");
        let listed = lossy.list("").unwrap().objects;
        assert!(listed.iter().all(|it| !it.name.contains('#')), "{listed:?}");
    }
}

#[test]
fn hdfs_that_cannot_be_used_is_named_with_its_cause_and_what_to_do() {
    let said = |created: Result<HdfsStorage>| {
        let error = created.unwrap_err();
        let cause = StdError::source(&error).map(ToString::to_string);
        format!("{error}: {}", cause.unwrap_or_default())
    };
    let stranger = said(create(
        &SERVER,
        "strangers",
        &[("HADOOP_USER_NAME", "stranger")],
    ));
    assert!(
        stranger.contains("AccessControlException: Permission denied: user=stranger"),
        "{stranger}"
    );
    assert!(
        stranger.contains("HADOOP_USER_NAME") && !stranger.contains("\tat "),
        "{stranger}"
    );
    assert!(
        stranger.contains(&format!("{}/strangers", SERVER.endpoint())),
        "{stranger}"
    );

    storage("file").put_new("x", bytes("x")).unwrap();
    let file = said(create(&SERVER, "file/x", &[]));
    assert!(
        file.contains("file/x") && file.contains(": Path is not a directory"),
        "{file}"
    );

    let root = said(create(&SERVER, "", &[]));
    assert!(root.contains("is the root of HDFS"), "{root}");
    for (variable, value, expected) in [
        ("HADOOP_USER_NAME", "", "HADOOP_USER_NAME is empty"),
        (
            "HADOOP_CONF_DIR",
            "/dev/null",
            "neither a core-site.xml nor an hdfs-site.xml",
        ),
    ] {
        let message = said(create(&SERVER, "x", &[(variable, value)]));
        assert!(message.contains(expected), "{message}");
    }
    let open = |url: &str, patience| {
        let remote = Remote::parse(url, "directory").unwrap();
        HdfsStorage::create(&remote, patience, &[], Permissions::Private)
    };
    let cluster = said(open("hdfs://cluster/x", PATIENCE));
    assert!(
        cluster.contains("has no port") && cluster.contains("HADOOP_CONF_DIR"),
        "{cluster}"
    );
    let patience = Duration::from_secs(4);
    let gone = said(open("hdfs://127.0.0.1:1/x", patience));
    assert!(
        gone.contains("cannot connect: Connection refused"),
        "{gone}"
    );
    assert!(
        gone.contains("at NameNode 127.0.0.1:1 or a DataNode") && gone.contains("fs.defaultFS"),
        "{gone}"
    );
    let nowhere = said(open("hdfs://no-such-host.invalid:8020/x", patience));
    assert!(nowhere.contains("cannot connect"), "{nowhere}");
    // Something listens, and does not speak.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = said(open(
        &format!("hdfs://{}/x", silent.local_addr().unwrap()),
        patience,
    ));
    assert!(silent.contains("no answer within 2s"), "{silent}");
}

#[test]
fn a_name_node_that_was_silent_is_reached_again() {
    let server = Server::start(Kind::Hdfs);
    let patience = Duration::from_secs(6);
    let remote = remote(&server, "silent");
    let storage = HdfsStorage::create(&remote, patience, &[], Permissions::Private).unwrap();
    storage.put_new("x", bytes("x")).unwrap();
    server.freeze();
    // The parts of the server do not stop in the same moment, so the first answer may be that one of them is lost.
    let said: Vec<String> = (0..2)
        .map(|_| {
            let error = storage.read("x", 0..9).unwrap_err();
            let cause = StdError::source(&error).map(ToString::to_string);
            cause.unwrap_or_else(|| error.to_string())
        })
        .collect();
    server.thaw();
    assert!(said[1].contains("no answer within 3s"), "{said:?}");
    assert_eq!(storage.read("x", 0..9).unwrap(), "x");
    let directory = storage.list("").unwrap();
    assert_eq!(directory.objects.len(), 1);
}
