//! What lies in the tree is what the tables give, and its shape is what Grafana takes.

use std::collections::BTreeSet;

use mpsec_agent::metrics;
use serde_json::Value;

use super::*;
use crate::metric::NOT_SHOWN;

#[test]
fn what_lies_in_the_tree_is_not_stale() {
    check().unwrap_or_else(|stale| panic!("{stale}"));
}

/// A new metric needs a panel, a rule, or a line that says why it has none.
#[test]
fn every_metric_is_used_or_left_out_with_a_reason() -> Result<()> {
    let mut text: String =
        files()?.into_iter().filter(|(path, _)| !path.ends_with("METRICS.md")).map(|file| file.1).collect();
    for dashboard in dashboards() {
        text.extend(dashboard.rows.iter().flat_map(|row| &row.panels).flat_map(|panel| panel.queries()));
    }
    let words: BTreeSet<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    let left_out: BTreeSet<&str> = NOT_SHOWN.iter().map(|(metric, _)| metric.name).collect();
    for metric in metrics::all() {
        let suffix = if matches!(metric.kind, metrics::Kind::Histogram(_)) { "_bucket" } else { "" };
        let used = words.contains(format!("{}{suffix}", metric.sample_name()).as_str());
        assert!(used != left_out.contains(metric.name), "{}: used: {used}", metric.name);
    }
    Ok(())
}

#[test]
fn process_metrics_are_those_that_the_agent_gives() {
    let given: BTreeSet<String> = ::prometheus::gather().iter().map(|family| family.name().to_owned()).collect();
    let dashboard = json::tidy(&host::dashboard().json());
    let words =
        dashboard.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| word.starts_with("process_"));
    for word in words {
        assert!(given.contains(word), "{word} is none of {given:?}");
    }
}

#[test]
fn every_panel_is_whole() {
    for dashboard in dashboards() {
        panels_are_whole(&dashboard.json());
    }
}

fn panels_are_whole(dashboard: &Value) {
    for key in ["title", "uid", "schemaVersion", "time", "templating", "panels"] {
        assert!(!dashboard[key].is_null(), "{key}");
    }
    let mut ids = BTreeSet::new();
    for panel in panels(dashboard) {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: id twice");
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|about| about.ends_with('.')), "{title}: description");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}: unit");
        assert!(panel["options"].is_object() && panel["datasource"]["uid"] == "${datasource}", "{title}");
        let targets = panel["targets"].as_array().expect("targets");
        let letters: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str().expect("a refId")).collect();
        assert!(!targets.is_empty() && letters.len() == targets.len(), "{title}: {letters:?}");
        for target in targets {
            assert!(target["expr"].as_str().is_some_and(|expr| !expr.is_empty()), "{title}: expr");
            assert!(target["datasource"]["uid"] == "${datasource}" && target["legendFormat"].is_string(), "{title}");
            assert!(target["instant"].as_bool() != target["range"].as_bool(), "{title}: now or over time");
        }
    }
}

#[test]
fn panels_lie_on_the_grid_without_overlap() {
    for dashboard in dashboards() {
        panels_do_not_overlap(&dashboard.json());
    }
}

fn panels_do_not_overlap(dashboard: &Value) {
    let mut cells = BTreeSet::new();
    for panel in panels(dashboard) {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a place"));
        assert!(w > 0 && h > 0 && x + w <= 24, "{}", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{} overlaps at {cell:?}", panel["title"]);
        }
    }
}

/// Grafana refuses a query whose variable it does not know, or shows it as it is.
#[test]
fn variables_are_known() {
    for dashboard in dashboards() {
        names_are_known(&dashboard.json());
    }
}

fn names_are_known(dashboard: &Value) {
    let list = dashboard["templating"]["list"].as_array().expect("variables");
    let mut known: BTreeSet<&str> = list.iter().filter_map(|variable| variable["name"].as_str()).collect();
    known.extend(["__rate_interval", "__range"]);
    let text = json::tidy(dashboard);
    for part in text.split('$').skip(1) {
        let name: String =
            part.trim_start_matches('{').chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // The end of a regular expression, and the name of the choice "All".
        if !name.is_empty() && name != "__all" {
            assert!(known.contains(name.as_str()), "${name} is none of {known:?}");
        }
    }
}

fn dashboards() -> [dashboard::Dashboard; 2] {
    [host::dashboard(), multipath::dashboard()]
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().expect("panels")
}
