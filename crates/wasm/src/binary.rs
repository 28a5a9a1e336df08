//! What a file is, told from its frame alone: before a compiler sees it, so that the four mistakes
//! people make (another file, half a file, a core module, garbage) get four messages.

/// What a file that is framed as WebAssembly holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A component.
    Component,
    /// A core module.
    Core(Core),
}

/// What a core module says about the component that it wants to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Core {
    /// It has the section that says all, which most bindings leave.
    Described,
    /// It exports functions of an operator under their full names, and leaves the rest to be guessed. What
    /// Go builds is like that.
    Exporting,
    /// Nothing.
    Alien,
}

/// Why a file is not WebAssembly.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWasm {
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
    #[error("it is truncated: a section needs {missing} more bytes after its last byte, {len}")]
    Truncated {
        /// How many bytes are missing at least.
        missing: u64,
        /// How many there are.
        len: u64,
    },
}

const MAGIC: &[u8; 4] = b"\0asm";
const CUSTOM_SECTION: u8 = 0;
const EXPORT_SECTION: u8 = 7;
/// How the names of an operator's functions begin in a core module.
const GUEST_EXPORTS: &[u8] = b"highwater:operator/guest@";
/// Magic, version and layer.
const HEADER_LEN: usize = 8;
// Of a component.
const CORE_MODULE_SECTION: u8 = 1;
const CORE_INSTANCE_SECTION: u8 = 2;
const COMPONENT_SECTION: u8 = 4;
const COMPONENT_INSTANCE_SECTION: u8 = 5;

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
    let (mut is_described, mut is_exporting) = (false, false);
    while let Some((&id, tail)) = rest.split_first() {
        let (size, tail) = leb128(tail).ok_or_else(|| truncated(1))?;
        let Some((section, tail)) = tail.split_at_checked(size as usize) else {
            return Err(truncated(u64::from(size) - tail.len() as u64));
        };
        is_described |= id == CUSTOM_SECTION
            && name(section).is_some_and(|(name, _)| name.starts_with(b"component-type"));
        is_exporting |= id == EXPORT_SECTION && exports_guest(section);
        rest = tail;
    }
    match (version, layer) {
        (_, 1) => Ok(Kind::Component),
        (1, 0) => Ok(Kind::Core(match (is_described, is_exporting) {
            (true, _) => Core::Described,
            (false, true) => Core::Exporting,
            (false, false) => Core::Alien,
        })),
        _ => Err(NotWasm::Version { version, layer }),
    }
}

/// The most core instances that one instance of a component may consist of. A component of one language has
/// about ten, a composed one a few times that.
pub(super) const CORE_INSTANCES_MAX: u64 = 200;

/// The most bytes of the host that the core instances of a component take beside memories and tables: a
/// component of some megabytes can make hundreds of instances of a module with a million globals.
///
/// Too much rather than too little: each instance counts as one of the module that takes most, and each
/// instance of a component within as one of the component that makes most. `bytes` are a valid component, or
/// a core module, which counts as much as the component that becomes of it.
pub(super) fn instance_bytes_max(bytes: &[u8]) -> u64 {
    match kind(bytes) {
        Ok(Kind::Component) => component_bytes(bytes),
        Ok(Kind::Core(_)) => module_bytes(bytes).saturating_mul(CORE_INSTANCES_OF_A_MODULE),
        Err(_) => 0,
    }
}

/// What becomes of a core module has an instance of it, one of the adapter for WASI preview 1, and the two by
/// which these reach each other.
const CORE_INSTANCES_OF_A_MODULE: u64 = 4;

fn component_bytes<'a>(bytes: &'a [u8]) -> u64 {
    /// A component that is being walked: what is left of it, and what it makes so far.
    struct Open<'a> {
        rest: &'a [u8],
        core_instances: u64,
        instances: u64,
    }
    let open = |bytes: &'a [u8]| {
        bytes.get(HEADER_LEN..).map(|rest| Open {
            rest,
            core_instances: 0,
            instances: 0,
        })
    };
    let (mut heaviest, mut most) = (0, 0_u64);
    let mut walked = Vec::from_iter(open(bytes));
    while let Some(component) = walked.last_mut() {
        let Some((id, section, rest)) = next_section(component.rest) else {
            let made = component.instances.saturating_mul(most);
            most = most.max(component.core_instances.saturating_add(made));
            walked.pop();
            continue;
        };
        component.rest = rest;
        let entries = || leb128(section).map_or(0, |(count, _)| u64::from(count));
        match id {
            CORE_MODULE_SECTION => heaviest = heaviest.max(module_bytes(section)),
            CORE_INSTANCE_SECTION => {
                component.core_instances = component.core_instances.saturating_add(entries());
            }
            COMPONENT_INSTANCE_SECTION => {
                component.instances = component.instances.saturating_add(entries());
            }
            COMPONENT_SECTION => walked.extend(open(section)),
            _ => {}
        }
    }
    most.min(CORE_INSTANCES_MAX).saturating_mul(heaviest)
}

/// The most bytes that an instance of a core module takes beside memories and tables.
fn module_bytes(module: &[u8]) -> u64 {
    /// Of an import, a function that others can call, the place of a table or a memory, a global.
    const ITEM_BYTES: u64 = 32;
    const EMPTY_BYTES: u64 = 1 << 10;
    /// Imports, functions, tables, memories, globals, tags.
    const ITEMS: [u8; 6] = [2, 3, 4, 5, 6, 13];
    let mut rest = module.get(HEADER_LEN..).unwrap_or_default();
    let mut bytes = EMPTY_BYTES;
    while let Some((id, section, after)) = next_section(rest) {
        if ITEMS.contains(&id) {
            let count = leb128(section).map_or(0, |(count, _)| u64::from(count));
            bytes = bytes.saturating_add(ITEM_BYTES * count);
        }
        rest = after;
    }
    bytes
}

/// The first section's id and content, and what follows it.
fn next_section(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (id, tail) = bytes.split_first()?;
    let (size, tail) = leb128(tail)?;
    let (section, rest) = tail.split_at_checked(size as usize)?;
    Some((*id, section, rest))
}

/// Whether a core module's section of exports names a function of an operator.
fn exports_guest(section: &[u8]) -> bool {
    let Some((count, mut rest)) = leb128(section) else {
        return false;
    };
    for _ in 0..count {
        // A name, a kind, a number.
        let Some((name, tail)) = name(rest) else {
            return false;
        };
        if name.starts_with(GUEST_EXPORTS) {
            return true;
        }
        let number = tail.get(1..).and_then(leb128);
        let Some((_, tail)) = number else {
            return false;
        };
        rest = tail;
    }
    false
}

/// The name at the beginning, and what follows it.
fn name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = leb128(bytes)?;
    rest.split_at_checked(len as usize)
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
    use super::super::tests::guests::operator;
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
            Err("it is truncated: a section needs 5 more bytes after its last byte, 3"),
        );
        check(
            b"\0asm\x02\0\0\0",
            Err("it is WebAssembly of an unknown kind (version 2, layer 0)"),
        );
    }

    #[test]
    fn a_section_that_reaches_behind_the_end_means_truncated() {
        let module = wat::parse_str("(module (func (export \"f\")))").unwrap();
        check(&module, Ok(Kind::Core(Core::Alien)));
        check(
            &module[..module.len() - 1],
            Err(&format!(
                "it is truncated: a section needs 1 more bytes after its last byte, {}",
                module.len() - 1
            )),
        );
    }

    #[test]
    fn c167_instances_are_weighed_by_the_heaviest_module_whoever_makes_them() {
        let globals = "(global i32 (i32.const 0))".repeat(1000);
        let module = format!("(core module $m {globals})");
        let weight = 32 * 1000 + 1024;
        let made = |instances: &str| {
            let text = format!("(component {module} {instances})");
            instance_bytes_max(&wat::parse_str(text).unwrap())
        };
        let one = "(core instance (instantiate $m))";
        assert_eq!(made(""), 0);
        assert_eq!(made(one), weight);
        assert_eq!(made(&one.repeat(7)), 7 * weight);
        assert_eq!(made(&one.repeat(1000)), CORE_INSTANCES_MAX * weight);
        // By components within, instantiated often, each of which makes some.
        let nested = "(component $c (alias outer 1 $m (core module $n)) (core instance (instantiate $n)) \
            (core instance (instantiate $n)))";
        let twice = "(instance (instantiate $c)) (instance (instantiate $c))";
        assert_eq!(made(&format!("{nested} {twice}")), 4 * weight);
        assert_eq!(made(&format!("{nested} {twice} {one}")), 5 * weight);
        // Whatever form an operator comes in.
        let globals = globals.repeat(100);
        let module = operator(&[("items", &globals)]);
        let component = super::super::adapter::componentize(&module, Core::Described).unwrap();
        let (module, component) = (instance_bytes_max(&module), instance_bytes_max(&component));
        assert!(component > 32 * 100_000, "{component}");
        assert!(
            (component..=component * 4).contains(&module),
            "{module} {component}"
        );
        // Nonsense is not weighed, and does no harm.
        for bytes in [
            &b""[..],
            b"\0asm",
            b"\0asm\x0d\0\x01\0\x04\x7f",
            &[0xff; 64],
        ] {
            assert_eq!(instance_bytes_max(bytes), 0);
        }
    }

    #[test]
    fn a_module_with_bindings_says_which_world_it_wants() {
        let module = wat::parse_str("(module (@custom \"component-type:x\" \"\"))").unwrap();
        check(&module, Ok(Kind::Core(Core::Described)));
        check(&wat::parse_str("(component)").unwrap(), Ok(Kind::Component));
        // Without the section its exports tell.
        for (export, core) in [
            ("highwater:operator/guest@0.1.0#close", Core::Exporting),
            ("highwater:operator/guests", Core::Alien),
        ] {
            let module = format!(
                "(module (memory (export \"memory\") 1) (func (export \"f\")) (func (export {export:?})))"
            );
            check(&wat::parse_str(module).unwrap(), Ok(Kind::Core(core)));
        }
        // A section that says more than it holds.
        for section in [&[7, 1, 9][..], &[7, 3, 1, 0xff, 1], &[7, 2, 1, 0]] {
            let bytes = [b"\0asm\x01\0\0\0", section].concat();
            assert_ne!(kind(&bytes), Ok(Kind::Core(Core::Exporting)));
        }
    }
}
