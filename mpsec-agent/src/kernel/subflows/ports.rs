//! Which ports subflows have, as far as packets without an MPTCP option are asked. The kernel side keeps that where user space
//! does not reach, for the sake of those packets, so a program is run to change it.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use mpsec_common::mptcp::{PORTS_BATCH, PORTS_HEAD, PortsChange};

/// Ports of subflows that come and go by the agent's doing.
pub struct Ports {
    program: OwnedFd,
    /// What the kernel side is to be told next.
    changes: Vec<PortsChange>,
}

impl Ports {
    /// With the loaded program [`mpsec_common::maps::PROGRAM_PORTS`].
    pub fn new(program: OwnedFd) -> Ports {
        Ports { program, changes: Vec::new() }
    }

    /// Has packets with these ports looked at, from now on.
    ///
    /// # Errors
    /// What `bpf(2)` says; nothing has changed then.
    pub fn add(&mut self, ports: u32) -> io::Result<()> {
        run(&self.program, &[PortsChange { ports, change: 1 }]).map(drop)
    }

    /// Has packets with these ports no longer looked at. There is no hurry, so the kernel side is told of many at once.
    ///
    /// # Errors
    /// What `bpf(2)` says; it is told again the next time.
    pub fn remove(&mut self, ports: u32) -> io::Result<()> {
        self.changes.push(PortsChange { ports, change: -1 });
        if self.changes.len() < PORTS_BATCH { Ok(()) } else { self.flush() }
    }

    /// Tells the kernel side what it was not told yet.
    ///
    /// # Errors
    /// What `bpf(2)` says; it is told again the next time.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.changes.is_empty() {
            let count = self.changes.len().min(PORTS_BATCH);
            run(&self.program, &self.changes[..count])?;
            self.changes.drain(..count);
        }
        Ok(())
    }

    /// How many subflows have these ports, or others that are taken for the same.
    ///
    /// # Errors
    /// What `bpf(2)` says.
    pub fn count(&mut self, ports: u32) -> io::Result<u32> {
        self.flush()?;
        run(&self.program, &[PortsChange { ports, change: 0 }])
    }
}

const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// `union bpf_attr` as BPF_PROG_TEST_RUN reads it (include/uapi/linux/bpf.h, 6.18), as far as it is needed: what lies behind
/// counts as 0.
#[derive(Default)]
#[repr(C)]
struct TestRun {
    program: u32,
    returned: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// Runs the program once on a frame of changes; returns what it returns.
fn run(program: &OwnedFd, changes: &[PortsChange]) -> io::Result<u32> {
    let mut frame = [0; PORTS_HEAD + PORTS_BATCH * size_of::<PortsChange>()];
    let words = changes.iter().flat_map(|change| [change.ports.to_ne_bytes(), change.change.to_ne_bytes()]);
    for (bytes, word) in frame[PORTS_HEAD..].chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word);
    }
    let mut attributes = TestRun {
        program: program.as_raw_fd() as u32,
        data_size_in: (PORTS_HEAD + size_of_val(changes)) as u32,
        data_in: frame.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the pointer and the length describe `attributes`, which like the frame outlives the call; the frame is only
    // read, and what the kernel writes lies within `attributes`.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size_of::<TestRun>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(attributes.returned) }
}
