//! The privileged helper: a process of its own that does what takes privileges after set-up, and
//! nothing else.
//!
//! A daemon starts it before it has a thread, a secret or a socket of its own, tells it once which
//! interfaces are its ports, or which UDP ports its endpoints have, and gives up its own privileges. From then on it
//! asks the helper to raise a wall, set a link up, make a rule in a NIC, set up the host interface, look after the
//! kill switch, attach a fast path, or for an AF_XDP or UDP socket. Requests are a closed set, and name ports by number: there is none
//! for another interface.
//! Both go down together: the helper ends when its daemon is gone, the daemon when its helper is.

mod keyless;
mod notify;
mod serve;

use crate::config::{Digest, Rings};
use crate::keyless::Standing;
use crate::log::{self, Format};
use crate::problem::{Kind, Problem};
use crate::raise::Plan;
use dataplane::port::ntuple::{Asks, Classifier, Nic, Request as NicRequest};
use dataplane::wall::{FastPathSockets, WallParts};
use ipnet::IpNet;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

pub use keyless::KeylessHelp;

/// The only argument of a daemon that is to be the helper.
const ARGUMENT: &str = "privileged-helper";
/// More than any message has.
const LARGEST: usize = 64 * 1024;
/// Descriptors in one message: a wall's parts are the most.
const MOST_DESCRIPTORS: usize = 16;
/// Addresses a host interface is given: one of each IP version.
const MOST_ADDRESSES: usize = 2;

/// What the helper may touch. Told once, before anything else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scope {
    /// The ports, by number.
    pub ports: Vec<Plan>,
    /// The host interface.
    pub host_interface: String,
    /// What may be routed over it.
    pub routes: Vec<IpNet>,
    /// The ports without keys.
    pub keyless: KeylessScope,
    /// For a Gateway that is reached over networks.
    pub network: Option<NetworkScope>,
    /// Where the lock is that keeps two helpers from changing a port at the same time.
    pub runtime_directory: PathBuf,
}

/// How the tunnel's datagrams leave, and what else may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkScope {
    /// The ports of the Gateway's endpoints.
    pub ports: Vec<u16>,
    /// The interface they leave by; `None`: by whichever leads there.
    pub interface: Option<String>,
    /// The rings of a fast path by that interface, where there is to be one.
    pub fast_path: Option<Rings>,
    /// What is routed into the tunnel.
    pub routes: Vec<IpNet>,
    /// Whether anything else is kept from leaving.
    pub kill_switch: bool,
    /// Whether private networks that this machine is in stay within reach.
    pub lan: bool,
}

/// The mark of the tunnel's own datagrams (SO_MARK): "PORT".
pub const MARK: u32 = 0x504f_5254;

/// The ports without keys. The helper reads them itself, when it begins and when they change: who has
/// taken over the daemon can give a Workstation no pin.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct KeylessScope {
    /// The configuration file.
    pub configuration: PathBuf,
    /// What the daemon has read there, by number; of none, the file is not looked at.
    pub ports: Vec<Digest>,
}

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// With the descriptor on which requests for AF_XDP sockets come in.
    Begin(Box<Scope>),
    /// Whether a port could be raised.
    Check { port: usize },
    /// Raises the wall, with the link down unless one stands already.
    Wall { port: usize },
    /// Sets the link up.
    Up { port: usize },
    /// The next AF_XDP sockets are for this port.
    Sockets { port: usize },
    /// NAPI threads on or off.
    Napi {
        port: usize,
        on: bool,
        insisted: bool,
    },
    /// Whether the port has NAPI threads.
    HasNapi { port: usize },
    /// Makes a rule in the port's NIC.
    MakeRule {
        port: usize,
        source: [u8; 6],
        queue: u32,
        place: u32,
    },
    /// Removes one.
    RemoveRule { port: usize, place: u32 },
    /// Sets the host interface's MTU.
    HostMtu { mtu: u16 },
    /// Gives the host interface MTU and addresses, and the routes of the scope.
    Host { mtu: u16, addresses: Vec<IpNet> },
    /// Keeps what comes in on the host interface on this machine.
    KeepIn,
    /// Whether a port without keys could be raised.
    CheckKeyless { port: usize },
    /// Raises one.
    RaiseKeyless { port: usize },
    /// Looks how one is, and mends what can be mended.
    LookKeyless { port: usize },
    /// Has one be as the configuration file says now, which must be what the daemon has read.
    ChangeKeyless { port: usize, read: Digest },
    /// Has one be as it was before that.
    TakeBackKeyless { port: usize },
    /// A UDP socket of the tunnel's own, connected to an endpoint or a name server.
    UdpSocket { remote: SocketAddr },
    /// Sees to it that the fast path's program is on its interface. The next AF_XDP sockets are for it.
    FastPath,
    /// The fast path takes what an endpoint sends to an address of this machine.
    Flow {
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// NAPI threads of the fast path's interface on or off.
    FastPathNapi { on: bool, insisted: bool },
    /// Looks whether nothing can leave but the tunnel, and sees to it; or to the contrary, where that is wanted.
    KillSwitch,
    /// Takes all walls, the host interface and the kill switch down.
    Lower,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    /// The wall, or the fast path, stands on this interface; its parts come along.
    Wall {
        ifindex: u32,
        mac: [u8; 6],
    },
    Flag(bool),
    Place(u32),
    /// How a port without keys is. If it was raised since this was last said, its counters come along.
    Keyless(Standing),
    /// It could not be done.
    Problem(Problem),
    /// The kernel's answer, by its number.
    Errno(i32),
}

/// A daemon's end.
#[derive(Debug)]
pub struct Helper {
    socket: Mutex<OwnedFd>,
}

impl Helper {
    /// Starts the helper: this very program, with one argument. Nothing of the daemon is handed down
    /// but its output and one socket, so it must be called before there is anything.
    ///
    /// # Errors
    /// What the system answered.
    pub fn start(log: Format) -> Result<Unscoped, Problem> {
        let failed = |error: &io::Error| Problem::io("starting the privileged helper", error);
        let (own, other) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|errno| failed(&errno.into()))?;
        Command::new("/proc/self/exe")
            .arg(ARGUMENT)
            .env(log::FORMAT, log.name())
            .stdin(Stdio::from(other))
            .spawn()
            .map_err(|error| failed(&error))?;
        Ok(Unscoped(own))
    }

    fn ask(&self, request: &Request) -> Result<(Answer, Vec<OwnedFd>), Problem> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        exchange(socket.as_fd(), request, &[])
    }

    fn done(&self, request: &Request) -> Result<(), Problem> {
        match self.ask(request)?.0 {
            Answer::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Whether the helper has ended, without which the daemon cannot go on.
    pub fn is_gone(&self) -> bool {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut set = [nix::poll::PollFd::new(
            socket.as_fd(),
            nix::poll::PollFlags::empty(),
        )];
        let answer = nix::poll::poll(&mut set, nix::poll::PollTimeout::ZERO);
        answer.is_ok() && set[0].any().unwrap_or(true)
    }

    /// That the helper has ended.
    pub fn lost() -> Problem {
        Problem::new(
            Kind::Failed,
            "keeping up the privileged helper",
            "it has ended, and without it no port can be raised",
            "start the daemon again; see its log for why",
        )
    }
}

/// A helper that has not been told its scope.
#[derive(Debug)]
pub struct Unscoped(OwnedFd);

impl Unscoped {
    /// Tells it what it may touch, and has this process's requests for AF_XDP sockets answered by it
    /// from now on. Called before there are other threads.
    ///
    /// # Errors
    /// What the kernel or the helper answered.
    pub fn begin(self, scope: Scope) -> Result<Helper, Problem> {
        let listener = notify::listen()
            .map_err(|error| Problem::io("having AF_XDP sockets made by the helper", &error))?;
        let request = Request::Begin(Box::new(scope));
        match exchange(self.0.as_fd(), &request, &[listener.as_raw_fd()])?.0 {
            Answer::Done => Ok(Helper {
                socket: Mutex::new(self.0),
            }),
            other => Err(unexpected(other)),
        }
    }
}

/// One port, as the helper sees to it.
#[derive(Debug, Clone)]
pub struct PortHelp {
    helper: Arc<Helper>,
    port: usize,
}

impl PortHelp {
    /// The help for the port of this number in the [`Scope`].
    pub fn new(helper: &Arc<Helper>, port: usize) -> Self {
        Self {
            helper: Arc::clone(helper),
            port,
        }
    }

    /// Whether the interface can be a port. It is not touched.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn check(&self) -> Result<(), Problem> {
        self.helper.done(&Request::Check { port: self.port })
    }

    /// Raises the wall: the interface's index and MAC address, and the wall's parts.
    ///
    /// # Errors
    /// As [`Plan::raise_wall`].
    pub fn wall(&self) -> Result<(u32, [u8; 6], WallParts), Problem> {
        match self.helper.ask(&Request::Wall { port: self.port })? {
            (Answer::Wall { ifindex, mac }, parts) => Ok((ifindex, mac, parts.into())),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Sets the link up, once the wall stands.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn up(&self) -> Result<(), Problem> {
        self.helper.done(&Request::Up { port: self.port })
    }

    /// The AF_XDP sockets this process makes from now on are for this port.
    ///
    /// # Errors
    /// The helper is gone.
    pub fn sockets(&self) -> Result<(), Problem> {
        self.helper.done(&Request::Sockets { port: self.port })
    }

    /// NAPI threads on or off, soon.
    pub fn napi(&self, on: bool, insisted: bool) {
        let port = self.port;
        let request = Request::Napi { port, on, insisted };
        if let Err(problem) = self.helper.done(&request) {
            tracing::warn!(%problem, "NAPI threads are left as they are");
        }
    }

    /// Whether the port has NAPI threads.
    pub fn has_napi(&self) -> bool {
        let answer = self.helper.ask(&Request::HasNapi { port: self.port });
        matches!(answer, Ok((Answer::Flag(true), _)))
    }

    /// The port's NIC, whose rules the helper makes.
    pub fn nic(&self, interface: &str) -> HelpedNic {
        HelpedNic {
            nic: Nic(interface.to_owned()),
            help: self.clone(),
        }
    }
}

/// A NIC of which anyone may read, and the helper writes.
#[derive(Debug)]
pub struct HelpedNic {
    nic: Nic,
    help: PortHelp,
}

impl Classifier for HelpedNic {
    fn call(&mut self, request: &mut NicRequest) -> io::Result<()> {
        let port = self.help.port;
        let ask = match request.asks() {
            Some(Asks::Reading) => return self.nic.call(request),
            Some(Asks::Making(rule)) => Request::MakeRule {
                port,
                source: rule.source,
                queue: rule.queue,
                place: rule.place,
            },
            Some(Asks::Removing(place)) => Request::RemoveRule { port, place },
            None => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        match self.help.helper.ask(&ask).map_err(io::Error::other)?.0 {
            Answer::Place(place) => {
                request.made_at(place);
                Ok(())
            }
            Answer::Done => Ok(()),
            Answer::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
            other => Err(io::Error::other(unexpected(other))),
        }
    }
}

impl Helper {
    /// Sets the host interface's MTU.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn host_mtu(&self, mtu: u16) -> Result<(), Problem> {
        self.done(&Request::HostMtu { mtu })
    }

    /// Gives the host interface MTU, addresses and routes, and sets it up. What is there already is
    /// not touched.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn host(&self, mtu: u16, addresses: Vec<IpNet>) -> Result<(), Problem> {
        self.done(&Request::Host { mtu, addresses })
    }

    /// A UDP socket that is connected to an endpoint of the scope or to a name server, whose datagrams may leave.
    ///
    /// # Errors
    /// What the kernel answered, or that the scope has none such.
    pub fn udp_socket(&self, remote: SocketAddr) -> Result<OwnedFd, Problem> {
        match self.ask(&Request::UdpSocket { remote })? {
            (Answer::Done, descriptors) => {
                let none = || unexpected(Answer::Done);
                descriptors.into_iter().next().ok_or_else(none)
            }
            (other, _) => Err(unexpected(other)),
        }
    }

    /// The fast path on its interface: index and MAC address of that, and where its sockets belong. The AF_XDP
    /// sockets that this process makes from now on are for it.
    ///
    /// # Errors
    /// As [`dataplane::wall::FastPath::attach`], or that there is no such interface.
    pub fn fast_path(&self) -> Result<(u32, [u8; 6], FastPathSockets), Problem> {
        match self.ask(&Request::FastPath)? {
            (Answer::Wall { ifindex, mac }, parts) => {
                let sockets = parts.into_iter().next();
                let sockets = sockets.ok_or_else(|| unexpected(Answer::Done))?;
                Ok((ifindex, mac, sockets.into()))
            }
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Has the fast path take what an endpoint of the scope sends to `local`.
    ///
    /// # Errors
    /// What the kernel answered, or that the scope has no such endpoint.
    pub fn flow(&self, local: SocketAddr, remote: SocketAddr) -> Result<(), Problem> {
        self.done(&Request::Flow { local, remote })
    }

    /// NAPI threads of the fast path's interface on or off, soon.
    pub fn fast_path_napi(&self, on: bool, insisted: bool) {
        if let Err(problem) = self.done(&Request::FastPathNapi { on, insisted }) {
            tracing::warn!(%problem, "NAPI threads are left as they are");
        }
    }

    /// Sees to it that nothing leaves but the tunnel, or, where that is not wanted, that all may. True when something
    /// could leave that is not to.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn kill_switch(&self) -> Result<bool, Problem> {
        match self.ask(&Request::KillSwitch)?.0 {
            Answer::Flag(changed) => Ok(changed),
            other => Err(unexpected(other)),
        }
    }

    /// Keeps what comes in on the host interface on this machine, as [`crate::hostif::keep_in`] does.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn keep_in(&self) -> Result<bool, Problem> {
        match self.ask(&Request::KeepIn)?.0 {
            Answer::Flag(done) => Ok(done),
            other => Err(unexpected(other)),
        }
    }

    /// Takes all walls, the host interface and the kill switch down.
    ///
    /// # Errors
    /// What is left standing, and why.
    pub fn lower(&self) -> Result<(), Problem> {
        self.done(&Request::Lower)
    }
}

/// What this process has to be when it was started as a helper: that, and nothing else.
pub fn is_wanted() -> bool {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().is_some_and(|first| first == ARGUMENT) && arguments.next().is_none()
}

/// Is the helper, until the daemon is gone.
pub fn run() -> ExitCode {
    log::start(Format::of_environment());
    let outcome = serve::run(Pid::parent());
    crate::program::finish(
        "portcullis helper",
        outcome.map(|()| ExitCode::SUCCESS).map_err(Into::into),
    )
}

fn unexpected(answer: Answer) -> Problem {
    match answer {
        Answer::Problem(problem) => problem,
        Answer::Errno(errno) => {
            Problem::io("asking the helper", &io::Error::from_raw_os_error(errno))
        }
        _ => Problem::new(
            Kind::Failed,
            "asking the helper",
            "it answered something else",
            "start the daemon again",
        ),
    }
}

fn exchange(
    socket: BorrowedFd<'_>,
    request: &Request,
    descriptors: &[RawFd],
) -> Result<(Answer, Vec<OwnedFd>), Problem> {
    let answer = send(socket, request, descriptors).and_then(|()| receive(socket));
    match answer {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Helper::lost()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Helper::lost()),
        Err(error) => Err(Problem::io("asking the helper", &error)),
    }
}

/// Sends one message, with descriptors.
fn send(socket: BorrowedFd<'_>, message: &impl Serialize, descriptors: &[RawFd]) -> io::Result<()> {
    let text = serde_json::to_vec(message).map_err(io::Error::other)?;
    if text.len() > LARGEST {
        return Err(io::Error::other("a message to the helper is too large"));
    }
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control: &[ControlMessage<'_>] = match descriptors.is_empty() {
        true => &[],
        false => &rights,
    };
    loop {
        let parts = [IoSlice::new(&text)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(socket.as_raw_fd(), &parts, control, flags, None) {
            Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one message; `None` when the other end is gone.
fn receive<M: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; LARGEST];
    let mut space = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags);
        let (length, descriptors, whole) = match message {
            Err(nix::Error::EINTR) => continue,
            Err(nix::Error::ECONNRESET) => return Ok(None),
            Err(errno) => return Err(errno.into()),
            Ok(message) => {
                let cut = MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC;
                let mut descriptors = Vec::new();
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(fds) = control {
                        // SAFETY: the kernel has just made these descriptors for us, and nobody else
                        // knows them.
                        let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
                        descriptors.extend(fds.into_iter().map(owned));
                    }
                }
                (message.bytes, descriptors, !message.flags.intersects(cut))
            }
        };
        if length == 0 {
            return Ok(None);
        }
        if !whole {
            return Err(io::Error::other("a message that was cut short"));
        }
        let message = serde_json::from_slice(&buffer[..length]).map_err(io::Error::other)?;
        return Ok(Some((message, descriptors)));
    }
}
