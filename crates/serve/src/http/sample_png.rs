//! `GET /v1/sample.png`: images as a picture with an address of its own.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::answer::wait;
use super::assets::tagged;
use super::error::ApiError;
use super::extract::QueryParams;
use crate::api::{Answer, ApiRequest, ErrorBody, SampleFields};
use crate::service::App;
use crate::work::prepare;

/// A picture by its address
///
/// The same address gives the same picture as long as the model stays the same. The ETag tells whether it has changed.
#[utoipa::path(
    get,
    path = "/v1/sample.png",
    params(ApiRequest<SampleFields>),
    responses(
        (status = 200, description = "The grid that the command line writes, pixel for pixel", content_type = "image/png"),
        (status = 304, description = "The picture has not changed"),
        (status = 400, description = "The request is invalid, or too large to be answered at once", body = ErrorBody),
        (status = 422, description = "The network's output was not finite", body = ErrorBody),
    )
)]
pub async fn sample_png(
    State(app): State<App>,
    headers: HeaderMap,
    QueryParams(request): QueryParams<SampleFields>,
) -> Result<Response, ApiError> {
    let work = prepare(&app, request, Vec::new()).await?;
    if work.rows as u64 > app.limits.sync {
        let (rows, most) = (work.rows, app.limits.sync);
        let message = format!("n: images times network calls are {rows}, at once at most {most}; ask /v1/jobs");
        return Err(ApiError::bad(message));
    }
    let tag = work.fingerprint.clone().unwrap_or_default();
    let picture = async {
        match &*wait(&app, work).await? {
            Answer::Sample(sample) => Ok(([(header::CONTENT_TYPE, "image/png")], sample.png.0.clone()).into_response()),
            _ => Err(ApiError::internal("sampling gave another answer")),
        }
    };
    tagged(&tag, "private, no-cache", &headers, picture).await
}
