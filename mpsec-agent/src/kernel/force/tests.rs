//! Tests on the running kernel: where it refuses, of the refusal and its reason.

use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;

use super::*;
use crate::kernel::cgroup;

/// A control group of this test's own, gone on drop.
struct Group(PathBuf);

impl Group {
    /// `None`, with the reason shown, where none can be made.
    fn make(name: &str) -> Option<Group> {
        let made = || {
            let root = features::Features::probe().cgroup_root().map(Path::to_owned).ok_or(ErrorKind::NotFound)?;
            let path = root.join(format!("mpsec-test-{}-{name}", std::process::id()));
            std::fs::create_dir(&path).map(|()| Group(path))
        };
        made().map_err(|error: io::Error| eprintln!("skipped: no control group can be made: {error}")).ok()
    }

    fn name(&self) -> PathBuf {
        self.0.file_name().expect("it was given one").into()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Whether something has come or gone, within a second.
fn is_ready(cgroups: &Cgroups) -> bool {
    let mut poll = libc::pollfd { fd: cgroups.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one whole `pollfd` that outlives the call.
    unsafe { libc::poll(&raw mut poll, 1, 1000) == 1 }
}

#[test]
fn control_groups_are_found_when_they_come_and_lost_when_they_go() {
    let Some(outer) = Group::make("outer") else { return };
    let inner = outer.name().join("inner/innermost");
    let listed = [(outer.name(), flags::SERVERS), (inner.clone(), flags::CLIENTS), (outer.name(), flags::CLIENTS)];
    let mut cgroups = Cgroups::new(&listed).expect("there is a hierarchy");
    cgroups.look_up().expect("they can be watched");
    assert_eq!(cgroups.missing().collect::<Vec<_>>(), [inner.as_path()]);
    assert_eq!(cgroups.flags_by_id().into_values().collect::<Vec<_>>(), [flags::ALL]);

    for path in ["inner", "inner/innermost"] {
        std::fs::create_dir(outer.0.join(path)).expect("a control group");
        assert!(is_ready(&cgroups), "{path} has come");
        cgroups.look_up().expect("they can be watched");
    }
    assert_eq!(cgroups.missing().count(), 0);
    let first = cgroups.flags_by_id();

    // A service that starts anew.
    std::fs::remove_dir(outer.0.join("inner/innermost")).expect("it is empty");
    assert!(is_ready(&cgroups));
    cgroups.look_up().expect("they can be watched");
    assert_eq!(cgroups.missing().count(), 1);
    std::fs::create_dir(outer.0.join("inner/innermost")).expect("a control group");
    assert!(is_ready(&cgroups));
    cgroups.look_up().expect("they can be watched");
    assert_ne!(cgroups.flags_by_id(), first);
    for path in ["inner/innermost", "inner"] {
        std::fs::remove_dir(outer.0.join(path)).expect("it is empty");
    }
}

#[test]
fn a_refusal_says_why_and_what_works_instead() {
    let error = match Force::load(cgroup::netns_cookie().expect("a socket"), &[(PathBuf::from("/"), flags::ALL)]) {
        Ok(_) => return, // this kernel can, which another test shows
        Err(error) => error,
    };
    let (reason, remedy) = (error.to_string(), error.remedy());
    println!("refused here: {reason}\n  remedy: {remedy}");
    assert!(!reason.is_empty());
    match error {
        ForceError::NoHook | ForceError::Program(_) => assert!(remedy.contains("mptcpize run PROGRAM"), "{remedy}"),
        _ => assert!(!remedy.is_empty()),
    }
}

#[test]
fn what_can_name_no_control_group_is_refused_at_once() {
    let refused =
        |path: &str| Force::load(0, &[(PathBuf::from(path), flags::ALL)]).err().map(|error| error.to_string());
    assert!(refused("a/../b").is_some_and(|reason| reason.contains("upwards")));
    let many: Vec<_> = (0..=MAX_FORCED_CGROUPS).map(|n| (PathBuf::from(n.to_string()), flags::ALL)).collect();
    assert!(matches!(Force::load(0, &many), Err(ForceError::TooMany(1025))));
}
