//! What a kernel says on its console when something is wrong with it.

/// How the lines begin that tell of a fault of the kernel (Linux 6.12: `kernel/panic.c`, `lib/bug.c`, `arch/x86/mm/fault.c`,
/// `arch/x86/kernel/dumpstack.c`). A warning that is advice on mitigations has their name before the word.
const FAULTS: &[&str] = &["BUG:", "kernel BUG at ", "WARNING:", "Oops", "Kernel panic"];
/// What is in the lines that tell of something that took long. The emulator may have stood still for so long.
const DELAYS: &[&str] = &["lockup", "blocked for more than"];

/// What a kernel said of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// What no kernel says that works.
    pub faults: Vec<String>,
    /// What a kernel that works says, too, where the machine is slow.
    pub delays: Vec<String>,
}

/// The trouble in what a console was written to.
#[must_use]
pub fn trouble(log: &str) -> Trouble {
    let mut trouble = Trouble::default();
    for message in log.lines().map(message) {
        if is_delay(message) {
            trouble.delays.push(message.to_owned());
        } else if is_fault(message) {
            trouble.faults.push(message.to_owned());
        }
    }
    trouble
}

/// The first of these lines, which tells most, and how many follow.
#[must_use]
pub fn in_short(lines: &[String]) -> Option<String> {
    let (first, others) = lines.split_first()?;
    Some(if others.is_empty() { first.clone() } else { format!("{first} (and {} more)", others.len()) })
}

/// A line without its time and the like, each in brackets.
fn message(line: &str) -> &str {
    let mut rest = line.trim();
    while let Some((_, after)) = rest.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
        rest = after.trim_start();
    }
    rest
}

fn is_delay(message: &str) -> bool {
    let lower = message.to_lowercase();
    let stalls = || lower.split_once("rcu").is_some_and(|(_, after)| after.contains("stall"));
    DELAYS.iter().any(|part| lower.contains(part)) || stalls()
}

fn is_fault(message: &str) -> bool {
    // The number of an oops, which not every kernel begins with that word: `general protection fault: 0000 [#1] SMP`.
    let numbered =
        || message.split_once(" [#").is_some_and(|(_, after)| after.starts_with(|c: char| c.is_ascii_digit()));
    FAULTS.iter().any(|begin| message.starts_with(begin)) || numbered()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_whatever_stands_before_them() {
        for line in [
            "[   12.345678] WARNING: CPU: 0 PID: 77 at net/mptcp/subflow.c:1519 subflow_data_ready+0x1a0/0x1b0 [mptcp]\r",
            "[   12.345678][    T1] BUG: kernel NULL pointer dereference, address: 0000000000000010",
            "BUG: scheduling while atomic: mpsec/77/0x00000002",
            "[    1.0] kernel BUG at net/core/skbuff.c:200!",
            "[    1.0] Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "[    1.0] general protection fault, probably for non-canonical address 0xdead: 0000 [#1] PREEMPT SMP",
            "[    1.0] Kernel panic - not syncing: Fatal exception",
        ] {
            let trouble = trouble(line);
            assert_eq!((trouble.faults.len(), trouble.delays.len()), (1, 0), "{line}");
            assert!(!trouble.faults[0].starts_with('['), "{trouble:?}");
        }
    }

    #[test]
    fn slowness_is_no_fault() {
        for line in [
            "[   99.0] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [mpsec:77]",
            "[   99.0] BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!",
            "[   99.0] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[   99.0] INFO: task kworker/0:1:9 blocked for more than 120 seconds.",
        ] {
            let trouble = trouble(line);
            assert_eq!((trouble.faults.len(), trouble.delays.len()), (0, 1), "{line}");
        }
    }

    #[test]
    fn other_lines_are_no_trouble() {
        let log = "[    0.0] Linux version 6.12.0 (debian-kernel@lists.debian.org) #1 SMP\n\
                   [    0.1] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on\n\
                   [    0.2] [Firmware Bug]: TSC doesn't count with P0 frequency!\n\
                   vm-init: tracefs on /sys/kernel/tracing: No such device\n";
        assert_eq!(trouble(log), Trouble::default());
    }

    #[test]
    fn the_first_line_stands_for_all() {
        let lines = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(in_short(&lines).as_deref(), Some("a (and 2 more)"));
        assert_eq!(in_short(&lines[..1]).as_deref(), Some("a"));
        assert_eq!(in_short(&[]), None);
    }
}
