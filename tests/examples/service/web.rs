//! TLS and passwords, as the example that the package brings has them.

use std::fs;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::wait;
use rcgen::CertifiedKey;

use super::guest::{PATIENCE, answers_anew, fails, sh, tell};

/// What bcrypt takes least time with.
const COST: u32 = 4;
const FILE: &str = "/etc/mpsec/web-config.yml";

pub fn trials() -> Vec<Trial> {
    vec![tell("web_config", web_config)]
}

fn web_config() -> Result<()> {
    sh("cp --preserve=all /etc/mpsec/mpsec.toml /run/before.toml && mkdir /etc/mpsec/tls")?;
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    fs::write("/etc/mpsec/tls/server.crt", cert.pem())?;
    fs::write("/etc/mpsec/tls/server.key", signing_key.serialize_pem())?;
    sh("sed -i 's|^#web_config = .*|web_config = \"/etc/mpsec/web-config.yml\"|' /etc/mpsec/mpsec.toml")?;
    password("first")?;

    a_key_that_cannot_be_read()?;
    sh("chown mpsec /etc/mpsec/tls/server.key && systemctl restart mpsec")?;
    wait::until(PATIENCE, || answers("first", "200"))?;
    let metrics = get("--user prometheus:first")?;
    ensure!(metrics.contains("mpsec_build_info"), "these are no metrics: {metrics}");
    let status = |options: &str| get(&format!("{options} --output /dev/null --write-out '%{{http_code}}'"));
    ensure!(status("")? == "401", "without a password: {}", status("")?);
    ensure!(status("--user other:first")? == "401", "another user");
    // Nothing but TLS is spoken there.
    fails("curl --silent --fail --max-time 20 http://127.0.0.1:9475/metrics")?;

    password("second")?;
    wait::until(PATIENCE, || answers("second", "200"))?;
    answers("first", "401")?;
    // What is wrong changes nothing, and is told.
    sh(&format!("echo 'basic_auth_users: [' >{FILE}"))?;
    wait::until(PATIENCE, || {
        let metrics = get("--user prometheus:second")?;
        ensure!(metrics.contains("mpsec_http_config_last_reload_successful 0"), "it is not told that the file is bad");
        Ok(())
    })?;

    sh(&format!(
        "cp --preserve=all /run/before.toml /etc/mpsec/mpsec.toml && rm -r /run/before.toml {FILE} /etc/mpsec/tls"
    ))?;
    sh("systemctl restart mpsec")?;
    answers_anew(None).map(drop)
}

/// The key is root's alone: the service does not start, and says why.
fn a_key_that_cannot_be_read() -> Result<()> {
    sh("chmod 0400 /etc/mpsec/tls/server.key && chown root:root /etc/mpsec/tls/server.key")?;
    fails("systemctl restart mpsec")?;
    let journal = sh("journalctl --no-pager --unit mpsec --lines 20 --output cat")?;
    let told = journal.lines().any(|line| line.contains("/etc/mpsec/tls/server.key") && line.contains("ermission"));
    ensure!(told, "nobody says that the key cannot be read: {journal}");
    sh("systemctl stop mpsec && systemctl reset-failed mpsec").map(drop)
}

/// The example with this password for the user `prometheus`.
fn password(password: &str) -> Result<()> {
    let hash = bcrypt::hash(password, COST)?;
    let text = sh("cat /usr/share/doc/mpsec/examples/web-config.yml")?
        .replace("\n#basic_auth_users:", "\nbasic_auth_users:")
        .replace("\n#  prometheus: HASH", &format!("\n  prometheus: {hash}"));
    ensure!(text.contains(&hash), "the example has no user: {text}");
    fs::write("/etc/mpsec/web-config.new", text)?;
    sh(&format!("cd /etc/mpsec && chown mpsec web-config.new && chmod 0400 web-config.new && mv web-config.new {FILE}"))
        .map(drop)
}

/// The metrics with this password are answered with this status.
fn answers(password: &str, expected: &str) -> Result<()> {
    let status = get(&format!("--user prometheus:{password} --output /dev/null --write-out '%{{http_code}}'"))?;
    ensure!(status == expected, "{password}: {status} instead of {expected}");
    Ok(())
}

fn get(options: &str) -> Result<String> {
    let url = "https://localhost:9475/metrics";
    sh(&format!("curl --silent --show-error --max-time 20 --cacert /etc/mpsec/tls/server.crt {options} {url}"))
}
