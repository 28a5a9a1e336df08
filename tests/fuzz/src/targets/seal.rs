//! Checksums and lengths around changed bytes, so that what comes after them is reached. Written from
//! `docs/checkpoint-format.md`; shares no code with what reads it.

/// Metadata of a body and inline bytes.
pub(super) fn metadata(version: u32, body: &[u8], inline: &[u8]) -> Vec<u8> {
    let mut file = b"HWCKPT\r\n".to_vec();
    file.extend_from_slice(&version.to_le_bytes());
    file.extend_from_slice(&(body.len() as u64).to_le_bytes());
    file.extend_from_slice(body);
    file.extend_from_slice(&(inline.len() as u64).to_le_bytes());
    file.extend_from_slice(inline);
    let checksum = crc32c::crc32c(&file);
    file.extend_from_slice(&checksum.to_le_bytes());
    file
}

/// Corrects the checksum at the end of changed metadata.
pub(super) fn again(file: &mut [u8]) {
    if let Some((covered, checksum)) = file.split_last_chunk_mut() {
        *checksum = crc32c::crc32c(covered).to_le_bytes();
    }
}

/// Where a segment's first block begins: after magic and version.
const FIRST_BLOCK: usize = 12;

/// Corrects the checksum of every block of a segment, as far as there are whole blocks.
pub(super) fn segment(bytes: &mut [u8]) {
    let mut at = FIRST_BLOCK;
    for number in 0_u32.. {
        let Some(length) = number_at(bytes, at) else {
            return;
        };
        let (start, end) = (at + 8, at.saturating_add(8).saturating_add(length));
        let Some(payload) = bytes.get(start..end) else {
            return;
        };
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), payload);
        bytes[at + 4..start].copy_from_slice(&checksum.to_le_bytes());
        at = end;
    }
}

/// Where the payloads of a segment's blocks are, as far as there are whole blocks.
fn blocks(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut blocks = Vec::new();
    let mut at = FIRST_BLOCK;
    while let Some(length) = number_at(bytes, at) {
        let (start, end) = (at + 8, at.saturating_add(8).saturating_add(length));
        if end > bytes.len() || length == 0 {
            break;
        }
        blocks.push(start..end);
        at = end;
    }
    blocks
}

/// Makes a segment one of key groups from 0 up to `end`.
pub(super) fn range(bytes: &mut [u8], end: u32) {
    if let Some(header) = blocks(bytes).first()
        && let Some(range) = bytes[header.clone()].get_mut(22..30)
    {
        range[..4].fill(0);
        range[4..].copy_from_slice(&end.to_le_bytes());
    }
}

/// Corrects how many entries each block says it has, where its entries are strings.
pub(super) fn counts(bytes: &mut [u8]) {
    for block in blocks(bytes) {
        let payload = &mut bytes[block];
        let strings = match payload[0] {
            2 | 6 => 2,
            3 => 3,
            5 => 1,
            _ => continue,
        };
        let mut at = 9;
        let mut found = 0;
        // Strings of less than 128 bytes; others are rare.
        while let Some(length) = payload.get(at).filter(|length| **length < 128) {
            at += 1 + usize::from(*length);
            found += 1;
        }
        if let Some(count) = payload.get_mut(5..9) {
            count.copy_from_slice(&(found / strings as u32).to_le_bytes());
        }
    }
}

/// Corrects how many entries and blocks a segment says it has, where its last block is an end.
pub(super) fn totals(bytes: &mut [u8]) {
    let blocks = blocks(bytes);
    let mut entries = 0;
    for block in &blocks {
        if (2..=6).contains(&bytes[block.start]) {
            entries += number_at(&bytes[block.clone()], 5).unwrap_or_default() as u64;
        }
    }
    if let Some(last) = blocks.last()
        && let [255, totals @ ..] = &mut bytes[last.clone()]
        && totals.len() == 16
    {
        totals[..8].copy_from_slice(&entries.to_le_bytes());
        totals[8..].copy_from_slice(&(blocks.len() as u64).to_le_bytes());
    }
}

/// Corrects the checksum of every compressed block. Returns how many bytes the blocks say they decompress to.
pub(super) fn compressed(bytes: &mut [u8]) -> u64 {
    let mut raw_length = 0;
    let mut at = 0;
    while let Some((length, raw)) = number_at(bytes, at).zip(number_at(bytes, at + 4)) {
        raw_length += raw as u64;
        let (start, end) = (at + 12, at.saturating_add(12).saturating_add(length));
        let Some(payload) = bytes.get(start..end) else {
            break;
        };
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[at..at + 8]), payload);
        bytes[at + 8..start].copy_from_slice(&checksum.to_le_bytes());
        at = end;
    }
    raw_length
}

/// Compresses a segment, in blocks of at most this many bytes.
pub(super) fn compress(raw: &[u8], by: fn(&[u8]) -> Vec<u8>, block_bytes: usize) -> Vec<u8> {
    let mut packed = Vec::new();
    for block in raw.chunks(block_bytes) {
        let mut payload = by(block);
        if payload.len() >= block.len() {
            payload = block.to_vec();
        }
        packed.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        packed.extend_from_slice(&(block.len() as u32).to_le_bytes());
        packed.extend_from_slice(&[0; 4]);
        packed.extend_from_slice(&payload);
    }
    compressed(&mut packed);
    packed
}

fn number_at(bytes: &[u8], at: usize) -> Option<usize> {
    let number = bytes.get(at..at.checked_add(4)?)?.first_chunk()?;
    Some(u32::from_le_bytes(*number) as usize)
}
