//! The same for a `pinned` port. Its pins are in the configuration; what is left of a pin's rate only
//! the kernel knows, so that is not looked at.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::pinned::{PinKey, PinTables, decide};
use wire::{Frame, PinnedVerdict};

use super::{Captured, Explanation, HEAD, Outcome, ethertype_name, mac};

/// Pins that remember what they were asked.
struct Recorder<'a> {
    pins: &'a HashMap<PinKey, u32>,
    asked: RefCell<Vec<(PinKey, Option<u32>)>>,
    rated: RefCell<bool>,
}

impl PinTables for Recorder<'_> {
    fn pin(&self, key: &PinKey) -> Option<u32> {
        let found = self.pins.get(key).copied();
        self.asked.borrow_mut().push((*key, found));
        found
    }

    fn may_send(&self, _pin: u32) -> bool {
        self.rated.replace(true);
        true
    }

    fn may_ask(&self, _pin: u32) -> bool {
        self.rated.replace(true);
        true
    }
}

/// What a `pinned` port with the address `own` and these pins does with a frame, as long as the pin
/// keeps to its rate.
pub fn explain_pinned(
    own: [u8; 6],
    frame: &Captured<'_>,
    pins: &HashMap<PinKey, u32>,
) -> Explanation<PinnedVerdict> {
    let recorder = Recorder {
        pins,
        asked: RefCell::default(),
        rated: RefCell::new(false),
    };
    let (verdict, of) = decide(own, frame, &recorder);
    let mut told = Explanation::new();
    if frame.missed.get() {
        let text = format!(
            "the capture holds {} of the frame's {} bytes, too few to tell: capture at least {HEAD}",
            frame.head.len(),
            frame.length
        );
        told.step("length", Outcome::Unknown, text);
        return told;
    }
    (told.verdict, told.of) = (Some(verdict), of);
    if let Some(ethertype) = frame.be16(12) {
        let text = format!("{ethertype:#06x}{}", ethertype_name(ethertype));
        told.step("EtherType", Outcome::Passed, text);
    }
    for (key, found) in recorder.asked.take() {
        let (check, text) = looked_up(&key, found);
        told.step(check, Outcome::Passed, text);
    }
    if recorder.rated.take() {
        let text = "only the kernel knows what is left of the pin's rate; taken to be enough";
        told.step("rate", Outcome::Passed, text);
    }
    told.step(verdict.name(), Outcome::Decided, reason(verdict));
    told
}

/// A lookup in words.
fn looked_up(key: &PinKey, found: Option<u32>) -> (&'static str, String) {
    let address = match key.kind {
        PinKey::V4 | PinKey::OWN_V4 => {
            IpAddr::from(Ipv4Addr::from_bits(key.address[0] as u32)).to_string()
        }
        _ => {
            let [low, high] = key.address;
            let number = u128::from(high) << 64 | u128::from(low);
            IpAddr::from(Ipv6Addr::from(number.to_le_bytes())).to_string()
        }
    };
    let whom = mac(key.mac);
    match (key.kind, found) {
        (PinKey::MAC, Some(pin)) => ("MAC address", format!("{whom} is pin {}", pin + 1)),
        (PinKey::MAC, None) => ("MAC address", format!("{whom} is no pin's")),
        (PinKey::OWN_V4 | PinKey::OWN_V6, Some(_)) => (
            "own address",
            format!("{address} is an address of this port"),
        ),
        (PinKey::OWN_V4 | PinKey::OWN_V6, None) => (
            "own address",
            format!("{address} is no address of this port"),
        ),
        (_, Some(pin)) => (
            "pin",
            format!("{address} is pinned to {whom} (pin {})", pin + 1),
        ),
        (_, None) => ("pin", format!("{address} is not pinned to {whom}")),
    }
}

/// Why, in a sentence.
fn reason(verdict: PinnedVerdict) -> &'static str {
    match verdict {
        PinnedVerdict::Short => "dropped: it is shorter than its headers",
        PinnedVerdict::Foreign => "dropped: neither IPv4, IPv6 nor ARP; VLAN tags are never let in",
        PinnedVerdict::UnknownMac => "dropped: it comes from a MAC address that no pin has",
        PinnedVerdict::SpoofedAddress => {
            "dropped: that pin may not use this IP address; add it to the pin's `addresses` if it should"
        }
        PinnedVerdict::Claim => {
            "dropped: ARP or neighbour discovery other than a pin's own question for an address of this \
             port. The kernel learns nothing from the cable"
        }
        PinnedVerdict::Malformed => {
            "dropped: its IP header is none, or says more bytes than there are"
        }
        PinnedVerdict::Options => "dropped: IPv4 options or IPv6 extension headers are not let in",
        PinnedVerdict::Fragment => "dropped: fragments are not let in; send smaller packets",
        PinnedVerdict::Protocol => "dropped: only TCP, UDP and ping are let in, and no DHCP",
        PinnedVerdict::Misdirected => "dropped: it is not for this port's MAC address",
        PinnedVerdict::OtherDestination => {
            "dropped: it is not for an address of this port; nothing is forwarded from here"
        }
        PinnedVerdict::RateLimited => "dropped: the pin sends more than its `rate`",
        PinnedVerdict::Answered => "answered at once by the wall; the kernel does not see it",
        PinnedVerdict::Passed => "goes to the kernel, and to whatever listens there",
    }
}
