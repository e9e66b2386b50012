//! `mpsec status`: what the running agent says to a person and to a program, over its socket.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::Agent;
use mpsec_tests::counted::Counted;
use mpsec_tests::frames;
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::trial;
use mpsec_tests::{bpf, need, wait};
use serde_json::Value;

use crate::watch::SHOWN;

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("status::table_and_json_say_what_was_counted", LIMIT, counted),
        trial("status::programs_are_verified_in_few_steps", LIMIT, verified),
        trial("status::nobody_answers", LIMIT, nobody),
        trial("status::a_reader_that_goes_away_is_no_error", LIMIT, closed),
    ]
}

fn command(socket: &Path, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(need::mpsec()?);
    command.arg("status").arg("--control-socket").arg(socket).args(args);
    Ok(command)
}

fn status(socket: &Path, args: &[&str]) -> Result<String> {
    let output = command(socket, args)?.output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What the verifier goes through for one program at most: twice what it did on Linux 6.18, and less than before ways were joined.
const MOST_STEPS: u64 = 110_000;

/// The start takes as long as the verifier needs, which follows the same code again for all that it need not know.
fn verified() -> Result<()> {
    need::mpsec()?;
    let pair = Pair::bare()?;
    let agent = Agent::start(&pair.left)?;
    let mut steps = Vec::new();
    for file in std::fs::read_dir(format!("/proc/{}/fdinfo", agent.pid()))? {
        // A descriptor of the moment may be gone.
        let text = std::fs::read_to_string(file?.path()).unwrap_or_default();
        let told = |what: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')?.trim().parse().ok())
        };
        if let (Some(program), Some(verified)) = (told("prog_id"), told("verified_insns")) {
            steps.push((verified, bpf::name(u32::try_from(program)?)?));
        }
    }
    println!("{steps:?}");
    let most = steps.iter().max().context("no program tells")?;
    // Those that count packets are among them.
    ensure!((10_000..MOST_STEPS).contains(&most.0), "{steps:?}");
    Ok(())
}

fn counted() -> Result<()> {
    need::mpsec()?;
    let pair = Pair::bare()?;
    let agent = Agent::start(&pair.left)?;
    let socket = agent.folder().join("mpsec.sock");
    let frame = &frames::all()[0];
    let mut sender = Sender::new(&pair.left, Pair::WEST, Buffer::Linear)?;
    (0..6).try_for_each(|_| sender.send(&frame.bytes))?;
    let one = Counted::of(frame);
    wait::until(SHOWN, || {
        let json: Value = serde_json::from_str(&status(&socket, &["--json"])?)?;
        let west = json["interfaces"].as_array().and_then(|all| all.iter().find(|one| one["name"] == Pair::WEST));
        let west = west.with_context(|| format!("{json:#}"))?;
        ensure!(west["hooks"]["tx"]["attached"] == true && west["counted_as"] == Pair::WEST, "{west:#}");
        let sums = west["traffic"]["tx"].as_object().context("no classes")?;
        let sum = |field: &str| sums.values().filter_map(|class| class[field].as_u64()).sum::<u64>();
        ensure!((sum("packets"), sum("bytes"), sum("l3_bytes")) == (6, 6 * one.bytes, 6 * one.l3_bytes), "{west:#}");
        ensure!(json["agent"]["config"]["last_reload_succeeded"] == true, "{json:#}");
        Ok(())
    })?;
    let table = status(&socket, &[])?;
    let row =
        table.lines().find(|line| line.starts_with("west ") && line.contains(" tx ")).with_context(|| table.clone())?;
    let words: Vec<&str> = row.split_whitespace().collect();
    ensure!(words[3..5] == ["6".to_owned(), (6 * one.bytes).to_string()], "{row}");
    Ok(())
}

/// One line, and what to do about it.
fn complaint(output: &Output, word: &str) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && text.lines().count() == 1 && text.contains(word), "{output:?}");
    Ok(())
}

fn nobody() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("mpsec.sock");
    complaint(&command(&socket, &[])?.output()?, "is `mpsec run` running")?;
    // One that listens and never says a word.
    let _listener = UnixListener::bind(&socket)?;
    let start = Instant::now();
    complaint(&command(&socket, &["--json"])?.output()?, "did not answer within")?;
    ensure!(start.elapsed() < Duration::from_secs(20), "gave up after {:?}", start.elapsed());
    Ok(())
}

fn closed() -> Result<()> {
    need::mpsec()?;
    let pair = Pair::bare()?;
    let agent = Agent::start(&pair.left)?;
    let mut command = command(&agent.folder().join("mpsec.sock"), &["--json"])?;
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(())
}
