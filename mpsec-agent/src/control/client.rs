//! `mpsec status`: asks the running agent and prints what it says.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mpsec_common::{Class, Direction, Protection};
use serde_json::Value;

use super::socket::STATUS;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {}: {error}; is `mpsec run` running, and may you use its socket?", path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// Why it cannot be used.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the agent did not answer: {0}")]
    Broken(#[from] io::Error),
    /// The answer cannot be read.
    #[error("the agent's answer cannot be read: {0}")]
    Garbled(#[from] serde_json::Error),
    /// The agent refused.
    #[error("the agent refused: {0}")]
    Refused(String),
}

/// The running agent's snapshot.
pub fn status(path: &Path) -> Result<Value, ClientError> {
    let stream = UnixStream::connect(path).map_err(|error| ClientError::NoAgent { path: path.to_owned(), error })?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    (&stream).write_all(format!("{STATUS}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line)?;
    match answer.get("error").and_then(Value::as_str) {
        Some(text) => Err(ClientError::Refused(text.to_owned())),
        None => Ok(answer),
    }
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
    troubles(&mut text, status);
    text
}

const MEMORY: &str = "writing to memory does not fail";

fn rows(text: &mut String, interface: &Value) {
    let name = interface["name"].as_str().unwrap_or("?");
    for direction in Direction::ALL {
        let hook = &interface["hooks"][direction.name()];
        if let Some(error) = hook["error"].as_str() {
            writeln!(text, "{name:<16} {:<3} not attached: {error}", direction.name()).expect(MEMORY);
        }
        let classes = &interface["traffic"][direction.name()];
        for class in Class::ALL {
            let counter = &classes[class.name()];
            let (Some(packets), Some(bytes)) = (counter["packets"].as_u64(), counter["bytes"].as_u64()) else {
                continue;
            };
            let note = if class.protection() == Protection::Encrypted { "encrypted" } else { "" };
            let (direction, class) = (direction.name(), class.name());
            let line = format!("{name:<16} {direction:<3} {class:<20} {packets:>14} {bytes:>18}  {note}");
            writeln!(text, "{}", line.trim_end()).expect(MEMORY);
        }
    }
    if interface["counted_as"].as_str().is_some_and(|counted_as| counted_as != name) {
        writeln!(text, "{name:<16} counted as _other: max_interfaces is reached").expect(MEMORY);
    }
}

/// What does not go as it should, at the end, where it is seen.
fn troubles(text: &mut String, status: &Value) {
    let agent = &status["agent"];
    for collector in agent["collectors"].as_array().into_iter().flatten() {
        if let Some(error) = collector["error"].as_str() {
            writeln!(text, "\ncannot read {}: {error}", collector["source"].as_str().unwrap_or("?")).expect(MEMORY);
        }
    }
    for (source, count) in agent["events_lost"].as_object().into_iter().flatten() {
        if count.as_u64().is_some_and(|count| count > 0) {
            writeln!(text, "\n{count} times events from {source} were lost").expect(MEMORY);
        }
    }
    if agent["config"]["last_reload_succeeded"] == Value::Bool(false) {
        writeln!(text, "\nthe configuration file is bad; the one loaded before is in force").expect(MEMORY);
    }
}
