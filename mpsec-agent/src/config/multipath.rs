//! `[mptcp]`, what it changes on the host: path manager, endpoints, scheduler, congestion control, routes. Whatever is not
//! set is left as it is found.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::keys::expected_word;

mod endpoint;
mod value;

pub use endpoint::{EndpointRule, Match};
pub use value::{MptcpSysctl, PerInterface, Rate, matches};

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
