//! What the plays must do, one after the other.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use libtest_mimic::Trial;
use mpsec_tests::hooks::attached_anywhere;
use mpsec_tests::prometheus::{Prometheus, grafana};
use mpsec_tests::trial::{Skip, trial};
use mpsec_tests::{need, wait};
use serde_json::{Value, json};

use crate::secrets;
use crate::tower::{NAMES, Tower};

/// What one trial may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);
/// What a scrape may take to show.
const SCRAPED: Duration = Duration::from_secs(60);

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
    let all: [(&str, Body); 10] = [
        ("a_package_that_is_not_the_listed_one_is_refused", refuses_another_package),
        ("check_mode_changes_nothing_and_the_first_run_installs_four_hosts", installs),
        ("a_second_run_changes_nothing", second_run),
        ("a_setting_is_reloaded_without_a_restart", reloads),
        ("a_setting_that_needs_a_restart_gets_one", restarts),
        ("prometheus_scrapes_the_hosts_of_the_written_list", scraped),
        ("a_bad_configuration_stops_there_and_leaves_the_old_agent", bad_configuration),
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
    ensure!(played.count("localhost", "changed")? == 0, "the list was written again:\n{}", played.text);
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

fn restarts(tower: &Tower) -> Result<()> {
    let before = processes(tower)?;
    let mut vars = limits(5);
    vars["mpsec_config_group"] = json!({ "http": { "max_connections": 100 } });
    tower.play("install", &vars, &[], AT_ONCE)?.well(None)?;
    let after = processes(tower)?;
    ensure!(before.iter().zip(&after).all(|(old, new)| old != new), "{before:?} then {after:?}");
    Ok(())
}

/// What the fleet has now.
pub fn settled() -> Value {
    let mut vars = limits(5);
    vars["mpsec_config_group"] = json!({ "http": { "max_connections": 100 } });
    vars
}

fn scraped(tower: &Tower) -> Result<()> {
    need::command("prometheus")?;
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

fn bad_configuration(tower: &Tower) -> Result<()> {
    let before = processes(tower)?;
    let files = |tower: &Tower| -> Result<Vec<String>> {
        tower.hosts.iter().map(|host| host.sh("sha256sum /etc/mpsec/mpsec.toml")).collect()
    };
    let files_before = files(tower)?;
    let bad = json!({ "mpsec_config_host": { "mptcp": { "limit_subflow": 6 } } });
    // Everybody is to have another limit; the second host's own part has a word that does not exist.
    let mut vars = settled();
    vars["mpsec_config_all"]["mptcp"]["limit_subflows"] = json!(6);
    let played = tower.play("install", &vars, &[(NAMES[1], bad)], ONE_BY_ONE)?;
    ensure!(!played.success, "nobody minded:\n{}", played.text);
    let words = "did you mean `limit_subflows`";
    ensure!(played.text.contains(words), "the agent's words are missing:\n{}", played.text);
    ensure!(processes(tower)? == before, "agents were restarted");
    let changed: Vec<bool> = files(tower)?.iter().zip(&files_before).map(|(new, old)| new != old).collect();
    ensure!(changed == [true, false, false, false], "files changed: {changed:?}\n{}", played.text);
    for (host, limit) in tower.hosts.iter().zip([6, 5, 5, 5]) {
        let said = host.netns.ip("mptcp limits show")?;
        ensure!(said.contains(&format!("subflows {limit}")), "{}: {said}", host.name);
    }
    Ok(())
}

fn upgrade(tower: &Tower) -> Result<()> {
    for (revision, words) in [(2, ONE_BY_ONE), (1, AT_ONCE)] {
        let before = processes(tower)?;
        let mut vars = settled();
        vars["mpsec_package"] = json!(tower.package(revision)?);
        tower.play("install", &vars, &[], words)?.well(None)?;
        let after = processes(tower)?;
        ensure!(before.iter().zip(&after).all(|(old, new)| old != new), "{before:?} then {after:?}");
        for host in &tower.hosts {
            ensure!(host.version()?.ends_with(&format!("-{revision}")), "{}: {}", host.name, host.version()?);
            let limits = host.netns.ip("mptcp limits show")?;
            ensure!(limits.contains("subflows 5"), "{}: {limits}", host.name);
        }
        let starts: Vec<u64> = tower.hosts.iter().map(|host| host.started_us()).collect::<Result<_>>()?;
        ensure!(words == AT_ONCE || starts.is_sorted(), "not one after the other: {starts:?}");
    }
    Ok(())
}

fn removes(tower: &Tower) -> Result<()> {
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
