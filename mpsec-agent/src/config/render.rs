//! Settings as text: the documented default file, and what `mpsec config show` prints.

use std::fmt::{self, Write as _};

use super::keys::{KEYS, Key};
use super::{Config, Loaded};

/// Where comments are folded in the default file.
const WIDTH: usize = 100;

/// The default configuration file: every key with what it does, commented out at its default.
#[must_use]
pub fn default_toml() -> String {
    let defaults = Config::default();
    let mut text = String::from(
        "# MPSec's configuration: /etc/mpsec/mpsec.toml\n\
         #\n\
         # Every key is shown at its default. A flag of `mpsec run` wins over an environment variable, that over this\n\
         # file, and this file over the default. `mpsec config check FILE` says whether a file is right, `mpsec config\n\
         # show` what is in effect and why. `systemctl reload mpsec` makes the agent read the file again.\n",
    );
    for (index, key) in KEYS.iter().enumerate() {
        match heading(index) {
            Some(section) => line(&mut text, format_args!("\n[{section}]")),
            None => text.push('\n'),
        }
        for folded in fold(key.doc) {
            line(&mut text, format_args!("# {folded}"));
        }
        let restart = if key.restart { " Takes effect at a restart." } else { "" };
        line(&mut text, format_args!("# Flag --{}, environment {}.{restart}", key.flag, key.env));
        line(&mut text, format_args!("#{} = {}", key.field(), key.value_in(&defaults)));
    }
    text
}

pub(super) fn to_toml(config: &Config) -> String {
    sections(|key| format!("{} = {}", key.field(), key.value_in(config)))
}

/// The effective settings as TOML, each with where it came from.
#[derive(Debug)]
pub struct Show<'a>(pub &'a Loaded);

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loaded { config, origins, file } = self.0;
        match file {
            Some(path) => writeln!(f, "# File: {}", path.display())?,
            None => writeln!(f, "# File: none")?,
        }
        let setting = |key: &Key| format!("{} = {}", key.field(), key.value_in(config));
        let width = KEYS.iter().map(|key| setting(key).chars().count()).max().unwrap_or(0);
        let line = |key: &Key| match origins.get(key.name) {
            Some(origin) => format!("{:width$}  # {origin}", setting(key)),
            None => setting(key),
        };
        f.write_str(&sections(line))
    }
}

/// One line a key, under the headings of their sections.
fn sections(render: impl Fn(&Key) -> String) -> String {
    let mut text = String::new();
    for (index, key) in KEYS.iter().enumerate() {
        if let Some(section) = heading(index) {
            let gap = if index == 0 { "" } else { "\n" };
            line(&mut text, format_args!("{gap}[{section}]"));
        }
        line(&mut text, format_args!("{}", render(key)));
    }
    text
}

/// The section that begins with this row; those without one come before all sections.
fn heading(index: usize) -> Option<&'static str> {
    let section = KEYS[index].section();
    let begins = index == 0 || KEYS[index - 1].section() != section;
    (begins && !section.is_empty()).then_some(section)
}

fn line(text: &mut String, content: fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("writing to a String cannot fail");
}

/// Breaks `text` into lines of [`WIDTH`] at most.
fn fold(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let current = lines.last_mut().expect("there is always a line");
        if current.is_empty() {
            current.push_str(word);
        } else if current.len() + 1 + word.len() <= WIDTH {
            current.push(' ');
            current.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
