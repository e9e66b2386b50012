//! `mpsec top`: as text for scripts, and live on a terminal.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::Agent;
use mpsec_tests::frames;
use mpsec_tests::need;
use mpsec_tests::pty::Pty;
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::trial;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// How long the view may take to show something.
const SHOWN: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("top::once_prints_text_and_json", LIMIT, once),
        trial("top::once_without_an_agent_fails", LIMIT, nobody),
        trial("top::a_pipe_is_no_terminal", LIMIT, pipe),
        trial("top::keys_change_the_screen_and_q_gives_it_back", LIMIT, keys),
        trial("top::a_resize_is_followed_and_sigterm_gives_the_screen_back", LIMIT, resize_and_signal),
        trial("top::the_agent_may_go_and_come", LIMIT, lost),
        trial("top::keys_work_while_the_agent_is_silent", LIMIT, silent),
    ]
}

fn command(socket: &Path, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(need::mpsec()?);
    command.arg("top").arg("--control-socket").arg(socket).args(args).env_remove("COLUMNS");
    Ok(command)
}

fn succeed(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn once() -> Result<()> {
    need::mpsec()?;
    let pair = Pair::bare()?;
    let agent = Agent::start(&pair.left)?;
    let socket = agent.folder().join("mpsec.sock");
    let frame = &frames::all()[0];
    let mut sender = Sender::new(&pair.left, Pair::WEST, Buffer::Linear)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) && sender.send(&frame.bytes).is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        let result = once_while_it_sends(&socket);
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn once_while_it_sends(socket: &Path) -> Result<()> {
    let json = succeed(&mut command(socket, &["--json", "--view", "interfaces", "--interval", "0.5"])?)?;
    let json: Value = serde_json::from_str(&json)?;
    let interfaces = json["interfaces"].as_array().context("no interfaces")?;
    let west = interfaces.iter().find(|row| row["name"] == Pair::WEST).with_context(|| format!("{json:#}"))?;
    ensure!(west["tx_bytes_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{west:#}");
    ensure!(json["summary"]["tx_bytes_per_second"] == west["tx_bytes_per_second"], "{json:#}");
    ensure!(json["summary"]["host"]["memory_total_bytes"].as_u64() > Some(0), "{json:#}");
    for (columns, width) in [(Some("80"), 80), (None, 120)] {
        let mut command = command(socket, &["--once", "--view", "interfaces", "--interval", "0.1"])?;
        columns.map(|columns| command.env("COLUMNS", columns));
        let text = succeed(&mut command)?;
        ensure!(text.lines().any(|line| line.starts_with("west ")), "{text}");
        ensure!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        ensure!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
    let filtered = ["--once", "--view", "interfaces", "--interval", "0.1", "--filter", "no such thing"];
    let text = succeed(&mut command(socket, &filtered)?)?;
    ensure!(!text.contains("west"), "{text}");
    Ok(())
}

/// One line on stderr, and nothing else.
fn complaint(output: &Output, word: &str) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr);
    let is_one_line = output.stdout.is_empty() && text.lines().count() == 1;
    ensure!(output.status.code() == Some(1) && is_one_line && text.contains(word), "{output:?}");
    Ok(())
}

fn nobody() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for arg in ["--once", "--json"] {
        complaint(&command(&folder.path().join("x"), &[arg])?.output()?, "is `mpsec run` running")?;
    }
    complaint(&command(&folder.path().join("x"), &["--once", "--sort", "color"])?.output()?, "cannot sort connections")
}

fn pipe() -> Result<()> {
    let folder = tempfile::tempdir()?;
    complaint(&command(&folder.path().join("x"), &[])?.output()?, "use `mpsec top --once`")
}

fn start(socket: &Path, args: &[&str]) -> Result<Pty> {
    Pty::start(command(socket, args)?, 80, 24)
}

/// It ended well, and the terminal is as it was.
fn restored(top: &mut Pty) -> Result<()> {
    let status = top.wait(SHOWN)?;
    ensure!(status.success(), "{status}: {}", top.text());
    // What it wrote last may still be on its way.
    top.until(SHOWN, |_| top.modes() == (false, false))?;
    ensure!(top.is_as_before()?, "the terminal has other settings than before");
    Ok(())
}

fn keys() -> Result<()> {
    need::mpsec()?;
    let pair = Pair::bare()?;
    let agent = Agent::start(&pair.left)?;
    let mut top = start(&agent.folder().join("mpsec.sock"), &["--interval", "0.2"])?;
    top.until(SHOWN, |text| text.contains("[connections 0]") && text.contains("no connections"))?;
    ensure!(top.modes() == (true, true) && !top.is_as_before()?, "it does not use the whole screen");
    top.keys("\t")?;
    top.until(SHOWN, |text| text.contains("[paths 0]") && text.contains("no paths"))?;
    top.keys("\t")?;
    top.until(SHOWN, |text| text.contains("\nwest ") && text.contains("\nlo "))?;
    top.keys("/wes\u{7f}st")?;
    top.until(SHOWN, |text| text.contains("filter: west_") && !text.contains("\nlo "))?;
    top.keys("\rs")?;
    top.until(SHOWN, |text| text.contains("filter \"west\"") && text.contains("sort via"))?;
    top.keys("p?")?;
    top.until(SHOWN, |text| text.contains("Keys") && text.contains("Tab, Shift-Tab"))?;
    top.keys("?")?;
    top.until(SHOWN, |text| text.contains("PAUSED") && !text.contains("Tab, Shift-Tab"))?;
    top.keys("q")?;
    restored(&mut top)
}

fn resize_and_signal() -> Result<()> {
    need::mpsec()?;
    let pair = Pair::bare()?;
    let agent = Agent::start(&pair.left)?;
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        let mut top = start(&agent.folder().join("mpsec.sock"), &[])?;
        let foot_is_on =
            |text: &str, row: usize| text.lines().nth(row - 1).is_some_and(|line| line.starts_with("? help"));
        top.until(SHOWN, |text| foot_is_on(text, 24))?;
        top.resize(132, 40)?;
        top.until(SHOWN, |text| foot_is_on(text, 40) && text.contains("TOTAL B"))?;
        top.resize(60, 12)?;
        top.until(SHOWN, |text| foot_is_on(text, 12) && !text.contains("TOTAL B"))?;
        top.signal(signal)?;
        restored(&mut top).with_context(|| format!("signal {signal}"))?;
    }
    Ok(())
}

fn lost() -> Result<()> {
    need::mpsec()?;
    let pair = Pair::bare()?;
    let mut agent = Agent::start(&pair.left)?;
    let socket = agent.folder().join("mpsec.sock");
    let mut top = start(&socket, &["--interval", "0.2", "--view", "interfaces"])?;
    top.until(SHOWN, |text| text.contains("\nwest "))?;
    agent.stop(libc::SIGTERM)?;
    top.until(SHOWN, |text| text.contains("not reachable") && text.contains("is old") && text.contains("\nwest "))?;
    // Another agent on the same socket.
    let second = Agent::start(&pair.left)?;
    std::os::unix::fs::symlink(second.folder().join("mpsec.sock"), &socket)?;
    top.until(SHOWN, |text| !text.contains("not reachable") && text.contains("\nwest "))?;
    top.keys("\u{3}")?;
    restored(&mut top)
}

fn silent() -> Result<()> {
    need::mpsec()?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("mpsec.sock");
    let _listener = UnixListener::bind(&socket)?;
    let mut top = start(&socket, &[])?;
    top.until(SHOWN, |text| text.contains("waiting for the agent's first answer"))?;
    top.keys("\t")?;
    top.until(SHOWN, |text| text.contains("[paths 0]"))?;
    top.keys("q")?;
    restored(&mut top)
}
