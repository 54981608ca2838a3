//! Ports of Workstations without keys: `wire::pinned` run over packet memory and BPF maps.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use wire::PinnedVerdict;
use wire::pinned::{PinKey, PinLimits, PinTables, answer, decide, is_answer, may_leave};

use crate::admission::{count, own_mac};
use crate::packet::{Packet, Skb};
use crate::watch;

/// The longest of what the guards look at on the way in: a neighbour solicitation with its option.
const SOLICITATION: u32 = 86;
/// And on the way out. With more than the headers, the payload of each TCP segment would be moved.
const IPV6_HEADER: u32 = 54;

// Sizes that the loader sets are 1 here.
#[map]
static PINS: HashMap<PinKey, u32> = HashMap::with_max_entries(1, 0);
#[map]
static PIN_LIMITS: Array<PinLimits> = Array::with_max_entries(1, 0);
#[map]
static PINNED_VERDICTS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(PinnedVerdict::COUNT as u32, 0);
#[map]
static PIN_VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What a guard makes of a packet.
#[derive(Clone, Copy)]
pub enum Guarded {
    /// It goes on, to the next program at the hook if there is one.
    On,
    /// It has become an answer, and leaves by the port.
    Answer,
    /// It is dropped.
    Dropped,
}

/// Decides, counts and answers the XDP action.
#[inline(always)]
pub fn run(context: *mut xdp_md) -> u32 {
    let (verdict, pin) = decide(own_mac(), &Packet::new(context), &Maps);
    count(&PINNED_VERDICTS, verdict as u32);
    if let Some(pin) = pin {
        let row = pin.wrapping_mul(PinnedVerdict::COUNT as u32);
        count(&PIN_VERDICTS, row.wrapping_add(verdict as u32));
    }
    match verdict {
        // To the kernel, from a pin's MAC and IP address to an address of the port; or as far as
        // `enters`, which answers it. XDP_TX would be nearer, but not every driver has it, and veth
        // loses what is sent so unless its other end has an XDP program too.
        PinnedVerdict::Passed | PinnedVerdict::Answered => XDP_PASS,
        _ => {
            watch::dropped(context, verdict as u32, pin);
            XDP_DROP
        }
    }
}

/// On an `open` port everything goes to the kernel, which is what its operator has asked for.
#[inline(always)]
pub fn run_open(_context: *mut xdp_md) -> u32 {
    count(&PINNED_VERDICTS, PinnedVerdict::Passed as u32);
    XDP_PASS
}

/// Answers questions, and decides about the rest once more, for what a driver may let past its XDP
/// hook. Rates were XDP's to enforce.
#[inline(always)]
pub fn enters(context: *mut __sk_buff) -> Guarded {
    let mut packet = Skb::new(context, SOLICITATION);
    if packet.was_tagged() {
        return Guarded::Dropped;
    }
    match decide(own_mac(), &packet, &Unlimited).0 {
        PinnedVerdict::Passed => Guarded::On,
        PinnedVerdict::Answered => match answer(own_mac(), &mut packet) {
            Some(()) => Guarded::Answer,
            None => Guarded::Dropped,
        },
        _ => Guarded::Dropped,
    }
}

/// What may leave a `pinned` port: what the kernel itself sends to a pin, and answers from `enters`.
#[inline(always)]
pub fn leaves(context: *mut __sk_buff) -> Guarded {
    let packet = Skb::new(context, IPV6_HEADER);
    let received_by = packet.received_by();
    let may = if received_by == 0 {
        may_leave(&packet, &Maps)
    } else {
        received_by == packet.interface() && is_answer(own_mac(), &packet)
    };
    match may {
        true => Guarded::On,
        false => Guarded::Dropped,
    }
}

/// What may leave an `open` port: whatever the kernel is not forwarding.
#[inline(always)]
pub fn leaves_open(context: *mut __sk_buff) -> Guarded {
    // SAFETY: the kernel hands the program a valid context.
    match unsafe { (*context).ingress_ifindex } {
        0 => Guarded::On,
        _ => Guarded::Dropped,
    }
}

#[inline(always)]
fn lookup(key: &PinKey) -> Option<u32> {
    let pin = PINS.get_ptr(key)?;
    // SAFETY: the pointer is to an element of the map, written before the program runs.
    Some(unsafe { *pin })
}

/// The maps of this port.
struct Maps;

impl Maps {
    #[inline(always)]
    fn take(pin: u32, take: impl FnOnce(&mut PinLimits, u64) -> bool) -> bool {
        let Some(limits) = PIN_LIMITS.get_ptr_mut(pin) else {
            return false;
        };
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        // SAFETY: the pointer is to an element of the map. CPUs may race for a token, and then let
        // through more by the number of CPUs at most.
        take(unsafe { &mut *limits }, now)
    }
}

impl PinTables for Maps {
    #[inline(always)]
    fn pin(&self, key: &PinKey) -> Option<u32> {
        lookup(key)
    }

    #[inline(always)]
    fn may_send(&self, pin: u32) -> bool {
        Self::take(pin, PinLimits::send)
    }

    #[inline(always)]
    fn may_ask(&self, pin: u32) -> bool {
        Self::take(pin, PinLimits::ask)
    }
}

/// The same without rates.
struct Unlimited;

impl PinTables for Unlimited {
    #[inline(always)]
    fn pin(&self, key: &PinKey) -> Option<u32> {
        lookup(key)
    }

    #[inline(always)]
    fn may_send(&self, _pin: u32) -> bool {
        true
    }

    #[inline(always)]
    fn may_ask(&self, _pin: u32) -> bool {
        true
    }
}
