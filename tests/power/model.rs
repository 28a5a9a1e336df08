//! A disk that forgets what was not flushed.
//!
//! The model is as pessimistic as POSIX lets a file system be:
//! - The content of a file is as of its last flush. What was written or cut off since then may be there,
//!   change by change, in any choice, a write also in part; what was not written between is zeros.
//! - A name in a directory (made, linked, renamed, removed) is as of the last flush of that directory.
//!   Changes since then may be there in any choice. A flush of a file does not make its name durable, nor
//!   that of a directory its own.
//! - A rename is two changes. The old name does not go while the new one is not there, as no file system
//!   loses a file that it renames; the new one may be there and the old one as well.
//!
//! Not in the model: sectors that rot, disks that lie about a flush, flushes that fail, and file systems
//! that do less than this. Owners, modes, times and locks are no part of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::journal::Step;

/// What a power loss leaves of a directory: each path in it, with the bytes of a file and `None` for a
/// directory.
pub(crate) type Remains = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What becomes of changes that were not flushed.
pub(crate) enum Unflushed<'a> {
    /// None of them is there.
    Lost,
    /// All are, as after the kill of a process.
    Kept,
    /// Some are: this draws a number below another.
    Drawn(&'a mut dyn FnMut(u64) -> u64),
}

/// The number of a file or directory. Never used again, unlike those of a real disk.
type Number = usize;

/// The directory below which the model knows everything.
pub(crate) struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    open: HashMap<i32, Number>,
    renames: usize,
}

enum Node {
    File(File),
    Directory(Directory),
}

#[derive(Default)]
struct File {
    now: Vec<u8>,
    flushed: Vec<u8>,
    since: Vec<Change>,
}

/// A change of a file.
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

#[derive(Default)]
struct Directory {
    now: BTreeMap<String, Number>,
    flushed: BTreeMap<String, Number>,
    since: Vec<Entry>,
}

/// A change of a directory.
struct Entry {
    name: String,
    /// `None`: the name was removed.
    node: Option<Number>,
    /// Which rename it is one half of.
    rename: Option<usize>,
}

/// The root.
const ROOT: Number = 0;

impl Change {
    fn apply(&self, content: &mut Vec<u8>, part: usize) {
        match self {
            Self::Write { at, bytes } => {
                let bytes = &bytes[..part.min(bytes.len())];
                if !bytes.is_empty() {
                    let end = at + bytes.len();
                    if content.len() < end {
                        content.resize(end, 0);
                    }
                    content[*at..end].copy_from_slice(bytes);
                }
            }
            Self::Truncate { length } => content.resize(*length, 0),
        }
    }
}

impl File {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now, usize::MAX);
        self.since.push(change);
    }

    fn remains(&self, unflushed: &mut Unflushed<'_>) -> Vec<u8> {
        match unflushed {
            Unflushed::Lost => self.flushed.clone(),
            Unflushed::Kept => self.now.clone(),
            Unflushed::Drawn(draw) => {
                let mut content = self.flushed.clone();
                for change in &self.since {
                    let part = match draw(3) {
                        0 => continue,
                        1 => draw(4096) as usize,
                        _ => usize::MAX,
                    };
                    change.apply(&mut content, part);
                }
                content
            }
        }
    }
}

impl Directory {
    fn change(&mut self, name: &str, node: Option<Number>, rename: Option<usize>) {
        match node {
            Some(node) => self.now.insert(name.to_owned(), node),
            None => self.now.remove(name),
        };
        self.since.push(Entry {
            name: name.to_owned(),
            node,
            rename,
        });
    }
}

impl Entry {
    fn apply(&self, names: &mut BTreeMap<String, Number>) {
        match self.node {
            Some(node) => names.insert(self.name.clone(), node),
            None => names.remove(&self.name),
        };
    }
}

impl Disk {
    /// A disk with this below a directory, all of it flushed.
    pub(crate) fn new(root: &Path, content: &Remains) -> Self {
        let mut disk = Self {
            root: root.canonicalize().expect("the directory is there"),
            nodes: vec![Node::Directory(Directory::default())],
            open: HashMap::new(),
            renames: 0,
        };
        for (path, content) in content {
            let node = match content {
                None => Node::Directory(Directory::default()),
                Some(content) => Node::File(File {
                    now: content.clone(),
                    flushed: content.clone(),
                    since: Vec::new(),
                }),
            };
            let number = disk.add(node);
            disk.name(&disk.root.join(path), Some(number), None);
        }
        for number in 0..disk.nodes.len() {
            disk.flush(number);
        }
        disk
    }

    /// What a step does.
    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Start => self.open.clear(),
            Step::Open {
                fd,
                path,
                created,
                cut,
            } => {
                if *created {
                    let number = self.add(Node::File(File::default()));
                    self.name(path, Some(number), None);
                }
                let number = self.number(path);
                if *cut {
                    self.file(number).change(Change::Truncate { length: 0 });
                }
                self.open.insert(*fd, number);
            }
            Step::Close { fd } => {
                self.open.remove(fd);
            }
            Step::Duplicate { fd, of } => {
                self.open.insert(*fd, self.open[of]);
            }
            Step::Write { fd, at, bytes } => {
                let (number, bytes) = (self.open[fd], bytes.clone());
                self.file(number).change(Change::Write { at: *at, bytes });
            }
            Step::Truncate { fd, length } => {
                let number = self.open[fd];
                self.file(number)
                    .change(Change::Truncate { length: *length });
            }
            Step::Flush { fd } => self.flush(self.open[fd]),
            Step::Link { from, to } => {
                let number = self.number(from);
                self.name(to, Some(number), None);
            }
            Step::Rename { from, to } => {
                let number = self.number(from);
                self.renames += 1;
                self.name(to, Some(number), Some(self.renames));
                self.name(from, None, Some(self.renames));
            }
            Step::Unlink { path } | Step::RemoveDirectory { path } => self.name(path, None, None),
            Step::MakeDirectory { path } => {
                let number = self.add(Node::Directory(Directory::default()));
                self.name(path, Some(number), None);
            }
            Step::Say { .. } => {}
            Step::Unknown { call } => panic!("the model does not know this call: {call}"),
        }
    }

    fn flush(&mut self, number: Number) {
        match &mut self.nodes[number] {
            Node::File(file) => {
                file.flushed.clone_from(&file.now);
                file.since.clear();
            }
            Node::Directory(directory) => {
                directory.flushed.clone_from(&directory.now);
                let flushed = std::mem::take(&mut directory.since);
                // With an old name that is durably gone, the new one is durable, wherever it is.
                let gone: BTreeSet<usize> = flushed
                    .iter()
                    .filter(|entry| entry.node.is_none())
                    .filter_map(|entry| entry.rename)
                    .collect();
                for node in &mut self.nodes {
                    if let Node::Directory(directory) = node {
                        directory.make_durable(&gone);
                    }
                }
            }
        }
    }

    /// What a power loss leaves now.
    pub(crate) fn remains(&self, mut unflushed: Unflushed<'_>) -> Remains {
        // First the names that came, then those that went.
        let mut lost_renames = BTreeSet::new();
        let mut kept: HashMap<Number, Vec<bool>> = HashMap::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let Node::Directory(directory) = node else {
                continue;
            };
            let choices = directory.since.iter().map(|entry| {
                let keep = match &mut unflushed {
                    Unflushed::Lost => false,
                    Unflushed::Kept => true,
                    Unflushed::Drawn(draw) => draw(2) == 0,
                };
                if !keep && entry.node.is_some() {
                    lost_renames.extend(entry.rename);
                }
                keep
            });
            kept.insert(number, choices.collect());
        }
        let mut remains = Remains::new();
        let mut open = vec![(ROOT, PathBuf::new())];
        while let Some((number, path)) = open.pop() {
            match &self.nodes[number] {
                Node::File(file) => {
                    remains.insert(path, Some(file.remains(&mut unflushed)));
                }
                Node::Directory(directory) => {
                    let mut names = directory.flushed.clone();
                    for (entry, keep) in directory.since.iter().zip(&kept[&number]) {
                        let is_lost = entry.rename.is_some_and(|it| lost_renames.contains(&it));
                        if *keep && !is_lost {
                            entry.apply(&mut names);
                        }
                    }
                    open.extend(names.iter().map(|(name, node)| (*node, path.join(name))));
                    if number != ROOT {
                        remains.insert(path, None);
                    }
                }
            }
        }
        remains
    }

    /// The visible files of a directory, as a reader sees them now: their names and contents.
    pub(crate) fn visible(&self, directory: &str) -> BTreeMap<String, &[u8]> {
        let Node::Directory(root) = &self.nodes[ROOT] else {
            unreachable!("the root is a directory")
        };
        let Some(Node::Directory(directory)) = root.now.get(directory).map(|it| &self.nodes[*it])
        else {
            return BTreeMap::new();
        };
        let files = directory
            .now
            .iter()
            .filter_map(|(name, number)| match &self.nodes[*number] {
                Node::File(file) if !name.starts_with('.') => {
                    Some((name.clone(), file.now.as_slice()))
                }
                _ => None,
            });
        files.collect()
    }

    fn add(&mut self, node: Node) -> Number {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn file(&mut self, number: Number) -> &mut File {
        match &mut self.nodes[number] {
            Node::File(file) => file,
            Node::Directory(_) => panic!("a directory is written like a file"),
        }
    }

    fn directory(&mut self, number: Number) -> &mut Directory {
        match &mut self.nodes[number] {
            Node::Directory(directory) => directory,
            Node::File(_) => panic!("a file is used like a directory"),
        }
    }

    /// Changes what a name stands for.
    fn name(&mut self, path: &Path, node: Option<Number>, rename: Option<usize>) {
        let (parent, name) = self.place(path);
        self.directory(parent).change(&name, node, rename);
    }

    /// The directory of an entry, and its name there.
    fn place(&self, path: &Path) -> (Number, String) {
        let parent = self.number(path.parent().expect("an entry has a directory"));
        let name = path.file_name().expect("an entry has a name");
        (parent, name.to_string_lossy().into_owned())
    }

    fn number(&self, path: &Path) -> Number {
        let below = path
            .strip_prefix(&self.root)
            .unwrap_or_else(|_| panic!("{} is not below the root", path.display()));
        below.iter().fold(ROOT, |number, name| {
            let Node::Directory(directory) = &self.nodes[number] else {
                panic!("a part of {} is a file", path.display())
            };
            let name = name.to_string_lossy();
            *directory.now.get(&*name).unwrap_or_else(|| {
                panic!(
                    "{} was used, and nothing has made it: a call went past the recorder",
                    path.display()
                )
            })
        })
    }
}

impl Directory {
    /// Makes the new names of these renames durable.
    fn make_durable(&mut self, renames: &BTreeSet<usize>) {
        let is_one = |entry: &Entry| {
            entry.node.is_some() && entry.rename.is_some_and(|it| renames.contains(&it))
        };
        let mut since: Vec<Entry> = Vec::new();
        for entry in std::mem::take(&mut self.since) {
            if is_one(&entry) {
                entry.apply(&mut self.flushed);
                // What the name meant before does not come back over it.
                since.retain(|earlier| earlier.name != entry.name);
            } else {
                since.push(entry);
            }
        }
        self.since = since;
    }
}

/// What is in a directory.
pub(crate) fn found(directory: &Path) -> Remains {
    let mut remains = Remains::new();
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        let entries = fs::read_dir(directory.join(&below)).expect("a readable directory");
        for entry in entries {
            let entry = entry.expect("a readable entry");
            let path = below.join(entry.file_name());
            if entry.file_type().expect("an entry has a type").is_dir() {
                open.push(path.clone());
                remains.insert(path, None);
            } else {
                let content = fs::read(entry.path()).expect("a readable file");
                remains.insert(path, Some(content));
            }
        }
    }
    remains
}

/// Writes what a power loss left into a directory.
pub(crate) fn write(remains: &Remains, directory: &Path) {
    // A directory is before what is in it.
    for (path, content) in remains {
        let path = directory.join(path);
        match content {
            None => fs::create_dir_all(&path).expect("directories can be made"),
            Some(content) => fs::write(&path, content)
                .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests;
