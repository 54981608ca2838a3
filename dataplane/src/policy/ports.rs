//! A set of ports in two steps: the high byte chooses a leaf of 256 bits, the low byte a bit of it.
//! Equal leaves are kept once, so a set of few ranges is a few hundred bytes and stays in the first
//! cache. Asking it costs two loads, whatever it is made of.

use super::PortRange;

type Leaf = [u64; 4];

/// A set of ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSet {
    pages: [u8; 256],
    leaves: Vec<Leaf>,
}

impl Default for PortSet {
    fn default() -> Self {
        Self {
            pages: [0; 256],
            leaves: Vec::new(),
        }
    }
}

impl PortSet {
    /// The ports of all ranges.
    pub fn of(ranges: &[PortRange]) -> Self {
        if ranges.is_empty() {
            return Self::default();
        }
        let mut full = vec![[0u64; 4]; 256];
        for range in ranges {
            for port in range.first..=range.last {
                let [page, low] = port.to_be_bytes();
                full[usize::from(page)][usize::from(low >> 6)] |= 1 << (low & 63);
            }
        }
        let mut set = Self::default();
        for (page, leaf) in set.pages.iter_mut().zip(&full) {
            let known = set.leaves.iter().position(|has| has == leaf);
            let at = known.unwrap_or(set.leaves.len());
            if known.is_none() {
                set.leaves.push(*leaf);
            }
            // There are no more leaves than pages.
            *page = at as u8;
        }
        set
    }

    /// Whether there is no port in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// Whether a port is in it.
    #[inline]
    pub fn contains(&self, port: u16) -> bool {
        let [page, low] = port.to_be_bytes();
        let leaf = self.leaves.get(usize::from(self.pages[usize::from(page)]));
        leaf.is_some_and(|leaf| leaf[usize::from(low >> 6)] >> (low & 63) & 1 != 0)
    }
}
