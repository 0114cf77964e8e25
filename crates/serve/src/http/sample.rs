//! `/v1/sample`: images, or one picture of them.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::{Accepted, Way, respond, wait};
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Fields};
use crate::api::{Sample, SampleRequest};
use crate::core::Cancel;
use crate::service::App;
use crate::work::{Answer, SampleWork, Work};

/// Sample images
///
/// Small requests are answered at once. Where images times network calls are above `limits.sync`, the answer is a job.
#[utoipa::path(
    post,
    path = "/v1/sample",
    request_body = SampleRequest,
    responses(
        (status = 200, description = "The images; or events", content((Sample = "application/json"), (String = "text/event-stream"))),
        (status = 202, description = "A job: there is more to do than is done at once", body = Accepted),
        (status = 400, description = "The request means nothing", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is no JSON", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn sample(
    State(app): State<App>,
    way: Way,
    Body(request): Body<SampleRequest>,
) -> Result<Response, ApiError> {
    let (served, cancel) = (app.model(request.model.as_deref())?, Cancel::new());
    let work = app.prepare(&served, &cancel, move |s, l, c| SampleWork::new(s, &request, l, c)).await?;
    respond(&app, way, served, Box::new(work), cancel).await
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
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn picture(
    State(app): State<App>,
    headers: HeaderMap,
    Fields(request): Fields<SampleRequest>,
) -> Result<Response, ApiError> {
    let (served, cancel) = (app.model(request.model.as_deref())?, Cancel::new());
    let work = app.prepare(&served, &cancel, move |s, l, c| SampleWork::new(s, &request, l, c)).await?;
    if work.rows() > app.limits.sync {
        let (rows, most) = (work.rows(), app.limits.sync);
        let message = format!("n: images times network calls are {rows}, at once at most {most}; ask /v1/jobs");
        return Err(ApiError::bad(message));
    }
    let tag = format!("\"{}\"", work.fingerprint());
    let caching = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, "private, no-cache".to_owned())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    let answer = wait(&app, served, Box::new(work), cancel).await?;
    match &*answer {
        Answer::Sample(sample) => {
            Ok((caching, [(header::CONTENT_TYPE, "image/png")], sample.png.0.clone()).into_response())
        }
        _ => Err(ApiError::internal("sampling gave another answer")),
    }
}
