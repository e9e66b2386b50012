//! IPsec of several layers, as `ip xfrm` sets it up: a policy's templates are put around a packet one after the other, and taken
//! off in the order in which they come.

use std::net::IpAddr;

use anyhow::Result;

use crate::netns::Netns;
use crate::paths::Family;
use crate::trial::Skip;
use crate::xfrm::cipher;

/// A key of HMAC with SHA-256, of which 128 bits are sent.
const HMAC: &str = "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// The first number of a state, and the first that templates find theirs by. Those of compression have 16 bits.
const SPI: usize = 0x2000;
const REQID: usize = 20;
/// Which policies are looked at first, and which then.
const FIRST: u32 = 1000;
const THEN: u32 = 2000;
/// What ESP takes with this cipher: its header, the counter, the check value.
const ESP_BYTES: u64 = 8 + 8 + 16;
/// Length and protocol, behind the padding.
const ESP_TRAILER: u64 = 2;

/// What is done to a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Encrypted (RFC 4303).
    Esp,
    /// The same with sequence numbers of 64 bits, of which 32 are sent.
    EspExtended,
    /// Authenticated (RFC 4302).
    Ah,
    /// Compressed (RFC 3173), where that makes it shorter.
    Compression,
}

/// One layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// What is done.
    pub kind: Kind,
    /// Whether the packet is put into another one.
    pub tunnel: bool,
}

impl Layer {
    /// A layer in tunnel mode.
    pub const fn tunnel(kind: Kind) -> Self {
        Self { kind, tunnel: true }
    }

    /// A layer in transport mode.
    pub const fn transport(kind: Kind) -> Self {
        Self { kind, tunnel: false }
    }

    fn protocol(self) -> &'static str {
        match self.kind {
            Kind::Esp | Kind::EspExtended => "esp",
            Kind::Ah => "ah",
            Kind::Compression => "comp",
        }
    }

    fn algorithm(self) -> String {
        match self.kind {
            Kind::Esp => cipher(),
            Kind::EspExtended => format!("{} replay-window 64", cipher()),
            Kind::Ah => format!("auth-trunc hmac(sha256) {HMAC} 128"),
            Kind::Compression => "comp deflate".into(),
        }
    }

    fn flags(self) -> &'static str {
        // A tunnel takes packets of either version.
        match (self.kind, self.tunnel) {
            (Kind::EspExtended, true) => "flag esn af-unspec",
            (Kind::EspExtended, false) => "flag esn",
            (_, true) => "flag af-unspec",
            (_, false) => "",
        }
    }

    fn mode(self) -> &'static str {
        if self.tunnel { "tunnel" } else { "transport" }
    }

    /// Bytes from the network header on of a packet that this layer has made of one with `len`, for ESP.
    pub fn bytes_around(self, len: u64, family: Family) -> u64 {
        let header = family.header_bytes();
        let plain = if self.tunnel { len } else { len - header };
        header + ESP_BYTES + (plain + ESP_TRAILER).next_multiple_of(4)
    }
}

/// Layers between two hosts, the innermost first.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// What is done, one after the other.
    pub all: &'a [Layer],
    /// The hosts.
    pub hosts: [&'a Netns; 2],
    /// Their addresses on the wire.
    pub outer: [IpAddr; 2],
    /// Their addresses inside; those on the wire where there is no tunnel.
    pub inner: [IpAddr; 2],
}

impl Layers<'_> {
    /// Sets up states and policies on both hosts. Skips where this kernel lacks a kind.
    pub fn lay(&self) -> Result<()> {
        for host in 0..self.hosts.len() {
            self.states(host).map_err(skip_what_is_missing)?;
            self.policy(host, "out", host)?;
            self.policy(host, "in", 1 - host)?;
            for number in 0..self.all.len() {
                self.halfway(host, number)?;
            }
        }
        Ok(())
    }

    /// Lets in what comes out of a tunnel and is a packet of a further layer. Some kernels ask for a policy of it (Debian's
    /// 6.1.0-57 and 6.12.117: `XfrmInNoPols`), others of the innermost packet alone.
    fn halfway(&self, host: usize, number: usize) -> Result<()> {
        if !self.all[number + 1..].iter().any(|layer| layer.tunnel) {
            return Ok(());
        }
        let (src, dst) = self.between(number, 1 - host);
        let protocol = self.all[number].protocol();
        let templates = self.templates(number + 1, "in", 1 - host);
        let selector = format!("src {src} dst {dst} proto {protocol}");
        self.hosts[host].ip(&format!("xfrm policy add {selector} dir in priority {FIRST}{templates}")).map(drop)
    }

    fn states(&self, host: usize) -> Result<()> {
        for (number, layer) in self.all.iter().enumerate() {
            for from in 0..self.hosts.len() {
                let (src, dst) = self.between(number, from);
                let (protocol, mode, spi, reqid) =
                    (layer.protocol(), layer.mode(), SPI + 2 * number + from, REQID + number);
                self.hosts[host].ip(&format!(
                    "xfrm state add src {src} dst {dst} proto {protocol} spi {spi} reqid {reqid} mode {mode} {} {}",
                    layer.algorithm(),
                    layer.flags()
                ))?;
            }
        }
        Ok(())
    }

    /// The addresses of a packet that a layer is done with: from the first tunnel on, those on the wire.
    fn between(&self, number: usize, from: usize) -> (IpAddr, IpAddr) {
        let is_outside = self.all[..=number].iter().any(|layer| layer.tunnel);
        let ends = if is_outside { self.outer } else { self.inner };
        (ends[from], ends[1 - from])
    }

    fn policy(&self, host: usize, direction: &str, from: usize) -> Result<()> {
        let templates = self.templates(0, direction, from);
        let (src, dst) = (self.inner[from], self.inner[1 - from]);
        let policy = format!("src {src} dst {dst} dir {direction} priority {THEN}{templates}");
        self.hosts[host].ip(&format!("xfrm policy add {policy}")).map(drop)
    }

    /// What was put around a packet, from a layer on.
    fn templates(&self, first: usize, direction: &str, from: usize) -> String {
        let template = |(number, layer): (usize, &Layer)| {
            let (src, dst) = self.between(number, from);
            let (protocol, mode, reqid) = (layer.protocol(), layer.mode(), REQID + number);
            // What was too short to be compressed comes without.
            let may_lack = layer.kind == Kind::Compression && direction == "in";
            let level = if may_lack { "use" } else { "required" };
            format!(" tmpl src {src} dst {dst} proto {protocol} reqid {reqid} mode {mode} level {level}")
        };
        self.all.iter().enumerate().skip(first).map(template).collect()
    }
}

/// What the kernel says of a kind (EPROTONOSUPPORT, and its own text of it) or an algorithm (ENOSYS) that it was built without.
fn skip_what_is_missing(error: anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    let missing = ["Requested type not found", "Requested mode not found", "Protocol not supported", "not implemented"];
    if missing.iter().any(|words| text.contains(words)) { Skip::because(text) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_esp_are_those_of_the_rfc() {
        // RFC 4303: the padding ends length and protocol at a multiple of 4, here at 88 and 68 bytes.
        assert_eq!(Layer::tunnel(Kind::Esp).bytes_around(84, Family::V4), 20 + 16 + 88 + 16);
        assert_eq!(Layer::transport(Kind::Esp).bytes_around(84, Family::V4), 20 + 16 + 68 + 16);
        assert_eq!(Layer::tunnel(Kind::EspExtended).bytes_around(86, Family::V6), 40 + 16 + 88 + 16);
    }
}
