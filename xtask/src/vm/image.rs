//! The guest's whole file system: a cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst)
//! of our programs, the tools they are tested with, the libraries of both, and kernel modules.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::debian::run;

/// Where programs are in the guest.
pub const PROGRAMS: &str = "/bin";
/// Where modules are, and their order.
pub const MODULES: &str = "/modules";

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive that is being written.
#[derive(Debug)]
pub struct Image {
    file: BufWriter<File>,
    inode: u32,
    directories: BTreeSet<PathBuf>,
    libraries: BTreeSet<PathBuf>,
}

impl Image {
    /// Begins one, with the directories that every program expects.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let mut image = Self {
            file: BufWriter::new(file),
            inode: 0,
            directories: BTreeSet::new(),
            libraries: BTreeSet::new(),
        };
        for directory in [
            "proc",
            "sys",
            "dev",
            "run",
            "tmp",
            "etc",
            "var/tmp",
            "root",
            "lib/modules",
        ] {
            image.directory(Path::new(directory))?;
        }
        for (path, text) in [
            ("etc/passwd", "root:x:0:0::/root:/\n"),
            ("etc/group", "root:x:0:\n"),
            (
                "etc/nsswitch.conf",
                "passwd: files\ngroup: files\nhosts: files\n",
            ),
        ] {
            image.file(Path::new(path), text.as_bytes())?;
        }
        Ok(image)
    }

    /// Adds a program, without what only a debugger wants, and the libraries it needs.
    ///
    /// # Errors
    /// `strip` or `ldd` refused it, or the archive cannot be written.
    pub fn program(&mut self, name: &str, program: &Path) -> Result<()> {
        let stripped = tempfile::NamedTempFile::new().context("a temporary file")?;
        run(Command::new("strip")
            .arg("-o")
            .arg(stripped.path())
            .arg(program))?;
        let bytes = fs::read(stripped.path())?;
        let to = format!("{PROGRAMS}/{name}");
        self.file(Path::new(to.trim_start_matches('/')), &bytes)?;
        let needed = run(Command::new("ldd").arg(program));
        // A static program has none, and ldd calls that a failure.
        for library in libraries(&needed.unwrap_or_default()) {
            if self.libraries.insert(library.clone()) {
                let bytes =
                    fs::read(&library).with_context(|| format!("reading {}", library.display()))?;
                self.file(library.strip_prefix("/").unwrap_or(&library), &bytes)?;
            }
        }
        Ok(())
    }

    /// Adds a file, and the directories it is in.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn file(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.entry(path, PROGRAM, bytes)
    }

    fn directory(&mut self, path: &Path) -> Result<()> {
        let mut above: Vec<&Path> = path
            .ancestors()
            .filter(|one| !one.as_os_str().is_empty())
            .collect();
        above.reverse();
        for one in above {
            if self.directories.insert(one.to_owned()) {
                self.entry(one, DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.entry(Path::new("TRAILER!!!"), 0, &[])?;
        self.file.flush().context("writing the guest's file system")
    }

    fn entry(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
        let name = path.to_str().context("a path that is not UTF-8")?;
        self.inode += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let header = header(self.inode, mode, links, bytes.len(), name.len() + 1);
        let written = (|| {
            self.file.write_all(header.as_bytes())?;
            self.file.write_all(name.as_bytes())?;
            self.file.write_all(&[0])?;
            self.pad(header.len() + name.len() + 1)?;
            self.file.write_all(bytes)?;
            self.pad(bytes.len())
        })();
        written.context("writing the guest's file system")
    }

    /// Zeroes up to a multiple of four.
    fn pad(&mut self, length: usize) -> std::io::Result<()> {
        self.file
            .write_all(&[0; 3][..length.next_multiple_of(4) - length])
    }
}

/// The header of an entry ("newc": all numbers of eight hexadecimal digits).
fn header(inode: u32, mode: u32, links: u32, bytes: usize, name: usize) -> String {
    let fields = [
        inode,
        mode,
        0,
        0,
        links,
        0,
        bytes as u32,
        0,
        0,
        0,
        0,
        name as u32,
        0,
    ];
    let fields: String = fields.iter().map(|field| format!("{field:08X}")).collect();
    format!("070701{fields}")
}

/// The files in what ldd says.
fn libraries(said: &str) -> Vec<PathBuf> {
    said.lines()
        .filter_map(|line| {
            let path = line.split("=>").last()?.trim().split(" (").next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_with_and_without_an_arrow() {
        let said = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibx.so => not found\n";
        let found = libraries(said);
        assert_eq!(
            found,
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }

    #[test]
    fn the_archive_is_one_that_cpio_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.cpio");
        let mut image = Image::create(&path).unwrap();
        image.file(Path::new("a/b/c"), b"12345").unwrap();
        image.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        // Each entry begins where the one before says that it ends.
        let (mut at, mut names) = (0, Vec::new());
        while at + 110 <= bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701", "at {at}");
            let field = |n: usize| {
                let digits = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let (size, name) = (field(6), field(11));
            names.push(String::from_utf8(bytes[at + 110..at + 110 + name - 1].to_vec()).unwrap());
            let data = (at + 110 + name).next_multiple_of(4);
            if names.last().unwrap() == "a/b/c" {
                assert_eq!(&bytes[data..data + size], b"12345");
            }
            at = (data + size).next_multiple_of(4);
        }
        assert!(
            names.ends_with(&[
                "a".into(),
                "a/b".into(),
                "a/b/c".into(),
                "TRAILER!!!".into()
            ]),
            "{names:?}"
        );
    }
}
