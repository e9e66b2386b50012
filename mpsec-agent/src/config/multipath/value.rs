//! Values of settings that belong to an interface or to one of the kernel's settings.

use std::fmt;
use std::str::FromStr;

use globset::Glob;

use super::super::Globs;
use super::super::keys::expected_word;

pub(super) fn pattern(text: &str) -> Result<String, String> {
    Globs::check(text).map(|()| text.to_owned())
}

/// Whether a name matches a shell pattern, which has been checked.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    Glob::new(pattern).is_ok_and(|glob| glob.compile_matcher().is_match(name))
}

/// A value for interfaces whose names match a shell pattern: `GLOB=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerInterface<T> {
    /// The pattern.
    pub interfaces: String,
    /// The value.
    pub value: T,
}

impl<T> PerInterface<T> {
    /// The value for an interface: the first that matches.
    pub fn of<'a>(all: &'a [Self], name: &str) -> Option<&'a T> {
        all.iter().find(|one| matches(&one.interfaces, name)).map(|one| &one.value)
    }

    pub(in crate::config) fn parse(text: &str, value: impl Fn(&str) -> Result<T, String>) -> Result<Self, String> {
        let (interfaces, text) = text.split_once('=').ok_or("expected GLOB=VALUE, such as wan0=... or lte*=...")?;
        Ok(Self { interfaces: pattern(interfaces)?, value: value(text)? })
    }
}

impl<T: fmt::Display> fmt::Display for PerInterface<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.interfaces, self.value)
    }
}

/// A rate in bits per second, a multiple of 8: `10mbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    const UNITS: [(&str, u64); 4] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1000), ("bit", 1)];

    /// Bytes per second.
    #[must_use]
    pub fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a rate from 64kbit to 1000gbit, such as 10mbit";
        let unit = Self::UNITS.into_iter().find_map(|(name, bits)| Some((text.strip_suffix(name)?, bits)));
        let (number, bits) = unit.ok_or(EXPECTED)?;
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        let rate = number.checked_mul(bits).filter(|rate| (64_000..=1_000_000_000_000).contains(rate));
        rate.map(|rate| Self(rate / 8 * 8)).ok_or_else(|| EXPECTED.into())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bits) = Self::UNITS.into_iter().find(|(_, bits)| self.0.is_multiple_of(*bits)).unwrap_or(("bit", 1));
        write!(f, "{}{name}", self.0 / bits)
    }
}

/// A setting below `net.mptcp` that has no key of its own, with a value in its range: `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MptcpSysctl {
    /// The name behind `net.mptcp.`.
    pub name: &'static str,
    /// The value.
    pub value: u32,
}

impl MptcpSysctl {
    /// Names, ranges and units, as net/mptcp/ctrl.c of Linux 6.18 (the last one: 7.2) means them. The kernel takes negative
    /// numbers for those in seconds, which would make no sense.
    const RANGES: [(&'static str, u32, &'static str); 8] = [
        ("add_addr_timeout", 86_400, "seconds"),
        ("allow_join_initial_addr_port", 1, "0 or 1"),
        ("blackhole_timeout", 604_800, "seconds"),
        ("checksum_enabled", 1, "0 or 1"),
        ("close_timeout", 86_400, "seconds"),
        ("stale_loss_cnt", 65_535, "losses"),
        ("syn_retrans_before_tcp_fallback", 255, "retransmissions"),
        ("add_addr_v6_port_drop_ts", 1, "0 or 1"),
    ];
    /// Settings that other keys are for.
    const ELSEWHERE: [(&'static str, &'static str); 4] = [
        ("enabled", "enabled"),
        ("pm_type", "path_manager"),
        ("path_manager", "path_manager"),
        ("scheduler", "scheduler"),
    ];
}

impl FromStr for MptcpSysctl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as stale_loss_cnt=2")?;
        let name = name.strip_prefix("net.mptcp.").unwrap_or(name);
        if let Some((_, key)) = Self::ELSEWHERE.iter().find(|(known, _)| *known == name) {
            return Err(format!("{name} is set with the key mptcp.{key}"));
        }
        let names = Self::RANGES.map(|(name, ..)| name);
        let (name, most, unit) =
            *Self::RANGES.iter().find(|(known, ..)| *known == name).ok_or_else(|| expected_word(name, &names))?;
        let value = value.parse().ok().filter(|value| *value <= most);
        let value = value.ok_or_else(|| format!("{name}: expected a whole number from 0 to {most} ({unit})"))?;
        Ok(Self { name, value })
    }
}

impl fmt::Display for MptcpSysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        for (text, bytes) in [("10mbit", 1_250_000), ("64kbit", 8000), ("1gbit", 125_000_000)] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.bytes_per_second(), rate.to_string()), (bytes, text.to_owned()));
        }
        for text in ["10", "mbit", "1kbit", "-1mbit", "99999999999gbit"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn sysctls_have_ranges_that_the_kernel_lacks() {
        let parse = |text: &str| text.parse::<MptcpSysctl>();
        assert_eq!(parse("net.mptcp.close_timeout=60").unwrap().to_string(), "close_timeout=60");
        for (text, expected) in [
            ("close_timeout=-1", "from 0 to 86400"),
            ("checksum_enabled=2", "from 0 to 1"),
            ("enabled=1", "key mptcp.enabled"),
            ("stale_loss=1", "did you mean \"stale_loss_cnt\""),
        ] {
            assert!(parse(text).unwrap_err().contains(expected), "{text}");
        }
    }
}
