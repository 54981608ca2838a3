//! What admission decides about a frame. Every verdict but `Admitted` is a drop.

/// A verdict, in the order in which the checks are made. The discriminant is its place in the
/// counter maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Verdict {
    /// Shorter than an Ethernet header with its payload's fixed part.
    Short = 0,
    /// Not the tunnel's EtherType: VLAN (VID 0 too), ARP, IP, ND and all else.
    Foreign = 1,
    /// Version, flags, type not for this side, length or counter out of range.
    Malformed = 2,
    /// Not for this port's MAC address, or not from the session's.
    Misdirected = 3,
    /// No session has this index.
    UnknownSession = 4,
    /// No Workstation has this key id.
    UnknownKey = 5,
    /// The admission tag is wrong.
    BadTag = 6,
    /// The counter is below the floor or was admitted before; or the handshake nonce was.
    Replay = 7,
    /// A handshake bucket is empty.
    RateLimited = 8,
    /// The Workstation has used up its credit.
    QueueFull = 9,
    /// No AF_XDP socket is bound to this queue.
    NoSocket = 10,
    /// Redirected to the AF_XDP socket.
    Admitted = 11,
}

impl Verdict {
    /// How many verdicts there are.
    pub const COUNT: usize = 12;

    /// All verdicts, in order.
    pub const ALL: [Verdict; Self::COUNT] = [
        Verdict::Short,
        Verdict::Foreign,
        Verdict::Malformed,
        Verdict::Misdirected,
        Verdict::UnknownSession,
        Verdict::UnknownKey,
        Verdict::BadTag,
        Verdict::Replay,
        Verdict::RateLimited,
        Verdict::QueueFull,
        Verdict::NoSocket,
        Verdict::Admitted,
    ];

    /// The name used in `show`, in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Short => "short",
            Verdict::Foreign => "foreign",
            Verdict::Malformed => "malformed",
            Verdict::Misdirected => "misdirected",
            Verdict::UnknownSession => "unknown_session",
            Verdict::UnknownKey => "unknown_key",
            Verdict::BadTag => "bad_tag",
            Verdict::Replay => "replay",
            Verdict::RateLimited => "rate_limited",
            Verdict::QueueFull => "queue_full",
            Verdict::NoSocket => "no_socket",
            Verdict::Admitted => "admitted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_stands_at_its_own_place() {
        for (at, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, at);
        }
    }
}
