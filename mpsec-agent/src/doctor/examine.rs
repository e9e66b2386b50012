//! The facts that `mpsec doctor mptcp` judges, from the network namespace that it is run in.

use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use crate::conflicts::conflicts;
use crate::control::client;
use crate::kernel::address::{self, Address};
use crate::kernel::mptcp_pm::PathManager;
use crate::kernel::netlink::Client;
use crate::kernel::sock_diag::{Extensions, SockDiag, States};
use crate::kernel::{features, link, managers, mib, sysctl};
use crate::snapshot::mptcp::{Endpoint, Limits, Namespace};

use super::Style;
use super::mptcp::{Facts, diagnose, to_text};

/// Stands for the world beyond, where no peer is known: an address for documentation (RFC 5737, RFC 3849), which is routed
/// as any other.
const WORLD: [&str; 2] = ["198.51.100.1", "2001:db8:ffff::1"];

/// Finds out what there is to know. `peer` is an address that connections lead to, if one is named; `agent` is what the
/// running agent knows of this namespace.
pub fn examine(peer: Option<IpAddr>, agent: Option<Namespace>) -> Facts {
    let interfaces = link::list().unwrap_or_default();
    let addresses = address::list().unwrap_or_default();
    let name = |index: i32| interfaces.iter().find(|i| i64::from(i.index) == i64::from(index)).map(|i| i.name.clone());
    let (endpoints, limits) = path_manager(name);
    let peers = peer.map_or_else(known_peers, |peer| vec![peer]);
    // Subflows of an endpoint with an interface are bound to it.
    let bound = |address: IpAddr| {
        let endpoint = endpoints.as_ref().ok()?.iter().find(|endpoint| endpoint.address == address)?;
        interfaces.iter().find(|i| Some(&i.name) == endpoint.interface.as_ref()).map(|i| i.index)
    };
    let routes = routes(&addresses, &peers, bound);
    // Nobody makes endpoints of the addresses of the loopback device.
    let names = interfaces.iter().filter(|i| i.name != "lo").map(|i| (i.index, i.name.clone())).collect();
    Facts {
        sockets: Some(features::mptcp_socket()),
        sysctls: sysctl::read_mptcp().unwrap_or_default(),
        endpoints,
        limits,
        interfaces: interfaces.iter().map(|i| (i.index, (i.name.clone(), i.is_up))).collect(),
        routes,
        addresses,
        peer: peers.first().copied(),
        managers: conflicts(&managers::look(), &names),
        mib: mib::read().map(|mib| mib.mptcp.into_iter().collect()).unwrap_or_default(),
        agent: agent.map(|agent| (agent.blackhole, agent.findings)),
    }
}

/// Examines this namespace, with the help of the agent if one answers on `socket`: the text to print, and whether nothing is
/// wrong.
pub fn mptcp(peer: Option<IpAddr>, socket: &Path, json: bool) -> (String, bool) {
    // Without an agent there is less to tell, and that is all.
    let agent = client::ask::<Status>(socket).ok().and_then(|status| status.namespaces.into_iter().next());
    let all = diagnose(&examine(peer, agent));
    let (text, is_fine) = to_text(&all, Style::of_stdout());
    let json = json.then(|| format!("{:#}\n", json!({"fine": is_fine, "diagnoses": all})));
    (json.unwrap_or(text), is_fine)
}

/// What the doctor wants to know of the agent's status.
#[derive(Deserialize)]
struct Status {
    namespaces: Vec<Namespace>,
}

type PathManagerFacts = (Result<Vec<Endpoint>, String>, Result<Limits, String>);

fn path_manager(name: impl Fn(i32) -> Option<String> + Copy) -> PathManagerFacts {
    match PathManager::open() {
        Ok(mut manager) => {
            let endpoints = manager.endpoints().map_err(|error| error.to_string());
            let shown = endpoints.map(|all| all.iter().map(|endpoint| endpoint.to_snapshot(name)).collect());
            (shown, manager.limits().map_err(|error| error.to_string()))
        }
        Err(error) => (Err(error.to_string()), Err(error.to_string())),
    }
}

/// Where connections of the moment lead to.
fn known_peers() -> Vec<IpAddr> {
    let mut peers = Vec::new();
    if let Ok(mut diag) = SockDiag::open() {
        // What cannot be listed is not known.
        let _ = diag.visit_mptcp(States::CONNECTIONS, Extensions::default(), |socket| {
            let peer = socket.remote().ip();
            if !peer.is_loopback() && !peers.contains(&peer) && peers.len() < 8 {
                peers.push(peer);
            }
        });
    }
    peers
}

/// The way from every address that could be one end of a path, to the first peer of its family that is not on this host.
fn routes(
    addresses: &[Address],
    peers: &[IpAddr],
    bound: impl Fn(IpAddr) -> Option<u32>,
) -> Vec<(IpAddr, Result<address::Route, String>)> {
    let Ok(mut client) = Client::open(netlink_sys::protocols::NETLINK_ROUTE) else { return Vec::new() };
    let world = WORLD.map(|text| text.parse().expect("the constants are addresses"));
    let own = |peer: &&IpAddr| addresses.iter().any(|address| address.address == **peer);
    let mut route = |source: IpAddr| {
        let same = |peer: &&IpAddr| peer.is_ipv4() == source.is_ipv4();
        let peer = peers.iter().filter(|peer| !own(peer)).find(same).or_else(|| world.iter().find(same))?;
        let found = address::route(&mut client, source, *peer, bound(source)).map_err(|error| error.to_string());
        Some((source, found))
    };
    let sources = addresses.iter().filter(|address| !address.is_local && !address.address.is_loopback());
    sources.filter_map(|address| route(address.address)).collect()
}
