//! Debian's archive, asked by an apt of our own: its state, its sources and what it fetches are in the
//! cache, so the machine's own apt sees nothing of it. Packages are checked as apt checks them, by the
//! keyring of the package `debian-archive-keyring`, and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SUITES: [(&str, &str); 4] = [
    ("http://deb.debian.org/debian", "bookworm"),
    ("http://deb.debian.org/debian", "bookworm-backports"),
    ("http://deb.debian.org/debian", "trixie-backports"),
    ("http://deb.debian.org/debian-security", "bookworm-security"),
];
/// How old the lists of packages may be before they are fetched again.
const FRESH: Duration = Duration::from_secs(20 * 3600);
/// What is unpacked of a package that is wanted for a program of it goes here.
const PARTIAL: &str = "partial";

/// The archive.
#[derive(Debug)]
pub struct Archive {
    directory: PathBuf,
}

impl Archive {
    /// Makes the apt below `cache`, with lists of today. Lists that cannot be fetched again are used as
    /// they are, and it is said.
    ///
    /// # Errors
    /// There is no apt or no keyring, or the lists cannot be fetched the first time.
    pub fn open(cache: &Path) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} is not there: install debian-archive-keyring; without it nothing of Debian's can be trusted"
        );
        let archive = Self {
            directory: cache.join("apt"),
        };
        let at = |path: &str| archive.directory.join(path);
        for directory in [
            "state/lists/partial",
            "cache/archives/partial",
            "etc/apt.conf.d",
            "etc/preferences.d",
        ] {
            fs::create_dir_all(at(directory))
                .with_context(|| format!("creating {}", at(directory).display()))?;
        }
        let write = |path: &str, text: &str| {
            fs::write(at(path), text).with_context(|| format!("writing {}", at(path).display()))
        };
        write("apt.conf", &configuration(&archive.directory))?;
        // As if nothing were installed: what a program needs is fetched whole, whatever this machine has.
        write("state/status", "")?;
        let sources: String = SUITES
            .iter()
            .map(|(mirror, suite)| {
                format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n")
            })
            .collect();
        let stamp = at("updated");
        let stale = fs::read_to_string(&stamp).ok().as_deref() != Some(&sources)
            || fs::metadata(&stamp)
                .and_then(|data| data.modified())
                .map_or(true, |then| then.elapsed().is_ok_and(|age| age > FRESH));
        write("etc/sources.list", &sources)?;
        if stale {
            match archive.apt("apt-get", &["update", "-qq", "--error-on=any"]) {
                Ok(_) => fs::write(&stamp, &sources)
                    .with_context(|| format!("writing {}", stamp.display()))?,
                Err(error) if stamp.exists() => {
                    eprintln!(
                        "warning: Debian's lists could not be fetched again, those of before are used: {error:#}"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(archive)
    }

    /// The names of the packages that begin so.
    ///
    /// # Errors
    /// What apt said.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = self.apt("apt-cache", &["pkgnames", prefix])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Fetches these packages alone and unpacks them into `to`, which appears when all of it is there.
    ///
    /// # Errors
    /// What apt or dpkg said.
    pub fn unpack(&self, packages: &[&str], to: &Path) -> Result<()> {
        let words: Vec<&str> = ["download", "-qq"]
            .iter()
            .chain(packages)
            .copied()
            .collect();
        self.unpack_all(&words, to)
    }

    /// The same with all they depend on, from a suite first.
    ///
    /// # Errors
    /// What apt or dpkg said.
    pub fn unpack_whole(&self, packages: &[&str], suite: &str, to: &Path) -> Result<()> {
        let words = ["install", "--download-only", "-qq", "-y", "-t", suite];
        let words: Vec<&str> = words.iter().chain(packages).copied().collect();
        self.unpack_all(&words, to)
    }

    fn unpack_all(&self, words: &[&str], to: &Path) -> Result<()> {
        let fetched = self.directory.join("cache/archives");
        let clean = || {
            for file in debs(&fetched) {
                let _ = fs::remove_file(file);
            }
        };
        clean();
        self.apt("apt-get", words)?;
        let part = to.with_extension(PARTIAL);
        remove(&part)?;
        fs::create_dir_all(&part).with_context(|| format!("creating {}", part.display()))?;
        let files = debs(&fetched);
        ensure!(
            !files.is_empty(),
            "apt-get {} fetched nothing",
            words.join(" ")
        );
        for file in files {
            run(Command::new("dpkg-deb")
                .arg("--extract")
                .arg(&file)
                .arg(&part))?;
        }
        clean();
        remove(to)?;
        fs::rename(&part, to).with_context(|| format!("renaming {}", part.display()))
    }

    fn apt(&self, program: &str, words: &[&str]) -> Result<String> {
        run(Command::new(program)
            .args(words)
            .env("APT_CONFIG", self.directory.join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            // `apt-get download` leaves packages where it is started.
            .current_dir(self.directory.join("cache/archives")))
    }
}

fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "Dir::State \"{directory}/state\";\n\
         Dir::State::status \"{directory}/state/status\";\n\
         Dir::Cache \"{directory}/cache\";\n\
         Dir::Etc \"{directory}/etc\";\n\
         Dir::Etc::Trusted \"/nonexistent\";\n\
         Dir::Etc::TrustedParts \"/nonexistent\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures {{ \"amd64\"; }};\n\
         APT::Install-Recommends \"false\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n"
    )
}

fn debs(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    files.sort();
    files
}

/// Removes a directory; that it is not there is fine.
pub fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a command to its end; gives its standard output.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running `{shown}`"))?;
    ensure!(
        output.status.success(),
        "`{shown}` failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
