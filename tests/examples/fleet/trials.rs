//! What the plays must do, one after the other.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use libtest_mimic::Trial;
use mpsec_tests::hooks::attached_anywhere;
use mpsec_tests::prometheus::{Prometheus, grafana};
use mpsec_tests::trial::{Skip, trial};
use mpsec_tests::{need, wait};
use serde_json::{Value, json};

use crate::host::Host;
use crate::secrets;
use crate::tower::{NAMES, Tower};

/// What one trial may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);
/// What a scrape may take to show.
const SCRAPED: Duration = Duration::from_secs(60);
/// What systemd may take to give up an agent that it may start once.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// The fleet, made by the first trial that needs it.
static FLEET: Mutex<Fleet> = Mutex::new(Fleet::Unmade);

enum Fleet {
    Unmade,
    Made(Tower),
    /// What the machine lacks.
    Lacking(String),
    Broken(String),
}

/// What a trial does with the fleet.
type Body = fn(&Tower) -> Result<()>;

/// All of them, in their order.
pub fn all() -> Vec<Trial> {
    let all: [(&str, Body); 11] = [
        ("a_package_that_is_not_the_listed_one_is_refused", refuses_another_package),
        ("settings_that_cannot_be_meant_are_refused", refuses_settings),
        ("check_mode_changes_nothing_and_the_first_run_installs_four_hosts", installs),
        ("a_second_run_changes_nothing", second_run),
        ("a_setting_is_reloaded_without_a_restart", reloads),
        ("a_setting_that_needs_a_restart_gets_one", restarts),
        ("prometheus_scrapes_the_hosts_of_the_written_list", scraped),
        ("a_host_that_fails_lets_its_batch_end_and_no_other_begin", one_fails),
        ("an_upgrade_rolls_from_host_to_host_and_back", upgrade),
        ("secrets_operators_and_drop_ins_come_by_the_play", secrets::arrive),
        ("removal_leaves_nothing", removes),
    ];
    all.into_iter().map(|(name, body)| trial(&format!("fleet::{name}"), LIMIT, move || with_fleet(body))).collect()
}

/// Ends the hosts.
pub fn close() {
    if let Ok(mut fleet) = FLEET.try_lock() {
        *fleet = Fleet::Unmade;
    }
}

fn with_fleet(body: Body) -> Result<()> {
    let mut fleet = FLEET.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*fleet, Fleet::Unmade) {
        *fleet = match Tower::new() {
            Ok(tower) => Fleet::Made(tower),
            Err(error) if error.is::<Skip>() => Fleet::Lacking(error.to_string()),
            Err(error) => Fleet::Broken(format!("{error:#}")),
        };
    }
    match &*fleet {
        Fleet::Made(tower) => body(tower),
        Fleet::Lacking(what) => Err(Skip::because(what.clone())),
        Fleet::Broken(why) => Err(anyhow!("no fleet: {why}")),
        Fleet::Unmade => unreachable!("it has just been made"),
    }
}

/// All hosts at a time, where it is not the order that is tried.
pub const AT_ONCE: &[&str] = &["--extra-vars", "mpsec_serial=4"];
const ONE_BY_ONE: &[&str] = &["--extra-vars", "mpsec_serial=1"];
const IN_PAIRS: &[&str] = &["--extra-vars", "mpsec_serial=2"];

fn refuses_another_package(tower: &Tower) -> Result<()> {
    let sums = tower.home.path().join("wrong-sums");
    fs::write(&sums, format!("{:064}  {}\n", 0, tower.package(1)?.file_name().context("a name")?.to_string_lossy()))?;
    let played = tower.play("install", &json!({ "mpsec_checksums": sums }), &[], AT_ONCE)?;
    ensure!(!played.success && played.text.contains("is not the file that"), "{}", played.text);
    for host in &tower.hosts {
        ensure!(host.sh("ls /var/cache/mpsec 2>/dev/null || true")?.is_empty(), "{}: something was copied", host.name);
    }
    Ok(())
}

/// Each host has another fault, and is told of it.
fn refuses_settings(tower: &Tower) -> Result<()> {
    let faults = [
        (json!({ "mpsec_operators": ["stowaway"] }), "stowaway, no user of this host"),
        (json!({ "mpsec_control_token": "x" }), "mpsec_control_token need TLS"),
        (json!({ "mpsec_tls_certificate": "x" }), "set both or none"),
        (json!({ "mpsec_labels": { "the-site": "x" } }), "begins with no digit"),
    ];
    let own: Vec<(&str, Value)> = NAMES.into_iter().zip(faults.iter().map(|(vars, _)| vars.clone())).collect();
    let played = tower.play("install", &json!({}), &own, AT_ONCE)?;
    for (host, (_, words)) in tower.hosts.iter().zip(&faults) {
        let said = played.text.lines().any(|line| line.contains(&format!("[{}]: FAILED!", host.name)));
        ensure!(said && played.text.contains(words), "{}: `{words}` is missing:\n{}", host.name, played.text);
        host.sh("test ! -e /var/cache/mpsec && ! getent passwd stowaway")?;
    }
    let played = tower.play("targets", &json!({}), &own, &[])?;
    ensure!(!played.success && played.text.contains("mpsec_labels has the-site"), "{}", played.text);
    ensure!(!tower.targets().exists(), "a list was written");
    refuses_hosts(tower)
}

/// A host that the package is not for, and one on which Ansible's module for packages does not work, nor would for the removal.
fn refuses_hosts(tower: &Tower) -> Result<()> {
    const LIBRARY: &str = "cd /usr/lib/python3/dist-packages";
    let [first, second, ..] = &tower.hosts[..] else { bail!("too few hosts") };
    let other = tower.package(1)?.to_string_lossy().replace("_amd64.deb", "_arm64.deb");
    let both = format!("{},{}", first.name, second.name);
    let own = (NAMES[0], json!({ "mpsec_package": other }));
    second.sh(&format!("{LIBRARY}; for file in apt_pkg.*.so; do mv $file away.$file; done"))?;
    let installed = tower.play("install", &json!({}), &[own], &[AT_ONCE, &["--limit", &both]].concat())?;
    let removed = tower.play("remove", &json!({}), &[], &["--limit", &second.name])?;
    second.sh(&format!("{LIBRARY}; for file in away.*; do mv $file ${{file#away.}}; done"))?;
    for (played, words) in [
        (&installed, "_arm64.deb is for arm64, and this host is amd64"),
        (&installed, "apt-get install python3-apt"),
        (&removed, "apt-get install python3-apt"),
    ] {
        ensure!(!played.success && played.text.contains(words), "`{words}` is missing:\n{}", played.text);
    }
    for host in [first, second] {
        host.sh("test ! -e /var/cache/mpsec")?;
    }
    Ok(())
}

fn installs(tower: &Tower) -> Result<()> {
    let dry: Vec<_> = AT_ONCE.iter().copied().chain(["--check"]).collect();
    tower.play("install", &json!({}), &[], &dry)?.well(None)?;
    for host in &tower.hosts {
        ensure!(host.version()?.is_empty(), "{}: --check installed something", host.name);
        host.sh("test ! -e /etc/mpsec && test ! -e /var/cache/mpsec")?;
    }
    tower.play("install", &json!({}), &[], AT_ONCE)?.well(None)?;
    for host in &tower.hosts {
        host.agent()?;
        ensure!(host.version()?.ends_with("-1"), "{}: {}", host.name, host.version()?);
        ensure!(!attached_anywhere(&host.netns, "eth0")?.is_empty(), "{}: eth0 is not counted", host.name);
    }
    Ok(())
}

fn second_run(tower: &Tower) -> Result<()> {
    let before = processes(tower)?;
    let played = tower.play("install", &json!({}), &[], AT_ONCE)?;
    played.well(Some(0))?;
    ensure!(processes(tower)? == before, "agents were restarted");
    let dry: Vec<_> = AT_ONCE.iter().copied().chain(["--check"]).collect();
    tower.play("install", &json!({}), &[], &dry)?.well(Some(0))
}

/// What a fleet is asked for from here on.
fn limits(subflows: u32) -> Value {
    json!({ "mpsec_config_all": { "mptcp": { "limit_subflows": subflows } } })
}

fn reloads(tower: &Tower) -> Result<()> {
    let before = processes(tower)?;
    tower.play("install", &limits(5), &[], AT_ONCE)?.well(None)?;
    ensure!(processes(tower)? == before, "agents were restarted");
    for host in &tower.hosts {
        let said = host.netns.ip("mptcp limits show")?;
        ensure!(said.contains("subflows 5"), "{}: {said}", host.name);
    }
    tower.play("check", &limits(5), &[], &[])?.well(Some(0))
}

/// Also where systemd has given up the agent, where it does not answer at the socket that its new file names, and where it listens
/// on one address alone.
fn restarts(tower: &Tower) -> Result<()> {
    let [given_up, moved, narrow, ..] = &tower.hosts[..] else { bail!("too few hosts") };
    let before = processes(tower)?;
    gives_up(given_up)?;
    let own = [
        (NAMES[1], json!({ "mpsec_config_host": { "agent": { "control_socket": "/run/mpsec/moved.sock" } } })),
        (NAMES[2], json!({ "mpsec_listen": [format!("{}:9475", narrow.address)] })),
    ];
    tower.play("install", &settled(), &own, AT_ONCE)?.well(None)?;
    given_up.sh("rm -r /run/systemd/system/mpsec.service.d; systemctl daemon-reload")?;
    let after = processes(tower)?;
    ensure!(before.iter().zip(&after).all(|(old, new)| old != new), "{before:?} then {after:?}");
    moved.sh("test -S /run/mpsec/moved.sock && test ! -e /run/mpsec/mpsec.sock")?;
    let played = tower.play("install", &settled(), &[], &[AT_ONCE, &["--limit", &NAMES[1..3].join(",")]].concat())?;
    ensure!(played.success, "the way back failed:\n{}", played.text);
    moved.sh("test -S /run/mpsec/mpsec.sock").map(drop)
}

/// The agent crashes more often than systemd starts it, which then refuses a start by hand, too.
fn gives_up(host: &Host) -> Result<()> {
    host.sh("mkdir -p /run/systemd/system/mpsec.service.d")?;
    host.sh("printf '[Unit]\nStartLimitBurst=1\n' >/run/systemd/system/mpsec.service.d/trial.conf")?;
    host.sh("systemctl daemon-reload")?;
    wait::until(GIVEN_UP, || {
        host.sh("systemctl kill --signal KILL mpsec 2>/dev/null || true; systemctl is-failed --quiet mpsec").map(drop)
    })?;
    host.sh("! systemctl start mpsec").map(drop)
}

/// What the fleet has now.
pub fn settled() -> Value {
    let mut vars = limits(5);
    vars["mpsec_config_group"] = json!({ "http": { "max_connections": 100 } });
    vars
}

fn scraped(tower: &Tower) -> Result<()> {
    need::command("prometheus")?;
    // The list has all hosts, whomever a play is for, and nothing that Prometheus does not read.
    let only_first = ["--limit", NAMES[0]];
    let own = (NAMES[1], json!({ "mpsec_address": "2001:db8::12", "mpsec_labels": { "deck": 5 } }));
    tower.play("targets", &settled(), &[own], &only_first)?;
    let listed: Vec<Value> = serde_json::from_str(&fs::read_to_string(tower.targets())?)?;
    ensure!(listed.len() == NAMES.len(), "{listed:?}");
    let second = json!({ "targets": ["[2001:db8::12]:9475"], "labels": { "host": NAMES[1], "deck": "5" } });
    ensure!(listed[1] == second, "{}", listed[1]);
    tower.play("targets", &settled(), &[], &only_first)?;
    let folder = tempfile::tempdir()?;
    fs::copy(grafana().join("prometheus.yml"), folder.path().join("prometheus.yml"))?;
    symlink(grafana().join("rules").canonicalize()?, folder.path().join("rules"))?;
    symlink(tower.targets().parent().context("a folder")?, folder.path().join("targets"))?;
    let prometheus = Prometheus::start(&tower.netns, folder)?;
    wait::until(SCRAPED, || {
        for (query, wanted) in [
            ("count(up{job=\"mpsec\", host!=\"\"} == 1)", 4.0),
            ("count(mpsec_build_info{job=\"mpsec\", site=\"test\"})", 4.0),
        ] {
            let found = prometheus.one(query)?;
            ensure!(found == wanted, "{query} is {found}");
        }
        Ok(())
    })?;
    let mut hosts = prometheus.label_values("host", "mpsec_build_info")?;
    hosts.sort();
    ensure!(hosts == NAMES, "{hosts:?}");
    Ok(())
}

/// Two at a time: the second host fails, then it cannot be reached. The first is done nevertheless, and the others are left alone.
fn one_fails(tower: &Tower) -> Result<()> {
    let before = processes(tower)?;
    let files = |tower: &Tower| -> Result<Vec<String>> {
        tower.hosts.iter().map(|host| host.sh("sha256sum /etc/mpsec/mpsec.toml")).collect()
    };
    // A word that does not exist, for which the agent has words; an address that nobody has.
    let bad = json!({ "mpsec_config_host": { "mptcp": { "limit_subflow": 6 } } });
    let away = json!({ "ansible_host": "192.0.2.99" });
    for (limit, own, failed, words) in [
        (6, bad, "failed", "did you mean `limit_subflows`"),
        (7, away, "unreachable", "No further host is touched: node2"),
    ] {
        let files_before = files(tower)?;
        let mut vars = settled();
        vars["mpsec_config_all"]["mptcp"]["limit_subflows"] = json!(limit);
        let played = tower.play("install", &vars, &[(NAMES[1], own)], IN_PAIRS)?;
        ensure!(!played.success, "nobody minded:\n{}", played.text);
        ensure!(played.count(NAMES[1], failed)? == 1, "not {failed}:\n{}", played.text);
        ensure!(played.text.contains(words), "`{words}` is missing:\n{}", played.text);
        ensure!(played.recap.len() == 2, "others were touched:\n{}", played.text);
        ensure!(processes(tower)? == before, "agents were restarted");
        let changed: Vec<bool> = files(tower)?.iter().zip(&files_before).map(|(new, old)| new != old).collect();
        ensure!(changed == [true, false, false, false], "files changed: {changed:?}\n{}", played.text);
        for (host, limit) in tower.hosts.iter().zip([limit, 5, 5, 5]) {
            let said = host.netns.ip("mptcp limits show")?;
            ensure!(said.contains(&format!("subflows {limit}")), "{}: {said}", host.name);
        }
    }
    Ok(())
}

fn upgrade(tower: &Tower) -> Result<()> {
    for (revision, words) in [(2, ONE_BY_ONE), (1, AT_ONCE)] {
        let before = processes(tower)?;
        let mut vars = settled();
        let package = tower.package(revision)?;
        let name = package.file_name().context("a name")?.to_string_lossy();
        if revision == 1 {
            // As a dpkg that is cut off leaves it.
            tower.hosts[0].sh(&format!("dpkg --unpack /var/cache/mpsec/{name}"))?;
        }
        vars["mpsec_package"] = json!(package);
        tower.play("install", &vars, &[], words)?.well(None)?;
        let after = processes(tower)?;
        ensure!(before.iter().zip(&after).all(|(old, new)| old != new), "{before:?} then {after:?}");
        for host in &tower.hosts {
            let version = host.version()?;
            ensure!(name.contains(version.trim_start_matches("installed ")), "{}: {version}", host.name);
            let limits = host.netns.ip("mptcp limits show")?;
            ensure!(limits.contains("subflows 5"), "{}: {limits}", host.name);
        }
        let starts: Vec<u64> = tower.hosts.iter().map(|host| host.started_us()).collect::<Result<_>>()?;
        ensure!(words == AT_ONCE || starts.is_sorted(), "not one after the other: {starts:?}");
    }
    Ok(())
}

fn removes(tower: &Tower) -> Result<()> {
    // An agent that cannot give everything back stays.
    let first = &tower.hosts[0];
    first.sh("printf '#!/bin/sh\necho a route stays >&2; exit 1' >/run/refuses; chmod +x /run/refuses")?;
    first.sh("mount --bind /run/refuses /usr/bin/mpsec")?;
    let played = tower.play("remove", &settled(), &[], &[AT_ONCE, &["--limit", &first.name]].concat())?;
    first.sh("umount /usr/bin/mpsec; rm /run/refuses")?;
    ensure!(!played.success && played.text.contains("mpsec release: a route stays"), "{}", played.text);
    ensure!(first.version()?.starts_with("installed "), "{} was removed", first.name);

    tower.play("remove", &settled(), &[], AT_ONCE)?.well(None)?;
    for host in &tower.hosts {
        ensure!(host.version()?.is_empty(), "{}: {}", host.name, host.version()?);
        let left = host.sh(
            "find / -xdev -name '*mpsec*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/var/log/*' \
             -not -path '/var/lib/dpkg/*' -not -path '/tmp/*'; getent passwd mpsec || true; getent group mpsec || true",
        )?;
        ensure!(left.trim().is_empty(), "{} still has\n{left}", host.name);
        let hooks = attached_anywhere(&host.netns, "eth0")?;
        ensure!(hooks.is_empty(), "{}: eth0 still has {hooks:?}", host.name);
        let limits = host.netns.ip("mptcp limits show")?;
        ensure!(limits.contains("subflows 2"), "{}: {limits}", host.name);
    }
    let targets = fs::read_to_string(tower.targets())?;
    ensure!(serde_json::from_str::<Value>(&targets)? == json!([]), "the list still has {targets}");
    tower.play("remove", &settled(), &[], AT_ONCE)?.well(Some(0))
}

/// The agents' processes, which are all there.
pub fn processes(tower: &Tower) -> Result<Vec<u32>> {
    tower.hosts.iter().map(|host| host.agent()).collect()
}
