//! An agent that cannot start says why in one line, and how in its exit code.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{LISTEN, Options, exit_code};
use mpsec_tests::need;
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::trial;

const LIMIT: Duration = Duration::from_secs(60);
/// How long the agent may take to give up.
const GIVE_UP: Duration = Duration::from_secs(10);
/// The exit code for what the user wrote wrongly (`EX_USAGE` of sysexits.h).
const USAGE: i32 = 64;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("refuse::a_port_in_use", LIMIT, port_in_use),
        trial("refuse::not_root", LIMIT, not_root),
        trial("refuse::an_unknown_key", LIMIT, || config("[http]\nlissten = [\"127.0.0.1:1\"]\n", "lissten")),
        trial("refuse::a_wrong_value", LIMIT, || config("[interfaces]\nmax_interfaces = \"many\"\n", "max_interfaces")),
        trial("refuse::a_missing_web_configuration", LIMIT, web_config),
        trial("refuse::no_toml", LIMIT, || config("[http\n", "mpsec.toml")),
    ]
}

/// Starts the agent, which gives up and names `word`. Gives the exit code.
fn refusal(options: Options, netns: &Arc<Netns>, word: &str) -> Result<i32> {
    let mut agent = options.spawn(netns)?;
    let code = exit_code(agent.wait(GIVE_UP)?)?;
    let stderr = agent.stderr();
    // More lines may show the place in the file.
    let lines = stderr.lines().filter(|line| line.starts_with("mpsec: ")).count();
    ensure!(lines == 1, "not one line that says what is wrong, but {lines}:\n{stderr}");
    ensure!(stderr.contains(word), "{word} is not named:\n{stderr}");
    ensure!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
    ensure!((1..128).contains(&code), "exit code {code}:\n{stderr}");
    Ok(code)
}

fn netns() -> Result<Arc<Netns>> {
    need::mpsec()?;
    need::root()?;
    Ok(Arc::new(Netns::new()?))
}

fn port_in_use() -> Result<()> {
    let netns = netns()?;
    let _occupant = netns.run(|| TcpListener::bind(LISTEN))?;
    refusal(Options::default(), &netns, "127.0.0.1:9475").map(drop)
}

fn not_root() -> Result<()> {
    let netns = netns()?;
    need::command("setpriv")?;
    let options = Options { user: Some("nobody".into()), ..Options::default() };
    refusal(options, &netns, "CAP_").map(drop)
}

fn config(text: &str, word: &str) -> Result<()> {
    let netns = netns()?;
    let code = refusal(Options { config: text.into(), ..Options::default() }, &netns, word)?;
    ensure!(code == USAGE, "exit code {code} instead of {USAGE}");
    Ok(())
}

fn web_config() -> Result<()> {
    let options = Options::default().with("--web-config /nonexistent/web.yml");
    let code = refusal(options, &netns()?, "/nonexistent/web.yml")?;
    ensure!(code == USAGE, "exit code {code} instead of {USAGE}");
    Ok(())
}
