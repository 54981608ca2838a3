use super::*;
use dataplane::wall::Pin;
use wire::header::session_index;
use wire::limits::ETHERTYPE;
use wire::tables::SessionEntry;
use wire::{Header, kind};

const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];
const KEY: [u64; 2] = [3, 4];

fn tunnel(interface: &str, mac: Option<[u8; 6]>, tables: Option<Arc<PortTables>>) -> Port {
    Port {
        interface: interface.into(),
        mac,
        gate: Gate::Tunnel {
            role: wire::Role::Gateway,
            encapsulation: wire::Encapsulation::Ether(ETHERTYPE),
            tables,
        },
    }
}

fn data() -> FrameHead {
    let mut header = Header::new(kind::DATA, 100, session_index(1, 9), 0);
    header.tag = header.data_tag(KEY);
    let bytes = [&NEAR[..], &FAR, &ETHERTYPE.to_be_bytes(), &header.encode()].concat();
    FrameHead {
        length: 154,
        head: hex::encode(bytes),
    }
}

fn ask(ports: &[Port], port: Option<&str>, frame: FrameHead) -> Result<Explained, Problem> {
    let request = Explain {
        port: port.map(str::to_owned),
        frames: vec![frame],
    };
    let name = |number| (number == 2).then(|| "alpha".to_owned());
    answer(ports, &request, name).map(|mut all| all.remove(0))
}

#[test]
fn a_frame_is_told_by_the_tables_of_its_port_and_only_as_far_as_there_are_any() {
    let tables = PortTables::in_memory(4, 4).unwrap();
    let session = SessionEntry {
        index: session_index(1, 9),
        workstation: 2,
        key: KEY,
        peer_mac: FAR,
        reserved: [0; 2],
    };
    assert!(tables.install_session(1, &session));
    tables.set_limit(2, 1);
    let running = [tunnel("eth1", Some(NEAR), Some(Arc::new(tables)))];
    for _ in 0..2 {
        let told = ask(&running, None, data()).unwrap();
        assert_eq!(
            told.verdict.as_deref(),
            Some("admitted"),
            "asking changes nothing"
        );
        assert_eq!(told.workstation.as_deref(), Some("alpha"));
    }
    let stopped = [tunnel("eth1", Some(NEAR), None)];
    let told = ask(&stopped, None, data()).unwrap();
    assert_eq!((told.verdict, told.admitted), (None, None));
    let last = told.steps.last().unwrap();
    assert_eq!(last.outcome, Outcome::Unknown);
    assert!(last.text.contains("running daemon"), "{}", last.text);
    let shown = one(&data(), &ask(&stopped, None, data()).unwrap(), false);
    assert!(shown.contains("cannot be told"), "{shown}");
}

#[test]
fn the_port_is_the_one_that_is_named_or_addressed_and_never_guessed() {
    let ports = [
        tunnel("eth1", Some(NEAR), None),
        tunnel("eth2", Some(FAR), None),
        tunnel("eth3", None, None),
    ];
    assert_eq!(ask(&ports, None, data()).unwrap().port, "eth1");
    assert_eq!(ask(&ports, Some("eth2"), data()).unwrap().port, "eth2");
    let missing = ask(&ports, Some("eth3"), data()).unwrap();
    assert_eq!(missing.steps[0].outcome, Outcome::Unknown);
    let mut broadcast = data();
    broadcast.head.replace_range(..12, "ffffffffffff");
    let problem = ask(&ports, None, broadcast).unwrap_err();
    assert!(problem.remedy.contains("eth1, eth2, eth3"), "{problem}");
    let problem = ask(&ports, Some("eth9"), data()).unwrap_err();
    assert_eq!(problem.kind, Kind::NotFound);
}

#[test]
fn what_is_no_frame_and_too_many_are_refused() {
    let ports = [tunnel("eth1", Some(NEAR), None)];
    let none = FrameHead {
        length: 1,
        head: "zz".into(),
    };
    assert_eq!(ask(&ports, None, none).unwrap_err().kind, Kind::Invalid);
    let request = Explain {
        port: None,
        frames: vec![data(); MOST_FRAMES + 1],
    };
    let problem = answer(&ports, &request, |_| None).unwrap_err();
    assert!(problem.happened.contains("65"), "{problem}");
}

#[test]
fn a_pinned_port_is_told_by_its_pins() {
    let own = ["10.9.0.1".parse().unwrap()];
    let pins = [Pin {
        mac: FAR,
        addresses: vec!["10.9.0.2".parse().unwrap()],
        rate: 1,
    }];
    let port = |mac| Port {
        interface: "eth1".into(),
        mac,
        gate: Gate::Pinned(pin_table(&own, &pins)),
    };
    let datagram = |last: u8| FrameHead {
        length: 42,
        head: [
            "0200000000010200000000020800",
            "4500001c00000000401100000a09000",
            &format!("{last}0a090001"),
            "10000050000800000000",
        ]
        .concat()[..84]
            .to_owned(),
    };
    let ports = [port(Some(NEAR))];
    let told = ask(&ports, None, datagram(2)).unwrap();
    assert_eq!(told.verdict.as_deref(), Some("passed"), "{told:?}");
    let told = ask(&ports, None, datagram(3)).unwrap();
    assert_eq!(told.verdict.as_deref(), Some("spoofed_address"));
    let text = format!("{told:?}");
    assert!(
        text.contains("10.9.0.3 is not pinned to 02:00:00:00:00:02"),
        "{text}"
    );
}
