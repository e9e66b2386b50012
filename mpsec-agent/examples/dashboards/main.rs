//! Makes what lies in `grafana/`, and METRICS.md, from the agent's metric tables: `cargo xtask dashboards`.
//!
//! | file | what it holds |
//! | --- | --- |
//! | metric.rs | which metrics there are; a renamed one does not compile |
//! | class.rs, promql.rs | queries that cannot name a label that is not there |
//! | host/, multipath/ | THE tables of the dashboards' panels, one row each |
//! | panel.rs, dashboard.rs, json.rs | Grafana's JSON for them |
//! | rules/, prometheus.rs | recording rules, alerts, scrape configuration |

mod class;
mod dashboard;
mod host;
mod json;
mod metric;
mod multipath;
mod panel;
mod prometheus;
mod promql;
mod rules;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use mpsec_agent::publish::markdown;

/// Paths from `grafana/`, as the scrape configuration names them.
const RULE_FILES: [&str; 3] = ["rules/mpsec-recording.yml", "rules/mpsec-protected.yml", "rules/mpsec-alerts.yml"];

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        None => write(),
        Some("--check") => check(),
        Some(other) => Err(anyhow::anyhow!("unknown argument {other}: only --check is known")),
    };
    result.map_or_else(
        |error| {
            eprintln!("dashboards: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// Every file, by its path from the root of the source tree, and its text.
fn files() -> Result<Vec<(PathBuf, String)>> {
    let rules = [rules::recording()?, rules::protected()?, rules::alerts()?];
    let mut files = vec![
        ("METRICS.md".into(), markdown::metrics()),
        ("grafana/dashboards/host.json".into(), json::tidy(&host::dashboard().json())),
        ("grafana/dashboards/multipath.json".into(), json::tidy(&multipath::dashboard().json())),
        ("grafana/prometheus.yml".into(), prometheus::config(&RULE_FILES)),
    ];
    files.extend(RULE_FILES.iter().map(|path| Path::new("grafana").join(path)).zip(rules));
    Ok(files)
}

fn write() -> Result<()> {
    for (path, text) in stale()? {
        let file = root().join(&path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}

fn check() -> Result<()> {
    let stale: Vec<_> = stale()?.into_iter().map(|(path, _)| path.display().to_string()).collect();
    if !stale.is_empty() {
        bail!("stale, run `cargo xtask dashboards` and commit: {}", stale.join(", "));
    }
    Ok(())
}

/// The files that are not there, or are not what the tables give.
fn stale() -> Result<Vec<(PathBuf, String)>> {
    let is_stale = |(path, text): &(PathBuf, String)| {
        let there = fs::read(root().join(path)).ok();
        there.is_none_or(|there| there != text.as_bytes())
    };
    Ok(files()?.into_iter().filter(is_stale).collect())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
