//! Whether clients may change things over HTTPS, and the token that lets them.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::auth::same;
use super::web_config::{Stamp, WebConfig};
use crate::config::HttpConfig;
use crate::kernel::peer::own_user;

/// A shorter token could be guessed, in characters.
const SHORTEST: usize = 32;
/// Far more than a token needs, in bytes.
const LONGEST: u64 = 4096;
/// What others may not do with the file: anything; what its group may not: write.
const FORBIDDEN_MODE: u32 = 0o027;

/// Who may change things over HTTPS. By default nobody may.
#[derive(Default)]
pub struct Access {
    pub(super) is_on: bool,
    token: Option<TokenFile>,
}

/// Why a token file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token file {} cannot be used: {reason}", path.display())]
pub struct TokenError {
    path: PathBuf,
    reason: String,
}

/// What a token is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenVerdict {
    Right,
    Wrong,
    /// There is none to compare with, and why.
    Unusable(String),
}

impl Access {
    /// What the configuration asks for. Warns of what has no effect.
    ///
    /// # Errors
    /// A token file that cannot be used.
    pub fn open(http: &HttpConfig, web: &WebConfig) -> Result<Access, TokenError> {
        if !http.control {
            return Ok(Access::default());
        }
        let token = http.control_token_file.as_deref().map(TokenFile::open).transpose()?;
        let Some(tls) = web.tls() else {
            tracing::warn!(
                "http.control has no effect without TLS: add tls_server_config to the file of http.web_config"
            );
            return Ok(Access { is_on: true, token });
        };
        if token.is_none() && !tls.verifies_clients {
            tracing::warn!(
                "http.control lets nobody in: set http.control_token_file, or client_auth_type: RequireAndVerifyClientCert with \
                 client_ca_file in the file of http.web_config"
            );
        }
        Ok(Access { is_on: true, token })
    }

    /// Judges a token.
    pub(super) fn check(&self, token: &[u8]) -> TokenVerdict {
        let Some(file) = &self.token else {
            return TokenVerdict::Unusable("http.control_token_file is not set".into());
        };
        match file.digest() {
            // Digests say nothing of where tokens differ, nor of how long they are.
            Ok(known) if same(&known, &digest(token)) => TokenVerdict::Right,
            Ok(_) => TokenVerdict::Wrong,
            Err(error) => TokenVerdict::Unusable(error.to_string()),
        }
    }
}

/// A file that is read again when it changes.
struct TokenFile {
    path: PathBuf,
    last: Mutex<Reading>,
}

/// The file as it was read, and the token's digest, or why it has none.
struct Reading {
    stamp: Option<Stamp>,
    digest: Result<[u8; 32], TokenError>,
}

impl TokenFile {
    fn open(path: &Path) -> Result<TokenFile, TokenError> {
        let last = Reading::new(path);
        last.digest.clone()?;
        Ok(TokenFile { path: path.to_owned(), last: Mutex::new(last) })
    }

    fn digest(&self) -> Result<[u8; 32], TokenError> {
        // It is replaced as a whole.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.stamp.is_none() || last.stamp != Stamp::of(&self.path) {
            *last = Reading::new(&self.path);
            match &last.digest {
                Ok(_) => tracing::info!("{}: token re-read", self.path.display()),
                Err(error) => tracing::error!("{error}; nobody is let in by a token"),
            }
        }
        last.digest.clone()
    }
}

impl Reading {
    fn new(path: &Path) -> Reading {
        let mut stamp = None;
        let token = read(path, &mut stamp);
        let digest = token.map(|token| digest(token.trim().as_bytes()));
        Reading { stamp, digest: digest.map_err(|reason| TokenError { path: path.to_owned(), reason }) }
    }
}

/// The text of a file whose permissions and content are those of a token's.
fn read(path: &Path, stamp: &mut Option<Stamp>) -> Result<String, String> {
    let text = |error: io::Error| error.to_string();
    // A pipe without a writer must not stop the agent.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(text)?;
    let metadata = file.metadata().map_err(text)?;
    *stamp = Some(Stamp::new(&metadata));
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err(format!("expected a file of at most {LONGEST} bytes"));
    }
    let (mode, owner, shown) = (metadata.mode() & 0o7777, metadata.uid(), path.display());
    if mode & FORBIDDEN_MODE != 0 {
        return Err(format!("its mode {mode:04o} lets others read it or its group write it: chmod 0600 {shown}"));
    }
    if owner != 0 && owner != own_user() {
        return Err(format!("it belongs to user {owner}, who could change it: chown root {shown}"));
    }
    let mut token = String::new();
    file.take(LONGEST).read_to_string(&mut token).map_err(text)?;
    match token.trim() {
        short if short.len() < SHORTEST => Err(format!(
            "its token has {} characters, fewer than {SHORTEST}: openssl rand -hex 32 > {shown}",
            short.len()
        )),
        odd if !odd.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err("its token holds something else than visible ASCII characters".into())
        }
        _ => Ok(token),
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
impl Access {
    /// With this token file, or none.
    pub(super) fn on(token_file: Option<&Path>) -> Access {
        Access { is_on: true, token: token_file.map(|path| TokenFile::open(path).expect("a good token file")) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_files_that_nobody_else_can_read_or_write_hold_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let cases: [(&str, u32, Option<&str>); 12] = [
            (TOKEN, 0o600, None),
            (TOKEN, 0o400, None),
            (TOKEN, 0o640, None),
            (" 0123456789abcdef0123456789abcdef\n", 0o600, None),
            (TOKEN, 0o644, Some("its mode 0644 lets others read it or its group write it: chmod 0600")),
            (TOKEN, 0o604, Some("its mode 0604")),
            (TOKEN, 0o602, Some("its mode 0602")),
            (TOKEN, 0o660, Some("its mode 0660")),
            ("0123456789abcdef0123456789abcde\n", 0o600, Some("its token has 31 characters, fewer than 32")),
            ("", 0o600, Some("its token has 0 characters")),
            ("0123456789abcdef 0123456789abcdef", 0o600, Some("something else than visible ASCII")),
            (&"a".repeat(5000), 0o600, Some("a file of at most 4096 bytes")),
        ];
        for (text, mode, expected) in cases {
            write(&path, text, mode);
            let found = TokenFile::open(&path).map(drop).map_err(|error| error.to_string());
            match expected {
                None => assert_eq!(found, Ok(()), "{mode:o}"),
                Some(words) => {
                    let error = found.unwrap_err();
                    assert!(error.contains(words) && error.contains(&path.display().to_string()), "{error}");
                }
            }
        }
        assert!(TokenFile::open(folder.path()).is_err());
        assert!(TokenFile::open(&folder.path().join("nothing")).is_err());
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_bad_one_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        write(&path, TOKEN, 0o600);
        let access = Access::on(Some(&path));
        assert_eq!(access.check(TOKEN.as_bytes()), TokenVerdict::Right);
        let wrong = [&TOKEN[..31], &TOKEN.to_uppercase(), "", &format!("{TOKEN}0")];
        assert!(wrong.iter().all(|token| access.check(token.as_bytes()) == TokenVerdict::Wrong));
        let other = TOKEN.replace('0', "z");
        write(&path, &other, 0o600);
        assert_eq!(access.check(TOKEN.as_bytes()), TokenVerdict::Wrong);
        assert_eq!(access.check(other.as_bytes()), TokenVerdict::Right);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(access.check(other.as_bytes()), TokenVerdict::Unusable(why) if why.contains("0644")));
        fs::remove_file(&path).unwrap();
        assert!(matches!(access.check(other.as_bytes()), TokenVerdict::Unusable(_)));
        write(&path, TOKEN, 0o600);
        assert_eq!(access.check(TOKEN.as_bytes()), TokenVerdict::Right);
        assert!(matches!(Access::on(None).check(b""), TokenVerdict::Unusable(_)));
    }

    #[test]
    fn nothing_is_read_while_it_is_off() {
        let mut http = HttpConfig { control_token_file: Some("/nothing/here".into()), ..HttpConfig::default() };
        assert!(!Access::open(&http, &WebConfig::default()).unwrap().is_on);
        http.control = true;
        assert!(Access::open(&http, &WebConfig::default()).is_err());
    }
}
