//! What this kernel can do for MPSec, tried rather than guessed from version numbers, with the reason where it cannot.
//!
//! Nothing of the host is changed: programs are loaded but not attached, and what needs a device is tried in a network
//! namespace that ends with its thread. A new feature is one row of `TABLE` and one verdict in the module that tries it.

mod host;
mod ipsec;
mod mptcp;
mod netns;
mod programs;
pub(super) mod syscall;
mod traffic;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Serialize, Serializer};

use super::btf::KernelBtf;
use host::Capabilities;

/// One feature, and what became of the attempt to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Stable name for programs.
    pub id: Id,
    /// What people call it.
    pub name: &'static str,
    /// The group it is shown in.
    pub section: Section,
    /// Whether it is there.
    #[serde(flatten)]
    pub state: State,
    /// What else is known: a path, a list, a setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What MPSec does with it.
    pub needed_for: &'static str,
    /// One command or sentence that mends its absence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Whether a feature is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It was used, and it worked.
    Available,
    /// This kernel does not have it, or it is switched off.
    Missing {
        /// Why that is known.
        reason: String,
    },
    /// It could not be tried.
    Unknown {
        /// What stood in the way.
        reason: String,
    },
}

/// What a probe found out about one feature.
#[derive(Debug, Clone)]
struct Verdict {
    state: State,
    detail: Option<String>,
    remedy: Option<String>,
}

type Verdicts = BTreeMap<Id, Verdict>;

impl Verdict {
    fn available() -> Self {
        Self { state: State::Available, detail: None, remedy: None }
    }

    fn missing(reason: impl Into<String>) -> Self {
        Self { state: State::Missing { reason: reason.into() }, detail: None, remedy: None }
    }

    fn unknown(reason: impl Into<String>) -> Self {
        Self { state: State::Unknown { reason: reason.into() }, detail: None, remedy: None }
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    fn is_available(&self) -> bool {
        self.state == State::Available
    }
}

/// Everything that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    list: Vec<Feature>,
    cgroup_root: Option<PathBuf>,
}

impl Features {
    /// Tries everything; takes some tens of milliseconds.
    #[must_use]
    pub fn probe() -> Self {
        let capabilities = Capabilities::of_this_thread();
        let btf = KernelBtf::load();
        let cgroup_root = host::cgroup_root();
        let mut verdicts = thread::scope(|scope| {
            let in_netns = scope.spawn(|| traffic::probe(capabilities));
            let mut verdicts = host::probe(capabilities, &btf, cgroup_root.as_deref());
            verdicts.extend(programs::probe(capabilities, btf.as_ref().ok()));
            verdicts.extend(mptcp::probe(capabilities, btf.as_ref().ok()));
            verdicts.extend(in_netns.join().unwrap_or_default());
            verdicts
        });
        let untried = || Verdict::unknown("the probe failed");
        let feature = |row: &Row| {
            let Verdict { state, detail, remedy } = verdicts.remove(&row.id).unwrap_or_else(untried);
            let Row { id, section, name, needed_for } = *row;
            Feature { id, name, section, state, detail, needed_for, remedy }
        };
        Self { list: TABLE.iter().map(feature).collect(), cgroup_root }
    }

    /// All of them, in the order in which they are shown.
    #[must_use]
    pub fn all(&self) -> &[Feature] {
        &self.list
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: Id) -> &Feature {
        self.list.iter().find(|feature| feature.id == id).expect("every id has a row in the table")
    }

    /// Whether it was used and worked.
    #[must_use]
    pub fn has(&self, id: Id) -> bool {
        self.get(id).state == State::Available
    }

    /// Where the root of cgroup v2 is mounted.
    #[must_use]
    pub fn cgroup_root(&self) -> Option<&Path> {
        self.cgroup_root.as_deref()
    }

    /// What is lacking of that without which MPSec does nothing; empty where it can work.
    #[must_use]
    pub fn baseline_gaps(&self) -> Vec<&Feature> {
        let mut gaps: Vec<_> =
            [Id::Bpf, Id::SchedCls].iter().filter(|id| !self.has(**id)).map(|id| self.get(*id)).collect();
        if !self.has(Id::Tcx) && !self.has(Id::Clsact) {
            gaps.extend([self.get(Id::Tcx), self.get(Id::Clsact)]);
        }
        gaps
    }
}

/// Whether MPTCP sockets can be made, or why not.
pub fn mptcp_socket() -> Result<(), String> {
    match mptcp::socket_verdict().state {
        State::Available => Ok(()),
        State::Missing { reason } | State::Unknown { reason } => Err(reason),
    }
}

/// Whether the running kernel has this module to load, named as modprobe(8) takes it; `None` where that cannot be read.
#[must_use]
pub fn module_installed(module: &str) -> Option<bool> {
    host::module_installed(module)
}

/// The groups that features are shown in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What this process may do.
    Privileges,
    /// BPF itself.
    Bpf,
    /// Multipath TCP.
    Mptcp,
    /// IPsec.
    Ipsec,
    /// Queueing disciplines.
    Traffic,
    /// Kinds of interfaces, and IPv6.
    Network,
}

impl Section {
    /// Its heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Privileges => "Privileges",
            Self::Bpf => "eBPF",
            Self::Mptcp => "MPTCP",
            Self::Ipsec => "IPsec",
            Self::Traffic => "Traffic control",
            Self::Network => "Network",
        }
    }
}

impl Serialize for Section {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.title())
    }
}

struct Row {
    id: Id,
    section: Section,
    name: &'static str,
    needed_for: &'static str,
}

macro_rules! features {
    ($($section:ident { $($id:ident $name:literal $needed_for:literal)+ })+) => {
        /// The features, by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Id { $($(#[doc = $name] $id,)+)+ }

        /// One row a feature, in the order in which they are shown.
        const TABLE: &[Row] = &[$($(
            Row { id: Id::$id, section: Section::$section, name: $name, needed_for: $needed_for },
        )+)+];
    };
}

features! {
    Privileges {
        CapBpf "CAP_BPF" "loading eBPF programs"
        CapNetAdmin "CAP_NET_ADMIN" "attaching to interfaces, MPTCP and IPsec settings"
        CapPerfmon "CAP_PERFMON" "programs that read kernel structures"
        CapSysAdmin "CAP_SYS_ADMIN" "other network namespaces, run-time statistics; not needed otherwise"
    }
    Bpf {
        Bpf "bpf(2)" "everything that MPSec sees"
        SchedCls "TC programs" "bytes and packets per interface, encrypted or not"
        Tcx "TCX" "attaching beside other TC programs, with an order"
        Clsact "clsact" "attaching where there is no TCX"
        Btf "kernel BTF" "MPTCP subflows, tracing, congestion control"
        Jit "JIT" "programs at full speed"
        BpfLinks "BPF links" "attachments that end with the agent"
        CgroupV2 "cgroup v2" "MPTCP subflows, pacing"
        SockOps "sock_ops" "MPTCP subflows, pacing"
        TpBtf "BTF tracepoints" "retransmissions, reordering, scheduler decisions"
        Fentry "fentry" "MPTCP events with little cost"
        Fexit "fexit" "results of kernel functions"
        IterTcp "iterator over TCP sockets" "lists of subflows at a fraction of what netlink takes"
        FmodRet "fmod_ret on update_socket_protocol" "MPTCP for unmodified programs"
        Kprobe "kprobes" "MPTCP events where there is no fentry"
        StructOps "struct_ops" "congestion control: LIA, OLIA, BALIA, wVegas"
        RingBuf "ring buffer" "packet samples and events"
        MmapArray "mappable arrays" "reading counters without a system call"
        BpfLoop "bpf_loop" "OLIA's sums over many subflows"
        BatchOps "batched map operations" "reading large tables quickly"
        BpfStats "run-time statistics" "the cost of MPSec's own programs (agent.kernel_stats)"
    }
    Mptcp {
        Mptcp "MPTCP sockets" "multipath connections"
        MptcpEnabled "net.mptcp.enabled" "multipath connections"
        MptcpPm "path manager netlink" "endpoints, limits, subflows"
        MptcpPathManagers "path managers" "the modes default, fullmesh, ndiffports"
        MptcpSchedulers "schedulers" "default, roundrobin, redundant"
        MptcpToken "connection token from BPF" "which subflow belongs to which connection"
    }
    Ipsec {
        XfrmUser "XFRM netlink" "IPsec states and policies"
        EspAesGcm "ESP with AES-GCM" "IPsec tunnels"
        EspChacha "ESP with ChaCha20-Poly1305" "IPsec tunnels without AES instructions"
        EspAesCbc "ESP with AES-CBC, HMAC-SHA-256" "IPsec tunnels with older peers"
        SkbXfrmState "bpf_skb_get_xfrm_state" "telling decrypted packets from those that came in clear"
    }
    Traffic {
        Htb "HTB" "shaping by class"
        Tbf "TBF" "shaping of an interface"
        Fq "fq" "pacing of each flow"
        Netem "netem" "delay and loss, for trials by hand"
    }
    Network {
        Vlan "VLAN" "counting VLAN interfaces"
        Vxlan "VXLAN" "counting VXLAN interfaces"
        XfrmLink "XFRM interface" "route-based IPsec"
        Wireguard "WireGuard" "WireGuard tunnels"
        Macvlan "macvlan" "counting macvlan interfaces"
        Ipv6 "IPv6" "IPv6 paths"
    }
}

#[cfg(test)]
mod tests;
