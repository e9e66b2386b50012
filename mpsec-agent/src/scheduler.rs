//! Which packet scheduler, congestion control and path manager this kernel can be told to use: pure. What it has not is refused
//! with the reason, and with the nearest thing that it can do.
//!
//! Sources: net/mptcp/{sched,ctrl,pm}.c and net/ipv4/tcp_cong.c, Linux 6.1 to 6.18.

use crate::config::nearest;

/// What is to be written so that the kernel uses what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name of the setting, as sysctl(8) has it.
    pub sysctl: &'static str,
    /// Its value.
    pub value: String,
}

/// Why something cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {nearest}")]
pub struct Refusal {
    /// Why.
    pub reason: String,
    /// The nearest thing that this kernel can do: a command, or a sentence.
    pub nearest: String,
}

/// The setting to write; `None` where the kernel does nothing else anyway, and has no setting for it.
pub type Choice = Result<Option<Setting>, Refusal>;

/// The one that every kernel with MPTCP has.
const DEFAULT: &str = "default";

/// The packet scheduler `wanted`, of those in `net.mptcp.available_schedulers` (absent on Linux 6.1).
///
/// No more than `default` is in mainline: mptcp_register_scheduler is not exported to modules, and BPF cannot offer one up to
/// Linux 7.3. Connections that are there keep the scheduler that they were made with.
pub fn scheduler(wanted: &str, available: Option<&str>) -> Choice {
    let names: Vec<&str> = available.into_iter().flat_map(str::split_whitespace).collect();
    if names.contains(&wanted) {
        return Ok(Some(Setting { sysctl: "net.mptcp.scheduler", value: wanted.to_owned() }));
    }
    if names.is_empty() && wanted == DEFAULT {
        return Ok(None);
    }
    let nearest = match wanted {
        "roundrobin" => EVEN.to_owned(),
        "redundant" => STANDBY.to_owned(),
        _ => meant(wanted, &names, DEFAULT),
    };
    Err(Refusal { reason: lacking("packet scheduler", wanted, &names), nearest })
}

/// It sends on the subflow whose queue is empty first at its pacing rate (mptcp_subflow_get_send, net/mptcp/protocol.c).
const EVEN: &str =
    "`default` fills the path that can send first: the same path_max_rate for each path gives them equal shares";
/// A backup subflow carries data once no other is alive.
const STANDBY: &str = "MPTCP never sends data on two subflows at once: with `default`, a path with the flag `backup` stands by and \
                       takes over when the others are dead";

/// How to come by a path manager on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathManagers<'a> {
    /// `net.mptcp.available_path_managers`, as it reads.
    ByName(&'a str),
    /// `net.mptcp.pm_type`, which kernels have that know no names: 0 for the kernel's, 1 for one in user space.
    ByNumber,
    /// Neither: there is the kernel's and no other (before Linux 5.19).
    Single,
}

impl<'a> PathManagers<'a> {
    /// From the settings that are there.
    #[must_use]
    pub fn new(available: Option<&'a str>, pm_type: Option<&str>) -> PathManagers<'a> {
        match (available, pm_type) {
            (Some(list), _) => PathManagers::ByName(list),
            (None, Some(_)) => PathManagers::ByNumber,
            (None, None) => PathManagers::Single,
        }
    }
}

/// The path manager `wanted`. Connections that are there keep the one that they were made with.
pub fn path_manager(wanted: &str, managers: PathManagers<'_>) -> Choice {
    let names: Vec<&str> = match managers {
        PathManagers::ByName(list) => list.split_whitespace().collect(),
        PathManagers::ByNumber => vec!["kernel", "userspace"],
        PathManagers::Single => vec!["kernel"],
    };
    if let Some(number) = names.iter().position(|name| *name == wanted) {
        return Ok(match managers {
            PathManagers::ByName(_) => Some(Setting { sysctl: "net.mptcp.path_manager", value: wanted.to_owned() }),
            PathManagers::ByNumber => Some(Setting { sysctl: "net.mptcp.pm_type", value: number.to_string() }),
            PathManagers::Single => None,
        });
    }
    let nearest = match wanted {
        "fullmesh" => "the kernel's own makes a full mesh of endpoints that have the flag `fullmesh`".to_owned(),
        "ndiffports" if names.contains(&"userspace") => {
            "one in user space makes several subflows between two addresses; the kernel's own cannot".to_owned()
        }
        "userspace" => "the kernel's own, with endpoints and limits".to_owned(),
        _ => meant(wanted, &names, "kernel"),
    };
    Err(Refusal { reason: lacking("path manager", wanted, &names), nearest })
}

/// What decides whether a congestion control can be had.
#[derive(Clone, Copy, Debug)]
pub struct CongestionControls<'a> {
    /// `net.ipv4.tcp_available_congestion_control`: those that are built in or loaded.
    pub available: &'a str,
    /// `net.ipv4.tcp_allowed_congestion_control`: those that others than the host's own namespace may use. The setting itself
    /// is in the host's own namespace alone.
    pub allowed: Option<&'a str>,
    /// Whether the module `tcp_NAME` of the one that is wanted is installed for the running kernel.
    pub module_installed: bool,
    /// Whether it is for the host's own network namespace.
    pub initial_namespace: bool,
}

/// The congestion control `wanted`, for new connections.
pub fn congestion_control(wanted: &str, controls: &CongestionControls<'_>) -> Choice {
    let names: Vec<&str> = controls.available.split_whitespace().collect();
    if !names.contains(&wanted) {
        let nearest = match wanted {
            _ if controls.module_installed => format!("modprobe tcp_{wanted}"),
            "lia" | "olia" | "balia" | "wvegas" => format!(
                "each subflow for itself: {}; mainline couples no subflows, a path_max_rate keeps a path's share small",
                names.join(", ")
            ),
            _ => meant(wanted, &names, "reno"),
        };
        return Err(Refusal { reason: lacking("congestion control", wanted, &names), nearest });
    }
    let is_allowed = controls.allowed.is_none_or(|list| list.split_whitespace().any(|name| name == wanted));
    if !controls.initial_namespace && !is_allowed {
        let allowed = controls.allowed.unwrap_or_default();
        return Err(Refusal {
            reason: format!("{wanted} is not allowed in other network namespaces than the host's own"),
            nearest: format!(
                "sysctl -w net.ipv4.tcp_allowed_congestion_control='{allowed} {wanted}', in the host's own"
            ),
        });
    }
    Ok(Some(Setting { sysctl: "net.ipv4.tcp_congestion_control", value: wanted.to_owned() }))
}

fn lacking(what: &str, wanted: &str, names: &[&str]) -> String {
    match names {
        [] => format!("this kernel has a single {what} and offers no choice, so no `{wanted}`"),
        [only] => format!("this kernel has no {what} `{wanted}`: its only one is {only}"),
        _ => format!("this kernel has no {what} `{wanted}`: it has {}", names.join(", ")),
    }
}

/// The name that is spelled nearest, or else the one that serves for everything.
fn meant(wanted: &str, names: &[&str], usual: &str) -> String {
    match nearest(wanted, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("`{usual}` can be had"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(sysctl: &'static str, value: &str) -> Choice {
        Ok(Some(Setting { sysctl, value: value.to_owned() }))
    }

    /// Reason and nearest thing of a refusal.
    fn refused(choice: Choice) -> (String, String) {
        let refusal = choice.expect_err("it cannot be had");
        (refusal.reason, refusal.nearest)
    }

    #[test]
    fn a_scheduler_that_is_listed_can_be_had() {
        assert_eq!(scheduler("default", Some("default")), set("net.mptcp.scheduler", "default"));
        assert_eq!(scheduler("redundant", Some("default redundant")), set("net.mptcp.scheduler", "redundant"));
    }

    #[test]
    fn a_kernel_with_one_scheduler_needs_no_setting_for_it() {
        assert_eq!(scheduler("default", None), Ok(None));
        let (reason, nearest) = refused(scheduler("roundrobin", None));
        assert!(reason.contains("single packet scheduler") && nearest.contains("path_max_rate"), "{reason}; {nearest}");
    }

    #[test]
    fn what_the_kernel_lacks_has_a_nearest_thing() {
        let (reason, nearest) = refused(scheduler("redundant", Some("default")));
        assert_eq!(reason, "this kernel has no packet scheduler `redundant`: its only one is default");
        assert!(nearest.contains("`backup`"), "{nearest}");
        assert!(refused(scheduler("roundrobin", Some("default\n"))).1.contains("path_max_rate"));
        assert_eq!(refused(scheduler("defualt", Some("default"))).1, "did you mean `default`?");
        assert_eq!(refused(scheduler("blest", Some("default"))).1, "`default` can be had");
    }

    #[test]
    fn a_path_manager_is_set_by_name_or_by_number() {
        let by_name = PathManagers::new(Some("kernel userspace"), Some("0"));
        assert_eq!(path_manager("userspace", by_name), set("net.mptcp.path_manager", "userspace"));
        let by_number = PathManagers::new(None, Some("0"));
        assert_eq!(path_manager("userspace", by_number), set("net.mptcp.pm_type", "1"));
        assert_eq!(path_manager("kernel", by_number), set("net.mptcp.pm_type", "0"));
        let single = PathManagers::new(None, None);
        assert_eq!(path_manager("kernel", single), Ok(None));
        assert!(refused(path_manager("userspace", single)).0.contains("its only one is kernel"));
    }

    #[test]
    fn path_managers_of_other_kernels_have_a_nearest_thing() {
        assert!(refused(path_manager("fullmesh", PathManagers::ByNumber)).1.contains("flag `fullmesh`"));
        assert!(refused(path_manager("ndiffports", PathManagers::ByNumber)).1.contains("user space"));
        assert_eq!(refused(path_manager("ndiffports", PathManagers::Single)).1, "`kernel` can be had");
        assert_eq!(refused(path_manager("user_space", PathManagers::ByNumber)).1, "did you mean `userspace`?");
    }

    #[test]
    fn a_congestion_control_may_need_its_module() {
        let controls = CongestionControls {
            available: "reno cubic",
            allowed: Some("reno cubic"),
            module_installed: false,
            initial_namespace: true,
        };
        assert_eq!(congestion_control("cubic", &controls), set("net.ipv4.tcp_congestion_control", "cubic"));
        let installed = CongestionControls { module_installed: true, ..controls };
        assert_eq!(refused(congestion_control("bbr", &installed)).1, "modprobe tcp_bbr");
        assert_eq!(refused(congestion_control("bbr", &controls)).1, "`reno` can be had");
        assert_eq!(refused(congestion_control("cubik", &controls)).1, "did you mean `cubic`?");
        assert!(refused(congestion_control("olia", &controls)).1.contains("reno, cubic"));
    }

    #[test]
    fn other_namespaces_may_use_what_the_host_allows() {
        let controls = CongestionControls {
            available: "reno cubic bbr",
            allowed: Some("reno cubic"),
            module_installed: true,
            initial_namespace: false,
        };
        assert!(congestion_control("cubic", &controls).is_ok());
        assert!(refused(congestion_control("bbr", &controls)).1.contains("'reno cubic bbr'"));
        let own = CongestionControls { initial_namespace: true, ..controls };
        assert!(congestion_control("bbr", &own).is_ok());
    }
}
