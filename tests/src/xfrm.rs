//! IPsec set up by hand, as `ip xfrm` does it: states and policies between two hosts, and what they stand on.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use crate::netns::{Netns, check};
use crate::paths::Family;
use crate::trial::Skip;
use crate::{link, need};

/// A key of AES-GCM with 128 bits, and its salt.
const KEY: &str = "0x000102030405060708090a0b0c0d0e0f10111213";
/// `UDP_ENCAP` and `UDP_ENCAP_ESPINUDP` (include/uapi/linux/udp.h).
const UDP_ENCAP: libc::c_int = 100;
const ESP_IN_UDP: libc::c_int = 2;
/// The port of ESP in UDP (RFC 3948).
const NAT_T_PORT: u16 = 4500;

/// How packets are put into ESP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// The packet keeps its header, and its payload is encrypted.
    Transport,
    /// All of the packet is inside another one.
    Tunnel,
    /// Like a tunnel with fixed addresses inside, which are not sent.
    Beet,
    /// [`Mode::Transport`] in UDP.
    UdpTransport,
    /// [`Mode::Tunnel`] in UDP.
    UdpTunnel,
    /// A tunnel with an xfrm interface.
    Interface,
    /// A tunnel with a vti or vti6 interface.
    Vti,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Transport, Self::Tunnel, Self::Beet, Self::UdpTransport, Self::UdpTunnel, Self::Interface, Self::Vti];

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transport => "transport",
            Self::Tunnel => "tunnel",
            Self::Beet => "beet",
            Self::UdpTransport => "udp_transport",
            Self::UdpTunnel => "udp_tunnel",
            Self::Interface => "interface",
            Self::Vti => "vti",
        }
    }

    const fn of_the_kernel(self) -> &'static str {
        match self {
            Self::Transport | Self::UdpTransport => "transport",
            Self::Beet => "beet",
            Self::Tunnel | Self::UdpTunnel | Self::Interface | Self::Vti => "tunnel",
        }
    }

    /// Whether it has addresses of its own inside.
    pub const fn has_inside(self) -> bool {
        !matches!(self, Self::Transport | Self::UdpTransport)
    }

    /// Whether what is inside passes an interface of its own.
    pub const fn has_interface(self) -> bool {
        matches!(self, Self::Interface | Self::Vti)
    }

    /// Whether it is in UDP.
    pub const fn is_in_udp(self) -> bool {
        matches!(self, Self::UdpTransport | Self::UdpTunnel)
    }

    /// Whether this kernel has it. Shown by making what it takes.
    pub fn needed(self, family: Family) -> Result<()> {
        esp()?;
        match (self, family) {
            (Self::Interface, _) => {
                let made = Netns::new()?.ip("link add probe type xfrm dev lo if_id 1");
                need::certain(made.map(drop).map_err(|error| lack("no xfrm interfaces", &error)))
            }
            (Self::Vti, Family::V4) => kind("vti local 192.0.2.1 remote 192.0.2.2 key 1"),
            (Self::Vti, Family::V6) => kind("vti6 local 2001:db8::1 remote 2001:db8::2 key 1"),
            _ => Ok(()),
        }
    }
}

fn kind(words: &str) -> Result<()> {
    let made = Netns::new()?.ip(&format!("link add probe type {words}"));
    need::certain(made.map(drop).map_err(|error| lack("no vti interfaces", &error)))
}

fn lack(what: &str, error: &anyhow::Error) -> anyhow::Error {
    Skip::because(format!("{what}: {}", error.root_cause()))
}

/// Why the kernel dropped packets for IPsec's sake in these namespaces: what of /proc/net/xfrm_stat is not 0.
pub fn refusals(hosts: &[&Netns]) -> String {
    let read = |netns: &&Netns| netns.read("/proc/thread-self/net/xfrm_stat").unwrap_or_default();
    let counted = |text: String| -> Vec<String> {
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        words.filter(|words| !words.ends_with(" 0")).collect()
    };
    format!("dropped: {:?}", hosts.iter().map(read).map(counted).collect::<Vec<_>>())
}

/// ESP in the kernel. Shown by making a state in a new namespace.
pub fn esp() -> Result<()> {
    need::root()?;
    need::command("ip")?;
    let state = format!("xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode transport {}", cipher());
    let made = Netns::new()?.ip(&state);
    need::certain(made.map(drop).map_err(|error| lack("this kernel has no ESP", &error)))
}

pub(crate) fn cipher() -> String {
    format!("aead rfc4106(gcm(aes)) {KEY} 128")
}

/// One end of what is set up.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The host.
    pub netns: &'a Netns,
    /// The device that ESP leaves by.
    pub device: &'a str,
    /// Its address there.
    pub outer: IpAddr,
    /// Its address inside; that of the device where there is no inside.
    pub inner: IpAddr,
}

/// What is between two ends.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel<'a> {
    /// How.
    pub mode: Mode,
    /// A number that others between the same hosts do not have.
    pub number: u32,
    /// Both ends.
    pub ends: [End<'a>; 2],
}

/// The name of the interface of a tunnel.
pub fn interface(number: u32) -> String {
    format!("inside{number}")
}

impl Tunnel<'_> {
    /// Sets up everything on both hosts. What is returned takes ESP out of UDP, and must be kept.
    pub fn lay(&self) -> Result<Vec<UdpSocket>> {
        let [left, right] = &self.ends;
        for (here, there) in [(left, right), (right, left)] {
            self.states(here.netns)?;
            self.policies(here, there, "required")?;
        }
        self.addresses()?;
        let socket = |end: &End<'_>| end.netns.run(|| takes_esp(end.outer));
        if self.mode.is_in_udp() { self.ends.iter().map(socket).collect() } else { Ok(Vec::new()) }
    }

    fn spi(&self, from: usize) -> u32 {
        0x1000 + 2 * self.number + from as u32
    }

    /// The states of both directions.
    pub fn states(&self, netns: &Netns) -> Result<()> {
        for (from, to) in [(0, 1), (1, 0)] {
            let (from_end, to_end) = (&self.ends[from], &self.ends[to]);
            let (mode, spi, cipher) = (self.mode.of_the_kernel(), self.spi(from), cipher());
            let any = if to_end.outer.is_ipv4() { "0.0.0.0" } else { "::" };
            let more = match self.mode {
                Mode::UdpTransport | Mode::UdpTunnel => {
                    format!("encap espinudp {NAT_T_PORT} {NAT_T_PORT} {any}")
                }
                Mode::Beet => format!("sel src {} dst {}", from_end.inner, to_end.inner),
                Mode::Interface => format!("if_id {}", self.number),
                _ => String::new(),
            };
            netns.ip(&format!(
                "xfrm state add src {} dst {} proto esp spi {spi} reqid {} mode {mode} {cipher} {more}",
                from_end.outer, to_end.outer, self.number
            ))?;
        }
        Ok(())
    }

    /// Takes the state back by which a host's packets leave, or come.
    pub fn delete_state(&self, netns: &Netns, from: usize) -> Result<()> {
        let to = &self.ends[1 - from];
        netns.ip(&format!("xfrm state delete dst {} proto esp spi {}", to.outer, self.spi(from))).map(drop)
    }

    /// The policies of a host. `level` is what becomes of a packet for which there is no state: dropped if it is `required`,
    /// sent and taken in clear if it is `use`.
    pub fn policies(&self, here: &End<'_>, there: &End<'_>, level: &str) -> Result<()> {
        for (direction, from, to) in [("out", here, there), ("in", there, here)] {
            if self.mode.is_in_udp() {
                // What this one is in must not need another one.
                here.netns.ip(&format!(
                    "xfrm policy update src {} dst {} proto udp sport {NAT_T_PORT} dport {NAT_T_PORT} dir {direction} priority 1",
                    from.outer, to.outer
                ))?;
            }
            self.policy(here.netns, direction, [from, to], level)?;
        }
        Ok(())
    }

    /// The policy by which a host passes on what came out of the tunnel.
    pub fn forwarding(&self, here: &End<'_>, there: &End<'_>) -> Result<()> {
        self.policy(here.netns, "fwd", [there, here], "required")
    }

    fn policy(&self, netns: &Netns, direction: &str, [from, to]: [&End<'_>; 2], level: &str) -> Result<()> {
        let more = match self.mode {
            Mode::Interface => format!("if_id {}", self.number),
            Mode::Vti => format!("mark {} mask 0xffffffff", self.number),
            _ => String::new(),
        };
        let (mode, reqid) = (self.mode.of_the_kernel(), self.number);
        netns.ip(&format!(
            "xfrm policy update src {} dst {} dir {direction} priority 100 {more} \
             tmpl src {} dst {} proto esp reqid {reqid} mode {mode} level {level}",
            from.inner, to.inner, from.outer, to.outer
        ))?;
        Ok(())
    }

    /// The addresses inside, where there are any, and the ways from each to the other.
    pub fn addresses(&self) -> Result<()> {
        let [left, right] = &self.ends;
        self.address(left, right)?;
        self.address(right, left)
    }

    fn address(&self, here: &End<'_>, there: &End<'_>) -> Result<()> {
        if !self.mode.has_inside() || here.inner == here.outer {
            return Ok(());
        }
        let bits = if here.inner.is_ipv4() { 32 } else { 128 };
        let netns = here.netns;
        if !self.mode.has_interface() {
            link::address(netns, "lo", &format!("{}/{bits}", here.inner))?;
            let line = format!("route add {}/{bits} via {} src {}", there.inner, there.outer, here.inner);
            return netns.ip(&format!("{line} dev {}", here.device)).map(drop);
        }
        let name = self.make_interface(here, there)?;
        link::address(netns, &name, &format!("{}/{bits}", here.inner))?;
        netns.ip(&format!("route add {}/{bits} dev {name}", there.inner)).map(drop)
    }

    /// Makes the interface that an end of a tunnel with one has, without addresses. Gives its name.
    pub fn make_interface(&self, here: &End<'_>, there: &End<'_>) -> Result<String> {
        let (netns, name) = (here.netns, interface(self.number));
        if self.mode == Mode::Vti {
            let kind = if here.outer.is_ipv4() { "vti" } else { "vti6" };
            let (local, remote) = (here.outer, there.outer);
            netns.ip(&format!("link add {name} type {kind} local {local} remote {remote} key {}", self.number))?;
        } else {
            netns.ip(&format!("link add {name} type xfrm dev {} if_id {}", here.device, self.number))?;
        }
        // Room for what is put around a packet, so that none must be told that it is too long.
        netns.ip(&format!("link set dev {name} mtu 1400 up"))?;
        Ok(name)
    }
}

/// A socket that hands ESP in UDP on to IPsec.
fn takes_esp(address: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, NAT_T_PORT))?;
    let (value, len) = (ESP_IN_UDP, size_of::<libc::c_int>() as libc::socklen_t);
    let from = (&raw const value).cast();
    // SAFETY: the pointer and the length are those of `value`.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_UDP, UDP_ENCAP, from, len) })
        .context("UDP_ENCAP")?;
    Ok(socket)
}
