//! The agent's port: rings of an interface of its own, a socket of the kernel's, or both together.

use dataplane::port::fast_path::{FastPathFrame, FastPathPort};
use dataplane::port::socket::{SocketFrame, SocketPort};
use dataplane::port::xsk::{XskFrame, XskPort};
use dataplane::port::{Port, PortError, RingStatistics};
use std::os::fd::BorrowedFd;

/// Any kind of port.
#[allow(clippy::large_enum_variant)] // There is one of them.
pub enum AgentPort {
    /// An interface of its own; and room for what it receives at a time, so that nothing is allocated for that.
    Cable(XskPort, Vec<XskFrame>),
    /// A connected UDP socket; and the same.
    Network(SocketPort, Vec<SocketFrame>),
    /// One with rings beside it; and the same.
    FastPath(FastPathPort, Vec<FastPathFrame>),
}

impl AgentPort {
    /// The port of a socket.
    pub fn network(port: SocketPort) -> Self {
        Self::Network(port, Vec::new())
    }

    /// The port of a socket with rings beside it.
    pub fn fast_path(port: FastPathPort) -> Self {
        Self::FastPath(port, Vec::new())
    }
}

/// A frame of any.
pub enum AgentFrame {
    /// Of the interface.
    Cable(XskFrame),
    /// Of the socket.
    Network(SocketFrame),
    /// Of the two together.
    FastPath(FastPathFrame),
}

impl From<XskPort> for AgentPort {
    fn from(port: XskPort) -> Self {
        Self::Cable(port, Vec::new())
    }
}

/// Calls a method on the port that a frame is of; as with any port, another's frame is a panic.
macro_rules! of {
    ($port:expr, $frame:expr, $method:ident $(, $more:expr)*) => {
        match ($port, $frame) {
            (AgentPort::Cable(port, _), AgentFrame::Cable(frame)) => port.$method(frame $(, $more)*),
            (AgentPort::Network(port, _), AgentFrame::Network(frame)) => port.$method(frame $(, $more)*),
            (AgentPort::FastPath(port, _), AgentFrame::FastPath(frame)) => port.$method(frame $(, $more)*),
            _ => panic!("a frame of another port"),
        }
    };
}

/// Calls a method on whichever port it is.
macro_rules! any {
    ($port:expr, $method:ident) => {
        match $port {
            AgentPort::Cable(port, _) => port.$method(),
            AgentPort::Network(port, _) => port.$method(),
            AgentPort::FastPath(port, _) => port.$method(),
        }
    };
}

impl Port for AgentPort {
    type Frame = AgentFrame;

    fn receive(&mut self, into: &mut Vec<AgentFrame>, max: usize) -> usize {
        match self {
            Self::Cable(port, frames) => {
                let count = port.receive(frames, max);
                into.extend(frames.drain(..).map(AgentFrame::Cable));
                count
            }
            Self::Network(port, frames) => {
                let count = port.receive(frames, max);
                into.extend(frames.drain(..).map(AgentFrame::Network));
                count
            }
            Self::FastPath(port, frames) => {
                let count = port.receive(frames, max);
                into.extend(frames.drain(..).map(AgentFrame::FastPath));
                count
            }
        }
    }

    fn reserve(&mut self) -> Option<AgentFrame> {
        match self {
            Self::Cable(port, _) => port.reserve().map(AgentFrame::Cable),
            Self::Network(port, _) => port.reserve().map(AgentFrame::Network),
            Self::FastPath(port, _) => port.reserve().map(AgentFrame::FastPath),
        }
    }

    fn release(&mut self, frame: AgentFrame) {
        of!(self, frame, release);
    }

    fn send(&mut self, frame: AgentFrame) -> Result<(), AgentFrame> {
        match (self, frame) {
            (Self::Cable(port, _), AgentFrame::Cable(frame)) => {
                port.send(frame).map_err(AgentFrame::Cable)
            }
            (Self::Network(port, _), AgentFrame::Network(frame)) => {
                port.send(frame).map_err(AgentFrame::Network)
            }
            (Self::FastPath(port, _), AgentFrame::FastPath(frame)) => {
                port.send(frame).map_err(AgentFrame::FastPath)
            }
            _ => panic!("a frame of another port"),
        }
    }

    fn flush(&mut self) -> Result<usize, PortError> {
        any!(self, flush)
    }

    fn data<'a>(&'a self, frame: &'a AgentFrame) -> &'a [u8] {
        of!(self, frame, data)
    }

    fn data_mut<'a>(&'a mut self, frame: &'a mut AgentFrame) -> &'a mut [u8] {
        of!(self, frame, data_mut)
    }

    fn set_len(&mut self, frame: &mut AgentFrame, len: usize) {
        of!(self, frame, set_len, len);
    }

    fn capacity(&self) -> usize {
        any!(self, capacity)
    }

    fn statistics(&self) -> RingStatistics {
        any!(self, statistics)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        any!(self, poll_fd)
    }
}
