//! Endpoints, addresses and interfaces that come and go.

use super::super::{Action, Event, Facts, Failover, Settings};
use super::*;

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 1));
const FIRST: u32 = 5;
const SECOND: u32 = 7;

fn made(address: IpAddr) -> Endpoint {
    Endpoint::new(address, EndpointFlags::SUBFLOW)
}

fn on(index: u32, address: IpAddr) -> Address {
    Address::new(index, address, 24)
}

/// A and B on two interfaces that are up.
fn two(now: Instant) -> Roster {
    let mut roster = Roster::default();
    for index in [FIRST, SECOND] {
        roster.set_link(index, true, now);
    }
    roster.refresh(vec![made(A), made(B)], &[on(FIRST, A), on(SECOND, B)]);
    roster
}

#[test]
fn endpoints_of_one_address_are_told_apart_by_their_port() {
    let now = Instant::now();
    let mut roster = two(now);
    let with_port = Endpoint { port: Some(8443), flags: EndpointFlags::SIGNAL, ..made(B) };
    roster.refresh(vec![made(A), made(B), with_port.clone()], &[on(FIRST, A), on(SECOND, B)]);
    assert_eq!(roster.there_at(B), [made(B), with_port.clone()]);
    assert_eq!(roster.there(), [A, B]);
    roster.take(made(B));
    assert!(!roster.is_away(B), "one of two");
    // What is there does not stand for what was taken away from beside it.
    roster.refresh(vec![made(A), with_port.clone()], &[on(FIRST, A), on(SECOND, B)]);
    assert_eq!(roster.away_at(B), [made(B)]);
    roster.take(with_port.clone());
    assert!(roster.is_away(B));
    assert!(roster.forget(&with_port));
    assert_eq!(roster.away_at(B), [made(B)], "the other one is to be put back");
    assert!(!roster.forget(&with_port), "it is the kernel's matter now");
    assert!(roster.forget(&made(B)));
    assert!(!roster.knows(B));
}

#[test]
fn what_comes_back_without_a_flag_is_known_as_it_was() {
    let mut roster = two(Instant::now());
    let whole = Endpoint { flags: EndpointFlags::SUBFLOW | EndpointFlags::FULLMESH, ..made(B) };
    roster.refresh(vec![made(A), whole.clone()], &[on(FIRST, A), on(SECOND, B)]);
    for _ in 0..2 {
        roster.take(roster.there_at(B)[0].clone());
        assert_eq!(roster.away_at(B), std::slice::from_ref(&whole));
        roster.put(made(B));
        assert_eq!(roster.suspended().collect::<Vec<_>>(), [&whole]);
    }
    assert_eq!(roster.complete(), std::slice::from_ref(&whole));
    roster.put(whole);
    assert_eq!(roster.suspended().count(), 0);
}

#[test]
fn an_address_on_an_interface_that_was_made_anew_is_looked_at() {
    let now = Instant::now();
    let mut roster = two(now);
    assert_eq!(roster.set_link(SECOND, false, now), Some(vec![B]));
    roster.lose_link(SECOND);
    assert_eq!(roster.down(), [B]);
    roster.take(made(B));
    roster.refresh(vec![made(A)], &[on(FIRST, A)]);
    assert_eq!(roster.set_link(9, true, now), Some(Vec::new()), "its address comes later");
    roster.refresh(vec![made(A)], &[on(FIRST, A), on(9, B)]);
    assert!(roster.down().is_empty() && !roster.is_waiting(now));
    roster.look_for_up(now, |address| address == B);
    assert!(roster.is_waiting(now));
    assert_eq!(roster.ready(&[on(FIRST, A), on(9, B)]), [B]);
    assert!(!roster.is_waiting(now));
}

#[test]
fn what_is_bound_to_an_interface_that_is_gone_stays_away() {
    let now = Instant::now();
    let mut roster = two(now);
    let bound = Endpoint { interface: Some(SECOND as i32), ..made(B) };
    roster.refresh(vec![made(A), bound.clone()], &[on(FIRST, A), on(SECOND, B)]);
    roster.set_link(SECOND, false, now);
    roster.lose_link(SECOND);
    roster.take(bound.clone());
    roster.set_link(9, true, now);
    roster.refresh(vec![made(A)], &[on(FIRST, A), on(9, B)]);
    assert_eq!((roster.down(), roster.away_at(B)), (vec![B], vec![bound]));
}

/// Whatever made the core believe so: what is listed and has a link is not down for ever.
#[test]
fn a_path_that_is_taken_for_down_is_up_when_its_link_is() {
    let now = Instant::now();
    let fine = Facts { established: 1, connections: 1, ..Facts::default() };
    let (mut roster, mut core) = (two(now), Failover::new(Settings::default()));
    let list = |core: &mut Failover, roster: &Roster| {
        let event = Event::Endpoints { there: roster.there(), away: roster.away() };
        assert_eq!(core.observe(&event, now, |_| fine), []);
    };
    list(&mut core, &roster);
    roster.set_link(SECOND, false, now);
    assert_eq!(core.observe(&Event::Down(B), now, |_| fine), [Action::Remove(B)]);
    roster.take(made(B));
    // The address goes while the link is down, so that nobody looks for it when the link comes up, and then comes back.
    roster.refresh(vec![made(A)], &[on(FIRST, A)]);
    roster.homes.remove(&B);
    roster.set_link(SECOND, true, now);
    roster.refresh(vec![made(A), made(B)], &[on(FIRST, A), on(SECOND, B)]);
    list(&mut core, &roster);
    assert!(core.is_down(B));
    roster.look_for_up(now, |address| core.is_down(address));
    for address in roster.ready(&[on(FIRST, A), on(SECOND, B)]) {
        assert_eq!(core.observe(&Event::Up(address), now, |_| fine), []);
    }
    assert_eq!(core.carrying().collect::<Vec<_>>(), [A, B]);
}

#[test]
fn nothing_is_kept_of_what_is_gone() {
    let now = Instant::now();
    let mut roster = two(now);
    for index in 100..200 {
        roster.set_link(index, true, now);
        roster.set_link(index, false, now);
        roster.lose_link(index);
    }
    assert_eq!(roster.links.len(), 2);
    roster.set_link(SECOND, false, now);
    roster.set_link(SECOND, true, now);
    assert!(roster.is_waiting(now));
    roster.refresh(vec![made(A)], &[on(FIRST, A), on(SECOND, B)]);
    assert!(!roster.is_waiting(now) && !roster.has_home(B), "it has no endpoint any more");
}

#[test]
fn an_address_that_does_not_come_is_not_looked_at_often_for_long() {
    let now = Instant::now();
    let mut roster = two(now);
    roster.set_link(SECOND, false, now);
    roster.set_link(SECOND, true, now);
    let deprecated = Address { readiness: Readiness::Deprecated, ..on(SECOND, B) };
    assert!(roster.ready(&[deprecated]).is_empty());
    let later = now + SOON;
    roster.look_for_up(later, |_| true);
    assert!(roster.is_waiting(later), "the other one");
    assert_eq!(roster.ready(&[on(FIRST, A)]), [A]);
    assert!(!roster.is_waiting(later));
    assert_eq!(roster.ready(&[on(SECOND, B)]), [B], "with the list it is");
}
