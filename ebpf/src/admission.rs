//! Admission: `wire::decide` run over packet memory and BPF maps, and its verdict counted.
//!
//! Everything that decides is in `wire`, where it is tested without a kernel. Here is only how a
//! frame's bytes and the tables are reached.

use core::ptr::addr_of;

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, XskMap};
use wire::limits::SEEN_CELLS;
use wire::tables::{Bucket, Credit, Floor, KnockEntry, Seen, SessionEntry, SourceKey};
use wire::{Admission, Encapsulation, Role, Tables, Udp, Verdict, decide};

use crate::atomic;
use crate::packet::Packet;
use crate::watch;

pub const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_NOEXIST: u64 = 1;

// What the loader sets. The verifier knows the values, and removes what another role would need.
#[unsafe(no_mangle)]
static ROLE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static MAC: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static ETHERTYPE: Global<u16> = Global::new(wire::limits::ETHERTYPE);
// 0 where it is `ether`.
#[unsafe(no_mangle)]
static UDP_PORT: Global<u16> = Global::new(0);
#[unsafe(no_mangle)]
static UDP_V4: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static UDP_V6: Global<[u64; 2]> = Global::new([0; 2]);
#[unsafe(no_mangle)]
static UDP_SHARED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static UDP_STEALTH: Global<u32> = Global::new(1);

// Sizes that the loader sets are 1 here.
#[map]
static SESSIONS: Array<SessionEntry> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static FLOORS: Array<Floor> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static SEEN: Array<Seen> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static CREDITS: Array<Credit> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static EXPECTED: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static KNOCKS: HashMap<u32, KnockEntry> = HashMap::with_max_entries(1, 0);
#[map]
static SOURCES: LruHashMap<SourceKey, Bucket> = LruHashMap::with_max_entries(4096, 0);
#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::COUNT as u32, 0);
#[map]
static WORKSTATION_VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static SOCKETS: XskMap = XskMap::with_max_entries(256, 0);

/// Decides, counts and answers the XDP action.
#[inline(always)]
pub fn run(context: *mut xdp_md) -> u32 {
    let port = Admission {
        role: if ROLE.load() == 0 {
            Role::Gateway
        } else {
            Role::Workstation
        },
        mac: own_mac(),
        encapsulation: match UDP_PORT.load() {
            0 => Encapsulation::Ether(ETHERTYPE.load()),
            _ => Encapsulation::Udp(udp()),
        },
    };
    let maps = Maps { context };
    let (verdict, workstation) = decide(&port, &Packet::new(context), &maps);
    count(&VERDICTS, verdict as u32);
    if let Some(workstation) = workstation {
        let row = workstation.wrapping_mul(Verdict::COUNT as u32);
        count(&WORKSTATION_VERDICTS, row.wrapping_add(verdict as u32));
    }
    match verdict {
        Verdict::Admitted => XDP_REDIRECT,
        // On a shared port, what is not the tunnel's; on another, as far as `ingress_udp`, which answers it
        // (XDP_TX would be nearer, but not every driver has it, and veth loses what is sent so unless its other end
        // has an XDP program too). The verifier removes this where the port is not `udp`.
        Verdict::Answered | Verdict::Passed if UDP_PORT.load() != 0 => XDP_PASS,
        // Of no use to anyone, which its sender is to be told: as far as the guard at ingress, which makes it that
        // answer, or drops it.
        refused if UDP_PORT.load() != 0 && udp().refuses(refused, &maps) => {
            watch::dropped(context, refused as u32, workstation);
            XDP_PASS
        }
        _ => {
            watch::dropped(context, verdict as u32, workstation);
            XDP_DROP
        }
    }
}

/// The port's `udp` encapsulation.
#[inline(always)]
pub fn udp() -> Udp {
    Udp {
        port: UDP_PORT.load(),
        v4: UDP_V4.load(),
        v6: UDP_V6.load(),
        shared: UDP_SHARED.load() != 0,
        stealth: UDP_STEALTH.load() != 0,
    }
}

/// The port's own MAC address.
#[inline(always)]
pub fn own_mac() -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = MAC.load().to_le_bytes();
    [a, b, c, d, e, f]
}

/// Adds one to a counter.
#[inline(always)]
pub fn count(counters: &PerCpuArray<u64>, at: u32) {
    if let Some(counter) = counters.get_ptr_mut(at) {
        // SAFETY: the pointer is to this CPU's own element, and a CPU runs one XDP program at once.
        unsafe { *counter += 1 };
    }
}

/// The maps of this port.
struct Maps {
    context: *mut xdp_md,
}

impl Tables for Maps {
    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn session(&self, slot: u16) -> Option<SessionEntry> {
        let entry = SESSIONS.get_ptr(slot.into())?;
        // SAFETY: the pointer is to an element of the map. Userspace may write it meanwhile, but
        // writes a live entry only to zero its index, and an entry mixed of two sessions has a key
        // under which no frame's tag is right.
        Some(unsafe { *entry })
    }

    #[inline(always)]
    fn floor(&self, slot: u16) -> u64 {
        match FLOORS.get_ptr(slot.into()) {
            // SAFETY: the pointer is to an element of the map, and the word is aligned.
            Some(floor) => unsafe { addr_of!((*floor).floor).read_volatile() },
            None => u64::MAX,
        }
    }

    #[inline(always)]
    fn mark_seen(&self, slot: u16, cell: usize, mark: u32) -> bool {
        let Some(seen) = SEEN.get_ptr_mut(slot.into()) else {
            return false;
        };
        // SAFETY: the pointer is to an element of the map, and the index is masked to its cells,
        // which are aligned and only ever written atomically.
        unsafe {
            let cells = (&raw mut (*seen).cells).cast::<u32>();
            let cell = cells.add(cell & (SEEN_CELLS - 1));
            let old = cell.read_volatile();
            // A CPU that wins the race has admitted a frame of the same cell: the same counter, or
            // one 8192 away, which the floor all but rules out. Either way this one is not.
            old < mark && atomic::replace(cell, old, mark)
        }
    }

    #[inline(always)]
    fn credit(&self, workstation: u32) -> Option<(u64, u64, u64)> {
        let credit = CREDITS.get_ptr(workstation)?;
        // SAFETY: the pointer is to an element of the map, and the words are aligned.
        Some(unsafe {
            (
                addr_of!((*credit).admitted).read_volatile(),
                addr_of!((*credit).consumed).read_volatile(),
                addr_of!((*credit).limit).read_volatile(),
            )
        })
    }

    #[inline(always)]
    fn charge(&self, workstation: u32) {
        if let Some(credit) = CREDITS.get_ptr_mut(workstation) {
            // SAFETY: the pointer is to an element of the map; queues on several CPUs add to the
            // word, all of them atomically.
            unsafe { atomic::increment(&raw mut (*credit).admitted) };
        }
    }

    #[inline(always)]
    fn knock<R>(&self, key_id: u32, with: impl FnOnce(&mut KnockEntry) -> R) -> Option<R> {
        let entry = KNOCKS.get_ptr_mut(key_id)?;
        // SAFETY: the pointer is to an element of the map. CPUs may race for its counts, and then
        // miscount by the number of CPUs at most.
        Some(with(unsafe { &mut *entry }))
    }

    #[inline(always)]
    fn source<R>(&self, key: &SourceKey, with: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        let bucket = match SOURCES.get_ptr_mut(key) {
            Some(bucket) => bucket,
            None => {
                // Where another CPU was faster the entry exists all the same.
                let _ = SOURCES.insert(key, Bucket::default(), BPF_NOEXIST);
                SOURCES.get_ptr_mut(key)?
            }
        };
        // SAFETY: as for `knock`.
        Some(with(unsafe { &mut *bucket }))
    }

    #[inline(always)]
    fn expected_nonce(&self) -> u64 {
        match EXPECTED.get_ptr(0) {
            // SAFETY: the pointer is to an element of the map, and the word is aligned.
            Some(nonce) => unsafe { nonce.read_volatile() },
            None => 0,
        }
    }

    #[inline(always)]
    fn redirect(&self) -> bool {
        // SAFETY: the kernel hands the program a valid context.
        let queue = unsafe { (*self.context).rx_queue_index };
        SOCKETS.redirect(queue, XDP_DROP.into()).is_ok()
    }
}
