//! The life of checkpoints in a store, with every step of it broken in turn.

mod claiming;
mod compressed;
mod faults;
mod held;
mod keeping;
mod late;
mod operator_state;
mod ownership;
mod savepoints;
mod writing;
mod slots;
