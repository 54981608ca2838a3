//! Names of Gateways, looked up past the tunnel: by sockets of the helper's, which may leave while nothing else may.
//!
//! The machine's own resolver would be asked through the tunnel that is still to be found. So the name servers are
//! asked here that it would ask: those of systemd-resolved's or DHCP's, and `/etc/hosts` before them.

use crate::encapsulation::is_a_hosts;
use crate::entropy;
use crate::helper::Helper;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::{TimeVal, TimeValLike};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, TYPE};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The port of name servers.
pub const DNS: u16 = 53;
/// Where name servers are named, the more direct first.
const CONFIGURATIONS: [&str; 2] = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];
const HOSTS: &str = "/etc/hosts";
/// Files that are read.
pub const FILES: [&str; 3] = [CONFIGURATIONS[0], CONFIGURATIONS[1], HOSTS];
/// Name servers that are asked, as glibc does.
const SERVERS: usize = 3;
/// How long an answer is waited for, and how often is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: usize = 2;

/// Looks names up.
pub struct Resolver {
    helper: Arc<Helper>,
}

impl Resolver {
    /// One that asks by this helper's sockets.
    pub fn new(helper: &Arc<Helper>) -> Self {
        Self {
            helper: Arc::clone(helper),
        }
    }

    /// The addresses that a name has, IPv6 first; none where there are none or nobody answers, which is said in the
    /// log. It waits for up to some seconds.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let known = read(HOSTS).map_or_else(Vec::new, |text| in_hosts(&text, name));
        if !known.is_empty() {
            return known;
        }
        let servers = CONFIGURATIONS.iter().filter_map(|path| read(path));
        let servers = servers.map(|text| name_servers(&text));
        let Some(servers) = servers.into_iter().find(|servers| !servers.is_empty()) else {
            tracing::warn!(name, "there is no name server to ask: see /etc/resolv.conf");
            return Vec::new();
        };
        for server in servers.into_iter().cycle().take(SERVERS * TRIES) {
            match self.ask(server, name) {
                Ok(addresses) if !addresses.is_empty() => return addresses,
                Ok(_) => tracing::warn!(name, %server, "the name server knows no address of it"),
                Err(error) => {
                    tracing::info!(name, %server, %error, "no answer from the name server")
                }
            }
        }
        Vec::new()
    }

    fn ask(&self, server: IpAddr, name: &str) -> io::Result<Vec<IpAddr>> {
        let remote = SocketAddr::new(server, DNS);
        let socket = self.helper.udp_socket(remote).map_err(io::Error::other)?;
        let socket = UdpSocket::from(socket);
        socket.set_nonblocking(false)?;
        let mut found = Vec::new();
        let mut answered = false;
        for kind in [TYPE::AAAA, TYPE::A] {
            let seed = entropy::seed().map_err(io::Error::other)?;
            let id = u16::from_le_bytes([seed[0], seed[1]]);
            socket.send(&question(id, name, kind)?)?;
            let deadline = Instant::now() + PATIENCE;
            while let Some(left) = deadline.checked_duration_since(Instant::now()) {
                let left = TimeVal::microseconds(left.as_micros().max(1) as i64);
                setsockopt(&socket, ReceiveTimeout, &left)?;
                let mut bytes = [0; 1500];
                let Ok(length) = socket.recv(&mut bytes) else {
                    break;
                };
                // What answers another question, or is no answer, is not waited for any less.
                if let Some(addresses) = answer(&bytes[..length], id, name, kind) {
                    answered = true;
                    found.extend(addresses);
                    break;
                }
            }
        }
        match answered {
            true => Ok(found),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

fn read(path: &str) -> Option<String> {
    // Larger than any that was written by hand.
    const MOST: u64 = 1 << 20;
    let size = std::fs::metadata(Path::new(path)).ok()?.len();
    (size <= MOST).then(|| std::fs::read_to_string(path).ok())?
}

fn question(id: u16, name: &str, kind: TYPE) -> io::Result<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name.trim_end_matches('.')).map_err(io::Error::other)?;
    packet.questions.push(Question::new(
        name,
        QTYPE::TYPE(kind),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet.build_bytes_vec().map_err(io::Error::other)
}

/// The addresses in an answer to this question; `None` where it is none.
fn answer(bytes: &[u8], id: u16, name: &str, kind: TYPE) -> Option<Vec<IpAddr>> {
    let packet = Packet::parse(bytes).ok()?;
    let question = packet.questions.first()?;
    let asked = question.qname.to_string();
    let same = asked.eq_ignore_ascii_case(name.trim_end_matches('.'))
        && question.qtype == QTYPE::TYPE(kind)
        && packet.has_flags(PacketFlag::RESPONSE)
        && packet.id() == id;
    if !same {
        return None;
    }
    // A name server that resolves gives the whole chain of aliases, and what is at its end.
    let found = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::A(a) => Some(IpAddr::V4(Ipv4Addr::from_bits(a.address))),
            RData::AAAA(aaaa) => Some(IpAddr::V6(Ipv6Addr::from_bits(aaaa.address))),
            _ => None,
        });
    let mut found: Vec<IpAddr> = found.filter(|a| is_a_hosts(*a)).collect();
    // Many name servers change the order with each answer, which is no change of the addresses.
    found.sort();
    Some(found)
}

/// The name servers of a resolv.conf(5), but for those on this machine, which would ask through the tunnel.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    // An IPv6 address may come with a zone, which is of no use here.
    let servers = servers.filter_map(|word| word.parse::<IpAddr>().ok());
    servers
        .filter(|address| !address.is_loopback())
        .take(SERVERS)
        .collect()
}

/// What hosts(5) says of a name.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let address = words.next()?.parse::<IpAddr>().ok()?;
        words
            .any(|word| word.eq_ignore_ascii_case(name.trim_end_matches('.')))
            .then_some(address)
    });
    lines.filter(|address| !address.is_loopback()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, CNAME};

    fn reply(to: &[u8], id: u16) -> Vec<u8> {
        let mut packet = Packet::parse(to).unwrap().into_reply();
        packet.set_flags(PacketFlag::RESPONSE);
        let alias = Name::new_unchecked("real.example");
        for (owner, rdata) in [
            ("gw.example", RData::CNAME(CNAME(alias))),
            (
                "real.example",
                RData::A(A {
                    address: 0xc000_0202,
                }),
            ),
            (
                "real.example",
                RData::A(A {
                    address: 0xc000_0201,
                }),
            ),
            (
                "real.example",
                RData::A(A {
                    address: 0x7f00_0001,
                }),
            ),
        ] {
            let owner = Name::new_unchecked(owner);
            packet
                .answers
                .push(ResourceRecord::new(owner, CLASS::IN, 60, rdata));
        }
        let mut bytes = packet.build_bytes_vec().unwrap();
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes
    }

    #[test]
    fn an_answer_is_taken_only_to_the_question_that_was_asked_and_in_one_order() {
        let asked = question(7, "GW.example.", TYPE::A).unwrap();
        let good = reply(&asked, 7);
        let wanted = [1, 2].map(|last| IpAddr::from([192, 0, 2, last])).to_vec();
        assert_eq!(answer(&good, 7, "gw.example", TYPE::A), Some(wanted));
        assert_eq!(answer(&good, 8, "gw.example", TYPE::A), None);
        assert_eq!(answer(&good, 7, "other.example", TYPE::A), None);
        assert_eq!(answer(&good, 7, "gw.example", TYPE::AAAA), None);
        assert_eq!(
            answer(&asked, 7, "gw.example", TYPE::A),
            None,
            "the question itself"
        );
    }

    #[test]
    fn name_servers_and_hosts_are_read_as_the_manual_has_them() {
        let text = "# x\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch a b\n nameserver 2001:db8::53\nnameserver\n";
        let found = name_servers(text);
        assert_eq!(
            found,
            ["192.0.2.53", "2001:db8::53"].map(|a| a.parse::<IpAddr>().unwrap())
        );
        let hosts = "127.0.0.1 localhost gw\n192.0.2.9 other GW.example # gw.example\n2001:db8::9 gw.example\n";
        let found = in_hosts(hosts, "gw.example.");
        assert_eq!(
            found,
            ["192.0.2.9", "2001:db8::9"].map(|a| a.parse::<IpAddr>().unwrap())
        );
        assert!(in_hosts(hosts, "gw").is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_are_more_than_no_answer(bytes: Vec<u8>, at in 0usize..40, value: u8) {
            let _ = answer(&bytes, 7, "gw.example", TYPE::A);
            let mut near = reply(&question(7, "gw.example", TYPE::A).unwrap(), 7);
            if let Some(byte) = near.get_mut(at) {
                *byte = value;
            }
            let _ = answer(&near, 7, "gw.example", TYPE::A);
        }
    }
}
