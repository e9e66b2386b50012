//! What is kept, by whom, and what is never overwritten.

use super::super::change::Endpoint;
use super::*;
use crate::snapshot::mptcp::Limits;

fn place(boot: &str) -> Place {
    Place { boot: boot.into(), netns: 1 }
}

fn change() -> Change {
    let limits = |subflows| Limits { subflows, add_addr_accepted: 0 };
    Change::Limits { from: limits(2), to: limits(8) }
}

/// A change that cannot have happened on a host that has nothing.
fn addition() -> Change {
    let address = std::net::IpAddr::from([192, 0, 2, 1]);
    Change::AddEndpoint(Endpoint { id: 0, address, port: None, flags: vec!["subflow".into()], interface: Some(2) })
}

/// Takes the room to write away from a folder, or gives it back.
fn set_full(folder: &Path, is_full: bool) {
    let place = folder.join("state.json.new");
    if is_full { fs::create_dir(place).unwrap() } else { fs::remove_dir(place).unwrap() }
}

#[test]
fn nothing_is_written_before_there_is_something_to_keep() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("mpsec");
    let mut store = Store::open(&inner, place("a")).unwrap();
    assert!(!inner.exists());
    store.end(Owned::default()).unwrap();
    assert!(!inner.exists());
    store.begin(&[change()]).unwrap();
    assert!(inner.join(FILE).exists());
}

#[test]
fn what_was_begun_is_found_by_the_next_one_in_the_same_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), place("a")).unwrap();
    store.set(vec!["mptcp.failover=true".into()], false).unwrap();
    store.begin(&[change()]).unwrap();
    drop(store);
    let mut store = Store::open(folder.path(), place("a")).unwrap();
    assert_eq!(store.begun(), [change()]);
    store.recover(&Actual::default()).unwrap();
    assert_eq!(store.owned().limits.as_ref().map(|changed| changed.original.subflows), Some(2));
    drop(store);
    let store = Store::open(folder.path(), place("b")).unwrap();
    assert!(store.owned().is_empty() && store.begun().is_empty());
    assert_eq!(store.settings(), ["mptcp.failover=true"]);
}

#[test]
fn what_was_changed_in_another_namespace_is_not_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let there = |netns| Place { netns, ..place("a") };
    let begin = |netns| {
        let mut store = Store::open(folder.path(), there(netns)).unwrap();
        assert!(store.begun().is_empty() && !store.released(), "{netns}");
        store.begin(&[change()]).unwrap();
    };
    begin(1);
    begin(2);
    for netns in [1, 2] {
        let mut store = Store::open(folder.path(), there(netns)).unwrap();
        assert_eq!(store.begun(), [change()], "{netns}");
        store.recover(&Actual::default()).unwrap();
    }
    for netns in 3..100 {
        begin(netns);
    }
    let store = Store::open(folder.path(), there(200)).unwrap();
    assert_eq!(store.kept.elsewhere.len(), MOST_ELSEWHERE);
    drop(store);
    let store = Store::open(folder.path(), place("b")).unwrap();
    assert!(store.kept.elsewhere.is_empty() && store.owned().is_empty());
}

#[test]
fn what_could_not_be_written_is_written_as_soon_as_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let [inner, away] = ["state", "away"].map(|name| folder.path().join(name));
    let mut store = Store::open(&inner, place("a")).unwrap();
    store.begin(&[change()]).unwrap();
    fs::rename(&inner, &away).unwrap();
    assert!(store.end(Owned::default()).is_err());
    fs::rename(&away, &inner).unwrap();
    store.end(Owned::default()).unwrap();
    drop(store);
    assert!(Store::open(&inner, place("a")).unwrap().begun().is_empty());
}

#[test]
fn what_was_begun_and_never_done_is_forgotten_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(folder.path(), place("a")).unwrap();
    open().begin(&[addition()]).unwrap();
    let mut store = open();
    // Also where that could not be written at once.
    set_full(folder.path(), true);
    assert!(store.recover(&Actual::default()).is_err());
    assert!(store.begun().is_empty() && store.owned().is_empty() && store.is_behind());
    set_full(folder.path(), false);
    store.end(Owned::default()).unwrap();
    assert!(!store.is_behind());
    drop(store);
    assert!(open().begun().is_empty());
    open().begin(&[addition()]).unwrap();
    open().recover(&Actual::default()).unwrap();
    // Somebody else may make it now.
    assert!(open().begun().is_empty());
}

#[test]
fn what_could_not_be_begun_is_not_taken_for_done() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), place("a")).unwrap();
    set_full(folder.path(), true);
    assert!(store.begin(&[addition()]).is_err());
    assert!(store.begun().is_empty() && store.is_behind());
    set_full(folder.path(), false);
    store.set(Vec::new(), false).unwrap();
    drop(store);
    assert!(Store::open(folder.path(), place("a")).unwrap().begun().is_empty());
}

#[test]
fn a_release_that_could_not_be_written_counts_and_settings_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), place("a")).unwrap();
    store.set(vec!["mptcp.failover=on".into()], false).unwrap();
    set_full(folder.path(), true);
    assert!(store.set(vec!["mptcp.failover=off".into()], false).is_err());
    assert_eq!(store.settings(), ["mptcp.failover=on"]);
    assert!(store.set(Vec::new(), true).is_err());
    assert!(store.released() && store.settings().is_empty());
    set_full(folder.path(), false);
    store.end(Owned::default()).unwrap();
    drop(store);
    let store = Store::open(folder.path(), place("a")).unwrap();
    assert!(store.released() && store.settings().is_empty());
}

#[test]
fn a_command_that_has_it_for_a_moment_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), place("a")).unwrap();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(store);
    });
    assert!(Store::open(folder.path(), place("a")).is_ok());
    other.join().unwrap();
}

#[test]
fn what_another_one_kept_meanwhile_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("mpsec");
    let mut early = Store::open(&inner, place("a")).unwrap();
    Store::open(&inner, place("a")).unwrap().set(vec!["mptcp.failover=on".into()], false).unwrap();
    assert!(early.begin(&[change()]).unwrap_err().contains("changed by another mpsec"));
    assert_eq!(Store::open(&inner, place("a")).unwrap().settings(), ["mptcp.failover=on"]);
}

#[test]
fn what_others_can_write_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let set_mode = |mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(folder.path(), permissions).unwrap();
    };
    let is_refused = || matches!(Store::open(folder.path(), place("a")), Err(StoreError::NotOurs { .. }));
    for mode in [0o777, 0o1777, 0o770] {
        set_mode(mode);
        assert!(is_refused(), "{mode:o}");
    }
    set_mode(0o755);
    assert!(!is_refused());
    // Only root can give a folder away.
    if std::os::unix::fs::chown(folder.path(), Some(65_534), None).is_ok() {
        assert!(is_refused() && own_user() == 0);
    }
}

#[test]
fn links_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "data").unwrap();
    std::os::unix::fs::symlink(&precious, folder.path().join("state.json.new")).unwrap();
    let mut store = Store::open(folder.path(), place("a")).unwrap();
    assert!(store.set(Vec::new(), true).is_err());
    assert_eq!(fs::read_to_string(&precious).unwrap(), "data");
}

#[test]
fn it_belongs_to_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), place("a")).unwrap();
    assert!(matches!(Store::open(folder.path(), place("a")), Err(StoreError::InUse(_))));
    drop(store);
    assert!(Store::open(folder.path(), place("a")).is_ok());
}

#[test]
fn what_cannot_be_understood_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let newer = r#"{"version": 2, "place": {"boot": "", "netns": 0}, "owned": {}, "unheard": 1}"#;
    fs::write(&path, newer).unwrap();
    let error = Store::open(folder.path(), place("a")).err().unwrap().to_string();
    assert!(error.contains("it has version 2"), "{error}");
    for text in ["", "{}", "[1]", newer] {
        fs::write(&path, text).unwrap();
        assert!(matches!(Store::open(folder.path(), place("a")), Err(StoreError::Damaged { .. })), "{text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
