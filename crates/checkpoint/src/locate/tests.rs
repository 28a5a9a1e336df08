use std::fs;
use std::path::PathBuf;

use super::*;
use crate::CheckpointStore;
use crate::fixture::{filed, metadata, segment, take, take_as};
use crate::store::Options;
use crate::verify;

const JOB: &str = "wordcount";

/// The job's id.
const ID: &str = "wordcount-1";

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn dir(&self) -> String {
        self.0.path().to_str().unwrap().to_owned()
    }

    fn store(&self, job_id: &str) -> CheckpointStore {
        let options = Options {
            retained: 20,
            ..filed()
        };
        CheckpointStore::open(&self.dir(), job_id, options).unwrap()
    }

    /// Takes checkpoints of job `wordcount`, complete at the second of their number.
    fn take(&self, job_id: &str, ids: &[u64]) {
        let store = self.store(job_id);
        for id in ids {
            take(&store, *id, &[(None, segment(*id, 0, 1))]).unwrap();
        }
    }

    /// Takes one of another job, complete at a second.
    fn take_of(&self, job_id: &str, job_name: &str, id: u64, second: i64) {
        let mut metadata = metadata(id, 1);
        metadata.job_name = job_name.to_owned();
        metadata.triggered_at = 1_700_000_000_000 + second * 1000;
        take_as(&self.store(job_id), metadata, &[(None, segment(id, 0, 1))]).unwrap();
    }

    fn damage(&self, name: &str) {
        let path = self.path(name);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    }

    fn locate(&self, spec: &str) -> Result<String> {
        locate(spec, Some(&self.dir()), ID).map(|located| self.name(&located.checkpoint))
    }

    /// A checkpoint's directory, relative to the root.
    fn name(&self, checkpoint: &Completed) -> String {
        let path = PathBuf::from(checkpoint.path().unwrap());
        let root = fs::canonicalize(self.0.path()).unwrap();
        let directory = path.parent().unwrap().strip_prefix(root).unwrap();
        directory.to_str().unwrap().to_owned()
    }

    fn not_found(&self, spec: &str) -> String {
        match self.locate(spec) {
            Err(Error::NotFound(message)) => message,
            other => panic!("{spec}: {other:?}"),
        }
    }
}

#[test]
fn c37_every_way_to_name_a_checkpoint() {
    let root = Root::new();
    root.take("wordcount-1", &[8, 9, 10]);
    for spec in [
        "wordcount-1/chk-9/_metadata",
        "wordcount-1/chk-9",
        "wordcount-1/chk-9/",
        "wordcount-1/shared/../chk-9//",
    ] {
        assert_eq!(
            root.locate(&root.path(spec)).unwrap(),
            "wordcount-1/chk-9",
            "{spec}"
        );
    }
    for spec in ["wordcount-1", "wordcount-1/"] {
        assert_eq!(
            root.locate(&root.path(spec)).unwrap(),
            "wordcount-1/chk-10",
            "{spec}"
        );
    }
    assert_eq!(root.locate("latest").unwrap(), "wordcount-1/chk-10");
    for url in ["file://", "file:"] {
        let spec = format!("{url}{}", root.path("wordcount-1/chk-9"));
        assert_eq!(root.locate(&spec).unwrap(), "wordcount-1/chk-9", "{spec}");
    }
    let as_url = format!("file://{}", root.dir());
    let located = locate("latest", Some(&as_url), ID).unwrap();
    assert_eq!(root.name(&located.checkpoint), "wordcount-1/chk-10");
}

#[test]
fn c37_relative_paths_and_percent_encoding() {
    let root = Root::new();
    root.take("word count-1", &[3]);
    let spec = format!("file://{}/word%20count-1/chk-3", root.dir());
    assert_eq!(root.locate(&spec).unwrap(), "word count-1/chk-3");
    let up = "../".repeat(std::env::current_dir().unwrap().components().count() - 1);
    let relative = format!(
        "{up}{}",
        root.path("word count-1/chk-3").trim_start_matches('/')
    );
    assert_eq!(root.locate(&relative).unwrap(), "word count-1/chk-3");
}

#[test]
fn c37_each_refusal_has_its_own_message() {
    let root = Root::new();
    root.take("wordcount-1", &[8, 9, 10, 11]);
    let real = fs::canonicalize(root.0.path()).unwrap();
    let real = |name: &str| real.join(name).display().to_string();
    let nearest = format!(
        "; the nearest that do exist: {}, {}, {}",
        real("wordcount-1/chk-11"),
        real("wordcount-1/chk-10"),
        real("wordcount-1/chk-9")
    );
    for (spec, expected) in [
        ("wordcount-1/chk-7", "does not exist"),
        ("wordcount-1/chk-7/_metadata", "does not exist"),
        ("wordcount-2", "does not exist"),
        ("wordcount-1/shared", "no completed checkpoint in"),
        ("", "no completed checkpoint in"),
    ] {
        let message = root.not_found(&root.path(spec));
        assert!(message.contains(expected), "{message}");
        assert!(message.ends_with(&nearest), "{message}");
    }
    fs::write(root.path("wordcount-1/chk-11/notes"), "").unwrap();
    let message = root.not_found(&root.path("wordcount-1/chk-11/notes"));
    assert!(message.contains("is not checkpoint metadata"), "{message}");
    for (spec, expected) in [
        ("", "is empty"),
        #[cfg(not(feature = "gcs"))]
        ("gs://bucket/job", "which this program was built without"),
        ("ftp://host/job", "unknown scheme `ftp`"),
    ] {
        match root.locate(spec) {
            Err(Error::Incompatible(message)) => assert!(message.contains(expected), "{message}"),
            other => panic!("{spec}: {other:?}"),
        }
    }
    let error = locate("latest", None, JOB).unwrap_err();
    assert!(error.to_string().contains("`checkpoint.dir`"), "{error}");
}

#[test]
fn latest_is_the_newest_in_the_jobs_own_directory() {
    let root = Root::new();
    root.take_of("wordcount-1", JOB, 7, 100);
    // A job of the same name has a directory of its own, and so has one of another name.
    root.take_of("wordcount-2", JOB, 2, 200);
    root.take_of("other-1", "other", 9, 300);
    assert_eq!(root.locate("latest").unwrap(), "wordcount-1/chk-7");
    let located = locate("latest", Some(&root.dir()), "other-1").unwrap();
    assert_eq!(root.name(&located.checkpoint), "other-1/chk-9");
    let error = locate("latest", Some(&root.dir()), "third").unwrap_err();
    assert!(matches!(error, Error::NotFound(_)));
    assert!(
        error
            .to_string()
            .ends_with("(there are some in `other-1`, `wordcount-1`, `wordcount-2`)"),
        "{error}"
    );
    let error = locate("latest", Some(&root.path("none")), ID).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
}

#[test]
fn c10_a_half_written_checkpoint_is_never_accepted() {
    let root = Root::new();
    root.take("wordcount-1", &[1, 2]);
    fs::create_dir(root.path("wordcount-1/chk-3")).unwrap();
    fs::write(root.path("wordcount-1/chk-3/_metadata#1"), "half").unwrap();
    assert_eq!(root.locate("latest").unwrap(), "wordcount-1/chk-2");
    assert_eq!(
        root.locate(&root.path("wordcount-1")).unwrap(),
        "wordcount-1/chk-2"
    );
    let message = root.not_found(&root.path("wordcount-1/chk-3"));
    assert!(message.contains("no completed checkpoint"), "{message}");
}

#[test]
fn a_damaged_newest_is_refused_not_skipped() {
    let root = Root::new();
    root.take("wordcount-1", &[1, 2, 3]);
    root.take_of("other-1", "other", 9, 300);
    root.damage("wordcount-1/chk-3/_metadata");
    for spec in [
        "latest".to_owned(),
        root.path("wordcount-1"),
        root.path("wordcount-1/chk-3"),
    ] {
        match root.locate(&spec) {
            Err(Error::Corrupt { object, .. }) => {
                assert!(object.ends_with("wordcount-1/chk-3/_metadata"), "{object}");
            }
            other => panic!("{spec}: {other:?}"),
        }
    }
    assert_eq!(
        locate("latest", Some(&root.dir()), "other-1")
            .map(|it| root.name(&it.checkpoint))
            .unwrap(),
        "other-1/chk-9",
        "it is not the other job's"
    );
}

#[test]
fn a_damaged_older_one_is_of_no_concern() {
    let root = Root::new();
    root.take("wordcount-1", &[1, 2, 3]);
    root.damage("wordcount-1/chk-2/_metadata");
    assert_eq!(root.locate("latest").unwrap(), "wordcount-1/chk-3");
}

#[test]
fn c15_a_newest_from_the_future_is_incompatible() {
    let root = Root::new();
    root.take("wordcount-1", &[1, 2]);
    let path = root.path("wordcount-1/chk-2/_metadata");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8..12].copy_from_slice(&99_u32.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let error = root.locate("latest").unwrap_err();
    assert!(matches!(error, Error::Incompatible(_)), "{error:?}");
    assert!(error.to_string().contains("format version 99"), "{error}");
}

#[test]
fn c14_fallback_finds_the_newest_good_one_and_says_why_not_the_others() {
    let root = Root::new();
    root.take("wordcount-1", &[1, 2, 3, 4]);
    root.damage("wordcount-1/chk-4/_metadata");
    root.damage("wordcount-1/shared/r1-c3-2.state");
    assert!(root.locate("latest").is_err());
    let fallback = locate_fallback("latest", Some(&root.dir()), ID).unwrap();
    assert_eq!(root.name(&fallback.checkpoint), "wordcount-1/chk-2");
    let rejected: Vec<_> = fallback
        .rejected
        .iter()
        .map(|it| {
            (
                names::leaf(&it.path),
                it.why.contains("_metadata is corrupt"),
                it.why.as_str(),
            )
        })
        .collect();
    assert_eq!(rejected.len(), 2);
    assert!(matches!(rejected[0], ("chk-4", true, _)), "{rejected:?}");
    assert!(
        matches!(rejected[1], ("chk-3", false, why) if why.contains("r1-c3-2.state is corrupt: bytes 0..")),
        "{rejected:?}"
    );
}

#[test]
fn fallback_from_one_stays_in_its_job_directory_and_goes_back_only() {
    let root = Root::new();
    root.take("wordcount-1", &[1, 2, 3, 4]);
    root.take("wordcount-2", &[5]);
    root.damage("wordcount-1/chk-3/_metadata");
    let fallback = locate_fallback(&root.path("wordcount-1/chk-3"), None, JOB).unwrap();
    assert_eq!(root.name(&fallback.checkpoint), "wordcount-1/chk-2");
    assert_eq!(fallback.rejected.len(), 1);
    let good = locate_fallback(&root.path("wordcount-1/chk-4/_metadata"), None, JOB).unwrap();
    assert_eq!(root.name(&good.checkpoint), "wordcount-1/chk-4");
    assert_eq!(good.rejected, []);
    root.damage("wordcount-1/chk-2/_metadata");
    root.damage("wordcount-1/chk-1/_metadata");
    let error = locate_fallback(&root.path("wordcount-1/chk-3"), None, JOB).unwrap_err();
    assert!(
        error.to_string().contains("chk-3/_metadata is corrupt"),
        "{error}"
    );
}

#[test]
fn c16_a_moved_job_directory_is_found_and_whole() {
    let root = Root::new();
    root.take("wordcount-1", &[1, 2]);
    let elsewhere = Root::new();
    let target = elsewhere.path("backup #1 ü");
    fs::rename(root.path("wordcount-1"), &target).unwrap();
    let located = locate(&format!("{target}/chk-2"), None, JOB).unwrap();
    assert!(verify(&located.checkpoint).is_good());
    let latest = locate(&target, None, "").unwrap();
    assert_eq!(elsewhere.name(&latest.checkpoint), "backup #1 ü/chk-2");
}

#[test]
fn c16_a_self_contained_directory_is_a_checkpoint_wherever_it_is() {
    let root = Root::new();
    let options = Options {
        incremental: false,
        ..filed()
    };
    let store = CheckpointStore::open(&root.dir(), "wordcount-1", options).unwrap();
    take(
        &store,
        1,
        &[(None, segment(1, 0, 2)), (None, segment(1, 1, 2))],
    )
    .unwrap();
    fs::rename(
        root.path("wordcount-1/chk-1"),
        root.path("savepoint-a-0123"),
    )
    .unwrap();
    for spec in ["savepoint-a-0123", "savepoint-a-0123/_metadata"] {
        let located = locate(&root.path(spec), None, JOB).unwrap();
        assert!(verify(&located.checkpoint).is_good());
    }
}

#[cfg(unix)]
#[test]
fn a_link_leads_to_the_real_checkpoint() {
    let root = Root::new();
    root.take("wordcount-1", &[1]);
    let link = root.path("current");
    std::os::unix::fs::symlink(root.path("wordcount-1/chk-1"), &link).unwrap();
    let located = locate(&link, None, JOB).unwrap();
    assert!(verify(&located.checkpoint).is_good());
}
