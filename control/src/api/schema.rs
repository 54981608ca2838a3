//! How values that are written as text look, for the API's document. Nothing is made of these types:
//! what they describe is read and written by the types of the same name elsewhere.

use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, OneOfBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Text of a pattern.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident: $pattern:expr, $said:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some($pattern))
                    .description(Some($said))
                    .into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

/// One of some names.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident: [$($value:literal),*];)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some([$($value),*]))
                    .into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

texts! {
    /// A Workstation's name.
    Name: "^[a-z0-9][a-z0-9_.-]{0,62}$", "a Workstation's name";
    /// A rule.
    Rule: "^(any|icmp|(tcp|udp)(/[0-9]{1,5}(-[0-9]{1,5})?)?)(@[a-z0-9][a-z0-9_.-]{0,62})?$",
        "any, icmp, tcp, udp, tcp/PORT, udp/PORT or tcp/FIRST-LAST; @transparent or @NAME may follow";
    /// A rule to add or to take away.
    Change: "^[+-]?(any|icmp|(tcp|udp)(/[0-9]{1,5}(-[0-9]{1,5})?)?)(@[a-z0-9][a-z0-9_.-]{0,62})?$",
        "a rule, with - in front to take it away";
    /// An X25519 public key.
    PublicKey: "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$", "an X25519 public key, in base64";
}

names! {
    /// What a port lets in.
    Admission: ["tunnel", "pinned", "open"];
    /// What the AEAD does with packets.
    Protection: ["encrypt", "authenticate"];
    /// A cipher.
    Cipher: ["auto", "aes-256-gcm", "aes-128-gcm", "aes-256-gcm-siv"];
    /// How packets are padded.
    Padding: ["none", "16", "full"];
    /// Which of the Gateway's keys a Workstation knows.
    Known: ["current", "old", "retired"];
}

/// An IPv4 or IPv6 address.
#[derive(Debug)]
pub struct Address;

impl PartialSchema for Address {
    fn schema() -> RefOr<Schema> {
        let of = |format| {
            ObjectBuilder::new()
                .schema_type(Type::String)
                .format(Some(SchemaFormat::KnownFormat(format)))
        };
        OneOfBuilder::new()
            .item(of(KnownFormat::Ipv4))
            .item(of(KnownFormat::Ipv6))
            .into()
    }
}

impl ToSchema for Address {}
