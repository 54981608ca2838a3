//! The attacks over networks: by somebody on the Internet who is on the path of ws1, sees every datagram, sends any
//! of its own from any address and on the Gateway's own cable, and holds everything that a compromised Workstation
//! (ws4) holds. ws2 is elsewhere on the Internet and is to notice nothing at all.
//!
//! ```text
//!   gw --wan-- (ig) internet (ih) --- middlebox --- (hw) home NAT --- ws1
//!                       '------------------------------------------- ws2
//! ```

mod datagrams;
mod frames;
mod outer;
mod segment;
mod steps;
mod suite;
mod watch;

pub use steps::STEPS;
pub use suite::Remote;

use super::stream::{Attack, From, Known, Writer};

/// Streams that are sent without keys, or beside them.
pub(super) fn streams() -> impl Iterator<Item = &'static Attack> {
    [datagrams::DATAGRAMS, frames::FRAMES, segment::SEGMENT]
        .into_iter()
        .flatten()
}

/// Those of a compromised Workstation, which are the same whatever carries them.
pub(super) fn under_keys() -> impl Iterator<Item = &'static Attack> {
    let all = [super::CATALOGUE, super::KEYS].into_iter().flatten();
    all.filter(|attack| attack.from == From::Keys)
}

const fn path(
    name: &'static str,
    verdicts: &'static [&'static str],
    frames: fn(&Known) -> Writer,
) -> Attack {
    attack(name, verdicts, From::Cable, frames)
}

const fn keys(
    name: &'static str,
    verdicts: &'static [&'static str],
    frames: fn(&Known) -> Writer,
) -> Attack {
    attack(name, verdicts, From::Keys, frames)
}

const fn attack(
    name: &'static str,
    verdicts: &'static [&'static str],
    from: From,
    frames: fn(&Known) -> Writer,
) -> Attack {
    Attack {
        name,
        verdicts,
        from,
        races: false,
        frames,
    }
}
