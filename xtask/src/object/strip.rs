//! Drops debug information from an object and keeps BTF, as `llvm-strip -g` would, without LLVM on the machine.
use anyhow::{Context, Result};
use object::build::elf::{Builder, SectionData};

/// The same object without `.debug_*` sections, their relocations, and the symbols that only those used.
pub fn strip(raw: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(raw).context("not an ELF object")?;
    for section in &mut elf.sections {
        section.delete = is_debug(&section.name);
    }
    let deleted: Vec<_> = elf
        .sections
        .iter()
        .filter(|section| section.delete)
        .map(|section| section.id())
        .collect();
    for section in &mut elf.sections {
        let applies_to_deleted = section
            .sh_info_section
            .is_some_and(|target| deleted.contains(&target));
        if matches!(section.data, SectionData::Relocation(_)) && applies_to_deleted {
            section.delete = true;
        }
    }
    let mut stripped = Vec::new();
    elf.write(&mut stripped)
        .context("writing the stripped object")?;
    Ok(stripped)
}

pub(super) fn is_debug(section_name: &[u8]) -> bool {
    section_name.starts_with(b".debug")
}
