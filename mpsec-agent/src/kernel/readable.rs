//! Waiting until a descriptor can be read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor of its own for something that is read elsewhere.
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Must be made in a runtime of tokio, and used in the same one.
    ///
    /// # Errors
    /// What `dup(2)` or `epoll_ctl(2)` say.
    pub fn new(source: impl AsFd) -> io::Result<Readable> {
        let descriptor = source.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is owned by what registers it, so it is open for as long as it is registered.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(Readable(registered.map_err(io::Error::from)?))
    }

    /// Waits until there is something to read. Whoever reads must read all of it. Cancelling it loses nothing.
    ///
    /// # Errors
    /// When the runtime ends.
    pub async fn ready(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
