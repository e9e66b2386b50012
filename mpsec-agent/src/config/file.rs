//! The configuration file: TOML to values, each with its place.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::error::{ConfigError, Place, Problem, line_of, nearest};
use super::keys::{KEYS, Key, Value};

/// Far beyond any real configuration; a path to something endless must not fill the memory.
const MAX_BYTES: u64 = 1 << 20;

/// Sets what `text` says in `config`; returns which keys that were, with their lines.
pub(super) fn read(text: &str, path: &Path, config: &mut Config) -> Result<Vec<(&'static str, usize)>, ConfigError> {
    let (root, syntax) = DeTable::parse_recoverable(text);
    let mut reader = Reader { text, path, problems: Vec::new(), lines: Vec::new() };
    for error in &syntax {
        let message = error.message().replace('\n', ", ");
        reader.complain(error.span().unwrap_or(text.len()..text.len()), message);
    }
    // What follows a syntax error is guesswork: complaints about it would mislead.
    if syntax.is_empty() {
        for (section, value) in root.get_ref() {
            reader.section(section.get_ref(), section.span(), value, config);
        }
    }
    reader.problems.sort_by_key(|(start, _)| *start);
    ConfigError::check(reader.problems.into_iter().map(|(_, problem)| problem).collect())?;
    Ok(reader.lines)
}

/// The text of a file, of a size that a configuration may have.
pub(super) fn slurp(path: &Path) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| ConfigError::io(path, error))?;
    if bytes.len() as u64 > MAX_BYTES {
        let error = io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB, so no configuration");
        return Err(ConfigError::io(path, error));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        let error = io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"));
        ConfigError::io(path, error)
    })
}

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    problems: Vec<(usize, Problem)>,
    lines: Vec<(&'static str, usize)>,
}

type Named<'a, 'i> = (&'a Spanned<std::borrow::Cow<'i, str>>, &'a Spanned<DeValue<'i>>);

impl Reader<'_> {
    fn section(&mut self, section: &str, name: Range<usize>, value: &Spanned<DeValue<'_>>, config: &mut Config) {
        if let Some(key) = KEYS.iter().find(|key| key.name == section) {
            return self.set(key, name, value, config);
        }
        if !KEYS.iter().any(|key| key.section() == section) {
            return self.complain(name, unknown_section(section));
        }
        match value.get_ref() {
            DeValue::Table(table) => table.iter().for_each(|entry| self.key(section, entry, config)),
            other => {
                self.complain(value.span(), format!("`{section}` is a section, [{section}], not {}", a_type(other)))
            }
        }
    }

    fn key(&mut self, section: &str, (name, value): Named<'_, '_>, config: &mut Config) {
        let field = name.get_ref().as_ref();
        let inner = format!("{section}.{field}");
        if KEYS.iter().any(|key| key.section() == inner) {
            return self.section(&inner, name.span(), value, config);
        }
        let Some(key) = KEYS.iter().find(|key| key.section() == section && key.field() == field) else {
            return self.complain(name.span(), unknown_key(section, field));
        };
        self.set(key, name.span(), value, config);
    }

    fn set(&mut self, key: &'static Key, name: Range<usize>, value: &Spanned<DeValue<'_>>, config: &mut Config) {
        match convert(value).and_then(|converted| (key.set)(config, &converted).map_err(|w| place(value, w))) {
            Ok(()) => self.lines.push((key.name, line_of(self.text, name.start))),
            Err(wrong) => wrong.into_iter().for_each(|(span, message)| {
                self.complain(span, format!("{}: {message}", key.name));
            }),
        }
    }

    fn complain(&mut self, span: Range<usize>, message: String) {
        let place = Place::in_text(self.path, self.text, span.clone());
        self.problems.push((span.start, Problem::new(place, message)));
    }
}

type Complaint = (Range<usize>, String);

fn convert(value: &Spanned<DeValue<'_>>) -> Result<Value, Vec<Complaint>> {
    let complaint = |message: String| vec![(value.span(), message)];
    match value.get_ref() {
        DeValue::String(text) => Ok(Value::Text(text.to_string())),
        DeValue::Boolean(on) => Ok(Value::Switch(*on)),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::Number)
            .map_err(|_| complaint("this number is out of any range".into())),
        DeValue::Array(items) => {
            let (mut good, mut wrong) = (Vec::new(), Vec::new());
            for item in items {
                match convert(item) {
                    Ok(Value::List(_)) => wrong.push((item.span(), "a list in a list is not expected here".into())),
                    Ok(converted) => good.push(converted),
                    Err(found) => wrong.extend(found),
                }
            }
            if wrong.is_empty() { Ok(Value::List(good)) } else { Err(wrong) }
        }
        DeValue::Table(table) => named_path(table, value.span()),
        other => Err(complaint(format!("{} is not expected here", a_type(other)))),
    }
}

/// A table of an array of tables, `name` and perhaps `path`, as the text that a flag would give: NAME=PATH.
fn named_path(table: &DeTable<'_>, span: Range<usize>) -> Result<Value, Vec<Complaint>> {
    let (mut name, mut path, mut wrong) = (None, None, Vec::new());
    for (key, value) in table {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("name", DeValue::String(text)) => name = Some(text),
            ("path", DeValue::String(text)) => path = Some(text),
            ("name" | "path", other) => wrong.push((value.span(), format!("expected a string, not {}", a_type(other)))),
            (other, _) => wrong.push((key.span(), format!("unknown key `{other}`; expected name and path"))),
        }
    }
    match (name, path) {
        _ if !wrong.is_empty() => Err(wrong),
        (None, _) => Err(vec![(span, "a table without the key `name` is not expected here".into())]),
        (Some(name), None) => Ok(Value::Text(name.to_string())),
        (Some(name), Some(path)) => Ok(Value::Text(format!("{name}={path}"))),
    }
}

/// Complaints about items, moved to where those items are in the file.
fn place(value: &Spanned<DeValue<'_>>, wrong: Vec<super::value::Wrong>) -> Vec<Complaint> {
    let span_of = |item: Option<usize>| {
        let found = item.and_then(|index| value.get_ref().as_array()?.get(index));
        found.map_or(value.span(), Spanned::span)
    };
    wrong.into_iter().map(|wrong| (span_of(wrong.item), wrong.message)).collect()
}

fn a_type(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    format!("{} {name}", if name.starts_with(['a', 'i']) { "an" } else { "a" })
}

fn unknown_section(section: &str) -> String {
    let mut sections: Vec<_> = KEYS.iter().map(Key::section).filter(|section| !section.is_empty()).collect();
    sections.dedup();
    // A key that stands outside its section is the likelier mistake.
    if let Some(key) = KEYS.iter().find(|key| key.field() == section) {
        return format!("unknown section `{section}`; the key `{section}` belongs in [{}]", key.section());
    }
    match nearest(section, sections.iter().copied()) {
        Some(meant) => format!("unknown section `{section}`; did you mean [{meant}]?"),
        None => format!("unknown section `{section}`; expected one of {}", sections.join(", ")),
    }
}

fn unknown_key(section: &str, field: &str) -> String {
    let here: Vec<_> = KEYS.iter().filter(|key| key.section() == section).map(Key::field).collect();
    if let Some(key) = KEYS.iter().find(|key| key.field() == field) {
        return format!("unknown key `{field}` in [{section}]; it belongs in [{}]", key.section());
    }
    match nearest(field, here.iter().copied()) {
        Some(meant) => format!("unknown key `{field}` in [{section}]; did you mean `{meant}`?"),
        None => format!("unknown key `{field}` in [{section}]; expected one of {}", here.join(", ")),
    }
}
