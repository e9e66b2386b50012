//! What a running agent takes over of another configuration: all but what only a restart changes.

use crate::config::{AgentConfig, Config, InterfacesConfig, LogConfig, MptcpConfig};

/// The configuration that is in force when `new` is taken over by an agent that runs with `running`.
pub fn merged(running: &Config, new: Config) -> Config {
    // Each field by its name, so that whoever adds one comes by here.
    let Config { multipath, interfaces, mptcp, agent, log, http: _, classify: _, paths: _, netns: _ } = new;
    let InterfacesConfig { filter, max_interfaces: _, attach: _ } = interfaces;
    let MptcpConfig { subflow_series, max_subflow_series, count: _, probes: _, max_subflows: _ } = mptcp;
    let AgentConfig { kernel_stats, control_socket: _, control_group: _, state_dir: _ } = agent;
    let LogConfig { level, format: _, kernel: _ } = log;
    let mut merged = running.clone();
    merged.multipath = multipath;
    merged.interfaces.filter = filter;
    merged.mptcp.subflow_series = subflow_series;
    merged.mptcp.max_subflow_series = max_subflow_series;
    merged.agent.kernel_stats = kernel_stats;
    merged.log.level = level;
    merged
}

/// What of `new` is not taken over, and what has to be done for it.
pub fn left(running: &Config, new: &Config) -> Vec<String> {
    let keys = running.needs_restart(new).into_iter();
    keys.map(|key| format!("{key}: what is configured by now takes effect when the agent is restarted")).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_needs_a_restart_stays_as_it_was() {
        let parse = |text: &str| Config::from_toml(text, Path::new("test")).unwrap();
        let running = parse("[http]\nmax_connections = 5\n[mptcp]\nreordering = 9\n");
        let new = parse(
            "netns = [\"blue\"]\n[http]\nmax_connections = 7\n[interfaces]\nexclude = [\"a\"]\nmax_interfaces = 7\n\
             [mptcp]\ncount = false\nsubflow_series = true\nmax_subflow_series = 9\npath_manager = \"fullmesh\"\n\
             [paths]\nmax_paths = 9\n[agent]\nkernel_stats = true\ncontrol_group = \"wheel\"\n\
             [log]\nlevel = \"debug\"\nformat = \"text\"\n",
        );
        let fixed = running.needs_restart(&new);
        assert_eq!(fixed.len(), 7, "{fixed:?}");
        let merged = merged(&running, new.clone());
        assert!(running.needs_restart(&merged).is_empty(), "{:?}", running.needs_restart(&merged));
        assert_eq!(merged.changed_keys(&new), fixed);
        // The next look at the file says the same.
        assert_eq!(merged.needs_restart(&new), fixed);
        let left = left(&running, &new);
        assert!(left.iter().any(|line| line.starts_with("http.max_connections: ")), "{left:?}");
        assert!(super::left(&running, &running).is_empty());
    }
}
