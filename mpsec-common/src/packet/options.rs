//! TCP options: is MPTCP among them.

use super::{Options, Packet, Short};
use crate::headers::{OptionHead, Word};

/// Two no-operations and a time stamp option: what nearly every segment of an established connection begins with.
const TIMESTAMP_FIRST: u32 = 0x0101_080a;
/// Length in bytes of those options.
const TIMESTAMP_LEN: u32 = 12;
/// Option kind that ends the list.
const KIND_END: u8 = 0;
/// Option kind without a length.
const KIND_NO_OPERATION: u8 = 1;
/// Option kind of MPTCP (RFC 8684 section 3).
const KIND_MPTCP: u8 = 30;
/// Subtype of MP_TCPRST, in the upper half of its byte (RFC 8684 section 3.6).
const SUBTYPE_RESET: u8 = 8 << 4;
/// Length of MP_TCPRST.
const RESET_LEN: i32 = 4;

/// Looks for option 30 among `len` bytes of options. The usual shapes are told from two loads; the rest is walked over.
#[inline(always)]
pub(super) fn options<P: Packet>(packet: &P, at: u32, len: u32) -> Result<Options, Short> {
    if len == 0 {
        return Ok(Options::Plain);
    }
    let mut skip = 0;
    if len >= TIMESTAMP_LEN && packet.read::<Word>(at)?.get() == TIMESTAMP_FIRST {
        skip = TIMESTAMP_LEN;
        if len == TIMESTAMP_LEN {
            return Ok(Options::Plain);
        }
    }
    // Options fill whole words, so two more bytes are there.
    let head: OptionHead = packet.read(at + skip)?;
    if head.kind == KIND_MPTCP && head.len >= 2 && head.len as u32 <= len - skip {
        return Ok(Options::Mptcp);
    }
    packet.scan_options(at + skip, len - skip)
}

/// Bytes of options that [`scan`] takes: 40, rounded up so that an index can be masked.
pub const OPTION_BYTES: usize = 64;

/// Walks over the first `len` bytes (up to 40) of TCP options.
///
/// The verifier would follow each mix of option kinds on its own, up to its limit. So every step begins with an offset of
/// which it knows nothing, every index is masked, and comparisons are made on differences, from which it learns nothing
/// about the offset and the length themselves.
#[inline(always)]
pub fn scan(options: &[u8; OPTION_BYTES], len: u32) -> Options {
    let mut next = 0u32;
    for _ in 0..40 {
        let at = core::hint::black_box(next);
        let remaining = len.wrapping_sub(at) as i32;
        if remaining <= 0 {
            break;
        }
        let kind = options[at as usize & (OPTION_BYTES - 1)];
        let option_len = options[(at as usize + 1) & (OPTION_BYTES - 1)] as i32;
        match kind {
            KIND_END => break,
            KIND_NO_OPERATION => next = at.wrapping_add(1),
            _ if option_len < 2 || remaining.wrapping_sub(option_len) < 0 => return Options::Illegal,
            KIND_MPTCP => return Options::Mptcp,
            _ => next = at.wrapping_add(option_len as u32),
        }
    }
    Options::Plain
}

/// The reason that MP_TCPRST gives (RFC 8684 section 3.6), if it is among the first `len` bytes (up to 40) of a reset's options.
/// Others of MPTCP may come before it. Walks as [`scan`] does. `read` gives the four bytes from an offset, of which those behind
/// the options may be anything; [`Short`] if it cannot. By `unknown`, a number that the verifier does not know, every step begins
/// with an offset of which that has forgotten how it came about.
#[inline(always)]
pub fn reset_reason(len: u32, unknown: u32, read: impl Fn(u32) -> Option<[u8; 4]>) -> Result<Option<u8>, Short> {
    let mut next = 0u32;
    for _ in 0..40 {
        let at = (core::hint::black_box(next ^ unknown) ^ unknown) & (OPTION_BYTES as u32 - 1);
        let remaining = len.wrapping_sub(at) as i32;
        if remaining <= 0 {
            break;
        }
        let [kind, option_len, third, reason] = read(at).ok_or(Short)?;
        if kind == KIND_END {
            break;
        }
        if kind == KIND_NO_OPERATION {
            next = at.wrapping_add(1);
            continue;
        }
        let option_len = option_len as i32;
        if option_len < 2 || remaining.wrapping_sub(option_len) < 0 {
            break;
        }
        if kind == KIND_MPTCP && option_len == RESET_LEN && third & 0xf0 == SUBTYPE_RESET {
            return Ok(Some(reason));
        }
        next = at.wrapping_add(option_len as u32);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(options: &[u8]) -> Option<u8> {
        let mut padded = [0xff; OPTION_BYTES];
        padded[..options.len()].copy_from_slice(options);
        reset_reason(options.len() as u32, 0x5555_5555, |at| padded[at as usize..].first_chunk().copied())
            .expect("it can be read")
    }

    #[test]
    fn a_reset_says_its_reason_wherever_the_option_is() {
        const RESET: [u8; 4] = [30, 4, 0x81, 3];
        const FASTCLOSE: [u8; 12] = [30, 12, 0x70, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        const TIMESTAMP: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(reason(&RESET), Some(3));
        assert_eq!(reason(&[&TIMESTAMP[..], &FASTCLOSE, &RESET].concat()), Some(3));
        assert_eq!(reason(&[&[1; 36][..], &RESET].concat()), Some(3));
        assert_eq!(reason(&[&TIMESTAMP[..], &FASTCLOSE].concat()), None);
        assert_eq!(reason(&[]), None);
        // Behind the end of the list, cut short, of another length, and after an option that has none.
        assert_eq!(reason(&[&[0][..], &RESET].concat()), None);
        assert_eq!(reason(&RESET[..3]), None);
        assert_eq!(reason(&[30, 5, 0x80, 3, 0]), None);
        assert_eq!(reason(&[&[8, 0][..], &RESET].concat()), None);
    }
}
