//! Towards ws1: datagrams as if from the Gateway, and errors as if from routers between.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use control::enrolment::Enrolment;
use control::handshake::kdf::{KnockKeys, knock_keys};
use dataplane::path::{Path, UdpPath};
use wire::kind;
use wire::limits::UDP_PORT;

use crate::attack::frame::{Noise, Outer, ethernet};
use crate::attack::ground::Ground;
use crate::attack::inner;
use crate::attack::outcome::Happened;
use crate::attack::scenarios::Checks;
use crate::attack::udp::outer::{GATEWAY_V4, inside};
use crate::attack::udp::segment::{ERRORS, icmp_error};
use crate::attack::udp::suite::Remote;
use crate::rig::{Capture, LAN, PacketKind, PacketSocket, mac_of, pause, ping};

/// How the Internet's router reaches the home.
struct Home {
    socket: PacketSocket,
    /// The router's MAC address, and the home's.
    macs: [[u8; 6]; 2],
    /// ws1, as it is seen outside.
    ws1: SocketAddr,
}

impl Home {
    fn of(remote: &Remote) -> Result<Self> {
        let networks = &remote.networks;
        let [ws1, _] = remote.known.ways.context("ways over networks")?;
        Ok(Self {
            socket: PacketSocket::sender(&networks.internet, "ih")?,
            macs: [
                mac_of(&networks.internet, "ih")?,
                mac_of(&networks.home, "hw")?,
            ],
            ws1: ws1.local,
        })
    }

    /// What is around a frame to ws1.
    fn from(&self, source: SocketAddr) -> Outer {
        Outer {
            mac: self.macs[0],
            way: Path::Udp(UdpPath {
                next_hop: self.macs[1],
                local: source,
                remote: self.ws1,
            }),
        }
    }
}

fn keys_of_ws1(remote: &Remote) -> Result<(u32, KnockKeys)> {
    let file = remote.gateway().directory().join("ws1.enrolment");
    let (enrolment, _) = Enrolment::read(&file).map_err(|problem| anyhow!("{problem}"))?;
    Ok((enrolment.key_id.get(), knock_keys(enrolment.psk.as_bytes())))
}

fn replays(remote: &Remote) -> Result<u64> {
    let status = remote.networks.workstation.status()?;
    Ok(status["drops"]["replayed"].as_u64().unwrap_or(0))
}

pub(super) fn lies(remote: &mut Remote) -> Result<Happened> {
    let home = Home::of(remote)?;
    let (key_id, knock) = keys_of_ws1(remote)?;
    let sources = [
        SocketAddr::from((GATEWAY_V4, UDP_PORT)),
        (GATEWAY_V4, UDP_PORT + 1).into(),
        ([44, 0, 0, 4], UDP_PORT).into(),
    ];
    // Answers to ws1 that have come already.
    let fresh = Capture::filtered(&remote.networks.internet, Some("ig"), 200, |frame| {
        frame.kind == PacketKind::Incoming && frame.bytes.get(30..34) == Some(&[198, 51, 100, 2])
    })?;
    pause(Duration::from_millis(500))?;
    let old: Vec<Vec<u8>> = fresh.take().into_iter().map(|frame| frame.bytes).collect();
    let before = replays(remote)?;
    let mut noise = Noise::new(100);
    let mut sent = 0;
    for number in 0..3000u64 {
        let outer = home.from(sources[number as usize / 4 % 3]);
        let named = (key_id, noise.next());
        let mut payload = [0; 128];
        noise.fill(&mut payload[..8]);
        let frame = match number % 4 {
            0 => outer.tagged(kind::RESET, named, knock.g2w, &payload[..32]),
            1 => outer.tagged(kind::CHALLENGE, named, knock.g2w, &payload[..32]),
            2 => outer.tagged(kind::RESPONSE, named, knock.g2w, &payload),
            _ => outer.wrap(inside(&old[number as usize / 4 % old.len()])),
        };
        sent += u64::from(home.socket.send(&frame));
        if number % 4 == 3 {
            pause(Duration::from_millis(1))?;
        }
    }
    pause(Duration::from_millis(300))?;
    let refused = replays(remote)? - before;
    let state = remote.networks.workstation.status()?["state"].clone();
    let mut checks = Checks::default();
    checks.hold(refused > 0, || {
        "no old datagram came as far as ws1's session".into()
    });
    checks.hold(state == "idle", || format!("ws1 is in {state}"));
    checks.end(
        sent,
        format!("{refused} old datagrams refused, no handshake begun"),
    )
}

pub(super) fn errors(remote: &mut Remote) -> Result<Happened> {
    let home = Home::of(remote)?;
    let host = std::sync::Arc::clone(remote.networks.workstation.namespace());
    let arrived = Capture::filtered(&host, Some(LAN), 0, |frame| {
        frame.kind == PacketKind::Incoming
            && frame.ethertype() == 0x0800
            && frame.bytes.get(23) == Some(&1)
    })?;
    let before = remote.networks.workstation.tunnel_mtu()?;
    let quoted: Vec<&[u8]> = remote.known.data.iter().map(|frame| &frame[14..]).collect();
    let SocketAddr::V4(ws1) = home.ws1 else {
        anyhow::bail!("ws1 is not seen at an IPv4 address");
    };
    let routers = [GATEWAY_V4, [198, 51, 100, 254].into(), [44, 0, 0, 5].into()];
    let mut sent = 0;
    for number in 0..1200 {
        let (kind, code, value) = ERRORS[number % ERRORS.len()];
        let message = icmp_error(kind, code, value, quoted[number % quoted.len()]);
        let router = routers[number / ERRORS.len() % routers.len()];
        let packet = inner::v4(router, *ws1.ip(), 1, (&[], 0, 0), &message);
        let frame = ethernet(home.macs[1], home.macs[0], 0x0800, &packet);
        sent += u64::from(home.socket.send(&frame));
        pause(Duration::from_millis(1))?;
    }
    let after = remote.networks.workstation.tunnel_mtu()?;
    let full = ping(
        &host,
        crate::rig::GATEWAY_V4.into(),
        [after - 28; 3],
        Duration::from_secs(1),
    )?;
    arrived.settle()?;
    let came = arrived.incoming();
    let mut checks = Checks::default();
    checks.hold(came > 0, || "no error came as far as ws1".into());
    checks.hold(after == before, || {
        format!("an MTU of {before} became {after}")
    });
    checks.hold(full.answered == 3, || format!("full packets: {full:?}"));
    checks.end(
        sent,
        format!("{came} errors came to ws1, its MTU is still {after}"),
    )
}
