use tempfile::TempDir;

use super::*;

/// A disk whose root is a directory of its own, and steps on it.
struct Scene {
    directory: TempDir,
    disk: Disk,
}

impl Scene {
    fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let disk = Disk::new(directory.path(), &Remains::new());
        Self { directory, disk }
    }

    fn at(&self, name: &str) -> PathBuf {
        let root = self.directory.path().canonicalize();
        root.expect("it is there").join(name)
    }

    fn open(&mut self, fd: i32, name: &str, created: bool) {
        let path = self.at(name);
        self.disk.apply(&Step::Open {
            fd,
            path,
            created,
            cut: false,
        });
    }

    fn write(&mut self, fd: i32, at: usize, text: &str) {
        let bytes = text.as_bytes().to_vec();
        self.disk.apply(&Step::Write { fd, at, bytes });
    }

    fn flush(&mut self, fd: i32) {
        self.disk.apply(&Step::Flush { fd });
    }

    fn rename(&mut self, from: &str, to: &str) {
        let (from, to) = (self.at(from), self.at(to));
        self.disk.apply(&Step::Rename { from, to });
    }

    /// Whatever a power loss may leave, as `name=content` with a slash for a directory.
    fn possible(&self) -> BTreeSet<String> {
        // What a linear congruential generator draws is random enough for this.
        let mut state = 7_u64;
        let mut draw = |bound| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % bound
        };
        let drawn = (0..200).map(|_| self.disk.remains(Unflushed::Drawn(&mut draw)));
        drawn.map(shown).collect()
    }

    fn lost(&self) -> String {
        shown(self.disk.remains(Unflushed::Lost))
    }
}

fn shown(remains: Remains) -> String {
    let shown = remains.into_iter().map(|(path, content)| match content {
        None => format!("{}/", path.display()),
        Some(content) => format!("{}={}", path.display(), String::from_utf8_lossy(&content)),
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_file_needs_a_flush_and_its_name_another() {
    let mut scene = Scene::new();
    scene.open(3, "a", true);
    scene.write(3, 0, "1");
    assert_eq!(scene.possible(), set(&["", "a=", "a=1"]));
    scene.flush(3);
    assert_eq!(scene.possible(), set(&["", "a=1"]));
    assert_eq!(scene.lost(), "");
    scene.open(4, "", false);
    scene.flush(4);
    assert_eq!(scene.possible(), set(&["a=1"]));
    scene.write(3, 2, "3");
    assert_eq!(scene.possible(), set(&["a=1", "a=1\x003"]));
    let path = scene.at("a");
    scene.disk.apply(&Step::Unlink { path });
    assert!(scene.possible().contains(""));
    assert_eq!(scene.lost(), "a=1");
}

#[test]
fn a_rename_loses_no_file_and_may_leave_both_names() {
    let mut scene = Scene::new();
    let path = scene.at("d");
    scene.disk.apply(&Step::MakeDirectory { path });
    scene.open(3, "a", true);
    scene.write(3, 0, "1");
    scene.flush(3);
    scene.open(4, "", false);
    scene.flush(4);
    scene.rename("a", "d/b");
    assert_eq!(
        scene.possible(),
        set(&["a=1 d/", "a=1 d/ d/b=1", "d/ d/b=1"])
    );
    scene.flush(4);
    assert_eq!(scene.possible(), set(&["d/ d/b=1"]), "the old name is gone");
}

#[test]
fn a_file_that_was_renamed_before_it_was_flushed_is_empty() {
    let mut scene = Scene::new();
    scene.open(3, "a", true);
    scene.write(3, 0, "1");
    scene.rename("a", "b");
    scene.open(4, "", false);
    scene.flush(4);
    assert_eq!(scene.lost(), "b=");
    assert_eq!(scene.possible(), set(&["b=", "b=1"]));
}

#[test]
fn a_directory_is_there_when_that_above_it_was_flushed() {
    let mut scene = Scene::new();
    let path = scene.at("d");
    scene.disk.apply(&Step::MakeDirectory { path });
    scene.open(3, "d/a", true);
    scene.open(4, "d", false);
    scene.flush(4);
    assert_eq!(scene.lost(), "");
    scene.open(5, "", false);
    scene.flush(5);
    assert_eq!(scene.lost(), "d/ d/a=");
}
