//! From the keys of a web configuration to rustls' server side.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, ServerConfig,
    SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion, version,
};

use super::san::names;

/// What TLS is made from, read and checked one by one.
pub(super) struct TlsSettings {
    /// The server's certificate and its chain, PEM.
    pub(super) cert: Vec<u8>,
    /// The server's key, PEM.
    pub(super) key: Vec<u8>,
    pub(super) client_auth: ClientAuth,
    /// The authorities of clients' certificates, PEM.
    pub(super) client_ca: Option<Vec<u8>>,
    /// Names of which a client's certificate must have one.
    pub(super) client_allowed_sans: Option<Vec<String>>,
    pub(super) min_version: TlsVersion,
    pub(super) max_version: TlsVersion,
    /// Those for TLS 1.2; `None` is all. TLS 1.3 has the same three always, as in Go.
    pub(super) tls12_suites: Option<Vec<SupportedCipherSuite>>,
    pub(super) prefer_server_cipher_suites: bool,
    pub(super) curves: Option<Vec<&'static dyn SupportedKxGroup>>,
}

/// How clients are asked for a certificate. The names are Go's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ClientAuth {
    #[default]
    NoClientCert,
    RequestClientCert,
    RequireAnyClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

impl ClientAuth {
    pub(super) fn verifies(self) -> bool {
        matches!(self, ClientAuth::VerifyClientCertIfGiven | ClientAuth::RequireAndVerifyClientCert)
    }

    pub(super) fn requires(self) -> bool {
        matches!(self, ClientAuth::RequireAnyClientCert | ClientAuth::RequireAndVerifyClientCert)
    }
}

/// The versions of TLS that rustls has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TlsVersion {
    Tls12,
    Tls13,
}

/// Why there is no TLS from these settings: the key that is to blame, and what is wrong with it.
#[derive(Debug)]
pub(super) struct TlsProblem {
    pub(super) key: &'static str,
    pub(super) message: String,
}

fn problem(key: &'static str, message: impl ToString) -> TlsProblem {
    TlsProblem { key, message: message.to_string() }
}

/// Builds what accepts connections.
pub(super) fn server_config(settings: &TlsSettings) -> Result<ServerConfig, TlsProblem> {
    let provider = Arc::new(provider(settings));
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(settings)?)
        .map_err(|error| problem("cipher_suites", error))?
        .with_client_cert_verifier(client_verifier(settings, provider)?);
    let certs = certificates(&settings.cert).map_err(|message| problem("cert", message))?;
    let key = PrivateKeyDer::from_pem_slice(&settings.key)
        .map_err(|error| problem("key", format!("{error}; expected a private key in PEM")))?;
    let mut config = builder
        .with_single_cert(certs, key)
        .map_err(|error| problem("key", format!("the certificate and the key cannot serve: {error}")))?;
    config.ignore_client_order = settings.prefer_server_cipher_suites;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn provider(settings: &TlsSettings) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if let Some(suites) = &settings.tls12_suites {
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        provider.cipher_suites.extend(suites);
    }
    if let Some(curves) = &settings.curves {
        provider.kx_groups.clone_from(curves);
    }
    provider
}

fn versions(settings: &TlsSettings) -> Result<Vec<&'static SupportedProtocolVersion>, TlsProblem> {
    let all = [(TlsVersion::Tls13, &version::TLS13), (TlsVersion::Tls12, &version::TLS12)];
    let range = settings.min_version..=settings.max_version;
    let within: Vec<_> = all.into_iter().filter(|(v, _)| range.contains(v)).map(|(_, version)| version).collect();
    if within.is_empty() {
        return Err(problem("max_version", "is lower than min_version"));
    }
    Ok(within)
}

fn client_verifier(
    settings: &TlsSettings,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsProblem> {
    let verifier: Arc<dyn ClientCertVerifier> = match settings.client_auth {
        ClientAuth::NoClientCert => return Ok(WebPkiClientVerifier::no_client_auth()),
        ClientAuth::RequestClientCert => Arc::new(AnyCertificate { mandatory: false, provider }),
        ClientAuth::RequireAnyClientCert => Arc::new(AnyCertificate { mandatory: true, provider }),
        ClientAuth::VerifyClientCertIfGiven | ClientAuth::RequireAndVerifyClientCert => {
            let builder = WebPkiClientVerifier::builder_with_provider(roots(settings)?, provider);
            let builder = match settings.client_auth.requires() {
                true => builder,
                false => builder.allow_unauthenticated(),
            };
            builder.build().map_err(|error| problem("client_ca", error))?
        }
    };
    Ok(match &settings.client_allowed_sans {
        Some(allowed) => Arc::new(AllowedNames { verifier, allowed: allowed.clone() }),
        None => verifier,
    })
}

fn roots(settings: &TlsSettings) -> Result<Arc<RootCertStore>, TlsProblem> {
    let pem = settings.client_ca.as_deref().unwrap_or_default();
    let mut roots = RootCertStore::empty();
    for cert in certificates(pem).map_err(|message| problem("client_ca", message))? {
        roots.add(cert).map_err(|error| problem("client_ca", error))?;
    }
    Ok(Arc::new(roots))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certs {
        Ok(certs) if certs.is_empty() => Err("holds no certificate; expected PEM".into()),
        Ok(certs) => Ok(certs),
        Err(error) => Err(format!("{error}; expected certificates in PEM")),
    }
}

/// The names of the first certificate, which is the server's.
pub(super) fn server_names(pem: &[u8]) -> Vec<String> {
    let certificates = certificates(pem).unwrap_or_default();
    certificates.first().map(|certificate| names(certificate)).unwrap_or_default()
}

/// Takes any certificate whose key the client has, whoever issued it.
#[derive(Debug)]
struct AnyCertificate {
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Takes what another verifier takes, if one of its names is allowed.
#[derive(Debug)]
struct AllowedNames {
    verifier: Arc<dyn ClientCertVerifier>,
    allowed: Vec<String>,
}

/// A client's certificate has none of the names in `client_allowed_sans`.
#[derive(Debug, thiserror::Error)]
#[error("none of the client certificate's names is in client_allowed_sans: {0:?}")]
struct NameNotAllowed(Vec<String>);

impl ClientCertVerifier for AllowedNames {
    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        let names = names(end_entity);
        if names.iter().any(|name| self.allowed.contains(name)) {
            return Ok(verified);
        }
        let refused = OtherError(Arc::new(NameNotAllowed(names)));
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(refused)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
