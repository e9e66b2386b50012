//! TLS with a certificate authority of our own.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::*;

pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(super) struct Identity {
    cert: String,
    key: String,
}

impl Authority {
    pub(super) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn issue(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI(format!("spiffe://toy/{name}").try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// A client that trusts this authority alone.
    pub(super) fn client(&self, identity: Option<&Identity>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let cert = CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }

    /// A directory with the server's files, and a configuration that ends in `more`.
    pub(super) fn files(&self, more: &str) -> Files {
        let files = Files::new(&format!("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n{more}"));
        self.renew(&files);
        files.write("ca.pem", &self.0.pem());
        files
    }

    fn renew(&self, files: &Files) {
        let identity = self.issue("localhost");
        files.write("key.pem", &identity.key);
        files.write("cert.pem", &identity.cert);
    }
}

impl Running {
    async fn tls(files: &Files) -> Running {
        Running::start(Toy::default(), files.load(), Limits::default()).await
    }

    /// The status of a scrape over TLS, or what went wrong with it.
    async fn scrape(&self, client: &TlsConnector) -> Result<u16, String> {
        let talk = async {
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = client.connect(name, self.connect().await).await.map_err(|error| error.to_string())?;
            // In TLS 1.3 a refused certificate shows only after the client's side of the handshake.
            stream.write_all(get("/metrics", "").as_bytes()).await.map_err(|error| error.to_string())?;
            let mut bytes = Vec::new();
            let read = stream.read_to_end(&mut bytes).await;
            if bytes.is_empty() {
                return Err(format!("{read:?}"));
            }
            Ok(Answer::parse(&bytes).status)
        };
        timeout(PATIENCE, talk).await.expect("an answer in time")
    }
}

#[tokio::test]
async fn a_scrape_over_tls() {
    let authority = Authority::new();
    let server = Running::tls(&authority.files("")).await;
    assert_eq!(server.scrape(&authority.client(None)).await, Ok(200));
    assert!(server.scrape(&Authority::new().client(None)).await.is_err(), "another authority");
    server.until(|stats| stats.tls_handshake_failures == 1).await;
}

#[tokio::test]
async fn a_client_that_forgets_tls_is_told() {
    let authority = Authority::new();
    let server = Running::tls(&authority.files("")).await;
    let answer = server.get("/metrics", "").await;
    assert_eq!((answer.status, answer.text()), (400, "this port speaks HTTPS: use https://\n"));
}

#[tokio::test]
async fn mutual_tls_takes_its_own_clients_and_no_others() {
    let authority = Authority::new();
    let more = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
    let files = authority.files(more);
    let config = files.load();
    assert_eq!(config.protection(), Protection { tls: true, basic_auth: false, client_certs: true });
    let server = Running::start(Toy::default(), config, Limits::default()).await;
    assert_eq!(server.scrape(&authority.client(Some(&authority.issue("prometheus")))).await, Ok(200));
    assert!(server.scrape(&authority.client(None)).await.is_err());
    assert!(server.scrape(&authority.client(Some(&Authority::new().issue("prometheus")))).await.is_err());
    server.until(|stats| stats.tls_handshake_failures == 2).await;
}

#[tokio::test]
async fn client_names_are_checked() {
    let authority = Authority::new();
    let more = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  \
                client_allowed_sans: [prometheus, 'spiffe://toy/backup']\n";
    let server = Running::tls(&authority.files(more)).await;
    for (name, allowed) in [("prometheus", true), ("backup", true), ("stranger", false), ("prometheus2", false)] {
        let scraped = server.scrape(&authority.client(Some(&authority.issue(name)))).await;
        assert_eq!(scraped.is_ok(), allowed, "{name}: {scraped:?}");
    }
}

#[tokio::test]
async fn the_weaker_kinds_of_client_authentication_do_what_they_say() {
    let authority = Authority::new();
    let (own, foreign) = (authority.issue("a"), Authority::new().issue("a"));
    let clients = [None, Some(&own), Some(&foreign)].map(|identity| authority.client(identity));
    let table = [
        ("NoClientCert", "", [true, true, true]),
        ("RequestClientCert", "", [true, true, true]),
        ("RequireAnyClientCert", "", [false, true, true]),
        ("VerifyClientCertIfGiven", "  client_ca_file: ca.pem\n", [true, true, false]),
    ];
    for (kind, more, expected) in table {
        let server = Running::tls(&authority.files(&format!("  client_auth_type: {kind}\n{more}"))).await;
        for (client, expected) in clients.iter().zip(expected) {
            assert_eq!(server.scrape(client).await.is_ok(), expected, "{kind}");
        }
    }
}

#[tokio::test]
async fn versions_suites_and_curves_are_honoured() {
    let authority = Authority::new();
    let files = authority.files(
        "  min_version: TLS12\n  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, \
         TLS_RSA_WITH_AES_128_CBC_SHA]\n  curve_preferences: [CurveP384, CurveP521]\n",
    );
    let server = Running::tls(&files).await;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = authority.client(None).connect(name, server.connect().await).await.unwrap();
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    let suite = session.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
    let group = session.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::secp384r1);
}

#[tokio::test]
async fn new_certificates_are_taken_up_and_broken_ones_are_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = old.files("");
    let server = Running::tls(&files).await;
    assert_eq!(server.scrape(&old.client(None)).await, Ok(200));
    files.write("cert.pem", "half a certif");
    assert_eq!(server.scrape(&old.client(None)).await, Ok(200), "the one before stays");
    assert!(server.stats.snapshot().config_reload_failed);
    new.renew(&files);
    assert_eq!(server.scrape(&new.client(None)).await, Ok(200));
    assert!(!server.stats.snapshot().config_reload_failed);
}

#[test]
fn certificates_and_keys_that_cannot_serve_are_told() {
    let authority = Authority::new();
    let files = authority.files("");
    files.write("key.pem", &authority.issue("other").key);
    let error = files.error();
    assert!(error.starts_with("web.yml:3: key.pem: the certificate and the key cannot serve: "), "{error}");
    files.write("cert.pem", "");
    assert_eq!(files.error(), "web.yml:2: cert.pem: holds no certificate; expected PEM");
    std::fs::remove_file(files.path("cert.pem")).unwrap();
    assert_eq!(files.error(), "web.yml:2: cert_file cert.pem: No such file or directory (os error 2)");
}

#[tokio::test]
async fn certificates_can_be_inline() {
    let authority = Authority::new();
    let identity = authority.issue("localhost");
    let indent = |pem: &str| pem.trim_end().replace('\n', "\n    ");
    let (cert, key) = (indent(&identity.cert), indent(&identity.key));
    let files = Files::new(&format!("tls_server_config:\n  cert: |\n    {cert}\n  key: |\n    {key}\n"));
    let server = Running::tls(&files).await;
    assert_eq!(server.scrape(&authority.client(None)).await, Ok(200));
}
