//! Traffic of every class, in batches that are all alike, both ways over a wire, until told to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mpsec_tests::counted::Counted;
use mpsec_tests::frames::{self, Case, class};
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::topology::Pair;

/// From one batch to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// What a batch consists of, in one direction: one frame of each class, and of one class more.
pub(super) struct Mix {
    pub(super) direction: &'static str,
    more: (&'static str, u64),
}

impl Mix {
    /// Sent by and received from the left.
    pub(super) const BOTH: [Mix; 2] =
        [Mix { direction: "tx", more: (class::ESP, 4) }, Mix { direction: "rx", more: (class::WIREGUARD, 30) }];

    /// Classes that hide their payload, as METRICS.md has it.
    const ENCRYPTED: [&str; 3] = [class::ESP, class::ESP_UDP, class::WIREGUARD];
    /// Classes that must be in clear.
    const EXEMPT: [&str; 4] = [class::IKE, class::NAT_KEEPALIVE, class::ARP, class::NEIGHBOR_DISCOVERY];

    /// What a batch adds to a class.
    pub(super) fn of(&self, class: &str) -> Counted {
        let (more, count) = self.more;
        let one = Counted::of(sample(class));
        (0..if more == class { count } else { 1 }).fold(Counted::default(), |sum, _| sum + one)
    }

    /// What it adds to all.
    pub(super) fn total(&self) -> Counted {
        self.sum(|_| true)
    }

    /// What it adds to cleartext.
    pub(super) fn cleartext(&self) -> Counted {
        self.sum(|class| !Self::ENCRYPTED.contains(&class) && !Self::EXEMPT.contains(&class))
    }

    /// encrypted / (encrypted + cleartext)
    pub(super) fn encrypted_share(&self) -> f64 {
        let encrypted = self.sum(|class| Self::ENCRYPTED.contains(&class)).bytes as f64;
        encrypted / (encrypted + self.cleartext().bytes as f64)
    }

    fn sum(&self, wanted: impl Fn(&str) -> bool) -> Counted {
        let all = class::ALL.into_iter().filter(|class| wanted(class));
        all.fold(Counted::default(), |sum, class| sum + self.of(class))
    }

    /// The frames of a batch.
    fn frames(&self) -> Vec<Vec<u8>> {
        let frames = class::ALL.into_iter().map(|class| (sample(class), self.of(class).packets));
        frames.flat_map(|(case, count)| (0..count).map(move |_| case.bytes.clone())).collect()
    }
}

/// A frame of this class with something behind its link header.
fn sample(class: &str) -> &'static Case {
    static SAMPLES: LazyLock<Vec<Case>> = LazyLock::new(|| {
        let all = frames::all();
        let sample = |class| all.iter().find(|case| case.class == class && case.l3_bytes() > 0).cloned();
        class::ALL.into_iter().filter_map(sample).collect()
    });
    SAMPLES.iter().find(|case| case.class == class).expect("frames of every class are there")
}

/// Batches on their way.
pub(super) struct Traffic {
    shared: Arc<Shared>,
    thread: thread::JoinHandle<()>,
    start: Instant,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    batches: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Traffic {
    /// Begins.
    pub(super) fn start(pair: &Pair) -> Result<Self> {
        let [sent, received] = &Mix::BOTH;
        let mut ways = [
            (Sender::new(&pair.left, Pair::WEST, Buffer::Linear)?, sent.frames()),
            (Sender::new(&pair.right, Pair::EAST, Buffer::Linear)?, received.frames()),
        ];
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("traffic".into()).spawn(move || {
            while !theirs.stop.load(Ordering::Relaxed) {
                let batch = |(sender, frames): &mut (Sender, Vec<Vec<u8>>)| -> Result<()> {
                    frames.iter().try_for_each(|frame| sender.send(frame))
                };
                if let Err(error) = ways.iter_mut().try_for_each(batch) {
                    // Nobody else holds the lock while this thread runs.
                    return drop(theirs.failure.lock().map(|mut failure| *failure = Some(format!("{error:#}"))));
                }
                theirs.batches.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
        })?;
        Ok(Self { shared, thread, start: Instant::now() })
    }

    /// So far, on average.
    pub(super) fn batches_a_second(&self) -> f64 {
        self.shared.batches.load(Ordering::Relaxed) as f64 / self.start.elapsed().as_secs_f64()
    }

    /// Ends, and says how many batches were sent.
    pub(super) fn stop(&self) -> Result<u64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while !self.thread.is_finished() {
            thread::sleep(PAUSE / 10);
        }
        if let Ok(Some(failure)) = self.shared.failure.lock().as_deref() {
            bail!("the traffic stopped: {failure}");
        }
        Ok(self.shared.batches.load(Ordering::Relaxed))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
