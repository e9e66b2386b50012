//! Writes archives of the `newc` format, which the kernel unpacks as its first file system
//! (`Documentation/driver-api/early-userspace/buffer-format.rst` of Linux). Archives may follow one another in a file.
use std::{
    fs,
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
};

use anyhow::{Context, Result};

/// The kind of a file, in its mode.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive that is being written.
pub struct Archive<W> {
    to: W,
    written: u64,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub fn new(to: W) -> Self {
        Self { to, written: 0, entries: 0 }
    }

    /// Adds a folder. Folders come before what is in them.
    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, FOLDER | 0o755, &[])
    }

    /// Adds a file, by its content and permissions.
    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, FILE | permissions & 0o7777, content)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, to: &str) -> io::Result<()> {
        self.entry(name, LINK | 0o777, to.as_bytes())
    }

    /// Adds the folders that lead to `name`, which may be there already: the kernel does not mind.
    pub fn folders_to(&mut self, name: &str) -> io::Result<()> {
        for (at, _) in name.match_indices('/') {
            self.folder(&name[..at])?;
        }
        Ok(())
    }

    /// Adds all that `wanted` accepts below a folder of this machine, by path from there, sorted. A folder that is not
    /// wanted is not entered.
    pub fn tree(&mut self, folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        self.tree_at(folder, folder, wanted)
    }

    fn tree_at(&mut self, root: &Path, folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if !wanted(&name) {
                continue;
            }
            let what = || format!("packing {}", path.display());
            let metadata = path.symlink_metadata().with_context(what)?;
            let kind = metadata.file_type();
            if kind.is_dir() {
                self.entry(&name, FOLDER | metadata.permissions().mode() & 0o7777, &[])?;
                self.tree_at(root, &path, wanted)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).with_context(what)?;
                self.entry(&name, LINK | 0o777, target.as_os_str().as_bytes())?;
            } else if kind.is_file() {
                self.file(&name, metadata.mode(), &fs::read(&path).with_context(what)?)?;
            }
        }
        Ok(())
    }

    /// Ends the archive. Without it the kernel takes what follows for a broken entry.
    pub fn close(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::other(format!("{name} is too large for this format"));
        self.entries += 1;
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        // Number, mode, owner, group, links, time, size, device (2), device of a node (2), length of the name, sum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let header: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        self.put(b"070701")?;
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(b"\0")?;
        self.pad()?;
        self.put(content)?;
        self.pad()
    }

    /// Header with name, and content, end at a multiple of four.
    fn pad(&mut self) -> io::Result<()> {
        let missing = (4 - self.written % 4) % 4;
        self.put(&[0; 3][..missing as usize])
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.to.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive::new(Vec::new());
        archive.file("ab", 0o644, b"hello").unwrap();
        let bytes = archive.close().unwrap();
        assert_eq!(&bytes[..6], b"070701");
        let field = |number: usize| {
            let at = 6 + 8 * number;
            u32::from_str_radix(std::str::from_utf8(&bytes[at..at + 8]).unwrap(), 16).unwrap()
        };
        assert_eq!((field(1), field(6), field(11)), (0o100_644, 5, 3));
        // 110 bytes of header and three of name make 113: padded to 116. Five bytes of content are padded to eight.
        assert_eq!(&bytes[110..116], b"ab\0\0\0\0");
        assert_eq!(&bytes[116..124], b"hello\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
        assert!(String::from_utf8_lossy(&bytes).contains("TRAILER!!!"));
    }

    #[test]
    fn a_tree_is_packed_with_folders_first_and_what_is_not_wanted_left_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/inner")).unwrap();
        fs::create_dir_all(dir.path().join("no")).unwrap();
        fs::write(dir.path().join("b/inner/file"), "x").unwrap();
        fs::write(dir.path().join("no/file"), "x").unwrap();
        std::os::unix::fs::symlink("b", dir.path().join("a")).unwrap();
        let mut archive = Archive::new(Vec::new());
        archive.tree(dir.path(), &|name| name != "no").unwrap();
        let bytes = archive.close().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(at("b/inner") < at("b/inner/file"));
        assert!(!text.contains("no/file"));
        assert!(text.contains("0000a1ff"), "no symbolic link");
    }

    #[test]
    fn the_way_to_a_file_is_made() {
        let mut archive = Archive::new(Vec::new());
        archive.folders_to("a/b/file").unwrap();
        assert_eq!(archive.entries, 2);
    }
}
