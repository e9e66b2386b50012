//! What is to be done in the guest: a text file of one line a step, written by xtask, read by the first program.
use std::fmt;

use anyhow::{Context, Result, bail};

/// Where the plan lies in the guest.
pub const PATH: &str = "/mpsec/plan";

/// What is to be done in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Modules to load before anything runs.
    pub modules: Vec<String>,
    /// The environment of every program.
    pub environment: Vec<(String, String)>,
    /// Programs to run, one after the other.
    pub programs: Vec<Program>,
    /// A person at the console instead of the programs.
    pub shell: bool,
    /// A disk whose system is started instead of the programs.
    pub system: Option<String>,
}

/// A program to run in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What it is called in what is said of it; without spaces.
    pub label: String,
    /// After so many seconds it is ended, with all that it started.
    pub limit_seconds: u64,
    /// The program's path and its arguments.
    pub words: Vec<String>,
}

impl Plan {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Result<Self> {
        let mut plan = Self::default();
        for line in text.lines() {
            let (verb, rest) = line.split_once('\t').unwrap_or((line, ""));
            match verb {
                "module" => plan.modules.push(rest.to_owned()),
                "env" => {
                    let (name, value) = rest.split_once('=').with_context(|| format!("no value in {line:?}"))?;
                    plan.environment.push((name.to_owned(), value.to_owned()));
                }
                "run" => plan.programs.push(Program::parse(rest)?),
                "shell" => plan.shell = true,
                "system" => plan.system = Some(rest.to_owned()),
                _ => bail!("unknown step {line:?}"),
            }
        }
        Ok(plan)
    }
}

impl Program {
    fn parse(rest: &str) -> Result<Self> {
        let mut fields = rest.split('\t').map(str::to_owned);
        let (Some(label), Some(limit)) = (fields.next(), fields.next()) else {
            bail!("a program without a limit: {rest:?}");
        };
        let words: Vec<_> = fields.collect();
        if words.is_empty() {
            bail!("a program without a path: {rest:?}");
        }
        Ok(Self { label, limit_seconds: limit.parse().context("the limit is no number")?, words })
    }
}

/// The file's text. Nothing that is written may hold a tab or a line's end; xtask makes nothing that does.
impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for module in &self.modules {
            writeln!(out, "module\t{module}")?;
        }
        for (name, value) in &self.environment {
            writeln!(out, "env\t{name}={value}")?;
        }
        for Program { label, limit_seconds, words } in &self.programs {
            writeln!(out, "run\t{label}\t{limit_seconds}\t{}", words.join("\t"))?;
        }
        if self.shell {
            writeln!(out, "shell")?;
        }
        if let Some(disk) = &self.system {
            writeln!(out, "system\t{disk}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let plan = Plan {
            modules: vec!["veth".into()],
            environment: vec![("MPSEC_BIN".into(), "/mpsec/bin/mpsec".into()), ("A".into(), "b=c".into())],
            programs: vec![Program {
                label: "system".into(),
                limit_seconds: 60,
                words: vec!["/mpsec/bin/system".into(), "a test".into()],
            }],
            shell: true,
            system: Some("/dev/vda".into()),
        };
        assert_eq!(Plan::parse(&plan.to_string()).unwrap(), plan);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for wrong in ["dance", "run\tlabel\tsoon\t/a", "run\tlabel\t1", "env\tA"] {
            assert!(Plan::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
