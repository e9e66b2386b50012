//! The subscription to the path manager's events.

use std::io;

use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

use super::event::Event;
use super::{PathManagerError, family};
use crate::kernel::link::Overflow;
use crate::kernel::netlink::{Client, messages};

/// Group that events are sent to; subscribing needs CAP_NET_ADMIN.
const EVENT_GROUP: &str = "mptcp_pm_events";
/// Room for tens of thousands of events that come at once; the default holds a few hundred.
const RECEIVE_BUFFER: libc::c_int = 16 * 1024 * 1024;
/// Longer than any event: the kernel makes them in NLMSG_DEFAULT_SIZE bytes, which is less than a page or two.
const READ_LEN: usize = 64 * 1024;
/// Messages that one call takes at most.
const MOST_AT_ONCE: usize = 1024;

/// A subscription to what happens to the MPTCP connections of the network namespace that it was made in.
pub struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
    family: u16,
    /// What went wrong after events had been read, which are told first.
    trouble: Option<io::Error>,
    undecoded: u64,
}

impl Events {
    /// Subscribes. What happens from now on is told; subscribe first and list the connections then, and none is missed.
    pub fn subscribe() -> Result<Events, PathManagerError> {
        Events::subscribe_with(RECEIVE_BUFFER)
    }

    /// The same with room for another number of bytes, of which an event takes about a kilobyte or two.
    pub fn subscribe_with(receive_buffer: libc::c_int) -> Result<Events, PathManagerError> {
        let mut client = Client::open(libc::NETLINK_GENERIC as isize)?;
        let family = family(&mut client)?;
        let group = family.group(EVENT_GROUP).ok_or(PathManagerError::NoEvents)?;
        let mut socket = TokioSocket::new(libc::NETLINK_GENERIC as isize)?;
        let inner = socket.socket_mut();
        super::super::force_receive_buffer(inner, receive_buffer)?;
        inner.bind(&SocketAddr::new(0, 0))?;
        inner.add_membership(group)?;
        Ok(Events { socket, buffer: Vec::with_capacity(READ_LEN), family: family.id, trouble: None, undecoded: 0 })
    }

    /// The next events: all that wait, up to a thousand. Cancelling it loses nothing. After an overflow, list anew.
    pub async fn next(&mut self) -> io::Result<Result<Vec<Event>, Overflow>> {
        let mut events = Vec::new();
        while events.is_empty() && self.trouble.is_none() {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer).await {
                Ok(()) => {
                    self.take(&mut events);
                    self.drain(&mut events);
                }
                Err(error) => self.trouble = Some(error),
            }
        }
        match self.trouble.take_if(|_| events.is_empty()) {
            None => Ok(Ok(events)),
            Some(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                super::super::hear_again(self.socket.socket_ref())?;
                Ok(Err(Overflow))
            }
            Some(error) => Err(error),
        }
    }

    /// How many messages could not be decoded, ever.
    pub fn undecoded(&self) -> u64 {
        self.undecoded
    }

    /// Reads what waits, without waiting.
    fn drain(&mut self, events: &mut Vec<Event>) {
        for _ in 1..MOST_AT_ONCE {
            self.buffer.clear();
            match self.socket.socket_mut().recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => self.take(events),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.trouble = Some(error);
                    return;
                }
            }
        }
    }

    fn take(&mut self, events: &mut Vec<Event>) {
        let mut len = 0;
        for message in messages(&self.buffer) {
            len += message.len();
            match Event::decode(message.payload) {
                Ok(event) if message.kind == self.family => events.push(event),
                _ => self.undecoded += 1,
            }
        }
        self.undecoded += u64::from(len < self.buffer.len());
    }
}
