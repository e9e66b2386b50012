//! The host as a snapshot shows it: what it is, how busy it is, and its network interfaces.

use serde::{Deserialize, Serialize};

/// What is known of the host. What could not be read is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Host {
    /// Name of the host.
    pub hostname: Option<String>,
    /// Release of the running kernel.
    pub kernel_release: Option<String>,
    /// Architecture, in the words of `uname -m`.
    pub architecture: Option<String>,
    /// Seconds since the host started, suspension included.
    pub uptime_seconds: Option<f64>,
    /// Processors that are online.
    pub cpus: Option<u32>,
    /// The part of all processors' time that was spent working, 0 to 1, between the last two readings.
    pub cpu_use: Option<f64>,
    /// Load averages over 1, 5 and 15 minutes, in tasks.
    pub load_averages: Option<[f64; 3]>,
    /// Memory in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Memory that programs could have without swapping, in bytes.
    pub memory_available_bytes: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Network interfaces of the agent's network namespace, by index.
    pub interfaces: Vec<HostInterface>,
}

/// A network interface as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct HostInterface {
    /// Index in its network namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Link-layer address in hexadecimal, its bytes separated by colons; null where there is none.
    pub mac: Option<String>,
    /// Addresses, each with the length of its prefix.
    pub addresses: Vec<String>,
    /// Speed of the link in bits per second; null where the device does not tell, or is a virtual one.
    pub speed_bits_per_second: Option<u64>,
    /// Operational state (RFC 2863): `up`, `down`, `dormant`, `lowerlayerdown`, `testing`, `notpresent`, `unknown`, or a
    /// number that has no name yet.
    pub operstate: Option<String>,
    /// Largest packet in bytes, without the link header.
    pub mtu_bytes: Option<u32>,
}
