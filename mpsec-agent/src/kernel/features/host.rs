//! What this process may do, and what the host is set up with.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::btf::{BtfError, KernelBtf};
use super::{Id, Verdict, Verdicts};

/// The capabilities that matter to MPSec, numbered as in include/uapi/linux/capability.h.
const CAPABILITIES: [(Id, &str, u32); 4] = [
    (Id::CapBpf, "CAP_BPF", 39),
    (Id::CapNetAdmin, "CAP_NET_ADMIN", 12),
    (Id::CapPerfmon, "CAP_PERFMON", 38),
    (Id::CapSysAdmin, "CAP_SYS_ADMIN", 21),
];

/// The effective capabilities of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities(u64);

impl Capabilities {
    #[cfg(test)]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) fn of_this_thread() -> Self {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Self(effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0))
    }

    /// CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON, as it did before those existed.
    fn has(self, id: Id) -> bool {
        let bit = |id| CAPABILITIES.iter().any(|(known, _, bit)| *known == id && self.0 >> bit & 1 == 1);
        bit(id) || (matches!(id, Id::CapBpf | Id::CapPerfmon) && bit(Id::CapSysAdmin))
    }

    /// The names of those of `needed` that are not there.
    pub(super) fn lacking(self, needed: &[Id]) -> Vec<&'static str> {
        let name = |id: &Id| CAPABILITIES.iter().find(|(known, ..)| known == id).map(|(_, name, _)| *name);
        needed.iter().filter(|id| !self.has(**id)).filter_map(name).collect()
    }

    /// What EPERM means: nothing about the kernel where a capability is lacking.
    pub(super) fn explain_eperm(self, needed: &[Id], otherwise: &str) -> Verdict {
        let lacking = self.lacking(needed);
        if lacking.is_empty() {
            return Verdict::missing(otherwise);
        }
        Verdict::unknown(format!("cannot be tried without {}", lacking.join(", "))).remedy("run as root")
    }
}

pub(super) fn probe(capabilities: Capabilities, btf: &Result<KernelBtf, BtfError>, cgroup: Option<&Path>) -> Verdicts {
    let mut verdicts = Verdicts::from([(Id::Btf, btf_verdict(btf)), (Id::Jit, jit()), (Id::Ipv6, ipv6())]);
    for (id, name, _) in CAPABILITIES {
        let verdict = match capabilities.lacking(&[id]).is_empty() {
            true => Verdict::available(),
            false => Verdict::missing("this process does not have it")
                .remedy(format!("run as root, or with AmbientCapabilities={name} in the unit")),
        };
        verdicts.insert(id, verdict);
    }
    let mounted = |root: &Path| Verdict::available().detail(root.display().to_string());
    let absent = || {
        Verdict::missing("it is not mounted").remedy(
            "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified \
             (or boot with systemd.unified_cgroup_hierarchy=1)",
        )
    };
    verdicts.insert(Id::CgroupV2, cgroup.map_or_else(absent, mounted));
    verdicts
}

fn btf_verdict(btf: &Result<KernelBtf, BtfError>) -> Verdict {
    match btf {
        Ok(btf) => Verdict::available().detail(if btf.is_mapped() { "can be mapped" } else { "is read" }),
        Err(error @ BtfError::Read(_)) => {
            Verdict::missing(error.to_string()).remedy("boot a kernel built with CONFIG_DEBUG_INFO_BTF")
        }
        Err(error) => Verdict::unknown(error.to_string()),
    }
}

fn jit() -> Verdict {
    match sysctl("net/core/bpf_jit_enable") {
        Ok(value) if value == "0" => {
            Verdict::missing("net.core.bpf_jit_enable is 0").remedy("sysctl -w net.core.bpf_jit_enable=1")
        }
        Ok(_) => Verdict::available(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Verdict::missing("this kernel has no BPF JIT").remedy("boot a kernel built with CONFIG_BPF_JIT")
        }
        Err(error) => Verdict::unknown(format!("net.core.bpf_jit_enable: {error}")).remedy("run as root"),
    }
}

fn ipv6() -> Verdict {
    if !Path::new("/proc/net/if_inet6").exists() {
        return Verdict::missing("this kernel has no IPv6, or was booted with ipv6.disable=1")
            .remedy("boot without ipv6.disable=1, on a kernel built with CONFIG_IPV6");
    }
    match sysctl("net/ipv6/conf/all/disable_ipv6").as_deref() {
        Ok("1") => {
            Verdict::missing("net.ipv6.conf.all.disable_ipv6 is 1").remedy("sysctl -w net.ipv6.conf.all.disable_ipv6=0")
        }
        _ => Verdict::available(),
    }
}

/// A value below /proc/sys, without its newline.
pub(super) fn sysctl(path: &str) -> std::io::Result<String> {
    fs::read_to_string(Path::new("/proc/sys").join(path)).map(|value| value.trim().to_owned())
}

/// Where cgroup v2 is mounted: alone, or beside v1.
pub(super) fn cgroup_root() -> Option<PathBuf> {
    find_cgroup2(&fs::read_to_string("/proc/self/mounts").ok()?)
}

pub(super) fn find_cgroup2(mounts: &str) -> Option<PathBuf> {
    let mounted = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        // The kernel writes blanks in octal (mangle in fs/proc_namespace.c, Linux 6.18).
        (fields.next()? == "cgroup2").then(|| path.replace("\\040", " ").replace("\\011", "\t").into())
    };
    mounts.lines().find_map(mounted)
}

/// How to come by something that this kernel was built without, or whose module is not loaded.
pub(super) fn module_remedy(module: &str, option: &str) -> String {
    let other = format!("boot a kernel built with {option} (=y, or =m with its module installed)");
    match module_installed(module) {
        Some(true) => format!("modprobe {module}"),
        Some(false) => other,
        None => format!("modprobe {module}, or if there is no such module, {other}"),
    }
}

/// Whether the running kernel has this module to load. `None` where that cannot be read: a service may not see the modules
/// (`ProtectKernelModules` of systemd), and a container has those of no kernel.
pub(super) fn module_installed(module: &str) -> Option<bool> {
    let release = sysctl("kernel/osrelease").ok()?;
    let list = fs::read_to_string(format!("/lib/modules/{release}/modules.dep")).ok()?;
    Some(list.contains(&format!("/{module}.ko")))
}
