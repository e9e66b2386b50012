//! What the classifier costs a packet: BPF_PROG_TEST_RUN beside anchors.

use std::os::fd::BorrowedFd;
use std::sync::Barrier;

use anyhow::{Context as _, Result, ensure};
use mpsec_agent::kernel::ebpf::Kernel;
use mpsec_common::{Class, Direction};

use crate::frames::{self, Frame};
use crate::measure::{cpus, interleave, median, pairs, pin};
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
/// The loopback interface of a network namespace: what BPF_PROG_TEST_RUN takes a frame to be of.
const LOOPBACK: u32 = 1;

/// `cargo xtask bench classify`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    let _namespace = net::Namespace::enter_new()?;
    let (kernel, anchors) = (load_agent(&[LOOPBACK])?, Anchors::load()?);
    let frames = frames::all();
    for (frame, direction) in frames.iter().flat_map(|frame| Direction::ALL.map(|direction| (frame, direction))) {
        prove(&kernel, direction, &frame.bytes, frame.class).with_context(|| frame.name)?;
    }
    let mut sections = vec![one_cpu(options, &kernel, &anchors, &frames)?, beside(options, &anchors, &frames)?];
    match cpus().as_slice() {
        [first, second, ..] => sections.push(two_cpus(options, &kernel, &anchors, &frames, [*first, *second])?),
        _ => sections[0].rows.push(Row::skipped("two CPUs at once", "there is one CPU")),
    }
    Ok(sections)
}

fn repeat(options: &Options) -> u32 {
    if options.quick { 50_000 } else { 400_000 }
}

const METHOD: &str = "BPF_PROG_TEST_RUN of the programs as the agent loads them, by the thread's CPU clock, on one CPU; \
    each run right behind one of an empty program on the same frame. The figure is program less empty program; the ratio \
    is program against empty program. Medians over rounds. Before, it is proven that the frame is counted as what it is.";

fn one_cpu(options: &Options, kernel: &Kernel, anchors: &Anchors, frames: &[Frame]) -> Result<Section> {
    pin(*cpus().last().context("no CPU")?)?;
    let cases: Vec<(&Frame, Direction)> =
        frames.iter().flat_map(|frame| Direction::ALL.map(|direction| (frame, direction))).collect();
    let before: u64 = cases.iter().map(|(frame, direction)| counted(kernel, *direction, frame.class)).sum();
    let runs = |subject: usize| {
        let (frame, direction) = cases[subject / 2];
        let program = if subject % 2 == 0 { anchors.empty() } else { kernel.program(direction) };
        per_packet(program, frame, repeat(options))
    };
    let times = interleave(options.rounds, 2 * cases.len(), runs)?;
    let after: u64 = cases.iter().map(|(frame, direction)| counted(kernel, *direction, frame.class)).sum();
    ensure!(after > before, "the counters stand still");
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

fn beside(options: &Options, anchors: &Anchors, frames: &[Frame]) -> Result<Section> {
    let frame = frames.first().context("no frames")?;
    let programs = [anchors.empty(), anchors.percpu(), anchors.hash(), anchors.empty()];
    let names = ["empty program", "one per-CPU counter", "hash map of flows, one flow", "empty program again"];
    let times = interleave(options.rounds, programs.len(), |subject| {
        per_packet(programs[subject], frame, repeat(options))
    })?;
    let mut rows = vec![Row::new("empty program, gross", median(&times[0])).ratio(1.0)];
    rows.extend((1..programs.len()).map(|index| row(names[index], &times[index], &times[0])));
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
fn two_cpus(
    options: &Options,
    kernel: &Kernel,
    anchors: &Anchors,
    frames: &[Frame],
    cpus: [usize; 2],
) -> Result<Section> {
    let frames: Vec<&Frame> = frames.iter().filter(|frame| ON_TWO_CPUS.contains(&frame.name)).collect();
    let direction = Direction::Rx;
    let mut subjects: Vec<(&Frame, BorrowedFd<'_>)> = Vec::new();
    for frame in &frames {
        subjects.extend([(*frame, anchors.empty()), (*frame, kernel.program(direction))]);
    }
    subjects.extend([(frames[0], anchors.empty()), (frames[0], anchors.hash())]);
    let barrier = Barrier::new(2);
    let (mine, theirs) = std::thread::scope(|scope| {
        let work = |cpu| {
            pin(cpu)?;
            interleave(options.rounds, subjects.len(), |subject| {
                barrier.wait();
                let (frame, program) = subjects[subject];
                per_packet(program, frame, repeat(options))
            })
        };
        let other = scope.spawn(move || work(cpus[1]));
        (work(cpus[0]), other.join().expect("a measuring thread does not panic"))
    });
    let (mine, theirs) = (mine?, theirs?);
    // The mean of what a packet took on either CPU.
    let both = |subject: usize| pairs(&mine[subject], &theirs[subject], |a, b| (a + b) / 2.0);
    let mut rows: Vec<Row> = frames
        .iter()
        .enumerate()
        .map(|(index, frame)| goals(frame.name, row(frame.name, &both(2 * index + 1), &both(2 * index))))
        .collect();
    let last = subjects.len() - 2;
    rows.push(row("anchor: hash map of flows, one flow", &both(last + 1), &both(last)));
    Ok(Section {
        bench: "classify",
        title: "CPU time of the classifier per packet, on two CPUs at once".into(),
        method: "As above, the same program on both CPUs at the same time; the mean of both.".into(),
        unit: "ns net",
        against: "empty program",
        rows,
    })
}

fn per_packet(program: BorrowedFd<'_>, frame: &Frame, repeat: u32) -> Result<f64> {
    // The first packets find nothing in the caches of a CPU that has just done something else.
    program::run(program, &frame.bytes, 1000)?;
    Ok(program::run(program, &frame.bytes, repeat)?.as_nanos() as f64 / f64::from(repeat))
}

fn row(case: &str, ours: &[f64], empty: &[f64]) -> Row {
    Row::new(case, median(&pairs(ours, empty, |ours, empty| ours - empty)))
        .ratio(median(&pairs(ours, empty, |ours, empty| ours / empty)))
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
        for name in EVERYDAY.0.iter().chain(LONGER.0).chain(ON_TWO_CPUS) {
            assert!(frames.iter().any(|frame| frame.name == *name), "{name}");
        }
        assert!(frames.iter().any(|frame| frame.class == Class::Wireguard));
    }
}
