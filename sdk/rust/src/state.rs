//! What an operator remembers per key.
//!
//! The host owns the state; a handle here reads and writes it for the current record's key. What a
//! call reads is fetched in bulk when first used and kept decoded, what it writes is handed back in
//! bulk when it ends. Nothing crosses the border per record.

mod aggregating;
mod list;
mod map;
mod operator;
mod value;

pub use aggregating::{AggregatingState, ReducingState};
pub use list::{ListIter, ListState};
pub use map::{MapIter, MapState};
pub use operator::{BroadcastIter, BroadcastState, OperatorList};
pub use value::ValueState;

use std::rc::Rc;

use crate::call::Call;
use crate::host::Host;

/// What the state handles of one operator have in common.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) call: Rc<Call>,
    pub(crate) host: Host,
    /// The state's number in `open-context.states`.
    pub(crate) number: u32,
    pub(crate) name: Rc<str>,
}

/// A state's buffers, as the end of a call sees them.
pub(crate) trait Buffered {
    /// Hands what the call has changed to the host.
    fn flush(&self);

    /// The call is over: forgets what it has read and, if it failed, changed.
    fn forget(&self);
}

/// The message for a handle that is used from inside a closure it has called.
#[cold]
pub(crate) fn used_inside_itself(name: &str) -> crate::Error {
    crate::Error::new(format_args!("state `{name}` is used inside its own update"))
}
