//! Traffic of real IPsec, counted by the agent on both hosts, against captures: of the wire between them, which nothing but
//! what crosses it is on, and of the hosts' own devices, where what was decrypted comes by a second time.

mod by_hand;
mod line;
mod multipath;
mod strongswan;

use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [by_hand::trials(), strongswan::trials(), multipath::trials()].into_iter().flatten().collect()
}
