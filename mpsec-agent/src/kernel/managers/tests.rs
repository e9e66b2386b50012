//! Tests on files as the programs leave them.

use super::*;
use tempfile::TempDir;

fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("it is below the root")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    root
}

#[test]
fn devices_of_network_manager_have_connections_with_flags() {
    let root = tree(&[
        ("run/NetworkManager/devices/2", "[device]\nmanaged=true\nconnection-uuid=u-2\n"),
        ("run/NetworkManager/devices/3", "[device]\nmanaged=true\n"),
        ("run/NetworkManager/devices/4", "[device]\nmanaged=false\nconnection-uuid=u-4\n"),
        ("run/NetworkManager/devices/5", "[device]\nmanaged=true\nconnection-uuid=u-5\n"),
        ("run/NetworkManager/devices/6", "[device]\nmanaged=true\nconnection-uuid=u-6; reboot\n"),
        ("etc/NetworkManager/system-connections/a.nmconnection", "[connection]\nid=a\nuuid=u-2\nmptcp-flags=1\n"),
        ("run/NetworkManager/system-connections/b.nmconnection", "[connection]\nid=b\nuuid=u-5\n"),
    ]);
    let connection = |uuid: &str, flags| Some(Connection { uuid: uuid.to_owned(), flags });
    let expected =
        BTreeMap::from([(2, connection("u-2", Some(1))), (3, None), (5, connection("u-5", None)), (6, None)]);
    assert_eq!(devices(root.path()), expected);
}

#[test]
fn the_administrators_default_wins_over_the_distributions() {
    let shipped = ("usr/lib/NetworkManager/conf.d/99-x.conf", "[connection]\nconnection.mptcp-flags=0x22\n");
    assert_eq!(default_flags(tree(&[]).path()), None);
    assert_eq!(default_flags(tree(&[shipped]).path()), Some(0x22));
    let own = ("etc/NetworkManager/conf.d/10-y.conf", "[connection-mpsec]\nconnection.mptcp-flags=1\n");
    assert_eq!(default_flags(tree(&[shipped, own]).path()), Some(1));
    let hidden = ("etc/NetworkManager/conf.d/99-x.conf", "");
    assert_eq!(default_flags(tree(&[shipped, hidden]).path()), None);
    let for_one =
        ("etc/NetworkManager/conf.d/10-y.conf", "[connection-y]\nmatch-device=eth0\nconnection.mptcp-flags=1\n");
    assert_eq!(default_flags(tree(&[for_one]).path()), None);
}

#[test]
fn networkd_removes_what_is_foreign_unless_it_is_told() {
    let both = |root: &TempDir| (networkd(root.path()).removes_rules, networkd(root.path()).removes_routes);
    assert_eq!(both(&tree(&[])), (true, true));
    let main =
        ("etc/systemd/networkd.conf", "[Network]\n#ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n");
    let shipped = ("usr/lib/systemd/networkd.conf", "[Network]\nManageForeignRoutes=no\n");
    assert_eq!(both(&tree(&[main, shipped])), (false, true));
    let beside = ("run/systemd/networkd.conf.d/90-a.conf", "[Network]\nManageForeignRoutes=off\n");
    assert_eq!(both(&tree(&[main, beside])), (false, false));
    let hides = ("etc/systemd/networkd.conf.d/90-a.conf", "");
    assert_eq!(both(&tree(&[main, beside, hides])), (false, true));
}

#[test]
fn networkd_tells_which_links_it_configures() {
    let root = tree(&[
        ("run/systemd/netif/links/1", "# private\nADMIN_STATE=unmanaged\nOPER_STATE=carrier\n"),
        ("run/systemd/netif/links/2", "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/a.network\n"),
        ("run/systemd/netif/links/3", "ADMIN_STATE=configuring\n"),
        ("run/systemd/netif/links/.tmp", "ADMIN_STATE=configured\n"),
    ]);
    assert_eq!(links(root.path()), BTreeSet::from([2, 3]));
}

#[test]
fn versions_may_have_a_tail() {
    assert_eq!(parse_version("1.42.4\n"), Some((1, 42)));
    assert_eq!(parse_version("1.48-rc1"), Some((1, 48)));
    assert_eq!(parse_version("unknown"), None);
}

#[test]
fn a_program_that_does_not_end_is_not_waited_for() {
    let mut talks = Command::new("echo");
    talks.arg("1.50.0");
    assert_eq!(output_in_time(talks).as_deref().and_then(parse_version), Some((1, 50)));
    let (mut hangs, start) = (Command::new("sleep"), Instant::now());
    hangs.arg("60");
    assert_eq!(output_in_time(hangs), None);
    assert!(start.elapsed() < PATIENCE * 5);
    assert_eq!(output_in_time(Command::new("/nothing/here")), None);
}
