//! The cookie: proof that an Initiation's sender has received a Challenge at the address it sends
//! from, without the Gateway keeping anything for a Hello.
//!
//! Also the memory of handshake nonces, which lives as long as the cookies they came with.

use super::random::Randomness;
use super::{Mac, Path};
use std::net::IpAddr;
use std::time::Duration;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A cookie secret is the current one for this long, and accepted for as long again.
pub const PERIOD: Duration = Duration::from_secs(120);
/// Handshake nonces of a Workstation remembered per period; past it Initiations are refused.
pub const NONCES: usize = 256;

/// Where a handshake frame came from: what a cookie is bound to besides key id and nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The interface's index.
    pub ifindex: u32,
    /// The encapsulation: 1 `ether`, 2 `udp`.
    pub encapsulation: u8,
    /// `ether`: the MAC address and ten zeros. `udp`: the IPv6 or v4-mapped address.
    pub address: [u8; 16],
    /// `udp`: the port. `ether`: 0.
    pub port: u16,
}

impl Origin {
    /// Where a frame that came by a path to an interface is from.
    pub fn new(ifindex: u32, path: &Path) -> Self {
        let remote = match path {
            Path::Ether(mac) => return Self::ether(ifindex, *mac),
            Path::Udp(path) => Some(path.remote),
            // Only a Workstation has one, and makes no cookies.
            Path::Socket => None,
        };
        let address = remote.map(|remote| match remote.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        });
        Self {
            ifindex,
            encapsulation: 2,
            address: address.unwrap_or_default(),
            port: remote.map_or(0, |remote| remote.port()),
        }
    }

    /// A source MAC address on an interface.
    pub fn ether(ifindex: u32, mac: Mac) -> Self {
        let mut address = [0; 16];
        address[..6].copy_from_slice(&mac);
        Self {
            ifindex,
            encapsulation: 1,
            address,
            port: 0,
        }
    }
}

/// Computes a cookie.
pub fn cookie(secret: &[u8; 32], key_id: u32, nonce: u64, origin: &Origin) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(&key_id.to_le_bytes());
    hasher.update(&nonce.to_le_bytes());
    hasher.update(&origin.ifindex.to_le_bytes());
    hasher.update(&[origin.encapsulation]);
    hasher.update(&origin.address);
    hasher.update(&origin.port.to_le_bytes());
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    out
}

/// The rotating secrets.
pub(super) struct Cookies {
    current: Zeroizing<[u8; 32]>,
    previous: Zeroizing<[u8; 32]>,
    since: Duration,
    period: u64,
}

impl Cookies {
    pub(super) fn new(random: &mut Randomness, now: Duration) -> Self {
        Self {
            current: Zeroizing::new(random.bytes()),
            previous: Zeroizing::new(random.bytes()),
            since: now,
            period: 1,
        }
    }

    /// Rotates the secret where it is time to.
    pub(super) fn rotate(&mut self, random: &mut Randomness, now: Duration) {
        let age = now.saturating_sub(self.since);
        if age < PERIOD {
            return;
        }
        // After two periods of silence the current secret is too old to be the previous one.
        let stale = age >= PERIOD * 2;
        let fresh = |random: &mut Randomness| Zeroizing::new(random.bytes());
        self.previous = if stale {
            fresh(random)
        } else {
            std::mem::replace(&mut self.current, Zeroizing::new([0; 32]))
        };
        self.current = fresh(random);
        self.since = now;
        self.period += if stale { 2 } else { 1 };
    }

    /// The number of the current period.
    pub(super) fn period(&self) -> u64 {
        self.period
    }

    pub(super) fn make(&self, key_id: u32, nonce: u64, origin: &Origin) -> [u8; 16] {
        cookie(&self.current, key_id, nonce, origin)
    }

    pub(super) fn check(&self, key_id: u32, nonce: u64, origin: &Origin, given: &[u8; 16]) -> bool {
        let current = cookie(&self.current, key_id, nonce, origin).ct_eq(given);
        let previous = cookie(&self.previous, key_id, nonce, origin).ct_eq(given);
        (current | previous).into()
    }
}

/// What [`Nonces::take`] says of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nonce {
    /// Not seen before; remembered now.
    Fresh,
    /// Seen in this period or the one before.
    Repeated,
    /// There is no room to remember it.
    Full,
}

/// The nonces of a Workstation's Initiations in the current cookie period and the one before. A
/// cookie is accepted to the end of the period after its own, and so long its nonce is known.
#[derive(Debug, Default)]
pub(super) struct Nonces {
    period: u64,
    current: Vec<u64>,
    previous: Vec<u64>,
}

impl Nonces {
    pub(super) fn take(&mut self, period: u64, nonce: u64) -> Nonce {
        if period != self.period {
            self.previous = if period == self.period + 1 {
                std::mem::take(&mut self.current)
            } else {
                Vec::new()
            };
            self.current.clear();
            self.period = period;
        }
        if self.current.contains(&nonce) || self.previous.contains(&nonce) {
            Nonce::Repeated
        } else if self.current.len() >= NONCES {
            Nonce::Full
        } else {
            self.current.push(nonce);
            Nonce::Fresh
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_cookie_is_good_for_its_period_and_the_next_one_only() {
        let mut random = Randomness::new([7; 32]);
        let mut cookies = Cookies::new(&mut random, SECOND);
        let origin = Origin::ether(3, [2, 0, 0, 0, 0, 1]);
        let given = cookies.make(1, 2, &origin);
        cookies.rotate(&mut random, SECOND + PERIOD - SECOND / 2);
        assert!(cookies.check(1, 2, &origin, &given));
        cookies.rotate(&mut random, SECOND + PERIOD);
        assert!(cookies.check(1, 2, &origin, &given));
        cookies.rotate(&mut random, SECOND + PERIOD * 2);
        assert!(!cookies.check(1, 2, &origin, &given));
        let given = cookies.make(1, 2, &origin);
        cookies.rotate(&mut random, SECOND + PERIOD * 4);
        assert!(!cookies.check(1, 2, &origin, &given));
    }

    #[test]
    fn a_cookie_is_bound_to_everything_it_is_made_of() {
        let mut random = Randomness::new([7; 32]);
        let cookies = Cookies::new(&mut random, SECOND);
        let origin = Origin::ether(3, [2, 0, 0, 0, 0, 1]);
        let given = cookies.make(1, 2, &origin);
        assert!(cookies.check(1, 2, &origin, &given));
        assert!(!cookies.check(2, 2, &origin, &given));
        assert!(!cookies.check(1, 3, &origin, &given));
        for other in [
            Origin {
                ifindex: 4,
                ..origin
            },
            Origin {
                encapsulation: 2,
                ..origin
            },
            Origin { port: 1, ..origin },
            Origin::ether(3, [2, 0, 0, 0, 0, 2]),
        ] {
            assert!(!cookies.check(1, 2, &other, &given), "{other:?}");
        }
    }

    #[test]
    fn a_nonce_is_fresh_once_as_long_as_its_cookie_is_good() {
        let mut nonces = Nonces::default();
        assert_eq!(nonces.take(1, 9), Nonce::Fresh);
        assert_eq!(nonces.take(1, 9), Nonce::Repeated);
        assert_eq!(nonces.take(2, 9), Nonce::Repeated);
        assert_eq!(nonces.take(3, 9), Nonce::Fresh);
        for nonce in 0..NONCES as u64 - 1 {
            assert_eq!(nonces.take(3, 1000 + nonce), Nonce::Fresh);
        }
        assert_eq!(nonces.take(3, 5), Nonce::Full);
        assert_eq!(nonces.take(4, 5), Nonce::Fresh);
        assert_eq!(nonces.take(9, 5), Nonce::Fresh);
    }
}
