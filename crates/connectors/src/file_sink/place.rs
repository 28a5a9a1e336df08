//! Names of the directories below a sink's directory that are the host's.

use std::path::Path;

use operator::JobIdentity;

use super::durable::{is_own_directory, names_in};

/// The directory within the sink's directory that holds all staging places.
pub(crate) const STAGING: &str = ".highwater";
/// Before the generation in a place's name; not to be found in a job's.
const GENERATION: &str = ".g";
/// After the job in the name of the directory with its notes.
const NOTES: &str = ".published";

/// The staging place of a run of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StagingDirectory {
    /// The job as part of the name of a directory.
    pub(crate) job: String,
    pub(crate) generation: u64,
}

impl StagingDirectory {
    pub(crate) fn new(job: &JobIdentity, generation: u64) -> Self {
        Self {
            job: directory_name(job),
            generation,
        }
    }

    /// Its name, relative to the sink's directory.
    pub(crate) fn path(&self) -> String {
        let Self { job, generation } = self;
        match generation {
            0 => format!("{STAGING}/{job}"),
            generation => format!("{STAGING}/{job}{GENERATION}{generation}"),
        }
    }

    /// Those of all runs of a job that there are, also of runs that are still to come.
    pub(crate) fn all_of(root: &Path, job: &JobIdentity) -> anyhow::Result<Vec<Self>> {
        Self::all_named(root, directory_name(job))
    }

    pub(crate) fn all_named(root: &Path, job: String) -> anyhow::Result<Vec<Self>> {
        if !is_own_directory(&root.join(STAGING))? {
            return Ok(Vec::new());
        }
        let read = |leaf: String| {
            let generation = match leaf.strip_prefix(&job)? {
                "" => 0,
                rest => rest.strip_prefix(GENERATION)?.parse().ok()?,
            };
            let place = Self {
                job: job.clone(),
                generation,
            };
            (place.path() == format!("{STAGING}/{leaf}")).then_some(place)
        };
        let names = names_in(&root.join(STAGING))?;
        Ok(names.into_iter().filter_map(read).collect())
    }

    /// The directory with the notes of the job that a place is of, by the place's name.
    pub(crate) fn notes_of(place: &str) -> String {
        let is_generation =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let job = match place.rsplit_once(GENERATION) {
            Some((job, generation)) if is_generation(generation) => job,
            _ => place,
        };
        format!("{job}{NOTES}")
    }
}

/// A job as part of the name of a directory.
pub(crate) fn directory_name(job: &JobIdentity) -> String {
    let plain = |c: char| {
        if c.is_alphanumeric() || matches!(c, '-' | '_') {
            c
        } else {
            '_'
        }
    };
    let id: String = job.id.chars().map(plain).collect();
    match job.directory.as_str() {
        "" => id,
        directory => format!("{id}.{directory}"),
    }
}
