//! The state file: what is ours on this host, what was set beside the configuration file, and what was begun.
//!
//! It is written whole beside the old one, synchronised and then given its name, so that there is always one that is right.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::actual::Actual;
use super::apply::Memory;
use super::change::Change;
use super::owned::Owned;
use crate::kernel::peer::{own_user, user_number};

/// Its name in the folder.
const FILE: &str = "state.json";
/// What a lock is taken on, as the file itself is replaced.
const LOCK: &str = "lock";
/// The user that the packaged service runs as (packaging/mpsec.service). systemd gives it the folder.
const SERVICE_USER: &str = "mpsec";
/// Network namespaces beside its own that are remembered.
const MOST_ELSEWHERE: usize = 64;
/// How long another command may have the state before it is said that it is in use: a plan takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// What these lines mean; another number is not touched.
const VERSION: u32 = 1;

/// Why the state cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has it.
    #[error("another mpsec works with {}: stop it first, or choose another folder with --state-dir", .0.display())]
    InUse(PathBuf),
    /// It is not as this program writes it.
    #[error("{} cannot be understood ({error}): it says what MPSec changed on this host. Mend it, or look at it and move it \
             away, and see with `ip mptcp endpoint` and `ip rule` what is left", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: String,
    },
    /// Somebody who is not root, nor who asks, could put anything there.
    #[error("{} is not used, as {reason}, who could have MPSec change anything on this host; or choose another folder with \
             --state-dir", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// Whose it is, and what mends that.
        reason: String,
    },
    /// Somebody else has used it since it was read.
    #[error("{} was changed by another mpsec meanwhile, and is left alone: restart the agent, which reads it again", .0.display())]
    Changed(PathBuf),
    /// It cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    /// The boot and the network namespace that `owned` and `begun` are about: they are gone with those.
    place: Place,
    owned: Owned,
    /// Changes that were begun and not ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    begun: Vec<Change>,
    /// What was changed in other network namespaces since this boot, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    elsewhere: Vec<Elsewhere>,
    /// `KEY=VALUE`, from `mpsec apply --set`.
    #[serde(default)]
    settings: Vec<String>,
    /// Everything was given back, and nothing is to be changed until it is asked for.
    #[serde(default)]
    released: bool,
    /// How often what is wanted has changed.
    #[serde(default)]
    generation: u64,
}

/// What is ours in a network namespace that this program is not in. That may be gone by now, which nobody can tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Elsewhere {
    place: Place,
    owned: Owned,
    #[serde(default)]
    begun: Vec<Change>,
    #[serde(default)]
    released: bool,
}

impl Kept {
    /// Takes up what is known of a place, and puts away what is known of the one before.
    fn move_to(&mut self, place: Place) {
        if self.place == place {
            return;
        }
        let left = Elsewhere {
            place: std::mem::replace(&mut self.place, place),
            owned: std::mem::take(&mut self.owned),
            begun: std::mem::take(&mut self.begun),
            released: std::mem::take(&mut self.released),
        };
        if !left.owned.is_empty() || !left.begun.is_empty() || left.released {
            self.elsewhere.push(left);
        }
        // What was changed before this boot is gone with that.
        self.elsewhere.retain(|known| known.place.boot == self.place.boot);
        if let Some(at) = self.elsewhere.iter().position(|known| known.place == self.place) {
            let known = self.elsewhere.remove(at);
            (self.owned, self.begun, self.released) = (known.owned, known.begun, known.released);
        }
        let surplus = self.elsewhere.len().saturating_sub(MOST_ELSEWHERE);
        self.elsewhere.drain(..surplus);
    }
}

/// Where something is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The kernel's identifier of this boot.
    pub boot: String,
    /// The kernel's number of the network namespace, unique in a boot.
    pub netns: u64,
}

/// The state of this host, held by one program at a time.
pub struct Store {
    folder: PathBuf,
    kept: Kept,
    /// What is kept could not be written.
    is_behind: bool,
    /// Held as soon as there is something to keep.
    lock: Option<File>,
}

impl Store {
    /// Reads the state. Without a folder or a file nothing is ours, and none is made before there is something to keep.
    ///
    /// # Errors
    /// A file that cannot be understood is never replaced, and one that another program works with is not read.
    pub fn open(folder: &Path, place: Place) -> Result<Store, StoreError> {
        let mut store = Store { folder: folder.to_owned(), kept: Kept::default(), is_behind: false, lock: None };
        if folder.exists() {
            store.lock()?;
        }
        let path = folder.join(FILE);
        let kept = match fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept { version: VERSION, ..Kept::default() },
            Err(error) => return Err(StoreError::Io { path, error }),
        };
        store.kept = kept;
        store.kept.move_to(place);
        Ok(store)
    }

    /// Changes that were begun before a crash.
    #[must_use]
    pub fn begun(&self) -> &[Change] {
        &self.kept.begun
    }

    /// After a crash: finds out how far it went, by what is there. It is known from then on, also where it cannot be kept.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn recover(&mut self, actual: &Actual) -> Result<(), String> {
        let begun = std::mem::take(&mut self.kept.begun);
        let owned = std::mem::take(&mut self.kept.owned);
        // The file is to forget them even if nothing is ours: what somebody else makes later would be taken for one of them.
        self.is_behind |= !begun.is_empty();
        self.end(owned.recovered(&begun, actual))
    }

    /// Whether something of what is kept has yet to be written into the file.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// What was set beside the configuration file, as `KEY=VALUE`.
    #[must_use]
    pub fn settings(&self) -> &[String] {
        &self.kept.settings
    }

    /// Whether everything was given back.
    #[must_use]
    pub fn released(&self) -> bool {
        self.kept.released
    }

    /// How often what is wanted has changed.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.kept.generation
    }

    /// Keeps what was set, and that something else is wanted from now on.
    ///
    /// # Errors
    /// When it cannot be kept: then all is as before. That everything was given back counts all the same, and is written with
    /// what comes next.
    pub fn set(&mut self, settings: Vec<String>, released: bool) -> Result<(), String> {
        let before = self.kept.clone();
        self.kept.settings = settings;
        self.kept.released = released;
        self.kept.generation += 1;
        self.save().map_err(|error| {
            if !released {
                self.kept = before;
            }
            error.to_string()
        })
    }

    /// Counts that the configuration file asks for something else; kept with the next thing that is.
    pub fn count_generation(&mut self) {
        self.kept.generation += 1;
    }

    /// The boot and the network namespace that it is about.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.kept.place
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn lock(&mut self) -> Result<(), StoreError> {
        if self.lock.is_some() {
            return Ok(());
        }
        let io = |path: &Path, error| StoreError::Io { path: path.to_owned(), error };
        let folder = &self.folder;
        fs::DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(|error| io(folder, error))?;
        let ours = check_folder(folder).map_err(|error| io(folder, error))?;
        ours.map_err(|reason| StoreError::NotOurs { path: folder.clone(), reason })?;
        let path = folder.join(LOCK);
        let file = open_lock(folder, &path).map_err(|error| io(&path, error))?;
        let begun_at = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(fs::TryLockError::WouldBlock) if begun_at.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse(folder.clone())),
                Err(fs::TryLockError::Error(error)) => return Err(io(&path, error)),
            }
        }
        self.lock = Some(file);
        Ok(())
    }

    /// The lock, if this has none yet.
    fn lock_first(&mut self) -> Result<(), StoreError> {
        if self.lock.is_none() {
            self.lock()?;
            let path = self.folder.join(FILE);
            // There was none when this began.
            if path.exists() {
                self.lock = None;
                return Err(StoreError::Changed(path));
            }
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), StoreError> {
        self.is_behind = true;
        let path = self.folder.join(FILE);
        self.lock_first()?;
        let new = self.folder.join("state.json.new");
        let mut text = serde_json::to_vec_pretty(&self.kept).expect("plain data is JSON");
        text.push(b'\n');
        let write = || {
            let mut options = File::options();
            options.create(true).truncate(false).write(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
            let mut file = options.open(&new)?;
            give_to_owner(&self.folder, &file)?;
            file.set_len(0)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| StoreError::Io { path: path.clone(), error })?;
        self.is_behind = false;
        Ok(())
    }
}

impl Memory for Store {
    fn owned(&self) -> &Owned {
        &self.kept.owned
    }

    fn begin(&mut self, changes: &[Change]) -> Result<(), String> {
        // What ends with the agent needs no memory; but failover writes down what is away, in this folder.
        if changes.iter().all(Change::needs_agent) {
            if changes.iter().any(|change| matches!(change, Change::Failover { to: true }))
                && let Err(error) = self.lock_first()
            {
                tracing::warn!("what failover takes away cannot be written down: {error}");
            }
            return Ok(());
        }
        self.kept.begun = changes.to_vec();
        self.save().map_err(|error| {
            // Nothing of them is done, and what somebody else does meanwhile is not to be taken for it.
            self.kept.begun.clear();
            error.to_string()
        })
    }

    fn end(&mut self, owned: Owned) -> Result<(), String> {
        if !self.is_behind && self.kept.begun.is_empty() && self.kept.owned == owned {
            return Ok(());
        }
        self.kept.begun.clear();
        self.kept.owned = owned;
        self.save().map_err(|error| format!("it cannot be kept what was changed: {error}"))
    }
}

/// Opens what a lock is taken on. One that was made before can be locked on a read-only disk, too: what was changed can be
/// given back there.
fn open_lock(folder: &Path, path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
    match options.open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => {
            File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(|_| error)
        }
        Err(error) => Err(error),
        Ok(file) => give_to_owner(folder, &file).map(|()| file),
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What root makes in the service's folder has to be the service's, which could not use it otherwise.
///
/// # Errors
/// What the file system says.
pub(super) fn give_to_owner(folder: &Path, file: &File) -> io::Result<()> {
    let found = fs::metadata(folder)?;
    if own_user() != 0 || found.uid() == 0 {
        return Ok(());
    }
    // The owner could have put another name of anybody's file there.
    if file.metadata()?.nlink() != 1 {
        return Err(io::Error::other("it has other names, and is not used"));
    }
    fchown(file, Some(found.uid()), Some(found.gid()))
}

/// Whether nobody but root, this process' user and the service's can put something into the folder, or who can and what
/// mends it. Whoever is the service's user has CAP_NET_ADMIN there, and could change by itself all that a state can say.
///
/// # Errors
/// What the file system says.
pub(super) fn check_folder(folder: &Path) -> io::Result<Result<(), String>> {
    let found = fs::metadata(folder)?;
    let (owner, mode, shown) = (found.uid(), found.mode() & 0o7777, folder.display());
    let is_of_service = || user_number(SERVICE_USER).is_ok_and(|number| number == Some(owner));
    if owner != 0 && owner != own_user() && !is_of_service() {
        return Ok(Err(format!("it belongs to user {owner} (chown root {shown})")));
    }
    if mode & 0o022 != 0 {
        return Ok(Err(format!("its mode {mode:04o} lets others write (chmod go-w {shown})")));
    }
    Ok(Ok(()))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Kept, StoreError> {
    let damaged = |error: String| StoreError::Damaged { path: path.to_owned(), error };
    // The version first: another one may have other fields.
    let versioned: Versioned = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    match versioned.version {
        VERSION => serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string())),
        other => Err(damaged(format!("it has version {other}, this program knows {VERSION}"))),
    }
}

#[cfg(test)]
mod tests;
