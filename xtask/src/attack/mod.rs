//! Attacks on a Gateway and a Workstation by a host on their LAN: streams of frames from the cable ([`CATALOGUE`],
//! [`CABLE`]), as if from the Gateway to the Workstation ([`IMPERSONATION`]) and under another Workstation's stolen
//! keys ([`KEYS`]), attacks in steps ([`SCENARIOS`]), and where they end ([`Suite`]). `cargo xtask attack` runs all
//! of them, the demo the first.

mod agent;
mod cable;
mod catalogue;
mod frame;
mod ground;
mod history;
mod impersonation;
pub mod inner;
mod keys;
mod outcome;
mod padding;
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
    router_advertisement, solicitation, tagged, tagged_by, udp_v4, udp_v6,
};
pub use history::Live;
pub use impersonation::IMPERSONATION;
pub use keys::KEYS;
pub use outcome::{Happened, Outcome};
pub use padding::PADDING;
pub use rogue::{Rogue, Sealer};
pub use run::{Options, Over, every, every_remote, list, run, table};
pub use scenarios::{SCENARIOS, Scenario};
pub use sender::{Bounds, flood};
pub use stream::{Attack, From, INSIDER_PORT, Known, Writer};
pub use suite::Suite;
pub use udp::Remote;
