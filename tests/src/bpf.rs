//! Small programs that are not MPSec's, through bpf(2): something foreign that has to stay as it is, and a judge of
//! socket buffers.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use anyhow::{Context, Result, ensure};

const OBJ_PIN: libc::c_int = 6;
const PROG_LOAD: libc::c_int = 5;
const PROG_GET_NEXT_ID: libc::c_int = 11;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;

const SCHED_CLS: u64 = 3;
/// Offset of the name in `struct bpf_prog_info`.
const INFO_NAME: usize = 64;
/// TC_ACT_UNSPEC and TCX_NEXT: leave the packet to whoever comes next.
const NEXT: i32 = -1;
/// TC_ACT_SHOT.
const DROP: i32 = 2;

/// A TC hook of a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hook {
    /// Received packets.
    Ingress,
    /// Sent packets.
    Egress,
}

impl Hook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The word that tc uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// BPF_TCX_INGRESS and BPF_TCX_EGRESS.
    fn attach_type(self) -> u64 {
        match self {
            Self::Ingress => 46,
            Self::Egress => 47,
        }
    }
}

/// A loaded TC program.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// In front of all others (`BPF_F_BEFORE`).
const BEFORE: u64 = 1 << 3;

/// A program attached through TCX. It is detached on drop.
#[derive(Debug)]
pub struct Link(#[expect(dead_code, reason = "held open, so that the program stays attached")] OwnedFd);

impl Program {
    /// A program that lets every packet go on.
    pub fn pass(name: &str) -> Result<Self> {
        Self::load(name, &[instruction(0xb7, 0, 0, 0, NEXT), instruction(0x95, 0, 0, 0, 0)])
    }

    /// A program that drops packets whose bytes are not all in the linear part of the socket buffer.
    pub fn drop_paged(name: &str) -> Result<Self> {
        Self::load(
            name,
            &[
                instruction(0x61, 2, 1, 76, 0), // r2 = skb->data
                instruction(0x61, 3, 1, 80, 0), // r3 = skb->data_end
                instruction(0x61, 4, 1, 0, 0),  // r4 = skb->len
                instruction(0x1f, 3, 2, 0, 0),  // r3 -= r2
                instruction(0x3d, 3, 4, 2, 0),  // if r3 >= r4 skip two
                instruction(0xb7, 0, 0, 0, DROP),
                instruction(0x95, 0, 0, 0, 0),
                instruction(0xb7, 0, 0, 0, NEXT),
                instruction(0x95, 0, 0, 0, 0),
            ],
        )
    }

    fn load(name: &str, instructions: &[u64]) -> Result<Self> {
        ensure!(name.len() < 16, "the name {name} is too long");
        let mut attr = [0u64; 16];
        attr[0] = SCHED_CLS | (instructions.len() as u64) << 32;
        attr[1] = instructions.as_ptr() as u64;
        attr[2] = c"GPL".as_ptr() as u64;
        let mut label = [0u8; 16];
        label[..name.len()].copy_from_slice(name.as_bytes());
        attr[6] = u64::from_ne_bytes(label[..8].try_into()?);
        attr[7] = u64::from_ne_bytes(label[8..].try_into()?);
        descriptor(PROG_LOAD, &mut attr).map(Self).with_context(|| format!("load {name}"))
    }

    /// Attaches to the device with this index, in the namespace of the calling thread, behind what is there.
    pub fn attach_tcx(&self, ifindex: u32, hook: Hook) -> Result<Link> {
        self.attach_tcx_with(ifindex, hook, 0)
    }

    /// The same, in front of what is there.
    pub fn attach_tcx_first(&self, ifindex: u32, hook: Hook) -> Result<Link> {
        self.attach_tcx_with(ifindex, hook, BEFORE)
    }

    fn attach_tcx_with(&self, ifindex: u32, hook: Hook, flags: u64) -> Result<Link> {
        let mut attr = [0u64; 16];
        attr[0] = self.0.as_raw_fd() as u64 | u64::from(ifindex) << 32;
        attr[1] = hook.attach_type() | flags << 32;
        descriptor(LINK_CREATE, &mut attr).map(Link).with_context(|| format!("TCX {}", hook.name()))
    }

    /// Gives the program a name in a BPF file system, by which other programs can find it.
    pub fn pin(&self, path: &str) -> Result<()> {
        let path = CString::new(path)?;
        let mut attr = [0u64; 16];
        attr[0] = path.as_ptr() as u64;
        attr[1] = self.0.as_raw_fd() as u64;
        call(OBJ_PIN, &mut attr).map(drop).with_context(|| format!("pin at {path:?}"))
    }

    /// The number under which the kernel knows the program.
    pub fn id(&self) -> Result<u32> {
        Ok(u32::from_ne_bytes(info(self.0.as_raw_fd())?[4..8].try_into()?))
    }
}

/// The programs attached through TCX to the device with this index, in the namespace of the calling thread: number and
/// name, in the order in which they run.
pub fn query_tcx(ifindex: u32, hook: Hook) -> Result<Vec<(u32, String)>> {
    let mut ids = [0u32; 64];
    let mut attr = [0u64; 16];
    attr[0] = u64::from(ifindex) | hook.attach_type() << 32;
    attr[2] = ids.as_mut_ptr() as u64;
    attr[3] = ids.len() as u64;
    call(PROG_QUERY, &mut attr).with_context(|| format!("query TCX {}", hook.name()))?;
    let count = usize::try_from(attr[3] & u64::from(u32::MAX))?;
    ids[..count].iter().map(|id| Ok((*id, name(*id)?))).collect()
}

/// The name of a loaded program.
pub fn name(id: u32) -> Result<String> {
    let mut attr = [0u64; 16];
    attr[0] = u64::from(id);
    let program = descriptor(PROG_GET_FD_BY_ID, &mut attr).with_context(|| format!("program {id}"))?;
    let info = info(program.as_raw_fd())?;
    let name = info[INFO_NAME..INFO_NAME + 16].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The names of all programs that are loaded, in every namespace.
pub fn all_names() -> Result<Vec<String>> {
    let (mut names, mut id) = (Vec::new(), 0u32);
    loop {
        let mut attr = [0u64; 16];
        attr[0] = u64::from(id);
        match call(PROG_GET_NEXT_ID, &mut attr) {
            Ok(_) => id = u32::try_from(attr[0] >> 32)?,
            Err(error) if is_not_found(&error) => return Ok(names),
            Err(error) => return Err(error).context("the next program"),
        }
        // It may have gone meanwhile.
        names.extend(name(id).ok());
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error() == Some(libc::ENOENT))
}

fn info(program: RawFd) -> Result<[u8; 256]> {
    let mut info = [0u8; 256];
    let mut attr = [0u64; 16];
    attr[0] = program as u64 | (info.len() as u64) << 32;
    attr[1] = info.as_mut_ptr() as u64;
    call(OBJ_GET_INFO_BY_FD, &mut attr).context("program info")?;
    Ok(info)
}

/// One instruction, as `struct bpf_insn` lies in memory on a little-endian machine.
fn instruction(code: u8, to: u8, from: u8, offset: u16, immediate: i32) -> u64 {
    let registers = to | from << 4;
    u64::from(code) | u64::from(registers) << 8 | u64::from(offset) << 16 | u64::from(immediate as u32) << 32
}

fn descriptor(command: libc::c_int, attr: &mut [u64; 16]) -> Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the commands that come here make a descriptor for the caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: libc::c_int, attr: &mut [u64; 16]) -> Result<RawFd> {
    let size = size_of_val(attr);
    // SAFETY: `attr` is a `union bpf_attr` of `size` bytes, zero beyond what the caller set, and the pointers that the
    // caller put in are to memory that it holds during the call.
    let returned = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size) };
    let returned = RawFd::try_from(returned)?;
    if returned < 0 { Err(io::Error::last_os_error().into()) } else { Ok(returned) }
}
