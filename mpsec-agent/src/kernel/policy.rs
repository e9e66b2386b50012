//! What the kernel side sets on MPTCP subflows by their local address, and its reports of those that hear nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use aya::maps::{HashMap, Map, MapData, MapError, RingBuf};
use mpsec_common::policy::{self, CONGESTION_LEN, EVERY_ADDRESS, PolicyKey};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is set on each subflow of an address when it is established. What is `None` is left to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Lower bound of the retransmission timeout in microseconds, as the kernel's timer allows: 8,000 to 200,000 at 250
    /// ticks a second (Linux 5.10).
    pub rto_min_us: Option<u32>,
    /// Upper bound of the retransmission timeout in milliseconds, 1,000 to 120,000 (Linux 6.15), of subflows that join: how
    /// soon one notices that its path is back. They are given up no sooner for it.
    pub rto_max_ms: Option<u32>,
    /// Upper bound of the pacing rate in bytes per second.
    pub max_pacing_rate: Option<u64>,
    /// Name of the congestion control, of 15 bytes at most.
    pub congestion: Option<String>,
    /// Whether [`Timeouts`] tells when its retransmission timer expires.
    pub reports_timeouts: bool,
}

/// Why a policy cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// No congestion control has such a name.
    #[error("{0:?} is no name of a congestion control")]
    Name(String),
    /// The map is full, or cannot be written.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// [`policy::Policy`], so that it may be written to a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value(policy::Policy);
// SAFETY: `policy::Policy` is `mpsec_common::Pod`, which promises the same.
unsafe impl aya::Pod for Value {}

/// The policies. They hold for subflows that are established after they were set. The kernel counts what it refuses as the
/// event `subflow_policy_refused`; the rest of that policy holds.
pub struct Policies(HashMap<MapData, PolicyKey, Value>);

impl Policies {
    pub(super) fn new(map: Map) -> Result<Policies, MapError> {
        map.try_into().map(Policies)
    }

    /// Sets the policy for a local address, or for all that have none of their own.
    ///
    /// # Errors
    /// [`PolicyError::Name`], and `E2BIG` for the 257th.
    pub fn set(&mut self, local: Option<IpAddr>, policy: &Policy) -> Result<(), PolicyError> {
        let value = Value(policy.to_shared()?);
        Ok(self.0.insert(key(local), value, 0)?)
    }

    /// Forgets the policy for a local address, or the one for all others. Subflows keep what was set on them.
    ///
    /// # Errors
    /// What `bpf(2)` says. It is none if there was no policy.
    pub fn clear(&mut self, local: Option<IpAddr>) -> Result<(), PolicyError> {
        match self.0.remove(&key(local)) {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => Ok(result?),
        }
    }
}

impl Policy {
    fn to_shared(&self) -> Result<policy::Policy, PolicyError> {
        let mut congestion = [0; CONGESTION_LEN];
        if let Some(name) = &self.congestion {
            let fits =
                !name.is_empty() && name.len() < CONGESTION_LEN && name.bytes().all(|byte| byte.is_ascii_graphic());
            if !fits {
                return Err(PolicyError::Name(name.clone()));
            }
            congestion[..name.len()].copy_from_slice(name.as_bytes());
        }
        Ok(policy::Policy {
            rto_min_us: self.rto_min_us.unwrap_or(0),
            rto_max_ms: self.rto_max_ms.unwrap_or(0),
            max_pacing_rate: self.max_pacing_rate.unwrap_or(0),
            congestion,
            flags: if self.reports_timeouts { policy::flags::REPORT_TIMEOUTS } else { 0 },
            reserved: 0,
        })
    }
}

/// An established subflow's retransmission timer has expired: for a whole timeout nothing was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// Local address.
    pub local: IpAddr,
    /// Remote address.
    pub remote: IpAddr,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// How often it has expired before, without an acknowledgement in between.
    pub retransmits: u32,
    /// Smoothed round-trip time in microseconds.
    pub srtt_us: u32,
}

impl Timeout {
    fn decode(bytes: &[u8]) -> Option<Timeout> {
        if bytes.len() != size_of::<policy::Timeout>() {
            return None;
        }
        // SAFETY: `policy::Timeout` is `mpsec_common::Pod`: every byte pattern of its size is a value; the read needs no
        // alignment.
        let raw: policy::Timeout = unsafe { bytes.as_ptr().cast::<policy::Timeout>().read_unaligned() };
        Some(Timeout {
            local: address(raw.local),
            remote: address(raw.remote),
            at_ns: raw.at_ns,
            local_port: raw.local_port,
            remote_port: raw.remote_port,
            retransmits: raw.retransmits,
            srtt_us: raw.srtt_us,
        })
    }
}

/// The reports of the kernel side. It wakes the reader when there is one, and counts those without room as the event
/// `subflow_timeout_unreported`.
pub struct Timeouts {
    ring: RingBuf<MapData>,
    ready: Option<AsyncFd<i32>>,
}

impl Timeouts {
    pub(super) fn new(map: Map) -> Result<Timeouts, MapError> {
        Ok(Timeouts { ring: map.try_into()?, ready: None })
    }

    /// What was reported since it was asked last, without waiting.
    pub fn take(&mut self) -> Vec<Timeout> {
        let mut reports = Vec::new();
        while let Some(item) = self.ring.next() {
            reports.extend(Timeout::decode(&item));
        }
        reports
    }

    /// Waits for reports. Cancelling it loses nothing. Must be called in a runtime, and in the same one each time.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` says.
    pub async fn next(&mut self) -> io::Result<Vec<Timeout>> {
        if self.ready.is_none() {
            // The ring keeps the descriptor open for as long as it is registered: both belong to `self`.
            // SAFETY: dropped after no more than the ring itself, see `Drop`.
            let fd = unsafe { AsyncFd::register_with_interest(self.ring.as_raw_fd(), Interest::READABLE) }?;
            self.ready = Some(fd);
        }
        loop {
            let reports = self.take();
            if !reports.is_empty() {
                return Ok(reports);
            }
            if let Some(ready) = &self.ready {
                // What comes between the look and this is readable still, since it was not consumed.
                ready.readable().await?.clear_ready();
            }
        }
    }
}

impl Drop for Timeouts {
    fn drop(&mut self) {
        // The registration ends before its descriptor is closed.
        self.ready = None;
    }
}

/// The key of an address: IPv4 mapped into IPv6.
fn key(local: Option<IpAddr>) -> PolicyKey {
    match local {
        None => EVERY_ADDRESS,
        Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(v6)) => v6.octets(),
    }
}

fn address(key: PolicyKey) -> IpAddr {
    let v6 = Ipv6Addr::from(key);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), |v4: Ipv4Addr| IpAddr::V4(v4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_their_keys() {
        for text in ["10.0.1.2", "2001:db8::1", "::1"] {
            let address_in: IpAddr = text.parse().expect("an address");
            assert_eq!(address(key(Some(address_in))), address_in);
        }
        assert_eq!(key(None), EVERY_ADDRESS);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        for name in ["", "0123456789abcdef", "two words"] {
            let policy = Policy { congestion: Some(name.to_owned()), ..Policy::default() };
            assert!(matches!(policy.to_shared(), Err(PolicyError::Name(_))), "{name}");
        }
        let policy = Policy { congestion: Some("cubic".to_owned()), ..Policy::default() };
        assert_eq!(&policy.to_shared().expect("it fits").congestion[..6], b"cubic\0");
    }

    #[test]
    fn a_report_of_another_length_is_none() {
        assert_eq!(Timeout::decode(&[0; 55]), None);
        assert!(Timeout::decode(&[0; 56]).is_some());
    }
}
