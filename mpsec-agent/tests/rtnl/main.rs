//! Routes, rules, addresses, interfaces and settings, on the kernel that is here, in network namespaces.

mod events;
mod interfaces;
mod routes;
mod rules;
mod settings;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Arguments;
use mpsec_agent::kernel::netlink::{Client, NetlinkError};
use mpsec_tests::need;
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::run_independent;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = [events::trials(), interfaces::trials(), routes::trials(), rules::trials(), settings::trials()];
    run_independent(&arguments, trials.into_iter().flatten().collect())
}

/// Two ends of a wire in one namespace, `west` and `east`, with addresses, and a socket to ask the kernel there.
struct Place {
    netns: Netns,
    client: Client,
    west: u32,
    east: u32,
}

impl Place {
    fn new() -> Result<Place> {
        need::root()?;
        need::command("ip")?;
        let netns = Netns::new()?;
        netns.enable_ipv6()?;
        netns.ip("link add west type veth peer name east")?;
        netns.enable_ipv6()?;
        for (device, number) in [("west", 1), ("east", 2)] {
            netns.ip(&format!("link set {device} up"))?;
            netns.ip(&format!("addr add 192.0.2.{number}/28 dev {device}"))?;
            netns.ip(&format!("addr add 2001:db8::{number}/64 dev {device} nodad"))?;
        }
        let client = netns.run(|| Client::open(libc::NETLINK_ROUTE as isize))?;
        let (west, east) = (netns.ifindex("west")?, netns.ifindex("east")?);
        Ok(Place { netns, client, west, east })
    }
}

/// Proves that the kernel refused with this number, and in these words of its own.
fn refused<T>(result: Result<T, NetlinkError>, errno: i32, words: &str) -> Result<()> {
    let error = result.err().with_context(|| format!("not refused, although {words}"))?;
    if error.errno() != Some(errno) {
        bail!("{error:?} instead of {words}");
    }
    ensure!(error.to_string().contains(words), "{error} instead of {words}");
    Ok(())
}
