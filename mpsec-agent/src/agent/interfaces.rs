//! The interfaces that are watched: which has which slot, what is attached where, and what each counted.

use std::collections::{BTreeMap, BTreeSet};

use mpsec_common::Direction;
use mpsec_common::maps::{InterfaceSlot, OTHER_SLOT, interface_flags};
use mpsec_common::traffic::{CLASS_SLOTS, Counter};

use crate::config::InterfaceFilter;
use crate::kernel::attach::{Attacher, Attachment, Method};
use crate::kernel::ebpf::Kernel;
use crate::kernel::link;
use crate::kernel::subflows::Subflows;
use crate::snapshot::Classes;

use super::slots::{Place, Slots};

mod view;

/// What is watched, and the kernel objects that it takes.
pub struct Interfaces {
    /// The loaded programs and maps.
    pub kernel: Kernel,
    attacher: Attacher,
    filter: InterfaceFilter,
    watched: BTreeMap<u32, Watched>,
    /// Interfaces that the filter leaves out: kept so that a reload can take them in.
    excluded: BTreeMap<u32, link::Interface>,
    slots: Slots,
    /// Interfaces to attach to. The newest, which as a rule has the highest index, comes first: it has waited least, and
    /// whoever made it may be about to use it.
    pending: BTreeSet<u32>,
    /// Counts of what went wrong.
    pub troubles: Troubles,
}

/// Counts of what went wrong since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Troubles {
    /// Interfaces that got no slot of their own.
    pub folded: u64,
    /// Attempts to attach that failed.
    pub attach_failures: u64,
    /// Attachments that were found gone.
    pub attachments_lost: u64,
}

/// Interfaces by name.
pub type Links = BTreeMap<String, LinkState>;

/// What has to be known of an interface to judge a path.
#[derive(Clone, Copy, Debug)]
pub struct LinkState {
    /// Its index.
    pub index: u32,
    /// True when it is switched on and has a carrier.
    pub is_up: bool,
}

/// Why a program is not attached that was.
const REMOVED: &str = "removed by somebody else";

struct Watched {
    interface: link::Interface,
    /// `None` if there was none free: the kernel side then takes it for unknown.
    place: Option<Place>,
    /// What the slot had counted for others before.
    base: [Classes; 2],
    hooks: [Result<Attachment, String>; 2],
    /// How many programs of others come before each, when it was last looked.
    ahead: [u32; 2],
}

impl Watched {
    fn slot(&self) -> u16 {
        self.place.map_or(OTHER_SLOT, |place| place.slot)
    }

    /// Takes note of what comes before our programs. They are not moved to the front again: another one that wants to be first
    /// would do the same, and each move costs packets.
    fn look_ahead(&mut self, attacher: &mut Attacher) {
        for (direction, hook) in Direction::ALL.into_iter().zip(&self.hooks) {
            let ahead = hook.as_ref().map_or(0, |held| attacher.ahead(self.interface.index, direction, held));
            let known = std::mem::replace(&mut self.ahead[direction as usize], ahead);
            if ahead > known {
                let (interface, direction) = (&self.interface.name, direction.name());
                tracing::warn!(
                    interface,
                    direction,
                    ahead,
                    "programs of others come first; what they keep is not counted"
                );
            }
        }
    }
}

impl Interfaces {
    /// Watches nothing yet.
    pub fn new(kernel: Kernel, attacher: Attacher, filter: InterfaceFilter, max_interfaces: u16) -> Interfaces {
        Interfaces {
            kernel,
            attacher,
            filter,
            watched: BTreeMap::new(),
            excluded: BTreeMap::new(),
            slots: Slots::new(max_interfaces),
            pending: BTreeSet::new(),
            troubles: Troubles::default(),
        }
    }

    /// Takes note of an interface that is new or has changed.
    pub fn present(&mut self, interface: link::Interface) {
        let index = interface.index;
        if !self.filter.wants(&interface.name) {
            self.release(index);
            self.excluded.insert(index, interface);
            return;
        }
        self.excluded.remove(&index);
        match self.watched.get_mut(&index) {
            Some(watched) => {
                let is_seen_alike = same_framing(&watched.interface, &interface);
                watched.interface = interface;
                if let (false, Some(place)) = (is_seen_alike, watched.place)
                    && let Err(error) = self.kernel.set_interface(
                        place.entry,
                        entry_of(&watched.interface, self.kernel.counters.first(place.slot)),
                    )
                {
                    tracing::warn!(interface = watched.interface.name, %error, "still counted by its old type");
                }
                self.plan_to_attach(index);
            }
            None => self.watch(interface),
        }
    }

    /// Takes note that an interface is gone.
    pub fn gone(&mut self, index: u32) {
        self.excluded.remove(&index);
        self.release(index);
    }

    /// Brings everything in line with a new list: after a start, and after events were lost.
    pub fn replace(&mut self, list: Vec<link::Interface>) {
        let listed: BTreeSet<u32> = list.iter().map(|interface| interface.index).collect();
        let known: Vec<u32> = self.watched.keys().chain(self.excluded.keys()).copied().collect();
        for index in known {
            if !listed.contains(&index) || self.is_another(index) {
                self.gone(index);
            }
        }
        self.verify();
        list.into_iter().for_each(|interface| self.present(interface));
    }

    /// True when nothing of ours is left on an interface that was watched: it went while events were lost, and another one
    /// has got its index, whose counts start at zero.
    fn is_another(&mut self, index: u32) -> bool {
        self.watched.get(&index).is_some_and(|watched| {
            let held = |hook: &Result<_, _>| hook.as_ref().is_ok_and(|held| self.attacher.holds(index, held));
            !watched.hooks.iter().any(held)
        })
    }

    /// Removes what a killed agent left on the interfaces in `list`.
    pub fn remove_stale(&mut self, list: &[link::Interface]) {
        for interface in list {
            match self.attacher.remove_stale(interface.index) {
                Ok(false) => {}
                Ok(true) => tracing::info!(interface = interface.name, "removed what an earlier agent left attached"),
                Err(error) => {
                    tracing::warn!(interface = interface.name, %error, "cannot remove what an earlier agent left")
                }
            }
        }
    }

    /// Applies another filter.
    pub fn set_filter(&mut self, filter: InterfaceFilter) {
        self.filter = filter;
        let all = self.watched.values().map(|watched| &watched.interface).chain(self.excluded.values());
        let all: Vec<_> = all.cloned().collect();
        all.into_iter().for_each(|interface| self.present(interface));
    }

    /// True while there is something for [`Interfaces::attach_next`] to do.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Attaches to one interface. One at a time, because the kernel waits for a grace period on each TCX hook, some 10 ms
    /// (tcx_entry_sync, kernel/bpf/tcx.c, 6.18), and hundreds of interfaces can come at once.
    pub fn attach_next(&mut self) {
        if let Some(index) = self.pending.pop_last() {
            self.attach_missing(index);
        }
    }

    /// Looks whether every program is still attached, and plans to attach it again where it is not; and whether others have put
    /// theirs in front since.
    pub fn verify(&mut self) {
        let indexes: Vec<u32> = self.watched.keys().copied().collect();
        for index in indexes {
            let Some(watched) = self.watched.get_mut(&index) else { continue };
            for hook in &mut watched.hooks {
                if let Ok(attachment) = hook
                    && !self.attacher.holds(index, attachment)
                {
                    *hook = Err(REMOVED.to_owned());
                }
            }
            watched.look_ahead(&mut self.attacher);
            self.plan_to_attach(index);
        }
    }

    /// Detaches from one interface, and takes it out of the watched ones; false when there is none.
    pub fn release_one(&mut self) -> bool {
        let Some((index, watched)) = self.watched.pop_first() else { return false };
        self.detach(index, watched);
        true
    }

    /// True when every watched interface has its programs.
    pub fn all_attached(&self) -> bool {
        self.watched.values().all(|watched| watched.hooks.iter().all(Result::is_ok))
    }

    /// How many interfaces have their programs.
    pub fn counted(&self) -> usize {
        self.watched.values().filter(|watched| watched.hooks.iter().all(Result::is_ok)).count()
    }

    /// The interfaces of the moment, by name.
    pub fn links(&self) -> Links {
        let all = self.watched.values().map(|watched| &watched.interface).chain(self.excluded.values());
        all.map(|link| (link.name.clone(), LinkState { index: link.index, is_up: link.is_up })).collect()
    }

    /// The table of MPTCP subflows, and what interfaces are called.
    pub fn subflows_and_names(&mut self) -> (Result<&mut Subflows, &mut String>, impl Fn(u32) -> Option<String>) {
        let (watched, excluded) = (&self.watched, &self.excluded);
        let name = |index: u32| {
            let interface = watched.get(&index).map(|watched| &watched.interface).or_else(|| excluded.get(&index));
            interface.map(|interface| interface.name.clone())
        };
        (self.kernel.subflows.as_mut(), name)
    }

    /// The means by which programs are attached.
    pub fn method(&self) -> Method {
        self.attacher.method()
    }

    fn watch(&mut self, interface: link::Interface) {
        let index = interface.index;
        let mut watched = Watched {
            interface,
            place: None,
            base: [[Counter::default(); CLASS_SLOTS]; 2],
            hooks: Direction::ALL.map(|_| Err("not attached yet".to_owned())),
            ahead: [0; 2],
        };
        let outcome = self.settle(&mut watched);
        if watched.slot() == OTHER_SLOT {
            let reason = outcome.err().unwrap_or_else(|| "max_interfaces is reached".to_owned());
            tracing::warn!(interface = watched.interface.name, reason, "counted under _other");
            self.troubles.folded += 1;
        }
        self.watched.insert(index, watched);
        self.plan_to_attach(index);
    }

    fn plan_to_attach(&mut self, index: u32) {
        if self.watched.get(&index).is_some_and(|watched| watched.hooks.iter().any(Result::is_err)) {
            self.pending.insert(index);
        }
    }

    /// Gives an interface the best place that there is, and tells the kernel side of it before anything is attached: so no
    /// packet is counted in the wrong place.
    fn settle(&mut self, watched: &mut Watched) -> Result<(), String> {
        let place = self.slots.take(watched.interface.index, watched.place);
        let place = place.ok_or("the kernel's interface table is full around this index")?;
        if watched.place == Some(place) {
            return Ok(());
        }
        match self.prepare(&watched.interface, place) {
            Ok(base) => (watched.base, watched.place) = (base, Some(place)),
            Err(error) => {
                self.take_back(place);
                watched.place = None;
                return Err(error);
            }
        }
        Ok(())
    }

    /// What the slot counted for others before; from now on it counts for this interface.
    fn prepare(&mut self, interface: &link::Interface, place: Place) -> Result<[Classes; 2], String> {
        self.kernel.counters.reach(place.slot).map_err(|error| error.to_string())?;
        let base = Direction::ALL.map(|direction| self.kernel.counters.sum(place.slot, direction));
        let written =
            self.kernel.set_interface(place.entry, entry_of(interface, self.kernel.counters.first(place.slot)));
        written.map(|()| base).map_err(|error| error.to_string())
    }

    fn attach_missing(&mut self, index: u32) {
        let Some(watched) = self.watched.get_mut(&index) else { return };
        for direction in Direction::ALL {
            let hook = &mut watched.hooks[direction as usize];
            if hook.is_ok() {
                continue;
            }
            *hook = match self.attacher.attach(self.kernel.program(direction), index, direction) {
                Ok(attachment) => {
                    // Only now is it known that the interface was not about to go, and its programs with it.
                    if hook.as_ref().err().is_some_and(|error| error == REMOVED) {
                        let (interface, direction) = (&watched.interface.name, direction.name());
                        tracing::warn!(interface, direction, "somebody removed our program; it is attached again");
                        self.troubles.attachments_lost += 1;
                    }
                    Ok(attachment)
                }
                Err(error) => {
                    let text = error.to_string();
                    // Gone already: its own event is on the way.
                    if !error.interface_is_gone() {
                        self.troubles.attach_failures += 1;
                        // It is tried again and again; what has been said need not be repeated.
                        if hook.as_ref().err() != Some(&text) {
                            let (interface, direction) = (&watched.interface.name, direction.name());
                            tracing::warn!(interface, direction, error = text, "cannot attach");
                        }
                    }
                    Err(text)
                }
            };
        }
    }

    /// Detaches from an interface and gives its slot to the next.
    fn release(&mut self, index: u32) {
        self.pending.remove(&index);
        let Some(watched) = self.watched.remove(&index) else { return };
        if let Some(place) = self.detach(index, watched) {
            self.take_back(place);
            self.settle_folded();
        }
    }

    fn detach(&mut self, index: u32, watched: Watched) -> Option<Place> {
        for attachment in watched.hooks.into_iter().flatten() {
            if let Err(error) = self.attacher.detach(index, attachment) {
                tracing::warn!(interface = watched.interface.name, %error, "cannot detach");
            }
        }
        watched.place
    }

    fn take_back(&mut self, place: Place) {
        if let Err(error) = self.kernel.set_interface(place.entry, InterfaceSlot::default()) {
            tracing::warn!(%error, "cannot clear an entry of the kernel's interface table");
        }
        self.slots.free(place);
    }

    /// Gives a place that has become free to an interface that had to do without.
    fn settle_folded(&mut self) {
        let has_free = self.slots.has_free();
        let could_gain = |watched: &Watched| watched.place.is_none_or(|place| has_free && place.slot == OTHER_SLOT);
        let waiting: Vec<u32> = self.watched.iter().filter(|(_, w)| could_gain(w)).map(|(index, _)| *index).collect();
        for index in waiting {
            let Some(mut watched) = self.watched.remove(&index) else { continue };
            if let Err(error) = self.settle(&mut watched) {
                tracing::debug!(interface = watched.interface.name, error, "still counted under _other");
            }
            self.watched.insert(index, watched);
        }
    }
}

/// What the kernel side has to know of an interface.
fn entry_of(interface: &link::Interface, first_counter: u32) -> InterfaceSlot {
    InterfaceSlot {
        ifindex: interface.index,
        first_counter,
        link: interface.link() as u8,
        uncounted: interface.uncounted(),
        flags: flags(interface),
    }
}

fn flags(interface: &link::Interface) -> u8 {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    flag(interface.holds_ip, interface_flags::COUNTS_SUBFLOWS)
        | flag(interface.is_inside_ipsec(), interface_flags::INSIDE_IPSEC)
}

/// Whether the kernel side sees both alike. The type of an interface can change (TUNSETLINK, and bonds of InfiniBand), and it
/// may become a bridge's port.
fn same_framing(a: &link::Interface, b: &link::Interface) -> bool {
    entry_of(a, 0) == InterfaceSlot { ifindex: a.index, ..entry_of(b, 0) }
}
