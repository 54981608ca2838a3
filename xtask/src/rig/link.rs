//! Cables and switches: veth pairs between namespaces, and a bridge in a namespace of its own.

use anyhow::{Context, Result};

use super::namespace::Namespace;

/// Lays a cable from `a`'s interface to `b`'s, both down, with the MTU given.
///
/// # Errors
/// What `ip` answered.
pub fn veth(a: (&Namespace, &str), b: (&Namespace, &str), mtu: u32) -> Result<()> {
    veth_queues(a, b, mtu, 1)
}

/// The same with so many queues at both ends.
///
/// # Errors
/// What `ip` answered.
pub fn veth_queues(
    a: (&Namespace, &str),
    b: (&Namespace, &str),
    mtu: u32,
    queues: u32,
) -> Result<()> {
    let has = match queues {
        1 => String::new(),
        _ => format!("numrxqueues {queues} numtxqueues {queues}"),
    };
    a.0.ip(&format!(
        "link add {} mtu {mtu} {has} type veth peer name {} mtu {mtu} {has} netns {}",
        a.1,
        b.1,
        b.0.name()
    ))?;
    Ok(())
}

/// Sets an interface up or down.
///
/// # Errors
/// What `ip` answered.
pub fn set_link(namespace: &Namespace, interface: &str, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    namespace.ip(&format!("link set dev {interface} {state}"))?;
    Ok(())
}

/// The MAC address of an interface.
///
/// # Errors
/// When there is no such interface.
pub fn mac_of(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let text = read_class(namespace, interface, "address")?;
    let mut mac = [0; 6];
    for (byte, part) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(part, 16).with_context(|| format!("MAC address {text}"))?;
    }
    Ok(mac)
}

/// Frames that an interface dropped instead of sending, as its statistics have it. On a veth these
/// are the frames its peer had no room for.
///
/// # Errors
/// When there is no such interface.
pub fn transmit_drops(namespace: &Namespace, interface: &str) -> Result<u64> {
    statistic(namespace, interface, "/0/stats64/tx/dropped")
}

/// Frames that came in at an interface, as its statistics have it.
///
/// # Errors
/// When there is no such interface.
pub fn received_packets(namespace: &Namespace, interface: &str) -> Result<u64> {
    statistic(namespace, interface, "/0/stats64/rx/packets")
}

fn statistic(namespace: &Namespace, interface: &str, pointer: &str) -> Result<u64> {
    let text = namespace.ip(&format!("-s -j link show dev {interface}"))?;
    let value: serde_json::Value = serde_json::from_str(&text).context("output of ip -s -j")?;
    let number = value.pointer(pointer).and_then(serde_json::Value::as_u64);
    number.with_context(|| format!("statistics of {interface}"))
}

/// Switches off what lets a frame look different in memory and on a cable: checksum and
/// segmentation offloads, and VLAN tags kept beside the frame instead of in it.
///
/// # Errors
/// What `ethtool` answered.
pub fn offloads_off(namespace: &Namespace, interface: &str) -> Result<()> {
    namespace.exec(
        "ethtool",
        &format!("-K {interface} tx off rx off tso off gso off gro off txvlan off rxvlan off tx-vlan-stag-hw-insert off rx-vlan-stag-hw-parse off"),
    )?;
    Ok(())
}

fn read_class(namespace: &Namespace, interface: &str, file: &str) -> Result<String> {
    // sysfs shows the namespace it was mounted in, so the question goes to `ip`.
    let text = namespace.ip(&format!("-j link show dev {interface}"))?;
    let value: serde_json::Value = serde_json::from_str(&text).context("output of ip -j")?;
    value[0][file]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("{file} of {interface}"))
}

/// A switch: a bridge in a namespace of its own, without spanning tree, multicast snooping or
/// addresses.
#[derive(Debug)]
pub struct Bridge {
    namespace: Namespace,
    ports: Vec<String>,
}

impl Bridge {
    /// Makes a switch without ports.
    ///
    /// # Errors
    /// What `ip` answered.
    pub fn create(label: &str) -> Result<Self> {
        let namespace = Namespace::create(label)?;
        // A switch is no host: it has no addresses and answers nothing.
        namespace.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
        namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        namespace.ip("link add br0 type bridge stp_state 0 mcast_snooping 0 forward_delay 0")?;
        namespace.ip("link set br0 up")?;
        Ok(Self {
            namespace,
            ports: Vec::new(),
        })
    }

    /// Plugs in a host: a cable from its interface to a port of the switch named after `port`.
    /// Offloads are off on the switch's end; the host's end stays down.
    ///
    /// # Errors
    /// What `ip` or `ethtool` answered.
    pub fn plug(&mut self, host: &Namespace, interface: &str, port: &str, mtu: u32) -> Result<()> {
        self.plug_queues(host, interface, port, mtu, 1)
    }

    /// The same with a cable of so many queues.
    ///
    /// # Errors
    /// What `ip` or `ethtool` answered.
    pub fn plug_queues(
        &mut self,
        host: &Namespace,
        interface: &str,
        port: &str,
        mtu: u32,
        queues: u32,
    ) -> Result<()> {
        veth_queues((&self.namespace, port), (host, interface), mtu, queues)?;
        self.namespace
            .ip(&format!("link set dev {port} master br0 mtu {mtu}"))?;
        offloads_off(&self.namespace, port)?;
        set_link(&self.namespace, port, true)?;
        self.ports.push(port.to_owned());
        Ok(())
    }

    /// Makes an interface that is in the switch's namespace already a port of it, up.
    ///
    /// # Errors
    /// What `ip` or `ethtool` answered.
    pub fn take(&mut self, port: &str) -> Result<()> {
        self.namespace
            .ip(&format!("link set dev {port} master br0"))?;
        // Promiscuous: a NIC of hardware drops what is for others.
        self.namespace
            .ip(&format!("link set dev {port} promisc on up"))?;
        self.ports.push(port.to_owned());
        Ok(())
    }

    /// As a hub (`true`) every frame goes to every port; as a switch it learns.
    ///
    /// # Errors
    /// What `ip` answered.
    pub fn hub(&self, hub: bool) -> Result<()> {
        let ageing = if hub { 0 } else { 30_000 };
        self.namespace
            .ip(&format!("link set br0 type bridge ageing_time {ageing}"))?;
        Ok(())
    }

    /// Whether a port is given what is sent to everybody.
    ///
    /// # Errors
    /// What `bridge` answered.
    pub fn broadcast(&self, port: &str, given: bool) -> Result<()> {
        let flood = if given { "on" } else { "off" };
        self.namespace.exec(
            "bridge",
            &format!("link set dev {port} bcast_flood {flood}"),
        )?;
        Ok(())
    }

    /// Port security: while `pinned`, a switch carries frames to `mac` to `port` alone, whoever else sends
    /// from that address.
    ///
    /// # Errors
    /// What `bridge` answered.
    pub fn pin(&self, mac: [u8; 6], port: &str, pinned: bool) -> Result<()> {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let verb = if pinned { "replace" } else { "del" };
        let what = format!("fdb {verb} {mac} dev {port} master");
        let what = if pinned {
            what + " static sticky"
        } else {
            what
        };
        self.namespace.exec("bridge", &what).map(drop)
    }

    /// The switch's own namespace: a capture here sees what is on the cables.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The names of its ports.
    pub fn ports(&self) -> &[String] {
        &self.ports
    }
}
