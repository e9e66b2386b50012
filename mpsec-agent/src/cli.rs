//! The command line. Every setting of [`crate::config::KEYS`] is a flag of `mpsec run`, made from its row there.

pub mod act;
pub mod generate;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};

use crate::config::{EX_USAGE, Given, KEYS, Key, Kind, Loader, Override};
use crate::lab::LabArgs;
use crate::top::View;

const EXAMPLES: &str = "\
Examples:
  mpsec doctor                       What can this kernel do, and what mends the rest?
  mpsec doctor mptcp                 Why do connections not use several paths?
  mpsec run                          Run the agent in the foreground; metrics on http://127.0.0.1:9475/metrics
  mpsec run --listen 0.0.0.0:9475    The same, for a Prometheus on another host
  mpsec status                       What is the running agent doing?
  mpsec top                          What are connections and paths doing right now?
  mpsec plan                         What would be changed on this host?
  mpsec apply                        Change it; mpsec release gives everything back
  mpsec config check mpsec.toml      Is this configuration right?

Exit codes: 0 all is well, 1 it is not, 64 wrong usage or configuration; more with plan --check and lab.";

const RUN_EXAMPLES: &str = "\
Examples:
  mpsec run --include 'eth*,wlan*' --exclude eth9
  mpsec run --config ./mpsec.toml --log-level debug
  MPSEC_LISTEN='[::]:9475' mpsec run

A flag wins over its environment variable, that over the configuration file, and the file over the default.
SIGHUP and mpsec config reload have the file read again; SIGINT and SIGTERM stop the agent, which takes away what it attached.";

const TOP_EXAMPLES: &str = "\
Examples:
  mpsec top
  mpsec top --view paths --interval 5
  mpsec top --once --filter wan0 --sort rtt
  mpsec top --json | jq .summary

Press ? for the keys. NO_COLOR=1 takes the colours away; --once is COLUMNS wide (120 if not set, 0 cuts nothing off).";

const LAB_EXAMPLES: &str = "\
Examples:
  mpsec lab list
  mpsec lab throughput
  mpsec lab throughput --rate 20,10 --delay 5,20 --json | jq .figures

Needs root and the program ip (package iproute2). Nothing outside its own namespaces is touched, and nothing is left behind.
Exit codes: 0 the goal is met, 1 it is missed, 2 this machine cannot run the scenario, 130 after Ctrl-C.";

/// Sees, tells, acts on and proves multipath, encrypted networking on this host.
#[derive(Debug, Parser)]
#[command(name = "mpsec", bin_name = "mpsec", after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground
    #[command(after_help = RUN_EXAMPLES)]
    Run(ConfigArgs),
    /// Show what the running agent does
    #[command(after_help = "Example:\n  mpsec status --json | jq .interfaces")]
    Status(StatusArgs),
    /// Watch connections, paths and interfaces
    #[command(after_help = TOP_EXAMPLES)]
    Top(TopArgs),
    /// Show what mpsec apply would change, and change nothing
    #[command(after_help = act::PLAN_EXAMPLES)]
    Plan(act::PlanArgs),
    /// Make this host what the configuration asks for
    #[command(after_help = act::APPLY_EXAMPLES)]
    Apply(act::ApplyArgs),
    /// Give back everything that MPSec changed, and change nothing until the next mpsec apply or boot
    Release(act::ReleaseArgs),
    /// Switch an interface on or off, and say what becomes of connections
    #[command(subcommand, after_help = "Example:\n  mpsec link down wan1 --dry-run")]
    Link(act::LinkCommand),
    /// Show the log of changes
    Audit(act::AuditArgs),
    /// Show what this kernel can do, what is missing, and the command that mends it
    #[command(
        after_help = "Exits with 0 where MPSec can work here (BPF, and TCX or clsact), else with 1. With mptcp: 0 where \
        nothing keeps connections from using several paths."
    )]
    Doctor(DoctorArgs),
    /// Show on this one machine what several paths do: two hosts as network namespaces, and what lies between them
    #[command(after_help = LAB_EXAMPLES)]
    Lab(LabArgs),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the script that completes this program's words in a shell
    #[command(after_help = "Example:\n  mpsec completions bash > /etc/bash_completion.d/mpsec")]
    Completions(generate::CompletionsArgs),
    /// Write the manual pages
    #[command(after_help = "Example:\n  mpsec man /usr/local/share/man/man1")]
    Man(generate::ManArgs),
    /// Show the version, and which kernel object is built in
    Version,
}

/// `mpsec status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// How to reach the agent
    #[command(flatten)]
    pub agent: act::SocketArgs,
}

/// `mpsec top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds from one refresh to the next
    #[arg(long, short = 'd', value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: f64,
    /// Print one table and end; asks twice, an interval apart, to know rates
    #[arg(long, short = '1')]
    pub once: bool,
    /// The same as JSON
    #[arg(long)]
    pub json: bool,
    /// The table to begin with
    #[arg(long, value_enum, default_value_t)]
    pub view: View,
    /// The column to sort by, such as rate, rx, tx, rtt, name; a wrong one is answered with all
    #[arg(long, value_name = "COLUMN")]
    pub sort: Option<String>,
    /// Sort the other way
    #[arg(long)]
    pub reverse: bool,
    /// Only lines that hold all of these words
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    pub filter: String,
    /// Rates in bytes instead of bits per second
    #[arg(long)]
    pub bytes: bool,
    /// How to reach the agent
    #[command(flatten)]
    pub agent: act::SocketArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "it is a number from 0.1 to 3600".to_owned())
}

/// `mpsec doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// What to look into; this kernel's features if nothing is named
    pub topic: Option<Topic>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// mptcp: an address that connections lead to, to look routes up for
    #[arg(long, value_name = "ADDRESS")]
    pub peer: Option<std::net::IpAddr>,
    /// How to reach the agent
    #[command(flatten)]
    pub agent: act::SocketArgs,
}

/// What `mpsec doctor` looks into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Topic {
    /// Why connections do not use several paths
    Mptcp,
}

/// `mpsec config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether a configuration file is right
    Check {
        /// The file
        file: PathBuf,
    },
    /// Show the settings in effect, each with where it came from
    Show(ConfigArgs),
    /// Have the running agent read its configuration file again, and say whether it is in force
    #[command(
        after_help = "A file that is wrong, or that changes what only a restart can, is not loaded: what was read before stays \
        in force, and this exits with 64."
    )]
    Reload(act::AgentArgs),
    /// Print the documented default file
    Default,
}

/// `--config` and a flag for every setting.
#[derive(Debug, Clone)]
pub struct ConfigArgs {
    /// What was given, ready to load.
    pub loader: Loader,
}

/// Parses the command line of this process. What clap has to say (an error, a help text, the version) is printed, and
/// the exit code returned. `object` names the kernel object that is built in.
pub fn parse(object: &str) -> Result<Cli, ExitCode> {
    parse_from(std::env::args_os(), object).map_err(|error| {
        // Nothing is left to be done when even that cannot be written.
        let _ = error.print();
        ExitCode::from(if error.use_stderr() { EX_USAGE } else { 0 })
    })
}

/// The same for any arguments, the program's name first.
pub fn parse_from<T>(args: impl IntoIterator<Item = T>, object: &str) -> Result<Cli, clap::Error>
where
    T: Into<std::ffi::OsString> + Clone,
{
    Cli::from_arg_matches(&command(object).try_get_matches_from(args)?)
}

/// The clap command, for help, completions and manual pages.
#[must_use]
pub fn command(object: &str) -> clap::Command {
    // clap keeps it for the whole run of the program, and so may the heap.
    Cli::command().version(&*version(object).leak())
}

/// What `mpsec version` prints, without the program's name.
#[must_use]
pub fn version(object: &str) -> String {
    format!("{} (kernel object {object})", env!("CARGO_PKG_VERSION"))
}

/// Prints to standard output. A reader that has seen enough (`mpsec doctor | head`) is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

impl Args for ConfigArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.arg(config_file()).args(KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let path = given_file(matches);
        Ok(Self { loader: Loader { path, overrides: KEYS.iter().filter_map(|key| given(key, matches)).collect() } })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn config_file() -> Arg {
    Arg::new("config")
        .long("config")
        .short('c')
        .env("MPSEC_CONFIG")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Configuration file; /etc/mpsec/mpsec.toml where it exists")
}

fn given_file(matches: &ArgMatches) -> Option<PathBuf> {
    matches.get_one::<PathBuf>("config").filter(|path| !path.as_os_str().is_empty()).cloned()
}

/// The flag of one row.
fn flag(key: &'static Key) -> Arg {
    let default = key.value_in(&crate::config::Config::default());
    let arg = Arg::new(key.name)
        .long(key.flag)
        .visible_aliases(key.alias)
        .env(key.env)
        .hide_env_values(true)
        .value_name(key.placeholder)
        .help_heading(format!("Settings of [{}]", key.section()).leak() as &'static str)
        .help(format!("{} [default: {default}]", key.summary()))
        .long_help(format!("{}\n\nKey of the file: {}, default: {default}", key.doc, key.name));
    match key.kind {
        Kind::Texts | Kind::Numbers => arg.action(ArgAction::Append),
        Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::Text | Kind::Number => arg.allow_negative_numbers(true),
    }
}

/// What was given for one row; an empty environment variable counts as none.
fn given(key: &'static Key, matches: &ArgMatches) -> Option<Override> {
    let values: Vec<String> = matches.get_many::<String>(key.name)?.cloned().collect();
    let from_env = matches.value_source(key.name) == Some(ValueSource::EnvVariable);
    let empty = from_env && values.iter().all(String::is_empty);
    (!empty).then_some(Override { key, values, given: if from_env { Given::Env } else { Given::Flag } })
}

#[cfg(test)]
mod tests {

    use super::*;

    fn run(args: &[&str]) -> Loader {
        match parse_from(["mpsec", "run"].iter().chain(args), "none").unwrap().command {
            Command::Run(args) => args.loader,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        command("none").debug_assert();
    }

    #[test]
    fn every_setting_is_a_flag() {
        for key in KEYS.iter() {
            let flag = format!("--{}=7", key.flag);
            let loader = run(&[&flag]);
            let found = loader.overrides.iter().find(|given| given.given == Given::Flag).unwrap();
            assert_eq!((found.key.name, found.values.as_slice()), (key.name, &["7".to_owned()][..]));
        }
    }

    #[test]
    fn lists_repeat_and_switches_need_no_value() {
        let loader = run(&["--listen", "a:1", "--web.listen-address", "b:2", "--kernel-stats", "--web.config.file=w"]);
        let values: Vec<_> = loader.overrides.iter().map(|given| given.values.join(" ")).collect();
        assert_eq!(values, ["a:1 b:2", "w", "true"]);
        let config = loader.load().unwrap().config;
        assert!(config.agent.kernel_stats);
    }

    #[test]
    fn the_version_names_the_object() {
        let error = parse_from(["mpsec", "--version"], "0123abcd").unwrap_err();
        assert_eq!(error.to_string(), format!("mpsec {} (kernel object 0123abcd)\n", env!("CARGO_PKG_VERSION")));
        assert!(!error.use_stderr());
    }

    #[test]
    fn wrong_usage_is_an_error() {
        for args in [&["mpsec"][..], &["mpsec", "runn"], &["mpsec", "run", "--nope"], &["mpsec", "config", "check"]] {
            assert!(parse_from(args, "none").is_err(), "{args:?}");
        }
    }
}
