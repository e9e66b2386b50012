//! Looks into a built object: what it offers, what must not be in it, where two of them part.
use std::{collections::BTreeSet, fmt};

use anyhow::{Context, Result};
use object::{
    Endianness, elf,
    read::elf::{ElfFile64, FileHeader as _},
    read::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind},
};

use super::strip::is_debug;

type Elf<'data> = ElfFile64<'data, Endianness>;

/// Names that only code of a panic has. The verifier refuses what such code does, at load, with an obscure message.
const PANIC_NAMES: &[&str] = &["panicking", "rust_begin_unwind", "unwrap_failed", "expect_failed"];

/// What paths inside an object begin with after `--remap-path-prefix`.
pub const NEUTRAL_PATHS: [&str; 3] = ["/mpsec/", "/cargo/", "/rust/"];

/// What an object offers to its loader, in the order of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The licence that the kernel is told.
    pub license: String,
    /// Map names.
    pub maps: BTreeSet<String>,
    /// Section and name of each program.
    pub programs: BTreeSet<(String, String)>,
}

impl Inventory {
    /// Those of the expected names that the object lacks.
    #[must_use]
    pub fn missing(&self, programs: &[&str], maps: &[&str]) -> Vec<String> {
        let has_program = |name: &str| self.programs.iter().any(|(_, have)| have == name);
        let programs = programs.iter().filter(|name| !has_program(name)).map(|name| format!("program {name}"));
        let maps = maps.iter().filter(|name| !self.maps.contains(**name)).map(|name| format!("map {name}"));
        programs.chain(maps).collect()
    }
}

/// One line an item, so that a change of an object can be read in a review.
impl fmt::Display for Inventory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "license {}", self.license)?;
        for name in &self.maps {
            writeln!(out, "map {name}")?;
        }
        for (section, name) in &self.programs {
            writeln!(out, "program {section} {name}")?;
        }
        Ok(())
    }
}

/// Lists what the object offers.
pub fn inventory(bytes: &[u8]) -> Result<Inventory> {
    let elf = parse(bytes)?;
    let mut inventory = Inventory { license: license(&elf).unwrap_or_default(), ..Inventory::default() };
    for symbol in elf.symbols().filter(|symbol| !symbol.is_local()) {
        let Some(section) = symbol.section_index() else {
            continue;
        };
        let section = elf.section_by_index(section)?;
        let (section_name, name) = (section.name()?, symbol.name()?.to_owned());
        match section_name {
            "maps" | ".maps" => _ = inventory.maps.insert(name),
            ".text" => {}
            _ if section.kind() == SectionKind::Text && symbol.kind() == SymbolKind::Text => {
                inventory.programs.insert((section_name.to_owned(), name));
            }
            _ => {}
        }
    }
    Ok(inventory)
}

/// Everything for which a kernel, a licence or a reproducible build would refuse this object. Empty is good.
pub fn problems(bytes: &[u8]) -> Result<Vec<String>> {
    let elf = parse(bytes)?;
    let mut problems = Vec::new();
    for section in elf.sections() {
        let name = section.name()?;
        if is_debug(name.as_bytes()) {
            problems.push(format!("debug section {name} is left"));
        }
        if name.starts_with(".text.unlikely") && section.size() > 0 {
            problems.push(format!("{name} has {} bytes: some arithmetic or index can panic", section.size()));
        }
    }
    for symbol in elf.symbols() {
        let name = symbol.name()?;
        if PANIC_NAMES.iter().any(|panic| name.contains(panic)) {
            problems.push(format!("{name} is left: something can panic"));
        } else if symbol.is_undefined() && !name.is_empty() {
            problems.push(format!("{name} is used and not defined"));
        }
    }
    if license(&elf).is_none() {
        problems.push("no license section with text that ends in a zero byte".to_owned());
    }
    match elf.section_by_name(".BTF") {
        Some(btf) => problems.extend(telling_paths(btf.data()?)),
        None => problems.push("no .BTF section".to_owned()),
    }
    if inventory(bytes)?.programs.is_empty() {
        problems.push("no program".to_owned());
    }
    Ok(problems)
}

fn parse(bytes: &[u8]) -> Result<Elf<'_>> {
    let elf = Elf::parse(bytes).context("not a 64-bit ELF object")?;
    let header = elf.elf_header();
    let machine = header.e_machine(elf.endian());
    anyhow::ensure!(
        machine == elf::EM_BPF && elf.endian() == Endianness::Little,
        "not a little-endian eBPF object (machine {machine})"
    );
    Ok(elf)
}

fn license(elf: &Elf<'_>) -> Option<String> {
    let data = elf.section_by_name("license")?.data().ok()?;
    let text = std::str::from_utf8(data.strip_suffix(&[0])?).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// Paths of the machine that built it, in the string table of BTF: they would differ on the next machine.
fn telling_paths(btf: &[u8]) -> Vec<String> {
    btf.split(|&byte| byte == 0)
        .filter_map(|string| std::str::from_utf8(string).ok())
        .filter(|string| string.starts_with('/') && string.ends_with(".rs"))
        .filter(|path| !NEUTRAL_PATHS.iter().any(|neutral| path.starts_with(neutral)))
        .map(|path| format!("path of the building machine: {path}"))
        .collect()
}

/// Says where two objects part: in sizes and the first section, or in the first byte when no section tells.
pub fn first_difference(ours: &[u8], theirs: &[u8]) -> Result<Option<String>> {
    if ours == theirs {
        return Ok(None);
    }
    let sizes = format!("{} bytes against {}", ours.len(), theirs.len());
    let (ours_elf, theirs_elf) = (parse(ours)?, parse(theirs)?);
    for section in ours_elf.sections() {
        let name = section.name()?;
        let Some(other) = theirs_elf.section_by_name(name) else {
            return Ok(Some(format!("{sizes}; section {name} is in one only")));
        };
        let (data, other_data) = (section.data()?, other.data()?);
        if data != other_data {
            let at = common_prefix(data, other_data);
            return Ok(Some(format!(
                "{sizes}; section {name} ({} bytes against {}) from offset {at:#x}",
                data.len(),
                other_data.len()
            )));
        }
    }
    let at = common_prefix(ours, theirs);
    Ok(Some(format!("{sizes}; same sections, file offset {at:#x}")))
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
