//! The enrolment file, as it is and with its checksum put right so that its fields are reached. No
//! text panics, none is quoted in a refusal beyond its place, and what is read survives being
//! written.
#![no_main]

use control::enrolment::Enrolment;
use libfuzzer_sys::fuzz_target;
use std::fmt::Write as _;
use std::path::Path;
use toml::{Table, Value};

/// The text with the checksum that its fields should have.
fn with_checksum(text: &str) -> Option<String> {
    let mut table: Table = toml::from_str(text).ok()?;
    let mut fields = String::new();
    for name in [
        "name",
        "key_id",
        "gateway_public_key",
        "workstation_private_key",
        "psk",
        "encapsulation",
        "ethertype",
        "interface",
    ] {
        let value = match table.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Integer(number)) => number.to_string(),
            _ => continue,
        };
        let _ = writeln!(fields, "{name} {} {value}", value.len());
    }
    let hash = blake3::derive_key("portcullis 1 enrolment", fields.as_bytes());
    table.insert("checksum".into(), Value::String(hex::encode(&hash[..16])));
    toml::to_string(&table).ok()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((how, text)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let path = Path::new("/mnt/desk.enrolment");
    let text = match how & 1 {
        0 => text.to_owned(),
        _ => with_checksum(text).unwrap_or_else(|| text.to_owned()),
    };
    match Enrolment::parse(path, &text) {
        Ok(enrolment) => {
            let written = enrolment.to_text();
            let again = Enrolment::parse(path, &written);
            assert!(
                again.as_ref().is_ok_and(|again| *again == enrolment),
                "{again:?}"
            );
        }
        Err(problem) => {
            assert!(problem.tried.contains("/mnt/desk.enrolment"), "{problem:?}");
            assert!(!problem.remedy.is_empty());
        }
    }
});
