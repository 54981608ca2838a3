//! What a `pinned` port decides about a frame. Each verdict has a counter.

/// A verdict. The discriminant is its place in the counter maps. Every verdict but `Answered` and
/// `Passed` is a drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum PinnedVerdict {
    /// Shorter than its headers.
    Short = 0,
    /// Neither IPv4, IPv6 nor ARP: VLAN tags, LLDP and all else.
    Foreign = 1,
    /// From a MAC address that is not pinned.
    UnknownMac = 2,
    /// From an IP address that is not pinned to the MAC address.
    SpoofedAddress = 3,
    /// ARP or neighbour discovery other than a pin's own question for an address of the port:
    /// answers, announcements, router advertisements, redirects.
    Claim = 4,
    /// An IP header that is not one.
    Malformed = 5,
    /// IPv4 options, or IPv6 extension headers.
    Options = 6,
    /// A fragment.
    Fragment = 7,
    /// Neither TCP, UDP nor echo; or DHCP.
    Protocol = 8,
    /// Not for the port's MAC address.
    Misdirected = 9,
    /// For an address that is not one of the port's.
    OtherDestination = 10,
    /// More than the pin may send.
    RateLimited = 11,
    /// A question that is answered without the kernel.
    Answered = 12,
    /// Given to the kernel.
    Passed = 13,
}

impl PinnedVerdict {
    /// How many verdicts there are.
    pub const COUNT: usize = 14;

    /// All verdicts, in order.
    pub const ALL: [PinnedVerdict; Self::COUNT] = [
        PinnedVerdict::Short,
        PinnedVerdict::Foreign,
        PinnedVerdict::UnknownMac,
        PinnedVerdict::SpoofedAddress,
        PinnedVerdict::Claim,
        PinnedVerdict::Malformed,
        PinnedVerdict::Options,
        PinnedVerdict::Fragment,
        PinnedVerdict::Protocol,
        PinnedVerdict::Misdirected,
        PinnedVerdict::OtherDestination,
        PinnedVerdict::RateLimited,
        PinnedVerdict::Answered,
        PinnedVerdict::Passed,
    ];

    /// The name used in `show` and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            PinnedVerdict::Short => "short",
            PinnedVerdict::Foreign => "foreign",
            PinnedVerdict::UnknownMac => "unknown_mac",
            PinnedVerdict::SpoofedAddress => "spoofed_address",
            PinnedVerdict::Claim => "neighbour_claim",
            PinnedVerdict::Malformed => "malformed",
            PinnedVerdict::Options => "options",
            PinnedVerdict::Fragment => "fragment",
            PinnedVerdict::Protocol => "protocol",
            PinnedVerdict::Misdirected => "misdirected",
            PinnedVerdict::OtherDestination => "other_destination",
            PinnedVerdict::RateLimited => "rate_limited",
            PinnedVerdict::Answered => "answered",
            PinnedVerdict::Passed => "passed",
        }
    }
}
