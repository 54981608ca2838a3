//! The client of the control API, for the programs: one blocking call, one connection.
//!
//! A problem of [`Kind::Unavailable`] means that no daemon is running, and nothing else does.

use super::socket::SOCKET;
use super::{
    AddWorkstation, Added, AgentStatus, Allow, Allowed, Done, ErrorBody, KeyRetired, KeyRotated,
    Reloaded, Removed, RetireKey, RotateWorkstation, Rotated, SetWorkstation, Status, Switched,
    WorkstationStatus,
};
use crate::explain::{Explain, Explained};
use crate::problem::{Kind, Problem};
use crate::watch::{Line, Watch};
use axum::http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// The time a call may take: removing a Workstation waits for its workers.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer: 4096 Workstations with all their counters.
const MAX_ANSWER: usize = 64 << 20;
/// The longest line of a stream.
const MAX_LINE: usize = 64 << 10;

/// A daemon to talk to.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
    daemon: &'static str,
    start: String,
}

impl Client {
    /// The Gateway's daemon with this runtime directory. `start` is the command that starts it, for
    /// the remedy when it does not answer.
    pub fn gateway(runtime_directory: &Path, start: String) -> Self {
        Self {
            path: runtime_directory.join(SOCKET),
            daemon: "portcullisd",
            start,
        }
    }

    /// The agent with this runtime directory.
    pub fn agent(runtime_directory: &Path, start: String) -> Self {
        Self {
            path: runtime_directory.join(SOCKET),
            daemon: "portcullis-agent",
            start,
        }
    }

    /// The Gateway's status.
    ///
    /// # Errors
    /// The daemon does not answer, or answers with a problem; so too below.
    pub fn status(&self) -> Result<Status, Problem> {
        self.get("/v1/status")
    }

    /// The agent's status.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn agent_status(&self) -> Result<AgentStatus, Problem> {
        self.get("/v1/status")
    }

    /// Has the agent take the tunnel down and end.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn agent_down(&self) -> Result<Done, Problem> {
        self.call(Method::POST, "/v1/down", None::<&()>)
    }

    /// The Workstations.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn workstations(&self) -> Result<Vec<WorkstationStatus>, Problem> {
        self.get("/v1/workstations")
    }

    /// Adds a Workstation.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn add(&self, request: &AddWorkstation) -> Result<Added, Problem> {
        self.call(Method::POST, "/v1/workstations", Some(request))
    }

    /// Removes a Workstation.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn remove(&self, name: &str) -> Result<Removed, Problem> {
        self.call(Method::DELETE, &of(name, ""), None::<&()>)
    }

    /// Changes what a Workstation's sessions are protected with.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn set(&self, name: &str, request: &SetWorkstation) -> Result<SetWorkstation, Problem> {
        self.call(Method::PATCH, &of(name, ""), Some(request))
    }

    /// Turns a Workstation on or off.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn switch(&self, name: &str, enabled: bool) -> Result<Switched, Problem> {
        let what = if enabled { "/enable" } else { "/disable" };
        self.call(Method::POST, &of(name, what), None::<&()>)
    }

    /// Gives a Workstation new keys.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn rotate(&self, name: &str, request: &RotateWorkstation) -> Result<Rotated, Problem> {
        self.call(Method::POST, &of(name, "/rotation"), Some(request))
    }

    /// Takes back the keys that a Workstation has not used.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn cancel_rotation(&self, name: &str) -> Result<Done, Problem> {
        self.call(Method::DELETE, &of(name, "/rotation"), None::<&()>)
    }

    /// Rolls the Gateway's static key over.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn rotate_key(&self) -> Result<KeyRotated, Problem> {
        self.call(Method::POST, "/v1/key/rotate", None::<&()>)
    }

    /// Gives up the Gateway's old static key.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn retire_key(&self, request: RetireKey) -> Result<KeyRetired, Problem> {
        self.call(Method::POST, "/v1/key/retire", Some(&request))
    }

    /// Changes what a Workstation may reach.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn allow(&self, name: &str, request: &Allow) -> Result<Allowed, Problem> {
        self.call(Method::POST, &of(name, "/allow"), Some(request))
    }

    /// Has the Workstation files read again.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn reload(&self) -> Result<Reloaded, Problem> {
        self.call(Method::POST, "/v1/reload", None::<&()>)
    }

    /// What becomes of frames.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn explain(&self, request: &Explain) -> Result<Vec<Explained>, Problem> {
        self.call(Method::POST, "/v1/explain", Some(request))
    }

    /// Has each sample of a dropped frame given to `each` as it comes, until that says otherwise or the
    /// daemon ends the stream.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn watch(
        &self,
        watch: &Watch,
        mut each: impl FnMut(Line) -> Result<ControlFlow<()>, Problem>,
    ) -> Result<ControlFlow<()>, Problem> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Problem::io("preparing to talk to the daemon", &error))?;
        let body = serde_json::to_vec(watch).map_err(|error| self.nonsense(&error))?;
        runtime.block_on(async {
            let asked = self.send(Method::POST, "/v1/watch", body);
            let response = match tokio::time::timeout(TIMEOUT, asked).await {
                Ok(response) => response?,
                Err(_) => return Err(self.nonsense(&"no answer")),
            };
            let code = response.status();
            let mut body = response.into_body();
            if !code.is_success() {
                let answer = Limited::new(body, MAX_ANSWER).collect().await;
                let answer = answer.map_err(|error| self.nonsense(&error))?;
                return Err(self.refusal(code, &answer.to_bytes()));
            }
            let mut text = Vec::new();
            while let Some(frame) = body.frame().await {
                // The daemon has ended, or the time a connection may last.
                let Ok(frame) = frame else { break };
                text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line = serde_json::from_slice(&text[..end]);
                    text.drain(..=end);
                    if each(line.map_err(|error| self.nonsense(&error))?)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                if text.len() > MAX_LINE {
                    return Err(self.nonsense(&"a line without an end"));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.call(Method::GET, path, None::<&()>)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Problem> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Problem::io("preparing to talk to the daemon", &error))?;
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.nonsense(&error))?,
            None => Vec::new(),
        };
        let exchange =
            async { tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await };
        let (code, answer) = match runtime.block_on(exchange) {
            Ok(outcome) => outcome?,
            Err(_) => {
                return Err(Problem::new(
                    Kind::Failed,
                    self.tried(),
                    format!("it did not answer within {} seconds", TIMEOUT.as_secs()),
                    format!("look in its log: journalctl -u {}", self.daemon),
                ));
            }
        };
        if code.is_success() {
            return serde_json::from_slice(&answer).map_err(|error| self.nonsense(&error));
        }
        Err(self.refusal(code, &answer))
    }

    fn refusal(&self, code: StatusCode, answer: &[u8]) -> Problem {
        match serde_json::from_slice::<ErrorBody>(answer) {
            Ok(body) => {
                let (tried, happened) = body
                    .error
                    .split_once(": ")
                    .unwrap_or(("asking", &body.error));
                Problem::new(super::routes::kind(code), tried, happened, body.remedy)
            }
            Err(_) => self.nonsense(&format!("status {code}")),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), Problem> {
        let response = self.send(method, path, body).await?;
        let code = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| self.nonsense(&error))?;
        Ok((code, answer.to_bytes()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, Problem> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.nonsense(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "portcullis")
            .header(
                "user-agent",
                concat!("portcullis/", env!("CARGO_PKG_VERSION")),
            )
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.nonsense(&error))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| self.nonsense(&error))
    }

    fn tried(&self) -> String {
        format!("asking {} at {}", self.daemon, self.path.display())
    }

    fn unreachable(&self, error: &io::Error) -> Problem {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Problem::new(
                Kind::Unavailable,
                self.tried(),
                "it is not running",
                format!("start it: {}", self.start),
            ),
            io::ErrorKind::PermissionDenied => Problem::new(
                Kind::Forbidden,
                self.tried(),
                error,
                "run this as root; or, to look only, as a member of the socket's group (usermod --append --groups portcullis USER)",
            ),
            _ => Problem::io(self.tried(), error),
        }
    }

    fn nonsense(&self, error: &dyn std::fmt::Display) -> Problem {
        Problem::new(
            Kind::Failed,
            self.tried(),
            format!("the exchange failed: {error}"),
            format!(
                "see whether {} is of this program's version ({}), and what it logs",
                self.daemon,
                env!("CARGO_PKG_VERSION"),
            ),
        )
    }
}

/// The path of something of a Workstation.
fn of(name: &str, what: &str) -> String {
    let mut path = String::from("/v1/workstations/");
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                path.push(char::from(byte));
            }
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    path + what
}
