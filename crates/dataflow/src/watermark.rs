//! The watermark of a subtask: the lowest of its channels'.

/// Combines the watermarks of a subtask's input channels. A channel that has had none yet holds the
/// others back; one whose input has ended does not.
#[derive(Clone, Debug)]
pub struct CombinedWatermark {
    channels: Vec<i64>,
    current: i64,
}

/// The watermark before any has come.
pub const NO_WATERMARK: i64 = i64::MIN;

impl CombinedWatermark {
    /// No watermark on any of `channels` channels.
    #[must_use]
    pub fn new(channels: usize) -> Self {
        Self {
            channels: vec![NO_WATERMARK; channels],
            current: NO_WATERMARK,
        }
    }

    /// The watermark that all channels have reached.
    #[must_use]
    pub fn current(&self) -> i64 {
        self.current
    }

    /// `channel` has reached `watermark`. Returns the new common watermark if that advances it.
    pub fn advance(&mut self, channel: usize, watermark: i64) -> Option<i64> {
        self.channels[channel] = self.channels[channel].max(watermark);
        let lowest = self.channels.iter().copied().min().unwrap_or(NO_WATERMARK);
        (lowest > self.current).then(|| {
            self.current = lowest;
            lowest
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_channel_decides_and_the_watermark_never_goes_back() {
        let mut valve = CombinedWatermark::new(2);
        assert_eq!(valve.advance(0, 10), None);
        assert_eq!(valve.advance(1, 5), Some(5));
        assert_eq!(valve.advance(1, 3), None);
        assert_eq!(valve.advance(1, 20), Some(10));
        assert_eq!(valve.current(), 10);
    }
}
