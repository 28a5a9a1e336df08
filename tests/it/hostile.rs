//! Checkpoints that were made to deceive, or put together by hand: every checksum is right, and what
//! they say is not. Conformance 145, 146.
//!
//! Method: a job leaves real checkpoints; the metadata of the newest is taken apart, changed and put
//! together again with a right checksum, by this file's own reading of the format. Then everything that
//! a user can do with it is done, and everything around it must be as it was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::host::{self, Ended};
use crate::jobs;
use crate::oracle::{self, assert_same_lines};
use crate::scene::Scene;

/// Bytes of `_metadata` before the body.
const BODY_AT: usize = 20;

/// A `_metadata` taken apart.
pub(crate) struct Envelope {
    /// Magic and version.
    pub(crate) start: Vec<u8>,
    pub(crate) body: Value,
    pub(crate) inline: Vec<u8>,
}

impl Envelope {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("metadata can be read");
        let number = |at: usize| {
            let bytes = bytes[at..at + 8].try_into().expect("eight bytes");
            usize::try_from(u64::from_le_bytes(bytes)).expect("a length")
        };
        let body_end = BODY_AT + number(12);
        let inline_at = body_end + 8;
        Self {
            start: bytes[..12].to_vec(),
            body: serde_json::from_slice(&bytes[BODY_AT..body_end]).expect("the body is JSON"),
            inline: bytes[inline_at..inline_at + number(body_end)].to_vec(),
        }
    }

    fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).expect("metadata can be written");
    }

    /// The whole, with its checksum.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let body = serde_json::to_vec(&self.body).expect("JSON can be written");
        let mut bytes = self.start.clone();
        for part in [&body, &self.inline] {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        bytes.extend(crc32c(&bytes).to_le_bytes());
        bytes
    }
}

/// CRC-32C, bit by bit.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// A job with a few retained checkpoints, of 2 subtasks with state in files.
struct Victim {
    scene: Scene,
    /// The newest one's number.
    newest: u64,
    pristine: BTreeMap<PathBuf, Found>,
}

/// What is at a path.
#[derive(PartialEq, Eq)]
enum Found {
    Bytes(Vec<u8>),
    Link(PathBuf),
}

impl Victim {
    fn new() -> Self {
        let scene = Scene::new();
        scene.input(&oracle::bible(), 16, "txt");
        scene.write("job.toml", jobs::word_count("victim"));
        let arguments = [
            "run",
            "job.toml",
            "-p",
            "2",
            "-D",
            "job.id=victim",
            "-D",
            "checkpoint.interval=10ms",
            "-D",
            "checkpoint.retained=3",
            "-D",
            "checkpoint.inline-threshold=0B",
        ];
        // Suspended in the middle, so that there is something to resume.
        let mut running = host::start(scene.path(), &arguments);
        running.checkpoints(4);
        running.signal("TERM");
        let ended = running.wait().with_code(0);
        let newest = ended.completions().pop().expect("one is complete").id;
        assert!(newest > 2, "{}", ended.transcript());
        for canary in [
            "secret/id_rsa",
            "checkpoints/thesis/final.odt",
            "checkpoints/other-job/chk-3/_metadata",
            "checkpoints/victim/notes.txt",
        ] {
            scene.write(canary, "canary");
        }
        let link = scene.at(&format!("checkpoints/victim/chk-{newest}/link"));
        symlink(scene.at("secret"), link).expect("links can be made");
        let mut victim = Self {
            scene,
            newest,
            pristine: BTreeMap::new(),
        };
        victim.pristine = victim.tree();
        victim
    }

    fn chk(&self) -> String {
        format!("checkpoints/victim/chk-{}", self.newest)
    }

    fn metadata(&self) -> PathBuf {
        self.scene.at(&self.chk()).join("_metadata")
    }

    /// The newest checkpoint with another body.
    fn change(&self, change: &dyn Fn(&mut Value)) {
        let mut envelope = Envelope::read(&self.metadata());
        change(&mut envelope.body);
        envelope.write(&self.metadata());
    }

    /// Everything beneath the scene but who owns a directory, links not followed.
    fn tree(&self) -> BTreeMap<PathBuf, Found> {
        let mut tree = BTreeMap::new();
        walk(self.scene.path(), &mut tree);
        tree.retain(|path, _| !path.components().any(|part| part.as_os_str() == "_lease"));
        tree
    }

    /// Makes everything as it was, for the next case.
    fn heal(&self) {
        for path in self.tree().into_keys() {
            fs::remove_file(path).expect("a file can be removed");
        }
        for (path, found) in &self.pristine {
            fs::create_dir_all(path.parent().expect("it is in a directory")).expect("directories");
            match found {
                Found::Bytes(bytes) => fs::write(path, bytes).expect("a file can be written"),
                Found::Link(to) => symlink(to, path).expect("links can be made"),
            }
        }
    }

    fn host(&self, arguments: &[&str]) -> Ended {
        host::run(self.scene.path(), arguments)
    }

    /// Everything that can be done with the newest checkpoint ends with this code, and changes nothing
    /// at all. `opens`: whether its metadata alone is nothing to complain about.
    fn refused(&self, case: &str, code: i32, opens: bool) {
        let before = self.tree();
        let chk = self.chk();
        let older = format!("checkpoints/victim/chk-{}", self.newest - 1);
        let mut commands = vec![
            vec!["checkpoints", "verify", &chk],
            vec!["checkpoints", "export", &chk],
            vec!["checkpoints", "diff", &older, &chk],
            vec!["run", "job.toml", "-D", "job.id=new", "-s", &chk],
            vec![
                "run",
                "job.toml",
                "-D",
                "job.id=new",
                "-s",
                &chk,
                "--claim-mode",
                "claim",
            ],
            vec!["run", "job.toml", "--resume"],
        ];
        if !opens {
            commands.push(vec!["checkpoints", "show", &chk]);
        }
        for command in &commands {
            let ended = self.host(command);
            assert_eq!(
                ended.status.code(),
                Some(code),
                "{case}: {command:?}\n{}",
                ended.transcript()
            );
            let panicked = ended
                .stderr
                .lines()
                .any(|line| line.starts_with("thread '"));
            assert!(!panicked, "{case}: {}", ended.transcript());
        }
        self.same(case, &before);
        let gc = ["checkpoints", "gc", "checkpoints", "--older-than", "0s"];
        self.host(&gc).with_code(0);
        // What a checkpoint that cannot be read may need stays.
        if !opens {
            self.same(case, &before);
        }
    }

    fn same(&self, case: &str, before: &BTreeMap<PathBuf, Found>) {
        let after = self.tree();
        for (path, found) in before {
            assert!(
                after.get(path) == Some(found),
                "{case}: {} was touched",
                path.display()
            );
        }
        // A run that is refused may leave a log or an empty place, but nothing that was there goes.
        let new: Vec<_> = after
            .keys()
            .filter(|path| !before.contains_key(*path))
            .collect();
        assert!(new.is_empty(), "{case}: {new:?} came to be");
    }
}

fn walk(directory: &Path, tree: &mut BTreeMap<PathBuf, Found>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a kind");
        if kind.is_symlink() {
            let to = fs::read_link(&path).expect("a link");
            tree.insert(path, Found::Link(to));
        } else if kind.is_dir() {
            walk(&path, tree);
        } else {
            let bytes = fs::read(&path).expect("a file");
            tree.insert(path, Found::Bytes(bytes));
        }
    }
}

/// The operator with state.
fn count(body: &mut Value) -> &mut Value {
    body["operators"]
        .as_array_mut()
        .expect("operators")
        .iter_mut()
        .find(|operator| operator["id"] == "count")
        .expect("`count`")
}

fn segments(body: &mut Value, subtask: usize) -> &mut Value {
    &mut count(body)["subtasks"][subtask]["segments"]
}

#[test]
fn c145_what_a_checkpoint_references_is_its_own_data_or_it_is_refused() {
    let victim = Victim::new();
    let path = victim.scene.at("secret/id_rsa").display().to_string();
    for file in [
        "../../thesis/final.odt",
        "link/id_rsa",
        "../../other-job/chk-3/_metadata",
        "../notes.txt",
        "_metadata",
        "../_lease/1",
        "../../../secret/id_rsa",
        "../../../../../../../../etc/passwd",
        &path,
        "",
        ".",
        "..",
        "a#1",
        "../shared/r1-c1-0.state#1",
        "..\\..\\thesis\\final.odt",
        "../shared/\0",
        // The data of another job, which is that of another checkpoint.
        "../../other-job/shared/r1-c999999-0.state",
    ] {
        victim.change(&|body| segments(body, 0)[0]["file"] = json!(file));
        victim.refused(file, 3, false);
        victim.heal();
    }
    // The number fits, so it may be; and is not.
    let written_by =
        segments(&mut Envelope::read(&victim.metadata()).body, 0)[0]["written-by"].clone();
    let file = format!("../../other-job/shared/r1-c{written_by}-0.state");
    victim.change(&|body| segments(body, 0)[0]["file"] = json!(file));
    let canary = format!("checkpoints/other-job/shared/r1-c{written_by}-0.state");
    victim.scene.write(&canary, "canary");
    victim.refused(&file, 3, true);
    assert_eq!(
        fs::read(victim.scene.at(&canary)).expect("it is there"),
        b"canary"
    );
}

#[test]
fn c145_what_has_the_name_of_data_is_read_through_no_link_and_deleted_through_none() {
    let victim = Victim::new();
    let chk = victim.scene.at(&victim.chk());
    let shared = victim.scene.at("checkpoints/victim/shared");
    let secret = victim.scene.at("secret");
    let first = Envelope::read(&victim.metadata());
    let mut body = first.body.clone();
    let file = segments(&mut body, 0)[0]["file"].clone();
    let file = chk.join(file.as_str().expect("the state is in a file"));
    // A data file, all data, the metadata.
    for (link, opens) in [
        (&file, true),
        (&shared, true),
        (&chk.join("_metadata"), false),
    ] {
        let away = secret.join("moved");
        fs::rename(link, &away).expect("it can be moved");
        symlink(&away, link).expect("links can be made");
        let case = link.display().to_string();
        let before = victim.tree();
        let place = victim.chk();
        let claim = [
            "run",
            "job.toml",
            "-D",
            "job.id=new",
            "-s",
            &place,
            "--claim-mode",
            "claim",
        ];
        for command in [
            &["checkpoints", "verify", &place][..],
            &["checkpoints", "export", &place],
            &claim,
        ] {
            victim
                .host(command)
                .with_code(3)
                .without_link_followed(&case);
        }
        let gc = ["checkpoints", "gc", "checkpoints", "--older-than", "0s"];
        victim.host(&gc);
        if !opens {
            victim.same(&case, &before);
        }
        for (path, found) in before.iter().filter(|(path, _)| path.starts_with(&secret)) {
            assert!(
                victim.tree().get(path) == Some(found),
                "{case}: {}",
                path.display()
            );
        }
        fs::remove_file(link).expect("a link can be removed");
        fs::rename(&away, link).expect("it can be moved back");
        victim.heal();
    }
    // A link to a whole checkpoint is one to what is elsewhere: the newest is not stepped over in silence.
    let away = secret.join("chk");
    fs::rename(&chk, &away).expect("it can be moved");
    symlink(&away, &chk).expect("links can be made");
    victim
        .host(&["run", "job.toml", "--resume"])
        .with_code(3)
        .saying(&["symbolic link"]);
    let list = ["checkpoints", "list", "checkpoints"];
    let listed = victim.host(&list).with_code(0);
    assert!(
        listed.stdout.contains("symbolic link"),
        "{}",
        listed.transcript()
    );
}

impl Ended {
    fn without_link_followed(self, case: &str) -> Self {
        let said = self.transcript();
        assert!(said.contains("symbolic link"), "{case}: {said}");
        self
    }
}

#[test]
fn c146_metadata_that_contradicts_itself_is_refused_everywhere() {
    let victim = Victim::new();
    type Change = fn(&mut Value);
    let cases: [(&str, i32, Change); 22] = [
        ("id", 3, |it| it["id"] = json!(999)),
        ("id before its previous", 3, |it| {
            it["previous"] = it["id"].clone()
        }),
        ("no key groups", 3, |it| it["key-groups"] = json!(0)),
        ("too many key groups", 3, |it| {
            it["key-groups"] = json!(1 << 20)
        }),
        ("another hash", 2, |it| it["key-hash"] = json!("murmur3-32")),
        ("a time before all", 3, |it| it["triggered-at"] = json!(-1)),
        ("a time after all", 3, |it| {
            it["triggered-at"] = json!(i64::MAX)
        }),
        ("an endless time", 3, |it| {
            it["duration-ms"] = json!(u64::MAX)
        }),
        ("no parallelism", 3, |it| {
            count(it)["parallelism"] = json!(0)
        }),
        ("fewer subtasks", 3, |it| {
            count(it)["parallelism"] = json!(3)
        }),
        ("more subtasks", 3, |it| count(it)["parallelism"] = json!(1)),
        ("a huge parallelism", 3, |it| {
            count(it)["parallelism"] = json!(u32::MAX);
        }),
        ("an operator twice", 3, |it| {
            let copy = count(it).clone();
            it["operators"].as_array_mut().expect("a list").push(copy);
        }),
        ("a state twice", 3, |it| {
            let states = count(it)["states"].as_array_mut().expect("a list");
            states.extend(states.first().cloned());
        }),
        ("a state of no kind", 3, |it| {
            count(it)["states"][0]["kind"] = json!("queue");
        }),
        ("no states", 3, |it| count(it)["states"] = json!([])),
        ("more entries than can be", 3, |it| {
            count(it)["states"][0]["entries"] = json!(u64::MAX);
        }),
        ("an input that ended twice", 3, |it| {
            count(it)["subtasks"][0]["ended-inputs"] = json!([0, 0]);
        }),
        ("a segment used twice", 3, |it| {
            *segments(it, 1) = segments(it, 0).clone();
        }),
        ("a segment without an end", 3, |it| {
            segments(it, 0)[0]["length"] = json!(u64::MAX);
        }),
        ("a segment of another checkpoint", 3, |it| {
            segments(it, 0)[0]["written-by"] = json!(1_u64 << 40);
        }),
        ("a savepoint that is not self-contained", 3, |it| {
            it["kind"] = json!("savepoint");
        }),
    ];
    for (case, code, change) in cases {
        victim.change(&change);
        victim.refused(case, code, false);
        victim.heal();
    }
}

#[test]
fn c146_segments_that_contradict_the_metadata_are_found_by_all_who_read_them() {
    let victim = Victim::new();
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 7] = [
        ("segments of two subtasks swapped", |it| {
            let [first, second] = [0, 1].map(|subtask| segments(it, subtask).clone());
            *segments(it, 0) = second;
            *segments(it, 1) = first;
        }),
        ("another number of key groups", |it| {
            it["key-groups"] = json!(64)
        }),
        ("another parallelism", |it| {
            let count = count(it);
            count["parallelism"] = json!(3);
            let subtasks = count["subtasks"].as_array_mut().expect("a list");
            let mut third = subtasks[0].clone();
            third["segments"] = json!([]);
            subtasks.push(third);
        }),
        ("another kind of state", |it| {
            count(it)["states"][0]["kind"] = json!("list");
        }),
        ("another state", |it| {
            count(it)["states"][0]["name"] = json!("other");
        }),
        ("another form", |it| {
            let first = &mut segments(it, 0)[0];
            let delta = first["delta"].as_bool().expect("a flag");
            first["delta"] = json!(!delta);
        }),
        ("beyond the end of its file", |it| {
            let segments = segments(it, 0).as_array_mut().expect("a list");
            let last = segments.last_mut().expect("one");
            last["offset"] = json!(1_u64 << 40);
        }),
    ];
    for (case, change) in cases {
        victim.change(&change);
        let chk = victim.chk();
        for command in [
            &["checkpoints", "verify", &chk][..],
            &["checkpoints", "export", &chk],
        ] {
            let ended = victim.host(command);
            assert_eq!(
                ended.status.code(),
                Some(3),
                "{case}: {command:?}\n{}",
                ended.transcript()
            );
        }
        let before = victim.tree();
        let run = victim.host(&["run", "job.toml", "-s", &chk, "-D", "job.id=new"]);
        // What the job declares is compared first, and is reported of the job.
        let of_the_job = ["another kind of state", "another state"];
        let expected = if of_the_job.contains(&case) { 2 } else { 3 };
        assert_eq!(
            run.status.code(),
            Some(expected),
            "{case}: {}",
            run.transcript()
        );
        let after = victim.tree();
        for (path, found) in &before {
            assert!(after.get(path) == Some(found), "{case}: {}", path.display());
        }
        victim.heal();
    }
}

#[test]
fn c146_a_checkpoint_under_the_number_of_another_is_refused() {
    let victim = Victim::new();
    let copy = |from: &str, to: &str| {
        for file in fs::read_dir(victim.scene.at(from))
            .expect("a checkpoint")
            .flatten()
        {
            if file.path().is_file() {
                let bytes = fs::read(file.path()).expect("a file");
                let name = file.file_name().into_string().expect("a name");
                victim.scene.write(&format!("{to}/{name}"), bytes);
            }
        }
    };
    let (newest, older) = (
        victim.chk(),
        format!("checkpoints/victim/chk-{}", victim.newest - 1),
    );
    let next = format!("checkpoints/victim/chk-{}", victim.newest + 50);
    for (from, to) in [(&newest, &next), (&older, &newest)] {
        copy(from, to);
        for command in [
            &["checkpoints", "verify", "checkpoints/victim"][..],
            &["checkpoints", "show", to],
            &["run", "job.toml", "-s", to],
            &["run", "job.toml", "--resume"],
        ] {
            victim.host(command).with_code(3);
        }
        fs::remove_dir_all(victim.scene.at(to)).expect("it can be removed");
        victim.heal();
    }
}

#[test]
fn c146_what_was_only_renamed_or_written_again_is_as_good_as_before() {
    let victim = Victim::new();
    let expected = oracle::word_count(&victim.scene.at("input"));
    // The tool of these tests changes nothing by itself.
    victim.change(&|_| {});
    let verify = ["checkpoints", "verify", "checkpoints/victim"];
    victim.host(&verify).with_code(0);
    let renamed = "checkpoints/victim/keep-me";
    fs::rename(victim.scene.at(&victim.chk()), victim.scene.at(renamed))
        .expect("it can be renamed");
    for command in [
        &["checkpoints", "verify", renamed][..],
        &["checkpoints", "show", renamed],
        &["checkpoints", "export", renamed],
    ] {
        victim.host(command).with_code(0);
    }
    victim
        .host(&["run", "job.toml", "-s", renamed, "-D", "job.id=new"])
        .with_code(0)
        .saying(&["restoring from checkpoint"]);
    assert_same_lines(
        &victim.scene.output("out"),
        &expected,
        "from a renamed checkpoint",
    );
}

#[test]
fn c146_a_later_format_is_told_alike_by_all_commands() {
    let victim = Victim::new();
    let mut envelope = Envelope::read(&victim.metadata());
    envelope.start[8..12].copy_from_slice(&99_u32.to_le_bytes());
    envelope.write(&victim.metadata());
    victim.refused("a later format", 2, false);
}
