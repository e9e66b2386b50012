//! What a request came by: which connection, how it is protected, and whom the client proved to be with it.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConnection;
use sha2::{Digest as _, Sha256};

use super::access::Access;
use super::san::names;
use super::web_config::Tls;
use crate::control::client::plain;

/// An extension of every request that came over a connection.
#[derive(Clone)]
pub(super) struct Channel {
    /// Who may change things.
    pub(super) access: Arc<Access>,
    /// The client's address.
    pub(super) peer: SocketAddr,
    /// The address that it reached.
    pub(super) local: SocketAddr,
    /// `None` for plain HTTP.
    pub(super) tls: Option<Secured>,
}

/// A connection that is encrypted.
#[derive(Clone)]
pub(super) struct Secured {
    /// Names in the server's certificate.
    pub(super) names: Arc<[String]>,
    /// Name of the client's certificate, if it has one that was verified.
    pub(super) client: Option<Arc<str>>,
    /// Whether certificates, or what is asked of those of clients, have changed since: one that was taken back proves nothing.
    pub(super) is_outdated: bool,
}

impl Secured {
    /// After a handshake with these settings.
    pub(super) fn new(tls: &Tls, connection: &ServerConnection) -> Secured {
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        let client = certificate.filter(|_| tls.verifies_clients).map(|certificate| identity(certificate).into());
        Secured { names: tls.names.clone(), client, is_outdated: false }
    }
}

/// So much of a name is shown, in characters: DNS names have no more.
const LONGEST: usize = 253;

/// How a certificate is called in the log of changes.
fn identity(certificate: &[u8]) -> String {
    match names(certificate).first() {
        Some(name) => {
            let name: String = name.chars().take(LONGEST).collect();
            format!("certificate {}", plain(&name))
        }
        None => {
            let digest = Sha256::digest(certificate);
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("certificate with SHA-256 {hex}")
        }
    }
}
