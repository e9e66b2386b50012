//! A server's certificate, and a client that trusts it alone.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use rcgen::CertifiedKey;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::netns::Netns;
use crate::{agent, http};

/// The name in the certificate.
pub const NAME: &str = "localhost";

/// What a server proves itself with, and what clients know it by.
pub struct Identity {
    cert: String,
    key: String,
    config: Arc<ClientConfig>,
}

impl Identity {
    /// A new one, which nobody else knows.
    pub fn new() -> Result<Self> {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { cert: cert.pem(), key: signing_key.serialize_pem(), config: Arc::new(config) })
    }

    /// Writes `web.yml` and what it names into a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::write(folder.join("cert.pem"), &self.cert)?;
        fs::write(folder.join("key.pem"), &self.key)?;
        let text = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";
        Ok(fs::write(folder.join("web.yml"), text)?)
    }

    /// Connects to the agent from inside a namespace.
    pub fn connect(&self, netns: &Netns) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let stream = http::connect(netns, agent::LISTEN.parse()?)?;
        let connection = ClientConnection::new(self.config.clone(), ServerName::try_from(NAME)?)?;
        Ok(StreamOwned::new(connection, stream))
    }
}
