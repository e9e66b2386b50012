//! What needs an interface or changes the network: tried in a namespace of its own. Its one interface is a `lo` that
//! nothing uses.

use std::io;
use std::os::fd::AsRawFd;

use aya_obj::generated::bpf_prog_type;

use super::host::{Capabilities, module_remedy};
use super::netlink::{CREATE, EXCL, Message, Netlink, REPLACE, Refusal};
use super::{Id, Verdict, Verdicts, ipsec, netns, syscall};

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
    match Netlink::open(libc::NETLINK_ROUTE) {
        Ok(route) => {
            verdicts.insert(Id::Clsact, clsact(&route));
            verdicts.extend(QDISCS.map(|(id, kind, module, option)| (id, qdisc(&route, kind, module, option))));
            verdicts.extend(LINKS.map(|(id, kind, module, option)| (id, link(&route, kind, module, option))));
        }
        Err(error) => verdicts.extend(untried(Verdict::unknown(format!("netlink: {error}")))),
    }
    verdicts.extend(ipsec::probe_esp(xfrm));
    verdicts
}

fn clsact(route: &Netlink) -> Verdict {
    let message = Message::new(libc::RTM_NEWQDISC, CREATE | EXCL, &tcmsg(0xffff_0000, TC_H_CLSACT, 0));
    if let Err(refusal) = route.request(message.text(TCA_KIND, "clsact")) {
        return absent(&refusal, libc::ENOENT, || module_remedy("sch_ingress", "CONFIG_NET_SCH_INGRESS"));
    }
    let Ok(program) = syscall::load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, None, 0) else {
        return Verdict::unknown("there is no TC program to try it with");
    };
    // Priority 1, ETH_P_ALL in network byte order.
    let info = (1 << 16) | u32::from((libc::ETH_P_ALL as u16).to_be());
    let message = Message::new(libc::RTM_NEWTFILTER, CREATE | EXCL, &tcmsg(0, CLSACT_INGRESS, info));
    let message = message.text(TCA_KIND, "bpf").nest(TCA_OPTIONS, |options| {
        // TCA_BPF_FD, TCA_BPF_NAME and TCA_BPF_FLAGS with TCA_BPF_FLAG_ACT_DIRECT.
        options.attr(6, &program.as_raw_fd().to_ne_bytes()).text(7, "mpsec-probe").attr(8, &1_u32.to_ne_bytes())
    });
    match route.request(message) {
        Ok(()) => Verdict::available(),
        Err(refusal) => absent(&refusal, libc::ENOENT, || module_remedy("cls_bpf", "CONFIG_NET_CLS_BPF")),
    }
}

/// A kind that the kernel knows is made, or refused for lack of options; one that it does not is ENOENT
/// (qdisc_create in net/sched/sch_api.c, Linux 6.18).
fn qdisc(route: &Netlink, kind: &str, module: &str, option: &str) -> Verdict {
    let message = Message::new(libc::RTM_NEWQDISC, CREATE | REPLACE, &tcmsg(0, TC_H_ROOT, 0));
    match route.request(message.text(TCA_KIND, kind)) {
        Err(refusal) if refusal.errno != libc::EINVAL => {
            absent(&refusal, libc::ENOENT, || module_remedy(module, option))
        }
        _ => Verdict::available(),
    }
}

/// A kind that the kernel knows is made, or refused for lack of settings; one that it does not is EOPNOTSUPP
/// (__rtnl_newlink in net/core/rtnetlink.c, Linux 6.18).
fn link(route: &Netlink, kind: &str, module: &str, option: &str) -> Verdict {
    const IFLA_IFNAME: u16 = libc::IFLA_IFNAME;
    const IFLA_LINKINFO: u16 = libc::IFLA_LINKINFO;
    const IFLA_INFO_KIND: u16 = 1;
    let message = Message::new(libc::RTM_NEWLINK, CREATE | EXCL, &[0; 16]).text(IFLA_IFNAME, &format!("mp-{kind}"));
    match route.request(message.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, kind))) {
        Err(refusal) if matches!(refusal.errno, libc::EOPNOTSUPP | libc::EPERM) => {
            absent(&refusal, libc::EOPNOTSUPP, || module_remedy(module, option))
        }
        _ => Verdict::available(),
    }
}

/// `errno` says that the kernel does not know such a thing; any other says that it could not be tried.
pub(super) fn absent(refusal: &Refusal, errno: i32, remedy: impl FnOnce() -> String) -> Verdict {
    match refusal.errno == errno {
        true => Verdict::missing(format!("this kernel does not know it: {refusal}")).remedy(remedy()),
        false => Verdict::unknown(format!("{refusal} ({})", io::Error::from_raw_os_error(refusal.errno))),
    }
}

/// `struct tcmsg` for `lo`.
fn tcmsg(handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let words = [0, LO.cast_unsigned(), handle, parent, info];
    let mut bytes = [0; 20];
    bytes.chunks_exact_mut(4).zip(words).for_each(|(chunk, word)| chunk.copy_from_slice(&word.to_ne_bytes()));
    bytes
}
