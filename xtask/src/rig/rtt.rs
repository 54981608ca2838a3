//! Round trips: ICMP echo requests at a fixed spacing, whatever becomes of their answers, and the time
//! of each answer as the kernel saw it come, which is how `ping` measures.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use nix::sys::time::TimeSpec;

use super::guard::check;
use super::namespace::Namespace;
use super::traffic::icmp_socket;

/// Bytes of data in a request: `ping`'s.
const DATA: usize = 56;
/// How long an answer may take.
const LATE: Duration = Duration::from_millis(500);

/// Round trips of a series.
#[derive(Debug, Clone, Default)]
pub struct RoundTrips {
    /// Requests sent.
    pub sent: usize,
    /// The round trips of those that were answered, in microseconds, in the order of the requests.
    pub micros: Vec<f64>,
}

/// Sends `count` echo requests to `to`, one every `every`.
///
/// # Errors
/// When the socket cannot be made, or the run was interrupted.
pub fn round_trips(
    namespace: &Namespace,
    to: Ipv4Addr,
    count: usize,
    every: Duration,
) -> Result<RoundTrips> {
    let socket = icmp_socket(namespace, true)?;
    setsockopt(&socket, ReceiveTimestampns, &true).context("SO_TIMESTAMPNS")?;
    // The low half tells this series from others on the host.
    let identifier = (socket.as_raw_fd() as u16) ^ (std::process::id() as u16) ^ 0x5254;
    let mut sent: Vec<SystemTime> = Vec::with_capacity(count);
    let mut back: Vec<Option<f64>> = vec![None; count];
    let mut due = Instant::now();
    loop {
        check()?;
        if sent.len() < count && Instant::now() >= due {
            let packet = request(identifier, sent.len() as u16);
            sent.push(SystemTime::now());
            // What has no way there is lost.
            let _ = socket.send_to(&packet, SocketAddr::new(IpAddr::V4(to), 0));
            due += every;
        }
        let until = if sent.len() < count { due } else { due + LATE };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            if sent.len() < count {
                continue;
            }
            break;
        }
        socket.set_read_timeout(Some(left))?;
        if let Some((number, at)) = answer(&socket, to, identifier)
            && let Some(start) = sent.get(number)
        {
            let trip = at.duration_since(*start).unwrap_or_default();
            back[number].get_or_insert(trip.as_secs_f64() * 1e6);
        }
        if sent.len() == count && back.iter().all(Option::is_some) {
            break;
        }
    }
    Ok(RoundTrips {
        sent: count,
        micros: back.into_iter().flatten().collect(),
    })
}

/// An ICMP echo request.
fn request(identifier: u16, number: u16) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(number.to_be_bytes());
    packet.extend((0..DATA).map(|at| at as u8));
    let sum = crate::attack::checksum(&[&packet]);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The next answer to this series within the socket's time: its number, and when it came.
fn answer(
    socket: &std::net::UdpSocket,
    from: Ipv4Addr,
    identifier: u16,
) -> Option<(usize, SystemTime)> {
    let mut buffer = [0; 256];
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    );
    let message = message.ok()?;
    let sender = message.address?.ip();
    let at = message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(at) => {
            Some(SystemTime::UNIX_EPOCH + Duration::from(at))
        }
        _ => None,
    })?;
    let len = message.bytes;
    // A raw IPv4 socket gives the IP header too.
    let icmp = buffer[..len].get(usize::from(buffer[0] & 15) * 4..)?;
    let mine = sender == from && icmp.first() == Some(&0);
    let mine = mine && icmp.get(4..6) == Some(&identifier.to_be_bytes()[..]);
    let number = u16::from_be_bytes([*icmp.get(6)?, *icmp.get(7)?]);
    mine.then_some((usize::from(number), at))
}
