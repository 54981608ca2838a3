//! A kernel of Debian's with the modules a guest needs, in the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::debian::{Archive, remove};

/// What a guest loads, with all that these need. One that a kernel has built in, or lacks, is left out.
const WANTED: [&str; 19] = [
    "virtio_pci",
    "virtio_net",
    "virtio_rng",
    "igb",
    "e1000e",
    "vmxnet3",
    "veth",
    "bridge",
    "tun",
    "sch_ingress",
    "cls_bpf",
    "xsk_diag",
    "dummy",
    "nf_tables",
    "sch_fq",
    "wireguard",
    "failover",
    "net_failover",
    "libchacha20poly1305",
];

/// Which kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Release {
    /// Debian 12's own
    #[value(name = "6.1")]
    V6_1,
    /// The long-term kernel after it
    #[value(name = "6.12")]
    V6_12,
    /// The newest that Debian has for trixie
    #[value(name = "newest")]
    Newest,
}

impl Release {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        }
    }

    fn is(self, version: &[u32]) -> bool {
        match self {
            Self::V6_1 => version.starts_with(&[6, 1]),
            Self::V6_12 => version.starts_with(&[6, 12]),
            Self::Newest => true,
        }
    }
}

/// A kernel in the cache.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its name, as `uname -r` has it.
    pub version: String,
    directory: PathBuf,
}

impl Kernel {
    /// The newest kernel of a release, fetched unless it is in the cache already.
    ///
    /// # Errors
    /// There is none, or it cannot be fetched or unpacked.
    pub fn get(archive: &Archive, cache: &Path, release: Release) -> Result<Self> {
        let names = archive.names("linux-image-")?;
        let versions = names.iter().filter_map(|name| plain(name));
        let newest = versions
            .filter(|(_, numbers)| release.is(numbers))
            .max_by(|one, other| one.1.cmp(&other.1));
        let (version, _) =
            newest.with_context(|| format!("Debian has no kernel {} for amd64", release.name()))?;
        let kernel = Self {
            version: version.to_owned(),
            directory: cache.join(format!("linux-{version}")),
        };
        let modules = WANTED.join(" ");
        let made_for = fs::read_to_string(kernel.directory.join("wanted")).ok();
        if made_for.as_deref() != Some(&modules) {
            println!("fetching Debian's Linux {version}");
            kernel.fetch(archive, &modules)?;
        }
        Ok(kernel)
    }

    fn fetch(&self, archive: &Archive, wanted: &str) -> Result<()> {
        let version = &self.version;
        // Since 6.19 what there is to boot and its modules are packages of their own.
        let parts = archive.names(&format!("linux-modules-{version}"))?;
        let packages = match parts.iter().any(|name| name.ends_with(version.as_str())) {
            true => vec![
                format!("linux-binary-{version}"),
                format!("linux-modules-{version}"),
            ],
            false => vec![format!("linux-image-{version}")],
        };
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        let whole = self.directory.with_extension("whole");
        archive.unpack(&packages, &whole)?;
        let part = self.directory.with_extension("partial");
        remove(&part)?;
        fs::create_dir_all(&part)?;
        let places = [
            whole.join(format!("boot/vmlinuz-{version}")),
            whole.join(format!("usr/lib/modules/{version}/vmlinuz")),
        ];
        let image = places.iter().find(|path| path.is_file());
        let image = image.with_context(|| format!("no vmlinuz in {}", packages.join(", ")))?;
        fs::copy(image, part.join("vmlinuz")).context("copying vmlinuz")?;
        let trees = ["lib/modules", "usr/lib/modules"].map(|tree| whole.join(tree).join(version));
        let mut modules = Modules::default();
        for tree in trees {
            modules.index(&tree);
        }
        for name in wanted.split(' ') {
            modules.add(name, &part)?;
        }
        fs::write(part.join("order"), modules.order.join("\n"))?;
        fs::write(part.join("wanted"), wanted)?;
        remove(&self.directory)?;
        fs::rename(&part, &self.directory)?;
        remove(&whole)
    }

    /// What QEMU boots.
    pub fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// Its modules in the order in which they are to be loaded.
    ///
    /// # Errors
    /// The cache is damaged.
    pub fn modules(&self) -> Result<Vec<PathBuf>> {
        let order = self.directory.join("order");
        let text =
            fs::read_to_string(&order).with_context(|| format!("reading {}", order.display()))?;
        Ok(text
            .lines()
            .map(|name| self.directory.join(format!("{name}.ko")))
            .collect())
    }
}

/// The version in the name of a kernel's package, and its numbers; `None` for one of another flavour.
fn plain(package: &str) -> Option<(&str, Vec<u32>)> {
    let version = package.strip_prefix("linux-image-")?;
    let numbers = version.strip_suffix("-amd64")?;
    if numbers.contains("rt")
        || numbers.contains("cloud")
        || !numbers.starts_with(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    let digits = numbers.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u32> = digits.filter_map(|digits| digits.parse().ok()).collect();
    Some((version, numbers))
}

/// The modules of a kernel's packages.
#[derive(Debug, Default)]
struct Modules {
    files: BTreeMap<String, PathBuf>,
    seen: BTreeSet<String>,
    order: Vec<String>,
}

impl Modules {
    fn index(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                self.index(&path);
            } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
                self.files.insert(name.replace('-', "_"), path);
            }
        }
    }

    /// Adds a module after all it needs, as plain ELF.
    fn add(&mut self, name: &str, to: &Path) -> Result<()> {
        let name = name.replace('-', "_");
        if !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let Some(path) = self.files.get(&name) else {
            return Ok(());
        };
        let bytes = plain_module(path)?;
        for needed in needs(&bytes) {
            self.add(&needed, to)?;
        }
        let file = to.join(format!("{name}.ko"));
        fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
        self.order.push(name);
        Ok(())
    }
}

/// A module's ELF, whatever it is packed with.
fn plain_module(path: &Path) -> Result<Vec<u8>> {
    let bytes = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => {
            let output = Command::new("xz")
                .args(["--decompress", "--stdout"])
                .arg(path)
                .stdin(Stdio::null())
                .output()
                .context("running xz (of the package xz-utils)")?;
            ensure!(
                output.status.success(),
                "xz cannot unpack {}",
                path.display()
            );
            output.stdout
        }
        _ => fs::read(path).with_context(|| format!("reading {}", path.display()))?,
    };
    ensure!(
        bytes.starts_with(b"\x7fELF"),
        "{} is packed in a way that is not known here",
        path.display()
    );
    Ok(bytes)
}

/// The names in a module's `depends` and `softdep=pre:` (its .modinfo is NUL-terminated `key=value`).
fn needs(module: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for entry in module.split(|byte| *byte == 0) {
        let Ok(entry) = std::str::from_utf8(entry) else {
            continue;
        };
        if let Some(list) = entry.strip_prefix("depends=") {
            names.extend(
                list.split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned),
            );
        } else if let Some(list) = entry.strip_prefix("softdep=pre: ") {
            let before = list.split("post:").next().unwrap_or_default();
            names.extend(before.split_whitespace().map(str::to_owned));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_kernels_count_and_a_larger_number_is_newer() {
        let names = [
            "linux-image-6.12.95+deb12-amd64",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.12.117+deb12-rt-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-amd64-unsigned",
            "linux-image-6.12.117+deb12-amd64-dbg",
            "linux-image-amd64",
            "linux-image-6.1.0-9-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-7.3.4+deb13-amd64",
        ];
        let best = |release: Release| {
            let all = names.iter().filter_map(|name| plain(name));
            let fit = all.filter(|(_, numbers)| release.is(numbers));
            fit.max_by(|one, other| one.1.cmp(&other.1)).unwrap().0
        };
        assert_eq!(best(Release::V6_1), "6.1.0-56-amd64");
        assert_eq!(best(Release::V6_12), "6.12.117+deb12-amd64");
        assert_eq!(best(Release::Newest), "7.3.4+deb13-amd64");
    }

    #[test]
    fn a_module_says_what_it_needs() {
        let module = b"\x7fELF..\0depends=dca,i2c-algo-bit\0softdep=pre: crc32c post: x\0depends=\0name=igb\0";
        assert_eq!(needs(module), ["dca", "i2c-algo-bit", "crc32c"]);
    }
}
