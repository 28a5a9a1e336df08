use super::super::precompiled::Sealed;
use super::*;

fn engine() -> Engine {
    Engine::default()
}

fn component() -> (Digest, Vec<u8>) {
    let bytes = wat::parse_str("(component (core module $m (func (export \"f\"))))").unwrap();
    (Digest::of(&bytes), bytes)
}

impl Cache {
    /// As the host does it, of what is no operator as well.
    fn get_or_compile(&self, engine: &Engine, digest: Digest, bytes: &[u8]) {
        if self.load(engine, digest).is_none() {
            let secret = || Secret::new([1; Secret::LEN]);
            let mut sealed = Vec::new();
            let code = engine.precompile_component(bytes).unwrap();
            Sealed::append(&secret(), &code, &mut sealed);
            let sealed = Sealed::new(secret(), sealed, 0);
            self.store(engine, digest, &sealed.open().unwrap());
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some())
        .collect();
    entries.sort();
    entries
}

#[test]
fn compiled_code_is_kept_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (digest, bytes) = component();
    let engine = engine();
    let cache = Cache::open(&dir.path().join("cache/components")).unwrap();
    assert!(cache.load(&engine, digest).is_none());
    cache.get_or_compile(&engine, digest, &bytes);
    assert!(cache.load(&engine, digest).is_some());
    // By another host of the same user as well.
    let other = Cache::open(&dir.path().join("cache/components")).unwrap();
    assert!(other.load(&engine, digest).is_some());
    assert_eq!(entries(&cache.dir).len(), 1);
}

#[test]
fn code_that_was_changed_or_moved_is_never_run() {
    let dir = tempfile::tempdir().unwrap();
    let (digest, bytes) = component();
    let engine = engine();
    let name = entry_name(&engine, digest);
    let cache = Cache::open(dir.path()).unwrap();
    cache.get_or_compile(&engine, digest, &bytes);
    let path = dir.path().join(&name);
    let good = fs::read(&path).unwrap();
    for index in [0, Secret::SEAL_LEN, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[index] ^= 1;
        fs::write(&path, bad).unwrap();
        assert!(cache.load(&engine, digest).is_none(), "byte {index}");
    }
    for len in [0, 5, Secret::SEAL_LEN, good.len() - 1] {
        fs::write(&path, &good[..len]).unwrap();
        assert!(cache.load(&engine, digest).is_none(), "length {len}");
    }
    // A good entry of another component, under this one's name.
    let other = wat::parse_str("(component)").unwrap();
    cache.get_or_compile(&engine, Digest::of(&other), &other);
    fs::rename(
        dir.path().join(entry_name(&engine, Digest::of(&other))),
        &path,
    )
    .unwrap();
    assert!(cache.load(&engine, digest).is_none());
    // It is compiled again and replaced.
    cache.get_or_compile(&engine, digest, &bytes);
    assert!(cache.load(&engine, digest).is_some());
}

#[test]
fn a_changed_secret_makes_all_entries_worthless() {
    let dir = tempfile::tempdir().unwrap();
    let (digest, bytes) = component();
    let engine = engine();
    Cache::open(dir.path())
        .unwrap()
        .get_or_compile(&engine, digest, &bytes);
    fs::remove_file(dir.path().join("secret")).unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    assert!(cache.load(&engine, digest).is_none());
}

#[test]
fn engines_with_other_settings_have_entries_of_their_own() {
    let (digest, _) = component();
    let mut config = wasmtime::Config::new();
    config.epoch_interruption(true);
    assert_ne!(
        entry_name(&engine(), digest),
        entry_name(&Engine::new(&config).unwrap(), digest)
    );
    assert_eq!(entry_name(&engine(), digest), entry_name(&engine(), digest));
}

#[test]
fn old_entries_and_remains_of_crashes_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    for index in 0..Cache::ENTRIES_MAX {
        fs::write(dir.path().join(format!("{index:064x}.cwasm")), "").unwrap();
    }
    let pending = dir.path().join(format!("{:016x}.pending", 0));
    fs::write(&pending, "").unwrap();
    let old = SystemTime::now() - 2 * Cache::PENDING_MAX;
    File::open(&pending).unwrap().set_modified(old).unwrap();
    // Another host is writing this one.
    fs::write(dir.path().join(format!("{:016x}.pending", 1)), "").unwrap();
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    let (digest, bytes) = component();
    cache.get_or_compile(&engine(), digest, &bytes);
    let kept = entries(dir.path());
    assert_eq!(kept.len(), Cache::ENTRIES_MAX + 2);
    assert!(!kept.contains(&pending));
    assert!(kept.contains(&dir.path().join("notes.txt")));
    assert!(kept.contains(&dir.path().join(entry_name(&engine(), digest))));
}

#[test]
fn what_was_used_least_recently_leaves_first() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let engine = engine();
    let component = |index: usize| {
        let text = format!("(component (core module (func (export \"f{index}\"))))");
        let bytes = wat::parse_str(text).unwrap();
        (Digest::of(&bytes), bytes)
    };
    let path = |index| dir.path().join(entry_name(&engine, component(index).0));
    let now = SystemTime::now();
    for index in 0..4 {
        let (digest, bytes) = component(index);
        cache.get_or_compile(&engine, digest, &bytes);
        // Added long ago, one after the other.
        let added = now - Duration::from_secs(1_000 - index as u64);
        let entry = File::open(path(index)).unwrap();
        entry.set_modified(added).unwrap();
    }
    // The first is used again.
    assert!(cache.load(&engine, component(0).0).is_some());
    let sizes: Vec<u64> = (0..4)
        .map(|index| fs::metadata(path(index)).unwrap().len())
        .collect();
    let keep = entry_name(&engine, component(3).0);
    let left = |bytes_max| {
        cache.remove_old(&keep, bytes_max, now).unwrap();
        (0..4)
            .filter(|index| path(*index).exists())
            .collect::<Vec<_>>()
    };
    assert_eq!(left(sizes.iter().sum()), [0, 1, 2, 3]);
    assert_eq!(left(sizes.iter().sum::<u64>() - 1), [0, 2, 3]);
    assert_eq!(left(sizes[3] + sizes[0]), [0, 3]);
    // What was just added stays, even if it alone is too much.
    assert_eq!(left(1), [3]);
}

#[test]
fn hosts_that_add_and_remove_at_once_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine();
    let components: Vec<(Digest, Vec<u8>)> = (0..8)
        .map(|index| {
            let text = format!("(component (core module (func (export \"f{index}\"))))");
            let bytes = wat::parse_str(text).unwrap();
            (Digest::of(&bytes), bytes)
        })
        .collect();
    std::thread::scope(|scope| {
        for offset in 0..4 {
            let (dir, engine, components) = (dir.path(), &engine, &components);
            scope.spawn(move || {
                let cache = Cache::open(dir).unwrap();
                for round in 0..40 {
                    let (digest, bytes) = &components[(offset + round) % components.len()];
                    cache.get_or_compile(engine, *digest, bytes);
                    // Everything but the newest leaves: as it would in a full cache.
                    let name = entry_name(engine, *digest);
                    cache.remove_old(&name, 1, SystemTime::now()).unwrap();
                    // Whatever the others have left of it is right.
                    let _ = cache.load(engine, *digest);
                }
            });
        }
    });
    // No other file is left, and what is left is right.
    let left = entries(dir.path());
    let cache = Cache::open(dir.path()).unwrap();
    let found = components
        .iter()
        .filter(|(digest, _)| cache.load(&engine, *digest).is_some());
    assert_eq!(found.count(), left.len(), "{left:?}");
}

#[test]
fn c159_what_the_cache_has_not_made_stays_whatever_it_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let entry = |index: usize| format!("{index:064x}.cwasm");
    let mut foreign = vec![
        "mine.cwasm".to_owned(),
        "letter.pending".to_owned(),
        format!("{}.cwasm", "F".repeat(64)),
        format!("{}.cwasm.pending", "0".repeat(16)),
    ];
    for name in &foreign {
        fs::write(dir.path().join(name), "precious").unwrap();
    }
    // Our name, but a link.
    let precious = dir.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    std::os::unix::fs::symlink(&precious, dir.path().join(entry(999))).unwrap();
    foreign.push(entry(999));
    for index in 0..2 * Cache::ENTRIES_MAX {
        fs::write(dir.path().join(entry(index)), "").unwrap();
    }
    let (digest, bytes) = component();
    cache.get_or_compile(&engine(), digest, &bytes);
    for name in foreign {
        let found = fs::read_to_string(dir.path().join(&name));
        assert_eq!(found.unwrap(), "precious", "{name}");
    }
    assert!(entries(dir.path()).len() < 2 * Cache::ENTRIES_MAX);
}

#[cfg(unix)]
#[test]
fn a_directory_or_secret_that_others_can_reach_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let refusal = || {
        Cache::open(&cache)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    refusal().unwrap();
    assert_eq!(
        fs::metadata(&cache).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(
        fs::metadata(cache.join("secret"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    mode(&cache, 0o777);
    assert_eq!(
        refusal().unwrap_err(),
        "other users can write to the directory (its mode should be 0700)"
    );
    mode(&cache, 0o700);
    mode(&cache.join("secret"), 0o644);
    assert_eq!(
        refusal().unwrap_err(),
        "other users can read the secret (its mode should be 0600)"
    );
    mode(&cache.join("secret"), 0o600);
    fs::write(cache.join("secret"), "short").unwrap();
    assert!(
        refusal()
            .unwrap_err()
            .contains("is not a secret of 32 bytes")
    );
    fs::remove_file(cache.join("secret")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), cache.join("secret")).unwrap();
    assert_eq!(refusal().unwrap_err(), "the secret is a symbolic link");
}

#[test]
fn a_pipe_in_the_cache_keeps_nobody_waiting() {
    let pipe_at = |path: &Path| {
        fs::remove_file(path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("components");
    let (digest, bytes) = component();
    let engine = engine();
    let cache = Cache::open(&path).unwrap();
    cache.get_or_compile(&engine, digest, &bytes);
    pipe_at(&path.join(entry_name(&engine, digest)));
    assert!(cache.load(&engine, digest).is_none());
    pipe_at(&path.join("secret"));
    let refused = Cache::open(&path).err().unwrap().to_string();
    assert!(refused.contains("not a file"), "{refused}");
}

#[test]
fn a_host_works_without_a_usable_cache() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(Cache::open(&file.join("below")).is_err());
    super::super::Host::new(&super::super::Options {
        cache_dir: Some(file),
        compiler: super::super::Compiler::InProcess,
        notice: |_| (),
    })
    .unwrap();
}

#[test]
fn c161_code_that_was_just_compiled_is_used_only_if_it_is_whole() {
    let secret = || Secret::new([7; Secret::LEN]);
    let mut answer = vec![b'C'];
    Sealed::append(&secret(), b"machine code", &mut answer);
    let opened = |answer: &[u8], secret| {
        let sealed = Sealed::new(secret, answer.to_vec(), 1);
        sealed.open().map(|code| code.code().to_vec())
    };
    assert_eq!(
        opened(&answer, secret()).as_deref(),
        Some(&b"machine code"[..])
    );
    for len in 0..answer.len() {
        assert_eq!(opened(&answer[..len], secret()), None);
    }
    assert_eq!(opened(&answer, Secret::new([8; Secret::LEN])), None);
}
