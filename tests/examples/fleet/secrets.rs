//! TLS, certificates of clients, a password, a token, an operator and a drop-in, by the play.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use mpsec_tests::need;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, CertifiedKey, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::host::Host;
use crate::tower::{NAMES, Tower};
use crate::trials::{AT_ONCE, processes, settled};

/// What bcrypt takes least time with.
const COST: u32 = 4;
const PASSWORDS: [&str; 2] = ["the first password", "the second password"];
const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

/// They arrive, for the agent's user alone, and hold; a changed password needs no restart; nothing of them is told.
pub fn arrive(tower: &Tower) -> Result<()> {
    need::command("curl")?;
    let names = tower.hosts.iter().map(|host| host.address.clone()).collect::<Vec<_>>();
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
    let certificate = tower.home.path().join("server.crt");
    fs::write(&certificate, cert.pem())?;
    let (authority, client) = client()?;
    fs::write(client_file(tower), &client)?;
    for host in &tower.hosts {
        host.sh("useradd --no-create-home captain")?;
    }
    let key = signing_key.serialize_pem();
    let mut vars = settled();
    let more = json!({
        "mpsec_plain_http": false,
        "mpsec_tls_certificate": cert.pem(),
        "mpsec_tls_key": key,
        "mpsec_control_token": TOKEN,
        "mpsec_operators": ["captain"],
        "mpsec_dropins": { "50-nice.conf": "[Service]\nNice=3\n" },
        "mpsec_check_user": "prometheus",
    });
    vars.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    let with = |password: &str, vars: &Value| -> Result<(Value, String)> {
        let hash = bcrypt::hash(password, COST)?;
        let mut vars = vars.clone();
        vars["mpsec_check_password"] = json!(password);
        vars["mpsec_basic_auth_users"] = json!({ "prometheus": hash });
        Ok((vars, hash))
    };

    let (first, hash) = with(PASSWORDS[0], &vars)?;
    let played = tower.play("install", &first, &[], &[AT_ONCE, &["--diff"]].concat())?;
    played.well(None)?;
    let key_line = key.lines().nth(1).unwrap_or_default();
    for secret in [TOKEN, &hash, key_line] {
        ensure!(!played.text.contains(secret), "the play shows a secret:\n{}", played.text);
    }
    for host in &tower.hosts {
        holds(tower, host, &certificate, PASSWORDS[0], false)?;
        let set = host.sh("cat /etc/mpsec/mpsec.toml")?;
        ensure!([TOKEN, &hash, key_line].iter().all(|secret| !set.contains(secret)), "{}: {set}", host.name);
    }
    tower.play("install", &first, &[], AT_ONCE)?.well(Some(0))?;
    let targets = fs::read_to_string(tower.targets())?;
    ensure!(targets.matches("\"__scheme__\": \"https\"").count() == NAMES.len(), "{targets}");

    // Another password, and clients are asked for certificates: neither needs a restart.
    let before = processes(tower)?;
    vars["mpsec_tls_client_ca"] = json!(authority);
    let (mut second, _) = with(PASSWORDS[1], &vars)?;
    let refused = tower.play("install", &second, &[], AT_ONCE)?;
    ensure!(!refused.success && refused.text.contains("set mpsec_tls_key"), "the checks have none:\n{}", refused.text);
    second["mpsec_check_client_pem"] = json!(client);
    let played = tower.play("install", &second, &[], &[AT_ONCE, &["--diff"]].concat())?;
    played.well(Some(2))?;
    let client_line = client.lines().rev().nth(1).unwrap_or_default();
    ensure!(!played.text.contains(client_line), "the play shows the client's key:\n{}", played.text);
    ensure!(processes(tower)? == before, "a new password restarted agents");
    for host in &tower.hosts {
        holds(tower, host, &certificate, PASSWORDS[1], true)?;
        let old = status(tower, host, &certificate, &["--user", &format!("prometheus:{}", PASSWORDS[0])])?;
        ensure!(old == "401", "{}: the old password is answered with {old}", host.name);
    }
    for name in ["tls_client_ca", "check_client_pem", "control_token", "operators", "dropins"] {
        second.as_object_mut().expect("a map").remove(&format!("mpsec_{name}"));
    }
    leave(tower, &second, &certificate)
}

/// What the inventory has no longer is taken away, and what others put beside it stays. That nobody is asked for a certificate
/// any more is what an agent learns at a restart only.
fn leave(tower: &Tower, fewer: &Value, certificate: &Path) -> Result<()> {
    for host in &tower.hosts {
        host.sh("useradd --no-create-home --groups mpsec mate")?;
        host.sh("printf '[Service]\nLimitCORE=0\n' >/etc/systemd/system/mpsec.service.d/by-hand.conf")?;
        host.sh("touch /etc/mpsec/tls/by-hand.crt")?;
        // As checks leave it that are cut off.
        host.sh("touch /var/cache/mpsec/check.pem")?;
    }
    tower.play("install", fewer, &[], AT_ONCE)?.well(None)?;
    for host in &tower.hosts {
        let name = &host.name;
        host.sh("test ! -e /var/cache/mpsec/check.pem")?;
        let members = host.sh("getent group mpsec")?;
        ensure!(members.trim().ends_with(":mate"), "{name}: the group's members are {members}");
        let files = host.sh("cd /etc/mpsec && find . -type f -not -name '*.dpkg-dist' | sort | tr '\n' ' '")?;
        let kept = "./mpsec.toml ./tls/by-hand.crt ./tls/server.crt ./tls/server.key ./web-config.yml";
        ensure!(files.trim() == kept, "{name}: there are {files}");
        ensure!(host.sh("ls /etc/systemd/system/mpsec.service.d")?.trim() == "by-hand.conf", "{name}: drop-ins");
        let nice = host.sh("systemctl show mpsec --value --property Nice")?;
        ensure!(nice.trim() == "0", "{name}: the drop-in that is gone is still in force: {nice}");
        let url = format!("https://{}:9475/metrics", host.address);
        let user = format!("prometheus:{}", PASSWORDS[1]);
        let answered = curl_as(tower, None, certificate, &["--user", &user, &url])?;
        ensure!(answered == "200", "{name}: without a certificate a client is answered with {answered}");
    }
    Ok(())
}

fn holds(tower: &Tower, host: &Host, certificate: &Path, password: &str, asks: bool) -> Result<()> {
    let name = &host.name;
    let user = format!("prometheus:{password}");
    for (words, expected) in [(&["--user", &user][..], "200"), (&[], "401")] {
        let found = status(tower, host, certificate, words)?;
        ensure!(found == expected, "{name}: {found} instead of {expected} with {words:?}");
    }
    // A password only reads, a token changes, and so does a certificate that is asked for.
    let by_password = if asks { "200" } else { "401" };
    let url = |what: &str| format!("https://{}:9475/api/v1/{what}", host.address);
    let token = format!("Authorization: Bearer {TOKEN}");
    for (words, expected) in [(["--user", &user], by_password), (["--header", &token], "200")] {
        let body = ["--header", "Content-Type: application/json", "--data", "{}", &url("plan")];
        let found = curl(tower, certificate, &[&words[..], &body].concat())?;
        ensure!(found == expected, "{name}: a change is answered with {found} instead of {expected}: {words:?}");
    }
    host.sh("test ! -e /var/cache/mpsec/check.pem")?;
    host.sh(&format!("test {} -e /etc/mpsec/tls/clients.crt", if asks { "" } else { "!" }))?;
    if asks {
        let url = format!("https://{}:9475/metrics", host.address);
        let nobody = curl_as(tower, None, certificate, &["--user", &user, &url]);
        ensure!(nobody.is_err(), "{name}: without a certificate a client is answered with {nobody:?}");
    }
    let files = "cd /etc/mpsec && stat --format '%n %a %U %G' tls/server.key control-token web-config.yml";
    for line in host.sh(files)?.lines() {
        ensure!(line.ends_with(" 400 mpsec root"), "{name}: {line}");
    }
    // An operator may ask the agent, but read nothing of it.
    let captain = "setpriv --reuid captain --regid captain --init-groups";
    host.sh(&format!("{captain} mpsec plan"))?;
    let read = format!("{captain} cat /etc/mpsec/tls/server.key /etc/mpsec/control-token /etc/mpsec/web-config.yml");
    let read = host.sh(&format!("{read} 2>/dev/null || true"))?;
    ensure!(read.is_empty(), "{name}: an operator can read {read}");
    let nice = host.sh("systemctl show mpsec --value --property Nice")?;
    ensure!(nice.trim() == "3", "{name}: the drop-in is not in force: {nice}");
    Ok(())
}

/// With what status the metrics are answered.
fn status(tower: &Tower, host: &Host, certificate: &Path, words: &[&str]) -> Result<String> {
    let url = format!("https://{}:9475/metrics", host.address);
    curl(tower, certificate, &[words, &[&url]].concat())
}

fn curl(tower: &Tower, certificate: &Path, words: &[&str]) -> Result<String> {
    curl_as(tower, Some(&client_file(tower)), certificate, words)
}

/// With a client's certificate or none.
fn curl_as(tower: &Tower, client: Option<&Path>, certificate: &Path, words: &[&str]) -> Result<String> {
    let fixed =
        ["--silent", "--show-error", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{http_code}"];
    let certificate = certificate.to_string_lossy();
    let client = client.map(Path::to_string_lossy);
    let shown = client.as_ref().map(|file| ["--cert", file]);
    let all = [&fixed[..], &["--cacert", &certificate], shown.as_ref().map_or(&[], |shown| &shown[..]), words];
    tower.netns.output("curl", &all.concat())
}

/// The client's certificate and key, in one file as curl takes them.
fn client_file(tower: &Tower) -> PathBuf {
    tower.home.path().join("client.pem")
}

/// An authority, and a certificate of its with the key: PEM.
fn client() -> Result<(String, String)> {
    let mut params = CertificateParams::new([])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["prometheus".to_owned()])?.signed_by(&key, &authority)?;
    Ok((authority.pem(), certificate.pem() + &key.serialize_pem()))
}
