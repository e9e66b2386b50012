//! `mpsec`: parse, log, run, exit code.

use std::process::ExitCode;

use anyhow::Context as _;
use mpsec_agent::api::{TokenError, WebConfigError};
use mpsec_agent::cli::generate::{completions, manual};
use mpsec_agent::cli::{self, Command, ConfigCommand, DoctorArgs, StatusArgs, Topic};
use mpsec_agent::config::{self, ConfigError, EX_USAGE, Loader, Show};
use mpsec_agent::control::client::{self, ClientError};
use mpsec_agent::control::command_line;
use mpsec_agent::doctor::{Report, Style, examine};
use mpsec_agent::kernel::ebpf::OBJECT_SHA256;
use mpsec_agent::{agent, lab, logging, top};

fn main() -> ExitCode {
    let object = &OBJECT_SHA256[..12];
    let cli = match cli::parse(object) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let done = |()| ExitCode::SUCCESS;
    let outcome = match cli.command {
        Command::Run(args) => run(args.loader).map(done),
        Command::Status(args) => status(&args).map(done),
        Command::Top(args) => top::run(&args).map(done),
        Command::Plan(args) => command_line::run(&args.into()),
        Command::Apply(args) => command_line::run(&args.into()),
        Command::Release(args) => command_line::run(&args.into()),
        Command::Link(command) => command_line::run(&command.into()),
        Command::Audit(args) => command_line::audit(&args).map(done),
        Command::Config(command) => configuration(command).map(done),
        Command::Doctor(args) => return doctor(&args),
        Command::Lab(args) => return lab::run(&args),
        Command::Completions(args) => say(&completions(args.shell, cli::command(object))).map(done),
        Command::Man(args) => manual(&args.directory, cli::command(object))
            .with_context(|| args.directory.display().to_string())
            .map(done),
        Command::Version => say(&format!("mpsec {}\n", cli::version(object))).map(done),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mpsec: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Which configuration file it is that is wrong makes no difference.
fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ConfigError>() {
        Some(error) => error.exit_code(),
        None if error.is::<WebConfigError>() || error.is::<TokenError>() => EX_USAGE,
        None if matches!(error.downcast_ref(), Some(ClientError::Wrong(_))) => EX_USAGE,
        None => 1,
    }
}

fn run(loader: Loader) -> anyhow::Result<()> {
    let loaded = loader.load()?;
    let log = logging::init(&loaded.config.log)?;
    agent::run(loaded, loader, log)
}

fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let status = client::status(&args.agent.path())?;
    say(&if args.json { format!("{status:#}\n") } else { client::table(&status) })
}

fn configuration(command: ConfigCommand) -> anyhow::Result<()> {
    let text = match command {
        ConfigCommand::Check { file } => {
            let ok = format!("{}: ok\n", file.display());
            Loader { path: Some(file), overrides: Vec::new() }.load().map(|_| ok)?
        }
        ConfigCommand::Show(args) => Show(&args.loader.load()?).to_string(),
        ConfigCommand::Reload(agent) => {
            command_line::reload(&agent)?;
            "the configuration file is in force\n".to_owned()
        }
        ConfigCommand::Default => config::default_toml(),
    };
    say(&text)
}

/// Exits with 1 where MPSec cannot work, or connections cannot be what is asked about.
fn doctor(args: &DoctorArgs) -> ExitCode {
    let (text, is_fine) = match args.topic {
        None => {
            let report = Report::new();
            let style = Style::of_stdout();
            (if args.json { format!("{:#}\n", report.to_json()) } else { report.to_text(style) }, report.is_fit())
        }
        Some(Topic::Mptcp) => examine::mptcp(args.peer, &args.agent.path(), args.json),
    };
    match say(&text) {
        Ok(()) if is_fine => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mpsec: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    cli::print(text).context("standard output")
}
