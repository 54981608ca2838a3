//! Whether the kernel at hand takes every eBPF program: each is loaded and let go of, attached to nothing.

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use thiserror::Error;
use wire::limits::{ETHERTYPE, UDP_PORT};
use wire::{Encapsulation, Udp};

use super::{OBJECT, WallError, tell_encapsulation};

/// A program, and the instructions its verification went through, or why it is refused.
#[derive(Debug)]
pub struct Verified {
    /// The program's name; of one that is the other thing at the other end, the end too.
    pub program: String,
    /// Instructions, where the kernel tells; or what it said.
    pub answer: Result<Option<u32>, Refused>,
}

/// The kernel does not take a program.
#[derive(Debug, Error)]
pub enum Refused {
    /// What it said, with the verifier's log.
    #[error(transparent)]
    Kernel(#[from] ProgramError),
    /// A kind of program that this does not know.
    #[error("it is of a kind that is not loaded here")]
    Kind,
}

/// How an object is told what it is for: who has the port, and how the tunnel's frames travel.
const KINDS: [(u32, &str, Encapsulation); 6] = [
    (0, "Gateway", Encapsulation::Ether(ETHERTYPE)),
    (1, "Workstation", Encapsulation::Ether(ETHERTYPE)),
    (0, "Gateway over udp", udp(false, true)),
    (0, "Gateway over udp, shared", udp(true, true)),
    (0, "Gateway over udp, answering", udp(false, false)),
    (0, "Gateway over udp, shared, answering", udp(true, false)),
];

const fn udp(shared: bool, stealth: bool) -> Encapsulation {
    Encapsulation::Udp(Udp {
        port: UDP_PORT,
        v4: 0xc000_0201,
        v6: [0xb80d_0120, 1 << 56],
        shared,
        stealth,
    })
}

/// Loads every program of the object, in each way in which it is used.
///
/// # Errors
/// [`WallError::Load`] when the object itself, or a map of it, is refused.
pub fn verify() -> Result<Vec<Verified>, WallError> {
    let mut all = Vec::new();
    for (at, (role, end, encapsulation)) in KINDS.iter().enumerate() {
        let mut ebpf = load(*role, encapsulation)?;
        let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            let guard = matches!(&*name, "ingress_udp" | "guard_udp" | "ingress_shared");
            let (program, skip) = match name.as_str() {
                "admission" => (format!("{name} at the {end}"), false),
                // They know the port's addresses.
                _ if guard => (format!("{name} at the {end}"), at < 2),
                _ => (name.clone(), at != 0),
            };
            if let Some(loaded) = ebpf.program_mut(&name).filter(|_| !skip) {
                all.push(Verified {
                    program,
                    answer: answer(loaded),
                });
            }
        }
    }
    Ok(all)
}

fn load(role: u32, encapsulation: &Encapsulation) -> Result<Ebpf, WallError> {
    let mut loader = EbpfLoader::new();
    tell_encapsulation(&mut loader, encapsulation);
    loader
        .override_global("ROLE", &role, true)
        .override_global("MAC", &0x0102_0304_0506_u64, true)
        .map_max_entries("SOURCES", 1)
        .load(OBJECT)
        .map_err(|error| WallError::load("no interface", error))
}

fn answer(program: &mut Program) -> Result<Option<u32>, Refused> {
    match program {
        Program::Xdp(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        Program::SocketFilter(program) => program.load()?,
        _ => return Err(Refused::Kind),
    }
    // A kernel before 5.16 does not count.
    Ok(program
        .info()
        .ok()
        .and_then(|info| info.verified_instruction_count()))
}
