//! The void marker: what `chk-N/_metadata` holds when checkpoint N can never exist.
//!
//! A put whose answer was lost may take effect later. Before a job goes on from an older checkpoint in
//! the same process it must know that N will not appear after all; so it puts this marker in N's place,
//! if that does not exist yet. Either the marker is first, and N's own put fails whenever it arrives, or
//! N exists.

use bytes::Bytes;
use serde::Serialize;

/// The first bytes of the marker. The line break shows when a transfer took it for text.
const MAGIC: &[u8; 8] = b"HWVOID\r\n";

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Marker<'a> {
    id: u64,
    generation: u64,
    holder: Option<&'a str>,
}

/// The marker for a checkpoint, with who puts it, for people.
pub(crate) fn void(id: u64, generation: u64, holder: Option<&str>) -> Bytes {
    let marker = Marker {
        id,
        generation,
        holder,
    };
    let text = serde_json::to_vec(&marker).expect("a marker is plain fields");
    [&MAGIC[..], &text, b"\n"].concat().into()
}

/// Whether this is a void marker and not metadata.
pub(crate) fn is_void(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_told_from_metadata_by_more_than_one_bit() {
        assert!(is_void(&void(7, 3, Some("token"))));
        let different = |a: &[u8], b: &[u8]| -> u32 {
            let bits = a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones());
            bits.sum()
        };
        assert!(different(MAGIC, &super::super::MAGIC) > 4);
        assert!(!is_void(&super::super::MAGIC));
    }
}
