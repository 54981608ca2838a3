//! The kernel side of Portcullis: four programs in one object.
//!
//! | program | hook | in a frame's way |
//! |---|---|---|
//! | `admission` | XDP, ingress of a port | first: before the kernel allocates anything |
//! | `ingress_guard` | tcx or clsact, ingress of a port | whatever got past the driver's XDP hook |
//! | `guard` | tcx or clsact, egress of a port | last: whatever the kernel's own stack would send |
//! | `steering` | TUNSETSTEERINGEBPF | which worker's TUN queue gets a packet for a Workstation |
//!
//! Each port is loaded with maps of its own. Built for kernels 6.1 and later.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod admission;
mod atomic;
mod guard;
mod steering;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, xdp_md};

/// The license the kernel reads; `bpf_ktime_get_ns` asks for one compatible with the GPL.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Decides about every frame that arrives at the port. Never XDP_PASS.
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
