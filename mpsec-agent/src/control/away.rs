//! What failover has taken away, written down for as long as it is away: an agent that is killed puts nothing back, and nobody
//! else knows of it.
//!
//! It lies beside the state file, and is about one boot and one network namespace as well. It need not outlive the boot, so
//! nothing is synchronised: that would take failover longer than the rest of it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::change::Endpoint;
use super::live::kernels;
use super::store::{Place, give_to_owner};
use crate::kernel::mptcp_pm::{self as kernel, EndpointFlags, PathManager, PathManagerError};

/// Writes it down.
#[derive(Clone, Debug)]
pub struct Away {
    folder: PathBuf,
    place: Place,
    written: Suspended,
    /// What could not be written, and has been told.
    refused: Option<Suspended>,
}

/// What failover has done to endpoints and is to undo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suspended {
    /// Those that are not there, as they were.
    pub gone: Vec<Endpoint>,
    /// Those that are there without `fullmesh`, as they were with it.
    pub reduced: Vec<Endpoint>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    place: Place,
    suspended: Suspended,
}

impl Away {
    /// Has written nothing yet.
    pub fn new(folder: &Path, place: Place) -> Away {
        Away { folder: folder.to_owned(), place, written: Suspended::default(), refused: None }
    }

    /// Writes down what is away, unless that is written already. Without any the file goes.
    ///
    /// # Errors
    /// What the file system says. It is tried again each time, and told once.
    pub fn write(&mut self, suspended: Suspended) -> io::Result<()> {
        if suspended == self.written {
            return Ok(());
        }
        let path = file(&self.folder, &self.place);
        let outcome = match suspended == Suspended::default() {
            true => gone_is_fine(fs::remove_file(&path)),
            false => self.replace(&path, suspended.clone()),
        };
        match outcome {
            Ok(()) => (self.written, self.refused) = (suspended, None),
            Err(_) if self.refused.as_ref() == Some(&suspended) => {}
            Err(error) => {
                self.refused = Some(suspended);
                return Err(error);
            }
        }
        Ok(())
    }

    fn replace(&self, path: &Path, suspended: Suspended) -> io::Result<()> {
        let new = path.with_added_extension("new");
        let mut options = File::options();
        options.create(true).truncate(false).write(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&new)?;
        give_to_owner(&self.folder, &file)?;
        file.set_len(0)?;
        let written = Written { place: self.place.clone(), suspended };
        file.write_all(&serde_json::to_vec(&written).expect("plain data is JSON"))?;
        fs::rename(&new, path)
    }
}

/// Its name in the folder of the state: one for each network namespace.
fn file(folder: &Path, place: &Place) -> PathBuf {
    folder.join(format!("away-{}.json", place.netns))
}

/// Puts back what an agent that was killed had taken away in this boot and network namespace. Whoever calls has the lock of the
/// state, so that no agent works with it. Returns what was put back, and what could not be and why.
pub fn put_back(folder: &Path, place: &Place) -> (Vec<Endpoint>, Vec<String>) {
    let path = file(folder, place);
    let told = |error: String| format!("{}: {error}", path.display());
    let written: Written = match fs::read(&path).map(|bytes| serde_json::from_slice(&bytes)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Default::default(),
        Err(error) => return (Vec::new(), vec![told(error.to_string())]),
        Ok(Err(error)) => return (Vec::new(), vec![told(format!("it cannot be understood: {error}"))]),
        Ok(Ok(written)) => written,
    };
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    // What was away before this boot is gone with that.
    if written.place == *place
        && let Err(error) = restore(written.suspended, &mut done, &mut failures)
    {
        return (done, vec![error.to_string()]);
    }
    if let Err(error) = gone_is_fine(fs::remove_file(&path)) {
        failures.push(told(error.to_string()));
    }
    (done, failures)
}

fn restore(suspended: Suspended, done: &mut Vec<Endpoint>, failures: &mut Vec<String>) -> Result<(), PathManagerError> {
    let mut manager = PathManager::open()?;
    let mut there = manager.endpoints()?;
    there.retain(|endpoint| !endpoint.flags.contains(EndpointFlags::IMPLICIT));
    let find = |one: &Endpoint| there.iter().find(|known| (known.address, known.port) == (one.address, one.port));
    // What somebody has made since, or taken away, is theirs.
    for endpoint in suspended.gone.into_iter().filter(|one| find(one).is_none()) {
        match manager.add_endpoint(&kernels(&Endpoint { id: 0, ..endpoint.clone() })) {
            Ok(()) => done.push(endpoint),
            Err(error) => failures.push(format!("endpoint {}: {}", endpoint.address, error.in_full())),
        }
    }
    for endpoint in suspended.reduced {
        let Some(known) = find(&endpoint) else { continue };
        let whole = kernel::Endpoint { flags: known.flags | EndpointFlags::FULLMESH, ..known.clone() };
        match manager.set_endpoint_flags(&whole) {
            Ok(()) => done.push(endpoint),
            Err(error) => failures.push(format!("endpoint {}: {}", endpoint.address, error.in_full())),
        }
    }
    Ok(())
}

fn gone_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_for_as_long_as_something_is_away() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let place = Place { boot: "b".into(), netns: 7 };
        let address = [192, 0, 2, 1].into();
        let endpoint = Endpoint { id: 3, address, port: None, flags: vec!["subflow".into()], interface: None };
        let suspended = Suspended { gone: vec![endpoint], reduced: Vec::new() };
        let (path, mut away) = (file(folder, &place), Away::new(folder, place.clone()));
        away.write(Suspended::default()).unwrap();
        assert!(!path.exists());
        away.write(suspended.clone()).unwrap();
        let written: Written = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((&written.place, &written.suspended), (&place, &suspended));
        // Another namespace's is left alone, that of a boot before goes.
        assert_eq!(put_back(folder, &Place { netns: 8, ..place.clone() }), Default::default());
        assert!(path.exists());
        assert_eq!(put_back(folder, &Place { boot: "c".into(), ..place.clone() }), Default::default());
        assert!(!path.exists());
        away.write(Suspended::default()).unwrap();
        fs::write(&path, "nonsense").unwrap();
        let (done, failures) = put_back(folder, &place);
        assert!(done.is_empty() && failures[0].contains("cannot be understood"), "{failures:?}");
    }

    #[test]
    fn what_cannot_be_written_is_told_once_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("later");
        let mut away = Away::new(&inside, Place::default());
        let endpoint = Endpoint { id: 0, address: [192, 0, 2, 1].into(), port: None, flags: vec![], interface: None };
        let suspended = Suspended { gone: Vec::new(), reduced: vec![endpoint] };
        assert!(away.write(suspended.clone()).is_err());
        assert!(away.write(suspended.clone()).is_ok());
        fs::create_dir(&inside).unwrap();
        away.write(suspended).unwrap();
        assert!(file(&inside, &Place::default()).exists());
    }
}
