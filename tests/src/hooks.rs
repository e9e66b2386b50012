//! What is attached to a device, whoever attached it.

use std::fmt;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::bpf::{self, Hook};
use crate::netns::Netns;

/// The way in which something is attached.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Way {
    /// A BPF link on the device's TCX list.
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

/// One thing on a hook.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Attached {
    /// How it is attached.
    pub way: Way,
    /// The kind of filter; `bpf` for every program.
    pub kind: String,
    /// The program's number in the kernel.
    pub id: Option<u32>,
    /// The program's name.
    pub name: String,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {:?} {}", self.way, self.kind, self.id, self.name)
    }
}

/// Everything on a hook. TCX first, because it runs first.
pub fn attached(netns: &Netns, device: &str, hook: Hook) -> Result<Vec<Attached>> {
    let index = netns.ifindex(device)?;
    // A kernel without TCX cannot be asked, and then there is nothing.
    let programs = netns.run(|| bpf::query_tcx(index, hook)).unwrap_or_default();
    let mut all: Vec<Attached> = programs
        .into_iter()
        .map(|(id, name)| Attached { way: Way::Tcx, kind: "bpf".into(), id: Some(id), name })
        .collect();
    if has_clsact(netns, device)? {
        let text = netns.tc(&format!("-j filter show dev {device} {}", hook.name()))?;
        all.extend(filters(&text).context("what tc shows")?);
    }
    Ok(all)
}

/// Everything on both hooks.
pub fn attached_anywhere(netns: &Netns, device: &str) -> Result<Vec<Attached>> {
    Ok(Hook::ALL.into_iter().map(|hook| attached(netns, device, hook)).collect::<Result<Vec<_>>>()?.concat())
}

/// Whether a device has the clsact qdisc, whoever made it.
pub fn has_clsact(netns: &Netns, device: &str) -> Result<bool> {
    let text = netns.tc(&format!("-j qdisc show dev {device}"))?;
    let list: Vec<Value> = serde_json::from_str(&text).context("what tc shows")?;
    Ok(list.iter().any(|qdisc| qdisc["kind"] == "clsact"))
}

/// Reads `tc -j filter show`. A filter is the entry with a handle: tc prints one more for each priority, and one for
/// each hash table of a u32 classifier.
pub fn filters(text: &str) -> Result<Vec<Attached>> {
    let list: Vec<Value> = serde_json::from_str(text)?;
    let is_filter = |options: &Value| {
        options.get("prog").is_some() || options.get("match").is_some() || options.get("handle").is_some()
    };
    Ok(list
        .iter()
        .filter(|entry| entry.get("options").is_some_and(is_filter))
        .map(|entry| Attached {
            way: Way::Clsact,
            kind: entry["kind"].as_str().unwrap_or_default().to_owned(),
            id: entry["options"]["prog"]["id"].as_u64().and_then(|id| u32::try_from(id).ok()),
            name: entry["options"]["bpf_name"].as_str().unwrap_or_default().to_owned(),
        })
        .collect())
}
