//! `mpsec plan`, `apply`, `release`, `link` and `audit`: the running agent does it if there is one, else this process.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::act::{ActCommand, AgentArgs, AuditArgs};
use crate::cli::print;
use crate::config::EX_USAGE;

use super::ask::{Answer, Ask, AskError};
use super::client::{self, ClientError};
use super::{audit, show, standalone};

/// The exit code of `mpsec plan --check` where there is something to change.
const SOMETHING_TO_CHANGE: u8 = 2;

/// Does what is asked for and prints what came of it. The exit code is 0 where all is as it should be, 1 where something failed
/// or was refused.
///
/// # Errors
/// What kept it from being tried.
pub fn run(command: &ActCommand) -> anyhow::Result<ExitCode> {
    let ask = &command.ask;
    let answer = match answer(ask, &command.agent) {
        Ok(answer) => answer,
        Err(AskError::Wrong(error)) => {
            eprintln!("mpsec: {}", lines(&error));
            return Ok(ExitCode::from(EX_USAGE));
        }
        Err(error) => anyhow::bail!("{}", lines(&error.to_string())),
    };
    let text =
        if command.json { format!("{}\n", serde_json::to_string_pretty(&answer)?) } else { show::text(ask, &answer) };
    print(&text).context("standard output")?;
    Ok(ExitCode::from(match answer.outcome.is_success() {
        true if command.check && !answer.outcome.changes.is_empty() => SOMETHING_TO_CHANGE,
        success => u8::from(!success),
    }))
}

/// `mpsec config reload`.
///
/// # Errors
/// [`ClientError::Wrong`] with why the agent keeps what it had read before.
pub fn reload(agent: &AgentArgs) -> Result<(), ClientError> {
    client::reload(&agent.socket())
}

/// `mpsec audit`.
///
/// # Errors
/// A log that cannot be read.
pub fn audit(args: &AuditArgs) -> anyhow::Result<()> {
    let folder = args.agent.loader.load().map(|loaded| loaded.config.agent.state_dir)?;
    let entries = audit::last(&folder, args.last);
    let entries = entries.with_context(|| format!("the log of changes in {}", folder.display()))?;
    let line = |entry: &audit::Entry| match args.json {
        true => serde_json::to_string(entry).map(|line| line + "\n"),
        false => Ok(show::entry(entry)),
    };
    let text = entries.iter().map(line).collect::<Result<String, _>>()?;
    if entries.is_empty() {
        eprintln!("mpsec: nothing was changed yet: there is no entry in {}", folder.display());
    }
    print(&text).context("standard output")
}

fn answer(ask: &Ask, agent: &AgentArgs) -> Result<Answer, AskError> {
    let socket = agent.socket();
    match client::act(&socket, ask) {
        Ok(answer) => Ok(answer),
        Err(error) if error.is_absent() => {
            eprintln!("mpsec: no agent answers on {}: this command does it by itself", socket.display());
            standalone::act(&agent.loader, ask)
        }
        Err(ClientError::Wrong(error)) => Err(AskError::Wrong(error)),
        Err(ClientError::Refused(error)) => Err(AskError::Forbidden(error)),
        Err(error) => Err(AskError::Failed(error.to_string())),
    }
}

/// Text of several lines that does nothing to a terminal.
fn lines(text: &str) -> String {
    text.lines().map(client::plain).collect::<Vec<_>>().join("\n")
}
