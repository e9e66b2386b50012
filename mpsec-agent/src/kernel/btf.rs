//! Where the members of kernel structures are: a reader of `/sys/kernel/btf/vmlinux`.
//!
//! The eBPF programs are built without CO-RE relocations; the agent looks up the offsets here and hands them over as
//! constants. Every access is checked, so that damaged BTF gives an error and nothing worse. Format:
//! Documentation/bpf/btf.rst and include/uapi/linux/btf.h (Linux 6.18).

mod raw;

use std::io;

use raw::{CIRCLE, Data, MAX_DEPTH, OVERFLOW, Raw, Records, Type, u32_at};

/// The running kernel's own BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The largest structure of a kernel has a few hundred anonymous ones in it.
const MAX_VISITS: u32 = 1 << 12;

/// The kinds of types, as in include/uapi/linux/btf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the kernel's own words")]
#[repr(u32)]
pub enum BtfKind {
    Int = 1,
    Ptr = 2,
    Array = 3,
    Struct = 4,
    Union = 5,
    Enum = 6,
    Typedef = 8,
    Func = 12,
    Enum64 = 19,
}

/// Of types without a name (include/uapi/linux/btf.h).
const FUNCTION_PROTOTYPE: u32 = 13;

/// A member of a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// From the start of the outermost structure.
    pub bit_offset: u32,
    /// Of the member; 0 for a flexible array.
    pub bit_size: u32,
    /// Whether it is a bitfield.
    pub bitfield: bool,
}

impl Member {
    /// Offset in bytes; for a bitfield, of the byte that holds its lowest bit on a little-endian machine.
    #[must_use]
    pub fn byte_offset(&self) -> u32 {
        self.bit_offset / 8
    }

    /// Size in whole bytes.
    #[must_use]
    pub fn byte_size(&self) -> u32 {
        self.bit_size.div_ceil(8)
    }

    /// Where a bitfield starts within the byte at [`Self::byte_offset`].
    #[must_use]
    pub fn bit_shift(&self) -> u32 {
        self.bit_offset % 8
    }
}

/// Why a name could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be had: a kernel without `CONFIG_DEBUG_INFO_BTF`, or without sysfs.
    #[error("{VMLINUX} cannot be read")]
    Read(#[from] io::Error),
    /// It is not what the format says.
    #[error("the BTF is damaged: {0}")]
    Damaged(&'static str),
    /// This kernel has no such type.
    #[error("this kernel has no type {0}")]
    NoType(String),
    /// This kernel's structure has no such member.
    #[error("this kernel's {structure} has no member {member}")]
    NoMember {
        /// The outermost structure.
        structure: String,
        /// The path that was asked for, or all the alternatives.
        member: String,
    },
}

/// BTF, with what is needed to find one's way in it.
#[derive(Debug)]
pub struct KernelBtf {
    records: Records,
}

impl KernelBtf {
    /// Opens the running kernel's BTF. Meant to be dropped as soon as everything is looked up.
    pub fn load() -> Result<Self, BtfError> {
        Data::load(VMLINUX).and_then(Records::new).map(|records| Self { records })
    }

    /// Reads BTF from memory.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        Records::new(Data::Owned(bytes)).map(|records| Self { records })
    }

    /// Whether the bytes are mapped rather than copied.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        matches!(self.records.data, Data::Mapped(_))
    }

    /// Where `path` (members joined by dots, through anonymous structures and unions) is in `structure`.
    pub fn offset_of(&self, structure: &str, path: &str) -> Result<Member, BtfError> {
        let absent = || BtfError::NoMember { structure: structure.into(), member: path.into() };
        let (_, mut outer) = self.find(structure, &[BtfKind::Struct, BtfKind::Union])?;
        let mut member = Member { bit_offset: 0, bit_size: 0, bitfield: false };
        for (index, name) in path.split('.').enumerate() {
            if index > 0 && !outer.has_members() {
                return Err(absent());
            }
            let found = Search { name, visits: MAX_VISITS }.run(self, &outer, 0)?.ok_or_else(absent)?;
            outer = self.records.resolve(found.type_id)?;
            member = Member {
                bit_offset: member.bit_offset.checked_add(found.bit_offset).ok_or(OVERFLOW)?,
                bit_size: if found.bitfield_bits > 0 { found.bitfield_bits } else { self.records.bits(&outer, 0)? },
                bitfield: found.bitfield_bits > 0,
            };
        }
        Ok(member)
    }

    /// The first of several paths that this kernel has: names change between versions.
    pub fn resolve_first(&self, structure: &str, paths: &[&str]) -> Result<Member, BtfError> {
        for path in paths {
            match self.offset_of(structure, path) {
                Err(BtfError::NoMember { .. }) => {}
                other => return other,
            }
        }
        Err(BtfError::NoMember { structure: structure.into(), member: paths.join(" or ") })
    }

    /// Size in bytes of a structure or union.
    pub fn size_of(&self, structure: &str) -> Result<u32, BtfError> {
        self.find(structure, &[BtfKind::Struct, BtfKind::Union]).map(|(_, found)| found.size_or_type)
    }

    /// The id of a named type, as BPF_PROG_LOAD takes it in `attach_btf_id`.
    pub fn id_of(&self, name: &str, kind: BtfKind) -> Result<u32, BtfError> {
        self.find(name, &[kind]).map(|(id, _)| id)
    }

    /// How many parameters a function has that a named type points to.
    pub fn parameters_of(&self, name: &str) -> Result<usize, BtfError> {
        let (_, pointer) = self.find(name, &[BtfKind::Typedef])?;
        let pointer = self.records.resolve(pointer.size_or_type)?;
        let function = self.records.resolve(pointer.size_or_type)?;
        if pointer.kind != BtfKind::Ptr as u32 || function.kind != FUNCTION_PROTOTYPE {
            return Err(BtfError::Damaged("what should point to a function does not"));
        }
        Ok(function.vlen)
    }

    /// The value of an enumerator of a named enum.
    pub fn enum_value(&self, name: &str, variant: &str) -> Result<i64, BtfError> {
        let (_, found) = self.find(name, &[BtfKind::Enum, BtfKind::Enum64])?;
        let wide = found.kind == BtfKind::Enum64 as u32;
        for index in 0..found.vlen {
            let at = found.body + index * if wide { 12 } else { 8 };
            if self.records.name_is(u32_at(&self.records.data, at)?, variant) {
                let low = u32_at(&self.records.data, at + 4)?;
                return Ok(match (wide, found.flag) {
                    (true, _) => (i64::from(u32_at(&self.records.data, at + 8)?) << 32) | i64::from(low),
                    (false, true) => i64::from(low.cast_signed()),
                    (false, false) => i64::from(low),
                });
            }
        }
        Err(BtfError::NoMember { structure: name.into(), member: variant.into() })
    }

    fn find(&self, name: &str, kinds: &[BtfKind]) -> Result<(u32, Type), BtfError> {
        let mut at = self.records.types.start;
        for id in 1..=self.records.count {
            let found = self.records.type_at(at)?;
            at = found.end;
            if kinds.iter().any(|kind| *kind as u32 == found.kind) && self.records.name_is(found.name, name) {
                return Ok((id, found));
            }
        }
        Err(BtfError::NoType(name.into()))
    }
}

/// The search for one member through anonymous structures and unions.
struct Search<'a> {
    name: &'a str,
    /// How many more structures may be looked into: in damaged data they could contain each other.
    visits: u32,
}

impl Search<'_> {
    fn run(&mut self, btf: &KernelBtf, outer: &Type, depth: u32) -> Result<Option<Raw>, BtfError> {
        self.visits = self.visits.checked_sub(1).filter(|_| depth <= MAX_DEPTH).ok_or(CIRCLE)?;
        for index in 0..outer.vlen {
            let raw = btf.records.raw_member(outer, index)?;
            if raw.name == 0 {
                let inner = btf.records.resolve(raw.type_id)?;
                if !inner.has_members() {
                    continue; // an unnamed bitfield: padding
                }
                if let Some(found) = self.run(btf, &inner, depth + 1)? {
                    let bit_offset = found.bit_offset.checked_add(raw.bit_offset).ok_or(OVERFLOW)?;
                    return Ok(Some(Raw { bit_offset, ..found }));
                }
            } else if btf.records.name_is(raw.name, self.name) {
                return Ok(Some(raw));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
