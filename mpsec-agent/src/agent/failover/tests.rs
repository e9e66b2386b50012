//! Decisions, with made-up times.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 1));
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

const FINE: Facts = Facts { received: 100, established: 1, connecting: 0, alone: 0, connections: 1, is_away: false };

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn two(now: Instant) -> Failover {
    let mut failover = Failover::new(Settings::default());
    list(&mut failover, now, &[A, B], &[]);
    failover
}

fn list(failover: &mut Failover, now: Instant, there: &[IpAddr], away: &[IpAddr]) {
    let event = Event::Endpoints { there: there.to_vec(), away: away.to_vec() };
    assert_eq!(failover.observe(&event, now, |_| FINE), []);
}

fn timeout(local: IpAddr) -> Event {
    Event::Timeout { local, remote: SERVER, srtt: ms(10) }
}

#[test]
fn a_link_that_goes_down_costs_its_endpoint_until_it_is_back() {
    let now = Instant::now();
    let mut failover = two(now);
    assert_eq!(failover.observe(&Event::Down(B), now, |_| FINE), [Action::Remove(B)]);
    assert_eq!(failover.observe(&Event::Down(B), now, |_| FINE), []);
    list(&mut failover, now, &[A], &[B]);
    assert_eq!(failover.observe(&Event::Up(B), now, |_| FINE), [Action::Restore(B)]);
    assert_eq!(failover.beat(now + ms(100), |_| FINE), []);
    assert_eq!(failover.next_beat(), None);
}

#[test]
fn what_was_kept_for_want_of_another_path_goes_when_there_is_one() {
    let now = Instant::now();
    let mut failover = two(now);
    assert_eq!(failover.observe(&Event::Down(A), now, |_| FINE), [Action::Remove(A)]);
    assert_eq!(failover.observe(&Event::Up(A), now, |_| FINE), [Action::Restore(A)]);
    // It is not known yet whether connections can use A again.
    assert_eq!(failover.observe(&Event::Down(B), now + ms(50), |_| FINE), []);
    assert_eq!(failover.beat(now + ms(100), |_| FINE), []);
    assert_eq!(failover.observe(&Event::Down(B), now + ms(100), |_| FINE), [Action::Remove(B)]);
    assert_eq!(failover.observe(&Event::Down(B), now + ms(200), |_| FINE), []);
}

#[test]
fn a_path_that_stays_silent_is_given_up_and_probed() {
    let now = Instant::now();
    let mut failover = two(now);
    assert_eq!(failover.observe(&timeout(B), now, |_| FINE), []);
    assert_eq!(failover.next_beat(), Some(now + ms(50)));
    assert_eq!(failover.beat(now + ms(49), |_| FINE), []);
    assert_eq!(failover.beat(now + ms(50), |_| FINE), [Action::Remove(B)]);
    assert_eq!(failover.beat(now + ms(150), |_| FINE), [Action::Restore(B)]);
    let trying = Facts { established: 0, connecting: 1, ..FINE };
    assert_eq!(failover.beat(now + ms(250), |_| trying), []);
    assert_eq!(failover.beat(now + ms(3150), |_| trying), [Action::Remove(B), Action::Restore(B)]);
    assert_eq!(failover.beat(now + ms(3250), |_| FINE), []);
    assert_eq!(failover.next_beat(), None);
}

#[test]
fn a_path_that_is_heard_of_again_is_left_alone() {
    let now = Instant::now();
    let mut failover = two(now);
    failover.observe(&timeout(B), now, |_| FINE);
    assert_eq!(failover.beat(now + ms(50), |_| Facts { received: 101, ..FINE }), []);
    assert_eq!(failover.next_beat(), None);
}

#[test]
fn long_round_trips_are_waited_for() {
    let now = Instant::now();
    let mut failover = two(now);
    failover.observe(&Event::Timeout { local: B, remote: SERVER, srtt: ms(200) }, now, |_| FINE);
    assert_eq!(failover.next_beat(), Some(now + ms(400)));
}

#[test]
fn false_alarms_make_patient_and_are_forgiven() {
    let start = Instant::now();
    let mut failover = two(start);
    let alarm = |failover: &mut Failover, now: Instant| {
        failover.observe(&timeout(B), now, |_| FINE);
        let patience = failover.next_beat().expect("it is suspect") - now;
        assert_eq!(failover.beat(now + patience, |_| FINE), [Action::Remove(B)]);
        assert_eq!(failover.beat(now + patience + ms(100), |_| FINE), [Action::Restore(B)]);
        assert_eq!(failover.beat(now + patience + ms(200), |_| FINE), []);
        patience
    };
    let patience: Vec<u64> =
        (0..6).map(|number| alarm(&mut failover, start + ms(5000 * number)).as_millis() as u64).collect();
    assert_eq!(patience, [50, 100, 200, 400, 800, 800]);
    assert_eq!(alarm(&mut failover, start + ms(200_000)), ms(50));
}

#[test]
fn nobody_loses_the_only_path() {
    let now = Instant::now();
    let lonely = Facts { alone: 1, ..FINE };
    let mut failover = two(now);
    assert_eq!(failover.observe(&Event::Down(B), now, |_| lonely), []);
    assert_eq!(failover.observe(&Event::Up(B), now, |_| lonely), []);
    failover.observe(&timeout(B), now, |_| lonely);
    assert_eq!(failover.beat(now + ms(50), |_| lonely), []);
    assert_eq!(failover.observe(&Event::Down(A), now, |_| FINE), [Action::Remove(A)]);
    assert_eq!(failover.observe(&Event::Down(B), now, |_| FINE), [], "the last one");
}

#[test]
fn without_a_route_it_is_tried_again_soon() {
    let now = Instant::now();
    let mut failover = two(now);
    failover.observe(&Event::Down(B), now, |_| FINE);
    failover.observe(&Event::Up(B), now, |_| FINE);
    let nothing = Facts { established: 0, ..FINE };
    assert_eq!(failover.beat(now + ms(100), |_| nothing), []);
    assert_eq!(failover.beat(now + ms(300), |_| nothing), [Action::Remove(B), Action::Restore(B)]);
}

#[test]
fn a_peer_without_an_endpoint_here_is_closed_once() {
    let now = Instant::now();
    let mut failover = Failover::new(Settings::default());
    failover.observe(&timeout(A), now, |_| FINE);
    assert_eq!(failover.next_beat(), None, "nobody asked for it");
    let mut failover = Failover::new(Settings { closes_peers: true, ..Settings::default() });
    failover.observe(&timeout(A), now, |_| FINE);
    assert_eq!(failover.beat(now + ms(50), |_| FINE), [Action::Close { local: A, remote: SERVER }]);
    assert_eq!(failover.next_beat(), None);
    failover.observe(&timeout(A), now, |_| FINE);
    assert_eq!(failover.beat(now + ms(50), |_| Facts { received: 101, ..FINE }), []);
    assert_eq!(failover.next_beat(), None);
}

#[test]
fn what_others_put_back_is_theirs() {
    let now = Instant::now();
    let mut failover = two(now);
    failover.observe(&Event::Down(B), now, |_| FINE);
    list(&mut failover, now, &[A, B], &[]);
    assert_eq!(failover.observe(&Event::Up(B), now, |_| FINE), [], "it is there");
    assert_eq!(failover.carrying().collect::<Vec<_>>(), [A, B]);
}

#[test]
fn an_endpoint_that_was_wanted_no_more_comes_back_as_a_new_path() {
    let now = Instant::now();
    let mut failover = two(now);
    assert_eq!(failover.observe(&Event::Down(B), now, |_| FINE), [Action::Remove(B)]);
    failover.forget(B);
    // Whether it is listed in between is a matter of time.
    for lists in [vec![vec![A, B]], vec![vec![A], vec![A, B]]] {
        let mut failover = Failover { settings: failover.settings, paths: failover.paths.clone() };
        lists.iter().for_each(|there| list(&mut failover, now, there, &[]));
        assert!(!failover.is_down(B));
        assert_eq!(failover.observe(&Event::Down(A), now, |_| FINE), [Action::Remove(A)], "there is another one");
        assert_eq!(failover.observe(&Event::Up(A), now, |_| FINE), [Action::Restore(A)]);
        assert_eq!(failover.beat(now + ms(100), |_| FINE), []);
        assert_eq!(failover.observe(&Event::Down(B), now, |_| FINE), [Action::Remove(B)], "the next outage");
    }
}

#[test]
fn an_address_that_never_comes_back_is_forgotten() {
    let now = Instant::now();
    let mut failover = two(now);
    failover.observe(&Event::Down(B), now, |_| FINE);
    list(&mut failover, now, &[A], &[B]);
    assert!(failover.is_down(B));
    list(&mut failover, now, &[A], &[]);
    assert_eq!((failover.is_down(B), failover.paths.len()), (false, 1));
}

#[test]
fn what_the_kernel_refuses_is_put_back_later() {
    let now = Instant::now();
    let mut failover = two(now);
    failover.observe(&Event::Missed(B), now, |_| FINE);
    assert_eq!(failover.beat(now + ms(100), |_| FINE), [Action::Restore(B)]);
    // It was refused, and no connection is left.
    let away = Facts { established: 0, connections: 0, is_away: true, ..FINE };
    let mut tries = Vec::new();
    for tenth in 2..3000 {
        let now = now + ms(100 * tenth);
        list(&mut failover, now, &[A], &[B]);
        let actions = failover.beat(now, |_| away);
        assert!(actions.iter().all(|action| *action == Action::Restore(B)), "{actions:?}");
        assert_eq!(failover.carrying().collect::<Vec<_>>(), [A], "it carries nothing");
        tries.extend(actions.iter().map(|_| tenth));
    }
    assert_eq!(tries[..5], [4, 7, 13, 25, 49], "later each time");
    assert!(tries[5..].windows(2).all(|pair| pair[1] - pair[0] <= 300), "but never much later: {tries:?}");
    let now = now + ms(400_000);
    list(&mut failover, now, &[A, B], &[]);
    assert_eq!(failover.beat(now, |_| Facts { is_away: false, ..away }), []);
    assert_eq!(failover.carrying().collect::<Vec<_>>(), [A, B]);
}

#[test]
fn what_a_receiver_misses_costs_the_endpoint_at_once() {
    let now = Instant::now();
    let mut failover = two(now);
    assert_eq!(failover.observe(&Event::Missed(B), now, |_| Facts { alone: 1, ..FINE }), [], "it has nothing else");
    assert_eq!(failover.observe(&Event::Missed(B), now, |_| FINE), [Action::Remove(B)]);
    assert_eq!(failover.observe(&Event::Missed(B), now, |_| FINE), [], "it is away");
    assert_eq!(failover.observe(&Event::Missed(A), now, |_| FINE), [], "the last one");
    assert_eq!(failover.carrying().collect::<Vec<_>>(), [A]);
    assert_eq!(failover.beat(now + ms(100), |_| FINE), [Action::Restore(B)]);
    assert_eq!(failover.beat(now + ms(200), |_| FINE), []);
    assert_eq!((failover.patience(B, now + ms(200)), failover.patience(A, now)), (2, 1), "a false alarm");
    assert_eq!(failover.patience(B, now + ms(100_000)), 1);
}

#[test]
fn what_has_stopped_is_probed_at_most_once_a_minute() {
    let start = Instant::now() + ms(10_000);
    let mut failover = two(start);
    let mut probes = Vec::new();
    for second in 0..150u64 {
        let now = start + ms(1000 * second);
        let actions = failover.observe(&Event::Stopped { local: B, quiet: ms(1500) }, now, |_| FINE);
        if actions == [Action::Remove(B)] {
            probes.push(second);
            assert_eq!(failover.beat(now, |_| FINE), [Action::Restore(B)], "at once");
        }
        assert_eq!(failover.beat(now + ms(200), |_| FINE), []);
        assert_eq!(failover.patience(B, now), 1, "it tells nothing of how long the path may be silent");
    }
    assert_eq!(probes, [0, 61, 122]);
}

#[test]
fn after_a_link_came_up_it_is_tried_often_for_a_while() {
    let now = Instant::now();
    let mut failover = two(now);
    failover.observe(&Event::Down(B), now, |_| FINE);
    failover.observe(&Event::Up(B), now, |_| FINE);
    let trying = Facts { established: 0, connecting: 1, ..FINE };
    let renewals = |failover: &mut Failover, from: u64, to: u64| {
        (from..to).filter(|step| !failover.beat(now + ms(100 * step), |_| trying).is_empty()).count()
    };
    assert_eq!(renewals(&mut failover, 1, 50), 12);
    assert_eq!(renewals(&mut failover, 50, 200), 5);
}

#[derive(Clone, Debug)]
enum Step {
    Observe(Event),
    Wait(u64),
    List,
    /// It is wanted no more, and then made anew.
    Renew(IpAddr),
}

fn step() -> impl Strategy<Value = Step> {
    let address = prop_oneof![Just(A), Just(B)];
    prop_oneof![
        address.clone().prop_map(|address| Step::Observe(Event::Down(address))),
        address.clone().prop_map(|address| Step::Observe(Event::Up(address))),
        address.clone().prop_map(|address| Step::Observe(timeout(address))),
        address.clone().prop_map(|address| Step::Observe(Event::Missed(address))),
        address.clone().prop_map(|local| Step::Observe(Event::Stopped { local, quiet: ms(1500) })),
        address.prop_map(Step::Renew),
        (0..2000u64).prop_map(Step::Wait),
        Just(Step::List),
    ]
}

fn list_all(failover: &mut Failover, now: Instant, there: &BTreeSet<IpAddr>) {
    let (there, away): (Vec<IpAddr>, Vec<IpAddr>) = [A, B].into_iter().partition(|address| there.contains(address));
    list(failover, now, &there, &away);
}

proptest! {
    /// Whatever happens: nothing is removed twice or restored unasked, one endpoint is always there, and when all links are up
    /// again and paths work, all are.
    #[test]
    fn endpoints_are_kept_account_of(steps in prop::collection::vec((step(), 0..3usize, 0..2usize, 0..3u64), 0..200)) {
        let mut now = Instant::now();
        let mut failover = two(now);
        let mut there = BTreeSet::from([A, B]);
        let apply = |actions: Vec<Action>, there: &mut BTreeSet<IpAddr>| {
            for action in actions {
                match action {
                    Action::Remove(address) => assert!(there.remove(&address), "{address} is not there"),
                    Action::Restore(address) => assert!(there.insert(address), "{address} is there"),
                    Action::Close { .. } => panic!("both have endpoints"),
                }
                assert!(!there.is_empty() || matches!(action, Action::Remove(_)));
            }
        };
        for (step, established, alone, received) in steps {
            let facts = Facts { received, established, connecting: 1, alone, ..FINE };
            match step {
                Step::Observe(event) => {
                    let actions = failover.observe(&event, now, |_| facts);
                    apply(actions, &mut there);
                }
                Step::Wait(time) => {
                    now += ms(time);
                    let actions = failover.beat(now, |_| facts);
                    apply(actions, &mut there);
                }
                Step::List => list_all(&mut failover, now, &there),
                Step::Renew(address) => {
                    if there.insert(address) {
                        failover.forget(address);
                    }
                }
            }
            prop_assert!(!there.is_empty());
        }
        list_all(&mut failover, now, &there);
        for address in [A, B] {
            let actions = failover.observe(&Event::Up(address), now, |_| FINE);
            apply(actions, &mut there);
        }
        for _ in 0..100 {
            now += ms(100);
            let actions = failover.beat(now, |_| FINE);
            apply(actions, &mut there);
        }
        prop_assert_eq!(there.len(), 2);
        prop_assert_eq!(failover.carrying().count(), 2);
    }
}
