//! The view as text, and as JSON, for scripts.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use ratatui::text::Line;
use serde_json::json;

use super::model::{Model, View};
use super::status::Status;
use super::view::{self, Look};
use crate::cli::{self, TopArgs};
use crate::control::client;

/// Width of the text unless `COLUMNS` says otherwise.
const WIDTH: usize = 120;

/// Asks twice, because rates of paths and interfaces are what came in between, and prints.
pub fn run(args: &TopArgs) -> anyhow::Result<()> {
    let (mut model, socket) = (super::model(args)?, args.agent.path());
    model.update(client::ask::<Status>(&socket)?);
    std::thread::sleep(Duration::from_secs_f64(args.interval));
    model.update(client::ask::<Status>(&socket)?);
    let text = if args.json { json(&model)? } else { text(&model, std::env::var("COLUMNS").ok().as_deref()) };
    cli::print(&text).context("standard output")
}

/// The same lines as on a terminal, all of them. `columns` is the width that the environment asks for; 0 cuts nothing off.
fn text(model: &Model, columns: Option<&str>) -> String {
    let look = Look { has_color: false, ..Look::from_env(|name| std::env::var(name).ok()) };
    let width = match columns.and_then(|columns| columns.parse().ok()) {
        Some(0) => view::natural_width(model),
        Some(width) => width,
        None => WIDTH,
    };
    let mut text = String::new();
    let mut print = |line: Line<'_>| {
        let line: String = line.spans.iter().map(|span| span.content.as_ref()).collect();
        writeln!(text, "{}", line.trim_end()).expect("writing to memory does not fail");
    };
    print(view::title(model, &look, width));
    print(view::sums(model, &look, width));
    let findings = &model.summary.findings;
    // What is wrong is told in full: a script has no second look.
    findings.iter().for_each(|finding| print(Line::raw(format!("! {}", finding.line()))));
    print(Line::default());
    print(view::title_line(model, &look, width));
    for (row, child) in model.lines(0, usize::MAX) {
        print(view::row_line(model, &look, row, child, width));
    }
    text
}

/// The summary and the rows of the table, filtered and sorted.
fn json(model: &Model) -> anyhow::Result<String> {
    let rows: Vec<_> = model.shown_rows().collect();
    let name: &str = View::name(model.view);
    let document = json!({
        "taken_at": model.taken_at(),
        "agent_version": model.agent_version(),
        "summary": model.summary,
        name: rows,
    });
    Ok(format!("{document:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::sample;

    fn model() -> Model {
        let mut model = Model::default();
        model.update(sample::status());
        model.update(sample::later());
        model
    }

    #[test]
    fn the_text_has_the_width_that_is_asked_for_and_no_escapes() {
        let model = model();
        for columns in ["80", "120", "200"] {
            let text = text(&model, Some(columns));
            let width: usize = columns.parse().unwrap();
            let table = text.lines().skip_while(|line| !line.is_empty()).skip(1);
            assert!(table.clone().all(|line| line.chars().count() <= width), "{text}");
            assert_eq!(table.count(), 1 + 2 + 3, "{text}");
            assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        }
        let widest = text(&model, Some("0"));
        assert!(widest.contains("192.0.2.101:40001 > 192.0.2.102:443 "), "{widest}");
        assert_eq!(text(&model, None), text(&model, Some("120")));
    }

    #[test]
    fn the_json_holds_what_is_shown() {
        let mut model = model();
        model.set_filter("wan1".into());
        let json: serde_json::Value = serde_json::from_str(&json(&model).unwrap()).unwrap();
        assert_eq!(json["connections"].as_array().unwrap().len(), 1);
        assert_eq!(json["connections"][0]["children"][1]["via"], "wan1");
        assert_eq!(json["summary"]["findings"][0]["kind"], "fallback");
        model.set_view(View::Paths);
        let json: serde_json::Value = serde_json::from_str(&super::json(&model).unwrap()).unwrap();
        assert_eq!((&json["paths"][0]["rx_bytes_per_second"], json.get("connections")), (&10_000.0.into(), None));
    }
}
