//! The pipeline by hand: `cargo run --release --example pipeline -- [open|seal] SIZE [SESSIONS] [tcp]`.

use dataplane::engine::Engine;
use portcullis_benches::pipeline::{Pipeline, Traffic, Way, aead_alone, imix};
use std::time::Duration;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let way = match arguments.next().as_deref() {
        Some("seal") => Way::Seal,
        _ => Way::Open,
    };
    let size = arguments.next().and_then(|size| size.parse().ok());
    let sessions = arguments.next().and_then(|count| count.parse().ok());
    let traffic = Traffic {
        sizes: size.map_or_else(imix, |size| vec![size]),
        sessions: sessions.unwrap_or(1),
        tcp: arguments.next().is_some(),
    };
    let time = Duration::from_secs(2);
    let alone = aead_alone(way, &traffic, Engine::Auto, time / 4);
    let mut whole = Pipeline::new(way, traffic, Engine::Auto).run(time);
    let mut aead = alone.nanoseconds;
    aead.sort_by(f64::total_cmp);
    whole.nanoseconds.sort_by(f64::total_cmp);
    let at = |values: &[f64], part: usize| values[values.len() * part / 10];
    let median = at(&whole.nanoseconds, 5);
    println!(
        "{way:?}: {median:.1} ns a frame ({:.1} to {:.1} for the middle eight tenths), {:.2} Mpps, {:.2} Gbit/s; the AEAD alone {:.1} ns",
        at(&whole.nanoseconds, 1),
        at(&whole.nanoseconds, 9),
        1e3 / median,
        whole.bytes * 8.0 / median,
        at(&aead, 5),
    );
}
