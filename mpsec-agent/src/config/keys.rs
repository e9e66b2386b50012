//! The table of settings: one row a key.

mod mptcp;

use std::fmt;
use std::path::PathBuf;
use std::sync::LazyLock;

use super::error::nearest;
use super::types::{Globs, WireguardPorts};
use super::{AgentConfig, ClassifyConfig, Config, HttpConfig, InterfacesConfig, MptcpConfig, NetnsConfig, Probes};

/// One setting.
#[derive(Clone, Copy)]
pub struct Key {
    /// `section.key`, as in the file.
    pub name: &'static str,
    /// The flag of `mpsec run`, without its dashes.
    pub flag: &'static str,
    /// What Prometheus' own programs call that flag.
    pub alias: Option<&'static str>,
    /// The environment variable.
    pub env: &'static str,
    /// What the value looks like.
    pub kind: Kind,
    /// Stands for the value in help texts.
    pub placeholder: &'static str,
    /// What it does, in whole sentences; the first one is the help text of the flag.
    pub doc: &'static str,
    /// Whether only a restart of the agent changes it.
    pub restart: bool,
    pub(super) set: fn(&mut Config, &Value) -> Result<(), Vec<Wrong>>,
    pub(super) get: fn(&Config) -> Value,
}

/// The shape of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A list of strings; one string stands for a list of one.
    Texts,
    /// A whole number.
    Number,
    /// A list of whole numbers; one number stands for a list of one.
    Numbers,
    /// `true` or `false`.
    Switch,
}

/// The settings, in the order in which the default file shows them.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| [BEFORE, mptcp::KEYS, AFTER].concat());

const BEFORE: &[Key] = &[
    Key {
        name: "netns",
        flag: "netns",
        alias: None,
        env: "MPSEC_NETNS",
        kind: Kind::Texts,
        placeholder: "NAME[=PATH]",
        doc: "Network namespaces to watch beside the agent's own, each with its label. A list of NAME or NAME=PATH, or tables: \
              [[netns]] with name = \"blue\" and, if it is not /run/netns/blue, path = \"/proc/PID/ns/net\". Needs \
              CAP_SYS_ADMIN.",
        restart: true,
        set: |config, value| value.items(str::parse).and_then(distinct_names).map(|all| config.netns = all),
        get: |config| Value::texts(&config.netns),
    },
    Key {
        name: "http.listen",
        flag: "listen",
        alias: Some("web.listen-address"),
        env: "MPSEC_LISTEN",
        kind: Kind::Texts,
        placeholder: "HOST:PORT",
        doc: "Where metrics, JSON and the live page are served. One address or a list; an empty list turns HTTP off. \
              Whoever can reach it can read what the agent sees: beyond this host, set web_config too.",
        restart: true,
        set: |config, value| value.items(|text: &str| text.parse()).map(|all| config.http.listen = all),
        get: |config| Value::texts(&config.http.listen),
    },
    Key {
        name: "http.web_config",
        flag: "web-config",
        alias: Some("web.config.file"),
        env: "MPSEC_WEB_CONFIG",
        kind: Kind::Text,
        placeholder: "FILE",
        doc: "File with TLS certificates and users, in the format of Prometheus' exporters. Empty means none: plain \
              HTTP without a password. What the file holds is read again when it changes.",
        restart: true,
        set: |config, value| value.item(optional_path).map(|path| config.http.web_config = path),
        get: |config| Value::path(config.http.web_config.clone().unwrap_or_default()),
    },
    Key {
        name: "http.control",
        flag: "http-control",
        alias: None,
        env: "MPSEC_HTTP_CONTROL",
        kind: Kind::Switch,
        placeholder: "BOOL",
        doc: "Let clients change things over HTTPS, as mpsec apply, release and link do. Needs TLS in web_config, and clients with \
              a certificate that it verifies (every one of them may), or with the token in control_token_file. Never over plain \
              HTTP, and never with a password alone.",
        restart: true,
        set: |config, value| value.switch().map(|on| config.http.control = on),
        get: |config| Value::Switch(config.http.control),
    },
    Key {
        name: "http.control_token_file",
        flag: "http-control-token-file",
        alias: None,
        env: "MPSEC_HTTP_CONTROL_TOKEN_FILE",
        kind: Kind::Text,
        placeholder: "FILE",
        doc: "File with a token of at least 32 characters (openssl rand -hex 32), with which clients may change things: \
              Authorization: Bearer TOKEN. Only root, the agent's user and the file's group may be able to read it. Read again \
              when it changes. Empty means none.",
        restart: true,
        set: |config, value| value.item(optional_path).map(|path| config.http.control_token_file = path),
        get: |config| Value::path(config.http.control_token_file.clone().unwrap_or_default()),
    },
    Key {
        name: "http.max_connections",
        flag: "max-connections",
        alias: None,
        env: "MPSEC_MAX_CONNECTIONS",
        kind: Kind::Number,
        placeholder: "N",
        doc: "HTTP connections served at a time, from 1 to 65536; more wait to be accepted.",
        restart: true,
        set: |config, value| value.number(1..=65536).map(|n| config.http.max_connections = n),
        get: |config| Value::Number(config.http.max_connections.into()),
    },
    Key {
        name: "interfaces.include",
        flag: "include",
        alias: None,
        env: "MPSEC_INCLUDE",
        kind: Kind::Texts,
        placeholder: "GLOB",
        doc: "Interfaces to count, as shell patterns on their names (eth*, wlan0, {wg,tun}*). One pattern or a list.",
        restart: false,
        set: |config, value| value.globs().map(|globs| config.interfaces.filter.include = globs),
        get: |config| Value::texts(config.interfaces.filter.include.patterns()),
    },
    Key {
        name: "interfaces.exclude",
        flag: "exclude",
        alias: None,
        env: "MPSEC_EXCLUDE",
        kind: Kind::Texts,
        placeholder: "GLOB",
        doc: "Interfaces to leave alone, even where include matches. One pattern or a list.",
        restart: false,
        set: |config, value| value.globs().map(|globs| config.interfaces.filter.exclude = globs),
        get: |config| Value::texts(config.interfaces.filter.exclude.patterns()),
    },
    Key {
        name: "interfaces.max_interfaces",
        flag: "max-interfaces",
        alias: None,
        env: "MPSEC_MAX_INTERFACES",
        kind: Kind::Number,
        placeholder: "N",
        doc: "Interfaces counted at a time, from 1 to 16384: the size of tables in the kernel. Traffic of an interface \
              beyond it is counted as interface _other.",
        restart: true,
        set: |config, value| value.number(1..=16384).map(|n| config.interfaces.max_interfaces = n),
        get: |config| Value::Number(config.interfaces.max_interfaces.into()),
    },
    Key {
        name: "interfaces.attach",
        flag: "attach",
        alias: None,
        env: "MPSEC_ATTACH",
        kind: Kind::Text,
        placeholder: "auto|tcx|clsact",
        doc: "How the classifier is attached to an interface. auto takes TCX where the kernel has it (6.6 and later), \
              else clsact.",
        restart: true,
        set: |config, value| value.item(str::parse).map(|attach| config.interfaces.attach = attach),
        get: |config| Value::text(config.interfaces.attach),
    },
    Key {
        name: "classify.wireguard_ports",
        flag: "wireguard-ports",
        alias: None,
        env: "MPSEC_WIREGUARD_PORTS",
        kind: Kind::Numbers,
        placeholder: "PORT",
        doc: "UDP ports whose traffic is taken for WireGuard, and so for encrypted. At most four.",
        restart: true,
        set: |config, value| value.ports().map(|ports| config.classify.wireguard_ports = ports),
        get: |config| Value::numbers(config.classify.wireguard_ports.ports()),
    },
];

const AFTER: &[Key] = &[
    Key {
        name: "agent.control_socket",
        flag: "control-socket",
        alias: None,
        env: "MPSEC_CONTROL_SOCKET",
        kind: Kind::Text,
        placeholder: "PATH",
        doc: "The Unix socket through which mpsec's other commands reach the agent.",
        restart: true,
        set: |config, value| value.item(socket_path).map(|path| config.agent.control_socket = path),
        get: |config| Value::path(config.agent.control_socket.clone()),
    },
    Key {
        name: "agent.control_group",
        flag: "control-group",
        alias: None,
        env: "MPSEC_CONTROL_GROUP",
        kind: Kind::Text,
        placeholder: "GROUP",
        doc: "The group whose members may use that socket, to look and to change things, beside root. Without such a group \
              on this host only root may.",
        restart: true,
        set: |config, value| value.item(group).map(|name| config.agent.control_group = name),
        get: |config| Value::text(&config.agent.control_group),
    },
    Key {
        name: "agent.state_dir",
        flag: "state-dir",
        alias: None,
        env: "MPSEC_STATE_DIR",
        kind: Kind::Text,
        placeholder: "DIR",
        doc: "Where it is kept what MPSec changed on this host, so that it can be given back, and the log of all changes. \
              Made when something is changed for the first time.",
        restart: true,
        set: |config, value| value.item(path).map(|path| config.agent.state_dir = path),
        get: |config| Value::path(config.agent.state_dir.clone()),
    },
    Key {
        name: "agent.kernel_stats",
        flag: "kernel-stats",
        alias: None,
        env: "MPSEC_KERNEL_STATS",
        kind: Kind::Switch,
        placeholder: "BOOL",
        doc: "Let the kernel account the run time of BPF programs, which the metrics about MPSec itself show. It costs \
              about 72 ns each time that any BPF program of the host runs.",
        restart: false,
        set: |config, value| value.switch().map(|on| config.agent.kernel_stats = on),
        get: |config| Value::Switch(config.agent.kernel_stats),
    },
    Key {
        name: "log.level",
        flag: "log-level",
        alias: None,
        env: "MPSEC_LOG_LEVEL",
        kind: Kind::Text,
        placeholder: "LEVEL",
        doc: "What is logged: off, error, warn, info, debug or trace, or a level for each module such as \
              \"info,mpsec_agent::kernel=debug\".",
        restart: false,
        set: |config, value| value.item(str::parse).map(|level| config.log.level = level),
        get: |config| Value::text(config.log.level.as_str()),
    },
    Key {
        name: "log.format",
        flag: "log-format",
        alias: None,
        env: "MPSEC_LOG_FORMAT",
        kind: Kind::Text,
        placeholder: "auto|text|journald",
        doc: "How it is written. auto means journald where standard error is the journal (as in a systemd unit), else \
              text.",
        restart: true,
        set: |config, value| value.item(str::parse).map(|format| config.log.format = format),
        get: |config| Value::text(config.log.format),
    },
    Key {
        name: "log.kernel",
        flag: "kernel-log",
        alias: None,
        env: "MPSEC_KERNEL_LOG",
        kind: Kind::Text,
        placeholder: "LEVEL",
        doc: "What the eBPF programs themselves log: off, error, warn, info, debug or trace. More than warn is for \
              finding faults in them.",
        restart: true,
        set: |config, value| value.item(str::parse).map(|level| config.log.kernel = level),
        get: |config| Value::text(config.log.kernel),
    },
];

impl Default for HttpConfig {
    fn default() -> Self {
        let listen = "127.0.0.1:9475".parse().expect("this is host:port");
        Self { listen: vec![listen], web_config: None, control: false, control_token_file: None, max_connections: 512 }
    }
}

impl Default for InterfacesConfig {
    fn default() -> Self {
        Self { filter: Default::default(), max_interfaces: 1024, attach: Default::default() }
    }
}

#[expect(clippy::derivable_impls, reason = "all defaults of the table stand here together")]
impl Default for ClassifyConfig {
    fn default() -> Self {
        Self { wireguard_ports: WireguardPorts::default() }
    }
}

impl Default for MptcpConfig {
    fn default() -> Self {
        Self { count: true, max_subflows: 0, probes: Probes::Auto, subflow_series: false, max_subflow_series: 256 }
    }
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            control_socket: "/run/mpsec/mpsec.sock".into(),
            control_group: "mpsec".into(),
            state_dir: "/var/lib/mpsec".into(),
            kernel_stats: false,
        }
    }
}

impl Key {
    /// The part before the last dot.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The part after the last dot.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, field)| field)
    }

    /// The first sentence of `doc`.
    #[must_use]
    pub fn summary(&self) -> &'static str {
        self.doc.find(". ").map_or(self.doc.trim_end_matches('.'), |end| &self.doc[..end])
    }

    /// The value in `config`, as TOML.
    #[must_use]
    pub fn value_in(&self, config: &Config) -> String {
        (self.get)(config).to_string()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.name).finish()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Key {}

fn path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("expected a path".into()),
        _ if text.contains('\0') => Err("a path holds no NUL".into()),
        _ => Ok(text.into()),
    }
}

fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() { Ok(None) } else { path(text).map(Some) }
}

fn group(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match !text.is_empty() && text.len() <= 32 && text.chars().all(plain) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is no name of a group")),
    }
}

/// A path that fits `sockaddr_un.sun_path` with its final NUL.
fn socket_path(text: &str) -> Result<PathBuf, String> {
    match text.len() {
        0..=107 => path(text),
        n => Err(format!("expected a path of at most 107 bytes, which is what a Unix socket can have; this has {n}")),
    }
}

/// A label stands for one namespace.
fn distinct_names(all: Vec<NetnsConfig>) -> Result<Vec<NetnsConfig>, Vec<Wrong>> {
    let twice = |(index, netns): (usize, &NetnsConfig)| all[..index].iter().any(|other| other.name == netns.name);
    match all.iter().enumerate().position(|(index, netns)| twice((index, netns))) {
        Some(index) => {
            let message = format!("{} is named twice", all[index].name);
            Err(vec![Wrong { item: Some(index), message }])
        }
        None => Ok(all),
    }
}

pub(super) fn expected_word(found: &str, words: &[&'static str]) -> String {
    let hint =
        nearest(found, words.iter().copied()).map(|word| format!("; did you mean {word:?}?")).unwrap_or_default();
    format!("{found:?} is not one of {}{hint}", words.join(", "))
}

pub(super) use super::value::{Value, Wrong};

impl Value {
    fn globs(&self) -> Result<Globs, Vec<Wrong>> {
        let patterns = self.items(|text: &str| Globs::check(text).map(|()| text.to_owned()))?;
        Globs::new(patterns).map_err(Wrong::whole)
    }

    fn ports(&self) -> Result<WireguardPorts, Vec<Wrong>> {
        WireguardPorts::new(self.numbers_in(1..=65535)?).map_err(Wrong::whole)
    }
}
