//! The book of subflows, kept through whatever may happen to them.

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::snapshot::mptcp::{SubflowTraffic, TcpState};

fn start() -> Instant {
    Instant::now()
}

fn subflow(slot: u32, incarnation: u32, bytes: u64) -> Observation {
    let traffic = SubflowTraffic { packets: bytes / 100, bytes, payload_bytes: bytes / 2, retransmitted_bytes: 0 };
    Observation {
        slot,
        mark: Mark::default(),
        incarnation,
        connection: ConnectionId::new(7, slot),
        local: "192.0.2.1:1000".parse().unwrap(),
        remote: "192.0.2.2:80".parse().unwrap(),
        ids: [0, 0],
        phase: Phase::Established,
        opened: true,
        adopted_after: None,
        joined: false,
        backup: false,
        fell_back: false,
        role: Role::Client,
        interface: Some(Arc::from("wan0")),
        traffic: [SubflowTraffic::default(), traffic],
        figures: None,
        srtt_us: (1000, 1),
        delivery_rate: Some(1_000_000),
        closer: None,
        last_state: TcpState::Established,
    }
}

fn closed(seen: &Observation) -> Observation {
    Observation { phase: Phase::Closed, last_state: TcpState::TimeWait, ..seen.clone() }
}

#[test]
fn what_a_closed_subflow_carried_stays_on_its_path() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let seen = subflow(3, 1, 1000);
    ledger.observe(seen.clone(), now);
    let end = Observation { traffic: subflow(3, 1, 1500).traffic, ..closed(&seen) };
    ledger.observe(end.clone(), now);
    assert_eq!(ledger.settle(now), [0u32; 0], "its last packets may still come");
    ledger.observe(Observation { traffic: subflow(3, 1, 1600).traffic, ..end }, now + LINGER);
    assert_eq!(ledger.settle(now + LINGER), [3]);
    let paths = ledger.paths(|_| None, now);
    assert_eq!(paths.len(), 1);
    assert_eq!((paths[0].tx.bytes, paths[0].opened_total), (1600, 1));
    assert_eq!(paths[0].closed_total.get("fin"), Some(&1));
    assert_eq!(paths[0].subflows, Default::default());
    let totals = ledger.totals();
    assert_eq!((totals.connections_opened, totals.connections_closed), (1, 1));
    assert_eq!((totals.subflows_opened, totals.subflows_closed), (1, 1));
    assert!(ledger.connection(ConnectionId::new(7, 3)).is_none());
}

#[test]
fn who_began_to_end_a_subflow_is_the_reason_unless_an_event_says_more() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let by = |slot, closer, last_state| Observation {
        closer: Some(closer),
        last_state,
        local: SocketAddr::new([192, 0, 2, 1].into(), 1000 + slot as u16),
        ..closed(&subflow(slot, 1, 100))
    };
    let told = by(3, "reset_received", TcpState::Established);
    ledger.note_reason((told.local, told.remote), "lack_of_resources".into(), now);
    // An error that does not say whose reset it was.
    let vague = by(4, "reset_sent", TcpState::Established);
    ledger.note_reason((vague.local, vague.remote), "error".into(), now);
    let others = [
        by(0, "peer", TcpState::LastAck),
        by(1, "path_manager", TcpState::FinWait2),
        by(2, "application", TcpState::FinWait1),
    ];
    others.into_iter().chain([told, vague]).for_each(|seen| ledger.observe(seen, now));
    ledger.settle(now + LINGER);
    let closed = &ledger.paths(|_| None, now)[0].closed_total;
    let reasons: Vec<&str> = closed.keys().map(String::as_str).collect();
    assert_eq!(reasons, ["fin_unanswered", "lack_of_resources", "path_manager", "peer", "reset_sent"]);
}

#[test]
fn a_subflow_that_came_and_went_between_two_looks_is_counted() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    ledger.observe(closed(&subflow(0, 1, 900)), now);
    ledger.observe(closed(&subflow(0, 2, 100)), now);
    ledger.settle(now + LINGER);
    let paths = ledger.paths(|_| None, now);
    assert_eq!((paths[0].tx.bytes, paths[0].opened_total), (1000, 2));
    assert_eq!(ledger.totals().connections_opened, 2);
}

#[test]
fn what_an_adopted_subflow_sends_again_is_told_by_its_socket() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let adopted = |bytes| Observation { adopted_after: Some(500), ..subflow(0, 1, bytes) };
    let told = |bytes| move |_| Some(Told { retransmitted_bytes: Some(bytes), ..Told::default() });
    let on_path = |ledger: &mut Ledger| ledger.paths(|_| None, now)[0].tx.retransmitted_bytes;
    ledger.observe(adopted(1000), now);
    ledger.note_sockets(told(500), now);
    assert_eq!(on_path(&mut ledger), 0, "that was before");
    ledger.note_sockets(told(620), now);
    assert_eq!(on_path(&mut ledger), 120);
    ledger.observe(adopted(2000), now);
    ledger.note_sockets(told(650), now);
    assert_eq!(on_path(&mut ledger), 150);
    // What the kernel's table follows needs no word of its socket.
    ledger.observe(subflow(1, 1, 1000), now);
    ledger.note_sockets(told(650), now);
    assert_eq!(on_path(&mut ledger), 150);
}

/// Payload of the only path, received and sent.
fn payload(ledger: &mut Ledger, now: Instant) -> [u64; 2] {
    let path = &ledger.paths(|_| None, now)[0];
    [path.rx.payload_bytes, path.tx.payload_bytes]
}

#[test]
fn payload_goes_on_where_packets_begin_to_hide() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let figures = |received_bytes, sent_bytes, acked_bytes| Observation {
        figures: Some(Figures { received_bytes, sent_bytes, acked_bytes }),
        ..subflow(0, 1, 1000)
    };
    // A SYN and a FIN are acknowledged, and what is under way is not.
    ledger.observe(figures(0, 500, 502), now);
    ledger.observe(figures(0, 900, 502), now);
    assert_eq!((payload(&mut ledger, now), ledger.has_hidden()), ([0, 500], false), "the device may be down");
    ledger.beat(now);
    ledger.observe(figures(0, 5500, 5000), now);
    assert_eq!((payload(&mut ledger, now), ledger.has_hidden()), ([0, 5500], true));
    ledger.beat(now + Duration::from_secs(1));
    assert_eq!(ledger.live_in(0).map(|tracked| (tracked.rates[1], tracked.sent_payload)), Some((5000.0, 5000)));
    let end = Observation { traffic: subflow(0, 1, 1200).traffic, ..closed(&figures(70, 6000, 6002)) };
    ledger.observe(end, now);
    assert_eq!(payload(&mut ledger, now), [70, 6000]);
    let path = &ledger.paths(|_| None, now)[0];
    assert_eq!((path.tx.packets, path.tx.bytes), (12, 1200), "those that were seen");
}

#[test]
fn what_packets_showed_twice_is_not_taken_for_what_they_hid() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let mut seen = subflow(0, 1, 1000);
    seen.traffic[0] = SubflowTraffic { packets: 7, bytes: 1000, payload_bytes: 600, retransmitted_bytes: 100 };
    let received = |received_bytes| Some(Figures { received_bytes, ..Figures::default() });
    ledger.observe(Observation { figures: received(500), ..seen.clone() }, now);
    assert_eq!(payload(&mut ledger, now), [600, 500]);
    ledger.observe(Observation { figures: received(900), ..seen }, now);
    let rx = ledger.paths(|_| None, now)[0].rx;
    assert_eq!((rx.payload_bytes, rx.retransmitted_bytes), (1000, 100));
}

#[test]
fn a_socket_is_believed_when_the_packets_before_its_word_are_counted() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let told = |received: u64, sent: u64| {
        move |_| Some(Told { payload_bytes: Some([received, sent]), acked_bytes: sent + 1, ..Told::default() })
    };
    ledger.observe(subflow(0, 1, 1000), now);
    ledger.note_sockets(told(0, 700), now);
    assert_eq!(payload(&mut ledger, now), [0, 500]);
    ledger.observe(subflow(0, 1, 1400), now);
    ledger.find_hidden();
    assert_eq!((payload(&mut ledger, now), ledger.has_hidden()), ([0, 700], false), "its packets were on their way");
    ledger.note_sockets(told(1, 700), now);
    ledger.find_hidden();
    assert_eq!((payload(&mut ledger, now), ledger.has_hidden()), ([1, 700], true), "it was told, and no packet came");
    ledger.note_sockets(told(40, 800), now);
    assert_eq!(payload(&mut ledger, now), [40, 800], "what hides is known");
    ledger.observe(subflow(0, 1, 1500), now);
    assert_eq!(payload(&mut ledger, now), [40, 800]);
}

#[test]
fn an_adopted_subflow_that_hides_has_carried_what_its_socket_did_since() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let adopted = |bytes| Observation { adopted_after: Some(50), ..subflow(0, 1, bytes) };
    let told = |received, sent, acked_bytes| {
        let retransmitted_bytes = Some(50);
        move |_| {
            Some(Told { payload_bytes: Some([received, sent]), acked_bytes, retransmitted_bytes, ..Told::default() })
        }
    };
    // It had sent 10,000 bytes, of which some are not acknowledged yet. A hundred more have been sent that are not counted yet.
    ledger.observe(adopted(1000), now);
    ledger.note_sockets(told(300, 10_600, 9000), now);
    ledger.observe(adopted(1200), now);
    ledger.find_hidden();
    ledger.note_sockets(told(300, 10_600, 10_550), now);
    ledger.find_hidden();
    assert_eq!((payload(&mut ledger, now), ledger.has_hidden()), ([0, 600], false));
    ledger.note_sockets(told(370, 14_000, 13_950), now);
    ledger.find_hidden();
    assert_eq!((payload(&mut ledger, now), ledger.has_hidden()), ([70, 4000], true));
}

#[test]
fn one_that_was_never_answered_is_not_opened() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let syn = Observation { phase: Phase::Connecting, opened: false, ..subflow(0, 1, 80) };
    ledger.observe(syn.clone(), now);
    assert_eq!(ledger.paths(|_| None, now)[0].subflows.connecting, 1);
    ledger.observe(Observation { last_state: TcpState::SynSent, ..closed(&syn) }, now);
    ledger.settle(now + LINGER);
    let paths = ledger.paths(|_| None, now);
    assert_eq!((paths[0].opened_total, paths[0].closed_total.get("not_established")), (0, Some(&1)));
    assert_eq!((ledger.totals().connections_opened, ledger.totals().connections_closed), (0, 0));
}

#[test]
fn the_path_manager_knows_better_why_it_was_closed() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let seen = subflow(0, 1, 80);
    ledger.observe(seen.clone(), now);
    ledger.note_reason((seen.local, seen.remote), "middlebox_interference".into(), now);
    ledger.observe(Observation { last_state: TcpState::Established, ..closed(&seen) }, now);
    ledger.settle(now + LINGER);
    assert_eq!(ledger.paths(|_| None, now)[0].closed_total.get("middlebox_interference"), Some(&1));
}

#[test]
fn connections_that_have_no_token_are_told_apart() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let lone = |slot| Observation { connection: ConnectionId::new(0, slot), fell_back: true, ..subflow(slot, 1, 100) };
    for slot in [0, 1, 2] {
        ledger.observe(lone(slot), now);
    }
    assert_eq!(ledger.totals().connections_opened, 3);
    ledger.observe(closed(&lone(1)), now);
    ledger.settle(now + LINGER);
    assert_eq!(ledger.totals().connections_closed, 1);
    assert!(ledger.connection(ConnectionId::new(0, 1)).is_none());
    assert!(ledger.connection(ConnectionId::new(0, 2)).is_some_and(|known| known.fell_back));
    assert_eq!(ConnectionId::new(0, 2).token(), 0);
    assert_eq!(ConnectionId::new(u32::MAX, 2).token(), u32::MAX);
}

#[test]
fn what_came_before_the_interface_was_known_is_on_the_path_too() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    ledger.observe(Observation { interface: None, ..subflow(0, 1, 1000) }, now);
    assert!(ledger.paths(|_| None, now).is_empty());
    ledger.observe(subflow(0, 1, 1500), now);
    assert_eq!(ledger.paths(|_| None, now)[0].tx.bytes, 1500);
}

#[test]
fn reasons_are_forgotten_where_no_subflow_takes_them() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    for port in 1..=1000 {
        ledger.note_reason(("192.0.2.1:1000".parse().unwrap(), ([192, 0, 2, 2], port).into()), "reset".into(), now);
    }
    ledger.beat(now + REMEMBERED);
    assert!(ledger.reasons.is_empty());
}

#[test]
fn a_subflow_that_changes_its_interface_leaves_its_bytes_behind() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    ledger.observe(subflow(0, 1, 1000), now);
    ledger.observe(Observation { interface: Some(Arc::from("wan1")), ..subflow(0, 1, 1700) }, now);
    let paths = ledger.paths(|_| None, now);
    let bytes: Vec<_> = paths.iter().map(|path| (path.interface.as_str(), path.tx.bytes)).collect();
    assert_eq!(bytes, [("wan0", 1000), ("wan1", 700)]);
    assert_eq!((paths[0].subflows.active, paths[1].subflows.active), (0, 1));
}

#[test]
fn rates_shares_and_histograms_are_of_the_last_beat() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    ledger.observe(subflow(0, 1, 1000), now);
    ledger.observe(Observation { joined: true, ..subflow(1, 1, 0) }, now);
    ledger.beat(now);
    ledger.observe(subflow(0, 1, 3000), now);
    ledger.beat(now + Duration::from_secs(2));
    let busy = ledger.live().find(|tracked| tracked.seen.slot == 0).unwrap();
    assert_eq!((busy.rates[1], busy.sent_payload), (1000.0, 1000));
    let idle = ledger.live().find(|tracked| tracked.seen.slot == 1).unwrap();
    assert_eq!((idle.rates[1], idle.sent_payload), (0.0, 0));
    assert_eq!(ledger.connection(ConnectionId::new(7, 0)).unwrap().sent_payload, 1000);
    assert_eq!(ledger.paths(|_| None, now)[0].rtt_seconds.count(), 2, "each once: nothing was measured anew");
}

#[test]
fn a_subflow_that_rests_is_left_alone_and_has_no_rate() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let mark = Mark { incarnation: 1, interface: 2, packets: [0, 10], ..Mark::default() };
    assert!(!ledger.is_as_seen(0, &mark), "it is new");
    ledger.observe(Observation { mark, ..subflow(0, 1, 1000) }, now);
    ledger.observe(Observation { mark, interface: None, ..subflow(1, 1, 1000) }, now);
    assert!(ledger.is_as_seen(0, &mark));
    assert!(!ledger.is_as_seen(0, &Mark { packets: [1, 10], ..mark }));
    assert!(!ledger.is_as_seen(1, &mark), "its interface may have a name by now");
    let rates = |seconds: u64, ledger: &mut Ledger| {
        ledger.beat(now + Duration::from_secs(seconds));
        ledger.subflows.get(0).map(|tracked| (tracked.rates[1], tracked.sent_payload)).unwrap()
    };
    assert_eq!(rates(0, &mut ledger), (0.0, 500));
    ledger.observe(subflow(0, 1, 3000), now);
    assert_eq!(rates(1, &mut ledger), (2000.0, 1000));
    assert_eq!(rates(2, &mut ledger), (0.0, 0));
    assert!(ledger.moving.is_empty());
    ledger.observe(subflow(0, 1, 3500), now);
    assert_eq!(rates(3, &mut ledger), (500.0, 250));
}

#[test]
fn a_path_that_is_never_answered_is_silent() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let seconds = |n| now + Duration::from_secs(n);
    let other = |bytes| Observation { interface: Some(Arc::from("wan1")), ..subflow(1, 1, bytes) };
    ledger.observe(subflow(0, 1, 1000), now);
    ledger.observe(other(1000), now);
    assert!(ledger.paths(|_| None, now).iter().all(|path| path.silent.is_none()));
    let heard = Observation { traffic: [subflow(0, 1, 500).traffic[1]; 2], ..other(1000) };
    ledger.observe(heard, seconds(1));
    let silent: Vec<_> = ledger.paths(|_| None, seconds(4)).into_iter().filter(|path| path.silent.is_some()).collect();
    assert_eq!(silent.len(), 1);
    assert_eq!(silent[0].interface, "wan0");
    let heard = Observation { traffic: [subflow(0, 1, 500).traffic[1]; 2], ..subflow(0, 1, 1000) };
    ledger.observe(heard, seconds(5));
    assert!(ledger.paths(|_| None, seconds(9)).iter().all(|path| path.silent.is_none()));
}

#[test]
fn an_acknowledgement_that_nothing_follows_is_no_silence() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let seconds = |n| now + Duration::from_secs(n);
    let mut seen = subflow(0, 1, 0);
    for direction in [0, 1] {
        seen.traffic[direction].packets += 1;
        ledger.observe(seen.clone(), seconds(1));
    }
    assert!(ledger.paths(|_| None, seconds(60)).iter().all(|path| path.silent.is_none()));
}

#[test]
fn a_path_on_which_nothing_is_acknowledged_is_silent_though_packets_come() {
    let (mut ledger, now) = (Ledger::new(PathsConfig::default()), start());
    let seconds = |n| now + Duration::from_secs(n);
    let silent = |ledger: &mut Ledger, n| ledger.paths(|_| None, seconds(n))[0].silent.is_some();
    let told = |acked_bytes, waits| Some(Told { acked_bytes, waits, ..Told::default() });
    ledger.observe(subflow(0, 1, 1000), now);
    ledger.note_sockets(|_| told(5, true), seconds(1));
    ledger.observe(Observation { traffic: [subflow(0, 1, 500).traffic[1]; 2], ..subflow(0, 1, 1000) }, seconds(2));
    ledger.note_sockets(|_| told(5, true), seconds(4));
    assert!(silent(&mut ledger, 4));
    ledger.note_sockets(|_| told(6, true), seconds(5));
    assert!(!silent(&mut ledger, 6));
    ledger.note_sockets(|_| told(6, false), seconds(9));
    assert!(!silent(&mut ledger, 20), "nothing waits");
    assert_eq!(
        ledger.paths(|name| (name == "wan0").then_some("down"), now)[0].silent.as_deref(),
        Some("the interface wan0 is down")
    );
}

/// What may happen to the occupant of a slot.
#[derive(Clone, Debug)]
enum Step {
    Carry { slot: u32, bytes: u64 },
    Close { slot: u32 },
    Replace { slot: u32 },
    Move { slot: u32, interface: u8 },
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..4u32;
    prop_oneof![
        4 => (slot(), 0..5000u64).prop_map(|(slot, bytes)| Step::Carry { slot, bytes }),
        1 => slot().prop_map(|slot| Step::Close { slot }),
        1 => slot().prop_map(|slot| Step::Replace { slot }),
        1 => (slot(), 0..3u8).prop_map(|(slot, interface)| Step::Move { slot, interface }),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn every_byte_is_on_a_path_and_none_ever_leaves(steps in prop::collection::vec(step(), 1..120)) {
        let (mut ledger, mut now) = (Ledger::new(PathsConfig { max_paths: 2, ..PathsConfig::default() }), start());
        let mut slots: Vec<Observation> = (0..4).map(|slot| subflow(slot, 1, 0)).collect();
        let (mut carried, mut told) = (0, 0);
        for step in steps {
            match step {
                Step::Carry { slot, bytes } => {
                    let seen = &mut slots[slot as usize];
                    seen.traffic[1].bytes += bytes;
                    carried += bytes;
                }
                Step::Close { slot } => slots[slot as usize] = closed(&slots[slot as usize]),
                // The kernel gives a place away only after it was given back.
                Step::Replace { slot } if slots[slot as usize].phase == Phase::Closed => {
                    ledger.observe(slots[slot as usize].clone(), now);
                    slots[slot as usize] = subflow(slot, slots[slot as usize].incarnation + 1, 0);
                }
                Step::Replace { .. } => {}
                Step::Move { slot, interface } => {
                    slots[slot as usize].interface = Some(Arc::from(format!("wan{interface}")));
                }
                Step::Wait => now += Duration::from_secs(700),
            }
            for seen in &slots {
                ledger.observe(seen.clone(), now);
            }
            let paths = ledger.paths(|_| None, now);
            let sum: u64 = paths.iter().map(|path| path.tx.bytes).sum();
            prop_assert_eq!(sum, carried);
            prop_assert!(sum >= told);
            prop_assert!(paths.len() <= 3);
            let opened: u64 = paths.iter().map(|path| path.opened_total).sum();
            prop_assert_eq!(opened, ledger.totals().subflows_opened);
            told = sum;
        }
    }
}
