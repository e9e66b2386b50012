//! A memory-mapped array map, mapped piece by piece as it is reached.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

/// Bytes that are mapped at once: a multiple of every page size that these machines have.
const PIECE: usize = 64 * 1024;

/// An array map, read and written where it lies.
///
/// The kernel maps an array's pages at once, and mapped pages count as memory of this process; so a piece is mapped when it
/// is first reached.
pub struct Memory {
    map: OwnedFd,
    /// Bytes of all values.
    len: usize,
    pieces: Vec<Option<MmapRaw>>,
}

impl Memory {
    /// Maps nothing yet. The map holds `len` bytes, of values whose size divides 64 KiB.
    pub fn new(map: OwnedFd, len: usize) -> Memory {
        let pieces = std::iter::repeat_with(|| None).take(len.div_ceil(PIECE)).collect();
        Memory { map, len, pieces }
    }

    /// `count` words from the word `first` on; they must lie in one piece, as those of one value do.
    ///
    /// # Errors
    /// What `mmap(2)` says, and an error for what is beyond the end.
    pub fn words(&mut self, first: usize, count: usize) -> io::Result<&[AtomicU64]> {
        let start = self.reach(first * 8, count * 8)?;
        // SAFETY: the words lie within a mapping that lives as long as `self`, aligned, because the mapping starts on a page
        // and `start` is a multiple of 8 bytes behind. Kernel and user side both access them as atomics or whole words.
        Ok(unsafe { std::slice::from_raw_parts(start.cast(), count) })
    }

    fn reach(&mut self, offset: usize, len: usize) -> io::Result<*mut u8> {
        let (piece, within) = (offset / PIECE, offset % PIECE);
        if within + len > PIECE || offset + len > self.len {
            return Err(io::Error::from_raw_os_error(libc::ERANGE));
        }
        let entry = self.pieces.get_mut(piece).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mapping = match entry {
            Some(mapping) => mapping,
            None => {
                let start = piece * PIECE;
                let len = PIECE.min(self.len - start);
                entry.insert(MmapOptions::new().offset(start as u64).len(len).map_raw(self.map.as_raw_fd())?)
            }
        };
        Ok(mapping.as_mut_ptr().wrapping_add(within))
    }
}
