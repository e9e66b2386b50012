//! `mpsec doctor mptcp`: why connections are not multipath, and what mends it. Pure: it judges the facts that it is given.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::conflicts::{Conflict, Manager};
use crate::control::client::shell_word;
use crate::kernel::address::{Address, Readiness, Route};
use crate::snapshot::mptcp::{Endpoint, Finding, Limits};

use super::Style;

/// What is known of this network namespace.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whether MPTCP sockets can be made, or why that is not known.
    pub sockets: Option<Result<(), String>>,
    /// `net.mptcp.*`.
    pub sysctls: BTreeMap<String, String>,
    /// Endpoints of the path manager.
    pub endpoints: Result<Vec<Endpoint>, String>,
    /// Limits of the path manager.
    pub limits: Result<Limits, String>,
    /// Interfaces by index: name, and whether they are up with a carrier.
    pub interfaces: BTreeMap<u32, (String, bool)>,
    /// Addresses of the interfaces.
    pub addresses: Vec<Address>,
    /// Where packets from an address to the peer would go.
    pub routes: Vec<(IpAddr, Result<Route, String>)>,
    /// The peer that routes were looked up to.
    pub peer: Option<IpAddr>,
    /// Programs that run and manage endpoints, routes or rules.
    pub managers: Vec<Conflict>,
    /// `MPTcpExt` by name.
    pub mib: BTreeMap<String, u64>,
    /// What the running agent has found; `None` without one.
    pub agent: Option<(Option<bool>, Vec<Finding>)>,
}

impl Default for Facts {
    /// Nothing is known.
    fn default() -> Facts {
        let unknown = || "not looked at".to_owned();
        Facts {
            sockets: None,
            sysctls: BTreeMap::new(),
            endpoints: Err(unknown()),
            limits: Err(unknown()),
            interfaces: BTreeMap::new(),
            addresses: Vec::new(),
            routes: Vec::new(),
            peer: None,
            managers: Vec::new(),
            mib: BTreeMap::new(),
            agent: None,
        }
    }
}

/// What was found out about one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Stable name of the question.
    pub check: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// One sentence.
    pub text: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How a question stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is wrong.
    Fine,
    /// It keeps connections from being multipath.
    Wrong,
    /// It may be meant so.
    Noteworthy,
    /// It could not be found out.
    Unknown,
}

fn diagnosis(check: &'static str, verdict: Verdict, text: impl Into<String>, remedy: Option<String>) -> Diagnosis {
    Diagnosis { check, verdict, text: text.into(), remedy }
}

/// Answers every question, in the order in which one thing needs the other.
pub fn diagnose(facts: &Facts) -> Vec<Diagnosis> {
    let mut all = Vec::new();
    all.push(switched_on(facts));
    all.extend(path_manager(facts));
    all.push(endpoints_are_there(facts));
    all.extend(endpoint_addresses(facts));
    all.extend(backups(facts));
    all.extend(limits(facts));
    all.extend(routes(facts));
    all.extend(managers(facts));
    all.push(blackhole(facts));
    all.extend(joins(facts));
    all.extend(fallbacks(facts));
    all.extend(agents_findings(facts));
    all
}

fn switched_on(facts: &Facts) -> Diagnosis {
    const CHECK: &str = "enabled";
    let on = "sysctl -w net.mptcp.enabled=1".to_owned();
    if facts.sysctls.is_empty() {
        let remedy = "boot a kernel built with CONFIG_MPTCP".to_owned();
        return diagnosis(CHECK, Verdict::Wrong, "this kernel has no MPTCP", Some(remedy));
    }
    match (facts.sysctls.get("enabled").map(String::as_str), &facts.sockets) {
        (Some("0"), _) => diagnosis(CHECK, Verdict::Wrong, "MPTCP is switched off", Some(on)),
        (_, Some(Err(reason))) => {
            diagnosis(CHECK, Verdict::Wrong, format!("MPTCP sockets cannot be made: {reason}"), None)
        }
        _ => diagnosis(CHECK, Verdict::Fine, "MPTCP is switched on", None),
    }
}

/// With the userspace path manager, joins are refused while nobody listens to its events.
fn path_manager(facts: &Facts) -> Option<Diagnosis> {
    let userspace = facts.sysctls.get("path_manager").is_some_and(|name| name == "userspace")
        || facts.sysctls.get("pm_type").is_some_and(|number| number == "1");
    userspace.then(|| {
        let text = "the path manager is one in user space: endpoints and limits have no effect, and joins are refused while \
                    none runs";
        let remedy = "sysctl -w net.mptcp.path_manager=kernel (before Linux 6.15: net.mptcp.pm_type=0), or see that it runs";
        diagnosis("path_manager", Verdict::Noteworthy, text, Some(remedy.to_owned()))
    })
}

/// Addresses that a path could begin at: of interfaces that are up, and good beyond the link.
fn usable(facts: &Facts) -> impl Iterator<Item = (&Address, &str)> {
    facts.addresses.iter().filter(|address| !address.is_local && !address.address.is_loopback()).filter_map(|address| {
        let (name, up) = facts.interfaces.get(&address.ifindex)?;
        up.then_some((address, name.as_str()))
    })
}

fn endpoints_are_there(facts: &Facts) -> Diagnosis {
    const CHECK: &str = "endpoints";
    let endpoints = match &facts.endpoints {
        Ok(endpoints) => endpoints,
        Err(reason) => {
            return diagnosis(CHECK, Verdict::Unknown, format!("endpoints cannot be listed: {reason}"), None);
        }
    };
    if !endpoints.is_empty() {
        let list: Vec<String> = endpoints.iter().map(show).collect();
        return diagnosis(CHECK, Verdict::Fine, format!("endpoints: {}", list.join("; ")), None);
    }
    let mut interfaces: Vec<&str> = usable(facts).map(|(_, name)| name).collect();
    interfaces.dedup();
    let add =
        |(a, name): (&Address, &str)| format!("ip mptcp endpoint add {} dev {} subflow", a.address, shell_word(name));
    let add = usable(facts).map(add).last();
    match interfaces.len() {
        0 | 1 => {
            let text =
                "there are no endpoints, and one interface with an address at most: a client here makes one subflow";
            diagnosis(CHECK, Verdict::Noteworthy, text, None)
        }
        n => {
            let text = format!("there are no endpoints: connections use one of the {n} interfaces only");
            diagnosis(CHECK, Verdict::Wrong, text, add)
        }
    }
}

fn show(endpoint: &Endpoint) -> String {
    let dev = endpoint.interface.as_ref().map(|name| format!(" dev {name}")).unwrap_or_default();
    format!("{}{dev} {}", endpoint.address, endpoint.flags.join(","))
}

fn has(endpoint: &Endpoint, flag: &str) -> bool {
    endpoint.flags.iter().any(|name| name == flag)
}

/// An endpoint's address must be on an interface that is up, and be ready.
fn endpoint_addresses(facts: &Facts) -> Vec<Diagnosis> {
    let judge = |endpoint: &Endpoint| {
        let at = endpoint.address;
        let Some(address) = facts.addresses.iter().find(|address| address.address == at) else {
            let remedy = format!("ip mptcp endpoint delete id {}, or give the address to an interface", endpoint.id);
            return Some((format!("the endpoint {at} is no address of this host"), Some(remedy)));
        };
        let (name, up) = facts.interfaces.get(&address.ifindex)?;
        let text = match address.readiness {
            _ if !up => format!("the endpoint {at} is on {name}, which is down"),
            Readiness::Tentative => {
                format!("the endpoint {at} on {name} is not ready: it is being checked for duplicates")
            }
            Readiness::Duplicate => {
                format!("the endpoint {at} on {name} cannot be used: another host has this address")
            }
            Readiness::Deprecated => format!("the endpoint {at} on {name} is deprecated: not for new connections"),
            Readiness::Ready => match endpoint.interface.as_ref() {
                Some(bound) if bound != name => {
                    format!("the endpoint {at} is bound to {bound}, but the address is on {name}")
                }
                _ => return None,
            },
        };
        let remedy = if *up { None } else { Some(format!("ip link set {} up", shell_word(name))) };
        Some((text, remedy))
    };
    let endpoints = facts.endpoints.iter().flatten();
    let wrong = |(text, remedy)| diagnosis("endpoint_address", Verdict::Wrong, text, remedy);
    endpoints.filter_map(judge).map(wrong).collect()
}

fn backups(facts: &Facts) -> Option<Diagnosis> {
    let endpoints = facts.endpoints.as_ref().ok()?;
    let backups: Vec<String> = endpoints.iter().filter(|e| has(e, "backup")).map(|e| e.address.to_string()).collect();
    let first = backups.first()?;
    let text = format!("backup, so carrying nothing while another subflow lives: {}", backups.join(", "));
    let remedy = format!("if that is not meant: ip mptcp endpoint change {first} nobackup");
    Some(diagnosis("backup", Verdict::Noteworthy, text, Some(remedy)))
}

fn limits(facts: &Facts) -> Vec<Diagnosis> {
    const CHECK: &str = "limits";
    let limits = match &facts.limits {
        Ok(limits) => limits,
        Err(reason) => {
            return vec![diagnosis(CHECK, Verdict::Unknown, format!("limits cannot be read: {reason}"), None)];
        }
    };
    let mut found = Vec::new();
    let wanted = facts.endpoints.iter().flatten().filter(|e| has(e, "subflow") || has(e, "fullmesh")).count() as u32;
    let remedy = |n: u32| Some(format!("ip mptcp limits set subflows {}", n.clamp(2, 8)));
    if limits.subflows < wanted.max(1) {
        let text = format!(
            "a connection may have {} subflows beside its first, which is too low for {wanted} endpoints that make subflows",
            limits.subflows
        );
        found.push(diagnosis(CHECK, Verdict::Wrong, text, remedy(wanted)));
    }
    if let Some(rejected) = facts.mib.get("MPJoinRejected").filter(|count| **count > 0) {
        let text = format!("{rejected} joins of peers were refused here: more subflows than this side's limit allows");
        found.push(diagnosis(CHECK, Verdict::Wrong, text, remedy(limits.subflows + 2)));
    }
    let dropped = facts.mib.get("AddAddrDrop").copied().unwrap_or(0);
    let announced = facts.mib.get("AddAddr").copied().unwrap_or(0);
    if announced > 0 && limits.add_addr_accepted == 0 {
        let text = format!("peers announced {announced} addresses, and none is accepted here ({dropped} were dropped)");
        let remedy = Some("ip mptcp limits set add_addr_accepted 2".to_owned());
        found.push(diagnosis(CHECK, Verdict::Noteworthy, text, remedy));
    }
    if found.is_empty() {
        let text =
            format!("limits: {} more subflows, {} announced addresses", limits.subflows, limits.add_addr_accepted);
        found.push(diagnosis(CHECK, Verdict::Fine, text, None));
    }
    found
}

/// A second path carries nothing unless packets from its address leave by its interface.
fn routes(facts: &Facts) -> Vec<Diagnosis> {
    const CHECK: &str = "routes";
    let to = facts.peer.map_or_else(String::new, |peer| format!(" to {peer}"));
    if facts.peer.is_none() && !facts.routes.is_empty() && facts.routes.iter().all(|(_, route)| route.is_err()) {
        let text = "no address has a route to the world, and no connection tells where else to look";
        let remedy = Some("name where connections lead to: mpsec doctor mptcp --peer ADDRESS".to_owned());
        return vec![diagnosis(CHECK, Verdict::Unknown, text, remedy)];
    }
    let judge = |(source, route): &(IpAddr, Result<Route, String>)| {
        let address = facts.addresses.iter().find(|address| address.address == *source)?;
        let (name, _) = facts.interfaces.get(&address.ifindex)?;
        let family = if source.is_ipv6() { " -6" } else { "" };
        let table = 100 + address.ifindex;
        let remedy = Some(format!(
            "ip{family} rule add from {source} table {table} && ip{family} route add default via GATEWAY dev {name} table {table}"
        ));
        let text = match route {
            Ok(route) if route.ifindex == address.ifindex => return None,
            Ok(route) => {
                let other = facts.interfaces.get(&route.ifindex).map_or("another interface", |(name, _)| name.as_str());
                format!(
                    "packets from {source}{to} leave by {other} rather than {name}: there is no route by source address"
                )
            }
            Err(reason) => format!("there is no route from {source} ({name}){to}: {reason}"),
        };
        Some(diagnosis(CHECK, Verdict::Wrong, text, remedy))
    };
    let mut wrong: Vec<Diagnosis> = facts.routes.iter().filter_map(judge).collect();
    if wrong.is_empty() && !facts.routes.is_empty() {
        let text = format!("packets from every address{to} leave by the interface that has it");
        wrong.push(diagnosis(CHECK, Verdict::Fine, text, None));
    }
    wrong
}

/// An agent beside the doctor is what one expects.
fn managers(facts: &Facts) -> Vec<Diagnosis> {
    let others = facts.managers.iter().filter(|conflict| conflict.manager != Manager::Mpsec);
    let one = |Conflict { what, remedy, .. }: &Conflict| {
        diagnosis("other_manager", Verdict::Noteworthy, what.clone(), Some(remedy.clone()))
    };
    others.map(one).collect()
}

fn blackhole(facts: &Facts) -> Diagnosis {
    const CHECK: &str = "blackhole";
    let repair = Some(
        "sysctl -w net.mptcp.blackhole_timeout=3600 (writing it, also unchanged, lets MPTCP be tried at once)"
            .to_owned(),
    );
    let held_back = facts.mib.get("MPCapableSYNTXDisabled").copied();
    match (facts.agent.as_ref().and_then(|(blackhole, _)| *blackhole), held_back) {
        (Some(true), _) => {
            let text = "in force: SYNs with MPTCP were swallowed on the way, and new connections are plain TCP until the kernel \
                        tries again";
            diagnosis(CHECK, Verdict::Wrong, text, repair)
        }
        (Some(false), _) | (_, Some(0)) => diagnosis(CHECK, Verdict::Fine, "new connections ask for MPTCP", None),
        (None, Some(count)) => {
            let text =
                format!("{count} connections were kept from asking for MPTCP since boot; it may still be in force");
            diagnosis(CHECK, Verdict::Noteworthy, text, repair)
        }
        (None, None) => {
            let text = "this kernel does not hold connections back, or none was made yet";
            diagnosis(CHECK, Verdict::Fine, text, None)
        }
    }
}

/// Joins that went out and were never answered: the peer's limit, its firewall, or the way.
fn joins(facts: &Facts) -> Option<Diagnosis> {
    let count = |name: &str| facts.mib.get(name).copied().unwrap_or(0);
    let (sent, answered) = (count("MPJoinSynTx"), count("MPJoinSynAckRx"));
    let failed = [
        ("MPJoinSynTxBindErr", "their address could not be bound"),
        ("MPJoinSynTxConnectErr", "there was no way from their address"),
        ("MPJoinSynAckHMacFailure", "the peer did not prove that it knows the keys"),
        ("MPJoinAckHMacFailure", "the peer did not prove that it knows the keys"),
        ("MPJoinNoTokenFound", "they named no connection of this host"),
    ];
    let mut causes: Vec<String> = failed
        .iter()
        .filter(|(name, _)| count(name) > 0)
        .map(|(name, why)| format!("{} because {why}", count(name)))
        .collect();
    if sent > answered {
        causes.push(format!(
            "{} of {sent} joins got no answer: the peer's limit, a firewall, or the way",
            sent - answered
        ));
    }
    let resets = [("MPRstTx", "this host"), ("MPRstRx", "the peer")];
    causes.extend(
        resets
            .iter()
            .filter(|(name, _)| count(name) > 0)
            .map(|(name, who)| format!("{} reset by {who}, as one that is refused is", count(name))),
    );
    (!causes.is_empty()).then(|| {
        let text = format!("joins and subflows that failed since boot: {}", causes.join("; "));
        diagnosis("joins", Verdict::Noteworthy, text, None)
    })
}

fn fallbacks(facts: &Facts) -> Option<Diagnosis> {
    const CAUSES: &[(&str, &str)] = &[
        ("MPCapableFallbackSYNACK", "the peer answered without MPTCP"),
        ("MPCapableFallbackACK", "the client's last ACK came without MPTCP"),
        ("MPCapableSYNTXDrop", "SYNs with MPTCP were not answered"),
        ("MPCapableDataFallback", "the first data came without MPTCP"),
        ("DSSCorruptionFallback", "a mapping of data was damaged"),
        ("DssFallback", "data came without a mapping"),
        ("InfiniteMapRx", "the peer asked for it"),
        ("MD5SigFallback", "TCP-MD5 leaves no room"),
    ];
    let seen = |(name, why): &(&str, &str)| {
        let count = facts.mib.get(*name).copied().filter(|count| *count > 0)?;
        Some(format!("{count} because {why}"))
    };
    let causes: Vec<String> = CAUSES.iter().filter_map(seen).collect();
    (!causes.is_empty()).then(|| {
        let text = format!("connections that fell back to TCP since boot: {}", causes.join("; "));
        diagnosis("fallback", Verdict::Noteworthy, text, None)
    })
}

/// What the running agent found beyond what was asked above.
fn agents_findings(facts: &Facts) -> Vec<Diagnosis> {
    let findings = facts.agent.iter().flat_map(|(_, findings)| findings);
    let told = |finding: &&Finding| !matches!(finding.kind.as_str(), "blackhole" | "fallback");
    let show = |finding: &Finding| diagnosis("agent", Verdict::Wrong, finding.text.clone(), finding.remedy.clone());
    findings.filter(told).map(show).collect()
}

/// The answers for people, and whether nothing is wrong.
pub fn to_text(all: &[Diagnosis], style: Style) -> (String, bool) {
    let mut text = String::new();
    for diagnosis in all {
        let mark = style.verdict(diagnosis.verdict);
        text.push_str(&format!("{mark} {}: {}\n", diagnosis.check, diagnosis.text));
        if let Some(remedy) = &diagnosis.remedy {
            text.push_str(&format!("     remedy: {remedy}\n"));
        }
    }
    let wrong = all.iter().filter(|diagnosis| diagnosis.verdict == Verdict::Wrong).count();
    let summary = match wrong {
        0 => "Nothing keeps connections from using several paths, as far as this host can tell.".to_owned(),
        1 => "1 thing keeps connections from using several paths.".to_owned(),
        n => format!("{n} things keep connections from using several paths."),
    };
    text.push_str(&format!("\n{}\n", style.bold(&summary)));
    (text, wrong == 0)
}

#[cfg(test)]
mod tests;
