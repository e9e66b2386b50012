//! Settings of what is watched beside interfaces: peers by name, and other network namespaces.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;

/// `[paths]`: how subflows are put together to paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathsConfig {
    /// Length of the remote prefix that a path leads to, IPv4.
    pub remote_prefix_ipv4: u8,
    /// The same, IPv6.
    pub remote_prefix_ipv6: u8,
    /// Names of peers, by prefix.
    pub peers: Vec<Peer>,
    /// Paths that are kept apart.
    pub max_paths: u32,
}

impl PathsConfig {
    /// What a remote address is called: the name of the peer with the longest prefix that holds it, else its prefix.
    #[must_use]
    pub fn remote_name(&self, remote: IpAddr) -> String {
        let named = self.peers.iter().filter(|peer| peer.prefix.contains(&remote));
        if let Some(peer) = named.max_by_key(|peer| peer.prefix.prefix_len()) {
            return peer.name.clone();
        }
        let len = if remote.is_ipv4() { self.remote_prefix_ipv4 } else { self.remote_prefix_ipv6 };
        IpNet::new(remote, len).map_or_else(|_| remote.to_string(), |net| net.trunc().to_string())
    }
}

impl Default for PathsConfig {
    fn default() -> Self {
        Self { remote_prefix_ipv4: 24, remote_prefix_ipv6: 64, peers: Vec::new(), max_paths: 256 }
    }
}

/// A name for the addresses of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    name: String,
    prefix: IpNet,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected NAME=PREFIX, such as office=192.0.2.0/24 or office=2001:db8::/32";
        let (name, prefix) = text.split_once('=').ok_or(EXPECTED)?;
        if name.is_empty() || name.starts_with('_') {
            return Err(format!("a peer's name is not empty and does not begin with an underscore; {EXPECTED}"));
        }
        let address = || prefix.parse::<IpAddr>().map(IpNet::from);
        let prefix: IpNet = prefix.parse().or_else(|_| address()).map_err(|_| EXPECTED)?;
        if prefix.trunc() != prefix {
            return Err(format!("{prefix} has bits beyond its length; {} has not", prefix.trunc()));
        }
        Ok(Self { name: name.into(), prefix })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.prefix)
    }
}

/// Another network namespace that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetnsConfig {
    /// Its label.
    pub name: String,
    /// A file that stands for it: as `ip netns` makes them, or `/proc/PID/ns/net`.
    pub path: PathBuf,
}

impl NetnsConfig {
    /// Where `ip netns add NAME` puts it.
    #[must_use]
    pub fn usual_path(name: &str) -> PathBuf {
        Path::new("/run/netns").join(name)
    }
}

impl FromStr for NetnsConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected NAME or NAME=PATH, such as blue or blue=/run/netns/blue";
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (name, PathBuf::from(path)),
            None => (text, Self::usual_path(text)),
        };
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(format!("{name:?} cannot be the name of a network namespace; {EXPECTED}"));
        }
        if !path.is_absolute() {
            return Err(format!("{:?} is not a whole path; {EXPECTED}", path.display()));
        }
        Ok(Self { name: name.into(), path })
    }
}

impl fmt::Display for NetnsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_are_called_by_the_longest_prefix() {
        let peers = ["site=192.0.0.0/8", "office=192.0.2.0/24", "lone=2001:db8::7"];
        let peers = peers.map(|text| text.parse().unwrap()).to_vec();
        let config = PathsConfig { peers, ..PathsConfig::default() };
        let table = [
            ("192.0.2.9", "office"),
            ("192.0.3.9", "site"),
            ("198.51.100.77", "198.51.100.0/24"),
            ("2001:db8::7", "lone"),
            ("2001:db8::8", "2001:db8::/64"),
        ];
        for (address, name) in table {
            assert_eq!(config.remote_name(address.parse().unwrap()), name);
        }
    }

    #[test]
    fn what_cannot_be_a_peer_is_refused() {
        for text in ["office", "=192.0.2.0/24", "_other=192.0.2.0/24", "office=192.0.2.0/33", "office=192.0.2.1/24"] {
            assert!(text.parse::<Peer>().is_err(), "{text}");
        }
    }

    #[test]
    fn namespaces_have_a_name_and_a_path() {
        let parse = |text: &str| text.parse::<NetnsConfig>();
        assert_eq!(parse("blue").unwrap().to_string(), "blue=/run/netns/blue");
        assert_eq!(parse("pod=/proc/7/ns/net").unwrap().path, Path::new("/proc/7/ns/net"));
        for text in ["", "=/x", "a/b", "..", "blue=run/netns/blue"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
