//! What failover has taken away, written down for as long as it is away: an agent that is killed puts nothing back, and nobody
//! else knows of it.
//!
//! It lies beside the state file, and is about one boot and one network namespace as well. It need not outlive the boot, so
//! nothing is synchronised: that would take failover longer than the rest of it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::change::Endpoint;
use super::live::kernels;
use super::store::{Place, give_to_owner};
use crate::kernel::mptcp_pm::{PathManager, PathManagerError};

/// Its name in the folder of the state.
const FILE: &str = "away.json";

/// Writes it down.
#[derive(Clone, Debug)]
pub struct Away {
    folder: PathBuf,
    place: Place,
    written: Vec<Endpoint>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    place: Place,
    endpoints: Vec<Endpoint>,
}

impl Away {
    /// Has written nothing yet.
    pub fn new(folder: &Path, place: Place) -> Away {
        Away { folder: folder.to_owned(), place, written: Vec::new() }
    }

    /// Writes down what is away, unless that is written already. Without any the file goes.
    ///
    /// # Errors
    /// What the file system says. It is not tried again before something else is away.
    pub fn write(&mut self, endpoints: Vec<Endpoint>) -> io::Result<()> {
        if endpoints == self.written {
            return Ok(());
        }
        let path = self.folder.join(FILE);
        let outcome = match endpoints.is_empty() {
            true => gone_is_fine(fs::remove_file(&path)),
            false => self.replace(&path, endpoints.clone()),
        };
        self.written = endpoints;
        outcome
    }

    fn replace(&self, path: &Path, endpoints: Vec<Endpoint>) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o750).create(&self.folder)?;
        let new = path.with_added_extension("new");
        let mut options = File::options();
        options.create(true).truncate(false).write(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&new)?;
        give_to_owner(&self.folder, &file)?;
        file.set_len(0)?;
        let written = Written { place: self.place.clone(), endpoints };
        file.write_all(&serde_json::to_vec(&written).expect("plain data is JSON"))?;
        fs::rename(&new, path)
    }
}

/// Puts back what an agent that was killed had taken away in this boot and network namespace. Whoever calls has the lock of the
/// state, so that no agent works with it. Returns what was put back, and what could not be and why.
pub fn put_back(folder: &Path, place: &Place) -> (Vec<Endpoint>, Vec<String>) {
    let path = folder.join(FILE);
    let told = |error: String| format!("{}: {error}", path.display());
    let written: Written = match fs::read(&path).map(|bytes| serde_json::from_slice(&bytes)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Default::default(),
        Err(error) => return (Vec::new(), vec![told(error.to_string())]),
        Ok(Err(error)) => return (Vec::new(), vec![told(format!("it cannot be understood: {error}"))]),
        Ok(Ok(written)) => written,
    };
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    // That of another network namespace is left to whoever works there.
    if written.place.boot == place.boot && written.place.netns != place.netns {
        return (done, failures);
    }
    if written.place == *place {
        match PathManager::open().and_then(|mut manager| Ok((manager.endpoints()?, manager))) {
            Ok((there, mut manager)) => {
                for endpoint in written.endpoints {
                    let is_it = |known: &&crate::kernel::mptcp_pm::Endpoint| {
                        known.address == endpoint.address && known.port == endpoint.port
                    };
                    match restore(&mut manager, there.iter().find(is_it).map(|known| known.id), &endpoint) {
                        Ok(()) => done.push(endpoint),
                        Err(error) => failures.push(format!("endpoint {}: {}", endpoint.address, error.in_full())),
                    }
                }
            }
            Err(error) => return (done, vec![error.to_string()]),
        }
    }
    if let Err(error) = gone_is_fine(fs::remove_file(&path)) {
        failures.push(told(error.to_string()));
    }
    (done, failures)
}

/// One that is there had lost a flag.
fn restore(manager: &mut PathManager, there: Option<u8>, endpoint: &Endpoint) -> Result<(), PathManagerError> {
    match there {
        Some(id) => manager.set_endpoint_flags(&kernels(&Endpoint { id, ..endpoint.clone() })),
        None => manager.add_endpoint(&kernels(&Endpoint { id: 0, ..endpoint.clone() })),
    }
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
        let place = Place { boot: "b".into(), netns: 7 };
        let endpoint = Endpoint {
            id: 3,
            address: [192, 0, 2, 1].into(),
            port: None,
            flags: vec!["subflow".into()],
            interface: None,
        };
        let (state, file) = (folder.path().join("state"), folder.path().join("state").join(FILE));
        let mut away = Away::new(&state, place.clone());
        away.write(Vec::new()).unwrap();
        assert!(!state.exists(), "a folder for nothing");
        away.write(vec![endpoint.clone()]).unwrap();
        let written: Written = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!((written.place, written.endpoints), (place.clone(), vec![endpoint.clone()]));
        // Another namespace's is left alone, that of a boot before goes.
        assert_eq!(put_back(&state, &Place { netns: 8, ..place.clone() }), Default::default());
        assert!(file.exists());
        assert_eq!(put_back(&state, &Place { boot: "c".into(), ..place }), Default::default());
        assert!(!file.exists());
        away.write(Vec::new()).unwrap();
        fs::write(&file, "nonsense").unwrap();
        let (done, failures) = put_back(&state, &Place::default());
        assert!(done.is_empty() && failures[0].contains("cannot be understood"), "{failures:?}");
    }
}
