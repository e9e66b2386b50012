//! A subscription to changes of addresses, routes and rules: that something changed, not what.
//!
//! Source: include/uapi/linux/rtnetlink.h, Linux 6.18. Everybody may subscribe.

use std::io;
use std::ops::RangeInclusive;

use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

use super::netlink::{Message, attribute, messages, u32_at};
use super::rtnl::{TABLE_DEFAULT, TABLE_MAIN};

mod filter;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
/// `RTNLGRP_` `IPV4_IFADDR`, `IPV4_ROUTE`, `IPV4_RULE`, `IPV6_IFADDR`, `IPV6_ROUTE`, `IPV6_RULE`.
const GROUPS: [u32; 6] = [5, 7, 8, 9, 11, 19];
const RTA_TABLE: u16 = 15;
/// Length of `struct rtmsg` in bytes.
const ROUTE_HEADER_LEN: usize = 12;
/// Room for some thousand changes at once. What comes beyond them costs nothing but the news that everything changed, which is
/// all that could be made of so many anyway.
const RECEIVE_BUFFER: libc::c_int = 2 * 1024 * 1024;
/// Longer than any of these messages, which the kernel sends one by one.
const READ_LEN: usize = 32 * 1024;
/// Messages that are read at most before others have their turn.
const MOST_AT_ONCE: usize = 1024;

/// What is not as it was. It may be so again by the time that one looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// An address came, went, or became usable or unusable.
    pub addresses: bool,
    /// A route came, went or was replaced in a table that is watched.
    pub routes: bool,
    /// A rule came or went.
    pub rules: bool,
}

impl Changed {
    /// What is to be assumed when nothing is known.
    pub const EVERYTHING: Changed = Changed { addresses: true, routes: true, rules: true };

    /// Something changed.
    pub fn any(self) -> bool {
        self.addresses || self.routes || self.rules
    }

    /// What either says.
    #[must_use]
    pub fn or(self, other: Changed) -> Changed {
        Changed {
            addresses: self.addresses || other.addresses,
            routes: self.routes || other.routes,
            rules: self.rules || other.rules,
        }
    }

    fn of(message: &Message<'_>, tables: &RangeInclusive<u32>) -> Changed {
        let none = Changed::default();
        match message.kind {
            RTM_NEWADDR | RTM_DELADDR => Changed { addresses: true, ..none },
            RTM_NEWRULE | RTM_DELRULE => Changed { rules: true, ..none },
            RTM_NEWROUTE | RTM_DELROUTE => Changed { routes: is_watched(message.payload, tables), ..none },
            _ => none,
        }
    }
}

/// Whether a route's table is the main one, the default one or one of `tables`. One that cannot be read is.
fn is_watched(route: &[u8], tables: &RangeInclusive<u32>) -> bool {
    let wide = || attribute(route.get(ROUTE_HEADER_LEN..)?, RTA_TABLE).and_then(|value| u32_at(value, 0));
    let table = wide().or_else(|| route.get(4).map(|table| u32::from(*table)));
    table.is_none_or(|table| matches!(table, TABLE_DEFAULT | TABLE_MAIN) || tables.contains(&table))
}

/// A subscription, of the network namespace that it was made in.
pub struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
    tables: RangeInclusive<u32>,
    /// What went wrong after something had been read, which is told first.
    trouble: Option<io::Error>,
}

impl Events {
    /// Subscribes to addresses, rules, and routes of the tables main, default and `tables`. What happens from now on is told;
    /// subscribe first and list then, and nothing is missed. What oneself does is told too.
    pub fn subscribe(tables: RangeInclusive<u32>) -> io::Result<Events> {
        let mut socket = TokioSocket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        let inner = socket.socket_mut();
        super::force_receive_buffer(inner, RECEIVE_BUFFER).or_else(|_| inner.set_rx_buf_sz(RECEIVE_BUFFER))?;
        // Where this is not to be had, all is heard, and passed over here.
        let _ = filter::attach(inner, &tables);
        inner.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            inner.add_membership(group)?;
        }
        Ok(Events { socket, buffer: Vec::with_capacity(READ_LEN), tables, trouble: None })
    }

    /// Waits for a change and says what all those that wait changed, as far as a bounded number of messages tells: more may
    /// come at once with the next call. Cancelling it loses nothing.
    ///
    /// # Errors
    /// What reading says, but for messages that were lost: then everything changed.
    pub async fn next(&mut self) -> io::Result<Changed> {
        loop {
            if let Some(error) = self.trouble.take() {
                return Err(error);
            }
            self.buffer.clear();
            let first = self.socket.recv(&mut self.buffer).await;
            let changed = self.take(first)?.or(self.drain());
            if changed.any() {
                return Ok(changed);
            }
            // Others have their turn while nothing but what is not watched comes.
            tokio::task::yield_now().await;
        }
    }

    /// Reads what waits, without waiting.
    fn drain(&mut self) -> Changed {
        let mut changed = Changed::default();
        for _ in 1..MOST_AT_ONCE {
            self.buffer.clear();
            let read = self.socket.socket_mut().recv(&mut self.buffer, libc::MSG_DONTWAIT);
            match self.take(read.map(drop)) {
                Ok(more) => changed = changed.or(more),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.trouble = Some(error);
                    break;
                }
            }
        }
        changed
    }

    fn take(&self, read: io::Result<()>) -> io::Result<Changed> {
        match read {
            Ok(()) => Ok(messages(&self.buffer)
                .fold(Changed::default(), |changed, message| changed.or(Changed::of(&message, &self.tables)))),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                super::hear_again(self.socket.socket_ref())?;
                Ok(Changed::EVERYTHING)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::Request;

    #[test]
    fn routes_of_other_tables_are_passed_over() {
        let told = |narrow: u8, wide: Option<u32>| {
            let header = [2, 0, 0, 0, narrow, 0, 0, 0, 0, 0, 0, 0];
            let request = Request::new(RTM_DELROUTE, 0, &header).attribute(1, &[192, 0, 2, 1]);
            let request = match wide {
                Some(table) => request.attribute(RTA_TABLE, &table.to_ne_bytes()),
                None => request,
            };
            let bytes = request.finish(0);
            messages(&bytes).map(|message| Changed::of(&message, &(4800..=4899))).any(Changed::any)
        };
        assert!(told(254, Some(254)) && told(254, None) && told(253, None));
        assert!(told(252, Some(4800)) && told(252, Some(4899)));
        assert!(!told(252, Some(4799)) && !told(252, Some(4900)) && !told(255, Some(255)) && !told(200, None));
        // What cannot be read may be of any table.
        assert!(!is_watched(&[2, 0, 0, 0, 9], &(4800..=4899)) && is_watched(&[2, 0], &(4800..=4899)));
    }
}
