//! Rules and messages: what is written is what is read, and nothing that is read can harm.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::kernel::netlink::{Request, messages};

fn network(family: Family) -> BoxedStrategy<IpNet> {
    match family {
        Family::V4 => (any::<[u8; 4]>(), 1u8..=32).prop_map(|(ip, len)| IpNet::new_assert(ip.into(), len)).boxed(),
        Family::V6 => (any::<[u8; 16]>(), 1u8..=128).prop_map(|(ip, len)| IpNet::new_assert(ip.into(), len)).boxed(),
    }
}

fn action() -> impl Strategy<Value = Action> {
    let plain = [Action::Lookup, Action::Nop, Action::Blackhole, Action::Unreachable, Action::Prohibit];
    prop_oneof![prop::sample::select(plain.to_vec()), any::<u32>().prop_map(Action::Goto), Just(Action::Other(4))]
}

fn other() -> impl Strategy<Value = Vec<Attribute>> {
    // Users, ports, tunnels, and a number from the future.
    let kinds: &[u16] = &[12, 20, 23, 24, 99];
    vec((prop::sample::select(kinds), vec(any::<u8>(), 0..9)).prop_map(|(kind, value)| Attribute { kind, value }), 0..3)
}

fn rule_of(family: Family) -> impl Strategy<Value = Rule> {
    let mark = (any::<u32>(), any::<u32>()).prop_map(|(value, mask)| Mark { value, mask });
    let who = (of(network(family)), of(network(family)), any::<u8>(), of("[a-z]{1,15}"), of("[a-z]{1,15}"), of(mark));
    (who, action(), any::<[u32; 3]>(), any::<u8>(), of(0u32..129), other()).prop_map(
        move |(who, action, numbers, protocol, suppress_prefix_len, other)| Rule {
            source: who.0,
            destination: who.1,
            tos: who.2,
            iif: who.3,
            oif: who.4,
            fwmark: who.5,
            action,
            protocol,
            suppress_prefix_len,
            flags: numbers[2] & 0xffff_0002,
            other,
            ..Rule::lookup(family, numbers[0], numbers[1])
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(rule in prop_oneof![rule_of(Family::V4), rule_of(Family::V6)]) {
        let bytes = message::encode(message::NEW, 0, &rule).finish(1);
        let message = messages(&bytes).next().expect("a message");
        let found = message::decode_wanted(&message, rule.family).expect("a rule");
        prop_assert_eq!(found.as_ref(), Some(&rule));
        prop_assert!(rule.delete_fits(&rule));
    }

    #[test]
    fn any_bytes_can_be_read(bytes in vec(any::<u8>(), 0..200)) {
        let _ = message::decode(&bytes);
    }

    #[test]
    fn any_attributes_can_be_read(
        family in prop::sample::select(&[2u8, 10][..]),
        header in any::<[u8; 11]>(),
        attributes in vec((0u16..40, vec(any::<u8>(), 0..40)), 0..8),
    ) {
        let header = [&[family][..], &header].concat();
        let request = attributes.iter().fold(Request::new(32, 0, &header), |r, (kind, value)| r.attribute(*kind, value));
        let _ = message::decode(&request.finish(0)[16..]);
    }
}

fn plain() -> Rule {
    Rule { source: Some("192.0.2.1/32".parse().unwrap()), ..Rule::lookup(Family::V4, 100, 4800) }
}

#[test]
fn what_is_not_understood_makes_another_rule() {
    let uids = Attribute::new(20, &[0; 8]);
    let foreign = Rule { other: vec![uids], ..plain() };
    assert!(!plain().is_same(&foreign) && plain().delete_fits(&foreign) && !foreign.delete_fits(&plain()));
    let inverted = Rule { flags: 2, ..plain() };
    assert!(!plain().is_same(&inverted));
    let detached = Rule { state: 8, ..plain() };
    assert!(plain().is_same(&detached) && plain() != detached);
}

#[test]
fn a_delete_fits_what_asks_for_as_much_or_more() {
    let narrower = Rule { iif: Some("lo".into()), ..plain() };
    assert!(plain().delete_fits(&narrower) && !narrower.delete_fits(&plain()));
    for different in [
        Rule { priority: 101, ..plain() },
        Rule { table: 4801, ..plain() },
        Rule { protocol: 4, ..plain() },
        Rule { source: None, ..plain() },
        Rule { action: Action::Blackhole, ..plain() },
        Rule { family: Family::V6, source: None, ..plain() },
    ] {
        assert!(!plain().delete_fits(&different), "{different:?}");
    }
}
