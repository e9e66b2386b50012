//! What the kernel says of its sockets through `ss`, and of MPTCP at large through /proc/net/netstat.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{netns::Netns, wait};

/// A socket, as a line of `ss` says it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Socket {
    /// Such as `ESTAB`.
    pub state: String,
    /// Local address, IPv4 as IPv4.
    pub local: SocketAddr,
    /// Remote address, likewise.
    pub remote: SocketAddr,
    /// The words of the form `key:value`.
    words: BTreeMap<String, String>,
}

/// TCP's part of a subflow in an MPTCP connection, as `ss` prints it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Membership {
    /// The connection's token at this end.
    pub local_token: u32,
    /// Identifier of the local address.
    pub local_id: u8,
    /// The connection's token at the other end.
    pub remote_token: u32,
    /// Identifier of the remote address.
    pub remote_id: u8,
}

impl Socket {
    /// A number, 0 where `ss` leaves it out because it is 0.
    pub fn number(&self, key: &str) -> Result<u64> {
        match self.words.get(key) {
            // `retrans:0/7` is what is on its way, and all of it.
            Some(text) => {
                let last = text.rsplit('/').next().unwrap_or_default();
                last.parse().with_context(|| format!("{key}:{text} of {self:?}"))
            }
            None => Ok(0),
        }
    }

    /// A word.
    pub fn word(&self, key: &str) -> Option<&str> {
        self.words.get(key).map(String::as_str)
    }

    /// The MPTCP connection that a TCP socket is a subflow of; `None` for plain TCP.
    pub fn membership(&self) -> Result<Option<Membership>> {
        if !self.words.contains_key("maplen") {
            return Ok(None);
        }
        // token:REMOTE(id:N)/LOCAL(id:N)
        let text = self.word("token").context("a subflow without tokens")?;
        let parts: Vec<&str> = text.split(['(', ')', '/', ':']).filter(|part| !part.is_empty()).collect();
        let [remote, "id", remote_id, local, "id", local_id] = parts[..] else { bail!("token:{text}") };
        Ok(Some(Membership {
            local_token: u32::from_str_radix(local, 16)?,
            local_id: local_id.parse()?,
            remote_token: u32::from_str_radix(remote, 16)?,
            remote_id: remote_id.parse()?,
        }))
    }
}

/// The TCP sockets of a namespace that are or were connected, those of MPTCP's subflows among them.
pub fn tcp(netns: &Netns) -> Result<Vec<Socket>> {
    parse(&netns.output("ss", &["-tniHO"])?)
}

/// The subflows of a namespace: TCP sockets that MPTCP uses.
pub fn subflows(netns: &Netns) -> Result<Vec<Socket>> {
    Ok(tcp(netns)?.into_iter().filter(|socket| socket.words.contains_key("maplen")).collect())
}

/// Waits until no subflow of a namespace has data that it did not send yet, or that was not acknowledged. Programs have all
/// of it as soon as one path carried it, while another still repeats what it lost.
pub fn wait_acknowledged(netns: &Netns) -> Result<()> {
    // TCP's pauses between two tries grow with every one that fails.
    wait::until(Duration::from_secs(20), || {
        for subflow in subflows(netns)? {
            let waiting = [subflow.number("unacked")?, subflow.number("notsent")?];
            ensure!(waiting == [0, 0], "{waiting:?} not acknowledged, not sent: {subflow:?}");
        }
        Ok(())
    })
}

/// The MPTCP sockets of a namespace.
pub fn mptcp(netns: &Netns) -> Result<Vec<Socket>> {
    parse(&netns.output("ss", &["-MniHO"])?)
}

/// The counters of `MPTcpExt` that are not 0.
pub fn mib(netns: &Netns) -> Result<BTreeMap<String, u64>> {
    counters(netns, "MPTcpExt")
}

/// Whether the kernel has a counter of this name among `MPTcpExt`, whatever its value is.
pub fn has_mib(netns: &Netns, name: &str) -> Result<bool> {
    Ok(all_counters(netns, "MPTcpExt")?.iter().any(|(have, _)| have == name))
}

/// The counters of a group that are not 0, of those in /proc/net/netstat and, for `Tcp` and the like, /proc/net/snmp.
pub fn counters(netns: &Netns, group: &str) -> Result<BTreeMap<String, u64>> {
    Ok(all_counters(netns, group)?.into_iter().filter(|(_, value)| *value > 0).collect())
}

fn all_counters(netns: &Netns, group: &str) -> Result<Vec<(String, u64)>> {
    let file = if group.ends_with("Ext") { "netstat" } else { "snmp" };
    let text = netns.read(&format!("/proc/thread-self/net/{file}"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { bail!("no {group}") };
    let pairs = names.split_whitespace().zip(values.split_whitespace());
    // One of TCP's is -1 for no limit, and not a counter.
    Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

fn parse(text: &str) -> Result<Vec<Socket>> {
    text.lines().map(|line| socket(line).with_context(|| line.to_owned())).collect()
}

fn socket(line: &str) -> Result<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    ensure!(words.len() >= 5, "{} words", words.len());
    let pairs = words[5..].iter().filter_map(|word| word.split_once(':'));
    Ok(Socket {
        state: words[0].to_owned(),
        local: endpoint(words[3])?,
        remote: endpoint(words[4])?,
        words: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    })
}

/// `192.0.2.1:80`, `192.0.2.1%west0:80`, `[2001:db8::1]:80` or `[::ffff:192.0.2.1]:80`.
fn endpoint(text: &str) -> Result<SocketAddr> {
    let (host, port) = text.rsplit_once(':').context("no port")?;
    let host = host.split('%').next().unwrap_or_default();
    let address: IpAddr = host.trim_matches(['[', ']']).parse().with_context(|| format!("address {text}"))?;
    Ok((address.to_canonical(), port.parse()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subflow_is_read() {
        let line = "ESTAB 0 0 10.0.1.1%west1:4000 [::ffff:10.0.0.2]:5000 cubic wscale:7,7 retrans:0/7 bytes_sent:1200 \
                    tcp-ulp-mptcp flags:Jjec token:b8a2(id:0)/5f01c3(id:2) seq:1 sfseq:2 ssnoff:3 maplen:4";
        let socket = socket(line).unwrap();
        assert_eq!((socket.state.as_str(), socket.local), ("ESTAB", "10.0.1.1:4000".parse().unwrap()));
        assert_eq!(socket.remote, "10.0.0.2:5000".parse().unwrap());
        assert_eq!([socket.number("bytes_sent").unwrap(), socket.number("retrans").unwrap()], [1200, 7]);
        assert_eq!(socket.number("bytes_retrans").unwrap(), 0);
        let of = Membership { local_token: 0x5f01c3, local_id: 2, remote_token: 0xb8a2, remote_id: 0 };
        assert_eq!(socket.membership().unwrap(), Some(of));
    }

    #[test]
    fn plain_tcp_is_no_subflow() {
        let socket = socket("ESTAB 0 0 [2001:db8::1]:4000 [2001:db8::2]:5000 cubic bytes_acked:1").unwrap();
        assert_eq!(socket.membership().unwrap(), None);
        assert!(super::socket("ESTAB 0 0 nowhere").is_err());
    }
}
