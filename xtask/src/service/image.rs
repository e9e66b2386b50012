//! A disk with Debian's system on it: installed by mmdebstrap, kept below `target/vm`.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{command, rust_src, tree, vm::debian};

/// The release, whatever the kernel is.
const RELEASE: &str = "bookworm";
/// What a small host has, and what the trials look with.
const PACKAGES: &[&str] = &[
    "catatonit",
    "crun",
    "curl",
    "dbus",
    "init-system-helpers",
    "iproute2",
    "kmod",
    "netavark",
    "nftables",
    "podman",
    "procps",
    "systemd",
    "systemd-sysv",
];
/// Room for what the trials install and write.
const SIZE: &str = "1200M";
/// What is written before the first start: it is nobody's first boot, and starts the trials.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "trial\n"),
    ("etc/machine-id", "6d707365632d747269616c2d686f7374\n"),
    ("etc/fstab", ""),
    ("etc/systemd/system/mpsec-trials.service", TRIALS),
];
/// The trials' own unit. When they are over, so is the machine.
const TRIALS: &str = "\
[Unit]
Description=Trials of the packaged service
After=dbus.service
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate
[Service]
Type=exec
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive
ExecStart=/mpsec/bin/service
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
[Install]
WantedBy=multi-user.target
";

/// The disk's image, made where it is not here already.
pub fn find_or_make(folder: &Path) -> Result<PathBuf> {
    let home = folder.join("debian");
    let (image, noted) = (home.join("disk.img"), home.join("made-from"));
    let made_from = format!("{RELEASE} {SIZE}\n{PACKAGES:?}\n{FILES:?}\n");
    if image.is_file() && fs::read_to_string(&noted).is_ok_and(|text| text == made_from) {
        return Ok(image);
    }
    for (program, package) in [("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs")] {
        ensure!(debian::is_here(program), "{program} (package {package}) is not on this machine");
    }
    ensure!(tree::is_root()?, "making a disk with a system on it needs root");
    eprintln!("xtask: installing Debian {RELEASE} on a disk image");
    let root = home.join("root");
    for stale in [&root, &image] {
        let _ = fs::remove_dir_all(stale).or_else(|_| fs::remove_file(stale));
    }
    fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
    install(&root)?;
    for (file, text) in FILES {
        fs::write(root.join(file), text).with_context(|| format!("writing {file} of the system"))?;
    }
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    std::os::unix::fs::symlink("/etc/systemd/system/mpsec-trials.service", wants.join("mpsec-trials.service"))?;
    let mut mke2fs = Command::new("/sbin/mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&image).arg(SIZE);
    let (done, said) = command::quietly(&mut mke2fs)?;
    ensure!(done, "mke2fs made no disk: {}", said.trim());
    fs::remove_dir_all(&root).context("removing what is on the disk now")?;
    fs::write(noted, made_from).context("noting what the disk was made from")?;
    Ok(image)
}

fn install(root: &Path) -> Result<()> {
    let archive = rust_src::archive().context("no Debian archive among this machine's sources")?;
    let source = format!("deb {}{} {RELEASE} main", archive.options, archive.uri);
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--mode=root", "--variant=minbase"]).arg(format!("--include={}", PACKAGES.join(",")));
    mmdebstrap.arg(RELEASE).arg(root).arg(source).stdin(Stdio::null());
    let (done, said) = command::quietly(&mut mmdebstrap)?;
    let last: Vec<&str> = said.trim().lines().rev().take(3).collect();
    ensure!(done, "mmdebstrap installed no system: {}", last.into_iter().rev().collect::<Vec<_>>().join(" "));
    Ok(())
}
