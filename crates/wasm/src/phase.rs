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
    /// `on-timers`.
    OnTimers,
    /// `on-watermark`.
    OnWatermark,
    /// `end-of-input`.
    EndOfInput,
    /// `on-checkpoint-complete`.
    CheckpointComplete,
    /// `migrate`.
    Migrate,
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
            Self::OnTimers => "on-timers",
            Self::OnWatermark => "on-watermark",
            Self::EndOfInput => "end-of-input",
            Self::CheckpointComplete => "on-checkpoint-complete",
            Self::Migrate => "migrate",
            Self::Close => "close",
        }
    }
}
