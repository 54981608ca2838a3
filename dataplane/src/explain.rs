//! What admission does with a frame, and why, step by step: for a person who asks.
//!
//! The verdict is [`wire::decide`]'s, or [`wire::pinned::decide`]'s: the code that the XDP program runs,
//! here over tables that are only read. What the steps say comes from what that code looked up. No step
//! tells a key, nor what a tag should have been.

mod outer;
mod pinned;
mod recorder;

use std::cell::Cell;

use wire::limits::{
    BROADCAST, CHALLENGE_LEN, COUNTER_LIMIT, ETH_LEN, HEADER_LEN, HELLO_LEN, INITIATION_LEN,
    MAX_PAYLOAD, REPLAY_WINDOW, RESET_LEN, RESPONSE_LEN, VERSION,
};
use wire::{
    Admission, Encapsulation, Frame, Header, Role, Udp, Verdict, decide, header::slot_of, kind,
    read,
};

use crate::path;
use crate::wall::Moment;
pub use pinned::explain_pinned;
use recorder::{Found, Recorder};

/// The bytes of a frame that admission may look at; more of it need not be had.
pub const HEAD: usize = 256;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The frame got past it.
    Passed,
    /// It decides what becomes of the frame.
    Decided,
    /// It cannot be told.
    Unknown,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is checked, in a word.
    pub check: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was found.
    pub text: String,
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<V> {
    /// The verdict; none where it depends on what is not known.
    pub verdict: Option<V>,
    /// The number of the Workstation, or of the pin, that the frame was found to be of.
    pub of: Option<u32>,
    /// The checks that were made, in order. The last one decides.
    pub steps: Vec<Step>,
}

impl<V> Explanation<V> {
    fn new() -> Self {
        Self {
            verdict: None,
            of: None,
            steps: Vec::new(),
        }
    }

    fn step(&mut self, check: &'static str, outcome: Outcome, text: impl Into<String>) {
        self.steps.push(Step {
            check,
            outcome,
            text: text.into(),
        });
    }
}

/// A frame as it was captured: its first bytes, and how long it was.
#[derive(Debug)]
pub struct Captured<'a> {
    head: &'a [u8],
    length: usize,
    missed: Cell<bool>,
}

impl<'a> Captured<'a> {
    /// A frame of `length` bytes that begins with `head`.
    pub fn new(head: &'a [u8], length: usize) -> Self {
        Self {
            head,
            length: length.max(head.len()),
            missed: Cell::new(false),
        }
    }

    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        match self.head.get(at..at + N) {
            Some(bytes) => bytes.try_into().ok(),
            None => {
                // In the frame, and not in the capture.
                if at + N <= self.length {
                    self.missed.set(true);
                }
                None
            }
        }
    }
}

impl Frame for Captured<'_> {
    fn holds(&self, bytes: usize) -> bool {
        self.length >= bytes
    }

    fn mac(&self, at: usize) -> Option<[u8; 6]> {
        self.read(at)
    }

    fn be16(&self, at: usize) -> Option<u16> {
        self.read(at).map(u16::from_be_bytes)
    }

    fn words(&self, at: usize) -> Option<[u64; 3]> {
        let words = [self.word(at)?, self.word(at + 8)?, self.word(at + 16)?];
        Some(words)
    }

    fn word(&self, at: usize) -> Option<u64> {
        self.read(at).map(u64::from_le_bytes)
    }
}

/// What a `tunnel` port does with a frame. Without tables it is told as far as the frame itself
/// decides. Nothing changes: the frame can still be admitted afterwards.
pub fn explain(
    port: &Admission,
    frame: &Captured<'_>,
    tables: Option<Moment<'_>>,
) -> Explanation<Verdict> {
    let recorder = Recorder::new(tables);
    let (verdict, of) = decide(port, frame, &recorder);
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
    let found = recorder.found();
    if !found.unknown {
        (told.verdict, told.of) = (Some(verdict), of);
    }
    let mut story = Story {
        told,
        verdict,
        port,
        frame,
        found,
        front: ETH_LEN,
    };
    story.tell();
    story.tell_refusal();
    story.told
}

/// Tells the checks in their order, until the one that decided.
struct Story<'a> {
    told: Explanation<Verdict>,
    verdict: Verdict,
    port: &'a Admission,
    frame: &'a Captured<'a>,
    found: Found,
    /// Bytes before the Portcullis header.
    front: usize,
}

/// Whether there is more to tell.
type More = Option<()>;

impl Story<'_> {
    /// A check that decided when the verdict is `fails` and `here`, and else was passed.
    fn check(
        &mut self,
        check: &'static str,
        decided: bool,
        fails: impl Into<String>,
        passes: impl Into<String>,
    ) -> More {
        match decided {
            true => {
                self.told.step(check, Outcome::Decided, fails);
                None
            }
            false => {
                self.told.step(check, Outcome::Passed, passes);
                Some(())
            }
        }
    }

    fn is(&self, verdict: Verdict) -> bool {
        self.verdict == verdict
    }

    fn tell(&mut self) -> More {
        let header = self.outside()?;
        match header.kind {
            kind::DATA => self.data(&header),
            _ => self.handshake(&header),
        }
    }

    /// Where a port is not to look dead, the sender of a datagram without a valid tag is told so.
    fn tell_refusal(&mut self) {
        let Encapsulation::Udp(udp) = self.port.encapsulation else {
            return;
        };
        let refused = self.told.verdict.is_some_and(Verdict::is_refusal);
        if let Some(last) = self.told.steps.last_mut()
            && refused
            && !udp.stealth
            && udp.is_answerable(self.frame)
        {
            last.text.push_str(
                "; its sender is told that nobody listens (stealth = false; at most 100 a second are)",
            );
        }
    }

    /// What the frame alone decides.
    fn outside(&mut self) -> Option<Header> {
        match self.port.encapsulation {
            Encapsulation::Ether(ethertype) => self.ether(ethertype)?,
            Encapsulation::Udp(udp) => self.udp(&udp)?,
        }
        let header = self.header()?;
        if let Encapsulation::Ether(_) = self.port.encapsulation {
            self.destination(&header)?;
        }
        Some(header)
    }

    /// Everything before the tunnel's header on `udp`.
    fn udp(&mut self, udp: &Udp) -> More {
        let found = udp.datagram(self.port.mac, self.frame, &Recorder::new(None));
        let text = outer::fault(self.verdict, udp, self.port.mac, self.frame);
        let path = path::Encapsulation::Udp.path_of(self.frame.head);
        let from = path.map(|path| path.to_string()).unwrap_or_default();
        let passes = format!("a datagram from {from} to the tunnel's port {}", udp.port);
        self.check("encapsulation", found.is_err(), text, passes)?;
        self.front = found.ok()?.front;
        Some(())
    }

    /// Everything before the tunnel's header on `ether`.
    fn ether(&mut self, wanted: u16) -> More {
        let length = self.frame.length;
        let ethertype = self.frame.be16(12);
        if ethertype.is_none() {
            let text = format!("{length} bytes are no Ethernet header, which has {ETH_LEN}");
            self.check("length", true, text, "")?;
        }
        let ethertype = ethertype?;
        self.check(
            "EtherType",
            self.is(Verdict::Foreign),
            format!(
                "{ethertype:#06x}{} is not the tunnel's, which is {wanted:#06x}: nothing else is let in \
                 on this port, no ARP, no IP and no VLAN tag",
                ethertype_name(ethertype)
            ),
            format!("{ethertype:#06x} is the tunnel's"),
        )?;
        self.check(
            "length",
            self.is(Verdict::Short),
            format!(
                "{length} bytes have no room for the tunnel's header, which takes {}",
                ETH_LEN + HEADER_LEN
            ),
            format!("{length} bytes have room for the tunnel's header"),
        )
    }

    /// The tunnel's header.
    fn header(&mut self) -> Option<Header> {
        let length = self.frame.length;
        let words = self.frame.words(self.front)?;
        let header = match (Header::from_words(words), fault(words)) {
            (Ok(header), None) => header,
            (_, fault) => {
                let fault = fault.unwrap_or_else(|| "it is none".into());
                self.check(
                    "header",
                    true,
                    format!("no header of the tunnel: {fault}"),
                    "",
                )?;
                return None;
            }
        };
        self.check("header", false, "", describe(&header))?;
        let malformed = self.is(Verdict::Malformed);
        let end = self.front + header.frame_len();
        let fits = self.frame.holds(end);
        let udp = matches!(self.port.encapsulation, Encapsulation::Udp(_));
        let side = match self.port.role {
            Role::Gateway => "a Gateway, which takes Hello, Initiation and Data",
            Role::Workstation => "a Workstation, which takes Challenge, Response, Data and Reset",
        };
        self.check(
            "type",
            malformed
                && (!is_for(self.port.role, header.kind) || udp && header.kind == kind::RESET),
            match udp && header.kind == kind::RESET {
                true => "there is no Reset over udp".into(),
                false => format!("{} is not for {side}", kind_name(header.kind)),
            },
            format!("{} is for this side", kind_name(header.kind)),
        )?;
        self.check(
            "end",
            malformed,
            match udp {
                true => format!(
                    "the header says {} bytes, and the datagram has another number",
                    header.frame_len()
                ),
                false => format!(
                    "the header says {end} bytes, and {length} are there: the frame was cut short"
                ),
            },
            match fits {
                true => "all bytes that the header says are there",
                false => "",
            },
        )?;
        Some(header)
    }

    fn destination(&mut self, header: &Header) -> More {
        let destination = self.frame.mac(0)?;
        let inside = self.found.asked;
        self.check(
            "destination",
            self.is(Verdict::Misdirected) && !inside,
            format!(
                "{} is not this port's MAC address, which is {}",
                mac(destination),
                mac(self.port.mac)
            ),
            match destination == BROADCAST {
                true => format!("{} may come to everybody", kind_name(header.kind)),
                false => format!("{} is this port's MAC address", mac(destination)),
            },
        )
    }

    /// Where there are no tables to look into, this is the end.
    fn known(&mut self, check: &'static str) -> More {
        if self.found.unknown {
            let text = "what comes next takes the tables of the running daemon: which session or key \
                        this is of, whether the tag is right, and what was admitted before";
            self.told.step(check, Outcome::Unknown, text);
            return None;
        }
        Some(())
    }

    fn data(&mut self, header: &Header) -> More {
        self.known("session")?;
        let slot = slot_of(header.index);
        let held = self.found.session.filter(|session| session.index != 0);
        self.check(
            "session",
            self.is(Verdict::UnknownSession),
            match held {
                None => format!("there is no session in slot {slot}: it ended, or never was"),
                Some(other) => format!(
                    "slot {slot} holds another session, of index {:#010x}: this one has ended",
                    other.index
                ),
            },
            format!("slot {slot} holds this session"),
        )?;
        let session = held?;
        if let Encapsulation::Ether(_) = self.port.encapsulation {
            let source = self.frame.mac(6)?;
            self.check(
                "source",
                self.is(Verdict::Misdirected),
                format!(
                    "{} is not the MAC address that the session is pinned to, which is {}",
                    mac(source),
                    mac(session.peer_mac)
                ),
                format!("the session is pinned to {}", mac(source)),
            )?;
        }
        self.check(
            "tag",
            self.is(Verdict::BadTag),
            "wrong under this session's admission key: whoever made the frame does not have the key",
            "right under this session's admission key",
        )?;
        let (floor, counter) = (self.found.floor, header.counter);
        self.check(
            "replay",
            self.is(Verdict::Replay),
            match counter < floor {
                true => format!(
                    "counter {counter} is below {floor}, where the window of {REPLAY_WINDOW} begins: too old"
                ),
                false => format!("counter {counter}, or a later one in its place, was admitted before"),
            },
            format!("counter {counter} was not admitted before, and the window begins at {floor}"),
        )?;
        let credit = self.found.credit;
        self.check(
            "credit",
            self.is(Verdict::QueueFull),
            match credit {
                Some((admitted, consumed, limit)) => format!(
                    "{} frames of this Workstation wait for their worker, and {limit} may: it sends \
                     faster than it is served",
                    admitted.wrapping_sub(consumed)
                ),
                None => "this Workstation has no queue".into(),
            },
            match credit {
                Some((admitted, consumed, limit)) => format!(
                    "{} frames of this Workstation wait for their worker, of {limit} that may",
                    (admitted.wrapping_sub(consumed) as i64).max(0)
                ),
                None => String::new(),
            },
        )?;
        self.socket()
    }

    fn handshake(&mut self, header: &Header) -> More {
        self.known("key id")?;
        let key_id = header.index;
        self.check(
            "key id",
            self.is(Verdict::UnknownKey),
            format!(
                "no Workstation that may use this port has the key id {key_id:08x}: it is not enrolled \
                 here, is disabled, or has new keys"
            ),
            format!("a Workstation that may use this port has the key id {key_id:08x}"),
        )?;
        self.check(
            "tag",
            self.is(Verdict::BadTag),
            "wrong under this Workstation's PSK: whoever made the frame does not have it",
            "right under this Workstation's PSK",
        )?;
        let from = path::Encapsulation::from(self.port.encapsulation);
        let from = from.path_of(self.frame.head).map(|path| path.to_string());
        let answers = self.port.role == Role::Workstation && header.kind != kind::RESET;
        self.check(
            "nonce",
            self.is(Verdict::Replay),
            match answers && self.found.expected != header.counter {
                true => "it answers no attempt that is under way",
                false => "this nonce was admitted before",
            },
            "this nonce was not admitted before",
        )?;
        self.check(
            "rate",
            self.is(Verdict::RateLimited),
            format!(
                "too many {}s of this key id: from {}, or from all sources together",
                kind_name(header.kind),
                from.unwrap_or_default()
            ),
            "within what a source, and all sources together, may send",
        )?;
        self.socket()
    }

    fn socket(&mut self) -> More {
        self.check(
            "socket",
            self.is(Verdict::NoSocket),
            "no worker has a socket on the receive queue: the daemon is not running, or the port is \
             being raised",
            "a worker has a socket on the receive queue",
        )?;
        let text = "it goes to the worker, which decrypts it; what is inside is decided there";
        self.told.step("admitted", Outcome::Decided, text);
        None
    }
}

/// What is wrong with three words that are no header; as [`Header::from_words`] has it.
fn fault([first, counter, _]: [u64; 3]) -> Option<String> {
    let (version, kind, flags) = ((first >> 4) & 0xf, (first & 0xf) as u8, (first >> 8) & 0xff);
    let (length, index) = ((first >> 16) as u16, (first >> 32) as u32);
    if version != u64::from(VERSION) {
        return Some(format!("version {version}, not {VERSION}"));
    }
    if flags != 0 {
        return Some(format!("flags {flags:#04x}, which are to be zero"));
    }
    let fixed = match kind {
        kind::DATA if usize::from(length) > MAX_PAYLOAD => {
            return Some(format!("a length of {length}; at most {MAX_PAYLOAD}"));
        }
        kind::DATA if counter >= COUNTER_LIMIT => {
            return Some(format!("counter {counter}, which is 2^36 or more"));
        }
        kind::DATA if index == 0 => return Some("the session index is 0".into()),
        kind::DATA => return None,
        kind::HELLO => HELLO_LEN,
        kind::CHALLENGE => CHALLENGE_LEN,
        kind::INITIATION => INITIATION_LEN,
        kind::RESPONSE => RESPONSE_LEN,
        kind::RESET => RESET_LEN,
        _ => return Some(format!("type {kind}, which there is not")),
    };
    (usize::from(length) != fixed)
        .then(|| format!("{} of {length} bytes; it has {fixed}", kind_name(kind)))
}

/// A header in words.
pub fn describe(header: &Header) -> String {
    let Header {
        kind,
        length,
        index,
        counter,
        ..
    } = *header;
    let name = kind_name(kind);
    match kind {
        kind::DATA => format!(
            "{name}, {length} bytes, session index {index:#010x} (slot {}), counter {counter}",
            slot_of(index)
        ),
        _ => format!("{name}, {length} bytes, key id {index:08x}, nonce {counter:016x}"),
    }
}

/// The name of a frame's type.
pub fn kind_name(kind: u8) -> &'static str {
    match kind {
        kind::HELLO => "Hello",
        kind::CHALLENGE => "Challenge",
        kind::INITIATION => "Initiation",
        kind::RESPONSE => "Response",
        kind::DATA => "Data",
        kind::RESET => "Reset",
        _ => "unknown type",
    }
}

fn is_for(role: Role, kind: u8) -> bool {
    match role {
        Role::Gateway => matches!(kind, kind::HELLO | kind::INITIATION | kind::DATA),
        Role::Workstation => !matches!(kind, kind::HELLO | kind::INITIATION),
    }
}

fn ethertype_name(ethertype: u16) -> &'static str {
    match ethertype {
        read::IPV4 => " (IPv4)",
        read::ARP => " (ARP)",
        read::IPV6 => " (IPv6)",
        0x8100 | 0x88a8 => " (a VLAN tag)",
        0x88cc => " (LLDP)",
        0..0x0600 => " (a length, as in IEEE 802.3: spanning tree, for one)",
        _ => "",
    }
}

/// A MAC address as text.
fn mac(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests;
