//! Steering: which TUN queue, and so which worker, gets a packet from the host's stack.
//!
//! The TUN device shows the packet from its IP header on and takes the result modulo the number of
//! its queues. A destination in no prefix goes to queue 0.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LpmTrie;
use aya_ebpf::maps::lpm_trie::Key;

#[map]
static QUEUES_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(4096, 0);
#[map]
static QUEUES_V6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(4096, 0);

/// Where the destination address stands in an IPv4 and in an IPv6 header.
const V4_DESTINATION: u32 = 16;
const V6_DESTINATION: u32 = 24;

/// A key with its address at a multiple of four: the verifier takes no other access to the stack,
/// and [`Key`] alone may stand anywhere.
#[repr(C, align(8))]
struct Aligned<K>(Key<K>);

#[inline(always)]
pub fn queue(context: *mut __sk_buff) -> u32 {
    find(context).unwrap_or(0)
}

#[inline(always)]
fn find(packet: *mut __sk_buff) -> Option<u32> {
    let mut first = 0u32;
    load(packet, 0, (&raw mut first).cast(), 1)?;
    match first >> 4 {
        4 => {
            let mut key = Aligned(Key::new(32, [0; 4]));
            load(packet, V4_DESTINATION, (&raw mut key.0.data).cast(), 4)?;
            QUEUES_V4.get(&key.0).copied()
        }
        6 => {
            let mut key = Aligned(Key::new(128, [0; 16]));
            load(packet, V6_DESTINATION, (&raw mut key.0.data).cast(), 16)?;
            QUEUES_V6.get(&key.0).copied()
        }
        _ => None,
    }
}

/// Copies `length` bytes of the packet to `to`, which has room for them. `None` where the packet
/// ends before.
#[inline(always)]
fn load(packet: *mut __sk_buff, at: u32, to: *mut c_void, length: u32) -> Option<()> {
    // SAFETY: the context is the kernel's; every caller passes a local of `length` bytes or more.
    let result = unsafe { bpf_skb_load_bytes(packet.cast(), at, to, length) };
    (result == 0).then_some(())
}
