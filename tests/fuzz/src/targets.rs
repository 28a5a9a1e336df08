//! What is fuzzed. Each target says what it makes of the bytes, and which promises it holds to account.

mod job_file;
mod metadata;
mod s3;
mod seal;
mod segment_model;
mod segments;
mod text;
mod text_model;

/// A function from bytes, with what helps to draw them.
pub(crate) struct Target {
    /// Its name on the command line and that of its corpus.
    pub(crate) name: &'static str,
    /// Panics if a promise is broken.
    pub(crate) run: fn(&[u8]),
    /// Words that mean something to what reads the bytes.
    pub(crate) words: &'static [&'static [u8]],
    /// The longest input.
    pub(crate) bytes_max: usize,
    /// No input may take more memory.
    pub(crate) memory_max: usize,
}

/// All of them.
pub(crate) const ALL: &[Target] = &[
    metadata::TARGET,
    segments::TARGET,
    job_file::TARGET,
    text::CSV,
    text::JSON,
    s3::TARGET,
];

/// The target of this name.
pub(crate) fn find(name: &str) -> Option<&'static Target> {
    ALL.iter().find(|target| target.name == name)
}
