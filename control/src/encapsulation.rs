//! How the tunnel's frames travel: as it is configured, and as XDP and the workers take it.

use dataplane::path;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use wire::Udp;
use wire::limits::UDP_PORT;

/// How the tunnel's frames travel from a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encapsulation {
    /// In Ethernet frames of this EtherType.
    Ether(u16),
    /// In datagrams.
    Udp(UdpPort),
}

/// What a port over `udp` is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpPort {
    /// The tunnel's UDP port.
    pub port: u16,
    /// The addresses it is reached at, one of each IP version at most. None on a shared port: all of the
    /// interface's.
    pub addresses: Vec<IpAddr>,
    /// Whether the kernel has the interface too.
    pub shared: bool,
    /// Whether who has no key gets no answer at all.
    pub stealth: bool,
    /// Where Workstations find it.
    pub endpoints: Vec<Endpoint>,
}

impl Encapsulation {
    /// As it is written in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ether(_) => "ether",
            Self::Udp(_) => "udp",
        }
    }

    /// As admission takes it.
    pub fn admission(&self) -> wire::Encapsulation {
        match self {
            Self::Ether(ethertype) => wire::Encapsulation::Ether(*ethertype),
            Self::Udp(udp) => {
                let v4 = udp.addresses.iter().find_map(|address| match address {
                    IpAddr::V4(v4) => Some(*v4),
                    IpAddr::V6(_) => None,
                });
                let v6 = udp.addresses.iter().find_map(|address| match address {
                    IpAddr::V6(v6) => Some(*v6),
                    IpAddr::V4(_) => None,
                });
                wire::Encapsulation::Udp(Udp {
                    stealth: udp.stealth,
                    ..Udp::new(udp.port, v4, v6, udp.shared)
                })
            }
        }
    }

    /// As workers take it.
    pub fn framing(&self) -> path::Encapsulation {
        self.admission().into()
    }

    /// Whether it answers for an IPv6 address without the kernel.
    pub fn answers_solicitations(&self) -> bool {
        matches!(self, Self::Udp(udp) if !udp.shared && udp.addresses.iter().any(IpAddr::is_ipv6))
    }

    /// Where the tunnel is reached over networks; on `ether` nowhere.
    pub fn listens(&self) -> Vec<String> {
        let Self::Udp(udp) = self else {
            return Vec::new();
        };
        let at = |address: &IpAddr| SocketAddr::new(*address, udp.port).to_string();
        match udp.addresses.is_empty() {
            true => vec![format!("*:{}", udp.port)],
            false => udp.addresses.iter().map(at).collect(),
        }
    }

    /// Whether the kernel has the interface too.
    pub fn is_shared(&self) -> bool {
        self.shared_port().is_some()
    }

    /// Whether who has no key is told that nobody listens.
    pub fn refuses(&self) -> bool {
        matches!(self, Self::Udp(udp) if !udp.stealth)
    }

    /// The tunnel's UDP port, where the kernel has the interface too.
    pub fn shared_port(&self) -> Option<u16> {
        match self {
            Self::Udp(udp) if udp.shared => Some(udp.port),
            _ => None,
        }
    }
}

/// Where a Gateway is found over networks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// A name or an address.
    pub host: Host,
    /// The UDP port.
    pub port: u16,
}

/// A name in DNS, or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, in lower case.
    Name(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
            Host::Address(IpAddr::V4(v4)) => write!(f, "{v4}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// A name or an address, and the port where it is another than the usual one: `gateway.example`,
    /// `192.0.2.1:51888`, `[2001:db8::1]:51888`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("`{text}` is no endpoint: {why}"));
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, rest)) => match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None => return wrong("after ] comes a colon and the port"),
                },
                None => return wrong("the ] is missing"),
            },
            None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
            None => match text.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None => UDP_PORT,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return wrong("the port is a number from 1 to 65535"),
            },
        };
        let host = match host.parse::<IpAddr>() {
            Ok(address) if is_a_hosts(address) => Host::Address(address),
            Ok(_) => return wrong("it is no address of a machine"),
            Err(_) if text.starts_with('[') => return wrong("what is in [ ] is no IPv6 address"),
            Err(_) => match is_name(host) {
                true => Host::Name(host.to_ascii_lowercase()),
                false => return wrong("give NAME:PORT, ADDRESS:PORT or [IPV6]:PORT"),
            },
        };
        Ok(Self { host, port })
    }
}

/// Whether an address can be one machine's, and others can reach it there.
pub fn is_a_hosts(address: IpAddr) -> bool {
    let group = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.octets()[0] == 0 || v4.octets()[0] >= 240,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    !(group || address.is_unspecified() || address.is_multicast() || address.is_loopback())
}

/// Whether a text can be a host's name (RFC 1123, section 2.1), and no number, which resolvers take for an address.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && text.split('.').all(label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn endpoints_are_read_as_they_are_written_and_others_refused_with_a_reason() {
        for (text, wanted) in [
            ("gateway.example", "gateway.example:51888"),
            ("Gateway.Example:99", "gateway.example:99"),
            ("192.0.2.1", "192.0.2.1:51888"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("2001:db8::1", "[2001:db8::1]:51888"),
            ("[2001:db8::1]", "[2001:db8::1]:51888"),
            ("[2001:db8::1]:5", "[2001:db8::1]:5"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), wanted);
            assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
        }
        for text in [
            "",
            ":5",
            "a:0",
            "a:65536",
            "a b",
            "-a",
            "a..b",
            "127.0.0.1",
            "0.0.0.0:5",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "[::1]:5",
            "[2001:db8::1",
            "[2001:db8::1]5",
            "[gateway]:5",
            "1.2.3",
            "12345",
            "ff02::1",
            "::ffff:192.0.2.1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_read_as_an_endpoint_that_is_written_otherwise(text: String) {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
            }
        }
    }
}
