//! Tests of the feature probes on the running kernel.

use super::*;

fn namespace() -> PathBuf {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap()
}

#[test]
fn every_feature_gets_a_verdict_and_the_process_stays_where_it_is() {
    let before = namespace();
    let features = Features::probe();
    assert_eq!(namespace(), before);
    for feature in features.all() {
        let untried = matches!(&feature.state, State::Unknown { reason } if reason == "the probe failed");
        assert!(!untried, "{feature:?}");
        let detail =
            if let State::Missing { reason } | State::Unknown { reason } = &feature.state { reason } else { "" };
        assert!(feature.state == State::Available || !detail.is_empty(), "{feature:?}");
    }
}

#[test]
fn probing_again_finds_the_same() {
    assert_eq!(Features::probe(), Features::probe());
}

#[test]
fn what_is_certain_on_a_privileged_host_is_found() {
    let features = Features::probe();
    if !features.has(Id::CapBpf) || !features.has(Id::CapSysAdmin) {
        return eprintln!("skipped: needs root");
    }
    if !features.has(Id::Bpf) {
        return eprintln!("skipped: {:?}", features.get(Id::Bpf));
    }
    assert!(features.baseline_gaps().is_empty(), "{:?}", features.baseline_gaps());
    assert!(features.has(Id::RingBuf) && features.has(Id::BpfLinks) && features.has(Id::BatchOps));
}

#[test]
fn a_lacking_capability_is_no_verdict_on_the_kernel() {
    let none = Capabilities::from_bits(0);
    let verdict = none.explain_eperm(&[Id::CapBpf, Id::CapPerfmon], "no");
    assert_eq!(verdict.state, State::Unknown { reason: "cannot be tried without CAP_BPF, CAP_PERFMON".into() });
    let old = Capabilities::from_bits(1 << 21);
    assert_eq!(old.explain_eperm(&[Id::CapBpf], "no").state, State::Missing { reason: "no".into() });
}

#[test]
fn cgroup_v2_is_found_beside_v1() {
    let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                  cgroup2 /sys/fs/cgroup/a\\040b cgroup2 rw 0 0\ncgroup2 /other cgroup2 rw 0 0\n";
    assert_eq!(host::find_cgroup2(mounts), Some(PathBuf::from("/sys/fs/cgroup/a b")));
    assert_eq!(host::find_cgroup2("cgroup2\n\nnone /x cgroup rw"), None);
}
