//! Rules: what is added is listed as it was meant, and what is deleted is gone.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::rtnl::Family;
use mpsec_agent::kernel::rule::{self, Action, Mark, Rule};
use mpsec_tests::trial::trial;

use super::{Place, refused};

const LIMIT: Duration = Duration::from_secs(60);
const TABLE: u32 = 4800;
const PRIORITY: u32 = 1000;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("rules::what_is_added_is_listed_and_goes", LIMIT, round_trip),
        trial("rules::those_that_differ_in_one_thing_stay_distinct", LIMIT, distinct),
        trial("rules::what_others_made_is_read", LIMIT, foreign),
        trial("rules::refusals_carry_the_kernels_words", LIMIT, refusals),
        trial("rules::what_a_delete_hits_is_foretold", LIMIT, foretold),
    ]
}

/// A rule and others that differ from it in one thing each, in an order in which the kernel takes them all: it compares a new
/// one by source, destination and type of service only where that names them.
fn variants(family: Family) -> Result<Vec<Rule>> {
    let (near, far) = match family {
        Family::V4 => ("192.0.2.1/32", "198.51.100.0/24"),
        Family::V6 => ("2001:db8::1/128", "2001:db8:9::/48"),
    };
    let first = Rule { source: Some(near.parse()?), ..Rule::lookup(family, PRIORITY, TABLE) };
    let rule = || first.clone();
    Ok(vec![
        Rule { source: None, ..rule() },
        Rule { iif: Some("lo".into()), ..rule() },
        Rule { oif: Some("west".into()), ..rule() },
        Rule { fwmark: Some(Mark { value: 7, mask: 0xff }), ..rule() },
        Rule { fwmark: Some(Mark { value: 7, mask: u32::MAX }), ..rule() },
        Rule { fwmark: Some(Mark { value: 0, mask: 0xff }), ..rule() },
        Rule { suppress_prefix_len: Some(0), ..rule() },
        first.clone(),
        Rule { source: Some(far.parse()?), ..rule() },
        Rule { destination: Some(far.parse()?), ..rule() },
        Rule { priority: PRIORITY + 1, ..rule() },
        Rule { priority: 0, ..rule() },
        Rule { table: TABLE + 1, ..rule() },
        Rule { table: 100, ..rule() },
        Rule { protocol: 4, ..rule() },
        Rule { tos: 16, ..rule() },
        Rule { action: Action::Blackhole, table: 0, ..rule() },
        Rule { action: Action::Unreachable, table: 0, ..rule() },
        Rule { action: Action::Prohibit, table: 0, ..rule() },
        Rule { action: Action::Goto(32766), table: 0, ..rule() },
    ])
}

fn round_trip() -> Result<()> {
    let mut place = Place::new()?;
    let before = rule::list(&mut place.client)?;
    ensure!(before.len() == 5, "what a namespace begins with: {before:#?}");
    for wanted in Family::ALL.map(variants).into_iter().collect::<Result<Vec<_>>>()?.concat() {
        rule::add(&mut place.client, &wanted).with_context(|| format!("{wanted:?}"))?;
        let mut now = rule::list(&mut place.client)?;
        now.retain(|rule| !before.contains(rule));
        let [found] = &now[..] else { bail!("{} rules came of {wanted:#?}", now.len()) };
        ensure!(*found == wanted, "{found:#?} instead of {wanted:#?}");
        rule::delete(&mut place.client, found).with_context(|| format!("{wanted:?}"))?;
        ensure!(rule::list(&mut place.client)? == before, "{wanted:?} is not gone, or more is");
    }
    Ok(())
}

fn distinct() -> Result<()> {
    let mut place = Place::new()?;
    for family in Family::ALL {
        let wanted = variants(family)?;
        for rule in &wanted {
            rule::add(&mut place.client, rule).with_context(|| format!("{rule:?}"))?;
        }
        let mut listed = rule::list(&mut place.client)?;
        listed.retain(|rule| rule.family == family);
        for rule in &wanted {
            let same: Vec<_> = listed.iter().filter(|found| found.is_same(rule)).collect();
            ensure!(same.len() == 1, "{same:#?} of {rule:#?}");
            refused(rule::add(&mut place.client, rule), libc::EEXIST, "File exists")?;
        }
    }
    Ok(())
}

fn foreign() -> Result<()> {
    let mut place = Place::new()?;
    for words in ["uidrange 5-9", "sport 80", "ipproto tcp", "not from all", "iif gone"] {
        place
            .netns
            .ip(&format!("rule add from 192.0.2.1 {words} lookup {TABLE} pref {PRIORITY} protocol 213"))
            .or_else(|_| place.netns.ip(&format!("rule add {words} lookup {TABLE} pref {PRIORITY} protocol 213")))?;
        let ours = Rule { source: Some("192.0.2.1/32".parse()?), ..Rule::lookup(Family::V4, PRIORITY, TABLE) };
        let rules = rule::list(&mut place.client)?;
        let found = rules.iter().find(|rule| rule.priority == PRIORITY).context("it is not listed")?;
        ensure!(!found.is_same(&ours), "{words}: {found:?}");
        ensure!((found.state != 0) == words.ends_with("gone"), "{words}: {found:?}");
        // What was read can be put back as it was.
        rule::delete(&mut place.client, found)?;
        rule::add(&mut place.client, found)?;
        ensure!(rule::list(&mut place.client)?.contains(found), "{words}: {found:?}");
        rule::delete(&mut place.client, found)?;
    }
    Ok(())
}

fn refusals() -> Result<()> {
    let mut place = Place::new()?;
    let plain = Rule::lookup(Family::V4, PRIORITY, TABLE);
    refused(rule::delete(&mut place.client, &plain), libc::ENOENT, "")?;
    let backwards = Rule { action: Action::Goto(5), table: 0, ..plain.clone() };
    refused(rule::add(&mut place.client, &backwards), libc::EINVAL, "Backward goto not supported")?;
    let crooked = Rule { tos: 3, ..plain };
    refused(rule::add(&mut place.client, &crooked), libc::EINVAL, "dsfield")
}

fn foretold() -> Result<()> {
    let mut place = Place::new()?;
    let mut all = variants(Family::V4)?;
    for rule in &all {
        rule::add(&mut place.client, rule)?;
    }
    // Some that ask for more stand before those that do not, and are hit in their place.
    let mut missed = 0;
    while !all.is_empty() {
        let wanted = all.swap_remove(all.len() / 2);
        let before: Vec<_> = rule::list(&mut place.client)?;
        let hit = before.iter().find(|rule| wanted.delete_fits(rule));
        match rule::delete(&mut place.client, &wanted) {
            Ok(()) => {
                let after = rule::list(&mut place.client)?;
                let gone: Vec<_> = before.iter().filter(|rule| !after.contains(rule)).collect();
                ensure!(gone == [hit.context("nothing was foretold")?], "{gone:#?} instead of {hit:#?}");
                missed += u32::from(!gone[0].is_same(&wanted));
            }
            Err(error) => ensure!(hit.is_none(), "{error} instead of {hit:?}"),
        }
    }
    ensure!(missed > 0, "no delete hit another rule: this test shows nothing");
    Ok(())
}
