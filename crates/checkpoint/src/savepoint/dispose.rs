//! Removing a savepoint: what it lists, and nothing else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::location::{Found, Location, shown};
use crate::metadata::Kind;
use crate::names;
use crate::storage::Storage;
use crate::{Completed, Error, Result};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disposed {
    /// The savepoint's directory.
    pub path: String,
    /// Its number.
    pub id: u64,
    /// The id of the job that took it.
    pub job_id: String,
    /// How many files were removed.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// What else is in the directory, and stays there with it.
    pub left: Vec<String>,
}

/// Removes the savepoint that `spec` names: its directory or its `_metadata`, a path or URL. The metadata goes
/// first, then the files that it lists, then the directory, if nothing else is in it. After a crash in
/// the middle no savepoint is there any more, and garbage collection of the directory that it was in
/// removes the rest.
///
/// # Errors
/// [`Error::NotFound`] and [`Error::Incompatible`] if there is no savepoint at that place, but a checkpoint of a
/// job, a link or something else, [`Error::Corrupt`] if its metadata is damaged: nothing is removed
/// then. [`Error::Storage`] if something could not be removed.
pub fn dispose(spec: &str) -> Result<Disposed> {
    let directory = directory(spec)?;
    let (storage, name) = directory.open_directory()?;
    dispose_in(&storage, &name)
}

/// As [`dispose`], in any storage.
pub(crate) fn dispose_in(storage: &Arc<dyn Storage>, name: &str) -> Result<Disposed> {
    let savepoint = Completed::open(Arc::clone(storage), name).map_err(|error| match error {
        Error::Corrupt { object, what } => Error::Corrupt {
            object,
            what: format!(
                "{what}; nothing is removed, because it does not tell what belongs to it: see `host checkpoints verify`"
            ),
        },
        error => error,
    })?;
    let metadata = savepoint.metadata();
    let place = storage.location(name);
    if metadata.kind == Kind::Checkpoint {
        return Err(Error::Incompatible(format!(
            "{place} is no savepoint: a checkpoint belongs to its job, which removes it when it is not needed any more (`host checkpoints forget` removes all of a job)"
        )));
    }
    if names::checkpoint_id(names::leaf(name)).is_some() {
        return Err(Error::Incompatible(format!(
            "{place} is called like a checkpoint of a job: move the savepoint out of the job's directory first"
        )));
    }
    // Listed before anything goes: what cannot be listed is not begun with.
    let listing = storage.list(name)?;
    let sizes: BTreeMap<&str, u64> = listing
        .objects
        .iter()
        .map(|object| (object.name.as_str(), object.size))
        .collect();
    let own_metadata = names::metadata(name);
    let mut disposed = Disposed {
        path: place,
        id: metadata.id,
        job_id: metadata.job_id.clone(),
        ..Disposed::default()
    };
    // A savepoint has all its files in its own directory, or its metadata would not have been accepted.
    for object in std::iter::once(own_metadata).chain(savepoint.files()) {
        storage.delete(&object)?;
        if let Some(bytes) = sizes.get(object.as_str()) {
            disposed.files += 1;
            disposed.bytes = disposed.bytes.saturating_add(*bytes);
        }
    }
    let rest = storage.list(name)?;
    let objects = rest.objects.into_iter().map(|object| object.name);
    disposed.left = objects
        .chain(rest.directories)
        .map(|name| storage.location(&name))
        .collect();
    if disposed.left.is_empty() {
        storage.remove_directory(name)?;
    }
    Ok(disposed)
}

/// The directory of the savepoint that `spec` names.
fn directory(spec: &str) -> Result<Location> {
    let place = Location::parse(spec, "savepoint")?;
    refuse_link(&place)?;
    let directory = match place.look()? {
        Found::Nothing => {
            return Err(Error::NotFound(format!("{place} does not exist")));
        }
        Found::Directory => place,
        Found::File if place.leaf() == Some(names::METADATA) => place.parent().unwrap_or(place),
        Found::File => {
            return Err(Error::NotFound(format!(
                "{place} is no savepoint (its directory is expected, or the {} in it)",
                names::METADATA
            )));
        }
    };
    refuse_link(&directory)?;
    let metadata = directory.join(names::METADATA);
    refuse_link(&metadata)?;
    match metadata.look()? {
        Found::File => Ok(directory),
        Found::Directory | Found::Nothing => Err(Error::NotFound(format!(
            "{} is no savepoint: there is no {} in it (what is left of one that never completed is removed by `host checkpoints gc` of the directory that it is in)",
            shown(spec),
            names::METADATA
        ))),
    }
}

/// What a link leads to may be anybody's.
fn refuse_link(place: &Location) -> Result<()> {
    let Location::Path(path) = place else {
        return Ok(());
    };
    // Without a slash at its end, which would lead through the link.
    let path: PathBuf = path.components().collect();
    match path.symlink_metadata() {
        Ok(found) if found.is_symlink() => Err(Error::Incompatible(format!(
            "{place} is a symbolic link: name what it leads to"
        ))),
        _ => Ok(()),
    }
}
