//! What a laboratory needs from the machine, asked for before anything is made.

use std::env;
use std::path::Path;

use crate::kernel::realtime::is_root;
use crate::kernel::sysctl;

/// Why a scenario cannot run here. Travels as an error, so that a need is one `?`, and has an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotRun(pub String);

/// Root, `ip`, TAP devices and MPTCP.
///
/// # Errors
/// The first that is missing, with what mends it.
pub fn laboratory() -> Result<(), CannotRun> {
    let cannot = |reason: &str| Err(CannotRun(reason.to_owned()));
    if !is_root() {
        return cannot("this needs root, to make network namespaces: start it with sudo");
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|folder| folder.join("ip").is_file()) {
        return cannot("this needs the program `ip`: apt install iproute2");
    }
    if !Path::new("/dev/net/tun").exists() {
        return cannot("this needs TAP devices, and there is no /dev/net/tun: modprobe tun");
    }
    match sysctl::read_mptcp() {
        Ok(settings) if !settings.is_empty() => Ok(()),
        _ => cannot("this kernel has no MPTCP (CONFIG_MPTCP)"),
    }
}
