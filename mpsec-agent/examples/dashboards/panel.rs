//! One panel: what a row of a dashboard's table says, and Grafana's JSON for it.

use serde_json::{Value, json};

use crate::promql::Expr;

/// How a panel draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One large value a series, now.
    Stat,
    /// Lines over time.
    Lines,
    /// Areas on top of each other, over time.
    Stack,
    /// A bar a series, now, the largest first.
    Bars,
    /// A row a series, now, with its labels as columns.
    Table,
}

/// One row of a dashboard's table.
#[derive(Clone, Debug)]
pub struct Panel {
    kind: Kind,
    title: &'static str,
    unit: &'static str,
    width: u32,
    about: &'static str,
    targets: Vec<(Expr, String)>,
    limits: &'static [Limit],
    bounds: (Option<f64>, Option<f64>),
    words: &'static [(u32, &'static str, &'static str)],
    overrides: Vec<Value>,
    empty: &'static str,
}

/// From this value on, this colour.
pub type Limit = (f64, &'static str);

/// A panel with its title, unit (in Grafana's words) and width (of 24).
pub fn panel(kind: Kind, title: &'static str, unit: &'static str, width: u32) -> Panel {
    Panel {
        kind,
        title,
        unit,
        width,
        about: "",
        targets: Vec::new(),
        limits: &[(0.0, "green")],
        bounds: (None, None),
        words: &[],
        overrides: Vec::new(),
        empty: "nothing yet",
    }
}

impl Panel {
    /// Says what an operator should know about it.
    pub fn about(mut self, about: &'static str) -> Panel {
        self.about = about;
        self
    }

    /// Adds a query, with the name of its series.
    pub fn query(mut self, expr: Expr, legend: &str) -> Panel {
        expr.check_template(legend, "{{", "}}");
        self.targets.push((expr, legend.to_owned()));
        self
    }

    /// The colours of values. The first limit is where the scale begins.
    pub fn limits(mut self, limits: &'static [Limit]) -> Panel {
        self.limits = limits;
        self
    }

    /// The ends of the axis; without them it fits the values.
    pub fn within(mut self, min: f64, max: Option<f64>) -> Panel {
        self.bounds = (Some(min), max);
        self
    }

    /// Words in place of values, with their colours.
    pub fn words(mut self, words: &'static [(u32, &'static str, &'static str)]) -> Panel {
        self.words = words;
        self
    }

    /// What is said where there is no series.
    pub fn when_empty(mut self, text: &'static str) -> Panel {
        self.empty = text;
        self
    }

    /// Series whose names match are drawn below the axis.
    pub fn below_axis(self, regex: &str) -> Panel {
        self.override_series(regex, "custom.transform", json!("negative-Y"))
    }

    /// Series whose names match are drawn in shades of one colour.
    pub fn shades(self, regex: &str, color: &str) -> Panel {
        self.override_series(regex, "color", json!({ "mode": "shades", "fixedColor": color }))
    }

    fn override_series(mut self, regex: &str, property: &str, value: Value) -> Panel {
        self.overrides.push(json!({
            "matcher": { "id": "byRegexp", "options": format!("/{regex}/") },
            "properties": [{ "id": property, "value": value }],
        }));
        self
    }

    /// The panel's size on the grid.
    pub fn size(&self) -> (u32, u32) {
        (self.width, if self.kind == Kind::Stat { 4 } else { 8 })
    }

    /// The queries.
    #[cfg(test)]
    pub fn queries(&self) -> impl Iterator<Item = String> {
        self.targets.iter().map(|(expr, _)| expr.to_string())
    }

    /// Grafana's JSON.
    pub fn json(&self, id: usize, (x, y): (u32, u32)) -> Value {
        let (w, h) = self.size();
        let mut json = json!({
            "id": id,
            "type": self.type_name(),
            "title": self.title,
            "description": self.about,
            "datasource": datasource(),
            "gridPos": { "x": x, "y": y, "w": w, "h": h },
            "fieldConfig": { "defaults": self.defaults(), "overrides": self.overrides },
            "options": self.options(),
            "targets": self.targets(),
        });
        if self.kind == Kind::Table {
            json["transformations"] = json!([{ "id": "organize", "options": { "excludeByName": TABLE_LEAVES_OUT.iter()
                .map(|name| ((*name).to_owned(), true.into())).collect::<serde_json::Map<_, _>>() } }]);
        }
        json
    }

    fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Stat => "stat",
            Kind::Lines | Kind::Stack => "timeseries",
            Kind::Bars => "bargauge",
            Kind::Table => "table",
        }
    }

    fn targets(&self) -> Vec<Value> {
        let now = !self.is_over_time();
        let target = |(letter, (expr, legend)): (u8, &(Expr, String))| {
            json!({
                "refId": char::from(letter).to_string(),
                "datasource": datasource(),
                "editorMode": "code",
                "expr": expr.to_string(),
                "legendFormat": legend,
                "instant": now,
                "range": !now,
                "format": if self.kind == Kind::Table { "table" } else { "time_series" },
            })
        };
        (b'A'..=b'Z').zip(&self.targets).map(target).collect()
    }

    fn is_over_time(&self) -> bool {
        matches!(self.kind, Kind::Lines | Kind::Stack)
    }

    fn defaults(&self) -> Value {
        // The first step has no lower end.
        let steps = self.limits.iter().enumerate().map(|(index, (from, color))| {
            let from = if index == 0 { Value::Null } else { json!(from) };
            json!({ "value": from, "color": color })
        });
        let mut defaults = json!({
            "unit": self.unit,
            "noValue": self.empty,
            "color": { "mode": if self.is_over_time() { "palette-classic" } else { "thresholds" } },
            "thresholds": { "mode": "absolute", "steps": steps.collect::<Vec<_>>() },
            "mappings": self.mappings(),
        });
        let (min, max) = self.bounds;
        for (name, bound) in [("min", min), ("max", max)] {
            if let Some(bound) = bound {
                defaults[name] = json!(bound);
            }
        }
        if self.is_over_time() {
            let stacked = self.kind == Kind::Stack;
            defaults["custom"] = json!({
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": if stacked { 40 } else { 8 },
                "showPoints": "never",
                "spanNulls": false,
                "stacking": { "mode": if stacked { "normal" } else { "none" }, "group": "A" },
                "thresholdsStyle": { "mode": "off" },
            });
        }
        defaults
    }

    fn mappings(&self) -> Vec<Value> {
        if self.words.is_empty() {
            return Vec::new();
        }
        let words = self.words.iter().enumerate().map(|(index, (value, text, color))| {
            (value.to_string(), json!({ "text": text, "color": color, "index": index }))
        });
        vec![json!({ "type": "value", "options": words.collect::<serde_json::Map<_, _>>() })]
    }

    fn options(&self) -> Value {
        let reduce = json!({ "calcs": ["lastNotNull"], "fields": "", "values": false });
        match self.kind {
            Kind::Stat => json!({
                "reduceOptions": reduce, "colorMode": "background", "graphMode": "none", "justifyMode": "auto",
                "orientation": "auto", "textMode": if self.is_named() { "value_and_name" } else { "value" },
            }),
            Kind::Lines | Kind::Stack => json!({
                "legend": {
                    "displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["lastNotNull", "max"],
                },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Kind::Bars => json!({
                "reduceOptions": reduce, "displayMode": "gradient", "orientation": "horizontal", "showUnfilled": true,
                "minVizHeight": 16, "minVizWidth": 8, "valueMode": "color",
            }),
            Kind::Table => json!({ "showHeader": true, "cellHeight": "sm" }),
        }
    }

    /// True if the series' names come from labels, and so tell something.
    fn is_named(&self) -> bool {
        self.targets.iter().any(|(_, legend)| legend.contains("{{"))
    }
}

/// Columns of a table that say nothing.
const TABLE_LEAVES_OUT: &[&str] = &["Time", "Value", "__name__"];

/// The data source that the dashboard's variable names.
pub fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}
