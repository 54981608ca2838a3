//! Attacks on a Gateway by a host on its own LAN: what they send ([`CATALOGUE`]), how fast
//! ([`flood`]), and where their frames end ([`Suite`]).

mod catalogue;
mod frame;
mod sender;
mod suite;

pub use catalogue::{Attack, CATALOGUE, INSIDER_PORT, Known, Writer};
pub use frame::{
    Mac, Noise, advertisement, arp, checksum, ethernet, header_of, hello, initiation, portcullis,
    solicitation, tagged, udp_v4,
};
pub use sender::{Bounds, flood};
pub use suite::{Outcome, Suite};
