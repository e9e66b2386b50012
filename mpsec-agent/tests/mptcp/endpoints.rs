//! Endpoints and limits: what is set is what is read, and the kernel's refusals are told in its words.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::mptcp_pm::{Command, Endpoint, EndpointFlags, PathManager, PathManagerError};
use mpsec_agent::kernel::{mib, sysctl};
use mpsec_agent::snapshot::mptcp::Limits;
use mpsec_tests::need;
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::trial;

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("endpoints::what_is_added_is_listed", LIMIT, what_is_added_is_listed),
        trial("endpoints::flags_change", LIMIT, flags_change),
        trial("endpoints::they_go", LIMIT, they_go),
        trial("endpoints::limits_are_read_back", LIMIT, limits_are_read_back),
        trial("endpoints::refusals_carry_the_kernels_words", LIMIT, refusals),
        trial("endpoints::mib_and_settings_are_the_namespaces_own", LIMIT, namespaces_own),
    ]
}

/// A namespace of its own with its path manager.
pub(crate) fn manager() -> Result<(Netns, PathManager)> {
    need::mptcp()?;
    let netns = Netns::new()?;
    let manager = netns.run(PathManager::open)?;
    Ok((netns, manager))
}

/// Endpoints of every kind, no more than every kernel takes. `device` is the index of an interface.
pub(crate) fn every_kind(device: i32) -> Vec<Endpoint> {
    let flags = [
        EndpointFlags::SUBFLOW,
        EndpointFlags::SIGNAL,
        EndpointFlags::SUBFLOW | EndpointFlags::BACKUP,
        EndpointFlags::SUBFLOW | EndpointFlags::FULLMESH,
    ];
    let mut endpoints = Vec::new();
    for prefix in ["192.0.2.", "2001:db8::"] {
        for flags in flags {
            let id = endpoints.len() as u8 + 1;
            let address: IpAddr = format!("{prefix}{id}").parse().expect("it is an address");
            endpoints.push(Endpoint { id, ..Endpoint::new(address, flags) });
        }
        let last = endpoints.len();
        endpoints[last - 3].port = Some(7000);
        endpoints[last - 4].interface = Some(device);
    }
    endpoints
}

fn what_is_added_is_listed() -> Result<()> {
    let (netns, mut manager) = manager()?;
    netns.enable_ipv6()?;
    let lo = netns.ifindex("lo")?.try_into()?;
    let wanted = every_kind(lo);
    // An endpoint with a port is listened on, for which the address must be there.
    for address in ["192.0.2.2/32", "2001:db8::6/128"] {
        netns.ip(&format!("addr add {address} dev lo nodad"))?;
    }
    ensure!(manager.endpoints()?.is_empty(), "a new namespace has endpoints");
    for endpoint in &wanted {
        netns.run(|| manager.add_endpoint(endpoint)).with_context(|| format!("{endpoint:?}"))?;
    }
    let mut have = manager.endpoints()?;
    have.sort_by_key(|endpoint| endpoint.id);
    ensure!(have == wanted, "{have:#?} instead of {wanted:#?}");
    for endpoint in &wanted {
        ensure!(manager.endpoint(endpoint.id)?.as_ref() == Some(endpoint), "{endpoint:?} alone");
    }
    ensure!(manager.endpoint(200)?.is_none(), "there is no such endpoint");
    let listed = netns.ip("mptcp endpoint show")?;
    ensure!(listed.lines().count() == wanted.len(), "ip lists {listed}");
    let shown = wanted[0].to_snapshot(|index| (index == lo).then(|| "lo".to_owned()));
    ensure!(shown.interface.as_deref() == Some("lo") && shown.flags == ["subflow"], "{shown:?}");
    Ok(())
}

fn flags_change() -> Result<()> {
    let (_netns, mut manager) = manager()?;
    let address: IpAddr = "192.0.2.1".parse()?;
    manager.add_endpoint(&Endpoint::new(address, EndpointFlags::SUBFLOW))?;
    let [endpoint] = &manager.endpoints()?[..] else { bail!("not one endpoint") };
    ensure!(endpoint.id != 0, "the kernel chooses an id");
    let backup = Endpoint { flags: EndpointFlags::BACKUP, ..endpoint.clone() };
    manager.set_endpoint_flags(&backup)?;
    let flags = manager.endpoint(endpoint.id)?.context("it is gone")?.flags;
    ensure!(flags == EndpointFlags::SUBFLOW | EndpointFlags::BACKUP, "{flags}");
    manager.set_endpoint_flags(&Endpoint { flags: EndpointFlags::default(), ..backup })?;
    ensure!(manager.endpoint(endpoint.id)?.as_ref() == Some(endpoint), "it is as it was");
    Ok(())
}

fn they_go() -> Result<()> {
    let (_netns, mut manager) = manager()?;
    for number in 1..=4 {
        manager.add_endpoint(&Endpoint::new(format!("192.0.2.{number}").parse()?, EndpointFlags::SUBFLOW))?;
    }
    let before = manager.endpoints()?;
    manager.delete_endpoint(&before[1])?;
    let after = manager.endpoints()?;
    ensure!(after.len() == 3 && !after.contains(&before[1]), "{after:?}");
    manager.flush_endpoints()?;
    ensure!(manager.endpoints()?.is_empty(), "some are left");
    Ok(())
}

fn limits_are_read_back() -> Result<()> {
    let (_netns, mut manager) = manager()?;
    let limits = Limits { subflows: 5, add_addr_accepted: 3 };
    ensure!(manager.limits()? != limits, "they are not what a namespace begins with");
    manager.set_limits(limits)?;
    ensure!(manager.limits()? == limits, "{:?}", manager.limits()?);
    Ok(())
}

fn refusals() -> Result<()> {
    let (_netns, mut manager) = manager()?;
    let address: IpAddr = "192.0.2.1".parse()?;
    let both = Endpoint::new(address, EndpointFlags::SIGNAL | EndpointFlags::FULLMESH);
    refused(manager.add_endpoint(&both), libc::EINVAL, "flags mustn't have both signal and fullmesh")?;
    let port = Endpoint { port: Some(7000), ..Endpoint::new(address, EndpointFlags::SUBFLOW) };
    refused(manager.add_endpoint(&port), libc::EINVAL, "flags must have signal")?;
    let none = Endpoint { id: 77, ..Endpoint::new(address, EndpointFlags::default()) };
    refused(manager.delete_endpoint(&none), libc::EINVAL, "address not found")?;
    let many = Limits { subflows: 1000, add_addr_accepted: 0 };
    refused(manager.set_limits(many), libc::EINVAL, "limit greater than maximum")?;
    refused(manager.remove(1, 1), libc::EINVAL, "invalid token")?;
    // A command from the future.
    let mut unknown = Command::limits();
    unknown.header.command = 99;
    let error = manager.execute(&unknown).err().context("it is not refused")?;
    ensure!(matches!(&error, PathManagerError::Netlink(error) if error.errno() == Some(libc::EOPNOTSUPP)), "{error}");
    Ok(())
}

fn refused(result: Result<(), PathManagerError>, errno: i32, words: &str) -> Result<()> {
    match result {
        Ok(()) => bail!("not refused, although {words}"),
        Err(PathManagerError::Netlink(error)) if error.errno() == Some(errno) => {
            ensure!(error.to_string().contains(words), "{error} instead of {words}");
            Ok(())
        }
        Err(error) => bail!("{error:?} instead of {words}"),
    }
}

fn namespaces_own() -> Result<()> {
    let (netns, _) = manager()?;
    netns.sysctl("net/mptcp/close_timeout", "17").or_else(|_| netns.sysctl("net/mptcp/add_addr_timeout", "17"))?;
    let here = netns.run(sysctl::read_mptcp)?;
    ensure!(here.get("enabled").map(String::as_str) == Some("1"), "{here:?}");
    ensure!(here.values().any(|value| value == "17"), "{here:?}");
    ensure!(!sysctl::read_mptcp()?.values().any(|value| value == "17"), "it is the test's own namespace that is read");
    let mib = netns.run(mib::read)?;
    let names = netns.read("/proc/thread-self/net/netstat")?;
    ensure!(mib.mptcp.len() >= 50 && names.contains(&mib.mptcp[0].0), "{mib:?}");
    ensure!(mib.mptcp("MPCapableSYNRX") == Some(0), "a new namespace has counted something");
    Ok(())
}
