//! Whether the kernel makes ESP states. The keys are zeroes, and the namespace that they are made in ends at once.

use std::io;

use super::host::module_remedy;
use super::traffic::absent;
use super::{Id, Verdict, Verdicts};
use crate::kernel::netlink::{CREATE, Client, EXCLUSIVE, NetlinkError, Request};

pub(super) const ESP: [Id; 3] = [Id::EspAesGcm, Id::EspChacha, Id::EspAesCbc];

const XFRM_MSG_NEWSA: u16 = 0x10;
const XFRMA_ALG_AUTH: u16 = 1;
const XFRMA_ALG_CRYPT: u16 = 2;
const XFRMA_ALG_AEAD: u16 = 18;
/// `struct xfrm_usersa_info`.
const STATE_BYTES: usize = 224;

/// Whether there is an interface to IPsec at all.
pub(super) fn probe_netlink() -> (Verdicts, bool) {
    let verdict = match Client::open(libc::NETLINK_XFRM as isize) {
        Ok(_) => Verdict::available(),
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
            Verdict::missing("this kernel does not know it").remedy(module_remedy("xfrm_user", "CONFIG_XFRM_USER"))
        }
        Err(error) => Verdict::unknown(error.to_string()),
    };
    let available = verdict.is_available();
    (Verdicts::from([(Id::XfrmUser, verdict)]), available)
}

/// To be run in a network namespace of its own.
pub(super) fn probe_esp(xfrm: bool) -> Verdicts {
    if !xfrm {
        return ESP.map(|id| (id, Verdict::missing("there is no XFRM netlink to set it up with"))).into();
    }
    let mut client = match Client::open(libc::NETLINK_XFRM as isize) {
        Ok(client) => client,
        Err(error) => return ESP.map(|id| (id, Verdict::unknown(error.to_string()))).into(),
    };
    let verdict = |(index, id): (usize, Id)| {
        let message = Request::new(XFRM_MSG_NEWSA, CREATE | EXCLUSIVE, &state(index as u32 + 0x100));
        (id, judge(id, client.execute(algorithms(id, message))))
    };
    ESP.into_iter().enumerate().map(verdict).collect()
}

/// EPROTONOSUPPORT: no ESP (xfrm_init_state); ENOSYS: no such algorithm (attach_aead and its like in
/// net/xfrm/xfrm_user.c, Linux 6.18).
fn judge(id: Id, answer: Result<(), NetlinkError>) -> Verdict {
    let Err(refusal) = answer else { return Verdict::available() };
    let (module, option) = match id {
        Id::EspAesGcm => ("gcm", "CONFIG_CRYPTO_GCM and CONFIG_CRYPTO_SEQIV"),
        Id::EspChacha => ("chacha20poly1305", "CONFIG_CRYPTO_CHACHA20POLY1305"),
        _ => ("authenc", "CONFIG_CRYPTO_CBC, CONFIG_CRYPTO_SHA256 and CONFIG_CRYPTO_AUTHENC"),
    };
    match refusal.errno().unwrap_or_default() {
        libc::EPROTONOSUPPORT => Verdict::missing(format!("this kernel has no ESP: {refusal}"))
            .remedy(module_remedy("esp4", "CONFIG_INET_ESP and CONFIG_INET6_ESP")),
        libc::ENOENT => {
            Verdict::missing(format!("its cipher is not there ({})", io::Error::from_raw_os_error(libc::ENOENT)))
                .remedy(module_remedy(module, option))
        }
        _ => absent(&refusal, libc::ENOSYS, || module_remedy(module, option)),
    }
}

/// `struct xfrm_usersa_info` of a transport-mode state between two addresses of the documentation range.
fn state(spi: u32) -> [u8; STATE_BYTES] {
    let [daddr, spi_at, proto, saddr, limits, family] = [56, 72, 76, 80, 96, 212];
    let mut bytes = [0; STATE_BYTES];
    bytes[daddr..daddr + 4].copy_from_slice(&[192, 0, 2, 2]);
    bytes[spi_at..spi_at + 4].copy_from_slice(&spi.to_be_bytes());
    bytes[proto] = libc::IPPROTO_ESP as u8;
    bytes[saddr..saddr + 4].copy_from_slice(&[192, 0, 2, 1]);
    // No limits on bytes and packets.
    bytes[limits..limits + 32].fill(0xff);
    bytes[family..family + 2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes
}

fn algorithms(id: Id, message: Request) -> Request {
    match id {
        Id::EspAesGcm => message.attribute(XFRMA_ALG_AEAD, &algorithm("rfc4106(gcm(aes))", 20, Some(128))),
        Id::EspChacha => message.attribute(XFRMA_ALG_AEAD, &algorithm("rfc7539esp(chacha20,poly1305)", 36, Some(128))),
        _ => message
            .attribute(XFRMA_ALG_CRYPT, &algorithm("cbc(aes)", 16, None))
            .attribute(XFRMA_ALG_AUTH, &algorithm("hmac(sha256)", 32, None)),
    }
}

/// `struct xfrm_algo`, or `xfrm_algo_aead` where there is a length of the check value.
fn algorithm(name: &str, key_bytes: usize, icv_bits: Option<u32>) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(64, 0);
    bytes.extend((key_bytes as u32 * 8).to_ne_bytes());
    if let Some(bits) = icv_bits {
        bytes.extend(bits.to_ne_bytes());
    }
    bytes.resize(bytes.len() + key_bytes, 0);
    bytes
}
