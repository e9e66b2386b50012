//! A small `modprobe`: which files to load for a name or an alias, in which order, from what `depmod` wrote.
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// `MODULE_INIT_COMPRESSED_FILE` of `include/uapi/linux/module.h` (Linux 5.17): the kernel decompresses the file.
const COMPRESSED_FILE: libc::c_int = 4;

/// What `depmod` knows of a kernel's modules.
#[derive(Debug, Default)]
pub struct Modules {
    /// By module name: its file, and those that it needs, in the order in which they are loaded.
    files: BTreeMap<String, Vec<String>>,
    /// Pattern and module name.
    aliases: Vec<(String, String)>,
    /// By module name: modules to load before it.
    before: BTreeMap<String, Vec<String>>,
    /// Modules that are part of the kernel's image.
    builtin: BTreeSet<String>,
}

impl Modules {
    /// From the folder `/lib/modules/RELEASE`.
    pub fn read(folder: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        // The last two are not there where no module asks for them.
        let optional = |name: &str| text(name).unwrap_or_default();
        Ok(Self::parse(
            &text("modules.dep")?,
            &text("modules.alias")?,
            &optional("modules.softdep"),
            &optional("modules.builtin"),
        ))
    }

    /// From the texts of `modules.dep`, `modules.alias`, `modules.softdep` and `modules.builtin`.
    #[must_use]
    pub fn parse(dep: &str, alias: &str, softdep: &str, builtin: &str) -> Self {
        let mut modules = Self::default();
        for (file, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            // A file stands before those that it needs.
            let order = needs.split_whitespace().rev().chain([file]).map(str::to_owned).collect();
            modules.files.insert(name_of(file), order);
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) = (words.next(), words.next(), words.next()) {
                modules.aliases.push((plain(pattern), plain(name)));
            }
        }
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            if let (Some("softdep"), Some(name), Some("pre:")) = (words.next(), words.next(), words.next()) {
                let before = words.take_while(|word| *word != "post:").map(plain).collect();
                modules.before.insert(plain(name), before);
            }
        }
        modules.builtin.extend(builtin.lines().map(name_of));
        modules
    }

    /// Whether this is a module's own name, be it a file or part of the kernel's image.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let name = plain(name);
        self.files.contains_key(&name) || self.builtin.contains(&name)
    }

    /// The files to load for a module's name or an alias, in their order. `None` where nobody answers to it.
    #[must_use]
    pub fn resolve(&self, asked: &str) -> Option<Vec<&str>> {
        let asked = plain(asked);
        let names: Vec<&str> = if self.has(&asked) {
            vec![&asked]
        } else {
            let matching = self.aliases.iter().filter(|(pattern, _)| matches(pattern, &asked));
            matching.map(|(_, name)| name.as_str()).collect()
        };
        if names.is_empty() {
            return None;
        }
        let mut order = Vec::new();
        for name in names {
            self.add(name, 0, &mut order);
        }
        Some(order)
    }

    fn add<'a>(&'a self, name: &str, depth: usize, order: &mut Vec<&'a str>) {
        // Modules that ask for each other softly would go round for ever.
        if depth < 8 {
            for before in self.before.get(name).into_iter().flatten() {
                self.add(before, depth + 1, order);
            }
        }
        for file in self.files.get(name).into_iter().flatten() {
            if !order.contains(&file.as_str()) {
                order.push(file);
            }
        }
    }
}

/// Loads what answers to `asked`, from the folder `/lib/modules/RELEASE`.
pub fn load(folder: &Path, modules: &Modules, asked: &str) -> Result<()> {
    let Some(files) = modules.resolve(asked) else {
        bail!("no module answers to {asked}");
    };
    // Of several that answer to an alias, some are for other processors: one that loads is enough.
    let mut failure = None;
    let mut loaded = files.is_empty();
    for file in files {
        match load_file(&folder.join(file)) {
            Ok(()) => loaded = true,
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if !loaded => Err(error),
        _ => Ok(()),
    }
}

fn load_file(path: &PathBuf) -> Result<()> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let compressed = path.extension().is_some_and(|extension| extension != "ko");
    let flags = if compressed { COMPRESSED_FILE } else { 0 };
    let parameters = CString::default();
    // SAFETY: the descriptor is open and the parameters are a string with its end; both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), flags) };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        error => Err(error).with_context(|| format!("loading {}", path.display())),
    }
}

/// The module's name: of a file's path, what stands before `.ko`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    plain(file.split(".ko").next().unwrap_or(file))
}

/// `-` and `_` are the same in names.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether a shell pattern of `*`, `?` and `[...]` matches the whole text.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut in_text) = (0, 0);
    // Where to go on when what follows the last `*` does not match: it takes one more byte then.
    let mut retry = None;
    while in_text < text.len() || at < pattern.len() {
        if pattern.get(at) == Some(&b'*') {
            retry = Some((at, in_text));
            at += 1;
        } else if let Some(length) = text.get(in_text).and_then(|byte| one(&pattern[at..], *byte)) {
            at += length;
            in_text += 1;
        } else if let Some((star, taken)) = retry.filter(|(_, taken)| *taken < text.len()) {
            retry = Some((star, taken + 1));
            (at, in_text) = (star + 1, taken + 1);
        } else {
            return false;
        }
    }
    true
}

/// Whether the pattern's first element matches this byte: then its length.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let length = pattern.iter().position(|other| *other == b']')?;
            let set = &pattern[1..length];
            let within = |range: &[u8]| range[0] <= byte && byte <= range[2];
            let ranges = set.windows(3).filter(|window| window[1] == b'-' || window[1] == b'_');
            (set.contains(&byte) || ranges.into_iter().any(within)).then_some(length + 1)
        }
        same => (*same == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/crypto/gcm.ko.xz: kernel/crypto/ghash-generic.ko.xz kernel/lib/gf128mul.ko.xz
kernel/crypto/ghash-generic.ko.xz: kernel/lib/gf128mul.ko.xz
kernel/lib/gf128mul.ko.xz:
kernel/net/sched/act_police.ko.xz:
kernel/arch/x86/crypto/aesni-intel.ko.xz:
kernel/net/ipv4/esp4.ko.xz: kernel/lib/gf128mul.ko.xz
";
    const ALIAS: &str = "# Aliases
alias crypto-gcm(*) gcm
alias crypto-gcm gcm
alias xfrm-type-2-50 esp4
alias cpu:type:x86,ven*fam*mod*:feature:*0099* aesni_intel
";
    const SOFTDEP: &str = "softdep esp4 pre: act-police post: gcm\n";

    fn modules() -> Modules {
        Modules::parse(DEP, ALIAS, SOFTDEP, "kernel/net/mptcp/mptcp.ko\n")
    }

    #[test]
    fn what_is_needed_is_loaded_before_what_needs_it() {
        let order = ["kernel/lib/gf128mul.ko.xz", "kernel/crypto/ghash-generic.ko.xz", "kernel/crypto/gcm.ko.xz"];
        assert_eq!(modules().resolve("gcm").unwrap(), order);
        assert_eq!(modules().resolve("crypto-gcm(aes)").unwrap(), order);
    }

    #[test]
    fn soft_wishes_come_first() {
        let order = ["kernel/net/sched/act_police.ko.xz", "kernel/lib/gf128mul.ko.xz", "kernel/net/ipv4/esp4.ko.xz"];
        assert_eq!(modules().resolve("xfrm-type-2-50").unwrap(), order);
    }

    #[test]
    fn what_is_built_in_needs_no_file() {
        assert_eq!(modules().resolve("mptcp").unwrap(), [""; 0]);
        assert_eq!(modules().resolve("no-such-thing"), None);
        assert!(modules().has("act-police") && !modules().has("crypto-gcm"));
    }

    #[test]
    fn patterns_are_the_shells() {
        let cpu = "cpu:type:x86,ven0000fam0006mod00A0:feature:,0098,0099,";
        assert_eq!(modules().resolve(cpu).unwrap(), ["kernel/arch/x86/crypto/aesni-intel.ko.xz"]);
        for (pattern, text, expected) in [
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*", "", true),
            ("a?", "a", false),
            ("v[0-9]x", "v7x", true),
            ("v[0-9]x", "vax", false),
            ("*ab*ab", "xxabyabzab", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
