//! Requests that change something, and what they are answered with.

use super::schema;
use crate::choices::{CipherChoice, padding_by_name};
use crate::keys::PublicKey;
use crate::problem::Problem;
use crate::rules::{Change, Rule};
use crate::workstation::Workstation;
use dataplane::session::Padding;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A Workstation to add. What is not given is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddWorkstation {
    /// Its name.
    #[schema(value_type = schema::Name)]
    pub name: String,
    /// Its inner addresses, at most one of each family.
    #[serde(default)]
    #[schema(value_type = Vec<schema::Address>, max_items = 2)]
    pub addresses: Vec<IpAddr>,
    /// The only port it is served on.
    #[serde(default)]
    pub port: Option<String>,
    /// What the AEAD does with its packets: `encrypt` or `authenticate`.
    #[serde(default)]
    #[schema(value_type = Option<schema::Protection>)]
    pub protection: Option<String>,
    /// The cipher.
    #[serde(default)]
    #[schema(value_type = schema::Cipher)]
    pub cipher: CipherChoice,
    /// How its packets are padded.
    #[serde(default, with = "padding_by_name")]
    #[schema(value_type = schema::Padding)]
    pub padding: Padding,
    /// Its public key, when it has made its key pair itself.
    #[serde(default)]
    #[schema(value_type = Option<schema::PublicKey>)]
    pub public_key: Option<PublicKey>,
    /// What it may reach; Tor's usual ports and ping when not given.
    #[serde(default)]
    #[schema(value_type = Option<Vec<schema::Rule>>, max_items = 256)]
    pub allow: Option<Vec<Rule>>,
}

/// New keys for a Workstation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateWorkstation {
    /// The public key of a key pair it has made itself.
    #[serde(default)]
    #[schema(value_type = Option<schema::PublicKey>)]
    pub public_key: Option<PublicKey>,
    /// For how many seconds the keys it has stay good though it does not use the new ones: a week
    /// when not given; with 0 they end at once.
    #[serde(default)]
    #[schema(maximum = 31_622_400)]
    pub keep_old_seconds: Option<u64>,
    /// The port that its new enrolment leads to, without binding it to that; to be given where ports
    /// differ in how they are reached, unless it is served on one only.
    #[serde(default)]
    pub port: Option<String>,
}

/// A Workstation that was given new keys.
#[derive(
    Clone,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
    zeroize::Zeroize,
    zeroize::ZeroizeOnDrop,
)]
pub struct Rotated {
    /// Its name.
    pub name: String,
    /// The new key id.
    pub key_id: String,
    /// In how many seconds the keys before end, if the new ones are not used sooner.
    pub old_ends_in_seconds: u64,
    /// The text of its new enrolment file, secret.
    pub enrolment: String,
}

impl std::fmt::Debug for Rotated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rotated({}, {})", self.name, self.key_id)
    }
}

/// What a Workstation's sessions are protected with. What is not given stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetWorkstation {
    /// What the AEAD does with its packets: `encrypt` or `authenticate`.
    #[serde(default)]
    #[schema(value_type = Option<schema::Protection>)]
    pub protection: Option<String>,
    /// The cipher.
    #[serde(default)]
    #[schema(value_type = Option<schema::Cipher>)]
    pub cipher: Option<CipherChoice>,
    /// How its packets are padded: `none`, `16` or `full`.
    #[serde(default)]
    #[schema(value_type = Option<schema::Padding>)]
    pub padding: Option<String>,
}

impl SetWorkstation {
    /// What a Workstation's are.
    pub fn of(workstation: &Workstation) -> Self {
        Self {
            protection: Some(workstation.protection.name().to_owned()),
            cipher: Some(workstation.cipher),
            padding: Some(workstation.padding.name().to_owned()),
        }
    }
}

/// A Workstation that was turned on or off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Switched {
    /// Its name.
    pub name: String,
    /// Whether it is served now.
    pub enabled: bool,
}

/// The Gateway's static key, rolled over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeyRotated {
    /// The public key that enrolments name from now on.
    pub public_key: String,
    /// The one before, which is still accepted.
    pub old_public_key: Option<String>,
    /// The Workstations that know that one.
    pub workstations: Vec<String>,
}

/// The Gateway's old static key is to be given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetireKey {
    /// Though that locks Workstations out.
    #[serde(default)]
    pub force: bool,
}

/// The Gateway has no old static key any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeyRetired {
    /// Workstations that cannot connect any more; their sessions were ended.
    pub locked_out: Vec<String>,
}

/// Changes to a Workstation's rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Rules to add and to take away, in this order.
    #[schema(value_type = Vec<schema::Change>)]
    pub changes: Vec<Change>,
}

/// A Workstation's rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Allowed {
    /// Its name.
    pub name: String,
    /// What it may reach.
    #[schema(value_type = Vec<schema::Rule>)]
    pub allow: Vec<Rule>,
}

/// A Workstation that was added.
#[derive(
    Clone,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
    zeroize::Zeroize,
    zeroize::ZeroizeOnDrop,
)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// Its key id.
    pub key_id: String,
    /// Its inner addresses.
    #[zeroize(skip)]
    #[schema(value_type = Vec<schema::Address>)]
    pub addresses: Vec<IpAddr>,
    /// The text of its enrolment file, secret.
    pub enrolment: String,
}

impl std::fmt::Debug for Added {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Added({}, {})", self.name, self.key_id)
    }
}

/// A Workstation that was removed; its sessions are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Removed {
    /// Its name.
    pub name: String,
}

/// What a reload changed, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Reloaded {
    /// New Workstations.
    pub added: Vec<String>,
    /// Workstations described differently now; their sessions were ended.
    pub changed: Vec<String>,
    /// Workstations that may reach something else now; their sessions go on.
    #[serde(default)]
    pub ruled: Vec<String>,
    /// Workstations that are gone or broken; their sessions were ended.
    pub removed: Vec<String>,
    /// Workstations whose file cannot be used.
    pub broken: Vec<String>,
    /// Settings of the configuration that are different now.
    #[serde(default)]
    pub settings: Vec<String>,
}

/// It is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Done {}

/// An error, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// What was tried and what happened.
    pub error: String,
    /// What to do.
    pub remedy: String,
}

impl From<&Problem> for ErrorBody {
    fn from(problem: &Problem) -> Self {
        Self {
            error: problem.to_string(),
            remedy: problem.remedy.clone(),
        }
    }
}
