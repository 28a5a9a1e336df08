//! New files while the job runs: each is read once, whole, by one subtask, whatever happens.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use super::*;
use crate::testing::records;

const OPTIONS: &str = "path = \"in/*\"\nformat = \"lines\"\nwatch = \"10s\"";
const EVERY: i64 = 10_000;

/// A source that looks for new files, and its clock.
fn watching(directory: &TempDir, options: &str) -> (FileSourceFactory, Arc<AtomicI64>) {
    let options: FileSourceOptions = read_right(options);
    let now = Arc::new(AtomicI64::new(1_000_000));
    let clock: Clock = {
        let now = Arc::clone(&now);
        Arc::new(move || now.load(Ordering::SeqCst))
    };
    let factory = options.prepare(directory.path(), &clock);
    (factory.ok().unwrap(), now)
}

/// Reads what there is, and returns the time at which to ask again.
fn read(source: &mut dyn Source) -> Result<(Vec<String>, Option<i64>), String> {
    let mut values = Vec::new();
    loop {
        let mut batch = Batch::default();
        let status = source.poll(&mut batch);
        values.extend(records(&batch).into_iter().map(|record| record.value));
        match status {
            Ok(SourceStatus::More) => {}
            Ok(SourceStatus::Idle { until }) => return Ok((values, until)),
            Ok(SourceStatus::Ended) => panic!("it never ends"),
            Err(error) => return Err(error_chain(&*error)),
        }
    }
}

/// Asks again when the source wants to be asked, twice: so that what has been written is still.
fn read_twice(source: &mut dyn Source, now: &AtomicI64) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for _ in 0..2 {
        let (values, until) = read(source)?;
        all.extend(values);
        now.fetch_max(until.unwrap(), Ordering::SeqCst);
    }
    all.extend(read(source)?.0);
    Ok(all)
}

#[test]
fn c124_a_new_file_is_read_when_it_is_complete_and_once() {
    let directory = TempDir::new().unwrap();
    // The directory may come later, too.
    let (factory, now) = watching(&directory, OPTIONS);
    let mut source = create(&factory, None);
    assert_eq!(read(&mut *source), Ok((vec![], Some(1_000_000 + EVERY))));
    write(&directory, "in/a", b"1\n2\n");
    write(&directory, "in/empty", b"");
    write(&directory, "in/.hidden", b"no\n");
    // Nobody looks before it is time to.
    assert_eq!(read(&mut *source).unwrap().0, [""; 0]);
    now.fetch_add(EVERY, Ordering::SeqCst);
    assert_eq!(read(&mut *source).unwrap().0, [""; 0]);
    // It was still being written.
    write(&directory, "in/a", b"1\n2\n3\n");
    now.fetch_add(EVERY, Ordering::SeqCst);
    assert_eq!(read(&mut *source).unwrap().0, [""; 0]);
    now.fetch_add(EVERY, Ordering::SeqCst);
    assert_eq!(read(&mut *source).unwrap().0, ["1", "2", "3"]);
    // One that was empty has got its content.
    write(&directory, "in/empty", b"4\n");
    write(&directory, "in/b.gz", &gzip(b"5\n"));
    let found = read_twice(&mut *source, &now);
    assert_eq!(found.unwrap(), ["5", "4"]);
    assert_eq!(read_twice(&mut *source, &now), Ok(vec![]));
}

#[test]
fn c124_files_that_are_old_at_the_start_are_read_at_once() {
    let directory = TempDir::new().unwrap();
    write(&directory, "in/new", b"new\n");
    write(&directory, "in/old", b"old\n");
    let then = SystemTime::UNIX_EPOCH + Duration::from_millis(900_000);
    for (name, at) in [("new", then + Duration::from_secs(99)), ("old", then)] {
        let path = directory.path().join("in").join(name);
        let file = fs::File::options().append(true).open(path);
        file.unwrap().set_modified(at).unwrap();
    }
    let (factory, now) = watching(&directory, OPTIONS);
    let mut source = create(&factory, None);
    assert_eq!(read(&mut *source).unwrap().0, ["old"]);
    assert_eq!(read_twice(&mut *source, &now).unwrap(), ["new"]);
}

/// Files come while subtasks read; all stop at a record, and as many others as anyone likes go on.
#[test]
fn c124_every_file_is_read_once_through_every_stop_and_at_every_parallelism() {
    for seed in 0..20 {
        let mut random = Random(seed + 1);
        let directory = TempDir::new().unwrap();
        fs::create_dir_all(directory.path().join("in")).unwrap();
        let (factory, now) = watching(&directory, OPTIONS);
        let (mut expected, mut read) = (Vec::new(), Vec::new());
        let (mut written, mut parts) = (0, None::<Vec<Part>>);
        for round in 0..8 {
            let parallelism = 1 + random.below(4) as u32;
            let mut sources: Vec<_> = (0..parallelism)
                .map(|subtask| {
                    let context = context(subtask, parallelism);
                    factory.create(&context, parts.as_deref()).unwrap()
                })
                .collect();
            // Some rounds end without a checkpoint: what they read is read again.
            let fails = random.below(3) == 0 && round < 7;
            let before = read.len();
            let polls = match round {
                7 => 400,
                _ => random.below(40),
            };
            for _ in 0..polls {
                if random.below(4) == 0 && written < 12 {
                    let lines: Vec<String> = (0..1 + random.below(50))
                        .map(|line| format!("{written}-{line}"))
                        .collect();
                    let name = format!("in/{written:02}");
                    write(&directory, &name, (lines.join("\n") + "\n").as_bytes());
                    expected.extend(lines);
                    written += 1;
                }
                now.fetch_add(random.below(EVERY as u64) as i64, Ordering::SeqCst);
                let at = random.below(u64::from(parallelism)) as usize;
                let mut batch = Batch::default();
                let room = 1 + random.below(20) as usize;
                (room..Batch::TARGET_RECORDS).for_each(|_| batch.push(None, b"", 0));
                let had = batch.len();
                sources[at].poll(&mut batch).unwrap();
                let values = records(&batch).split_off(had);
                read.extend(values.into_iter().map(|record| record.value));
            }
            if fails {
                read.truncate(before);
                continue;
            }
            let all = sources.iter_mut().map(|source| source.snapshot().unwrap());
            parts = Some(through_json(&all.flatten().collect::<Vec<Part>>()));
        }
        read.sort_unstable();
        expected.sort_unstable();
        assert_eq!(read, expected, "seed {seed}");
    }
}

#[test]
fn c148_files_that_change_while_the_job_runs_are_noticed() {
    let directory = TempDir::new().unwrap();
    let content = |text: &str| text.repeat(3000).into_bytes();
    let changes: [(&str, &str, Vec<u8>, &str); 4] = [
        (
            "a",
            "shorter",
            content("1\n")[..10].to_vec(),
            "`in/a` has 10 bytes, it had 6000",
        ),
        (
            "a",
            "replaced",
            content("2\n"),
            "`in/a` was replaced or edited: its bytes 1904 to 6000 are not",
        ),
        (
            "a",
            "replaced by a longer one",
            content("23\n"),
            "`in/a` was replaced or edited",
        ),
        ("b.gz", "packed", gzip(&content("3\n")), "`in/b.gz` "),
    ];
    for (name, what, now_is, message) in changes {
        write(&directory, "in/a", &content("1\n"));
        write(&directory, "in/b.gz", &gzip(&content("1\nx")));
        for options in [
            OPTIONS.to_owned(),
            format!("{OPTIONS}\nchanged = \"accept\""),
        ] {
            write(&directory, "in/a", &content("1\n"));
            write(&directory, "in/b.gz", &gzip(&content("1\nx")));
            let (factory, now) = watching(&directory, &options);
            let mut source = create(&factory, None);
            assert!(
                read_twice(&mut *source, &now).unwrap().len() > 3000,
                "{what}"
            );
            write(&directory, &format!("in/{name}"), &now_is);
            let after = read_twice(&mut *source, &now);
            match options == OPTIONS {
                true => {
                    let error = after.unwrap_err();
                    assert!(error.contains(message), "{what}: {error}");
                    assert!(error.contains("its input has changed"), "{what}: {error}");
                }
                false => assert_eq!(after, Ok(vec![]), "{what}"),
            }
        }
    }
    // What was appended, touched or removed is no change of what was read.
    let (factory, now) = watching(&directory, OPTIONS);
    write(&directory, "in/a", &content("1\n"));
    let mut source = create(&factory, None);
    read_twice(&mut *source, &now).unwrap();
    write(
        &directory,
        "in/a",
        &[content("1\n"), b"more\n".to_vec()].concat(),
    );
    assert_eq!(read_twice(&mut *source, &now), Ok(vec![]));
    fs::remove_file(directory.path().join("in/a")).unwrap();
    assert_eq!(read_twice(&mut *source, &now), Ok(vec![]));
    // Under the name of one that was read nothing is read again.
    write(&directory, "in/a", &content("1\n"));
    assert_eq!(read_twice(&mut *source, &now), Ok(vec![]));
}

#[test]
fn c124_odd_names_keep_nobody_from_the_others() {
    use std::os::unix::ffi::OsStrExt as _;
    let directory = TempDir::new().unwrap();
    fs::create_dir_all(directory.path().join("in")).unwrap();
    for path in ["in/*.txt", "in/**/*.txt", "in"] {
        let options = OPTIONS.replace("in/*", path);
        let (factory, now) = watching(&directory, &options);
        let mut source = create(&factory, None);
        read_twice(&mut *source, &now).unwrap();
        // No text, of the kind that is looked for and hidden; named like the pattern itself.
        for odd in [&b"in/a\xff.txt"[..], b"in/.\xff.txt", b"in/*.txt"] {
            let odd = directory.path().join(std::ffi::OsStr::from_bytes(odd));
            fs::write(odd, b"odd\n").unwrap();
        }
        write(&directory, "in/b.txt", b"b\n");
        let mut found = read_twice(&mut *source, &now).unwrap();
        found.sort_unstable();
        assert_eq!(found, ["b", "odd"], "{path}");
        // A job is prepared beside them, too.
        watching(&directory, &options);
        for entry in fs::read_dir(directory.path().join("in")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    // Without `watch` what cannot be read is refused, and nothing panics.
    let odd = directory
        .path()
        .join(std::ffi::OsStr::from_bytes(b"in/a\xff.txt"));
    fs::write(odd, b"odd\n").unwrap();
    write(&directory, "in/b.txt", b"b\n");
    let plain = |path: &str| {
        prepare(
            &directory,
            &format!("path = \"{path}\"\nformat = \"lines\""),
        )
    };
    assert!(plain("in").err().unwrap()[0].contains("is not UTF-8"));
    assert!(plain("in/*").is_ok());
}

#[test]
fn c148_what_is_gone_for_a_moment_is_waited_for() {
    let directory = TempDir::new().unwrap();
    write(&directory, "in/a", b"1\n2\n");
    let (factory, now) = watching(&directory, OPTIONS);
    now.store(i64::MAX / 2_000_000, Ordering::SeqCst);
    let factory_again = watching(&directory, OPTIONS).0;
    drop(factory_again);
    let mut source = create(&factory, None);
    let parts = {
        let mut batch = Batch::default();
        (1..Batch::TARGET_RECORDS).for_each(|_| batch.push(None, b"", 0));
        for _ in 0..3 {
            source.poll(&mut batch).unwrap();
            now.fetch_add(EVERY, Ordering::SeqCst);
        }
        through_json(&source.snapshot().unwrap())
    };
    let away = directory.path().join("away");
    fs::rename(directory.path().join("in"), &away).unwrap();
    // Of a start it is a difference; of a restart it may be back the next time.
    let changed = factory.compare("tested", &parts).unwrap_err();
    assert_eq!(changed.differences, ["`in/a` is gone"]);
    let mut again = context(0, 1);
    again.attempt = 1;
    let error = factory.create(&again, Some(&parts)).err().unwrap();
    assert!(InputChanged::find(&*error).is_none(), "{error}");
    assert_eq!(error.to_string(), "its input is not there: `in/a` is gone");
    fs::rename(&away, directory.path().join("in")).unwrap();
    assert!(factory.create(&again, Some(&parts)).is_ok());
}

#[test]
fn c124_the_end_of_all_files_is_not_the_end_of_time() {
    let directory = TempDir::new().unwrap();
    let options = "path = \"in/*\"\nformat = \"json-lines\"\nwatch = \"10s\"\n\
                   timestamp = { field = \"t\", format = \"unix-ms\" }\n\
                   watermark = { out-of-orderness = \"1s\", idle = \"30s\" }";
    let (factory, now) = watching(&directory, options);
    let mut source = create(&factory, None);
    let at = |time: i64| format!("{{\"t\":{time}}}\n").into_bytes();
    write(&directory, "in/a", &at(50_000));
    read_twice(&mut *source, &now).unwrap();
    assert_eq!(source.watermark(), Some(48_999));
    assert!(!source.is_idle());
    // An earlier one does not take it back, and a later one takes it on.
    write(&directory, "in/b", &at(20_000));
    write(&directory, "in/c", &at(90_000));
    read_twice(&mut *source, &now).unwrap();
    assert_eq!(source.watermark(), Some(88_999));
    let parts = through_json(&source.snapshot().unwrap());
    for _ in 0..4 {
        now.fetch_add(EVERY, Ordering::SeqCst);
        read(&mut *source).unwrap();
    }
    assert!(source.is_idle());
    write(&directory, "in/d", &at(91_000));
    read_twice(&mut *source, &now).unwrap();
    assert!(!source.is_idle());
    // What had come so far is known after a restore, though its files are done.
    let mut restored = create(&factory, Some(&parts));
    let mut batch = Batch::default();
    restored.poll(&mut batch).unwrap();
    assert_eq!(restored.watermark(), Some(88_999));
}

#[test]
fn c124_what_is_wrong_is_said_before_the_start() {
    let directory = TempDir::new().unwrap();
    let problems = |options: &str| prepare(&directory, options).err().unwrap();
    assert_eq!(
        problems("path = \"in/*\"\nformat = \"lines\"\nwatch = \"1ms\""),
        ["`watch`: must be at least 100ms"]
    );
    assert_eq!(
        problems("path = \"in/*\"\nformat = \"csv\"\nwatch = \"1s\""),
        [
            "`path`: there is no file yet that says which columns there are; hint: the first file, or one with nothing but a \
          header line, has to be there at the start"
        ]
    );
    let aligned = format!(
        "{}\nwatch = \"1s\"\ntimestamp = {{ field = \"t\" }}\n\
         watermark = {{ out-of-orderness = \"1s\", max-drift = \"1s\" }}",
        "path = \"in/*\"\nformat = \"json-lines\""
    );
    assert_eq!(
        problems(&aligned),
        [
            "`watermark.max-drift`: has no meaning here: with `watch` files are read as they come, and none waits for one that \
          has not come yet; hint: leave it out"
        ]
    );
}
