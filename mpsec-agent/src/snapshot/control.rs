//! What was asked to be changed on the host, and whether it is so.

use serde::{Deserialize, Serialize};

/// How what is wanted and what is compare.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Control {
    /// How often what is wanted has changed.
    pub desired_generation: u64,
    /// The last one that the host was found to be like; the same number while all is as it should be.
    pub actual_generation: u64,
    /// Whether everything is given back, and nothing is changed.
    pub released: bool,
    /// Why the host is not as it should be.
    pub failures: Vec<String>,
    /// What waits, and for what.
    pub waiting: Vec<String>,
    /// Endpoints, settings, routes, rules and interfaces that are as MPSec made them.
    pub owned: u64,
    /// Changes that were made and hold.
    pub changes_total: u64,
    /// Changes that failed.
    pub failed_total: u64,
    /// Changes that were made and taken back.
    pub undone_total: u64,
    /// Entries that could not be written into the log of changes.
    #[serde(default)]
    pub audit_errors_total: u64,
    /// TCP sockets that were made MPTCP ones for programs that do not ask for it; nothing where that was never done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced_sockets: Option<ForcedSockets>,
}

/// Sockets that were made MPTCP, by what their control group is listed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ForcedSockets {
    /// For clients alone.
    pub clients: u64,
    /// For servers alone.
    pub servers: u64,
    /// For both.
    pub both: u64,
}
