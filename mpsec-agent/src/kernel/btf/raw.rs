//! The records of BTF: bytes to types, each access checked.

use std::fs::File;
use std::io::Read;
use std::ops::Deref;

use memmap2::{Mmap, MmapOptions};

use super::{BtfError, BtfKind};

pub(super) const MAGIC: u16 = 0xeb9f;
/// Typedefs, qualifiers and anonymous members nest a few levels; more is a loop in damaged data.
pub(super) const MAX_DEPTH: u32 = 32;
/// Of every how many types the position is remembered; the others are walked to.
const STRIDE: usize = 64;
/// More types than any kernel has, so that a damaged length cannot make the walk endless.
const MAX_TYPES: usize = 1 << 22;
pub(super) const CIRCLE: BtfError = BtfError::Damaged("types go in a circle");
pub(super) const OVERFLOW: BtfError = BtfError::Damaged("an offset or size is beyond any structure");

/// BTF, with what is needed to find one's way in it.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) data: Data,
    pub(super) types: std::ops::Range<usize>,
    strings: std::ops::Range<usize>,
    /// Positions of the types 1, 1 + STRIDE, 1 + 2 * STRIDE, ...
    marks: Vec<u32>,
    pub(super) count: u32,
}

/// The bytes, mapped where the kernel allows it (6.16 and later), so that they do not count as memory of the agent.
#[derive(Debug)]
pub(super) enum Data {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Data {
    pub(super) fn load(path: &str) -> Result<Self, BtfError> {
        let mut file = File::open(path)?;
        // The kernel refuses shared mappings of it (btf_sysfs_vmlinux_mmap, kernel/bpf/sysfs_btf.c, Linux 6.18).
        // SAFETY: the mapped pages belong to the kernel's read-only image: nobody can write or truncate them.
        if let Ok(map) = unsafe { MmapOptions::new().map_copy_read_only(&file) } {
            return Ok(Self::Mapped(map));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Self::Owned(bytes))
    }
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Records {
    pub(super) fn new(data: Data) -> Result<Self, BtfError> {
        if data.get(..2) != Some(&MAGIC.to_ne_bytes()[..]) {
            return Err(BtfError::Damaged("no BTF of this machine's byte order"));
        }
        let header = u32_at(&data, 4)? as usize;
        let section = |offset: usize, length: usize| -> Result<_, BtfError> {
            let start = header.saturating_add(u32_at(&data, offset)? as usize);
            let range = start..start.saturating_add(u32_at(&data, length)? as usize);
            data.get(range.clone()).map(|_| range).ok_or(BtfError::Damaged("a section ends beyond the file"))
        };
        let (types, strings) = (section(8, 12)?, section(16, 20)?);
        let mut records = Self { data, types, strings, marks: Vec::new(), count: 0 };
        records.index()?;
        Ok(records)
    }

    fn index(&mut self) -> Result<(), BtfError> {
        let (mut at, mut count, mut marks) = (self.types.start, 0, Vec::new());
        while at < self.types.end {
            if count % STRIDE == 0 {
                marks.push(u32::try_from(at).map_err(|_| BtfError::Damaged("larger than 4 GiB"))?);
            }
            at = self.type_at(at)?.end;
            count += 1;
            if count > MAX_TYPES || at > self.types.end {
                return Err(BtfError::Damaged("the types do not end where they should"));
            }
        }
        (self.marks, self.count) = (marks, count as u32);
        Ok(())
    }

    pub(super) fn name_is(&self, offset: u32, name: &str) -> bool {
        let bytes = self.data.get(self.strings.clone()).and_then(|strings| strings.get(offset as usize..));
        bytes.is_some_and(|bytes| bytes.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0)))
    }

    pub(super) fn type_by_id(&self, id: u32) -> Result<Type, BtfError> {
        let index = id.checked_sub(1).ok_or(BtfError::Damaged("void has no members"))? as usize;
        let mark = self.marks.get(index / STRIDE).ok_or(BtfError::Damaged("a type id is out of range"))?;
        let mut found = self.type_at(*mark as usize)?;
        for _ in 0..index % STRIDE {
            found = self.type_at(found.end)?;
        }
        Ok(found)
    }

    /// The type behind typedefs and qualifiers.
    pub(super) fn resolve(&self, id: u32) -> Result<Type, BtfError> {
        let mut found = self.type_by_id(id)?;
        for _ in 0..MAX_DEPTH {
            match found.kind {
                // Typedef, volatile, const, restrict, type tag.
                8..=11 | 18 => found = self.type_by_id(found.size_or_type)?,
                _ => return Ok(found),
            }
        }
        Err(CIRCLE)
    }

    pub(super) fn raw_member(&self, outer: &Type, index: usize) -> Result<Raw, BtfError> {
        let at = outer.body + index * 12;
        let (name, type_id, place) =
            (u32_at(&self.data, at)?, u32_at(&self.data, at + 4)?, u32_at(&self.data, at + 8)?);
        let (bit_offset, bitfield_bits) = if outer.flag { (place & 0x00ff_ffff, place >> 24) } else { (place, 0) };
        Ok(Raw { name, type_id, bit_offset, bitfield_bits })
    }

    pub(super) fn bits(&self, found: &Type, depth: u32) -> Result<u32, BtfError> {
        let bytes = match found.kind {
            2 => size_of::<usize>() as u32,
            3 if depth < MAX_DEPTH => {
                let element = self.resolve(u32_at(&self.data, found.body)?)?;
                let length = u32_at(&self.data, found.body + 8)?;
                return self.bits(&element, depth + 1)?.checked_mul(length).ok_or(OVERFLOW);
            }
            // Int, struct, union, enum, float, enum64.
            1 | 4 | 5 | 6 | 16 | 19 => found.size_or_type,
            _ => return Err(BtfError::Damaged("a member has a type without a size")),
        };
        bytes.checked_mul(8).ok_or(OVERFLOW)
    }

    pub(super) fn type_at(&self, at: usize) -> Result<Type, BtfError> {
        let (name, info) = (u32_at(&self.data, at)?, u32_at(&self.data, at + 4)?);
        let size_or_type = u32_at(&self.data, at + 8)?;
        // Older kernels leave zero what newer ones may use of both fields.
        let (kind, vlen) = ((info >> 24) & 0x7f, (info & 0x00ff_ffff) as usize);
        let body = at + 12;
        let length = match kind {
            // Int, var, decl tag.
            1 | 14 | 17 => 4,
            // Ptr, fwd, typedef, volatile, const, restrict, func, float, type tag.
            2 | 7..=12 | 16 | 18 => 0,
            3 => 12,
            // Struct, union, data section, enum64.
            4 | 5 | 15 | 19 => vlen * 12,
            // Enum, function prototype.
            6 | 13 => vlen * 8,
            _ => return Err(BtfError::Damaged("a kind of type that is not known")),
        };
        Ok(Type { name, kind, flag: info >> 31 != 0, vlen, size_or_type, body, end: body + length })
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Type {
    pub(super) name: u32,
    pub(super) kind: u32,
    pub(super) flag: bool,
    pub(super) vlen: usize,
    pub(super) size_or_type: u32,
    pub(super) body: usize,
    pub(super) end: usize,
}

impl Type {
    pub(super) fn has_members(&self) -> bool {
        self.kind == BtfKind::Struct as u32 || self.kind == BtfKind::Union as u32
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Raw {
    pub(super) name: u32,
    pub(super) type_id: u32,
    pub(super) bit_offset: u32,
    /// 0 where it is no bitfield.
    pub(super) bitfield_bits: u32,
}

pub(super) fn u32_at(data: &[u8], at: usize) -> Result<u32, BtfError> {
    let bytes = data.get(at..at.saturating_add(4)).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_ne_bytes).ok_or(BtfError::Damaged("it ends too early"))
}
