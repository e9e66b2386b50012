//! From the web configuration's file, and the files that it names, to what the server uses.

use std::fmt;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue};

use super::file::{self, File, Http, RateLimit};
use super::{Active, Protection, Tls};
use crate::api::auth::Users;
use crate::api::rate::Bucket;
use crate::api::tls::{TlsProblem, TlsSettings, TlsVersion, server_config, server_names};

/// Far more than a configuration or a chain of certificates needs.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Why a web configuration cannot be used: where, what is wrong, and what is expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct WebConfigError {
    /// The configuration file, or a file that it names.
    pub file: PathBuf,
    /// The line, where the error has one.
    pub line: Option<usize>,
    /// What is wrong, and what is expected.
    pub message: String,
}

impl fmt::Display for WebConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.message)
    }
}

/// What tells that a file changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) struct Stamp {
    inode: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(in crate::api) fn new(metadata: &Metadata) -> Self {
        Stamp {
            inode: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// `None` for a file that is not there.
    pub(in crate::api) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Stamp::new(&metadata))
    }
}

/// The files that were read, as they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

impl Stamps {
    pub(super) fn are_current(&self) -> bool {
        self.0.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }

    fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        // The stamp is of the opened file, and older than what is read: a change meanwhile shows as one.
        let opened = fs::File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        self.0.push((path.to_owned(), opened.as_ref().ok().map(|(metadata, _)| Stamp::new(metadata))));
        let (metadata, file) = opened?;
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            return Err(io::Error::other(format!("expected a file of at most {MAX_FILE_BYTES} bytes")));
        }
        let mut content = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut content)?;
        Ok(content)
    }
}

/// What a file came to, and what it gives rise to say.
pub(super) struct Loaded {
    pub(super) active: Active,
    pub(super) warnings: Vec<String>,
}

/// Reads a configuration. `stamps` tells which files it is made of, whether it succeeds or not.
pub(super) fn load(path: &Path, before: Option<&Active>, stamps: &mut Stamps) -> Result<Loaded, WebConfigError> {
    let content = stamps.read(path).map_err(|error| file_error(path, &error))?;
    let mut loader =
        Loader { path, text: String::from_utf8_lossy(&content).into_owned(), stamps, warnings: Vec::new() };
    let file = loader.parse()?;
    let tls = loader.tls(file.tls_server_config.unwrap_or_default())?;
    let users = file.basic_auth_users.unwrap_or_default().0;
    let users = Users::new(users, before.and_then(|before| before.users.as_deref()));
    let active = Active {
        protection: Protection {
            tls: tls.is_some(),
            basic_auth: users.is_some(),
            client_certs: tls.as_ref().is_some_and(|tls| tls.requires_clients),
        },
        tls: tls.map(Arc::new),
        headers: Arc::new(loader.http(file.http_server_config.unwrap_or_default())),
        users: users.map(Arc::new),
        rate: loader.rate(file.rate_limit.unwrap_or_default())?,
    };
    Ok(Loaded { active, warnings: loader.warnings })
}

struct Loader<'a> {
    path: &'a Path,
    text: String,
    stamps: &'a mut Stamps,
    warnings: Vec<String>,
}

impl Loader<'_> {
    fn parse(&self) -> Result<File, WebConfigError> {
        // An empty file is a valid one that asks for nothing.
        let parsed = serde_yaml_ng::from_str::<Option<File>>(&self.text);
        parsed.map(Option::unwrap_or_default).map_err(|error| {
            let message = error.to_string();
            let line = error.location().map(|location| location.line());
            // The place stands in front already.
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
            WebConfigError { file: self.path.to_owned(), line, message: message.to_owned() }
        })
    }

    fn tls(&mut self, tls: file::Tls) -> Result<Option<Tls>, WebConfigError> {
        let has_client_ca = present(&tls.client_ca) || present(&tls.client_ca_file);
        let has_cert = [&tls.cert, &tls.cert_file, &tls.key, &tls.key_file].into_iter().any(present);
        let client_auth = tls.client_auth_type.unwrap_or_default();
        if !has_cert && !has_client_ca && tls.client_auth_type.is_none() && tls.client_allowed_sans.is_none() {
            return Ok(None);
        }
        let cert = self.pem(&tls.cert, &tls.cert_file, "cert", "cert_file")?;
        let cert = cert.ok_or_else(|| self.error("tls_server_config", "TLS needs cert_file (or cert)"))?;
        let key = self.pem(&tls.key, &tls.key_file, "key", "key_file")?;
        let key = key.ok_or_else(|| self.error("tls_server_config", "TLS needs key_file (or key)"))?;
        let client_ca = self.pem(&tls.client_ca, &tls.client_ca_file, "client_ca", "client_ca_file")?;
        self.check_client_auth(&tls, has_client_ca)?;
        let settings = TlsSettings {
            cert,
            key,
            client_auth,
            client_ca,
            min_version: tls.min_version.unwrap_or(TlsVersion::Tls12),
            max_version: tls.max_version.unwrap_or(TlsVersion::Tls13),
            tls12_suites: self.suites(&tls)?,
            prefer_server_cipher_suites: tls.prefer_server_cipher_suites.unwrap_or(true),
            curves: self.curves(&tls)?,
            client_allowed_sans: tls.client_allowed_sans,
        };
        let names = [("cert", &tls.cert_file), ("key", &tls.key_file), ("client_ca", &tls.client_ca_file)];
        let config = server_config(&settings).map_err(|problem| self.tls_error(problem, &names))?;
        Ok(Some(Tls {
            config: Arc::new(config),
            names: server_names(&settings.cert).into(),
            verifies_clients: client_auth.verifies(),
            requires_clients: client_auth.requires() && client_auth.verifies(),
        }))
    }

    /// The inline text, or the content of the file.
    fn pem(
        &mut self,
        inline: &Option<String>,
        file: &Option<String>,
        inline_key: &'static str,
        file_key: &'static str,
    ) -> Result<Option<Vec<u8>>, WebConfigError> {
        match (inline.as_deref().filter(|text| !text.is_empty()), file.as_deref().filter(|path| !path.is_empty())) {
            (Some(_), Some(_)) => Err(self.error(file_key, &format!("{inline_key} and {file_key} exclude each other"))),
            (Some(text), None) => Ok(Some(text.as_bytes().to_vec())),
            (None, Some(file)) => {
                let path = self.beside(file);
                let read = self.stamps.read(&path);
                read.map(Some).map_err(|error| self.error(file_key, &format!("{file_key} {}: {error}", path.display())))
            }
            (None, None) => Ok(None),
        }
    }

    /// Paths are relative to the file that names them.
    fn beside(&self, file: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(file)
    }

    fn check_client_auth(&mut self, tls: &file::Tls, has_client_ca: bool) -> Result<(), WebConfigError> {
        let client_auth = tls.client_auth_type.unwrap_or_default();
        if client_auth.verifies() && !has_client_ca {
            return Err(self.error("client_auth_type", &format!("{client_auth:?} needs client_ca_file (or client_ca)")));
        }
        if has_client_ca && client_auth == Default::default() {
            let message = "a client CA has no effect without client_auth_type: RequireAndVerifyClientCert";
            return Err(self.error("client_ca", message));
        }
        if tls.client_allowed_sans.is_some() && !client_auth.requires() {
            let message = "client_allowed_sans needs client_auth_type: RequireAndVerifyClientCert";
            return Err(self.error("client_allowed_sans", message));
        }
        if client_auth != Default::default() && !(client_auth.verifies() && client_auth.requires()) {
            self.warn("client_auth_type", &format!("{client_auth:?} lets in clients without a verified certificate"));
        }
        Ok(())
    }

    fn suites(&mut self, tls: &file::Tls) -> Result<Option<Vec<rustls::SupportedCipherSuite>>, WebConfigError> {
        let Some(listed) = tls.cipher_suites.as_ref().filter(|listed| !listed.is_empty()) else {
            return Ok(None);
        };
        let pairs = listed.iter().map(|suite| (suite.0, suite.1));
        let suites =
            self.supported("cipher_suites", pairs, "secure suites: TLS_ECDHE_* with GCM or CHACHA20_POLY1305")?;
        // As in Go, TLS 1.3's suites are not for choice.
        Ok(Some(suites.into_iter().filter(|suite| suite.tls13().is_none()).collect()))
    }

    fn curves(
        &mut self,
        tls: &file::Tls,
    ) -> Result<Option<Vec<&'static dyn rustls::crypto::SupportedKxGroup>>, WebConfigError> {
        let Some(listed) = tls.curve_preferences.as_ref().filter(|listed| !listed.is_empty()) else {
            return Ok(None);
        };
        let pairs = listed.iter().map(|curve| (curve.0, curve.1));
        self.supported("curve_preferences", pairs, "X25519, CurveP256 and CurveP384").map(Some)
    }

    /// Those that rustls has. To leave out the others is safe, but somebody may miss them.
    fn supported<T>(
        &mut self,
        key: &'static str,
        listed: impl Iterator<Item = (&'static str, Option<T>)>,
        expected: &str,
    ) -> Result<Vec<T>, WebConfigError> {
        let mut supported = Vec::new();
        for (name, value) in listed {
            match value {
                Some(value) => supported.push(value),
                None => self.warn(key, &format!("{name} is not supported and left out")),
            }
        }
        if supported.is_empty() {
            return Err(self.error(key, &format!("none of these is supported, expected {expected}")));
        }
        Ok(supported)
    }

    fn http(&mut self, http: Http) -> Vec<(HeaderName, HeaderValue)> {
        // The toolkit's default is true, and clients settle for HTTP/1.1, so only who asks for it hears of it.
        if http.http2 == Some(true) {
            self.warn("http2", "HTTP/2 is not supported; all clients are served over HTTP/1.1");
        }
        let headers = http.headers.unwrap_or_default().0.into_iter();
        headers.filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?))).collect()
    }

    fn rate(&self, limit: RateLimit) -> Result<Option<Arc<Bucket>>, WebConfigError> {
        let Some(interval) = limit.interval.map(|interval| interval.0).filter(|interval| !interval.is_zero()) else {
            return Ok(None);
        };
        match limit.burst {
            Some(burst) if burst > 0 => Ok(Some(Arc::new(Bucket::new(interval, burst)))),
            _ => Err(self.error("rate_limit", "rate_limit needs burst: 1 or more, else it allows nothing")),
        }
    }

    fn warn(&mut self, key: &str, message: &str) {
        let at = self.error(key, message);
        self.warnings.push(at.to_string());
    }

    fn tls_error(&self, problem: TlsProblem, files: &[(&str, &Option<String>)]) -> WebConfigError {
        let file = files.iter().find(|(key, _)| *key == problem.key).and_then(|(_, file)| file.as_deref());
        match file.filter(|file| !file.is_empty()) {
            Some(file) => {
                let message = format!("{}: {}", self.beside(file).display(), problem.message);
                self.error(&format!("{}_file", problem.key), &message)
            }
            None => self.error(problem.key, &format!("{}: {}", problem.key, problem.message)),
        }
    }

    /// An error at the first line that begins with this key.
    fn error(&self, key: &str, message: &str) -> WebConfigError {
        let is_key =
            |line: &str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':'));
        let line = self.text.lines().position(is_key).map(|index| index + 1);
        WebConfigError { file: self.path.to_owned(), line, message: message.to_owned() }
    }
}

fn present(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|text| !text.is_empty())
}

fn file_error(path: &Path, error: &io::Error) -> WebConfigError {
    WebConfigError { file: path.to_owned(), line: None, message: error.to_string() }
}
