//! Tests of the judgement over other managers.

use super::*;

fn interfaces() -> BTreeMap<u32, String> {
    BTreeMap::from([(2, "eth0".to_owned()), (3, "wlan0".to_owned())])
}

fn connection(uuid: &str, flags: Option<u32>) -> Option<Connection> {
    Some(Connection { uuid: uuid.to_owned(), flags })
}

fn with_manager(manager: NetworkManager) -> Vec<Conflict> {
    conflicts(&Managers { network_manager: Some(manager), ..Managers::default() }, &interfaces())
}

fn with_networkd(links: &[u32], removes_rules: bool, removes_routes: bool) -> Vec<Conflict> {
    let networkd = Networkd { links: links.iter().copied().collect(), removes_rules, removes_routes };
    conflicts(&Managers { networkd: Some(networkd), ..Managers::default() }, &interfaces())
}

#[test]
fn nobody_else_is_no_conflict() {
    assert_eq!(conflicts(&Managers::default(), &interfaces()), []);
}

#[test]
fn network_manager_makes_endpoints_of_what_it_manages() {
    let devices = BTreeMap::from([(2, connection("u-2", None)), (3, None), (9, connection("u-9", None))]);
    let found = with_manager(NetworkManager { version: Some((1, 42)), devices, ..NetworkManager::default() });
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].stops, Stops::Endpoints);
    assert!(found[0].what.ends_with("addresses of eth0"), "{}", found[0].what);
    let expected = "nmcli connection modify uuid u-2 connection.mptcp-flags disabled && nmcli connection up uuid u-2";
    assert_eq!(found[0].remedy, expected);
}

#[test]
fn what_cannot_be_read_is_not_what_is_to_be_changed() {
    let devices = BTreeMap::from([(3, connection("u-3", None)), (2, connection("u-2", None))]);
    let manager = NetworkManager { devices, hides_connections: true, ..NetworkManager::default() };
    let expected = format!("{NM_LEAVES_IT} && nmcli connection up uuid u-2 && nmcli connection up uuid u-3");
    assert_eq!(with_manager(manager)[0].remedy, expected);
}

#[test]
fn network_manager_of_unknown_version_is_taken_for_a_new_one() {
    let devices = BTreeMap::from([(2, connection("u", None))]);
    let stops = |version| {
        let manager = NetworkManager { version, devices: devices.clone(), ..NetworkManager::default() };
        with_manager(manager).first().map(|conflict| conflict.stops)
    };
    assert_eq!(stops(None), Some(Stops::Endpoints));
    assert_eq!(stops(Some((2, 0))), Some(Stops::Endpoints));
    assert_eq!(stops(Some((1, 38))), None);
}

#[test]
fn a_connection_that_is_told_to_leaves_endpoints_alone() {
    let stops = |default_flags, flags| {
        let devices = BTreeMap::from([(2, connection("u", flags))]);
        with_manager(NetworkManager { devices, default_flags, ..NetworkManager::default() })
            .first()
            .map(|conflict| conflict.stops)
    };
    assert_eq!(stops(None, Some(NM_DISABLED)), Some(Stops::Nothing));
    assert_eq!(stops(Some(NM_DISABLED), None), None);
    assert_eq!(stops(Some(NM_DISABLED), Some(0)), None);
    // What a connection says of itself wins.
    assert_eq!(stops(Some(NM_DISABLED), Some(0x22)), Some(Stops::Endpoints));
    assert_eq!(stops(Some(0x12), None), Some(Stops::Endpoints));
}

#[test]
fn mptcpd_and_another_agent_are_in_the_way() {
    let managers = Managers { mptcpd: true, agents: vec![77], ..Managers::default() };
    let found = conflicts(&managers, &BTreeMap::new());
    assert_eq!(found.iter().map(|conflict| conflict.stops).collect::<Vec<_>>(), [Stops::Endpoints; 2]);
    assert_eq!(found[0].remedy, "systemctl disable --now mptcp.service");
    assert!(found[1].what.contains("77"));
}

#[test]
fn networkd_clears_away_what_it_did_not_make() {
    let both = with_networkd(&[2], true, true);
    assert_eq!(both[0].stops, Stops::Routes);
    assert_eq!(both[0].what, "systemd-networkd removes rules and routes of others when it configures eth0");
    assert!(
        both[0].remedy.contains("ManageForeignRoutingPolicyRules=no\\nManageForeignRoutes=no"),
        "{}",
        both[0].remedy
    );
    let routes = with_networkd(&[2], false, true);
    assert!(!routes[0].remedy.contains("Rules"), "{}", routes[0].remedy);
    assert_eq!(with_networkd(&[2], false, false), []);
}

#[test]
fn rules_belong_to_no_interface_and_routes_do() {
    let stops = |links: &[u32], rules| with_networkd(links, rules, true)[0].stops;
    assert_eq!(stops(&[9], true), Stops::Routes);
    assert_eq!(stops(&[9], false), Stops::Nothing);
    assert_eq!(stops(&[], true), Stops::Nothing);
}
