//! A Workstation's configuration.

use super::check::Check;
use super::work::{RawRings, Rings};
use super::{HOST_INTERFACE, PIN_DIRECTORY};
use crate::choices::{
    MacAddress, NamedEngine, ThreadedNapi, Virtualised, Xdp, ZeroCopy, cipher_by_name,
    protection_by_name,
};
use crate::confine;
use crate::encapsulation::Endpoint;
use crate::files;
use crate::log::Format;
use crate::problem::{self, Kind, Problem};
use dataplane::engine::Engine;
use dataplane::keys::{Cipher, Protection};
use ipnet::IpNet;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::{Spanned, Value};

/// A Workstation's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The interface that is cabled to the Gateway, or over networks the one that the tunnel leaves by; `None`:
    /// the one named at enrolment, or the only wired one, or over networks whichever leads there.
    pub interface: Option<String>,
    /// The MAC address it is given.
    pub mac_address: MacAddress,
    /// The identity.
    pub state_directory: PathBuf,
    /// The status socket.
    pub runtime_directory: PathBuf,
    /// Where the wall is pinned.
    pub pin_directory: PathBuf,
    /// The account it runs as; `None` for the usual one, where there is it.
    pub user: Option<String>,
    /// How the log looks.
    pub log_format: Format,
    /// The host interface's name.
    pub host_interface: String,
    /// Where the Gateway is found over networks, in place of what the enrolment says.
    pub endpoints: Option<Vec<Endpoint>>,
    /// Whether nothing but the tunnel leaves this machine, where the Gateway is reached over networks.
    pub kill_switch: bool,
    /// Whether private networks that this machine is in stay within reach then.
    pub lan: bool,
    /// Whether the tunnel's datagrams go by AF_XDP rings of `interface` then.
    pub fast_path: bool,
    /// What is routed into the tunnel.
    pub routes: Vec<IpNet>,
    /// The weakest protection that is accepted.
    pub minimum_protection: Protection,
    /// The weakest cipher that is accepted.
    pub minimum_cipher: Cipher,
    /// Whether this machine may be rolled back to a snapshot.
    pub virtualised: Virtualised,
    /// A counter that tells so, to be mapped.
    pub vm_generation: Option<PathBuf>,
    /// The AEAD engine, which this CPU has.
    pub engine: Engine,
    /// The port's XDP mode and rings.
    pub rings: Rings,
    /// The core its worker is pinned to, where that is asked for.
    pub core: Option<usize>,
    /// How long its worker looks for work before it sleeps.
    pub spin: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgent {
    interface: Option<Spanned<String>>,
    #[serde(default)]
    mac_address: MacAddress,
    state_directory: Option<Spanned<PathBuf>>,
    runtime_directory: Option<Spanned<PathBuf>>,
    pin_directory: Option<Spanned<PathBuf>>,
    user: Option<Spanned<String>>,
    #[serde(default)]
    log_format: Format,
    host: Option<RawAgentHost>,
    endpoint: Option<Vec<Spanned<String>>>,
    kill_switch: Option<Spanned<bool>>,
    #[serde(default)]
    lan: bool,
    #[serde(default)]
    fast_path: bool,
    routes: Option<Vec<Spanned<String>>>,
    #[serde(default = "encrypt", with = "protection_by_name")]
    minimum_protection: Protection,
    #[serde(default = "aes_256_gcm", with = "cipher_by_name")]
    minimum_cipher: Cipher,
    #[serde(default)]
    virtualised: Virtualised,
    vm_generation: Option<Spanned<PathBuf>>,
    pub(super) engine: Option<Spanned<NamedEngine>>,
    #[serde(default)]
    xdp: Xdp,
    ring_size: Option<Spanned<i64>>,
    #[serde(default)]
    zero_copy: ZeroCopy,
    queues: Option<Spanned<Value>>,
    huge_pages: Option<bool>,
    tx_budget: Option<Spanned<i64>>,
    busy_poll: Option<Spanned<i64>>,
    busy_poll_budget: Option<Spanned<i64>>,
    prefer_busy_poll: Option<bool>,
    #[serde(default)]
    threaded_napi: ThreadedNapi,
    core: Option<Spanned<i64>>,
    spin: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAgentHost {
    interface: Option<Spanned<String>>,
}

fn encrypt() -> Protection {
    Protection::Encrypt
}

fn aes_256_gcm() -> Cipher {
    Cipher::Aes256Gcm
}

impl Agent {
    /// Reads the file; without one everything has its default.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let config = match files::read(path) {
            Ok(text) => Self::parse(path, &text),
            Err(problem) if problem.kind == Kind::NotFound => Self::parse(path, ""),
            Err(problem) => Err(problem),
        }?;
        confine::trust(config.user.as_deref());
        Ok(config)
    }

    /// Reads `text`; `path` is only named in problems.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problem> {
        let raw: RawAgent =
            toml::from_str(text).map_err(|error| problem::toml(path, text, &error))?;
        let check = Check { path, text };
        let host = raw.host.and_then(|host| host.interface);
        let host_interface = check.interface_or(host.as_ref(), HOST_INTERFACE)?;
        if let Some(interface) = &raw.interface {
            check.interface(interface)?;
            if *interface.get_ref() == host_interface {
                return Err(check.problem(
                    interface.span().start,
                    format!("{host_interface} is the host interface's name too"),
                    "name the wired interface here; the host interface is made by portcullis-agent",
                ));
            }
        }
        let routes = match &raw.routes {
            Some(routes) => routes
                .iter()
                .map(|route| check.route(route))
                .collect::<Result<_, _>>()?,
            None => vec![IpNet::V4(Default::default()), IpNet::V6(Default::default())],
        };
        let kill_switch = raw.kill_switch.as_ref().is_none_or(|on| *on.get_ref());
        if let Some(off) = &raw.kill_switch
            && !kill_switch
            && routes.iter().any(|route| route.prefix_len() == 0)
        {
            return Err(check.problem(
                off.span().start,
                "without the kill switch a default route into the tunnel would lead the tunnel's own packets there too"
                    .into(),
                "leave kill_switch out; or name the prefixes that are to be reached through the tunnel, without the \
                 endpoints in them: routes = [\"10.152.128.0/18\"]",
            ));
        }
        Ok(Self {
            interface: raw.interface.map(Spanned::into_inner),
            mac_address: raw.mac_address,
            state_directory: check.directory(raw.state_directory, "/var/lib/portcullis-agent")?,
            runtime_directory: check.directory(raw.runtime_directory, "/run/portcullis-agent")?,
            pin_directory: check.directory(raw.pin_directory, PIN_DIRECTORY)?,
            user: check.user(raw.user.as_ref())?,
            log_format: raw.log_format,
            host_interface,
            endpoints: match &raw.endpoint {
                Some(texts) => Some(check.endpoints(texts)?),
                None => None,
            },
            kill_switch,
            lan: raw.lan,
            fast_path: raw.fast_path,
            routes,
            minimum_protection: raw.minimum_protection,
            minimum_cipher: raw.minimum_cipher,
            virtualised: raw.virtualised,
            vm_generation: match raw.vm_generation {
                Some(path) => Some(check.directory(Some(path), "/dev/generation")?),
                None => None,
            },
            engine: check.engine(raw.engine.as_ref(), Engine::available)?,
            core: match &raw.core {
                Some(core) => Some(check.number("core", core, 0..=1023)? as usize),
                None => None,
            },
            spin: check.spin(raw.spin.as_ref())?,
            rings: check.rings(
                raw.xdp,
                raw.ring_size.as_ref(),
                raw.zero_copy,
                &RawRings {
                    queues: raw.queues,
                    huge_pages: raw.huge_pages,
                    tx_budget: raw.tx_budget,
                    busy_poll: raw.busy_poll,
                    busy_poll_budget: raw.busy_poll_budget,
                    prefer_busy_poll: raw.prefer_busy_poll,
                    threaded_napi: raw.threaded_napi,
                },
            )?,
        })
    }
}
