//! What is wrong with MPTCP, in words. Pure.

use crate::snapshot::mptcp::{Connection, Finding, Namespace, Path};

use super::rises::Rises;

/// At most so many findings of one kind about single connections: the rest is told as a number.
const MAX_EACH: usize = 5;

/// What the rise of a counter of `MPTcpExt` says (net/mptcp/mib.c and the places that count, 6.18).
struct Cause {
    counter: &'static str,
    kind: &'static str,
    /// Continues "N connections fell back to TCP because ..." or "N joins were refused because ...".
    because: &'static str,
    remedy: Option<&'static str>,
}

const fn fallback(counter: &'static str, because: &'static str, remedy: Option<&'static str>) -> Cause {
    Cause { counter, kind: "fallback", because, remedy }
}

const fn join(counter: &'static str, because: &'static str, remedy: Option<&'static str>) -> Cause {
    Cause { counter, kind: "join_refused", because, remedy }
}

const STRIPPED: Option<&str> =
    Some("capture the SYN/ACK on this host: without option 30 the peer or a middlebox lacks MPTCP");

const UNANSWERED: &str = "SYNs with MPTCP were not answered, so that it was tried without";

/// The counters that tell why a connection is not multipath, in the order in which they are told.
const CAUSES: &[Cause] = &[
    fallback("MPCapableFallbackSYNACK", "the peer answered the SYN without MPTCP", STRIPPED),
    fallback("MPCapableFallbackACK", "the client's last ACK of the handshake came without MPTCP", None),
    // Counted when the SYN without MPTCP is sent, which a peer that is not there does not answer either.
    fallback(
        "MPCapableSYNTXDrop",
        UNANSWERED,
        Some("see whether the peer answers at all; if it does, something drops SYNs with option 30"),
    ),
    fallback("MPCapableDataFallback", "the first data came without MPTCP", None),
    fallback(
        "DSSCorruptionFallback",
        "a mapping of data was damaged on the way",
        Some("look for a proxy that rewrites TCP"),
    ),
    fallback("DssFallback", "data came without a mapping", Some("look for a proxy that rewrites TCP")),
    fallback("InfiniteMapRx", "the peer asked for it with an infinite mapping", None),
    fallback("MD5SigFallback", "TCP-MD5 leaves no room for MPTCP's options", Some("use TCP-AO or no MD5 on this port")),
    fallback("SimultConnectFallback", "both ends connected at once", None),
    fallback("MPFallbackTokenInit", "no token could be made", None),
    join("MPJoinNoTokenFound", "no connection has the token that they named", None),
    join("MPJoinSynAckHMacFailure", "the peer's SYN/ACK did not prove that it knows the keys", None),
    join("MPJoinAckHMacFailure", "the client's ACK did not prove that it knows the keys", None),
    join(
        "MPJoinRejected",
        "the path manager allows no more subflows",
        Some("raise the limit on the refusing side: ip mptcp limits set subflows 8"),
    ),
    join("MPJoinSynTxCreatSkErr", "no socket could be made for them", None),
    join(
        "MPJoinSynTxBindErr",
        "their local address could not be bound",
        Some("see whether the endpoint's address is on an interface: mpsec doctor mptcp"),
    ),
    join(
        "MPJoinSynTxConnectErr",
        "connecting from their local address failed at once",
        Some("see whether there is a route from that address: mpsec doctor mptcp"),
    ),
    join("MismatchPortSynRx", "they came to a port that is announced for no address", None),
];

/// Why connections fall back to TCP, by the counter of `MPTcpExt` that tells it; continues "because ...".
pub(crate) fn fallback_causes() -> impl Iterator<Item = (&'static str, &'static str)> {
    CAUSES.iter().filter(|cause| cause.kind == "fallback").map(|cause| (cause.counter, cause.because))
}

/// Everything that is wrong, most important first.
pub fn findings(namespace: &Namespace, rises: &Rises) -> Vec<Finding> {
    let mut all = Vec::new();
    all.extend(blackhole(namespace));
    all.extend(namespace.paths.iter().filter_map(silent_path));
    all.extend(CAUSES.iter().filter_map(|cause| risen(cause, rises)));
    all.extend(fallen_back(&namespace.connections));
    all.extend(not_counted(namespace));
    all
}

fn blackhole(namespace: &Namespace) -> Option<Finding> {
    (namespace.blackhole == Some(true)).then(|| Finding {
        kind: "blackhole".into(),
        about: String::new(),
        text: "new connections use plain TCP because SYNs with MPTCP were swallowed on the way, and the kernel now holds them \
               back for all destinations"
            .into(),
        remedy: Some(
            "when the way is clear again: sysctl -w net.mptcp.blackhole_timeout=3600 (writing it lets MPTCP be tried at once)"
                .into(),
        ),
    })
}

fn silent_path(path: &Path) -> Option<Finding> {
    let why = path.silent.as_ref()?;
    let about = format!("{} {} to {}", path.interface, path.family, path.remote);
    let text = format!("the path {about} carries nothing because {why}");
    Some(Finding { kind: "path_silent".into(), about, text, remedy: None })
}

fn risen(cause: &Cause, rises: &Rises) -> Option<Finding> {
    let count = rises.lately(cause.counter)?;
    let what = match (cause.kind, count) {
        ("fallback", 1) => "1 connection fell back to TCP".to_owned(),
        ("fallback", _) => format!("{count} connections fell back to TCP"),
        (_, 1) => "1 join was refused".to_owned(),
        _ => format!("{count} joins were refused"),
    };
    Some(Finding {
        kind: cause.kind.into(),
        about: cause.counter.into(),
        text: format!("{what} lately because {} (counter {})", cause.because, cause.counter),
        remedy: cause.remedy.map(str::to_owned),
    })
}

fn fallen_back(connections: &[Connection]) -> Vec<Finding> {
    let fallen: Vec<_> = connections.iter().filter_map(|c| c.fallback.as_ref().map(|why| (c, why))).collect();
    let told = fallen.iter().take(MAX_EACH).map(|(connection, why)| {
        let about = format!("{} -> {}", connection.local, connection.remote);
        let text = format!("{about} is plain TCP because {why}");
        Finding { kind: "connection_fell_back".into(), about, text, remedy: None }
    });
    let rest = fallen.len().saturating_sub(MAX_EACH);
    let rest = (rest > 0).then(|| Finding {
        kind: "connection_fell_back".into(),
        about: String::new(),
        text: format!("{rest} more connections are plain TCP"),
        remedy: None,
    });
    told.chain(rest).collect()
}

fn not_counted(namespace: &Namespace) -> Option<Finding> {
    let lost = namespace.totals.subflows_lost;
    (lost > 0).then(|| Finding {
        kind: "table_full".into(),
        about: String::new(),
        text: format!("{lost} subflows were not counted because the kernel's table of subflows was full"),
        remedy: Some("raise max_subflows in [mptcp] and restart the agent".into()),
    })
}

/// Why this host made a connection without asking for MPTCP (mptcp_early_fallback, net/mptcp/protocol.h, 6.18).
pub fn why_not_asked(rises: &Rises) -> String {
    const CAUSES: [(&str, &str); 4] = [
        (
            "MPCapableSYNTXDisabled",
            "earlier SYNs with MPTCP were swallowed on the way, so that this host did not ask for it",
        ),
        ("MD5SigFallback", "TCP-MD5 leaves no room for MPTCP's options"),
        ("TCPAOFallback", "TCP-AO leaves no room for MPTCP's options"),
        ("MPFallbackTokenInit", "no token could be made"),
    ];
    let late: Vec<&str> =
        CAUSES.iter().filter(|(counter, _)| rises.lately(counter).is_some()).map(|(_, why)| *why).collect();
    match late.as_slice() {
        [] => "this host did not ask for MPTCP".into(),
        several => several.join(", or because "),
    }
}

/// Why a connection is plain TCP: by the counters that rose lately if the handshake does not tell.
pub fn why_fallen_back(at_handshake: bool, rises: &Rises) -> String {
    const STRIPPED: &str =
        "the peer answered the SYN without MPTCP: it has none, or something on the way takes the option out";
    if at_handshake {
        let late = ["MPCapableFallbackSYNACK", "MPCapableSYNTXDrop"].map(|counter| rises.lately(counter).is_some());
        return match late {
            [false, true] => UNANSWERED.into(),
            [true, true] => format!("{STRIPPED}; or because {UNANSWERED}"),
            [_, false] => STRIPPED.into(),
        };
    }
    let late = |cause: &&Cause| cause.kind == "fallback" && rises.lately(cause.counter).is_some();
    let mut causes = CAUSES.iter().filter(late).filter(|cause| cause.counter != "MPCapableFallbackSYNACK");
    match (causes.next(), causes.next()) {
        (Some(cause), None) => cause.because.into(),
        (Some(first), Some(second)) => format!("{}, or because {}", first.because, second.because),
        (None, _) => "of something that was before the agent looked".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn risen(counters: &[&str]) -> Rises {
        let (mut rises, now) = (Rises::default(), Instant::now());
        let look = |value| counters.iter().map(|name| ((*name).to_owned(), value)).collect::<Vec<_>>();
        rises.look(&look(1), now);
        rises.look(&look(2), now);
        rises
    }

    #[test]
    fn a_syn_that_nobody_answered_is_not_said_to_have_been_answered() {
        let why = |counters: &[&str]| why_fallen_back(true, &risen(counters));
        assert!(why(&["MPCapableFallbackSYNACK"]).starts_with("the peer answered"));
        assert!(why(&[]).starts_with("the peer answered"));
        assert_eq!(why(&["MPCapableSYNTXDrop"]), UNANSWERED);
        let both = why(&["MPCapableSYNTXDrop", "MPCapableFallbackSYNACK"]);
        assert!(both.contains("the peer answered") && both.contains(UNANSWERED), "{both}");
    }

    #[test]
    fn who_did_not_ask_is_not_said_to_have_been_refused() {
        assert!(why_not_asked(&risen(&["MPCapableSYNTXDisabled"])).contains("did not ask"));
        assert!(why_not_asked(&risen(&["TCPAOFallback"])).contains("TCP-AO"));
        assert_eq!(why_not_asked(&risen(&["MPCapableFallbackSYNACK"])), "this host did not ask for MPTCP");
    }
}
