//! What a scenario measured: figures with units and goals, as lines and as JSON.

use std::fmt::Write as _;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::series::median;

/// Rounds that differ by more than this share of their median are told to be noisy.
const NOISY: f64 = 0.1;

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// This or more.
    AtLeast(f64),
    /// Less than this.
    Below(f64),
    /// Exactly this.
    Exactly(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(least) => value >= least,
            Goal::Below(limit) => value < limit,
            Goal::Exactly(wanted) => (value - wanted).abs() < f64::EPSILON,
        }
    }

    fn to_text(self) -> String {
        match self {
            Goal::AtLeast(value) => format!(">= {value}"),
            Goal::Below(value) => format!("< {value}"),
            Goal::Exactly(value) => format!("= {value}"),
        }
    }
}

/// One measured number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What it is, in words joined by underscores.
    pub name: String,
    /// The number, the median where there are rounds; absent if it could not be had, which meets no goal.
    #[serde(serialize_with = "rounded")]
    pub value: Option<f64>,
    /// Its unit; empty for a ratio or a count.
    pub unit: &'static str,
    /// What it is beside the same figures of: a column of the table; empty where there is but one.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub column: &'static str,
    /// What each round gave, where there were several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<f64>,
    /// What it has to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
}

impl Figure {
    /// A number of one round.
    pub fn new(name: impl Into<String>, value: impl Into<Option<f64>>, unit: &'static str) -> Figure {
        Figure { name: name.into(), value: value.into(), unit, column: "", rounds: Vec::new(), goal: None }
    }

    /// The median of several rounds. A round without a result makes it absent: it must not flatter.
    pub fn of_rounds(name: impl Into<String>, rounds: &[Option<f64>], unit: &'static str) -> Figure {
        let all: Option<Vec<f64>> = rounds.iter().copied().collect();
        let value = all.as_deref().and_then(median);
        let rounds = if rounds.len() > 1 { rounds.iter().flatten().copied().collect() } else { Vec::new() };
        Figure { name: name.into(), value, unit, column: "", rounds, goal: None }
    }

    /// The same with a goal.
    #[must_use]
    pub fn goal(self, goal: Goal) -> Figure {
        Figure { goal: Some(goal), ..self }
    }

    /// The same in a column.
    #[must_use]
    pub fn column(self, column: &'static str) -> Figure {
        Figure { column, ..self }
    }

    /// False if it has a goal and misses it.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.goal.is_none_or(|goal| self.value.is_some_and(|value| goal.is_met(value)))
    }

    /// Whether its rounds differ more than they should on a quiet machine.
    #[must_use]
    pub fn is_noisy(&self) -> bool {
        let spread = |value: f64| self.rounds.iter().any(|round| (round - value).abs() > NOISY * value.abs());
        self.value.is_some_and(spread)
    }

    fn to_cell(&self) -> String {
        let mut cell = match self.value {
            Some(value) => format!("{} {}", number(value), self.unit).trim_end().to_owned(),
            None => "never".to_owned(),
        };
        if let Some(goal) = self.goal {
            let verdict = if self.is_met() { "met" } else { "MISSED" };
            let _ = write!(cell, " ({} {verdict})", goal.to_text());
        }
        if self.is_noisy() {
            let rounds: Vec<_> = self.rounds.iter().copied().map(number).collect();
            let _ = write!(cell, " noisy: {}", rounds.join(", "));
        }
        cell
    }
}

/// Figures as lines, those of several columns side by side. `figures` are in the order of the table.
fn table(figures: &[Figure]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    for figure in figures {
        let column = columns.iter().position(|name| *name == figure.column).unwrap_or_else(|| {
            columns.push(figure.column);
            columns.len() - 1
        });
        let row = rows.iter().position(|(name, _)| *name == figure.name).unwrap_or_else(|| {
            rows.push((&figure.name, Vec::new()));
            rows.len() - 1
        });
        let cells = &mut rows[row].1;
        cells.resize(cells.len().max(column + 1), String::new());
        cells[column] = figure.to_cell();
    }
    if columns.iter().any(|name| !name.is_empty()) {
        rows.insert(0, ("", columns.iter().map(|name| (*name).to_owned()).collect()));
    }
    let line = |(name, cells): &(&str, Vec<String>)| {
        // A cell that is too long for its column ends with two spaces all the same.
        let cells: String = cells.iter().map(|cell| format!("{:<26}", format!("{cell}  "))).collect();
        format!("  {:<40} {cells}", name.replace('_', " ")).trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A number with as many digits as it is worth.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        size if value.fract() == 0.0 && size < 1e15 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The release of the running kernel, where it can be read.
fn kernel() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(text.trim_end().to_owned())
}

fn rounded<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|value| (value * 1e6).round() / 1e6).serialize(serializer)
}

/// All of a scenario's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The scenario's name.
    pub scenario: &'static str,
    /// What it was run with.
    pub parameters: Map<String, Value>,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// What a reader should know beside that.
    pub notes: Vec<String>,
    /// The result in a sentence.
    pub summary: String,
}

impl Outcome {
    /// One without figures yet; `parameters` is a JSON object.
    #[must_use]
    pub fn new(scenario: &'static str, parameters: Value) -> Outcome {
        let parameters = match parameters {
            Value::Object(map) => map,
            other => Map::from_iter([("value".to_owned(), other)]),
        };
        Outcome { scenario, parameters, figures: Vec::new(), notes: Vec::new(), summary: String::new() }
    }

    /// Whether every goal is met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.figures.iter().all(Figure::is_met)
    }

    /// Figures, notes and the result, a line each.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = table(&self.figures);
        for note in &self.notes {
            let _ = writeln!(text, "  note: {note}");
        }
        let verdict = if self.is_met() { "PASS" } else { "FAIL" };
        let _ = writeln!(text, "{}: {}: {verdict}", self.scenario, self.summary);
        text
    }

    /// The same for programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let figure = |figure: &Figure| {
            let mut value = serde_json::to_value(figure).unwrap_or_default();
            if figure.goal.is_some() {
                value["met"] = figure.is_met().into();
            }
            if !figure.rounds.is_empty() {
                value["noisy"] = figure.is_noisy().into();
            }
            value
        };
        json!({
            "scenario": self.scenario,
            "kernel": kernel(),
            "parameters": self.parameters,
            "figures": self.figures.iter().map(figure).collect::<Vec<_>>(),
            "notes": self.notes,
            "summary": self.summary,
            "met": self.is_met(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_or_missed() {
        let figure = |value: f64, goal| Figure::new("ratio", value, "").goal(goal);
        assert!(figure(1.95, Goal::AtLeast(1.95)).is_met());
        assert!(!figure(1.94, Goal::AtLeast(1.95)).is_met());
        assert!(!figure(0.1, Goal::Below(0.1)).is_met());
        assert!(figure(0.0, Goal::Exactly(0.0)).is_met());
        assert!(!Figure::new("time", None, "s").goal(Goal::Below(9.0)).is_met(), "what never came is not in time");
        assert!(Figure::new("time", None, "s").is_met(), "without a goal nothing is missed");
    }

    #[test]
    fn one_bad_round_makes_the_median_absent() {
        assert_eq!(Figure::of_rounds("gap", &[Some(1.0), Some(3.0), Some(2.0)], "s").value, Some(2.0));
        let figure = Figure::of_rounds("gap", &[Some(1.0), None, Some(2.0)], "s");
        assert_eq!((figure.value, figure.rounds.len()), (None, 2));
    }

    #[test]
    fn noise_is_told() {
        assert!(Figure::of_rounds("rate", &[Some(10.0), Some(10.1), Some(8.0)], "").is_noisy());
        assert!(!Figure::of_rounds("rate", &[Some(10.0), Some(10.1), Some(9.8)], "").is_noisy());
    }

    #[test]
    fn columns_stand_side_by_side() {
        let figure = |name: &str, value: f64, column| Figure::new(name, value, "s").column(column);
        let mut figures = vec![figure("longest_gap", 0.25, "kernel"), figure("full_rate_after", 1.0, "kernel")];
        figures.push(figure("longest_gap", 0.05, "agent").goal(Goal::Below(0.1)));
        let text = table(&figures);
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines, ["kernel agent", "longest gap 0.250 s 0.050 s (< 0.1 met)", "full rate after 1 s"]);
    }

    #[test]
    fn the_result_is_one_line_and_one_document() {
        let mut outcome = Outcome::new("throughput", json!({"paths": 2}));
        outcome.figures.push(Figure::new("ratio", 1.96, "").goal(Goal::AtLeast(1.95)));
        outcome.summary = "two paths give 1.96 of one".into();
        assert!(outcome.to_text().ends_with("throughput: two paths give 1.96 of one: PASS\n"));
        let json = outcome.to_json();
        assert_eq!((&json["met"], &json["parameters"]["paths"]), (&json!(true), &json!(2)));
        assert_eq!(json["figures"][0]["goal"], json!({"at_least": 1.95}));
        outcome.figures[0].value = Some(1.0);
        assert_eq!(outcome.to_json()["met"], json!(false));
    }
}
