//! Samples of dropped frames, for whoever watches.

use core::ffi::c_void;
use core::ptr::addr_of;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use wire::watch::{NOBODY, RING, SNAPLEN, Sample, VERDICTS, Watch};

use crate::admission::BPF_F_MMAPABLE;
use crate::atomic;

/// Nobody is woken: the reader looks by itself.
const NO_WAKEUP: u64 = 1;

#[map]
static WATCH: Array<Watch> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static SAMPLES: RingBuf = RingBuf::with_byte_size(RING, 0);

/// A frame that is being dropped.
#[inline(always)]
pub fn dropped(context: *mut xdp_md, verdict: u32, of: Option<u32>) {
    let Some(watch) = WATCH.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the pointer is to the map's element, and the word is aligned.
    if unsafe { addr_of!((*watch).verdicts).read_volatile() } != 0 {
        sample(context, watch, verdict, of.unwrap_or(NOBODY));
    }
}

/// Out of line, so that those who are not watched have nothing of it in their way.
#[inline(never)]
fn sample(context: *mut xdp_md, watch: *mut Watch, verdict: u32, of: u32) {
    let verdict = verdict & (VERDICTS as u32 - 1);
    // SAFETY: the caller's pointer is to the map's element, and the words are aligned.
    let (verdicts, only, rate) = unsafe {
        (
            addr_of!((*watch).verdicts).read_volatile(),
            addr_of!((*watch).only).read_volatile(),
            (
                addr_of!((*watch).interval).read_volatile(),
                addr_of!((*watch).burst).read_volatile(),
            ),
        )
    };
    if verdicts >> verdict & 1 == 0 {
        return;
    }
    if only != 0 && only != of as u64 + 1 {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: as above, and the index is masked to the buckets. CPUs may race for a token, and then
    // take more by the number of CPUs at most.
    let bucket = unsafe {
        &mut *(&raw mut (*watch).buckets)
            .cast::<wire::tables::Bucket>()
            .add(verdict as usize)
    };
    if !bucket.take(now, rate) {
        return;
    }
    let Some(mut entry) = SAMPLES.reserve::<Sample>(0) else {
        // SAFETY: the word is aligned, and only ever written atomically.
        unsafe { atomic::increment(&raw mut (*watch).missed) };
        return;
    };
    // SAFETY: the context is the one the kernel handed the program.
    let (length, queue) = unsafe {
        (
            bpf_xdp_get_buff_len(context) as u32,
            (*context).rx_queue_index,
        )
    };
    let captured = if length > SNAPLEN as u32 {
        SNAPLEN as u32
    } else {
        length
    };
    let sample = entry.as_mut_ptr();
    // SAFETY: the entry is this program's until it is submitted, and every field is written.
    let copied = unsafe {
        (*sample).time = now;
        (*sample).length = length;
        (*sample).verdict = verdict;
        (*sample).of = of;
        (*sample).queue = queue;
        (*sample).reserved = 0;
        let bytes = (&raw mut (*sample).bytes).cast::<c_void>();
        // Linux 6.1 takes no length that may be 0, and must be shown so of the very register that it is given.
        // Read back from memory, one less is nothing the compiler knows already, and so checks here.
        (*sample).captured = captured.wrapping_sub(1);
        let last = addr_of!((*sample).captured).read_volatile();
        if last < SNAPLEN as u32 {
            (*sample).captured = last + 1;
            bpf_xdp_load_bytes(context, 0, bytes, last + 1) == 0
        } else {
            false
        }
    };
    match copied {
        true => entry.submit(NO_WAKEUP),
        false => entry.discard(NO_WAKEUP),
    }
}
