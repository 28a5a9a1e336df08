use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn connected(directories: &Directories) -> io::Result<Vec<PathBuf>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let found = runtime.block_on(directories.connect_all())?;
    Ok(found.into_iter().map(|(path, _)| path).collect())
}

fn place() -> (TempDir, PathBuf, Directories) {
    let parent = tempfile::tempdir().unwrap();
    let place = parent.path().join("control");
    (parent, place.clone(), Directories::at(place))
}

#[test]
fn c165_a_socket_is_its_users_alone_and_goes_with_its_owner() {
    let (_parent, place, directories) = place();
    assert_eq!(connected(&directories).unwrap(), [] as [PathBuf; 0]);
    let (socket, _listener) = directories.bind().unwrap();
    let (other, _other_listener) = directories.bind().unwrap();
    assert_eq!(mode(&place), 0o700);
    assert_eq!(mode(socket.path()), 0o600);
    let mut both = [socket.path().to_owned(), other.path().to_owned()];
    both.sort();
    assert_eq!(connected(&directories).unwrap(), both);
    assert_eq!(process_of(socket.path()), Some(process::id()));
    drop(socket);
    drop(other);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
fn c165_a_directory_that_is_not_ours_alone_is_refused_and_left_as_it_is() {
    let refused = |place: &Path, why: &str| {
        let directories = Directories::at(place.to_owned());
        for error in [
            directories.bind().unwrap_err(),
            connected(&directories).unwrap_err(),
        ] {
            let text = error.to_string();
            let path = place.to_string_lossy();
            assert!(text.contains(why) && text.contains(&*path), "{text}");
            assert!(text.contains("chmod 700"), "no mend: {text}");
        }
    };
    let parent = tempfile::tempdir().unwrap();
    let private = parent.path().join("private");
    DirBuilder::new().mode(0o700).create(&private).unwrap();
    let link = parent.path().join("link");
    symlink(&private, &link).unwrap();
    refused(&link, "it is a link");
    let dangling = parent.path().join("dangling");
    symlink(parent.path().join("nothing"), &dangling).unwrap();
    refused(&dangling, "it is a link");
    let file = parent.path().join("file");
    fs::write(&file, b"precious").unwrap();
    refused(&file, "not a directory");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    for bits in [0o740, 0o720, 0o701, 0o704, 0o777, 0o1777] {
        let open = parent.path().join(format!("open-{bits:o}"));
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(bits)).unwrap();
        refused(&open, "others may use it");
        assert_eq!(mode(&open), bits);
        assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
    }
    // Another user's: to it, ours is.
    let error = is_private(&private, nix::unistd::geteuid().as_raw() + 1).unwrap_err();
    assert!(error.to_string().contains("belongs to user"), "{error}");
}

#[test]
fn c151_a_name_that_could_steer_a_terminal_is_escaped() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("a\u{1b}[2J\nb");
    fs::write(&file, b"").unwrap();
    let error = Directories::at(file).bind().unwrap_err().to_string();
    assert!(error.contains("a\\u{1b}[2J\\nb"), "{error}");
    assert!(!error.contains(['\u{1b}', '\n']), "{error}");
}

#[test]
fn a_path_that_is_too_long_is_refused_before_anything_is_made() {
    let parent = tempfile::tempdir().unwrap();
    let place = parent.path().join("x".repeat(108));
    let error = Directories::at(place.clone()).bind().unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("longer") && text.contains("short path"),
        "{text}"
    );
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
fn c159_what_killed_hosts_left_is_removed_and_nothing_else() {
    let (_parent, place, directories) = place();
    let (living, _listener) = directories.bind().unwrap();
    let name = |end: &str| place.join(format!("7-0123456789abcdef{end}"));
    // A listener that is dropped leaves its socket, as a process does that is killed.
    drop(net::UnixListener::bind(name(".sock")).unwrap());
    let mut kept = Vec::new();
    // Not a name of ours.
    for other in [
        "agent.sock",
        "7-0123456789abcdef",
        "7-0123456789ABCDEF.sock",
        "x-0123456789abcdef.sock",
    ] {
        drop(net::UnixListener::bind(place.join(other)).unwrap());
        kept.push(place.join(other));
    }
    // A name of ours, and no socket.
    let file = place.join("8-0123456789abcdef.sock");
    fs::write(&file, b"precious").unwrap();
    let directory = place.join("9-0123456789abcdef.sock");
    fs::create_dir(&directory).unwrap();
    let link = place.join("10-0123456789abcdef.sock");
    symlink(&kept[0], &link).unwrap();
    // Somebody may be about to listen to it.
    drop(net::UnixListener::bind(name(".new")).unwrap());
    kept.extend([file, directory, link, name(".new")]);
    for _ in 0..2 {
        assert_eq!(connected(&directories).unwrap(), [living.path()]);
        assert!(!name(".sock").exists());
        for path in &kept {
            assert!(fs::symlink_metadata(path).is_ok(), "{}", path.display());
        }
    }
    // After a minute nobody is.
    let long_ago = SystemTime::now() - UNFINISHED_MAX * 2;
    let times = nix::sys::time::TimeSpec::from_duration(
        long_ago.duration_since(SystemTime::UNIX_EPOCH).unwrap(),
    );
    let here = nix::fcntl::AT_FDCWD;
    let follow = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(here, &name(".new"), &times, &times, follow).unwrap();
    connected(&directories).unwrap();
    assert!(!name(".new").exists());
    assert!(kept[0].exists() && living.path().exists());
}

#[test]
fn the_variable_counts_if_it_names_a_directory_of_the_user() {
    let user = nix::unistd::geteuid().as_raw();
    let temporary = Path::new("/some/tmp");
    let fallback = temporary.join(format!("highwater-{user}"));
    let runtime = tempfile::tempdir().unwrap();
    let places = |variable: &Path, user: u32| {
        Directories::from(Some(variable.into()), temporary, user).places
    };
    let ours = [runtime.path().join("highwater"), fallback.clone()];
    assert_eq!(places(runtime.path(), user), ours);
    for other in ["", "relative", "/nothing/there"] {
        assert_eq!(
            places(Path::new(other), user),
            std::slice::from_ref(&fallback),
            "{other}"
        );
    }
    let another = [temporary.join(format!("highwater-{}", user + 1))];
    assert_eq!(places(runtime.path(), user + 1), another);
    assert_eq!(Directories::from(None, temporary, user).places, [fallback]);
}

#[test]
fn c165_only_its_user_and_root_are_trusted() {
    let directories = Directories::from(None, Path::new("/tmp"), 1000);
    let trusted = [0, 999, 1000, 1001].map(|user| directories.trusts(user));
    assert_eq!(trusted, [true, false, true, false]);
}
