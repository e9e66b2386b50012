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
    /// Areas on top of each other that fill the height: each one's part of the whole, over time.
    Shares,
    /// How often values were of which size, over time: its query gives the buckets of a histogram.
    Heatmap,
    /// A bar a series, now, the largest first.
    Bars,
    /// A row a series, now, with its labels as columns.
    Table,
    /// The same with a column for each query's value, named like its series.
    Columns,
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

    /// Adds a query with the name of its column, whose values have a unit of their own.
    pub fn column(self, expr: Expr, name: &str, unit: &str) -> Panel {
        let mut panel = self.query(expr, name);
        panel.overrides.push(json!({
            "matcher": { "id": "byName", "options": name },
            "properties": [{ "id": "unit", "value": unit }],
        }));
        panel
    }

    /// Adds a query, with the name of its series.
    pub fn query(mut self, expr: Expr, legend: &str) -> Panel {
        assert!(self.targets.len() < usize::from(b'Z' - b'A') + 1, "{}: more queries than letters", self.title);
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
        json!({
            "id": id,
            "type": self.type_name(),
            "title": self.title,
            "description": self.about,
            "datasource": datasource(),
            "gridPos": { "x": x, "y": y, "w": w, "h": h },
            "fieldConfig": { "defaults": self.defaults(), "overrides": self.overrides },
            "options": self.options(),
            "targets": self.targets(),
            "transformations": self.transformations(),
        })
    }

    fn transformations(&self) -> Vec<Value> {
        let hidden = |names: &[&str]| -> Value {
            names.iter().map(|name| ((*name).to_owned(), true.into())).collect::<serde_json::Map<_, _>>().into()
        };
        match self.kind {
            Kind::Table => vec![json!({
                "id": "organize", "options": { "excludeByName": hidden(&["Time", "Value", "__name__"]) },
            })],
            Kind::Columns => {
                let names = (b'A'..=b'Z').zip(&self.targets);
                let names = names.map(|(letter, (_, name))| (format!("Value #{}", char::from(letter)), json!(name)));
                let names: serde_json::Map<_, _> = names.collect();
                let options = json!({ "excludeByName": hidden(&["Time", "__name__"]), "renameByName": names });
                vec![json!({ "id": "merge", "options": {} }), json!({ "id": "organize", "options": options })]
            }
            _ => Vec::new(),
        }
    }

    fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Stat => "stat",
            Kind::Lines | Kind::Stack | Kind::Shares => "timeseries",
            Kind::Heatmap => "heatmap",
            Kind::Bars => "bargauge",
            Kind::Table | Kind::Columns => "table",
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
                "format": match self.kind {
                    Kind::Table | Kind::Columns => "table",
                    Kind::Heatmap => "heatmap",
                    _ => "time_series",
                },
            })
        };
        (b'A'..=b'Z').zip(&self.targets).map(target).collect()
    }

    fn is_over_time(&self) -> bool {
        matches!(self.kind, Kind::Lines | Kind::Stack | Kind::Shares | Kind::Heatmap)
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
        if self.is_over_time() && self.kind != Kind::Heatmap {
            let stacking = match self.kind {
                Kind::Stack => "normal",
                Kind::Shares => "percent",
                _ => "none",
            };
            defaults["custom"] = json!({
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": if stacking == "none" { 8 } else { 40 },
                "showPoints": "never",
                "spanNulls": false,
                "stacking": { "mode": stacking, "group": "A" },
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
            Kind::Lines | Kind::Stack | Kind::Shares => json!({
                "legend": {
                    "displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["lastNotNull", "max"],
                },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Kind::Bars => json!({
                "reduceOptions": reduce, "displayMode": "gradient", "orientation": "horizontal", "showUnfilled": true,
                "minVizHeight": 16, "minVizWidth": 8, "valueMode": "color",
            }),
            Kind::Heatmap => json!({
                "calculate": false, "cellGap": 1, "legend": { "show": true }, "tooltip": { "mode": "single" },
                "color": { "mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange" },
                "yAxis": { "axisPlacement": "left", "unit": self.unit }, "filterValues": { "le": 1e-9 },
            }),
            Kind::Table | Kind::Columns => json!({ "showHeader": true, "cellHeight": "sm" }),
        }
    }

    /// True if the series' names come from labels, and so tell something.
    fn is_named(&self) -> bool {
        self.targets.iter().any(|(_, legend)| legend.contains("{{"))
    }
}

/// The data source that the dashboard's variable names.
pub fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}
