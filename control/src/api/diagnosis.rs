//! The resources that look into what happens to frames. They change nothing; but a frame that is shown
//! may be somebody's in clear, so they take the right to change things, as POST does.

use super::routes::{Agent, Answer, Body, Gateway, Streams, answer, failed, parse};
use crate::explain::{Explain, Explained};
use crate::problem::{Kind, Problem};
use crate::watch::{Line, Stream, Watch};
use axum::Extension;
use axum::body::{Body as Outgoing, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;

/// What becomes of frames, and why: an answer for each. Nothing changes.
#[utoipa::path(
    post,
    path = "/v1/explain",
    operation_id = "explain",
    request_body = Explain,
    responses(
        (status = 200, description = "what becomes of each, in their order", body = Vec<Explained>),
        (status = 404, description = "there is no such port", body = super::ErrorBody),
        (status = 422, description = "it cannot be told which port is meant, or a frame is none", body = super::ErrorBody),
    ),
)]
pub(super) async fn explain(State(served): Gateway, body: Body) -> Answer {
    explained(body, move |request| served.control.explain(request)).await
}

/// What becomes of frames, and why: an answer for each. Nothing changes.
#[utoipa::path(
    post,
    path = "/v1/explain",
    operation_id = "explain",
    request_body = Explain,
    responses(
        (status = 200, description = "what becomes of each, in their order", body = Vec<Explained>),
        (status = 404, description = "there is no such port", body = super::ErrorBody),
        (status = 422, description = "it cannot be told which port is meant, or a frame is none", body = super::ErrorBody),
    ),
)]
pub(super) async fn agent_explain(State(served): Agent, body: Body) -> Answer {
    explained(body, move |request| served.control.explain(request)).await
}

async fn explained(
    body: Body,
    call: impl FnOnce(Explain) -> Result<Vec<Explained>, Problem> + Send + 'static,
) -> Answer {
    let request = parse(body, "a question about frames")?;
    Ok(answer(StatusCode::OK, move || call(request)).await)
}

/// Samples of the frames that are dropped from now on, a JSON object a line, until the client goes.
#[utoipa::path(
    post,
    path = "/v1/watch",
    operation_id = "watch",
    request_body = Watch,
    responses(
        (status = 200, description = "a sample a line; the stream does not end by itself",
            body = Line, content_type = "application/jsonl"),
        (status = 404, description = "there is no such Workstation or port", body = super::ErrorBody),
        (status = 409, description = "as many watch already as can", body = super::ErrorBody),
        (status = 422, description = "there is no such verdict, or the rate is none", body = super::ErrorBody),
    ),
)]
pub(super) async fn watch(
    State(served): Gateway,
    Extension(streams): Extension<Streams>,
    body: Body,
) -> Answer {
    watched(body, &streams, move |request| served.control.watch(request)).await
}

/// Samples of the frames that are dropped from now on, a JSON object a line, until the client goes.
#[utoipa::path(
    post,
    path = "/v1/watch",
    operation_id = "watch",
    request_body = Watch,
    responses(
        (status = 200, description = "a sample a line; the stream does not end by itself",
            body = Line, content_type = "application/jsonl"),
        (status = 404, description = "there is no such Workstation or port", body = super::ErrorBody),
        (status = 409, description = "as many watch already as can", body = super::ErrorBody),
        (status = 422, description = "there is no such verdict, or the rate is none", body = super::ErrorBody),
    ),
)]
pub(super) async fn agent_watch(
    State(served): Agent,
    Extension(streams): Extension<Streams>,
    body: Body,
) -> Answer {
    watched(body, &streams, move |request| served.control.watch(request)).await
}

async fn watched(
    body: Body,
    streams: &Streams,
    call: impl FnOnce(Watch) -> Result<Stream, Problem> + Send + 'static,
) -> Answer {
    let request = parse(body, "what is to be watched")?;
    let stream = match tokio::task::spawn_blocking(move || call(request)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(problem)) => return Ok(failed(&problem)),
        Err(_) => return Ok(broken()),
    };
    streams.begin();
    let lines = unfold(stream, |mut stream| async move {
        let line = stream.next().await?;
        let text = serde_json::to_string(&line).map(|text| Bytes::from(text + "\n"));
        Some((text, stream))
    });
    let head = [(header::CONTENT_TYPE, "application/jsonl")];
    Ok((head, Outgoing::from_stream(lines)).into_response())
}

fn broken() -> Response {
    failed(&Problem::new(
        Kind::Failed,
        "watching what is dropped",
        "it failed inside the daemon",
        "look in its log: journalctl -u portcullisd, or -u portcullis-agent",
    ))
}
