//! What a guest is doing.

/// What a guest is doing: decides what it may do, and is named in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The instance is being made.
    Start,
    /// `describe`.
    Describe,
    /// `open`.
    Open,
    /// `process`.
    Process,
    /// `end-of-input`.
    EndOfInput,
    /// `on-checkpoint-complete`.
    CheckpointComplete,
    /// `close`.
    Close,
}

impl Phase {
    /// The exported function's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Start => "instantiation",
            Self::Describe => "describe",
            Self::Open => "open",
            Self::Process => "process",
            Self::EndOfInput => "end-of-input",
            Self::CheckpointComplete => "on-checkpoint-complete",
            Self::Close => "close",
        }
    }
}
