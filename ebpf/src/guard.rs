//! The guards' counters. On a `tunnel` port the guards themselves have nothing to decide: all that passes
//! their hooks comes from the kernel's stack or would go to it, and none of that may leave or enter.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

/// Dropped at egress.
pub const EGRESS: u32 = 0;
/// Dropped at ingress.
pub const INGRESS: u32 = 1;

#[map]
static GUARD_DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

#[inline(always)]
pub fn count(hook: u32) {
    if let Some(drops) = GUARD_DROPS.get_ptr_mut(hook) {
        // SAFETY: the pointer is to this CPU's own element, and softirqs do not nest on a CPU.
        unsafe { *drops += 1 };
    }
}
