//! THE tables: one row a metric, with its name, help, unit, labels and where its values are in a [`Snapshot`].
//!
//! Everything that publishes walks over these rows; dashboards, alert rules and METRICS.md are made from them.

mod agent;
mod control;
mod interface;
mod mib;
mod mptcp;
mod path;
mod subflow;

use crate::snapshot::Snapshot;
use crate::snapshot::mptcp::Histogram;

pub use agent::AGENT;
pub use control::CONTROL;
pub use interface::INTERFACE;
pub use mib::{GROUPS as MIB, Group as MibGroup, OTHER as MIB_OTHER};
pub use mptcp::MPTCP;
pub use path::PATH;
pub use subflow::SUBFLOW;

/// One metric family.
pub struct Metric {
    /// Name without the suffix `_total`, which a counter's samples carry.
    pub name: &'static str,
    /// One or two sentences.
    pub help: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// The unit, which the name ends with.
    pub unit: Unit,
    /// Label names, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// Hands every sample's label values and value on.
    pub samples: for<'a> fn(&'a Snapshot, Sample<'_, 'a>),
}

/// Takes the label values and the value of one sample.
///
/// Label values live as long as the snapshot, so that whoever takes them may keep them and know them again by their address.
pub type Sample<'s, 'a> = &'s mut dyn FnMut(&[&'a str], Value<'a>);

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only rises, and restarts at 0 with the agent or the interface.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Observations by size. These are the upper bounds of its buckets, rising; one more bucket is beyond all of them.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The type's name in the exposition formats.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// Base units (Prometheus' naming practices).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A bare number.
    None,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Bytes a second.
    BytesPerSecond,
}

impl Unit {
    /// The unit's name, as it ends a metric's name; empty for a bare number.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::BytesPerSecond => "bytes_per_second",
        }
    }
}

/// The value of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A whole number.
    Integer(u64),
    /// Any other.
    Float(f64),
    /// What a metric of [`Kind::Histogram`] gives, and no other.
    Histogram(&'a Histogram),
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Value::Integer(value as u64)
    }
}

/// All tables, in the order in which they are published.
pub const TABLES: [&[Metric]; 14] = [
    INTERFACE,
    PATH,
    MPTCP,
    MIB[0].metrics,
    MIB[1].metrics,
    MIB[2].metrics,
    MIB[3].metrics,
    MIB[4].metrics,
    MIB[5].metrics,
    MIB[6].metrics,
    MIB_OTHER,
    SUBFLOW,
    CONTROL,
    AGENT,
];

/// Every metric.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    TABLES.into_iter().flatten()
}

impl Metric {
    /// The name that a sample carries in the classic text format and in queries. The samples of a histogram have `_bucket`,
    /// `_sum` or `_count` behind it.
    pub fn sample_name(&self) -> String {
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{suffix}", self.name)
    }
}

/// A bound of a bucket as the label `le` has it: a label is known again by its text alone, so the text of a number must
/// always be the same one (OpenMetrics 1.0.0, "Canonical Numbers"): Go's shortest `%g`, and `.0` behind a whole number.
pub fn canonical(bound: f64) -> String {
    let shortest = format!("{bound:e}");
    match shortest.split_once('e').and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?))) {
        Some((digits, exponent)) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => format!("{bound:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_text() {
        for (bound, text) in [
            (1.0, "1.0"),
            (0.0001, "0.0001"),
            (0.00025, "0.00025"),
            (2.5, "2.5"),
            (1e-5, "1e-05"),
            (1e4, "10000.0"),
            (3e5, "300000.0"),
            (1e6, "1e+06"),
            (2.5e7, "2.5e+07"),
            (1e10, "1e+10"),
        ] {
            assert_eq!(canonical(bound), text);
        }
    }

    #[test]
    fn buckets_rise_and_their_label_is_theirs_alone() {
        for metric in all() {
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(bounds.is_sorted_by(|a, b| a < b), "{}", metric.name);
                assert!(!metric.labels.contains(&"le"), "{}", metric.name);
            }
        }
    }

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = std::collections::BTreeSet::new();
        for metric in all() {
            assert!(metric.name.starts_with("mpsec_"), "{}", metric.name);
            assert!(!metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.name.ends_with(metric.unit.name()), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            assert!(seen.insert(metric.name), "{} twice", metric.name);
        }
    }
}
