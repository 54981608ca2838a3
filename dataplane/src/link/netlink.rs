//! A netlink socket used plainly: one request, then its answer. No task and no runtime, so it
//! may be used from any thread, within an asynchronous runtime or not. It belongs to the network
//! namespace its thread was in when it was opened.

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;

/// More than the kernel puts into one datagram (32 KiB).
const BUFFER: usize = 64 * 1024;
/// `NLM_F_DUMP_INTR`: something changed while the kernel listed it.
const DUMP_INTERRUPTED: u16 = 0x10;

/// A socket for messages of one kind.
pub(super) struct Netlink<M = RouteNetlinkMessage> {
    socket: Socket,
    sequence: Cell<u32>,
    messages: PhantomData<M>,
}

impl Netlink {
    /// A socket of route netlink that also receives these multicast groups (a mask).
    pub(super) fn open(groups: u32) -> io::Result<Self> {
        Self::of(NETLINK_ROUTE, groups)
    }
}

impl<M: NetlinkSerializable + NetlinkDeserializable + Clone> Netlink<M> {
    /// A socket of that protocol, whose messages these are.
    pub(super) fn of(protocol: isize, groups: u32) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, groups))?;
        Ok(Self {
            socket,
            sequence: Cell::new(0),
            messages: PhantomData,
        })
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Its address, which is what the kernel knows it by.
    pub(super) fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// Changes something.
    pub(super) fn change(&self, message: M, flags: u16) -> io::Result<()> {
        self.request(message, flags | NLM_F_ACK).map(drop)
    }

    /// Asks for one thing.
    pub(super) fn get(&self, message: M) -> io::Result<Vec<M>> {
        self.request(message, NLM_F_ACK)
    }

    /// Lists; again when the list changed while it was read.
    pub(super) fn dump(&self, message: M) -> io::Result<Vec<M>> {
        const ATTEMPTS: usize = 8;
        let mut answer = Err(io::ErrorKind::Interrupted.into());
        for _ in 0..ATTEMPTS {
            answer = self.request(message.clone(), NLM_F_DUMP);
            match &answer {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        answer
    }

    /// Sends these in one datagram, each with its flags, and waits until each that asks for it
    /// (`NLM_F_ACK`) is answered. The first error is what comes back.
    pub(super) fn batch(&self, messages: Vec<(M, u16)>) -> io::Result<()> {
        let (first, mut last) = (self.sequence.get().wrapping_add(1), None);
        let mut bytes = Vec::new();
        for (message, flags) in messages {
            let (sequence, one) = self.message(message, flags);
            if flags & NLM_F_ACK != 0 {
                last = Some(sequence);
            }
            bytes.extend(one);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        let Some(last) = last else {
            return Ok(());
        };
        let mut result = Ok(());
        loop {
            for message in self.receive()? {
                let sequence = message.header.sequence_number;
                let NetlinkPayload::Error(error) = message.payload else {
                    continue;
                };
                if sequence.wrapping_sub(first) > last.wrapping_sub(first) {
                    continue;
                }
                if error.code.is_some() && result.is_ok() {
                    result = Err(io::Error::from_raw_os_error(-error.raw_code()));
                }
                // What is wrong with all of it is said of the first.
                if sequence == last || (sequence == first && result.is_err()) {
                    return result;
                }
            }
        }
    }

    /// The number and bytes of a request.
    fn message(&self, message: M, flags: u16) -> (u32, Vec<u8>) {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        (sequence, bytes)
    }

    fn request(&self, message: M, flags: u16) -> io::Result<Vec<M>> {
        let (sequence, bytes) = self.message(message, flags);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;

        let (mut answers, mut interrupted) = (Vec::new(), false);
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != sequence {
                    continue;
                }
                interrupted |= message.header.flags & DUMP_INTERRUPTED != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(io::Error::from_raw_os_error(-error.raw_code()));
                    }
                    NetlinkPayload::Error(_) => return Ok(answers),
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }

    /// The messages of one datagram. What cannot be decoded is left out.
    pub(super) fn receive(&self) -> io::Result<Vec<NetlinkMessage<M>>> {
        let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER);
        let len = loop {
            match self.socket.recv(&mut buffer, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if len > buffer.len() {
            return Err(io::Error::other(format!(
                "a netlink message of {len} bytes, more than {BUFFER}"
            )));
        }
        let mut messages = Vec::new();
        let mut rest = &buffer[..];
        while let Some(head) = rest.first_chunk::<4>() {
            let len = u32::from_ne_bytes(*head) as usize;
            if len < 16 || len > rest.len() {
                break;
            }
            match NetlinkMessage::deserialize(&rest[..len]) {
                Ok(message) => messages.push(message),
                Err(error) => tracing::debug!(%error, "a netlink message that is not understood"),
            }
            rest = &rest[len.next_multiple_of(4).min(rest.len())..];
        }
        Ok(messages)
    }
}
