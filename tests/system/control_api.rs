//! Who may have things changed, by which way, and what is written down of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::{Paths, Plan};
use mpsec_tests::tls::{self, Identity};
use mpsec_tests::trial::trial;
use mpsec_tests::{http, need, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(10);
const FULLMESH: [&str; 2] = ["mptcp.path_manager=fullmesh", "mptcp.endpoints=west*=ipv4"];
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// A group that every Debian has, and nobody is in.
const GROUP: (&str, &str) = ("daemon", "1");
const NOBODY: &str = "65534";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("control_api::commands_do_without_an_agent", LIMIT, standalone),
        trial("control_api::commands_have_the_agent_do_it", LIMIT, with_agent),
        trial("control_api::what_the_agent_does_by_itself_is_written_down_and_counted", LIMIT, by_itself),
        trial("control_api::only_root_and_the_group_change_things", LIMIT, who_may),
        trial("control_api::https_takes_the_token_and_plain_http_nothing", LIMIT, https),
        trial("control_api::a_token_file_that_others_can_read_is_refused", LIMIT, token_file),
    ]
}

/// The commands, with the places of one agent.
struct Mpsec {
    netns: Arc<Netns>,
    program: PathBuf,
    places: Vec<String>,
    become_user: Vec<String>,
}

impl Mpsec {
    fn new(netns: &Arc<Netns>, folder: &Path) -> Result<Mpsec> {
        let place = |flag: &str, name: &str| [flag.to_owned(), folder.join(name).display().to_string()];
        let config = folder.join("mpsec.toml");
        if !config.exists() {
            fs::write(&config, "")?;
        }
        let places =
            [place("--config", "mpsec.toml"), place("--control-socket", "mpsec.sock"), place("--state-dir", "state")];
        Ok(Mpsec { netns: netns.clone(), program: need::mpsec()?, places: places.concat(), become_user: Vec::new() })
    }

    /// As another user, in these groups.
    fn of_user(&self, folder: &Path, user: &str, group: &str, groups: &str) -> Result<Mpsec> {
        let program = folder.join("mpsec");
        if !program.exists() {
            fs::copy(&self.program, &program)?;
        }
        let groups = if groups.is_empty() { "--clear-groups".into() } else { format!("--groups={groups}") };
        let setpriv = need::command("setpriv")?.display().to_string();
        let become_user = vec![setpriv, format!("--reuid={user}"), format!("--regid={group}"), groups];
        Ok(Mpsec { netns: self.netns.clone(), program, places: self.places.clone(), become_user })
    }

    fn run(&self, words: &[&str]) -> Result<Output> {
        let program = self.program.display().to_string();
        let line: Vec<&String> = self.become_user.iter().chain([&program]).collect();
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).args(words).args(&self.places);
        Ok(self.netns.run(|| command.output())?)
    }

    /// What it prints, if it ends with this code.
    fn says(&self, code: i32, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        ensure!(output.status.code() == Some(code), "{words:?}: {output:?}");
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8(text)?)
    }

    fn json(&self, code: i32, words: &[&str]) -> Result<Value> {
        let output = self.run(words)?;
        ensure!(output.status.code() == Some(code), "{words:?}: {output:?}");
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn audit(&self) -> Result<Vec<Value>> {
        let text = self.says(0, &["audit", "--json"])?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

fn endpoints(netns: &Netns) -> Result<usize> {
    Ok(netns.ip("mptcp endpoint show")?.lines().count())
}

fn set(verb: &'static str) -> [&'static str; 5] {
    [verb, "--set", FULLMESH[0], "--set", FULLMESH[1]]
}

/// Plans, applies, switches a link and releases; the same by whichever way.
fn round(mpsec: &Mpsec, netns: &Netns) -> Result<()> {
    let before = netns.ip("mptcp limits show")?;
    let plan = mpsec.says(0, &set("plan"))?;
    ensure!(plan.contains("+ endpoint 10.0.0.1 west0 subflow,fullmesh"), "{plan}");
    let checked: Vec<&str> = set("plan").into_iter().chain(["--check"]).collect();
    mpsec.says(2, &checked)?;
    ensure!(endpoints(netns)? == 0, "a plan changed something");
    let applied = mpsec.json(0, &[&set("apply")[..], &["--json"]].concat())?;
    let changes = applied["outcome"]["changes"].as_array().context("no changes")?;
    let added = changes.iter().filter(|change| change["change"] == "add_endpoint").count();
    ensure!(added == 2, "{applied:#}");
    ensure!(endpoints(netns)? == 2, "{applied:#}");
    let index = netns.ifindex("west0")?.to_string();
    ensure!(applied["interfaces"][&index] == "west0", "{applied:#}");
    ensure!(mpsec.says(0, &["plan", "--check"])?.contains("Nothing to change."), "it is not kept what was set");
    let wrong = mpsec.says(64, &["apply", "--set", "mptcp.pth_manager=fullmesh"])?;
    ensure!(wrong.contains("did you mean mptcp.path_manager?"), "{wrong}");
    mpsec.says(64, &["apply", "--set", "mptcp.path_manager=none-such"])?;
    mpsec.says(64, &["apply", "--unset", "mptcp.enabled"])?;
    let refused = mpsec.says(1, &["apply", "--set", "mptcp.scheduler=none_such"])?;
    ensure!(refused.contains("Refused, and nothing is changed") && endpoints(netns)? == 2, "{refused}");

    let down = mpsec.says(0, &["link", "down", "west1", "--dry-run"])?;
    ensure!(down.contains("~ interface west1: up -> down"), "{down}");
    mpsec.says(0, &["link", "down", "west1"])?;
    ensure!(!netns.ip("link show up")?.contains("west1"), "west1 is up");
    ensure!(mpsec.says(64, &["link", "down", "west7"])?.contains("there is no interface"), "west7");

    let released = mpsec.json(0, &["release", "--json"])?;
    ensure!(released["released"] == true, "{released:#}");
    ensure!(endpoints(netns)? == 0 && netns.ip("mptcp limits show")? == before, "{released:#}");
    ensure!(netns.ip("link show up")?.contains("west1"), "west1 was up before");
    let nothing = mpsec.says(0, &["plan", "--check"])?;
    ensure!(nothing.contains("Nothing to change."), "{nothing}");
    Ok(())
}

fn standalone() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let folder = tempfile::tempdir()?;
    let mpsec = Mpsec::new(&paths.client, folder.path())?;
    let plan = mpsec.says(0, &set("plan"))?;
    ensure!(plan.contains("no agent answers on") && plan.contains("by itself"), "{plan}");
    ensure!(!folder.path().join("state").exists(), "a plan keeps something");
    round(&mpsec, &paths.client)?;
    let shown = mpsec.says(0, &["audit", "--last", "4"])?;
    ensure!(shown.contains("+ endpoint 10.0.0.1 west0 subflow,fullmesh"), "{shown}");
    let audit = mpsec.audit()?;
    let what: Vec<&str> = audit.iter().filter_map(|entry| entry["what"].as_str()).collect();
    let apply = format!("apply --set {} --set {}", FULLMESH[0], FULLMESH[1]);
    let refused = "apply --set mptcp.scheduler=none_such";
    ensure!(what == [apply.as_str(), refused, "link down west1", "release"], "{what:?}");
    ensure!(audit[0]["who"]["local"]["uid"] == 0 && audit[0]["changes"][0]["address"] == "10.0.0.1", "{:#}", audit[0]);
    ensure!(audit[1]["refusals"].as_array().is_some_and(|all| all.len() == 1), "{:#}", audit[1]);
    let path = folder.path().join("state/audit.jsonl");
    let mode = fs::metadata(&path)?.mode() & 0o777;
    ensure!(mode == 0o640, "{mode:o}");
    let refused = mpsec.says(1, &["plan", "--set", "mptcp.path_manager=ndiffports"])?;
    ensure!(refused.contains("needs the running agent"), "{refused}");
    Ok(())
}

fn with_agent() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let agent = Agent::start(&paths.client)?;
    let mpsec = Mpsec::new(&paths.client, &agent.folder())?;
    ensure!(!mpsec.says(0, &["plan"])?.contains("no agent answers"), "the agent was not asked");
    round(&mpsec, &paths.client)?;
    let audit = mpsec.audit()?;
    let by_hand: Vec<&Value> = audit.iter().filter(|entry| entry["who"] != "agent").collect();
    ensure!(by_hand.len() == 4 && by_hand.iter().all(|entry| entry["who"]["local"]["uid"] == 0), "{audit:#?}");
    ensure!(agent.stderr().contains("who=uid 0 pid"), "{}", agent.stderr());
    let scrape = agent.scrape()?;
    let value = |name: &str, labels: &[(&str, &str)]| scrape.get(name, labels).map(|value| value.float());
    let generation = value("mpsec_control_desired_generation", &[]);
    ensure!(generation >= Some(2.0) && generation == value("mpsec_control_actual_generation", &[]), "{generation:?}");
    ensure!(value("mpsec_control_changes_total", &[("outcome", "applied")]) >= Some(6.0), "no changes counted");
    ensure!(value("mpsec_control_released", &[]) == Some(1.0), "it is not released");
    ensure!(value("mpsec_control_audit_errors_total", &[]) == Some(0.0), "entries are missing");
    Ok(())
}

/// An agent that makes the host what this file asks for, once it has tried.
fn keeper(netns: &Arc<Netns>, config: &str) -> Result<(Agent, Mpsec, Value)> {
    let agent = Options { config: config.into(), ..Options::default() }.start(netns)?;
    let mpsec = Mpsec::new(netns, &agent.folder())?;
    let entry = wait::until(SOON, || mpsec.audit()?.pop().context("nothing is written down"))?;
    ensure!(entry["who"] == "agent" && entry["what"] == "reconcile", "{entry:#}");
    Ok((agent, mpsec, entry))
}

fn by_itself() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(1))?;
    let value = |agent: &Agent, name: &str| -> Result<f64> {
        let scrape = agent.scrape()?;
        Ok(scrape.get(&format!("mpsec_control_{name}"), &[]).with_context(|| name.to_owned())?.float())
    };
    let (mut agent, mpsec, entry) =
        keeper(&paths.client, "[mptcp]\npath_manager = \"fullmesh\"\nendpoints = [\"west*=ipv4\"]\n")?;
    let changes = entry["changes"].as_array().context("no changes")?;
    ensure!(changes.iter().any(|change| change["change"] == "add_endpoint"), "{entry:#}");
    ensure!(value(&agent, "desired_generation")? == value(&agent, "actual_generation")?, "it is as wanted");
    ensure!(value(&agent, "owned")? >= 1.0 && value(&agent, "failures")? == 0.0, "{}", agent.stderr());
    let socket = agent.folder().join("mpsec.sock").display().to_string();
    let status = |mpsec: &Mpsec| -> Result<String> {
        let mut command = Command::new(&mpsec.program);
        command.args(["status", "--control-socket", &socket]);
        Ok(String::from_utf8(mpsec.netns.run(|| command.output())?.stdout)?)
    };
    let text = status(&mpsec)?;
    ensure!(text.contains("\nHost: as it is wanted"), "{text}");
    agent.stop(libc::SIGTERM)?;
    drop(agent);

    // What fails is tried again and again, and is written down once.
    let paths = Paths::new(Plan::wires(1))?;
    let (agent, mpsec, entry) = keeper(&paths.client, "[mptcp]\nscheduler = \"none_such\"\n")?;
    ensure!(entry["refusals"].as_array().is_some_and(|all| all.len() == 1), "{entry:#}");
    ensure!(value(&agent, "desired_generation")? > value(&agent, "actual_generation")?, "it is not as wanted");
    ensure!(value(&agent, "failures")? == 1.0, "{}", agent.stderr());
    wait::throughout(Duration::from_secs(4), || {
        let entries = mpsec.audit()?.len();
        ensure!(entries == 1, "{entries} entries");
        Ok(())
    })
}

fn who_may() -> Result<()> {
    need::mpsec()?;
    let groups = fs::read_to_string("/etc/group")?;
    ensure!(groups.contains(&format!("{}:x:{}:", GROUP.0, GROUP.1)), "this host has no group {GROUP:?}");
    let paths = Paths::new(Plan::wires(1))?;
    let agent = Options::default().with(&format!("--control-group {}", GROUP.0)).start(&paths.client)?;
    let folder = agent.folder();
    fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
    let socket = folder.join("mpsec.sock");
    let metadata = fs::metadata(&socket)?;
    ensure!((metadata.mode() & 0o777, metadata.gid()) == (0o660, 1), "{metadata:?}");
    let root = Mpsec::new(&paths.client, &folder)?;
    let nobody = root.of_user(&folder, NOBODY, NOBODY, "")?;
    let member = root.of_user(&folder, NOBODY, NOBODY, GROUP.1)?;
    let primary = root.of_user(&folder, NOBODY, GROUP.1, "")?;
    let closed = nobody.says(1, &["plan"])?;
    ensure!(
        closed.contains("use sudo, or add your user to the group that the socket belongs to")
            && !closed.contains("by itself"),
        "{closed}"
    );
    for (mpsec, name) in [(&root, "root"), (&member, "member"), (&primary, "primary group")] {
        mpsec.says(0, &set("apply")).context(name)?;
        ensure!(endpoints(&paths.client)? == 1, "{name}");
        mpsec.says(0, &["release"]).context(name)?;
    }
    // Whoever loosens the permissions of the file lets others look, and no more.
    fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
    ensure!(nobody.says(0, &["plan"])?.contains("Nothing to change."), "a plan");
    nobody.says(0, &["link", "down", "west0", "--dry-run"])?;
    for words in [&set("apply")[..], &["release"], &["link", "down", "west0"]] {
        let refused = nobody.says(1, words)?;
        ensure!(
            refused.contains("use sudo, or add your user to the group (sudo usermod -aG daemon USER)"),
            "{refused}"
        );
    }
    ensure!(endpoints(&paths.client)? == 0 && paths.client.ip("link show up")?.contains("west0"), "it was done");
    Ok(())
}

/// An agent that serves HTTPS, and lets the token change things.
fn https_agent(netns: &Arc<Netns>, folder: &Path, mode: u32) -> Result<(Identity, Agent)> {
    let identity = Identity::new()?;
    identity.write(folder)?;
    let token = folder.join("token");
    fs::write(&token, TOKEN)?;
    fs::set_permissions(&token, Permissions::from_mode(mode))?;
    let place = folder.display();
    let args = format!("--web-config {place}/web.yml --http-control --http-control-token-file {place}/token");
    Ok((identity, Options::default().with(&args).spawn(netns)?))
}

fn https() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(1))?;
    let folder = tempfile::tempdir()?;
    let (identity, mut agent) = https_agent(&paths.client, folder.path(), 0o600)?;
    let token = format!("Bearer {TOKEN}");
    let post = |name: &str, headers: &[(&str, &str)], body: &str| {
        let stream = identity.connect(&paths.client)?;
        http::post(stream, tls::NAME, &format!("/api/v1/{name}"), headers, body)
    };
    let apply = format!(r#"{{"set": ["{}", "{}"]}}"#, FULLMESH[0], FULLMESH[1]);
    wait::until(SOON, || {
        ensure!(agent.status().is_none(), "{}", agent.stderr());
        post("plan", &[("Authorization", &token)], "{}")
    })?;
    let cases: [(&[(&str, &str)], u16); 4] = [
        (&[], 401),
        (&[("Authorization", "Bearer x")], 401),
        (&[("Authorization", &token), ("Origin", "https://localhost")], 403),
        (&[("Authorization", &token), ("Sec-Fetch-Site", "cross-site")], 403),
    ];
    for (headers, status) in cases {
        let refused = post("apply", headers, &apply)?;
        ensure!(refused.status == status && endpoints(&paths.client)? == 0, "{headers:?}: {refused:?}");
    }
    let done = post("apply", &[("Authorization", &token)], &apply)?;
    ensure!(done.status == 200 && endpoints(&paths.client)? == 1, "{done:?}");
    let refused = post("apply", &[("Authorization", &token)], r#"{"set": ["mptcp.scheduler=none_such"]}"#)?;
    ensure!(refused.status == 409 && refused.text()?.contains("none_such"), "{refused:?}");
    let wrong = post("link", &[("Authorization", &token)], r#"{"name": "west7", "up": false}"#)?;
    ensure!(wrong.status == 400 && wrong.text()?.contains("there is no interface"), "{wrong:?}");
    let given_back = post("release", &[("Authorization", &token)], "{}")?;
    ensure!(given_back.status == 200 && endpoints(&paths.client)? == 0, "{given_back:?}");
    let audit = Mpsec::new(&paths.client, &agent.folder())?.audit()?;
    let remote = audit.iter().filter(|entry| entry["who"]["remote"]["identity"] == "token").count();
    ensure!(remote == 3, "{audit:#?}");
    agent.stop(libc::SIGTERM)?;

    let place = folder.path().display();
    let args = format!("--http-control --http-control-token-file {place}/token");
    let agent = Options::default().with(&args).start(&paths.client)?;
    ensure!(agent.stderr().contains("http.control has no effect without TLS"), "{}", agent.stderr());
    let stream = http::connect(&paths.client, agent.address())?;
    let refused = http::post(stream, "127.0.0.1", "/api/v1/apply", &[("Authorization", &token)], &apply)?;
    ensure!(refused.status == 403 && refused.text()?.contains("plain HTTP"), "{refused:?}");
    ensure!(endpoints(&paths.client)? == 0, "it was done");
    Ok(())
}

fn token_file() -> Result<()> {
    need::mpsec()?;
    need::root()?;
    let netns = Arc::new(Netns::new()?);
    let folder = tempfile::tempdir()?;
    let (_, mut agent) = https_agent(&netns, folder.path(), 0o644)?;
    let status = agent.wait(SOON)?;
    let said = agent.stderr();
    ensure!(!status.success() && said.contains("its mode 0644 lets others read it"), "{status}: {said}");
    ensure!(said.contains("chmod 0600"), "{said}");
    Ok(())
}
