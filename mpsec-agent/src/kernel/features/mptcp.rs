//! Multipath TCP: sockets, settings, path manager, and what BPF can read of it.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};

use super::super::btf::KernelBtf;
use super::host::{Capabilities, sysctl};
use super::{Id, Verdict, Verdicts};
use crate::kernel::netlink::{Client, NetlinkError, Request};

const NO_MPTCP: &str = "this kernel has no MPTCP";
const BUILD: &str = "boot a kernel built with CONFIG_MPTCP";

pub(super) fn probe(capabilities: Capabilities, btf: Option<&KernelBtf>) -> Verdicts {
    Verdicts::from([
        (Id::Mptcp, socket_verdict()),
        (Id::MptcpEnabled, enabled()),
        (Id::MptcpPm, path_manager()),
        (Id::MptcpPathManagers, path_managers()),
        (Id::MptcpSchedulers, choices("scheduler", "scheduler", "available_schedulers")),
        (Id::MptcpToken, token(capabilities, btf)),
    ])
}

pub(super) fn socket_verdict() -> Verdict {
    match socket().map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => Verdict::available(),
        // mptcp_init_sock asks the sysctl first (net/mptcp/protocol.c, Linux 6.18).
        Err((Some(libc::ENOPROTOOPT), _)) => {
            Verdict::missing("net.mptcp.enabled is 0").remedy("sysctl -w net.mptcp.enabled=1")
        }
        Err((Some(libc::EPROTONOSUPPORT | libc::EINVAL), _)) => Verdict::missing(NO_MPTCP).remedy(BUILD),
        Err((_, error)) => Verdict::unknown(error.to_string()),
    }
}

fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes numbers alone.
    match unsafe { libc::socket(libc::AF_INET, kind, libc::IPPROTO_MPTCP) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel just returned it, so that it is open and nobody else's.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

fn enabled() -> Verdict {
    match sysctl("net/mptcp/enabled").as_deref() {
        Ok("0") => Verdict::missing("it is 0").remedy("sysctl -w net.mptcp.enabled=1"),
        Ok(_) => Verdict::available(),
        Err(_) => Verdict::missing(NO_MPTCP).remedy(BUILD),
    }
}

/// Asks the controller of generic netlink for the family.
fn path_manager() -> Verdict {
    const GENL_ID_CTRL: u16 = 0x10;
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;
    let message =
        Request::new(GENL_ID_CTRL, 0, &[CTRL_CMD_GETFAMILY, 1, 0, 0]).string(CTRL_ATTR_FAMILY_NAME, "mptcp_pm");
    let client = Client::open(libc::NETLINK_GENERIC as isize).map_err(NetlinkError::from);
    match client.and_then(|mut client| client.execute(message)) {
        Ok(()) => Verdict::available(),
        Err(refusal) if refusal.errno() == Some(libc::ENOENT) => Verdict::missing(NO_MPTCP).remedy(BUILD),
        Err(refusal) => Verdict::unknown(refusal.to_string()),
    }
}

/// By name, or before Linux 6.16 by a number (`enum mptcp_pm_type`, net/mptcp/protocol.h, since 5.19).
fn path_managers() -> Verdict {
    let number = sysctl("net/mptcp/pm_type").ok();
    match number.as_deref().filter(|_| sysctl("net/mptcp/available_path_managers").is_err()).and_then(by_number) {
        Some(in_use) => Verdict::available().detail(format!("kernel userspace; in use: {in_use}")),
        None => choices("path manager", "path_manager", "available_path_managers"),
    }
}

fn by_number(number: &str) -> Option<&'static str> {
    match number {
        "0" => Some("kernel"),
        "1" => Some("userspace"),
        _ => None,
    }
}

/// Kernels that cannot choose have one, and no list.
fn choices(what: &str, current: &str, available: &str) -> Verdict {
    let current = sysctl(&format!("net/mptcp/{current}")).ok();
    match (sysctl(&format!("net/mptcp/{available}")), sysctl("net/mptcp/enabled")) {
        (Ok(list), _) => {
            let chosen = current.map(|current| format!("; in use: {current}")).unwrap_or_default();
            Verdict::available().detail(format!("{list}{chosen}"))
        }
        (Err(_), Ok(_)) => Verdict::missing(format!("this kernel has its one {what} and offers no choice"))
            .remedy("boot a newer kernel"),
        (Err(_), Err(_)) => Verdict::missing(NO_MPTCP).remedy(BUILD),
    }
}

/// The members through which programs come from a TCP socket to its MPTCP connection.
fn token(capabilities: Capabilities, btf: Option<&KernelBtf>) -> Verdict {
    let Some(btf) = btf else {
        return Verdict::missing("it needs the kernel's BTF").remedy("boot a kernel built with CONFIG_DEBUG_INFO_BTF");
    };
    let members = [
        ("tcp_sock", "is_mptcp"),
        ("inet_connection_sock", "icsk_ulp_data"),
        ("mptcp_subflow_context", "token"),
        ("mptcp_sock", "token"),
    ];
    for (structure, member) in members {
        if let Err(error) = btf.offset_of(structure, member) {
            return Verdict::missing(error.to_string()).remedy(BUILD);
        }
    }
    match is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_skc_to_mptcp_sock) {
        Ok(true) => Verdict::available(),
        Ok(false) => Verdict::missing("TC programs of this kernel cannot call bpf_skc_to_mptcp_sock")
            .remedy("boot Linux 5.19 or later"),
        Err(error) => {
            let needed = [Id::CapBpf, Id::CapNetAdmin, Id::CapPerfmon];
            let cannot = capabilities.explain_eperm(&needed, "");
            if capabilities.lacking(&needed).is_empty() { Verdict::unknown(error.to_string()) } else { cannot }
        }
    }
}
