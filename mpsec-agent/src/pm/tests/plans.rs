//! What each mode wants.

use std::net::IpAddr;
use std::time::Instant;

use super::{began, first};
use crate::pm::mode::{Kind, Plan};
use crate::pm::{Book, Connection, Happening, Local, Locals, Remote, Role, Settings};

const TOKEN: u32 = 7;

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn settings(mode: Kind) -> Settings {
    Settings { mode, subflows: 4, announce: true, ..Settings::default() }
}

/// A connection that has been told all this.
fn connection(happenings: &[Happening]) -> Connection {
    let mut book = Book::new(settings(Kind::Server));
    for happening in happenings {
        book.observe(TOKEN, happening, Instant::now());
    }
    book.connection(TOKEN).expect("it began").clone()
}

fn plan(mode: Kind, connection: &Connection, locals: &[IpAddr]) -> Plan {
    let mut known = Locals::default();
    known.set(locals.iter().copied().map(Local::new).collect()).expect("no conflict");
    mode.make(&settings(mode)).plan(connection, &known)
}

/// Where a plan's subflows go from and to, and how many.
fn pairs(plan: &Plan) -> Vec<(IpAddr, IpAddr, u16)> {
    let pair = |wanted: &crate::pm::mode::Wanted| (wanted.local.address, wanted.remote.address.ip(), wanted.subflows);
    plan.subflows.iter().map(pair).collect()
}

#[test]
fn ndiffports_wants_its_number_between_the_first_addresses() {
    let client = connection(&[began(1, Role::Client)]);
    let plan = plan(Kind::Ndiffports, &client, &[address(1), address(3)]);
    assert_eq!(pairs(&plan), [(address(1), address(2), 4)]);
    assert_eq!(plan.subflows[0].remote, Remote { id: 0, address: first(1).remote });
}

#[test]
fn a_socket_that_is_bound_to_an_interface_stays_there() {
    let mut bound = began(1, Role::Client);
    if let Happening::Began { ifindex, .. } = &mut bound {
        *ifindex = Some(3);
    }
    let client = connection(&[bound]);
    let plan = plan(Kind::Fullmesh, &client, &[address(1), address(3)]);
    let interfaces: Vec<Option<u32>> = plan.subflows.iter().map(|wanted| wanted.local.ifindex).collect();
    assert_eq!(interfaces, [Some(3), None]);
}

#[test]
fn a_peer_that_denies_its_first_address_is_obeyed() {
    let mut denied = began(1, Role::Client);
    if let Happening::Began { denies_first, .. } = &mut denied {
        *denies_first = true;
    }
    let announced = Happening::Announced { remote: Remote { id: 5, address: (address(9), 0).into() } };
    let client = connection(&[denied, announced]);
    assert_eq!(pairs(&plan(Kind::Ndiffports, &client, &[])), []);
    assert_eq!(pairs(&plan(Kind::Fullmesh, &client, &[address(1)])), [(address(1), address(9), 1)]);
}

#[test]
fn fullmesh_wants_every_pair_that_fits() {
    let announced = |id, address| Happening::Announced { remote: Remote { id, address } };
    let elsewhere: IpAddr = "2001:db8::2".parse().unwrap();
    let client = connection(&[
        began(1, Role::Client),
        announced(5, (address(9), 8443).into()),
        // The first one again, a loopback address and one of a family that the socket cannot have.
        announced(6, first(1).remote),
        announced(7, ([127, 0, 0, 1], 443).into()),
        announced(8, (elsewhere, 443).into()),
    ]);
    let locals = [address(3), address(1), "2001:db8::1".parse().unwrap(), [127, 0, 0, 1].into()];
    let plan = plan(Kind::Fullmesh, &client, &locals);
    let [near, other, far, announced] = [1, 3, 2, 9].map(address);
    let wanted = [(near, far, 1), (near, announced, 1), (other, far, 1), (other, announced, 1)];
    let loopback = IpAddr::from([127, 0, 0, 1]);
    assert_eq!(pairs(&plan)[..4], wanted);
    assert_eq!(pairs(&plan)[4..], [(loopback, loopback, 1)]);
    assert_eq!(plan.subflows[1].remote, Remote { id: 5, address: (announced, 8443).into() });
}

#[test]
fn whoever_accepted_makes_none_and_announces() {
    for mode in [Kind::Ndiffports, Kind::Fullmesh, Kind::Server] {
        let server = connection(&[began(1, Role::Server)]);
        let locals = [address(1), address(3), "2001:db8::1".parse().unwrap()];
        let plan = plan(mode, &server, &locals);
        assert_eq!(pairs(&plan), []);
        let announced: Vec<IpAddr> = plan.announced.iter().map(|local| local.address).collect();
        assert_eq!(announced, [address(3)]);
    }
    let client = connection(&[began(1, Role::Client)]);
    assert_eq!(plan(Kind::Server, &client, &[address(1), address(3)]), Plan::default());
}
