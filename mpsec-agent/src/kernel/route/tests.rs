//! Routes and messages: what is written is what is read, and nothing that is read can harm.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::kernel::netlink::messages;

/// Attributes that no field is named after.
const UNNAMED: [u16; 4] = [11, 13, 16, 22];

fn address(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::V4 => any::<[u8; 4]>().prop_map(IpAddr::from).boxed(),
        Family::V6 => any::<[u8; 16]>().prop_map(IpAddr::from).boxed(),
    }
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![address(Family::V4), address(Family::V6)]
}

fn network(family: Family, shortest: u8) -> impl Strategy<Value = IpNet> {
    let most = if family == Family::V4 { 32 } else { 128 };
    (address(family), shortest..=most).prop_map(|(address, len)| IpNet::new_assert(address, len).trunc())
}

fn unnamed(kinds: &'static [u16]) -> impl Strategy<Value = Vec<Attribute>> {
    let attribute = (prop::sample::select(kinds), vec(any::<u8>(), 0..9));
    vec(attribute.prop_map(|(kind, value)| Attribute { kind, value }), 0..3)
}

fn next_hop() -> impl Strategy<Value = NextHop> {
    (of(any_address()), any::<u32>(), 1u16..=256, any::<bool>(), unnamed(&UNNAMED)).prop_map(
        |(gateway, ifindex, weight, onlink, other)| NextHop {
            gateway,
            ifindex,
            weight,
            onlink,
            other,
            state: State::default(),
        },
    )
}

fn route_of(family: Family) -> impl Strategy<Value = Route> {
    let place = (network(family, 0), of(network(family, 1)), any::<u32>(), any::<[u8; 4]>());
    let way = (of(any_address()), of(any::<u32>()), any::<bool>(), vec(next_hop(), 0..3), of(address(family)));
    let rest = (of(any::<u32>()), of("[a-z]{1,15}"), unnamed(&[2, 8, 13]), unnamed(&UNNAMED));
    (place, way, rest).prop_map(|(place, way, rest)| Route {
        source: place.1,
        tos: place.3[0],
        protocol: place.3[1],
        scope: Scope::from_code(place.3[2]),
        gateway: way.0,
        ifindex: way.1,
        onlink: way.2,
        next_hops: way.3,
        prefsrc: way.4,
        metric: rest.0,
        congestion_control: rest.1,
        metrics: rest.2,
        other: rest.3,
        ..Route::blank(place.0, place.2, Kind::from_code(place.3[3]))
    })
}

fn sent(route: &Route) -> Vec<u8> {
    message::encode(message::NEW, 0, route).finish(1)
}

fn received(bytes: &[u8], filter: &Filter) -> Option<Route> {
    let message = messages(bytes).next().expect("a message");
    let family = Family::from_code(message.payload[0]).expect("a family");
    message::decode_wanted(&message, family, filter).expect("a route")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(route in prop_oneof![route_of(Family::V4), route_of(Family::V6)]) {
        prop_assert_eq!(received(&sent(&route), &Filter::default()), Some(route));
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
        let request = crate::kernel::netlink::Request::new(24, 0, &header);
        let request = attributes.iter().fold(request, |request, (kind, value)| request.attribute(*kind, value));
        let bytes = request.finish(0);
        let _ = message::decode(&bytes[16..]);
        // And when it is cut short anywhere.
        let _ = message::decode(&bytes[16..16 + (bytes.len() - 16) / 2]);
    }
}

fn plain() -> Route {
    Route::new("192.0.2.0/24".parse().unwrap(), 4800, 7, Some("198.51.100.1".parse().unwrap()))
}

#[test]
fn a_filter_lets_through_what_fits() {
    let default = Route { destination: Family::V4.everything(), ..plain() };
    let passes = |filter: Filter, route: &Route| received(&sent(route), &filter).is_some();
    let all = Filter::default();
    assert!(passes(all, &plain()) && passes(all, &default));
    assert!(passes(Filter { table: Some(4800), ..all }, &plain()));
    // Both stand as 252 in the header.
    assert!(!passes(Filter { table: Some(4801), ..all }, &plain()));
    assert!(!passes(Filter { protocol: Some(4), ..all }, &plain()));
    assert!(passes(Filter { protocol: Some(PROTOCOL), ..all }, &plain()));
    assert!(passes(Filter { only_defaults: true, ..all }, &default));
    assert!(!passes(Filter { only_defaults: true, ..all }, &plain()));
}

#[test]
fn the_kernels_notes_are_no_setting() {
    let hop = NextHop {
        gateway: None,
        ifindex: 7,
        weight: 1,
        onlink: false,
        other: Vec::new(),
        state: State { flags: message::LINKDOWN, expires_cs: None },
    };
    let route = plain();
    let noted = Route { state: State { flags: message::DEAD, expires_cs: Some(5) }, ..plain() };
    assert!(route.is_same(&noted) && route != noted && noted.state.is_dead());
    let several = Route { ifindex: None, gateway: None, next_hops: vec![hop.clone()], ..plain() };
    let mut other = several.clone();
    other.next_hops[0].state = State::default();
    assert!(several.is_same(&other) && several != other && hop.state.is_link_down());
    assert_eq!(several.ways().collect::<Vec<_>>(), [(7, None)]);
    for different in [
        Route { metric: Some(5), ..plain() },
        Route { protocol: 4, ..plain() },
        Route { onlink: true, ..plain() },
        Route { nexthop_id: Some(1), ..plain() },
        Route { other: vec![Attribute::new(11, &[1, 0, 0, 0])], ..plain() },
    ] {
        assert!(!route.is_same(&different), "{different:?}");
    }
}
