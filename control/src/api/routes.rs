//! The resources of the control API, and the document that describes them.

use super::diagnosis;
use super::document;
use super::{
    AddWorkstation, AgentControl, Allow, Control, Done, ErrorBody, RetireKey, RotateWorkstation,
    SetWorkstation, schema,
};
use crate::audit::{Audit, By, What};
use crate::events::{Event, Events};
use crate::metrics::{self, MEDIA_TYPE};
use crate::problem::{Kind, Problem};
use axum::body::{Body as Outgoing, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A Gateway's resources.
pub(super) fn gateway(served: Served<dyn Control>) -> Router {
    Router::new()
        .route("/v1/openapi.json", get(document))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/metrics", get(metrics))
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
        .route("/v1/explain", post(diagnosis::explain))
        .route("/v1/watch", post(diagnosis::watch))
        .with_state(served)
}

/// What is served over TCP: it only looks, and tells no more than counts.
pub(super) fn metrics_alone(served: Served<dyn Control>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(served)
}

/// An agent's resources.
pub(super) fn agent(served: Served<dyn AgentControl>) -> Router {
    Router::new()
        .route("/v1/openapi.json", get(agent_document))
        .route("/v1/status", get(agent_status))
        .route("/v1/down", post(agent_down))
        .route("/v1/explain", post(diagnosis::agent_explain))
        .route("/v1/watch", post(diagnosis::agent_watch))
        .with_state(served)
}

/// What a server serves from.
pub(super) struct Served<C: ?Sized> {
    pub(super) control: Arc<C>,
    pub(super) audit: Arc<Audit>,
    pub(super) events: Events,
}

impl<C: ?Sized> Clone for Served<C> {
    fn clone(&self) -> Self {
        Self {
            control: Arc::clone(&self.control),
            audit: Arc::clone(&self.audit),
            events: self.events.clone(),
        }
    }
}

pub(super) type Gateway = State<Served<dyn Control>>;
pub(super) type Agent = State<Served<dyn AgentControl>>;
pub(super) type Body = Result<Bytes, BytesRejection>;
type Name = Result<Path<String>, PathRejection>;

/// A response, or the refusal of a request that is none.
pub(super) type Answer = Result<Response, Refused>;

/// The refusal of a request that is none.
pub(super) struct Refused(Box<Response>);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl Refused {
    fn new(code: StatusCode, error: &str) -> Self {
        Self(Box::new(refuse(code, error)))
    }
}

/// The request in a body: an object. (What reads it would take a list of an object's values too.)
pub(super) fn parse<T: DeserializeOwned>(body: Body, what: &str) -> Result<T, Refused> {
    let body =
        body.map_err(|rejection| Refused::new(rejection.status(), &rejection.body_text()))?;
    if body.trim_ascii_start().first() != Some(&b'{') {
        let text = format!("the request is not {what}: it is no JSON object");
        return Err(Refused::new(StatusCode::BAD_REQUEST, &text));
    }
    serde_json::from_slice(&body).map_err(|error| {
        Refused::new(
            StatusCode::BAD_REQUEST,
            &format!("the request is not {what}: {error}"),
        )
    })
}

/// The name in a path.
fn named(name: Name) -> Result<String, Refused> {
    name.map(|Path(name)| name)
        .map_err(|rejection| Refused::new(rejection.status(), &rejection.body_text()))
}

/// What the Gateway is doing.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "status",
    responses(
        (status = 200, description = "what the Gateway is doing", body = super::Status),
    ),
)]
async fn status(State(served): Gateway) -> Response {
    answer(StatusCode::OK, move || served.control.status()).await
}

/// The Workstations by name.
#[utoipa::path(
    get,
    path = "/v1/workstations",
    operation_id = "workstations",
    responses(
        (status = 200, description = "the Workstations by name", body = Vec<super::WorkstationStatus>),
    ),
)]
async fn workstations(State(served): Gateway) -> Response {
    answer(StatusCode::OK, move || served.control.workstations()).await
}

/// Adds a Workstation.
#[utoipa::path(
    post,
    path = "/v1/workstations",
    operation_id = "add",
    request_body = AddWorkstation,
    responses(
        (status = 201, description = "it was added; the enrolment file in the answer is secret", body = super::Added),
        (status = 409, description = "it does not fit what there is", body = ErrorBody),
        (status = 422, description = "it cannot be carried out as it is", body = ErrorBody),
    ),
)]
async fn add(State(served): Gateway, Extension(by): Extension<By>, body: Body) -> Answer {
    let request: AddWorkstation = parse(body, "a Workstation to add")?;
    let what = What::new("add").of(&request.name).asked(&request);
    let good = StatusCode::CREATED;
    Ok(change(served, by, what, good, move |control| control.add(request)).await)
}

/// Changes what a Workstation's sessions are protected with.
#[utoipa::path(
    patch,
    path = "/v1/workstations/{name}",
    operation_id = "set",
    params(("name" = schema::Name, Path, description = "the Workstation's name")),
    request_body = SetWorkstation,
    responses(
        (status = 200, description = "what they are protected with now", body = SetWorkstation),
        (status = 404, description = "there is none of that name", body = ErrorBody),
        (status = 409, description = "it does not fit what there is", body = ErrorBody),
        (status = 422, description = "it cannot be carried out as it is", body = ErrorBody),
    ),
)]
async fn set(
    State(served): Gateway,
    Extension(by): Extension<By>,
    name: Name,
    body: Body,
) -> Answer {
    let (call, good) = (("set", "a change of a Workstation"), StatusCode::OK);
    change_one_as(
        (served, by),
        call,
        (name, body),
        good,
        |control, name, request| control.set(name, request),
    )
    .await
}

/// Removes a Workstation.
#[utoipa::path(
    delete,
    path = "/v1/workstations/{name}",
    operation_id = "remove",
    params(("name" = schema::Name, Path, description = "the Workstation's name")),
    responses(
        (status = 200, description = "it was removed, and its sessions are gone", body = super::Removed),
        (status = 404, description = "there is none of that name", body = ErrorBody),
    ),
)]
async fn remove(State(served): Gateway, Extension(by): Extension<By>, name: Name) -> Answer {
    change_one(served, by, "remove", name, |control, name| {
        control.remove(name)
    })
    .await
}

/// Turns a Workstation on.
#[utoipa::path(
    post,
    path = "/v1/workstations/{name}/enable",
    operation_id = "enable",
    params(("name" = schema::Name, Path, description = "the Workstation's name")),
    responses(
        (status = 200, description = "it is served now", body = super::Switched),
        (status = 404, description = "there is none of that name", body = ErrorBody),
        (status = 409, description = "it does not fit what there is", body = ErrorBody),
    ),
)]
async fn enable(State(served): Gateway, Extension(by): Extension<By>, name: Name) -> Answer {
    change_one(served, by, "enable", name, |control, name| {
        control.switch(name, true)
    })
    .await
}

/// Turns a Workstation off.
#[utoipa::path(
    post,
    path = "/v1/workstations/{name}/disable",
    operation_id = "disable",
    params(("name" = schema::Name, Path, description = "the Workstation's name")),
    responses(
        (status = 200, description = "it is off, and its sessions are gone", body = super::Switched),
        (status = 404, description = "there is none of that name", body = ErrorBody),
    ),
)]
async fn disable(State(served): Gateway, Extension(by): Extension<By>, name: Name) -> Answer {
    change_one(served, by, "disable", name, |control, name| {
        control.switch(name, false)
    })
    .await
}

/// Changes what a Workstation may reach.
#[utoipa::path(
    post,
    path = "/v1/workstations/{name}/allow",
    operation_id = "allow",
    params(("name" = schema::Name, Path, description = "the Workstation's name")),
    request_body = Allow,
    responses(
        (status = 200, description = "the rules in force", body = super::Allowed),
        (status = 404, description = "there is none of that name", body = ErrorBody),
        (status = 422, description = "it cannot be carried out as it is", body = ErrorBody),
    ),
)]
async fn allow(
    State(served): Gateway,
    Extension(by): Extension<By>,
    name: Name,
    body: Body,
) -> Answer {
    let (call, good) = (("allow", "a change of rules"), StatusCode::OK);
    change_one_as(
        (served, by),
        call,
        (name, body),
        good,
        |control, name, request| control.allow(name, request),
    )
    .await
}

/// Gives a Workstation new keys.
#[utoipa::path(
    post,
    path = "/v1/workstations/{name}/rotation",
    operation_id = "rotate",
    params(("name" = schema::Name, Path, description = "the Workstation's name")),
    request_body = RotateWorkstation,
    responses(
        (status = 201, description = "it has new keys to use; the enrolment file in the answer is secret", body = super::Rotated),
        (status = 404, description = "there is none of that name", body = ErrorBody),
        (status = 409, description = "it does not fit what there is", body = ErrorBody),
        (status = 422, description = "it cannot be carried out as it is", body = ErrorBody),
    ),
)]
async fn rotate(
    State(served): Gateway,
    Extension(by): Extension<By>,
    name: Name,
    body: Body,
) -> Answer {
    let (call, good) = (("rotate", "a rotation"), StatusCode::CREATED);
    change_one_as(
        (served, by),
        call,
        (name, body),
        good,
        |control, name, request| control.rotate(name, request),
    )
    .await
}

/// Takes back keys that were not used yet.
#[utoipa::path(
    delete,
    path = "/v1/workstations/{name}/rotation",
    operation_id = "cancel_rotation",
    params(("name" = schema::Name, Path, description = "the Workstation's name")),
    responses(
        (status = 200, description = "it keeps the keys it has", body = Done),
        (status = 404, description = "there is none of that name", body = ErrorBody),
    ),
)]
async fn cancel_rotation(
    State(served): Gateway,
    Extension(by): Extension<By>,
    name: Name,
) -> Answer {
    change_one(served, by, "cancel_rotation", name, |control, name| {
        control.cancel_rotation(name).map(|()| Done {})
    })
    .await
}

/// Rolls the Gateway's static key over.
#[utoipa::path(
    post,
    path = "/v1/key/rotate",
    operation_id = "rotate_key",
    responses(
        (status = 200, description = "the keys now", body = super::KeyRotated),
        (status = 409, description = "it does not fit what there is", body = ErrorBody),
    ),
)]
async fn rotate_key(State(served): Gateway, Extension(by): Extension<By>) -> Response {
    let what = What::new("rotate_key");
    change(served, by, what, StatusCode::OK, |control| {
        control.rotate_key()
    })
    .await
}

/// Gives the Gateway's old static key up.
#[utoipa::path(
    post,
    path = "/v1/key/retire",
    operation_id = "retire_key",
    request_body = RetireKey,
    responses(
        (status = 200, description = "who is locked out by that", body = super::KeyRetired),
        (status = 409, description = "it does not fit what there is", body = ErrorBody),
    ),
)]
async fn retire_key(State(served): Gateway, Extension(by): Extension<By>, body: Body) -> Answer {
    let request: RetireKey = parse(body, "a key to retire")?;
    let what = What::new("retire_key").asked(&request);
    Ok(change(served, by, what, StatusCode::OK, move |control| {
        control.retire_key(request)
    })
    .await)
}

/// Reads the Workstation files and the pins again.
#[utoipa::path(
    post,
    path = "/v1/reload",
    operation_id = "reload",
    responses(
        (status = 200, description = "what that has changed", body = super::Reloaded),
        (status = 404, description = "there is none of that name", body = ErrorBody),
        (status = 409, description = "it does not fit what there is", body = ErrorBody),
        (status = 422, description = "it cannot be carried out as it is", body = ErrorBody),
    ),
)]
async fn reload(State(served): Gateway, Extension(by): Extension<By>) -> Response {
    let what = What::new("reload");
    change(served, by, what, StatusCode::OK, |control| control.reload()).await
}

/// What the agent is doing.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "status",
    responses(
        (status = 200, description = "what the agent is doing", body = super::AgentStatus),
    ),
)]
async fn agent_status(State(served): Agent) -> Response {
    answer(StatusCode::OK, move || served.control.status()).await
}

/// Takes the tunnel down, and ends the agent.
#[utoipa::path(
    post,
    path = "/v1/down",
    operation_id = "down",
    responses(
        (status = 200, description = "tunnel, wall and kill switch are down", body = Done),
        (status = 409, description = "it does not fit what there is", body = ErrorBody),
    ),
)]
async fn agent_down(State(served): Agent, Extension(by): Extension<By>) -> Response {
    let what = What {
        call: "down",
        workstation: None,
        request: Value::Null,
    };
    change(served, by, what, StatusCode::OK, move |control| {
        control.down().map(|()| Done {})
    })
    .await
}

/// What is counted, in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    responses((status = 200, description = "the metrics", body = String, content_type = "text/plain")),
)]
async fn metrics(State(served): Gateway) -> Response {
    match asked_of(move || served.control.sample()).await {
        Ok(sample) => {
            let head = [(header::CONTENT_TYPE, MEDIA_TYPE)];
            (head, metrics::text(&sample)).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// What happens from now on, a JSON object a line, until the client goes.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "events",
    responses((status = 200, description = "an event a line; the stream does not end by itself",
        body = Event, content_type = "application/jsonl")),
)]
async fn events(State(served): Gateway, Extension(streams): Extension<Streams>) -> Response {
    streams.begin();
    let stream = served.events.listen().lines();
    let head = [(header::CONTENT_TYPE, "application/jsonl")];
    (head, Outgoing::from_stream(stream)).into_response()
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", operation_id = "document",
    responses((status = 200, description = "this document", body = Object)))]
async fn document() -> Response {
    json(StatusCode::OK, &document::gateway())
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", operation_id = "document",
    responses((status = 200, description = "this document", body = Object)))]
async fn agent_document() -> Response {
    json(StatusCode::OK, &document::agent())
}

/// Makes a change of one Workstation.
async fn change_one<T: Serialize + Send + 'static>(
    served: Served<dyn Control>,
    by: By,
    call: &'static str,
    name: Name,
    make: impl FnOnce(&dyn Control, &str) -> Result<T, Problem> + Send + 'static,
) -> Answer {
    let name = named(name)?;
    let what = What::new(call).of(&name);
    Ok(change(served, by, what, StatusCode::OK, move |control| {
        make(control, &name)
    })
    .await)
}

/// Makes a change of one Workstation as a body asks for it, which is `noun`.
async fn change_one_as<
    R: Serialize + DeserializeOwned + Send + 'static,
    T: Serialize + Send + 'static,
>(
    (served, by): (Served<dyn Control>, By),
    (call, noun): (&'static str, &str),
    (name, body): (Name, Body),
    good: StatusCode,
    make: impl FnOnce(&dyn Control, &str, R) -> Result<T, Problem> + Send + 'static,
) -> Answer {
    let name = named(name)?;
    let request: R = parse(body, noun)?;
    let what = What::new(call).of(&name).asked(&request);
    Ok(change(served, by, what, good, move |control| {
        make(control, &name, request)
    })
    .await)
}

/// Runs a call that changes something and may block: written down before and after.
async fn change<C: ?Sized + Send + Sync + 'static, T: Serialize + Send + 'static>(
    served: Served<C>,
    by: By,
    what: What,
    good: StatusCode,
    call: impl FnOnce(&C) -> Result<T, Problem> + Send + 'static,
) -> Response {
    let Served { audit, control, .. } = served;
    answer(good, move || audit.change(by, &what, || call(&control))).await
}

/// Runs a call that may block, and makes its outcome a response.
pub(super) async fn answer<T: Serialize + Send + 'static>(
    good: StatusCode,
    call: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Response {
    match asked_of(call).await {
        Ok(value) => json(good, &value),
        Err(refusal) => refusal.into_response(),
    }
}

/// Runs a call that may block.
async fn asked_of<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Refused> {
    match tokio::task::spawn_blocking(call).await {
        Ok(outcome) => outcome.map_err(|problem| Refused(Box::new(failed(&problem)))),
        Err(_) => Err(Refused(Box::new(json(
            StatusCode::INTERNAL_SERVER_ERROR,
            &ErrorBody {
                error: "answering the request failed inside the daemon".into(),
                remedy: "look in its log: journalctl -u portcullisd".into(),
            },
        )))),
    }
}

/// A problem as a response.
pub(super) fn failed(problem: &Problem) -> Response {
    json(code(problem.kind), &ErrorBody::from(problem))
}

pub(super) fn refuse(code: StatusCode, error: &str) -> Response {
    let body = ErrorBody {
        error: error.into(),
        remedy: "see GET /v1/openapi.json for what can be asked; or use the portcullis program of the same \
                 version as the daemon"
            .into(),
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

/// Whether a connection carries a stream, which lives as long as both sides want.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<AtomicBool>);

impl Streams {
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it does.
    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The document of a Gateway's API.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Portcullis Gateway",
        description = "The control API of portcullisd, on its control socket."
    ),
    paths(
        document,
        status,
        metrics,
        events,
        workstations,
        add,
        set,
        remove,
        enable,
        disable,
        allow,
        rotate,
        cancel_rotation,
        rotate_key,
        retire_key,
        reload,
        diagnosis::explain,
        diagnosis::watch
    )
)]
pub(super) struct GatewayDocument;

/// The document of an agent's API.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Portcullis agent",
        description = "The control API of portcullis-agent, on its control socket."
    ),
    paths(
        agent_document,
        agent_status,
        agent_down,
        diagnosis::agent_explain,
        diagnosis::agent_watch
    )
)]
pub(super) struct AgentDocument;
