//! Other programs that manage what MPSec would manage, in one network namespace: pure. It judges what `kernel::managers` found.

use std::collections::{BTreeMap, BTreeSet};

/// A program that manages endpoints, routes or rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manager {
    /// NetworkManager.
    NetworkManager,
    /// The Multipath TCP daemon.
    Mptcpd,
    /// systemd-networkd.
    Networkd,
    /// Another MPSec.
    Mpsec,
}

impl Manager {
    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkManager => "NetworkManager",
            Self::Mptcpd => "mptcpd",
            Self::Networkd => "systemd-networkd",
            Self::Mpsec => "mpsec",
        }
    }
}

/// What MPSec had better not manage while a conflict lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stops {
    /// Endpoints of MPTCP: each would undo what the other does.
    Endpoints,
    /// Routes and routing rules: MPSec's would be removed.
    Routes,
    /// Nothing as things are.
    Nothing,
}

/// A program that is, or may come, in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Which.
    pub manager: Manager,
    /// What it does, in one sentence.
    pub what: String,
    /// Commands that have it leave that to MPSec; several are joined by `&&`.
    pub remedy: String,
    /// What it keeps MPSec from.
    pub stops: Stops,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; have it leave that to MPSec: {}", self.what, self.remedy)
    }
}

/// The managers that run in the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers {
    /// NetworkManager, if it runs.
    pub network_manager: Option<NetworkManager>,
    /// Whether mptcpd runs.
    pub mptcpd: bool,
    /// systemd-networkd, if it runs.
    pub networkd: Option<Networkd>,
    /// Process numbers of other agents.
    pub agents: Vec<u32>,
}

/// What NetworkManager manages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkManager {
    /// Major and minor version, if that is known.
    pub version: Option<(u32, u32)>,
    /// `connection.mptcp-flags` of its own configuration, for connections that have none: bits of `NMMptcpFlags`.
    pub default_flags: Option<u32>,
    /// Interfaces that it manages, by index.
    pub devices: BTreeMap<u32, Option<Connection>>,
    /// Whether there are connections that cannot be read, as an agent cannot that is not root.
    pub hides_connections: bool,
}

/// A connection that is active on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Its UUID.
    pub uuid: String,
    /// Its own `connection.mptcp-flags`; `None` if it has none, or cannot be read.
    pub flags: Option<u32>,
}

/// What systemd-networkd manages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networkd {
    /// Indices of interfaces that it configures.
    pub links: BTreeSet<u32>,
    /// `ManageForeignRoutingPolicyRules=`.
    pub removes_rules: bool,
    /// `ManageForeignRoutes=`.
    pub removes_routes: bool,
}

/// The conflicts over `interfaces`, by index and name: those that MPSec has, or is to have, endpoints or routes on.
#[must_use]
pub fn conflicts(managers: &Managers, interfaces: &BTreeMap<u32, String>) -> Vec<Conflict> {
    let mut all = Vec::new();
    all.extend(managers.network_manager.as_ref().and_then(|manager| network_manager(manager, interfaces)));
    all.extend(managers.mptcpd.then(mptcpd));
    all.extend(managers.networkd.as_ref().and_then(|manager| networkd(manager, interfaces)));
    all.extend(managers.agents.iter().map(|pid| agent(*pid)));
    all
}

/// The first version that makes endpoints.
const NM_WITH_MPTCP: (u32, u32) = (1, 40);
/// `NM_MPTCP_FLAGS_DISABLED`
const NM_DISABLED: u32 = 0x1;
/// What it takes where nothing is said: `enabled,subflow`.
const NM_FALLBACK: u32 = 0x22;

/// Has it make none of connections that say nothing themselves.
const NM_LEAVES_IT: &str = "printf '[connection-mpsec]\\nconnection.mptcp-flags=1\\n' \
                            >/etc/NetworkManager/conf.d/90-mpsec.conf && nmcli general reload conf";

impl NetworkManager {
    fn makes_endpoints(&self, connection: &Connection) -> bool {
        let said = |flags: Option<u32>| flags.filter(|flags| *flags != 0);
        said(connection.flags).or(said(self.default_flags)).unwrap_or(NM_FALLBACK) & NM_DISABLED == 0
    }
}

/// Every address of an interface that it manages becomes an endpoint, where there is a default route of its family.
fn network_manager(manager: &NetworkManager, interfaces: &BTreeMap<u32, String>) -> Option<Conflict> {
    if manager.version.is_some_and(|version| version < NM_WITH_MPTCP) {
        return None;
    }
    let managed = |(index, name): (&u32, &String)| {
        let connection = manager.devices.get(index)?.as_ref()?;
        manager.makes_endpoints(connection).then(|| (name.clone(), connection.uuid.clone()))
    };
    let (names, uuids): (Vec<String>, Vec<String>) = interfaces.iter().filter_map(managed).unzip();
    let conflict =
        |what: String, remedy: String, stops| Conflict { manager: Manager::NetworkManager, what, remedy, stops };
    if !uuids.is_empty() {
        let what = format!("NetworkManager makes MPTCP endpoints of the addresses of {}", names.join(", "));
        let command = |uuid: &String| {
            format!(
                "nmcli connection modify uuid {uuid} connection.mptcp-flags disabled && nmcli connection up uuid {uuid}"
            )
        };
        let uuids = BTreeSet::from_iter(uuids);
        let commands: Vec<String> = match manager.hides_connections {
            false => uuids.iter().map(command).collect(),
            // What a connection says of itself would not be seen; the default is.
            true => {
                let up = uuids.iter().map(|uuid| format!("nmcli connection up uuid {uuid}"));
                std::iter::once(NM_LEAVES_IT.to_owned()).chain(up).collect()
            }
        };
        return Some(conflict(what, commands.join(" && "), Stops::Endpoints));
    }
    if manager.default_flags.is_some_and(|flags| flags & NM_DISABLED != 0) {
        return None;
    }
    let what =
        "NetworkManager makes MPTCP endpoints on interfaces that it is given; at the moment none of these".to_owned();
    Some(conflict(what, NM_LEAVES_IT.to_owned(), Stops::Nothing))
}

fn mptcpd() -> Conflict {
    Conflict {
        manager: Manager::Mptcpd,
        what: "mptcpd makes an MPTCP endpoint of each address that an interface gets".to_owned(),
        remedy: "systemctl disable --now mptcp.service".to_owned(),
        stops: Stops::Endpoints,
    }
}

/// It knows nothing of endpoints (systemd 259), but clears away rules and routes that are not in its configuration when it
/// configures an interface.
fn networkd(manager: &Networkd, interfaces: &BTreeMap<u32, String>) -> Option<Conflict> {
    let names: Vec<&str> =
        interfaces.iter().filter(|(index, _)| manager.links.contains(index)).map(|(_, name)| name.as_str()).collect();
    let rules = manager.removes_rules.then_some(("rules", "ManageForeignRoutingPolicyRules=no"));
    let routes = manager.removes_routes.then_some(("routes", "ManageForeignRoutes=no"));
    let (what, settings): (Vec<&str>, Vec<&str>) = rules.into_iter().chain(routes).unzip();
    if what.is_empty() {
        return None;
    }
    let remedy = format!(
        "mkdir -p /etc/systemd/networkd.conf.d && printf '[Network]\\n{}\\n' >/etc/systemd/networkd.conf.d/90-mpsec.conf && \
         systemctl restart systemd-networkd",
        settings.join("\\n")
    );
    // Rules belong to no interface: any that it configures will do.
    let (whose, stops) = match (names.is_empty(), manager.links.is_empty(), manager.removes_rules) {
        (false, _, _) => (names.join(", "), Stops::Routes),
        (true, false, true) => ("any interface".to_owned(), Stops::Routes),
        _ => ("an interface; at the moment none of these".to_owned(), Stops::Nothing),
    };
    let what = format!("systemd-networkd removes {} of others when it configures {whose}", what.join(" and "));
    Some(Conflict { manager: Manager::Networkd, what, remedy, stops })
}

fn agent(pid: u32) -> Conflict {
    Conflict {
        manager: Manager::Mpsec,
        what: format!("another mpsec runs here, as process {pid}"),
        remedy: format!("kill {pid}"),
        stops: Stops::Endpoints,
    }
}

#[cfg(test)]
mod tests;
