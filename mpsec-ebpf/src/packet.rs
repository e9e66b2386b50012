//! The two readers that the classifier is run with: the linear part of a socket buffer, and the whole of it.

use core::hint::black_box;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative};
use mpsec_common::packet::{Context, OPTION_BYTES, Options, scan};
use mpsec_common::{Class, Packet, Pod, Short};

use crate::record::{self, subflows};

/// Offsets count from the network header (`enum bpf_hdr_start_off`).
const HDR_START_NET: u32 = 1;
/// No header ends further into a packet than this; it keeps offsets in the verifier's bounds for packet pointers.
const MAX_OFFSET: u32 = 0x7fff;

/// [`Packet::forget`], by a number that the verifier does not know.
#[inline(always)]
fn forget(offset: u32, unknown: u32) -> u32 {
    (black_box(offset ^ unknown) ^ unknown) & MAX_OFFSET
}

/// The linear part of a buffer, read where it lies. One that does not walk over TCP options takes the walk for something
/// that it does not have: without a call on the way, more of it stays in registers.
pub struct Linear<const WALKS: bool> {
    skb: *mut __sk_buff,
    data: usize,
    data_end: usize,
    len: u32,
}

impl<const WALKS: bool> Linear<WALKS> {
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        // SAFETY: the context of a TC program is valid for as long as the program runs.
        let context = unsafe { &*skb };
        Linear { skb, data: context.data as usize, data_end: context.data_end as usize, len: context.len }
    }
}

impl<const WALKS: bool> Packet for Linear<WALKS> {
    const COMPLETE: bool = false;

    #[inline(always)]
    fn read<T: Pod>(&self, offset: u32) -> Result<T, Short> {
        self.view(offset, |value| *value)
    }

    #[inline(always)]
    fn view<T: Pod, R>(&self, offset: u32, look: impl FnOnce(&T) -> R) -> Result<R, Short> {
        if offset > MAX_OFFSET {
            return Err(Short);
        }
        let start = self.data + offset as usize;
        if start + size_of::<T>() > self.data_end {
            return Err(Short);
        }
        // SAFETY: the bytes lie between data and data_end, as just checked (the verifier checks it again), every byte
        // pattern is a `T`, and headers in a frame are packed to the two bytes that the kernel aligns them to.
        Ok(look(unsafe { &*(start as *const T) }))
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn scan_options(&self, offset: u32, len: u32) -> Result<Options, Short> {
        if WALKS { scan_options(self.skb, offset, len, false) } else { Err(Short) }
    }

    /// What counts subflows asks, of all that may be of one.
    #[inline(always)]
    fn wants_transport(&self, class: Class, ports: u32) -> bool {
        match class {
            Class::Mptcp => subflows::on(),
            // A packet without any MPTCP option is a subflow's now and then; that of another connection is told by its ports,
            // as a rule.
            Class::Tcp => subflows::on() && subflows::may_have_ports(ports),
            _ => false,
        }
    }

    #[inline(always)]
    fn forget(&self, offset: u32) -> u32 {
        forget(offset, self.len)
    }

    #[inline(always)]
    fn port_filter(&self, _context: &Context) -> u64 {
        record::port_filter()
    }

    #[inline(always)]
    fn wireguard_port(&self, _context: &Context, index: usize) -> u16 {
        record::wireguard_port(index)
    }
}

/// The whole of a buffer, copied out header by header.
pub struct Whole {
    skb: *mut __sk_buff,
    len: u32,
    from_network_header: bool,
}

impl Whole {
    /// Reads from the first byte that TC sees on.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Whole {
        // SAFETY: as in `Linear::new`.
        Whole { skb, len: unsafe { (*skb).len }, from_network_header: false }
    }

    /// Reads from the network header on, behind a link header of `link_len` bytes.
    #[inline(always)]
    pub fn from_network_header(skb: *mut __sk_buff, link_len: u32) -> Whole {
        // SAFETY: as in `Linear::new`.
        Whole { skb, len: unsafe { (*skb).len }.saturating_sub(link_len), from_network_header: true }
    }
}

impl Packet for Whole {
    const COMPLETE: bool = true;

    #[inline(always)]
    fn read<T: Pod>(&self, offset: u32) -> Result<T, Short> {
        let mut value = MaybeUninit::<T>::uninit();
        if load(self.skb, offset, value.as_mut_ptr().cast(), size_of::<T>() as u32, self.from_network_header) {
            // SAFETY: the helper filled all of it, and every byte pattern is a `T`.
            Ok(unsafe { value.assume_init() })
        } else {
            Err(Short)
        }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn scan_options(&self, offset: u32, len: u32) -> Result<Options, Short> {
        scan_options(self.skb, offset, len, self.from_network_header)
    }

    #[inline(always)]
    fn forget(&self, offset: u32) -> u32 {
        forget(offset, self.len)
    }

    #[inline(always)]
    fn port_filter(&self, _context: &Context) -> u64 {
        record::port_filter()
    }

    #[inline(always)]
    fn wireguard_port(&self, _context: &Context, index: usize) -> u16 {
        record::wireguard_port(index)
    }
}

#[inline(always)]
fn load(skb: *mut __sk_buff, offset: u32, to: *mut u8, len: u32, from_network_header: bool) -> bool {
    // SAFETY: the caller's buffer holds `len` bytes; the helpers check the offset.
    let result = unsafe {
        if from_network_header {
            bpf_skb_load_bytes_relative(skb.cast(), offset, to.cast(), len, HDR_START_NET)
        } else {
            bpf_skb_load_bytes(skb.cast(), offset, to.cast(), len)
        }
    };
    result == 0
}

/// [`Packet::scan_options`] for both readers.
#[inline(always)]
fn scan_options(skb: *mut __sk_buff, offset: u32, len: u32, from_network_header: bool) -> Result<Options, Short> {
    match mpsec_scan_options(skb, offset, len, from_network_header as u32) {
        PLAIN => Ok(Options::Plain),
        MPTCP => Ok(Options::Mptcp),
        ILLEGAL => Ok(Options::Illegal),
        _ => Err(Short),
    }
}

const PLAIN: u32 = Options::Plain as u32;
const MPTCP: u32 = Options::Mptcp as u32;
const ILLEGAL: u32 = Options::Illegal as u32;
const SHORT: u32 = 3;

/// Copies the options out and walks over them. A global function: the verifier follows its loop once, and not anew on
/// each way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_scan_options(skb: *mut __sk_buff, offset: u32, len: u32, from_network_header: u32) -> u32 {
    let mut options = MaybeUninit::<[u64; OPTION_BYTES / 8]>::uninit();
    let words: *mut u64 = options.as_mut_ptr().cast();
    for index in 0..OPTION_BYTES / 8 {
        // SAFETY: the index is within the array. Volatile, because the compiler would call memset otherwise.
        unsafe { words.add(index).write_volatile(0) };
    }
    // The verifier must see that this is 1 to 64, and the compiler must not see that it need not be said.
    let len = (black_box(len.wrapping_sub(1)) & (OPTION_BYTES as u32 - 1)) + 1;
    if !load(skb, offset, words.cast(), len, from_network_header != 0) {
        return SHORT;
    }
    // SAFETY: eight words are sixty-four bytes, and all of them were written.
    scan(unsafe { &*words.cast::<[u8; OPTION_BYTES]>() }, len) as u32
}
