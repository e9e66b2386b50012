//! The local control socket: one line with a request, one line of JSON with the answer.
//!
//! It lies in a directory that the agent makes, and only its owner and group may connect to it.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{Commands, Depth};

/// The request for a snapshot.
pub const STATUS: &str = "status";
/// A longer request than this is none.
const MAX_REQUEST: u64 = 4096;
/// A client has so long to ask and to read.
const DEADLINE: Duration = Duration::from_secs(10);
/// Beyond so many connections (some hundred microseconds of writing) the answer is written off the runtime's thread.
const WORTH_A_THREAD: usize = 128;
/// Clients that are served at a time; more wait.
const CLIENTS: usize = 16;

/// Why the socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("another agent answers on {}: stop it first, or choose another socket with --control-socket", .0.display())]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("cannot make the control socket {}: there is something that is not a socket, and it is left alone; \
             choose another path with --control-socket", .0.display())]
    NotASocket(PathBuf),
    /// Anything else.
    #[error("cannot make the control socket {}: {error}", path.display())]
    Failed {
        /// Where it was to be.
        path: PathBuf,
        /// Why it could not.
        error: io::Error,
    },
}

/// The socket, removed when dropped.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Makes the socket, and the directory that it lies in. One that a killed agent left is replaced.
    pub async fn bind(path: &Path) -> Result<ControlSocket, SocketError> {
        let failed = |error| SocketError::Failed { path: path.to_owned(), error };
        if is_stale(path).await? {
            std::fs::remove_file(path).map_err(failed)?;
        }
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
        Ok(ControlSocket { listener, path: path.to_owned() })
    }

    /// Answers for as long as it is polled.
    pub async fn serve(&self, commands: Commands) {
        let places = std::sync::Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let commands = commands.clone();
                    tokio::spawn(async move {
                        let _place = place;
                        // A client that goes away or takes too long has only itself to blame.
                        let _ = tokio::time::timeout(DEADLINE, answer(stream, commands)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Whoever started in the meantime would have been refused, so the file is ours.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// True where a socket lies that nobody listens on, false where nothing lies.
async fn is_stale(path: &Path) -> Result<bool, SocketError> {
    match UnixStream::connect(path).await {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok(false),
            // Somebody listens, and has more to do than there is room for.
            io::ErrorKind::WouldBlock => Err(SocketError::InUse(path.to_owned())),
            // The kernel says so of everything that is no socket, too (unix_find_bsd, net/unix/af_unix.c).
            io::ErrorKind::ConnectionRefused => match std::fs::symlink_metadata(path) {
                Ok(metadata) if metadata.file_type().is_socket() => Ok(true),
                _ => Err(SocketError::NotASocket(path.to_owned())),
            },
            _ => Err(SocketError::Failed { path: path.to_owned(), error }),
        },
    }
}

async fn answer(mut stream: UnixStream, commands: Commands) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut request = String::new();
    BufReader::new(read.take(MAX_REQUEST)).read_line(&mut request).await?;
    let mut line = match request.trim() {
        STATUS => match commands.snapshot(Depth::Full).await {
            Ok(snapshot) if snapshot.connections() > WORTH_A_THREAD => {
                tokio::task::spawn_blocking(move || snapshot.to_json_text()).await?
            }
            Ok(snapshot) => snapshot.to_json_text(),
            Err(error) => refusal(&error.to_string()),
        },
        other => refusal(&format!("unknown request {other:?}; known: {STATUS}")),
    };
    line.push('\n');
    write.write_all(line.as_bytes()).await
}

fn refusal(text: &str) -> String {
    json!({ "error": text }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/mpsec.sock");
        let first = ControlSocket::bind(&path).await.unwrap();
        assert!(matches!(ControlSocket::bind(&path).await, Err(SocketError::InUse(_))));
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(ControlSocket::bind(&path).await.unwrap());

        let file = folder.path().join("precious");
        std::fs::write(&file, "data").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for taken in [folder.path(), &file, &link] {
            assert!(matches!(ControlSocket::bind(taken).await, Err(SocketError::NotASocket(_))), "{}", taken.display());
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");
    }

    #[tokio::test]
    async fn a_socket_with_a_full_queue_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mpsec.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            waiting.push(stream);
        }
        assert!(matches!(ControlSocket::bind(&path).await, Err(SocketError::InUse(_))));
        drop(listener);
    }
}
