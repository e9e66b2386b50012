//! The kernel side against its twin: the programs, as they are embedded and loaded, run by the kernel on thousands of
//! frames (BPF_PROG_TEST_RUN); what they count must be what the classifier finds in the same bytes.

#[expect(dead_code, reason = "the classifier's own tests use all of it")]
#[path = "../../mpsec-common/tests/classifier/frames.rs"]
mod frames;
#[expect(dead_code, reason = "the classifier's own tests use all of it")]
#[path = "../../mpsec-common/tests/classifier/invariants.rs"]
mod invariants;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use mpsec_agent::kernel::btf::KernelBtf;
use mpsec_agent::kernel::{ebpf::OBJECT, possible_cpus};
use mpsec_common::maps::{
    Event, LAYOUT_SYMBOL, MAP_COUNTERS, MAP_EVENTS, MAP_INTERFACES, PROGRAM_EGRESS, PROGRAM_INGRESS, counter_index,
    interface_flags, slot_index,
};
use mpsec_common::packet::{Context, classify_slice};
use mpsec_common::traffic::{CLASS_SLOTS, Counter};
use mpsec_common::{Class, Direction, LAYOUT_VERSION, Layout, Link};
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

/// The loopback device: a test run's packets seem to come from it unless told otherwise.
const IFINDEX: u32 = 1;
const SLOT: u16 = 1;
/// BPF_PROG_TEST_RUN takes no less than an Ethernet header and a byte (bpf_prog_test_run_skb, net/bpf/test_run.c).
const LEAST: usize = 15;
/// Newer kernels take no IP packet that is shorter than its fixed header: of a shorter frame, a refusal proves nothing.
const SURELY_TAKEN: usize = 14 + 40;
/// Nor more than a page holds beside the room that a socket buffer needs.
const MOST: usize = 3000;

fn main() {
    let arguments = Arguments::from_args();
    let tests: [(&str, Body); 6] = [
        ("ethernet_frames", ethernet_frames),
        ("bare_ip_packets", bare_ip_packets),
        ("frames_read_from_the_network_header", from_the_network_header),
        ("super_packets", super_packets),
        ("buffers_whose_linear_part_is_short", short_linear_part),
        ("short_linear_part_read_from_the_network_header", short_linear_part_from_the_network_header),
    ];
    let trials = tests.map(|(name, body)| Trial::ignorable_test(name, move || outcome(body())));
    libtest_mimic::run(&arguments, trials.into()).exit();
}

type Body = fn() -> Result<()>;

/// A reason for which a test cannot run here.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Skip(&'static str);

fn outcome(result: Result<()>) -> Result<Completion, Failed> {
    match result {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(skip) => Ok(Completion::ignored_with(skip.0)),
            None => Err(Failed::from(format!("{error:#}"))),
        },
    }
}

fn ethernet_frames() -> Result<()> {
    let mut twin = Twin::load(Link::Ethernet)?;
    for frame in all_frames()? {
        twin.agrees(&frame, &Skb::default())?;
    }
    twin.came_upon_every_class()
}

fn bare_ip_packets() -> Result<()> {
    let mut twin = Twin::load(Link::Ip)?;
    all_frames()?.iter().filter_map(|frame| bare(frame)).try_for_each(|packet| twin.agrees(&packet, &Skb::default()))
}

/// The IP packet in an untagged frame. A test run takes bytes 12 and 13 for the EtherType whatever the frame is, so the
/// source address, which is there, is made to say the right thing.
fn bare(frame: &[u8]) -> Option<Vec<u8>> {
    let mut packet = is_untagged_ip(frame).then(|| frame[14..].to_vec())?;
    packet.get_mut(12..14)?.copy_from_slice(&frame[12..14]);
    (packet.len() >= LEAST).then_some(packet)
}

fn from_the_network_header() -> Result<()> {
    let mut twin = Twin::load(Link::Foreign)?;
    all_frames()?.iter().filter(|frame| is_untagged_ip(frame)).try_for_each(|frame| twin.agrees(frame, &Skb::default()))
}

/// In a test run the network header lies behind the Ethernet header, whatever the EtherType.
fn is_untagged_ip(frame: &[u8]) -> bool {
    matches!(
        frame,
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, ..] | [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ..]
    )
}

fn super_packets() -> Result<()> {
    let mut twin = Twin::load(Link::Ethernet)?;
    for (number, frame) in all_frames()?.iter().enumerate() {
        let segments = 2 + (number % 40) as u32;
        twin.agrees(frame, &Skb { segments, ..Skb::default() })?;
    }
    Ok(())
}

fn short_linear_part() -> Result<()> {
    let mut twin = Twin::load(Link::Ethernet)?;
    in_pieces(&mut twin)
}

fn short_linear_part_from_the_network_header() -> Result<()> {
    let mut twin = Twin::load(Link::Foreign)?;
    in_pieces(&mut twin)
}

/// Runs frames with each length of the linear part that a header may be cut by.
fn in_pieces(twin: &mut Twin) -> Result<()> {
    let frames = all_frames()?;
    let any = twin.link == Link::Ethernet;
    let some = frames.iter().filter(|frame| any || is_untagged_ip(frame));
    for (number, frame) in some.enumerate().step_by(3) {
        let linear = 14 + number as u32 % 90;
        if (linear as usize) < frame.len() {
            twin.agrees(frame, &Skb { linear, ..Skb::default() })?;
        }
    }
    ensure!(twin.event(Event::NonLinear)? > 100, "the reader of the whole was hardly needed");
    Ok(())
}

/// The fuzzer's corpus, valid frames, and such with changes.
fn all_frames() -> Result<Vec<Vec<u8>>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/classify");
    let mut frames = Vec::new();
    for entry in std::fs::read_dir(corpus).context("the corpus")? {
        frames.extend(invariants::decode(&std::fs::read(entry?.path())?).map(|(_, frame)| frame.to_vec()));
    }
    let mut runner = TestRunner::deterministic();
    let strategy = (frames::frame(), vec(any::<(u8, u8)>(), 0..4));
    for number in 0..4000 {
        let tree = strategy.new_tree(&mut runner).map_err(|reason| anyhow::anyhow!("{reason}"))?;
        let (frame, changes) = tree.current();
        frames.push(frame.bytes);
        if number % 2 == 0 {
            change(frames.last_mut().context("just pushed")?, &changes);
        }
    }
    frames.retain(|frame| (LEAST..MOST).contains(&frame.len()));
    Ok(frames)
}

fn change(frame: &mut [u8], changes: &[(u8, u8)]) {
    for (at, value) in changes {
        if let Some(byte) = frame.get_mut(12 + *at as usize % 90) {
            *byte = *value;
        }
    }
}

/// What of a socket buffer a test run can be told.
#[derive(Clone, Copy, Debug, Default)]
struct Skb {
    /// Segments of a super-packet; 0 for a packet that is none.
    segments: u32,
    /// Bytes in the linear part; 0 for all.
    linear: u32,
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h): where the members that a test run takes lie.
mod sk_buff {
    pub const LEN: usize = 192;
    pub const DATA_END: usize = 80;
    pub const WIRE_LEN: usize = 160;
    pub const GSO_SEGS: usize = 164;
    pub const GSO_SIZE: usize = 176;
}

/// Bytes on the wire that the kernel would have worked out for a super-packet that is sent.
const WIRE_LEN: u32 = 12_345;

impl Skb {
    fn encode(self) -> [u8; sk_buff::LEN] {
        let mut bytes = [0; sk_buff::LEN];
        let mut set = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        set(sk_buff::DATA_END, self.linear);
        if self.segments > 0 {
            set(sk_buff::WIRE_LEN, WIRE_LEN);
            set(sk_buff::GSO_SEGS, self.segments);
            set(sk_buff::GSO_SIZE, 100);
        }
        bytes
    }

    /// What must be counted of a frame.
    fn expected(self, frame: &[u8], direction: Direction, layout: &Layout) -> Counter {
        let len = frame.len() as u64;
        let packets = self.segments.max(1) as u64;
        let bytes = match direction {
            Direction::Tx if self.segments > 0 => WIRE_LEN as u64,
            _ => len + (packets - 1) * layout.payload_offset as u64,
        };
        Counter { packets, bytes, l3_bytes: bytes.saturating_sub(packets * layout.l3_offset as u64) }
    }
}

/// The loaded programs and their maps.
struct Twin {
    object: Ebpf,
    link: Link,
    cpus: u32,
    counters: Array<MapData, [u64; CLASS_SLOTS * 4]>,
    events: PerCpuArray<MapData, u64>,
    /// Frames that were compared.
    classes: BTreeMap<Class, u64>,
}

impl Twin {
    fn load(link: Link) -> Result<Twin> {
        let cpus = possible_cpus()?;
        let mut object = load_object(cpus)?;
        for name in [PROGRAM_INGRESS, PROGRAM_EGRESS] {
            let program: &mut SchedClassifier = object.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        let mut interfaces: Array<MapData, [u8; 12]> = take(&mut object, MAP_INTERFACES)?.try_into()?;
        interfaces.set(slot_index(IFINDEX, 0), interface(link, cpus), 0)?;
        let counters = take(&mut object, MAP_COUNTERS)?.try_into()?;
        let events = take(&mut object, MAP_EVENTS)?.try_into()?;
        Ok(Twin { object, link, cpus, counters, events, classes: BTreeMap::new() })
    }

    /// Runs both programs on a frame and compares what they counted with what its bytes say.
    fn agrees(&mut self, frame: &[u8], skb: &Skb) -> Result<()> {
        let layout = self.expected_layout(frame, skb);
        for direction in Direction::ALL {
            let before = self.counted(direction)?;
            if !self.run(frame, skb, direction)? {
                return Ok(());
            }
            let after = self.counted(direction)?;
            let mut expected = [Counter::default(); CLASS_SLOTS];
            expected[layout.class as usize] = skb.expected(frame, direction, &layout);
            let found: [Counter; CLASS_SLOTS] = std::array::from_fn(|class| after[class].since(&before[class]));
            ensure!(
                found == expected,
                "{direction:?} {skb:?}: counted {}, not {} of {} bytes: {frame:02x?}",
                told(&found),
                told(&expected),
                frame.len(),
            );
        }
        *self.classes.entry(layout.class).or_default() += 1;
        Ok(())
    }

    fn expected_layout(&self, frame: &[u8], skb: &Skb) -> Layout {
        let mut context = Context { gso: skb.segments > 0, ..Context::ETHERNET };
        if self.link != Link::Ethernet {
            context.ethertype = Some(u16::from_be_bytes([frame[12], frame[13]]));
        }
        if self.link == Link::Foreign {
            context.start = 14;
        }
        classify_slice(frame, &context)
    }

    /// False if the kernel does not take the frame because it is too short.
    fn run(&self, frame: &[u8], skb: &Skb, direction: Direction) -> Result<bool> {
        let name = [PROGRAM_INGRESS, PROGRAM_EGRESS][direction as usize];
        let program: &SchedClassifier = self.object.program(name).context(name)?.try_into()?;
        let context = skb.encode();
        let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::new() };
        match program.test_run(options) {
            Ok(result) => {
                ensure!(result.return_value == u32::MAX, "the verdict is {}", result.return_value);
                Ok(true)
            }
            Err(ProgramError::SyscallError(error)) if is_invalid(&error.io_error) && frame.len() < SURELY_TAKEN => {
                Ok(false)
            }
            Err(ProgramError::SyscallError(error)) if is_invalid(&error.io_error) && skb.linear > 0 => {
                bail!(Skip("this kernel's test runs make linear buffers only"))
            }
            Err(error) => Err(error).context(format!("{direction:?} {skb:?} on {} bytes", frame.len())),
        }
    }

    fn counted(&self, direction: Direction) -> Result<[Counter; CLASS_SLOTS]> {
        let mut sums = [Counter::default(); CLASS_SLOTS];
        for cpu in 0..self.cpus {
            let words = self.counters.get(&counter_index(SLOT as u32, self.cpus, cpu, direction), 0)?;
            for (sum, counter) in sums.iter_mut().zip(words.chunks_exact(4)) {
                sum.add(&Counter { packets: counter[0], bytes: counter[1], l3_bytes: counter[2] });
            }
        }
        Ok(sums)
    }

    fn event(&self, event: Event) -> Result<u64> {
        Ok(self.events.get(&(event as u32), 0)?.iter().sum())
    }

    fn came_upon_every_class(&self) -> Result<()> {
        // What IPsec has decrypted is told by the buffer's security path, which no test run can give it.
        let of_bytes = Class::ALL.iter().filter(|class| **class != Class::Decrypted);
        let missing: Vec<_> = of_bytes.filter(|class| !self.classes.contains_key(class)).collect();
        ensure!(missing.is_empty(), "no frame was of {missing:?}");
        let frames: u64 = self.classes.values().sum();
        ensure!(frames > 3000, "the kernel took {frames} frames only");
        Ok(())
    }
}

fn is_invalid(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

fn told(counters: &[Counter; CLASS_SLOTS]) -> String {
    let counted = Class::ALL.iter().filter(|class| !counters[**class as usize].is_zero());
    counted.map(|class| format!("{} {:?}", class.name(), counters[*class as usize])).collect::<Vec<_>>().join(", ")
}

/// Loads the object as the agent does, with room for one interface.
fn load_object(cpus: u32) -> Result<Ebpf> {
    let btf = KernelBtf::load()?;
    let offset = |name: &str| btf.offset_of("sk_buff", name).map_or(u32::MAX, |member| member.byte_offset());
    let mask = btf.offset_of("sk_buff", "encapsulation").map_or(0u32, |member| 1 << member.bit_shift());
    let globals = [
        (LAYOUT_SYMBOL, LAYOUT_VERSION),
        ("SKB_ENCAPSULATION", offset("encapsulation")),
        ("SKB_ENCAPSULATION_MASK", mask),
        ("SKB_INNER_TRANSPORT", offset("inner_transport_header")),
        ("SKB_INNER_NETWORK", offset("inner_network_header")),
        ("SKB_MAC_HEADER", offset("mac_header")),
        ("SKB_NETWORK_HEADER", offset("network_header")),
        // Looking for subflows changes nothing of what is counted for the interface.
        ("SUBFLOWS_ON", 1),
    ];
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(MAP_COUNTERS, (SLOT as u32 + 1) * cpus * 2);
    for (name, value) in &globals {
        loader.override_global(name, value, true);
    }
    let quiet = 0u8;
    loader.override_global(aya_log::LEVEL, &quiet, true);
    match loader.load(OBJECT) {
        Ok(object) => Ok(object),
        Err(error) => Err(not_permitted_or(error.into())),
    }
}

fn not_permitted_or(error: anyhow::Error) -> anyhow::Error {
    let denied = |cause: &(dyn std::error::Error + 'static)| {
        let errno = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        matches!(errno, Some(libc::EPERM | libc::EACCES))
    };
    if error.chain().any(denied) { Skip("loading eBPF programs needs root").into() } else { error }
}

fn take(object: &mut Ebpf, name: &str) -> Result<Map> {
    object.take_map(name).with_context(|| format!("no map {name}"))
}

/// An `InterfaceSlot` as it lies in the map.
fn interface(link: Link, cpus: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&IFINDEX.to_ne_bytes());
    bytes[4..8].copy_from_slice(&counter_index(SLOT as u32, cpus, 0, Direction::Rx).to_ne_bytes());
    bytes[8] = link as u8;
    bytes[11] = interface_flags::COUNTS_SUBFLOWS;
    bytes
}
