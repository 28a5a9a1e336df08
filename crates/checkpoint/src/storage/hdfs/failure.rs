//! What went wrong in a call.

use std::error::Error as StdError;

use hdfs_native::HdfsError;

use crate::storage::executor::Silence;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said so, or the connection broke.
    Hdfs(HdfsError),
    /// There was no answer in time.
    Silence(String),
    /// Something that does not pass.
    Other(Box<dyn StdError + Send + Sync>),
}

impl Failure {
    pub(super) fn other(why: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Other(why.into())
    }

    /// The Java exception that it is about, without its package.
    pub(super) fn exception(&self) -> Option<&str> {
        match self {
            Self::Hdfs(HdfsError::RPCError(class, _) | HdfsError::FatalRPCError(class, _)) => {
                class.rsplit('.').next()
            }
            _ => None,
        }
    }

    /// Whether there is no such file or directory.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Hdfs(HdfsError::FileNotFound(_)))
            || matches!(
                self.exception(),
                // The latter: a file stands where its directory would be, so there is no such object.
                Some("FileNotFoundException" | "ParentNotDirectoryException")
            )
    }

    /// Whether a directory is not removed because something is in it.
    pub(super) fn is_not_empty(&self) -> bool {
        self.exception() == Some("PathIsNotEmptyDirectoryException")
    }

    /// Whether a call may have been carried out though there was no answer.
    pub(super) fn is_lost(&self) -> bool {
        matches!(
            self,
            Self::Silence(_) | Self::Hdfs(HdfsError::IOError(_) | HdfsError::InvalidRPCResponse(_))
        )
    }
}

impl From<HdfsError> for Failure {
    fn from(error: HdfsError) -> Self {
        Self::Hdfs(error)
    }
}

impl Silence for Failure {
    fn silence(why: String) -> Self {
        Self::Silence(why)
    }
}
