//! `mpsec`: parse, log, run, exit code.

use std::process::ExitCode;

use mpsec_agent::cli::{self, Command, ConfigCommand, StatusArgs};
use mpsec_agent::config::{self, ConfigError, Loader, Show};
use mpsec_agent::control::client;
use mpsec_agent::kernel::ebpf::OBJECT_SHA256;
use mpsec_agent::{agent, logging};

fn main() -> ExitCode {
    let object = &OBJECT_SHA256[..12];
    let cli = match cli::parse(object) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let outcome = match cli.command {
        Command::Run(args) => run(args.loader),
        Command::Status(args) => status(&args),
        Command::Config(command) => configuration(command),
        Command::Doctor(_) => Ok(()),
        Command::Version => {
            println!("mpsec {}", cli::version(object));
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mpsec: {error:#}");
            ExitCode::from(error.downcast_ref::<ConfigError>().map_or(1, ConfigError::exit_code))
        }
    }
}

fn run(loader: Loader) -> anyhow::Result<()> {
    let loaded = loader.load()?;
    let log = logging::init(&loaded.config.log)?;
    agent::run(loaded, loader, log)
}

fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let status = client::status(&args.control_socket)?;
    print!("{}", if args.json { format!("{status:#}\n") } else { client::table(&status) });
    Ok(())
}

fn configuration(command: ConfigCommand) -> anyhow::Result<()> {
    let text = match command {
        ConfigCommand::Check { file } => {
            let ok = format!("{}: ok\n", file.display());
            Loader { path: Some(file), overrides: Vec::new() }.load().map(|_| ok)?
        }
        ConfigCommand::Show(args) => Show(&args.loader.load()?).to_string(),
        ConfigCommand::Default => config::default_toml(),
    };
    print!("{text}");
    Ok(())
}
