//! What the book asks for, step by step.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{began, first, joined, left, with_port};
use crate::pm::mode::Kind;
use crate::pm::{Book, Ends, Happening, Local, Refusal, Request, Role, Settings, Why};

const TOKEN: u32 = 7;

/// A book of one client with its requests, all of which the kernel takes.
struct Scene {
    book: Book,
    now: Instant,
}

impl Scene {
    fn new(settings: Settings) -> Scene {
        Scene { book: Book::new(settings), now: Instant::now() }
    }

    fn observe(&mut self, happening: &Happening) -> Vec<Request> {
        let requests = self.book.observe(TOKEN, happening, self.now);
        self.take(requests)
    }

    fn after(&mut self, pause: Duration) -> Vec<Request> {
        self.now += pause;
        let requests = self.book.beat(self.now);
        self.take(requests)
    }

    fn locals(&mut self, locals: &[Local]) -> Vec<Request> {
        let requests = self.book.set_locals(locals.to_vec(), self.now).expect("no conflict");
        self.take(requests)
    }

    fn take(&mut self, requests: Vec<Request>) -> Vec<Request> {
        let mut all = requests;
        let mut at = 0;
        while at < all.len() {
            let next = self.book.told(&all[at].clone(), Ok(()), self.now);
            all.extend(next);
            at += 1;
        }
        all
    }

    fn refuse(&mut self, request: &Request, errno: i32, text: &str) -> Vec<Request> {
        let refusal = Refusal { errno: Some(errno), text: text.to_owned() };
        self.book.told(request, Err(refusal), self.now)
    }
}

fn four() -> Settings {
    Settings { mode: Kind::Ndiffports, subflows: 4, ..Settings::default() }
}

fn creates(requests: &[Request]) -> usize {
    requests.iter().filter(|request| matches!(request, Request::CreateSubflow { .. })).count()
}

fn join(number: u16) -> Happening {
    joined(with_port(first(1), number))
}

#[test]
fn what_fails_is_tried_one_at_a_time_and_ever_more_seldom() {
    let mut scene = Scene::new(four());
    assert_eq!(creates(&scene.observe(&began(1, Role::Client))), 3);
    assert_eq!(scene.observe(&began(1, Role::Client)), [], "told twice");
    for port in [2, 3, 4] {
        assert_eq!(scene.observe(&left(with_port(first(1), port))), []);
    }
    let stats = scene.book.stats(scene.now);
    assert_eq!((stats.counters.subflows_failed, stats.counters.backed_off, stats.backoffs_pending), (3, 1, 1));
    let mut pause = Duration::from_millis(100);
    for port in 10..16 {
        assert_eq!(scene.after(pause * 74 / 100), []);
        assert_eq!(creates(&scene.after(pause * 52 / 100)), 1, "{pause:?}");
        assert_eq!(scene.observe(&left(with_port(first(1), port))), []);
        pause *= 2;
    }
    // One that stays for a while shows that it is worth asking for the others.
    assert_eq!(creates(&scene.after(Duration::from_secs(60))), 1);
    assert_eq!(scene.observe(&join(20)), []);
    assert_eq!(creates(&scene.after(Duration::from_secs(1))), 2);
    assert_eq!(scene.book.stats(scene.now).backoffs_pending, 0);
}

#[test]
fn one_that_ends_right_after_its_handshake_has_failed() {
    let mut scene = Scene::new(four());
    scene.observe(&began(1, Role::Client));
    for port in [2, 3, 4] {
        scene.observe(&join(port));
        assert_eq!(scene.observe(&left(with_port(first(1), port))), []);
    }
    assert_eq!(creates(&scene.after(Duration::from_millis(125))), 1);
    scene.observe(&join(5));
    assert_eq!(scene.after(Duration::from_millis(50)), []);
    assert_eq!(scene.observe(&left(with_port(first(1), 5))), []);
    assert_eq!(scene.after(Duration::from_millis(149)), []);
    assert_eq!(creates(&scene.after(Duration::from_millis(102))), 1);
    assert_eq!(scene.book.stats(scene.now).counters.subflows_short_lived, 4);
}

#[test]
fn the_kernels_refusals_are_understood() {
    let mut scene = Scene::new(four());
    let requests = scene.book.observe(TOKEN, &began(1, Role::Client), scene.now);
    assert_eq!(scene.refuse(&requests[0], libc::EINVAL, "userspace PM not selected"), []);
    let stats = scene.book.stats(scene.now);
    assert_eq!((stats.managed, stats.unmanaged, stats.counters.connections_foreign), (0, 1, 1));
    assert_eq!(scene.refuse(&requests[1], libc::EINVAL, "userspace PM not selected"), []);
    assert_eq!((scene.after(Duration::from_secs(60)), scene.book.next_due()), (vec![], None));

    let mut scene = Scene::new(four());
    let requests = scene.book.observe(TOKEN, &began(1, Role::Client), scene.now);
    assert_eq!(scene.refuse(&requests[0], libc::EINVAL, "families mismatch"), []);
    assert_eq!(scene.after(Duration::from_secs(60)), []);

    let mut scene = Scene::new(four());
    let requests = scene.book.observe(TOKEN, &began(1, Role::Client), scene.now);
    assert_eq!(scene.refuse(&requests[0], libc::EINVAL, "invalid token"), []);
    assert_eq!(scene.after(Duration::from_secs(60)), []);
    assert_eq!(scene.observe(&Happening::Ended), []);
    assert_eq!(scene.book.stats(scene.now).counters.connections_ended, 1);
}

#[test]
fn an_id_that_does_not_fit_is_a_failure_unless_the_connection_is_about_to_end() {
    let mut scene = Scene::new(four());
    let mut requests = scene.book.observe(TOKEN, &began(1, Role::Client), scene.now);
    let mut refused = |scene: &mut Scene| {
        for request in &requests {
            scene.refuse(request, libc::EINVAL, "did not match address and id");
        }
        scene.now += Duration::from_millis(600);
        requests = scene.book.beat(scene.now);
        // After a failure one is asked for, to see whether it works again.
        assert_eq!(creates(&requests), 1);
        let stats = scene.book.stats(scene.now);
        (stats.counters.requests_too_late, stats.counters.subflows_failed, stats.failures.len())
    };
    let all = [(); 3].map(|()| refused(&mut scene));
    assert_eq!(all, [(3, 0, 0), (4, 0, 0), (4, 1, 1)]);
}

#[test]
fn a_kernel_that_wants_an_id_gets_one() {
    let mut scene = Scene::new(four());
    let requests = scene.book.observe(TOKEN, &began(1, Role::Client), scene.now);
    for request in &requests {
        let again = scene.refuse(request, libc::EINVAL, "missing local addr id");
        let [Request::CreateSubflow { local, .. }] = &again[..] else { panic!("{again:?}") };
        assert_eq!(local.id, 1);
        assert_eq!(scene.book.told(&again[0], Ok(()), scene.now), []);
    }
    let stats = scene.book.stats(scene.now);
    assert_eq!((stats.requested, stats.counters.subflows_failed, stats.backoffs_pending), (3, 0, 0));
}

#[test]
fn the_cap_is_held_by_both_ends() {
    let mut scene = Scene::new(Settings { most_subflows: 3, ..four() });
    assert_eq!(creates(&scene.observe(&began(1, Role::Client))), 2);

    let mut scene = Scene::new(Settings { most_subflows: 3, ..four() });
    scene.observe(&began(1, Role::Server));
    let from = |port| Ends { remote: ([10, 0, 0, 2], port).into(), ..first(1) };
    assert_eq!([scene.observe(&joined(from(2))), scene.observe(&joined(from(3)))], [[], []]);
    let requests = scene.observe(&joined(from(4)));
    let destroy = Request::DestroySubflow { token: TOKEN, ends: from(4), mapped: false, why: Why::OverTheCap };
    assert_eq!(requests, [destroy]);
    assert_eq!(scene.observe(&left(from(4))), []);
    let stats = scene.book.stats(scene.now);
    assert_eq!((stats.established, stats.counters.subflows_ended, stats.counters.events_stray), (3, 0, 0));
}

#[test]
fn an_address_that_goes_is_told_before_its_subflows_end() {
    let (near, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 1, 1].into());
    let mut scene = Scene::new(Settings { mode: Kind::Fullmesh, ..Settings::default() });
    scene.locals(&[Local::new(near), Local { id: 9, ..Local::new(other) }]);
    let requests = scene.observe(&began(1, Role::Client));
    let [Request::CreateSubflow { local, .. }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((local.address, local.id), (other, 9));
    let ends = Ends { local: (other, 5).into(), ..first(1) };
    scene.observe(&Happening::Joined { ends, local_id: 9, remote_id: 0, ipv6_socket: false, error: None });
    let remove = Request::Remove { token: TOKEN, address: other, id: 9 };
    let destroy = |ends| Request::DestroySubflow { token: TOKEN, ends, mapped: false, why: Why::AddressGone };
    assert_eq!(scene.locals(&[Local::new(near)]), [remove, destroy(ends)]);
    // The only one that is left stays when its address goes, until there is another.
    assert_eq!(scene.locals(&[]), []);
    assert_eq!(creates(&scene.locals(&[Local::new(other)])), 1);
    let back = Ends { local: (other, 6).into(), ..first(1) };
    let joined = Happening::Joined { ends: back, local_id: 9, remote_id: 0, ipv6_socket: false, error: None };
    let remove = Request::Remove { token: TOKEN, address: near, id: 0 };
    assert_eq!(scene.observe(&joined), [remove, destroy(first(1))]);
}

#[test]
fn announcements_come_one_by_one() {
    let mut scene = Scene::new(Settings { mode: Kind::Server, announce: true, ..Settings::default() });
    scene.observe(&began(1, Role::Server));
    let locals = [3, 4].map(|last| Local::new([10, 0, 0, last].into()));
    assert_eq!(scene.locals(&locals).len(), 1);
    assert_eq!(scene.after(Duration::from_millis(100)).len(), 0);
    let requests = scene.after(Duration::from_millis(100));
    assert!(matches!(&requests[..], [Request::Announce { local, .. }] if local.address == locals[1].address));
    assert_eq!((scene.after(Duration::from_secs(60)), scene.book.next_due()), (vec![], None));
    // One that goes is taken back though it has no subflow.
    let requests = scene.locals(&locals[1..]);
    assert!(matches!(&requests[..], [Request::Remove { address, .. }] if *address == locals[0].address));
}

#[test]
fn more_connections_than_there_is_room_for_are_counted() {
    let mut scene = Scene::new(Settings { most_connections: 2, ..four() });
    for token in 0..5 {
        scene.book.observe(token, &began(1, Role::Client), scene.now);
    }
    let stats = scene.book.stats(scene.now);
    assert_eq!((stats.managed, stats.counters.connections_over_the_cap), (2, 3));
    scene.book.observe(4, &join(9), scene.now);
    assert!(!scene.book.wants_listing(), "a list would tell of nothing that there is room for");
    scene.book.observe(0, &Happening::Ended, scene.now);
    scene.book.observe(4, &join(9), scene.now);
    assert!(scene.book.wants_listing());
}

#[test]
fn a_connection_outlives_more_addresses_than_there_are_ids() {
    let mut scene = Scene::new(Settings { mode: Kind::Server, announce: true, ..Settings::default() });
    scene.observe(&began(1, Role::Server));
    for number in 0..600_u16 {
        let [high, low] = number.to_be_bytes();
        let requests = scene.locals(&[Local::new([10, 1, high, low].into())]);
        let announced = requests.into_iter().chain(scene.after(Duration::from_secs(1)));
        let ids: Vec<u8> = announced
            .filter_map(|request| match request {
                Request::Announce { local, .. } => Some(local.id),
                _ => None,
            })
            .collect();
        assert!(matches!(ids[..], [id] if id != 0), "{number}: {ids:?}");
    }
    let own = &scene.book.connection(TOKEN).expect("it is there").own_ids;
    assert!(own.len() < 256, "{}", own.len());
}
