//! A stream of bytes in big blocks, with its offset.
//!
//! The decoder works on what [`Blocks::data`] shows and consumes whole records. A last line without
//! a line end gets one here, so that no decoder has to know about it; the offset does not count it.

use std::io::{self, ErrorKind, Read};

use super::text_limits::TextLimits;

/// How much is read at once.
const BLOCK: usize = 256 << 10;

/// How many of the bytes consumed last are kept for [`Blocks::tail`].
pub const TAIL: usize = 4 << 10;

/// A stream of bytes, read ahead.
pub struct Blocks {
    input: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// The bytes that are read and not consumed are `buffer[start..end]`; before them are some that
    /// were consumed, at least [`TAIL`] if that many were.
    start: usize,
    end: usize,
    /// Offset in the stream of `buffer[start]`.
    offset: u64,
    /// Length of the stream, once its end was seen.
    length: Option<u64>,
    checksum: Option<Checksum>,
    /// Offset in the stream up to which no line ends in what was not consumed.
    searched_to: u64,
    /// The longest record in bytes, without its line end: a longer one is a broken file, and must not
    /// eat the memory.
    record_bytes: usize,
}

/// The checksum of what is consumed of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The first byte that it covers.
    pub from: u64,
    /// One past the last byte that it covers.
    pub to: u64,
    /// CRC-32C of these bytes.
    pub crc: u32,
}

/// What [`Blocks::fill`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// There is more data.
    More,
    /// The stream has ended; what data there is is the last.
    Ended,
}

impl Blocks {
    /// Reads `input`, whose next byte is byte `offset` of the stream, in records of at most
    /// `record_bytes`.
    pub fn new(input: Box<dyn Read + Send>, offset: u64, record_bytes: usize) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset,
            length: None,
            checksum: None,
            searched_to: 0,
            record_bytes,
        }
    }

    /// The longest record in bytes, without its line end.
    #[inline]
    pub fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// From here on keeps a checksum of what is consumed: continues `crc`, that of the bytes from
    /// `from` to here.
    pub fn keep_checksum(&mut self, from: u64, crc: u32) {
        let to = self.offset();
        self.checksum = Some(Checksum { from, to, crc });
    }

    /// The checksum of all bytes up to [`Blocks::offset`], if one is kept.
    pub fn checksum(&mut self) -> Option<Checksum> {
        let to = self.offset();
        let checksum = self.checksum.as_mut()?;
        // What was consumed since the last time is still in the buffer. A line end that was added
        // to the last line is not among it, because `to` does not count it.
        let first = self.start - (self.offset - checksum.to) as usize;
        let bytes = &self.buffer[first..first + (to - checksum.to) as usize];
        checksum.crc = crc32c::crc32c_append(checksum.crc, bytes);
        checksum.to = to;
        Some(*checksum)
    }

    /// The bytes that were consumed last: [`TAIL`] of them, or as many as there were.
    pub fn tail(&self) -> &[u8] {
        let end = self.start - (self.offset - self.offset()) as usize;
        &self.buffer[end.saturating_sub(TAIL)..end]
    }

    /// What was read and not consumed.
    #[inline]
    pub fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Offset in the stream of the first byte of [`Blocks::data`].
    #[inline]
    pub fn offset(&self) -> u64 {
        self.length
            .map_or(self.offset, |length| self.offset.min(length))
    }

    /// Whether the end was seen: what data there is is the last.
    #[inline]
    pub fn ended(&self) -> bool {
        self.length.is_some()
    }

    /// How much of the data is known to hold no line end. A line may come in many pieces, with nothing to
    /// read for the moment after each.
    #[inline]
    pub fn searched(&self) -> usize {
        let searched = self.searched_to.saturating_sub(self.offset);
        self.data().len().min(searched as usize)
    }

    /// Notes that no line ends in the data that there is now.
    #[inline]
    pub fn set_searched(&mut self) {
        self.searched_to = self.offset + self.data().len() as u64;
    }

    /// Takes `count` bytes of the data away.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start += count;
        self.offset += count as u64;
    }

    /// Reads more. An error of kind [`ErrorKind::WouldBlock`] means that nothing has come yet.
    ///
    /// # Errors
    /// The input cannot be read, or the data is longer than a record may be: a caller that asks for more has
    /// not found the end of the record that the data begins with.
    pub fn fill(&mut self) -> io::Result<Filled> {
        if self.ended() {
            return Ok(Filled::Ended);
        }
        // Once per block and not per record: so it costs next to nothing.
        self.checksum();
        let len = self.end - self.start;
        // One byte more, because a CR may be the first half of a line end.
        if len > self.record_bytes.saturating_add(1) {
            let message = TextLimits::too_long(self.record_bytes);
            return Err(io::Error::new(ErrorKind::InvalidData, message));
        }
        if self.start > TAIL {
            self.buffer.copy_within(self.start - TAIL..self.end, 0);
            (self.start, self.end) = (TAIL, TAIL + len);
        }
        if self.buffer.len() < BLOCK {
            self.buffer.resize(BLOCK, 0);
        } else if len > self.buffer.len() - self.buffer.len() / 4 {
            // By doubling, so that all copying together is linear in what is read; the last step is no
            // larger than need be.
            let most = self.record_bytes.saturating_add(BLOCK);
            self.buffer.resize((self.buffer.len() * 2).min(most), 0);
        }
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => {
                    self.end += count;
                    return Ok(Filled::More);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.length = Some(self.offset + len as u64);
        if len > 0 && self.buffer[self.end - 1] != b'\n' {
            // There is room: the buffer is never full when it is read into.
            self.buffer[self.end] = b'\n';
            self.end += 1;
        }
        Ok(Filled::Ended)
    }

    /// Skips the mark by which some programs begin a UTF-8 file, if it has one. Only the first one at
    /// the very beginning of the stream is a mark.
    ///
    /// # Errors
    /// As [`Blocks::fill`], and by the marks of UTF-16 and UTF-32: nothing here reads these.
    pub fn skip_byte_order_mark(&mut self) -> io::Result<()> {
        const UTF_8: &[u8] = b"\xef\xbb\xbf";
        // UTF-32 in its usual order begins as UTF-16 does.
        const OTHERS: [&[u8]; 3] = [b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"];
        if self.offset > 0 {
            return Ok(());
        }
        let may_be = |data: &[u8]| {
            let may_begin = |mark: &&[u8]| mark.len() > data.len() && mark.starts_with(data);
            may_begin(&UTF_8) || OTHERS.iter().any(may_begin)
        };
        while may_be(self.data()) {
            if self.fill()? == Filled::Ended {
                break;
            }
        }
        if self.data().starts_with(UTF_8) {
            self.consume(UTF_8.len());
        } else if OTHERS.iter().any(|mark| self.data().starts_with(mark)) {
            let message = "begins with the byte order mark of UTF-16 or UTF-32, but text is read as \
                           UTF-8; convert it, for example by `iconv -f UTF-16 -t UTF-8`";
            return Err(io::Error::new(ErrorKind::InvalidData, message));
        }
        Ok(())
    }

    /// Reads on to byte `offset` of the stream. `false` if the stream ends before it.
    ///
    /// # Errors
    /// As [`Blocks::fill`].
    pub fn skip_to(&mut self, offset: u64) -> io::Result<bool> {
        loop {
            let missing = offset.saturating_sub(self.offset());
            let at_hand = self
                .length
                .unwrap_or(u64::MAX)
                .saturating_sub(self.offset());
            let step = missing.min(at_hand).min(self.data().len() as u64);
            self.consume(step as usize);
            if missing == step {
                return Ok(true);
            }
            if self.ended() {
                return Ok(false);
            }
            self.fill()?;
        }
    }

    /// Reads on to the first byte after a line end, or to the end of the stream.
    ///
    /// # Errors
    /// As [`Blocks::fill`].
    pub fn skip_line(&mut self) -> io::Result<()> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', self.data()) {
                self.consume(at + 1);
                return Ok(());
            }
            self.consume(self.data().len());
            if self.fill()? == Filled::Ended && self.data().is_empty() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Blocks {
        Blocks::new(
            Box::new(io::Cursor::new(text.as_bytes().to_vec())),
            0,
            64 << 20,
        )
    }

    #[test]
    fn a_last_line_gets_a_line_end_that_does_not_count() {
        let mut blocks = blocks("a\nbc");
        assert_eq!(blocks.fill().unwrap(), Filled::More);
        assert_eq!(blocks.fill().unwrap(), Filled::Ended);
        assert_eq!(blocks.data(), b"a\nbc\n");
        blocks.consume(5);
        assert_eq!(blocks.offset(), 4);
        assert_eq!(blocks.fill().unwrap(), Filled::Ended);
        assert!(blocks.data().is_empty());
    }

    #[test]
    fn skipping_behind_the_end_is_told() {
        assert!(blocks("abc").skip_to(3).unwrap());
        assert!(!blocks("abc").skip_to(4).unwrap());
        let mut marked = blocks("\u{feff}abc");
        marked.skip_byte_order_mark().unwrap();
        assert_eq!((marked.offset(), marked.data()), (3, &b"abc"[..]));
        let mut short = blocks("\u{feff}");
        short.skip_byte_order_mark().unwrap();
        assert!(short.data().is_empty());
    }

    /// However it is read and consumed, the checksum is that of the bytes, and the tail is their end.
    #[test]
    fn the_checksum_covers_what_was_consumed_and_no_more() {
        let text: Vec<u8> = (0..700_001_u32).map(|n| (n % 251) as u8).collect();
        for step in [1, 100, 4095, 4096, 4097, 100_000] {
            let mut blocks = Blocks::new(Box::new(io::Cursor::new(text.clone())), 0, 1 << 20);
            let skipped = 10;
            assert!(blocks.skip_to(skipped).unwrap());
            blocks.keep_checksum(0, crc32c::crc32c(&text[..skipped as usize]));
            loop {
                let count = step.min(blocks.data().len());
                blocks.consume(count);
                let offset = blocks.offset() as usize;
                if step > 1 || offset.is_multiple_of(10_007) {
                    let expected = Checksum {
                        from: 0,
                        to: offset as u64,
                        crc: crc32c::crc32c(&text[..offset]),
                    };
                    assert_eq!(blocks.checksum(), Some(expected));
                    assert_eq!(blocks.tail(), &text[offset.saturating_sub(TAIL)..offset]);
                }
                if count == 0 && blocks.fill().unwrap() == Filled::Ended && blocks.data().is_empty()
                {
                    break;
                }
            }
            let crc = crc32c::crc32c(&text);
            let to = text.len() as u64;
            assert_eq!(blocks.checksum(), Some(Checksum { from: 0, to, crc }));
            assert_eq!(blocks.tail(), &text[text.len() - TAIL..]);
        }
    }

    #[test]
    fn a_record_without_end_is_refused() {
        for limit in [1, 1000, BLOCK, 3 << 20, 64 << 20] {
            let mut endless = Blocks::new(Box::new(io::repeat(b'x')), 0, limit);
            let error = loop {
                match endless.fill() {
                    Ok(_) => assert!(endless.buffer.capacity() <= 2 * (limit + BLOCK)),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.to_string(), TextLimits::too_long(limit));
        }
    }

    #[test]
    fn c164_only_one_mark_at_the_very_beginning_is_skipped_however_the_bytes_come() {
        struct Dripping(&'static [u8]);
        impl Read for Dripping {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.0.len().min(1);
                buffer[..count].copy_from_slice(&self.0[..count]);
                self.0 = &self.0[count..];
                Ok(count)
            }
        }
        let text = "\u{feff}\u{feff}a\n".as_bytes();
        let mut blocks = Blocks::new(Box::new(Dripping(text)), 0, 100);
        // Asked again, as a pipe is that had nothing for a moment.
        for _ in 0..3 {
            blocks.skip_byte_order_mark().unwrap();
            blocks.fill().unwrap();
        }
        assert_eq!(blocks.offset(), 3);
        for (text, is_refused) in [
            (&b"\xff\xfea\0\n\0"[..], true),
            (b"\xfe\xff\0a\0\n", true),
            (b"\xff\xfe\0\0a\0\0\0", true),
            (b"\0\0\xfe\xff\0\0\0a", true),
            (b"\xff\xfe", true),
            (b"\xff", false),
            (b"\0\0\xfe", false),
            (b"\xffa", false),
        ] {
            let mut blocks = Blocks::new(Box::new(Dripping(text)), 0, 100);
            let result = blocks.skip_byte_order_mark();
            assert_eq!(result.is_err(), is_refused, "{text:?}");
            assert!(result.is_ok() || result.unwrap_err().to_string().contains("UTF-16"));
        }
    }
}
