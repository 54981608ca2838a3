//! Enrolment: the file that is carried by hand from the Gateway to a Workstation, and what becomes
//! of it there.
//!
//! The file holds everything the Workstation needs, its private key too; the Gateway keeps only
//! the public one. A checksum tells a file that was damaged on its way from one that is wrong. On
//! the Workstation it becomes `identity.toml` in the state directory, of the same format.

use crate::config::check_interface_name;
use crate::encapsulation::Endpoint;
use crate::files;
use crate::keygen;
use crate::keys::{KeyId, PrivateKey, Psk, PublicKey};
use crate::problem::{self, Kind, Problem};
use crate::workstation::{Name, Workstation};
use serde::Deserialize;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The format's version.
pub const VERSION: i64 = 1;
/// The end of an enrolment file's name.
pub const EXTENSION: &str = "enrolment";
/// The identity in a Workstation's state directory.
pub const IDENTITY: &str = "identity.toml";
/// The context of the checksum.
const CONTEXT: &str = "portcullis 1 enrolment";

/// What a Workstation needs to reach its Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The Workstation's name at the Gateway.
    pub name: Name,
    /// What its handshakes carry in clear.
    pub key_id: KeyId,
    /// The Gateway's static public key.
    pub gateway_public_key: PublicKey,
    /// The Workstation's static key.
    pub key: StationKey,
    /// The key both share.
    pub psk: Psk,
    /// How frames travel.
    pub encapsulation: Encapsulation,
    /// The interface that is cabled to the Gateway, or that the tunnel leaves by, where it was named at enrolment.
    pub interface: Option<String>,
}

/// A Workstation's static key, as an enrolment has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StationKey {
    /// The private key: it was made on the Gateway, or this is the identity.
    Private(PrivateKey),
    /// The public key of a pair that the Workstation has made itself.
    Public(PublicKey),
}

impl StationKey {
    /// The public key.
    pub fn public(&self) -> PublicKey {
        match self {
            StationKey::Private(private) => private.public(),
            StationKey::Public(public) => *public,
        }
    }
}

/// How the tunnel's frames travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encapsulation {
    /// In Ethernet frames of this EtherType.
    Ether {
        /// The EtherType.
        ethertype: u16,
    },
    /// In datagrams.
    Udp {
        /// Where the Gateway is found: at least one.
        endpoints: Vec<Endpoint>,
    },
}

/// The fields as they stand in the file. All of them optional, so that what is missing can be
/// told in words; the keys as text, so that damage is found before a damaged key is judged.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: Option<i64>,
    name: Option<String>,
    key_id: Option<String>,
    gateway_public_key: Option<String>,
    workstation_private_key: Option<String>,
    workstation_public_key: Option<String>,
    psk: Option<String>,
    encapsulation: Option<String>,
    ethertype: Option<u16>,
    endpoint: Option<Vec<String>>,
    interface: Option<String>,
    checksum: Option<String>,
}

impl Raw {
    fn checksum(&self) -> String {
        let mut text = Zeroizing::new(String::with_capacity(1024));
        let mut field = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                // The length first: no two sets of fields give the same text.
                let _ = writeln!(text, "{name} {} {value}", value.len());
            }
        };
        field("name", self.name.as_deref());
        field("key_id", self.key_id.as_deref());
        field("gateway_public_key", self.gateway_public_key.as_deref());
        field(
            "workstation_private_key",
            self.workstation_private_key.as_deref(),
        );
        field(
            "workstation_public_key",
            self.workstation_public_key.as_deref(),
        );
        field("psk", self.psk.as_deref());
        field("encapsulation", self.encapsulation.as_deref());
        field(
            "ethertype",
            self.ethertype.map(|e| e.to_string()).as_deref(),
        );
        let endpoints = self.endpoint.as_ref().map(|all| all.join(" "));
        field("endpoint", endpoints.as_deref());
        field("interface", self.interface.as_deref());
        let hash = blake3::derive_key(CONTEXT, text.as_bytes());
        hex::encode(&hash[..16])
    }
}

impl Enrolment {
    /// The enrolment of a Workstation whose keys were just made: the next ones, where it has some.
    /// `private_key` is none for one that made its key pair itself; `encapsulation` is how it is to
    /// reach the Gateway ([`Gateway::encapsulation_for`](crate::config::Gateway::encapsulation_for)).
    pub fn of(
        workstation: &Workstation,
        private_key: Option<PrivateKey>,
        gateway: PublicKey,
        encapsulation: Encapsulation,
    ) -> Self {
        let (key_id, public_key, psk) = match &workstation.next {
            Some(next) => (next.key_id, next.public_key, &next.psk),
            None => (workstation.key_id, workstation.public_key, &workstation.psk),
        };
        Self {
            name: workstation.name.clone(),
            key_id,
            gateway_public_key: gateway,
            key: private_key.map_or(StationKey::Public(public_key), StationKey::Private),
            psk: psk.clone(),
            encapsulation,
            interface: None,
        }
    }

    /// The file's text.
    pub fn to_text(&self) -> Zeroizing<String> {
        let (encapsulation, ethertype, endpoint) = match &self.encapsulation {
            Encapsulation::Ether { ethertype } => ("ether", Some(*ethertype), None),
            Encapsulation::Udp { endpoints } => {
                let texts = endpoints.iter().map(Endpoint::to_string).collect();
                ("udp", None, Some(texts))
            }
        };
        let raw = Raw {
            version: Some(VERSION),
            name: Some(self.name.to_string()),
            key_id: Some(self.key_id.to_string()),
            gateway_public_key: Some(self.gateway_public_key.to_string()),
            workstation_private_key: match &self.key {
                StationKey::Private(key) => Some(key.to_text().to_string()),
                StationKey::Public(_) => None,
            },
            workstation_public_key: match &self.key {
                StationKey::Private(_) => None,
                StationKey::Public(key) => Some(key.to_string()),
            },
            psk: Some(self.psk.to_text().to_string()),
            encapsulation: Some(encapsulation.into()),
            ethertype,
            endpoint,
            interface: self.interface.clone(),
            checksum: None,
        };
        let mut text = Zeroizing::new(String::with_capacity(2048));
        let _ = write!(
            text,
            "# Portcullis enrolment of the Workstation {}.\n\
             # It holds secret keys of this Workstation: carry it by hand, show it to nobody, and delete it\n\
             # once the Workstation is enrolled (portcullis-agent enroll FILE).\n\
             version = {VERSION}\n",
            self.name
        );
        for (key, value) in [
            ("name", &raw.name),
            ("key_id", &raw.key_id),
            ("gateway_public_key", &raw.gateway_public_key),
            ("workstation_private_key", &raw.workstation_private_key),
            ("workstation_public_key", &raw.workstation_public_key),
            ("psk", &raw.psk),
            ("encapsulation", &raw.encapsulation),
            ("interface", &raw.interface),
        ] {
            if let Some(value) = value {
                let _ = writeln!(text, "{key} = \"{value}\"");
            }
        }
        if let Some(ethertype) = ethertype {
            let _ = writeln!(text, "ethertype = {ethertype:#06X}");
        }
        if let Some(endpoints) = &raw.endpoint {
            let quoted: Vec<String> = endpoints.iter().map(|text| format!("\"{text}\"")).collect();
            let _ = writeln!(text, "endpoint = [{}]", quoted.join(", "));
        }
        let _ = writeln!(text, "checksum = \"{}\"", raw.checksum());
        text
    }

    /// Reads the text of a file; `path` is only named in problems.
    ///
    /// # Errors
    /// Damaged, cut short, of another version, or wrong, each in its own words. No key is quoted.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problem> {
        let tried = format!("reading the enrolment {}", path.display());
        let again =
            "make it again on the Gateway: portcullis workstation remove NAME, then add NAME";
        let copy = "copy it again from the Gateway; if the copy there is the same, remove the \
                    Workstation there and add it again";
        let wrong = |happened: String, remedy: &str| {
            Problem::new(Kind::Invalid, tried.clone(), happened, remedy)
        };
        let has_end = text
            .lines()
            .any(|line| line.trim_start().starts_with("checksum"));
        let raw: Raw = match toml::from_str(text) {
            Ok(raw) => raw,
            Err(error) => {
                // Another version may have other fields: judge that first.
                if let Some(version) = version_in(text).filter(|version| *version != VERSION) {
                    return Err(wrong_version(&tried, version));
                }
                let at = problem::toml(path, text, &error);
                return Err(match (text.contains("version"), has_end) {
                    (true, false) => wrong("the file is cut short".into(), copy),
                    (true, true) => wrong(
                        format!("it is damaged: {}: {}", at.tried, at.happened),
                        copy,
                    ),
                    (false, _) => wrong(
                        "this is not an enrolment file".into(),
                        "give the file that `portcullis workstation add` made on the Gateway",
                    ),
                });
            }
        };
        match raw.version {
            Some(VERSION) => {}
            Some(version) => return Err(wrong_version(&tried, version)),
            None => {
                return Err(wrong(
                    "this is not an enrolment file: it has no version".into(),
                    "give the file that `portcullis workstation add` made on the Gateway",
                ));
            }
        }
        let Some(checksum) = &raw.checksum else {
            return Err(wrong(
                "the file is cut short: its last line, the checksum, is missing".into(),
                copy,
            ));
        };
        if *checksum != raw.checksum() {
            return Err(wrong(
                "it is damaged: its checksum does not match".into(),
                copy,
            ));
        }
        // From here on the file is as somebody made it: what is wrong was made wrong.
        let missing = |field: &str| wrong(format!("{field} is missing"), again);
        let bad = |field: &str, error: String| wrong(format!("{field}: {error}"), again);
        let get = |field: &'static str, value: &'_ Option<String>| {
            value
                .clone()
                .map(Zeroizing::new)
                .ok_or_else(|| missing(field))
        };
        macro_rules! parsed {
            ($field:ident) => {
                get(stringify!($field), &raw.$field)?
                    .parse()
                    .map_err(|error| bad(stringify!($field), format!("{error}")))?
            };
        }
        if let Some(interface) = &raw.interface {
            check_interface_name(interface).map_err(|error| bad("interface", error))?;
        }
        let encapsulation = match get("encapsulation", &raw.encapsulation)?.as_str() {
            "ether" => {
                let ethertype = raw.ethertype.ok_or_else(|| missing("ethertype"))?;
                if ethertype < 0x0600 {
                    return Err(bad("ethertype", format!("{ethertype} is not an EtherType")));
                }
                Encapsulation::Ether { ethertype }
            }
            "udp" => {
                let texts = raw.endpoint.as_deref().filter(|texts| !texts.is_empty());
                let texts = texts.ok_or_else(|| missing("endpoint"))?;
                let endpoints = texts.iter().map(|text| text.parse());
                let endpoints = endpoints.collect::<Result<_, String>>();
                Encapsulation::Udp {
                    endpoints: endpoints.map_err(|why| bad("endpoint", why))?,
                }
            }
            _ => {
                return Err(wrong(
                    "its encapsulation is not one this program knows (ether, udp)".into(),
                    "install the version of portcullis-agent that fits the Gateway's",
                ));
            }
        };
        let key = match (&raw.workstation_private_key, &raw.workstation_public_key) {
            (None, Some(_)) => StationKey::Public(parsed!(workstation_public_key)),
            (_, None) => StationKey::Private(parsed!(workstation_private_key)),
            (Some(_), Some(_)) => {
                return Err(wrong(
                    "it has a private key and a public one of the Workstation".into(),
                    again,
                ));
            }
        };
        let enrolment = Self {
            name: parsed!(name),
            key_id: parsed!(key_id),
            gateway_public_key: parsed!(gateway_public_key),
            key,
            psk: parsed!(psk),
            encapsulation,
            interface: raw.interface.clone(),
        };
        if enrolment.key.public() == enrolment.gateway_public_key {
            return Err(wrong(
                "the Workstation's key is the Gateway's own".into(),
                again,
            ));
        }
        Ok(enrolment)
    }

    /// Reads a file that was carried here. It may lie on a file system without permissions, so one
    /// that others can read is accepted, with a warning.
    ///
    /// # Errors
    /// As [`Enrolment::parse`], and what the system answered.
    pub fn read(path: &Path) -> Result<(Self, Option<String>), Problem> {
        Self::read_with(path, |bytes| {
            let text = std::str::from_utf8(bytes).unwrap_or_default();
            Ok(Zeroizing::new(text.to_owned()))
        })
    }

    /// As [`Enrolment::read`], of a file that may be encrypted: `open` is given what is in it and
    /// makes text of it.
    ///
    /// # Errors
    /// As [`Enrolment::parse`], what the system answered, and what `open` says.
    pub fn read_with(
        path: &Path,
        open: impl FnOnce(&[u8]) -> Result<Zeroizing<String>, Problem>,
    ) -> Result<(Self, Option<String>), Problem> {
        let text = open(files::read(path)?.as_bytes())?;
        let enrolment = Self::parse(path, &text)?;
        let mode = std::fs::metadata(path).map_or(0, |data| data.permissions().mode() & 0o7777);
        let warning = (mode & 0o077 != 0).then(|| {
            format!(
                "{} has mode {mode:04o}: others who use this machine, or the medium it lies on, can \
                 read the keys in it; delete it when this is done",
                path.display()
            )
        });
        Ok((enrolment, warning))
    }

    /// Where a Workstation's identity lies.
    pub fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(IDENTITY)
    }

    /// Reads this Workstation's identity.
    ///
    /// # Errors
    /// It is not enrolled, or the file is not safe, or wrong.
    pub fn load(state_directory: &Path) -> Result<Self, Problem> {
        let path = Self::path(state_directory);
        let text = files::read_secret(&path).map_err(|problem| match problem.kind {
            Kind::NotFound => Problem::new(
                Kind::NotFound,
                problem.tried,
                "this Workstation is not enrolled",
                "on the Gateway: portcullis workstation add NAME; bring the file here; then: \
                 portcullis-agent enroll FILE",
            ),
            _ => problem,
        })?;
        Self::parse(&path, &text)
    }

    /// The private key.
    ///
    /// # Errors
    /// This is an enrolment by public key, which is no identity yet.
    pub fn private_key(&self) -> Result<&PrivateKey, Problem> {
        match &self.key {
            StationKey::Private(key) => Ok(key),
            StationKey::Public(key) => Err(Problem::new(
                Kind::Invalid,
                format!("using the identity {}", self.name),
                format!("it lacks the private key of {key}"),
                "enrol again: portcullis-agent enroll FILE",
            )),
        }
    }

    /// With the private key that this Workstation made for itself, where the file has only the
    /// public one.
    fn completed(&self, state_directory: &Path) -> Result<Self, Problem> {
        let StationKey::Public(wanted) = self.key else {
            return Ok(self.clone());
        };
        let made = keygen::path(state_directory);
        let mut found = None;
        if made.symlink_metadata().is_ok() {
            found = Some(PrivateKey::load(&made)?).filter(|key| key.public() == wanted);
        }
        // After a rotation that kept the key pair it is part of the identity.
        if found.is_none()
            && let Ok(identity) = Self::load(state_directory)
            && let StationKey::Private(key) = identity.key
            && key.public() == wanted
        {
            found = Some(key);
        }
        let key = found.ok_or_else(|| {
            Problem::new(
                Kind::NotFound,
                format!("enrolling this Workstation as {}", self.name),
                format!(
                    "the file is for the key pair {wanted}, which is not in {}",
                    state_directory.display()
                ),
                "enrol on the machine that made the key pair; or make one here (portcullis-agent \
                 keygen) and have the Gateway enrol that",
            )
        })?;
        Ok(Self {
            key: StationKey::Private(key),
            ..self.clone()
        })
    }

    /// Makes this the Workstation's identity. One that is there is kept unless `replace` is set.
    ///
    /// # Errors
    /// It is enrolled already, or it is for a key pair that is not here, or what the system
    /// answered; the old identity is then still there.
    pub fn store(&self, state_directory: &Path, replace: bool) -> Result<(), Problem> {
        files::private_directory(state_directory)?;
        let path = Self::path(state_directory);
        let tried = format!("enrolling this Workstation as {}", self.name);
        let _lock = crate::lock::lock_file(
            &state_directory.join("enrol.lock"),
            &tried,
            "two enrolments at once would undo each other",
        )?;
        files::remove_leftovers(state_directory);
        let identity = self.completed(state_directory)?;
        if path.symlink_metadata().is_ok() && !replace {
            if matches!(Self::load(state_directory), Ok(old) if old == identity) {
                return Ok(());
            }
            let holder = match Self::load(state_directory) {
                Ok(old) => format!("it is enrolled already, as {} ({})", old.name, old.key_id),
                Err(problem) => format!("there is an identity already, though {problem}"),
            };
            return Err(Problem::new(
                Kind::Conflict,
                tried,
                holder,
                "nothing was changed; to give up the old identity, say --replace",
            ));
        }
        files::write_secret(&path, &identity.to_text())?;
        // The identity has it now. A copy left behind is as safe as the identity is.
        let made = keygen::path(state_directory);
        if PrivateKey::load(&made).is_ok_and(|key| key.public() == identity.key.public()) {
            let _ = files::remove(&made);
        }
        Ok(())
    }
}

/// The version of a file that is not readable as this version's.
fn version_in(text: &str) -> Option<i64> {
    let table: toml::Table = text.parse().ok()?;
    table.get("version")?.as_integer()
}

fn wrong_version(tried: &str, version: i64) -> Problem {
    Problem::new(
        Kind::Invalid,
        tried,
        format!("it is of version {version}, and this program knows version {VERSION}"),
        "install the version of portcullis-agent that fits the Gateway's",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn enrolment() -> Enrolment {
        Enrolment {
            name: "alpha".parse().unwrap(),
            key_id: KeyId::new(0x1234_abcd).unwrap(),
            gateway_public_key: PrivateKey::new([3; 32]).unwrap().public(),
            key: StationKey::Private(PrivateKey::new([4; 32]).unwrap()),
            psk: Psk::new([5; 32]).unwrap(),
            encapsulation: Encapsulation::Ether { ethertype: 0x88B5 },
            interface: None,
        }
    }

    fn parse(text: &str) -> Result<Enrolment, Problem> {
        Enrolment::parse(Path::new("alpha.enrolment"), text)
    }

    /// The text with its checksum made to fit.
    fn resealed(text: &str) -> String {
        let mut raw: Raw = toml::from_str(text).unwrap();
        let old = raw.checksum.take().unwrap();
        text.replace(&old, &raw.checksum())
    }

    #[test]
    fn an_enrolment_survives_its_file() {
        let mut enrolment = enrolment();
        assert_eq!(parse(&enrolment.to_text()).unwrap(), enrolment);
        enrolment.interface = Some("eth0".into());
        assert_eq!(parse(&enrolment.to_text()).unwrap(), enrolment);
        let endpoints = ["gw.example:51888", "[2001:db8::1]:7"];
        enrolment.encapsulation = Encapsulation::Udp {
            endpoints: endpoints.map(|text| text.parse().unwrap()).to_vec(),
        };
        let text = enrolment.to_text();
        assert_eq!(parse(&text).unwrap(), enrolment);
        // Where it is found cannot be changed, or left out, without being noticed.
        let other = text.replace("gw.example", "gw.evil.example");
        assert!(parse(&other).unwrap_err().happened.contains("checksum"));
        for endpoint in ["", "\"a b\""] {
            let wrong = text.replace("\"gw.example:51888\", \"[2001:db8::1]:7\"", endpoint);
            let problem = parse(&resealed(&wrong)).unwrap_err();
            assert!(problem.happened.contains("endpoint"), "{problem}");
        }
        enrolment.encapsulation = Encapsulation::Ether { ethertype: 0x88B5 };
        // As a mail program or another system's editor would leave it.
        let crlf = enrolment.to_text().replace('\n', "\r\n");
        assert_eq!(parse(&crlf).unwrap(), enrolment);
    }

    #[test]
    fn a_damaged_file_is_told_from_a_wrong_one() {
        let good = enrolment().to_text();
        let low = "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=";
        let public = enrolment().gateway_public_key.to_string();
        let private = PrivateKey::new([4; 32]).unwrap().to_text().to_string();
        let own = enrolment().key.public().to_string();
        for (from, to, damaged, wrong) in [
            ("1234abcd", "1234abce", "checksum does not match", ""),
            (&public, low, "checksum does not match", "low order"),
            (
                &public,
                &own,
                "checksum does not match",
                "the Gateway's own",
            ),
            (
                &private,
                "AAAA",
                "checksum does not match",
                "workstation_private_key: this is not a key",
            ),
            (
                "\"alpha\"",
                "\"../alpha\"",
                "checksum",
                "cannot be a Workstation's name",
            ),
            ("0x88B5", "0x0005", "checksum", "5 is not an EtherType"),
            ("\"ether\"", "\"pigeon\"", "checksum", "encapsulation"),
            (
                "key_id = \"1234abcd\"\n",
                "",
                "checksum",
                "key_id is missing",
            ),
            (
                "ethertype = 0x88B5\n",
                "",
                "checksum",
                "ethertype is missing",
            ),
            (
                "version = 1",
                "version = 2",
                "version 2, and this program knows version 1",
                "version 2",
            ),
            (
                "version = 1",
                "version = 2\nnovelty = true",
                "is of version 2",
                "",
            ),
            (
                "version = 1\n",
                "",
                "not an enrolment file",
                "not an enrolment file",
            ),
            ("psk = \"", "psk = ", "it is damaged: alpha.enrolment:", ""),
            ("psk = ", "pks = ", "it is damaged", ""),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, *good, "{from}");
            let problem = parse(&text).unwrap_err();
            assert!(problem.happened.contains(damaged), "{to}: {problem:?}");
            assert!(!problem.remedy.is_empty());
            let quoted = problem.report("portcullis-agent");
            assert!(!quoted.contains(&private) && !quoted.contains(&*enrolment().psk.to_text()));
            if !wrong.is_empty() {
                let problem = parse(&resealed(&text)).unwrap_err();
                assert!(problem.happened.contains(wrong), "{to}: {problem:?}");
            }
        }
        for other in [
            "",
            "hello",
            "[[port]]\ninterface = \"eth1\"\n",
            "\u{1}\u{2}",
        ] {
            let problem = parse(other).unwrap_err();
            assert!(
                problem.happened.contains("not an enrolment file"),
                "{other}: {problem}"
            );
        }
    }

    #[test]
    fn a_file_cut_short_anywhere_is_refused() {
        let good = enrolment().to_text();
        let head = good.find("name = ").unwrap();
        let sum = good.find("checksum").unwrap();
        // Without its last line end it is still whole.
        for end in 0..good.len() - 1 {
            let problem = parse(&good[..end]).unwrap_err();
            if (head..sum).contains(&end) {
                assert!(problem.happened.contains("cut short"), "{end}: {problem}");
            }
        }
    }

    #[test]
    fn a_changed_byte_anywhere_below_the_comments_is_noticed() {
        let good = enrolment().to_text();
        let start = good.find("version").unwrap();
        for at in start..good.len() - 1 {
            let mut bytes = good.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            let outcome = parse(std::str::from_utf8(&bytes).unwrap());
            assert!(outcome.is_err(), "byte {at} ({:?})", &good[at..at + 1]);
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_accepted_with_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alpha.enrolment");
        files::create_secret(&path, &enrolment().to_text()).unwrap();
        assert_eq!(Enrolment::read(&path).unwrap(), (enrolment(), None));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let (read, warning) = Enrolment::read(&path).unwrap();
        assert_eq!(read, enrolment());
        assert!(warning.unwrap().contains("mode 0755"));
    }

    #[test]
    fn an_identity_is_kept_unless_told_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let problem = Enrolment::load(&state).unwrap_err();
        assert!(problem.happened.contains("not enrolled"));
        assert!(problem.remedy.contains("portcullis-agent enroll"));

        enrolment().store(&state, false).unwrap();
        assert_eq!(Enrolment::load(&state).unwrap(), enrolment());
        let mode = fs::metadata(Enrolment::path(&state))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o600);
        enrolment().store(&state, false).unwrap();

        let mut beta = enrolment();
        beta.name = "beta".parse().unwrap();
        let problem = beta.store(&state, false).unwrap_err();
        assert_eq!(problem.kind, Kind::Conflict);
        assert!(
            problem.happened.contains("as alpha (1234abcd)"),
            "{problem}"
        );
        assert!(problem.remedy.contains("--replace"));
        assert_eq!(Enrolment::load(&state).unwrap(), enrolment());
        beta.store(&state, true).unwrap();
        assert_eq!(Enrolment::load(&state).unwrap(), beta);

        fs::set_permissions(Enrolment::path(&state), fs::Permissions::from_mode(0o644)).unwrap();
        let problem = Enrolment::load(&state).unwrap_err();
        assert!(problem.remedy.contains("chmod 600"));
        assert!(enrolment().store(&state, false).is_err());
    }

    #[test]
    fn a_crash_while_enrolling_leaves_the_old_identity_or_the_new_one() {
        let (old, mut new) = (enrolment(), enrolment());
        new.key_id = KeyId::new(9).unwrap();
        let mut outcomes = [0, 0];
        for steps in 0.. {
            let directory = tempfile::tempdir().unwrap();
            old.store(directory.path(), false).unwrap();
            let store = || new.store(directory.path(), true).unwrap();
            let finished = files::crash::after(steps, store).is_some();
            let there = Enrolment::load(directory.path()).unwrap();
            assert!(there == old || there == new);
            outcomes[usize::from(there == new)] += 1;
            if finished {
                break;
            }
        }
        assert!(outcomes[0] > 3 && outcomes[1] > 1, "{outcomes:?}");
    }

    proptest! {
        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,200}", bytes: Vec<u8>, at in 0usize..900) {
            let _ = parse(&text);
            let _ = parse(&String::from_utf8_lossy(&bytes));
            let mut damaged = enrolment().to_text().as_bytes().to_vec();
            let at = at % damaged.len();
            damaged.splice(at..at, bytes);
            let _ = parse(&String::from_utf8_lossy(&damaged));
        }
    }
}
