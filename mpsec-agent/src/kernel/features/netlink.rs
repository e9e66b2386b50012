//! Requests over netlink whose only interesting answer is whether the kernel takes them.

use std::fmt;
use std::io;

use netlink_sys::{Socket, SocketAddr};

pub(super) const REQUEST_ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
pub(super) const CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(super) const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
pub(super) const EXCL: u16 = libc::NLM_F_EXCL as u16;

const HEADER: usize = 16;
/// NLM_F_ACK_TLVS and NLMSGERR_ATTR_MSG of include/uapi/linux/netlink.h.
const ACK_TLVS: u16 = 0x200;
const ATTR_MSG: u16 = 1;

/// The kernel's "no", with its own words where it gives them.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) errno: i32,
    pub(super) text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => write!(f, "{}", io::Error::from_raw_os_error(self.errno)),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error().unwrap_or(libc::EIO), text: None }
    }
}

/// A socket of one netlink protocol, in the network namespace of the thread that opened it.
pub(super) struct Netlink(Socket);

impl Netlink {
    pub(super) fn open(protocol: i32) -> io::Result<Self> {
        let mut socket = Socket::new(protocol as isize)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Both make answers easier to read; without them they are only terser.
        let _ = (socket.set_ext_ack(true), socket.set_cap_ack(true));
        Ok(Self(socket))
    }

    /// Sends a request and waits for its verdict.
    pub(super) fn request(&self, message: Message) -> Result<(), Refusal> {
        self.0.send(&message.finish(), 0)?;
        loop {
            let mut answer = Vec::with_capacity(4096);
            // The kernel answers such requests before send returns, so that there is nothing to wait for.
            self.0.recv(&mut answer, libc::MSG_DONTWAIT)?;
            if let Some(verdict) = verdict(&answer) {
                return verdict;
            }
        }
    }
}

/// The acknowledgement or error in an answer; `None` where it is something else, such as the data before it.
fn verdict(answer: &[u8]) -> Option<Result<(), Refusal>> {
    if i32::from(u16_at(answer, 4)?) != libc::NLMSG_ERROR {
        return None;
    }
    let code = i32::from_ne_bytes(answer.get(HEADER..HEADER + 4)?.try_into().ok()?);
    if code == 0 {
        return Some(Ok(()));
    }
    // Behind the code comes the header of the request, and behind that what the kernel adds.
    let with_text = u16_at(answer, 6)? & ACK_TLVS != 0;
    let text = if with_text { answer.get(2 * HEADER + 4..).and_then(message_attribute) } else { None };
    Some(Err(Refusal { errno: code.checked_neg()?, text }))
}

fn message_attribute(mut rest: &[u8]) -> Option<String> {
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length).max(4);
        if kind == ATTR_MSG {
            let text = String::from_utf8_lossy(rest.get(4..length)?);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes)
}

/// A request under construction.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A message of `kind` with its fixed part.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST_ACK | flags).to_ne_bytes());
        // Sequence number and port: there is one request at a time, and the kernel knows who sent it.
        bytes.extend([0; 8]);
        bytes.extend(fixed);
        Self(bytes).pad()
    }

    pub(super) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("the probes' attributes are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.pad()
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.attr(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// An attribute that holds attributes.
    pub(super) fn nest(self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let inner = fill(Self(Vec::new()));
        self.attr(kind, &inner.0)
    }

    fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("the probes' messages are short");
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    #[test]
    fn messages_are_laid_out_as_netlink_wants_them() {
        let bytes = Message::new(7, CREATE, &[1, 2, 3]).nest(9, |inner| inner.text(1, "ab")).finish();
        assert_eq!(bytes.len(), 16 + 4 + 4 + 8);
        assert_eq!(u16_at(&bytes, 0).unwrap(), 32);
        assert_eq!(bytes[20..], [12, 0, 9, 0, 7, 0, 1, 0, b'a', b'b', 0, 0].map(u8::to_le)[..]);
    }

    #[test]
    fn refusals_keep_the_kernels_words() {
        let mut answer = Message::new(libc::NLMSG_ERROR as u16, ACK_TLVS, &(-libc::ENOENT).to_ne_bytes()).0;
        answer.extend([0; 16]);
        let attributes = Message(Vec::new()).attr(5, &[0; 3]).text(ATTR_MSG, "no such thing").0;
        answer.extend(attributes);
        let refusal = verdict(&answer).unwrap().unwrap_err();
        assert_eq!((refusal.errno, refusal.to_string().as_str()), (libc::ENOENT, "no such thing"));
        for cut in 0..answer.len() {
            let _ = verdict(&answer[..cut]);
        }
    }
}
