//! Drops debug information from an object and keeps BTF, as `llvm-strip -g` would, without LLVM on the machine; and
//! puts BTF into one order.
use anyhow::{Context, Result};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// The same object without `.debug_*` sections, their relocations, and the symbols that only those used.
pub fn strip(raw: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(raw).context("not an ELF object")?;
    let debug: Vec<_> =
        elf.sections.iter().filter(|section| is_debug(&section.name)).map(|section| section.id()).collect();
    for section in &mut elf.sections {
        let is_about_debug = section.sh_info_section.is_some_and(|id| debug.contains(&id));
        section.delete = debug.contains(&section.id()) || is_about_debug;
    }
    for section in elf.sections.iter_mut().filter(|section| section.name[..] == b".BTF"[..]) {
        if let SectionData::Data(btf) = &mut section.data {
            *btf = super::btf::with_sorted_forwards(btf)?.into();
        }
    }
    name_sections_apart(&mut elf);
    let mut stripped = Vec::new();
    elf.write(&mut stripped).context("writing the stripped object")?;
    Ok(stripped)
}

/// LLVM keeps the names of sections and of symbols in one table, which the writer does not: it gets one for sections.
fn name_sections_apart(elf: &mut Builder<'_>) {
    let is_name_table = |data: &SectionData<'_>| matches!(data, SectionData::SectionString);
    if elf.sections.iter().any(|section| is_name_table(&section.data)) {
        return;
    }
    let names = elf.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
}

pub(super) fn is_debug(section_name: &[u8]) -> bool {
    section_name.starts_with(b".debug")
}
