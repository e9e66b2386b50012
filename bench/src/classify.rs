//! What the classifier costs a packet: BPF_PROG_TEST_RUN beside anchors.

use std::os::fd::BorrowedFd;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mpsec_agent::kernel::ebpf::Kernel;
use mpsec_common::{Class, Direction};
use mpsec_tests::cpu::{cpus, pin};

use crate::frames::{self, Frame};
use crate::measure::{interleave, median, pairs};
use crate::program::{self, Anchors, counted, load_agent, prove};
use crate::report::{Row, Section};
use crate::{Options, net};

/// Cases of everyday traffic, which may cost the least, in nanoseconds and against an empty program.
const EVERYDAY: (&[&str], f64, f64) =
    (&["tcp", "udp", "esp", "esp_udp", "ipv6 tcp", "ipv6 udp", "ipv6 esp"], 5.0, 1.15);
/// Cases with more headers to walk over.
const LONGER: (&[&str], f64) = (&["vlan tcp", "qinq tcp", "ipv6 extensions tcp"], 1.25);
/// What is run on two CPUs at once.
const ON_TWO_CPUS: &[&str] = &["tcp", "udp", "esp", "esp_udp", "ipv6 tcp"];
/// What is received in clear on a host with IPsec, too, where every packet is asked whether it was decrypted.
const BESIDE_IPSEC: &[&str] = &["tcp", "udp", "ipv6 tcp", "mptcp dss"];
/// Copies of the programs, which take turns round by round: what a program costs depends on where the kernel puts it.
const LOADS: usize = 5;
/// The loopback interface of a network namespace: what BPF_PROG_TEST_RUN takes a frame to be of.
const LOOPBACK: u32 = 1;

/// `cargo xtask bench classify`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    let _namespace = net::Namespace::enter_new()?;
    let subject = Subject::load()?;
    let frames = frames::all();
    for (frame, direction) in frames.iter().flat_map(|frame| Direction::ALL.map(|direction| (frame, direction))) {
        let mut kernels = subject.for_frame(frame).iter();
        kernels.try_for_each(|kernel| prove(kernel, direction, &frame.bytes, frame.class)).context(frame.name)?;
    }
    let cpus = cpus();
    let mut sections = vec![
        one_cpu(options, &subject, &frames)?,
        where_ipsec_is_in_use(options, &subject, &frames)?,
        beside(options, &subject, &frames)?,
    ];
    match cpus.as_slice() {
        [first, second, ..] => sections.push(two_cpus(options, &subject, &frames, [*first, *second])?),
        _ => sections[0].rows.push(Row::skipped("two CPUs at once", "there is one CPU")),
    }
    Ok(sections)
}

/// What is measured, and what it is measured beside.
struct Subject {
    /// Programs that never see a packet of ESP, and so ask none whether it was decrypted.
    kernels: Vec<Kernel>,
    /// Programs that have seen ESP.
    ipsec: Vec<Kernel>,
    anchors: Vec<Anchors>,
}

impl Subject {
    fn load() -> Result<Subject> {
        let kernels = || (0..LOADS).map(|_| load_agent(&[LOOPBACK])).collect::<Result<_>>();
        let anchors = (0..LOADS).map(|_| Anchors::load()).collect::<Result<_>>()?;
        Ok(Subject { kernels: kernels()?, ipsec: kernels()?, anchors })
    }

    /// The programs that a frame is for.
    fn for_frame(&self, frame: &Frame) -> &[Kernel] {
        if matches!(frame.class, Class::Esp | Class::EspUdp) { &self.ipsec } else { &self.kernels }
    }

    fn ours(&self, round: usize, frame: &Frame, direction: Direction) -> BorrowedFd<'_> {
        self.for_frame(frame)[round % LOADS].program(direction)
    }

    fn anchors(&self, round: usize) -> &Anchors {
        &self.anchors[round % LOADS]
    }

    /// Packets that all copies have counted as what they are.
    fn counted(&self, cases: &[(&Frame, Direction)]) -> u64 {
        let of = |kernel| cases.iter().map(move |(frame, direction)| counted(kernel, *direction, frame.class));
        self.kernels.iter().chain(&self.ipsec).flat_map(of).sum()
    }
}

fn repeat(options: &Options) -> u32 {
    if options.quick { 50_000 } else { 400_000 }
}

const METHOD: &str = "BPF_PROG_TEST_RUN of the programs as the agent loads them, by the thread's CPU clock, on one CPU; \
    each run right behind one of an empty program on the same frame. The figure is program less empty program; the ratio \
    is program against empty program. Medians over rounds. Before, it is proven that the frame is counted as what it is.";

fn one_cpu(options: &Options, subject: &Subject, frames: &[Frame]) -> Result<Section> {
    pin(*cpus().last().context("no CPU")?)?;
    let cases: Vec<(&Frame, Direction)> =
        frames.iter().flat_map(|frame| Direction::ALL.map(|direction| (frame, direction))).collect();
    let before = subject.counted(&cases);
    let runs = |round: usize, run: usize| {
        let (frame, direction) = cases[run / 2];
        let program =
            if run.is_multiple_of(2) { subject.anchors(round).empty() } else { subject.ours(round, frame, direction) };
        per_packet(program, frame, repeat(options))
    };
    let times = interleave(options.rounds, 2 * cases.len(), runs)?;
    let risen = subject.counted(&cases) - before;
    ensure!(
        risen >= u64::from(repeat(options)) * (options.rounds * cases.len()) as u64,
        "only {risen} packets were counted"
    );
    let rows = cases.iter().enumerate().map(|(index, (frame, direction))| {
        let (empty, ours) = (&times[2 * index], &times[2 * index + 1]);
        goals(frame.name, row(&format!("{} {}", frame.name, direction.name()), ours, empty))
    });
    Ok(Section {
        bench: "classify",
        title: "CPU time of the classifier per packet".into(),
        method: METHOD.into(),
        unit: "ns net",
        against: "empty program",
        rows: rows.collect(),
    })
}

/// The same frames by programs that have seen ESP and by others that have not.
fn where_ipsec_is_in_use(options: &Options, subject: &Subject, frames: &[Frame]) -> Result<Section> {
    let frames: Vec<&Frame> = frames.iter().filter(|frame| BESIDE_IPSEC.contains(&frame.name)).collect();
    let times = interleave(options.rounds, 3 * frames.len(), |round, run| {
        let program = match run % 3 {
            0 => subject.anchors(round).empty(),
            1 => subject.kernels[round % LOADS].program(Direction::Rx),
            _ => subject.ipsec[round % LOADS].program(Direction::Rx),
        };
        per_packet(program, frames[run / 3], repeat(options))
    })?;
    let rows = frames.iter().zip(times.chunks(3)).flat_map(|(frame, times)| {
        [("before any ESP", 1), ("after it", 2)]
            .map(|(when, program)| row(&format!("{} rx, {when}", frame.name), &times[program], &times[0]))
    });
    Ok(Section {
        bench: "classify",
        title: "CPU time of the classifier per packet where IPsec is in use".into(),
        method: "As above, in one run: programs that have seen no ESP, and others that have, and so ask the kernel of every \
            packet that is received whether it was decrypted. Nothing is asked on the way out."
            .into(),
        unit: "ns net",
        against: "empty program",
        rows: rows.collect(),
    })
}

fn beside(options: &Options, subject: &Subject, frames: &[Frame]) -> Result<Section> {
    let frame = frames.first().context("no frames")?;
    let names = ["empty program", "one per-CPU counter", "hash map of flows, one flow", "empty program again"];
    let times = interleave(options.rounds, names.len(), |round, run| {
        let anchors = subject.anchors(round);
        let program = [anchors.empty(), anchors.percpu(), anchors.hash(), anchors.empty()][run];
        per_packet(program, frame, repeat(options))
    })?;
    let mut rows = vec![Row::new("empty program, gross", median(&times[0])).ratio(1.0)];
    rows.extend((1..names.len()).map(|index| row(names[index], &times[index], &times[0])));
    Ok(Section {
        bench: "classify",
        title: "Anchors: what other programs cost per packet".into(),
        method: "As above, on the TCP frame. The empty program against itself shows the noise.".into(),
        unit: "ns net",
        against: "empty program",
        rows,
    })
}

/// Both CPUs run the same program on the same frame, and so count in the same slot.
fn two_cpus(options: &Options, subject: &Subject, frames: &[Frame], cpus: [usize; 2]) -> Result<Section> {
    let frames: Vec<&Frame> = frames.iter().filter(|frame| ON_TWO_CPUS.contains(&frame.name)).collect();
    // For each frame an empty program and ours; at last an empty program and the hash map.
    let runs = 2 * frames.len() + 2;
    let program = |round: usize, run: usize| match (run / 2 < frames.len(), run % 2) {
        (_, 0) => subject.anchors(round).empty(),
        (true, _) => subject.ours(round, frames[run / 2], Direction::Rx),
        (false, _) => subject.anchors(round).hash(),
    };
    let barrier = Barrier::new(2);
    let work = |cpu| -> Result<Vec<Vec<f64>>> {
        pin(cpu)?;
        interleave(options.rounds, runs, |round, run| {
            barrier.wait();
            let frame = frames.get(run / 2).unwrap_or(&frames[0]);
            per_packet(program(round, run), frame, repeat(options))
        })
    };
    let (mine, theirs) = std::thread::scope(|scope| {
        let other = scope.spawn(|| work(cpus[1]));
        (work(cpus[0]), other.join().expect("a measuring thread does not panic"))
    });
    let (mine, theirs) = (mine?, theirs?);
    // The mean of what a packet took on either CPU.
    let both = |run: usize| pairs(&mine[run], &theirs[run], |a, b| (a + b) / 2.0);
    let mut rows: Vec<Row> = frames
        .iter()
        .enumerate()
        .map(|(index, frame)| goals(frame.name, row(frame.name, &both(2 * index + 1), &both(2 * index))))
        .collect();
    rows.push(row("anchor: hash map of flows, one flow", &both(runs - 1), &both(runs - 2)));
    Ok(Section {
        bench: "classify",
        title: "CPU time of the classifier per packet, on two CPUs at once".into(),
        method: "As above, the same program on both CPUs at the same time; the mean of both.".into(),
        unit: "ns net",
        against: "empty program",
        rows,
    })
}

/// CPU time in nanoseconds of one run of a program on a frame.
pub fn per_packet(program: BorrowedFd<'_>, frame: &Frame, repeat: u32) -> Result<f64> {
    // Somebody else may keep the run time of programs, which costs more than what is measured here: wait until that is over.
    for _ in 0..PATIENCE {
        let before = program::runs(program)?;
        // The first packets find nothing in the caches of a CPU that has just done something else.
        program::run(program, &frame.bytes, 1000)?;
        let time = program::run(program, &frame.bytes, repeat)?;
        if program::runs(program)? == before {
            return Ok(time.as_nanos() as f64 / f64::from(repeat));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!(
        "the kernel keeps the run time of programs (kernel.bpf_stats_enabled, or a program that asks for it): turn it off"
    )
}

/// How often to try while the kernel keeps the run time of programs.
const PATIENCE: usize = 300;

fn row(case: &str, ours: &[f64], empty: &[f64]) -> Row {
    Row::new(case, median(&pairs(ours, empty, |ours, empty| ours - empty))).ratio(median(&pairs(
        ours,
        empty,
        |ours, empty| ours / empty,
    )))
}

fn goals(case: &str, row: Row) -> Row {
    if EVERYDAY.0.contains(&case) {
        row.at_most(EVERYDAY.1).ratio_at_most(EVERYDAY.2)
    } else if LONGER.0.contains(&case) {
        row.ratio_at_most(LONGER.1)
    } else {
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_has_its_frame() {
        let frames = frames::all();
        for name in EVERYDAY.0.iter().chain(LONGER.0).chain(ON_TWO_CPUS).chain(BESIDE_IPSEC) {
            assert!(frames.iter().any(|frame| frame.name == *name), "{name}");
        }
        assert!(frames.iter().any(|frame| frame.class == Class::Wireguard));
    }
}
