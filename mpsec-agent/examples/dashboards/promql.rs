//! PromQL, put together so that it cannot name a label that its series do not carry, nor join series whose labels
//! differ. Such a mistake stops the generator, with the query's text.

use std::collections::BTreeSet;
use std::fmt;

use mpsec_agent::metrics::{Kind, Metric};

/// Labels that Prometheus gives to whatever it scrapes.
pub const TARGET: [&str; 2] = ["job", "instance"];
/// From this length on an operation has a line of its own.
const LONG: usize = 100;

type Labels = BTreeSet<String>;

/// A selection of series.
#[derive(Clone, Debug)]
pub struct Select {
    name: String,
    counter: bool,
    labels: Labels,
    matchers: Vec<String>,
}

/// A query, or a part of one.
#[derive(Clone, Debug)]
pub struct Expr {
    text: String,
    /// The labels that its series carry; `None` for a number.
    labels: Option<Labels>,
    compound: bool,
}

/// A metric of the agent's tables, but for histograms.
pub fn of(metric: &Metric) -> Select {
    assert!(!matches!(metric.kind, Kind::Histogram(_)), "{} is a histogram: ask for its buckets", metric.name);
    Select::new(metric.sample_name(), metric.kind == Kind::Counter, metric.labels)
}

/// The buckets of a histogram, which are counters with one label more: `le`.
pub fn buckets(metric: &Metric) -> Select {
    assert!(matches!(metric.kind, Kind::Histogram(_)), "{} is no histogram", metric.name);
    Select::new(format!("{}_bucket", metric.name), true, &[metric.labels, &["le"]].concat())
}

/// A gauge about the agent's process, as every Prometheus client has it.
pub fn process(name: &str) -> Select {
    Select::new(name.to_owned(), name.ends_with("_total"), &[])
}

/// A gauge that Prometheus itself makes for each target.
pub fn target(name: &str) -> Select {
    Select::new(name.to_owned(), false, &[])
}

/// The result of a recording rule.
pub fn recorded(name: &str, labels: &[&str]) -> Select {
    Select::new(name.to_owned(), false, labels)
}

/// A number.
pub fn number(value: impl fmt::Display) -> Expr {
    Expr { text: value.to_string(), labels: None, compound: false }
}

/// The time of evaluation, in Unix time.
pub fn time() -> Expr {
    number("time()")
}

impl Select {
    fn new(name: String, counter: bool, labels: &[&str]) -> Select {
        let labels = TARGET.iter().chain(labels).map(|label| (*label).to_owned()).collect();
        Select { name, counter, labels, matchers: Vec::new() }
    }

    /// Only series whose label has this value.
    pub fn is(self, label: &str, value: &str) -> Select {
        self.matching(label, "=", value)
    }

    /// Only series whose label has another value.
    pub fn other_than(self, label: &str, value: &str) -> Select {
        self.matching(label, "!=", value)
    }

    /// Only series whose label matches this expression as a whole.
    pub fn like(self, label: &str, regex: &str) -> Select {
        self.matching(label, "=~", regex)
    }

    /// Only series whose label does not match this expression.
    pub fn unlike(self, label: &str, regex: &str) -> Select {
        self.matching(label, "!~", regex)
    }

    fn matching(mut self, label: &str, operator: &str, value: &str) -> Select {
        assert!(self.labels.contains(label), "{} has no label {label}", self.name);
        self.matchers.push(format!("{label}{operator}\"{value}\""));
        self
    }

    /// The values of a gauge.
    pub fn now(&self) -> Expr {
        assert!(!self.counter, "{} is a counter: how much it rises is what can be told", self.name);
        Expr { text: self.text(), labels: Some(self.labels.clone()), compound: false }
    }

    /// The largest value that a gauge had.
    pub fn max_over(&self, window: &str) -> Expr {
        assert!(!self.counter, "{} is a counter: how much it rises is what can be told", self.name);
        let text = format!("max_over_time({}[{window}])", self.text());
        Expr { text, labels: Some(self.labels.clone()), compound: false }
    }

    /// What a counter has come to since its agent started.
    pub fn so_far(&self) -> Expr {
        assert!(self.counter, "{} is no counter", self.name);
        Expr { text: self.text(), labels: Some(self.labels.clone()), compound: false }
    }

    /// How fast a counter rises, a second.
    pub fn rate(&self, window: &str) -> Expr {
        self.rise("rate", window)
    }

    /// How much a counter rose.
    pub fn increase(&self, window: &str) -> Expr {
        self.rise("increase", window)
    }

    fn rise(&self, function: &str, window: &str) -> Expr {
        assert!(self.counter, "{} is no counter", self.name);
        let text = format!("{function}({}[{window}])", self.text());
        Expr { text, labels: Some(self.labels.clone()), compound: false }
    }

    /// The selector's text.
    pub fn text(&self) -> String {
        match self.matchers.as_slice() {
            [] => self.name.clone(),
            matchers => format!("{}{{{}}}", self.name, matchers.join(",")),
        }
    }
}

impl Expr {
    /// The sum over what differs in other labels than these.
    pub fn sum_by(self, labels: &[&str]) -> Expr {
        self.aggregate("sum", labels)
    }

    /// The largest of those that differ in other labels than these.
    pub fn max_by(self, labels: &[&str]) -> Expr {
        self.aggregate("max", labels)
    }

    /// 1 for each set of values of these labels.
    pub fn group_by(self, labels: &[&str]) -> Expr {
        self.aggregate("group", labels)
    }

    fn aggregate(self, function: &str, labels: &[&str]) -> Expr {
        for label in labels {
            assert!(self.carries(label), "{self} has no label {label}");
        }
        let by = if labels.is_empty() { String::new() } else { format!(" by ({})", labels.join(", ")) };
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Expr { text: format!("{function}{by} ({})", self.text), labels: Some(labels), compound: false }
    }

    /// The `count` largest.
    pub fn largest(self, count: usize) -> Expr {
        Expr { text: format!("topk({count}, {})", self.text), compound: false, ..self }
    }

    /// The `count` smallest.
    pub fn smallest(self, count: usize) -> Expr {
        Expr { text: format!("bottomk({count}, {})", self.text), compound: false, ..self }
    }

    /// `self operator other`, for series with the same labels, or a series and a number.
    pub fn op(self, operator: &str, other: Expr) -> Expr {
        if let (Some(left), Some(right)) = (&self.labels, &other.labels) {
            assert_eq!(left, right, "the labels of {self} and {other} differ");
        }
        self.joined(operator, other)
    }

    /// `self operator on (labels) group_left other`: for each of several series on the left the one on the right that
    /// has the same values of these labels.
    pub fn op_many_to_one(self, operator: &str, labels: &[&str], other: Expr) -> Expr {
        for label in labels {
            assert!(self.carries(label) && other.carries(label), "{self} or {other} has no label {label}");
        }
        self.joined(&format!("{operator} on ({}) group_left ()", labels.join(", ")), other)
    }

    /// Only series for which there is one in `other` that has the same values of these labels.
    pub fn where_there_is(self, labels: &[&str], other: Expr) -> Expr {
        for label in labels {
            assert!(self.carries(label) && other.carries(label), "{self} or {other} has no label {label}");
        }
        let kept = self.labels.clone();
        Expr { labels: kept, ..self.joined(&format!("and on ({})", labels.join(", ")), other) }
    }

    /// The value that this part of a histogram's observations, from 0 to 1, does not exceed.
    pub fn quantile(self, part: f64) -> Expr {
        assert!(self.carries("le"), "{self} has no buckets");
        let labels = self.labels.map(|labels| labels.into_iter().filter(|label| label != "le").collect());
        Expr { text: format!("histogram_quantile({part}, {})", self.text), labels, compound: false }
    }

    fn joined(self, operator: &str, other: Expr) -> Expr {
        let (left, right) = (self.operand(), other.operand());
        let break_ = if left.len() + right.len() > LONG { '\n' } else { ' ' };
        let labels = self.labels.or(other.labels);
        Expr { text: format!("{left}{break_}{operator} {right}"), labels, compound: true }
    }

    /// The text as a part of an operation.
    fn operand(&self) -> String {
        if self.compound { format!("({})", self.text) } else { self.text.clone() }
    }

    /// True if its series carry this label.
    pub fn carries(&self, label: &str) -> bool {
        self.labels.as_ref().is_some_and(|labels| labels.contains(label))
    }

    /// Stops at a `{open label close}` in `text` that its series do not carry, so that no legend has a hole.
    pub fn check_template(&self, text: &str, open: &str, close: &str) {
        for part in text.split(open).skip(1) {
            let label = part.split(close).next().unwrap_or_default().trim();
            assert!(self.carries(label), "{text:?} names the label {label:?}, which is not in {self}");
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The part `encrypted` of `judged`, from 0 to 1. Without a single encrypted byte it is 0 and not absent; without any
/// byte that could be judged there is none.
pub fn share(encrypted: Expr, judged: Expr) -> Expr {
    let nothing = judged.clone().op("*", number(0));
    encrypted.op("or", nothing).op("/", judged.op(">", number(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::{ATTACHED, BYTES, RTT};

    #[test]
    fn operations_keep_their_operands_together() {
        let bits = of(BYTES).is("class", "esp").rate("5m").sum_by(&["class"]).op("*", number(8));
        assert_eq!(bits.to_string(), r#"sum by (class) (rate(mpsec_interface_bytes_total{class="esp"}[5m])) * 8"#);
        let missing = number(1).op("-", of(ATTACHED).now()).op("*", number(2));
        assert_eq!(missing.to_string(), "(1 - mpsec_interface_attached) * 2");
    }

    #[test]
    #[should_panic(expected = "mpsec_interface_bytes_total has no label colour")]
    fn a_label_that_is_not_there_stops() {
        let _ = of(BYTES).is("colour", "red");
    }

    #[test]
    #[should_panic(expected = "has no label class")]
    fn a_label_that_was_summed_away_stops() {
        let _ = of(BYTES).rate("5m").sum_by(&["interface"]).sum_by(&["class"]);
    }

    #[test]
    #[should_panic(expected = "differ")]
    fn series_with_different_labels_do_not_meet() {
        let _ = of(BYTES).rate("5m").op("/", of(ATTACHED).now());
    }

    #[test]
    #[should_panic(expected = "is a counter")]
    fn the_value_of_a_counter_is_not_taken_for_a_gauge() {
        let _ = of(BYTES).now();
    }

    #[test]
    fn quantiles_are_of_buckets() {
        let rtt = buckets(RTT).rate("5m").sum_by(&["interface", "le"]).quantile(0.5);
        let text = "histogram_quantile(0.5, sum by (interface, le) (rate(mpsec_path_rtt_seconds_bucket[5m])))";
        assert_eq!(rtt.to_string(), text);
        assert!(rtt.carries("interface") && !rtt.carries("le"));
    }

    #[test]
    #[should_panic(expected = "has no buckets")]
    fn a_quantile_of_sums_without_buckets_stops() {
        let _ = buckets(RTT).rate("5m").sum_by(&["interface"]).quantile(0.5);
    }

    #[test]
    #[should_panic(expected = "is a histogram")]
    fn a_histogram_has_no_single_value() {
        let _ = of(RTT);
    }

    #[test]
    #[should_panic(expected = "names the label \"class\"")]
    fn a_legend_has_no_hole() {
        of(BYTES).rate("5m").sum_by(&["interface"]).check_template("{{interface}} {{class}}", "{{", "}}");
    }
}
