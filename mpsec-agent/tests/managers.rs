//! Other programs that manage endpoints, routes or rules: the real ones, in network namespaces, beside what is said of them.
//!
//! They are started where they are installed, or out of a folder that `MPSEC_TEST_DAEMONS` names, into which the packages
//! network-manager, mptcpd, mptcpd-plugins and their libraries were unpacked (`dpkg -x`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Arguments;
use mpsec_agent::conflicts::{Conflict, Manager, Stops, conflicts};
use mpsec_agent::kernel::{link, managers};
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::{Skip, run_independent, trial};
use mpsec_tests::{need, privilege};

const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let trials = vec![
        trial("managers::names", LIMIT, names),
        trial("managers::networkd", LIMIT, networkd),
        trial("managers::network_manager", LIMIT, network_manager),
        trial("managers::mptcpd", LIMIT, mptcpd),
    ];
    run_independent(&Arguments::from_args(), trials)
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(netns: &Netns, command: &mut Command) -> Result<Running> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Running(netns.run(|| command.spawn()).with_context(|| format!("{command:?}"))?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program at one of these paths, with the folder that its libraries may be in.
fn daemon(paths: &[&str]) -> Result<(Command, PathBuf)> {
    let unpacked = env::var_os("MPSEC_TEST_DAEMONS").map(PathBuf::from);
    let folders = unpacked.iter().map(PathBuf::as_path).chain([Path::new("/")]);
    for folder in folders {
        let found = paths.iter().map(|path| folder.join(path)).find(|path| path.is_file());
        let Some(program) = found else { continue };
        let machine = format!("{}-linux-gnu", env::consts::ARCH);
        let libraries = [folder.join("usr/lib").join(&machine), folder.join("lib").join(&machine)];
        let mut command = Command::new(program);
        if folder != Path::new("/") {
            command.env("LD_LIBRARY_PATH", env::join_paths(&libraries)?);
        }
        return Ok((command, libraries[0].clone()));
    }
    Err(Skip::because(format!("needs one of {}, here or in the folder MPSEC_TEST_DAEMONS", paths.join(", "))))
}

/// A namespace with an interface `wan0`, and an /etc of its own, that udev seems to have dealt with.
fn host() -> Result<Netns> {
    let netns = Netns::new()?;
    netns.ip("link add wan0 type veth peer name wan1")?;
    netns.ip("link set wan1 up")?;
    let shell = "cp -a /etc /run/etc && mount --bind /run/etc /etc && mount -t tmpfs none /var/lib && \
                 mkdir -p /run/udev/data && for i in 1 2 3; do echo I:1 >/run/udev/data/n$i; done";
    netns.output("sh", &["-c", shell])?;
    Ok(netns)
}

fn write(netns: &Netns, path: &str, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    netns.run(|| {
        fs::create_dir_all(Path::new(path).parent().expect("a file is in a folder"))?;
        fs::write(path, text)?;
        // NetworkManager takes no connections that others could have read.
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
    })
}

/// What is said of the namespace's interfaces.
fn found(netns: &Netns) -> Result<Vec<Conflict>> {
    netns.run(judge)
}

/// The same, for an agent with another user than root and without CAP_SYS_PTRACE.
fn found_by_nobody(netns: &Netns) -> Result<Vec<Conflict>> {
    netns.run(|| {
        privilege::become_nobody()?;
        judge()
    })
}

fn judge() -> Result<Vec<Conflict>> {
    let interfaces: BTreeMap<_, _> =
        link::list()?.into_iter().filter(|i| i.name != "lo").map(|i| (i.index, i.name)).collect();
    Ok(conflicts(&managers::look(), &interfaces))
}

fn stops(netns: &Netns, manager: Manager) -> Result<Option<Stops>> {
    Ok(found(netns)?.iter().find(|conflict| conflict.manager == manager).map(|conflict| conflict.stops))
}

fn until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(15);
    while !condition()? {
        ensure!(Instant::now() < end, "not within 15 s: {what}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Any process of the name, which the kernel takes from the file.
fn names() -> Result<()> {
    need::root()?;
    let (here, elsewhere) = (Netns::new()?, Netns::new()?);
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("mptcpd");
    fs::copy(need::command("sleep")?, &program)?;
    ensure!(found(&here)?.is_empty(), "{:?}", found(&here)?);
    let running = Running::start(&here, Command::new(program).arg("60"))?;
    until("it is found", || Ok(stops(&here, Manager::Mptcpd)? == Some(Stops::Endpoints)))?;
    ensure!(found(&elsewhere)?.is_empty(), "it runs in another namespace: {:?}", found(&elsewhere)?);
    drop(running);
    ensure!(found(&here)? == []);
    Ok(())
}

/// It removes what it did not make, until it is told not to by what is recommended.
fn networkd() -> Result<()> {
    need::root()?;
    for told in [false, true] {
        let netns = host()?;
        let (mut program, _) = daemon(&["lib/systemd/systemd-networkd", "usr/lib/systemd/systemd-networkd"])?;
        let network = "[Match]\nName=wan0\n[Network]\nAddress=192.0.2.1/24\nIPv6AcceptRA=no\n";
        let shell = "rm -rf /etc/systemd/network /etc/systemd/networkd.conf* && mkdir -p /run/systemd/netif/links && \
                     mkdir -p /run/systemd/netif/leases /run/systemd/netif/lldp && chown -R systemd-network: /run/systemd/netif";
        netns
            .output("sh", &["-c", shell])
            .map_err(|error| Skip::because(format!("networkd cannot be set up: {error:#}")))?;
        write(&netns, "/etc/systemd/network/wan0.network", network)?;
        netns.output("chmod", &["a+r", "/etc/systemd/network/wan0.network"])?;
        netns.ip("link set wan0 up")?;
        netns.ip("rule add from 192.0.2.1 table 102")?;
        netns.ip("route add default via 192.0.2.254 dev wan0 table 102 onlink")?;
        if told {
            let commands = "mkdir -p /etc/systemd/networkd.conf.d && printf '[Network]\\nManageForeignRoutingPolicyRules=no\\n\
                            ManageForeignRoutes=no\\n' >/etc/systemd/networkd.conf.d/90-mpsec.conf";
            netns.output("sh", &["-c", commands])?;
        }
        let _running = Running::start(&netns, &mut program)?;
        until("wan0 is configured", || Ok(netns.ip("-4 addr show wan0")?.contains("192.0.2.1/24")))?;
        if told {
            thread::sleep(Duration::from_secs(1));
            ensure!(stops(&netns, Manager::Networkd)?.is_none(), "{:?}", found(&netns)?);
        } else {
            until("it is found", || Ok(stops(&netns, Manager::Networkd)? == Some(Stops::Routes)))?;
            let remedy = found(&netns)?.remove(0).remedy;
            ensure!(remedy.contains("ManageForeignRoutingPolicyRules=no\\nManageForeignRoutes=no"), "{remedy}");
            // Who may not look at namespaces sees the daemons of other tests, too.
            let seen = found_by_nobody(&netns)?;
            ensure!(found(&netns)?.iter().all(|conflict| seen.contains(conflict)), "{seen:?}");
        }
        let kept = netns.ip("rule")?.contains("lookup 102") && netns.ip("route show table 102")?.contains("default");
        ensure!(kept == told, "told to leave others' rules and routes alone: {told}, and it did: {kept}");
    }
    Ok(())
}

/// It makes endpoints of the addresses of its connections, but of those that say that it shall not.
fn network_manager() -> Result<()> {
    need::mptcp()?;
    let bus = need::command("dbus-daemon")?;
    for flags in ["", "mptcp-flags=1\n"] {
        let netns = host()?;
        let (mut program, _) = daemon(&["usr/sbin/NetworkManager", "usr/bin/NetworkManager"])?;
        netns.output("rm", &["-rf", "/etc/NetworkManager"])?;
        write(
            &netns,
            "/etc/NetworkManager/NetworkManager.conf",
            "[main]\nplugins=keyfile\ndns=none\nauth-polkit=false\n\
            [device]\nmatch-device=interface-name:wan0\nmanaged=1\n",
        )?;
        let connection = format!(
            "[connection]\nid=wan0\nuuid=11111111-2222-3333-4444-555555555555\ntype=ethernet\ninterface-name=wan0\n{flags}\
             [ipv4]\nmethod=manual\naddress1=192.0.2.1/24,192.0.2.254\n[ipv6]\nmethod=disabled\n"
        );
        write(&netns, "/etc/NetworkManager/system-connections/wan0.nmconnection", &connection)?;
        write(
            &netns,
            "/run/dbus/bus.conf",
            "<busconfig><type>system</type><auth>EXTERNAL</auth>\
            <listen>unix:path=/run/dbus/system_bus_socket</listen><policy context=\"default\"><allow own=\"*\"/>\
            <allow user=\"*\"/><allow send_destination=\"*\"/><allow send_type=\"*\"/><allow receive_type=\"*\"/>\
            </policy></busconfig>",
        )?;
        let _bus = Running::start(&netns, Command::new(&bus).args(["--config-file=/run/dbus/bus.conf", "--nofork"]))?;
        until("the bus is there", || Ok(netns.run(|| Path::new("/run/dbus/system_bus_socket").exists())))?;
        let _running = Running::start(&netns, program.arg("--debug"))?;
        until("wan0 is configured", || Ok(netns.ip("-4 addr show wan0")?.contains("192.0.2.1/24")))?;
        let expected = if flags.is_empty() { Stops::Endpoints } else { Stops::Nothing };
        until("it is found", || Ok(stops(&netns, Manager::NetworkManager)? == Some(expected)))?;
        if flags.is_empty() {
            until("there is an endpoint", || Ok(netns.ip("mptcp endpoint")?.contains("192.0.2.1")))?;
            let conflict = found(&netns)?.remove(0);
            ensure!(conflict.what.ends_with("addresses of wan0"), "{conflict:?}");
            ensure!(conflict.remedy.contains("uuid 11111111-2222-3333-4444-555555555555"), "{conflict:?}");
            // Who cannot read connections is told what they can see the effect of.
            // Who may not look at namespaces sees the daemons of other tests, too.
            let by_nobody = || -> Result<Option<Conflict>> {
                Ok(found_by_nobody(&netns)?.into_iter().find(|conflict| conflict.manager == Manager::NetworkManager))
            };
            let conflict = by_nobody()?.context("nobody sees it")?;
            ensure!(conflict.stops == Stops::Endpoints && conflict.remedy.starts_with("printf "), "{conflict:?}");
            let printf = conflict.remedy.split(" && ").next().unwrap_or_default();
            netns.output("sh", &["-c", &format!("mkdir -p /etc/NetworkManager/conf.d && {printf}")])?;
            let found = by_nobody()?;
            ensure!(found.is_none(), "the remedy does not remedy it: {found:?}");
        } else {
            thread::sleep(Duration::from_secs(1));
            ensure!(netns.ip("mptcp endpoint")?.is_empty(), "{}", netns.ip("mptcp endpoint")?);
        }
    }
    Ok(())
}

/// It makes an endpoint of an address that comes.
fn mptcpd() -> Result<()> {
    need::mptcp()?;
    let netns = host()?;
    let (mut program, libraries) = daemon(&["usr/libexec/mptcpd", "usr/lib/mptcpd"])?;
    netns.ip("link set wan0 up")?;
    write(
        &netns,
        "/etc/mptcpd/mptcpd.conf",
        &format!("[core]\nlog=stderr\nplugin-dir={}\npath-manager=addr_adv\n", libraries.join("mptcpd").display()),
    )?;
    let _running = Running::start(&netns, &mut program)?;
    until("it is found", || Ok(stops(&netns, Manager::Mptcpd)? == Some(Stops::Endpoints)))?;
    thread::sleep(Duration::from_secs(1));
    netns.ip("addr add 192.0.2.7/24 dev wan0")?;
    until("there is an endpoint", || Ok(netns.ip("mptcp endpoint")?.contains("192.0.2.7")))
}
