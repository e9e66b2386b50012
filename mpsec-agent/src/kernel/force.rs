//! MPTCP for programs that do not ask for it: TCP sockets of programs in listed control groups are made MPTCP ones when the
//! program makes them, by a program on the kernel's `update_socket_protocol` (net/socket.c, Linux 6.6 to 7.3).
//!
//! Which end a socket is going to be is not known then, and nothing can change its protocol later. So a list of clients and one
//! of servers both mean every TCP socket that is made in their control groups. Little is lost by that: an MPTCP socket that
//! listens takes plain TCP as well, and one that connects falls back to it. Sockets that were made before stay what they are, in
//! both directions: a server is to be started anew, and keeps its MPTCP socket when this ends. What makes sockets through
//! io_uring does not come by here.
//!
//! Options that MPTCP sockets lack fail for such programs (kernel TLS, TCP-MD5, TCP_REPAIR).

mod cgroups;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use mpsec_common::force::{MAP_FORCED_CGROUPS, MAP_FORCED_SOCKETS, MAX_FORCED_CGROUPS, PROGRAM_MPTCPIFY, flags};

use super::btf::{BtfError, BtfKind, KernelBtf};
use super::features;
use super::tracing::{Attached, Loaded, TracingError};
use cgroups::Cgroups;

/// The object, as `cargo xtask ebpf` built it.
pub static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../mpsec-ebpf/prebuilt/mptcpify.bpf.o"));

/// The kernel's function that is asked for the protocol of each socket.
pub const HOOK: &str = "update_socket_protocol";
/// What serves single programs instead.
pub const INSTEAD: &str = "start the program by `mptcpize run PROGRAM`, or a service after `mptcpize enable UNIT` (package mptcpize, \
                           in some distributions mptcpd); a Go program with GODEBUG=multipathtcp=1 in its environment";

/// Why programs are not given MPTCP.
#[derive(Debug, thiserror::Error)]
pub enum ForceError {
    /// The running kernel's type information cannot be read, or is not what is expected.
    #[error("it needs the kernel's own type information: {0}")]
    NoBtf(#[source] BtfError),
    /// The kernel does not ask.
    #[error("this kernel has no {HOOK}: Linux 6.6 and later have it")]
    NoHook,
    /// The program could not be put in force.
    #[error(transparent)]
    Program(#[from] TracingError),
    /// MPTCP sockets cannot be made, so that each socket would fail.
    #[error("MPTCP sockets cannot be made here: {0}")]
    NoMptcp(String),
    /// There is no unified hierarchy of control groups.
    #[error("control groups cannot be told: {0}")]
    NoCgroup2(#[source] io::Error),
    /// This is none, and cannot become one.
    #[error("{} cannot name a control group: {reason}", path.display())]
    BadCgroup {
        /// As it was given.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no room for so many.
    #[error("{0} control groups are listed: there is room for {MAX_FORCED_CGROUPS}")]
    TooMany(usize),
    /// A map of the program cannot be used.
    #[error("a map of the program cannot be used: {0}")]
    Map(#[from] MapError),
    /// What the control groups are watched with (inotify(7)).
    #[error("control groups cannot be watched: {0}")]
    Watch(#[source] io::Error),
}

impl ForceError {
    /// The nearest thing that works, in one sentence.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::NoHook => format!("boot Linux 6.6 or later; until then {INSTEAD}"),
            Self::NoBtf(_) => format!("boot a kernel built with CONFIG_DEBUG_INFO_BTF; until then {INSTEAD}"),
            Self::NoMptcp(_) => "sysctl -w net.mptcp.enabled=1, on a kernel built with CONFIG_MPTCP".to_owned(),
            Self::NoCgroup2(_) => format!("mount -t cgroup2 none /sys/fs/cgroup; without it {INSTEAD}"),
            Self::BadCgroup { .. } => {
                "name it as systemd-cgls and /proc/PID/cgroup do, such as system.slice/nginx.service".to_owned()
            }
            Self::TooMany(_) => "list a control group above several of them, such as system.slice".to_owned(),
            Self::Program(_) | Self::Map(_) | Self::Watch(_) => INSTEAD.to_owned(),
        }
    }
}

/// How many sockets were made MPTCP, by what their control group is listed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// In control groups that are listed for clients alone.
    pub clients: u64,
    /// In control groups that are listed for servers alone.
    pub servers: u64,
    /// In control groups that are listed for both.
    pub both: u64,
}

/// Gives programs MPTCP until it is dropped; then new sockets are what programs ask for again.
///
/// It becomes readable ([`AsFd`]) when a control group comes or goes beside a listed one: then [`Force::refresh`] is due.
pub struct Force {
    cgroups: Cgroups,
    forced: HashMap<MapData, u64, u32>,
    sockets: PerCpuArray<MapData, u64>,
    paused: Option<String>,
    _attached: Attached,
}

impl Force {
    /// Begins, for sockets that are made in one network namespace ([`super::cgroup::netns_cookie`]; 0 for all), which is that
    /// of the calling thread, in the listed control groups and those below: of several that a program is in, the innermost
    /// counts. Each is named from the root of the unified hierarchy, or of its mount at /sys/fs/cgroup, with bits of
    /// [`mpsec_common::force::flags`]; without a bit its programs are left alone.
    ///
    /// A control group that is not there yet is waited for, see [`Force::missing`].
    ///
    /// # Errors
    /// See [`ForceError`]; nothing is in force then.
    pub fn load(netns_cookie: u64, cgroups: &[(PathBuf, u32)]) -> Result<Force, ForceError> {
        if cgroups.len() > MAX_FORCED_CGROUPS as usize {
            return Err(ForceError::TooMany(cgroups.len()));
        }
        let cgroups = Cgroups::new(cgroups)?;
        features::mptcp_socket().map_err(ForceError::NoMptcp)?;
        let mut loaded = load(netns_cookie)?;
        let forced = Map::HashMap(loaded.take_map(MAP_FORCED_CGROUPS)?).try_into()?;
        let sockets = Map::PerCpuArray(loaded.take_map(MAP_FORCED_SOCKETS)?).try_into()?;
        let attached = loaded.attach()?;
        let mut force = Force { cgroups, forced, sockets, paused: None, _attached: attached };
        force.refresh()?;
        Ok(force)
    }

    /// Looks the control groups up again: one that is made anew, as a service's is when it starts, has another id. To be
    /// called when this is readable, and now and then, in the network namespace that it is for: where MPTCP has been switched
    /// off it pauses, because a socket that the program asks for would not be had at all.
    ///
    /// # Errors
    /// When control groups cannot be watched, or a map not be written.
    pub fn refresh(&mut self) -> Result<(), ForceError> {
        self.cgroups.look_up()?;
        self.paused = features::mptcp_socket().err();
        let wanted = match self.paused {
            None => self.cgroups.flags_by_id(),
            Some(_) => BTreeMap::new(),
        };
        let present: BTreeMap<u64, u32> = self.forced.iter().collect::<Result<_, _>>()?;
        for id in present.keys().filter(|id| !wanted.contains_key(id)) {
            self.forced.remove(id)?;
        }
        for (id, flags) in wanted.iter().filter(|(id, flags)| present.get(id) != Some(flags)) {
            self.forced.insert(id, flags, 0)?;
        }
        Ok(())
    }

    /// Control groups that were listed and are not there.
    pub fn missing(&self) -> impl Iterator<Item = &Path> {
        self.cgroups.missing()
    }

    /// Whether MPTCP sockets cannot be had in the network namespace of the calling thread: where that is not what
    /// [`Force::paused`] says, [`Force::refresh`] is due.
    #[must_use]
    pub fn should_pause(&self) -> bool {
        features::mptcp_socket().is_err()
    }

    /// Why no program is given MPTCP at the moment; `None` when all is well.
    #[must_use]
    pub fn paused(&self) -> Option<&str> {
        self.paused.as_deref()
    }

    /// How many sockets were made MPTCP since [`Force::load`].
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn sockets(&self) -> Result<Sockets, ForceError> {
        let sum = |listed: u32| Ok::<u64, MapError>(self.sockets.get(&listed, 0)?.iter().sum());
        let (clients, servers, both) = (sum(flags::CLIENTS)?, sum(flags::SERVERS)?, sum(flags::ALL)?);
        Ok(Sockets { clients, servers, both })
    }
}

impl AsFd for Force {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.cgroups.as_fd()
    }
}

/// Loads the program, in force nowhere.
fn load(netns_cookie: u64) -> Result<Loaded, ForceError> {
    let btf = KernelBtf::load().map_err(ForceError::NoBtf)?;
    let hook = btf.id_of(HOOK, BtfKind::Func).map_err(|error| match error {
        BtfError::NoType(_) => ForceError::NoHook,
        error => ForceError::NoBtf(error),
    })?;
    let offset = |structure, member| {
        let member = btf.offset_of(structure, member).map_err(ForceError::NoBtf)?;
        Ok::<_, ForceError>(member.byte_offset().to_ne_bytes())
    };
    let globals: [(&str, &[u8]); 4] = [
        ("NETNS_COOKIE", &netns_cookie.to_ne_bytes()),
        ("TASK_NSPROXY", &offset("task_struct", "nsproxy")?),
        ("NSPROXY_NET_NS", &offset("nsproxy", "net_ns")?),
        ("NET_COOKIE", &offset("net", "net_cookie")?),
    ];
    Ok(Loaded::modify_return(OBJECT, PROGRAM_MPTCPIFY, &globals, hook)?)
}

/// Whether the program can be loaded here, or why not. Nothing is attached.
///
/// # Errors
/// See [`ForceError`].
pub fn probe() -> Result<(), ForceError> {
    load(0).map(drop)
}

#[cfg(test)]
mod tests;
