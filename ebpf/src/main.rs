//! The kernel side of Portcullis, in one object. XDP comes first, before the kernel allocates anything;
//! the guards on ingress see whatever got past the driver's XDP hook, and those on egress whatever the
//! kernel's own stack would send. Each kind of port has its own three:
//!
//! | hook of a port | `tunnel` | over `udp` | over `udp`, shared | `pinned` | `open` |
//! |---|---|---|---|---|---|
//! | XDP, ingress | `admission` | `admission` | `admission` | `pinned` | `open` |
//! | tcx or clsact, ingress | `ingress_guard` | `ingress_udp` | `ingress_shared` | `ingress_pinned` | `ingress_open` |
//! | tcx or clsact, egress | `guard` | `guard_udp` | | `guard_pinned` | `guard_open` |
//!
//! | hook of the host interface | program | |
//! |---|---|---|
//! | `steering` | TUNSETSTEERINGEBPF | which worker's TUN queue gets a packet for a Workstation |
//!
//! | hook of a Workstation's uplink | program | |
//! |---|---|---|
//! | XDP, ingress | `fast_path` | the tunnel's datagrams past the kernel's stack |
//!
//! Each port is loaded with maps of its own. Built for kernels 6.1 and later.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod admission;
mod atomic;
mod fast_path;
mod guard;
mod packet;
mod pinned;
mod steering;
mod udp;
mod watch;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_md};
use aya_ebpf::helpers::bpf_redirect;

use pinned::Guarded;

/// The license the kernel reads; `bpf_ktime_get_ns` asks for one compatible with the GPL.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Decides about every frame that arrives at the port. Never XDP_PASS on `ether`.
///
/// `frags`: it can be attached where frames are larger than a page, and come in several pieces.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp.frags")]
extern "C" fn admission(context: *mut xdp_md) -> u32 {
    admission::run(context)
}

/// Drops everything the kernel would send from the port. AF_XDP frames do not come this way.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn guard(_context: *mut __sk_buff) -> i32 {
    guard::count(guard::EGRESS);
    TC_ACT_SHOT as i32
}

/// Drops everything that would enter the kernel's stack by the port. Admitted frames do not come this
/// way, and others only where a driver leaves its XDP hook out: veth does while its link goes down.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn ingress_guard(_context: *mut __sk_buff) -> i32 {
    guard::count(guard::INGRESS);
    TC_ACT_SHOT as i32
}

/// Answers ARP and neighbour discovery at a port of `udp`, and drops all else, as `ingress_guard` does.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn ingress_udp(context: *mut __sk_buff) -> i32 {
    guarded(context, udp::enters(context), guard::INGRESS)
}

/// Lets out of a port of `udp` what `ingress_udp` answers, and nothing of the kernel's.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn guard_udp(context: *mut __sk_buff) -> i32 {
    guarded(context, udp::leaves(context), guard::EGRESS)
}

/// Drops at a shared port what would come to the tunnel's UDP port in a way that XDP does not follow.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn ingress_shared(context: *mut __sk_buff) -> i32 {
    guarded(context, udp::shared(context), guard::INGRESS)
}

/// Decides about every frame that arrives at a port of pinned Workstations.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp.frags")]
extern "C" fn pinned(context: *mut xdp_md) -> u32 {
    pinned::run(context)
}

/// Counts and passes every frame that arrives at an open port.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp.frags")]
extern "C" fn open(context: *mut xdp_md) -> u32 {
    pinned::run_open(context)
}

/// Answers ARP and neighbour discovery at a pinned port, and lets in what is from pins.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn ingress_pinned(context: *mut __sk_buff) -> i32 {
    guarded(context, pinned::enters(context), guard::INGRESS)
}

/// Takes the place of the others where nothing is held back.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn ingress_open(_context: *mut __sk_buff) -> i32 {
    TC_ACT_UNSPEC
}

/// Lets out of a pinned port what the kernel sends to pins.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn guard_pinned(context: *mut __sk_buff) -> i32 {
    guarded(context, pinned::leaves(context), guard::EGRESS)
}

/// Lets out of an open port what the kernel does not forward.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn guard_open(context: *mut __sk_buff) -> i32 {
    guarded(context, pinned::leaves_open(context), guard::EGRESS)
}

#[inline(always)]
fn guarded(context: *mut __sk_buff, guarded: Guarded, hook: u32) -> i32 {
    match guarded {
        Guarded::On => TC_ACT_UNSPEC,
        // SAFETY: the kernel hands the program a valid context; the helper has no preconditions.
        Guarded::Answer => unsafe { bpf_redirect((*context).ifindex, 0) as i32 },
        Guarded::Dropped => {
            guard::count(hook);
            TC_ACT_SHOT as i32
        }
    }
}

/// Takes the tunnel's datagrams past the kernel's stack, which gets everything else.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp.frags")]
extern "C" fn fast_path(context: *mut xdp_md) -> u32 {
    fast_path::run(context)
}

/// The TUN queue of a packet, by its destination.
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
extern "C" fn steering(context: *mut __sk_buff) -> u32 {
    steering::queue(context)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; were it to, the verifier would refuse the endless loop.
    loop {}
}
