//! Where members of packet buffers lie in the running kernel.

use crate::kernel::btf::KernelBtf;

/// Offsets of members of kernel structures, as the kernel side's globals; `u32::MAX` for one that is not there.
pub(super) struct Offsets {
    encapsulation: u32,
    encapsulation_mask: u32,
    inner_transport_header: u32,
    inner_network_header: u32,
    mac_header: u32,
    network_header: u32,
}

impl Offsets {
    pub(super) fn resolve(btf: &KernelBtf) -> Offsets {
        let member = |name: &'static str| match btf.offset_of("sk_buff", name) {
            Ok(member) => Some(member),
            Err(error) => {
                tracing::info!(%error, "super-packets inside tunnels, and link headers of unusual devices, are counted less exactly");
                None
            }
        };
        let offset = |name| member(name).map_or(u32::MAX, |member| member.byte_offset());
        Offsets {
            encapsulation: offset("encapsulation"),
            encapsulation_mask: member("encapsulation").map_or(0, |member| 1 << member.bit_shift()),
            inner_transport_header: offset("inner_transport_header"),
            inner_network_header: offset("inner_network_header"),
            mac_header: offset("mac_header"),
            network_header: offset("network_header"),
        }
    }

    pub(super) fn globals(&self) -> [(&'static str, &u32); 6] {
        [
            ("SKB_ENCAPSULATION", &self.encapsulation),
            ("SKB_ENCAPSULATION_MASK", &self.encapsulation_mask),
            ("SKB_INNER_TRANSPORT", &self.inner_transport_header),
            ("SKB_INNER_NETWORK", &self.inner_network_header),
            ("SKB_MAC_HEADER", &self.mac_header),
            ("SKB_NETWORK_HEADER", &self.network_header),
        ]
    }
}
