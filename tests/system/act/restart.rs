//! What a start does first, and what only a restart changes, which is left as it is and told.

use std::fs;
use std::sync::Arc;

use anyhow::{Result, ensure};
use mpsec_tests::need;
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::{Paths, Plan};

use super::{mpsec, start};

pub(super) fn told() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(1))?;
    let agent = start(&paths.client, "")?;
    let file = agent.folder().join("mpsec.toml");
    fs::write(&file, "netns = [\"blue\"]\n[http]\nmax_connections = 7\n[mptcp]\nreordering = 9\n")?;
    for verb in ["plan", "apply"] {
        let (code, text) = mpsec(&agent, &[verb])?;
        for part in ["net.ipv4.tcp_reordering", "Waiting", "http.max_connections: ", "netns: ", "restarted"] {
            ensure!(code == 0 && text.contains(part), "{verb}: {code}: no {part:?} in {text}");
        }
    }
    // The reload knows what is in force.
    let (code, text) = mpsec(&agent, &["config", "reload"])?;
    let expected = "netns, http.max_connections cannot change while the agent runs";
    ensure!(code == 64 && text.contains(expected), "{code}: {text}");
    fs::write(&file, "[mptcp]\nreordering = 9\n")?;
    let (code, text) = mpsec(&agent, &["config", "reload"])?;
    ensure!(code == 0, "{code}: {text}");
    let (code, text) = mpsec(&agent, &["plan", "--check"])?;
    ensure!(code == 0 && !text.contains("Waiting"), "{code}: {text}");
    Ok(())
}

/// Who starts behind the agent finds it so. The agent tells both, in the order in which it does them.
pub(super) fn ready() -> Result<()> {
    need::mpsec()?;
    let netns = Arc::new(Netns::new()?);
    let agent = start(&netns, "[mptcp]\nreordering = 9\n")?;
    let said = agent.stderr();
    let line = |what: &str| said.lines().position(|line| line.contains(what));
    let [done, started] = ["net.ipv4.tcp_reordering: 3 -> 9", " started "].map(line);
    ensure!(done.is_some() && done < started, "{said}");
    Ok(())
}
