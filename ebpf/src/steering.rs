//! Steering: which TUN queue, and so which worker, gets a packet from the host's stack.
//!
//! The TUN device shows the packet from its IP header on and takes the result modulo the number of
//! its queues. A destination in no prefix goes to queue 0.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LpmTrie;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SkBuffContext;

#[map]
static QUEUES_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(4096, 0);
#[map]
static QUEUES_V6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(4096, 0);

/// Where the destination address stands in an IPv4 and in an IPv6 header.
const V4_DESTINATION: usize = 16;
const V6_DESTINATION: usize = 24;

#[inline(always)]
pub fn queue(context: *mut __sk_buff) -> u32 {
    let packet = SkBuffContext::new(context);
    find(&packet).unwrap_or(0)
}

#[inline(always)]
fn find(packet: &SkBuffContext) -> Option<u32> {
    match packet.load::<u8>(0).ok()? >> 4 {
        4 => {
            let address = packet.load::<[u8; 4]>(V4_DESTINATION).ok()?;
            QUEUES_V4.get(Key::new(32, address)).copied()
        }
        6 => {
            let address = packet.load::<[u8; 16]>(V6_DESTINATION).ok()?;
            QUEUES_V6.get(Key::new(128, address)).copied()
        }
        _ => None,
    }
}
