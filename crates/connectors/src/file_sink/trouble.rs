//! Which failures of a file sink will not heal by themselves, and what to do about them.

use std::io::{self, ErrorKind};
use std::path::Path;

use operator::{BoxError, Permanent};

/// Checks that the sink's directory is still there.
///
/// # Errors
/// It is not: what was published in it is gone with it.
pub(crate) fn check_directory(root: &Path) -> anyhow::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    Err(Permanent::new(format!(
        "the output directory `{}` was removed or moved away while the job ran, and what was published \
         in it went with it; put it back and resume, or start the job again from the beginning",
        root.display()
    ))
    .into())
}

/// An error that only a person can mend.
pub(crate) fn permanent(message: String) -> anyhow::Error {
    Permanent::new(message).into()
}

/// An error as the runtime wants it: marked where it will not heal.
pub(crate) fn classify(error: anyhow::Error, root: &Path) -> BoxError {
    boxed(marked(error, root))
}

fn marked(error: anyhow::Error, root: &Path) -> anyhow::Error {
    if error.chain().any(|cause| cause.is::<Permanent>()) {
        return error;
    }
    let causes = error.chain().filter_map(|cause| cause.downcast_ref());
    let kinds: Vec<ErrorKind> = causes.map(io::Error::kind).collect();
    let mend = if kinds.contains(&ErrorKind::PermissionDenied) {
        "let the user who runs the job write there, and resume"
    } else if kinds.contains(&ErrorKind::ReadOnlyFilesystem) {
        "make the file system writable, and resume"
    } else if kinds.contains(&ErrorKind::NotADirectory) {
        "move away what is in the way, and resume"
    } else if kinds.contains(&ErrorKind::NotFound) {
        // A staging place that was removed is made again by the next attempt.
        return check_directory(root).err().unwrap_or(error);
    } else {
        return error;
    };
    let text = format!("{error:#}; {mend}");
    Permanent::new(text).into()
}

/// The conversion of `anyhow` hides the type of an error without context.
fn boxed(error: anyhow::Error) -> BoxError {
    error.reallocate_into_boxed_dyn_error_without_backtrace()
}
