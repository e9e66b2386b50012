//! What must hold for every frame, whoever made it. The property tests, the fuzz target and the replay of its corpus
//! call the same [`check`].

use mpsec_common::headers::ethertype;
use mpsec_common::packet::{Context, Options, Slice, classify_slice, classify_usual};
use mpsec_common::{Class, Layout, Packet, Pod, Short, classify};

/// Bytes of a fuzz input that choose the [`Context`]; the frame follows.
pub const CONTEXT_LEN: usize = 4;
/// Beyond so many bytes no header of a sensible test frame begins; it bounds the work of one [`check`].
const TRIED: usize = 160;

/// Bit 0 of the first byte: a super-packet. Bit 1: no Ethernet header, the EtherType is in bytes 1 and 2. Bit 2: no
/// WireGuard port. Byte 3: offset of the link header.
pub fn decode(input: &[u8]) -> Option<(Context, &[u8])> {
    let (&[flags, high, low, start], frame) = input.split_first_chunk::<CONTEXT_LEN>()?;
    let context = Context {
        ethertype: (flags & 2 != 0).then_some(u16::from_be_bytes([high, low])),
        start: (start as usize).min(frame.len()) as u32,
        gso: flags & 1 != 0,
        wireguard_ports: if flags & 4 != 0 { [0; 4] } else { [51820, 0, 0, 51821] },
    };
    Some((context, frame))
}

/// The inverse of [`decode`], but for the WireGuard ports.
pub fn encode(context: &Context, frame: &[u8]) -> Vec<u8> {
    let [high, low] = context.ethertype.unwrap_or(0).to_be_bytes();
    let flags = context.gso as u8 | (context.ethertype.is_some() as u8) << 1;
    let mut input = vec![flags, high, low, context.start as u8];
    input.extend(frame);
    input
}

/// Panics where an invariant does not hold for a fuzz input.
pub fn check(input: &[u8]) {
    let Some((context, frame)) = decode(input) else { return };
    let layout = classify_slice(frame, &context);
    offsets_are_within_the_frame(frame, &context, &layout);
    linear_part_changes_nothing(frame, &context, &layout);
    if !context.gso {
        padding_changes_nothing(frame, &context, &layout);
        truncation_is_malformed(frame, &layout);
    }
}

fn offsets_are_within_the_frame(frame: &[u8], context: &Context, layout: &Layout) {
    assert!(layout.l3_offset <= layout.payload_offset, "{layout:?}");
    assert!(layout.payload_offset as usize <= frame.len(), "{layout:?} in {} bytes", frame.len());
    assert!(layout.l3_offset >= context.start, "{layout:?} from {}", context.start);
    if is_ip(layout.class) {
        let version = frame[layout.l3_offset as usize] >> 4;
        assert!(matches!(version, 4 | 6), "{layout:?} of IP version {version}");
    }
}

/// True for a class that only a readable IP header leads to.
fn is_ip(class: Class) -> bool {
    !matches!(class, Class::Other | Class::Arp | Class::Malformed)
}

/// The reader of the linear part, and the reader of the whole where that does not do, find what the whole alone gives.
fn linear_part_changes_nothing(frame: &[u8], context: &Context, layout: &Layout) {
    for linear in (0..=frame.len().min(TRIED)).chain([frame.len()]) {
        for copies_options in [false, true] {
            let reader = Linear { frame, linear, copies_options };
            if let Ok(found) = classify(&reader, context) {
                assert_eq!(found, *layout, "{linear} bytes are linear");
            }
            if let Some(found) = classify_usual(&reader, context) {
                assert_eq!(found, *layout, "{linear} bytes are linear, on the short way");
            }
        }
    }
    let all = Linear { frame, linear: frame.len(), copies_options: true };
    let found = classify(&all, context);
    // Only what is cut short is left to the reader of the whole, where all is linear.
    assert!(found == Ok(*layout) || (found == Err(Short) && layout.class == Class::Malformed), "{found:?}");
}

/// What lies behind the IP packet does not matter.
fn padding_changes_nothing(frame: &[u8], context: &Context, layout: &Layout) {
    if layout.class == Class::Malformed {
        return;
    }
    for padding in [[0; 46], [0xff; 46], [0x1e; 46]] {
        let padded = [frame, &padding].concat();
        assert_eq!(classify_slice(&padded, context), *layout, "padded");
    }
}

/// A frame that ends before its IP packet does contradicts itself.
fn truncation_is_malformed(frame: &[u8], layout: &Layout) {
    if !is_ip(layout.class) {
        return;
    }
    let start = layout.l3_offset as usize;
    let Some(end) = ip_end(frame, start) else { return };
    // The context is that of a bare IP packet: what lies before it has been read already.
    let ethertype = if frame[start] >> 4 == 4 { ethertype::IPV4 } else { ethertype::IPV6 };
    let context = Context { ethertype: Some(ethertype), start: layout.l3_offset, ..Context::ETHERNET };
    for len in (start..end).take(TRIED).chain([end - 1]) {
        let class = classify_slice(&frame[..len], &context).class;
        assert_eq!(class, Class::Malformed, "{len} of {} bytes", frame.len());
    }
}

/// Offset behind the IP packet, as its own length field says.
fn ip_end(frame: &[u8], start: usize) -> Option<usize> {
    let field = |at: usize| Some(u16::from_be_bytes([*frame.get(start + at)?, *frame.get(start + at + 1)?]) as usize);
    match frame.get(start)? >> 4 {
        4 => Some(start + field(2)?),
        // A jumbogram's length is elsewhere.
        _ => Some(start + 40 + field(4)?).filter(|_| field(4) != Some(0)),
    }
}

/// The first bytes of a frame, as the linear part of a socket buffer: what lies beyond is there, but not readable.
struct Linear<'a> {
    frame: &'a [u8],
    linear: usize,
    /// TCP options are copied out of the whole buffer, as the kernel side does.
    copies_options: bool,
}

impl Packet for Linear<'_> {
    const COMPLETE: bool = false;

    fn read<T: Pod>(&self, offset: u32) -> Result<T, Short> {
        Slice(&self.frame[..self.linear]).read(offset)
    }

    fn len(&self) -> u32 {
        self.frame.len() as u32
    }

    fn scan_options(&self, offset: u32, len: u32) -> Result<Options, Short> {
        let readable = if self.copies_options { self.frame.len() } else { self.linear };
        Slice(&self.frame[..readable]).scan_options(offset, len)
    }
}
