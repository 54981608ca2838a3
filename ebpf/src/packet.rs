//! How the bytes of a frame are reached, in XDP and in traffic control.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::{
    bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_xdp_get_buff_len,
    bpf_xdp_load_bytes,
};
use wire::Frame;
use wire::pinned::FrameMut;

/// The packet, bounded as the verifier asks: each read is checked against `end` first. Of a frame
/// larger than a page this is the first piece, which holds all that is read.
pub struct Packet {
    context: *mut xdp_md,
    start: usize,
    end: usize,
}

impl Packet {
    #[inline(always)]
    pub fn new(context: *mut xdp_md) -> Self {
        // SAFETY: the kernel hands the program a valid context.
        let (start, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
        Self {
            context,
            start,
            end,
        }
    }

    /// A `T` at `at`, at any alignment.
    #[inline(always)]
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let from = self.start + at;
        if from + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: `from` up to the size of `T` is inside the packet, and `T` is an integer or an
        // array of them.
        Some(unsafe { (from as *const T).read_unaligned() })
    }
}

impl Frame for Packet {
    #[inline(always)]
    fn holds(&self, bytes: usize) -> bool {
        // Most frames are in one piece, and are not to pay for the call.
        if self.end - self.start >= bytes {
            return true;
        }
        // SAFETY: the context is the one the kernel handed the program.
        let whole = unsafe { bpf_xdp_get_buff_len(self.context) };
        whole >= bytes as u64
    }

    #[inline(always)]
    fn mac(&self, at: usize) -> Option<[u8; 6]> {
        self.read(at)
    }

    #[inline(always)]
    fn be16(&self, at: usize) -> Option<u16> {
        self.read(at).map(u16::from_be)
    }

    #[inline(always)]
    fn words(&self, at: usize) -> Option<[u64; 3]> {
        self.read(at)
    }

    #[inline(always)]
    fn word(&self, at: usize) -> Option<u64> {
        self.read(at)
    }

    #[inline(always)]
    fn far_be16(&self, at: usize) -> Option<u16> {
        let mut bytes = [0u8; 2];
        // SAFETY: the context is the one the kernel handed the program, and two bytes are written into two.
        let failed =
            unsafe { bpf_xdp_load_bytes(self.context, at as u32, bytes.as_mut_ptr().cast(), 2) };
        if failed == 0 {
            Some(u16::from_be_bytes(bytes))
        } else {
            None
        }
    }
}

/// A packet of the kernel's, whose first bytes are reached where they lie, and bounded like
/// [`Packet`].
pub struct Skb {
    context: *mut __sk_buff,
    start: usize,
    end: usize,
}

impl Skb {
    /// A packet of whose bytes no more than `head` are looked at.
    #[inline(always)]
    pub fn new(context: *mut __sk_buff, head: u32) -> Self {
        let mut packet = Self::of(context);
        let length = packet.length();
        let wanted = if length > head { head } else { length };
        if packet.end - packet.start < wanted as usize {
            // What cannot be brought together is not there for us, and so is dropped.
            // SAFETY: the context is the kernel's; pointers into the packet are read anew.
            unsafe { bpf_skb_pull_data(context, wanted) };
            packet = Self::of(context);
        }
        packet
    }

    #[inline(always)]
    fn of(context: *mut __sk_buff) -> Self {
        // SAFETY: the kernel hands the program a valid context.
        let (start, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
        Self {
            context,
            start,
            end,
        }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.context).len }
    }

    /// The interface that received it; 0 for what this machine has made.
    #[inline(always)]
    pub fn received_by(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.context).ingress_ifindex }
    }

    /// The interface at whose hook it is.
    #[inline(always)]
    pub fn interface(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.context).ifindex }
    }

    /// The packet with another length, of which all is within reach.
    #[inline(always)]
    pub fn resized(self, length: u32) -> Option<Self> {
        // SAFETY: the context is the kernel's; pointers into the packet are read anew.
        let failed = unsafe { bpf_skb_change_tail(self.context, length, 0) };
        if failed == 0 {
            Some(Self::new(self.context, length))
        } else {
            None
        }
    }

    /// Whether a VLAN tag was taken off it, which its bytes do not show.
    #[inline(always)]
    pub fn was_tagged(&self) -> bool {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.context).vlan_present != 0 }
    }

    /// Whether that tag was one of no VLAN (IEEE 802.1p), which the kernel takes for none.
    #[inline(always)]
    pub fn was_priority_tagged(&self) -> bool {
        // SAFETY: the kernel hands the program a valid context.
        let tag = unsafe { (*self.context).vlan_tci };
        self.was_tagged() && tag & 0xfff == 0
    }

    /// A `T` at `at`, at any alignment.
    #[inline(always)]
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let from = self.start + at;
        if from + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: `from` up to the size of `T` is inside the packet, and `T` is an integer or an
        // array of them.
        Some(unsafe { (from as *const T).read_unaligned() })
    }

    /// Writes a `T` at `at`, at any alignment.
    #[inline(always)]
    fn write<T: Copy>(&mut self, at: usize, value: T) -> Option<()> {
        let to = self.start + at;
        if to + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: `to` up to the size of `T` is inside the packet, of which the kernel gives a program
        // that writes a copy of its own.
        unsafe { (to as *mut T).write_unaligned(value) };
        Some(())
    }
}

impl Frame for Skb {
    #[inline(always)]
    fn holds(&self, bytes: usize) -> bool {
        self.length() as usize >= bytes
    }

    #[inline(always)]
    fn mac(&self, at: usize) -> Option<[u8; 6]> {
        self.read(at)
    }

    #[inline(always)]
    fn be16(&self, at: usize) -> Option<u16> {
        self.read(at).map(u16::from_be)
    }

    #[inline(always)]
    fn words(&self, at: usize) -> Option<[u64; 3]> {
        self.read(at)
    }

    #[inline(always)]
    fn word(&self, at: usize) -> Option<u64> {
        self.read(at)
    }

    #[inline(always)]
    fn far_be16(&self, at: usize) -> Option<u16> {
        let mut bytes = [0u8; 2];
        // SAFETY: the context is the one the kernel handed the program, and two bytes are written into two.
        let failed = unsafe {
            bpf_skb_load_bytes(self.context.cast(), at as u32, bytes.as_mut_ptr().cast(), 2)
        };
        if failed == 0 {
            Some(u16::from_be_bytes(bytes))
        } else {
            None
        }
    }
}

impl FrameMut for Skb {
    #[inline(always)]
    fn set_mac(&mut self, at: usize, mac: [u8; 6]) -> Option<()> {
        self.write(at, mac)
    }

    #[inline(always)]
    fn set_be16(&mut self, at: usize, value: u16) -> Option<()> {
        self.write(at, value.to_be())
    }

    #[inline(always)]
    fn set_word(&mut self, at: usize, value: u64) -> Option<()> {
        self.write(at, value)
    }
}
