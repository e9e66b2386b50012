//! What only a restart changes is left as it is, and told.

use std::fs;

use anyhow::{Result, ensure};
use mpsec_tests::need;
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
