//! What the configuration says of ports over `udp`.

use super::check::Check;
use super::gateway::RawPort;
use crate::choices::Encapsulation as Choice;
use crate::encapsulation::{Encapsulation, Endpoint, Host, UdpPort, is_a_hosts};
use crate::problem::Problem;
use std::net::IpAddr;
use toml::Spanned;
use wire::limits::UDP_PORT;

/// The most endpoints that can be named.
const MAX_ENDPOINTS: usize = 7;

impl Check<'_> {
    /// How a tunnel port's frames travel.
    pub(super) fn encapsulation(&self, port: &RawPort) -> Result<Encapsulation, Problem> {
        let at = port.interface.span().start;
        let name = port.interface.get_ref();
        if port.encapsulation == Choice::Ether {
            let over_udp = port.udp_port.is_some()
                || port.shared
                || port.stealth.is_some()
                || port.endpoint.is_some();
            if over_udp {
                return Err(self.problem(
                    at,
                    format!("{name} has settings of udp, and its encapsulation is \"ether\""),
                    "write encapsulation = \"udp\", or remove udp_port, shared, stealth and endpoint",
                ));
            }
            return Ok(Encapsulation::Ether(
                self.ethertype(port.ethertype.as_ref())?,
            ));
        }
        if let Some(ethertype) = &port.ethertype {
            return Err(self.problem(
                ethertype.span().start,
                format!("{name} has an EtherType, and its encapsulation is \"udp\""),
                "remove it: datagrams are IPv4 or IPv6",
            ));
        }
        let udp_port = match &port.udp_port {
            Some(value) => self.number("udp_port", value, 1..=65535)? as u16,
            None => UDP_PORT,
        };
        let addresses = self.udp_addresses(port)?;
        if addresses.is_empty() && !port.shared {
            return Err(self.problem(
                at,
                format!("{name} has no address, and nothing but the tunnel is to pass it"),
                "write addresses = [\"192.0.2.1\", \"2001:db8::1\"] with those that XDP is to answer for; or \
                 shared = true, where the interface is this machine's own uplink",
            ));
        }
        let endpoints = match &port.endpoint {
            Some(texts) => self.endpoints(texts)?,
            None => {
                let of = |address: &IpAddr| Endpoint {
                    host: Host::Address(*address),
                    port: udp_port,
                };
                addresses.iter().map(of).collect()
            }
        };
        Ok(Encapsulation::Udp(UdpPort {
            port: udp_port,
            addresses,
            shared: port.shared,
            stealth: port.stealth.unwrap_or(true),
            endpoints,
        }))
    }

    fn udp_addresses(&self, port: &RawPort) -> Result<Vec<IpAddr>, Problem> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in port.addresses.iter().flatten() {
            let at = text.span().start;
            let remedy =
                "give one IPv4 address and one IPv6 address at most, without a prefix length";
            let address: IpAddr = text.get_ref().parse().map_err(|_| {
                self.problem(at, format!("`{}` is no IP address", text.get_ref()), remedy)
            })?;
            if !is_a_hosts(address) {
                return Err(self.problem(
                    at,
                    format!("{address} is no address of a machine"),
                    remedy,
                ));
            }
            if let Some(other) = addresses.iter().find(|a| a.is_ipv4() == address.is_ipv4()) {
                return Err(self.problem(
                    at,
                    format!("{other} and {address} are of the same IP version"),
                    remedy,
                ));
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    pub(super) fn endpoints(&self, texts: &[Spanned<String>]) -> Result<Vec<Endpoint>, Problem> {
        let mut endpoints = Vec::new();
        for text in texts {
            let at = text.span().start;
            let endpoint: Endpoint = text.get_ref().parse().map_err(|why: String| {
                self.problem(at, why, "give NAME:PORT, ADDRESS:PORT or [IPV6]:PORT")
            })?;
            if endpoints.contains(&endpoint) {
                return Err(self.problem(at, format!("{endpoint} is named twice"), "name it once"));
            }
            endpoints.push(endpoint);
        }
        if !(1..=MAX_ENDPOINTS).contains(&endpoints.len()) {
            let at = texts.first().map_or(0, |text| text.span().start);
            return Err(self.problem(
                at,
                format!("there are {} endpoints", endpoints.len()),
                format!("name 1 to {MAX_ENDPOINTS}"),
            ));
        }
        Ok(endpoints)
    }
}
