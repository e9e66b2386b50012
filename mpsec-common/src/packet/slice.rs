//! The reader of byte slices, for everything but the kernel side.

use super::{Context, Layout, OPTION_BYTES, Options, Packet, Short, classify, scan};
use crate::Pod;

/// A frame in a byte slice.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a>(pub &'a [u8]);

impl Packet for Slice<'_> {
    const COMPLETE: bool = true;

    fn read<T: Pod>(&self, offset: u32) -> Result<T, Short> {
        let start = offset as usize;
        let bytes = self.0.get(start..).and_then(|rest| rest.get(..size_of::<T>())).ok_or(Short)?;
        // SAFETY: `bytes` holds exactly the size of a `T`, every byte pattern is a `T` (`Pod`), and the read may be
        // unaligned.
        Ok(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }

    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn scan_options(&self, offset: u32, len: u32) -> Result<Options, Short> {
        let start = offset as usize;
        let bytes = self.0.get(start..).and_then(|rest| rest.get(..len as usize)).ok_or(Short)?;
        let mut options = [0; OPTION_BYTES];
        options.get_mut(..bytes.len()).ok_or(Short)?.copy_from_slice(bytes);
        Ok(scan(&options, len))
    }
}

/// [`classify`] for a whole frame in a slice: too short is malformed.
pub fn classify_slice(frame: &[u8], context: &Context) -> Layout {
    classify(&Slice(frame), context).unwrap_or(Layout::without_link_header(frame.len() as u32))
}
