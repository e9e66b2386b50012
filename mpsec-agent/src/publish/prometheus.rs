//! The Prometheus text format, classic and OpenMetrics, written straight into a buffer.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::fmt::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};

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
    let mut text = BytesMut::with_capacity(capacity);
    for metric in metrics::all() {
        family(&mut text, metric, snapshot, dialect);
    }
    process(&mut text, dialect);
    if dialect == Dialect::OpenMetrics {
        text.put_slice(b"# EOF\n");
    }
    text.freeze()
}

/// One family; nothing at all if it has no samples.
fn family(text: &mut BytesMut, metric: &Metric, snapshot: &Snapshot, dialect: Dialect) {
    let name = metric.sample_name();
    let mut started = false;
    (metric.samples)(snapshot, &mut |values, value| {
        if !started {
            let family = if dialect == Dialect::OpenMetrics { metric.name } else { &name };
            head(text, family, metric.help, metric.kind, metric.unit, dialect);
            started = true;
        }
        text.put_slice(name.as_bytes());
        labels(text, metric.labels.iter().copied().zip(values.iter().copied()));
        number(text, value);
    });
}

fn head(text: &mut BytesMut, family: &str, help: &str, kind: Kind, unit: Unit, dialect: Dialect) {
    for part in ["# HELP ", family, " "] {
        text.put_slice(part.as_bytes());
    }
    escape(text, help, dialect == Dialect::OpenMetrics);
    for part in ["\n# TYPE ", family, " ", kind.name(), "\n"] {
        text.put_slice(part.as_bytes());
    }
    if dialect == Dialect::OpenMetrics && unit != Unit::None {
        for part in ["# UNIT ", family, " ", unit.name(), "\n"] {
            text.put_slice(part.as_bytes());
        }
    }
}

fn labels<'a>(text: &mut BytesMut, labels: impl Iterator<Item = (&'a str, &'a str)>) {
    let mut separator = b'{';
    for (name, value) in labels {
        text.put_u8(separator);
        text.put_slice(name.as_bytes());
        text.put_slice(b"=\"");
        escape(text, value, true);
        text.put_u8(b'"');
        separator = b',';
    }
    text.put_slice(if separator == b'{' { b" " } else { b"} " });
}

/// Backslashes and line ends are escaped everywhere, quotes in label values and in OpenMetrics' help texts.
fn escape(text: &mut BytesMut, value: &str, quotes: bool) {
    let mut rest = value.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\n') || (quotes && *byte == b'"')) {
        text.put_slice(&rest[..at]);
        text.put_slice(match rest[at] {
            b'\n' => b"\\n",
            b'"' => b"\\\"",
            _ => b"\\\\",
        });
        rest = &rest[at + 1..];
    }
    text.put_slice(rest);
}

fn number(text: &mut BytesMut, value: Value) {
    match value {
        Value::Integer(value) => text.put_slice(itoa::Buffer::new().format(value).as_bytes()),
        Value::Float(value) => write!(text, "{value}").expect("writing to memory does not fail"),
    }
    text.put_u8(b'\n');
}

/// The process's own metrics, from the prometheus crate's collector.
fn process(text: &mut BytesMut, dialect: Dialect) {
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
            text.put_slice(name.as_bytes());
            labels(text, std::iter::empty());
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
        let mut text = BytesMut::new();
        escape(&mut text, value, quotes);
        String::from_utf8(text.to_vec()).expect("what was text stays text")
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escaped(r#"a"b\c"#, true), r#"a\"b\\c"#);
        assert_eq!(escaped("a\nb", true), r"a\nb");
        assert_eq!(escaped(r#"a"b"#, false), r#"a"b"#);
        assert_eq!(escaped("wan0", true), "wan0");
    }
}
