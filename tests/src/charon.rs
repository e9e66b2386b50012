//! A guard around one running strongSwan (charon): a folder of its own with its settings, sockets and keys, in the network
//! namespace of one host, and no process left behind.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use crate::agent::die_with_parent;
use crate::netns::{Netns, check};
use crate::trial::Skip;
use crate::{need, wait};

/// Where Debian's package `strongswan-charon` puts it, which is in nobody's PATH.
const PROGRAM: &str = "/usr/lib/ipsec/charon";
/// Of those that do the same one is enough, and which ones are there differs.
const PLUGINS: &str = "random nonce openssl aes gcm ccm sha1 sha2 hmac kdf drbg curve25519 gmp pem pkcs1 pkcs8 x509 revocation \
    constraints pubkey";
/// How long it may take to start, and to negotiate.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long it may take to say goodbye to its peer.
const STOP: Duration = Duration::from_secs(5);
/// What both ends know where they have no certificates.
const SECRET: &str = "a secret of the tests alone";

/// Who does ESP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Esp {
    /// The kernel.
    Kernel,
    /// charon itself, behind a TUN device (its plugin kernel-libipsec).
    Program,
}

impl Esp {
    /// charon with what it takes for this.
    pub fn needed(self) -> Result<()> {
        need::certain(self.there())
    }

    fn there(self) -> Result<()> {
        need::root()?;
        need::command("swanctl")?;
        need::file(PROGRAM)?;
        // Both keep what they are in a file of the same name; a private /run keeps them apart.
        let run = fs::canonicalize("/var/run").unwrap_or_default();
        if run != Path::new("/run") {
            return Err(Skip::because("needs /var/run to be /run"));
        }
        match self {
            Self::Kernel => crate::xfrm::esp(),
            Self::Program => {
                need::file("/dev/net/tun")?;
                need::file("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so")
            }
        }
    }
}

/// How ends prove who they are.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A secret that both know.
    Secret,
    /// Certificates of an authority that both trust.
    Certificates(Arc<Authority>),
}

/// Somebody who signs certificates.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    signed: [(String, String); 2],
}

/// What the certificate of each end names.
const NAMES: [&str; 2] = ["west.test", "east.test"];

impl Authority {
    /// A new one, which has signed a certificate for each end.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority.test");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let sign = |name: &str| -> Result<(String, String)> {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(vec![name.to_owned()])?;
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
        };
        Ok(Self { certificate: issuer.pem(), signed: [sign(NAMES[0])?, sign(NAMES[1])?] })
    }
}

/// One tunnel, as both ends have it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// `transport` or `tunnel`.
    pub mode: &'static str,
    /// ESP in UDP, whether there is a translation of addresses on the way or not.
    pub in_udp: bool,
    /// The number of the xfrm interface that it takes.
    pub if_id: Option<u32>,
    /// Addresses of the ends.
    pub outer: [IpAddr; 2],
    /// Addresses inside; the same in transport mode.
    pub inner: [IpAddr; 2],
}

impl Connection {
    /// As swanctl.conf has it, for one end.
    fn text(&self, esp: Esp, host: usize, proof: &Proof) -> String {
        let (mine, theirs) = (host, 1 - host);
        let (local, remote) = (self.outer[mine], self.outer[theirs]);
        let auth = |who: usize| match proof {
            Proof::Secret => format!("auth = psk\n      id = {}", self.outer[who]),
            Proof::Certificates(_) => format!("auth = pubkey\n      id = {}", NAMES[who]),
        };
        let certificate = if matches!(proof, Proof::Certificates(_)) { "\n      certs = own.pem" } else { "" };
        let marks =
            self.if_id.map_or(String::new(), |id| format!("\n        if_id_in = {id}\n        if_id_out = {id}"));
        let proposals = match esp {
            Esp::Kernel => "aes128gcm16-x25519",
            // Its ciphers are charon's own, of which not all plugins are everywhere.
            Esp::Program => "aes128-sha256-x25519",
        };
        let encap = if self.in_udp { "yes" } else { "no" };
        let Self { name, mode, inner, .. } = self;
        format!(
            "  {name} {{\n    version = 2\n    local_addrs = {local}\n    remote_addrs = {remote}\n    mobike = no\n    \
             encap = {encap}\n    local {{\n      {}{certificate}\n    }}\n    remote {{\n      {}\n    }}\n    children {{\n      \
             {name} {{\n        mode = {mode}\n        local_ts = {}\n        remote_ts = {}\n        \
             esp_proposals = {proposals}{marks}\n      }}\n    }}\n  }}\n",
            auth(mine),
            auth(theirs),
            inner[mine],
            inner[theirs],
        )
    }
}

/// A running charon.
#[derive(Debug)]
pub struct Charon {
    netns: Arc<Netns>,
    pid: libc::pid_t,
    ended: Receiver<()>,
    folder: TempDir,
}

impl Charon {
    /// Starts it with these connections loaded; none of them is up yet. `host` says which end it is.
    pub fn start(netns: &Arc<Netns>, esp: Esp, host: usize, connections: &[Connection], proof: &Proof) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mpsec-charon-").tempdir()?;
        write_settings(folder.path(), esp, host, connections, proof)?;
        let mut command = Command::new(PROGRAM);
        command.env("STRONGSWAN_CONF", folder.path().join("strongswan.conf"));
        let charon = Self::spawn(netns, command, folder)?;
        wait::until(PATIENCE, || {
            ensure!(charon.ended.try_recv().is_err(), "charon has ended");
            charon.swanctl(&["--stats"])
        })
        .with_context(|| charon.log())?;
        charon.swanctl(&["--load-all", "--file", &charon.path("swanctl.conf")])?;
        Ok(charon)
    }

    fn spawn(netns: &Arc<Netns>, mut command: Command, folder: TempDir) -> Result<Self> {
        let (pid_sender, pid_receiver) = channel();
        let (end_sender, ended) = channel();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec this calls nothing but prctl, which is async-signal-safe.
        unsafe { command.pre_exec(die_with_parent) };
        let inside = Arc::clone(netns);
        // The thread lives as long as charon: the kernel takes its end for that of the parent.
        thread::Builder::new().name("charon".into()).spawn(move || {
            let mut child = match inside.enter().and_then(|()| Ok(command.spawn()?)) {
                Ok(child) => child,
                Err(error) => return drop(pid_sender.send(Err(error))),
            };
            let _ = pid_sender.send(Ok(child.id() as libc::pid_t));
            if child.wait().is_ok() {
                let _ = end_sender.send(());
            }
        })?;
        let pid = pid_receiver.recv().context("charon's thread is gone")?.context("start charon")?;
        Ok(Self { netns: Arc::clone(netns), pid, ended, folder })
    }

    /// Brings a connection up; it is when this returns.
    pub fn initiate(&self, name: &str) -> Result<()> {
        self.swanctl(&["--initiate", "--child", name, "--timeout", "30"]).with_context(|| self.log())
    }

    /// Has a connection take new keys; it has them when this returns.
    pub fn rekey(&self, name: &str) -> Result<()> {
        let before = self.spis(name)?;
        self.swanctl(&["--rekey", "--child", name])?;
        wait::until(PATIENCE, || {
            let now = self.spis(name)?;
            ensure!(now.len() == before.len() && now.iter().all(|spi| !before.contains(spi)), "{before:?}, {now:?}");
            Ok(())
        })
    }

    /// The numbers of the states by which a connection receives.
    fn spis(&self, name: &str) -> Result<Vec<String>> {
        let listed = self.output(&["--list-sas", "--child", name, "--raw"])?;
        let all = listed.split_whitespace().filter_map(|word| word.trim_start_matches('{').strip_prefix("spi-in="));
        Ok(all.map(str::to_owned).collect())
    }

    fn swanctl(&self, args: &[&str]) -> Result<()> {
        self.output(args).map(drop)
    }

    fn output(&self, args: &[&str]) -> Result<String> {
        let socket = format!("unix://{}", self.path("charon.vici"));
        let all: Vec<&str> = args.iter().copied().chain(["--uri", &socket]).collect();
        let mut command = Command::new("swanctl");
        command.env("STRONGSWAN_CONF", self.path("strongswan.conf")).env("SWANCTL_DIR", self.folder.path());
        command.args(&all);
        let output = self.netns.run(|| command.output())?;
        if !output.status.success() {
            let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
            bail!("swanctl {}: {}", args.join(" "), told.join(" "));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The end of what it wrote.
    fn log(&self) -> String {
        let text = fs::read_to_string(self.path("charon.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!("charon wrote:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            // SAFETY: kill takes no pointers; the pid is our child's, which is reaped only where its end is told.
            if self.ended.try_recv().is_ok() || check(unsafe { libc::kill(self.pid, signal) }).is_err() {
                return;
            }
            if self.ended.recv_timeout(STOP).is_ok() {
                return;
            }
        }
    }
}

fn write_settings(folder: &Path, esp: Esp, host: usize, connections: &[Connection], proof: &Proof) -> Result<()> {
    let (plugins, routes) = match esp {
        // The ways are there already: those that charon makes know no source, and would send all paths over one.
        Esp::Kernel => ("kernel-netlink", "no"),
        // The one that comes first does ESP, and needs ways into its device.
        Esp::Program => ("kernel-libipsec kernel-netlink", "yes"),
    };
    let here = folder.display();
    let settings = format!(
        "charon {{\n  load = {PLUGINS} {plugins} socket-default vici updown counters\n  install_routes = {routes}\n  plugins {{\n    vici {{\n      \
         socket = unix://{here}/charon.vici\n    }}\n  }}\n  filelog {{\n    file {{\n      path = {here}/charon.log\n      \
         flush_line = yes\n      default = 1\n    }}\n  }}\n}}\nswanctl {{\n  load = random openssl pem pkcs1 pkcs8 x509 pubkey\n}}\n"
    );
    fs::write(folder.join("strongswan.conf"), settings)?;
    let mut text = "connections {\n".to_owned();
    for connection in connections {
        text.push_str(&connection.text(esp, host, proof));
    }
    text.push_str("}\n");
    match proof {
        Proof::Secret => write!(text, "secrets {{\n  ike {{\n    secret = \"{SECRET}\"\n  }}\n}}\n")?,
        Proof::Certificates(authority) => authority.write(folder, host)?,
    }
    Ok(fs::write(folder.join("swanctl.conf"), text)?)
}

impl Authority {
    fn write(&self, folder: &Path, host: usize) -> Result<()> {
        let (certificate, key) = &self.signed[host];
        for (name, text) in
            [("x509ca/ca.pem", &self.certificate), ("x509/own.pem", certificate), ("private/own.pem", key)]
        {
            let path: PathBuf = folder.join(name);
            fs::create_dir_all(path.parent().context("a file without a folder")?)?;
            fs::write(path, text)?;
        }
        Ok(())
    }
}
