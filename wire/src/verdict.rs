//! What admission decides about a frame.

/// A verdict, in the order in which the checks are made. The discriminant is its place in the
/// counter maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Verdict {
    /// Shorter than the headers that a frame of the tunnel has.
    Short = 0,
    /// Not the tunnel's EtherType, or not its UDP port: VLAN (VID 0 too), ARP, IP, ND and all else.
    Foreign = 1,
    /// `udp`: a fragment, IP options or extension headers, a wrong header checksum or length, or a source that is
    /// no host's.
    OuterMalformed = 2,
    /// Version, flags, type not for this side, length or counter out of range.
    Malformed = 3,
    /// Not for this port's MAC or IP address, or not from the session's MAC address.
    Misdirected = 4,
    /// No session has this index.
    UnknownSession = 5,
    /// No Workstation has this key id.
    UnknownKey = 6,
    /// The admission tag is wrong.
    BadTag = 7,
    /// The counter is below the floor or was admitted before; or the handshake nonce was.
    Replay = 8,
    /// A handshake bucket is empty, or on `udp` that of questions for the port's hardware address.
    RateLimited = 9,
    /// The Workstation has used up its credit.
    QueueFull = 10,
    /// No AF_XDP socket is bound to this queue.
    NoSocket = 11,
    /// Redirected to the AF_XDP socket.
    Admitted = 12,
    /// `udp` on a port of its own: a question for the port's hardware address, answered without the kernel.
    Answered = 13,
    /// `udp` on a shared port: nothing of the tunnel's, and the kernel's to deal with.
    Passed = 14,
}

impl Verdict {
    /// How many verdicts there are.
    pub const COUNT: usize = 15;

    /// All verdicts, in order.
    pub const ALL: [Verdict; Self::COUNT] = [
        Verdict::Short,
        Verdict::Foreign,
        Verdict::OuterMalformed,
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
        Verdict::Answered,
        Verdict::Passed,
    ];

    /// Whether the frame is dropped.
    pub const fn is_drop(self) -> bool {
        !matches!(
            self,
            Verdict::Admitted | Verdict::Answered | Verdict::Passed
        )
    }

    /// The name used in `show`, in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Short => "short",
            Verdict::Foreign => "foreign",
            Verdict::OuterMalformed => "outer_malformed",
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
            Verdict::Answered => "answered",
            Verdict::Passed => "passed",
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
