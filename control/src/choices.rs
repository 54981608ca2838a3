//! The values a person chooses from, in configuration, Workstation files and the control API, with
//! the names they have there.

use dataplane::engine::Engine;
use dataplane::keys::{Cipher, Protection};
use dataplane::session::Padding;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// `#[serde(with = ...)]` for the dataplane's [`Engine`], by name.
#[derive(Deserialize)]
#[serde(remote = "Engine", rename_all = "kebab-case")]
pub enum EngineByName {
    /// [`Engine::Auto`].
    Auto,
    /// [`Engine::Vaes`].
    Vaes,
    /// [`Engine::AwsLcRs`].
    AwsLcRs,
    /// [`Engine::AesGcm`].
    AesGcm,
}

/// An [`Engine`], by name, where its place in the file matters too.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct NamedEngine(#[serde(with = "EngineByName")] pub Engine);

/// What a port lets in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admission {
    /// Frames of the tunnel, of Workstations with keys.
    #[default]
    Tunnel,
    /// What Workstations without keys send from their pinned addresses to the Gateway's own.
    Pinned,
    /// Everything.
    Open,
}

impl Admission {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Pinned => "pinned",
            Self::Open => "open",
        }
    }
}

/// How the tunnel's frames travel from a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// In Ethernet frames, over a cable or a LAN.
    #[default]
    Ether,
    /// In datagrams, over networks.
    Udp,
}

/// How the XDP program is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Xdp {
    /// In the driver; where the driver cannot, before the kernel's stack, which is said in the log.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// Before the kernel's stack.
    Generic,
}

/// Whether frames are shared with the NIC or copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZeroCopy {
    /// Shared where the driver can.
    #[default]
    Auto,
    /// Shared, or the port does not start.
    On,
    /// Copied.
    Off,
}

/// Whether a port's receive work is done by kernel threads of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThreadedNapi {
    /// Where frames are copied and one Workstation at most comes in.
    #[default]
    Auto,
    /// Always.
    On,
    /// The interface is left as it is.
    Off,
}

/// The MAC address of a Workstation's port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MacAddress {
    /// The one it has.
    #[default]
    Keep,
    /// Another at each boot.
    Random,
}

/// Whether this machine may be rolled back to a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Virtualised {
    /// Found out at start.
    #[default]
    Auto,
    /// It may.
    Yes,
    /// It may not.
    No,
}

impl<'de> Deserialize<'de> for Virtualised {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = Virtualised;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", true or false")
            }

            fn visit_bool<E>(self, yes: bool) -> Result<Virtualised, E> {
                Ok(match yes {
                    true => Virtualised::Yes,
                    false => Virtualised::No,
                })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Virtualised, E> {
                match text {
                    "auto" => Ok(Virtualised::Auto),
                    other => Err(E::unknown_variant(other, &["auto", "true", "false"])),
                }
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// The cipher of a Workstation's sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CipherChoice {
    /// AES-256-GCM, or AES-256-GCM-SIV for a Workstation that may be rolled back.
    #[default]
    Auto,
    /// This one.
    Fixed(Cipher),
}

impl CipherChoice {
    const NAMES: [&'static str; 4] = ["auto", "aes-256-gcm", "aes-128-gcm", "aes-256-gcm-siv"];

    /// The name in files and output.
    pub fn name(self) -> &'static str {
        match self {
            CipherChoice::Auto => "auto",
            CipherChoice::Fixed(cipher) => cipher.name(),
        }
    }
}

impl FromStr for CipherChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(CipherChoice::Auto);
        }
        Cipher::ALL
            .into_iter()
            .find(|cipher| cipher.name() == text)
            .map(CipherChoice::Fixed)
            .ok_or_else(|| unknown("cipher", text, &Self::NAMES))
    }
}

/// The padding named `text`.
///
/// # Errors
/// There is none of that name.
pub fn padding(text: &str) -> Result<Padding, String> {
    Padding::ALL
        .into_iter()
        .find(|padding| padding.name() == text)
        .ok_or_else(|| unknown("padding", text, &["none", "16", "full"]))
}

/// The protection named `text`.
///
/// # Errors
/// There is none of that name.
pub fn protection(text: &str) -> Result<Protection, String> {
    [Protection::Encrypt, Protection::Authenticate]
        .into_iter()
        .find(|protection| protection.name() == text)
        .ok_or_else(|| unknown("protection", text, &["encrypt", "authenticate"]))
}

/// The cipher named `text`.
///
/// # Errors
/// There is none of that name.
pub fn cipher(text: &str) -> Result<Cipher, String> {
    match text.parse()? {
        CipherChoice::Fixed(cipher) => Ok(cipher),
        CipherChoice::Auto => Err(unknown("cipher", text, &CipherChoice::NAMES[1..])),
    }
}

/// Where a cipher stands when a minimum is asked for: a longer key above a shorter one, and
/// above both the one that survives a repeated nonce.
pub fn cipher_rank(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::Aes128Gcm => 0,
        Cipher::Aes256Gcm => 1,
        Cipher::Aes256GcmSiv => 2,
    }
}

/// Where a protection stands when a minimum is asked for.
pub fn protection_rank(protection: Protection) -> u8 {
    match protection {
        Protection::Authenticate => 0,
        Protection::Encrypt => 1,
    }
}

fn unknown(what: &str, text: &str, names: &[&str]) -> String {
    format!(
        "there is no {what} `{text}`, expected one of `{}`",
        names.join("`, `")
    )
}

impl Serialize for CipherChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for CipherChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

macro_rules! by_name {
    ($($module:ident: $type:ident by $parse:ident;)*) => {$(
        #[doc = concat!("`#[serde(with = ...)]` for a [`", stringify!($type), "`], by name.")]
        pub mod $module {
            use super::*;

            /// Writes the name.
            ///
            /// # Errors
            /// The serializer's.
            pub fn serialize<S: Serializer>(value: &$type, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(value.name())
            }

            /// Reads the name.
            ///
            /// # Errors
            /// There is none of that name.
            pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                $parse(&String::deserialize(from)?).map_err(D::Error::custom)
            }
        }
    )*};
}

by_name! {
    protection_by_name: Protection by protection;
    cipher_by_name: Cipher by cipher;
    padding_by_name: Padding by padding;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_stands_for_its_value() {
        for cipher in Cipher::ALL {
            assert_eq!(cipher.name().parse(), Ok(CipherChoice::Fixed(cipher)));
            assert_eq!(super::cipher(cipher.name()), Ok(cipher));
        }
        for name in CipherChoice::NAMES {
            assert_eq!(name.parse::<CipherChoice>().unwrap().name(), name);
        }
        for padding in Padding::ALL {
            assert_eq!(super::padding(padding.name()), Ok(padding));
            assert_eq!(Padding::from_code(padding as u8), Some(padding));
        }
        assert_eq!(protection("authenticate"), Ok(Protection::Authenticate));
        assert!(protection("plain").unwrap_err().contains("`encrypt`"));
        assert!(cipher("auto").is_err());
        assert!("chacha".parse::<CipherChoice>().is_err());
        assert!(padding("8").is_err());
    }

    #[test]
    fn the_strongest_cipher_ranks_highest() {
        assert!(cipher_rank(Cipher::Aes128Gcm) < cipher_rank(Cipher::Aes256Gcm));
        assert!(cipher_rank(Cipher::Aes256Gcm) < cipher_rank(Cipher::Aes256GcmSiv));
        assert!(protection_rank(Protection::Authenticate) < protection_rank(Protection::Encrypt));
    }
}
