//! The types that a setting is parsed into. None of them can hold a value that the agent could not use.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use globset::{Glob, GlobSet, GlobSetBuilder};
use tracing_subscriber::EnvFilter;

use crate::kernel::probes::{Entry, Ways};

/// `host:port` to listen on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenAddr {
    host: String,
    port: u16,
}

impl ListenAddr {
    /// The socket addresses that it stands for; a name is looked up in /etc/hosts.
    ///
    /// What is listened on is this host's own, which is no matter of other name services; and a program that is linked
    /// statically cannot use them, as they are modules of the C library that the host has.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let found = match self.host.parse() {
            Ok(address) => vec![address],
            Err(_) => addresses_in(&std::fs::read_to_string("/etc/hosts").unwrap_or_default(), &self.host),
        };
        if found.is_empty() {
            let said = format!("{} is neither an address nor a name in /etc/hosts", self.host);
            return Err(io::Error::new(io::ErrorKind::NotFound, said));
        }
        Ok(found.into_iter().map(|address| SocketAddr::new(address, self.port)).collect())
    }

    /// Host name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 lets the kernel choose.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// The addresses that have this name in a file as hosts(5) has it. `localhost` needs no file (RFC 6761 section 6.3).
fn addresses_in(hosts: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in hosts.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        if let Some(address) = address
            && words.any(|word| word.eq_ignore_ascii_case(name))
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    if found.is_empty() && name.eq_ignore_ascii_case("localhost") {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    found
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected host:port, such as 127.0.0.1:9475, [::1]:9475 or localhost:9475";
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let port = port.parse().map_err(|_| format!("{port:?} is no port number; {EXPECTED}"))?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if host.is_empty() {
            return Err(format!("for every address write 0.0.0.0:{port} (IPv4) or [::]:{port} (IPv6 and IPv4)"));
        }
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        match bracketed {
            Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => Ok(Self { host: inner.into(), port }),
            None if host.chars().all(fine) => Ok(Self { host: host.into(), port }),
            _ => Err(EXPECTED.into()),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Shell patterns, compiled; equal when they are written alike.
#[derive(Debug, Clone, Default)]
pub struct Globs {
    patterns: Vec<String>,
    set: GlobSet,
}

impl Globs {
    /// Compiles one pattern to see whether it is one.
    pub fn check(pattern: &str) -> Result<(), String> {
        if pattern.is_empty() {
            return Err("an empty pattern matches nothing; expected one such as eth* or wlan0".into());
        }
        let wrong = |error: globset::Error| format!("no shell pattern: {}; expected one such as eth*", error.kind());
        Glob::new(pattern).map(drop).map_err(wrong)
    }

    /// Compiles all of them.
    pub fn new(patterns: Vec<String>) -> Result<Self, String> {
        let mut builder = GlobSetBuilder::new();
        for pattern in &patterns {
            builder.add(Glob::new(pattern).map_err(|error| error.to_string())?);
        }
        builder.build().map(|set| Self { patterns, set }).map_err(|error| error.to_string())
    }

    /// As they were written.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }
}

impl PartialEq for Globs {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

impl Eq for Globs {}

/// Which interfaces are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceFilter {
    /// At least one of these must match.
    pub include: Globs,
    /// None of these may.
    pub exclude: Globs,
}

impl InterfaceFilter {
    /// Whether an interface of this name is counted.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.include.set.is_match(name) && !self.exclude.set.is_match(name)
    }
}

impl Default for InterfaceFilter {
    fn default() -> Self {
        let include = Globs::new(vec!["*".into()]).expect("`*` is a pattern");
        Self { include, exclude: Globs::default() }
    }
}

/// Up to four UDP ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardPorts(Vec<u16>);

impl WireguardPorts {
    /// How many there can be: the kernel side compares with each in turn.
    pub const MAX: usize = 4;

    /// At most [`Self::MAX`] of them.
    pub fn new(ports: Vec<u16>) -> Result<Self, String> {
        match ports.len() {
            0..=Self::MAX => Ok(Self(ports)),
            n => Err(format!("expected at most {} ports, found {n}", Self::MAX)),
        }
    }

    /// The ports, in host byte order.
    #[must_use]
    pub fn ports(&self) -> &[u16] {
        &self.0
    }

    /// Filled up with 0, which is no port.
    #[must_use]
    pub fn padded(&self) -> [u16; Self::MAX] {
        let mut all = [0; Self::MAX];
        all.iter_mut().zip(&self.0).for_each(|(slot, port)| *slot = *port);
        all
    }
}

impl Default for WireguardPorts {
    fn default() -> Self {
        Self(vec![51820])
    }
}

/// `tracing` filter directives that are known to parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

    /// The directives.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The filter that they describe.
    #[must_use]
    pub fn filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            "expected off, error, warn, info, debug, trace, or directives such as \"info,mpsec_agent=debug\"";
        // A lone word that is no level would be taken for a target to trace, which is never what `inof` meant.
        for word in text.split(',').map(str::trim).filter(|word| !word.contains(['=', '[', ':'])) {
            if !Self::LEVELS.contains(&word.to_ascii_lowercase().as_str()) {
                return Err(format!("{word:?} is no level; {expected}"));
            }
        }
        EnvFilter::try_new(text).map_err(|error| format!("{error}; {expected}"))?;
        Ok(Self(text.to_owned()))
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".into())
    }
}

/// An enum whose values are words of the configuration.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// The words for it.
            pub const WORDS: &[&str] = &[$($word),+];

            /// The word for this one.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(super::keys::expected_word(text, Self::WORDS)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// How the classifier is attached to an interface.
    Attach {
        /// TCX where the kernel has it, else clsact.
        #[default]
        Auto = "auto",
        /// TCX only.
        Tcx = "tcx",
        /// The clsact qdisc only.
        Clsact = "clsact",
    }
}

words! {
    /// Which ways into the kernel probes may take.
    Probes {
        /// The first that works.
        #[default]
        Auto = "auto",
        /// None.
        Off = "off",
        /// Tracepoints with types.
        TpBtf = "tp_btf",
        /// Functions, through trampolines.
        Fentry = "fentry",
        /// Functions, through breakpoints.
        Kprobe = "kprobe",
    }
}

impl From<Probes> for Ways {
    fn from(probes: Probes) -> Ways {
        match probes {
            Probes::Auto => Ways::Any,
            Probes::Off => Ways::None,
            Probes::TpBtf => Ways::Only(Entry::TpBtf),
            Probes::Fentry => Ways::Only(Entry::Fentry),
            Probes::Kprobe => Ways::Only(Entry::Kprobe),
        }
    }
}

words! {
    /// How log lines are written.
    LogFormat {
        /// The journal where stderr is one, else text.
        #[default]
        Auto = "auto",
        /// Lines on stderr.
        Text = "text",
        /// The journal's own protocol, with fields.
        Journald = "journald",
    }
}

words! {
    /// What the eBPF programs log.
    KernelLog {
        /// Nothing; the programs do not even reserve room for it.
        #[default]
        Off = "off",
        /// Errors.
        Error = "error",
        /// And what is suspicious.
        Warn = "warn",
        /// And what is noteworthy.
        Info = "info",
        /// And what helps to find a fault.
        Debug = "debug",
        /// And each step.
        Trace = "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_to_listen_on_are_those_of_the_hosts_file() {
        let hosts =
            "127.0.0.1 localhost # ::2 tower\n10.0.0.7\ttower tower.example\nfd00::7 Tower\n10.0.0.7 tower\nno tower\n";
        let found = |name| addresses_in(hosts, name).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(found("tower"), "10.0.0.7 fd00::7");
        assert_eq!(found("localhost"), "127.0.0.1");
        assert_eq!(found("towe"), "");
        assert_eq!(addresses_in("", "localhost").len(), 2);
        let listen = |text: &str| text.parse::<ListenAddr>().expect("it is host:port").resolve();
        assert_eq!(listen("[::1]:80").unwrap(), ["[::1]:80".parse().unwrap()]);
        assert!(listen("no-such-host.invalid:80").unwrap_err().to_string().contains("/etc/hosts"));
    }
}
