use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::fixture::noise;

const CODECS: [Codec; 2] = [Codec::Lz4, Codec::Zstd];

/// The blocks of these pieces, one after the other.
fn encode(codec: Codec, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stored = Vec::new();
    let mut store = |block: &[u8]| {
        assert!(block.len() <= HEADER_BYTES + BLOCK_BYTES_MAX);
        stored.extend_from_slice(block);
        Ok(())
    };
    let mut encoder = Encoder::new(codec).unwrap();
    for piece in pieces {
        encoder.append(piece, &mut store).unwrap();
    }
    encoder.finish(&mut store).unwrap();
    stored
}

fn decode(codec: Codec, stored: &[u8], raw_length: u64) -> io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    Decoder::new(stored, codec, raw_length, "x".to_owned(), 100)?.read_to_end(&mut raw)?;
    Ok(raw)
}

/// What is said to be wrong.
fn damage(codec: Codec, stored: &[u8], raw_length: u64) -> String {
    let error = decode(codec, stored, raw_length).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    error.to_string()
}

/// Bytes that repeat themselves, of this length.
fn text(length: usize) -> Vec<u8> {
    let words = (0_u32..).flat_map(|number| format!("word {} ", number / 3).into_bytes());
    words.take(length).collect()
}

#[test]
fn whatever_the_length_it_comes_back() {
    for codec in CODECS {
        for length in [
            1,
            2,
            BLOCK_BYTES_MAX - 1,
            BLOCK_BYTES_MAX,
            BLOCK_BYTES_MAX + 1,
            3 * BLOCK_BYTES_MAX + 7,
        ] {
            for raw in [text(length), noise(1, length)] {
                let stored = encode(codec, &raw.chunks(100_003).collect::<Vec<_>>());
                let decoded = decode(codec, &stored, length as u64).unwrap();
                assert!(decoded == raw, "{codec:?} {length}");
            }
        }
        let raw = text(BLOCK_BYTES_MAX);
        assert!(encode(codec, &[&raw]).len() < raw.len() / 2, "{codec:?}");
    }
}

#[test]
fn what_cannot_be_compressed_grows_by_its_heads_only() {
    for codec in CODECS {
        let raw = noise(1, 2 * BLOCK_BYTES_MAX + 1);
        assert_eq!(
            encode(codec, &[&raw]).len(),
            raw.len() + 3 * HEADER_BYTES,
            "{codec:?}"
        );
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_found() {
    for codec in CODECS {
        for raw in [text(300), noise(1, 100)] {
            let stored = encode(codec, &[&raw]);
            for bit in 0..stored.len() * 8 {
                let mut damaged = stored.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let what = damage(codec, &damaged, raw.len() as u64);
                assert!(what.contains("x is corrupt: bytes 100.."), "{bit}: {what}");
            }
            for length in 0..stored.len() {
                let what = damage(codec, &stored[..length], raw.len() as u64);
                assert!(what.ends_with("are missing"), "{length}: {what}");
            }
        }
    }
}

/// A block with these lengths and the checksum that fits.
fn block(length: u32, raw_length: u32, payload: &[u8]) -> Vec<u8> {
    let lengths = [length.to_le_bytes(), raw_length.to_le_bytes()].concat();
    let checksum = checksum(&lengths, payload).to_le_bytes();
    [&lengths[..], &checksum, payload].concat()
}

#[test]
fn lengths_from_the_file_are_not_believed() {
    let max = u32::try_from(BLOCK_BYTES_MAX).unwrap();
    for codec in CODECS {
        for (length, raw_length) in [
            (u32::MAX, u32::MAX),
            (1, u32::MAX),
            (1, max + 1),
            (2, 1),
            (0, 1),
            (0, 0),
            // More than the segment has.
            (5, 11),
        ] {
            let what = damage(codec, &block(length, raw_length, b"bytes"), 10);
            assert!(
                what.contains("are not the head of a compressed block"),
                "{length} {raw_length}: {what}"
            );
        }
    }
}

#[test]
fn a_block_that_gives_more_or_less_than_it_says_is_refused() {
    // The bomb is right by its checksum: what its payload becomes must be bounded all the same.
    let bomb = vec![0; 1 << 20];
    for codec in CODECS {
        let stored = encode(codec, &[&bomb]);
        let payload = &stored[HEADER_BYTES..];
        let length = u32::try_from(payload.len()).unwrap();
        for raw_length in [length + 1, 1 << 19, (1 << 20) - 1] {
            let what = damage(
                codec,
                &block(length, raw_length, payload),
                raw_length.into(),
            );
            assert!(what.contains("do not decompress to"), "{what}");
        }
        let small = encode(codec, &[&text(5000)]);
        let payload = &small[HEADER_BYTES..];
        let length = u32::try_from(payload.len()).unwrap();
        let what = damage(codec, &block(length, 5001, payload), 5001);
        assert!(what.contains("do not decompress to 5001 bytes"), "{what}");
        let nonsense = damage(codec, &block(5, 10, b"bytes"), 10);
        assert!(nonsense.contains("do not decompress"), "{nonsense}");
    }
}

#[test]
fn blocks_beyond_the_segment_are_found_before_its_last_bytes_are_given() {
    for codec in CODECS {
        let mut stored = encode(codec, &[&text(1000)]);
        stored.extend(encode(codec, &[&text(10)]));
        assert!(damage(codec, &stored, 1000).contains("do not belong to the segment"));
        let mut decoder = Decoder::new(stored.as_slice(), codec, 1000, "x".to_owned(), 0).unwrap();
        assert!(decoder.read(&mut [0; 10]).is_err());
        assert!(decoder.read(&mut [0; 10]).is_err(), "also when asked again");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_in_any_pieces_come_back(
        zstd: bool,
        pieces in vec((any::<u64>(), 0_usize..20_000, any::<bool>()), 0..8),
        read in 1_usize..5000,
    ) {
        let codec = CODECS[usize::from(zstd)];
        let pieces: Vec<Vec<u8>> = pieces
            .into_iter()
            .map(|(seed, length, random)| match random {
                true => noise(seed, length),
                false => text(length),
            })
            .collect();
        let stored = encode(codec, &pieces.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let raw = pieces.concat();
        let mut decoder =
            Decoder::new(stored.as_slice(), codec, raw.len() as u64, String::new(), 0).unwrap();
        let mut decoded = Vec::new();
        let mut buffer = vec![0; read];
        loop {
            match decoder.read(&mut buffer).unwrap() {
                0 => break,
                count => decoded.extend_from_slice(&buffer[..count]),
            }
        }
        prop_assert!(decoded == raw);
    }

    #[test]
    fn arbitrary_blocks_never_panic(zstd: bool, bytes in vec(any::<u8>(), 0..300), raw_length in 0..2000_u32) {
        // With a checksum that fits, so that they get as far as the decompressor.
        let stored = block(u32::try_from(bytes.len()).unwrap(), raw_length, &bytes);
        drop(decode(CODECS[usize::from(zstd)], &stored, raw_length.into()));
    }
}
