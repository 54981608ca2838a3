//! Frames as a person has them: hex on the command line or from a pipe, or a capture file.

use super::{FrameHead, MOST_BYTES};
use crate::problem::{Kind, Problem};
use dataplane::explain::HEAD;
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The most of a file that is looked at.
const MOST_FRAMES: usize = 100_000;
/// The longest frame, and the longest text that is taken for one.
const LONGEST: usize = 64 << 10;

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    /// The frames.
    pub frames: Vec<FrameHead>,
    /// Whether they come from a capture file.
    pub capture: bool,
    /// Whether there are more that were not looked at.
    pub more: bool,
}

/// Reads what is named: a capture file, hex, or, for `-`, either from standard input.
///
/// # Errors
/// It is neither, or cannot be read.
pub fn read(what: &str) -> Result<Frames, Problem> {
    if what == "-" {
        return of_reader("standard input", io::stdin().lock());
    }
    if Path::new(what).is_file() {
        let tried = format!("reading {what}");
        let file = File::open(what).map_err(|error| Problem::io(tried, &error))?;
        return of_reader(what, io::BufReader::new(file));
    }
    of_text("the command line", what)
}

fn of_reader(name: &str, mut reader: impl Read) -> Result<Frames, Problem> {
    let failed = |error: &io::Error| Problem::io(format!("reading {name}"), error);
    let mut magic = Vec::new();
    let mut start = reader.by_ref().take(4);
    start
        .read_to_end(&mut magic)
        .map_err(|error| failed(&error))?;
    let whole = io::Cursor::new(magic.clone()).chain(reader);
    match magic[..] {
        [0x0a, 0x0d, 0x0d, 0x0a] => of_pcapng(name, whole),
        [0xd4, 0xc3, 0xb2, 0xa1]
        | [0xa1, 0xb2, 0xc3, 0xd4]
        | [0x4d, 0x3c, 0xb2, 0xa1]
        | [0xa1, 0xb2, 0x3c, 0x4d] => of_pcap(name, whole),
        _ => {
            let mut text = String::new();
            let mut bounded = whole.take(4 * LONGEST as u64);
            match bounded.read_to_string(&mut text) {
                Ok(_) => of_text(name, &text),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(neither(
                    name,
                    "it is neither text nor a capture in pcap or pcapng format",
                )),
                Err(error) => Err(failed(&error)),
            }
        }
    }
}

fn neither(name: &str, happened: &str) -> Problem {
    Problem::new(
        Kind::Invalid,
        format!("reading a frame from {name}"),
        happened,
        "give a frame's bytes in hex from its Ethernet header on (0200... or 02:00:...), or a file that \
         tcpdump, tshark or `portcullis watch --write` has made",
    )
}

/// Hex digits, two a byte, with spaces, colons or line ends between them.
fn of_text(name: &str, text: &str) -> Result<Frames, Problem> {
    let text = text.trim();
    let text = text.strip_prefix("0x").unwrap_or(text);
    let digits: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .collect();
    if digits.is_empty() {
        return Err(neither(name, "there is nothing"));
    }
    if digits.len() > 2 * LONGEST {
        return Err(neither(name, "it is longer than any frame"));
    }
    let bytes = match hex::decode(&digits) {
        Ok(bytes) => bytes,
        Err(hex::FromHexError::OddLength) if digits.chars().all(|c| c.is_ascii_hexdigit()) => {
            return Err(neither(name, "the last byte has only one digit"));
        }
        Err(_) if name == "the command line" => {
            let happened = format!("there is no file {text:?}, and it is no hex");
            return Err(neither(name, &happened));
        }
        Err(error) => return Err(neither(name, &error.to_string())),
    };
    Ok(Frames {
        frames: vec![head(&bytes, bytes.len())],
        capture: false,
        more: false,
    })
}

fn head(bytes: &[u8], length: usize) -> FrameHead {
    FrameHead {
        length: u32::try_from(length).unwrap_or(MOST_BYTES).min(MOST_BYTES),
        head: hex::encode(&bytes[..bytes.len().min(HEAD)]),
    }
}

fn damaged(name: &str, error: &pcap_file::PcapError) -> Problem {
    Problem::new(
        Kind::Invalid,
        format!("reading the capture {name}"),
        format!("it is damaged: {error}"),
        "capture it again, or see what `tshark -r` makes of it",
    )
}

fn ethernet(name: &str, link: DataLink) -> Result<(), Problem> {
    match link {
        DataLink::ETHERNET => Ok(()),
        other => Err(Problem::new(
            Kind::Invalid,
            format!("reading the capture {name}"),
            format!("its link type is {other:?}, and a port's is Ethernet"),
            "capture on the port itself (tcpdump -i IF -w FILE), not on `any`",
        )),
    }
}

fn of_pcap(name: &str, reader: impl Read) -> Result<Frames, Problem> {
    let mut reader = PcapReader::new(reader).map_err(|error| damaged(name, &error))?;
    ethernet(name, reader.header().datalink)?;
    let mut all = Collected::default();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(|error| damaged(name, &error))?;
        if !all.take(&packet.data, packet.orig_len) {
            break;
        }
    }
    Ok(all.0)
}

fn of_pcapng(name: &str, reader: impl Read) -> Result<Frames, Problem> {
    let mut reader = PcapNgReader::new(reader).map_err(|error| damaged(name, &error))?;
    let mut all = Collected::default();
    let mut links = Vec::new();
    loop {
        let block = match reader.next_block() {
            None => break,
            Some(block) => block.map_err(|error| damaged(name, &error))?,
        };
        let link = |at: u32, links: &[DataLink]| {
            let link = links.get(at as usize).copied();
            ethernet(name, link.unwrap_or(DataLink::Unknown(0)))
        };
        let more = match block {
            Block::SectionHeader(_) => {
                links.clear();
                true
            }
            Block::InterfaceDescription(interface) => {
                links.push(interface.linktype);
                true
            }
            Block::EnhancedPacket(packet) => {
                link(packet.interface_id, &links)?;
                all.take(&packet.data, packet.original_len)
            }
            Block::SimplePacket(packet) => {
                link(0, &links)?;
                all.take(&packet.data, packet.original_len)
            }
            _ => true,
        };
        if !more {
            break;
        }
    }
    Ok(all.0)
}

/// Frames as they come, up to what is looked at.
struct Collected(Frames);

impl Default for Collected {
    fn default() -> Self {
        Self(Frames {
            frames: Vec::new(),
            capture: true,
            more: false,
        })
    }
}

impl Collected {
    fn take(&mut self, data: &[u8], length: u32) -> bool {
        let Self(frames) = self;
        frames.more = frames.frames.len() == MOST_FRAMES;
        if !frames.more {
            frames.frames.push(head(data, length as usize));
        }
        !frames.more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_however_it_is_grouped_and_what_is_none_is_refused_in_words() {
        let bytes = "0200 00:00\n00 01";
        let frames = of_text("x", bytes).unwrap().frames;
        assert_eq!(frames[0].head, "020000000001");
        assert_eq!(frames[0].length, 6);
        assert_eq!(of_text("x", "0x0200").unwrap().frames[0].head, "0200");
        for (text, says) in [
            ("", "nothing"),
            ("020", "one digit"),
            ("no-such-file.pcap", "no file"),
        ] {
            let problem = of_text("the command line", text).unwrap_err();
            assert!(problem.happened.contains(says), "{problem}");
            assert!(problem.remedy.contains("hex"), "{}", problem.remedy);
        }
    }

    #[test]
    fn no_file_of_any_bytes_panics_and_damage_is_said() {
        let mut capture = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        capture.extend([0; 8]);
        capture.extend([0xff, 0xff, 0, 0, 1, 0, 0, 0]);
        let empty = of_reader("f", &capture[..]).unwrap();
        assert!(empty.capture && empty.frames.is_empty());
        let mut packet = capture.clone();
        packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 99, 0, 0, 0, 1, 2, 3, 4]);
        let frames = of_reader("f", &packet[..]).unwrap().frames;
        assert_eq!((frames[0].length, &*frames[0].head), (99, "01020304"));
        let cut = of_reader("f", &packet[..packet.len() - 2]);
        assert!(cut.is_err() || cut.unwrap().frames.is_empty());
        capture[20] = 113;
        let cooked = of_reader("f", &capture[..]).unwrap_err();
        assert!(cooked.remedy.contains("any"), "{}", cooked.remedy);
        let binary = of_reader("f", &[0xff, 0xfe, 0, 1, 2][..]).unwrap_err();
        assert!(binary.happened.contains("neither"), "{binary}");
    }
}
