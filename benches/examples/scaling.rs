//! `cargo run --release --example scaling -- [SIZE]`: what 1, 2 and 4 workers open together, of
//! their own frames and of each other's. The numbers say how it scales only as far as there are
//! cores, which is printed too.

use portcullis_benches::scaling::{Way, mpps};
use std::time::Duration;

fn main() {
    let size = std::env::args().nth(1).and_then(|size| size.parse().ok());
    let size = size.unwrap_or(1400);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("packets of {size} bytes, {cores} cores");
    for (way, name) in [(Way::Own, "mpps"), (Way::Handed, "handed.mpps")] {
        for workers in [1, 2, 4] {
            if way == Way::Handed && workers == 1 {
                continue;
            }
            let mut rates = mpps(workers, way, size, Duration::from_secs(2));
            rates.sort_by(f64::total_cmp);
            let at = |part: usize| rates[rates.len() * part / 10];
            println!(
                "scaling.{workers}workers.{name} {:.3} ({:.3} to {:.3} for the middle eight tenths of {} rounds)",
                at(5),
                at(1),
                at(9),
                rates.len()
            );
        }
    }
}
