//! The log of changes: a line of JSON for each time that something was changed, tried or refused.
//!
//! It is kept beside the state, bounded, and nothing waits for it: an entry that cannot be written is counted and told.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::apply::{Failure, Outcome};
use super::ask::Who;
use super::change::Change;
use super::live;
use super::store::{check_folder, give_to_owner};

/// Its name in the folder.
const FILE: &str = "audit.jsonl";
/// The name of the one before.
const OLD_FILE: &str = "audit.jsonl.1";
/// A file that would grow beyond this is put away, in bytes.
const LARGEST: u64 = 4 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was over, RFC 3339 in UTC.
    pub time: String,
    /// Who asked.
    pub who: Who,
    /// What for: the words of the command, or `reconcile`.
    pub what: String,
    /// How often what is wanted had changed by then.
    pub generation: u64,
    /// Changes that were made and hold, each with what was before.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// What failed.
    #[serde(default)]
    pub failures: Vec<Failure>,
    /// Changes that were made and taken back.
    #[serde(default)]
    pub undone: Vec<Change>,
    /// Why nothing was tried.
    #[serde(default)]
    pub refusals: Vec<String>,
    /// What interfaces were called that changes mention by index.
    #[serde(default)]
    pub interfaces: BTreeMap<u32, String>,
}

impl Entry {
    /// Of what came of something just now.
    #[must_use]
    pub fn new(who: &Who, what: impl Into<String>, generation: u64, outcome: &Outcome) -> Entry {
        Entry {
            time: rfc3339(SystemTime::now()),
            who: who.clone(),
            what: what.into(),
            generation,
            changes: outcome.changes.clone(),
            failures: outcome.failures.clone(),
            undone: outcome.undone.clone(),
            refusals: outcome.refusals.clone(),
            interfaces: live::interface_names(outcome),
        }
    }

    /// Whether nothing came of it: what the agent finds when all is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.failures.is_empty() && self.undone.is_empty() && self.refusals.is_empty()
    }

    fn tell(&self) {
        tracing::info!(
            who = %self.who,
            what = self.what,
            generation = self.generation,
            changes = list(&self.changes),
            failures = list(&self.failures),
            undone = list(&self.undone),
            refusals = list(&self.refusals),
            "control"
        );
    }
}

fn list(all: &[impl Display]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Where entries go.
#[derive(Debug)]
pub struct Audit {
    folder: PathBuf,
    largest: u64,
    errors: AtomicU64,
}

impl Audit {
    /// The log in this folder, which is made with the first entry.
    #[must_use]
    pub fn new(folder: &Path) -> Audit {
        Audit { folder: folder.to_owned(), largest: LARGEST, errors: AtomicU64::new(0) }
    }

    /// Tells of an entry and writes it down. One that cannot be written is counted, and is told all the same.
    pub fn record(&self, entry: &Entry) {
        entry.tell();
        if let Err(error) = self.append(entry) {
            self.errors.fetch_add(1, Ordering::Relaxed);
            let path = self.folder.join(FILE);
            tracing::error!(%error, path = %path.display(), "the log of changes cannot be written");
        }
    }

    /// Entries that could not be written.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Writes an entry down.
    ///
    /// # Errors
    /// What the file system says.
    pub fn append(&self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&self.folder)?;
        check_folder(&self.folder)?.map_err(io::Error::other)?;
        let path = self.folder.join(FILE);
        let mut file = open(&path)?;
        give_to_owner(&self.folder, &file)?;
        let length = file.metadata()?.len();
        if length > 0 && length + line.len() as u64 > self.largest {
            fs::rename(&path, self.folder.join(OLD_FILE))?;
            file = open(&path)?;
            give_to_owner(&self.folder, &file)?;
        } else if !ends_with_a_line(&mut file)? {
            // What was cut off by a full disk or a crash spoils no more than itself.
            line.insert(0, b'\n');
        }
        file.write_all(&line)
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).read(true).append(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn ends_with_a_line(file: &mut File) -> io::Result<bool> {
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok(last == [b'\n'])
}

/// The last entries, the oldest first. Lines that are none are passed over.
///
/// # Errors
/// A file that is there and cannot be read.
pub fn last(folder: &Path, count: usize) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for name in [OLD_FILE, FILE] {
        let bytes = match fs::read(folder.join(name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        entries
            .extend(bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Entry>(line).ok()));
    }
    entries.drain(..entries.len().saturating_sub(count));
    Ok(entries)
}

/// A time in UTC, to the millisecond. What is before 1970 is shown as its beginning.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// Year, month and day of so many days after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Whole rounds of the calendar first, so that no clock makes this long.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    fn entry(what: &str) -> Entry {
        let change = Change::Sysctl { name: "net.mptcp.enabled".into(), from: "0".into(), to: "1".into() };
        let outcome = Outcome { changes: vec![change], refusals: vec!["no".into()], ..Outcome::default() };
        Entry::new(&Who::Local { uid: 1, pid: 2 }, what, 3, &outcome)
    }

    #[test]
    fn times_are_in_utc() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (13_574_563_200_000, "2400-02-29T00:00:00.000Z"),
        ];
        for (milliseconds, expected) in cases {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(milliseconds)), expected);
        }
    }

    #[test]
    fn entries_are_lines_that_only_the_group_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("new");
        let audit = Audit::new(&inner);
        assert!(last(&inner, 9).unwrap().is_empty());
        let entries = ["first\nline", "second", "third"].map(entry);
        entries.iter().for_each(|entry| audit.append(entry).unwrap());
        assert_eq!(last(&inner, 9).unwrap(), entries);
        assert_eq!(last(&inner, 2).unwrap(), entries[1..]);
        let mode = fs::metadata(inner.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
        assert_eq!(fs::read_to_string(inner.join(FILE)).unwrap().lines().count(), 3);
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::new(folder.path());
        audit.append(&entry("one")).unwrap();
        let path = folder.path().join(FILE);
        let mut text = fs::read_to_string(&path).unwrap();
        text.truncate(text.len() - 9);
        text.insert_str(0, "{}\n");
        fs::write(&path, text).unwrap();
        audit.append(&entry("two")).unwrap();
        let found: Vec<String> = last(folder.path(), 9).unwrap().into_iter().map(|entry| entry.what).collect();
        assert_eq!(found, ["two"]);
    }

    #[test]
    fn it_is_bounded_and_one_old_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit { largest: 2000, ..Audit::new(folder.path()) };
        (0..50).for_each(|number| audit.append(&entry(&number.to_string())).unwrap());
        for name in [FILE, OLD_FILE] {
            let bytes = fs::metadata(folder.path().join(name)).unwrap().len();
            assert!((1..=2000).contains(&bytes), "{name}: {bytes}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        let found: Vec<usize> =
            last(folder.path(), 99).unwrap().iter().map(|entry| entry.what.parse().unwrap()).collect();
        assert!(found.len() > 5 && found.iter().copied().eq(50 - found.len()..50), "{found:?}");
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let audit = Audit::new(&file);
        audit.record(&entry("lost"));
        audit.record(&entry("lost"));
        assert_eq!(audit.errors(), 2);
        std::os::unix::fs::symlink(&file, folder.path().join(FILE)).unwrap();
        assert!(Audit::new(folder.path()).append(&entry("lost")).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"");
    }
}
