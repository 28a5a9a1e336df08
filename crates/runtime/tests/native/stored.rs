//! What stands in a storage: which checkpoints, and which objects nobody refers to.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeSet;
use std::sync::Arc;

use checkpoint::storage::Storage;
use checkpoint::{Completed, Error};

/// A completed checkpoint: its number and its directory.
pub(crate) type Found = (u64, String);

/// Everything that is stored.
pub(crate) fn objects(storage: &dyn Storage) -> Result<BTreeSet<String>, Error> {
    let mut found = BTreeSet::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        let listing = storage.list(&directory)?;
        found.extend(listing.objects.into_iter().map(|object| object.name));
        directories.extend(listing.directories);
    }
    Ok(found)
}

/// The checkpoints of all runs that have metadata, the highest number first. Numbers go on from one
/// run to the next.
pub(crate) fn completed(storage: &dyn Storage) -> Result<Vec<Found>, Error> {
    let number = |name: &String| {
        let directory = name.strip_suffix("/_metadata")?;
        let id = directory.rsplit("/chk-").next()?.parse().ok()?;
        Some((id, directory.to_owned()))
    };
    let mut found: Vec<Found> = objects(storage)?.iter().filter_map(number).collect();
    found.sort();
    found.reverse();
    Ok(found)
}

/// The files that a checkpoint refers to.
pub(crate) fn files(checkpoint: &Completed, directory: &str) -> BTreeSet<String> {
    let file = |file: &String| {
        let mut parts: Vec<&str> = directory.split('/').collect();
        for part in file.split('/') {
            match part {
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        parts.join("/")
    };
    let segments = checkpoint.segments();
    segments
        .filter_map(|(_, _, segment)| segment.file.as_ref().map(file))
        .collect()
}

/// The objects that are neither metadata, nor what metadata that can be read refers to, nor the mark
/// that a job has finished, nor the lease of a job directory.
pub(crate) fn orphans(storage: &Arc<dyn Storage>) -> Result<BTreeSet<String>, Error> {
    let mut orphans = objects(&**storage)?;
    for (_, directory) in completed(&**storage)? {
        orphans.remove(&format!("{directory}/_metadata"));
        match Completed::open(Arc::clone(storage), &directory) {
            Ok(checkpoint) => {
                for file in files(&checkpoint, &directory) {
                    orphans.remove(&file);
                }
            }
            Err(Error::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    orphans.retain(|name| !name.ends_with("/_finished") && !name.contains("/_lease/"));
    Ok(orphans)
}
