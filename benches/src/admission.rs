//! What a frame costs in XDP, by its verdict. Frames are run through the program that stands on a port by
//! BPF_PROG_TEST_RUN; an empty program, attached like it, is run in turn with it and taken off.
//!
//! The port is the loopback interface of a network namespace that has nothing else in it, and pins are on
//! a file system that nobody else sees: both are one thread's, and gone with it. Nothing of the machine's
//! own is touched, and whatever stops the program leaves nothing behind.

mod empty;

use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use dataplane::wall::{GuardHook, Wall, WallConfig, XdpRequest, test_run};
use nix::mount::{MsFlags, mount};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};
use wire::header::session_index;
use wire::limits::{ETH_LEN, ETHERTYPE};
use wire::tables::SessionEntry;
use wire::{Admission, Header, Role, Verdict, kind};

use crate::figure::{Figure, median};
use crate::progress::Task;

const KEY: [u64; 2] = [0x1111_2222_3333_4444, 0x5555_6666_7777_8888];
const SLOT: u16 = 3;
const WORKSTATION: u32 = 2;
const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The only interface of a new namespace.
const PORT: &str = "lo";
/// Where every kernel has a directory to mount on.
const BPFFS: &str = "/sys/fs/bpf";

/// How long it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Rounds over all verdicts; a sample each.
    pub rounds: u32,
    /// Runs of a frame for a sample.
    pub repeats: u32,
    /// Runs of new frames for a sample.
    pub singles: u32,
}

/// Measures it; a step of the task is a round.
///
/// # Errors
/// Without root; when the wall cannot be raised, or a frame gets another verdict than it was made for.
pub fn measure(plan: Plan, task: &Task) -> Result<Vec<Figure>> {
    std::thread::scope(|scope| {
        let apart = scope.spawn(|| Gate::raise().and_then(|gate| gate.measure(plan, task)));
        apart
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the thread that measures failed")))
    })
}

/// A port with the wall on it, one session, and a socket that takes what is admitted.
struct Gate {
    wall: Wall,
    empty: OwnedFd,
    _attached: OwnedFd,
    /// Where the empty program is attached.
    _elsewhere: File,
    _socket: OwnedFd,
}

impl Gate {
    /// Takes the thread into namespaces of its own, and raises the wall there.
    fn raise() -> Result<Self> {
        let apart = || unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS);
        apart().context("making a network namespace, which takes root")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .context("keeping mounts to ourselves")?;
        mount(
            Some("bpf"),
            BPFFS,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mounting a BPF file system on {BPFFS}"))?;
        let empty = empty::load().context("loading an empty XDP program")?;
        // Attached like the one it is compared with: the kernel calls attached programs directly.
        let attached = empty::attach(&empty, if_nametoindex(PORT)?)
            .context("attaching an empty XDP program")?;
        let elsewhere = File::open("/proc/thread-self/ns/net").context("keeping a namespace")?;
        unshare(CloneFlags::CLONE_NEWNET).context("making a second network namespace")?;
        let wall = Wall::raise(&WallConfig {
            interface: PORT.into(),
            ifindex: if_nametoindex(PORT)?,
            admission: Admission {
                role: Role::Gateway,
                mac: NEAR_MAC,
                encapsulation: wire::Encapsulation::Ether(ETHERTYPE),
            },
            pin_directory: PathBuf::from(BPFFS).join("bench"),
            mode: XdpRequest::Auto,
            guard: GuardHook::Auto,
            session_slots: 16,
            workstation_slots: 8,
        })?;
        // SAFETY: socket(2) makes a descriptor that nobody else knows.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            ensure!(
                fd >= 0,
                "socket(AF_XDP): {}",
                std::io::Error::last_os_error()
            );
            OwnedFd::from_raw_fd(fd)
        };
        wall.set_socket(0, socket.as_fd())
            .context("a socket in the map")?;
        let tables = wall.tables();
        tables.set_limit(WORKSTATION, u64::MAX >> 1);
        let installed = tables.install_session(
            SLOT,
            &SessionEntry {
                index: session_index(SLOT, 0x8001),
                workstation: WORKSTATION,
                key: KEY,
                peer_mac: FAR_MAC,
                reserved: [0; 2],
            },
        );
        ensure!(installed, "no room for a session");
        Ok(Self {
            wall,
            empty,
            _attached: attached,
            _elsewhere: elsewhere,
            _socket: socket,
        })
    }

    fn measure(&self, plan: Plan, task: &Task) -> Result<Vec<Figure>> {
        let Plan {
            rounds,
            repeats,
            singles,
        } = plan;
        let cases = self.cases()?;
        let mut samples: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
        let (mut empty, mut admitted, mut siphash) = (Vec::new(), Vec::new(), Vec::new());
        let mut counter = 1;
        for _ in 0..rounds {
            let nothing = self.nothing(&cases[0].1, repeats)?;
            empty.push(nothing);
            for ((verdict, frame), samples) in cases.iter().zip(&mut samples) {
                task.doing(verdict.name());
                samples.push(self.cost(frame, repeats)? - nothing);
            }
            // The last case is a replay. A frame is admitted once, so repeating it measures a replay;
            // single runs cost more for being single, and what admission adds is their difference.
            task.doing(Verdict::Admitted.name());
            let replay = samples.last().and_then(|samples| samples.last());
            let replay = *replay.context("no replay was measured")?;
            admitted.push(replay + self.admission_adds(&mut counter, singles)?);
            siphash.push(siphash_cost(repeats));
            task.step();
        }
        let method = format!(
            "BPF_PROG_TEST_RUN of one frame {repeats} times, thread CPU time, in turn with an empty program"
        );
        let ns = |metric: String, samples: &[f64], bound, method: &str| {
            Figure::of(metric, "ns", samples, bound, method)
        };
        let mut figures = vec![ns("admission.empty.ns".into(), &empty, None, &method)?];
        let native =
            format!("SipHash-2-4 of 16 bytes {repeats} times, compiled for this CPU, not eBPF");
        figures.push(ns("admission.siphash.ns".into(), &siphash, None, &native)?);
        let siphash = median(&siphash);
        let over = format!("{method}, whose time is taken off");
        for ((verdict, _), samples) in cases.iter().zip(&samples) {
            let metric = format!("admission.{}.ns", verdict.name());
            // A verdict that comes after the tag was checked cannot cost less than the tag.
            let tagged = [Verdict::BadTag, Verdict::Replay].contains(verdict);
            figures.push(ns(metric, samples, tagged.then_some(siphash), &over)?);
        }
        let over = format!(
            "a replay, and what {singles} single runs of new frames cost above as many of a replay, in turn; {over}"
        );
        let metric = "admission.admitted.ns".into();
        figures.push(ns(metric, &admitted, Some(siphash), &over)?);
        Ok(figures)
    }

    /// A Data frame of 100 bytes of payload with a valid tag.
    fn data(&self, counter: u64) -> Vec<u8> {
        let mut header = Header::new(kind::DATA, 100, session_index(SLOT, 0x8001), counter);
        header.tag = header.data_tag(KEY);
        let mut frame = [&NEAR_MAC[..], &FAR_MAC, &ETHERTYPE.to_be_bytes()].concat();
        frame.extend(header.encode());
        frame.resize(ETH_LEN + header.frame_len(), 0);
        frame
    }

    /// Frames that each get one verdict, however often they come; a replay last.
    fn cases(&self) -> Result<Vec<(Verdict, Vec<u8>)>> {
        let good = self.data(0);
        let with = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            frame
        };
        let cases = vec![
            (Verdict::Foreign, with(12, 8)),
            (Verdict::UnknownSession, with(18, 9)),
            (Verdict::BadTag, with(30, good[30] ^ 1)),
            (Verdict::Replay, good.clone()),
        ];
        self.expect(Verdict::Admitted, &good)?;
        for (verdict, frame) in &cases {
            self.expect(*verdict, frame)?;
        }
        Ok(cases)
    }

    /// Runs a frame once and insists on its verdict: a figure must be of what it says.
    fn expect(&self, verdict: Verdict, frame: &[u8]) -> Result<()> {
        let before = self.wall.verdict(verdict)?;
        self.wall.try_admission(frame, 1)?;
        ensure!(
            self.wall.verdict(verdict)? == before + 1,
            "a frame made to be {} was something else",
            verdict.name()
        );
        Ok(())
    }

    /// Nanoseconds of one run of the admission program, of many.
    fn cost(&self, frame: &[u8], repeats: u32) -> Result<f64> {
        let start = cpu_time()?;
        self.wall.try_admission(frame, repeats)?;
        Ok((cpu_time()? - start) / f64::from(repeats))
    }

    /// The same of the empty program.
    fn nothing(&self, frame: &[u8], repeats: u32) -> Result<f64> {
        let start = cpu_time()?;
        test_run(self.empty.as_fd(), frame, repeats)?;
        Ok((cpu_time()? - start) / f64::from(repeats))
    }

    /// What a single run costs more when it admits a frame than when it finds a replay.
    fn admission_adds(&self, counter: &mut u64, singles: u32) -> Result<f64> {
        let replayed = self.data(0);
        let (mut new, mut old) = (Vec::new(), Vec::new());
        let before = self.wall.verdict(Verdict::Admitted)?;
        for _ in 0..singles {
            let frame = self.data(*counter);
            *counter += 1;
            new.push(f64::from(self.wall.try_admission(&frame, 1)?.nanoseconds));
            old.push(f64::from(
                self.wall.try_admission(&replayed, 1)?.nanoseconds,
            ));
        }
        let admitted = self.wall.verdict(Verdict::Admitted)? - before;
        ensure!(
            admitted == u64::from(singles),
            "{admitted} of {singles} new frames were admitted"
        );
        Ok(median(&new) - median(&old))
    }
}

/// What the thread has used of its CPU, in nanoseconds: unlike a clock on the wall it does not run
/// while others do.
fn cpu_time() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(std::time::Duration::from(time).as_secs_f64() * 1e9)
}

/// Nanoseconds of one tag of a Data frame, as this CPU computes it outside of eBPF.
fn siphash_cost(repeats: u32) -> f64 {
    let mut header = Header::new(kind::DATA, 100, session_index(SLOT, 0x8001), 0);
    let start = cpu_time().unwrap_or_default();
    for _ in 0..repeats {
        // Each waits for the one before, like a frame's verdict for its tag.
        header.counter ^= std::hint::black_box(&header).data_tag(KEY) & 0xff;
    }
    std::hint::black_box(header);
    (cpu_time().unwrap_or_default() - start) / f64::from(repeats)
}
