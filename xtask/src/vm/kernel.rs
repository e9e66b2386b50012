//! Debian's kernels: which ones there are, and what of one is needed to boot it.
use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    debian::{self, Apt, Suite},
    newc::Archive,
};
use crate::command;

/// The series that are tested, the newest last. Of each the newest release that Debian has is taken.
pub const SERIES: &[&str] = &["6.1", "6.12", "6.18", "7.2", "7.3"];

/// The series, if it is one of them. One that nobody has heard of is a mistake, and nothing to be skipped.
pub fn known(series: &str) -> Result<&str> {
    ensure!(SERIES.contains(&series), "there is no series {series:?}; known are {}", SERIES.join(", "));
    Ok(series)
}

/// Where Debian keeps them, between its stable release of 2023 and what is to come.
const SUITES: &[Suite] = &[
    Suite::Main("bookworm"),
    Suite::Security("bookworm-security"),
    Suite::Main("bookworm-backports"),
    Suite::Main("trixie"),
    Suite::Main("trixie-backports"),
    Suite::Main("sid"),
];
/// Debian's kernels for virtual machines: small, and with everything of the network.
const FLAVOUR: &str = "-cloud-amd64";
/// Folders below `kernel/` of modules that the tests, or a system on a disk, may need.
const WANTED: &[&str] = &["arch", "crypto", "lib", "net", "fs", "security", "drivers"];
/// Of those, what an emulated machine has no use for, and what is large.
const UNWANTED: &[&str] = &[
    "kernel/drivers/gpu",
    "kernel/drivers/infiniband",
    "kernel/drivers/media",
    "kernel/drivers/net/ethernet",
    "kernel/drivers/net/wireless",
    "kernel/drivers/nvme",
    "kernel/drivers/scsi",
    "kernel/drivers/target",
    "kernel/drivers/usb",
    "kernel/fs/btrfs",
    "kernel/fs/ceph",
    "kernel/fs/nfs",
    "kernel/fs/nfsd",
    "kernel/fs/smb",
    "kernel/fs/cifs",
    "kernel/fs/xfs",
    "kernel/fs/ocfs2",
    "kernel/fs/gfs2",
    "kernel/fs/f2fs",
    "kernel/net/ceph",
    "kernel/net/sunrpc",
    "kernel/net/smc",
    "kernel/net/tipc",
    "kernel/net/rds",
];

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its series, such as `6.12`.
    pub series: String,
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// Its image.
    pub image: PathBuf,
    /// An archive of its modules, for the first file system.
    pub modules: PathBuf,
}

/// The source of kernels.
pub struct Kernels {
    apt: Apt,
    folder: PathBuf,
}

impl Kernels {
    /// Debian's, as this machine can reach them, kept below `folder`.
    pub fn new(folder: &Path) -> Result<Self> {
        ensure!(debian::is_here("depmod"), "depmod (package kmod) is not on this machine");
        Ok(Self { apt: Apt::new(&folder.join("apt/kernels"), SUITES)?, folder: folder.join("kernels") })
    }

    /// The newest kernel of a series, fetched where it is not here already.
    pub fn newest(&self, series: &str) -> Result<Kernel> {
        let names = self.apt.names(&format!("linux-image-{series}."))?;
        let Some(release) = newest(&names, series) else {
            bail!("Debian has no {series} kernel of the flavour{FLAVOUR}");
        };
        let home = self.folder.join(release);
        let kernel = Kernel {
            series: series.to_owned(),
            release: release.to_owned(),
            image: home.join("vmlinuz"),
            modules: home.join("modules.cpio"),
        };
        if !home.is_dir() {
            self.fetch(release, &home)?;
        }
        Ok(kernel)
    }

    fn fetch(&self, release: &str, home: &Path) -> Result<()> {
        eprintln!("xtask: fetching Debian's kernel {release}");
        // Whole or not at all: a half of it would look like all of it the next time.
        let part = home.with_added_extension("part");
        if part.exists() {
            fs::remove_dir_all(&part).with_context(|| format!("removing {}", part.display()))?;
        }
        let unpacked = part.join("unpacked");
        let packages = self.apt.download(&self.packages(release)?)?;
        debian::unpack(&packages, &unpacked)?;
        for package in packages {
            fs::remove_file(package)?;
        }
        let places = ["boot/vmlinuz-RELEASE", "usr/lib/modules/RELEASE/vmlinuz", "lib/modules/RELEASE/vmlinuz"];
        let image = places.iter().map(|place| unpacked.join(place.replace("RELEASE", release)));
        let image = image.into_iter().find(|image| image.is_file()).context("the packages hold no kernel image")?;
        fs::rename(image, part.join("vmlinuz"))?;
        pack_modules(&unpacked, release, &part)?;
        fs::remove_dir_all(&unpacked)?;
        fs::rename(&part, home).with_context(|| format!("moving {} to its place", home.display()))
    }

    /// The image, and the packages of the same release that newer kernels are split into.
    fn packages(&self, release: &str) -> Result<Vec<String>> {
        let image = format!("linux-image-{release}");
        let parts = ["linux-base-", "linux-binary-", "linux-modules-"].map(|part| format!("{part}{release}"));
        let mut packages: Vec<_> = self.apt.needs(&image)?.into_iter().filter(|name| parts.contains(name)).collect();
        packages.push(image);
        Ok(packages)
    }
}

/// Lays the modules out as the guest has them, lets depmod look at them, and packs them.
fn pack_modules(unpacked: &Path, release: &str, to: &Path) -> Result<()> {
    let places = ["lib/modules", "usr/lib/modules"].map(|place| unpacked.join(place).join(release));
    let from = places.iter().find(|place| place.join("kernel").is_dir()).context("the packages hold no modules")?;
    let root = to.join("root");
    let folder = root.join("lib/modules").join(release);
    fs::create_dir_all(folder.parent().context("a folder in a folder")?)?;
    fs::rename(from, &folder)?;
    command::run(Command::new("/sbin/depmod").arg("-b").arg(&root).arg(release))?;
    let mut archive = Archive::new(BufWriter::new(File::create(to.join("modules.cpio"))?));
    archive.tree(&root, &|name| is_wanted(name, release))?;
    archive.close()?;
    fs::remove_dir_all(root).context("removing what was packed")
}

/// Whether a file of the guest's root is packed: lists, folders that lead to modules, and modules that may be needed.
fn is_wanted(name: &str, release: &str) -> bool {
    let Some(path) = name.strip_prefix(&format!("lib/modules/{release}/")) else {
        return true;
    };
    let inside = |folder: &&str| path == *folder || path.starts_with(&format!("{folder}/"));
    let wanted = match path.strip_prefix("kernel/") {
        Some(rest) => WANTED.iter().any(|folder| rest.split('/').next() == Some(folder)),
        None => !path.ends_with(".bin") && path != "build" && path != "source",
    };
    wanted && !UNWANTED.iter().any(inside)
}

/// From names of packages: the highest release of the series. Debian's own suffix counts last.
fn newest<'a>(names: &'a [String], series: &str) -> Option<&'a str> {
    names
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|release| release.ends_with(FLAVOUR) && release.starts_with(&format!("{series}.")))
        .max_by_key(|release| numbers(release))
}

/// All numbers in a release's name, in their order.
fn numbers(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(releases: &[&str]) -> Vec<String> {
        releases.iter().map(|release| format!("linux-image-{release}")).collect()
    }

    #[test]
    fn the_newest_of_a_series_is_found_by_number() {
        let names = names(&[
            "6.1.0-9-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.1.0-57-amd64",
            "6.12.90+deb12-cloud-amd64",
            "6.12.90+deb12.1-cloud-amd64",
            "6.12.117+deb13-cloud-amd64",
            "6.12.117+deb13-cloud-amd64-unsigned",
            "6.12-cloud-amd64",
        ]);
        assert_eq!(newest(&names, "6.1"), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(newest(&names, "6.12"), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(newest(&names, "6"), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(newest(&names, "7.2"), None);
    }

    #[test]
    fn modules_of_the_network_are_packed_and_large_drivers_are_not() {
        let wanted = |name: &str| is_wanted(&format!("lib/modules/R/{name}"), "R");
        for name in
            ["modules.dep", "kernel", "kernel/net", "kernel/net/mptcp/mptcp_diag.ko", "kernel/drivers/net/veth.ko"]
        {
            assert!(wanted(name), "{name}");
        }
        for name in ["kernel/drivers/gpu", "kernel/drivers/net/ethernet/intel/e1000.ko", "kernel/sound/x.ko", "build"] {
            assert!(!wanted(name), "{name}");
        }
        assert!(is_wanted("lib", "R"));
    }
}
