//! Netlink: building requests, walking over attributes, and one request-and-answer socket.
//!
//! Only the framing that every family shares is here; what the messages mean is said where they are used. Integers are in
//! host order unless a family says otherwise. Source: include/uapi/linux/netlink.h.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};

/// Request flag: make what is not there.
pub const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// Request flag: refuse if it is there.
pub const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
/// Request flag: replace what is there.
pub const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
/// Request flag: answer a change, or a question for one thing, with that thing.
pub const ECHO: u16 = libc::NLM_F_ECHO as u16;
/// Length of `struct nlmsghdr` in bytes.
const HEADER_LEN: usize = 16;
/// Bytes that one read can take: what the kernel puts into one dump message at most, and more.
const READ_LEN: usize = 64 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_F_NESTED: u16 = 1 << 15;
/// Kind of an attribute without its two flag bits.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// What the kernel, or the socket, answered instead of what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused; `text` is its own explanation (extended acknowledgement), if it gave one.
    #[error("{}", text.clone().unwrap_or_else(|| error.to_string()))]
    Refused {
        /// The error number as an error.
        error: io::Error,
        /// The kernel's explanation.
        text: Option<String>,
    },
    /// Sending or receiving failed.
    #[error("netlink socket: {0}")]
    Socket(io::Error),
    /// What was to be told changed meanwhile: some of it may be missing, or told twice.
    #[error("it changed while it was listed")]
    Interrupted,
    /// The answer does not hold together.
    #[error("netlink answer cut short")]
    Truncated,
}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> NetlinkError {
        NetlinkError::Socket(error)
    }
}

impl NetlinkError {
    /// The kernel's explanation and its error number in words, where it gave both.
    pub fn in_full(&self) -> String {
        match self {
            Self::Refused { error, text: Some(text) } => format!("{text} ({error})"),
            other => other.to_string(),
        }
    }

    /// The error number, where the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { error, .. } => error.raw_os_error(),
            _ => None,
        }
    }
}

/// A message under construction.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of this type with `NLM_F_REQUEST` and `flags`, followed by the family's own fixed header.
    pub fn new(message_type: u16, flags: u16, family_header: &[u8]) -> Request {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&message_type.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend_from_slice(family_header);
        pad(&mut bytes);
        Request { bytes }
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        let len = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
        self
    }

    /// Appends a string attribute with its terminating zero.
    #[must_use]
    pub fn string(self, kind: u16, value: &str) -> Request {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends an attribute that holds what `fill` appends.
    #[must_use]
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Request) -> Request) -> Request {
        let start = self.bytes.len();
        self = fill(self.attribute(kind | NLA_F_NESTED, &[]));
        let len = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// The bytes that are sent.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A received message: its type, flags and what follows the netlink header.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Message type.
    pub kind: u16,
    flags: u16,
    sequence: u32,
    /// Family header and attributes.
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// Bytes that it takes where it was received, padding included.
    #[expect(clippy::len_without_is_empty, reason = "a message has a header and is never empty")]
    pub fn len(&self) -> usize {
        HEADER_LEN + self.payload.len().next_multiple_of(4)
    }
}

/// The messages in what one read returned. Ends early where a length field does not hold.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let (kind, flags, sequence) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?, u32_at(bytes, 8)?);
        let payload = bytes.get(HEADER_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, flags, sequence, payload })
    })
}

/// The attributes in `bytes` as (kind, value). Ends early where a length field does not hold.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (u16_at(bytes, 0)? as usize, u16_at(bytes, 2)?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    })
}

/// The value of the first attribute of `kind`.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(k, value)| (k == kind).then_some(value))
}

/// A 16-bit integer in host order at `offset`.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// A 32-bit integer in host order at `offset`.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// A string value without its terminating zero.
pub fn string(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A socket on which one request at a time is answered.
pub struct Client {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Client {
    /// Opens a socket of a protocol (`NETLINK_ROUTE`, ...). An answer that takes over five seconds is an error.
    pub fn open(protocol: isize) -> io::Result<Client> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Kernels before 4.20 know no extended acknowledgements; the request then fails without a text.
        let _ = socket.set_ext_ack(true);
        super::set_receive_timeout(&socket, Duration::from_secs(5))?;
        Ok(Client { socket, sequence: 0, buffer: Vec::new() })
    }

    /// Has the kernel look at all of a dump request, and heed the filters in it, or not.
    ///
    /// # Errors
    /// `ENOPROTOOPT` before Linux 4.20, which looks at little more than the family.
    pub fn set_strict(&self, strict: bool) -> io::Result<()> {
        self.socket.set_netlink_get_strict_chk(strict)
    }

    /// Sends a request that is answered by an acknowledgement alone.
    pub fn execute(&mut self, request: Request) -> Result<(), NetlinkError> {
        self.ask(request, |_| ())
    }

    /// The same for a request that is also answered by messages of its own, as those with [`ECHO`].
    pub fn ask(&mut self, request: Request, take: impl FnMut(Message<'_>)) -> Result<(), NetlinkError> {
        self.exchange(request, libc::NLM_F_ACK as u16, take)
    }

    /// Sends a dump request and hands every message of the answer to `take`.
    pub fn dump(&mut self, request: Request, take: impl FnMut(Message<'_>)) -> Result<(), NetlinkError> {
        self.exchange(request, libc::NLM_F_DUMP as u16, take)
    }

    fn exchange(
        &mut self,
        mut request: Request,
        flags: u16,
        mut take: impl FnMut(Message<'_>),
    ) -> Result<(), NetlinkError> {
        let all_flags = u16_at(&request.bytes, 6).unwrap_or_default() | flags;
        request.bytes[6..8].copy_from_slice(&all_flags.to_ne_bytes());
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request.finish(self.sequence), 0)?;
        self.buffer.reserve(READ_LEN);
        let result = self.receive(&mut take);
        self.buffer = Vec::new();
        result
    }

    fn receive(&mut self, take: &mut impl FnMut(Message<'_>)) -> Result<(), NetlinkError> {
        let mut interrupted = false;
        loop {
            self.buffer.clear();
            let len = self.socket.recv(&mut self.buffer, libc::MSG_TRUNC)?;
            let bytes = self.buffer.get(..len).ok_or(NetlinkError::Truncated)?;
            for message in messages(bytes).filter(|message| message.sequence == self.sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE if interrupted => return result(&message).and(Err(NetlinkError::Interrupted)),
                    NLMSG_DONE | NLMSG_ERROR => return result(&message),
                    _ => take(message),
                }
            }
        }
    }
}

/// What an acknowledgement or the end of a dump says.
fn result(message: &Message<'_>) -> Result<(), NetlinkError> {
    let code = u32_at(message.payload, 0).ok_or(NetlinkError::Truncated)? as i32;
    if code == 0 {
        return Ok(());
    }
    let text = (message.kind == NLMSG_ERROR && message.flags & NLM_F_ACK_TLVS != 0).then(|| explanation(message));
    Err(NetlinkError::Refused { error: io::Error::from_raw_os_error(-code), text: text.flatten() })
}

/// The extended acknowledgement behind the error: after the request's header, or after all of the request.
fn explanation(message: &Message<'_>) -> Option<String> {
    let request_len = u32_at(message.payload, 4)? as usize;
    let echoed = if message.flags & NLM_F_CAPPED != 0 { HEADER_LEN } else { request_len.next_multiple_of(4) };
    attribute(message.payload.get(4 + echoed..)?, NLMSGERR_ATTR_MSG).map(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_back() {
        let request = Request::new(7, 0, &[1, 2, 3, 4])
            .string(1, "abc")
            .nested(2, |request| request.attribute(3, &[9]).attribute(4, &5u32.to_ne_bytes()));
        let bytes = request.finish(42);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].sequence), (7, 42));
        let top: Vec<_> = attributes(&all[0].payload[4..]).collect();
        assert_eq!(top[0], (1, &b"abc\0"[..]));
        assert_eq!(string(top[0].1), "abc");
        assert_eq!(attribute(top[1].1, 3), Some(&[9][..]));
        assert_eq!(attribute(top[1].1, 4).and_then(|value| u32_at(value, 0)), Some(5));
    }

    #[test]
    fn lengths_that_do_not_hold_end_the_walk() {
        assert_eq!(messages(&[200, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(messages(&[4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 0]).count(), 0);
        assert_eq!(attributes(&[0, 0]).count(), 0);
    }

    #[test]
    fn the_kernel_explains_a_refusal() {
        let mut client = Client::open(netlink_sys::protocols::NETLINK_ROUTE).expect("a netlink socket");
        // RTM_SETLINK for an interface that cannot be there.
        let mut header = [0u8; 16];
        header[4..8].copy_from_slice(&0x7fff_fffei32.to_ne_bytes());
        let error = client.execute(Request::new(19, 0, &header)).expect_err("no such interface");
        assert!(matches!(error.errno(), Some(libc::ENODEV | libc::EPERM)), "{error}");
    }
}
