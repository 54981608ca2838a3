//! Asking the CPU for memory before it is needed, so that a batch waits for many lines at once and
//! not for one after the other.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the first `lines` cache lines of `value`, as far as it reaches.
#[inline(always)]
pub fn prefetch<T: ?Sized>(value: &T, lines: usize) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    for at in (0..size_of_val(value)).step_by(LINE).take(lines) {
        prefetch_at(start.wrapping_add(at));
    }
}

/// Asks for the cache line at an address, which may be any.
#[inline(always)]
pub fn prefetch_at(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
