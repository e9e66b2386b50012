//! Network namespaces other than the agent's own: doing things inside one of them.
//!
//! A socket belongs to the namespace that it was opened in, and an interface's index is looked up in that of the calling
//! thread; so whatever opens a socket or names an interface is done inside. The agent runs on one thread, which goes in and
//! comes back without waiting for anything in between.

pub mod private;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A namespace that is held open: it lives at least as long as this.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
    /// The namespace to come back to.
    home: File,
}

impl Netns {
    /// Opens the namespace that `path` stands for, to be entered from the one that the calling thread is in.
    ///
    /// # Errors
    /// `ENOENT` where there is none; `EINVAL` for a file that is no network namespace; `EPERM` without CAP_SYS_ADMIN.
    pub fn open(path: &Path) -> io::Result<Netns> {
        let netns =
            Netns { path: path.to_owned(), file: File::open(path)?, home: File::open("/proc/thread-self/ns/net")? };
        // What cannot be entered is of no use, and this is the time to say so.
        netns.enter(netns.file.as_fd())?;
        netns.come_back();
        Ok(netns)
    }

    /// Does something inside.
    ///
    /// # Errors
    /// When the namespace cannot be entered; then nothing was done.
    pub fn inside<T>(&self, body: impl FnOnce() -> T) -> io::Result<T> {
        self.enter(self.file.as_fd())?;
        let guard = Inside(self);
        let result = body();
        drop(guard);
        Ok(result)
    }

    /// False when the path stands for another namespace by now, or for none.
    pub fn is_current(&self) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let now = std::fs::metadata(&self.path).map(identity).ok();
        now.is_some() && now == self.file.metadata().map(identity).ok()
    }

    fn enter(&self, namespace: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: setns takes numbers alone, and changes nothing but the calling thread.
        match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn come_back(&self) {
        self.enter(self.home.as_fd()).expect("a thread may go back to the namespace that it came from");
    }
}

/// Comes back when dropped, in a panic too.
struct Inside<'a>(&'a Netns);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.come_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_refused() {
        let refused = |path: &str| Netns::open(Path::new(path)).map(drop).map_err(|error| error.kind());
        assert_eq!(refused("/run/netns/there-is-none-of-this-name"), Err(io::ErrorKind::NotFound));
        // EINVAL, or EPERM for those who may enter none.
        assert!(refused("/proc/self/status").is_err());
    }

    #[test]
    fn one_comes_back() {
        let here = || std::fs::metadata("/proc/thread-self/ns/net").map(|metadata| metadata.ino()).unwrap();
        let home = here();
        match Netns::open(Path::new("/proc/thread-self/ns/net")) {
            Ok(netns) => {
                assert!(netns.is_current());
                assert_eq!(netns.inside(here).unwrap(), home);
                assert_eq!(here(), home);
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
        }
    }
}
