//! A subscription that gathers events while a test goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use mpsec_agent::kernel::mptcp_pm::{Event, EventKind, Events};
use mpsec_tests::netns::Netns;
use mpsec_tests::wait;

/// How long an event may be on its way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Gathers all events of a namespace.
pub(crate) struct Watcher {
    events: Arc<Mutex<Vec<Event>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Watcher {
    /// Listens from now on.
    pub(crate) fn new(netns: &Arc<Netns>) -> Result<Watcher> {
        let (events, stop, netns) = (Arc::default(), Arc::default(), Arc::clone(netns));
        let (sender, receiver) = channel();
        let (into, until): (Arc<Mutex<Vec<Event>>>, Arc<AtomicBool>) = (Arc::clone(&events), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            netns.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut source = Events::subscribe()?;
                sender.send(()).map_err(|_| anyhow!("nobody waits"))?;
                gather(&mut source, &into, &until).await
            })
        });
        let watcher = Watcher { events, stop, thread: Some(thread) };
        match receiver.recv() {
            Ok(()) => Ok(watcher),
            Err(_) => Err(watcher.finish().err().context("no subscription")?),
        }
    }

    /// Waits for an event of this kind that `wanted` takes.
    pub(crate) fn wait_for(&self, kind: EventKind, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        wait::until(PATIENCE, || {
            let events = self.events.lock().map_err(|_| anyhow!("the watcher panicked"))?;
            let found = events.iter().find(|event| event.kind() == kind && wanted(event));
            found.cloned().with_context(|| format!("no event {kind} in {events:?}"))
        })
    }

    /// Ends it, and says what went wrong.
    pub(crate) fn finish(mut self) -> Result<Vec<Event>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it is finished once")?;
        thread.join().map_err(|_| anyhow!("the watcher panicked"))??;
        let events = self.events.lock().map_err(|_| anyhow!("the watcher panicked"))?;
        Ok(events.clone())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn gather(source: &mut Events, into: &Mutex<Vec<Event>>, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(next) = tokio::time::timeout(Duration::from_millis(20), source.next()).await {
            let Ok(events) = next? else { bail!("the socket overflowed") };
            into.lock().map_err(|_| anyhow!("the test panicked"))?.extend(events);
        }
    }
    match source.undecoded() {
        0 => Ok(()),
        number => bail!("{number} events could not be decoded"),
    }
}
