//! A real Prometheus inside a namespace, and its API: what it stored is what an operator will see.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::agent::die_with_parent;
use crate::netns::{Netns, check};
use crate::{http, need, wait};

/// Where it listens, on the loopback device of its namespace.
const LISTEN: &str = "127.0.0.1:9090";
/// How long it may take from start to ready, and from a signal to its end.
const PATIENCE: Duration = Duration::from_secs(20);

/// The folder with the checked-in dashboards and rules.
pub fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../grafana")
}

/// Runs promtool in the folder of [`grafana`], with this on its standard input.
pub fn promtool(args: &[&str], input: &Path) -> Result<Output> {
    let program = need::command("promtool")?;
    let input = fs::File::open(input).with_context(|| input.display().to_string())?;
    Command::new(program).args(args).current_dir(grafana()).stdin(input).output().context("promtool")
}

/// A running Prometheus, killed on drop, with its data in a folder of its own.
#[derive(Debug)]
pub struct Prometheus {
    netns: Arc<Netns>,
    pid: libc::pid_t,
    ended: Receiver<()>,
    folder: TempDir,
}

/// A series as the API gives it: labels, and samples of time and value.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// All labels, the name among them.
    pub labels: BTreeMap<String, String>,
    /// Times in seconds, and values.
    pub samples: Vec<(f64, f64)>,
}

impl Series {
    /// The last value.
    pub fn value(&self) -> f64 {
        self.samples.last().map_or(f64::NAN, |sample| sample.1)
    }
}

impl Prometheus {
    /// Starts it with `folder/prometheus.yml`, which it keeps, and waits until it is ready.
    pub fn start(netns: &Arc<Netns>, folder: TempDir) -> Result<Self> {
        let program = need::command("prometheus")?;
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={LISTEN}"))
            .arg("--log.level=warn")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr"))?);
        let prometheus = Self::spawn(netns, command, folder)?;
        wait::until(PATIENCE, || {
            ensure!(prometheus.get("/-/ready")?.status == 200, "it is not ready");
            Ok(())
        })
        .with_context(|| prometheus.complaints())?;
        Ok(prometheus)
    }

    fn spawn(netns: &Arc<Netns>, mut command: Command, folder: TempDir) -> Result<Self> {
        let (pid_sender, pid_receiver) = channel();
        let (end_sender, ended) = channel();
        // SAFETY: between fork and exec this calls nothing but prctl, which is async-signal-safe.
        unsafe { command.pre_exec(die_with_parent) };
        let inside = Arc::clone(netns);
        // The thread lives as long as the process: the kernel takes its end for that of the parent.
        thread::Builder::new().name("prometheus".into()).spawn(move || {
            let child = inside.enter().and_then(|()| Ok(command.spawn()?));
            let mut child = match child {
                Ok(child) => child,
                Err(error) => return drop(pid_sender.send(Err(error))),
            };
            // A pid fits: the kernel's own type for it is pid_t.
            let _ = pid_sender.send(Ok(child.id() as libc::pid_t));
            let _ = child.wait();
            let _ = end_sender.send(());
        })?;
        let pid = pid_receiver.recv().context("the thread is gone")?.context("start prometheus")?;
        Ok(Self { netns: Arc::clone(netns), pid, ended, folder })
    }

    fn get(&self, path: &str) -> Result<http::Response> {
        let address: SocketAddr = LISTEN.parse().expect("the constant is an address");
        http::get(&self.netns, address, path)
    }

    /// Asks the API and gives the answer's data.
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let parameters: Vec<String> =
            parameters.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
        let response = self.get(&format!("/api/v1/{path}?{}", parameters.join("&")))?;
        let mut answer: Value = serde_json::from_str(response.text()?).with_context(|| path.to_owned())?;
        ensure!(answer["status"] == "success", "{path} {parameters:?}: {}", answer["error"]);
        ensure!(answer["warnings"].is_null(), "{path} {parameters:?}: {}", answer["warnings"]);
        Ok(answer["data"].take())
    }

    /// Evaluates now.
    pub fn query(&self, expr: &str) -> Result<Vec<Series>> {
        series(&self.api("query", &[("query", expr)])?)
    }

    /// Evaluates now; the result must be one series or one number.
    pub fn one(&self, expr: &str) -> Result<f64> {
        match self.query(expr)?.as_slice() {
            [one] => Ok(one.value()),
            other => bail!("{expr} gives {} series: {other:?}", other.len()),
        }
    }

    /// Evaluates each second of the last `span`.
    pub fn query_range(&self, expr: &str, span: Duration) -> Result<Vec<Series>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let (start, end) = (format!("{:.3}", now - span.as_secs_f64()), format!("{now:.3}"));
        series(&self.api("query_range", &[("query", expr), ("start", &start), ("end", &end), ("step", "1")])?)
    }

    /// The values that a label has in the series of a selector.
    pub fn label_values(&self, label: &str, selector: &str) -> Result<Vec<String>> {
        let data = self.api(&format!("label/{label}/values"), &[("match[]", selector)])?;
        Ok(array(&data).iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// What it wrote to stderr so far.
    pub fn complaints(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        format!("prometheus wrote:\n{text}")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended, but it is not reaped before `ended` says so.
        if self.ended.try_recv().is_err() {
            // SAFETY: kill takes no pointers; the pid is our child's.
            let _ = check(unsafe { libc::kill(self.pid, libc::SIGKILL) });
            let _ = self.ended.recv_timeout(PATIENCE);
        }
    }
}

/// The items of a JSON array; none of anything else.
pub fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn series(data: &Value) -> Result<Vec<Series>> {
    match data["resultType"].as_str() {
        Some("scalar") => Ok(vec![Series { labels: BTreeMap::new(), samples: vec![sample(&data["result"])?] }]),
        Some("vector" | "matrix") => array(&data["result"]).iter().map(one_series).collect(),
        other => bail!("result type {other:?}"),
    }
}

fn one_series(item: &Value) -> Result<Series> {
    let samples = match array(&item["values"]) {
        [] => vec![sample(&item["value"])?],
        values => values.iter().map(sample).collect::<Result<_>>()?,
    };
    let labels = item["metric"].as_object().context("a series without labels")?;
    let labels = labels.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
    Ok(Series { labels: labels.collect(), samples })
}

/// `[1700000000.123, "1.5"]`
fn sample(pair: &Value) -> Result<(f64, f64)> {
    let time = pair[0].as_f64().context("a sample without a time")?;
    let value = pair[1].as_str().context("a sample without a value")?;
    Ok((time, value.parse().with_context(|| format!("value {value:?}"))?))
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn results_of_every_type_are_read() -> Result<()> {
        let vector = json!({"resultType": "vector", "result": [{"metric": {"a": "b"}, "value": [1.5, "2"]}]});
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        assert_eq!(series(&vector)?, [Series { labels, samples: vec![(1.5, 2.0)] }]);
        let matrix = json!({"resultType": "matrix", "result": [{"metric": {}, "values": [[1, "2"], [2, "NaN"]]}]});
        assert_eq!(series(&matrix)?[0].samples[0], (1.0, 2.0));
        assert!(series(&matrix)?[0].value().is_nan());
        assert_eq!(series(&json!({"resultType": "scalar", "result": [1, "3"]}))?[0].value(), 3.0);
        Ok(())
    }

    #[test]
    fn queries_survive_the_way_to_the_server() {
        assert_eq!(encoded(r#"a{b=~"c.*"} + 1"#), "a%7Bb%3D~%22c.%2A%22%7D%20%2B%201");
    }
}
