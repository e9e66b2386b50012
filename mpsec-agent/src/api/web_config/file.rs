//! The web configuration file's keys, as the Prometheus exporter-toolkit documents them.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::http::header::{
    CONTENT_SECURITY_POLICY, HeaderName, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    X_XSS_PROTECTION,
};
use rustls::SupportedCipherSuite;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::ring::{cipher_suite as suite, kx_group};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::api::auth::hash_problem;
use crate::api::tls::{ClientAuth, TlsVersion};

/// The file as it is written. Every key may be absent.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) tls_server_config: Option<Tls>,
    pub(super) http_server_config: Option<Http>,
    pub(super) basic_auth_users: Option<UserHashes>,
    pub(super) rate_limit: Option<RateLimit>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
    pub(super) client_ca: Option<String>,
    pub(super) cert_file: Option<String>,
    pub(super) key_file: Option<String>,
    pub(super) client_ca_file: Option<String>,
    pub(super) client_auth_type: Option<ClientAuth>,
    pub(super) client_allowed_sans: Option<Vec<String>>,
    pub(super) min_version: Option<TlsVersion>,
    pub(super) max_version: Option<TlsVersion>,
    pub(super) cipher_suites: Option<Vec<Suite>>,
    pub(super) prefer_server_cipher_suites: Option<bool>,
    pub(super) curve_preferences: Option<Vec<Curve>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    pub(super) http2: Option<bool>,
    pub(super) headers: Option<Headers>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RateLimit {
    pub(super) interval: Option<Interval>,
    pub(super) burst: Option<u32>,
}

/// A TLS 1.2 cipher suite by Go's name, with rustls' where it has it.
#[derive(Clone, Copy)]
pub(super) struct Suite(pub(super) &'static str, pub(super) Option<SupportedCipherSuite>);

/// A key exchange group by Go's name, with rustls' where it has it.
#[derive(Clone, Copy)]
pub(super) struct Curve(pub(super) &'static str, pub(super) Option<&'static dyn SupportedKxGroup>);

/// Headers to add to every answer.
#[derive(Default)]
pub(super) struct Headers(pub(super) Vec<(HeaderName, String)>);

/// bcrypt hashes by user.
#[derive(Default)]
pub(super) struct UserHashes(pub(super) BTreeMap<String, String>);

/// A duration in Go's notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval(pub(super) Duration);

/// A type whose values are read from a text, with the error to show where it is none of them.
trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for ClientAuth {
    fn from_text(text: &str) -> Result<Self, String> {
        let table = [
            ("NoClientCert", ClientAuth::NoClientCert),
            ("RequestClientCert", ClientAuth::RequestClientCert),
            ("RequireAnyClientCert", ClientAuth::RequireAnyClientCert),
            ("VerifyClientCertIfGiven", ClientAuth::VerifyClientCertIfGiven),
            ("RequireAndVerifyClientCert", ClientAuth::RequireAndVerifyClientCert),
        ];
        match text {
            "" => Ok(ClientAuth::NoClientCert),
            // An old name that the toolkit still takes.
            "RequireClientCert" => Ok(ClientAuth::RequireAnyClientCert),
            _ => one_of(&table, text),
        }
    }
}

impl FromText for TlsVersion {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "TLS10" | "TLS11" => Err(format!("{text} is insecure and not supported, expected TLS12 or TLS13")),
            _ => one_of(&[("TLS12", TlsVersion::Tls12), ("TLS13", TlsVersion::Tls13)], text),
        }
    }
}

impl FromText for Suite {
    fn from_text(text: &str) -> Result<Self, String> {
        let known = one_of(&SUITES.map(|(name, suite)| (name, Suite(name, Some(suite)))), text);
        match LEGACY_SUITES.iter().find(|name| **name == text) {
            Some(name) => Ok(Suite(name, None)),
            None => known,
        }
    }
}

impl FromText for Curve {
    fn from_text(text: &str) -> Result<Self, String> {
        let table: [(_, Option<&'static dyn SupportedKxGroup>); 5] = [
            ("X25519", Some(kx_group::X25519)),
            ("CurveP256", Some(kx_group::SECP256R1)),
            ("CurveP384", Some(kx_group::SECP384R1)),
            ("CurveP521", None),
            ("X25519MLKEM768", None),
        ];
        one_of(&table.map(|(name, group)| (name, Curve(name, group))), text)
    }
}

impl FromText for Interval {
    fn from_text(text: &str) -> Result<Self, String> {
        let error = || format!("`{text}` is no duration, expected one such as 100ms, 1s or 1m30s");
        let mut rest = text;
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let scale = match unit {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                // Go takes a bare zero.
                "" if text == "0" => 0.0,
                _ => return Err(error()),
            };
            seconds += number.parse::<f64>().map_err(|_| error())? * scale;
            rest = after;
        }
        let duration = Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty());
        duration.map(Interval).ok_or_else(error)
    }
}

const SUITES: [(&str, SupportedCipherSuite); 11] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
];

/// Suites that Go has or had and rustls refuses: without forward secrecy, or CBC.
const LEGACY_SUITES: [&str; 8] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
];

/// The headers that may be set, with the values that they may have where that is limited.
const HEADERS: [(&str, HeaderName, &[&str]); 5] = [
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY, &[]),
    ("X-Frame-Options", X_FRAME_OPTIONS, &["deny", "sameorigin"]),
    ("X-Content-Type-Options", X_CONTENT_TYPE_OPTIONS, &["nosniff"]),
    ("X-XSS-Protection", X_XSS_PROTECTION, &[]),
    ("Strict-Transport-Security", STRICT_TRANSPORT_SECURITY, &[]),
];

fn one_of<T: Copy>(table: &[(&'static str, T)], text: &str) -> Result<T, String> {
    let found = table.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = table.iter().map(|(name, _)| *name).collect();
        format!("`{text}` is unknown, expected one of {}", names.join(", "))
    })
}

/// Reads a [`FromText`] within the visitor, where errors get the line of the value.
struct TextVisitor<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }
}

macro_rules! read_from_text {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(TextVisitor(PhantomData))
            }
        }
    )*};
}
read_from_text!(ClientAuth, TlsVersion, Suite, Curve, Interval);

/// Reads a mapping of texts whose entries are checked one by one, where errors get the line of the entry.
struct EntriesVisitor<T>(PhantomData<T>);

trait Entries: Default {
    fn add(&mut self, key: &str, value: String) -> Result<(), String>;
}

impl Entries for Headers {
    fn add(&mut self, key: &str, value: String) -> Result<(), String> {
        let known = HEADERS.iter().find(|(name, ..)| name.eq_ignore_ascii_case(key));
        let Some((_, name, allowed)) = known else {
            return Err(format!(
                "header `{key}` cannot be set, expected one of {}",
                HEADERS.map(|row| row.0).join(", ")
            ));
        };
        let fits = allowed.is_empty() || allowed.iter().any(|allowed| value.eq_ignore_ascii_case(allowed));
        // A blank value leaves the header unset.
        if value.is_empty() {
            return Ok(());
        }
        if !fits || value.bytes().any(|byte| byte.is_ascii_control()) {
            let expected = if allowed.is_empty() { "a text of one line".into() } else { allowed.join(" or ") };
            return Err(format!("`{value}` is no value for {key}, expected {expected}"));
        }
        self.0.push((name.clone(), value));
        Ok(())
    }
}

impl Entries for UserHashes {
    fn add(&mut self, user: &str, hash: String) -> Result<(), String> {
        if user.is_empty() || user.contains(':') {
            return Err(format!("user name `{user}`: expected a name without a colon"));
        }
        if let Some(problem) = hash_problem(&hash) {
            return Err(format!("user `{user}`: {problem}"));
        }
        match self.0.insert(user.to_owned(), hash) {
            Some(_) => Err(format!("user `{user}` is listed twice")),
            None => Ok(()),
        }
    }
}

impl<'de, T: Entries> Visitor<'de> for EntriesVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of texts")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut entries = T::default();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(EntryVisitor { entries: &mut entries, key })?;
        }
        Ok(entries)
    }
}

/// Reads one entry's value.
struct EntryVisitor<'a, T> {
    entries: &'a mut T,
    key: String,
}

impl<'de, T: Entries> DeserializeSeed<'de> for EntryVisitor<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T: Entries> Visitor<'_> for EntryVisitor<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.entries.add(&self.key, value.to_owned()).map_err(E::custom)
    }
}

macro_rules! read_entries {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(EntriesVisitor(PhantomData))
            }
        }
    )*};
}
read_entries!(Headers, UserHashes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_as_go_writes_them() {
        let table = [
            ("1s", Some(1000)),
            ("100ms", Some(100)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1500)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1d", None),
        ];
        for (text, ms) in table {
            assert_eq!(Interval::from_text(text).ok(), ms.map(Duration::from_millis).map(Interval), "{text}");
        }
    }
}
