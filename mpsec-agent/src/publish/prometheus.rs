//! The Prometheus text format, classic and OpenMetrics, written straight into a buffer.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

mod histogram;

use std::io::Write as _;

use bytes::Bytes;

use crate::metrics::{self, Kind, Metric, Unit, Value};
use crate::snapshot::Snapshot;

/// The two dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Text format 0.0.4.
    Classic,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// Every metric of the tables and of the process, as text.
pub fn render(snapshot: &Snapshot, dialect: Dialect, capacity: usize) -> Bytes {
    let mut text = Vec::with_capacity(capacity);
    for metric in metrics::all() {
        family(&mut text, metric, snapshot, dialect);
    }
    process(&mut text, dialect);
    if dialect == Dialect::OpenMetrics {
        text.extend_from_slice(b"# EOF\n");
    }
    Bytes::from(text)
}

/// One family; nothing at all if it has no samples.
fn family(text: &mut Vec<u8>, metric: &Metric, snapshot: &Snapshot, dialect: Dialect) {
    if let Kind::Histogram(bounds) = metric.kind {
        return histogram::family(text, metric, bounds, snapshot, dialect);
    }
    let mut line: Option<Line<'_>> = None;
    (metric.samples)(snapshot, &mut |values, value| {
        let line = match &mut line {
            Some(line) => line,
            None => line.insert(start(text, metric, dialect)),
        };
        line.begin(text, values);
        number(text, value);
    });
}

/// Writes what stands in front of a family's first sample. Most families of a host without MPTCP never have one.
#[cold]
fn start<'a>(text: &mut Vec<u8>, metric: &Metric, dialect: Dialect) -> Line<'a> {
    let name = metric.sample_name();
    let family = if dialect == Dialect::OpenMetrics { metric.name } else { &name };
    head(text, family, metric.help, metric.kind, metric.unit, dialect);
    Line::new(&name, metric.labels)
}

/// What a family's lines begin with. Neighbouring samples differ in their last label alone, as a rule, so what is in front
/// of its value is kept.
struct Line<'a> {
    /// What stands before each label's value.
    before: Vec<String>,
    /// What stands behind the last one.
    behind: String,
    /// The values, but for the last, that `start` is for.
    values: Vec<&'a str>,
    start: Vec<u8>,
}

impl<'a> Line<'a> {
    fn new(name: &str, labels: &[&str]) -> Line<'a> {
        let first = |label| format!("{name}{{{label}=\"");
        let other = |label| format!("\",{label}=\"");
        let before =
            labels.iter().enumerate().map(|(index, label)| if index == 0 { first(label) } else { other(label) });
        let behind = if labels.is_empty() { format!("{name} ") } else { "\"} ".to_owned() };
        Line { before: before.collect(), behind, values: Vec::new(), start: Vec::new() }
    }

    fn begin(&mut self, text: &mut Vec<u8>, values: &[&'a str]) {
        if let Some((last, values)) = values.split_last() {
            if self.start.is_empty() || !same(&self.values, values) {
                self.restart(values);
            }
            text.extend_from_slice(&self.start);
            escape(text, last, true);
        }
        text.extend_from_slice(self.behind.as_bytes());
    }

    fn restart(&mut self, values: &[&'a str]) {
        self.start.clear();
        for (index, before) in self.before.iter().enumerate() {
            self.start.extend_from_slice(before.as_bytes());
            if let Some(value) = values.get(index) {
                escape(&mut self.start, value, true);
            }
        }
        self.values.clear();
        self.values.extend_from_slice(values);
    }
}

/// True when the strings are the very same, not copies: nearly always what there is to know, and quicker known than whether
/// they are equal.
fn same<'a>(a: &[&'a str], b: &[&'a str]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| std::ptr::eq(*a, *b))
}

fn head(text: &mut Vec<u8>, family: &str, help: &str, kind: Kind, unit: Unit, dialect: Dialect) {
    for part in ["# HELP ", family, " "] {
        text.extend_from_slice(part.as_bytes());
    }
    escape(text, help, dialect == Dialect::OpenMetrics);
    for part in ["\n# TYPE ", family, " ", kind.name(), "\n"] {
        text.extend_from_slice(part.as_bytes());
    }
    if dialect == Dialect::OpenMetrics && unit != Unit::None {
        for part in ["# UNIT ", family, " ", unit.name(), "\n"] {
            text.extend_from_slice(part.as_bytes());
        }
    }
}

/// Backslashes and line ends are escaped everywhere, quotes in label values and in OpenMetrics' help texts.
fn escape(text: &mut Vec<u8>, value: &str, quotes: bool) {
    // Nearly no value has anything to escape. To look at all of a short one without a branch is the quickest way to know.
    if value.bytes().fold(false, |special, byte| special | SPECIAL[usize::from(byte)]) {
        escape_slowly(text, value, quotes);
    } else {
        text.extend_from_slice(value.as_bytes());
    }
}

/// Bytes that may have to be escaped.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    special[b'\\' as usize] = true;
    special[b'\n' as usize] = true;
    special[b'"' as usize] = true;
    special
};

#[cold]
fn escape_slowly(text: &mut Vec<u8>, value: &str, quotes: bool) {
    for byte in value.bytes() {
        match byte {
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\\' => text.extend_from_slice(b"\\\\"),
            b'"' if quotes => text.extend_from_slice(b"\\\""),
            byte => text.push(byte),
        }
    }
}

fn number(text: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Integer(value) => text.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        Value::Float(value) => write!(text, "{value}").expect("writing to memory does not fail"),
        Value::Histogram(_) => unreachable!("a metric of another kind gives no histogram"),
    }
    text.push(b'\n');
}

/// The process's own metrics, from the prometheus crate's collector.
fn process(text: &mut Vec<u8>, dialect: Dialect) {
    for family in prometheus::gather() {
        let name = family.name();
        let kind = match family.get_field_type() {
            prometheus::proto::MetricType::COUNTER => Kind::Counter,
            _ => Kind::Gauge,
        };
        let short = if dialect == Dialect::OpenMetrics { name.trim_end_matches("_total") } else { name };
        let unit = if short.ends_with("_bytes") {
            Unit::Bytes
        } else if short.ends_with("_seconds") {
            Unit::Seconds
        } else {
            Unit::None
        };
        head(text, short, family.help(), kind, unit, dialect);
        for metric in family.get_metric() {
            text.extend_from_slice(name.as_bytes());
            text.push(b' ');
            let value =
                if kind == Kind::Counter { metric.get_counter().get_value() } else { metric.get_gauge().get_value() };
            number(text, Value::Float(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(value: &str, quotes: bool) -> String {
        let mut text = Vec::new();
        escape(&mut text, value, quotes);
        String::from_utf8(text).expect("what was text stays text")
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escaped(r#"a"b\c"#, true), r#"a\"b\\c"#);
        assert_eq!(escaped("a\nb", true), r"a\nb");
        assert_eq!(escaped(r#"a"b"#, false), r#"a"b"#);
        assert_eq!(escaped("wan0", true), "wan0");
    }
}
