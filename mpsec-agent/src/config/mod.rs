//! What the operator asked for: flags, environment and `/etc/mpsec/mpsec.toml`, checked once and then trusted.
//!
//! ```text
//! flag > environment > file > default      every key is one row of `keys::KEYS`
//! ```
//! A new setting is one field of [`Config`] and one row of that table: its flag, its environment variable, the default
//! file, `mpsec config show` and the check for a needed restart follow from the row.

mod error;
mod file;
mod keys;
pub mod multipath;
mod paths;
mod render;
#[cfg(test)]
mod tests;
mod types;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use error::nearest;
pub use error::{ConfigError, EX_USAGE, Place, Problem};
pub use keys::{KEYS, Key, Kind};
pub use multipath::MultipathConfig;
pub use paths::{NetnsConfig, PathsConfig, Peer};
pub use render::{Show, default_toml};
pub use types::{Attach, Globs, InterfaceFilter, KernelLog, ListenAddr, LogFormat, LogLevel, Probes, WireguardPorts};

use keys::Value;

/// Where the configuration is, unless `--config` or `MPSEC_CONFIG` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/mpsec/mpsec.toml";

/// Every setting of the agent, valid by construction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// `[http]`: metrics, JSON and the live page.
    pub http: HttpConfig,
    /// `[interfaces]`: what is counted.
    pub interfaces: InterfacesConfig,
    /// `[classify]`: what counts as encrypted.
    pub classify: ClassifyConfig,
    /// `[mptcp]`: what is told of connections.
    pub mptcp: MptcpConfig,
    /// `[mptcp]` and `[mptcp.force]`: what is changed on the host.
    pub multipath: MultipathConfig,
    /// `[paths]`: how subflows are put together.
    pub paths: PathsConfig,
    /// `[[netns]]`: network namespaces that are watched beside the agent's own.
    pub netns: Vec<NetnsConfig>,
    /// `[agent]`: the agent itself.
    pub agent: AgentConfig,
    /// `[log]`: what it tells about itself.
    pub log: LogConfig,
}

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Addresses to serve on; none means no HTTP at all.
    pub listen: Vec<ListenAddr>,
    /// Prometheus' web configuration file (TLS, users), if any.
    pub web_config: Option<PathBuf>,
    /// Whether clients may change things over HTTPS.
    pub control: bool,
    /// The file with the token for that, if any.
    pub control_token_file: Option<PathBuf>,
    /// Connections served at a time.
    pub max_connections: u32,
}

/// `[interfaces]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfacesConfig {
    /// `include` and `exclude`.
    pub filter: InterfaceFilter,
    /// Size of the kernel's table of interfaces.
    pub max_interfaces: u32,
    /// How the classifier is attached.
    pub attach: Attach,
}

/// `[classify]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassifyConfig {
    /// UDP ports whose traffic is WireGuard.
    pub wireguard_ports: WireguardPorts,
}

/// `[mptcp]`, what is told of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MptcpConfig {
    /// Whether subflows are counted at all.
    pub count: bool,
    /// Which ways into the kernel probes may take.
    pub probes: Probes,
    /// Subflows counted at a time in a network namespace; 0 for as many as [`MptcpConfig::slots`] finds fit.
    pub max_subflows: u32,
    /// Whether metrics have series of single subflows.
    pub subflow_series: bool,
    /// At most so many subflows have series of their own.
    pub max_subflow_series: u32,
}

impl MptcpConfig {
    /// Subflows that can be counted at a time on a host with so many CPUs.
    #[must_use]
    pub fn slots(&self, cpus: u32) -> u32 {
        /// Memory that the tables take of a host without being asked, in bytes.
        const MODEST: u32 = 64 << 20;
        match (self.count, self.max_subflows) {
            (false, _) => 0,
            (true, 0) => 1 << (MODEST / (152 + 128 * cpus.min(1 << 16))).clamp(4096, 32_768).ilog2(),
            (true, asked) => asked,
        }
    }
}

/// `[agent]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// The local control socket.
    pub control_socket: PathBuf,
    /// The group whose members may change things through it, beside root.
    pub control_group: String,
    /// Where it is kept what was changed on the host.
    pub state_dir: PathBuf,
    /// Whether the kernel accounts the run time of BPF programs.
    pub kernel_stats: bool,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogConfig {
    /// What is logged.
    pub level: LogLevel,
    /// How it is written.
    pub format: LogFormat,
    /// What the eBPF programs log.
    pub kernel: KernelLog,
}

impl Config {
    /// The keys that differ in `new` and that only a restart can change.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        KEYS.iter().filter(|key| key.restart && (key.get)(self) != (key.get)(new)).map(|key| key.name).collect()
    }

    /// The keys whose value differs in `new`.
    #[must_use]
    pub fn changed_keys(&self, new: &Self) -> Vec<&'static str> {
        KEYS.iter().filter(|key| (key.get)(self) != (key.get)(new)).map(|key| key.name).collect()
    }

    /// Parses the text of a configuration file over the defaults; `path` names it in errors.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        file::read(text, path, &mut config).map(|_| config)
    }

    /// The whole configuration as a file that reads back as the same.
    #[must_use]
    pub fn to_toml(&self) -> String {
        render::to_toml(self)
    }
}

/// Where the value of a key came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// This line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// This environment variable.
    Env(&'static str),
    /// This flag, without its dashes.
    Flag(&'static str),
    /// `mpsec apply --set`.
    Set,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Set => write!(f, "mpsec apply --set"),
        }
    }
}

/// The settings in effect, and where each came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The merged settings.
    pub config: Config,
    /// Origin of every key of [`KEYS`], by name.
    pub origins: BTreeMap<&'static str, Origin>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
}

/// One setting from the command line or the environment, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The row that it sets.
    pub key: &'static Key,
    /// As typed; more than one where the flag was repeated.
    pub values: Vec<String>,
    /// Where it was given.
    pub given: Given,
}

/// Where a setting was given that is not in the file. Later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// In the environment.
    Env,
    /// On the command line of `mpsec run`.
    Flag,
    /// To the running agent: `mpsec apply --set`.
    Set,
}

/// What is needed to load the settings, now and again on SIGHUP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loader {
    /// The file that was asked for; `None` means [`DEFAULT_PATH`], which may be absent.
    pub path: Option<PathBuf>,
    /// Flags and environment variables, and what was set while the agent runs, which win over the file in this order.
    pub overrides: Vec<Override>,
}

impl Loader {
    /// Reads the file and merges flags and environment over it. Everything that is wrong is reported at once.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let path = self.path.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
        let mut config = Config::default();
        let mut problems = Vec::new();
        let mut origins: BTreeMap<_, _> = KEYS.iter().map(|key| (key.name, Origin::Default)).collect();
        let text = match file::slurp(path) {
            Ok(text) => Some(text),
            Err(error) if self.path.is_none() && error.is_not_found() => None,
            Err(error) => {
                problems.extend(error.into_problems());
                None
            }
        };
        match text.as_deref().map_or(Ok(Vec::new()), |text| file::read(text, path, &mut config)) {
            Ok(lines) => origins
                .extend(lines.into_iter().map(|(key, line)| (key, Origin::File { path: path.to_path_buf(), line }))),
            Err(error) => problems.extend(error.into_problems()),
        }
        for given in &self.overrides {
            match given.apply(&mut config) {
                Ok(()) => drop(origins.insert(given.key.name, given.origin())),
                Err(found) => problems.extend(found),
            }
        }
        ConfigError::check(problems)?;
        Ok(Loaded { config, origins, file: text.map(|_| path.to_path_buf()) })
    }
}

impl Override {
    /// `KEY=VALUE`, as `mpsec apply --set` takes it.
    ///
    /// # Errors
    /// A text of another form, or a key that is not there, or one that only a restart changes.
    pub fn set(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?}: expected KEY=VALUE"))?;
        let key = Self::settable(name)?;
        Ok(Self { key, values: vec![value.to_owned()], given: Given::Set })
    }

    /// The key with this name, if it can be set while the agent runs.
    pub fn settable(name: &str) -> Result<&'static Key, String> {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let hint = error::nearest(name, KEYS.iter().map(|key| key.name));
            let hint = hint.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
            return Err(format!("unknown key {name:?}{hint}"));
        };
        match key.restart {
            true => {
                Err(format!("{name} cannot change while the agent runs: write it into the file and restart the agent"))
            }
            false => Ok(key),
        }
    }

    fn origin(&self) -> Origin {
        match self.given {
            Given::Env => Origin::Env(self.key.env),
            Given::Flag => Origin::Flag(self.key.flag),
            Given::Set => Origin::Set,
        }
    }

    fn apply(&self, config: &mut Config) -> Result<(), Vec<Problem>> {
        let value = || self.values.join(",");
        let place = || match self.given {
            Given::Env => Place::Env { name: self.key.env, value: value() },
            Given::Flag => Place::Flag { name: self.key.flag, value: value() },
            Given::Set => Place::Set { name: self.key.name, value: value() },
        };
        Value::from_words(self.key.kind, &self.values)
            .and_then(|value| (self.key.set)(config, &value))
            .map_err(|wrong| wrong.into_iter().map(|wrong| Problem::new(place(), wrong.message)).collect())
    }
}
