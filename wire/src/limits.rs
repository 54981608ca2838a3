//! Every size, limit and interval of the protocol. Times are in nanoseconds unless the name says
//! otherwise.

/// Bytes of an Ethernet II header without a VLAN tag.
pub const ETH_LEN: usize = 14;
/// EtherType of `ether` encapsulation: IEEE 802 Local Experimental 1 (RFC 9542, section 3).
pub const ETHERTYPE: u16 = 0x88B5;
/// UDP port of `udp` encapsulation (of the range that IANA assigns to nobody).
pub const UDP_PORT: u16 = 51888;
/// Bytes before the Portcullis header on `udp` over IPv4: Ethernet, IPv4 and UDP headers.
pub const UDP_V4_LEN: usize = ETH_LEN + 20 + 8;
/// Bytes before the Portcullis header on `udp` over IPv6.
pub const UDP_V6_LEN: usize = ETH_LEN + 40 + 8;
/// The Ethernet broadcast address; Hello and Reset are sent to it.
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// Bytes of the Portcullis header, the same for every type.
pub const HEADER_LEN: usize = 24;
/// Bytes of an AEAD tag (AES-GCM, AES-GCM-SIV: 128 bits).
pub const TAG_LEN: usize = 16;
/// Bytes that the tunnel adds to an inner packet inside an Ethernet payload.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;
/// The inner packet that every network carries: what is left of IPv6's least MTU (RFC 8200, section 5).
pub const UDP_LEAST_MTU: usize = 1280 - (UDP_V6_LEN - ETH_LEN) - OVERHEAD;
/// Largest `length` of a Data frame.
pub const MAX_PAYLOAD: usize = 9216;
/// Data counters are below this; a larger one is malformed.
pub const COUNTER_LIMIT: u64 = 1 << 36;
/// Protocol version, the high nibble of a frame's first byte.
pub const VERSION: u8 = 1;

/// Payload bytes of a Hello.
pub const HELLO_LEN: usize = 32;
/// Payload bytes of a Challenge.
pub const CHALLENGE_LEN: usize = 32;
/// Payload bytes of an Initiation: the Challenge's payload and Noise message 1.
pub const INITIATION_LEN: usize = CHALLENGE_LEN + NOISE_MESSAGE_LEN;
/// Payload bytes of a Response: Noise message 2.
pub const RESPONSE_LEN: usize = NOISE_MESSAGE_LEN;
/// Payload bytes of a Reset.
pub const RESET_LEN: usize = 32;
/// Bytes of Noise message 1 and of Noise message 2.
pub const NOISE_MESSAGE_LEN: usize = 128;

/// Bits of the replay window.
pub const REPLAY_WINDOW: u64 = 8192;
/// Counters that a session's `seen` table in XDP tells apart.
pub const SEEN_CELLS: usize = 8192;

/// Sealed blocks plus frames per GCM key and direction, at most.
pub const SEAL_BLOCKS: u64 = (1 << 36) - 1;
/// A rekey starts when this many blocks are used (7/8 of [`SEAL_BLOCKS`]).
pub const REKEY_BLOCKS: u64 = SEAL_BLOCKS / 8 * 7;
/// Failed opens of one session, at most (the integrity limit).
pub const OPEN_FAILURES: u64 = 1 << 36;

/// One second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
/// A session is replaced at this age.
pub const REKEY_AFTER: u64 = 120 * SECOND;
/// A session is erased at this age, whatever it carries.
pub const REJECT_AFTER: u64 = 180 * SECOND;

/// Handshake bucket of a (key id, source) pair for Hello: interval between tokens, and burst.
pub const HELLO_SOURCE: (u64, u64) = (SECOND / 5, 10);
/// Handshake bucket of a (key id, source) pair for Initiation.
pub const INITIATION_SOURCE: (u64, u64) = (SECOND / 2, 5);
/// Handshake bucket of a key id for Hello, over all sources.
pub const HELLO_TOTAL: (u64, u64) = (SECOND / 200, 200);
/// Handshake bucket of a key id for Initiation, over all sources.
pub const INITIATION_TOTAL: (u64, u64) = (SECOND / 20, 20);
/// How many handshake nonces of a key id XDP remembers.
pub const NONCES_REMEMBERED: usize = 8;

/// The least credit (frames in flight to the worker) of a Workstation, where the ring is as large.
pub const CREDIT_MINIMUM: u64 = 64;
