//! `POST /v1/KIND` for every kind of request, and streams for the kinds that an address can ask for.

use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, PathItem, PathsBuilder};
use utoipa::openapi::{RefOr, Schema};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::answer::{ResponseMode, answer};
use super::error::ApiError;
use super::extract::QueryParams;
use super::form::JsonOrForm;
use crate::api::{
    ApiRequest, CompareEvent, CompareFields, Comparison, EncodeFields, Encoded, FormOf, InterpolateEvent,
    InterpolateFields, Interpolation, ReconstructEvent, ReconstructFields, Reconstruction, Sample, SampleEvent,
    SampleFields, parameters, part,
};
use crate::service::App;
use crate::work::WorkKind;

/// The schemas that a route refers to, by name.
type Schemas = Vec<(String, RefOr<Schema>)>;

/// A type of content, as JSON; its schema goes into the schemas.
type Content = fn(&mut Schemas) -> Value;

/// The kinds of request that take images.
pub fn with_images() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(posted::<EncodeFields>(
            ["Encode an image", "Finds the latent from which the deterministic process makes this image."],
            ("The latent", content::<Encoded>),
            None,
        ))
        .routes(posted::<ReconstructFields>(
            ["Encode an image and decode it again", "With more steps, the decoded image is closer to the original."],
            ("The decoded images; or events", content::<Reconstruction>),
            Some(content::<ReconstructEvent>),
        ))
        .routes(posted::<InterpolateFields>(
            [
                "Interpolate",
                "Goes from image to image through their latents: a line between two, a square between four.",
            ],
            ("The images; or events", content::<Interpolation>),
            Some(content::<InterpolateEvent>),
        ))
}

/// The other kinds of request, and their streams.
pub fn without_images() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(posted::<SampleFields>(
            [
                "Sample images",
                "Answers small requests at once. If images times network calls exceed `limits.sync`, it creates a job.",
            ],
            ("The images; or events", content::<Sample>),
            Some(content::<SampleEvent>),
        ))
        .routes(streamed::<SampleFields>(
            "/v1/stream",
            [
                "Sample images and watch",
                "Sends server-sent events: `plan` once, `queued` while other requests come first, `step` after each step \
                 (a slow reader misses some), then `done` with the answer, or `error` with the body of an error. Closing \
                 the connection cancels the work. Posted requests send the same events if they accept \
                 `text/event-stream`.",
            ],
            content::<SampleEvent>,
        ))
        .routes(posted::<CompareFields>(
            ["Compare numbers of steps and η", ""],
            ("All cells; or events", content::<Comparison>),
            Some(content::<CompareEvent>),
        ))
        .routes(streamed::<CompareFields>(
            "/v1/compare/stream",
            [
                "Compare and watch",
                "Sends server-sent events: `plan` once, `queued` while other requests come first, `cell` as each cell is \
                 finished, then `done` without cells, or `error`. Closing the connection cancels the work.",
            ],
            content::<CompareEvent>,
        ))
}

/// Content of type `T`.
fn content<T: ToSchema>(schemas: &mut Schemas) -> Value {
    T::schemas(schemas);
    schemas.push((T::name().into(), T::schema()));
    json!({"schema": {"$ref": format!("#/components/schemas/{}", T::name())}})
}

/// An error's response.
fn error(description: &str) -> Value {
    let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}});
    json!({"description": description, "content": content})
}

/// The route to post requests of kind `K`, with its summary and description, its answer and its events.
fn posted<K: WorkKind>(
    [summary, about]: [&str; 2],
    (description, answer): (&str, Content),
    events: Option<Content>,
) -> UtoipaMethodRouter<App> {
    let mut schemas = Schemas::new();
    let mut body = json!({"application/json": content::<ApiRequest<K>>(&mut schemas)});
    let mut found = json!({"application/json": answer(&mut schemas)});
    let mut invalid = "The request is invalid".to_owned();
    if !K::IMAGES.0.is_empty() {
        body["multipart/form-data"] = content::<FormOf<K>>(&mut schemas);
        invalid += ", or a file is not an image";
    }
    if let Some(events) = events {
        found["text/event-stream"] = events(&mut schemas);
    }
    let accepted = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Accepted"}}});
    let mut responses = json!({
        "200": {"description": description, "content": found},
        "202": {"description": "A job: the request is too large to be answered at once", "content": accepted},
        "400": error(&invalid),
        "422": error("The network's output was not finite"),
    });
    if K::SUBJECT == Some("test_image") {
        responses["404"] = error("There is no such test image");
    }
    let body = json!({"content": body, "required": true});
    let operation = json!({"operationId": K::NAME, "requestBody": body, "responses": responses});
    let item = described(HttpMethod::Post, operation, summary, about);
    let paths = PathsBuilder::new().path(format!("/v1/{}", K::NAME), item).build();
    (schemas, paths, post(answer_posted::<K>))
}

async fn answer_posted<K: WorkKind>(
    State(app): State<App>,
    mode: ResponseMode,
    body: JsonOrForm<K>,
) -> Result<Response, ApiError> {
    answer(&app, mode, body.request, body.uploads).await
}

/// The route that streams requests of kind `K`, with its summary and description and its events.
fn streamed<K: WorkKind>(path: &str, [summary, about]: [&str; 2], events: Content) -> UtoipaMethodRouter<App> {
    let mut schemas = Schemas::new();
    let events = json!({"description": "Events", "content": {"text/event-stream": events(&mut schemas)}});
    let operation = json!({
        "operationId": format!("{}_stream", K::NAME),
        "parameters": parameters::<K>(),
        "responses": {"200": events, "400": error("The request is invalid")},
    });
    let item = described(HttpMethod::Get, operation, summary, about);
    (schemas, PathsBuilder::new().path(path, item).build(), get(answer_streamed::<K>))
}

async fn answer_streamed<K: WorkKind>(
    State(app): State<App>,
    mode: ResponseMode,
    QueryParams(request): QueryParams<K>,
) -> Result<Response, ApiError> {
    answer(&app, mode.events(), request, Vec::new()).await
}

fn described(method: HttpMethod, mut operation: Value, summary: &str, about: &str) -> PathItem {
    operation["summary"] = json!(summary);
    if !about.is_empty() {
        operation["description"] = json!(about);
    }
    PathItem::new(method, part::<utoipa::openapi::path::Operation>(operation))
}
