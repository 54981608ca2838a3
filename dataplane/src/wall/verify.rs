//! Whether the kernel at hand takes every eBPF program: each is loaded and let go of, attached to nothing.

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use thiserror::Error;
use wire::limits::ETHERTYPE;

use super::{OBJECT, WallError};

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

/// Loads every program of the object, as a Gateway and as a Workstation would.
///
/// # Errors
/// [`WallError::Load`] when the object itself, or a map of it, is refused.
pub fn verify() -> Result<Vec<Verified>, WallError> {
    let mut all = Vec::new();
    for (role, end) in [(0u32, "Gateway"), (1, "Workstation")] {
        let mut ebpf = load(role)?;
        let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            // Only admission knows which end it is.
            let (program, skip) = match name.as_str() {
                "admission" => (format!("{name} at the {end}"), false),
                _ => (name.clone(), role != 0),
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

fn load(role: u32) -> Result<Ebpf, WallError> {
    EbpfLoader::new()
        .override_global("ROLE", &role, true)
        .override_global("MAC", &0x0102_0304_0506_u64, true)
        .override_global("ETHERTYPE", &ETHERTYPE, true)
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
