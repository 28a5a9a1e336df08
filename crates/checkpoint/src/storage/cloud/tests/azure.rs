//! Against Azurite, which checks signatures and honours conditions.

use std::sync::LazyLock;

use object_store::{MultipartUpload, PutMultipartOptions};

use super::*;

/// One for all tests: it takes seconds to start. It ends with this process.
static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(Kind::Azurite));

fn remote(prefix: &str) -> Remote {
    Remote::parse(&format!("az://{BUCKET}/{prefix}"), "directory").unwrap()
}

fn storage(endpoint: &str, prefix: &str) -> CloudStorage {
    let variables = servers::azure_variables(endpoint);
    CloudStorage::open(&remote(prefix), PATIENCE, &variables).unwrap()
}

/// Azurite behind a proxy.
fn proxied(
    server: &Server,
    rule: impl Fn(&str, usize) -> Fate + Send + Sync + 'static,
) -> (Proxy, String) {
    let proxy = Proxy::start(server.port(), rule);
    let endpoint = format!("{}/devstoreaccount1", proxy.endpoint());
    (proxy, endpoint)
}

#[test]
fn azure_keeps_the_contract() {
    let server = &*SERVER;
    let count = AtomicUsize::new(0);
    contract::check(&|| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(storage(&server.endpoint(), &format!("contract/{number}")))
    });
}

#[test]
fn names_are_stored_in_azure_as_they_are() {
    let server = &*SERVER;
    let deep = storage(&server.endpoint(), "a b/100%ä");
    deep.put_new("my job ~0/chk-7", bytes("x")).unwrap();
    let listed = deep.list("").unwrap();
    assert_eq!(listed.directories, ["my job ~0"]);
    let root = storage(&server.endpoint(), "");
    let name = "a b/100%ä/my job ~0/chk-7";
    assert_eq!(root.read(name, 0..9).unwrap(), "x");
    assert_eq!(root.location(name), format!("az://{BUCKET}/{name}"));
}

#[test]
fn checkpoints_are_in_azure() {
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
fn a_list_of_blocks_that_comes_late_is_refused_by_azure_itself() {
    let server = &*SERVER;
    let storage = storage(&server.endpoint(), "late");
    // As if this came between the look at the name and the completion: nothing but the condition is left.
    storage.put_new("x", bytes("first")).unwrap();
    let client = Arc::clone(&storage.connection.client);
    let completed = storage.objects.executor().run(async move {
        let path = Path::from("late/x");
        let mut upload: Box<dyn MultipartUpload> = client
            .put_multipart_opts(&path, PutMultipartOptions::default())
            .await?;
        upload.put_part("late".into()).await?;
        upload.complete().await
    });
    let error = completed.unwrap_err();
    assert!(endpoint::is_condition(&error), "{error:?}");
    assert_eq!(storage.read("x", 0..9).unwrap(), "first");
}

#[test]
fn what_meets_itself_in_azure_has_succeeded() {
    let server = &*SERVER;
    for fate in [Fate::AnswerLost, Fate::DoneBut503] {
        let name = format!("x-{fate:?}");
        let (proxy, endpoint) = proxied(server, {
            let name = name.clone();
            move |line, nth| match is_put_of(line, &name) && nth == 0 {
                true => fate,
                false => Fate::Passed,
            }
        });
        let small = storage(&endpoint, "retry");
        small.put_new(&name, bytes("mine")).unwrap();
        assert!(proxy.struck(), "{fate:?} did not happen");
        assert_eq!(small.read(&name, 0..9).unwrap(), "mine");

        let (proxy, endpoint) = proxied(server, move |line, nth| {
            match line.contains("comp=blocklist") && nth == 0 {
                true => fate,
                false => Fate::Passed,
            }
        });
        let large = storage(&endpoint, "complete");
        let raw = noise(1, 9 * LARGE);
        let mut writer = large.create(&name).unwrap();
        writer.append(&raw).unwrap();
        writer.finish().unwrap();
        assert!(proxy.struck(), "{fate:?} did not happen");
        assert!(large.read(&name, 0..1 << 30).unwrap() == raw);
    }
}

#[test]
fn azure_without_conditions_is_refused() {
    let server = &*SERVER;
    let variables = server.variables();
    CloudStorage::create(&remote("probe"), PATIENCE, &variables).unwrap();
    assert_eq!(server.keys("probe"), [""; 0], "the probe is gone");
    // One that says that it does not know them.
    let (_proxy, endpoint) = proxied(server, |line, _| match line.starts_with("PUT ") {
        true => Fate::NotImplemented501,
        false => Fate::Passed,
    });
    let variables = servers::azure_variables(&endpoint);
    let created = CloudStorage::create(&remote("probe"), PATIENCE, &variables);
    assert!(
        matches!(created, Err(Error::Incompatible(_))),
        "{created:?}"
    );
}

#[test]
fn azure_that_cannot_be_reached_is_named_with_its_cause_and_without_a_secret() {
    let said = |remote: &Remote, variables: &[(String, String)]| {
        let error = CloudStorage::create(remote, Duration::from_secs(4), variables).unwrap_err();
        let cause = StdError::source(&error).map(ToString::to_string);
        let said = format!("{error}: {}", cause.unwrap_or_default());
        assert!(!said.contains(servers::AZURE_KEY), "{said}");
        assert!(said.contains(&remote.to_string()), "{said}");
        said
    };
    let server = &*SERVER;
    let missing = Remote::parse("az://nobodys/x", "directory").unwrap();
    let missing = said(&missing, &server.variables());
    assert!(missing.contains("ContainerNotFound"), "{missing}");
    assert!(missing.ends_with(&server.endpoint()), "{missing}");

    let with = |name: &str, value: Option<&str>| -> Vec<(String, String)> {
        let all = server.variables().into_iter();
        let mut variables: Vec<_> = all.filter(|(it, _)| it != name).collect();
        variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        variables
    };
    let wrong = servers::AZURE_KEY.replace("Eby8", "Eby9");
    let wrong = said(
        &remote("x"),
        &with("AZURE_STORAGE_ACCOUNT_KEY", Some(&wrong)),
    );
    assert!(wrong.contains("403 Forbidden"), "{wrong}");
    let odd = said(&remote("x"), &with("AZURE_STORAGE_ACCOUNT_KEY", Some("?")));
    assert!(odd.contains("cannot be reached"), "{odd}");
    let nowhere = said(&remote("x"), &with("AZURE_STORAGE_ACCOUNT_NAME", None));
    assert!(
        nowhere.contains("AZURE_STORAGE_ACCOUNT_NAME is not set"),
        "{nowhere}"
    );

    let gone = servers::azure_variables("http://127.0.0.1:1/devstoreaccount1");
    let gone = said(&remote("x"), &gone);
    assert!(
        gone.contains("cannot connect: Connection refused"),
        "{gone}"
    );
}
