//! The wall in time, end to end: no frame of a kernel leaves an internal port and none from the
//! cable enters a kernel, from before the link is up until after the programs are gone. Needs root
//! and the programs (`cargo xtask test` builds them).
//!
//! Both hosts babble (ARP through an ordinary AF_PACKET socket, and whatever their IPv6 stacks say
//! when a link comes up), and something in the cable shouts at both, all the time.

use std::sync::Arc;
use std::time::Duration;

use portcullis_xtask::attack::{arp, ethernet};
use portcullis_xtask::middlebox::{Impairment, Middlebox};
use portcullis_xtask::rig::*;

const TUNNEL: u16 = wire::limits::ETHERTYPE;

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// Whose protocols a frame could reach, and the tunnel's own.
const ETHERTYPES: [u16; 4] = [0x0800, 0x0806, 0x86dd, TUNNEL];

/// Captures of what must not be: foreign frames out of either host, any frame into the protocols of
/// either kernel. (A capture of everything, like tcpdump's, is served before the ingress guard: it sees
/// the few frames that veth gives past XDP while its link goes down.)
struct Watch {
    out: Capture,
    into: [Vec<Capture>; 2],
}

impl Watch {
    fn start(rig: &Tapped) -> Self {
        let out = Capture::filtered(&rig.middle, None, 16, |frame| {
            frame.kind == PacketKind::Incoming && frame.ethertype() != TUNNEL
        });
        let hosts = [
            rig.single.gateway.namespace(),
            rig.single.workstation.namespace(),
        ];
        let into = hosts.map(|host| {
            let captures = ETHERTYPES.map(|kind| Capture::into_stack(host, kind, 16).unwrap());
            captures.into()
        });
        Self {
            out: out.unwrap(),
            into,
        }
    }

    #[track_caller]
    fn silent(&self, when: &str) {
        let into = |host: usize| self.into[host].iter();
        let captures = [("left a host", &self.out)]
            .into_iter()
            .chain(into(0).map(|capture| ("entered the Gateway's kernel", capture)))
            .chain(into(1).map(|capture| ("entered the Workstation's kernel", capture)));
        for (what, capture) in captures {
            capture.settle().unwrap();
            assert_eq!(
                (capture.incoming(), capture.overruns()),
                (0, 0),
                "{when}: frames {what}: {}",
                capture.summary()
            );
        }
    }
}

#[test]
fn without_the_programs_both_hosts_are_heard_and_hear() {
    let _turn = Serial::acquire().unwrap();
    let rig = tapped(&programs(), 1, Impairment::default()).unwrap();
    let watch = Watch::start(&rig);
    let (gw, ws) = (
        rig.single.gateway.namespace(),
        rig.single.workstation.namespace(),
    );
    let _babble = [Babbler::start(gw, "ws1"), Babbler::start(ws, "cable0")];
    set_link(gw, "ws1", true).unwrap();
    set_link(ws, "cable0", true).unwrap();
    wait_for(
        "what the wall is to keep apart",
        Duration::from_secs(5),
        || {
            let into = watch.into.iter().all(|captures| {
                let heard = captures.iter().map(Capture::incoming);
                heard.sum::<u64>() > 10
            });
            (into && watch.out.incoming() > 10).then_some(())
        },
    )
    .unwrap();
}

/// The known limit of docs/threat-model.md, so that nobody takes the guard for more than it is.
#[test]
fn a_raw_socket_past_the_traffic_control_hook_is_not_held_back_and_any_other_is() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = tapped(&programs(), 1, Impairment::default()).unwrap();
    rig.single.start().unwrap();
    let watch = Watch::start(&rig);
    let ws = rig.single.workstation.namespace();
    let claim = arp(1, ([2; 6], [192, 0, 2, 1].into()), ([0; 6], GATEWAY_V4));
    let frame = ethernet([0xff; 6], [2; 6], 0x0806, &claim);
    let ordinary = PacketSocket::open(ws, Some("cable0")).unwrap();
    assert!(
        (0..10).all(|_| !ordinary.send(&frame)),
        "the guard let it go"
    );
    watch.silent("an ordinary raw socket");
    // PACKET_QDISC_BYPASS, for which it takes CAP_NET_RAW.
    let past = PacketSocket::sender(ws, "cable0").unwrap();
    assert!((0..10).all(|_| past.send(&frame)));
    wait_for(
        "what the guard does not see",
        Duration::from_secs(5),
        || (watch.out.incoming() == 10).then_some(()),
    )
    .unwrap();
}

#[test]
fn a_port_with_a_random_mac_address_never_shows_its_own_and_keeps_the_other() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = tapped(&programs(), 1, Impairment::default()).unwrap();
    let host = Arc::clone(rig.single.workstation.namespace());
    let own = mac_of(&host, "cable0").unwrap();
    let shown = Capture::filtered(&rig.middle, Some("mw"), 16, move |frame| {
        frame.kind == PacketKind::Incoming && frame.source() == own
    })
    .unwrap();
    let agent = &mut rig.single.workstation;
    let text =
        agent
            .configuration()
            .replacen("interface", "mac_address = \"random\"\ninterface", 1);
    agent.configure(&text).unwrap();
    rig.single.start().unwrap();
    let random = mac_of(&host, "cable0").unwrap();
    assert_ne!(random, own);
    assert_eq!(
        random[0] & 3,
        2,
        "{random:02x?} is no locally administered address of a host"
    );

    rig.single.workstation.kill();
    rig.single.workstation.start().unwrap();
    assert_eq!(mac_of(&host, "cable0").unwrap(), random, "after a restart");
    // Whoever gives it another address gives it none.
    host.ip("link set dev cable0 address 02:00:00:00:00:99")
        .unwrap();
    wait_for("the address of this boot", Duration::from_secs(10), || {
        (mac_of(&host, "cable0").ok()? == random).then_some(())
    })
    .unwrap();
    rig.single
        .workstation
        .wait_connected(Duration::from_secs(10))
        .unwrap();
    shown.settle().unwrap();
    assert_eq!(shown.incoming(), 0, "{}", shown.summary());
}

/// Property 1, at every moment.
#[test]
fn nothing_leaves_and_nothing_enters_from_before_link_up_to_after_the_end() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = tapped(&programs(), 1, Impairment::default()).unwrap();
    let watch = Watch::start(&rig);
    let gw = Arc::clone(rig.single.gateway.namespace());
    let ws = Arc::clone(rig.single.workstation.namespace());
    let _babble = [Babbler::start(&gw, "ws1"), Babbler::start(&ws, "cable0")];
    let shout = [
        Babbler::start(&rig.middle, "mg"),
        Babbler::start(&rig.middle, "mw"),
    ];
    let a_while = || pause(Duration::from_millis(500)).unwrap();
    a_while();
    watch.silent("before the programs start");

    rig.single.start().unwrap();
    a_while();
    watch.silent("start");
    // The guard answers a sender with an error, so its own count says what tried to leave.
    let kept_in = [
        rig.single.gateway.show().unwrap().guard_drops("ws1"),
        rig.single.workstation.status().unwrap()["port"]["guard_drops"]
            .as_u64()
            .unwrap(),
    ];
    assert!(
        kept_in.iter().all(|drops| *drops > 0),
        "nothing tried to leave: {kept_in:?}"
    );
    assert!(shout.iter().all(|s| s.sent() > 0), "nothing tried to enter");

    for (host, interface) in [(&gw, "ws1"), (&ws, "cable0")] {
        set_link(host, interface, false).unwrap();
        a_while();
        set_link(host, interface, true).unwrap();
        rig.single
            .workstation
            .wait_connected(Duration::from_secs(10))
            .unwrap();
    }
    watch.silent("links down and up");

    rig.single.gateway.kill();
    rig.single.workstation.kill();
    a_while();
    watch.silent("kill -9 of both");

    rig.single.gateway.start().unwrap();
    rig.single.workstation.start().unwrap();
    a_while();
    watch.silent("restart after kill -9");

    rig.single.gateway.stop().unwrap();
    rig.single.workstation.stop().unwrap();
    a_while();
    watch.silent("an orderly stop of both");

    rig.single.gateway.start().unwrap();
    rig.single.workstation.start().unwrap();
    a_while();
    watch.silent("restart after an orderly stop");
}

#[test]
fn the_wall_stands_on_an_interface_that_is_added_again_before_its_link_is_up() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = tapped(&programs(), 1, Impairment::default()).unwrap();
    let watch = Watch::start(&rig);
    let gw = Arc::clone(rig.single.gateway.namespace());
    let ws = Arc::clone(rig.single.workstation.namespace());
    let _babble = [Babbler::start(&gw, "ws1"), Babbler::start(&ws, "cable0")];
    let _shout = [
        Babbler::start(&rig.middle, "mg"),
        Babbler::start(&rig.middle, "mw"),
    ];
    rig.single.start().unwrap();
    for (host, interface, end) in [(&gw, "ws1", "mg"), (&ws, "cable0", "mw")] {
        host.ip(&format!("link delete dev {interface}")).unwrap();
        pause(Duration::from_millis(200)).unwrap();
        lay_tapped_cable(host, interface, &rig.middle, end).unwrap();
        rig.middlebox = Middlebox::join(&rig.middle, "mg", "mw", 2, Impairment::default()).unwrap();
        rig.single
            .workstation
            .wait_connected(Duration::from_secs(15))
            .unwrap();
        watch.silent(&format!("{interface} removed and added again"));
    }
}
