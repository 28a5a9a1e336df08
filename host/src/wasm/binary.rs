//! What a file is, told from its frame alone: before a compiler sees it, so that the four mistakes
//! people make (another file, half a file, a core module, garbage) get four messages.

/// What a file that is framed as WebAssembly holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A component.
    Component,
    /// A core module.
    Core {
        /// Whether it says which component it wants to become (the section that bindings leave).
        has_world: bool,
    },
}

/// Why a file is not WebAssembly.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotWasm {
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
    /// Somebody has compiled it already. Machine code cannot be checked, so none is taken but our own.
    #[error(
        "it is compiled machine code (ELF), not WebAssembly; name its .wasm file, which is compiled once and kept"
    )]
    MachineCode,
    /// It begins like something else.
    #[error("it is not WebAssembly: it begins with {0}")]
    Magic(String),
    /// It begins like WebAssembly, but of a kind that does not exist yet.
    #[error("it is WebAssembly of an unknown kind (version {version}, layer {layer})")]
    Version {
        /// Version field of the header.
        version: u16,
        /// Layer field of the header.
        layer: u16,
    },
    /// It stops within a section.
    #[error("it is cut short: a section needs {missing} more bytes behind the last of its {len}")]
    Truncated {
        /// How many bytes are missing at least.
        missing: u64,
        /// How many there are.
        len: u64,
    },
}

const MAGIC: &[u8; 4] = b"\0asm";
const CUSTOM_SECTION: u8 = 0;

/// Tells what `bytes` are by walking the outermost sections.
pub(super) fn kind(bytes: &[u8]) -> Result<Kind, NotWasm> {
    if bytes.is_empty() {
        return Err(NotWasm::Empty);
    }
    if bytes.starts_with(b"\x7fELF") {
        return Err(NotWasm::MachineCode);
    }
    if !bytes.starts_with(&MAGIC[..bytes.len().min(4)]) {
        return Err(NotWasm::Magic(beginning(bytes)));
    }
    let Some((&[v0, v1, l0, l1], mut rest)) = bytes.get(4..).and_then(<[u8]>::split_first_chunk)
    else {
        return Err(NotWasm::Truncated {
            missing: 8 - bytes.len() as u64,
            len: bytes.len() as u64,
        });
    };
    let (version, layer) = (u16::from_le_bytes([v0, v1]), u16::from_le_bytes([l0, l1]));
    let truncated = |missing: u64| NotWasm::Truncated {
        missing,
        len: bytes.len() as u64,
    };
    let mut has_world = false;
    while let Some((&id, tail)) = rest.split_first() {
        let (size, tail) = leb128(tail).ok_or_else(|| truncated(1))?;
        let Some((section, tail)) = tail.split_at_checked(size as usize) else {
            return Err(truncated(u64::from(size) - tail.len() as u64));
        };
        has_world |= id == CUSTOM_SECTION
            && custom_name(section).is_some_and(|name| name.starts_with(b"component-type"));
        rest = tail;
    }
    match (version, layer) {
        (_, 1) => Ok(Kind::Component),
        (1, 0) => Ok(Kind::Core { has_world }),
        _ => Err(NotWasm::Version { version, layer }),
    }
}

fn custom_name(section: &[u8]) -> Option<&[u8]> {
    let (len, rest) = leb128(section)?;
    rest.get(..len as usize)
}

/// An unsigned LEB128 number of at most 32 bits, and what follows it.
fn leb128(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(value).ok()?, &bytes[index + 1..]));
        }
    }
    None
}

/// The first bytes, as text where they are text.
fn beginning(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(16)];
    if start
        .iter()
        .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
    {
        format!("the text {:?}", String::from_utf8_lossy(start))
    } else {
        let hex: Vec<String> = start
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("the bytes {}", hex.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Result<Kind, &str>) {
        assert_eq!(
            kind(bytes).map_err(|error| error.to_string()),
            expected.map_err(str::to_owned)
        );
    }

    #[test]
    fn files_that_are_not_wasm_are_told_apart() {
        check(b"", Err("the file is empty"));
        check(
            b"#!/bin/sh\nexit 0\n",
            Err("it is not WebAssembly: it begins with the text \"#!/bin/sh\\nexit 0\""),
        );
        check(
            &[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0],
            Err(
                "it is compiled machine code (ELF), not WebAssembly; name its .wasm file, which is compiled once and kept",
            ),
        );
        check(
            &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
            Err("it is not WebAssembly: it begins with the bytes 1f 8b 08 00 00 00 00 00"),
        );
        check(
            b"\0as",
            Err("it is cut short: a section needs 5 more bytes behind the last of its 3"),
        );
        check(
            b"\0asm\x02\0\0\0",
            Err("it is WebAssembly of an unknown kind (version 2, layer 0)"),
        );
    }

    #[test]
    fn a_section_that_reaches_behind_the_end_means_truncated() {
        let module = wat::parse_str("(module (func (export \"f\")))").unwrap();
        check(&module, Ok(Kind::Core { has_world: false }));
        check(
            &module[..module.len() - 1],
            Err(&format!(
                "it is cut short: a section needs 1 more bytes behind the last of its {}",
                module.len() - 1
            )),
        );
    }

    #[test]
    fn a_module_with_bindings_says_which_world_it_wants() {
        let module = wat::parse_str("(module (@custom \"component-type:x\" \"\"))").unwrap();
        check(&module, Ok(Kind::Core { has_world: true }));
        check(&wat::parse_str("(component)").unwrap(), Ok(Kind::Component));
    }
}
