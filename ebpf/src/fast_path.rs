//! The fast path of a Workstation's socket: the datagrams of one flow past the kernel's stack.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_REDIRECT};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use wire::Flow;

use crate::admission::SOCKETS;
use crate::packet::Packet;

#[map]
static FLOW: Array<Flow> = Array::with_max_entries(1, 0);

/// Gives what is of the flow to the socket of its queue, where there is one, and everything else to the kernel.
#[inline(always)]
pub fn run(context: *mut xdp_md) -> u32 {
    let Some(flow) = FLOW.get_ptr(0) else {
        return XDP_PASS;
    };
    // SAFETY: the pointer is to an element of the map. Userspace may write it meanwhile: a flow mixed of two lets
    // nothing through that a session would not have to open.
    let flow = unsafe { *flow };
    if !flow.has(&Packet::new(context)) {
        return XDP_PASS;
    }
    // SAFETY: the kernel hands the program a valid context.
    let queue = unsafe { (*context).rx_queue_index };
    match SOCKETS.redirect(queue, XDP_PASS.into()) {
        Ok(_) => XDP_REDIRECT,
        Err(_) => XDP_PASS,
    }
}
