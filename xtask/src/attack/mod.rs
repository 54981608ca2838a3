//! Attacks on a Gateway by a host on its own LAN: streams of frames from the cable ([`CATALOGUE`],
//! [`CABLE`]) and under a Workstation's stolen keys ([`KEYS`]), attacks in steps ([`SCENARIOS`]), and
//! where they end ([`Suite`]). `cargo xtask attack` runs all of them, the demo the first.

mod cable;
mod catalogue;
mod frame;
mod ground;
mod inner;
mod keys;
mod outcome;
mod rogue;
mod run;
mod scenarios;
mod sender;
mod stream;
mod suite;
mod udp;

pub use cable::CABLE;
pub use catalogue::CATALOGUE;
pub use frame::{
    Mac, Noise, advertisement, arp, checksum, ethernet, header_of, hello, initiation, portcullis,
    router_advertisement, solicitation, tagged, udp_v4, udp_v6,
};
pub use keys::KEYS;
pub use outcome::{Happened, Outcome};
pub use rogue::{Rogue, Sealer};
pub use run::{Options, Over, every, every_remote, list, run, table};
pub use scenarios::{SCENARIOS, Scenario};
pub use sender::{Bounds, flood};
pub use stream::{Attack, From, INSIDER_PORT, Known, Writer};
pub use suite::Suite;
pub use udp::Remote;
