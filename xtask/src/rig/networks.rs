//! A Workstation that is far from its Gateway: at home, behind a router with NAT, or elsewhere, with the
//! Internet in between.
//!
//! ```text
//!   gw --wan---- internet ---- middlebox ----hw-- home --lan0-- ws1
//!                    '-----------------------------wlan0---------'      (down at first)
//! ```
//!
//! IPv4 addresses are translated at home; IPv6 ones are routed. Every address is of a documentation prefix.

use std::fmt::Display;
use std::sync::Arc;

use anyhow::Result;

use super::link::{offloads_off, set_link, veth};
use super::namespace::Namespace;
use super::topology::lay_tapped_cable;
use super::tunnel::{Gateway, Programs, Workstation};
use crate::middlebox::{Impairment, Middlebox};

/// The Gateway's addresses on the Internet.
pub const WAN: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
/// The Workstation's interface at home.
pub const LAN: &str = "lan0";
/// The Workstation's interface elsewhere.
pub const WLAN: &str = "wlan0";
/// The Gateway's interface.
const PORT: &str = "wan";
const MTU: u32 = 1500;
/// The NAT at home: each flow by a port of its own, forgotten 30 seconds after its last packet.
const NAT: &str = "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; \
                   add rule ip nat post oifname \"hw\" masquerade random";

/// The hosts. Nothing of Portcullis runs yet.
#[derive(Debug)]
pub struct Networks {
    /// The Gateway.
    pub gateway: Gateway,
    /// The Workstation.
    pub workstation: Workstation,
    /// The Internet: its interface `ig` is cabled to the Gateway, `ih` to the home, `iw` to the Workstation.
    pub internet: Arc<Namespace>,
    /// The router at home: `hw` leads to the Internet, `hl` to the Workstation.
    pub home: Arc<Namespace>,
    /// What carries frames between home and Internet.
    pub middlebox: Middlebox,
}

/// Lays them out. On a `shared` port the Gateway's kernel has the addresses.
///
/// # Errors
/// What `ip` or `nft` answered.
pub fn networks(programs: &Programs, shared: bool) -> Result<Networks> {
    let gw = Arc::new(Namespace::create("gw")?);
    let internet = Arc::new(Namespace::create("internet")?);
    let home = Arc::new(Namespace::create("home")?);
    let ws1 = Arc::new(Namespace::create("ws1")?);
    for router in [&internet, &home] {
        router.sysctl("ipv4/ip_forward", "1")?;
        router.sysctl("ipv6/conf/all/forwarding", "1")?;
    }
    veth((&gw, PORT), (&internet, "ig"), MTU)?;
    let middle = Namespace::create("middle")?;
    middle.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    for (host, interface, end) in [(&internet, "ih", "mi"), (&home, "hw", "mh")] {
        lay_tapped_cable(host, interface, &middle, end)?;
        // What is forwarded there is to be single frames.
        offloads_off(host, interface)?;
    }
    let middlebox = Middlebox::join(&middle, "mi", "mh", 7, Impairment::default())?;
    veth((&ws1, LAN), (&home, "hl"), MTU)?;
    veth((&ws1, WLAN), (&internet, "iw"), MTU)?;
    let address = |host: &Namespace, interface: &str, v4: &str, v6: &str| {
        host.ip(&format!("addr add {v4}/24 dev {interface}"))?;
        host.ip(&format!("-6 addr add {v6}/64 dev {interface} nodad"))
            .map(drop)
    };
    address(&internet, "ig", "192.0.2.254", "2001:db8:1::fe")?;
    address(&internet, "ih", "198.51.100.254", "2001:db8:2::fe")?;
    address(&internet, "iw", "203.0.113.254", "2001:db8:3::fe")?;
    address(&home, "hw", "198.51.100.2", "2001:db8:2::2")?;
    address(&home, "hl", "192.168.7.1", "2001:db8:7::1")?;
    for (host, interface) in [
        (&internet, "ig"),
        (&internet, "ih"),
        (&home, "hw"),
        (&home, "hl"),
    ] {
        set_link(host, interface, true)?;
    }
    set_link(&internet, "iw", true)?;
    home.ip("route add default via 198.51.100.254")?;
    home.ip("-6 route add default via 2001:db8:2::fe")?;
    internet.ip("-6 route add 2001:db8:7::/64 via 2001:db8:2::2")?;
    home.command("nft").arg(NAT).status()?;
    home.sysctl("netfilter/nf_conntrack_udp_timeout", "30")?;
    home.sysctl("netfilter/nf_conntrack_udp_timeout_stream", "30")?;
    if shared {
        address(&gw, PORT, WAN[0], WAN[1])?;
        set_link(&gw, PORT, true)?;
        gw.ip("route add default via 192.0.2.254")?;
        gw.ip("-6 route add default via 2001:db8:1::fe")?;
    }
    let gateway = Gateway::new(programs, gw, &[PORT])?;
    let addresses = match shared {
        true => "shared = true\n".to_owned(),
        false => format!("addresses = [\"{}\", \"{}\"]\n", WAN[0], WAN[1]),
    };
    gateway.configure(&format!(
        "{}encapsulation = \"udp\"\n{addresses}endpoint = [\"{}\", \"{}\"]\n",
        gateway.configuration(&[PORT]),
        WAN[0],
        WAN[1],
    ))?;
    let workstation = Workstation::new(programs, ws1, LAN)?;
    // It leaves by whichever interface leads there.
    let text = workstation.configuration();
    workstation.configure(&text.replacen(&format!("interface = \"{LAN}\"\n"), "", 1))?;
    let networks = Networks {
        gateway,
        workstation,
        internet,
        home,
        middlebox,
    };
    networks.at_home()?;
    Ok(networks)
}

impl Networks {
    /// The Workstation comes home: by its cable, and by nothing else.
    ///
    /// # Errors
    /// What `ip` answered.
    pub fn at_home(&self) -> Result<()> {
        self.move_to(
            LAN,
            WLAN,
            ["192.168.7.2", "2001:db8:7::2"],
            ["192.168.7.1", "2001:db8:7::1"],
        )
    }

    /// The Workstation goes elsewhere, where addresses are not translated.
    ///
    /// # Errors
    /// What `ip` answered.
    pub fn elsewhere(&self) -> Result<()> {
        self.move_to(
            WLAN,
            LAN,
            ["203.0.113.2", "2001:db8:3::2"],
            ["203.0.113.254", "2001:db8:3::fe"],
        )
    }

    fn move_to(&self, to: &str, from: &str, own: [&str; 2], router: [&str; 2]) -> Result<()> {
        let host = self.workstation.namespace();
        host.ip(&format!("addr flush dev {from}"))?;
        set_link(host, from, false)?;
        set_link(host, to, true)?;
        host.ip(&format!("addr replace {}/24 dev {to}", own[0]))?;
        host.ip(&format!("-6 addr replace {}/64 dev {to} nodad", own[1]))?;
        host.ip(&format!("route replace default via {} dev {to}", router[0]))?;
        host.ip(&format!(
            "-6 route replace default via {} dev {to}",
            router[1]
        ))
        .map(drop)
    }

    /// Another Workstation, which is on the Internet itself. It is not enrolled yet.
    ///
    /// # Errors
    /// What `ip` answered.
    pub fn neighbour(&self, programs: &Programs) -> Result<Workstation> {
        let host = Arc::new(Namespace::create("ws2")?);
        veth((&host, WLAN), (&self.internet, "i2"), MTU)?;
        self.internet.ip("addr add 198.18.0.254/24 dev i2")?;
        set_link(&self.internet, "i2", true)?;
        host.ip(&format!("addr add 198.18.0.2/24 dev {WLAN}"))?;
        set_link(&host, WLAN, true)?;
        host.ip("route add default via 198.18.0.254")?;
        let workstation = Workstation::new(programs, host, WLAN)?;
        workstation.configure(&format!(
            "endpoint = [\"{}\"]\n{}",
            WAN[0],
            workstation.configuration()
        ))?;
        Ok(workstation)
    }

    /// Has the Workstation know the Gateway by one endpoint, on whatever interface leads there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn reach_by(&self, endpoint: impl Display) -> Result<()> {
        let text = self.workstation.configuration();
        let text = text.replacen(&format!("interface = \"{LAN}\"\n"), "", 1);
        let text = format!("endpoint = [\"{endpoint}\"]\n{text}");
        self.workstation.configure(&text)
    }

    /// Starts the Gateway, enrols the Workstation and starts its agent.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start(&mut self) -> Result<()> {
        self.gateway.start()?;
        let file = self.gateway.add(self.workstation.name())?;
        self.workstation.enroll(&file)?;
        self.workstation.start()
    }

    /// Where the Gateway says that the Workstation is.
    ///
    /// # Errors
    /// When the Gateway does not answer.
    pub fn seen_at(&self) -> Result<Option<String>> {
        let show = self.gateway.show()?;
        let one = show.workstation(self.workstation.name());
        let peer = one.and_then(|one| one["session"]["peer"].as_str());
        Ok(peer.map(str::to_owned))
    }
}
