//! `portcullisd`: the Gateway's daemon.

use std::alloc::System;
use std::process::ExitCode;
use zeroizing_alloc::ZeroAlloc;

/// Erases whatever is freed: keys pass through buffers of libraries too.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    portcullis_control::cli::daemon::main()
}
