//! A Workstation as the Gateway knows it, and the file that says so.

use crate::choices::{CipherChoice, padding_by_name, protection_by_name};
use crate::config;
use crate::keys::{KeyId, Psk, PublicKey};
use crate::problem::{self, Kind, Problem};
use crate::rules::{self, Rule};
use dataplane::keys::Protection;
use dataplane::session::Padding;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// A Workstation's name: up to 63 of `a-z 0-9 - _ .`, a letter or a digit first. So it is also a
/// file's name that leads nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let good = |byte: u8| plain(byte) || b"-_.".contains(&byte);
        let starts_well = text.bytes().next().is_some_and(plain);
        if starts_well && text.len() <= 63 && text.bytes().all(good) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(Problem::new(
            Kind::Invalid,
            format!("naming a Workstation `{}`", shown.escape_debug()),
            "this cannot be a Workstation's name",
            "use 1 to 63 of a-z, 0-9, -, _ and ., a letter or a digit first",
        ))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(|problem: Problem| D::Error::custom(format!("{problem}; {}", problem.remedy)))
    }
}

/// What the Gateway knows of a Workstation. Its private key is not part of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workstation {
    /// Its name.
    pub name: Name,
    /// What its handshakes carry in clear.
    pub key_id: KeyId,
    /// Its static public key.
    pub public_key: PublicKey,
    /// The key shared with it.
    pub psk: Psk,
    /// Its inner IPv4 address. It has this one or the other, or both.
    pub v4: Option<Ipv4Addr>,
    /// Its inner IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// The only port it is served on; `None` for any.
    pub port: Option<String>,
    /// What the AEAD does with its packets.
    pub protection: Protection,
    /// The cipher.
    pub cipher: CipherChoice,
    /// How its packets are padded.
    pub padding: Padding,
    /// What it may reach; nothing else passes.
    pub allow: Vec<Rule>,
    /// Whether it is served at all.
    pub enabled: bool,
    /// Whether it made its key pair itself, so that nobody else ever had the private half.
    pub own_key: bool,
    /// The Gateway's public key that it was told at enrolment; `None`: the eldest there is.
    pub gateway_key: Option<PublicKey>,
    /// When it was added, for people to read.
    pub created: String,
    /// The keys of a newer enrolment, which it has not used yet.
    pub next: Option<Next>,
}

/// Keys that take the place of a Workstation's when it first uses them, or at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// As [`Workstation::key_id`].
    pub key_id: KeyId,
    /// As [`Workstation::public_key`].
    pub public_key: PublicKey,
    /// As [`Workstation::psk`].
    pub psk: Psk,
    /// As [`Workstation::own_key`].
    pub own_key: bool,
    /// The Gateway's public key that goes with them.
    pub gateway_key: PublicKey,
    /// When the keys before end though these were not used, in seconds since 1970.
    pub until: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Name,
    key_id: KeyId,
    public_key: PublicKey,
    psk: Psk,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    port: Option<String>,
    #[serde(with = "protection_by_name")]
    protection: Protection,
    #[serde(default)]
    cipher: CipherChoice,
    #[serde(default, with = "padding_by_name")]
    padding: Padding,
    #[serde(default = "rules::usual")]
    allow: Vec<Rule>,
    enabled: bool,
    #[serde(default)]
    own_key: bool,
    gateway_key: Option<PublicKey>,
    created: toml::value::Datetime,
    next: Option<RawNext>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNext {
    key_id: KeyId,
    public_key: PublicKey,
    psk: Psk,
    #[serde(default)]
    own_key: bool,
    gateway_key: PublicKey,
    until: toml::value::Datetime,
}

impl Workstation {
    /// Its inner addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.v4.map(IpAddr::V4);
        v4.into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Its key ids: the one in use, and the one that waits.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> + use<> {
        let next = self.next.as_ref().map(|next| next.key_id);
        std::iter::once(self.key_id).chain(next)
    }

    /// Its public keys: the one in use, and the one that waits.
    pub fn public_keys(&self) -> impl Iterator<Item = PublicKey> + use<> {
        let next = self.next.as_ref().map(|next| next.public_key);
        std::iter::once(self.public_key).chain(next)
    }

    /// Reads the file `path` with the text `text`.
    ///
    /// # Errors
    /// The first thing that is wrong with it. No key is quoted.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problem> {
        let raw: Raw = toml::from_str(text).map_err(|error| problem::toml(path, text, &error))?;
        let invalid = |happened: String, remedy: &str| {
            let tried = format!("reading {}", path.display());
            Err(Problem::new(Kind::Invalid, tried, happened, remedy))
        };
        if path.file_stem().and_then(|stem| stem.to_str()) != Some(raw.name.as_str()) {
            return invalid(
                format!("it describes a Workstation named {}", raw.name),
                "the file must be named after the Workstation; add another Workstation with \
                 `portcullis workstation add`, not by copying a file",
            );
        }
        if raw.v4.is_none() && raw.v6.is_none() {
            return invalid(
                "it gives the Workstation no address".into(),
                "add v4 = \"...\" or v6 = \"...\"",
            );
        }
        if let Err(happened) = rules::check_count(&raw.allow) {
            return invalid(happened, "put ports that follow each other into one rule");
        }
        if let Some(port) = &raw.port
            && let Err(happened) = config::check_interface_name(port)
        {
            return invalid(happened, "give the name of a configured port");
        }
        let next = match raw.next {
            None => None,
            Some(next) => {
                let Some(until) = seconds(&next.until) else {
                    return invalid(
                        format!("until = {} is no date and time in UTC", next.until),
                        "write it like 2026-01-31T12:00:00Z",
                    );
                };
                Some(Next {
                    key_id: next.key_id,
                    public_key: next.public_key,
                    psk: next.psk,
                    own_key: next.own_key,
                    gateway_key: next.gateway_key,
                    until,
                })
            }
        };
        Ok(Self {
            name: raw.name,
            key_id: raw.key_id,
            public_key: raw.public_key,
            psk: raw.psk,
            v4: raw.v4,
            v6: raw.v6,
            port: raw.port,
            protection: raw.protection,
            cipher: raw.cipher,
            padding: raw.padding,
            allow: raw.allow,
            enabled: raw.enabled,
            own_key: raw.own_key,
            gateway_key: raw.gateway_key,
            created: raw.created.to_string(),
            next,
        })
    }

    /// The file's text. No value in it ever needs an escape: names, keys, addresses and interface
    /// names are checked when they are made.
    pub fn to_text(&self) -> Zeroizing<String> {
        let line = |key: &str, value: Option<String>| {
            value.map_or_else(String::new, |value| format!("{key} = \"{value}\"\n"))
        };
        let text = format!(
            "# The Workstation {name}, with the key it shares with this Gateway: keep this file to yourself.\n\
             # After changing it by hand: portcullis reload\n\
             name = \"{name}\"\n\
             key_id = \"{key_id}\"\n\
             public_key = \"{public_key}\"\n\
             psk = \"{psk}\"\n\
             {v4}{v6}{port}\
             protection = \"{protection}\"\n\
             cipher = \"{cipher}\"\n\
             padding = \"{padding}\"\n\
             # What it may reach: see `portcullis workstation allow --help`.\n\
             allow = {allow}\n\
             enabled = {enabled}\n\
             own_key = {own_key}\n\
             {gateway_key}\
             created = {created}\n\
             {next}",
            name = self.name,
            key_id = self.key_id,
            public_key = self.public_key,
            psk = *self.psk.to_text(),
            v4 = line("v4", self.v4.map(|v4| v4.to_string())),
            v6 = line("v6", self.v6.map(|v6| v6.to_string())),
            port = line("port", self.port.clone()),
            protection = self.protection.name(),
            cipher = self.cipher.name(),
            padding = self.padding.name(),
            allow = rules::list(&self.allow),
            enabled = self.enabled,
            own_key = self.own_key,
            gateway_key = line("gateway_key", self.gateway_key.map(|key| key.to_string())),
            created = self.created,
            next = *self.next.as_ref().map(Next::to_text).unwrap_or_default(),
        );
        Zeroizing::new(text)
    }
}

impl Next {
    fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "\n# Keys it has been given and not used yet; those above end when it does, or at the time given.\n\
             [next]\n\
             key_id = \"{}\"\n\
             public_key = \"{}\"\n\
             psk = \"{}\"\n\
             own_key = {}\n\
             gateway_key = \"{}\"\n\
             until = {}\n",
            self.key_id,
            self.public_key,
            *self.psk.to_text(),
            self.own_key,
            self.gateway_key,
            date(self.until),
        ))
    }
}

/// The time now, as TOML writes it. Only for people to read: nothing is decided by it.
pub(crate) fn now() -> String {
    date(unix_now())
}

/// The date and time in UTC, to the millisecond.
pub(crate) fn now_precisely() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let date = date(since.as_secs());
    format!(
        "{}.{:03}Z",
        date.trim_end_matches('Z'),
        since.subsec_millis()
    )
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The seconds since 1970 of a date and time in UTC: the other way round than [`date`].
fn seconds(when: &toml::value::Datetime) -> Option<u64> {
    let (day, time) = (when.date?, when.time?);
    let utc = matches!(
        when.offset,
        Some(toml::value::Offset::Z | toml::value::Offset::Custom { minutes: 0 })
    );
    if !utc || day.year < 1970 {
        return None;
    }
    let month = u64::from(day.month);
    let (year, month) = match month > 2 {
        true => (u64::from(day.year), month - 3),
        false => (u64::from(day.year) - 1, month + 9),
    };
    let days = year * 365 + year / 4 - year / 100
        + year / 400
        + (153 * month + 2) / 5
        + u64::from(day.day)
        - 1;
    let clock = u64::from(time.hour) * 3600
        + u64::from(time.minute) * 60
        + u64::from(time.second.unwrap_or_default());
    Some((days - 719_468) * 86_400 + clock)
}

/// Seconds since 1970 as a date and time. The calendar is computed in eras of 400 years, which
/// begin in March, so that the leap day is a year's last.
fn date(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::PrivateKey;
    use proptest::prelude::*;

    fn alpha() -> Workstation {
        Workstation {
            name: "alpha".parse().unwrap(),
            key_id: KeyId::new(7).unwrap(),
            public_key: PrivateKey::new([7; 32]).unwrap().public(),
            psk: Psk::new([8; 32]).unwrap(),
            v4: Some(Ipv4Addr::new(10, 152, 152, 11)),
            v6: Some("fd50:6f72:7463::2".parse().unwrap()),
            port: Some("eth1".into()),
            protection: Protection::Authenticate,
            cipher: "aes-256-gcm-siv".parse().unwrap(),
            padding: Padding::Sixteen,
            allow: ["tcp/9050", "udp/1-9@transparent", "any@web-1.lan"]
                .map(|rule| rule.parse().unwrap())
                .into(),
            enabled: false,
            own_key: true,
            gateway_key: Some(PrivateKey::new([9; 32]).unwrap().public()),
            created: now(),
            next: Some(Next {
                key_id: KeyId::new(8).unwrap(),
                public_key: PrivateKey::new([10; 32]).unwrap().public(),
                psk: Psk::new([11; 32]).unwrap(),
                own_key: true,
                gateway_key: PrivateKey::new([12; 32]).unwrap().public(),
                until: 1_709_164_801,
            }),
        }
    }

    fn parse(text: &str) -> Result<Workstation, Problem> {
        Workstation::parse(Path::new("w/alpha.toml"), text)
    }

    #[test]
    fn a_workstation_survives_its_file() {
        let mut alpha = alpha();
        assert_eq!(parse(&alpha.to_text()).unwrap(), alpha);
        (alpha.v4, alpha.port, alpha.enabled) = (None, None, true);
        (alpha.own_key, alpha.gateway_key, alpha.next) = (false, None, None);
        alpha.allow.clear();
        assert_eq!(parse(&alpha.to_text()).unwrap(), alpha);
    }

    #[test]
    fn a_file_that_says_nothing_of_rules_has_tors_ports_and_an_empty_list_has_none() {
        let text = alpha().to_text();
        let line = text.lines().find(|line| line.starts_with("allow")).unwrap();
        let without = text.replace(line, "");
        let allow = rules::list(&parse(&without).unwrap().allow);
        assert_eq!(allow, r#"["tcp/9050", "tcp/9040", "udp/5353", "icmp"]"#);
        let empty = text.replace(line, "allow = []");
        assert!(parse(&empty).unwrap().allow.is_empty());
    }

    #[test]
    fn a_broken_file_is_refused_without_quoting_a_key() {
        let alpha = alpha();
        let good = alpha.to_text();
        let public = alpha.public_key.to_string();
        let low = "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=";
        for (from, to, happened) in [
            ("key_id = \"00000007\"", "key_id = 7", "invalid type"),
            (
                "key_id = \"00000007\"",
                "key_id = \"00000000\"",
                "not a key id",
            ),
            (public.as_str(), low, "low order"),
            (public.as_str(), "AAAA", "not a key"),
            ("psk = ", "pks = ", "unknown field `pks`"),
            (
                "name = \"alpha\"",
                "name = \"beta\"",
                "Workstation named beta",
            ),
            (
                "name = \"alpha\"",
                "name = \"../a\"",
                "cannot be a Workstation's name",
            ),
            ("10.152.152.11", "10.152.152", "IPv4"),
            ("enabled = false\n", "", "missing field `enabled`"),
            ("port = \"eth1\"", "port = \"a/b\"", "no interface's name"),
            (
                "protection = \"authenticate\"",
                "protection = \"no\"",
                "`encrypt`",
            ),
            ("padding = \"16\"", "padding = 16", "invalid type"),
            ("\"tcp/9050\"", "\"tcp/http\"", "`tcp/http` is no rule"),
            ("\"tcp/9050\"", "9050", "invalid type"),
            (
                "until = 2024-02-29T00:00:01Z",
                "until = 2024-02-29",
                "no date and time in UTC",
            ),
            ("until", "till", "unknown field `till`"),
            (
                "v4 = \"10.152.152.11\"\nv6 = \"fd50:6f72:7463::2\"\n",
                "",
                "no address",
            ),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, *good, "{from}");
            let problem = parse(&text).unwrap_err();
            assert!(problem.happened.contains(happened), "{to}: {problem:?}");
            assert!(problem.tried.contains("w/alpha.toml"), "{problem:?}");
            let shown = problem.report("portcullis");
            assert!(!shown.contains(&*alpha.psk.to_text()), "{shown}");
        }
    }

    #[test]
    fn a_name_cannot_lead_out_of_its_directory() {
        for name in ["a", "0", "alpha", "web-1", "a_b.c", &"a".repeat(63)] {
            assert!(name.parse::<Name>().is_ok(), "{name}");
        }
        let long = "a".repeat(64);
        for name in [
            "", ".", "..", "../a", "a/b", "/a", "-a", "_a", ".a", "A", "ä", "a b", "a\0", "a\n",
            &long,
        ] {
            let problem = name.parse::<Name>().unwrap_err();
            assert!(problem.remedy.contains("1 to 63"), "{name}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(seconds), text);
            assert_eq!(super::seconds(&text.parse().unwrap()), Some(seconds));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,200}", cut in 0usize..600, byte: u8) {
            let _ = parse(&text);
            let mut damaged = alpha().to_text().as_bytes().to_vec();
            damaged.truncate(cut.max(1));
            let at = cut % damaged.len();
            damaged[at] = byte;
            let _ = parse(&String::from_utf8_lossy(&damaged));
        }
    }
}
