//! Changes are told, each as what it is, and many at once as one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::rtnl_events::{Changed, Events};
use mpsec_tests::need;
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::trial;

use super::Place;

const LIMIT: Duration = Duration::from_secs(60);
/// How long a change may be on its way.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing is waited for.
const QUIET: Duration = Duration::from_millis(300);
const NONE: Changed = Changed { addresses: false, routes: false, rules: false };

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("events::each_change_is_told_as_what_it_is", LIMIT, each),
        trial("events::an_address_is_told_of_until_it_can_be_used", LIMIT, duplicate_detection),
        trial("events::many_are_one_and_cost_little", LIMIT, many),
        trial("events::waiting_can_be_given_up", LIMIT, cancelled),
    ]
}

/// Subscribes in a namespace and does something with it there.
fn listen(netns: &Netns, body: impl AsyncFnOnce(&mut Events) -> Result<()> + Send) -> Result<()> {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { body(&mut Events::subscribe(4800..=4899)?).await })
    })
}

/// All that is told until nothing more is, or `NONE`.
async fn told(events: &mut Events) -> Result<Changed> {
    let mut all = NONE;
    while let Ok(changed) = tokio::time::timeout(QUIET, events.next()).await {
        all = all.or(changed?);
    }
    Ok(all)
}

fn each() -> Result<()> {
    let Place { netns, .. } = Place::new()?;
    let netns = Arc::new(netns);
    let here = Arc::clone(&netns);
    listen(&netns, async move |events| {
        told(events).await?;
        let (addresses, routes, rules) =
            (Changed { addresses: true, ..NONE }, Changed { routes: true, ..NONE }, Changed { rules: true, ..NONE });
        for (words, wanted) in [
            ("addr add 198.51.100.1/32 dev west", addresses),
            ("addr del 198.51.100.1/32 dev west", addresses),
            ("addr add 2001:db8:5::1/128 dev lo noprefixroute nodad", addresses),
            ("route add default via 192.0.2.9", routes),
            ("route add default via 192.0.2.9 table 4800", routes),
            ("route del default via 192.0.2.9 table 4800", routes),
            ("route add default via 2001:db8::9 table 4899", routes),
            ("route add default via 192.0.2.9 table 200", NONE),
            ("route add default via 2001:db8::9 table 4900", NONE),
            ("route add default via 192.0.2.9 table 4799", NONE),
            ("route add default via 192.0.2.9 table 252", NONE),
            ("route add default via 192.0.2.9 table 70336", NONE),
            ("route add default via 192.0.2.9 table 253", routes),
            ("rule add from 192.0.2.1 lookup 4800", rules),
            ("rule del from 192.0.2.1 lookup 4800", rules),
            ("-6 rule add from 2001:db8::1 lookup 4800", rules),
            ("link set lo mtu 60000", NONE),
        ] {
            here.ip(words)?;
            let changed = told(events).await?;
            ensure!(changed == wanted, "{words}: {changed:?} instead of {wanted:?}");
        }
        Ok(())
    })
}

fn duplicate_detection() -> Result<()> {
    let Place { netns, .. } = Place::new()?;
    let netns = Arc::new(netns);
    let here = Arc::clone(&netns);
    here.sysctl("net/ipv6/conf/west/accept_dad", "1")?;
    here.sysctl("net/ipv6/conf/west/addr_gen_mode", "0")?;
    listen(&netns, async move |events| {
        told(events).await?;
        here.ip("link set west down")?;
        here.ip("link set west up")?;
        let deadline = Instant::now() + PATIENCE;
        // The link-local address comes at once, and can be used a second or two later.
        let mut tentative = false;
        while Instant::now() < deadline {
            let changed = tokio::time::timeout(PATIENCE, events.next()).await??;
            let shown = here.ip("-6 addr show dev west scope link")?;
            tentative |= shown.contains("tentative");
            if changed.addresses && tentative && shown.contains("fe80::") && !shown.contains("tentative") {
                return Ok(());
            }
        }
        anyhow::bail!("the end of duplicate address detection was not told; tentative: {tentative}")
    })
}

fn many() -> Result<()> {
    need::native()?;
    const COUNT: u32 = 100_000;
    let Place { netns, .. } = Place::new()?;
    let netns = Arc::new(netns);
    let here = Arc::clone(&netns);
    // What comes into a table that is not watched does not even wake the reader.
    let (little, nearly_nothing) = (Duration::from_secs(2), Duration::from_millis(200));
    for (table, wanted, most) in [(254, Changed { routes: true, ..NONE }, little), (200, NONE, nearly_nothing)] {
        let here = Arc::clone(&here);
        listen(&netns, async move |events| {
            told(events).await?;
            let file = tempfile::NamedTempFile::new()?;
            let line =
                |n: u32| format!("route add {}/32 dev west table {table}\n", std::net::Ipv4Addr::from(0x0a00_0000 + n));
            std::fs::write(file.path(), (0..COUNT).map(line).collect::<String>())?;
            let words = format!("-batch {}", file.path().display());
            let adding = std::thread::spawn(move || here.ip(&words));
            let before = cpu_time()?;
            let (mut all, mut calls) = (NONE, 0);
            while !adding.is_finished() {
                if let Ok(changed) = tokio::time::timeout(QUIET, events.next()).await {
                    all = all.or(changed?);
                    calls += 1;
                    // As a caller would that has better things to do.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            all = all.or(told(events).await?);
            let spent = cpu_time()? - before;
            adding.join().map_err(|_| anyhow::anyhow!("the adder panicked"))??;
            eprintln!("{COUNT} routes into table {table}: told {calls} times, {spent:?} of CPU");
            let overflowed = all == Changed::EVERYTHING && wanted != NONE;
            ensure!(all == wanted || overflowed, "{all:?} instead of {wanted:?}");
            ensure!(spent < most, "{spent:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// CPU time of the calling thread (Documentation/scheduler/sched-stats.rst).
fn cpu_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse()?))
}

fn cancelled() -> Result<()> {
    let Place { netns, .. } = Place::new()?;
    let netns = Arc::new(netns);
    let here = Arc::clone(&netns);
    listen(&netns, async move |events| {
        told(events).await?;
        for number in 0..50 {
            here.ip(&format!("rule add from 192.0.2.1 lookup 4800 pref {}", 100 + number))?;
            // Given up at once, before or after it is ready.
            let given_up = tokio::time::timeout(Duration::from_micros(number * 7), events.next()).await;
            let changed = match given_up {
                Ok(changed) => changed?,
                Err(_) => tokio::time::timeout(PATIENCE, events.next()).await??,
            };
            ensure!(changed.rules, "{number}: {changed:?}");
        }
        Ok(())
    })
}
