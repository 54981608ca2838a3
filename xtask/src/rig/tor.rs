//! A Tor network of its own: three directory authorities on one host that are its relays and exits too,
//! by the real `tor`, and a name server that knows one name.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::guard::{Scratch, wait_for};
use super::namespace::{Namespace, run};
use super::process::Process;
use crate::tasks::cached;

/// How many authorities there are: a circuit is of three relays.
const AUTHORITIES: u16 = 3;
/// Of the first authority; the others' follow.
const OR_PORT: u16 = 5000;
const DIRECTORY_PORT: u16 = 7000;
/// Authorities vote every ten seconds, and a client takes a few votes to know enough.
const BOOTSTRAP: Duration = Duration::from_secs(180);

/// The running network. Ends when it is dropped.
#[derive(Debug)]
pub struct TorNetwork {
    programs: PathBuf,
    /// The lines that name the authorities, for everybody's configuration.
    authorities: String,
    _relays: Vec<Process>,
    scratch: Scratch,
}

impl TorNetwork {
    /// Starts it on a host, reachable there by `address`. Its exits ask the name server on the same
    /// host's loopback ([`NameServer`]).
    ///
    /// # Errors
    /// There is no tor (`./run setup` fetches it), or it does not start.
    pub fn start(host: &Namespace, address: Ipv4Addr) -> Result<Self> {
        let programs = cached("tor/usr/bin")?;
        let scratch = Scratch::new("tor")?;
        let resolver = scratch.path().join("resolv.conf");
        fs::write(&resolver, "nameserver 127.0.0.1\n")?;
        let mut authorities = String::from("TestingTorNetwork 1\n");
        for number in 0..AUTHORITIES {
            let line = authority(host, &programs, scratch.path(), address, number)?;
            authorities.push_str(&line);
        }
        let relays = (0..AUTHORITIES)
            .map(|number| {
                let settings = relay(address, number, &resolver);
                spawn(
                    host,
                    &programs,
                    scratch.path(),
                    &format!("relay{number}"),
                    &(authorities.clone() + &settings),
                )
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            programs,
            authorities,
            _relays: relays,
            scratch,
        })
    }

    /// Starts a client of it on a host, with these lines of configuration, and waits until it can
    /// build circuits.
    ///
    /// # Errors
    /// It does not start, or the network does not come about; with the end of its log.
    pub fn client(&self, host: &Namespace, configuration: &str) -> Result<Process> {
        let text = self.authorities.clone() + configuration;
        let client = spawn(host, &self.programs, self.scratch.path(), "client", &text)?;
        let up = wait_for("Tor to build circuits", BOOTSTRAP, || {
            client.log().contains("Bootstrapped 100%").then_some(())
        });
        up.with_context(|| format!("the end of its log:\n{}", client.log_tail(10)))?;
        Ok(client)
    }
}

/// Makes an authority's keys; gives the line that names it.
fn authority(
    host: &Namespace,
    programs: &Path,
    directory: &Path,
    address: Ipv4Addr,
    number: u16,
) -> Result<String> {
    let data = directory.join(format!("relay{number}"));
    let keys = data.join("keys");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&keys)?;
    // Of a network that lives for a minute; tor-gencert asks for one.
    let passphrase = directory.join("passphrase");
    fs::write(&passphrase, "passphrase\n")?;
    let (or_port, directory_port) = (OR_PORT + number, DIRECTORY_PORT + number);
    let certificate = keys.join("authority_certificate");
    run(host
        .command("sh")
        .arg("-c")
        .arg("exec \"$0\" --create-identity-key -m 12 -i \"$1\" -s \"$2\" -c \"$3\" -a \"$4\" --passphrase-fd 3 3<\"$5\"")
        .arg(programs.join("tor-gencert"))
        .arg(keys.join("authority_identity_key"))
        .arg(keys.join("authority_signing_key"))
        .arg(&certificate)
        .arg(format!("{address}:{directory_port}"))
        .arg(&passphrase))?;
    let certificate = fs::read_to_string(&certificate)?;
    let identity = certificate
        .lines()
        .find_map(|line| line.strip_prefix("fingerprint "));
    let identity = identity.context("tor-gencert wrote a certificate without a fingerprint")?;
    let listed = run(host
        .command(programs.join("tor"))
        .args([
            "--ignore-missing-torrc",
            "-f",
            "/nonexistent",
            "--quiet",
            "--list-fingerprint",
            "--orport",
            "1",
        ])
        .args([OsStr::new("--datadirectory"), data.as_os_str()]))?;
    let fingerprint: String = listed.split_whitespace().skip(1).collect();
    ensure!(
        fingerprint.len() == 40,
        "tor listed no fingerprint: {listed}"
    );
    Ok(format!(
        "DirAuthority relay{number} orport={or_port} no-v2 v3ident={identity} {address}:{directory_port} {fingerprint}\n"
    ))
}

/// An authority's configuration, without the authorities and what [`spawn`] adds.
fn relay(address: Ipv4Addr, number: u16, resolver: &Path) -> String {
    let mut text = format!(
        "Nickname relay{number}\nSocksPort 0\nContactInfo nobody@example.invalid\n\
         Address {address}\nORPort {address}:{}\nDirPort {address}:{}\n\
         ServerDNSResolvConfFile {}\n",
        OR_PORT + number,
        DIRECTORY_PORT + number,
        resolver.display(),
    );
    for line in [
        "AssumeReachable 1",
        "ExitRelay 1",
        "ExitPolicy accept *:*",
        "ExitPolicyRejectPrivate 0",
        "ServerDNSDetectHijacking 0",
        "AuthoritativeDirectory 1",
        "V3AuthoritativeDirectory 1",
        "TestingV3AuthInitialVotingInterval 5",
        "TestingV3AuthInitialVoteDelay 2",
        "TestingV3AuthInitialDistDelay 2",
        "V3AuthVotingInterval 10",
        "V3AuthVoteDelay 2",
        "V3AuthDistDelay 2",
        "TestingDirAuthVoteExit *",
        "TestingDirAuthVoteGuard *",
        "TestingMinExitFlagThreshold 0",
    ] {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn spawn(
    host: &Namespace,
    programs: &Path,
    directory: &Path,
    name: &str,
    text: &str,
) -> Result<Process> {
    let data = directory.join(name);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data)?;
    let path = directory.join(format!("{name}.torrc"));
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path);
    let own = format!("DataDirectory {}\nLog notice stdout\n", data.display());
    std::io::Write::write_all(&mut file?, (own + text).as_bytes())?;
    let mut command = host.command(programs.join("tor"));
    command.arg("-f").arg(&path);
    Process::start(name, command, &directory.join(format!("{name}.log")))
}

/// A connection by SOCKS 5 (RFC 1928) to a server whose name the proxy resolves; the request for `path` is sent.
///
/// # Errors
/// When the proxy or the server cannot be reached, or nothing comes for 30 seconds.
pub fn socks(
    host: &Namespace,
    proxy: SocketAddr,
    (name, port): (&str, u16),
    path: &str,
) -> Result<BufReader<TcpStream>> {
    let mut stream =
        host.run(|| Ok(TcpStream::connect_timeout(&proxy, Duration::from_secs(5))?))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&[5, 1, 0])?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer)?;
    ensure!(answer == [5, 0], "the proxy wants {answer:?}");
    let mut request = vec![5, 1, 0, 3, u8::try_from(name.len())?];
    request.extend(name.as_bytes());
    request.extend(port.to_be_bytes());
    stream.write_all(&request)?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    ensure!(answer[1] == 0, "the proxy answered {answer:?}");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
    )?;
    Ok(BufReader::new(stream))
}

/// A name server on a host's loopback that gives one name's IPv4 address, and of every other says that
/// there is none.
#[derive(Debug)]
pub struct NameServer {
    stop: Arc<AtomicBool>,
    address: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Starts it.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn start(host: &Namespace, name: &str, address: Ipv4Addr) -> Result<Self> {
        Self::at(host, Ipv4Addr::LOCALHOST, name, address)
    }

    /// Starts one that is asked at `own`.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn at(host: &Namespace, own: Ipv4Addr, name: &str, address: Ipv4Addr) -> Result<Self> {
        let socket = host.run(|| {
            let socket = UdpSocket::bind((own, 53));
            socket.context("binding the name server's port")
        })?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let given = Arc::new(AtomicU32::new(address.to_bits()));
        let address = Arc::clone(&given);
        let name = encoded(name);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let address = Ipv4Addr::from_bits(given.load(Ordering::Relaxed));
                if let Some(answer) = answer(&buffer[..len], &name, address) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self {
            stop,
            address,
            thread: Some(thread),
        })
    }

    /// Gives another address from now on.
    pub fn change(&self, address: Ipv4Addr) {
        self.address.store(address.to_bits(), Ordering::Relaxed);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A name as RFC 1035 writes it.
fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// The answer to a query of one question (RFC 1035, section 4.1). Names are compared whatever their case,
/// which Tor's exits mix.
fn answer(query: &[u8], name: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let question = query.get(12..)?;
    let end = question.iter().position(|&byte| byte == 0)? + 1;
    let asked = question.get(..end + 4)?;
    let known = asked[..end].eq_ignore_ascii_case(name);
    let given = known && asked[end..] == [0, 1, 0, 1];
    let mut bytes = query[..2].to_vec();
    bytes.extend([
        0x84,
        if known { 0x80 } else { 0x83 },
        0,
        1,
        0,
        u8::from(given),
        0,
        0,
        0,
        0,
    ]);
    bytes.extend(asked);
    if given {
        // The name by a pointer, type A, class IN, 60 seconds, four bytes.
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        bytes.extend(address.octets());
    }
    Some(bytes)
}

/// Asks the name server at `server` for the IPv4 address of a name, as a program on `host` would.
///
/// # Errors
/// No answer within five seconds, or one without an address.
pub fn resolve(host: &Namespace, server: SocketAddr, name: &str) -> Result<Ipv4Addr> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(encoded(name));
    query.extend([0, 1, 0, 1]);
    let reply = host.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(server)?;
        socket.send(&query)?;
        let mut buffer = [0; 512];
        let len = socket
            .recv(&mut buffer)
            .with_context(|| format!("an answer from {server}"))?;
        Ok(buffer[..len].to_vec())
    })?;
    ensure!(
        reply.get(..2) == Some(&query[..2]),
        "an answer to another question"
    );
    ensure!(
        reply.get(7).is_some_and(|&count| count > 0),
        "{server} knows no {name}"
    );
    let last: [u8; 4] = reply[reply.len() - 4..].try_into()?;
    Ok(last.into())
}
