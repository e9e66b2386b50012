//! What the guest has beside the kernel and the tests: the programs that the tests start, of Debian's packages.
use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    debian::{self, Apt, Suite},
    newc::Archive,
};

/// The release whose programs the guest has, whatever its kernel is.
const SUITES: &[Suite] =
    &[Suite::Main("bookworm"), Suite::Main("bookworm-updates"), Suite::Security("bookworm-security")];
/// What the tests start. What these need comes with them.
const PACKAGES: &[&str] = &[
    "bpftool",
    "busybox-static",
    "charon-systemd",
    "coreutils",
    "curl",
    "dash",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "libcharon-extra-plugins",
    "libstrongswan-extra-plugins",
    "libstrongswan-standard-plugins",
    "mount",
    "mptcpize",
    "netbase",
    "nftables",
    "openssl",
    "procps",
    "strongswan-charon",
    "strongswan-swanctl",
    "tcpdump",
    "util-linux",
];
/// Folders that no test looks into.
const UNWANTED: &[&str] = &[
    "boot",
    "usr/include",
    "usr/lib/udev",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/lib/x86_64-linux-gnu/perl5",
    "usr/share/bash-completion",
    "usr/share/doc",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/share/zoneinfo",
    "var/cache",
];
/// What packages have made when they are installed, which these are not.
const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\n\
         daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/hostname", "vm\n"),
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\nprotocols: files\nservices: files\n"),
];
/// Names that busybox answers to where nothing else has them.
const BUSYBOX: &[&str] = &[
    "sh", "awk", "cat", "chmod", "cmp", "cp", "cut", "date", "dd", "dmesg", "echo", "env", "find", "grep", "gunzip",
    "head", "hexdump", "id", "ln", "ls", "mkdir", "mv", "nc", "od", "printf", "readlink", "rm", "sed", "seq", "sleep",
    "sort", "stat", "tail", "tee", "test", "timeout", "touch", "tr", "true", "false", "uname", "vi", "wc", "xargs",
];

/// The archive of the guest's programs, made where it is not here already.
pub fn find_or_make(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("userland.cpio");
    let stamp = folder.join("userland.packages");
    let files: Vec<&str> = FILES.iter().flat_map(|(name, text)| [*name, *text]).collect();
    let wanted = [PACKAGES, BUSYBOX, UNWANTED, &files].concat().join("\n");
    if archive.is_file() && fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(archive);
    }
    eprintln!("xtask: fetching the programs that the tests use in the virtual machine");
    let packages = Apt::new(&folder.join("apt/userland"), SUITES)?.download_all(PACKAGES)?;
    let root = tempfile::tempdir_in(folder)?;
    debian::unpack(&packages, root.path())?;
    finish(root.path())?;
    let part = archive.with_added_extension("part");
    let mut packed = Archive::new(BufWriter::new(File::create(&part)?));
    packed.tree(root.path(), &|name| !UNWANTED.contains(&name))?;
    packed.close()?;
    fs::rename(part, &archive)?;
    fs::write(stamp, wanted)?;
    Ok(archive)
}

fn finish(root: &Path) -> Result<()> {
    for folder in ["dev", "proc", "sys", "tmp", "run", "root", "etc", "bin", "var/lib", "usr/sbin"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("making {folder}"))?;
    }
    for (name, text) in FILES {
        fs::write(root.join(name), text).with_context(|| format!("writing {name}"))?;
    }
    let has =
        |name: &str| ["bin", "usr/bin", "sbin", "usr/sbin"].iter().any(|folder| root.join(folder).join(name).exists());
    for name in BUSYBOX.iter().filter(|name| !has(name)) {
        std::os::unix::fs::symlink("/bin/busybox", root.join("bin").join(name))?;
    }
    Ok(())
}
