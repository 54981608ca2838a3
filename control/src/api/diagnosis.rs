//! The resources that look into what happens to frames. They read, and change nothing.

use super::Control;
use super::server::{answer, failure, parse};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::stream::unfold;
use std::sync::Arc;

/// A Gateway's.
pub(super) fn gateway(control: Arc<dyn Control>) -> Router {
    Router::new()
        .route("/v1/explain", post(explain))
        .route("/v1/watch", post(watch))
        .with_state(control)
}

async fn explain(
    State(control): State<Arc<dyn Control>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match parse(body, "a question about frames") {
        Ok(request) => answer(StatusCode::OK, move || control.explain(request)).await,
        Err(refusal) => refusal,
    }
}

/// A line of JSON for each sample, as they come.
async fn watch(
    State(control): State<Arc<dyn Control>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let request = match parse(body, "what is to be watched") {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let stream = match tokio::task::spawn_blocking(move || control.watch(request)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(problem)) => return failure(Some(&problem)),
        Err(_) => return failure(None),
    };
    let lines = unfold(stream, |mut stream| async move {
        let line = stream.next().await?;
        let text = serde_json::to_string(&line).map(|text| Bytes::from(text + "\n"));
        Some((text, stream))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(lines)).into_response()
}
