//! A checked-in dashboard, read as Grafana reads it: its variables' values come from the data source, and its queries get
//! them before they are sent.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::prometheus::{Prometheus, array};

/// A dashboard.
#[derive(Debug)]
pub struct Dashboard(Value);

/// A query of a panel.
#[derive(Clone, Debug)]
pub struct Query {
    /// The panel's title.
    pub panel: String,
    /// The panel's title and the query's letter.
    pub name: String,
    /// The query, variables and all.
    pub expr: String,
    /// True for a query that is evaluated once, now.
    pub instant: bool,
}

/// Values of variables, ready to be put into a query.
pub type Variables = BTreeMap<String, String>;

impl Dashboard {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(Self(serde_json::from_str(&text)?))
    }

    /// Every query of every panel, those of collapsed rows included.
    pub fn queries(&self) -> Vec<Query> {
        let rows = array(&self.0["panels"]).iter();
        let panels = rows.flat_map(|panel| std::iter::once(panel).chain(array(&panel["panels"])));
        let query = |panel: &Value, target: &Value| Query {
            panel: text(&panel["title"]).to_owned(),
            name: format!("{} {}", text(&panel["title"]), text(&target["refId"])),
            expr: text(&target["expr"]).to_owned(),
            instant: target["instant"] == true,
        };
        panels.flat_map(|panel| array(&panel["targets"]).iter().map(move |target| query(panel, target))).collect()
    }

    /// The query of the panel with this title.
    pub fn query(&self, title: &str) -> Result<Query> {
        let name = format!("{title} A");
        self.queries().into_iter().find(|query| query.name == name).with_context(|| format!("no panel {title}"))
    }

    /// The values that the variables have when the dashboard is opened, each made from those before it: all of what the
    /// data source knows, or the text that is there at first. `given` are those that Grafana itself brings.
    pub fn variables(&self, prometheus: &Prometheus, given: &[(&str, &str)]) -> Result<Variables> {
        let mut variables: Variables =
            given.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        for variable in array(&self.0["templating"]["list"]) {
            let name = text(&variable["name"]);
            let value = match text(&variable["type"]) {
                "datasource" => continue,
                // What stands for all was chosen by whoever made the dashboard.
                "query" if variable["allValue"].is_string() => text(&variable["allValue"]).to_owned(),
                "textbox" => text(&variable["query"]).to_owned(),
                "query" => {
                    let query = text(&variable["query"]["query"]);
                    let (series, label) = query
                        .strip_prefix("label_values(")
                        .and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", "))
                        .with_context(|| format!("{name} is {query}"))?;
                    let values = prometheus.label_values(label, &substitute(series, &variables))?;
                    ensure!(!values.is_empty(), "{name} has no values: {query}");
                    all(&values)
                }
                other => bail!("{name} is of type {other}"),
            };
            variables.insert(name.to_owned(), value);
        }
        Ok(variables)
    }
}

/// Puts values in the place of `$name`, longest names first.
pub fn substitute(query: &str, variables: &Variables) -> String {
    let mut names: Vec<_> = variables.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names.into_iter().fold(query.to_owned(), |query, name| query.replace(&format!("${name}"), &variables[name]))
}

/// What "All" stands for in a Prometheus query: all values, with their special characters escaped for a regular expression
/// inside of a string.
fn all(values: &[String]) -> String {
    let escaped = |value: &String| -> String {
        let special = |c| r"\^$*+?.()|[]{}".contains(c);
        value.chars().map(|c| if special(c) { format!("\\\\{c}") } else { c.to_string() }).collect()
    };
    match values {
        [one] => escaped(one),
        several => format!("({})", several.iter().map(escaped).collect::<Vec<_>>().join("|")),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_put_in_as_grafana_does_it() {
        assert_eq!(all(&["127.0.0.1:9475".into()]), r"127\\.0\\.0\\.1:9475");
        assert_eq!(all(&["a".into(), "b+".into()]), r"(a|b\\+)");
        let variables = Variables::from([("a".into(), "1".into()), ("ab".into(), "2".into())]);
        assert_eq!(substitute("x{y=~\"$ab\",z=~\"$a\"}", &variables), "x{y=~\"2\",z=~\"1\"}");
    }
}
