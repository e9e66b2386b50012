//! What is wrong with a configuration, said so that it can be mended without looking anything up.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// `EX_USAGE` of sysexits(3): the way the program was called or configured is wrong.
pub const EX_USAGE: u8 = 64;

/// Everything that is wrong with the settings; never empty.
#[derive(Debug, thiserror::Error)]
#[error("{}", list(.problems))]
pub struct ConfigError {
    problems: Vec<Problem>,
    #[source]
    source: Option<io::Error>,
}

impl ConfigError {
    /// The process exit code that goes with it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        EX_USAGE
    }

    /// What is wrong, in the order of the file, then environment and flags.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(super) fn check(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems, source: None }) }
    }

    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let problem = Problem::new(Place::File(path.to_path_buf()), format!("cannot be read: {source}"));
        Self { problems: vec![problem], source: Some(source) }
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.source.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, and what was expected instead.
    pub message: String,
}

impl Problem {
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }
}

/// Where a problem is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File(PathBuf),
    /// A piece of a line of the file.
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// The line, fit for a terminal.
        excerpt: String,
        /// How many characters of it are meant, at least one.
        width: usize,
    },
    /// An environment variable.
    Env {
        /// Its name.
        name: &'static str,
        /// What it holds.
        value: String,
    },
    /// A flag.
    Flag {
        /// Its name without the dashes.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// `mpsec apply --set`.
    Set {
        /// The key.
        name: &'static str,
        /// What was given.
        value: String,
    },
}

impl Place {
    /// The place of a byte range of `text`, whatever that range is.
    pub(super) fn in_text(path: &Path, text: &str, span: Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let end = text.floor_char_boundary(span.end.clamp(start, text.len()));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        Self::Line {
            path: path.to_path_buf(),
            line: line_of(text, start),
            column: text[line_start..start].chars().count() + 1,
            excerpt: text[line_start..line_end].trim_end().chars().map(printable).collect(),
            width: text[start..end.min(line_end).max(start)].chars().count().max(1),
        }
    }
}

/// The line, counted from 1, of a byte offset.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = &self.message;
        match &self.place {
            Place::File(path) => write!(f, "{}: {message}", path.display()),
            Place::Env { name, value } => write!(f, "{name}={value:?} (environment): {message}"),
            Place::Flag { name, value } => write!(f, "--{name} {value:?}: {message}"),
            Place::Set { name, value } => write!(f, "{name}={value}: {message}"),
            Place::Line { path, line, column, excerpt, width } => {
                let gutter = line.to_string().len();
                writeln!(f, "{}:{line}:{column}: {message}", path.display())?;
                writeln!(f, "  {line} | {excerpt}")?;
                write!(f, "  {:gutter$} | {:indent$}{}", "", "", "^".repeat(*width), indent = column - 1)
            }
        }
    }
}

/// The one of `known` that `word` was most likely meant to be.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(64).flat_map(char::to_lowercase).collect();
    known
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.chars().collect::<Vec<_>>()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) between two words.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, r) in right.iter().enumerate() {
            let mut best = (last[j] + usize::from(l != r)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *l == right[j - 1] && left[i - 1] == *r {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}
