//! THE tables: one row a metric, with its name, help, unit, labels and where its values are in a [`Snapshot`].
//!
//! Everything that publishes walks over these rows; dashboards, alert rules and METRICS.md are made from them.

mod agent;
mod interface;

use crate::snapshot::Snapshot;

pub use agent::AGENT;
pub use interface::INTERFACE;

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
pub type Sample<'s, 'a> = &'s mut dyn FnMut(&[&'a str], Value);

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, and restarts at 0 with the agent or the interface.
    Counter,
    /// Rises and falls.
    Gauge,
}

impl Kind {
    /// The type's name in the exposition formats.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
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
}

impl Unit {
    /// The unit's name, as it ends a metric's name; empty for a bare number.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
        }
    }
}

/// The value of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Integer(u64),
    /// Any other.
    Float(f64),
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Integer(value as u64)
    }
}

/// All tables, in the order in which they are published.
pub const TABLES: [&[Metric]; 2] = [INTERFACE, AGENT];

/// Every metric.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    TABLES.into_iter().flatten()
}

impl Metric {
    /// The name that a sample carries in the classic text format and in queries.
    pub fn sample_name(&self) -> String {
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{suffix}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
