//! The local control socket: one line with a request, one line of JSON with the answer.
//!
//! It lies in a directory that the agent makes, and only its owner and the control group may connect to it. Who asks for a
//! change is looked at once more, as the permissions of a file are easily loosened.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;

use super::ask::{Ask, AskError};
use super::request::{Allowed, Peer, Request};
use super::{Commands, Depth};
use crate::kernel::open_itself;

/// A longer request than this is none, in bytes.
const MAX_REQUEST: u64 = 64 * 1024;
/// A client has so long to ask, and so long again for a snapshot and to read it.
const DEADLINE: Duration = Duration::from_secs(10);
/// A plan or a change may take so long, with the time to read what came of it.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Beyond so many connections (some hundred microseconds of writing) the answer is written off the runtime's thread.
const WORTH_A_THREAD: usize = 128;
/// Clients that may wait to be served.
const BACKLOG: u32 = 128;
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
    allowed: Allowed,
}

impl ControlSocket {
    /// Makes the socket, and the directory that it lies in. One that a killed agent left is replaced. Members of `group` may
    /// use it as root may, where this host has such a group.
    pub async fn bind(path: &Path, group: &str) -> Result<ControlSocket, SocketError> {
        let failed = |error| SocketError::Failed { path: path.to_owned(), error };
        if is_stale(path).await? {
            std::fs::remove_file(path).map_err(failed)?;
        }
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        }
        let allowed = Allowed::new(group);
        let listener = listen(path, &allowed).map_err(failed)?;
        Ok(ControlSocket { listener, path: path.to_owned(), allowed })
    }

    /// Answers for as long as it is polled.
    pub async fn serve(&self, commands: Commands) {
        let places = std::sync::Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (commands, allowed) = (commands.clone(), self.allowed.clone());
                    tokio::spawn(async move {
                        let _place = place;
                        // A client that goes away or takes too long has only itself to blame.
                        let _ = answer(stream, &commands, &allowed).await;
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

/// Makes the socket, for its owner alone until it is given to the group.
fn listen(path: &Path, allowed: &Allowed) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    // The file gets the mode that the socket has, less the umask (unix_bind_bsd, net/unix/af_unix.c, Linux 6.18).
    File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(Permissions::from_mode(0o600))?;
    socket.bind(path)?;
    // At once: another agent would take it for one that nobody listens on.
    let listener = socket.listen(BACKLOG)?;
    // Whatever has the name by now, this is about the file that was found to be a socket, and no other.
    let found = open_itself(path)?;
    if !found.metadata()?.file_type().is_socket() {
        return Err(io::Error::other("somebody else has put something in its place"));
    }
    let file = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    if let Some(number) = allowed.number()
        && let Err(error) = chown(&file, None, Some(number))
    {
        // Without CAP_CHOWN the agent's user has to be in the group itself.
        tracing::warn!(
            group = number,
            %error,
            "the control socket cannot be given to the group: run the agent as root or in it"
        );
    }
    std::fs::set_permissions(&file, Permissions::from_mode(0o660))?;
    Ok(listener)
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

async fn answer(mut stream: UnixStream, commands: &Commands, allowed: &Allowed) -> io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new((&mut stream).take(MAX_REQUEST));
    let bytes = tokio::time::timeout(DEADLINE, reader.read_line(&mut request)).await??;
    let is_cut = bytes as u64 == MAX_REQUEST && !request.ends_with('\n');
    let request = match is_cut {
        true => Err(AskError::Wrong(format!("a request has at most {MAX_REQUEST} bytes"))),
        false => Request::parse(&request),
    };
    let time = if matches!(request, Ok(Request::Ask(_) | Request::Reload)) { PATIENCE } else { DEADLINE };
    let respond = async {
        let outcome = match request {
            Ok(Request::Status) => status(commands).await,
            Ok(Request::Reload) => reload(&stream, commands, allowed).await,
            Ok(Request::Ask(ask)) => act(ask, &stream, commands, allowed).await,
            Err(error) => Err(error),
        };
        let mut line = outcome.unwrap_or_else(|error| refusal(&error));
        line.push('\n');
        stream.write_all(line.as_bytes()).await
    };
    tokio::time::timeout(time, respond).await?
}

async fn status(commands: &Commands) -> Result<String, AskError> {
    let failed = |error: &dyn std::fmt::Display| AskError::Failed(error.to_string());
    let snapshot = commands.snapshot(Depth::Full).await.map_err(|error| failed(&error))?;
    if snapshot.connections() > WORTH_A_THREAD {
        return tokio::task::spawn_blocking(move || snapshot.to_json_text()).await.map_err(|error| failed(&error));
    }
    Ok(snapshot.to_json_text())
}

/// What is begun is ended, whether the client waits for it or not.
async fn act(ask: Ask, stream: &UnixStream, commands: &Commands, allowed: &Allowed) -> Result<String, AskError> {
    let peer = peer(stream)?;
    let who = allowed.check(ask.is_mutating(), &peer).inspect_err(|_| tracing::warn!(?peer, %ask, "refused"))?;
    let answer = commands.ask(ask, who).await?;
    serde_json::to_string(&answer).map_err(|error| AskError::Failed(error.to_string()))
}

async fn reload(stream: &UnixStream, commands: &Commands, allowed: &Allowed) -> Result<String, AskError> {
    let peer = peer(stream)?;
    allowed.check(true, &peer).inspect_err(|_| tracing::warn!(?peer, ask = "reload", "refused"))?;
    commands.reload().await?;
    Ok(json!({}).to_string())
}

fn peer(stream: &UnixStream) -> Result<Peer, AskError> {
    Peer::of(stream).map_err(|error| AskError::Failed(format!("cannot tell who asks: {error}")))
}

fn refusal(error: &AskError) -> String {
    json!({ "error": error.to_string(), "kind": error.kind() }).to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::control::Command;
    use crate::control::ask::{Answer, Who};
    use crate::control::client::{self, ClientError};
    use crate::kernel::peer;

    const GROUP: &str = "no-such-group-here";

    #[tokio::test]
    async fn asks_go_to_the_loop_with_who_asks_and_answers_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mpsec.sock");
        let socket = ControlSocket::bind(&path, GROUP).await.unwrap();
        let (commands, mut inbox) = Commands::channel();
        tokio::spawn(async move { socket.serve(commands).await });
        let client = tokio::task::spawn_blocking(move || {
            let good = client::act(&path, &Ask::Release);
            let bad = client::act(&path, &Ask::Plan(Default::default()));
            let long = client::request::<Answer>(&path, &"x".repeat(MAX_REQUEST as usize), DEADLINE);
            let word = client::request::<Answer>(&path, "halt", DEADLINE);
            let reloads = [client::reload(&path), client::reload(&path)];
            (good, bad, long, word, reloads)
        });
        let answer = Answer { generation: 7, released: true, ..Answer::default() };
        let Some(Command::Ask(Ask::Release, who, reply)) = inbox.recv().await else { panic!("not asked") };
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(who, Who::Local { uid: peer::own_user(), pid });
        reply.send(Ok(answer.clone())).unwrap();
        let Some(Command::Ask(Ask::Plan(_), _, reply)) = inbox.recv().await else { panic!("not asked") };
        reply.send(Err(AskError::Wrong("no such key".into()))).unwrap();
        for outcome in [Ok(()), Err(AskError::Wrong("mpsec.toml:1: no".into()))] {
            let Some(Command::Reload(reply)) = inbox.recv().await else { panic!("not asked") };
            reply.send(outcome).unwrap();
        }
        let (good, bad, long, word, [loaded, not_loaded]) = client.await.unwrap();
        assert!(loaded.is_ok());
        assert!(matches!(not_loaded, Err(ClientError::Wrong(text)) if text == "mpsec.toml:1: no"));
        assert_eq!(good.unwrap(), answer);
        assert!(matches!(bad, Err(ClientError::Wrong(text)) if text == "no such key"));
        assert!(matches!(long, Err(ClientError::Wrong(text)) if text.contains("at most 65536 bytes")));
        assert!(matches!(word, Err(ClientError::Wrong(text)) if text.starts_with("unknown request \"halt\"")));
    }

    #[tokio::test]
    async fn the_file_is_for_the_group_and_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mpsec.sock");
        // This process's own group is one that it may give files to, whoever runs it.
        let own = std::fs::metadata(folder.path()).unwrap().gid();
        let groups = std::fs::read_to_string("/etc/group").unwrap();
        let named = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(own)).then_some(name)
        });
        let _socket = ControlSocket::bind(&path, named.unwrap_or(GROUP)).await.unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o660, own));
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/mpsec.sock");
        let first = ControlSocket::bind(&path, GROUP).await.unwrap();
        assert!(matches!(ControlSocket::bind(&path, GROUP).await, Err(SocketError::InUse(_))));
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(ControlSocket::bind(&path, GROUP).await.unwrap());

        let file = folder.path().join("precious");
        std::fs::write(&file, "data").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for taken in [folder.path(), &file, &link] {
            assert!(
                matches!(ControlSocket::bind(taken, GROUP).await, Err(SocketError::NotASocket(_))),
                "{}",
                taken.display()
            );
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
        assert!(matches!(ControlSocket::bind(&path, GROUP).await, Err(SocketError::InUse(_))));
        drop(listener);
    }
}
