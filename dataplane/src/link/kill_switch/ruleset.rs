//! The kill switch's second line as a ruleset of nf_tables: chains, and the rules in them.

use super::{KillSwitch, Surroundings};
use ipnet::{IpNet, Ipv6Net};
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, InetHookNumber, Meta, MetaKey, Operator,
    Payload, Register, Verdict, VerdictAttribute,
};
use rtnetlink::packet_core::DefaultNla;
use std::net::{IpAddr, Ipv6Addr};

/// A chain on a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) hook: InetHookNumber,
    pub(super) priority: i32,
    pub(super) accepts: bool,
    pub(super) rules: Vec<Rule>,
}

/// Conditions, and what is done where they hold.
pub(super) type Rule = Vec<Expressions>;

/// Behind everything that may change a packet's mark or its way, and before connection tracking
/// confirms what is to be dropped.
const LAST: i32 = i32::MAX - 1;
/// Before everything that looks at marks, but fragments' reassembly.
const FIRST: i32 = -310;

/// The hooks of ARP, by those of IP that have the same numbers.
const NF_ARP_IN: InetHookNumber = InetHookNumber::PreRouting;
const NF_ARP_OUT: InetHookNumber = InetHookNumber::LocalIn;
/// Where in an ARP packet the sender's IP address is.
const ARP_SENDER: usize = 14;
const LOOPBACK: u32 = 1;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Of ICMPv6.
mod icmpv6 {
    pub(super) const MLD_QUERY: u8 = 130;
    pub(super) const MLD_REPORT: u8 = 131;
    pub(super) const MLD_DONE: u8 = 132;
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub(super) const MLD_REPORT_V2: u8 = 143;
}

/// Which address of a packet.
#[derive(Debug, Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// The chains of a kill switch in the table of a family: of IP, or of ARP.
pub(super) fn chains(
    family: NetfilterProtoFamily,
    switch: &KillSwitch,
    around: &Surroundings,
) -> Vec<Chain> {
    let chain = |name: &str, hook, priority, accepts, rules| Chain {
        name: name.to_owned(),
        hook,
        priority,
        accepts,
        rules,
    };
    if family == NetfilterProtoFamily::ARP {
        // A neighbour's question is answered only if the way back to it is by the uplink.
        let marked = vec![rule([set_mark(switch.mark)])];
        let hidden = around.addresses.iter().map(|address| {
            let sender = is_payload(Base::Network, ARP_SENDER, &address.octets());
            rule([sender, drop()])
        });
        return vec![
            chain("input", NF_ARP_IN, 0, true, marked),
            chain("output", NF_ARP_OUT, 0, true, hidden.collect()),
        ];
    }
    let (first, last) = (prerouting(switch), postrouting(switch, around));
    vec![
        chain("prerouting", InetHookNumber::PreRouting, FIRST, true, first),
        chain(
            "input",
            InetHookNumber::LocalIn,
            LAST,
            false,
            input(switch, around),
        ),
        chain(
            "postrouting",
            InetHookNumber::PostRouting,
            LAST,
            false,
            last,
        ),
    ]
}

fn prerouting(switch: &KillSwitch) -> Vec<Rule> {
    vec![
        rule([is_index(MetaKey::Iif, LOOPBACK), accept()]),
        rule([is_name(MetaKey::Iifname, &switch.interface), accept()]),
        // Of IPv6 the kernel would forward it into the tunnel.
        rule([is_local(FIB_SOURCE), drop()]),
        rule([has_marked_socket(switch.mark), set_mark(switch.mark)]),
        // Firewalls' reverse path filters for IPv6 judge them too.
        rule([
            is_icmpv6(255, icmpv6::NEIGHBOUR_SOLICITATION),
            set_mark(switch.mark),
        ]),
        rule([
            is_icmpv6(255, icmpv6::NEIGHBOUR_ADVERTISEMENT),
            set_mark(switch.mark),
        ]),
    ]
}

fn input(switch: &KillSwitch, around: &Surroundings) -> Vec<Rule> {
    let from_link = within(End::Source, &v6_prefix(0xfe80, 10));
    let mut rules = vec![
        rule([is_index(MetaKey::Iif, LOOPBACK), accept()]),
        rule([is_name(MetaKey::Iifname, &switch.interface), accept()]),
        rule([has_marked_socket(switch.mark), accept()]),
        rule([is_udp(NFPROTO_IPV4, 67, 68), accept()]),
        rule([from_link, is_udp(NFPROTO_IPV6, 547, 546), accept()]),
    ];
    for kind in [
        icmpv6::ROUTER_ADVERTISEMENT,
        icmpv6::NEIGHBOUR_SOLICITATION,
        icmpv6::NEIGHBOUR_ADVERTISEMENT,
    ] {
        rules.push(rule([is_icmpv6(255, kind), accept()]));
    }
    rules.push(rule([is_icmpv6(1, icmpv6::MLD_QUERY), accept()]));
    for (index, address) in &around.lan {
        rules.push(rule([
            is_index(MetaKey::Iif, *index),
            within(End::Source, &address.trunc()),
            is_local(FIB_DESTINATION | FIB_IN),
            accept(),
        ]));
    }
    rules
}

fn postrouting(switch: &KillSwitch, around: &Surroundings) -> Vec<Rule> {
    // Not forwarded. What the kernel itself says in ICMPv6 it gives its interface from the start.
    let is_own = || is_index(MetaKey::Iif, 0);
    // Not by the tunnel's address, whatever chose that as a source.
    let has_own_source = || is_local(FIB_SOURCE | FIB_OUT);
    let has_mark = is_meta(MetaKey::Mark, &switch.mark.to_ne_bytes());
    // Not to a server's address, which could be anyone's: without an answer a client says it to all.
    let broadcast = IpNet::from(IpAddr::from([255; 4]));
    let servers = IpNet::from(IpAddr::from([0xff02, 0, 0, 0, 0, 0, 1, 2]));
    let (to_all, to_servers) = (
        within(End::Destination, &broadcast),
        within(End::Destination, &servers),
    );
    let (dhcp, dhcpv6) = (is_udp(NFPROTO_IPV4, 68, 67), is_udp(NFPROTO_IPV6, 546, 547));
    let mut rules = vec![
        rule([is_index(MetaKey::Oif, LOOPBACK), accept()]),
        rule([is_name(MetaKey::Oifname, &switch.interface), accept()]),
        rule([is_own(), has_mark, has_own_source(), accept()]),
        rule([is_own(), to_all, dhcp, accept()]),
        rule([is_own(), to_servers, dhcpv6, accept()]),
    ];
    for kind in [
        icmpv6::ROUTER_SOLICITATION,
        icmpv6::NEIGHBOUR_SOLICITATION,
        icmpv6::NEIGHBOUR_ADVERTISEMENT,
    ] {
        rules.push(rule([is_icmpv6(255, kind), accept()]));
    }
    let groups = v6_prefix(0xff00, 8);
    for kind in [icmpv6::MLD_REPORT, icmpv6::MLD_DONE, icmpv6::MLD_REPORT_V2] {
        let to_group = within(End::Destination, &groups);
        rules.push(rule([to_group, is_icmpv6(1, kind), accept()]));
    }
    if !around.lan.is_empty() {
        // What the tunnel has a route to is nobody's on a LAN, whatever a socket is tied to.
        let tunnelled = switch.routes.iter().filter(|route| route.prefix_len() > 0);
        rules.extend(tunnelled.map(|route| rule([within(End::Destination, route), drop()])));
    }
    for (index, address) in &around.lan {
        rules.push(rule([
            is_own(),
            is_index(MetaKey::Oif, *index),
            within(End::Destination, &address.trunc()),
            has_own_source(),
            accept(),
        ]));
    }
    rules
}

fn v6_prefix(first: u16, length: u8) -> IpNet {
    let address = Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0);
    IpNet::V6(Ipv6Net::new_assert(address, length))
}

fn rule<const N: usize>(parts: [Vec<Expressions>; N]) -> Rule {
    parts.into_iter().flatten().collect()
}

fn value(bytes: &[u8]) -> DataAttribute {
    DataAttribute::Value(bytes.to_vec())
}

fn equal(bytes: &[u8]) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(Operator::Equal),
        Cmp::Data(value(bytes)),
    ])
}

fn is_meta(key: MetaKey, bytes: &[u8]) -> Vec<Expressions> {
    let load = Expressions::Meta(vec![
        Meta::Key(key),
        Meta::DestinationRegister(Register::Reg1),
    ]);
    vec![load, equal(bytes)]
}

fn is_index(key: MetaKey, index: u32) -> Vec<Expressions> {
    is_meta(key, &index.to_ne_bytes())
}

fn is_name(key: MetaKey, name: &str) -> Vec<Expressions> {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(libc::IFNAMSIZ, 0);
    is_meta(key, &padded)
}

/// Where in a packet an offset counts from.
#[derive(Debug, Clone, Copy)]
enum Base {
    Network = 1,
    Transport = 2,
}

fn load(base: Base, offset: usize, length: usize) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base as u32),
        Payload::Offset(offset as u32),
        Payload::Len(length as u32),
    ])
}

fn is_payload(base: Base, offset: usize, bytes: &[u8]) -> Vec<Expressions> {
    vec![load(base, offset, bytes.len()), equal(bytes)]
}

fn within(end: End, prefix: &IpNet) -> Vec<Expressions> {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (family, offset) = match (prefix, end) {
        (IpNet::V4(_), End::Source) => (NFPROTO_IPV4, 12),
        (IpNet::V4(_), End::Destination) => (NFPROTO_IPV4, 16),
        (IpNet::V6(_), End::Source) => (NFPROTO_IPV6, 8),
        (IpNet::V6(_), End::Destination) => (NFPROTO_IPV6, 24),
    };
    let (network, mask) = (bytes(prefix.network()), bytes(prefix.netmask()));
    let mut expressions = is_meta(MetaKey::Nfproto, &[family]);
    expressions.push(load(Base::Network, offset, network.len()));
    if prefix.prefix_len() < prefix.max_prefix_len() {
        expressions.push(Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(network.len() as u32),
            Bitwise::Mask(value(&mask)),
            Bitwise::Xor(value(&vec![0; network.len()])),
        ]));
    }
    expressions.push(equal(&network));
    expressions
}

fn is_udp(family: u8, from: u16, to: u16) -> Vec<Expressions> {
    [
        is_meta(MetaKey::Nfproto, &[family]),
        is_meta(MetaKey::L4Proto, &[UDP]),
        is_payload(Base::Transport, 0, &from.to_be_bytes()),
        is_payload(Base::Transport, 2, &to.to_be_bytes()),
    ]
    .concat()
}

fn is_icmpv6(hop_limit: u8, kind: u8) -> Vec<Expressions> {
    [
        is_meta(MetaKey::Nfproto, &[NFPROTO_IPV6]),
        is_payload(Base::Network, 7, &[hop_limit]),
        is_meta(MetaKey::L4Proto, &[ICMPV6]),
        is_payload(Base::Transport, 0, &[kind]),
    ]
    .concat()
}

/// An expression that the messages' library has no name for.
fn other(name: &str, attributes: &[(u16, u32)]) -> Expressions {
    let number = |(kind, value): &(u16, u32)| DefaultNla::new(*kind, value.to_be_bytes().to_vec());
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes: attributes.iter().map(number).collect(),
    }
}

/// A packet for a socket of this host that bears the mark.
fn has_marked_socket(mark: u32) -> Vec<Expressions> {
    const NFTA_SOCKET_KEY: u16 = 1;
    const NFTA_SOCKET_DREG: u16 = 2;
    const NFT_SOCKET_MARK: u32 = 1;
    let attributes = [
        (NFTA_SOCKET_KEY, NFT_SOCKET_MARK),
        (NFTA_SOCKET_DREG, u32::from(Register::Reg1)),
    ];
    vec![other("socket", &attributes), equal(&mark.to_ne_bytes())]
}

/// Which of a packet's addresses, and of which interface it has to be.
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 1 << 1;
const FIB_IN: u32 = 1 << 3;
const FIB_OUT: u32 = 1 << 4;

/// Of a packet whose address is this host's, or an interface's.
fn is_local(which: u32) -> Vec<Expressions> {
    const NFTA_FIB_DREG: u16 = 1;
    const NFTA_FIB_RESULT: u16 = 2;
    const NFTA_FIB_FLAGS: u16 = 3;
    const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
    let attributes = [
        (NFTA_FIB_DREG, u32::from(Register::Reg1)),
        (NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE),
        (NFTA_FIB_FLAGS, which),
    ];
    let local = u32::from(libc::RTN_LOCAL);
    vec![other("fib", &attributes), equal(&local.to_ne_bytes())]
}

fn set_mark(mark: u32) -> Vec<Expressions> {
    let load = Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Reg1),
        Immediate::Data(value(&mark.to_ne_bytes())),
    ]);
    let store = Expressions::Meta(vec![
        Meta::Key(MetaKey::Mark),
        Meta::SourceRegister(Register::Reg1),
    ]);
    vec![load, store]
}

fn accept() -> Vec<Expressions> {
    verdict(NF_ACCEPT)
}

fn drop() -> Vec<Expressions> {
    verdict(NF_DROP)
}

fn verdict(code: u32) -> Vec<Expressions> {
    let code = VerdictAttribute::Code(Verdict::Other(code));
    vec![Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![code])),
    ])]
}
