//! The OpenAPI document of each daemon's API, made from the types that are served.

use super::ErrorBody;
use super::routes::{AgentDocument, GatewayDocument};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{OpenApi as Document, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

/// What every call can be answered with.
const ALWAYS: &[(&str, &str)] = &[
    ("400", "the request is not what is expected"),
    ("403", "who asks has not the right to"),
    ("429", "too many requests: ask again later"),
    ("500", "the system answered with an error"),
    ("503", "the daemon is stopping, or has too much to do"),
];
/// What every call with a body can be answered with.
const WITH_BODY: &[(&str, &str)] = &[("413", "the request is too large")];

/// A Gateway's.
pub(super) fn gateway() -> Document {
    finished(GatewayDocument::openapi())
}

/// An agent's.
pub(super) fn agent() -> Document {
    finished(AgentDocument::openapi())
}

fn finished(mut document: Document) -> Document {
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document.info.license = None;
    document.info.contact = None;
    for path in document.paths.paths.values_mut() {
        let operations = [
            &mut path.get,
            &mut path.post,
            &mut path.patch,
            &mut path.delete,
        ];
        operations.into_iter().flatten().for_each(finish);
    }
    document
}

fn finish(operation: &mut Operation) {
    let with_body = operation.request_body.is_some();
    let more = WITH_BODY.iter().filter(|_| with_body);
    for (code, description) in ALWAYS.iter().chain(more) {
        let schema = Ref::from_schema_name(ErrorBody::name());
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new()
            .description(*description)
            .content("application/json", content)
            .build();
        let responses = &mut operation.responses.responses;
        responses.insert((*code).to_owned(), RefOr::T(response));
    }
}
