//! `mpsec lab`: two hosts and several paths on one machine, and scenarios that show what multipath does on them.
//!
//! Everything happens in network namespaces without a name, of this process alone: whatever becomes of it, nothing is left.
//! A scenario is one file in [`scenario`] and one row in [`Which`].

pub mod agent;
pub mod fault;
pub mod need;
pub mod player;
pub mod pull;
pub mod report;
pub mod scenario;
pub mod series;
pub mod subflows;
pub mod topology;
pub mod traffic;
pub mod video;
pub mod view;
pub mod wire;

use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use serde_json::json;

use self::need::CannotRun;
use self::report::Outcome;
use self::view::View;
use crate::cli;
use crate::kernel::realtime;

/// What a scenario cannot run here ends with.
pub const CANNOT_RUN: u8 = 2;

/// Something to be shown.
pub trait Scenario {
    /// Its name on the command line.
    const NAME: &'static str;
    /// What has to come out.
    const GOAL: &'static str;

    /// Runs it.
    ///
    /// # Errors
    /// [`CannotRun`] where this machine lacks something; everything else is a failure.
    fn run(&self, view: View) -> anyhow::Result<Outcome>;
}

/// `mpsec lab`.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// What to show.
    #[command(subcommand)]
    pub which: Which,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    /// Show nothing but the result
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

macro_rules! scenarios {
    ($($(#[$about:meta])* $variant:ident => $module:ident,)*) => {
        /// The scenarios.
        #[derive(Debug, Subcommand)]
        pub enum Which {
            /// List the scenarios with their goals
            List,
            $($(#[$about])* $variant(scenario::$module::Settings),)*
        }

        /// Name and goal of each.
        const GOALS: &[(&str, &str)] =
            &[$((<scenario::$module::Settings as Scenario>::NAME, <scenario::$module::Settings as Scenario>::GOAL)),*];

        fn run_one(which: &Which, view: View) -> Option<(&'static str, anyhow::Result<Outcome>)> {
            match which {
                Which::List => None,
                $(Which::$variant(settings) => {
                    Some((<scenario::$module::Settings as Scenario>::NAME, settings.run(view)))
                })*
            }
        }
    };
}

scenarios! {
    /// How much faster several paths are than one
    Throughput => throughput,
    /// What a reader notices when a path fails and comes back, with the kernel alone and with the agent
    Failover => failover,
    /// A video over HTTP while a path fails, over MPTCP and over plain TCP
    Stream => stream,
    /// What happens with a peer that has no MPTCP
    Fallback => fallback,
    /// Several subflows on one pair of addresses, which the agent makes
    Ndiffports => ndiffports,
    /// A path that is used only when the other one has failed
    Backup => backup,
}

/// Runs `mpsec lab`. Exits with 0 where the goal is met, 1 where it is missed, 2 where this machine cannot run the scenario,
/// 130 after Ctrl-C.
#[must_use]
pub fn run(args: &LabArgs) -> ExitCode {
    realtime::exit_on_interrupt();
    let (text, code) = match run_one(&args.which, View::new(args.quiet, args.json)) {
        None => (list(args.json), 0),
        Some((_, Ok(outcome))) => {
            let text = if args.json { format!("{:#}\n", outcome.to_json()) } else { outcome.to_text() };
            (text, u8::from(!outcome.is_met()))
        }
        Some((name, Err(error))) => failure(name, &error, args.json),
    };
    match cli::print(&text) {
        Ok(()) => ExitCode::from(code),
        Err(error) => {
            eprintln!("mpsec: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is printed where there is no result, and the exit code.
fn failure(name: &str, error: &anyhow::Error, is_json: bool) -> (String, u8) {
    let cannot_run = error.downcast_ref::<CannotRun>();
    let code = if cannot_run.is_some() { CANNOT_RUN } else { 1 };
    let verdict = if cannot_run.is_some() { "cannot run here" } else { "failed" };
    if is_json {
        let key = if cannot_run.is_some() { "cannot_run" } else { "error" };
        let document = json!({ "scenario": name, key: format!("{error:#}"), "met": false });
        return (format!("{document:#}\n"), code);
    }
    eprintln!("mpsec: lab {name}: {verdict}: {error:#}");
    (String::new(), code)
}

fn list(is_json: bool) -> String {
    #[derive(Parser)]
    struct Table {
        #[command(subcommand)]
        _which: Which,
    }
    let about = |name: &str| {
        let command = Table::command();
        let about = command.find_subcommand(name).and_then(|command| command.get_about());
        about.map(ToString::to_string).unwrap_or_default()
    };
    let rows = GOALS.iter().map(|(name, goal)| (*name, about(name), *goal));
    if is_json {
        let row = |(name, about, goal)| json!({ "scenario": name, "about": about, "goal": goal });
        return format!("{:#}\n", json!(rows.map(row).collect::<Vec<_>>()));
    }
    rows.map(|(name, about, goal)| format!("{name:<12} {about}\n{:12} goal: {goal}\n", "")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_says_what_it_is_for() {
        let text = list(false);
        for (name, goal) in GOALS {
            assert!(text.contains(name) && text.contains(goal), "{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&list(true)).unwrap();
        let rows = json.as_array().unwrap();
        assert_eq!(rows.len(), GOALS.len());
        assert!(rows.iter().all(|row| row["about"].as_str().is_some_and(|about| !about.is_empty())), "{rows:?}");
    }

    #[test]
    fn what_cannot_run_is_not_what_failed() {
        let (text, code) = failure("backup", &CannotRun("no MPTCP".into()).into(), true);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &json["cannot_run"], &json["met"]), (CANNOT_RUN, &json!("no MPTCP"), &json!(false)));
        assert_eq!(failure("backup", &anyhow::anyhow!("broken"), true).1, 1);
    }
}
