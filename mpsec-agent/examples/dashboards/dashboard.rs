//! A dashboard: its variables, its rows of panels, their places on the grid, and Grafana's JSON for it all.

use serde_json::{Value, json};

use crate::panel::{Panel, datasource};

/// Columns of Grafana's grid.
const COLUMNS: u32 = 24;
/// The dashboard schema of Grafana 10.3 and later; those bring an older one up to theirs.
const SCHEMA_VERSION: u32 = 39;

/// A dashboard.
pub struct Dashboard {
    pub uid: &'static str,
    pub title: &'static str,
    pub about: &'static str,
    pub variables: Vec<Variable>,
    pub rows: Vec<Row>,
}

/// A heading and the panels below it.
pub struct Row {
    pub title: &'static str,
    pub panels: Vec<Panel>,
}

/// What an operator chooses at the top.
pub struct Variable {
    pub name: &'static str,
    pub label: &'static str,
    pub about: &'static str,
    pub choice: Choice,
}

/// Where a variable's values come from.
pub enum Choice {
    /// A Prometheus data source.
    DataSource,
    /// The values of a label in the series that a selector gives; several at a time, all at first.
    Label { series: String, label: &'static str },
    /// The same of a label that not every series has: those without it are among all.
    OptionalLabel { series: String, label: &'static str },
    /// Text to write, and what it says at first.
    Text(&'static str),
}

impl Dashboard {
    /// Grafana's JSON.
    pub fn json(&self) -> Value {
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["mpsec"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": { "from": "now-1h", "to": "now" },
            "timezone": "browser",
            "annotations": { "list": [] },
            "links": [],
            "templating": { "list": self.variables.iter().map(Variable::json).collect::<Vec<_>>() },
            "panels": self.panels(),
        })
    }

    /// Fills each row from the left; a panel that does not fit goes below the highest of its line.
    fn panels(&self) -> Vec<Value> {
        let (mut placed, mut y) = (Vec::new(), 0);
        for row in &self.rows {
            let place = json!({ "x": 0, "y": y, "w": COLUMNS, "h": 1 });
            placed.push(json!({
                "id": placed.len() + 1, "gridPos": place,
                "type": "row", "title": row.title, "collapsed": false, "panels": [],
            }));
            y += 1;
            let (mut x, mut line_height) = (0, 0);
            for panel in &row.panels {
                let (width, height) = panel.size();
                if x + width > COLUMNS {
                    (x, y, line_height) = (0, y + line_height, 0);
                }
                placed.push(panel.json(placed.len() + 1, (x, y)));
                (x, line_height) = (x + width, line_height.max(height));
            }
            y += line_height;
        }
        placed
    }
}

impl Variable {
    fn json(&self) -> Value {
        let mut json = json!({ "name": self.name, "label": self.label, "description": self.about, "hide": 0 });
        let more = match &self.choice {
            Choice::DataSource => json!({
                "type": "datasource", "query": "prometheus", "regex": "", "refresh": 1,
                "multi": false, "includeAll": false, "current": {}, "options": [],
            }),
            Choice::Label { series, label } => self.label(series, label, Value::Null),
            Choice::OptionalLabel { series, label } => self.label(series, label, json!(".*")),
            Choice::Text(text) => {
                let option = json!({ "selected": true, "text": text, "value": text });
                json!({ "type": "textbox", "query": text, "current": option, "options": [option] })
            }
        };
        if let (Value::Object(json), Value::Object(more)) = (&mut json, more) {
            json.extend(more);
        }
        json
    }

    /// `all` is what stands for all values; null for the list of them.
    fn label(&self, series: &str, label: &str, all: Value) -> Value {
        let query = format!("label_values({series}, {label})");
        json!({
            "type": "query", "datasource": datasource(), "definition": query,
            "query": { "query": query, "refId": self.name }, "regex": "", "refresh": 2, "sort": 1,
            "multi": true, "includeAll": true, "allValue": all, "options": [],
            "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
        })
    }
}
