//! Kinds of BPF programs and maps: each is made once, and thrown away.

use std::io;
use std::path::Path;

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_program_supported};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_attach_type, bpf_map_type, bpf_prog_type};

use super::super::btf::{BtfKind, KernelBtf};
use super::super::force::{self, ForceError};
use super::super::tracing::TracingError;
use super::host::{Capabilities, sysctl};
use super::syscall::{self, Refused};
use super::{Id, State, Verdict, Verdicts};

const LOADING: &[Id] = &[Id::CapBpf, Id::CapNetAdmin];
const TRACING: &[Id] = &[Id::CapBpf, Id::CapPerfmon];

pub(super) fn probe(capabilities: Capabilities, btf: Option<&KernelBtf>) -> Verdicts {
    let prober = Prober { capabilities, btf };
    let mut verdicts = prober.tracing();
    verdicts.extend(prober.classifier());
    verdicts.extend(prober.maps());
    let loaded = syscall::load(bpf_prog_type::BPF_PROG_TYPE_SOCK_OPS, Some(bpf_attach_type::BPF_CGROUP_SOCK_OPS), 0);
    verdicts.insert(Id::FmodRet, prober.fmod_ret());
    verdicts.insert(Id::SockOps, prober.loaded(loaded.map(drop), LOADING, "CONFIG_CGROUP_BPF"));
    verdicts.insert(Id::Kprobe, kprobe());
    verdicts.insert(Id::StructOps, prober.struct_ops());
    verdicts.insert(Id::BpfLoop, prober.helper(BpfHelper::BPF_FUNC_loop));
    verdicts.insert(Id::SkbXfrmState, prober.helper(BpfHelper::BPF_FUNC_skb_get_xfrm_state));
    verdicts.insert(Id::BpfLinks, prober.links());
    verdicts.insert(Id::BpfStats, prober.stats());
    verdicts
}

struct Prober<'a> {
    capabilities: Capabilities,
    btf: Option<&'a KernelBtf>,
}

impl Prober<'_> {
    /// bpf(2) itself, TC programs, and TCX.
    fn classifier(&self) -> Verdicts {
        let loaded = syscall::load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, None, 0);
        let tcx = match &loaded {
            Ok(program) => self.tcx(&syscall::tcx(program)),
            Err(_) if self.capabilities.lacking(LOADING).is_empty() => {
                Verdict::unknown("there is no TC program to try it with")
            }
            Err(_) => self.capabilities.explain_eperm(LOADING, ""),
        };
        let array = syscall::map(bpf_map_type::BPF_MAP_TYPE_ARRAY, 0).map(drop);
        let bpf = match array.as_ref().map_err(io::Error::raw_os_error) {
            Err(Some(libc::ENOSYS)) => {
                Verdict::missing("this kernel has no bpf(2)").remedy("boot a kernel built with CONFIG_BPF_SYSCALL")
            }
            _ => self.made(array, "this kernel refuses it to a process that has the capabilities (lockdown, seccomp?)"),
        };
        let classifier = self.loaded(loaded.map(drop), LOADING, "CONFIG_NET_CLS_BPF");
        Verdicts::from([(Id::Bpf, bpf), (Id::SchedCls, classifier), (Id::Tcx, tcx)])
    }

    /// link_create looks at the attach type before it looks for the interface (kernel/bpf/syscall.c, Linux 6.18).
    fn tcx(&self, error: &io::Error) -> Verdict {
        match error.raw_os_error() {
            Some(libc::ENODEV) => Verdict::available(),
            Some(libc::EPERM) => self.capabilities.explain_eperm(LOADING, "this kernel refuses it"),
            Some(libc::EINVAL | libc::EOPNOTSUPP) => {
                Verdict::missing("this kernel does not know it; clsact serves instead")
                    .remedy("boot Linux 6.6 or later")
            }
            _ => Verdict::unknown(error.to_string()),
        }
    }

    fn links(&self) -> Verdict {
        let error = syscall::link_of_nothing();
        match error.raw_os_error() {
            Some(libc::EBADF) => Verdict::available(),
            Some(libc::EINVAL) => Verdict::missing("this kernel does not know them").remedy("boot Linux 5.7 or later"),
            Some(libc::EPERM) => self.capabilities.explain_eperm(LOADING, "this kernel refuses them"),
            _ => Verdict::unknown(error.to_string()),
        }
    }

    /// Tracepoints with types, and the trampolines.
    fn tracing(&self) -> Verdicts {
        use bpf_attach_type::{BPF_TRACE_FENTRY, BPF_TRACE_FEXIT, BPF_TRACE_ITER, BPF_TRACE_RAW_TP};
        [
            (Id::TpBtf, BPF_TRACE_RAW_TP, "btf_trace_inet_sock_set_state", BtfKind::Typedef),
            (Id::Fentry, BPF_TRACE_FENTRY, "tcp_sendmsg", BtfKind::Func),
            (Id::Fexit, BPF_TRACE_FEXIT, "tcp_sendmsg", BtfKind::Func),
            (Id::IterTcp, BPF_TRACE_ITER, "bpf_iter_tcp", BtfKind::Func),
        ]
        .into_iter()
        .map(|(id, attach, target, kind)| (id, self.traced(attach, target, kind)))
        .collect()
    }

    fn traced(&self, attach: bpf_attach_type, target: &str, kind: BtfKind) -> Verdict {
        let Some(btf) = self.btf else {
            return Verdict::missing("it needs the kernel's BTF")
                .remedy("boot a kernel built with CONFIG_DEBUG_INFO_BTF");
        };
        let Ok(id) = btf.id_of(target, kind) else {
            return Verdict::missing(format!("this kernel has no {target}")).remedy("boot a newer kernel");
        };
        let loaded = syscall::load(bpf_prog_type::BPF_PROG_TYPE_TRACING, Some(attach), id).map(drop);
        let option = match attach {
            bpf_attach_type::BPF_TRACE_RAW_TP => "CONFIG_BPF_EVENTS",
            bpf_attach_type::BPF_TRACE_ITER => "CONFIG_BPF_EVENTS and CONFIG_PROC_FS",
            _ => "CONFIG_BPF_EVENTS, CONFIG_FUNCTION_TRACER and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS",
        };
        self.loaded(loaded, TRACING, option)
    }

    /// The program that is used, rather than one that does nothing: it reads the kernel's structures.
    fn fmod_ret(&self) -> Verdict {
        match force::probe() {
            Ok(()) => Verdict::available(),
            Err(ForceError::Program(TracingError::Refused { error, log })) => {
                let verdict = self.loaded(Err(Refused { error, log }), TRACING, "");
                match verdict.state {
                    State::Missing { .. } => verdict.remedy(force::INSTEAD),
                    _ => verdict,
                }
            }
            Err(error @ (ForceError::NoHook | ForceError::NoBtf(_))) => {
                Verdict::missing(error.to_string()).remedy(error.remedy())
            }
            Err(error) => Verdict::unknown(error.to_string()).remedy(error.remedy()),
        }
    }

    fn struct_ops(&self) -> Verdict {
        // The kernel builds this type for every kind of operations that BPF may implement.
        match self.btf.map(|btf| btf.id_of("bpf_struct_ops_tcp_congestion_ops", BtfKind::Struct)) {
            None => return Verdict::missing("it needs the kernel's BTF"),
            Some(Err(_)) => {
                return Verdict::missing("this kernel does not offer tcp_congestion_ops to BPF")
                    .remedy("boot a kernel built with CONFIG_BPF_JIT and CONFIG_DEBUG_INFO_BTF");
            }
            Some(Ok(_)) => {}
        }
        match is_program_supported(ProgramType::StructOps) {
            Ok(true) => Verdict::available(),
            Ok(false) => Verdict::missing("this kernel does not know it").remedy("boot Linux 5.6 or later"),
            Err(error) => self.uncertain(&error, TRACING),
        }
    }

    fn helper(&self, helper: BpfHelper) -> Verdict {
        match is_helper_supported(ProgramType::SchedClassifier, helper) {
            Ok(true) => Verdict::available(),
            Ok(false) => Verdict::missing("TC programs of this kernel cannot call it").remedy("boot a newer kernel"),
            Err(error) => self.uncertain(&error, LOADING),
        }
    }

    fn maps(&self) -> Verdicts {
        let make = |kind, flags| syscall::map(kind, flags);
        let old = "this kernel does not know it";
        let ring = self.made(make(bpf_map_type::BPF_MAP_TYPE_RINGBUF, 0).map(drop), old);
        let mappable = self.made(make(bpf_map_type::BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE).map(drop), old);
        let batch = make(bpf_map_type::BPF_MAP_TYPE_ARRAY, 0).and_then(|map| syscall::lookup_batch(&map));
        Verdicts::from([(Id::RingBuf, ring), (Id::MmapArray, mappable), (Id::BatchOps, self.made(batch, old))])
    }

    fn stats(&self) -> Verdict {
        if sysctl("kernel/bpf_stats_enabled").is_ok_and(|value| value == "1") {
            return Verdict::available().detail("kernel.bpf_stats_enabled is 1");
        }
        match syscall::enable_stats() {
            Ok(_) => Verdict::available(),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => self
                .capabilities
                .explain_eperm(&[Id::CapSysAdmin], "this kernel refuses it")
                .remedy("sysctl -w kernel.bpf_stats_enabled=1, or run as root"),
            other => self.made(other.map(drop), "this kernel does not know it"),
        }
    }

    fn made(&self, result: io::Result<()>, otherwise: &str) -> Verdict {
        match result.map_err(|error| (error.raw_os_error(), error)) {
            Ok(()) => Verdict::available(),
            Err((Some(libc::EPERM), _)) => self.capabilities.explain_eperm(LOADING, otherwise),
            Err((Some(libc::EINVAL | libc::E2BIG | libc::EOPNOTSUPP), error)) => {
                Verdict::missing(format!("{otherwise} ({error})")).remedy("boot a newer kernel")
            }
            Err((_, error)) => Verdict::unknown(error.to_string()),
        }
    }

    fn loaded(&self, result: Result<(), Refused>, needed: &[Id], option: &str) -> Verdict {
        let Err(Refused { error, log }) = result else { return Verdict::available() };
        let remedy = format!("boot a kernel built with {option}");
        match error.raw_os_error() {
            Some(libc::EPERM) if log.is_empty() => {
                let verdict =
                    self.capabilities.explain_eperm(needed, "this kernel build refuses such programs (EPERM)");
                if verdict.remedy.is_some() { verdict } else { verdict.remedy(remedy) }
            }
            _ if !log.is_empty() => {
                let said = log.lines().next().unwrap_or_default();
                Verdict::missing(format!("the verifier refuses it: {said}")).remedy(remedy)
            }
            Some(libc::EINVAL) => Verdict::missing("this kernel does not know such programs").remedy(remedy),
            _ => Verdict::unknown(error.to_string()),
        }
    }

    /// aya's probes end with an error where they could not decide.
    fn uncertain(&self, error: &dyn std::error::Error, needed: &[Id]) -> Verdict {
        let lacking = self.capabilities.lacking(needed);
        if !lacking.is_empty() {
            return self.capabilities.explain_eperm(needed, "");
        }
        let cause = std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error);
        Verdict::unknown(cause.to_string())
    }
}

/// The PMU through which kprobes are attached.
fn kprobe() -> Verdict {
    match Path::new("/sys/bus/event_source/devices/kprobe/type").exists() {
        true => Verdict::available(),
        false => Verdict::missing("this kernel has no kprobe events")
            .remedy("boot a kernel built with CONFIG_KPROBE_EVENTS and CONFIG_PERF_EVENTS"),
    }
}
