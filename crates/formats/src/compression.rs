//! Text that is packed: by gzip or zstd, whole files or streams.

use std::io::{self, BufReader, Read};
use std::path::Path;

/// How a file is packed; its extension says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, with any number of members.
    Gzip,
    /// zstd, with any number of frames.
    Zstd,
}

impl Compression {
    /// How a file of this name is packed.
    pub fn of(name: &str) -> Self {
        match Path::new(name)
            .extension()
            .and_then(|extension| extension.to_str())
        {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Refuses a file whose first four bytes are not those of this compression. A decoder would say only that it
    /// ends too early, or that a frame is unknown. An empty file, or the first bytes of a header, are left to
    /// the decoder.
    ///
    /// # Errors
    /// The file is not compressed as its name says.
    pub fn check(self, start: &[u8]) -> io::Result<()> {
        let begins = |magic: &[u8]| start.iter().zip(magic).all(|(is, wanted)| is == wanted);
        let (is_packed, program, extension) = match self {
            Self::None => return Ok(()),
            Self::Gzip => (begins(&GZIP), "gzip", "gz"),
            Self::Zstd => {
                let skippable = |first| begins(&[first, 0x2a, 0x4d, 0x18]);
                let is_packed = begins(&ZSTD) || (0x50..=0x5f).any(skippable);
                (is_packed, "zstd", "zst")
            }
        };
        if is_packed {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "its name ends in `.{extension}`, but it is not compressed with {program}: rename it, or compress it with \
             `{program}`"
        )))
    }

    /// Unpacks what is read.
    ///
    /// # Errors
    /// The start cannot be read, or there is no memory for a decoder.
    pub fn unpack(self, stream: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        const PACKED_BLOCK: usize = 128 << 10;
        Ok(match self {
            Self::None => Box::new(stream),
            Self::Gzip => {
                let packed = BufReader::with_capacity(PACKED_BLOCK, stream);
                Box::new(flate2::bufread::MultiGzDecoder::new(packed))
            }
            Self::Zstd => {
                let packed = BufReader::with_capacity(PACKED_BLOCK, stream);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(Frames(decoder))
            }
        })
    }
}

/// What a member of gzip begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What a frame of zstd begins with. One that holds no data begins with 50 to 5f, 2a, 4d, 18.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The most memory for the window of a zstd frame, as a power of two: 128 MiB, what the program `zstd`
/// takes as well. A frame may ask for gigabytes.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Unpacks frames of zstd, and says what to do about one that asks for too much.
struct Frames<R>(R);

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| {
            if !error.to_string().contains("requires too much memory") {
                return error;
            }
            let window = 1_u64 << (ZSTD_WINDOW_LOG - 20);
            io::Error::other(format!(
                "a frame asks for a window of more than {window} MiB; pack the file without \
                 `--long`, or with `--long={ZSTD_WINDOW_LOG}` at most"
            ))
        })
    }
}
