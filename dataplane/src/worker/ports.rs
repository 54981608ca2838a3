//! A worker's ports, by number.

use crate::PortId;
use crate::path::Encapsulation;
use crate::port::Port;
use crate::session::Session;
use crate::wall::PortTables;
use std::sync::Arc;
use wire::limits::OVERHEAD;

/// A port within a worker.
pub struct WorkerPort<P> {
    pub io: P,
    pub tables: Arc<PortTables>,
    pub mac: [u8; 6],
    pub encapsulation: Encapsulation,
    /// Bytes before the Portcullis header of what is read before its session is known: what the last session's
    /// frames had.
    pub front: usize,
    /// Something was received, sent or released since the last flush.
    pub touched: bool,
    /// The kernel has not taken all frames yet, or the link is down: flush again later.
    pub lagging: bool,
    /// The rings were empty when last asked.
    pub drained: bool,
}

impl<P: Port> WorkerPort<P> {
    /// The largest inner packet of a session that leaves by this port. What was agreed on with the
    /// other side is no promise about the memory here.
    #[inline]
    pub fn mtu(&self, session: &Session) -> usize {
        let room = self
            .io
            .capacity()
            .saturating_sub(session.path.front() + OVERHEAD);
        usize::from(session.mtu).min(room)
    }

    /// A free frame, after one try to get frames back from the kernel.
    #[inline]
    pub fn reserve(&mut self) -> Option<P::Frame> {
        if let Some(frame) = self.io.reserve() {
            return Some(frame);
        }
        // What fails here fails again at the end of the round, where it is handled.
        let _ = self.io.flush();
        self.io.reserve()
    }
}

/// Ports by number, of which control gives small ones.
pub struct Ports<P>(Vec<Option<WorkerPort<P>>>);

impl<P> Default for Ports<P> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<P> Ports<P> {
    #[inline]
    pub fn get(&self, id: PortId) -> Option<&WorkerPort<P>> {
        self.0.get(usize::from(id))?.as_ref()
    }

    #[inline]
    pub fn get_mut(&mut self, id: PortId) -> Option<&mut WorkerPort<P>> {
        self.0.get_mut(usize::from(id))?.as_mut()
    }

    /// Copies the first `len` bytes of a frame of one port into one of another, and gives the first
    /// back. `None` when the other port is not there, or has no frame for it.
    pub fn carry(
        &mut self,
        from: PortId,
        frame: P::Frame,
        len: usize,
        to: PortId,
    ) -> Option<P::Frame>
    where
        P: Port,
    {
        let source = self.0.get_mut(usize::from(from)).and_then(Option::take)?;
        let mut carried = self.get_mut(to).and_then(WorkerPort::reserve);
        if let (Some(copy), Some(port)) = (&mut carried, self.get_mut(to)) {
            let data = source.io.data(&frame);
            let len = len.min(data.len()).min(port.io.capacity());
            port.io.set_len(copy, len);
            port.io.data_mut(copy)[..len].copy_from_slice(&data[..len]);
        }
        let source = self.0[usize::from(from)].insert(source);
        source.io.release(frame);
        carried
    }

    pub fn insert(&mut self, id: PortId, port: WorkerPort<P>) {
        let at = usize::from(id);
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at] = Some(port);
    }

    pub fn remove(&mut self, id: PortId) -> Option<WorkerPort<P>> {
        self.0.get_mut(usize::from(id))?.take()
    }

    pub fn iter(&self) -> impl Iterator<Item = (PortId, &WorkerPort<P>)> {
        let ports = self.0.iter().enumerate();
        ports.filter_map(|(id, port)| Some((id as PortId, port.as_ref()?)))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (PortId, &mut WorkerPort<P>)> {
        let ports = self.0.iter_mut().enumerate();
        ports.filter_map(|(id, port)| Some((id as PortId, port.as_mut()?)))
    }
}
