use super::*;
use crate::wall::PortTables;
use proptest::prelude::*;
use wire::header::session_index;
use wire::limits::ETHERTYPE;
use wire::tables::{KnockEntry, SessionEntry};

const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];
const KEY: [u64; 2] = [0x1111_2222_3333_4444, 0x5555_6666_7777_8888];

fn port() -> Admission {
    Admission {
        role: Role::Gateway,
        mac: NEAR,
        encapsulation: wire::Encapsulation::Ether(ETHERTYPE),
    }
}

fn tables() -> PortTables {
    let tables = PortTables::in_memory(16, 8).unwrap();
    let session = SessionEntry {
        index: session_index(3, 0x8001),
        workstation: 2,
        key: KEY,
        peer_mac: FAR,
        reserved: [0; 2],
    };
    assert!(tables.install_session(3, &session));
    tables.set_limit(2, 4);
    let knock = KnockEntry {
        key: KEY,
        workstation: 2,
        ..KnockEntry::default()
    };
    tables.install_knock(7, &knock).unwrap();
    tables
}

fn data(counter: u64) -> Vec<u8> {
    let mut header = Header::new(kind::DATA, 100, session_index(3, 0x8001), counter);
    header.tag = header.data_tag(KEY);
    let mut frame = [&NEAR[..], &FAR, &ETHERTYPE.to_be_bytes(), &header.encode()].concat();
    frame.resize(ETH_LEN + header.frame_len(), 0);
    frame
}

fn told(frame: &[u8], tables: Option<&PortTables>) -> Explanation<Verdict> {
    let captured = Captured::new(&frame[..frame.len().min(HEAD)], frame.len());
    explain(&port(), &captured, tables.map(|tables| tables.at(1, true)))
}

fn last(told: &Explanation<Verdict>) -> (&'static str, Outcome) {
    let last = told.steps.last().unwrap();
    (last.check, last.outcome)
}

proptest! {
    #[test]
    fn a_fault_is_named_exactly_where_there_is_no_header(words: [u64; 3], sound: bool, kind in 0u64..8) {
        let mut words = words;
        if sound {
            // Near a header, so that each single fault comes up.
            words[0] = words[0] & !0xffff | 0x10 | kind;
        }
        prop_assert_eq!(Header::from_words(words).is_err(), fault(words).is_some());
    }

    #[test]
    fn asking_changes_nothing_and_the_last_step_alone_decides(
        counter in 0u64..4,
        flips in prop::collection::vec((0usize..60, 0u8..8), 0..2),
        length in prop::option::of(14usize..200),
    ) {
        let tables = tables();
        let mut frame = data(counter);
        for (at, bit) in flips {
            frame[at] ^= 1 << bit;
        }
        if let Some(length) = length {
            frame.truncate(length);
        }
        let first = told(&frame, Some(&tables));
        prop_assert_eq!(&first, &told(&frame, Some(&tables)));
        let (verdict, of) = decide(&port(), &frame.as_slice(), &tables.at(1, true));
        prop_assert_eq!((first.verdict, first.of), (Some(verdict), of));
        let (end, before) = first.steps.split_last().unwrap();
        prop_assert_eq!(end.outcome, Outcome::Decided);
        prop_assert!(before.iter().all(|step| step.outcome == Outcome::Passed));
        prop_assert!(first.steps.iter().all(|step| !step.text.is_empty()));
    }
}

#[test]
fn each_drop_is_told_at_the_check_that_makes_it() {
    let tables = tables();
    let with = |at: usize, value: u8| {
        let mut frame = data(5);
        frame[at] = value;
        frame
    };
    let good = data(5);
    for (frame, check, verdict) in [
        (with(12, 8), "EtherType", Verdict::Foreign),
        (good[..30].to_vec(), "length", Verdict::Short),
        (with(14, 0x25), "header", Verdict::Malformed),
        (with(15, 1), "header", Verdict::Malformed),
        (good[..100].to_vec(), "end", Verdict::Malformed),
        (with(5, 9), "destination", Verdict::Misdirected),
        (with(18, 9), "session", Verdict::UnknownSession),
        (with(20, 9), "session", Verdict::UnknownSession),
        (with(11, 9), "source", Verdict::Misdirected),
        (with(30, good[30] ^ 1), "tag", Verdict::BadTag),
        (good.clone(), "admitted", Verdict::Admitted),
    ] {
        let told = told(&frame, Some(&tables));
        assert_eq!(told.verdict, Some(verdict));
        assert_eq!(last(&told), (check, Outcome::Decided));
    }
    tables.set_floor(3, 9);
    let old = told(&good, Some(&tables));
    assert_eq!(last(&old), ("replay", Outcome::Decided));
    tables.set_limit(2, 0);
    assert_eq!(last(&told(&data(9), Some(&tables))).0, "credit");
    let captured = Captured::new(&good, good.len());
    tables.set_limit(2, 4);
    tables.set_floor(3, 0);
    let told = explain(&port(), &captured, Some(tables.at(1, false)));
    assert_eq!(last(&told), ("socket", Outcome::Decided));
}

#[test]
fn no_key_and_no_right_tag_is_told() {
    let tables = tables();
    let mut frame = data(5);
    let tag = u64::from_le_bytes(frame[30..38].try_into().unwrap());
    frame[30..38].fill(0);
    let text = format!("{:?}", told(&frame, Some(&tables)));
    for secret in [KEY[0], KEY[1], tag] {
        for shown in [format!("{secret}"), format!("{secret:x}"), hex(secret)] {
            assert!(!text.contains(&shown), "{text}");
        }
    }
}

fn hex(word: u64) -> String {
    word.to_le_bytes()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

#[test]
fn without_tables_or_bytes_it_is_told_as_far_as_can_be_and_no_verdict_is_made_up() {
    let told_bare = told(&data(5), None);
    assert_eq!(told_bare.verdict, None);
    assert_eq!(last(&told_bare), ("session", Outcome::Unknown));
    let mut foreign = data(5);
    foreign[12] = 8;
    assert_eq!(told(&foreign, None).verdict, Some(Verdict::Foreign));
    let frame = data(5);
    let cut = explain(&port(), &Captured::new(&frame[..20], frame.len()), None);
    assert_eq!(cut.verdict, None);
    assert_eq!(last(&cut), ("length", Outcome::Unknown));
}

#[test]
fn a_refusal_is_told_of_exactly_what_is_answered() {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(FAR, NEAR)
        .ipv4([198, 51, 100, 7], [192, 0, 2, 1], 60)
        .udp(7, 51888)
        .write(&mut frame, &[7; 64])
        .unwrap();
    let mut fragment = frame.clone();
    fragment[20] = 0x20;
    let is_told = |frame: &[u8], stealth| {
        let udp = Udp::new(51888, Some([192, 0, 2, 1].into()), None, false);
        let port = Admission {
            encapsulation: Encapsulation::Udp(Udp { stealth, ..udp }),
            ..port()
        };
        let told = explain(&port, &Captured::new(frame, frame.len()), None);
        assert!(told.verdict.is_some_and(Verdict::is_refusal), "{told:?}");
        told.steps.last().unwrap().text.contains("nobody listens")
    };
    assert!(is_told(&frame, false));
    assert!(!is_told(&frame, true));
    assert!(!is_told(&fragment, false));
}
