//! What the file may say, and what is said of a wrong one.

use std::io::Write;

use super::*;

/// Loads a configuration from a file of this content; the error's file is left out.
fn load_text(text: &str) -> Result<load::Loaded, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    load::load(file.path(), None, &mut Stamps::default()).map_err(|error| {
        let place = error.line.map_or(String::new(), |line| format!("{line}: "));
        format!("{place}{}", error.message)
    })
}

#[test]
fn a_file_may_ask_for_nothing() {
    for text in ["", "# nothing\n", "---\n", "{}\n", "tls_server_config:\nbasic_auth_users:\nhttp_server_config:\n"] {
        let loaded = load_text(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(loaded.active.protection, Protection::default());
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
}

#[test]
fn errors_tell_the_line_and_what_is_expected() {
    let table = [
        ("tls_config:\n", "1: unknown field `tls_config`, expected one of `tls_server_config`"),
        (
            "tls_server_config:\n  cert_fil: x\n",
            "2: tls_server_config: unknown field `cert_fil`, expected one of `cert`",
        ),
        (
            "\ntls_server_config:\n  cert_file: [x]\n",
            "3: tls_server_config.cert_file: invalid type: sequence, expected a string",
        ),
        ("tls_server_config:\n  cert_file: a\n  cert_file: b\n", "2: tls_server_config: duplicate field `cert_file`"),
        ("tls_server_config:\n  key_file: x\n", "1: TLS needs cert_file (or cert)"),
        ("tls_server_config:\n  cert: x\n", "1: TLS needs key_file (or key)"),
        ("tls_server_config:\n  cert: x\n  cert_file: y\n", "3: cert and cert_file exclude each other"),
        (
            "tls_server_config:\n  min_version: TLS10\n",
            "2: tls_server_config.min_version: TLS10 is insecure and not supported, expected TLS12 or TLS13",
        ),
        (
            "tls_server_config:\n  max_version: 1.3\n",
            "2: tls_server_config.max_version: `1.3` is unknown, expected one of TLS12, TLS13",
        ),
        (
            "tls_server_config:\n  client_auth_type: Always\n",
            "2: tls_server_config.client_auth_type: `Always` is unknown, expected one of NoClientCert, ",
        ),
        (
            "tls_server_config:\n  cipher_suites:\n  - TLS_A\n",
            "3: tls_server_config.cipher_suites[0]: `TLS_A` is unknown, expected one of TLS_ECDHE_ECDSA_",
        ),
        (
            "tls_server_config:\n  curve_preferences: [P1]\n",
            "2: tls_server_config.curve_preferences[0]: `P1` is unknown, expected one of X25519, ",
        ),
        (
            "tls_server_config:\n  cert: x\n  key: y\n  client_ca: z\n",
            "4: a client CA has no effect without client_auth_type",
        ),
        (
            "tls_server_config:\n  cert: x\n  key: y\n  client_auth_type: RequireAndVerifyClientCert\n",
            "4: RequireAndVerifyClientCert needs client_ca_file",
        ),
        (
            "tls_server_config:\n  cert: x\n  key: y\n  client_allowed_sans: [a]\n",
            "4: client_allowed_sans needs client_auth_type",
        ),
        (
            "tls_server_config:\n  cert: x\n  key: y\n  cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]\n",
            "4: none of these is supported, expected secure suites",
        ),
        ("tls_server_config:\n  cert: x\n  key: y\n", "2: cert: holds no certificate; expected PEM"),
        (
            "http_server_config:\n  http2: maybe\n",
            "2: http_server_config.http2: invalid type: string \"maybe\", expected a boolean",
        ),
        (
            "http_server_config:\n  headers:\n    X-Frame-Options: allow\n",
            "3: http_server_config.headers.X-Frame-Options: `allow` is no value for X-Frame-Options, expected deny or sameorigin",
        ),
        (
            "http_server_config:\n  headers:\n    X-Other: a\n",
            "3: http_server_config.headers.X-Other: header `X-Other` cannot be set, expected one of Content-Security-Policy, ",
        ),
        ("basic_auth_users:\n  ann: secret\n", "2: basic_auth_users.ann: user `ann`: Invalid hash"),
        (
            "rate_limit:\n  interval: 5\n",
            "2: rate_limit.interval: `5` is no duration, expected one such as 100ms, 1s or 1m30s",
        ),
        ("rate_limit:\n  interval: 1s\n", "1: rate_limit needs burst: 1 or more"),
        ("rate_limit: {\n", "2: did not find expected node content"),
    ];
    let wrong = table.iter().filter_map(|(text, expected)| {
        let error = load_text(text).err().unwrap_or_default();
        (!error.starts_with(expected)).then(|| format!("{text:?}: {error}, not {expected}"))
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn secrets_do_not_enter_errors() {
    let error = load_text("basic_auth_users:\n  ann: hunter2\n").err().unwrap();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn what_has_no_effect_is_said() {
    let loaded = load_text("http_server_config:\n  http2: true\n").unwrap();
    assert!(loaded.warnings[0].ends_with(":2: HTTP/2 is not supported; all clients are served over HTTP/1.1"));
    assert!(load_text("http_server_config:\n  http2: false\n").unwrap().warnings.is_empty());
}

#[test]
fn headers_may_be_blank_or_numbers() {
    let text = "http_server_config:\n  headers:\n    X-XSS-Protection: 0\n    X-Frame-Options: \"\"\n    \
                X-Content-Type-Options: nosniff\n";
    let headers = load_text(text).unwrap().active.headers;
    let values: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(values, [("x-xss-protection", "0"), ("x-content-type-options", "nosniff")]);
}
