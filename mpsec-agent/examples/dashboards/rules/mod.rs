//! Prometheus' rules: what is recorded, what is alerted on, and the file in which an operator says what must be
//! encrypted.

mod alert;
mod multipath;
mod record;

use serde::Serialize;

pub use alert::alerts;
pub use record::{protected, recording};

use crate::promql::Expr;

/// The scrape job of the agents, as the scrape configuration names it.
pub const JOB: &str = "mpsec";

/// The window of recorded rates: several scrapes at any usual interval.
const WINDOW: &str = "5m";

/// A file of rules.
#[derive(Serialize)]
struct File {
    groups: Vec<Group>,
}

/// Rules that are evaluated one after the other.
#[derive(Serialize)]
struct Group {
    name: &'static str,
    rules: Vec<Rule>,
}

/// A recording or an alerting rule.
#[derive(Serialize)]
#[serde(untagged)]
enum Rule {
    Record {
        record: &'static str,
        expr: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        labels: Option<Labels>,
    },
    Alert {
        alert: &'static str,
        expr: String,
        #[serde(rename = "for")]
        for_: &'static str,
        labels: Labels,
        annotations: Annotations,
    },
}

#[derive(Serialize)]
struct Labels {
    #[serde(skip_serializing_if = "Option::is_none")]
    protection: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<&'static str>,
}

#[derive(Serialize)]
struct Annotations {
    summary: &'static str,
    description: &'static str,
}

fn record(record: &'static str, expr: &Expr, protection: Option<&'static str>) -> Rule {
    let labels = protection.map(|protection| Labels { protection: Some(protection), severity: None });
    Rule::Record { record, expr: expr.to_string(), labels }
}

/// The file's text, below a comment.
fn yaml(comment: &str, group: Group) -> anyhow::Result<String> {
    let comment: String = comment.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect();
    Ok(comment + &serde_yaml_ng::to_string(&File { groups: vec![group] })?)
}
