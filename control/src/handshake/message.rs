//! The layouts of everything the handshake sends: the fixed payloads of the frame types, the two
//! Noise payloads, and the control messages inside a session.
//!
//! A decoder takes nothing on trust: what must be zero is, codes are known, and an address that is
//! not given is all zero. Integers are little-endian.

use super::{Mac, Padding, Parameters};
use dataplane::keys::{Cipher, Protection};
use std::net::{Ipv4Addr, Ipv6Addr};
use subtle::ConstantTimeEq;
use wire::header::Header;
use wire::limits::*;

/// Bytes of Noise payload 1.
pub const OFFER_LEN: usize = 32;
/// Bytes of Noise payload 2.
pub const ANSWER_LEN: usize = 80;
/// Smallest inner MTU that either side may name: what IPv4 requires of a link is less, and no
/// control message would fit.
pub const SMALLEST_MTU: u16 = 576;

/// Builds a handshake frame: header, tag and payload.
pub fn frame(kind: u8, key_id: u32, nonce: u64, key: [u64; 2], payload: &[u8]) -> Vec<u8> {
    let mut header = Header::new(kind, payload.len() as u16, key_id, nonce);
    header.tag = header.handshake_tag(key, payload);
    [header.encode().as_slice(), payload].concat()
}

/// Splits a frame into header and payload. What follows the payload is Ethernet's padding and is
/// not looked at.
pub fn parse(frame: &[u8]) -> Option<(Header, &[u8])> {
    let header = Header::decode(frame).ok()?;
    let payload = frame.get(HEADER_LEN..header.frame_len())?;
    Some((header, payload))
}

/// Whether a handshake frame's tag is right.
pub fn tag_is_good(header: &Header, key: [u64; 2], payload: &[u8]) -> bool {
    header.handshake_tag(key, payload).ct_eq(&header.tag).into()
}

/// Reads fields one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// The rest must be `N` zeros.
    fn zeros<const N: usize>(self) -> Option<()> {
        (self.0.len() == N && self.0.iter().all(|byte| *byte == 0)).then_some(())
    }
}

/// The payload of a Challenge, and the start of an Initiation's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// See [`super::cookie`].
    pub cookie: [u8; 16],
    /// The Gateway's boot id.
    pub boot_id: [u8; 8],
    /// The Gateway's MAC address on this port.
    pub mac: Mac,
}

impl Challenge {
    /// The wire form.
    pub fn encode(&self) -> [u8; CHALLENGE_LEN] {
        let mut out = [0; CHALLENGE_LEN];
        out[..16].copy_from_slice(&self.cookie);
        out[16..24].copy_from_slice(&self.boot_id);
        out[24..30].copy_from_slice(&self.mac);
        out
    }

    /// Reads the wire form.
    pub fn decode(bytes: &[u8; CHALLENGE_LEN]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let challenge = Self {
            cookie: fields.take()?,
            boot_id: fields.take()?,
            mac: fields.take()?,
        };
        fields.zeros::<2>()?;
        Some(challenge)
    }
}

/// The payload of a Reset.
pub fn encode_reset(boot_id: &[u8; 8]) -> [u8; RESET_LEN] {
    let mut out = [0; RESET_LEN];
    out[..8].copy_from_slice(boot_id);
    out
}

/// Reads the payload of a Reset: the boot id.
pub fn decode_reset(payload: &[u8]) -> Option<[u8; 8]> {
    let mut fields = Fields(payload);
    let boot_id = fields.take()?;
    fields.zeros::<24>()?;
    Some(boot_id)
}

/// Noise payload 1: what the Workstation offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The Workstation's receiving index.
    pub index: u32,
    /// The largest inner packet it can carry.
    pub mtu: u16,
    /// [`Cipher::offer`] bits.
    pub ciphers: u8,
    /// [`Protection::offer`] bits.
    pub protections: u8,
    /// Its MAC address.
    pub mac: Mac,
    /// Whether it is a virtual machine whose rollback it cannot see.
    pub virtualised: bool,
}

impl Offer {
    /// The wire form.
    pub fn encode(&self) -> [u8; OFFER_LEN] {
        let mut out = [0; OFFER_LEN];
        out[..4].copy_from_slice(&self.index.to_le_bytes());
        out[4..6].copy_from_slice(&self.mtu.to_le_bytes());
        out[6] = self.ciphers;
        out[7] = self.protections;
        out[8..14].copy_from_slice(&self.mac);
        out[14] = u8::from(self.virtualised);
        out
    }

    /// Reads the wire form. Offers this version does not know are kept; they are never chosen.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let offer = Self {
            index: fields.u32()?,
            mtu: fields.u16()?,
            ciphers: fields.u8()?,
            protections: fields.u8()?,
            mac: fields.take()?,
            virtualised: match fields.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            },
        };
        fields.zeros::<17>()?;
        (offer.index != 0 && offer.mtu >= SMALLEST_MTU).then_some(offer)
    }
}

/// Noise payload 2: what the Gateway has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The Gateway's receiving index.
    pub index: u32,
    /// Its boot id.
    pub boot_id: [u8; 8],
    /// Its MAC address on this port.
    pub mac: Mac,
    /// The cipher.
    pub cipher: Cipher,
    /// The protection.
    pub protection: Protection,
    /// How both sides pad.
    pub padding: Padding,
    /// MTU and addresses.
    pub parameters: Parameters,
}

impl Answer {
    /// The wire form.
    pub fn encode(&self) -> [u8; ANSWER_LEN] {
        let mut out = [0; ANSWER_LEN];
        out[..4].copy_from_slice(&self.index.to_le_bytes());
        out[4..12].copy_from_slice(&self.boot_id);
        out[12..18].copy_from_slice(&self.mac);
        out[18..20].copy_from_slice(&self.parameters.mtu.to_le_bytes());
        out[20] = self.cipher as u8;
        out[21] = self.protection as u8;
        out[22] = self.padding as u8;
        if let Some((address, prefix)) = self.parameters.v4 {
            out[23] = prefix;
            out[24..28].copy_from_slice(&address.octets());
        }
        if let Some((address, prefix)) = self.parameters.v6 {
            out[28] = prefix;
            out[29..45].copy_from_slice(&address.octets());
        }
        if let Some(address) = self.parameters.gateway_v4 {
            out[45..49].copy_from_slice(&address.octets());
        }
        if let Some(address) = self.parameters.gateway_v6 {
            out[49..65].copy_from_slice(&address.octets());
        }
        out
    }

    /// Reads the wire form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let index = fields.u32()?;
        let boot_id = fields.take()?;
        let mac = fields.take()?;
        let mtu = fields.u16()?;
        let cipher = Cipher::from_code(fields.u8()?)?;
        let protection = Protection::from_code(fields.u8()?)?;
        let padding = Padding::from_code(fields.u8()?)?;
        let prefix = fields.u8()?;
        let v4 = Ipv4Addr::from(fields.take::<4>()?);
        let v4 = with_prefix(v4, !v4.is_unspecified(), prefix, 32)?;
        let prefix = fields.u8()?;
        let v6 = Ipv6Addr::from(fields.take::<16>()?);
        let v6 = with_prefix(v6, !v6.is_unspecified(), prefix, 128)?;
        let gateway_v4 = Ipv4Addr::from(fields.take::<4>()?);
        let gateway_v6 = Ipv6Addr::from(fields.take::<16>()?);
        fields.zeros::<15>()?;
        let answer = Self {
            index,
            boot_id,
            mac,
            cipher,
            protection,
            padding,
            parameters: Parameters {
                mtu,
                v4,
                v6,
                gateway_v4: (!gateway_v4.is_unspecified()).then_some(gateway_v4),
                gateway_v6: (!gateway_v6.is_unspecified()).then_some(gateway_v6),
            },
        };
        (index != 0 && mtu >= SMALLEST_MTU).then_some(answer)
    }
}

/// An address with its prefix length; `Some(None)` where neither is given.
fn with_prefix<A>(address: A, given: bool, prefix: u8, most: u8) -> Option<Option<(A, u8)>> {
    match (given, prefix) {
        (false, 0) => Some(None),
        (true, prefix) if (1..=most).contains(&prefix) => Some(Some((address, prefix))),
        _ => None,
    }
}

/// First byte of a RekeyInit.
pub const REKEY_INIT: u8 = 1;
/// First byte of a RekeyResp.
pub const REKEY_RESP: u8 = 2;
/// First byte of a PING.
pub const PING: u8 = 3;
/// First byte of a PONG.
pub const PONG: u8 = 4;

/// A control message inside a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inner {
    /// Starts a rekey: the attempt's nonce and Noise message 1.
    RekeyInit(u64, [u8; NOISE_MESSAGE_LEN]),
    /// Answers one: its nonce and Noise message 2.
    RekeyResp(u64, [u8; NOISE_MESSAGE_LEN]),
    /// Asks for the same 16 bytes back.
    Ping([u8; 16]),
    /// Gives them back.
    Pong([u8; 16]),
}

impl Inner {
    /// The wire form.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, nonce, body): (u8, Option<u64>, &[u8]) = match self {
            Inner::RekeyInit(nonce, message) => (REKEY_INIT, Some(*nonce), message),
            Inner::RekeyResp(nonce, message) => (REKEY_RESP, Some(*nonce), message),
            Inner::Ping(value) => (PING, None, value),
            Inner::Pong(value) => (PONG, None, value),
        };
        let mut out = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        out.extend(nonce.iter().flat_map(|nonce| nonce.to_le_bytes()));
        out.extend_from_slice(body);
        out
    }

    /// Reads the wire form. What follows it is padding.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let mut fields = Fields(message);
        let [kind, zeros @ ..] = fields.take::<8>()?;
        if zeros != [0; 7] {
            return None;
        }
        match kind {
            REKEY_INIT => Some(Inner::RekeyInit(
                u64::from_le_bytes(fields.take()?),
                fields.take()?,
            )),
            REKEY_RESP => Some(Inner::RekeyResp(
                u64::from_le_bytes(fields.take()?),
                fields.take()?,
            )),
            PING => Some(Inner::Ping(fields.take()?)),
            PONG => Some(Inner::Pong(fields.take()?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer() -> Answer {
        Answer {
            index: 0x0102_0304,
            boot_id: [9; 8],
            mac: [2, 0, 0, 0, 0, 1],
            cipher: Cipher::Aes256Gcm,
            protection: Protection::Encrypt,
            padding: Padding::Sixteen,
            parameters: Parameters {
                mtu: 1460,
                v4: Some((Ipv4Addr::new(10, 0, 0, 2), 24)),
                v6: Some((Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2), 64)),
                gateway_v4: Some(Ipv4Addr::new(10, 0, 0, 1)),
                gateway_v6: None,
            },
        }
    }

    #[test]
    fn an_answer_decodes_to_itself_with_or_without_addresses() {
        let mut one = answer();
        assert_eq!(Answer::decode(&one.encode()), Some(one.clone()));
        one.parameters = Parameters {
            v4: None,
            v6: None,
            gateway_v4: None,
            ..one.parameters
        };
        assert_eq!(Answer::decode(&one.encode()), Some(one));
    }

    #[test]
    fn an_answer_with_a_field_out_of_range_is_refused() {
        let good = answer().encode();
        for (at, value) in [
            (20, 0),
            (20, 4),
            (21, 0),
            (21, 3),
            (22, 3),
            (23, 0),
            (23, 33),
            (28, 0),
            (28, 129),
            (65, 1),
            (79, 1),
        ] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Answer::decode(&bad), None, "byte {at} = {value}");
        }
        let mut no_index = good;
        no_index[..4].fill(0);
        assert_eq!(Answer::decode(&no_index), None);
        let mut no_address = good;
        no_address[24..28].fill(0);
        assert_eq!(Answer::decode(&no_address), None);
        assert_eq!(Answer::decode(&good[..79]), None);
        assert_eq!(Answer::decode(&[good.as_slice(), &[0]].concat()), None);
    }

    #[test]
    fn every_zero_field_must_be_zero() {
        let challenge = Challenge {
            cookie: [1; 16],
            boot_id: [2; 8],
            mac: [3; 6],
        }
        .encode();
        assert!(Challenge::decode(&challenge).is_some());
        for at in 30..32 {
            let mut bad = challenge;
            bad[at] = 1;
            assert_eq!(Challenge::decode(&bad), None);
        }
        let reset = encode_reset(&[5; 8]);
        assert_eq!(decode_reset(&reset), Some([5; 8]));
        for at in 8..32 {
            let mut bad = reset;
            bad[at] = 0x80;
            assert_eq!(decode_reset(&bad), None);
        }
        let offer = Offer {
            index: 7,
            mtu: 1460,
            ciphers: 7,
            protections: 3,
            mac: [2; 6],
            virtualised: true,
        };
        let bytes = offer.encode();
        assert_eq!(Offer::decode(&bytes), Some(offer));
        for at in 15..32 {
            let mut bad = bytes;
            bad[at] = 1;
            assert_eq!(Offer::decode(&bad), None);
        }
        let mut bad = bytes;
        bad[14] = 2;
        assert_eq!(Offer::decode(&bad), None);
        for at in 1..8 {
            let mut bad = Inner::Ping([1; 16]).encode();
            bad[at] = 1;
            assert_eq!(Inner::decode(&bad), None);
        }
    }

    proptest! {
        #[test]
        fn no_input_panics_and_what_decodes_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some((header, payload)) = parse(&bytes) {
                prop_assert_eq!(payload.len(), header.frame_len() - HEADER_LEN);
            }
            if let Some(inner) = Inner::decode(&bytes) {
                let again = inner.encode();
                prop_assert_eq!(&bytes[..again.len()], again.as_slice());
            }
            if let Some(offer) = Offer::decode(&bytes) {
                prop_assert_eq!(offer.encode().to_vec(), bytes.clone());
            }
            if let Some(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(answer.encode().to_vec(), bytes.clone());
            }
        }

        #[test]
        fn every_inner_message_decodes_to_itself_under_any_padding(nonce: u64, value: [u8; 16], fill: u8, padding in 0usize..40) {
            for inner in [
                Inner::RekeyInit(nonce, [fill; 128]), Inner::RekeyResp(nonce, [fill; 128]), Inner::Ping(value), Inner::Pong(value),
            ] {
                let mut bytes = inner.encode();
                let whole = bytes.len();
                prop_assert_eq!(Inner::decode(&bytes[..whole - 1]), None);
                bytes.resize(whole + padding, 0);
                prop_assert_eq!(Inner::decode(&bytes), Some(inner));
            }
        }
    }
}
