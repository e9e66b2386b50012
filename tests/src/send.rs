//! Two ways to send a frame that leave different socket buffers behind: in one piece, or with only the link header in the
//! linear part.

use std::io;
use std::mem::size_of;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::netns::{Netns, check};
use crate::packet_socket::PacketSocket;

/// Bytes of a slot of the ring, header included.
const SLOT: usize = 4096;
/// Slots of the ring.
const SLOTS: usize = 64;
/// Where the frame begins in its slot (`tpacket_snd` in net/packet/af_packet.c, Linux 6.18).
const DATA: usize = libc::TPACKET2_HDRLEN - size_of::<libc::sockaddr_ll>();

/// What the sender makes of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Buffer {
    /// A linear socket buffer: every byte can be read directly.
    Linear,
    /// A socket buffer whose linear part ends with the link header, as a TX ring makes it.
    Paged,
}

/// A sender of frames.
#[derive(Debug)]
pub enum Sender {
    /// Makes linear buffers.
    Plain(PacketSocket),
    /// Makes paged buffers.
    Ring(Ring),
}

impl Sender {
    /// A sender on a device.
    pub fn new(netns: &Netns, device: &str, buffer: Buffer) -> Result<Self> {
        let socket = PacketSocket::sender(netns, device)?;
        Ok(match buffer {
            Buffer::Linear => Self::Plain(socket),
            Buffer::Paged => Self::Ring(Ring::new(socket)?),
        })
    }

    /// Sends one frame. It has left the device's queue when this returns.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        match self {
            Self::Plain(socket) => socket.send(frame),
            Self::Ring(ring) => ring.send(frame),
        }
    }
}

/// A ring of frames that the kernel sends out of our own memory (PACKET_TX_RING, TPACKET_V2).
#[derive(Debug)]
pub struct Ring {
    socket: PacketSocket,
    memory: NonNull<u8>,
    next: usize,
}

// SAFETY: the mapping belongs to this value alone; nothing in it is tied to a thread.
unsafe impl Send for Ring {}

impl Ring {
    fn new(socket: PacketSocket) -> Result<Self> {
        socket.set(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as libc::c_int)?;
        let request = libc::tpacket_req {
            tp_block_size: SLOT as u32,
            tp_block_nr: SLOTS as u32,
            tp_frame_size: SLOT as u32,
            tp_frame_nr: SLOTS as u32,
        };
        socket.set(libc::PACKET_TX_RING, request)?;
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let memory = unsafe { libc::mmap(ptr::null_mut(), SLOT * SLOTS, access, flags, socket.fd(), 0) };
        ensure!(memory != libc::MAP_FAILED, "mmap of the ring: {}", io::Error::last_os_error());
        let memory = NonNull::new(memory.cast()).context("the ring is at address 0")?;
        Ok(Self { socket, memory, next: 0 })
    }

    fn send(&mut self, frame: &[u8]) -> Result<()> {
        ensure!(DATA + frame.len() <= SLOT, "a frame of {} bytes does not fit a slot", frame.len());
        // SAFETY: `next` is below SLOTS, so the slot lies inside the mapping; slots are page-aligned.
        let slot = unsafe { self.memory.add(self.next * SLOT) };
        self.next = (self.next + 1) % SLOTS;
        let header = slot.cast::<libc::tpacket2_hdr>().as_ptr();
        // SAFETY: `header` points to an aligned tpacket2_hdr in the mapping; tp_status is its first word, and the kernel
        // and we take turns at the slot through it.
        let status = unsafe { AtomicU32::from_ptr(&raw mut (*header).tp_status) };
        ensure!(status.load(Ordering::Acquire) == libc::TP_STATUS_AVAILABLE, "the slot is still in use");
        // SAFETY: the slot is ours while it is available, and the frame was checked to fit.
        unsafe {
            (*header).tp_len = frame.len() as u32;
            ptr::copy_nonoverlapping(frame.as_ptr(), slot.as_ptr().add(DATA), frame.len());
        }
        status.store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
        // SAFETY: no data beside the ring, so a null pointer with length 0 is what the kernel wants.
        let sent = unsafe { libc::send(self.socket.fd(), ptr::null(), 0, 0) };
        check(if sent < 0 { -1 } else { 0 }).with_context(|| format!("send {} bytes off the ring", frame.len()))?;
        match status.load(Ordering::Acquire) {
            libc::TP_STATUS_WRONG_FORMAT => bail!("the kernel refuses the frame"),
            _ => Ok(()),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and nothing refers to it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), SLOT * SLOTS) };
    }
}
