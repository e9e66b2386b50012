//! The accept loop. It never ends but by request, and never keeps more than its limits allow.

use std::future::Future;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::access::Access;
use super::connection::{self, Shared};
use super::layers;
use super::limits::Limits;
use super::registry::Registry;
use super::stats::{HttpStats, count};
use super::web_config::{Protection, WebConfig};
use crate::kernel::stream::bind_anyway;

/// How long to wait for descriptors or memory when accept(2) finds none.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Connections to close when the agent runs out of descriptors: enough to leave some to its own work.
const SHORTAGE_VICTIMS: usize = 16;
/// At most one log line in this time about accept(2).
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Listening sockets, ready to serve.
pub struct Server {
    listeners: Vec<TcpListener>,
    config: Arc<WebConfig>,
    access: Access,
    limits: Limits,
    stats: Arc<HttpStats>,
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {}", reason(error))]
pub struct BindError {
    /// The address that was asked for.
    pub addr: SocketAddr,
    error: io::Error,
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use; another agent? choose another with --listen".into(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; a port below 1024 needs CAP_NET_BIND_SERVICE, choose another with --listen".into()
        }
        _ => error.to_string(),
    }
}

/// So many clients may wait to be accepted, unless net.core.somaxconn is lower.
const BACKLOG: u32 = 1024;

/// Listens on an address. One that this host does not have is listened on, too, and said: by DHCP it comes late, and it goes
/// and comes with its uplink.
fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let open = || -> io::Result<TcpSocket> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        Ok(socket)
    };
    let mut socket = open()?;
    match socket.bind(addr) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            tracing::warn!("no interface has the address {addr} yet; it is listened on as soon as one has");
            socket = open()?;
            bind_anyway(socket.as_fd())?;
            socket.bind(addr)?;
        }
        outcome => outcome?,
    }
    socket.listen(BACKLOG)
}

impl Server {
    /// Listens on all of these addresses, or on none. Warns of what that exposes.
    pub async fn bind(
        addrs: &[SocketAddr],
        config: Arc<WebConfig>,
        limits: Limits,
        stats: Arc<HttpStats>,
    ) -> Result<Server, BindError> {
        let mut listeners = Vec::with_capacity(addrs.len());
        let mut addrs = addrs.to_vec();
        // `[::]` first: it may take IPv4 along (ip(7), IPV6_V6ONLY), and then leaves `0.0.0.0` nothing to do.
        addrs.sort_by_key(|addr| !(addr.is_ipv6() && addr.ip().is_unspecified()));
        for &addr in &addrs {
            match listen(addr) {
                Ok(listener) => listeners.push(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_covered(addr, &addrs) => {}
                Err(error) => return Err(BindError { addr, error }),
            }
        }
        if let Some(warning) = exposure(&addrs, config.protection()) {
            tracing::warn!("{warning}");
        }
        Ok(Server { listeners, config, access: Access::default(), limits, stats })
    }

    /// Lets clients change things that this lets in; without it none may.
    pub fn with_access(self, access: Access) -> Server {
        Server { access, ..self }
    }

    /// The addresses that it listens on, with the ports that the kernel chose.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `shutdown`, then lets requests in progress end, for as long as the limits grant.
    pub async fn serve(self, router: Router, shutdown: impl Future<Output = ()>) {
        let registry = Arc::new(Registry::new(self.limits.clone(), self.stats.clone()));
        let shared = Arc::new(Shared {
            router: layers::around(router, self.config.clone(), self.stats.clone(), &self.limits),
            config: self.config,
            access: Arc::new(self.access),
            registry,
            limits: self.limits,
            stats: self.stats,
        });
        let (stop, stopped) = watch::channel(false);
        let mut acceptor = Acceptor { shared: shared.clone(), stopped, tasks: JoinSet::new(), quiet_until: None };
        acceptor.run(&self.listeners, shutdown).await;
        drop(self.listeners);
        // Fails only when no connection is left to hear it.
        let _ = stop.send(true);
        let mut tasks = acceptor.tasks;
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if timeout(shared.limits.shutdown_timeout, all_ended).await.is_err() {
            tracing::warn!("{} HTTP requests did not end in time and were cut off", tasks.len());
        }
    }
}

/// Whether this is all of IPv4, on a port where all of IPv6 is listened on as well.
fn is_covered(addr: SocketAddr, addrs: &[SocketAddr]) -> bool {
    let all_ipv6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, addr.port()));
    addr.is_ipv4() && addr.ip().is_unspecified() && addrs.contains(&all_ipv6)
}

struct Acceptor {
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
    tasks: JoinSet<()>,
    quiet_until: Option<Instant>,
}

impl Acceptor {
    async fn run(&mut self, listeners: &[TcpListener], shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut first = 0;
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!("an HTTP connection's task failed: {error}");
                    }
                }
                accepted = accept(listeners, &mut first) => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer).await,
                    Err(error) => self.failed(&error).await,
                },
            }
        }
    }

    async fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Some(place) = self.shared.registry.enter() else {
            return;
        };
        self.tasks.spawn(connection::run(stream, peer, place, self.shared.clone(), self.stopped.clone()));
        // A flood of connections must not keep those that it evicts from closing, nor the others from their work.
        tokio::task::yield_now().await;
    }

    async fn failed(&mut self, error: &io::Error) {
        count(&self.shared.stats.accept_errors);
        let now = Instant::now();
        if self.quiet_until.is_none_or(|until| now >= until) {
            tracing::warn!("cannot accept HTTP connections: {error}");
            self.quiet_until = Some(now + ACCEPT_LOG_INTERVAL);
        }
        if !is_shortage(error) {
            return;
        }
        let freed = (0..SHORTAGE_VICTIMS).take_while(|_| self.shared.registry.make_room()).count();
        let ours_alone = error.raw_os_error() == Some(libc::EMFILE);
        if freed > 0 && ours_alone {
            // The closed connections' tasks run before the next try.
            tokio::task::yield_now().await;
        } else {
            sleep(ACCEPT_BACKOFF).await;
        }
    }
}

/// The next connection from any listener, beginning after the one that gave the last.
async fn accept(listeners: &[TcpListener], first: &mut usize) -> io::Result<(TcpStream, SocketAddr)> {
    std::future::poll_fn(|cx| {
        for offset in 0..listeners.len() {
            let index = (*first + offset) % listeners.len();
            if let Poll::Ready(accepted) = listeners[index].poll_accept(cx) {
                *first = index + 1;
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether the host lacks something that closing connections or time may bring back. Other errors of accept(2) are those
/// of a connection that ended before it was accepted.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// What listening on these addresses exposes to the network, and what to do about it.
pub fn exposure(addrs: &[SocketAddr], protection: Protection) -> Option<String> {
    let reachable = |addr: &&SocketAddr| !addr.ip().to_canonical().is_loopback();
    let exposed: Vec<_> = addrs.iter().filter(reachable).map(ToString::to_string).collect();
    if exposed.is_empty() {
        return None;
    }
    let danger = match protection {
        Protection { tls: true, basic_auth, client_certs } if basic_auth || client_certs => return None,
        Protection { tls: true, .. } => {
            "whoever reaches it can read this host's addresses and traffic, as TLS alone asks \
                                         nobody who they are; add basic_auth_users or client_ca_file"
        }
        Protection { basic_auth: true, .. } => {
            "passwords and metrics cross the network in clear; add tls_server_config"
        }
        Protection { .. } => {
            "whoever reaches it can read this host's addresses and traffic, without TLS or a password; listen on 127.0.0.1, \
             or add tls_server_config and basic_auth_users"
        }
    };
    let where_to =
        if protection == Protection::default() { " in a --web-config file" } else { " in the web configuration" };
    Some(format!("listening on {}: {danger}{where_to}", exposed.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposure_is_told_by_address_and_protection() {
        let open: &[SocketAddr] = &["127.0.0.1:9475".parse().unwrap(), "0.0.0.0:9475".parse().unwrap()];
        let local: &[SocketAddr] = &["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()];
        let of = |tls, basic_auth, client_certs| exposure(open, Protection { tls, basic_auth, client_certs });
        assert_eq!(exposure(local, Protection::default()), None);
        let bare = of(false, false, false).unwrap();
        assert!(bare.starts_with("listening on 0.0.0.0:9475: whoever reaches it can read"), "{bare}");
        assert!(bare.contains("add tls_server_config and basic_auth_users"), "{bare}");
        assert!(of(false, true, false).unwrap().contains("passwords and metrics cross the network in clear"));
        assert!(of(true, false, false).unwrap().contains("add basic_auth_users or client_ca_file"));
        assert_eq!(of(true, true, false), None);
        assert_eq!(of(true, false, true), None);
    }

    #[test]
    fn shortages_are_told_from_lost_connections() {
        assert!(is_shortage(&io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(!is_shortage(&io::Error::from_raw_os_error(libc::ECONNABORTED)));
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = taken.local_addr().unwrap();
        let stats = Arc::new(HttpStats::default());
        let error = Server::bind(&[addr], Arc::default(), Limits::default(), stats).await.err().unwrap();
        let expected = "address already in use; another agent? choose another with --listen";
        assert_eq!(error.to_string(), format!("cannot listen on {addr}: {expected}"));
    }

    #[tokio::test]
    async fn all_of_ipv4_beside_all_of_ipv6_is_no_conflict() {
        let Ok(probe) = TcpListener::bind("[::]:0").await else {
            eprintln!("skipped: this host has no IPv6");
            return;
        };
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let addrs = [format!("0.0.0.0:{port}"), format!("[::]:{port}")].map(|addr| addr.parse().unwrap());
        let server = Server::bind(&addrs, Arc::default(), Limits::default(), Arc::default()).await.unwrap();
        assert!(!server.local_addrs().is_empty());
    }
}
