//! `[mptcp]`, what it changes on the host: path manager, endpoints, scheduler, congestion control, routes. Whatever is not
//! set is left as it is found.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use globset::Glob;

use super::keys::expected_word;
use crate::kernel::mptcp_pm::EndpointFlags;

/// What is wanted of MPTCP on this host; `None` everywhere means that nothing is touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultipathConfig {
    /// `net.mptcp.enabled`.
    pub enabled: Option<bool>,
    /// How additional paths come about.
    pub path_manager: Option<PathManagerMode>,
    /// `ndiffports`: subflows of a connection, the first one included.
    pub ndiffports: u32,
    /// What becomes an endpoint, most important first.
    pub endpoints: Vec<EndpointRule>,
    /// Subflows that a connection may have beside its first; `None` leaves it to the path manager's mode.
    pub subflow_limit: Option<u32>,
    /// Addresses that a connection takes from its peer; `None` leaves it to the mode.
    pub add_addr_accepted_limit: Option<u32>,
    /// `net.mptcp.scheduler`.
    pub scheduler: Option<String>,
    /// `net.ipv4.tcp_congestion_control`.
    pub congestion_control: Option<String>,
    /// Congestion control of new subflows by the interface that their address belongs to.
    pub path_congestion_control: Vec<PerInterface<String>>,
    /// Most that a new subflow sends, by the interface that its address belongs to.
    pub path_max_rate: Vec<PerInterface<Rate>>,
    /// `net.ipv4.tcp_reordering`.
    pub reordering: Option<u32>,
    /// `net.ipv4.tcp_max_reordering`.
    pub max_reordering: Option<u32>,
    /// `net.ipv4.tcp_recovery`.
    pub recovery: Option<u32>,
    /// Other settings below `net.mptcp`.
    pub sysctls: Vec<MptcpSysctl>,
    /// Whether packets leave by the path that their source address belongs to, by rules and tables of MPSec's.
    pub manage_routes: bool,
    /// The first of MPSec's routing tables; an interface has the one that lies its index behind it.
    pub route_table: u32,
    /// Routers by interface, where the main table does not tell.
    pub gateways: Vec<PerInterface<IpAddr>>,
    /// Whether paths that went down or silent are taken out at once; see [`MultipathConfig::fails_over`].
    pub failover: Option<bool>,
    /// What a socket's receive buffer may hold to begin with.
    pub receive_buffer: ReceiveBuffer,
    /// cgroups whose programs get MPTCP for TCP.
    pub force: ForceConfig,
}

impl MultipathConfig {
    /// Whether paths that went down or silent are taken out at once: where MPSec makes the endpoints, unless it is said.
    #[must_use]
    pub fn fails_over(&self) -> bool {
        self.failover.unwrap_or(self.path_manager.is_some() || !self.endpoints.is_empty())
    }
}

impl MultipathConfig {
    /// What of it lasts without the agent.
    #[must_use]
    pub fn without_agent(&self) -> Self {
        let mut left = self.clone();
        left.force = ForceConfig::default();
        left.failover = Some(false);
        left.path_congestion_control.clear();
        left.path_max_rate.clear();
        if left.path_manager == Some(PathManagerMode::Ndiffports) {
            left.path_manager = None;
            left.endpoints.clear();
        }
        left
    }
}

impl Default for MultipathConfig {
    fn default() -> Self {
        Self {
            enabled: None,
            path_manager: None,
            ndiffports: 2,
            endpoints: Vec::new(),
            subflow_limit: None,
            add_addr_accepted_limit: None,
            scheduler: None,
            congestion_control: None,
            path_congestion_control: Vec::new(),
            path_max_rate: Vec::new(),
            reordering: None,
            max_reordering: None,
            recovery: None,
            sysctls: Vec::new(),
            manage_routes: false,
            route_table: 4800,
            gateways: Vec::new(),
            failover: None,
            receive_buffer: ReceiveBuffer::Auto,
            force: ForceConfig::default(),
        }
    }
}

/// What a socket's receive buffer may hold to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReceiveBuffer {
    /// What failover needs, where it is on.
    #[default]
    Auto,
    /// What it is.
    Keep,
    /// So many bytes.
    Bytes(u32),
}

/// What a stream of 100 Mbit/s brings in a third of a second, which is how long a hole may stay open.
const ROOM: u32 = 4_000_000;

impl MultipathConfig {
    /// What a receive buffer may hold to begin with, in bytes, if that is to be changed.
    #[must_use]
    pub fn receive_buffer(&self, fails_over: bool) -> Option<u32> {
        match self.receive_buffer {
            ReceiveBuffer::Auto => fails_over.then_some(ROOM),
            ReceiveBuffer::Keep => None,
            ReceiveBuffer::Bytes(bytes) => Some(bytes),
        }
    }
}

impl FromStr for ReceiveBuffer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const RANGE: std::ops::RangeInclusive<u32> = 65_536..=1 << 30;
        match text {
            "auto" => Ok(Self::Auto),
            KEEP => Ok(Self::Keep),
            _ => match text.trim().parse() {
                Ok(bytes) if RANGE.contains(&bytes) => Ok(Self::Bytes(bytes)),
                _ => Err(format!("{text:?}: expected auto, {KEEP}, or a number of bytes from 65536 to 1073741824")),
            },
        }
    }
}

impl fmt::Display for ReceiveBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Keep => f.write_str(KEEP),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

/// `[mptcp.force]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForceConfig {
    /// cgroups whose programs make connections.
    pub clients: Vec<PathBuf>,
    /// cgroups whose programs accept them.
    pub servers: Vec<PathBuf>,
}

/// How additional paths come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathManagerMode {
    /// No additional paths.
    Default,
    /// From each address to each address.
    Fullmesh,
    /// Several subflows between the same two addresses.
    Ndiffports,
    /// The first path in use, the others when nothing else is left.
    Backup,
    /// Addresses are announced, for the peer to make subflows to.
    Signal,
}

impl PathManagerMode {
    /// All, in the order in which help texts name them.
    pub const ALL: [Self; 5] = [Self::Default, Self::Fullmesh, Self::Ndiffports, Self::Backup, Self::Signal];
    const NAMES: [&str; 6] = ["keep", "default", "fullmesh", "ndiffports", "backup", "signal"];

    /// As the configuration names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Fullmesh => "fullmesh",
            Self::Ndiffports => "ndiffports",
            Self::Backup => "backup",
            Self::Signal => "signal",
        }
    }

    /// `keep` is none.
    pub(super) fn wish(text: &str) -> Result<Option<Self>, String> {
        match Self::ALL.into_iter().find(|mode| mode.name() == text) {
            None if text != KEEP => Err(expected_word(text, &Self::NAMES)),
            found => Ok(found),
        }
    }
}

/// The word for "as it is found".
pub(super) const KEEP: &str = "keep";

/// A name of the kernel's, such as that of a scheduler: what this kernel has is looked up when it is used.
pub(super) fn kernel_name(text: &str) -> Result<Option<String>, String> {
    match text {
        KEEP => Ok(None),
        // TCP_CA_NAME_MAX and MPTCP_SCHED_NAME_MAX count a final NUL.
        _ if text.is_empty()
            || text.len() > 15
            || !text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') =>
        {
            Err(format!("{text:?} is no name of the kernel's: expected up to 15 letters, digits, _ and -, or {KEEP}"))
        }
        _ => Ok(Some(text.to_owned())),
    }
}

/// What an endpoint is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The addresses of interfaces whose names match this shell pattern.
    Interfaces(String),
    /// This address.
    Address(IpAddr),
}

/// What becomes an endpoint, and of which kind: `MATCH[=WORD[+WORD...]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRule {
    /// What it is made from.
    pub matches: Match,
    /// Flags beside, or in place of, those of the path manager's mode; see [`EndpointRule::flags`].
    pub words: EndpointFlags,
    /// Only addresses of this family: 4 or 6.
    pub family: Option<u8>,
    /// A port of its own, of an announced address.
    pub port: Option<u16>,
}

impl EndpointRule {
    const WORDS: [&str; 7] = ["subflow", "signal", "backup", "fullmesh", "laminar", "ipv4", "ipv6"];

    /// The rule for every interface.
    #[must_use]
    pub fn every() -> Self {
        Self { matches: Match::Interfaces("*".into()), words: EndpointFlags(0), family: None, port: None }
    }

    /// The flags of endpoints in a mode that gives them `usual` ones. A rule that says subflow or signal itself has its own.
    #[must_use]
    pub fn flags(&self, usual: EndpointFlags) -> EndpointFlags {
        let kinds = EndpointFlags::SUBFLOW.0 | EndpointFlags::SIGNAL.0 | EndpointFlags::LAMINAR.0;
        if self.words.0 & kinds != 0 { self.words } else { EndpointFlags(self.words.0 | usual.0) }
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        let flag = match word {
            "subflow" => EndpointFlags::SUBFLOW,
            "signal" => EndpointFlags::SIGNAL,
            "backup" => EndpointFlags::BACKUP,
            "fullmesh" => EndpointFlags::FULLMESH,
            "laminar" => EndpointFlags::LAMINAR,
            "ipv4" | "ipv6" => {
                self.family = Some(if word == "ipv4" { 4 } else { 6 });
                return Ok(());
            }
            other => match other.strip_prefix("port:").map(str::parse) {
                Some(Ok(port)) if port > 0 => {
                    self.port = Some(port);
                    return Ok(());
                }
                _ => return Err(format!("{}, or port:N", expected_word(other, &Self::WORDS))),
            },
        };
        self.words = EndpointFlags(self.words.0 | flag.0);
        Ok(())
    }

    /// What the kernel would refuse (mptcp_pm_nl_add_addr_doit, net/mptcp/pm_kernel.c, 6.18), told before.
    fn check(&self, text: &str) -> Result<(), String> {
        let has = |flag: EndpointFlags| self.words.0 & flag.0 != 0;
        let family = |address: &IpAddr| if address.is_ipv4() { 4 } else { 6 };
        match (&self.matches, self.family) {
            _ if has(EndpointFlags::SIGNAL) && has(EndpointFlags::FULLMESH) => {
                Err(format!("{text}: an endpoint is either signal or fullmesh"))
            }
            _ if self.port.is_some() && (!has(EndpointFlags::SIGNAL) || has(EndpointFlags::SUBFLOW)) => {
                Err(format!("{text}: only an endpoint that is signal and not subflow has a port of its own"))
            }
            (Match::Address(address), Some(wanted)) if family(address) != wanted => {
                Err(format!("{text}: this address is not IPv{wanted}"))
            }
            (Match::Address(address), _)
                if address.is_loopback() || address.is_unspecified() || address.is_multicast() =>
            {
                Err(format!("{text}: no path begins at this address"))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for EndpointRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (matches, words) = text.split_once('=').unwrap_or((text, ""));
        let matches = match matches.parse() {
            Ok(address) => Match::Address(address),
            Err(_) => Match::Interfaces(pattern(matches)?),
        };
        let mut rule = EndpointRule { matches, words: EndpointFlags(0), family: None, port: None };
        words.split('+').filter(|word| !word.is_empty()).try_for_each(|word| rule.word(word))?;
        rule.check(text).map(|()| rule)
    }
}

impl fmt::Display for EndpointRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.matches {
            Match::Interfaces(pattern) => f.write_str(pattern)?,
            Match::Address(address) => write!(f, "{address}")?,
        }
        let flags = self.words.names().into_iter();
        let family = self.family.map(|family| format!("ipv{family}"));
        let port = self.port.map(|port| format!("port:{port}"));
        let words: Vec<String> = flags.chain(family).chain(port).collect();
        if words.is_empty() { Ok(()) } else { write!(f, "={}", words.join("+")) }
    }
}

fn pattern(text: &str) -> Result<String, String> {
    super::Globs::check(text).map(|()| text.to_owned())
}

/// Whether a name matches a shell pattern, which has been checked.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    Glob::new(pattern).is_ok_and(|glob| glob.compile_matcher().is_match(name))
}

/// A value for interfaces whose names match a shell pattern: `GLOB=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerInterface<T> {
    /// The pattern.
    pub interfaces: String,
    /// The value.
    pub value: T,
}

impl<T> PerInterface<T> {
    /// The value for an interface: the first that matches.
    pub fn of<'a>(all: &'a [Self], name: &str) -> Option<&'a T> {
        all.iter().find(|one| matches(&one.interfaces, name)).map(|one| &one.value)
    }

    pub(super) fn parse(text: &str, value: impl Fn(&str) -> Result<T, String>) -> Result<Self, String> {
        let (interfaces, text) = text.split_once('=').ok_or("expected GLOB=VALUE, such as wan0=... or lte*=...")?;
        Ok(Self { interfaces: pattern(interfaces)?, value: value(text)? })
    }
}

impl<T: fmt::Display> fmt::Display for PerInterface<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.interfaces, self.value)
    }
}

/// A rate in bits per second, a multiple of 8: `10mbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    const UNITS: [(&str, u64); 4] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1000), ("bit", 1)];

    /// Bytes per second.
    #[must_use]
    pub fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a rate from 64kbit to 1000gbit, such as 10mbit";
        let unit = Self::UNITS.into_iter().find_map(|(name, bits)| Some((text.strip_suffix(name)?, bits)));
        let (number, bits) = unit.ok_or(EXPECTED)?;
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        let rate = number.checked_mul(bits).filter(|rate| (64_000..=1_000_000_000_000).contains(rate));
        rate.map(|rate| Self(rate / 8 * 8)).ok_or_else(|| EXPECTED.into())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bits) = Self::UNITS.into_iter().find(|(_, bits)| self.0 % bits == 0).unwrap_or(("bit", 1));
        write!(f, "{}{name}", self.0 / bits)
    }
}

/// A setting below `net.mptcp` that has no key of its own, with a value in its range: `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MptcpSysctl {
    /// The name behind `net.mptcp.`.
    pub name: &'static str,
    /// The value.
    pub value: u32,
}

impl MptcpSysctl {
    /// Names, ranges and units, as net/mptcp/ctrl.c of Linux 6.18 (the last one: 7.2) means them. The kernel takes negative
    /// numbers for those in seconds, which would make no sense.
    const RANGES: [(&'static str, u32, &'static str); 8] = [
        ("add_addr_timeout", 86_400, "seconds"),
        ("allow_join_initial_addr_port", 1, "0 or 1"),
        ("blackhole_timeout", 604_800, "seconds"),
        ("checksum_enabled", 1, "0 or 1"),
        ("close_timeout", 86_400, "seconds"),
        ("stale_loss_cnt", 65_535, "losses"),
        ("syn_retrans_before_tcp_fallback", 255, "retransmissions"),
        ("add_addr_v6_port_drop_ts", 1, "0 or 1"),
    ];
    /// Settings that other keys are for.
    const ELSEWHERE: [(&'static str, &'static str); 4] = [
        ("enabled", "enabled"),
        ("pm_type", "path_manager"),
        ("path_manager", "path_manager"),
        ("scheduler", "scheduler"),
    ];
}

impl FromStr for MptcpSysctl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as stale_loss_cnt=2")?;
        let name = name.strip_prefix("net.mptcp.").unwrap_or(name);
        if let Some((_, key)) = Self::ELSEWHERE.iter().find(|(known, _)| *known == name) {
            return Err(format!("{name} is set with the key mptcp.{key}"));
        }
        let names = Self::RANGES.map(|(name, ..)| name);
        let (name, most, unit) =
            *Self::RANGES.iter().find(|(known, ..)| *known == name).ok_or_else(|| expected_word(name, &names))?;
        let value = value.parse().ok().filter(|value| *value <= most);
        let value = value.ok_or_else(|| format!("{name}: expected a whole number from 0 to {most} ({unit})"))?;
        Ok(Self { name, value })
    }
}

impl fmt::Display for MptcpSysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_back_as_they_were_written() {
        for text in ["wan*", "lte0=backup", "192.0.2.1=signal+port:4000", "eth*=subflow+fullmesh+ipv6", "2001:db8::1"] {
            assert_eq!(text.parse::<EndpointRule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_rule_adds_to_the_modes_flags_or_has_its_own() {
        let usual = EndpointFlags(EndpointFlags::SUBFLOW.0 | EndpointFlags::FULLMESH.0);
        let flags = |text: &str| text.parse::<EndpointRule>().unwrap().flags(usual).0;
        assert_eq!(flags("wan0"), usual.0);
        assert_eq!(flags("wan0=backup"), usual.0 | EndpointFlags::BACKUP.0);
        assert_eq!(flags("wan0=signal"), EndpointFlags::SIGNAL.0);
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_with_words() {
        let table = [
            ("wan0=signal+fullmesh", "either signal or fullmesh"),
            ("192.0.2.1=port:4000", "has a port of its own"),
            ("192.0.2.1=ipv6", "not IPv6"),
            ("127.0.0.1", "no path begins"),
            ("wan0=bakcup", "did you mean \"backup\""),
            ("wan[", "no shell pattern"),
            ("=backup", "empty pattern"),
        ];
        for (text, expected) in table {
            let error = text.parse::<EndpointRule>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn rates_have_units() {
        for (text, bytes) in [("10mbit", 1_250_000), ("64kbit", 8000), ("1gbit", 125_000_000)] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.bytes_per_second(), rate.to_string()), (bytes, text.to_owned()));
        }
        for text in ["10", "mbit", "1kbit", "-1mbit", "99999999999gbit"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn sysctls_have_ranges_that_the_kernel_lacks() {
        let parse = |text: &str| text.parse::<MptcpSysctl>();
        assert_eq!(parse("net.mptcp.close_timeout=60").unwrap().to_string(), "close_timeout=60");
        for (text, expected) in [
            ("close_timeout=-1", "from 0 to 86400"),
            ("checksum_enabled=2", "from 0 to 1"),
            ("enabled=1", "key mptcp.enabled"),
            ("stale_loss=1", "did you mean \"stale_loss_cnt\""),
        ] {
            assert!(parse(text).unwrap_err().contains(expected), "{text}");
        }
    }
}
