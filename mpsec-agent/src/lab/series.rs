//! What a reader got and when: gaps, rates, and medians. Pure.

use std::time::Duration;

/// A piece that a reader got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, from the start of the reading.
    pub at: Duration,
    /// How many bytes.
    pub bytes: u64,
}

/// The longest time without an arrival between `from` and `to`: its begin and its length. Where nothing came at all it is
/// all of that time.
#[must_use]
pub fn longest_gap(arrivals: &[Arrival], from: Duration, to: Duration) -> (Duration, Duration) {
    let inside = arrivals.iter().map(|arrival| arrival.at).filter(|at| (from..to).contains(at));
    let mut longest = (from, Duration::ZERO);
    let mut last = from;
    for at in inside.chain([to]) {
        if at.saturating_sub(last) > longest.1 {
            longest = (last, at - last);
        }
        last = at;
    }
    longest
}

/// Bytes that came from `from` up to `to`.
#[must_use]
pub fn bytes_between(arrivals: &[Arrival], from: Duration, to: Duration) -> u64 {
    arrivals.iter().filter(|arrival| (from..to).contains(&arrival.at)).map(|arrival| arrival.bytes).sum()
}

/// Bits per second from `from` up to `to`.
#[must_use]
pub fn bits_per_second(arrivals: &[Arrival], from: Duration, to: Duration) -> f64 {
    bytes_between(arrivals, from, to) as f64 * 8.0 / to.saturating_sub(from).as_secs_f64()
}

/// The first arrival from `from` on with which a `window` begins that has at least so many bits per second, and ends before
/// `to`.
#[must_use]
pub fn first_at_rate(
    arrivals: &[Arrival],
    (from, to): (Duration, Duration),
    window: Duration,
    rate: f64,
) -> Option<Duration> {
    let candidates = arrivals.iter().map(|arrival| arrival.at).filter(|at| *at >= from && *at + window <= to);
    let mut candidates = candidates;
    candidates.find(|at| bits_per_second(arrivals, *at, *at + window) >= rate)
}

/// The middle one; the mean of two middle ones. `None` of none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted.get(middle).copied(),
        _ => Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn each_10_ms(except: std::ops::Range<u64>) -> Vec<Arrival> {
        let times = (0..100).map(|step| step * 10).filter(|at| !except.contains(at));
        times.map(|at| Arrival { at: ms(at), bytes: 1000 }).collect()
    }

    #[test]
    fn the_gap_is_found_with_its_begin() {
        let arrivals = each_10_ms(310..500);
        assert_eq!(longest_gap(&arrivals, ms(0), ms(990)), (ms(300), ms(200)));
        assert_eq!(longest_gap(&arrivals, ms(400), ms(990)), (ms(400), ms(100)), "what began before counts from there");
        assert_eq!(longest_gap(&arrivals, ms(600), ms(700)).1, ms(10));
        assert_eq!(longest_gap(&[], ms(5), ms(25)), (ms(5), ms(20)));
    }

    #[test]
    fn a_gap_that_does_not_end_is_one() {
        assert_eq!(longest_gap(&each_10_ms(500..1000), ms(100), ms(900)), (ms(490), ms(410)));
    }

    #[test]
    fn rates_are_of_the_time_asked_for() {
        let arrivals = each_10_ms(0..0);
        assert_eq!(bytes_between(&arrivals, ms(100), ms(200)), 10_000);
        assert!((bits_per_second(&arrivals, ms(100), ms(200)) - 800_000.0).abs() < 1.0);
    }

    #[test]
    fn the_full_rate_comes_with_the_first_full_window() {
        let arrivals = each_10_ms(310..500);
        assert_eq!(first_at_rate(&arrivals, (ms(300), ms(990)), ms(100), 790_000.0), Some(ms(500)));
        assert_eq!(first_at_rate(&arrivals, (ms(300), ms(590)), ms(100), 790_000.0), None);
        assert_eq!(first_at_rate(&arrivals, (ms(300), ms(990)), ms(100), 900_000.0), None);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
