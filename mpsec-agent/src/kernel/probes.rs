//! Probes of the kernel's own functions: each has one body and several entries, of which the first that works here is used.
//!
//! | probe | what it tells | tp_btf | fentry, else kprobe |
//! | --- | --- | --- | --- |
//! | `retransmit` | segments sent again, by the state of congestion control | `tcp_retransmit_skb` | the same |
//! | `reset_sent` | resets sent, and why | `tcp_send_reset` | `tcp_send_active_reset` |
//! | `reset_received` | resets received, and what they say | `tcp_receive_reset` | `tcp_reset` |
//! | `data_timeout` | that MPTCP's own timer ran out while data was not acknowledged | | `__mptcp_retrans` |
//! | `close` | who began to end a subflow | the socket's callbacks (sock_ops) | |
//!
//! The tracepoints are in every kernel since 6.1 that has BPF events, so the functions beside them are for kernels that were
//! built without; they tell a little less, as is said in mpsec-ebpf/src/probes.rs. But `tcp_reset` tells more and is tried
//! first: it has the packet, while the kernel does not read what a reset says that answers a SYN or the third ACK of a join.
//! `tcp_retransmit_skb` tells since 6.18 of failures too, and `tcp_send_reset` since 6.10 of reasons
//! (include/trace/events/tcp.h).
//!
//! No tracepoint is in MPTCP's own retransmission: `mptcp_sendmsg_frag` runs for every segment and does not tell old data from
//! new. What is sent again after a timeout, if a subflow is fit for it, the kernel counts itself (`MPTCPRetrans`).
//!
//! Who closes a subflow is told by the states that its socket goes through, and the state that its connection is in meanwhile
//! (`sock.sk_state` of `mptcp_subflow_context.conn`): the socket's callbacks, which are made anyhow, see both.
//!
//! Left alone: `mptcp_subflow_get_send`, which runs for each subflow whenever there is something to send, so for small
//! messages at every one, and says which subflows were looked at but not which was chosen.
//!
//! All of them run rarely, and nothing else is loaded. What is attached ends with the agent.

mod offsets;

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use aya::maps::{MapData, PerCpuArray};
use aya::programs::fentry::FEntryLink;
use aya::programs::kprobe::KProbeLink;
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::{BtfTracePoint, FEntry, KProbe, ProgramError, ProgramFd};
use aya::{Btf, Ebpf, Endianness};
use mpsec_common::maps::MAP_PROBE_COUNTS;
use mpsec_common::probes::{KERNEL_REASONS, ProbeCounts};

use crate::snapshot::Probe;
use crate::snapshot::mptcp::Probed;

use super::btf::{BtfKind, KernelBtf};
use super::features::syscall::load_by_aya;
use super::mptcp_pm::ResetReason;
pub(super) use offsets::Offsets;

/// A way into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A tracepoint whose arguments have types.
    TpBtf,
    /// The first instruction of a function, through a trampoline.
    Fentry,
    /// The first instruction of a function, through a breakpoint or a jump.
    Kprobe,
}

impl Entry {
    /// The name in labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        }
    }
}

/// Which entries may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ways {
    /// The first that works.
    #[default]
    Any,
    /// None.
    None,
    /// This one alone.
    Only(Entry),
}

/// A probe, and its entries in the order in which they are tried: the way, the tracepoint or function, and the program.
struct Row {
    name: &'static str,
    entries: &'static [(Entry, &'static str, &'static str)],
}

const RETRANSMIT: &str = "retransmit";
const RESET_SENT: &str = "reset_sent";
const RESET_RECEIVED: &str = "reset_received";
const DATA_TIMEOUT: &str = "data_timeout";
const CLOSE: &str = "close";

const TABLE: &[Row] = &[
    Row {
        name: RETRANSMIT,
        entries: &[
            (Entry::TpBtf, "tcp_retransmit_skb", "mpsec_retransmit_tp"),
            (Entry::Fentry, "tcp_retransmit_skb", "mpsec_retransmit_fe"),
            (Entry::Kprobe, "tcp_retransmit_skb", "mpsec_retransmit_kp"),
        ],
    },
    Row {
        name: RESET_SENT,
        entries: &[
            (Entry::TpBtf, "tcp_send_reset", "mpsec_reset_sent_tp"),
            (Entry::Fentry, "tcp_send_active_reset", "mpsec_reset_sent_fe"),
            (Entry::Kprobe, "tcp_send_active_reset", "mpsec_reset_sent_kp"),
        ],
    },
    Row {
        name: RESET_RECEIVED,
        entries: &[
            // The function has the packet, the tracepoint no more than the socket.
            (Entry::Fentry, "tcp_reset", "mpsec_reset_received_fe"),
            (Entry::Kprobe, "tcp_reset", "mpsec_reset_received_kp"),
            (Entry::TpBtf, "tcp_receive_reset", "mpsec_reset_received_tp"),
        ],
    },
    Row {
        name: DATA_TIMEOUT,
        entries: &[
            (Entry::Fentry, "__mptcp_retrans", "mpsec_data_timeout_fe"),
            (Entry::Kprobe, "__mptcp_retrans", "mpsec_data_timeout_kp"),
        ],
    },
];

/// The probes, attached as long as this is there.
pub struct Probes {
    states: Vec<Probe>,
    counts: Option<PerCpuArray<MapData, Counts>>,
    reasons: Reasons,
    /// What is attached, by the name of its probe.
    attached: Vec<(&'static str, Attached)>,
}

/// A program, kept attached.
struct Attached {
    program: ProgramFd,
    _link: Link,
}

/// [`ProbeCounts`], so that it may be read from a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Counts(ProbeCounts);
// SAFETY: `ProbeCounts` is `mpsec_common::Pod`, which promises the same.
unsafe impl aya::Pod for Counts {}

/// Keeps a program attached.
#[expect(dead_code, reason = "they are kept to be dropped")]
enum Link {
    TpBtf(BtfTracePointLink),
    Fentry(FEntryLink),
    Kprobe(KProbeLink),
}

impl Probes {
    /// None, for this reason.
    pub(super) fn none(reason: &str) -> Probes {
        let names = TABLE.iter().map(|row| row.name).chain([CLOSE]);
        let states = names.map(|name| Probe { name, entry: "none", error: Some(reason.to_owned()) }).collect();
        Probes { states, counts: None, reasons: Reasons::default(), attached: Vec::new() }
    }

    /// Attaches what can be attached. The object's programs that are not used are not loaded. Sockets must make callbacks.
    pub(super) fn attach(object: &mut Ebpf, btf: &KernelBtf, ways: Ways) -> Probes {
        let mut probes =
            Probes { states: Vec::new(), counts: None, reasons: Reasons::resolve(btf), attached: Vec::new() };
        for row in TABLE {
            let (entry, error) = match probes.attach_row(object, btf, ways, row) {
                Ok((entry, failed)) => (entry.name(), failed),
                Err(reason) => ("none", Some(reason)),
            };
            probes.states.push(Probe { name: row.name, entry, error });
        }
        probes.states.push(Probe { name: CLOSE, entry: "sock_ops", error: None });
        probes.counts = object.take_map(MAP_PROBE_COUNTS).and_then(|map| map.try_into().ok());
        probes
    }

    /// The entry that works, and why those before it did not.
    fn attach_row(
        &mut self,
        object: &mut Ebpf,
        btf: &KernelBtf,
        ways: Ways,
        row: &Row,
    ) -> Result<(Entry, Option<String>), String> {
        let mut failed = Vec::new();
        for (entry, target, program) in row.entries {
            match ways {
                Ways::None => return Err("probes are turned off (mptcp.probes)".to_owned()),
                Ways::Only(only) if only != *entry => continue,
                Ways::Any | Ways::Only(_) => {}
            }
            match attach(object, btf, *entry, target, program) {
                Ok(attached) => {
                    self.attached.push((row.name, attached));
                    return Ok((*entry, (!failed.is_empty()).then(|| failed.join("; "))));
                }
                Err(error) => failed.push(format!("{} {target}: {error}", entry.name())),
            }
        }
        match (failed.is_empty(), ways) {
            (true, Ways::Only(only)) => Err(format!("it has no entry by {} (mptcp.probes)", only.name())),
            _ => Err(failed.join("; ")),
        }
    }

    /// How each probe got into the kernel.
    pub fn states(&self) -> &[Probe] {
        &self.states
    }

    /// How often something happened that a probe was not told: the kernel runs a program on one CPU once at a time, and skips
    /// it where it interrupts itself (`__bpf_trace_run`, `__bpf_prog_enter_recur`, `trace_call_bpf`; 6.1 to 6.18). Those of
    /// which the kernel does not say are left out.
    pub fn missed(&self) -> Vec<(&'static str, u64)> {
        let of = |(name, attached): &(_, Attached)| {
            let [missed] = super::ebpf::told_of(attached.program.as_fd(), &["recursion_misses:"]).ok()?;
            Some((*name, missed))
        };
        self.attached.iter().filter_map(of).collect()
    }

    /// What they have counted on all CPUs.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn read(&self) -> Result<Probed, aya::maps::MapError> {
        let Some(counts) = &self.counts else { return Ok(Probed::default()) };
        let by_cpu = counts.get(&0, 0)?;
        let sum = |which: fn(&ProbeCounts) -> &[u64]| {
            let mut sums = vec![0u64; which(&ProbeCounts::default()).len()];
            for cpu in by_cpu.iter() {
                sums.iter_mut().zip(which(&cpu.0)).for_each(|(sum, count)| *sum = sum.wrapping_add(*count));
            }
            sums
        };
        let one = |which: fn(&ProbeCounts) -> &[u64]| sum(which)[0];
        let mut probed = Probed::default();
        if self.has(RETRANSMIT) {
            let counts = sum(|counts| &counts.retransmissions);
            probed.retransmissions = CA_STATES.iter().map(|name| (*name).to_owned()).zip(counts).collect();
        }
        if self.has(RESET_SENT) {
            let low = sum(|counts| &counts.sent_resets.low);
            let high = sum(|counts| &counts.sent_resets.high);
            for (number, count) in low.into_iter().chain(high).enumerate() {
                probed.add_reset("sent", self.reasons.name(number), count);
            }
            for (code, count) in sum(|counts| &counts.sent_resets_by_option).into_iter().enumerate() {
                probed.add_reset("sent", &by_option(code), count);
            }
            let bare = one(|counts| std::slice::from_ref(&counts.sent_resets_without_option));
            probed.add_reset("sent", "without_option", bare);
        }
        if self.has(RESET_RECEIVED) {
            for (code, count) in sum(|counts| &counts.received_resets).into_iter().enumerate() {
                probed.add_reset("received", &by_option(code), count);
            }
            let bare = one(|counts| std::slice::from_ref(&counts.received_resets_without_option));
            probed.add_reset("received", "without_option", bare);
            let unknown = one(|counts| std::slice::from_ref(&counts.received_resets_unknown));
            probed.add_reset("received", "unknown", unknown);
        }
        let timeouts = one(|counts| std::slice::from_ref(&counts.data_timeouts));
        probed.data_timeouts = self.has(DATA_TIMEOUT).then_some(timeouts);
        Ok(probed)
    }

    fn has(&self, name: &str) -> bool {
        self.states.iter().any(|probe| probe.name == name && probe.entry != "none")
    }
}

/// Loads a program and attaches it.
fn attach(object: &mut Ebpf, btf: &KernelBtf, entry: Entry, target: &str, program: &str) -> Result<Attached, String> {
    let program = object.program_mut(program).ok_or("the object has no such program")?;
    let link = match entry {
        Entry::TpBtf => {
            let name = format!("btf_trace_{target}");
            let id = btf.id_of(&name, BtfKind::Typedef).map_err(|_| "this kernel has no such tracepoint")?;
            let program: &mut BtfTracePoint = program.try_into().map_err(text)?;
            let types = only(&name, id, BtfKind::Typedef)?;
            load_by_aya(|| program.load(target, &types)).map_err(text)?;
            let link = program.attach().map_err(text)?;
            Link::TpBtf(program.take_link(link).map_err(text)?)
        }
        Entry::Fentry => {
            let id = btf.id_of(target, BtfKind::Func).map_err(|_| "this kernel has no such function")?;
            let program: &mut FEntry = program.try_into().map_err(text)?;
            let types = only(target, id, BtfKind::Func)?;
            load_by_aya(|| program.load(target, &types)).map_err(text)?;
            let link = program.attach().map_err(text)?;
            Link::Fentry(program.take_link(link).map_err(text)?)
        }
        Entry::Kprobe => {
            if btf.id_of(target, BtfKind::Func).is_err() {
                return Err("this kernel has no such function".to_owned());
            }
            // Where aya looks for the way to attach them.
            if !std::path::Path::new("/sys/bus/event_source/devices/kprobe/type").exists() {
                return Err("this kernel has no kprobe events".to_owned());
            }
            let program: &mut KProbe = program.try_into().map_err(text)?;
            load_by_aya(|| program.load()).map_err(text)?;
            let link = program.attach(target, 0).map_err(text)?;
            Link::Kprobe(program.take_link(link).map_err(text)?)
        }
    };
    let program = program.fd().map_err(text)?.try_clone().map_err(|error| error.to_string())?;
    Ok(Attached { program, _link: link })
}

/// In one line: of a refusal by the verifier, what it says last.
fn text(error: ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = &error {
        let log = verifier_log.to_string();
        let said = log.lines().rev().map(str::trim).find(|line| {
            let statistics = ["processed ", "stack depth ", "verification time "];
            !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start))
        });
        return match said {
            Some(said) => format!("the verifier refuses it: {said}"),
            None => format!("the kernel does not take such programs ({io_error})"),
        };
    }
    let error = anyhow::Error::from(error);
    let cause = error.root_cause().to_string();
    let told = error.to_string();
    if told.contains(&cause) { told } else { format!("{told}: {cause}") }
}

/// Type information that knows one name, under the number that it has in the kernel's. aya looks for it by its name; to have
/// it read all that there is would take tens of milliseconds and megabytes.
fn only(name: &str, id: u32, kind: BtfKind) -> Result<Btf, String> {
    const MAGIC_AND_VERSION: u32 = 0x1_eb9f;
    const HEADER_BYTES: u32 = 24;
    // A type without more to it is three words: name, kind, and size or another type.
    const FORWARD: [u32; 3] = [0, 7 << 24, 0];
    let types = (1..id).flat_map(|_| FORWARD).chain([1, (kind as u32) << 24, 0]);
    let types_bytes = id * size_of_val(&FORWARD) as u32;
    let strings = [b"\0", name.as_bytes(), b"\0"].concat();
    let header = [MAGIC_AND_VERSION, HEADER_BYTES, 0, types_bytes, types_bytes, strings.len() as u32];
    let mut bytes: Vec<u8> = header.into_iter().chain(types).flat_map(u32::to_ne_bytes).collect();
    bytes.extend(strings);
    Btf::parse(&bytes, Endianness::default()).map_err(|error| error.to_string())
}

/// Names of `enum tcp_ca_state` (include/uapi/linux/tcp.h), in the order of their numbers.
const CA_STATES: [&str; 5] = ["open", "disorder", "cwr", "recovery", "loss"];

/// The reason of MP_TCPRST (RFC 8684 section 3.6) with this code.
fn by_option(code: usize) -> String {
    match ResetReason::from_number(code as u32) {
        ResetReason::Other(_) => OTHER.to_owned(),
        known => known.label(),
    }
}

const OTHER: &str = "other";

/// What the kernel's own reasons for a reset are called (`enum sk_rst_reason`, include/net/rstreason.h, 6.10 to 6.18), by
/// their numbers, which differ between versions. Those of MPTCP are called as in [`by_option`].
#[derive(Default)]
struct Reasons(BTreeMap<usize, String>);

impl Reasons {
    fn resolve(btf: &KernelBtf) -> Reasons {
        const PREFIX: &str = "SK_RST_REASON_";
        let number = |name: &str| {
            let value = btf.enum_value("sk_rst_reason", &format!("{PREFIX}{name}")).ok()?;
            usize::try_from(value).ok().filter(|number| *number < KERNEL_REASONS - 1)
        };
        let plain = KERNEL_REASON_NAMES.iter().filter_map(|name| Some((number(name)?, name.to_ascii_lowercase())));
        let mptcp = MPTCP_REASON_NAMES.iter().enumerate();
        let mptcp = mptcp.filter_map(|(code, name)| Some((number(&format!("MPTCP_RST_{name}"))?, by_option(code))));
        Reasons(plain.chain(mptcp).collect())
    }

    fn name(&self, number: usize) -> &str {
        self.0.get(&number).map_or(OTHER, String::as_str)
    }
}

const KERNEL_REASON_NAMES: [&str; 18] = [
    "NOT_SPECIFIED",
    "NO_SOCKET",
    "TCP_INVALID_ACK_SEQUENCE",
    "TCP_RFC7323_PAWS",
    "TCP_TOO_OLD_ACK",
    "TCP_ACK_UNSENT_DATA",
    "TCP_FLAGS",
    "TCP_OLD_ACK",
    "TCP_ABORT_ON_DATA",
    "TCP_TIMEWAIT_SOCKET",
    "INVALID_SYN",
    "TCP_ABORT_ON_CLOSE",
    "TCP_ABORT_ON_LINGER",
    "TCP_ABORT_ON_MEMORY",
    "TCP_STATE",
    "TCP_KEEPALIVE_TIMEOUT",
    "TCP_DISCONNECT_WITH_DATA",
    "ERROR",
];
/// In the order of RFC 8684's codes.
const MPTCP_REASON_NAMES: [&str; 7] =
    ["EUNSPEC", "EMPTCP", "ERESOURCE", "EPROHIBIT", "EWQ2BIG", "EBADPERF", "EMIDDLEBOX"];

/// Where the kernel's registers are in `struct pt_regs` of this machine: those of a function's first four arguments
/// (arch/x86/include/asm/ptrace.h and arch/arm64/include/asm/ptrace.h, 6.18).
pub(super) const ARGUMENT_REGISTERS: [u32; 4] = if cfg!(target_arch = "aarch64") {
    [0, 8, 16, 24]
} else {
    // rdi, rsi, rdx, rcx
    [112, 104, 96, 88]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_number_that_it_has_in_the_kernel() {
        for id in [1, 2, 140_000] {
            let btf = only("btf_trace_tcp_send_reset", id, BtfKind::Typedef).unwrap();
            let kind = aya_obj::btf::BtfKind::Typedef;
            assert_eq!(btf.id_by_type_name_kind("btf_trace_tcp_send_reset", kind).unwrap(), id);
            assert!(btf.id_by_type_name_kind("tcp_send_reset", aya_obj::btf::BtfKind::Func).is_err());
        }
    }

    #[test]
    fn reasons_have_the_numbers_of_this_kernel() {
        let Ok(btf) = KernelBtf::load() else { return eprintln!("skipped: no BTF") };
        let reasons = Reasons::resolve(&btf);
        if btf.id_of("sk_rst_reason", BtfKind::Enum).is_err() {
            return assert_eq!(reasons.name(0), OTHER);
        }
        assert_eq!(reasons.name(0), "not_specified");
        let number = btf.enum_value("sk_rst_reason", "SK_RST_REASON_MPTCP_RST_ERESOURCE").unwrap();
        assert_eq!(reasons.name(number as usize), "lack_of_resources");
        assert_eq!(reasons.name(KERNEL_REASONS - 1), OTHER);
        let labels: std::collections::BTreeSet<_> = reasons.0.values().collect();
        assert_eq!(labels.len(), reasons.0.len(), "two have one name");
    }
}
