//! Routes: what is added is listed as it was meant, and what is deleted is gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::route::{self, Filter, Kind, NextHop, Route, Scope, State};
use mpsec_agent::kernel::rtnl::{Family, PROTOCOL, TABLE_LOCAL, TABLE_MAIN};
use mpsec_tests::trial::trial;
use mpsec_tests::wait;

use super::{Place, refused};

const LIMIT: Duration = Duration::from_secs(60);
/// How long the kernel may take to note a lost carrier.
const PATIENCE: Duration = Duration::from_secs(5);
const TABLE: u32 = 4800;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("routes::what_is_added_is_listed_and_goes", LIMIT, round_trip),
        trial("routes::what_others_made_is_read", LIMIT, foreign),
        trial("routes::one_takes_the_place_of_another", LIMIT, replace),
        trial("routes::refusals_carry_the_kernels_words", LIMIT, refusals),
        trial("routes::lists_are_filtered", LIMIT, filters),
        trial("routes::a_lost_carrier_is_a_note_and_no_other_route", LIMIT, carrier),
        trial("routes::next_hop_objects_lead_to_an_interface", LIMIT, objects),
        trial("routes::a_hundred_thousand_are_listed", LIMIT, many),
    ]
}

/// Routes of every sort that MPSec may make, and some that it does not.
fn every_sort(place: &Place) -> Result<Vec<Route>> {
    let (west, east) = (place.west, place.east);
    let mut routes = Vec::new();
    for (net, neighbour, own) in
        [("198.51.100.0/24", "192.0.2.9", "192.0.2.1"), ("2001:db8:9::/48", "2001:db8::9", "2001:db8::1")]
    {
        let (net, gateway) = (net.parse()?, Some(neighbour.parse()?));
        let family = Family::of(neighbour.parse()?);
        let hop = |ifindex, weight| NextHop {
            gateway,
            ifindex,
            weight,
            onlink: true,
            other: Vec::new(),
            state: State::default(),
        };
        let default = Route::new(family.everything(), TABLE, west, gateway);
        let several = Route::new(family.everything(), TABLE + 2, west, None);
        routes.extend([
            default.clone(),
            Route { metric: Some(77), ..default.clone() },
            Route { table: TABLE + 1, prefsrc: Some(own.parse()?), ..default.clone() },
            Route { table: 200, congestion_control: Some("reno".into()), ..default },
            Route::new(net, TABLE, east, None),
            Route { onlink: true, ..Route::new(net, u32::MAX, east, gateway) },
            Route { protocol: 4, ..Route::nowhere(net, TABLE + 3, Kind::Blackhole) },
            Route::nowhere(net, TABLE + 4, Kind::Unreachable),
            Route::nowhere(net, TABLE + 5, Kind::Prohibit),
            Route::nowhere(net, TABLE + 6, Kind::Throw),
            Route { ifindex: None, scope: Scope::Universe, next_hops: vec![hop(west, 1), hop(east, 9)], ..several },
        ]);
    }
    let via = Route::new(Family::V4.everything(), TABLE + 7, west, Some("2001:db8::9".parse()?));
    routes.push(via);
    let source = Some("2001:db8:7::/48".parse()?);
    routes.push(Route { source, ..Route::new(Family::V6.everything(), TABLE + 8, west, Some("2001:db8::9".parse()?)) });
    Ok(routes)
}

fn round_trip() -> Result<()> {
    let mut place = Place::new()?;
    let before = route::list(&mut place.client)?;
    for wanted in every_sort(&place)? {
        route::add(&mut place.client, &wanted).with_context(|| format!("{wanted:?}"))?;
        let mut now = route::list(&mut place.client)?;
        now.retain(|route| !before.contains(route));
        let [found] = &now[..] else { bail!("{} routes came of {wanted:#?}", now.len()) };
        ensure!(*found == wanted, "{found:#?} instead of {wanted:#?}");
        route::delete(&mut place.client, found).with_context(|| format!("{wanted:?}"))?;
        let after = route::list(&mut place.client)?;
        ensure!(after == before, "{after:#?} instead of {before:#?}");
    }
    Ok(())
}

fn foreign() -> Result<()> {
    let mut place = Place::new()?;
    place.netns.ip("route add default via 192.0.2.9 dev west proto static metric 5 mtu lock 1400 realm 3")?;
    place.netns.ip("route add 203.0.113.0/24 proto bgp nexthop via 192.0.2.9 dev west weight 3 nexthop dev east")?;
    let routes = route::list(&mut place.client)?;
    let is_default = |route: &&Route| route.is_default() && route.family() == Family::V4;
    let default = routes.iter().find(is_default).context("no default route")?;
    ensure!((default.table, default.protocol, default.metric) == (TABLE_MAIN, 4, Some(5)), "{default:?}");
    ensure!(default.ways().eq([(place.west, Some("192.0.2.9".parse()?))]), "{default:?}");
    ensure!(default.metrics.len() == 2 && default.other.len() == 1, "an MTU, its lock, and a realm: {default:?}");
    let several = routes.iter().find(|route| route.protocol == 186).context("no route of bgp")?;
    let ways: Vec<_> = several.ways().map(|(ifindex, _)| ifindex).collect();
    ensure!(ways == [place.west, place.east] && several.next_hops[0].weight == 3, "{several:?}");
    let local = routes.iter().filter(|route| route.kind == Kind::Local && route.table == TABLE_LOCAL).count();
    ensure!(local >= 6, "{local} of this host's own addresses");
    // What was read can be put back as it was.
    for route in [default, several] {
        route::delete(&mut place.client, route)?;
        route::add(&mut place.client, route)?;
    }
    let again = route::list(&mut place.client)?;
    ensure!(again.contains(default) && again.contains(several), "{again:#?}");
    Ok(())
}

fn replace() -> Result<()> {
    let mut place = Place::new()?;
    for (to, near) in [("192.0.2.9", "192.0.2.8"), ("2001:db8::9", "2001:db8::8")] {
        let everything = Family::of(to.parse()?).everything();
        let first = Route::new(everything, TABLE, place.west, Some(to.parse()?));
        let second = Route { congestion_control: Some("reno".into()), gateway: Some(near.parse()?), ..first.clone() };
        route::replace(&mut place.client, &first)?;
        route::replace(&mut place.client, &second)?;
        let filter = Filter { table: Some(TABLE), family: Some(first.family()), ..Filter::default() };
        let now = route::list_filtered(&mut place.client, &filter)?;
        ensure!(now == [second.clone()], "{now:#?}");
        refused(route::add(&mut place.client, &first), libc::EEXIST, "File exists")?;
    }
    Ok(())
}

fn refusals() -> Result<()> {
    let mut place = Place::new()?;
    let route = Route::new("198.51.100.0/24".parse()?, TABLE, place.west, Some("203.0.113.1".parse()?));
    refused(route::add(&mut place.client, &route), libc::ENETUNREACH, "Nexthop has invalid gateway")?;
    let crooked = Route { destination: "198.51.100.1/24".parse()?, gateway: None, scope: Scope::Link, ..route.clone() };
    refused(route::add(&mut place.client, &crooked), libc::EINVAL, "Invalid prefix for given prefix length")?;
    let unknown = Route { gateway: None, congestion_control: Some("nosuch".into()), ..route.clone() };
    refused(route::add(&mut place.client, &unknown), libc::EINVAL, "Unknown tcp congestion algorithm")?;
    let nowhere = Route { ifindex: Some(4711), gateway: None, ..route.clone() };
    refused(route::add(&mut place.client, &nowhere), libc::ENODEV, "")?;
    refused(route::delete(&mut place.client, &route), libc::ESRCH, "")?;
    // One of another protocol is not deleted.
    let local = Route { protocol: 4, ..Route::new(route.destination, TABLE, place.west, None) };
    route::add(&mut place.client, &local)?;
    let ours = Route { protocol: PROTOCOL, ..local.clone() };
    refused(route::delete(&mut place.client, &ours), libc::ESRCH, "")?;
    let v6 = Route { protocol: 4, ..Route::new("2001:db8:9::/48".parse()?, TABLE, place.west, None) };
    route::add(&mut place.client, &v6)?;
    refused(route::delete(&mut place.client, &Route { protocol: PROTOCOL, ..v6 }), libc::ESRCH, "")
}

fn filters() -> Result<()> {
    let mut place = Place::new()?;
    let wanted = every_sort(&place)?;
    for route in &wanted {
        route::add(&mut place.client, route)?;
    }
    let mut count = |filter: Filter| route::list_filtered(&mut place.client, &filter).map(|routes| routes.len());
    let all = Filter::default();
    let expect = |wants: &dyn Fn(&&Route) -> bool| wanted.iter().filter(wants).count();
    ensure!(count(Filter { table: Some(TABLE), ..all })? == expect(&|r| r.table == TABLE));
    ensure!(count(Filter { table: Some(999_999), ..all })? == 0, "a table that there is not");
    let ours = expect(&|r| r.protocol == PROTOCOL);
    ensure!(count(Filter { protocol: Some(PROTOCOL), ..all })? == ours, "what is ours");
    let v6 = expect(&|r| r.family() == Family::V6 && r.protocol == PROTOCOL);
    ensure!(count(Filter { protocol: Some(PROTOCOL), family: Some(Family::V6), ..all })? == v6, "of IPv6");
    let defaults = expect(&|r| r.destination.prefix_len() == 0);
    ensure!(count(Filter { only_defaults: true, ..all })? == defaults, "default routes");
    // The socket is as it was: a question that strict checking would refuse is answered.
    let own = "192.0.2.1".parse()?;
    ensure!(mpsec_agent::kernel::address::route(&mut place.client, own, own, None)?.ifindex > 0);
    Ok(())
}

fn carrier() -> Result<()> {
    let mut place = Place::new()?;
    let route = Route::new(Family::V4.everything(), TABLE, place.west, Some("192.0.2.9".parse()?));
    route::add(&mut place.client, &route)?;
    place.netns.ip("link set east down")?;
    let filter = Filter { table: Some(TABLE), ..Filter::default() };
    // The kernel leaves it to a worker to tell routes of a carrier (linkwatch_event, net/core/link_watch.c).
    wait::until(PATIENCE, || {
        let now = route::list_filtered(&mut place.client, &filter)?;
        ensure!(now.len() == 1 && now[0].is_same(&route), "{now:?}");
        ensure!(now[0].state.is_link_down() && !now[0].state.is_dead() && now[0] != route, "{now:?}");
        Ok(())
    })
}

fn objects() -> Result<()> {
    let mut place = Place::new()?;
    place.netns.ip("nexthop add id 10 via 192.0.2.9 dev west")?;
    place.netns.ip("route add default nhid 10")?;
    for compatible in ["1", "0"] {
        place.netns.sysctl("net/ipv4/nexthop_compat_mode", compatible)?;
        let routes = route::list(&mut place.client)?;
        let default = routes.iter().find(|route| route.is_default()).context("no default route")?;
        ensure!(default.nexthop_id == Some(10), "{default:?}");
        ensure!(default.ways().eq([(place.west, Some("192.0.2.9".parse()?))]), "{compatible}: {default:?}");
    }
    Ok(())
}

fn many() -> Result<()> {
    const COUNT: u32 = 100_000;
    let mut place = Place::new()?;
    let file = tempfile::NamedTempFile::new()?;
    let line = |n: u32| format!("route add {}/32 dev west table main\n", std::net::Ipv4Addr::from(0x0a00_0000 + n));
    std::fs::write(file.path(), (0..COUNT).map(line).collect::<String>())?;
    place.netns.ip(&format!("-batch {}", file.path().display()))?;
    let start = Instant::now();
    let all = route::list(&mut place.client)?.len();
    let listed = start.elapsed();
    let filter = Filter { only_defaults: true, ..Filter::default() };
    let defaults = route::list_filtered(&mut place.client, &filter)?.len();
    let passed_over = start.elapsed() - listed;
    let ours =
        route::list_filtered(&mut place.client, &Filter { protocol: Some(PROTOCOL), ..Filter::default() })?.len();
    let filtered = start.elapsed() - listed - passed_over;
    eprintln!("{all} routes: all {listed:?}, default ones {passed_over:?}, ours {filtered:?}");
    ensure!(all >= COUNT as usize && defaults == 0 && ours == 0, "{all}, {defaults}, {ours}");
    Ok(())
}
