//! Asks the running agent, over its local socket; and `mpsec status`, which prints what it says.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mpsec_common::{Class, Direction, Protection};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ask::{Answer, Ask, AskErrorKind};
use super::request::{RELOAD, STATUS};
use super::socket;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {}: {error}; {}", path.display(), hint(error))]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// Why it cannot be used.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the agent did not answer: {0}")]
    Broken(io::Error),
    /// Nothing came.
    #[error("the agent did not answer within {0} seconds: is it stopped, or is this host overloaded?")]
    Silent(u64),
    /// There was no end to it, or it came too early.
    #[error("the agent's answer is cut short, or longer than any agent's: is it an agent's socket?")]
    Endless,
    /// The answer cannot be read.
    #[error("the agent's answer cannot be read: {0}")]
    Garbled(serde_json::Error),
    /// The agent refused.
    #[error("the agent refused: {0}")]
    Refused(String),
    /// What was asked for is wrong.
    #[error("{0}")]
    Wrong(String),
}

impl ClientError {
    /// Whether there is no agent that could be asked, rather than one that may not be, or does not answer.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        let absent = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        matches!(self, ClientError::NoAgent { error, .. } if absent.contains(&error.kind()))
    }

    fn of(error: io::Error, patience: Duration) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock => ClientError::Silent(patience.as_secs()),
            _ => ClientError::Broken(error),
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "use sudo, or add your user to the group that the socket belongs to",
        _ => "is `mpsec run` running, and may you use its socket?",
    }
}

/// How long to wait for more of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// No answer is longer: this is five times that of an agent with as many interfaces as it can count.
const LONGEST: u64 = 256 << 20;

/// The running agent's snapshot.
pub fn status(path: &Path) -> Result<Value, ClientError> {
    ask(path)
}

/// The same, read as a type of the caller's.
pub fn ask<T: DeserializeOwned>(path: &Path) -> Result<T, ClientError> {
    request(path, STATUS, PATIENCE)
}

/// Has the running agent plan or change something.
pub fn act(path: &Path, ask: &Ask) -> Result<Answer, ClientError> {
    let line = serde_json::to_string(ask).map_err(ClientError::Garbled)?;
    // The agent gives up first, and then says so.
    request(path, &line, socket::PATIENCE + PATIENCE)
}

/// Has the running agent read its configuration file again.
///
/// # Errors
/// [`ClientError::Wrong`] with why it keeps what it had read before.
pub fn reload(path: &Path) -> Result<(), ClientError> {
    request::<Value>(path, RELOAD, socket::PATIENCE + PATIENCE).map(drop)
}

/// Sends a line and reads the answer, waiting so long for each of its parts.
pub(super) fn request<T: DeserializeOwned>(path: &Path, line: &str, patience: Duration) -> Result<T, ClientError> {
    let stream = UnixStream::connect(path).map_err(|error| ClientError::NoAgent { path: path.to_owned(), error })?;
    let broken = |error| ClientError::of(error, patience);
    stream.set_read_timeout(Some(patience)).map_err(broken)?;
    stream.set_write_timeout(Some(patience)).map_err(broken)?;
    (&stream).write_all(format!("{line}\n").as_bytes()).map_err(broken)?;
    let answer = read(BufReader::new(stream), LONGEST).map_err(broken)?;
    parse(&answer.ok_or(ClientError::Endless)?)
}

/// An answer that tells why it is none.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    kind: AskErrorKind,
}

/// A refusal is no longer than this.
const LONGEST_REFUSAL: usize = 16 * 1024;

/// A whole line; `None` where it has no end.
fn read(stream: impl BufRead, longest: u64) -> io::Result<Option<String>> {
    let mut line = String::new();
    stream.take(longest).read_line(&mut line)?;
    Ok(Some(line).filter(|line| line.ends_with('\n')))
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T, ClientError> {
    match serde_json::from_str::<Refusal>(line) {
        Ok(Refusal { error, kind }) if line.len() <= LONGEST_REFUSAL => Err(match kind {
            AskErrorKind::Wrong => ClientError::Wrong(plain(&error)),
            AskErrorKind::Forbidden | AskErrorKind::Failed => ClientError::Refused(plain(&error)),
        }),
        _ => serde_json::from_str(line).map_err(ClientError::Garbled),
    }
}

/// Text that does nothing to a terminal: an interface's name may hold any control character that is no white space
/// (dev_valid_name, net/core/dev.c).
pub(crate) fn plain(text: &str) -> String {
    let escaped = |character: char| {
        let text: String = if character.is_control() { character.escape_default().collect() } else { character.into() };
        text
    };
    text.chars().map(escaped).collect()
}

/// A name as a word of a shell's command that an administrator is told: it must do no more than it says. An interface's name
/// may hold anything but white space, a slash and a colon.
pub(crate) fn shell_word(name: &str) -> Cow<'_, str> {
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@+".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_usual) {
        return name.into();
    }
    format!("'{}'", name.replace('\'', r"'\''")).into()
}

/// The snapshot as a person reads it: a line for each interface, direction and class.
pub fn table(status: &Value) -> String {
    let mut text = String::new();
    let line =
        format_args!("{:<16} {:<3} {:<20} {:>14} {:>18}  {}", "INTERFACE", "DIR", "CLASS", "PACKETS", "BYTES", "");
    writeln!(text, "{}", line.to_string().trim_end()).expect(MEMORY);
    for interface in status["interfaces"].as_array().into_iter().flatten() {
        rows(&mut text, interface);
    }
    mptcp(&mut text, status);
    control(&mut text, &status["control"]);
    troubles(&mut text, status);
    text
}

const MEMORY: &str = "writing to memory does not fail";

fn rows(text: &mut String, interface: &Value) {
    let name = plain(interface["name"].as_str().unwrap_or("?"));
    for direction in Direction::ALL {
        let hook = &interface["hooks"][direction.name()];
        if let Some(error) = hook["error"].as_str() {
            writeln!(text, "{name:<16} {:<3} not attached: {}", direction.name(), plain(error)).expect(MEMORY);
        }
        if let Some(ahead @ 1..) = hook["programs_ahead"].as_u64() {
            let what = "programs of others come first; what they keep is not counted";
            writeln!(text, "{name:<16} {:<3} {ahead} {what}", direction.name()).expect(MEMORY);
        }
        let classes = &interface["traffic"][direction.name()];
        for class in Class::ALL {
            let counter = &classes[class.name()];
            let (Some(packets), Some(bytes)) = (counter["packets"].as_u64(), counter["bytes"].as_u64()) else {
                continue;
            };
            let note = match class.protection() {
                protection @ (Protection::Encrypted | Protection::Inner) => protection.name(),
                Protection::Cleartext | Protection::Exempt => "",
            };
            let (direction, class) = (direction.name(), class.name());
            let line = format!("{name:<16} {direction:<3} {class:<20} {packets:>14} {bytes:>18}  {note}");
            writeln!(text, "{}", line.trim_end()).expect(MEMORY);
        }
    }
    if interface["counted_as"].as_str().is_some_and(|counted_as| counted_as != interface["name"]) {
        writeln!(text, "{name:<16} counted as _other: max_interfaces is reached").expect(MEMORY);
    }
}

/// A few lines on MPTCP for each namespace that has something to tell.
fn mptcp(text: &mut String, status: &Value) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for namespace in list(&status["namespaces"]) {
        let [connections, paths, findings] = ["connections", "paths", "findings"].map(|name| list(&namespace[name]));
        if connections.is_empty() && paths.is_empty() && findings.is_empty() {
            continue;
        }
        let place = match namespace["netns"].as_str().unwrap_or_default() {
            "" => String::new(),
            name => format!(" in {}", plain(name)),
        };
        let subflows: usize = connections.iter().map(|connection| list(&connection["subflows"]).len()).sum();
        let fallbacks = connections.iter().filter(|connection| connection["fallback"].is_string()).count();
        let line = format!("{} connections ({fallbacks} fell back to TCP), {subflows} subflows", connections.len());
        writeln!(text, "\nMPTCP{place}: {line}, {} paths", paths.len()).expect(MEMORY);
        for path in &paths {
            let word = |name: &str| plain(path[name].as_str().unwrap_or_default());
            let bytes = |name: &str| path[name]["bytes"].as_u64().unwrap_or_default();
            let silent = path["silent"].as_str().map_or(String::new(), |why| format!("  silent: {}", plain(why)));
            let name = format!("{} {} {}", word("interface"), word("family"), word("remote"));
            let (name, rx, tx) = (name.trim_end(), bytes("rx"), bytes("tx"));
            writeln!(text, "  {name:<42} rx {rx:>15} tx {tx:>15} bytes{silent}").expect(MEMORY);
        }
        for finding in &findings {
            let word = |name: &str| finding[name].as_str().map(plain).unwrap_or_default();
            let line = format!("  ! {} {} {}", word("about"), word("text"), word("remedy"));
            writeln!(text, "{}", line.trim_end()).expect(MEMORY);
        }
    }
}

/// What was asked to be changed on the host, where anything was.
fn control(text: &mut String, control: &Value) {
    let lines = |name: &str| control[name].as_array().cloned().unwrap_or_default();
    let (failures, waiting) = (lines("failures"), lines("waiting"));
    let (owned, released) = (control["owned"].as_u64().unwrap_or_default(), control["released"] == Value::Bool(true));
    let forced = control["forced_sockets"].as_object();
    if failures.is_empty() && waiting.is_empty() && owned == 0 && !released && forced.is_none() {
        return;
    }
    let state = match (released, failures.len()) {
        (true, _) => "released, nothing is changed until mpsec apply".to_owned(),
        (false, 0) => format!("as it is wanted (settings, endpoints and interfaces changed by MPSec: {owned})"),
        (false, failures) => format!("not as it is wanted (failures: {failures})"),
    };
    writeln!(text, "\nHost: {state}").expect(MEMORY);
    for (sign, all) in [('!', failures), ('.', waiting)] {
        for line in all.iter().filter_map(Value::as_str) {
            writeln!(text, "  {sign} {}", plain(line)).expect(MEMORY);
        }
    }
    if let Some(forced) = forced {
        let count = |listed: &str| forced.get(listed).and_then(Value::as_u64).unwrap_or_default();
        let counts = ["clients", "servers", "both"].map(count);
        let [clients, servers, both] = counts;
        let counts = format!("clients {clients}, servers {servers}, both {both}");
        writeln!(text, "  TCP sockets made MPTCP, by what their control group is listed for: {counts}").expect(MEMORY);
    }
}

/// What does not go as it should, at the end, where it is seen.
fn troubles(text: &mut String, status: &Value) {
    let agent = &status["agent"];
    for collector in agent["collectors"].as_array().into_iter().flatten() {
        if let Some(error) = collector["error"].as_str() {
            let source = collector["source"].as_str().unwrap_or("?");
            writeln!(text, "\ncannot read {}: {}", plain(source), plain(error)).expect(MEMORY);
        }
    }
    for (source, count) in agent["events_lost"].as_object().into_iter().flatten() {
        if count.as_u64().is_some_and(|count| count > 0) {
            writeln!(text, "\n{count} times events from {} were lost", plain(source)).expect(MEMORY);
        }
    }
    if agent["config"]["last_reload_succeeded"] == Value::Bool(false) {
        writeln!(text, "\nthe configuration file is bad, or changes what a restart alone can change; the one loaded before is in force").expect(MEMORY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> String {
        parse::<Value>(text).expect_err("this is no answer").to_string()
    }

    #[test]
    fn names_are_one_word_of_a_shell_and_no_more() {
        let cases =
            [("eth0.5", "eth0.5"), ("a;reboot", "'a;reboot'"), ("$(x)", "'$(x)'"), ("a'b", r"'a'\''b'"), ("", "''")];
        for (name, word) in cases {
            assert_eq!(shell_word(name), word);
        }
    }

    #[test]
    fn an_answer_that_is_none_is_said_to_be_so() {
        assert_eq!(read("{}\n".as_bytes(), 1024).unwrap(), Some("{}\n".into()));
        for text in ["", "{}", &"x".repeat(5000)] {
            assert_eq!(read(text.as_bytes(), 1024).unwrap(), None);
        }
        assert!(failure("nonsense\n").starts_with("the agent's answer cannot be read: "));
        assert_eq!(failure("{\"error\": \"no\\u001b[31m\"}\n"), "the agent refused: no\\u{1b}[31m");
        assert_eq!(failure("{\"error\": \"no such key\", \"kind\": \"wrong\"}\n"), "no such key");
    }

    #[test]
    fn what_comes_first_is_told() {
        let hook = serde_json::json!({"attached": true, "error": null, "programs_ahead": 2});
        let text = table(&serde_json::json!({"interfaces": [{"name": "eth0", "hooks": {"tx": hook}}]}));
        assert!(text.contains("eth0             tx  2 programs of others come first"), "{text}");
    }

    #[test]
    fn the_table_holds_no_control_characters() {
        let hook = serde_json::json!({"error": "no\u{7}"});
        let status = serde_json::json!({
            "interfaces": [{"name": "\u{1b}[2J", "counted_as": "_other", "hooks": {"rx": hook}}],
            "agent": {"collectors": [{"source": "a\r", "error": "b\r"}], "events_lost": {"c\r": 3}},
        });
        let text = table(&status);
        assert!(text.lines().all(|line| !line.contains(char::is_control)), "{text:?}");
        assert!(text.contains("\\u{1b}[2J        rx  not attached: no\\u{7}"), "{text:?}");
        assert!(text.contains("counted as _other"), "{text:?}");
    }

    #[test]
    fn mptcp_is_told_in_a_few_lines_where_there_is_any() {
        let mut status = crate::snapshot::sample::snapshot().to_json();
        let text = table(&status);
        let line = "MPTCP: 2 connections (1 fell back to TCP), 3 subflows, 2 paths";
        assert!(text.lines().any(|found| found == line), "{text}");
        assert!(text.contains("wan1 ipv4 192.0.2.0/24") && text.contains("silent: its link is down"), "{text}");
        assert!(text.contains("! 192.0.2.1:40002 192.0.2.2:80 The peer does not speak MPTCP. Turn MPTCP on"), "{text}");
        assert!(!text.contains("guest"), "{text}");
        status["namespaces"] = serde_json::json!([]);
        status["control"] = Value::Null;
        assert!(!table(&status).contains("MPTCP"));
    }

    #[test]
    fn what_is_changed_on_the_host_is_told_where_anything_is() {
        let mut status = crate::snapshot::sample::snapshot().to_json();
        let host = "Host: not as it is wanted (failures: 1)\n  ! net.mptcp.enabled: 0 -> 1: Permission denied\n  \
                    . wan1 has no address\n";
        assert!(table(&status).contains(host), "{}", table(&status));
        status["control"] = serde_json::json!({"owned": 2});
        assert!(
            table(&status)
                .contains("\nHost: as it is wanted (settings, endpoints and interfaces changed by MPSec: 2)\n")
        );
        status["control"] = serde_json::json!({"released": true});
        assert!(table(&status).contains("Host: released"));
        status["control"] = serde_json::json!({"owned": 0, "failures": []});
        assert!(!table(&status).contains("Host: "));
        status["control"] = serde_json::json!({"forced_sockets": {"clients": 3, "servers": 0, "both": 1}});
        let forced = "made MPTCP, by what their control group is listed for: clients 3, servers 0, both 1\n";
        assert!(table(&status).contains(forced), "{}", table(&status));
    }

    #[test]
    fn an_answer_of_another_shape_is_an_empty_table() {
        for status in [serde_json::json!(7), serde_json::json!({"interfaces": {"a": 1}, "agent": []})] {
            assert_eq!(table(&status).lines().count(), 1);
        }
    }
}
