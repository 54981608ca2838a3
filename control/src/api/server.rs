//! The server of the control API: a thread of its own, with bounds on everything a client can do.

use super::socket::Socket;
use super::{AgentControl, Allow, Control, Done, ErrorBody};
use crate::problem::{Kind, Problem};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, oneshot};

/// The largest request body.
const MAX_BODY: usize = 64 << 10;
/// Connections served at once; more wait.
const MAX_CONNECTIONS: usize = 32;
/// The time a client has for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The time that answers under way have to be written when the server ends.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// The time a connection lives, whatever is done on it.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// A running server. Dropping it, or [`Server::stop`], ends it and removes the socket.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves a Gateway's control API.
    ///
    /// # Errors
    /// What the system answered.
    pub fn start(socket: Socket, control: Arc<dyn Control>) -> Result<Self, Problem> {
        Self::serve(socket, gateway(control))
    }

    /// Serves an agent's control API.
    ///
    /// # Errors
    /// What the system answered.
    pub fn start_agent(socket: Socket, control: Arc<dyn AgentControl>) -> Result<Self, Problem> {
        let router = Router::new()
            .route("/v1/status", get(agent_status))
            .route("/v1/down", post(agent_down))
            .with_state(control);
        Self::serve(socket, router)
    }

    fn serve(socket: Socket, router: Router) -> Result<Self, Problem> {
        let io = |error| Problem::io("starting the control API", &error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Calls of `Control` may block.
            .max_blocking_threads(4)
            .build()
            .map_err(io)?;
        let listener = socket.listener()?;
        let router = bounded(router);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("control-api".into())
            .spawn(move || {
                runtime.block_on(async {
                    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
                    match UnixListener::from_std(listener) {
                        Ok(listener) => tokio::select! {
                            () = accept(listener, router, &room) => {}
                            _ = stopped => {}
                        },
                        Err(error) => tracing::error!("the control API cannot start: {error}"),
                    }
                    let all = room.acquire_many(MAX_CONNECTIONS as u32);
                    let _ = tokio::time::timeout(LAST_WORDS, all).await;
                });
                drop(socket);
                // A call that is still under way is not waited for long.
                runtime.shutdown_timeout(Duration::from_secs(1));
            })
            .map_err(io)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Ends it and waits until the socket is gone.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A Gateway's resources.
fn gateway(control: Arc<dyn Control>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/workstations", get(workstations).post(add))
        .route("/v1/workstations/{name}", delete(remove).patch(set))
        .route("/v1/workstations/{name}/allow", post(allow))
        .route("/v1/workstations/{name}/enable", post(enable))
        .route("/v1/workstations/{name}/disable", post(disable))
        .route(
            "/v1/workstations/{name}/rotation",
            post(rotate).delete(cancel_rotation),
        )
        .route("/v1/key/rotate", post(rotate_key))
        .route("/v1/key/retire", post(retire_key))
        .route("/v1/reload", post(reload))
        .with_state(Arc::clone(&control))
        .merge(super::diagnosis::gateway(control))
}

/// What holds for every resource, and for what is none.
fn bounded(router: Router) -> Router {
    router
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "there is no such resource") })
        .method_not_allowed_fallback(|| async {
            refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "this resource has no such method",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// Serves one connection to its end.
async fn converse<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = TowerToHyperService::new(router);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_BODY)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
}

/// Fuzzing support: one connection to a Gateway's control API, over any stream.
#[doc(hidden)]
pub async fn converse_for_tests<S>(stream: S, control: Arc<dyn Control>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    converse(stream, bounded(gateway(control))).await;
}

async fn accept(listener: UnixListener, router: Router, room: &Arc<Semaphore>) {
    loop {
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: give others time to close theirs.
                tracing::warn!("accepting on the control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            converse(stream, router).await;
            drop(place);
        });
    }
}

async fn status(State(control): State<Arc<dyn Control>>) -> Response {
    answer(StatusCode::OK, move || control.status()).await
}

async fn workstations(State(control): State<Arc<dyn Control>>) -> Response {
    answer(StatusCode::OK, move || control.workstations()).await
}

type Gateway = State<Arc<dyn Control>>;
type Body = Result<Bytes, BytesRejection>;

/// The request in a body, or the refusal of one that is none.
#[allow(clippy::result_large_err)] // The response is returned at once.
pub(super) fn parse<T: DeserializeOwned>(body: Body, what: &str) -> Result<T, Response> {
    let body = body.map_err(|rejection| refuse(rejection.status(), &rejection.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| {
        refuse(
            StatusCode::BAD_REQUEST,
            &format!("the request is not {what}: {error}"),
        )
    })
}

async fn add(State(control): Gateway, body: Body) -> Response {
    match parse(body, "a Workstation to add") {
        Ok(request) => answer(StatusCode::CREATED, move || control.add(request)).await,
        Err(refusal) => refusal,
    }
}

async fn set(State(control): Gateway, Path(name): Path<String>, body: Body) -> Response {
    match parse(body, "a change of a Workstation") {
        Ok(request) => answer(StatusCode::OK, move || control.set(&name, request)).await,
        Err(refusal) => refusal,
    }
}

async fn enable(State(control): Gateway, Path(name): Path<String>) -> Response {
    answer(StatusCode::OK, move || control.switch(&name, true)).await
}

async fn disable(State(control): Gateway, Path(name): Path<String>) -> Response {
    answer(StatusCode::OK, move || control.switch(&name, false)).await
}

async fn rotate(State(control): Gateway, Path(name): Path<String>, body: Body) -> Response {
    match parse(body, "a rotation") {
        Ok(request) => answer(StatusCode::CREATED, move || control.rotate(&name, request)).await,
        Err(refusal) => refusal,
    }
}

async fn cancel_rotation(State(control): Gateway, Path(name): Path<String>) -> Response {
    let done = move || control.cancel_rotation(&name).map(|()| Done {});
    answer(StatusCode::OK, done).await
}

async fn rotate_key(State(control): Gateway) -> Response {
    answer(StatusCode::OK, move || control.rotate_key()).await
}

async fn retire_key(State(control): Gateway, body: Body) -> Response {
    match parse(body, "a key to retire") {
        Ok(request) => answer(StatusCode::OK, move || control.retire_key(request)).await,
        Err(refusal) => refusal,
    }
}

async fn allow(State(control): Gateway, Path(name): Path<String>, body: Body) -> Response {
    match parse::<Allow>(body, "a change of rules") {
        Ok(request) => answer(StatusCode::OK, move || control.allow(&name, request)).await,
        Err(refusal) => refusal,
    }
}

async fn remove(State(control): State<Arc<dyn Control>>, Path(name): Path<String>) -> Response {
    answer(StatusCode::OK, move || control.remove(&name)).await
}

async fn reload(State(control): State<Arc<dyn Control>>) -> Response {
    answer(StatusCode::OK, move || control.reload()).await
}

async fn agent_status(State(control): State<Arc<dyn AgentControl>>) -> Response {
    answer(StatusCode::OK, move || control.status()).await
}

async fn agent_down(State(control): State<Arc<dyn AgentControl>>) -> Response {
    answer(StatusCode::OK, move || control.down().map(|()| Done {})).await
}

/// Runs a call that may block, and makes its outcome a response.
pub(super) async fn answer<T: Serialize + Send + 'static>(
    good: StatusCode,
    call: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(call).await {
        Ok(Ok(value)) => json(good, &value),
        Ok(Err(problem)) => failure(Some(&problem)),
        Err(_) => failure(None),
    }
}

/// The response to what failed; of no problem, inside of the daemon.
pub(super) fn failure(problem: Option<&Problem>) -> Response {
    match problem {
        Some(problem) => json(code(problem.kind), &ErrorBody::from(problem)),
        None => json(
            StatusCode::INTERNAL_SERVER_ERROR,
            &ErrorBody {
                error: "answering the request failed inside the daemon".into(),
                remedy: "look in its log: journalctl -u portcullisd".into(),
            },
        ),
    }
}

fn refuse(code: StatusCode, error: &str) -> Response {
    let body = ErrorBody {
        error: error.into(),
        remedy: "use the portcullis program of the same version as the daemon".into(),
    };
    json(code, &body)
}

fn json<T: Serialize>(code: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (code, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The status code of a problem.
fn code(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The problem a status code stands for, to a client. Never [`Kind::Unavailable`], which a client
/// keeps for a daemon that is not running.
pub(super) fn kind(code: StatusCode) -> Kind {
    match code {
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::CONFLICT => Kind::Conflict,
        StatusCode::FORBIDDEN => Kind::Forbidden,
        code if code.is_client_error() => Kind::Invalid,
        _ => Kind::Failed,
    }
}
