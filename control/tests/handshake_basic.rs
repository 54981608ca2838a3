//! What a handshake and a rekey do when nothing goes wrong.

#[path = "handshake/sim.rs"]
mod sim;

use sim::*;

#[test]
fn both_sides_are_in_session_within_a_second_of_a_start() {
    let mut sim = Sim::new(1, 3);
    sim.run(SECOND);
    for id in 0..3 {
        assert!(sim.joined(id), "{:?}", sim.status(id));
        assert!(sim.mirrored(id));
        assert_eq!(sim.info(id).outcomes.confirmed, 1);
        assert_eq!(sim.info(id).outcomes.responses, 1);
    }
}
