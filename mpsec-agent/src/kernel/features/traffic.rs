//! What needs an interface or changes the network: tried in a namespace of its own. Its one interface is a `lo` that
//! nothing uses.

use std::os::fd::AsRawFd;

use aya_obj::generated::bpf_prog_type;

use super::host::{Capabilities, module_remedy};
use super::{Id, Verdict, Verdicts, ipsec, netns, syscall};
use crate::kernel::netlink::{CREATE, Client, EXCLUSIVE, NetlinkError, REPLACE, Request};

const LO: i32 = 1;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

/// Queueing disciplines: name, module, build option.
const QDISCS: [(Id, &str, &str, &str); 4] = [
    (Id::Htb, "htb", "sch_htb", "CONFIG_NET_SCH_HTB"),
    (Id::Tbf, "tbf", "sch_tbf", "CONFIG_NET_SCH_TBF"),
    (Id::Fq, "fq", "sch_fq", "CONFIG_NET_SCH_FQ"),
    (Id::Netem, "netem", "sch_netem", "CONFIG_NET_SCH_NETEM"),
];

/// Kinds of links: name, module, build option.
const LINKS: [(Id, &str, &str, &str); 5] = [
    (Id::Vlan, "vlan", "8021q", "CONFIG_VLAN_8021Q"),
    (Id::Vxlan, "vxlan", "vxlan", "CONFIG_VXLAN"),
    (Id::XfrmLink, "xfrm", "xfrm_interface", "CONFIG_XFRM_INTERFACE"),
    (Id::Wireguard, "wireguard", "wireguard", "CONFIG_WIREGUARD"),
    (Id::Macvlan, "macvlan", "macvlan", "CONFIG_MACVLAN"),
];

/// To be run in a thread that ends afterwards.
pub(super) fn probe(capabilities: Capabilities) -> Verdicts {
    let untried = |verdict: Verdict| {
        let ids = QDISCS.iter().chain(&LINKS).map(|row| row.0).chain([Id::Clsact]).chain(ipsec::ESP);
        ids.map(|id| (id, verdict.clone())).collect::<Verdicts>()
    };
    let (mut verdicts, xfrm) = ipsec::probe_netlink();
    if let Err(error) = netns::enter_new() {
        let refused = "it is tried in a network namespace, and this host refuses to make one";
        let verdict = match error.raw_os_error() {
            Some(libc::EPERM) => match capabilities.explain_eperm(&[Id::CapSysAdmin], refused) {
                missing if matches!(missing.state, super::State::Missing { .. }) => Verdict::unknown(refused),
                unknown => unknown,
            },
            _ => Verdict::unknown(format!("{refused}: {error}")),
        };
        verdicts.extend(untried(verdict));
        return verdicts;
    }
    match Client::open(libc::NETLINK_ROUTE as isize) {
        Ok(mut route) => {
            verdicts.insert(Id::Clsact, clsact(&mut route));
            verdicts.extend(QDISCS.map(|(id, kind, module, option)| (id, qdisc(&mut route, kind, module, option))));
            verdicts.extend(LINKS.map(|(id, kind, module, option)| (id, link(&mut route, kind, module, option))));
        }
        Err(error) => verdicts.extend(untried(Verdict::unknown(format!("netlink: {error}")))),
    }
    verdicts.extend(ipsec::probe_esp(xfrm));
    verdicts
}

fn clsact(route: &mut Client) -> Verdict {
    let message = Request::new(libc::RTM_NEWQDISC, CREATE | EXCLUSIVE, &tcmsg(0xffff_0000, TC_H_CLSACT, 0));
    if let Err(refusal) = route.execute(message.string(TCA_KIND, "clsact")) {
        return absent(&refusal, libc::ENOENT, || module_remedy("sch_ingress", "CONFIG_NET_SCH_INGRESS"));
    }
    let Ok(program) = syscall::load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, None, 0) else {
        return Verdict::unknown("there is no TC program to try it with");
    };
    // Priority 1, ETH_P_ALL in network byte order.
    let info = (1 << 16) | u32::from((libc::ETH_P_ALL as u16).to_be());
    let message = Request::new(libc::RTM_NEWTFILTER, CREATE | EXCLUSIVE, &tcmsg(0, CLSACT_INGRESS, info));
    let message = message.string(TCA_KIND, "bpf").nested(TCA_OPTIONS, |options| {
        // TCA_BPF_FD, TCA_BPF_NAME and TCA_BPF_FLAGS with TCA_BPF_FLAG_ACT_DIRECT.
        options
            .attribute(6, &program.as_raw_fd().to_ne_bytes())
            .string(7, "mpsec-probe")
            .attribute(8, &1_u32.to_ne_bytes())
    });
    match route.execute(message) {
        Ok(()) => Verdict::available(),
        Err(refusal) => absent(&refusal, libc::ENOENT, || module_remedy("cls_bpf", "CONFIG_NET_CLS_BPF")),
    }
}

/// A kind that the kernel knows is made, or refused for lack of options; one that it does not is ENOENT
/// (qdisc_create in net/sched/sch_api.c, Linux 6.18).
fn qdisc(route: &mut Client, kind: &str, module: &str, option: &str) -> Verdict {
    let message = Request::new(libc::RTM_NEWQDISC, CREATE | REPLACE, &tcmsg(0, TC_H_ROOT, 0));
    match route.execute(message.string(TCA_KIND, kind)) {
        Err(refusal) if refusal.errno() != Some(libc::EINVAL) => {
            absent(&refusal, libc::ENOENT, || module_remedy(module, option))
        }
        _ => Verdict::available(),
    }
}

/// A kind that the kernel knows is made, or refused for lack of settings; one that it does not is EOPNOTSUPP
/// (__rtnl_newlink in net/core/rtnetlink.c, Linux 6.18).
fn link(route: &mut Client, kind: &str, module: &str, option: &str) -> Verdict {
    const IFLA_IFNAME: u16 = libc::IFLA_IFNAME;
    const IFLA_LINKINFO: u16 = libc::IFLA_LINKINFO;
    const IFLA_INFO_KIND: u16 = 1;
    let message =
        Request::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &[0; 16]).string(IFLA_IFNAME, &format!("mp-{kind}"));
    match route.execute(message.nested(IFLA_LINKINFO, |info| info.string(IFLA_INFO_KIND, kind))) {
        Err(refusal) if matches!(refusal.errno(), Some(libc::EOPNOTSUPP | libc::EPERM)) => {
            absent(&refusal, libc::EOPNOTSUPP, || module_remedy(module, option))
        }
        _ => Verdict::available(),
    }
}

/// `errno` says that the kernel does not know such a thing; any other says that it could not be tried.
pub(super) fn absent(refusal: &NetlinkError, errno: i32, remedy: impl FnOnce() -> String) -> Verdict {
    match refusal.errno() == Some(errno) {
        true => Verdict::missing(format!("this kernel does not know it: {refusal}")).remedy(remedy()),
        false => Verdict::unknown(refusal.to_string()),
    }
}

/// `struct tcmsg` for `lo`.
fn tcmsg(handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let words = [0, LO.cast_unsigned(), handle, parent, info];
    let mut bytes = [0; 20];
    bytes.chunks_exact_mut(4).zip(words).for_each(|(chunk, word)| chunk.copy_from_slice(&word.to_ne_bytes()));
    bytes
}
