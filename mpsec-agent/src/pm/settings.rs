//! What the path manager is told to do.

use super::mode::Kind;

/// Settings; all of them can be changed while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which subflows there are to be.
    pub mode: Kind,
    /// Of the mode `ndiffports`: subflows of a connection, the first one included.
    pub subflows: u16,
    /// Subflows that a connection may have, the first one included and whoever makes them: no more are asked for, and of
    /// those that the peer makes the newest beyond it are ended. At least 1.
    pub most_subflows: u16,
    /// Connections that are managed; more than these are let be, and counted.
    pub most_connections: usize,
    /// Whether local addresses are announced to the peers of connections that this host accepted.
    pub announce: bool,
    /// Spreads what is tried again after a failure: best a random number, so that hosts differ.
    pub salt: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            mode: Kind::Ndiffports,
            subflows: 2,
            most_subflows: 8,
            most_connections: 16384,
            announce: false,
            salt: 0,
        }
    }
}
