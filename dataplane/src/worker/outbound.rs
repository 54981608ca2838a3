//! From the host interface to the rings.

use super::crew::Handed;
use super::*;
use crate::host::segment::Segmenter;
use crate::session::SealError;

/// Reads of the host interface in one round: a few super-packets, then the rings are looked at
/// again.
const READS: usize = 16;
/// Frames put on a send ring before its doorbell is rung.
const DOORBELL: usize = BATCH;

impl<P: Port, H: Host> Worker<P, H> {
    /// Reads packets, segments and seals them into frames of the port they leave by.
    pub(super) fn transmit(&mut self, now: u64) -> bool {
        let mut packet = std::mem::take(&mut self.packet);
        let mut reads = 0;
        while reads < READS {
            match self.host.read(&mut packet) {
                Ok(Some(len)) => self.transmit_packet(&packet[..len], now),
                Ok(None) => break,
                // A packet that a `virtio_net_hdr` cannot describe: the kernel has dropped it.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    self.counters.host_malformed.add(1);
                }
                Err(error) => {
                    self.outbox.push_back(Event::HostFailed(error));
                    self.stopped = true;
                    break;
                }
            }
            reads += 1;
        }
        self.packet = packet;
        reads > 0
    }

    pub(super) fn transmit_packet(&mut self, packet: &[u8], now: u64) {
        let Ok(mut segments) = Segmenter::new(packet) else {
            return self.counters.host_malformed.add(1);
        };
        // The tunnel is point to point: what the kernel says to a neighbourhood (MLD, router
        // solicitations) stays here.
        let owner = match self.role {
            _ if segments.destination().is_multicast() => None,
            Role::Gateway => self.routes.owner(segments.destination()),
            Role::Workstation => Some(0),
        };
        let peer = owner.and_then(|owner| self.peers.get(owner as usize)?.as_ref());
        let Some(peer) = peer else {
            return self.counters.no_route.add(1);
        };
        let index = peer.standing.sending(self.role);
        let Some((session, port)) = self.sessions.get(index).and_then(|session| {
            let port = self.ports.get_mut(&session.port)?;
            Some((session, port))
        }) else {
            let seat = self.seat.as_mut();
            return match seat.map(|seat| seat.hand_packet(peer.id, packet)) {
                Some(Handed::Over) => self.counters.handed_over.add(1),
                Some(Handed::Full) => peer.counters.handoff_full.add(1),
                Some(Handed::Nobody) | None => peer.counters.no_session.add(1),
            };
        };
        let mtu = port.mtu(session);
        let (mut frames, mut bytes) = (0, 0);
        while let len @ 1.. = segments.next_len() {
            if len > mtu {
                peer.counters.too_big.add(1);
                break;
            }
            let Some(mut frame) = reserve(port) else {
                peer.counters.tx_full.add(1);
                break;
            };
            let padded = session.padding.apply(len, mtu);
            port.io.set_len(&mut frame, ETH_LEN + OVERHEAD + padded);
            let data = port.io.data_mut(&mut frame);
            write_ethernet(data, session.peer_mac, port.mac, port.ethertype);
            let payload = &mut data[ETH_LEN + HEADER_LEN..];
            if segments.next(&mut payload[..len]) != Some(len) {
                port.io.release(frame);
                self.counters.host_malformed.add(1);
                break;
            }
            payload[len..padded].fill(0);
            if let Err(error) = session.seal(&mut data[ETH_LEN..], padded, now) {
                port.io.release(frame);
                peer.counters.seal_refused.add(1);
                if error == SealError::Exhausted {
                    tracing::warn!(
                        workstation = peer.id,
                        "a session may seal no more; waiting for its rekey"
                    );
                }
                break;
            }
            if session.wears_out() {
                self.outbox.push_back(Event::Worn {
                    workstation: peer.id,
                    index,
                });
            }
            port.touched = true;
            if let Err(frame) = port.io.send(frame) {
                port.io.release(frame);
                peer.counters.tx_full.add(1);
                break;
            }
            frames += 1;
            bytes += len;
            if frames % DOORBELL == 0 {
                // What fails here fails again at the end of the round, where it is handled.
                let _ = port.io.flush();
            }
        }
        peer.counters.tx_packets.add(frames as u64);
        peer.counters.tx_bytes.add(bytes as u64);
        if frames > 1 {
            self.counters.super_packets_read.add(1);
        }
    }

    /// Seals a control message under a session and sends it.
    pub(super) fn send_control(&mut self, index: u32, message: &[u8], now: u64) {
        let Some(session) = self.sessions.get(index) else {
            return;
        };
        let peer = self
            .peers
            .get(session.workstation as usize)
            .and_then(Option::as_ref);
        let (Some(peer), Some(port)) = (peer, self.ports.get_mut(&session.port)) else {
            return;
        };
        let padded = session.padding.apply(message.len(), port.mtu(session));
        let Some(mut frame) = reserve(port) else {
            return peer.counters.tx_full.add(1);
        };
        port.io.set_len(&mut frame, ETH_LEN + OVERHEAD + padded);
        let data = port.io.data_mut(&mut frame);
        write_ethernet(data, session.peer_mac, port.mac, port.ethertype);
        let payload = &mut data[ETH_LEN + HEADER_LEN..];
        payload[..message.len()].copy_from_slice(message);
        payload[message.len()..padded].fill(0);
        let sealed = session.seal(&mut data[ETH_LEN..], padded, now);
        let unsent = match sealed {
            Ok(()) => port.io.send(frame).err(),
            Err(_) => {
                peer.counters.seal_refused.add(1);
                Some(frame)
            }
        };
        if let Some(frame) = unsent {
            port.io.release(frame);
        }
        port.touched = true;
    }

    /// Sends a handshake frame.
    pub(super) fn send_clear(&mut self, port: PortId, destination: [u8; 6], body: &[u8]) {
        let Some(port) = self.ports.get_mut(&port) else {
            return;
        };
        let Some(mut frame) = reserve(port) else {
            return;
        };
        port.io.set_len(&mut frame, ETH_LEN + body.len());
        let data = port.io.data_mut(&mut frame);
        write_ethernet(data, destination, port.mac, port.ethertype);
        data[ETH_LEN..].copy_from_slice(body);
        if let Err(frame) = port.io.send(frame) {
            port.io.release(frame);
        }
        port.touched = true;
    }
}

/// A free frame, after one try to get frames back from the kernel.
fn reserve<P: Port>(port: &mut WorkerPort<P>) -> Option<P::Frame> {
    if let Some(frame) = port.io.reserve() {
        return Some(frame);
    }
    let _ = port.io.flush();
    port.io.reserve()
}

fn write_ethernet(data: &mut [u8], destination: [u8; 6], source: [u8; 6], ethertype: u16) {
    data[..6].copy_from_slice(&destination);
    data[6..12].copy_from_slice(&source);
    data[12..14].copy_from_slice(&ethertype.to_be_bytes());
}
