//! What a file is, seen from its frame alone: before a compiler sees it, so that the four mistakes
//! people make (another file, half a file, a core module, garbage) get four messages.
//!
//! `wasmparser` takes sections apart. Only what is before them is read here, because its errors do not say what a
//! file begins with.
//!
//! [`kind`] runs in this process and not in the limited one that compiles, on bytes that nobody has checked. So
//! it goes from section to section, looks into none but the exports, and keeps nothing that grows with the file.

use wasmparser::{
    BinaryReaderError, Chunk, Encoding, ExportSectionReader, ImportSectionReader, Parser, Payload,
};

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
    /// It has more sections than any component.
    #[error("it has more than {SECTIONS_MAX} sections, the most that this host reads")]
    Sections,
    /// Its sections are not those of a module or a component.
    #[error("it is not valid WebAssembly: {0}")]
    Invalid(String),
}

impl From<BinaryReaderError> for NotWasm {
    fn from(error: BinaryReaderError) -> Self {
        Self::Invalid(operator::text::written(
            &error,
            operator::text::NAME_BYTES_MAX,
        ))
    }
}

/// The most sections that a file may have, at all levels together. A component with CPython inside has 773. One
/// without content takes three bytes, so without a limit a file keeps everything that reads it busy for seconds.
pub(super) const SECTIONS_MAX: u64 = 200_000;
/// The most exports of a core module that are looked at: the compiler's parser takes no more.
const EXPORTS_MAX: usize = 1_000_000;

const MAGIC: &[u8; 4] = b"\0asm";
/// How the name of the section begins in which bindings say all.
const DESCRIPTION: &str = "component-type";
/// How the names of an operator's functions begin in a core module.
pub(super) const GUEST_EXPORTS: &str = "highwater:operator/guest@";

/// What `bytes` are, found by walking the outermost sections.
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
    let truncated = |missing: u64| NotWasm::Truncated {
        missing,
        len: bytes.len() as u64,
    };
    let Some(&[v0, v1, l0, l1]) = bytes.get(4..).and_then(<[u8]>::first_chunk) else {
        return Err(truncated(8 - bytes.len() as u64));
    };
    let mut parser = Parser::new(0);
    let (mut is_component, mut is_described, mut is_exporting) = (false, false, false);
    let (mut rest, mut sections) = (bytes, 0);
    // Not `parse_all`, because it does not say how much is missing, and goes into bodies of functions and into the
    // modules of a component. The parser is made to believe that more may come: a section that is cut then asks
    // for the rest by number, where it would else be an error like any other.
    while !rest.is_empty() {
        // The header comes first, and is none.
        if sections > SECTIONS_MAX {
            return Err(NotWasm::Sections);
        }
        sections += 1;
        let (consumed, payload) = match parser.parse(rest, false) {
            Ok(Chunk::Parsed { consumed, payload }) => (consumed, payload),
            Ok(Chunk::NeedMoreData(missing)) => return Err(truncated(missing)),
            // The parser's text shows both fields as one number.
            Err(_) if rest.len() == bytes.len() => {
                return Err(NotWasm::Version {
                    version: u16::from_le_bytes([v0, v1]),
                    layer: u16::from_le_bytes([l0, l1]),
                });
            }
            Err(error) => return Err(error.into()),
        };
        let mut within = 0;
        match payload {
            Payload::Version { encoding, .. } => is_component = encoding == Encoding::Component,
            Payload::CustomSection(section) => {
                is_described |= section.name().starts_with(DESCRIPTION);
            }
            Payload::ExportSection(section) => is_exporting |= exports_guest(section),
            Payload::CodeSectionStart { size, .. } => {
                parser.skip_section();
                within = size as usize;
            }
            Payload::ModuleSection {
                unchecked_range, ..
            }
            | Payload::ComponentSection {
                unchecked_range, ..
            } => within = unchecked_range.len(),
            _ => {}
        }
        let after = consumed.saturating_add(within);
        let missing = after.saturating_sub(rest.len());
        rest = rest.get(after..).ok_or_else(|| truncated(missing as u64))?;
    }
    Ok(match (is_component, is_described, is_exporting) {
        (true, ..) => Kind::Component,
        (false, true, _) => Kind::Core(Core::Described),
        (false, false, true) => Kind::Core(Core::Exporting),
        (false, false, false) => Kind::Core(Core::Alien),
    })
}

/// Whether a core module's section of exports names a function of an operator.
fn exports_guest(section: ExportSectionReader<'_>) -> bool {
    let mut exports = section.into_iter().take(EXPORTS_MAX).map_while(Result::ok);
    exports.any(|export| export.name.starts_with(GUEST_EXPORTS))
}

/// The most core instances that one instance of a component may consist of. A component of one language has
/// about ten, a composed one a few times that.
pub(super) const CORE_INSTANCES_MAX: u64 = 200;

/// What becomes of a core module has an instance of it, one of the adapter for WASI preview 1, and the two by
/// which these reach each other.
const CORE_INSTANCES_OF_A_MODULE: u64 = 4;

/// Of an import, a function that others can call, the place of a table or a memory, a global.
const ITEM_BYTES: u64 = 32;
/// Of an instance of a core module without any of them.
const EMPTY_BYTES: u64 = 1 << 10;

/// The most bytes of the host that the core instances of a component take beside memories and tables: a
/// component of some megabytes can make hundreds of instances of a module with a million globals.
///
/// Too much rather than too little: each instance counts as one of the module that takes most, and each
/// instance of a component within as one of the component that makes most. `bytes` are a valid component, or
/// a core module, which counts as much as the component that becomes of it; of anything else it is 0.
pub(super) fn instance_bytes_max(bytes: &[u8]) -> u64 {
    weight(bytes).unwrap_or(0)
}

/// A module or a component that is being read, and what it has so far.
#[derive(Default)]
struct Open {
    is_component: bool,
    /// Of a module: what an instance has, each with a place of its own.
    items: u64,
    /// Of a component: entries in its sections of core instances.
    core_instances: u64,
    /// Of a component: entries in its sections of instances.
    instances: u64,
}

fn weight(bytes: &[u8]) -> wasmparser::Result<u64> {
    let (mut heaviest, mut most) = (0, 0_u64);
    // Grows with the nesting of the file, as does what the parser keeps: `examine` has refused more than 1000
    // modules and components before.
    let mut open: Vec<Open> = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        if let Payload::Version { encoding, .. } = payload {
            let is_component = encoding == Encoding::Component;
            if open.is_empty() && !is_component {
                most = CORE_INSTANCES_OF_A_MODULE;
            }
            open.push(Open {
                is_component,
                ..Open::default()
            });
        }
        let Some(inner) = open.last_mut() else {
            continue;
        };
        // Each number has 32 bits and takes bytes of the file, so the sums fit.
        match payload {
            Payload::ImportSection(section) => inner.items += imported(section)?,
            Payload::FunctionSection(section) => inner.items += u64::from(section.count()),
            Payload::TableSection(section) => inner.items += u64::from(section.count()),
            Payload::MemorySection(section) => inner.items += u64::from(section.count()),
            Payload::TagSection(section) => inner.items += u64::from(section.count()),
            Payload::GlobalSection(section) => inner.items += u64::from(section.count()),
            Payload::InstanceSection(section) => inner.core_instances += u64::from(section.count()),
            Payload::ComponentInstanceSection(section) => {
                inner.instances += u64::from(section.count());
            }
            Payload::End(_) => {
                if inner.is_component {
                    let made = inner.instances.saturating_mul(most);
                    most = most.max(inner.core_instances.saturating_add(made));
                } else {
                    let items = inner.items.saturating_mul(ITEM_BYTES);
                    heaviest = heaviest.max(items.saturating_add(EMPTY_BYTES));
                }
                open.pop();
            }
            _ => {}
        }
    }
    Ok(most.min(CORE_INSTANCES_MAX).saturating_mul(heaviest))
}

/// How many items are imported. One entry of the section can import several.
fn imported(section: ImportSectionReader<'_>) -> wasmparser::Result<u64> {
    let mut imports = 0;
    for import in section.into_imports() {
        import?;
        imports += 1;
    }
    Ok(imports)
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
        check(
            b"\0asm\x0c\0\x01\0",
            Err("it is WebAssembly of an unknown kind (version 12, layer 1)"),
        );
    }

    #[test]
    fn a_section_that_reaches_past_the_end_means_truncated() {
        let module = wat::parse_str("(module (func (export \"f\")))").unwrap();
        check(&module, Ok(Kind::Core(Core::Alien)));
        // The last section is one of code, one of a module, one of a component, one that is left as it is.
        let name = b"\0\x05\x04name";
        for (text, last) in [
            ("(module (func (export \"f\")))", &b""[..]),
            ("(component (core module (func)))", b""),
            ("(component (component (core module)))", b""),
            ("(component)", name),
        ] {
            let whole = [&wat::parse_str(text).unwrap(), last].concat();
            assert!(kind(&whole).is_ok(), "{text}");
            for missing in 1..4 {
                let len = whole.len() - missing;
                check(
                    &whole[..len],
                    Err(&format!(
                        "it is truncated: a section needs {missing} more bytes after its last byte, {len}",
                    )),
                );
            }
        }
    }

    #[test]
    fn sections_that_no_parser_takes_are_no_kind() {
        for (header, section) in [
            (b"\0asm\x01\0\0\0", &[0x80, 0][..]),
            (b"\0asm\x01\0\0\0", &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0]),
            (b"\0asm\x01\0\0\0", &[7, 1, 0, 1, 1, 0]),
            (b"\0asm\x0d\0\x01\0", &[0, 3, 2, 0xff, 0xff]),
        ] {
            let bytes = [&header[..], section].concat();
            let found = kind(&bytes);
            assert!(matches!(found, Err(NotWasm::Invalid(_))), "{found:?}");
        }
    }

    #[test]
    fn c161_sections_without_end_are_not_gone_through() {
        let most = usize::try_from(SECTIONS_MAX).unwrap();
        for (header, expected) in [
            (b"\0asm\x01\0\0\0", Kind::Core(Core::Alien)),
            (b"\0asm\x0d\0\x01\0", Kind::Component),
        ] {
            let custom = [0, 1, 0];
            check(&[&header[..], &custom.repeat(most)].concat(), Ok(expected));
            check(
                &[&header[..], &custom.repeat(most + 1)].concat(),
                Err("it has more than 200000 sections, the most that this host reads"),
            );
        }
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
        // Without the section its exports say it.
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
