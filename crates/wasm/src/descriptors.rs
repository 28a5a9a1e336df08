//! The process's file descriptors, shared between the host and its guests.
//!
//! Checkpoints, sources and sinks need descriptors as guests do, and one that gets none ends the job. So
//! guests that can open something (a granted directory, a granted server) together have at most half of
//! them: an instance takes its share when it is made, and is not made if there is none left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use operator::{Failure, FailureKind};

/// What guests may hold together. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Descriptors {
    max: u64,
    held: Arc<AtomicU64>,
}

/// The share of one instance, which goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    count: u64,
    held: Arc<AtomicU64>,
}

impl Descriptors {
    /// Half of what this process may have at most, which is asked for now: the limit at the start is often
    /// a small one that a process may raise.
    pub(super) fn of_this_process() -> Self {
        let max = match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((soft, hard)) if soft < hard => {
                match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                    Ok(()) => hard,
                    Err(_) => soft,
                }
            }
            Ok((soft, _)) => soft,
            // What POSIX systems begin with.
            Err(_) => 1024,
        };
        Self::new(max / 2)
    }

    fn new(max: u64) -> Self {
        Self {
            max,
            held: Arc::default(),
        }
    }

    /// Takes `count` of them for an instance.
    ///
    /// # Errors
    /// There are fewer left.
    pub(super) fn take(&self, count: u64) -> Result<Share, Failure> {
        let taken = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                held.checked_add(count).filter(|held| *held <= self.max)
            });
        match taken {
            Ok(_) => Ok(Share {
                count,
                held: Arc::clone(&self.held),
            }),
            Err(held) => Err(Failure::new(
                FailureKind::Returned,
                format!(
                    "an instance with granted directories or servers may hold limits.resources = {count} file \
                     descriptors, and {} of the {} that all of them may hold together are left; lower \
                     limits.resources or the parallelism, or raise the process's limit (ulimit -n), of which \
                     they may have half",
                    self.max - held,
                    self.max
                ),
            )),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c160_instances_share_what_there_is_and_give_it_back() {
        let descriptors = Descriptors::new(10);
        let first = descriptors.take(6).unwrap();
        let refused = descriptors.clone().take(5).unwrap_err();
        assert!(refused.message.contains("limits.resources = 5"));
        assert!(refused.message.contains("4 of the 10"), "{refused}");
        let second = descriptors.take(4).unwrap();
        drop(first);
        drop(descriptors.take(6).unwrap());
        drop(second);
        drop(descriptors.take(10).unwrap());
        assert!(descriptors.take(u64::MAX).is_err());
    }
}
