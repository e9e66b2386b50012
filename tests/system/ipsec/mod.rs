//! Traffic of real IPsec, counted by the agent on both hosts, against captures: of the wire between them, which nothing but
//! what crosses it is on, and of the hosts' own devices, where what was decrypted comes by a second time.

mod begun;
mod by_hand;
mod elsewhere;
mod gateway;
mod layered;
mod line;
mod multipath;
mod offload;
mod routed;
mod strongswan;
mod tcpdump;

use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    let by_hand = [by_hand::trials(), layered::trials(), gateway::trials(), offload::trials(), elsewhere::trials()];
    by_hand
        .into_iter()
        .chain([strongswan::trials(), tcpdump::trials(), multipath::trials(), routed::trials(), begun::trials()])
        .flatten()
        .collect()
}
