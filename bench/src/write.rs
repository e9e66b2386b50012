//! docs/performance.md.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use mpsec_tests::cpu::cpus;

use crate::Options;
use crate::report::Section;

/// Writes all that was found, with what is needed to read it.
pub fn write(path: &Path, sections: &[Section], options: &Options) -> Result<()> {
    let mut text = format!("{HEAD}\n{}\n\n## Figures\n", machine(options));
    for section in sections {
        text += "\n";
        text += &section.to_markdown();
    }
    let rows = sections.iter().flat_map(|section| section.rows.iter().map(move |row| (section, row)));
    let missed: Vec<String> = rows
        .filter(|(_, row)| row.is_met() == Some(false))
        .map(|(section, row)| format!("- {}: {}\n", section.title, row.case))
        .collect();
    text += "\n## Goals that are not met\n\n";
    text += &if missed.is_empty() { "None.\n".to_owned() } else { missed.concat() + WHY };
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

const HEAD: &str = "# What MPSec costs

`cargo xtask bench --write` measures and writes this file; `cargo xtask bench NAME` repeats one part of it, `--json` gives it
to programs. It needs root, and changes nothing outside network namespaces that it makes for itself.

## How to read it

- Every figure stands beside an anchor that was measured in the same run, in turns with it: an empty program, a transfer with
  nothing attached, code that knows its output. Between machines, and between two hours of a shared one, only the ratios hold.
- Figures are medians over rounds. CPU time is the clock of the measuring thread: what others take of the machine in the
  meantime is not in it, though what they do to its caches is.
- The classifier's cost depends on where the kernel happens to put the translated program, by about half a nanosecond each
  way: several copies are loaded and take turns. A difference below that says nothing.
- In a loop that does nothing else, all of a program's data lies in the nearest cache. Under mixed traffic everything costs
  more, the anchors too; the whole paths below are closer to that.
- Peers do other work than MPSec: tcpdump copies packets, softflowd keeps flows. They show the order of magnitude, not a race.
- \"NOT met\" stays here until it is met.
";

/// What is known of why a goal is missed.
const WHY: &str = "
What is known of the reasons:

- Classifier: finding the interface, finding the counter and adding to it took about 3 ns with no header looked at; the headers
  take the rest. Eight runs of one object gave 4.8 to 5.7 ns for TCP, 4.8 to 6.2 for UDP, 4.8 to 5.9 for ESP-in-UDP and 3.5 to 4.8
  for ESP: more often over the goal than under it, but for ESP. Putting the interface table into a global, whose address is in
  the program, and comparing index and framing at once were tried and changed nothing that could be measured. Those runs are of
  an object that knew nothing of subflows; with them in the program TCP took 6.5 to 7.3 ns in two runs, and UDP 5.9 to 8.0.
- Resident memory: the program's file, of which what changes the host, the path manager and the laboratory are a part now, takes
  9.1 MB of it; the agent's own is 1.1 MB.
- One subflow on two CPUs at once: 2.21 and 1.95 times one CPU in two runs within ten minutes, 1.01 on another day, with the same
  program. Each CPU writes only its own counters; what else uses the two virtual CPUs' core decides.
- Subflows: a hot flow stands close to the goal of 1.3 times an empty program, now and then on the other side of it (1.26 to 1.33
  in several runs of one object); the flow's own share is the tag of addresses and ports, one comparison of a cache line, and the
  sums of one more. Plain TCP pays for one load and one comparison; what was measured for it lay between nothing and 1.1 ns,
  and the same object against itself between nothing and 1.0 ns.
- Ten thousand connections: a snapshot with every subflow lists all sockets. The program that lists them takes about two fifths
  of the time, most of it for the walk through the kernel's table and for copying; page faults for what is built and freed each
  time take a tenth. Netlink in place of the program took 79 ms in all. Metrics need no such list, which is why a scrape costs a
  quarter of that.
- Bursts: client and server share the two CPUs with the agent; how many connections there are in a second is theirs to say.
- TCP in bulk with offloads on: four runs of one object gave 1.024, 1.027, 1.028 and 1.075, with the empty program at 1.019, 1.016,
  1.016 and 1.037. The empty program takes most of what the goal allows; why it costs that much was not found out.
- Rendering: each sample goes through an indirect call, and its last label value is looked at for characters to escape; code
  that knows its labels needs neither. It stands at the goal, on either side of it from run to run. A scrape as a whole is
  well within its own.
";

/// The kernel, the processor, and how it was measured: what the figures depend on, and nothing that names a host.
fn machine(options: &Options) -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let version = read("/proc/sys/kernel/osrelease");
    // Behind the version proper may stand anything.
    let version = version.trim().split('-').next().unwrap_or_default().to_owned();
    let hypervisor = if cpuinfo.contains(" hypervisor") { ", virtual" } else { "" };
    format!(
        "## The machine\n\nLinux {version}, {} CPUs ({}{hypervisor}), shared with other work. {} rounds{}.",
        cpus().len(),
        model.unwrap_or(std::env::consts::ARCH),
        options.rounds,
        if options.quick { ", quick: not to judge by" } else { "" },
    )
}
