//! The extended counters of /proc/net/netstat, by name.
//!
//! The file is pairs of lines that begin with a group's name: the names of its counters, then their values. What a kernel
//! does not have is not there. Source: netstat_seq_show in net/ipv4/proc.c and mptcp_seq_show in net/mptcp/mib.c, Linux 6.18.

use std::io;

/// The counters of two groups, in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mib {
    /// `MPTcpExt`; empty if this kernel has no MPTCP.
    pub mptcp: Vec<(String, u64)>,
    /// `TcpExt`.
    pub tcp: Vec<(String, u64)>,
}

/// A file that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MibError {
    /// The lines of names and of values are not of one length.
    #[error("{group} of netstat has {names} names and {values} values")]
    Lengths {
        /// The group.
        group: String,
        /// Names in the first line.
        names: usize,
        /// Values in the second one.
        values: usize,
    },
    /// A value is no number.
    #[error("{name} of netstat is {value:?}")]
    Value {
        /// The counter.
        name: String,
        /// What stands there.
        value: String,
    },
    /// The line of names has no line of values behind it.
    #[error("{group} of netstat has names and no values")]
    NoValues {
        /// The group.
        group: String,
    },
}

/// Reads the counters of the calling thread's network namespace.
pub fn read() -> io::Result<Mib> {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat")?;
    Mib::parse(&text).map_err(io::Error::other)
}

impl Mib {
    /// The counters in the text of netstat.
    pub fn parse(text: &str) -> Result<Mib, MibError> {
        Ok(Mib { mptcp: group(text, "MPTcpExt")?, tcp: group(text, "TcpExt")? })
    }

    /// The counter of `MPTcpExt` with this name; `None` if this kernel has none.
    pub fn mptcp(&self, name: &str) -> Option<u64> {
        find(&self.mptcp, name)
    }

    /// The counter of `TcpExt` with this name; `None` if this kernel has none.
    pub fn tcp(&self, name: &str) -> Option<u64> {
        find(&self.tcp, name)
    }
}

fn find(counters: &[(String, u64)], name: &str) -> Option<u64> {
    counters.iter().find_map(|(known, value)| (known == name).then_some(*value))
}

/// The counters of one group; none if the text has no such group.
fn group(text: &str, group: &str) -> Result<Vec<(String, u64)>, MibError> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| *name == group);
    let Some((_, names)) = lines.next() else { return Ok(Vec::new()) };
    let (_, values) = lines.next().ok_or_else(|| MibError::NoValues { group: group.to_owned() })?;
    let (names, values): (Vec<_>, Vec<_>) = (names.split_whitespace().collect(), values.split_whitespace().collect());
    if names.len() != values.len() {
        return Err(MibError::Lengths { group: group.to_owned(), names: names.len(), values: values.len() });
    }
    names.into_iter().zip(values).map(|(name, value)| counter(name, value)).collect()
}

fn counter(name: &str, value: &str) -> Result<(String, u64), MibError> {
    let number = value.parse().map_err(|_| MibError::Value { name: name.to_owned(), value: value.to_owned() })?;
    Ok((name.to_owned(), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "TcpExt: SyncookiesSent TCPDSACKRecv\nTcpExt: 3 18446744073709551615\n\
                        IpExt: InNoRoutes\nIpExt: 0\nMPTcpExt: MPCapableSYNRX JoinRejected\nMPTcpExt: 7 0\n";

    #[test]
    fn counters_keep_their_order_and_absent_ones_stay_absent() {
        let mib = Mib::parse(TEXT).expect("it is well formed");
        assert_eq!(mib.mptcp, [("MPCapableSYNRX".to_owned(), 7), ("JoinRejected".to_owned(), 0)]);
        assert_eq!(mib.tcp("TCPDSACKRecv"), Some(u64::MAX));
        assert_eq!((mib.mptcp("Blackhole"), mib.tcp("MPCapableSYNRX")), (None, None));
        let old = Mib::parse("TcpExt: A\nTcpExt: 1\n").expect("a kernel without MPTCP");
        assert_eq!((old.mptcp.len(), old.tcp.len()), (0, 1));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let lengths = MibError::Lengths { group: "MPTcpExt".into(), names: 2, values: 1 };
        assert_eq!(Mib::parse("MPTcpExt: A B\nMPTcpExt: 1\n"), Err(lengths));
        let value = MibError::Value { name: "A".into(), value: "-1".into() };
        assert_eq!(Mib::parse("MPTcpExt: A\nMPTcpExt: -1\n"), Err(value));
        assert_eq!(Mib::parse("TcpExt: A\n"), Err(MibError::NoValues { group: "TcpExt".into() }));
    }

    #[test]
    fn this_kernel_is_read() {
        let mib = read().expect("every namespace has the file");
        assert!(mib.tcp("TCPDSACKRecv").is_some());
    }
}
