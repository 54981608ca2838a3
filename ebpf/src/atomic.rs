//! The two atomic instructions that admission needs. `core::sync::atomic` has neither on this
//! target, which is declared for the oldest instruction set; all kernels from 5.12 on have them.

use core::arch::asm;

/// Adds one to a word.
///
/// # Safety
/// `word` is aligned, and valid to write for as long as the call lasts.
#[inline(always)]
pub unsafe fn increment(word: *mut u64) {
    // SAFETY: the caller's promise; the instruction touches the eight bytes at `word` alone.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {one}", word = in(reg) word, one = in(reg) 1u64) }
}

/// Makes a cell `new` where it is still `old`; false where it is not.
///
/// # Safety
/// `cell` is aligned, and valid to read and write for as long as the call lasts.
#[inline(always)]
pub unsafe fn replace(cell: *mut u32, old: u32, new: u32) -> bool {
    let mut found = u64::from(old);
    // SAFETY: the caller's promise; the instruction touches the four bytes at `cell` and r0 alone.
    unsafe {
        asm!(
            "w0 = cmpxchg32_32(r1 + 0, w0, w2)",
            in("r1") cell,
            in("r2") u64::from(new),
            inout("r0") found,
        );
    }
    found == u64::from(old)
}
