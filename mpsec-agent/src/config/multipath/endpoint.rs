//! `mptcp.endpoints`: what becomes an endpoint of the path manager.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::super::keys::expected_word;
use super::value::pattern;
use crate::kernel::mptcp_pm::EndpointFlags;

/// What an endpoint is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The addresses of interfaces whose names match this shell pattern.
    Interfaces(String),
    /// This address.
    Address(IpAddr),
}

/// What becomes an endpoint, and of which kind: `MATCH[=WORD[+WORD...]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRule {
    /// What it is made from.
    pub matches: Match,
    /// Flags beside, or in place of, those of the path manager's mode; see [`EndpointRule::flags`].
    pub words: EndpointFlags,
    /// Only addresses of this family: 4 or 6.
    pub family: Option<u8>,
    /// A port of its own, of an announced address.
    pub port: Option<u16>,
}

impl EndpointRule {
    const WORDS: [&str; 7] = ["subflow", "signal", "backup", "fullmesh", "laminar", "ipv4", "ipv6"];

    /// The rule for every interface.
    #[must_use]
    pub fn every() -> Self {
        Self { matches: Match::Interfaces("*".into()), words: EndpointFlags(0), family: None, port: None }
    }

    /// The flags of endpoints in a mode that gives them `usual` ones. A rule that says subflow or signal itself has its own.
    #[must_use]
    pub fn flags(&self, usual: EndpointFlags) -> EndpointFlags {
        let kinds = EndpointFlags::SUBFLOW.0 | EndpointFlags::SIGNAL.0 | EndpointFlags::LAMINAR.0;
        if self.words.0 & kinds != 0 { self.words } else { EndpointFlags(self.words.0 | usual.0) }
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        let flag = match word {
            "subflow" => EndpointFlags::SUBFLOW,
            "signal" => EndpointFlags::SIGNAL,
            "backup" => EndpointFlags::BACKUP,
            "fullmesh" => EndpointFlags::FULLMESH,
            "laminar" => EndpointFlags::LAMINAR,
            "ipv4" | "ipv6" => {
                self.family = Some(if word == "ipv4" { 4 } else { 6 });
                return Ok(());
            }
            other => match other.strip_prefix("port:").map(str::parse) {
                Some(Ok(port)) if port > 0 => {
                    self.port = Some(port);
                    return Ok(());
                }
                _ => return Err(format!("{}, or port:N", expected_word(other, &Self::WORDS))),
            },
        };
        self.words = EndpointFlags(self.words.0 | flag.0);
        Ok(())
    }

    /// What the kernel would refuse (mptcp_pm_nl_add_addr_doit, net/mptcp/pm_kernel.c, 6.18), told before.
    fn check(&self, text: &str) -> Result<(), String> {
        let has = |flag: EndpointFlags| self.words.0 & flag.0 != 0;
        let family = |address: &IpAddr| if address.is_ipv4() { 4 } else { 6 };
        match (&self.matches, self.family) {
            _ if has(EndpointFlags::SIGNAL) && has(EndpointFlags::FULLMESH) => {
                Err(format!("{text}: an endpoint is either signal or fullmesh"))
            }
            _ if self.port.is_some() && (!has(EndpointFlags::SIGNAL) || has(EndpointFlags::SUBFLOW)) => {
                Err(format!("{text}: only an endpoint that is signal and not subflow has a port of its own"))
            }
            (Match::Address(address), Some(wanted)) if family(address) != wanted => {
                Err(format!("{text}: this address is not IPv{wanted}"))
            }
            (Match::Address(address), _)
                if address.is_loopback() || address.is_unspecified() || address.is_multicast() =>
            {
                Err(format!("{text}: no path begins at this address"))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for EndpointRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (matches, words) = text.split_once('=').unwrap_or((text, ""));
        let matches = match matches.parse() {
            Ok(address) => Match::Address(address),
            Err(_) => Match::Interfaces(pattern(matches)?),
        };
        let mut rule = EndpointRule { matches, words: EndpointFlags(0), family: None, port: None };
        words.split('+').filter(|word| !word.is_empty()).try_for_each(|word| rule.word(word))?;
        rule.check(text).map(|()| rule)
    }
}

impl fmt::Display for EndpointRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.matches {
            Match::Interfaces(pattern) => f.write_str(pattern)?,
            Match::Address(address) => write!(f, "{address}")?,
        }
        let flags = self.words.names().into_iter();
        let family = self.family.map(|family| format!("ipv{family}"));
        let port = self.port.map(|port| format!("port:{port}"));
        let words: Vec<String> = flags.chain(family).chain(port).collect();
        if words.is_empty() { Ok(()) } else { write!(f, "={}", words.join("+")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_back_as_they_were_written() {
        for text in ["wan*", "lte0=backup", "192.0.2.1=signal+port:4000", "eth*=subflow+fullmesh+ipv6", "2001:db8::1"] {
            assert_eq!(text.parse::<EndpointRule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_rule_adds_to_the_modes_flags_or_has_its_own() {
        let usual = EndpointFlags(EndpointFlags::SUBFLOW.0 | EndpointFlags::FULLMESH.0);
        let flags = |text: &str| text.parse::<EndpointRule>().unwrap().flags(usual).0;
        assert_eq!(flags("wan0"), usual.0);
        assert_eq!(flags("wan0=backup"), usual.0 | EndpointFlags::BACKUP.0);
        assert_eq!(flags("wan0=signal"), EndpointFlags::SIGNAL.0);
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_with_words() {
        let table = [
            ("wan0=signal+fullmesh", "either signal or fullmesh"),
            ("192.0.2.1=port:4000", "has a port of its own"),
            ("192.0.2.1=ipv6", "not IPv6"),
            ("127.0.0.1", "no path begins"),
            ("wan0=bakcup", "did you mean \"backup\""),
            ("wan[", "no shell pattern"),
            ("=backup", "empty pattern"),
        ];
        for (text, expected) in table {
            let error = text.parse::<EndpointRule>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
