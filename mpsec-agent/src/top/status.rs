//! As much of the agent's answer as the view shows. What is not in it is empty: agent and view may differ in version.

use serde::Deserialize;

use crate::snapshot::host::Host;
use crate::snapshot::json::InterfaceView;
use crate::snapshot::mptcp::Namespace;

/// The agent's answer to `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// When the snapshot was taken, in seconds since 1970.
    pub taken_at: f64,
    /// Version of the agent.
    pub version: String,
    /// The host.
    pub host: Host,
    /// Interfaces that are counted.
    pub interfaces: Vec<InterfaceView>,
    /// MPTCP, by network namespace.
    pub namespaces: Vec<Namespace>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::sample;

    #[test]
    fn what_the_agent_writes_is_read_back() {
        let snapshot = sample::snapshot();
        let status: Status = serde_json::from_str(&snapshot.to_json_text()).unwrap();
        assert_eq!(
            (status.taken_at, status.namespaces, status.host),
            (1.7e9, snapshot.namespaces.clone(), sample::host())
        );
        assert_eq!(status.interfaces, snapshot.interface_views());
        assert!(serde_json::from_str::<Status>("{}").unwrap().namespaces.is_empty());
    }
}
