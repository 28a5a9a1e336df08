//! Against a stub of ours, which knows preconditions as Google's documents have them. No server of Google's was seen.

use std::sync::LazyLock;

use super::*;

/// One for all tests. It ends with this process.
static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(Kind::Google));

fn remote(prefix: &str) -> Remote {
    Remote::parse(&format!("gs://{BUCKET}/{prefix}"), "directory").unwrap()
}

fn storage(endpoint: &str, prefix: &str) -> CloudStorage {
    let variables = servers::google_variables(endpoint);
    CloudStorage::open(&remote(prefix), PATIENCE, &variables).unwrap()
}

#[test]
fn the_stub_of_google_decides_preconditions_by_generation() {
    let server = Server::start(Kind::Google);
    let put = |path: &str, headers: &str| {
        let answer = server.request_with("PUT", &format!("/{BUCKET}/{path}"), headers, b"x");
        let status = answer[9..12].to_owned();
        let generation = answer
            .lines()
            .find_map(|line| line.strip_prefix("x-goog-generation: "));
        (status, generation.unwrap_or_default().to_owned())
    };
    let only_if = |generation: &str| format!("x-goog-if-generation-match: {generation}\r\n");
    assert_eq!(put("a", &only_if("7")).0, "412", "there is none");
    let (made, first) = put("a", &only_if("0"));
    assert_eq!(made, "200");
    assert_eq!(put("a", &only_if("0")).0, "412", "there is one");
    assert_eq!(put("a", &only_if("7")).0, "412", "there is another one");
    let (made, second) = put("a", &only_if(&first));
    assert!(made == "200" && second != first);
    assert_eq!(
        put("a", "").0,
        "200",
        "without a condition it is overwritten"
    );
    let copy = format!("x-goog-copy-source: {BUCKET}/a\r\n{}", only_if("0"));
    assert_eq!(put("b", &copy).0, "200");
    assert_eq!(put("b", &copy).0, "412", "a copy has the same condition");
    let none = copy.replace("/a", "/none");
    assert_eq!(put("c", &none).0, "404");
    let begun = server.request_with("POST", &format!("/{BUCKET}/d?uploads"), &only_if("0"), b"");
    assert!(
        begun.contains(" 400 "),
        "an upload in parts takes none: {begun}"
    );
}

#[test]
fn google_keeps_the_contract() {
    let server = Server::start(Kind::Google);
    let count = AtomicUsize::new(0);
    contract::check(&|| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(storage(&server.endpoint(), &format!("contract/{number}")))
    });
    assert_eq!(server.unfinished_uploads(), 0);
}

#[test]
fn names_are_stored_in_google_as_they_are_and_listed_page_by_page() {
    let server = &*SERVER;
    let deep = storage(&server.endpoint(), "a b/100%ä");
    for number in 0..1100 {
        deep.put_new(&format!("my job ~0/chk-{number}"), bytes("x"))
            .unwrap();
    }
    let objects = deep.list("my job ~0").unwrap().objects;
    assert_eq!(objects.len(), 1100);
    assert!(objects.is_sorted_by(|a, b| a.name < b.name));
    assert!(objects[0].modified_at > 1_700_000_000_000);
    assert_eq!(deep.list("").unwrap().directories, ["my job ~0"]);
    let root = storage(&server.endpoint(), "");
    let name = "a b/100%ä/my job ~0/chk-7";
    assert_eq!(root.read(name, 0..9).unwrap(), "x");
    assert_eq!(root.location(name), format!("gs://{BUCKET}/{name}"));
}

#[test]
fn checkpoints_are_in_google() {
    let server = &*SERVER;
    let storage: Arc<dyn Storage> = Arc::new(storage(&server.endpoint(), "jobs"));
    let store =
        CheckpointStore::with_storage(Arc::clone(&storage), "job", Options::default()).unwrap();
    // Inline, sharing a file, put at once, uploaded in parts.
    let lengths = [100, 30_000, LARGE, 18 * LARGE];
    let full = lengths.map(|length| noise(length as u64, length));
    take(&store, 1, &full.clone().map(|raw| (None, raw))).unwrap();
    let delta = noise(9, 2 * LARGE);
    take(&store, 2, &[(Some(1), delta.clone())]).unwrap();
    store.wait_for_cleaning();
    assert_eq!(store.take_warnings(), [""; 0]);
    let found = Completed::open(storage, "job/chk-2").unwrap();
    assert!(verify(&found).is_good());
    assert!(read(&found, 0).unwrap() == [full[0].clone(), delta]);
    store.delete_all().unwrap();
    drop(store);
    assert_eq!(server.keys("jobs/"), [""; 0]);
}

#[test]
fn what_meets_itself_in_google_has_succeeded() {
    let server = &*SERVER;
    for fate in [Fate::AnswerLost, Fate::DoneBut503] {
        let name = format!("x-{fate:?}");
        let proxy = Proxy::start(server.port(), move |line, nth| {
            match line.starts_with("PUT ") {
                true if nth == 0 => fate,
                _ => Fate::Passed,
            }
        });
        let small = storage(&proxy.endpoint(), "retry");
        small.put_new(&name, bytes("mine")).unwrap();
        assert!(proxy.struck(), "{fate:?} did not happen");
        assert_eq!(small.read(&name, 0..9).unwrap(), "mine");
        let again = small.put_new(&name, bytes("mine"));
        assert!(
            matches!(again, Err(Error::AlreadyExists { .. })),
            "{again:?}"
        );

        // The copy of an upload in parts to its place.
        let proxy = Proxy::start(server.port(), {
            let end = format!("complete%2F{name} ").replace('-', "%2D");
            move |line, nth| match line.starts_with("PUT ") && line.contains(&end) && nth == 0 {
                true => fate,
                false => Fate::Passed,
            }
        });
        let large = storage(&proxy.endpoint(), "complete");
        let raw = noise(1, 9 * LARGE);
        let mut writer = large.create(&name).unwrap();
        writer.append(&raw).unwrap();
        writer.finish().unwrap();
        assert!(
            proxy.struck(),
            "{fate:?} did not happen: {:?}",
            proxy.lines()
        );
        assert!(large.read(&name, 0..1 << 30).unwrap() == raw);
        assert_eq!(
            large
                .list("")
                .unwrap()
                .objects
                .iter()
                .filter(|it| it.name.starts_with(&name))
                .count(),
            1
        );
    }
}

#[test]
fn google_without_conditions_is_refused() {
    let create = |server: &Server| {
        CloudStorage::create(&remote("probe"), PATIENCE, &server.variables()).map(drop)
    };
    create(&SERVER).unwrap();
    assert_eq!(SERVER.keys("probe"), [""; 0], "the probe is gone");
    let careless = Server::start(Kind::GoogleCareless);
    match create(&careless) {
        Err(Error::Incompatible(message)) => {
            assert!(
                message.contains("gs://checkpoints/probe is in a storage that ignores"),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn google_that_cannot_be_reached_is_named_with_its_cause_and_without_a_secret() {
    let said = |remote: &Remote, variables: &[(String, String)]| {
        let error = CloudStorage::create(remote, Duration::from_secs(4), variables).unwrap_err();
        let cause = StdError::source(&error).map(ToString::to_string);
        let said = format!("{error}: {}", cause.unwrap_or_default());
        assert!(!said.contains("never-shown"), "{said}");
        assert!(said.contains(&remote.to_string()), "{said}");
        said
    };
    let missing = Remote::parse("gs://nobodys/x", "directory").unwrap();
    let missing = said(&missing, &SERVER.variables());
    assert!(missing.contains("NoSuchBucket"), "{missing}");
    let mut wrong = SERVER.variables();
    for (name, value) in &mut wrong {
        if name == "GOOGLE_BEARER_TOKEN" {
            "another-never-shown".clone_into(value);
        }
    }
    let wrong = said(&remote("x"), &wrong);
    assert!(wrong.contains("401 Unauthorized"), "{wrong}");
    let gone = servers::google_variables("http://127.0.0.1:1");
    let gone = said(&remote("x"), &gone);
    assert!(
        gone.contains("cannot connect: Connection refused"),
        "{gone}"
    );
}
