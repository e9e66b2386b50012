//! What the program that makes MPTCP sockets out of TCP ones, in programs that do not ask for MPTCP, shares with the agent.

/// Program on the kernel's `update_socket_protocol`.
pub const PROGRAM_MPTCPIFY: &str = "mpsec_mptcpify";
/// Control groups whose programs get MPTCP: a hash from their ids to bits of [`flags`].
pub const MAP_FORCED_CGROUPS: &str = "FORCED_CGROUPS";
/// Sockets that were made MPTCP: a per-CPU array of `u64`, indexed by the flags of the control group that told so.
pub const MAP_FORCED_SOCKETS: &str = "FORCED_SOCKETS";

/// Control groups that can be listed.
pub const MAX_FORCED_CGROUPS: u32 = 1024;
/// Levels below the root, itself included, on which a listed control group is found. Services and containers lie on the
/// third to the tenth.
pub const CGROUP_LEVELS: u32 = 32;

/// What a control group is listed for. No socket tells what it is going to be when it is made, so either bit makes all of
/// the control group's TCP sockets MPTCP; without any, none of them is.
pub mod flags {
    /// Programs that connect.
    pub const CLIENTS: u32 = 1 << 0;
    /// Programs that listen.
    pub const SERVERS: u32 = 1 << 1;
    /// All bits that have a meaning.
    pub const ALL: u32 = CLIENTS | SERVERS;
}
