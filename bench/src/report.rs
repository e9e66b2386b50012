//! What a measurement found: rows, and the ways to show them.

use serde_json::{Value, json};

/// One line of a table.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// What was measured.
    pub case: String,
    /// The figure, in the unit of its section's column.
    pub value: Option<f64>,
    /// Against the anchor of the same round.
    pub ratio: Option<f64>,
    /// What must hold, if anything must.
    pub goals: Vec<Goal>,
    /// What the reader should know beside it, such as why there is no figure.
    pub note: String,
}

impl Row {
    /// A figure.
    pub fn new(case: impl Into<String>, value: f64) -> Row {
        Row { case: case.into(), value: Some(value), ..Row::default() }
    }

    /// A case that could not be measured here.
    pub fn skipped(case: impl Into<String>, reason: impl Into<String>) -> Row {
        Row { case: case.into(), note: format!("skipped: {}", reason.into()), ..Row::default() }
    }

    /// With a ratio.
    pub fn ratio(mut self, ratio: f64) -> Row {
        self.ratio = Some(ratio);
        self
    }

    /// With a limit for the figure.
    pub fn at_most(mut self, limit: f64) -> Row {
        self.goals.push(Goal { of: Of::Value, limit });
        self
    }

    /// With a limit for the ratio.
    pub fn ratio_at_most(mut self, limit: f64) -> Row {
        self.goals.push(Goal { of: Of::Ratio, limit });
        self
    }

    /// With a remark.
    pub fn note(mut self, note: impl Into<String>) -> Row {
        self.note = note.into();
        self
    }

    /// Whether all goals are met; `None` without goals or without a figure to hold against them.
    pub fn is_met(&self) -> Option<bool> {
        let met = |goal: &Goal| {
            let figure = match goal.of {
                Of::Value => self.value?,
                Of::Ratio => self.ratio?,
            };
            Some(figure <= goal.limit)
        };
        let all: Option<Vec<bool>> = self.goals.iter().map(met).collect();
        all.filter(|all| !all.is_empty()).map(|all| all.into_iter().all(|met| met))
    }

    fn goal_text(&self, unit: &str) -> String {
        let goal = |goal: &Goal| match goal.of {
            Of::Value => format!("<= {} {unit}", goal.limit),
            Of::Ratio => format!("<= {} x", goal.limit),
        };
        self.goals.iter().map(goal).collect::<Vec<_>>().join(", ")
    }

    fn verdict(&self) -> &'static str {
        match self.is_met() {
            Some(true) => "met",
            Some(false) => "NOT met",
            None => "",
        }
    }
}

/// A limit.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    of: Of,
    limit: f64,
}

#[derive(Clone, Copy, Debug)]
enum Of {
    Value,
    Ratio,
}

/// One table: what was measured in one way, against one anchor.
#[derive(Clone, Debug)]
pub struct Section {
    /// The name that `cargo xtask bench NAME` takes.
    pub bench: &'static str,
    /// What it is about.
    pub title: String,
    /// How it was measured, in whole sentences.
    pub method: String,
    /// The unit of the figures.
    pub unit: &'static str,
    /// What the ratios are against; empty where there are none.
    pub against: &'static str,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Section {
    fn cells(&self) -> Vec<[String; 6]> {
        let ratio = if self.against.is_empty() { String::new() } else { format!("x {}", self.against) };
        let head = ["case".into(), self.unit.into(), ratio, "goal".into(), String::new(), "note".into()];
        let cells = |row: &Row| {
            [
                row.case.clone(),
                row.value.map(figure).unwrap_or_default(),
                row.ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
                row.goal_text(self.unit),
                row.verdict().to_owned(),
                row.note.clone(),
            ]
        };
        std::iter::once(head).chain(self.rows.iter().map(cells)).collect()
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        let cells = self.cells();
        let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..6).map(width).collect();
        let mut text = format!("\n{}: {}\n", self.bench, self.title);
        for row in &cells {
            let columns = row.iter().zip(&widths).enumerate().filter(|(_, (_, width))| **width > 0);
            let column = |(index, (cell, width)): (usize, (&String, &usize))| match index {
                1 | 2 => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            };
            let line = columns.map(column).collect::<Vec<_>>().join("  ");
            text += &format!("  {}\n", line.trim_end());
        }
        text
    }

    /// For docs/performance.md.
    pub fn to_markdown(&self) -> String {
        let cells = self.cells();
        let shown: Vec<usize> = (0..6).filter(|column| cells.iter().any(|row| !row[*column].is_empty())).collect();
        let line = |row: &[String; 6]| {
            let cells: Vec<&str> = shown.iter().map(|column| row[*column].as_str()).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule = |column: &usize| if matches!(column, 1 | 2) { "--:" } else { "---" };
        let rule = shown.iter().map(rule).collect::<Vec<_>>().join(" | ");
        let mut text = format!("### {}\n\n{}\n\n{}| {rule} |\n", self.title, self.method, line(&cells[0]));
        cells[1..].iter().for_each(|row| text += &line(row));
        text
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let goal = |goal: &Goal| match goal.of {
            Of::Value => json!({"of": "value", "at_most": goal.limit}),
            Of::Ratio => json!({"of": "ratio", "at_most": goal.limit}),
        };
        let row = |row: &Row| {
            json!({
                "case": row.case,
                "value": row.value,
                "ratio": row.ratio,
                "goals": row.goals.iter().map(goal).collect::<Vec<_>>(),
                "met": row.is_met(),
                "note": row.note,
            })
        };
        json!({
            "bench": self.bench,
            "title": self.title,
            "method": self.method,
            "unit": self.unit,
            "against": self.against,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// Three digits that mean something.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_needs_a_figure() {
        assert_eq!(Row::skipped("a", "not installed").at_most(1.0).is_met(), None);
        assert_eq!(Row::new("a", 5.0).is_met(), None);
        assert_eq!(Row::new("a", 5.0).at_most(5.0).is_met(), Some(true));
        assert_eq!(Row::new("a", 4.0).ratio(1.2).at_most(5.0).ratio_at_most(1.15).is_met(), Some(false));
    }

    #[test]
    fn what_is_not_met_shows() {
        let rows = vec![Row::new("tcp", 7.25).ratio(1.25).ratio_at_most(1.15), Row::skipped("nft", "not installed")];
        let (method, title) = (String::from("So."), String::from("Cost"));
        let section = Section { bench: "classify", title, method, unit: "ns", against: "empty", rows };
        assert!(section.to_text().contains("tcp   7.25    1.250  <= 1.15 x  NOT met"), "{}", section.to_text());
        assert!(section.to_markdown().contains("| nft |  |  |  |  | skipped: not installed |"));
        assert_eq!(section.to_json()["rows"][0]["met"], false);
    }
}
