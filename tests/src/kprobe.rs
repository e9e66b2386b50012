//! How often the kernel enters one of its functions, counted by its own tracing: a judge that knows nothing of BPF.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result};

use crate::need;
use crate::trial::Skip;

const ROOT: &str = "/sys/kernel/tracing";

/// Counts from when it is made. Gone on drop, with all that it set up.
#[derive(Debug)]
pub struct Kprobe {
    /// A buffer of its own, so that nobody else's tracing is switched on or off.
    instance: PathBuf,
    event: String,
}

impl Kprobe {
    /// Begins to count.
    pub fn count(function: &str) -> Result<Self> {
        need::root()?;
        need::file(&format!("{ROOT}/kprobe_events"))?;
        let name = format!("mpsec_test_{}", process::id());
        let probe = Self { instance: Path::new(ROOT).join("instances").join(&name), event: name };
        let event = &probe.event;
        command(&format!("p:{event}/{event} {function}\n"))
            .map_err(|error| Skip::because(format!("this kernel traces no entry of {function}: {error}")))?;
        fs::create_dir(&probe.instance).context("an instance of tracing")?;
        probe.switch("1")?;
        Ok(probe)
    }

    /// How often it was entered.
    pub fn hits(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("{ROOT}/kprobe_profile"))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&self.event)).context("no profile")?;
        let hits = line.split_whitespace().next().context("no hits")?;
        hits.parse().with_context(|| text.clone())
    }

    fn switch(&self, value: &str) -> Result<()> {
        let file = self.instance.join("events").join(&self.event).join(&self.event).join("enable");
        fs::write(&file, value).with_context(|| file.display().to_string())
    }
}

impl Drop for Kprobe {
    fn drop(&mut self) {
        let _ = self.switch("0");
        let _ = fs::remove_dir(&self.instance);
        // What cannot be taken away is told by the next one that wants its name.
        let _ = command(&format!("-:{0}/{0}\n", self.event));
    }
}

fn command(text: &str) -> io::Result<()> {
    OpenOptions::new().append(true).open(format!("{ROOT}/kprobe_events"))?.write_all(text.as_bytes())
}
