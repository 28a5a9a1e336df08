//! What a component holds and wants, read from its bytes before a compiler sees them.
//!
//! A compiler's time and memory grow faster than what it compiles, so what is beyond any real component is
//! refused by name first. These limits keep out what is absurd and say so at once; what is only clever is
//! stopped by the limits of the process that compiles (see [`super::compiler`]).
//!
//! Bodies of functions are counted here and validated by the compiler.

use wasmparser::component_types::{ComponentEntityType, ComponentItem};
use wasmparser::types::TypesRef;
use wasmparser::{
    BinaryReaderError, Encoding, FunctionBody, Operator, Parser, Payload, ValidPayload, Validator,
    WasmFeatures,
};

use super::binary::SECTIONS_MAX;
use super::world::{Item, Surface};

/// Something that is counted, and the most of it that a component may have.
struct Limit {
    what: &'static str,
    max: u64,
}

const fn limit(what: &'static str, max: u64) -> Limit {
    Limit { what, max }
}

// The largest number found in components with CPython, StarlingMonkey or QuickJS inside is the comment of each.
const MODULES: Limit = limit("core modules and components", 1_000); // 41
const SECTIONS: Limit = limit("sections", SECTIONS_MAX); // 773
const TYPES: Limit = limit("types", 200_000); // 1,532
const FUNCTIONS: Limit = limit("functions", 500_000); // 13,538
const SEGMENTS: Limit = limit("data and element segments", 200_000); // 10,002
const INSTANCES: Limit = limit("instances", 10_000); // 115
const ALIASES: Limit = limit("aliases and canonical functions", 200_000); // 1,566
const IMPORTS: Limit = limit("imports", 1_000); // 32
const EXPORTS: Limit = limit("exports", 1_000); // 2
const MEMBERS: Limit = limit("members of an imported or exported interface", 10_000);
const NAME_BYTES: Limit = limit("bytes in the name of an import or export", 1_024);
// Of one function.
const BODY_BYTES: Limit = limit("bytes", 4 << 20); // 426,843
const LOCALS: Limit = limit("local variables", 20_000); // 271
const TARGETS: Limit = limit("targets in branch tables", 500_000); // 15,849
/// A branch may have to pass every local variable on, so this is what a compiler may have to write down. It is
/// quadratic in the size of the function.
const PASSED: Limit = limit("local variables times branches", 8_000_000); // 418,192

/// Why a component is not given to the compiler.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Objection {
    /// It is framed as WebAssembly, but what is inside is not valid.
    #[error("it is not valid WebAssembly: {0}")]
    Invalid(String),
    /// It has more of something than any real component.
    #[error("it has {found} {what}, more than the {max} that this host compiles")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are at least.
        found: u64,
        /// The most that are accepted.
        max: u64,
    },
    /// One of its functions has.
    #[error(
        "function {function} of its core module {module} has {found} {what}, more than the {max} that this host compiles"
    )]
    Function {
        /// Number of the function in the code section, from 0.
        function: u32,
        /// Number of the core module in the file, from 0.
        module: u32,
        /// Of what.
        what: &'static str,
        /// How many there are at least.
        found: u64,
        /// The most that are accepted.
        max: u64,
    },
}

impl From<BinaryReaderError> for Objection {
    fn from(error: BinaryReaderError) -> Self {
        Self::Invalid(operator::text::written(
            &error,
            operator::text::NAME_BYTES_MAX,
        ))
    }
}

/// A number that may not grow beyond a limit.
#[derive(Debug, Default)]
struct Tally(u64);

impl Tally {
    fn add(&mut self, more: impl Into<u64>, limit: &Limit) -> Result<(), Objection> {
        self.0 = self.0.saturating_add(more.into());
        within(self.0, limit)
    }
}

fn within(found: u64, limit: &Limit) -> Result<(), Objection> {
    if found <= limit.max {
        return Ok(());
    }
    Err(Objection::TooMany {
        what: limit.what,
        found,
        max: limit.max,
    })
}

/// What was counted so far.
#[derive(Debug, Default)]
struct Totals {
    /// How many components and modules contain the place.
    depth: u32,
    modules: Tally,
    sections: Tally,
    core_modules: u32,
    types: Tally,
    functions: Tally,
    /// Bodies of the current core module.
    bodies: u32,
    segments: Tally,
    instances: Tally,
    aliases: Tally,
    imports: Tally,
    exports: Tally,
    largest: Largest,
}

/// What the functions have at most, for those who set the limits.
#[derive(Debug, Default)]
struct Largest {
    bytes: u64,
    locals: u64,
    targets: u64,
    passed: u64,
}

/// Reads a component or a core module through. Of a core module the surface is empty.
///
/// # Errors
/// It is not valid as far as it was looked at, or it is too much for a compiler.
pub(super) fn examine(bytes: &[u8]) -> Result<Surface, Objection> {
    // Everything that there is: what this host has switched off the compiler refuses.
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut totals = Totals::default();
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut surface = Surface::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        // Before the validator builds something of it.
        totals.count(&payload)?;
        if totals.depth == 1 {
            match &payload {
                Payload::ComponentImportSection(section) => {
                    for import in section.clone() {
                        imports.push(import?.name.name);
                    }
                }
                Payload::ComponentExportSection(section) => {
                    for export in section.clone() {
                        exports.push(export?.name.name);
                    }
                }
                _ => {}
            }
        }
        let is_end = matches!(payload, Payload::End(_));
        if let ValidPayload::End(types) = validator.payload(&payload)?
            && totals.depth == 1
        {
            let types = types.as_ref();
            for name in &imports {
                let found = types.component_item_for_import(name);
                surface.imports.extend(item(types, name, found)?);
            }
            for name in &exports {
                let found = types.component_item_for_export(name);
                surface.exports.extend(item(types, name, found)?);
            }
        }
        if is_end {
            totals.depth -= 1;
        }
    }
    tracing::debug!(?totals, "component examined");
    Ok(surface)
}

fn item(
    types: TypesRef<'_>,
    name: &str,
    found: Option<&ComponentItem>,
) -> Result<Option<Item>, Objection> {
    within(name.len() as u64, &NAME_BYTES)?;
    let Some(found) = found else { return Ok(None) };
    let functions = match found.ty {
        ComponentEntityType::Instance(id) => {
            let members = &types[id].exports;
            within(members.len() as u64, &MEMBERS)?;
            let functions = members
                .iter()
                .filter(|(_, member)| matches!(member.ty, ComponentEntityType::Func(_)))
                .map(|(name, _)| name.clone());
            Some(functions.collect())
        }
        _ => None,
    };
    Ok(Some(Item {
        name: name.to_owned(),
        functions,
    }))
}

impl Totals {
    fn count(&mut self, payload: &Payload<'_>) -> Result<(), Objection> {
        if payload.as_section().is_some() {
            self.sections.add(1_u32, &SECTIONS)?;
        }
        match payload {
            Payload::Version { encoding, .. } => {
                self.depth += 1;
                self.modules.add(1_u32, &MODULES)?;
                if *encoding == Encoding::Module {
                    self.core_modules += 1;
                    self.bodies = 0;
                }
            }
            Payload::TypeSection(section) => self.types.add(section.count(), &TYPES)?,
            Payload::CoreTypeSection(section) => self.types.add(section.count(), &TYPES)?,
            Payload::ComponentTypeSection(section) => self.types.add(section.count(), &TYPES)?,
            Payload::FunctionSection(section) => self.functions.add(section.count(), &FUNCTIONS)?,
            Payload::CodeSectionEntry(body) => self.body(body)?,
            Payload::DataSection(section) => self.segments.add(section.count(), &SEGMENTS)?,
            Payload::ElementSection(section) => self.segments.add(section.count(), &SEGMENTS)?,
            Payload::InstanceSection(section) => self.instances.add(section.count(), &INSTANCES)?,
            Payload::ComponentInstanceSection(section) => {
                self.instances.add(section.count(), &INSTANCES)?;
            }
            Payload::ComponentAliasSection(section) => {
                self.aliases.add(section.count(), &ALIASES)?;
            }
            Payload::ComponentCanonicalSection(section) => {
                self.aliases.add(section.count(), &ALIASES)?;
            }
            Payload::ComponentImportSection(section) if self.depth == 1 => {
                self.imports.add(section.count(), &IMPORTS)?;
            }
            Payload::ComponentExportSection(section) if self.depth == 1 => {
                self.exports.add(section.count(), &EXPORTS)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn body(&mut self, body: &FunctionBody<'_>) -> Result<(), Objection> {
        let (module, function) = (self.core_modules.saturating_sub(1), self.bodies);
        self.bodies += 1;
        let within = |found: u64, limit: &Limit| {
            if found <= limit.max {
                return Ok(());
            }
            Err(Objection::Function {
                function,
                module,
                what: limit.what,
                found,
                max: limit.max,
            })
        };
        let bytes = body.range().len() as u64;
        within(bytes, &BODY_BYTES)?;
        let mut locals = 0_u64;
        for group in body.get_locals_reader()? {
            locals = locals.saturating_add(u64::from(group?.0));
        }
        within(locals, &LOCALS)?;
        let (mut targets, mut branches) = (0_u64, 0_u64);
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            match operators.read()? {
                Operator::BrTable { targets: table } => targets += u64::from(table.len()) + 1,
                Operator::Br { .. }
                | Operator::BrIf { .. }
                | Operator::Block { .. }
                | Operator::Loop { .. }
                | Operator::If { .. } => branches += 1,
                _ => {}
            }
        }
        within(targets, &TARGETS)?;
        let passed = locals.saturating_mul(targets + branches);
        within(passed, &PASSED)?;
        let largest = &mut self.largest;
        largest.bytes = largest.bytes.max(bytes);
        largest.locals = largest.locals.max(locals);
        largest.targets = largest.targets.max(targets);
        largest.passed = largest.passed.max(passed);
        Ok(())
    }
}
