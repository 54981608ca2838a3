//! Both ends of a cable with fixed keys and seeds, and what they say to each other when nobody
//! interferes: what a fuzz target alters.

use control::handshake::gateway::{
    CipherPolicy, Credentials, Enrolled, Gateway, GatewayConfig, PortConfig,
};
use control::handshake::noise::public_key;
use control::handshake::workstation::{Workstation, WorkstationConfig};
use control::handshake::{Action, Encapsulation, Install, Mac, Padding};
use dataplane::keys::{Cipher, Protection};
use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::Duration;
use zeroize::Zeroizing;

/// When every run begins.
pub const START: Duration = Duration::from_secs(365 * 86_400);
/// The Gateway's address on port 0; on port 1 the last byte is one more.
pub const GATEWAY: Mac = [2, 0, 0, 0, 0, 1];
/// The Workstation's address.
pub const STATION: Mac = [2, 0, 0, 0, 1, 1];

const GATEWAY_PRIVATE: [u8; 32] = [0x11; 32];
const STATION_PRIVATE: [u8; 32] = [0x22; 32];
/// Its PSK.
pub const PSK: [u8; 32] = [0x33; 32];

/// The key id of Workstation 0 or 1.
pub fn key_id(id: u32) -> u32 {
    0xabcd_0001 + id
}

fn public_keys() -> &'static [[u8; 32]; 2] {
    static KEYS: OnceLock<[[u8; 32]; 2]> = OnceLock::new();
    KEYS.get_or_init(|| [public_key(&GATEWAY_PRIVATE), public_key(&STATION_PRIVATE)])
}

/// Port 0 or 1.
pub fn port(port: u16) -> PortConfig {
    let mut mac = GATEWAY;
    mac[5] += port as u8;
    PortConfig {
        port,
        encapsulation: Encapsulation::Ether(wire::limits::ETHERTYPE),
        mac,
        ifindex: 7 + u32::from(port),
        mtu: 1500,
    }
}

/// Workstation 0, or 1 which is never heard.
pub fn enrolled(id: u32) -> Enrolled {
    Enrolled {
        id,
        credentials: Credentials {
            key_id: key_id(id),
            public: public_keys()[1],
            psk: Zeroizing::new(PSK.map(|byte| byte ^ id as u8)),
            gateway: public_keys()[0],
        },
        next: None,
        v4: Some((Ipv4Addr::new(10, 0, 0, 11), 24)),
        v6: None,
        protection: Protection::Encrypt,
        cipher: CipherPolicy::Auto,
        padding: Padding::None,
        ports: None,
    }
}

/// A Gateway with two ports and two Workstations.
pub fn gateway() -> Gateway {
    let config = GatewayConfig {
        static_keys: vec![Zeroizing::new(GATEWAY_PRIVATE)],
        boot_id: [9; 8],
        ports: vec![port(0), port(1)],
        v4: Some(Ipv4Addr::new(10, 0, 0, 1)),
        v6: None,
        seed: Zeroizing::new([3; 32]),
        max_workstations: 2,
    };
    let mut gateway = Gateway::new(config, START);
    for id in 0..2 {
        gateway.add(START, enrolled(id)).expect("a new Workstation");
    }
    gateway
}

/// Workstation 0, started: its Hello is on its way.
pub fn workstation() -> Workstation {
    let config = WorkstationConfig {
        static_private: Zeroizing::new(STATION_PRIVATE),
        gateway_public: public_keys()[0],
        psk: Zeroizing::new(PSK),
        key_id: key_id(0),
        port: 0,
        gateway: wire::limits::BROADCAST.into(),
        mac: STATION,
        mtu: 1460,
        virtualised: false,
        ciphers: vec![Cipher::Aes256Gcm, Cipher::Aes256GcmSiv],
        protections: vec![Protection::Encrypt],
        seed: Zeroizing::new([4; 32]),
    };
    let mut workstation = Workstation::new(config, START);
    workstation.start(START);
    workstation
}

/// What both say when nobody interferes.
pub struct Tape {
    /// Frames, from the Portcullis header on.
    pub hello: Vec<u8>,
    /// The answer to it.
    pub challenge: Vec<u8>,
    /// The answer to that.
    pub initiation: Vec<u8>,
    /// And to that.
    pub response: Vec<u8>,
    /// The session at the Gateway.
    pub at_gateway: u32,
    /// The session at the Workstation.
    pub at_workstation: u32,
    /// The Workstation's rekey in it.
    pub rekey_init: Vec<u8>,
    /// The Gateway's answer to that.
    pub rekey_resp: Vec<u8>,
}

/// What the tape holds, recorded once.
pub fn tape() -> &'static Tape {
    static TAPE: OnceLock<Tape> = OnceLock::new();
    TAPE.get_or_init(record)
}

fn record() -> Tape {
    let (mut gateway, mut workstation) = (gateway(), workstation());
    let hello = sent(workstation.actions());
    gateway.frame(START, 0, STATION, &hello);
    let challenge = sent(gateway.actions());
    workstation.frame(START, GATEWAY, &challenge);
    let initiation = sent(workstation.actions());
    gateway.frame(START, 0, STATION, &initiation);
    let actions: Vec<_> = gateway.actions().collect();
    let at_gateway = installed(&actions).expect("a session").index;
    let response = sent(actions);
    workstation.frame(START, GATEWAY, &response);
    let actions: Vec<_> = workstation.actions().collect();
    let at_workstation = installed(&actions).expect("a session").index;
    workstation.confirmed(START, at_workstation);
    gateway.confirmed(START, 0, at_gateway);
    workstation.limit_near(START, at_workstation);
    let rekey_init = told(workstation.actions());
    gateway.inner(START, 0, at_gateway, &rekey_init);
    let rekey_resp = told(gateway.actions());
    Tape {
        hello,
        challenge,
        initiation,
        response,
        at_gateway,
        at_workstation,
        rekey_init,
        rekey_resp,
    }
}

/// The session among actions.
pub fn installed(actions: &[Action]) -> Option<&Install> {
    actions.iter().find_map(|action| match action {
        Action::Install(install) => Some(&**install),
        _ => None,
    })
}

fn sent(actions: impl IntoIterator<Item = Action>) -> Vec<u8> {
    let mut frames = actions.into_iter().filter_map(|action| match action {
        Action::Send { frame, .. } => Some(frame),
        _ => None,
    });
    frames.next().expect("a frame")
}

fn told(actions: impl IntoIterator<Item = Action>) -> Vec<u8> {
    let mut messages = actions.into_iter().filter_map(|action| match action {
        Action::SendInner { message, .. } => Some(message),
        _ => None,
    });
    messages.next().expect("a message")
}
