//! The settings of `[mptcp]` and `[paths]`.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use super::{Key, Kind, Value, Wrong};
use crate::config::multipath::{KEEP, MptcpSysctl, PathManagerMode, PerInterface, kernel_name};

/// Rows of `[mptcp]`, `[mptcp.force]` and `[paths]`.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "mptcp.count",
        flag: "count-subflows",
        alias: None,
        env: "MPSEC_COUNT_SUBFLOWS",
        kind: Kind::Switch,
        placeholder: "BOOL",
        doc: "Count MPTCP subflows: a program on the root cgroup sees every TCP socket that is made, and packets of TCP take \
              a little longer. Off, connections are still listed, without bytes on the wire.",
        restart: true,
        set: |config, value| value.switch().map(|on| config.mptcp.count = on),
        get: |config| Value::Switch(config.mptcp.count),
    },
    Key {
        name: "mptcp.max_subflows",
        flag: "max-subflows",
        alias: None,
        env: "MPSEC_MAX_SUBFLOWS",
        kind: Kind::Number,
        placeholder: "N",
        doc: "Subflows counted at a time in each network namespace, up to 1048576, rounded up to a power of two. Each takes 152 \
              bytes of the kernel's memory, and 128 more for each CPU. 0 means as many as fit into 64 MiB, from 4096 to 32768. \
              What is beyond it is counted as lost.",
        restart: true,
        set: |config, value| value.number(0..=1 << 20).map(|n| config.mptcp.max_subflows = n),
        get: |config| Value::Number(config.mptcp.max_subflows.into()),
    },
    Key {
        name: "mptcp.probes",
        flag: "probes",
        alias: None,
        env: "MPSEC_PROBES",
        kind: Kind::Text,
        placeholder: "auto|off|tp_btf|fentry|kprobe",
        doc: "How retransmissions and resets of subflows are seen in the kernel. auto takes, for each, the first way that works: \
              tp_btf, fentry, kprobe; a single one leaves out what it cannot see. Needs count.",
        restart: true,
        set: |config, value| value.item(str::parse).map(|probes| config.mptcp.probes = probes),
        get: |config| Value::text(config.mptcp.probes),
    },
    Key {
        name: "mptcp.subflow_series",
        flag: "subflow-series",
        alias: None,
        env: "MPSEC_SUBFLOW_SERIES",
        kind: Kind::Switch,
        placeholder: "BOOL",
        doc: "Publish metrics of single subflows too, beside those of paths. Each connection brings new series: for debugging \
              and for hosts with few connections.",
        restart: false,
        set: |config, value| value.switch().map(|on| config.mptcp.subflow_series = on),
        get: |config| Value::Switch(config.mptcp.subflow_series),
    },
    Key {
        name: "mptcp.max_subflow_series",
        flag: "max-subflow-series",
        alias: None,
        env: "MPSEC_MAX_SUBFLOW_SERIES",
        kind: Kind::Number,
        placeholder: "N",
        doc: "With subflow_series: so many subflows have series of their own, from 0 to 10000, those with the most bytes first; \
              the rest is published as _other.",
        restart: false,
        set: |config, value| value.number(0..=10_000).map(|n| config.mptcp.max_subflow_series = n),
        get: |config| Value::Number(config.mptcp.max_subflow_series.into()),
    },
    Key {
        name: "mptcp.enabled",
        flag: "mptcp",
        alias: None,
        env: "MPSEC_MPTCP",
        kind: Kind::Text,
        placeholder: "on|off|keep",
        doc: "Turn MPTCP on or off for sockets that are made from now on (net.mptcp.enabled). keep leaves it as it is, \
              as it does for every key below that has it; what MPSec changed, `mpsec release` gives back.",
        restart: false,
        set: |config, value| value.switch_or(KEEP).map(|on| config.multipath.enabled = on),
        get: |config| Value::maybe(config.multipath.enabled.map(|on| if on { "on" } else { "off" })),
    },
    Key {
        name: "mptcp.path_manager",
        flag: "path-manager",
        alias: None,
        env: "MPSEC_PATH_MANAGER",
        kind: Kind::Text,
        placeholder: "keep|default|fullmesh|ndiffports|backup|signal",
        doc: "How connections get additional paths. default: not at all. fullmesh: from each endpoint's address to \
              each address of the peer. backup: the first endpoint carries everything, the others when it is lost. \
              signal: endpoints are announced, for clients to connect to (a server). ndiffports: several subflows \
              between the same two addresses, made by the agent itself. keep: endpoints and limits are left alone.",
        restart: false,
        set: |config, value| value.item(PathManagerMode::wish).map(|mode| config.multipath.path_manager = mode),
        get: |config| Value::maybe(config.multipath.path_manager.map(PathManagerMode::name)),
    },
    Key {
        name: "mptcp.ndiffports",
        flag: "ndiffports",
        alias: None,
        env: "MPSEC_NDIFFPORTS",
        kind: Kind::Number,
        placeholder: "N",
        doc: "With path_manager = ndiffports: subflows of each connection that this host makes, the first one \
              included, from 1 to 8.",
        restart: false,
        set: |config, value| value.number(1..=8).map(|n| config.multipath.ndiffports = n),
        get: |config| Value::Number(config.multipath.ndiffports.into()),
    },
    Key {
        name: "mptcp.endpoints",
        flag: "endpoints",
        alias: None,
        env: "MPSEC_ENDPOINTS",
        kind: Kind::Texts,
        placeholder: "MATCH[=WORD+WORD]",
        doc: "What becomes an endpoint, most important first: a shell pattern on interface names, or an address. \
              Behind an equals sign, joined by plus signs: ipv4 or ipv6 for one family; backup and fullmesh (not \
              with signal) beside what the path manager's mode gives; subflow, signal, laminar in place of it; port:N. \
              Empty means every interface but lo that has an address and a default route.",
        restart: false,
        set: |config, value| value.items(str::parse).map(|all| config.multipath.endpoints = all),
        get: |config| Value::texts(&config.multipath.endpoints),
    },
    Key {
        name: "mptcp.limit_subflows",
        flag: "limit-subflows",
        alias: None,
        env: "MPSEC_LIMIT_SUBFLOWS",
        kind: Kind::Text,
        placeholder: "N|keep",
        doc: "Subflows that a connection may have beside its first, from 0 to 64 (8 up to Linux 6.18). keep: as the \
              path manager's mode needs it.",
        restart: false,
        set: |config, value| value.maybe_number(0..=64).map(|n| config.multipath.subflow_limit = n),
        get: |config| Value::maybe_n(config.multipath.subflow_limit),
    },
    Key {
        name: "mptcp.limit_add_addr_accepted",
        flag: "limit-add-addr-accepted",
        alias: None,
        env: "MPSEC_LIMIT_ADD_ADDR_ACCEPTED",
        kind: Kind::Text,
        placeholder: "N|keep",
        doc: "Addresses that a connection takes from its peer to make subflows to, from 0 to 64 (8 up to Linux 6.18). \
              keep: as the path manager's mode needs it.",
        restart: false,
        set: |config, value| value.maybe_number(0..=64).map(|n| config.multipath.add_addr_accepted_limit = n),
        get: |config| Value::maybe_n(config.multipath.add_addr_accepted_limit),
    },
    Key {
        name: "mptcp.scheduler",
        flag: "scheduler",
        alias: None,
        env: "MPSEC_SCHEDULER",
        kind: Kind::Text,
        placeholder: "NAME|keep",
        doc: "Which subflow data is sent on: one of net.mptcp.available_schedulers, for sockets that are made from now \
              on.",
        restart: false,
        set: |config, value| value.item(kernel_name).map(|name| config.multipath.scheduler = name),
        get: |config| Value::maybe(config.multipath.scheduler.as_deref()),
    },
    Key {
        name: "mptcp.congestion_control",
        flag: "congestion-control",
        alias: None,
        env: "MPSEC_CONGESTION_CONTROL",
        kind: Kind::Text,
        placeholder: "NAME|keep",
        doc: "Congestion control of sockets that are made from now on (net.ipv4.tcp_congestion_control), of plain TCP \
              too.",
        restart: false,
        set: |config, value| value.item(kernel_name).map(|name| config.multipath.congestion_control = name),
        get: |config| Value::maybe(config.multipath.congestion_control.as_deref()),
    },
    Key {
        name: "mptcp.path_congestion_control",
        flag: "path-congestion-control",
        alias: None,
        env: "MPSEC_PATH_CONGESTION_CONTROL",
        kind: Kind::Texts,
        placeholder: "GLOB=NAME",
        doc: "Congestion control of new subflows by the interface that their local address belongs to, such as \
              lte*=bbr; the first pattern that matches counts. By a BPF program, as long as the agent runs.",
        restart: false,
        set: |config, value| {
            value
                .items(|text| PerInterface::parse(text, needed_name))
                .map(|all| config.multipath.path_congestion_control = all)
        },
        get: |config| Value::texts(&config.multipath.path_congestion_control),
    },
    Key {
        name: "mptcp.path_max_rate",
        flag: "path-max-rate",
        alias: None,
        env: "MPSEC_PATH_MAX_RATE",
        kind: Kind::Texts,
        placeholder: "GLOB=RATE",
        doc: "Most that a new subflow sends, by the interface that its local address belongs to, such as lte*=10mbit: \
              what weighs paths against each other. By pacing, as long as the agent runs.",
        restart: false,
        set: |config, value| {
            value.items(|text| PerInterface::parse(text, str::parse)).map(|all| config.multipath.path_max_rate = all)
        },
        get: |config| Value::texts(&config.multipath.path_max_rate),
    },
    Key {
        name: "mptcp.reordering",
        flag: "reordering",
        alias: None,
        env: "MPSEC_REORDERING",
        kind: Kind::Text,
        placeholder: "N|keep",
        doc: "How many packets TCP lets others overtake before it takes one for lost, to begin with \
              (net.ipv4.tcp_reordering), from 1 to max_reordering.",
        restart: false,
        set: |config, value| value.maybe_number(1..=65_535).map(|n| config.multipath.reordering = n),
        get: |config| Value::maybe_n(config.multipath.reordering),
    },
    Key {
        name: "mptcp.max_reordering",
        flag: "max-reordering",
        alias: None,
        env: "MPSEC_MAX_REORDERING",
        kind: Kind::Text,
        placeholder: "N|keep",
        doc: "The most that it adapts to (net.ipv4.tcp_max_reordering), from 1 to 65535.",
        restart: false,
        set: |config, value| value.maybe_number(1..=65_535).map(|n| config.multipath.max_reordering = n),
        get: |config| Value::maybe_n(config.multipath.max_reordering),
    },
    Key {
        name: "mptcp.recovery",
        flag: "recovery",
        alias: None,
        env: "MPSEC_RECOVERY",
        kind: Kind::Text,
        placeholder: "BITS|keep",
        doc: "How TCP finds losses (net.ipv4.tcp_recovery), from 0 to 7: 1 RACK, 2 a RACK window that does not grow, 4 \
              no RACK window.",
        restart: false,
        set: |config, value| value.maybe_number(0..=7).map(|n| config.multipath.recovery = n),
        get: |config| Value::maybe_n(config.multipath.recovery),
    },
    Key {
        name: "mptcp.sysctls",
        flag: "mptcp-sysctls",
        alias: None,
        env: "MPSEC_MPTCP_SYSCTLS",
        kind: Kind::Texts,
        placeholder: "NAME=VALUE",
        doc: "Other settings below net.mptcp, such as stale_loss_cnt=2: add_addr_timeout, add_addr_v6_port_drop_ts, \
              allow_join_initial_addr_port, blackhole_timeout, checksum_enabled, close_timeout, stale_loss_cnt, \
              syn_retrans_before_tcp_fallback, as far as this kernel has them. Ranges are checked.",
        restart: false,
        set: |config, value| {
            value.items(str::parse).and_then(distinct_sysctls).map(|all| config.multipath.sysctls = all)
        },
        get: |config| Value::texts(&config.multipath.sysctls),
    },
    Key {
        name: "mptcp.manage_routes",
        flag: "manage-routes",
        alias: None,
        env: "MPSEC_MANAGE_ROUTES",
        kind: Kind::Switch,
        placeholder: "BOOL",
        doc: "Let packets leave by the path that their source address belongs to: a rule for each address of an \
              endpoint, and a table for each interface, marked as MPSec's. Without it a subflow that this host makes \
              needs a default route through its interface; answers of a server and programs that bind to an address \
              need these rules.",
        restart: false,
        set: |config, value| value.switch().map(|on| config.multipath.manage_routes = on),
        get: |config| Value::Switch(config.multipath.manage_routes),
    },
    Key {
        name: "mptcp.route_table",
        flag: "route-table",
        alias: None,
        env: "MPSEC_ROUTE_TABLE",
        kind: Kind::Number,
        placeholder: "N",
        doc: "The first of MPSec's routing tables, from 256 to 2147483647; an interface has the one whose number lies \
              its index behind it.",
        restart: false,
        set: |config, value| value.number(256..=0x7fff_ffff).map(|n| config.multipath.route_table = n),
        get: |config| Value::Number(config.multipath.route_table.into()),
    },
    Key {
        name: "mptcp.gateways",
        flag: "gateways",
        alias: None,
        env: "MPSEC_GATEWAYS",
        kind: Kind::Texts,
        placeholder: "GLOB=ADDRESS",
        doc: "Routers by interface, where no table has a default route through it, such as wan1=192.0.2.1.",
        restart: false,
        set: |config, value| {
            value.items(|text| PerInterface::parse(text, gateway)).map(|all| config.multipath.gateways = all)
        },
        get: |config| Value::texts(&config.multipath.gateways),
    },
    Key {
        name: "mptcp.failover",
        flag: "failover",
        alias: None,
        env: "MPSEC_FAILOVER",
        kind: Kind::Text,
        placeholder: "auto|on|off",
        doc: "Take a path out as soon as its link is down or its packets are not acknowledged, sooner than the kernel alone \
              would, and back in when it works again. Needs count. auto does so where path_manager or endpoints are set; on also where \
              somebody else made the endpoints, and on a server. As long as the agent runs.",
        restart: false,
        set: |config, value| value.switch_or("auto").map(|on| config.multipath.failover = on),
        get: |config| Value::text(config.multipath.failover.map_or("auto", |on| if on { "on" } else { "off" })),
    },
    Key {
        name: "mptcp.receive_buffer",
        flag: "receive-buffer",
        alias: None,
        env: "MPSEC_RECEIVE_BUFFER",
        kind: Kind::Text,
        placeholder: "auto|keep|BYTES",
        doc: "What a socket's receive buffer may hold to begin with (the default and, at least eight times that, the maximum of \
              net.ipv4.tcp_rmem). What arrives early by one path waits there for what is late on another; Linux 6.18 stands \
              still for good when it is full before a lost piece has come. auto: 4000000 where failover is on, or what is \
              there if it is more. It costs memory only while it is used.",
        restart: false,
        set: |config, value| value.text_or_number(str::parse).map(|size| config.multipath.receive_buffer = size),
        get: |config| Value::text(config.multipath.receive_buffer),
    },
    Key {
        name: "mptcp.force.clients",
        flag: "force-clients",
        alias: None,
        env: "MPSEC_FORCE_CLIENTS",
        kind: Kind::Texts,
        placeholder: "CGROUP",
        doc: "cgroups (below /sys/fs/cgroup, such as system.slice/backup.service) whose programs get MPTCP sockets \
              when they ask for TCP ones, to make connections. Needs Linux 6.6 and fmod_ret; `mpsec doctor` tells \
              whether it works here.",
        restart: false,
        set: |config, value| value.items(cgroup).map(|all| config.multipath.force.clients = all),
        get: |config| Value::paths(&config.multipath.force.clients),
    },
    Key {
        name: "mptcp.force.servers",
        flag: "force-servers",
        alias: None,
        env: "MPSEC_FORCE_SERVERS",
        kind: Kind::Texts,
        placeholder: "CGROUP",
        doc: "The same for programs that accept connections.",
        restart: false,
        set: |config, value| value.items(cgroup).map(|all| config.multipath.force.servers = all),
        get: |config| Value::paths(&config.multipath.force.servers),
    },
    Key {
        name: "paths.remote_prefix_ipv4",
        flag: "remote-prefix-ipv4",
        alias: None,
        env: "MPSEC_REMOTE_PREFIX_IPV4",
        kind: Kind::Number,
        placeholder: "BITS",
        doc: "A path leads from an interface to a remote prefix of this length, from 0 (all remotes alike) to 32.",
        restart: true,
        set: |config, value| value.number(0..=32).map(|n| config.paths.remote_prefix_ipv4 = n as u8),
        get: |config| Value::Number(config.paths.remote_prefix_ipv4.into()),
    },
    Key {
        name: "paths.remote_prefix_ipv6",
        flag: "remote-prefix-ipv6",
        alias: None,
        env: "MPSEC_REMOTE_PREFIX_IPV6",
        kind: Kind::Number,
        placeholder: "BITS",
        doc: "The same for IPv6, from 0 to 128.",
        restart: true,
        set: |config, value| value.number(0..=128).map(|n| config.paths.remote_prefix_ipv6 = n as u8),
        get: |config| Value::Number(config.paths.remote_prefix_ipv6.into()),
    },
    Key {
        name: "paths.peers",
        flag: "peers",
        alias: None,
        env: "MPSEC_PEERS",
        kind: Kind::Texts,
        placeholder: "NAME=PREFIX",
        doc: "Names that stand for remote prefixes in metrics, such as office=192.0.2.0/24; the longest prefix counts, and several \
              may have one name.",
        restart: true,
        set: |config, value| value.items(str::parse).map(|all| config.paths.peers = all),
        get: |config| Value::texts(&config.paths.peers),
    },
    Key {
        name: "paths.max_paths",
        flag: "max-paths",
        alias: None,
        env: "MPSEC_MAX_PATHS",
        kind: Kind::Number,
        placeholder: "N",
        doc: "Paths that are kept apart in each network namespace, from 1 to 10000. When there are more, those that have been idle \
              for ten minutes go into _other, and new ones too if there are none such.",
        restart: true,
        set: |config, value| value.number(1..=10_000).map(|n| config.paths.max_paths = n),
        get: |config| Value::Number(config.paths.max_paths.into()),
    },
];

fn needed_name(text: &str) -> Result<String, String> {
    kernel_name(text)?.ok_or_else(|| format!("{text:?} is no congestion control; leave the pattern out instead"))
}

fn gateway(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address; expected one such as 192.0.2.1 or fe80::1"))
}

/// A path below the root of the cgroup file system, without its first slash.
fn cgroup(text: &str) -> Result<PathBuf, String> {
    let inner = text.strip_prefix("/sys/fs/cgroup").unwrap_or(text).trim_matches('/');
    let plain = Path::new(inner).components().all(|part| matches!(part, Component::Normal(_)));
    match plain && !inner.is_empty() && !inner.contains('\0') {
        true => Ok(inner.into()),
        false => Err(format!("{text:?} is no cgroup; expected one such as system.slice/backup.service")),
    }
}

/// A setting has one value.
fn distinct_sysctls(all: Vec<MptcpSysctl>) -> Result<Vec<MptcpSysctl>, Vec<Wrong>> {
    let twice = |(index, one): (usize, &MptcpSysctl)| all[..index].iter().any(|other| other.name == one.name);
    match all.iter().enumerate().position(|(index, one)| twice((index, one))) {
        Some(index) => {
            let message = format!("{} is set twice", all[index].name);
            Err(vec![Wrong { item: Some(index), message }])
        }
        None => Ok(all),
    }
}
