//! The resources that look into what happens to frames. They read, and change nothing.

use super::routes::{Answer, Body, Served, Streams, answer, broken, failed, parse};
use super::{Control, ErrorBody};
use crate::explain::{Explain, Explained};
use crate::watch::{Line, Watch};
use axum::body::{Body as Outgoing, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Extension, Router};
use futures_util::stream::unfold;

/// What is asked by POST and changes nothing.
pub(super) const READ: [&str; 2] = ["/v1/explain", "/v1/watch"];

type Gateway = State<Served<dyn Control>>;

/// A Gateway's.
pub(super) fn gateway(served: Served<dyn Control>) -> Router {
    Router::new()
        .route(READ[0], post(explain))
        .route(READ[1], post(watch))
        .with_state(served)
}

/// What the ports would do with frames. Nothing changes by it.
#[utoipa::path(
    post,
    path = "/v1/explain",
    operation_id = "explain",
    request_body = Explain,
    responses(
        (status = 200, description = "what becomes of each frame, in their order", body = Vec<Explained>),
        (status = 404, description = "there is no such port", body = ErrorBody),
        (status = 422, description = "it cannot be carried out as it is", body = ErrorBody),
    ),
)]
pub(super) async fn explain(State(served): Gateway, body: Body) -> Answer {
    let request: Explain = parse(body, "a question about frames")?;
    Ok(answer(StatusCode::OK, move || served.control.explain(request)).await)
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
        (status = 404, description = "there is no such port or Workstation", body = ErrorBody),
        (status = 409, description = "too many watch already", body = ErrorBody),
        (status = 422, description = "it cannot be carried out as it is", body = ErrorBody),
    ),
)]
pub(super) async fn watch(
    State(served): Gateway,
    Extension(streams): Extension<Streams>,
    body: Body,
) -> Answer {
    let request: Watch = parse(body, "what is to be watched")?;
    let watched = tokio::task::spawn_blocking(move || served.control.watch(request)).await;
    let stream = match watched {
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
