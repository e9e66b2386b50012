//! A Prometheus configuration that scrapes an agent on the same host and loads the rules.

use crate::rules::JOB;

/// The text of prometheus.yml. `rule_files` are paths from where it lies.
pub fn config(rule_files: &[&str]) -> String {
    let rule_files: String = rule_files.iter().map(|path| format!("  - {path}\n")).collect();
    format!(
        "# Made by `cargo xtask dashboards`: a whole configuration, or parts for one that is there already.
#
# Agents on other hosts: list their addresses as targets, or let the fleet's play write targets/mpsec-fleet.json, and give
# each agent a web configuration with TLS and a password (its settings listen and web_config), or a firewall.
global:
  scrape_interval: 15s
  evaluation_interval: 15s

rule_files:
{rule_files}
scrape_configs:
  # The alert MpsecAgentDown knows the agents by this name.
  - job_name: {JOB}
    static_configs:
      - targets:
          - 127.0.0.1:9475
    # Lists that others write, such as the play of a fleet; what is new in them is scraped at once.
    file_sd_configs:
      - files:
          - targets/mpsec-*.json
"
    )
}
