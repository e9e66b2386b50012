//! Fetches packages of Debian's archive with an apt of our own: its lists, cache and list of installed packages lie below
//! `target/`, and nothing is installed on this machine.
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    command,
    rust_src::{self, Archive},
};

/// Lists that are older are fetched anew.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// A suite of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Of the main archive, such as `trixie-backports`.
    Main(&'static str),
    /// Of the archive of security updates, such as `bookworm-security`.
    Security(&'static str),
}

/// An apt that reads and writes in one folder only, and takes nothing for installed.
#[derive(Clone, Debug)]
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// An apt in this folder that knows these suites, with lists that are at most a day old.
    pub fn new(folder: &Path, suites: &[Suite]) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            ensure!(is_here(program), "{program} is not on this machine");
        }
        let archive = rust_src::archive().context("no Debian archive among this machine's sources")?;
        for sub in ["lists/partial", "cache/archives/partial", "none"] {
            let sub = folder.join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("making {}", sub.display()))?;
        }
        let apt = Self { folder: folder.to_owned() };
        fs::write(folder.join("status"), "")?;
        fs::write(folder.join("apt.conf"), apt.configuration())?;
        let sources: String = suites.iter().map(|suite| source(&archive, *suite)).collect();
        apt.update(&sources)?;
        Ok(apt)
    }

    fn update(&self, sources: &str) -> Result<()> {
        let (list, stamp) = (self.folder.join("sources.list"), self.folder.join("updated"));
        let age = stamp.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        let same = fs::read_to_string(&list).is_ok_and(|text| text == sources);
        if same && age.is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        if !same && stamp.exists() {
            fs::remove_file(&stamp)?;
        }
        fs::write(&list, sources)?;
        // What may be better in a moment is a warning to apt by itself, and its lists are then the old ones, or none.
        let any = ["-o", "APT::Update::Error-Mode=any", "-o", "Acquire::Retries=3"];
        let (done, text) = command::quietly(self.get().args(any).arg("update"))?;
        if !done && same && age.is_some() {
            eprintln!("xtask: the package lists could not be fetched, and older ones are used: {}", text.trim());
            return Ok(());
        }
        ensure!(done, "the package lists could not be fetched: {}", text.trim());
        fs::write(stamp, "").context("noting when the lists were fetched")
    }

    /// The names of packages that begin so.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = command::stdout(self.cache().args(["pkgnames", prefix]))?;
        let mut names: Vec<_> = text.lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// What a package needs, by name.
    pub fn needs(&self, package: &str) -> Result<Vec<String>> {
        Ok(depends(&command::stdout(self.cache().args(["depends", "--important", package]))?))
    }

    /// Fetches these packages and nothing that they need. Gives the files.
    pub fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        let scratch = tempfile::tempdir_in(&self.folder)?;
        let mut get = self.get();
        let (done, text) = command::quietly(get.arg("download").args(packages).current_dir(scratch.path()))?;
        ensure!(done, "{} could not be fetched: {}", packages.join(" "), text.trim());
        let to = self.folder.join("packages");
        fs::create_dir_all(&to)?;
        packages_in(scratch.path())?
            .into_iter()
            .map(|file| {
                let kept = to.join(file.file_name().context("a file without a name")?);
                fs::rename(&file, &kept)?;
                Ok(kept)
            })
            .collect()
    }

    /// Fetches these packages and everything that they need. Gives the files.
    pub fn download_all(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let archives = self.folder.join("cache/archives");
        for stale in packages_in(&archives)? {
            fs::remove_file(stale)?;
        }
        let mut get = self.get();
        get.args(["install", "--yes", "--download-only", "--no-install-recommends"]).args(packages);
        let (done, text) = command::quietly(&mut get)?;
        ensure!(done, "packages could not be fetched: {}", text.trim());
        packages_in(&archives)
    }

    fn get(&self) -> Command {
        self.command("apt-get")
    }

    fn cache(&self) -> Command {
        self.command("apt-cache")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-qq").arg("-c").arg(self.folder.join("apt.conf"));
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }

    /// Read after the machine's own, of which the way to the archive is kept, and what runs after an update is not.
    fn configuration(&self) -> String {
        let place = |name: &str| self.folder.join(name).display().to_string();
        let settings = [
            ("APT::Architecture", "amd64".to_owned()),
            ("Dir::Etc::sourcelist", place("sources.list")),
            ("Dir::Etc::sourceparts", place("none")),
            ("Dir::Etc::preferences", place("none/preferences")),
            ("Dir::Etc::preferencesparts", place("none")),
            ("Dir::State", place("")),
            ("Dir::State::lists", place("lists")),
            ("Dir::State::status", place("status")),
            ("Dir::Cache", place("cache")),
            // The folder is this user's; apt's own user could not read it.
            ("APT::Sandbox::User", "root".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
        ];
        let hooks = ["APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success"];
        let cleared = hooks.iter().chain(["APT::Architectures", "DPkg::Post-Invoke"].iter());
        let cleared: String = cleared.map(|name| format!("#clear {name};\n")).collect();
        settings.iter().fold(cleared, |text, (name, value)| format!("{text}{name} \"{value}\";\n"))
    }
}

/// Unpacks packages into a folder, without running anything of theirs.
pub fn unpack(packages: &[PathBuf], to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    packages.iter().try_for_each(|package| command::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(to)))
}

/// Whether a program is in the PATH, or where Debian keeps those of the administrator.
#[must_use]
pub fn is_here(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.into_iter().any(|folder| folder.join(program).is_file())
}

/// The line for one suite. Security updates are beside the archive, as on every mirror of both.
fn source(archive: &Archive, suite: Suite) -> String {
    let Archive { uri, options } = archive;
    let uri = uri.trim_end_matches('/');
    match suite {
        Suite::Main(name) => format!("deb {options}{uri} {name} main\n"),
        Suite::Security(name) => format!("deb {options}{uri}-security {name} main\n"),
    }
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let mut packages: Vec<_> = paths.into_iter().filter(is_package).collect();
    packages.sort();
    Ok(packages)
}

/// From `apt-cache depends`: the names behind `Depends:` and `PreDepends:` that are packages of their own.
fn depends(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().trim_start_matches('|').split_once("Depends: "))
        .map(|(_, name)| name.trim().to_owned())
        .filter(|name| !name.starts_with('<'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_package_needs_is_read() {
        let text = "linux-image-7.3.4-cloud-amd64\n  PreDepends: linux-base\n |Depends: dracut\n  \
                    Depends: <linux-initramfs-tool>\n    dracut\n  Depends: linux-modules-7.3.4-cloud-amd64\n";
        assert_eq!(depends(text), ["linux-base", "dracut", "linux-modules-7.3.4-cloud-amd64"]);
    }

    #[test]
    fn sources_are_lines_of_the_machines_own_archive() {
        let archive = Archive { uri: "http://a.example/debian/".into(), options: "[signed-by=/k] ".into() };
        let main = source(&archive, Suite::Main("sid"));
        assert_eq!(main, "deb [signed-by=/k] http://a.example/debian sid main\n");
        let security = source(&archive, Suite::Security("bookworm-security"));
        assert_eq!(security, "deb [signed-by=/k] http://a.example/debian-security bookworm-security main\n");
    }

    #[test]
    fn everything_lies_in_the_one_folder() {
        let text = Apt { folder: "/f".into() }.configuration();
        for line in
            ["Dir::State::status \"/f/status\";", "Dir::Cache \"/f/cache\";", "#clear APT::Update::Post-Invoke;"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
