//! SIGHUP and `mpsec config reload`: a good file takes effect, a bad one changes nothing but the metric that says so.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::counted::Classes;
use mpsec_tests::frames;
use mpsec_tests::netns::{Netns, devices_of_every_namespace};
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::trial;
use mpsec_tests::{hooks, link, need, wait};

use crate::names::{ATTACHED, RELOADED};
use crate::watch::SHOWN;

const LIMIT: Duration = Duration::from_secs(60);
const RUNS: &str = "mpsec_ebpf_program_runs_total";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("reload::another_filter_takes_effect", LIMIT, filter),
        trial("reload::kernel_stats_come_and_go", LIMIT, kernel_stats),
        trial("reload::a_bad_file_changes_nothing", LIMIT, || {
            refused("[interfaces]\nexclude = [\"west\"]\nmax_interfaces = 0\n", "max_interfaces")
        }),
        trial("reload::a_missing_file_changes_nothing", LIMIT, missing),
        trial("reload::what_needs_a_restart_is_refused", LIMIT, || {
            refused("[interfaces]\nexclude = [\"west\"]\nmax_interfaces = 7\n", "restart")
        }),
        trial("reload::the_command_tells_what_came_of_it", LIMIT, told),
        trial("reload::a_storm_of_signals_is_endured", LIMIT, storm),
    ]
}

fn start(config: &str) -> Result<(Agent, Arc<Netns>, Arc<Netns>)> {
    need::mpsec()?;
    let Pair { left, right } = Pair::bare()?;
    let agent = Options { config: config.into(), ..Options::default() }.start(&left)?;
    Ok((agent, left, right))
}

fn reload(agent: &Agent, config: &str) -> Result<()> {
    fs::write(agent.folder().join("mpsec.toml"), config)?;
    agent.signal(libc::SIGHUP)
}

/// Waits until exactly these devices are attached to, and the last reload went as said.
fn settled(agent: &Agent, devices: &[&str], succeeded: u64) -> Result<()> {
    let usual = devices_of_every_namespace()?;
    wait::until(SHOWN, || {
        let now = agent.scrape()?;
        let mut attached = now.label_values(ATTACHED.0, "interface");
        attached.retain(|device| !usual.contains(device));
        ensure!(attached.iter().eq(devices.iter()), "{attached:?} instead of {devices:?}");
        let value = now.sum(RELOADED.0, RELOADED.1)?;
        ensure!(value == succeeded, "{} is {value}; {}", RELOADED.0, agent.stderr());
        Ok(())
    })
}

fn filter() -> Result<()> {
    let (agent, left, right) = start("")?;
    link::veth((&left, "more"), (&right, "more"))?;
    settled(&agent, &["lo", "more", "west"], 1)?;
    reload(&agent, "[interfaces]\ninclude = [\"west\", \"mo*\"]\nexclude = [\"west\"]\n")?;
    settled(&agent, &["more"], 1)?;
    for device in ["lo", "west"] {
        let there = hooks::attached_anywhere(&left, device)?;
        ensure!(there.is_empty(), "{device} still has {there:?}");
    }
    reload(&agent, "")?;
    settled(&agent, &["lo", "more", "west"], 1)?;
    agent.ready()?;
    let mut sender = Sender::new(&left, Pair::WEST, Buffer::Linear)?;
    (0..4).try_for_each(|_| sender.send(&frames::all()[0].bytes))?;
    wait::until(SHOWN, || {
        let sent = Classes::read(&agent.scrape()?, Pair::WEST, "tx")?.total().packets;
        ensure!(sent == 4, "{sent} packets counted instead of 4");
        Ok(())
    })
}

fn kernel_stats() -> Result<()> {
    let (agent, left, _right) = start("")?;
    let programs = |wanted: usize| {
        wait::until(SHOWN, || {
            let there = agent.scrape()?.label_values(RUNS, "program").len();
            ensure!(there == wanted, "{there} programs with statistics instead of {wanted}; {}", agent.stderr());
            Ok(())
        })
    };
    programs(0)?;
    reload(&agent, "[agent]\nkernel_stats = true\n")?;
    programs(2)?;
    let mut sender = Sender::new(&left, Pair::WEST, Buffer::Linear)?;
    (0..4).try_for_each(|_| sender.send(&frames::all()[0].bytes))?;
    wait::until(SHOWN, || {
        let runs = agent.scrape()?.sum(RUNS, &[("program", "mpsec_egress")])?;
        ensure!(runs >= 4, "{runs} runs");
        Ok(())
    })?;
    reload(&agent, "[agent]\nkernel_stats = false\n")?;
    programs(0)
}

/// The settings before stay in force, the log says what is wrong, and a good file makes everything well again.
fn refused(config: &str, word: &str) -> Result<()> {
    let (agent, _left, _right) = start("[interfaces]\nexclude = [\"lo\"]\n")?;
    settled(&agent, &["west"], 1)?;
    reload(&agent, config)?;
    settled(&agent, &["west"], 0)?;
    ensure!(agent.stderr().contains(word), "{word} is not named: {}", agent.stderr());
    agent.ready()?;
    reload(&agent, "")?;
    settled(&agent, &["lo", "west"], 1)
}

fn missing() -> Result<()> {
    let (agent, _left, _right) = start("[interfaces]\nexclude = [\"lo\"]\n")?;
    fs::remove_file(agent.folder().join("mpsec.toml"))?;
    agent.signal(libc::SIGHUP)?;
    settled(&agent, &["west"], 0)?;
    ensure!(agent.stderr().contains("mpsec.toml"), "{}", agent.stderr());
    Ok(())
}

/// The command ends when the file is in force, and with 64 and the reason when it is not.
fn told() -> Result<()> {
    let (agent, _left, _right) = start("")?;
    let reload = |config: &str| -> Result<(Option<i32>, String)> {
        fs::write(agent.folder().join("mpsec.toml"), config)?;
        let mut command = Command::new(need::mpsec()?);
        command.args(["config", "reload", "--control-socket"]).arg(agent.folder().join("mpsec.sock"));
        let output = command.output()?;
        Ok((output.status.code(), String::from_utf8([output.stdout, output.stderr].concat())?))
    };
    let (code, said) = reload("[interfaces]\nexclude = [\"lo\"]\n")?;
    ensure!(code == Some(0), "{code:?}: {said}");
    let attached = agent.scrape()?.label_values(ATTACHED.0, "interface");
    ensure!(
        !attached.contains("lo") && attached.contains("west"),
        "it ended before the file was in force: {attached:?}"
    );
    for (config, word) in [("[interfaces]\nexclud = 1\n", "exclud"), ("[interfaces]\nmax_interfaces = 7\n", "restart")]
    {
        let (code, said) = reload(config)?;
        ensure!(code == Some(64) && said.contains(word), "{code:?}: {said}");
        settled(&agent, &["west"], 0)?;
    }
    let (code, said) = reload("")?;
    ensure!(code == Some(0), "{code:?}: {said}");
    settled(&agent, &["lo", "west"], 1)
}

fn storm() -> Result<()> {
    let (agent, _left, _right) = start("")?;
    let files = agent.open_files()?;
    for round in 0..500 {
        let exclude = if round % 2 == 0 { "lo" } else { "west" };
        reload(&agent, &format!("[interfaces]\nexclude = [\"{exclude}\"]\n"))?;
    }
    reload(&agent, "")?;
    settled(&agent, &["lo", "west"], 1)?;
    let now = agent.open_files()?;
    ensure!(now <= files + 1, "{now} descriptors, {files} before");
    Ok(())
}
