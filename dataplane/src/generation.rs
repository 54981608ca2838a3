//! Whether the machine was put back to a snapshot, or cloned: a counter outside of its memory.
//!
//! A virtual machine that is put back seals with keys and counters that have sealed other frames
//! already. Whoever can map a counter that changes with every restoration compares it before each
//! batch is sealed. A batch that was read before the snapshot was taken is sealed to the same bytes
//! again, so nothing is lost between the comparison and the seal.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A counter that changes when the machine is put back to a snapshot or cloned.
pub trait GenerationCounter: Send {
    /// Its value now. Only whether it has changed means anything.
    fn read(&self) -> u128;
}

/// Bytes that are compared: a VM generation identifier's. A shorter counter has zeros behind it.
const BYTES: usize = 16;

/// A counter at the beginning of something that can be mapped: a device of the kernel, a resource of
/// the hypervisor's, or a file.
pub struct Mapped {
    at: NonNull<u64>,
}

// SAFETY: the mapping is read-only, belongs to this value alone, and is as good on one thread as on
// another.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps it.
    ///
    /// # Errors
    /// It cannot be opened or mapped, or is a file too short to hold a counter.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file: File = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path)?;
        let data = file.metadata()?;
        if data.is_file() && data.len() < BYTES as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it has {} bytes, and a counter has {BYTES}", data.len()),
            ));
        }
        let length = NonZeroUsize::new(BYTES).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let at = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED,
                &file,
                0,
            )
        };
        Ok(Self { at: at?.cast() })
    }
}

impl GenerationCounter for Mapped {
    #[inline]
    fn read(&self) -> u128 {
        // SAFETY: both words lie in the mapping, whose start is aligned to a page. They may change at
        // any time, so they are read as volatile; a value torn between the two differs from the one
        // before all the same, and from the one after.
        let (low, high) = unsafe { (self.at.read_volatile(), self.at.add(1).read_volatile()) };
        u128::from(high) << 64 | u128::from(low)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it is this value's own mapping, and nothing refers to it any more.
        let _ = unsafe { munmap(self.at.cast(), BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_change_in_the_file_is_seen_in_the_mapping_and_what_is_no_counter_is_refused() {
        let directory = std::env::temp_dir().join(format!("pc-generation-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("counter");
        std::fs::write(&path, [7; 16]).unwrap();
        let counter = Mapped::open(&path).unwrap();
        let before = counter.read();
        assert_eq!(before, counter.read());
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for at in [0, 15] {
            let was = counter.read();
            file.write_all_at(&[8], at).unwrap();
            assert_ne!(counter.read(), was);
        }
        std::fs::write(&path, [1; 3]).unwrap();
        let refused = Mapped::open(&path).map(drop).unwrap_err();
        assert!(refused.to_string().contains("3 bytes"), "{refused}");
        assert!(Mapped::open(&directory.join("none")).is_err());
        drop(counter);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
