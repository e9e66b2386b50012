//! Prometheus' classic text format (version 0.0.4), read strictly: what a lenient reader would let pass is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, bail, ensure};

/// The labels of a series, sorted.
pub type Labels = BTreeMap<String, String>;

/// One reading of all metrics.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    /// Type and help of each metric family.
    pub families: BTreeMap<String, Family>,
    series: BTreeMap<(String, Labels), Value>,
}

/// What is said of a metric family before its series.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Family {
    /// `counter`, `gauge`, `histogram`, `summary` or `untyped`.
    pub kind: String,
    /// The help text.
    pub help: String,
}

/// A value as it was written, so that integers beyond what a float holds are not rounded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Value(String);

impl Value {
    /// As a float.
    pub fn float(&self) -> f64 {
        self.0.parse().unwrap_or(f64::NAN)
    }

    /// As a whole number.
    pub fn whole(&self) -> Result<u64> {
        self.0.parse().with_context(|| format!("{:?} is not a whole number", self.0))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Exposition {
    /// Reads the text. Every series must follow its family's HELP and TYPE, in one block, once.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
        let mut reader = Reader::default();
        for (number, line) in text.lines().enumerate() {
            reader.line(line).with_context(|| format!("line {}: {line}", number + 1))?;
        }
        Ok(reader.exposition)
    }

    /// The value of a series that has exactly these labels.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<&Value> {
        self.series.get(&(name.to_owned(), own(labels)))
    }

    /// All series of a name that have at least these labels.
    pub fn select<'a>(&'a self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = (&'a Labels, &'a Value)> {
        let (name, labels) = (name.to_owned(), own(labels));
        let fits = move |have: &Labels| labels.iter().all(|(key, value)| have.get(key) == Some(value));
        self.series
            .iter()
            .filter(move |((of, have), _)| *of == name && fits(have))
            .map(|((_, have), value)| (have, value))
    }

    /// The sum of all series of a name that have at least these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        self.select(name, labels).map(|(_, value)| value.whole()).sum()
    }

    /// The values that a label has in the series of a name.
    pub fn label_values(&self, name: &str, label: &str) -> BTreeSet<String> {
        self.select(name, &[]).filter_map(|(labels, _)| labels.get(label).cloned()).collect()
    }

    /// The number of series.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }
}

fn own(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[derive(Default)]
struct Reader {
    exposition: Exposition,
    family: String,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            check_name(name)?;
            let family = Family { kind: String::new(), help: help.to_owned() };
            ensure!(self.exposition.families.insert(name.into(), family).is_none(), "a second HELP");
            name.clone_into(&mut self.family);
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            return self.kind(rest);
        }
        ensure!(!line.starts_with('#'), "neither HELP nor TYPE");
        self.sample(line)
    }

    fn kind(&mut self, rest: &str) -> Result<()> {
        let (name, kind) = rest.split_once(' ').context("no type")?;
        ensure!(name == self.family, "TYPE of {name} after HELP of {}", self.family);
        ensure!(["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind), "type {kind}");
        ensure!(kind != "counter" || name.ends_with("_total"), "a counter without _total");
        let family = self.exposition.families.get_mut(name).context("TYPE without HELP")?;
        ensure!(family.kind.is_empty(), "a second TYPE");
        kind.clone_into(&mut family.kind);
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<()> {
        let end = line.find(['{', ' ']).context("no value")?;
        let (name, rest) = line.split_at(end);
        check_name(name)?;
        self.check_family(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Labels::new(), rest),
        };
        let value = value.strip_prefix(' ').context("no space before the value")?;
        ensure!(value.parse::<f64>().is_ok() || ["+Inf", "-Inf", "NaN"].contains(&value), "value {value:?}");
        let before = self.exposition.series.insert((name.to_owned(), labels), Value(value.to_owned()));
        ensure!(before.is_none(), "a second time");
        Ok(())
    }

    fn check_family(&self, name: &str) -> Result<()> {
        let kind = self.exposition.families.get(&self.family).map_or("", |family| family.kind.as_str());
        let suffix = name.strip_prefix(self.family.as_str()).context("outside its family's block")?;
        let allowed: &[&str] = match kind {
            "counter" | "gauge" | "untyped" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            "summary" => &["", "_sum", "_count"],
            _ => bail!("no TYPE before"),
        };
        ensure!(allowed.contains(&suffix), "outside its family's block");
        Ok(())
    }
}

fn check_name(name: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    ensure!(name.bytes().all(fits) && name.starts_with(|c: char| !c.is_ascii_digit()), "name {name:?}");
    Ok(())
}

/// Reads labels behind the brace; gives them and what follows the closing one.
fn labels(mut rest: &str) -> Result<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        let (name, behind) = rest.split_once("=\"").context("a label without a value")?;
        check_name(name)?;
        let (value, behind) = quoted(behind)?;
        ensure!(labels.insert(name.to_owned(), value).is_none(), "label {name} twice");
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok((labels, behind.strip_prefix('}').context("no closing brace")?)),
        }
    }
}

/// Reads up to the closing quote; gives the text and what follows it.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, same @ ('\\' | '"'))) => same,
                other => bail!("escape {other:?}"),
            }),
            _ => value.push(character),
        }
    }
    bail!("no closing quote")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_total What.\n# TYPE a_total counter\na_total{x=\"1\",y=\"q\\\"\\\\\\n\"} 18446744073709551615\n\
                        a_total{x=\"2\"} 3\n# HELP b \n# TYPE b gauge\nb 1.5e3\n";

    #[test]
    fn series_are_found_by_their_labels() -> Result<()> {
        let read = Exposition::parse(GOOD)?;
        assert_eq!(read.len(), 3);
        let value = read.get("a_total", &[("y", "q\"\\\n"), ("x", "1")]).context("missing")?;
        assert_eq!(value.whole()?, u64::MAX);
        assert_eq!(read.sum("a_total", &[("x", "2")])?, 3);
        assert_eq!(read.get("b", &[]).map(Value::float), Some(1500.0));
        assert_eq!(read.label_values("a_total", "x"), BTreeSet::from(["1".to_owned(), "2".to_owned()]));
        Ok(())
    }

    #[test]
    fn what_is_not_strictly_right_is_an_error() {
        let head = "# HELP a_total What.\n# TYPE a_total counter\n";
        for wrong in [
            "a_total 1\n".to_owned(),
            format!("{head}a_total 1"),
            format!("{head}a_total 1\na_total 2\n"),
            format!("{head}a_total{{}} 1\n"),
            format!("{head}a_total{{x=\"1\",x=\"2\"}} 1\n"),
            format!("{head}a_total{{x=\"\\t\"}} 1\n"),
            format!("{head}a_total{{x=\"1}} 1\n"),
            format!("{head}a_total  1\n"),
            format!("{head}a_total one\n"),
            format!("{head}a_total 1 1700000000000\n"),
            format!("{head}b_total 1\n"),
            format!("{head}{head}"),
            "# HELP a What.\n# TYPE a counter\na 1\n".to_owned(),
            "# HELP a What.\n# TYPE a level\na 1\n".to_owned(),
            "# EOF\n".to_owned(),
        ] {
            assert!(Exposition::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
