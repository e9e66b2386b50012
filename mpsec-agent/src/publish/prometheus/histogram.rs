//! A histogram's lines: `_bucket` for each bound and beyond all of them, `_sum`, `_count`; alike in both dialects.

use super::{Dialect, Value, escape, head, number};
use crate::metrics::{Metric, canonical};
use crate::snapshot::Snapshot;
use crate::snapshot::mptcp::Histogram;

/// One family; nothing at all if it has no samples.
pub(super) fn family(text: &mut Vec<u8>, metric: &Metric, bounds: &[f64], snapshot: &Snapshot, dialect: Dialect) {
    let mut lines: Option<Lines> = None;
    (metric.samples)(snapshot, &mut |values, value| {
        let lines = lines.get_or_insert_with(|| {
            head(text, metric.name, metric.help, metric.kind, metric.unit, dialect);
            Lines::new(metric.name, bounds)
        });
        let Value::Histogram(histogram) = value else {
            unreachable!("{} is a histogram and gives no other value", metric.name)
        };
        lines.write(text, metric.labels, values, histogram);
    });
}

struct Lines {
    /// What a line of each suffix begins with.
    bucket: String,
    sum: String,
    count: String,
    /// What closes the labels of each bucket, the one beyond all bounds at the end.
    bounds: Vec<String>,
    /// The labels of the series that is written.
    labels: Vec<u8>,
}

impl Lines {
    fn new(name: &str, bounds: &[f64]) -> Lines {
        let bounds = bounds.iter().copied().map(canonical).chain(["+Inf".to_owned()]);
        Lines {
            bucket: format!("{name}_bucket{{"),
            sum: format!("{name}_sum{{"),
            count: format!("{name}_count{{"),
            bounds: bounds.map(|bound| format!("le=\"{bound}\"}} ")).collect(),
            labels: Vec::new(),
        }
    }

    fn write(&mut self, text: &mut Vec<u8>, names: &[&str], values: &[&str], histogram: &Histogram) {
        self.labels.clear();
        for (name, value) in names.iter().zip(values) {
            self.labels.extend_from_slice(name.as_bytes());
            self.labels.extend_from_slice(b"=\"");
            escape(&mut self.labels, value, true);
            self.labels.extend_from_slice(b"\",");
        }
        // The series' own buckets are not cumulated; one that has seen nothing yet may have none.
        let mut total = 0;
        for (index, bound) in self.bounds.iter().enumerate() {
            total += histogram.counts.get(index).copied().unwrap_or(0);
            for part in [self.bucket.as_bytes(), &self.labels, bound.as_bytes()] {
                text.extend_from_slice(part);
            }
            number(text, Value::Integer(total));
        }
        // The comma behind the last label goes.
        let labels = self.labels.strip_suffix(b",").unwrap_or(&self.labels);
        for (start, value) in [(&self.sum, Value::Float(histogram.sum)), (&self.count, Value::Integer(total))] {
            for part in [start.as_bytes(), labels, b"} "] {
                text.extend_from_slice(part);
            }
            number(text, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(histogram: &Histogram, values: &[&str]) -> String {
        let mut text = Vec::new();
        Lines::new("h", &[0.5, 1.0, 1e6]).write(&mut text, &["a", "b"], values, histogram);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn buckets_are_cumulated_and_labels_escaped() {
        let mut histogram = Histogram::default();
        for value in [0.25, 0.5, 0.75, 2e6] {
            histogram.observe(&[0.5, 1.0, 1e6], value);
        }
        let expected = "h_bucket{a=\"x\",b=\"\\\"\",le=\"0.5\"} 2\n\
                        h_bucket{a=\"x\",b=\"\\\"\",le=\"1.0\"} 3\n\
                        h_bucket{a=\"x\",b=\"\\\"\",le=\"1e+06\"} 3\n\
                        h_bucket{a=\"x\",b=\"\\\"\",le=\"+Inf\"} 4\n\
                        h_sum{a=\"x\",b=\"\\\"\"} 2000001.5\n\
                        h_count{a=\"x\",b=\"\\\"\"} 4\n";
        assert_eq!(lines(&histogram, &["x", "\""]), expected);
    }

    #[test]
    fn what_was_never_observed_is_none_of_each() {
        let text = lines(&Histogram::default(), &["", ""]);
        assert_eq!(text.lines().count(), 6);
        assert!(text.lines().all(|line| line.ends_with("} 0")), "{text}");
    }
}
