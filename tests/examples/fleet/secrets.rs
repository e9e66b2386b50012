//! TLS, a password, a token, an operator and a drop-in, by the play.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use mpsec_tests::need;
use rcgen::CertifiedKey;
use serde_json::{Value, json};

use crate::host::Host;
use crate::tower::{NAMES, Tower};
use crate::trials::{AT_ONCE, processes, settled};

/// What bcrypt takes least time with.
const COST: u32 = 4;
const PASSWORDS: [&str; 2] = ["the first password", "the second password"];
const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

/// They arrive, for the agent's group alone, and hold; a changed password needs no restart; nothing of them is told.
pub fn arrive(tower: &Tower) -> Result<()> {
    need::command("curl")?;
    let names = tower.hosts.iter().map(|host| host.address.clone()).collect::<Vec<_>>();
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
    let certificate = tower.home.path().join("server.crt");
    fs::write(&certificate, cert.pem())?;
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
        holds(tower, host, &certificate, PASSWORDS[0])?;
        let set = host.sh("cat /etc/mpsec/mpsec.toml")?;
        ensure!([TOKEN, &hash, key_line].iter().all(|secret| !set.contains(secret)), "{}: {set}", host.name);
    }
    tower.play("install", &first, &[], AT_ONCE)?.well(Some(0))?;
    let targets = fs::read_to_string(tower.targets())?;
    ensure!(targets.matches("\"__scheme__\": \"https\"").count() == NAMES.len(), "{targets}");

    let before = processes(tower)?;
    let (second, _) = with(PASSWORDS[1], &vars)?;
    tower.play("install", &second, &[], AT_ONCE)?.well(Some(1))?;
    ensure!(processes(tower)? == before, "a new password restarted agents");
    for host in &tower.hosts {
        holds(tower, host, &certificate, PASSWORDS[1])?;
        let old = status(tower, host, &certificate, &["--user", &format!("prometheus:{}", PASSWORDS[0])])?;
        ensure!(old == "401", "{}: the old password is answered with {old}", host.name);
    }
    Ok(())
}

fn holds(tower: &Tower, host: &Host, certificate: &Path, password: &str) -> Result<()> {
    let name = &host.name;
    let user = format!("prometheus:{password}");
    for (words, expected) in [(&["--user", &user][..], "200"), (&[], "401")] {
        let found = status(tower, host, certificate, words)?;
        ensure!(found == expected, "{name}: {found} instead of {expected} with {words:?}");
    }
    // A password only reads, a token changes.
    let url = |what: &str| format!("https://{}:9475/api/v1/{what}", host.address);
    let token = format!("Authorization: Bearer {TOKEN}");
    for (words, expected) in [(["--user", &user], "401"), (["--header", &token], "200")] {
        let body = ["--header", "Content-Type: application/json", "--data", "{}", &url("plan")];
        let found = curl(tower, certificate, &[&words[..], &body].concat())?;
        ensure!(found == expected, "{name}: a change is answered with {found} instead of {expected}: {words:?}");
    }
    let files = "cd /etc/mpsec && stat --format '%n %a %U %G' tls/server.key control-token web-config.yml";
    for line in host.sh(files)?.lines() {
        ensure!(line.ends_with(" 640 root mpsec"), "{name}: {line}");
    }
    host.sh("setpriv --reuid captain --regid captain --init-groups mpsec plan")?;
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
    let certificate = certificate.to_string_lossy();
    let fixed =
        ["--silent", "--show-error", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{http_code}"];
    tower.netns.output("curl", &[&fixed[..], &["--cacert", &certificate], words].concat())
}
