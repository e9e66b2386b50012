//! What a receiver can tell of a path that falls silent, although it has nothing to send and so nothing that times out. Pure.
//!
//! Data comes too early on the other paths while a connection waits for a piece that went by the silent one: its next expected
//! byte stays the same. A path is not heard of merely because the sender does not need it: then there is no such hole.
//!
//! Where the sender has handed over by itself there is no hole for long, but a subflow that the sender has closed stays open
//! here. So a path that has stopped for long, while its connections go on elsewhere, is worth one attempt to connect anew.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A path matters that brought so many bytes of payload per second: about 20 segments.
const LEAST_RATE: u64 = 28_000;
/// Its rate is that of so long a time at least.
const WINDOW: Duration = Duration::from_millis(250);
/// Bytes that came elsewhere meanwhile, so that the connection has not just paused: about three segments.
const GOES_ON: u64 = 4_000;
/// Nothing was heard for so long, and a round trip, before the edge is looked at first, ...
const QUIET: Duration = Duration::from_millis(40);
/// ... and for so long again, and a round trip, while it stays: together little more than a sender waits for.
const HOLDS: Duration = Duration::from_millis(40);
/// A hole that is older is not looked for any more: the kernel's own means have had their time.
const TOO_LATE: Duration = Duration::from_secs(2);
/// When a path has stopped.
const STOPPED: Duration = Duration::from_millis(1500);
/// What must have come elsewhere since a path stopped: a tenth of a second at 10 Mbit/s.
const WENT_ON: u64 = 125_000;
/// How long a path is watched closely after it was busy last, ...
const KEEN: Duration = Duration::from_secs(2);
/// ... which is with so many packets per second, both ways.
const BUSY: u64 = 20;

/// Payload by the local token of a connection, in bytes.
pub type ByToken = BTreeMap<u32, u64>;

/// What was received by the subflows of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Payload in bytes, ever.
    pub received: u64,
    /// Packets in both directions, ever.
    pub packets: u64,
    /// What other subflows of its connections received, ever. Connections without any are not in it.
    pub elsewhere: ByToken,
    /// The longest of their smoothed round-trip times.
    pub srtt: Duration,
}

/// Why a path seems to have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A connection waits for what must have come by it.
    Hole,
    /// It has stopped, while its connections go on.
    Stopped {
        /// For how long.
        quiet: Duration,
    },
}

/// What is known of one path.
#[derive(Debug)]
struct Ear {
    received: u64,
    heard_at: Instant,
    /// What its connections had received elsewhere when it was heard last.
    base: ByToken,
    window_at: Instant,
    window_bytes: u64,
    /// Bytes per second in the last whole window in which it was heard.
    rate: u64,
    mark: Option<Mark>,
    /// Whether [`Doubt::Hole`] was told since it was heard last, and [`Doubt::Stopped`].
    told: [bool; 2],
    has_others: bool,
    packets: u64,
    /// When packets were counted, and when it was busy last.
    counted_at: Instant,
    busy_at: Option<Instant>,
    /// Whether packets were counted since it has others.
    is_counted: bool,
}

/// The first look at where connections stand.
#[derive(Debug)]
struct Mark {
    at: Instant,
    edges: ByToken,
    elsewhere: ByToken,
}

/// The ears on all paths.
#[derive(Debug, Default)]
pub struct Hearing(BTreeMap<IpAddr, Ear>);

impl Hearing {
    /// Takes note of what was received by now on the paths that are not known to have failed. `patience` is how many times as
    /// long as usual a path is waited for; `edges` gives the sequence number of the next byte that each connection expects.
    pub fn listen(
        &mut self,
        now: Instant,
        heard: &BTreeMap<IpAddr, Heard>,
        patience: impl Fn(IpAddr) -> u32,
        mut edges: impl FnMut() -> ByToken,
    ) -> Vec<(IpAddr, Doubt)> {
        self.0.retain(|path, _| heard.contains_key(path));
        let mut doubts = Vec::new();
        for (path, heard) in heard {
            let ear = self.0.entry(*path).or_insert_with(|| Ear::new(now, heard));
            ear.count(now, heard.packets);
            ear.hear(now, heard);
            let doubt = ear.doubt(now, heard, patience(*path), &mut edges);
            doubts.extend(doubt.map(|doubt| (*path, doubt)));
        }
        doubts
    }

    /// Whether to look many times a second: a path of a connection that has another one is busy.
    pub fn is_keen(&self, now: Instant) -> bool {
        let recently = |at: Instant| now.saturating_duration_since(at) < KEEN;
        self.0.values().any(|ear| ear.has_others && ear.busy_at.is_some_and(recently))
    }

    /// When to look at the latest at a path of a connection that has just got another one: it is not known yet whether it is
    /// busy.
    pub fn first_count_at(&self) -> Option<Instant> {
        let uncounted = self.0.values().filter(|ear| ear.has_others && !ear.is_counted);
        uncounted.map(|ear| ear.counted_at + WINDOW).min()
    }
}

impl Ear {
    fn new(now: Instant, heard: &Heard) -> Ear {
        Ear {
            received: heard.received,
            heard_at: now,
            base: heard.elsewhere.clone(),
            window_at: now,
            window_bytes: 0,
            rate: 0,
            mark: None,
            told: [false; 2],
            has_others: !heard.elsewhere.is_empty(),
            packets: heard.packets,
            counted_at: now,
            busy_at: None,
            is_counted: false,
        }
    }

    fn count(&mut self, now: Instant, packets: u64) {
        let time = now.saturating_duration_since(self.counted_at);
        if time < WINDOW {
            return;
        }
        let news = packets.saturating_sub(self.packets);
        if news * 1000 >= BUSY * time.as_millis() as u64 {
            self.busy_at = Some(now);
        }
        (self.packets, self.counted_at, self.is_counted) = (packets, now, self.has_others);
    }

    fn hear(&mut self, now: Instant, heard: &Heard) {
        // Less than before: subflows have ended.
        let news = heard.received.saturating_sub(self.received);
        self.received = heard.received;
        self.has_others = !heard.elsewhere.is_empty();
        if news == 0 {
            return;
        }
        (self.heard_at, self.mark, self.told) = (now, None, [false; 2]);
        self.base.clone_from(&heard.elsewhere);
        self.window_bytes += news;
        let time = now.saturating_duration_since(self.window_at);
        if time >= WINDOW {
            self.rate = self.window_bytes * 1000 / time.as_millis().max(1) as u64;
            (self.window_at, self.window_bytes) = (now, 0);
        }
    }

    fn doubt(
        &mut self,
        now: Instant,
        heard: &Heard,
        patience: u32,
        edges: &mut impl FnMut() -> ByToken,
    ) -> Option<Doubt> {
        let [told_hole, told_stopped] = self.told;
        if self.rate < LEAST_RATE || told_stopped {
            return None;
        }
        let quiet = now.saturating_duration_since(self.heard_at);
        let since = more(&heard.elsewhere, &self.base);
        if quiet >= STOPPED && since.values().sum::<u64>() >= WENT_ON {
            self.told[1] = true;
            return Some(Doubt::Stopped { quiet });
        }
        let is_time = quiet >= (QUIET + heard.srtt) * patience && quiet < TOO_LATE;
        let goes_on = since.values().any(|bytes| *bytes >= GOES_ON);
        if told_hole || !is_time || !goes_on || !self.look(now, heard, patience, edges) {
            return None;
        }
        self.told[0] = true;
        Some(Doubt::Hole)
    }

    /// Whether a connection stands still for want of something, although more and more comes elsewhere. The sender may send
    /// a piece once more now and then, which fills only the first of many holes: half of what comes is much less than all.
    fn look(&mut self, now: Instant, heard: &Heard, patience: u32, edges: &mut impl FnMut() -> ByToken) -> bool {
        let holds = (HOLDS + heard.srtt) * patience;
        if self.mark.as_ref().is_some_and(|mark| now.saturating_duration_since(mark.at) < holds) {
            return false;
        }
        let edges = edges();
        let is_stuck = self.mark.as_ref().is_some_and(|mark| {
            let since = more(&heard.elsewhere, &mark.elsewhere);
            let moved = |token: &u32| Some(edges.get(token)?.wrapping_sub(*mark.edges.get(token)?));
            let stands = |(token, bytes): (&u32, &u64)| moved(token).is_some_and(|moved| moved < bytes / 2);
            since.iter().any(|each| *each.1 >= GOES_ON && stands(each))
        });
        self.mark = Some(Mark { at: now, edges, elsewhere: heard.elsewhere.clone() });
        is_stuck
    }
}

/// What has come since, of connections that were there before.
fn more(now: &ByToken, before: &ByToken) -> ByToken {
    let since = |(token, bytes): (&u32, &u64)| Some((*token, bytes.saturating_sub(*before.get(token)?)));
    now.iter().filter_map(since).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const SEGMENT: u64 = 1400;

    /// One connection on two paths, of which one is listened to; each step takes 20 ms.
    struct Stage {
        hearing: Hearing,
        now: Instant,
        heard: Heard,
        edge: u64,
        looks: u32,
        patience: u32,
    }

    impl Stage {
        fn new() -> Self {
            let srtt = Duration::from_millis(10);
            let heard = Heard { received: 0, packets: 0, elsewhere: [(7, 0)].into(), srtt };
            let mut stage =
                Self { hearing: Hearing::default(), now: Instant::now(), heard, edge: 0, looks: 0, patience: 1 };
            for _ in 0..50 {
                assert_eq!(stage.step(10, 10, 20), []);
            }
            stage
        }

        /// So many segments on the path, elsewhere, and in order.
        fn step(&mut self, here: u64, elsewhere: u64, in_order: u64) -> Vec<(IpAddr, Doubt)> {
            self.now += Duration::from_millis(20);
            self.heard.received += here * SEGMENT;
            self.heard.packets += here;
            *self.heard.elsewhere.get_mut(&7).expect("it is there") += elsewhere * SEGMENT;
            self.edge += in_order * SEGMENT;
            let (edge, looks) = (self.edge, &mut self.looks);
            let edges = || {
                *looks += 1;
                [(7, edge)].into()
            };
            self.hearing.listen(self.now, &[(A, self.heard.clone())].into(), |_| self.patience, edges)
        }

        /// The steps until a doubt, and which.
        fn until(&mut self, steps: u32, [here, elsewhere, in_order]: [u64; 3]) -> Option<(u32, Doubt)> {
            (1..=steps)
                .find_map(|number| self.step(here, elsewhere, in_order).first().map(|(_, doubt)| (number, *doubt)))
        }
    }

    #[test]
    fn a_hole_is_told_once_within_an_eighth_of_a_second() {
        let mut stage = Stage::new();
        assert!(stage.hearing.is_keen(stage.now));
        let (steps, doubt) = stage.until(50, [0, 10, 0]).expect("a doubt");
        assert_eq!(doubt, Doubt::Hole);
        assert!((5..=6).contains(&steps), "{steps} steps");
        assert_eq!(stage.until(60, [0, 10, 0]), None, "once");
    }

    #[test]
    fn it_is_known_within_a_quarter_of_a_second_whether_a_path_is_busy() {
        let (mut hearing, start) = (Hearing::default(), Instant::now());
        let mut heard = Heard { elsewhere: [(7, 0)].into(), ..Heard::default() };
        assert_eq!(hearing.first_count_at(), None);
        hearing.listen(start, &[(A, heard.clone())].into(), |_| 1, ByToken::new);
        assert_eq!(hearing.first_count_at(), Some(start + WINDOW));
        assert!(!hearing.is_keen(start));
        (heard.received, heard.packets) = (10 * SEGMENT, 10);
        let now = start + WINDOW;
        hearing.listen(now, &[(A, heard)].into(), |_| 1, ByToken::new);
        assert!(hearing.is_keen(now));
        assert_eq!(hearing.first_count_at(), None, "once");
    }

    #[test]
    fn who_was_wrong_is_more_patient() {
        let mut stage = Stage::new();
        stage.patience = 2;
        let (steps, _) = stage.until(50, [0, 10, 0]).expect("a doubt");
        assert!((10..=12).contains(&steps), "{steps} steps");
    }

    #[test]
    fn a_path_that_is_not_needed_for_a_second_is_fine() {
        let mut stage = Stage::new();
        assert_eq!(stage.until(50, [0, 20, 20]), None);
    }

    #[test]
    fn a_pause_of_the_sender_is_no_hole() {
        let mut stage = Stage::new();
        assert_eq!(stage.until(500, [0, 0, 0]), None);
        assert!(!stage.hearing.is_keen(stage.now));
        assert_eq!(stage.looks, 0, "nothing to be looked at");
    }

    #[test]
    fn a_piece_that_is_sent_again_fills_no_hole() {
        let mut stage = Stage::new();
        let (steps, doubt) = stage.until(50, [0, 10, 3]).expect("a doubt");
        assert_eq!(doubt, Doubt::Hole);
        assert!((5..=6).contains(&steps), "{steps} steps");
    }

    #[test]
    fn a_hole_that_is_filled_in_time_is_none() {
        let mut stage = Stage::new();
        for _ in 0..20 {
            assert_eq!(stage.until(4, [0, 10, 0]), None);
            assert_eq!(stage.step(40, 10, 80), []);
        }
    }

    #[test]
    fn a_path_that_stops_for_long_is_told_once() {
        let mut stage = Stage::new();
        let told = stage.until(100, [0, 20, 20]);
        assert_eq!(told, Some((75, Doubt::Stopped { quiet: STOPPED })));
        assert_eq!(stage.until(500, [0, 20, 20]), None);
    }

    #[test]
    fn what_hardly_carried_is_not_missed() {
        let mut stage = Stage::new();
        // Two segments in half a second.
        for number in 0..200 {
            let here = u64::from(number % 25 == 0);
            assert_eq!(stage.step(here, 20, 20), [], "{number}");
        }
        assert_eq!(stage.until(500, [0, 20, 20]), None);
    }

    proptest! {
        /// While all that has come is in order every other step, whatever comes where, nothing is taken for a hole.
        #[test]
        fn what_goes_on_has_no_hole(steps in prop::collection::vec((0..30u64, 0..30u64), 0..300)) {
            let mut stage = Stage::new();
            let mut waits = 0;
            for (number, (here, elsewhere)) in steps.into_iter().enumerate() {
                waits += here + elsewhere;
                let in_order = if number % 2 == 0 { std::mem::take(&mut waits) } else { 0 };
                let doubts = stage.step(here, elsewhere, in_order);
                prop_assert!(doubts.iter().all(|(_, doubt)| *doubt != Doubt::Hole), "{doubts:?}");
            }
        }
    }
}
