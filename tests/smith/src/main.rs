//! Makes components and operators at random, to see what a host does with them.
//!
//! `highwater-smith SEED COUNT SHAPE DIRECTORY` writes `0.wasm`, `1.wasm`, … of `COUNT` seeds from `SEED` on.
//! Every third is any component. The others are core modules with the imports and exports of `SHAPE`, an
//! operator as a core module of which `describe` and `open` need nothing but its data. What their functions
//! do is random, but for these two (`open` every other time) and the allocation: what the host passes goes
//! to one place, always. So a host takes the module for an operator, opens it, and gives it records. The
//! sections that `SHAPE` carries for the component model are theirs, too.

use std::error::Error;
use std::fs;
use std::path::Path;

use arbitrary::Unstructured;
use wasm_encoder::reencode::{self, Reencode, RoundtripReencoder};
use wasm_encoder::{
    CodeSection, DataSection, ExportKind, ExportSection, FunctionSection, TypeSection,
};
use wasm_smith::{Component, Config, Module};
use wasmparser::{ExternalKind, Parser, Payload};

/// How the exports end that are not random.
const DESCRIBE: &str = "#describe";
const OPEN: &str = "#open";
const ALLOCATE: &str = "cabi_realloc";
/// Where the host gets memory for what it passes: after the data of the shape.
const ALLOCATED: i32 = 64 << 10;
/// How many random bytes a component or operator is made from.
const BYTES: usize = 64 << 10;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, count, shape, directory] = arguments.as_slice() else {
        return Err("usage: highwater-smith SEED COUNT SHAPE DIRECTORY".into());
    };
    let (first, count): (u64, u64) = (first.parse()?, count.parse()?);
    let module = fs::read(shape)?;
    let opens = Shape::of(&module, &[DESCRIBE, ALLOCATE, OPEN])?;
    let opens_at_random = Shape::of(&module, &[DESCRIBE, ALLOCATE])?;
    for number in 0..count {
        let seed = first + number;
        let bytes = match seed % 3 {
            0 => component(seed)?,
            1 => operator(seed, &opens)?,
            _ => operator(seed, &opens_at_random)?,
        };
        fs::write(Path::new(directory).join(format!("{number}.wasm")), bytes)?;
    }
    Ok(())
}

fn component(seed: u64) -> Result<Vec<u8>> {
    let random = random(seed);
    Ok(Component::new(Config::default(), &mut Unstructured::new(&random))?.to_bytes())
}

fn operator(seed: u64, shape: &Shape) -> Result<Vec<u8>> {
    let random = random(seed);
    let config = Config {
        available_imports: Some(shape.module.clone()),
        exports: Some(shape.others.clone()),
        min_data_segments: 1,
        min_types: 1,
        max_memories: 1,
        max_memory32_bytes: 1 << 20,
        max_table_elements: 1000,
        // What operators are refused for, which would be most of them.
        gc_enabled: false,
        reference_types_enabled: false,
        exceptions_enabled: false,
        threads_enabled: false,
        memory64_enabled: false,
        ..Config::default()
    };
    let module = Module::new(config, &mut Unstructured::new(&random))?.to_bytes();
    shape.complete(&module)
}

/// SplitMix64: the same bytes for a seed everywhere.
fn random(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    };
    std::iter::repeat_with(next)
        .take(BYTES / 8)
        .flatten()
        .collect()
}

/// What operators have in common.
struct Shape {
    module: Vec<u8>,
    /// It, without the exports that are not random.
    others: Vec<u8>,
    /// Those: name, type, and body of the function.
    kept: Vec<(String, wasmparser::FuncType, Vec<u8>)>,
    /// Data: where it goes, and what it is.
    data: Vec<(i32, Vec<u8>)>,
    /// Sections that are not of the core language.
    custom: Vec<(String, Vec<u8>)>,
}

impl Shape {
    /// `kept`: how the exports end that are not random.
    fn of(module: &[u8], kept: &[&str]) -> Result<Self> {
        let is_kept = |name: &str| kept.iter().any(|end| name.ends_with(end));
        let mut others = wasm_encoder::Module::new();
        WithoutKept(is_kept).parse_core_module(&mut others, Parser::new(0), module)?;
        let (mut types, mut functions, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        let (mut imported, mut exported) = (0, Vec::new());
        let (mut data, mut custom) = (Vec::new(), Vec::new());
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(section) => {
                    types = section
                        .into_iter_err_on_gc_types()
                        .collect::<std::result::Result<Vec<_>, _>>()?;
                }
                Payload::ImportSection(section) => imported = section.count() as usize,
                Payload::FunctionSection(section) => {
                    functions = section
                        .into_iter()
                        .collect::<std::result::Result<Vec<_>, _>>()?;
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        if is_kept(export.name) && export.kind == ExternalKind::Func {
                            exported.push((export.name.to_owned(), export.index as usize));
                        }
                    }
                }
                Payload::CodeSectionEntry(body) => bodies.push(body.as_bytes().to_vec()),
                Payload::DataSection(section) => {
                    for segment in section {
                        let segment = segment?;
                        if let wasmparser::DataKind::Active { offset_expr, .. } = segment.kind
                            && let wasmparser::Operator::I32Const { value } =
                                offset_expr.get_operators_reader().read()?
                        {
                            data.push((value, segment.data.to_vec()));
                        }
                    }
                }
                Payload::CustomSection(section) => {
                    custom.push((section.name().to_owned(), section.data().to_vec()));
                }
                _ => {}
            }
        }
        let mut allocate = wasm_encoder::Function::new([]);
        allocate.instructions().i32_const(ALLOCATED).end();
        let allocate = allocate.into_raw_body();
        let kept = exported.into_iter().map(|(name, index)| {
            let defined = index - imported;
            let body = match name == ALLOCATE {
                true => allocate.clone(),
                false => bodies[defined].clone(),
            };
            (name, types[functions[defined] as usize].clone(), body)
        });
        Ok(Self {
            module: module.to_vec(),
            others: others.finish(),
            kept: kept.collect(),
            data,
            custom,
        })
    }

    /// A module with what is not random added.
    fn complete(&self, module: &[u8]) -> Result<Vec<u8>> {
        let mut functions = 0;
        let mut types = 0;
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        types += group?.types().len() as u32;
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        functions += u32::from(matches!(import?.ty, wasmparser::TypeRef::Func(_)));
                    }
                }
                Payload::FunctionSection(section) => functions += section.count(),
                _ => {}
            }
        }
        let mut complete = wasm_encoder::Module::new();
        let mut add = WithKept {
            shape: self,
            types,
            functions,
        };
        add.parse_core_module(&mut complete, Parser::new(0), module)?;
        for (name, data) in &self.custom {
            complete.section(&wasm_encoder::CustomSection {
                name: name.into(),
                data: data.into(),
            });
        }
        Ok(complete.finish())
    }
}

/// Leaves the exports out that are not random.
struct WithoutKept<F>(F);

impl<F: Fn(&str) -> bool> Reencode for WithoutKept<F> {
    type Error = std::convert::Infallible;

    fn parse_export(
        &mut self,
        exports: &mut ExportSection,
        export: wasmparser::Export<'_>,
    ) -> std::result::Result<(), reencode::Error> {
        match (self.0)(export.name) {
            true => Ok(()),
            false => RoundtripReencoder.parse_export(exports, export),
        }
    }
}

/// Adds them after all that is there, so that no number changes.
struct WithKept<'a> {
    shape: &'a Shape,
    /// How many types and functions the module has.
    types: u32,
    functions: u32,
}

impl Reencode for WithKept<'_> {
    type Error = std::convert::Infallible;

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: wasmparser::TypeSectionReader<'_>,
    ) -> std::result::Result<(), reencode::Error> {
        RoundtripReencoder.parse_type_section(types, section)?;
        for (_, kept, _) in &self.shape.kept {
            let kept = RoundtripReencoder.func_type(kept.clone())?;
            types.ty().func_type(&kept);
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> std::result::Result<(), reencode::Error> {
        RoundtripReencoder.parse_function_section(functions, section)?;
        for (_, kept) in self.shape.kept.iter().zip(self.types..) {
            functions.function(kept);
        }
        Ok(())
    }

    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        section: wasmparser::ExportSectionReader<'_>,
    ) -> std::result::Result<(), reencode::Error> {
        RoundtripReencoder.parse_export_section(exports, section)?;
        for ((name, ..), index) in self.shape.kept.iter().zip(self.functions..) {
            exports.export(name, ExportKind::Func, index);
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> std::result::Result<(), reencode::Error> {
        RoundtripReencoder.parse_code_section(code, section)?;
        self.shape.kept.iter().for_each(|(.., body)| {
            code.raw(body);
        });
        Ok(())
    }

    fn data_count(&mut self, count: u32) -> std::result::Result<u32, reencode::Error> {
        Ok(count + self.shape.data.len() as u32)
    }

    fn parse_data_section(
        &mut self,
        data: &mut DataSection,
        section: wasmparser::DataSectionReader<'_>,
    ) -> std::result::Result<(), reencode::Error> {
        RoundtripReencoder.parse_data_section(data, section)?;
        for (offset, bytes) in &self.shape.data {
            let offset = wasm_encoder::ConstExpr::i32_const(*offset);
            data.active(0, &offset, bytes.iter().copied());
        }
        Ok(())
    }
}
