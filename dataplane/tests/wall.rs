//! The wall on real interfaces: raised, taken over, killed under, removed, and what gets past it.
//!
//! Needs root. Each test has network namespaces of its own (`netns/mod.rs` has the drawing).

mod netns;

use std::time::{Duration, Instant};

use portcullis_dataplane::wall::{AttachMode, GuardHook, Wall, WallError, XdpRequest, links, lower};
use netns::{FAR_MAC, NEAR_MAC, Netns, Pair, Pins, Tap, config, run};

fn frame(ethertype: u16) -> Vec<u8> {
    let mut frame = [&NEAR_MAC[..], &FAR_MAC, &ethertype.to_be_bytes()].concat();
    frame.resize(60, 0x5a);
    frame
}

#[test]
fn it_is_attached_natively_while_the_link_is_down_and_drops_from_the_first_frame() {
    let pair = Pair::new();
    let wall = Wall::raise(&pair.config()).expect("the wall");
    assert_eq!(wall.mode().expect("its mode"), AttachMode::Native);
    pair.up();
    let seen = Tap::on("near0");
    let sender = pair.far.within(|| Tap::on("far0"));
    for _ in 0..100 {
        assert!(sender.send(&frame(0x0800)));
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(seen.drain().len(), 0);
    assert!(wall.verdicts().expect("verdicts")[1] >= 100);
}
