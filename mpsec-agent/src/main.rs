//! `mpsec`: parse, log, run, exit code.

use std::process::ExitCode;

use mpsec_agent::cli::{self, Command, ConfigCommand};
use mpsec_agent::config::{self, Loader, Show};
use mpsec_agent::doctor::{Report, Style};

fn main() -> ExitCode {
    let cli = match cli::parse("none") {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match cli.command {
        Command::Config(command) => configuration(command),
        Command::Doctor(args) => doctor(args.json),
        Command::Version => print(&format!("mpsec {}\n", cli::version("none")), ExitCode::SUCCESS),
        other => {
            eprintln!("{other:?}: not here yet");
            ExitCode::FAILURE
        }
    }
}

fn configuration(command: ConfigCommand) -> ExitCode {
    let said = match command {
        ConfigCommand::Check { file } => {
            let ok = format!("{}: ok\n", file.display());
            Loader { path: Some(file), overrides: Vec::new() }.load().map(|_| ok)
        }
        ConfigCommand::Show(args) => args.loader.load().map(|loaded| Show(&loaded).to_string()),
        ConfigCommand::Default => Ok(config::default_toml()),
    };
    match said {
        Ok(text) => print(&text, ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn doctor(json: bool) -> ExitCode {
    let report = Report::new();
    let text = if json { format!("{:#}\n", report.to_json()) } else { report.to_text(Style::of_stdout()) };
    print(&text, if report.is_fit() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(text: &str, code: ExitCode) -> ExitCode {
    match cli::print(text) {
        Ok(()) => code,
        Err(error) => {
            eprintln!("standard output: {error}");
            ExitCode::FAILURE
        }
    }
}
