//! A setting's value between its text and its type: what TOML, the environment and flags have in common.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::keys::Kind;
use super::multipath::KEEP;

/// A value of one of the shapes of [`Kind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
    Switch(bool),
    List(Vec<Value>),
}

/// What is wrong with a value, and with which item of it where it is a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(super) item: Option<usize>,
    pub(super) message: String,
}

impl Wrong {
    pub(super) fn whole(message: impl Into<String>) -> Vec<Self> {
        vec![Self { item: None, message: message.into() }]
    }
}

impl Value {
    pub(super) fn text(value: impl fmt::Display) -> Self {
        Self::Text(value.to_string())
    }

    pub(super) fn texts<T: fmt::Display>(values: &[T]) -> Self {
        Self::List(values.iter().map(Self::text).collect())
    }

    pub(super) fn numbers(values: &[u16]) -> Self {
        Self::List(values.iter().map(|n| Self::Number((*n).into())).collect())
    }

    pub(super) fn paths(paths: &[PathBuf]) -> Self {
        Self::List(paths.iter().map(|path| Self::path(path.clone())).collect())
    }

    /// A text; `keep` where there is none.
    pub(super) fn maybe(value: Option<&str>) -> Self {
        Self::text(value.unwrap_or(KEEP))
    }

    /// A number; `keep` where there is none.
    pub(super) fn maybe_n(value: Option<u32>) -> Self {
        value.map_or(Self::text(KEEP), |n| Self::Number(n.into()))
    }

    pub(super) fn path(path: PathBuf) -> Self {
        // Every path of a configuration came out of a string.
        Self::Text(path.to_string_lossy().into_owned())
    }

    /// From a flag or an environment variable: lists may be written with commas, may be repeated, or both.
    pub(super) fn from_words(kind: Kind, words: &[String]) -> Result<Self, Vec<Wrong>> {
        let last = words.last().map(String::as_str).unwrap_or_default();
        let number = |word: &str| {
            let expected = |_| Wrong { item: None, message: "expected a whole number".into() };
            word.trim().parse().map(Self::Number).map_err(expected)
        };
        let items = || words.iter().flat_map(|word| split_list(word)).map(str::trim).filter(|item| !item.is_empty());
        match kind {
            Kind::Text => Ok(Self::text(last)),
            Kind::Texts => Ok(Self::List(items().map(Self::text).collect())),
            Kind::Number => number(last).map_err(|wrong| vec![wrong]),
            Kind::Numbers => items().map(number).collect::<Result<_, _>>().map(Self::List).map_err(|wrong| vec![wrong]),
            Kind::Switch => match last.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(Self::Switch(true)),
                "false" | "0" | "no" | "off" => Ok(Self::Switch(false)),
                _ => Err(Wrong::whole("expected true or false")),
            },
        }
    }

    /// A list, or one value in place of a list of one.
    fn as_items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            single => std::slice::from_ref(single),
        }
    }

    pub(super) fn item<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Vec<Wrong>> {
        match self {
            Self::Text(text) => parse(text).map_err(Wrong::whole),
            other => Err(Wrong::whole(format!("expected a string, found {}", other.kind_name()))),
        }
    }

    /// Every item parsed; every one that is wrong reported.
    pub(super) fn items<T: PartialEq>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Vec<Wrong>> {
        self.each(|item| match item {
            Self::Text(text) => parse(text),
            other => Err(format!("expected a string, found {}", other.kind_name())),
        })
    }

    pub(super) fn numbers_in(&self, range: RangeInclusive<u16>) -> Result<Vec<u16>, Vec<Wrong>> {
        self.each(|item| item.in_range(&range))
    }

    fn each<T: PartialEq>(&self, parse: impl Fn(&Self) -> Result<T, String>) -> Result<Vec<T>, Vec<Wrong>> {
        let (mut good, mut wrong) = (Vec::new(), Vec::new());
        for (index, item) in self.as_items().iter().enumerate() {
            match parse(item) {
                Ok(value) if good.contains(&value) => {
                    wrong.push(Wrong { item: Some(index), message: "is given twice".into() });
                }
                Ok(value) => good.push(value),
                Err(message) => wrong.push(Wrong { item: Some(index), message }),
            }
        }
        if wrong.is_empty() { Ok(good) } else { Err(wrong) }
    }

    pub(super) fn number(&self, range: RangeInclusive<u32>) -> Result<u32, Vec<Wrong>> {
        self.in_range(&range).map_err(Wrong::whole)
    }

    fn in_range<T>(&self, range: &RangeInclusive<T>) -> Result<T, String>
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display,
    {
        let found = match self {
            Self::Number(n) => n.to_string(),
            other => other.kind_name().to_owned(),
        };
        let number = if let Self::Number(n) = self { T::try_from(*n).ok() } else { None };
        number
            .filter(|n| range.contains(n))
            .ok_or_else(|| format!("expected a whole number from {} to {}, found {found}", range.start(), range.end()))
    }

    pub(super) fn switch(&self) -> Result<bool, Vec<Wrong>> {
        match self {
            Self::Switch(on) => Ok(*on),
            other => Err(Wrong::whole(format!("expected true or false, found {}", other.kind_name()))),
        }
    }

    /// `keep`, or a number.
    pub(super) fn maybe_number(&self, range: RangeInclusive<u32>) -> Result<Option<u32>, Vec<Wrong>> {
        match self {
            Self::Text(text) if text == KEEP => Ok(None),
            // From a flag or the environment, where numbers are text.
            Self::Text(text) => Self::Number(text.trim().parse().map_err(|_| {
                let (start, end) = (range.start(), range.end());
                Wrong::whole(format!("expected a whole number from {start} to {end}, or {KEEP}; found {text:?}"))
            })?)
            .number(range)
            .map(Some),
            number => number.number(range).map(Some),
        }
    }

    /// On or off, or `word` for neither.
    pub(super) fn switch_or(&self, word: &str) -> Result<Option<bool>, Vec<Wrong>> {
        let expected = |found: String| Wrong::whole(format!("expected on, off or {word}, found {found}"));
        match self {
            Self::Switch(on) => Ok(Some(*on)),
            Self::Text(text) if text == word => Ok(None),
            Self::Text(text) => match Self::from_words(Kind::Switch, std::slice::from_ref(text)) {
                Ok(Self::Switch(on)) => Ok(Some(on)),
                _ => Err(expected(format!("{text:?}"))),
            },
            other => Err(expected(other.kind_name().to_owned())),
        }
    }

    /// A text, or a number that stands for its digits.
    pub(super) fn text_or_number<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Vec<Wrong>> {
        match self {
            Self::Number(number) => parse(&number.to_string()).map_err(Wrong::whole),
            other => other.item(parse),
        }
    }

    fn kind_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::Switch(_) => "true or false",
            Self::List(_) => "a list",
        }
    }
}

/// As TOML.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{}", toml::Value::String(text.clone())),
            Self::Number(n) => write!(f, "{n}"),
            Self::Switch(on) => write!(f, "{on}"),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

/// Splits at commas, but not inside the braces or brackets of a shell pattern.
fn split_list(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth <= 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}
