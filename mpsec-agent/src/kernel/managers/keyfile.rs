//! Files of sections with assignments, as GLib, NetworkManager and systemd write them.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Settings are small; what is larger is none of theirs.
const MAX_LEN: u64 = 1 << 20;

/// The sections in order, each with its assignments in order. What stands before the first is in one without a name.
#[derive(Debug, Default)]
pub(super) struct Keyfile(Vec<(String, Vec<(String, String)>)>);

impl Keyfile {
    /// `None` for what cannot be read.
    pub(super) fn read(path: &Path) -> Option<Keyfile> {
        // Of a pipe without a writer it must not be waited for the other end.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        file.metadata().ok().filter(|found| found.is_file() && found.len() <= MAX_LEN)?;
        let mut text = String::new();
        file.take(MAX_LEN).read_to_string(&mut text).ok()?;
        Some(Self::parse(&text))
    }

    pub(super) fn parse(text: &str) -> Keyfile {
        let mut sections = vec![(String::new(), Vec::new())];
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                sections.push((name.to_owned(), Vec::new()));
            } else if let (Some((key, value)), Some((_, assignments))) = (line.split_once('='), sections.last_mut()) {
                assignments.push((key.trim().to_owned(), value.trim().to_owned()));
            }
        }
        Keyfile(sections)
    }

    /// The last value of a key in the sections of this name.
    pub(super) fn get(&self, section: &str, key: &str) -> Option<&str> {
        let sections = self.0.iter().filter(|(name, _)| name == section);
        sections.filter_map(|(_, assignments)| value(assignments, key)).next_back()
    }

    /// The last value of a key in the sections whose name begins so, and that have no key `unless`.
    pub(super) fn last(&self, section: &str, key: &str, unless: &str) -> Option<&str> {
        let sections = self.0.iter().filter(|(name, _)| name.starts_with(section));
        let sections = sections.filter(|(_, assignments)| value(assignments, unless).is_none());
        sections.filter_map(|(_, assignments)| value(assignments, key)).next_back()
    }
}

fn value<'a>(assignments: &'a [(String, String)], key: &str) -> Option<&'a str> {
    assignments.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_and_comments_do_not() {
        let file =
            Keyfile::parse("first = 1\n# first=2\n[a]\nk=1\nk=2\n;k=3\nno assignment\n[b]\nk=4\n[a]\nother=x=y\n");
        assert_eq!(file.get("", "first"), Some("1"));
        assert_eq!(file.get("a", "k"), Some("2"));
        assert_eq!(file.get("a", "other"), Some("x=y"));
        assert_eq!(file.get("c", "k"), None);
    }

    #[test]
    fn sections_may_be_for_certain_devices() {
        let file = Keyfile::parse("[connection]\nk=1\n[connection-2]\nk=2\n[connection-3]\nk=3\nmatch-device=eth0\n");
        assert_eq!(file.last("connection", "k", "match-device"), Some("2"));
    }
}
