//! What a driver can do with XDP, as it says itself (Documentation/netlink/specs/netdev.yaml, from Linux
//! 6.3 on).

use super::netlink::Netlink;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, Nla, NlasIterator, Parseable, ParseableParametrized,
};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use std::io;

/// What a driver can do with XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// Of the bits of `enum netdev_xdp_act`.
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// Run a program before the kernel makes a packet of a frame, and redirect to AF_XDP.
    pub const fn native(self) -> bool {
        self.0 & 0b11 == 0b11
    }

    /// Share frames' memory with the NIC.
    pub const fn zero_copy(self) -> bool {
        self.0 & 1 << 3 != 0
    }

    /// Take frames larger than a page.
    pub const fn multi_buffer(self) -> bool {
        self.0 & 1 << 5 != 0
    }
}

/// What the driver of an interface says.
///
/// # Errors
/// The kernel is too old to ask, or what it answered.
pub fn xdp_features(index: u32) -> io::Result<XdpFeatures> {
    let control = Netlink::of(NETLINK_GENERIC, 0)?;
    let question = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("netdev".to_owned())],
    });
    let answers = control.get(question)?;
    let mut attributes = answers.iter().flat_map(|answer| &answer.payload.nlas);
    let family = attributes.find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    });
    let family = family.ok_or(io::ErrorKind::Unsupported)?;
    let netdev = Netlink::of(NETLINK_GENERIC, 0)?;
    let of = DefaultNla::new(Device::IFINDEX, index.to_ne_bytes().to_vec());
    let mut question = GenlMessage::from_payload(Device(vec![of]));
    question.set_resolved_family_id(family);
    let answers = netdev.get(question)?;
    let features = answers.iter().find_map(|answer| answer.payload.features());
    features.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// A device: the attributes of `dev-get`.
#[derive(Debug, Clone)]
struct Device(Vec<DefaultNla>);

impl Device {
    const GET: u8 = 1;
    const IFINDEX: u16 = 1;
    const XDP_FEATURES: u16 = 3;

    fn features(&self) -> Option<XdpFeatures> {
        let found = self.0.iter().find(|nla| nla.kind() == Self::XDP_FEATURES)?;
        let mut value = vec![0; found.value_len()];
        found.emit_value(&mut value);
        Some(XdpFeatures(u64::from_ne_bytes(value.try_into().ok()?)))
    }
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn version(&self) -> u8 {
        1
    }

    fn command(&self) -> u8 {
        Self::GET
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(buffer: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(buffer).map(|nla| DefaultNla::parse(&nla?));
        attributes.collect::<Result<_, _>>().map(Device)
    }
}
