//! What is asked of the agent that changes something on the host, and what it answers. Plain data, the same on the local
//! socket, in the HTTP API and in the log of changes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::snapshot::mptcp::Role;

use super::apply::Outcome;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Ask {
    /// To say what [`Ask::Apply`] would do.
    Plan(Settings),
    /// To make the host what configuration file, flags and settings want.
    Apply(Settings),
    /// To give back everything that was changed, and to change nothing until the next [`Ask::Apply`] or boot.
    Release,
    /// To switch an interface on or off.
    Link(LinkSwitch),
}

/// Settings beside the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Settings {
    /// `KEY=VALUE`, which win over the file and flags, and are kept.
    #[serde(default)]
    pub set: Vec<String>,
    /// Keys whose earlier such settings are dropped.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// An interface to switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LinkSwitch {
    /// Its name.
    pub name: String,
    /// Whether it is to be on.
    pub up: bool,
    /// Say what would happen, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

impl Ask {
    /// Whether it may change something.
    #[must_use]
    pub fn is_mutating(&self) -> bool {
        !matches!(self, Ask::Plan(_) | Ask::Link(LinkSwitch { dry_run: true, .. }))
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ask::Plan(settings) => write!(f, "plan{settings}"),
            Ask::Apply(settings) => write!(f, "apply{settings}"),
            Ask::Release => f.write_str("release"),
            Ask::Link(LinkSwitch { name, up, .. }) => write!(f, "link {} {name}", if *up { "up" } else { "down" }),
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.set.iter().try_for_each(|set| write!(f, " --set {set}"))?;
        self.unset.iter().try_for_each(|key| write!(f, " --unset {key}"))
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Answer {
    /// How often what is wanted has changed, this time included.
    pub generation: u64,
    /// Whether everything is given back and nothing will be changed until it is asked for.
    pub released: bool,
    /// Of a plan: what would be done.
    pub outcome: Outcome,
    /// Of an interface that is switched off: what becomes of the connections that use it.
    #[serde(default)]
    pub effects: Vec<Effect>,
    /// Names of the interfaces that changes mention by index, as far as they are known.
    #[serde(default)]
    pub interfaces: BTreeMap<u32, String>,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Effect {
    /// Its token.
    pub token: u32,
    /// Which end this host is.
    pub role: Role,
    /// Local address and port of its first subflow.
    pub local: SocketAddr,
    /// Remote address and port of its first subflow.
    pub remote: SocketAddr,
    /// Subflows that it has.
    pub subflows: usize,
    /// How many of them are on the interface.
    pub affected: usize,
    /// What that means, in words.
    pub text: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    /// It cannot be asked for: a key or a value is wrong, an interface is not there.
    #[error("{0}")]
    Wrong(String),
    /// Who asks may not.
    #[error("{0}")]
    Forbidden(String),
    /// The agent cannot do it.
    #[error("{0}")]
    Failed(String),
}

/// Which of the kinds of [`AskError`] it is: what programs go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskErrorKind {
    /// [`AskError::Wrong`].
    Wrong,
    /// [`AskError::Forbidden`].
    Forbidden,
    /// [`AskError::Failed`].
    #[default]
    Failed,
}

impl AskError {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> AskErrorKind {
        match self {
            AskError::Wrong(_) => AskErrorKind::Wrong,
            AskError::Forbidden(_) => AskErrorKind::Forbidden,
            AskError::Failed(_) => AskErrorKind::Failed,
        }
    }
}

/// Who asks: what the log of changes names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The agent itself, because something on the host changed.
    Agent,
    /// A process of this host, through the local socket or without an agent.
    Local {
        /// Its effective user.
        uid: u32,
        /// Its process number, 0 where it is not known.
        pid: i32,
    },
    /// Somebody through HTTPS.
    Remote {
        /// Where from.
        address: SocketAddr,
        /// `certificate` and its name, or `token`.
        identity: String,
    },
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Agent => f.write_str("agent"),
            Who::Local { uid, pid } => write!(f, "uid {uid} pid {pid}"),
            Who::Remote { address, identity } => write!(f, "{identity} from {address}"),
        }
    }
}
