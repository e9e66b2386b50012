//! The arguments of the commands that plan and change things.

use std::path::PathBuf;

use clap::{ArgMatches, Args, FromArgMatches, Subcommand, ValueHint};

use crate::config::{AgentConfig, Given, KEYS, Loader, Override};
use crate::control::ask::{Ask, LinkSwitch, Settings};

pub(super) const PLAN_EXAMPLES: &str = "\
Examples:
  mpsec plan
  mpsec plan --set mptcp.path_manager=fullmesh
  mpsec plan --check || mpsec apply

Without a running agent the command looks at the host by itself. Exits with 0 where it could be done, with 1 where it would be
refused, and with --check with 2 where there is something to change.";

pub(super) const APPLY_EXAMPLES: &str = "\
Examples:
  mpsec apply
  mpsec apply --set mptcp.path_manager=fullmesh --set mptcp.enabled=true
  mpsec apply --unset mptcp.path_manager

All or nothing: when one change fails, those before it are taken back. What is set wins over file and flags, and is kept until
it is unset. mpsec release gives everything back.";

/// `mpsec plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Exit with 2 where there is something to change
    #[arg(long)]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentArgs,
}

/// `mpsec apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentArgs,
}

/// `mpsec release`.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentArgs,
}

/// `mpsec link`.
#[derive(Debug, Subcommand)]
pub enum LinkCommand {
    /// Switch an interface on
    Up(LinkArgs),
    /// Switch an interface off
    Down(LinkArgs),
}

/// `mpsec link up` and `down`.
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// Name of the interface
    interface: String,
    /// Say what would happen, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentArgs,
}

/// `mpsec audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// So many entries, the newest at the end
    #[arg(long, value_name = "N", default_value = "20")]
    pub last: usize,
    /// Print a line of JSON for each
    #[arg(long)]
    pub json: bool,
    /// Where the log is.
    #[command(flatten)]
    pub agent: AgentArgs,
}

#[derive(Debug, Args)]
struct SettingsArgs {
    /// A setting that wins over the configuration file and is kept in the state folder
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Drop an earlier --set of this key
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
}

/// What is asked for, whichever command it came by.
#[derive(Debug)]
pub struct ActCommand {
    /// What.
    pub ask: Ask,
    /// Whether to answer in JSON.
    pub json: bool,
    /// Whether something to change is no success.
    pub check: bool,
    /// How to reach the agent, or do without.
    pub agent: AgentArgs,
}

impl From<PlanArgs> for ActCommand {
    fn from(args: PlanArgs) -> Self {
        let PlanArgs { settings, check, json, agent } = args;
        ActCommand { ask: Ask::Plan(settings.into()), json, check, agent }
    }
}

impl From<ApplyArgs> for ActCommand {
    fn from(ApplyArgs { settings, json, agent }: ApplyArgs) -> Self {
        ActCommand { ask: Ask::Apply(settings.into()), json, check: false, agent }
    }
}

impl From<ReleaseArgs> for ActCommand {
    fn from(ReleaseArgs { json, agent }: ReleaseArgs) -> Self {
        ActCommand { ask: Ask::Release, json, check: false, agent }
    }
}

impl From<LinkCommand> for ActCommand {
    fn from(command: LinkCommand) -> Self {
        let (up, args) = match command {
            LinkCommand::Up(args) => (true, args),
            LinkCommand::Down(args) => (false, args),
        };
        let LinkArgs { interface: name, dry_run, json, agent } = args;
        ActCommand { ask: Ask::Link(LinkSwitch { name, up, dry_run }), json, check: false, agent }
    }
}

impl From<SettingsArgs> for Settings {
    fn from(SettingsArgs { set, unset }: SettingsArgs) -> Self {
        Settings { set, unset }
    }
}

/// How to reach the agent, and the configuration for doing without one.
#[derive(Clone, Debug)]
pub struct AgentArgs {
    /// The configuration, with those keys that are flags here, and the environment.
    pub loader: Loader,
    /// The agent's socket, where it was named.
    pub control_socket: Option<PathBuf>,
}

/// Settings that these commands have a flag for. All others come from the file and the environment.
const FLAGS: &[&str] = &[SOCKET, "agent.state_dir"];
/// The setting that says where the agent is asked.
const SOCKET: &str = "agent.control_socket";

impl AgentArgs {
    /// The flags of these settings, and that of the file.
    fn arguments(command: clap::Command, names: &[&str]) -> clap::Command {
        let flags = KEYS.iter().filter(|key| names.contains(&key.name));
        let flags = flags.map(|key| super::flag(key).help_heading("The agent").value_hint(ValueHint::AnyPath));
        command.arg(super::config_file().help_heading("The agent")).args(flags)
    }

    /// What was said by the flags of these settings, and by the environment.
    fn given(matches: &ArgMatches, names: &[&str]) -> Self {
        let overrides = KEYS.iter().filter_map(|key| match names.contains(&key.name) {
            true => super::given(key, matches),
            false => {
                let value = std::env::var(key.env).ok().filter(|value| !value.is_empty())?;
                Some(Override { key, values: vec![value], given: Given::Env })
            }
        });
        let loader = Loader { path: super::given_file(matches), overrides: overrides.collect() };
        let socket = loader.overrides.iter().find(|given| given.key.name == SOCKET);
        Self { control_socket: socket.map(|given| given.values.join(",").into()), loader }
    }

    /// The agent's socket, as flag, environment or the configuration name it. A configuration that cannot be read names none:
    /// the agent, if it runs, may read it all the same.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        match self.loader.load() {
            Ok(loaded) => loaded.config.agent.control_socket,
            Err(_) => self.control_socket.clone().unwrap_or_else(|| AgentConfig::default().control_socket),
        }
    }
}

impl Args for AgentArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        Self::arguments(command, FLAGS)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for AgentArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self::given(matches, FLAGS))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Where the agent is asked, for commands that only ask it.
#[derive(Clone, Debug)]
pub struct SocketArgs(AgentArgs);

impl SocketArgs {
    /// As [`AgentArgs::socket`]: reads the configuration.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.socket()
    }
}

impl Args for SocketArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        AgentArgs::arguments(command, &[SOCKET])
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SocketArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(AgentArgs::given(matches, &[SOCKET])))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, parse_from};
    use super::*;

    fn parse(line: &str) -> Result<ActCommand, clap::Error> {
        let cli = parse_from(["mpsec"].into_iter().chain(line.split_whitespace()), "none")?;
        Ok(match cli.command {
            Command::Plan(args) => args.into(),
            Command::Apply(args) => args.into(),
            Command::Release(args) => args.into(),
            Command::Link(command) => command.into(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn words_become_asks() {
        let cases = [
            ("plan", "plan"),
            ("plan --check --set a=b --unset c --set d=e", "plan --set a=b --set d=e --unset c"),
            ("apply --set a=b,c --json", "apply --set a=b,c"),
            ("release", "release"),
            ("link up wan0", "link up wan0"),
            ("link down wan0 --dry-run", "link down wan0"),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line).unwrap().ask.to_string(), expected);
        }
        assert!(parse("plan --check").unwrap().check && parse("apply --json").unwrap().json);
        assert!(!parse("link up a --dry-run").unwrap().ask.is_mutating());
        for line in
            ["apply a=b", "link", "link up", "link wan0 up", "apply --check", "release --set a=b", "plan --cc bbr"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_agent_is_where_the_flags_say() {
        let agent = parse("apply --control-socket /a/b --state-dir /c --config /d").unwrap().agent;
        assert_eq!(agent.control_socket.as_deref(), Some("/a/b".as_ref()));
        assert_eq!(agent.loader.path.as_deref(), Some("/d".as_ref()));
        let names: Vec<&str> = agent.loader.overrides.iter().map(|given| given.key.name).collect();
        assert!(FLAGS.iter().all(|flag| names.contains(flag)), "{names:?}");
        assert_eq!(agent.loader.overrides.iter().filter(|given| given.given == Given::Flag).count(), 2);
    }
    #[test]
    fn those_that_only_ask_find_the_agent_where_the_file_says() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[agent]\ncontrol_socket = \"/a/file\"\n").unwrap();
        let path = file.path().display();
        let socket = |line: String| {
            let words = ["mpsec".to_owned()].into_iter().chain(line.split_whitespace().map(str::to_owned));
            match parse_from(words, "none").unwrap().command {
                Command::Status(args) => args.agent.path(),
                Command::Top(args) => args.agent.path(),
                Command::Doctor(args) => args.agent.path(),
                other => panic!("{other:?}"),
            }
        };
        for command in ["status", "top", "doctor mptcp"] {
            assert_eq!(socket(format!("{command} --config {path}")), PathBuf::from("/a/file"), "{command}");
            let line = format!("{command} --config {path} --control-socket /a/flag");
            assert_eq!(socket(line), PathBuf::from("/a/flag"), "{command}");
        }
        assert_eq!(socket("status --config /no/such/file".to_owned()), AgentConfig::default().control_socket);
    }
}
