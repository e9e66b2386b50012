//! What the agent says that it counted.

use std::collections::BTreeMap;
use std::ops::{Add, AddAssign, Sub};

use anyhow::{Context, Result, ensure};

use crate::exposition::Exposition;
use crate::frames::Case;

/// The metrics of one class, each with a field of [`Counted`].
const PACKETS: &str = "mpsec_interface_packets_total";
const BYTES: &str = "mpsec_interface_bytes_total";
const L3_BYTES: &str = "mpsec_interface_l3_bytes_total";

/// The interface that stands for those beyond the limit.
pub const OVERFLOW: &str = "_other";

/// A sum of packets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counted {
    /// Packets on the wire.
    pub packets: u64,
    /// Bytes on the wire, link header included.
    pub bytes: u64,
    /// Bytes from the network header on.
    pub l3_bytes: u64,
}

impl Counted {
    /// What one frame adds.
    pub fn of(case: &Case) -> Self {
        Self { packets: 1, bytes: case.wire_bytes(), l3_bytes: case.l3_bytes() }
    }

    /// What `packets` packets add that hold `l3_bytes` bytes together, each behind `link_len` bytes of link header.
    pub fn new(packets: u64, l3_bytes: u64, link_len: u64) -> Self {
        Self { packets, bytes: l3_bytes + packets * link_len, l3_bytes }
    }
}

impl Add for Counted {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            l3_bytes: self.l3_bytes + other.l3_bytes,
        }
    }
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Counted {
    type Output = Self;

    /// What came since `before`; a counter that went back is a failed test.
    fn sub(self, before: Self) -> Self {
        let since = |now: u64, then: u64| now.checked_sub(then).expect("a counter never goes back");
        Self {
            packets: since(self.packets, before.packets),
            bytes: since(self.bytes, before.bytes),
            l3_bytes: since(self.l3_bytes, before.l3_bytes),
        }
    }
}

/// The classes of one interface and direction that have seen something.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Classes(pub BTreeMap<String, Counted>);

impl Classes {
    /// Reads them. The three metrics must have the same series, and none that is zero.
    pub fn read(exposition: &Exposition, interface: &str, direction: &str) -> Result<Self> {
        let wanted = [("interface", interface), ("direction", direction)];
        let mut classes = BTreeMap::new();
        for (labels, packets) in exposition.select(PACKETS, &wanted) {
            let class = labels.get("class").context("a series without a class")?;
            let netns = labels.get("netns").map(String::as_str).unwrap_or_default();
            let exact = [("netns", netns), wanted[0], wanted[1], ("class", class.as_str())];
            let other = |name: &str| exposition.get(name, &exact).with_context(|| format!("no {name} of {class}"));
            let (bytes, l3_bytes) = (other(BYTES)?.whole()?, other(L3_BYTES)?.whole()?);
            let counted = Counted { packets: packets.whole()?, bytes, l3_bytes };
            ensure!(counted.packets > 0, "{class} of {interface} has a series and saw nothing");
            classes.insert(class.clone(), counted);
        }
        for name in [BYTES, L3_BYTES] {
            ensure!(exposition.select(name, &wanted).count() == classes.len(), "{name} has series of its own");
        }
        Ok(Self(classes))
    }

    /// One class; nothing where it has no series.
    pub fn get(&self, class: &str) -> Counted {
        self.0.get(class).copied().unwrap_or_default()
    }

    /// All classes together.
    pub fn total(&self) -> Counted {
        self.0.values().copied().fold(Counted::default(), Add::add)
    }

    /// What came since `before`, without the classes that nothing came of.
    pub fn since(&self, before: &Self) -> Self {
        let all = self.0.iter().map(|(class, now)| (class.clone(), *now - before.get(class)));
        Self(all.filter(|(_, counted)| *counted != Counted::default()).collect())
    }
}

/// The interfaces that have a series.
pub fn interfaces(exposition: &Exposition) -> std::collections::BTreeSet<String> {
    exposition.label_values(PACKETS, "interface")
}
