//! What counting MPTCP subflows costs a packet: BPF_PROG_TEST_RUN beside a hash map of flows.

use std::sync::Barrier;

use anyhow::{Context as _, Result, anyhow, ensure};
use mpsec_agent::kernel::ebpf::Kernel;
use mpsec_common::mptcp::SubflowKey;
use mpsec_common::{Class, Direction};
use mpsec_tests::cpu::{cpus, pin};

use crate::classify::per_packet;
use crate::frames::{self, Frame};
use crate::measure::{cpu_time, interleave, median, pairs};
use crate::program::{Anchors, Walk, load_agent_for, walked};
use crate::report::{Row, Section};
use crate::{Options, net};

/// Flows, and what one packet of them may cost at the most: in nanoseconds, and against the hash map.
const FLOWS: [(u32, Option<f64>, Option<f64>); 3] =
    [(1, Some(11.0), Some(0.35)), (10_000, None, None), (100_000, Some(90.0), Some(0.55))];
/// A program with a subflow's packet against an empty one, at the most.
const AGAINST_EMPTY: f64 = 1.3;
/// Subflows that are read at once, and the milliseconds that it may take.
const POLLED: (u32, f64) = (20_000, 3.0);
/// Two CPUs with the same subflow against one, at the most.
const TWO_CPUS: f64 = 2.0;
/// Copies of the programs, which take turns round by round: what a program costs depends on where the kernel puts it.
const LOADS: usize = 3;
/// The loopback interface of a network namespace: what BPF_PROG_TEST_RUN takes a frame to be of.
const LOOPBACK: u32 = 1;
/// Cases of traffic that is no subflow's.
const PLAIN: [&str; 6] = ["tcp", "udp", "esp", "ipv6 tcp", "ipv6 udp", "ipv6 esp"];
/// What the frames of [`frames::all`] say beside what a walk writes.
const SERVER: ([u8; 4], u16) = ([10, 77, 0, 2], 443);

/// `cargo xtask bench subflow`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    let _namespace = net::Namespace::enter_new()?;
    let cpus = cpus();
    pin(*cpus.last().context("no CPU")?)?;
    let frames = frames::all();
    let frame = |name: &str| frames.iter().find(|frame| frame.name == name).context("no such frame");
    let (mptcp, tcp) = (frame("mptcp dss")?, frame("tcp")?);
    let mut rows = Vec::new();
    for direction in Direction::ALL {
        for (name, frame) in [("with an MPTCP option", mptcp), ("without", tcp)] {
            let bench = Bench::load(frame, direction, 1)?;
            let [net, empty, _] = bench.measure(options)?;
            let ratio = median(&pairs(&net, &empty, |net, empty| (net + empty) / empty));
            let row = Row::new(format!("segment {name}, {}", direction.name()), median(&net)).ratio(ratio);
            rows.push(row.ratio_at_most(AGAINST_EMPTY).at_most(11.0));
        }
    }
    let hot = Section {
        bench: "subflow",
        title: "CPU time per packet of one MPTCP subflow".into(),
        method: METHOD.into(),
        unit: "ns net",
        against: "empty program",
        rows,
    };
    let mut sections = vec![hot, many(options, mptcp)?, plain(options, &frames)?, reading(options, mptcp)?];
    match cpus.as_slice() {
        [first, second, ..] => sections.push(two_cpus(options, mptcp, [*first, *second])?),
        _ => sections[0].rows.push(Row::skipped("two CPUs at once", "there is one CPU")),
    }
    Ok(sections)
}

const METHOD: &str = "BPF_PROG_TEST_RUN, by the thread's CPU clock, on one CPU. In front of each program runs another one \
    that makes the frame the next segment of the next subflow, and calls the program that is measured. The figure is \
    program less empty program, both behind it; classifying and counting the packet for its interface are in it. The ratio \
    is what an empty program of its own takes, and the figure, against the former. Medians over rounds. Before and after, it \
    is proven that the packets are counted for their subflows.";

/// The agent's programs with subflows, and what they are measured beside.
struct Bench<'a> {
    frame: &'a Frame,
    direction: Direction,
    flows: u32,
    copies: Vec<Copy>,
}

struct Copy {
    kernel: Kernel,
    anchors: Anchors,
    /// In front of an empty program, ours, the hash map.
    walks: [Walk; 3],
}

impl<'a> Bench<'a> {
    fn load(frame: &'a Frame, direction: Direction, flows: u32) -> Result<Bench<'a>> {
        let copies = if flows > 50_000 { 1 } else { LOADS };
        let copies = (0..copies).map(|_| Copy::load(frame, direction, flows)).collect::<Result<_>>()?;
        Ok(Bench { frame, direction, flows, copies })
    }

    /// Net and gross of an empty program, and net of the hash map.
    fn measure(mut self, options: &Options) -> Result<[Vec<f64>; 3]> {
        let repeat = repeat(options).max(2 * self.flows);
        for copy in &self.copies {
            // Each flow's first packet is another matter than the rest.
            copy.walks.iter().try_for_each(|walk| per_packet(walk.program(), self.frame, self.flows).map(drop))?;
        }
        let before = self.packets()?;
        let times = interleave(options.rounds, 4, |round, run| {
            let copy = &self.copies[round % self.copies.len()];
            let program = match run {
                0..3 => copy.walks[run].program(),
                _ => copy.anchors.empty(),
            };
            per_packet(program, self.frame, repeat)
        })?;
        let counted = self.packets()? - before;
        // `per_packet` runs a thousand beforehand.
        let wanted = u64::from(repeat + 1000) * options.rounds as u64;
        ensure!(counted == wanted, "{counted} packets were counted, not {wanted}");
        let less = |a: f64, b: f64| a - b;
        Ok([pairs(&times[1], &times[0], less), times[3].clone(), pairs(&times[2], &times[0], less)])
    }

    /// Packets that were counted for subflows; none of them may look as if it had been sent again.
    fn packets(&mut self) -> Result<u64> {
        let mut packets = 0;
        for copy in &mut self.copies {
            let subflows = copy.kernel.subflows.as_mut().map_err(|reason| anyhow!("{reason}"))?;
            let mut again = 0;
            subflows.poll(|view| {
                packets += if self.direction == Direction::Rx { view.rx.packets } else { view.tx.packets };
                again += view.rx.retransmitted_bytes;
            })?;
            ensure!(again == 0, "{again} bytes were taken for sent again");
        }
        Ok(packets)
    }
}

impl Copy {
    fn load(frame: &Frame, direction: Direction, flows: u32) -> Result<Copy> {
        let mut kernel = load_agent_for(&[LOOPBACK], flows.max(32_768))?;
        let subflows = kernel.subflows.as_mut().map_err(|reason| anyhow!("{reason}"))?;
        for flow in 0..flows {
            let (walked, server) = (walked(flow), SERVER);
            let (local, remote) = if direction == Direction::Rx { (server, walked) } else { (walked, server) };
            subflows.adopt(&SubflowKey::v4(local.0, remote.0, local.1, remote.1), 1, [0, 0], [false; 2], 0)?;
        }
        let anchors = Anchors::load()?;
        let payload = frame.bytes.len() as u32 - 14 - 20 - (u32::from(frame.bytes[46] >> 4) << 2);
        let walk = |program| Walk::load(program, flows, payload);
        let walks = [walk(anchors.empty())?, walk(kernel.program(direction))?, walk(anchors.hash())?];
        Ok(Copy { kernel, anchors, walks })
    }
}

fn repeat(options: &Options) -> u32 {
    if options.quick { 50_000 } else { 400_000 }
}

fn many(options: &Options, frame: &Frame) -> Result<Section> {
    let mut rows = Vec::new();
    for (flows, limit, ratio_limit) in FLOWS {
        let [net, _, hash] = Bench::load(frame, Direction::Rx, flows)?.measure(options)?;
        let ratio = median(&pairs(&net, &hash, |net, hash| net / hash));
        let mut row = Row::new(format!("{flows} subflows"), median(&net)).ratio(ratio);
        row = limit.into_iter().fold(row, Row::at_most);
        row = ratio_limit.into_iter().fold(row, Row::ratio_at_most);
        rows.push(row.note(format!("hash map {:.1} ns", median(&hash))));
    }
    Ok(Section {
        bench: "subflow",
        title: "CPU time per packet of many MPTCP subflows in turn".into(),
        method: "As above, packets received, each of another subflow than the one before. The ratio is against the net figure \
            of a program that counts each flow in a hash map."
            .into(),
        unit: "ns net",
        against: "hash map of flows",
        rows,
    })
}

/// Programs that count subflows, of which there is one, against the same without.
fn plain(options: &Options, frames: &[Frame]) -> Result<Section> {
    let frames: Vec<&Frame> = frames.iter().filter(|frame| PLAIN.contains(&frame.name)).collect();
    let with = (0..LOADS).map(|_| Copy::load(frames[0], Direction::Rx, 1)).collect::<Result<Vec<_>>>()?;
    let without = (0..2 * LOADS).map(|_| load_agent_for(&[LOOPBACK], 0)).collect::<Result<Vec<_>>>()?;
    let times = interleave(options.rounds, 3 * frames.len(), |round, run| {
        let copy = round % LOADS;
        let kernel = [&without[copy], &with[copy].kernel, &without[LOADS + copy]][run % 3];
        per_packet(kernel.program(Direction::Rx), frames[run / 3], repeat(options))
    })?;
    let mut rows = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        let [off, on, again] = [0, 1, 2].map(|run| &times[3 * index + run]);
        let against = |times| (median(&pairs(times, off, |a, b| a - b)), median(&pairs(times, off, |a, b| a / b)));
        let ((more, ratio), (noise, noise_ratio)) = (against(on), against(again));
        rows.push(
            Row::new(frame.name, more)
                .ratio(ratio)
                .note(format!("off against off: {noise:+.1} ns, {noise_ratio:.2} x")),
        );
    }
    Ok(Section {
        bench: "subflow",
        title: "What counting MPTCP subflows costs other traffic".into(),
        method: "As in `classify`, programs loaded to count subflows against the same loaded to count none. The remark shows \
            another copy of the latter against it: the noise."
            .into(),
        unit: "ns more",
        against: "loaded without",
        rows,
    })
}

/// What reading all subflows costs the agent.
fn reading(options: &Options, frame: &Frame) -> Result<Section> {
    let mut copy = Copy::load(frame, Direction::Rx, POLLED.0)?;
    per_packet(copy.walks[1].program(), frame, POLLED.0)?;
    let subflows = copy.kernel.subflows.as_mut().map_err(|reason| anyhow!("{reason}"))?;
    let mut times = Vec::new();
    // The first time maps the memory.
    for _ in 0..=options.rounds {
        let mut packets = 0;
        let (time, result) = cpu_time(|| subflows.poll(|view| packets += view.rx.packets));
        result?;
        ensure!(packets >= u64::from(POLLED.0), "{packets} packets were seen");
        times.push(time.as_secs_f64() * 1e3);
    }
    let row = Row::new(format!("{} subflows", POLLED.0), median(&times[1..])).at_most(POLLED.1);
    Ok(Section {
        bench: "subflow",
        title: "CPU time of reading all MPTCP subflows".into(),
        method: "`Subflows::poll`, with what is known of each and the sums of all CPUs. Medians over rounds.".into(),
        unit: "ms",
        against: "",
        rows: vec![row],
    })
}

/// Both CPUs run the same program on segments of the same subflow.
fn two_cpus(options: &Options, frame: &Frame, cpus: [usize; 2]) -> Result<Section> {
    ensure!(frame.class == Class::Mptcp, "no segment of a subflow");
    let copy = Copy::load(frame, Direction::Rx, 1)?;
    let barrier = Barrier::new(2);
    let work = |cpu, alone: bool| -> Result<Vec<f64>> {
        pin(cpu)?;
        let times = interleave(options.rounds, 2, |_, run| {
            if !alone {
                barrier.wait();
            }
            per_packet(copy.walks[run].program(), frame, repeat(options))
        })?;
        Ok(pairs(&times[1], &times[0], |ours, empty| ours - empty))
    };
    let one = median(&work(cpus[0], true)?);
    let (mine, theirs) = std::thread::scope(|scope| {
        let other = scope.spawn(|| work(cpus[1], false));
        (work(cpus[0], false), other.join().expect("a measuring thread does not panic"))
    });
    let both = median(&pairs(&mine?, &theirs?, |a, b| (a + b) / 2.0));
    Ok(Section {
        bench: "subflow",
        title: "CPU time per packet of one MPTCP subflow, on two CPUs at once".into(),
        method: "As above, the same program and subflow on both CPUs at the same time; the mean of both.".into(),
        unit: "ns net",
        against: "one CPU",
        rows: vec![Row::new("one subflow", both).ratio(both / one).ratio_at_most(TWO_CPUS)],
    })
}
