//! `/v1/sample`: images, one picture of them, or a stream.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::{ResponseMode, answer, wait};
use super::error::ApiError;
use super::extract::{JsonBody, QueryParams};
use crate::api::{Accepted, Answer, ErrorBody, Sample, SampleEvent, SampleRequest};
use crate::core::Work;
use crate::service::App;
use crate::work::prepare;

/// Sample images
///
/// Small requests are answered at once. Where images times network calls are above `limits.sync`, the answer is a job.
#[utoipa::path(
    post,
    path = "/v1/sample",
    request_body = SampleRequest,
    responses(
        (status = 200, description = "The images; or events", content((Sample = "application/json"), (SampleEvent = "text/event-stream"))),
        (status = 202, description = "A job: there is more to do than is done at once", body = Accepted),
        (status = 400, description = "The request means nothing", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
    )
)]
pub async fn sample(
    State(app): State<App>,
    mode: ResponseMode,
    JsonBody(request): JsonBody<SampleRequest>,
) -> Result<Response, ApiError> {
    answer(&app, mode, request, Vec::new()).await
}

/// A picture by its address
///
/// The same address is the same picture for as long as the model is the same; its ETag says whether it is.
#[utoipa::path(
    get,
    path = "/v1/sample.png",
    params(SampleRequest),
    responses(
        (status = 200, description = "The grid that the command line writes, pixel for pixel", content_type = "image/png"),
        (status = 304, description = "It is the one you have"),
        (status = 400, description = "The request means nothing, or is too large for an answer at once", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
    )
)]
pub async fn sample_png(
    State(app): State<App>,
    headers: HeaderMap,
    QueryParams(request): QueryParams<SampleRequest>,
) -> Result<Response, ApiError> {
    let prepared = prepare(&app, request, Vec::new()).await?;
    if prepared.work.rows() > app.limits.sync {
        let (rows, most) = (prepared.work.rows(), app.limits.sync);
        let message = format!("n: images times network calls are {rows}, at once at most {most}; ask /v1/jobs");
        return Err(ApiError::bad(message));
    }
    let tag = format!("\"{}\"", prepared.work.fingerprint());
    let caching = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, "private, no-cache".to_owned())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    match &*wait(&app, prepared.boxed()).await? {
        Answer::Sample(sample) => {
            Ok((caching, [(header::CONTENT_TYPE, "image/png")], sample.png.0.clone()).into_response())
        }
        _ => Err(ApiError::internal("sampling gave another answer")),
    }
}

/// Sample images and watch
///
/// Server-sent events: `plan` once, `queued` while others come first, `step` after each step (a reader who is too slow
/// misses some), then `done` with the answer, or `error` with the body of an error. Closing the connection ends the
/// work. The other requests do the same where they accept `text/event-stream`.
#[utoipa::path(
    get,
    path = "/v1/stream",
    params(SampleRequest),
    responses(
        (status = 200, description = "Events", body = SampleEvent, content_type = "text/event-stream"),
        (status = 400, description = "The request means nothing", body = ErrorBody),
    )
)]
pub async fn sample_stream(
    State(app): State<App>,
    mode: ResponseMode,
    QueryParams(request): QueryParams<SampleRequest>,
) -> Result<Response, ApiError> {
    answer(&app, mode.events(), request, Vec::new()).await
}
