//! A player of segments: what is buffered, what is being played, and when it had to stop. Pure; time comes from outside.

use std::time::Duration;

/// A player.
#[derive(Clone, Debug)]
pub struct Player {
    /// How long a segment plays.
    segment: Duration,
    /// No segment is fetched that would make more than this.
    capacity: Duration,
    /// What is left to be played when all is fetched and played is nothing.
    left: Duration,
    /// What is there to be played.
    buffered: Duration,
    state: State,
    /// The time of the last event.
    now: Duration,
    stalls: Vec<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing has been played yet.
    Starting,
    Playing,
    /// Nothing is buffered since then.
    Stalled(Duration),
    Finished,
}

impl Player {
    /// One that will play so many segments, and holds no more than `capacity`, but always one.
    #[must_use]
    pub fn new(segments: u32, segment: Duration, capacity: Duration) -> Player {
        let capacity = capacity.max(segment);
        let (left, buffered, now) = (segment * segments, Duration::ZERO, Duration::ZERO);
        Player { segment, capacity, left, buffered, state: State::Starting, now, stalls: Vec::new() }
    }

    /// The time has come to `now`.
    pub fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.now);
        if self.state == State::Playing {
            let played = passed.min(self.buffered);
            self.buffered -= played;
            self.left = self.left.saturating_sub(played);
            if self.left.is_zero() {
                self.state = State::Finished;
            } else if passed > played {
                self.state = State::Stalled(self.now + played);
            }
        }
        self.now = self.now.max(now);
    }

    /// A segment has been fetched.
    pub fn add(&mut self, now: Duration) {
        self.advance(now);
        self.buffered += self.segment;
        if let State::Stalled(since) = self.state {
            self.stalls.push(now.saturating_sub(since));
        }
        if self.state != State::Finished {
            self.state = State::Playing;
        }
    }

    /// Whether there is room for a segment.
    #[must_use]
    pub fn wants(&self) -> bool {
        self.buffered + self.segment <= self.capacity
    }

    /// Whether everything has been played.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// How long it stood still, each time; with the one that goes on now.
    #[must_use]
    pub fn stalls(&self) -> Vec<Duration> {
        let open = match self.state {
            State::Stalled(since) => Some(self.now.saturating_sub(since)),
            _ => None,
        };
        self.stalls.iter().copied().chain(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn segments_in_time_let_it_play_to_the_end() {
        let mut player = Player::new(3, ms(1000), ms(2000));
        assert!(player.wants());
        player.add(ms(300));
        player.add(ms(500));
        assert!(!player.wants(), "1.8 s are buffered");
        player.advance(ms(1400));
        assert!(player.wants());
        player.add(ms(2200));
        player.advance(ms(3299));
        assert!(!player.is_finished());
        player.advance(ms(3300));
        assert!(player.is_finished());
        assert!(player.stalls().is_empty());
    }

    #[test]
    fn an_empty_buffer_is_a_stall_until_the_next_segment() {
        let mut player = Player::new(3, ms(1000), ms(2000));
        player.add(ms(100));
        player.advance(ms(1050));
        player.add(ms(1600));
        player.advance(ms(4000));
        assert_eq!(player.stalls(), [ms(500), ms(1400)], "the second one goes on");
        player.add(ms(4100));
        player.advance(ms(5100));
        assert!(player.is_finished());
        assert_eq!(player.stalls(), [ms(500), ms(1500)]);
    }

    #[test]
    fn waiting_for_the_first_segment_is_no_stall() {
        let mut player = Player::new(1, ms(1000), ms(500));
        player.advance(ms(3000));
        assert!(player.wants(), "one segment fits always");
        player.add(ms(3000));
        player.advance(ms(9000));
        assert!(player.is_finished());
        assert!(player.stalls().is_empty());
    }
}
