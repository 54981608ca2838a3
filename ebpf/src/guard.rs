//! The egress guard's counter. The guard itself has nothing to decide: all that passes its hook
//! comes from the kernel's stack, and none of that may leave a port.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

#[map]
static GUARD_DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub fn count() {
    if let Some(drops) = GUARD_DROPS.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's own element, and softirqs do not nest on a CPU.
        unsafe { *drops += 1 };
    }
}
