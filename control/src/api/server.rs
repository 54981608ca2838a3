//! The server of the control API: a thread of its own, with bounds on everything a client can do.

use super::limits::{Limits, Open, TooMany};
use super::peer::{AdminGroup, Peer, Right, Rights};
use super::routes::{self, Served, Streams, failed, refuse};
use super::socket::Socket;
use super::{AgentControl, Control, ErrorBody};
use crate::audit::{Audit, By};
use crate::events::Events;
use crate::problem::{Kind, Problem};
use crate::thread;
use axum::Extension;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::TcpListener;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_io_timeout::TimeoutStream;

/// The largest request body.
const MAX_BODY: usize = 64 << 10;
/// The time a client has for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The time in which a client must take some of what it is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections to `metrics_address` that are served at once; more wait.
const SCRAPERS: usize = 4;
/// The time that answers under way have to be written when the server ends.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// The time a connection lives, whatever is done on it, unless it carries a stream.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// What a server needs beside what it asks.
#[derive(Debug)]
pub struct Options {
    /// Where changes are written down.
    pub audit: Arc<Audit>,
    /// Whose members may change things.
    pub admins: Option<AdminGroup>,
    /// What happens.
    pub events: Events,
    /// Where metrics are served over TCP too.
    pub metrics: Option<TcpListener>,
}

impl Options {
    /// Those of a daemon with this state directory.
    pub fn new(state_directory: &Path) -> Self {
        Self {
            audit: Arc::new(Audit::new(state_directory)),
            admins: None,
            events: Events::default(),
            metrics: None,
        }
    }

    fn serve<C: ?Sized>(&self, control: Arc<C>) -> Served<C> {
        Served {
            control,
            audit: Arc::clone(&self.audit),
            events: self.events.clone(),
        }
    }
}

/// A running server. Dropping it, or [`Server::stop`], ends it and removes the socket.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What stands before every resource.
#[derive(Debug)]
struct Gate {
    rights: Rights,
    limits: Arc<Limits>,
}

impl Server {
    /// Serves a Gateway's control API.
    ///
    /// # Errors
    /// What the system answered.
    pub fn start(
        socket: Socket,
        control: Arc<dyn Control>,
        options: Options,
    ) -> Result<Self, Problem> {
        let served = options.serve(control);
        let metrics = routes::metrics_alone(served.clone());
        Self::serve(socket, routes::gateway(served), Some(metrics), options)
    }

    /// Serves an agent's control API.
    ///
    /// # Errors
    /// What the system answered.
    pub fn start_agent(
        socket: Socket,
        control: Arc<dyn AgentControl>,
        options: Options,
    ) -> Result<Self, Problem> {
        let router = routes::agent(options.serve(control));
        Self::serve(socket, router, None, options)
    }

    fn serve(
        socket: Socket,
        router: Router,
        metrics: Option<Router>,
        options: Options,
    ) -> Result<Self, Problem> {
        let io = |error| Problem::io("starting the control API", &error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Calls of `Control` may block.
            .max_blocking_threads(4)
            .build()
            .map_err(io)?;
        let listener = socket.listener()?;
        let gate = Arc::new(Gate {
            rights: Rights::on(socket.path(), options.admins),
            limits: Arc::default(),
        });
        let router = bounded(router, &gate);
        let metrics = options.metrics.zip(metrics);
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async {
                if let Some((listener, router)) = metrics {
                    tokio::spawn(serve_metrics(listener, router));
                }
                match UnixListener::from_std(listener) {
                    Ok(listener) => tokio::select! {
                        () = accept(listener, router, &gate) => {}
                        _ = stopped => {}
                    },
                    Err(error) => tracing::error!(
                        %error,
                        "the control API cannot start: restart the daemon to have it"
                    ),
                }
                let _ = tokio::time::timeout(LAST_WORDS, gate.limits.idle()).await;
            });
            drop(socket);
            // A call that is still under way is not waited for long.
            runtime.shutdown_timeout(Duration::from_secs(1));
        };
        let thread = thread::start("control-api", serve).map_err(io)?;
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

/// Serves metrics over TCP, to so many at once.
async fn serve_metrics(listener: TcpListener, router: Router) {
    let router = router
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "there are only /metrics here") })
        .layer(DefaultBodyLimit::max(0))
        .layer(middleware::from_fn_with_state(
            Arc::<Limits>::default(),
            seldom,
        ));
    let room = Arc::new(Semaphore::new(SCRAPERS));
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpListener::from_std(listener));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "metrics are not served over TCP: restart the daemon to have them");
            return;
        }
    };
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    converse(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on metrics_address; trying on: raise LimitNOFILE if this goes on");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What holds for every resource, and for what is none.
fn bounded(router: Router, gate: &Arc<Gate>) -> Router {
    router
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "there is no such resource") })
        .method_not_allowed_fallback(|| async {
            refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "this resource has no such method",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(gate), guard))
}

/// Lets a request through that its sender may make, and does not make too often.
async fn guard(
    State(gate): State<Arc<Gate>>,
    Extension(peer): Extension<Arc<Peer>>,
    mut request: Request,
    next: Next,
) -> Response {
    let changes = gate.rights.may_change(&peer);
    if gate
        .limits
        .request(peer.uid, changes, Instant::now())
        .is_err()
    {
        return too_often(&too_many("requests", &peer));
    }
    // By the method, so that no resource can be forgotten.
    let right = match *request.method() {
        Method::GET | Method::HEAD | Method::OPTIONS => Right::Read,
        _ => Right::Change,
    };
    if let Err(problem) = gate.rights.check(&peer, right) {
        tracing::warn!(
            uid = peer.uid,
            pid = peer.pid,
            method = %request.method(),
            path = request.uri().path(),
            "refused a call on the control socket: this user has not the right to"
        );
        return failed(&problem);
    }
    let client = request.headers().get(header::USER_AGENT);
    let client = client.and_then(|name| name.to_str().ok()).map(By::client);
    request.extensions_mut().insert(By {
        uid: Some(peer.uid),
        gid: Some(peer.gid),
        pid: peer.pid,
        client,
    });
    next.run(request).await
}

/// Lets a scrape through, of which there are not too many.
async fn seldom(State(limits): State<Arc<Limits>>, request: Request, next: Next) -> Response {
    match limits.scrape(Instant::now()) {
        Ok(()) => next.run(request).await,
        Err(TooMany) => too_often(&Problem::new(
            Kind::Unavailable,
            "scraping metrics",
            "they are asked for more than 5 times a second",
            "scrape less often; once in a few seconds is usual",
        )),
    }
}

fn too_often(problem: &Problem) -> Response {
    let mut response = failed(problem);
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn too_many(what: &str, peer: &Peer) -> Problem {
    Problem::new(
        Kind::Unavailable,
        format!("asking as user {}", peer.uid),
        format!("this user has too many {what} under way"),
        "wait a moment and try again; close connections that are not needed",
    )
}

/// Serves one connection to its end.
async fn converse<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + 'static,
{
    let streams = Streams::default();
    let router = router.layer(Extension(streams.clone()));
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_BODY)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            TowerToHyperService::new(router),
        );
    let mut connection = pin!(connection);
    let bounded = tokio::time::timeout(CONNECTION_TIMEOUT, connection.as_mut()).await;
    if bounded.is_err() && streams.any() {
        let _ = connection.await;
    }
}

#[doc(hidden)]
pub use axum::Router as Routes;

/// Fuzzing support: the routes of a Gateway's control API. Changes are written down in the directory for temporary files.
#[doc(hidden)]
pub fn routes_for_tests(control: Arc<dyn Control>) -> Routes {
    routes::gateway(Options::new(&std::env::temp_dir()).serve(control))
}

/// Fuzzing support: one connection of an administrator, over any stream, who has asked for nothing before.
#[doc(hidden)]
pub async fn converse_for_tests<S>(stream: S, routes: Routes)
where
    S: AsyncRead + AsyncWrite + 'static,
{
    let gate = Gate {
        rights: Rights::on(Path::new("/"), None),
        limits: Arc::default(),
    };
    let root = Peer {
        uid: 0,
        gid: 0,
        pid: None,
        groups: Vec::new(),
    };
    let router = bounded(routes, &Arc::new(gate));
    converse(stream, router.layer(Extension(Arc::new(root)))).await;
}

async fn accept(listener: UnixListener, router: Router, gate: &Arc<Gate>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: give others time to close theirs.
                tracing::warn!(%error, "cannot accept on the control socket; trying on: raise LimitNOFILE if this goes on");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(peer) = Peer::of(&stream) else {
            continue;
        };
        let changes = gate.rights.may_change(&peer);
        match gate.limits.open(peer.uid, changes) {
            Ok(open) => drop(tokio::spawn(attend(stream, router.clone(), peer, open))),
            // At once, and as much of it as fits: nobody waits for one that is one too many.
            Err(_) => drop(stream.try_write(&busy(&peer))),
        }
    }
}

/// Serves a connection when there is room for it.
async fn attend(mut stream: UnixStream, router: Router, peer: Peer, open: Open) {
    match open.served().await {
        Some(place) => {
            converse(stream, router.layer(Extension(Arc::new(peer)))).await;
            drop(place);
        }
        None => {
            let answer = async {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&busy(&peer)).await;
            };
            let _ = tokio::time::timeout(LAST_WORDS, answer).await;
        }
    }
}

/// What one is told for whom there is no room.
fn busy(peer: &Peer) -> Vec<u8> {
    let body = ErrorBody::from(&too_many("connections", peer));
    let body = serde_json::to_string(&body).unwrap_or_default();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
