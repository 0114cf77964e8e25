//! `/v1/encode`, `/v1/reconstruct`, `/v1/interpolate`: images and the latents they come from.

use axum::extract::State;
use axum::response::Response;

use super::answer::{ResponseMode, answer};
use super::error::ApiError;
use super::form::{FormRequest, JsonOrForm};
use crate::api::{
    Accepted, EncodeForm, EncodeRequest, Encoded, ErrorBody, InterpolateEvent, InterpolateForm, InterpolateRequest,
    Interpolation, ReconstructEvent, ReconstructForm, ReconstructRequest, Reconstruction,
};
use crate::service::App;

/// Encode an image
///
/// The latent that the deterministic process makes this image from.
#[utoipa::path(
    post,
    path = "/v1/encode",
    request_body(content((EncodeForm = "multipart/form-data"), (EncodeRequest = "application/json"))),
    responses(
        (status = 200, description = "The latent", body = Encoded),
        (status = 202, description = "A job: there is more to do than is done at once", body = Accepted),
        (status = 400, description = "The request means nothing, or the file is no picture", body = ErrorBody),
        (status = 404, description = "No such test image", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
    )
)]
pub async fn encode(
    State(app): State<App>,
    mode: ResponseMode,
    body: JsonOrForm<EncodeRequest>,
) -> Result<Response, ApiError> {
    answer(&app, mode, body.request, body.uploads).await
}

/// Encode an image and decode it again
///
/// With each number of steps: the more, the nearer to the original.
#[utoipa::path(
    post,
    path = "/v1/reconstruct",
    request_body(content((ReconstructForm = "multipart/form-data"), (ReconstructRequest = "application/json"))),
    responses(
        (status = 200, description = "What came back; or events", content((Reconstruction = "application/json"), (ReconstructEvent = "text/event-stream"))),
        (status = 202, description = "A job: there is more to do than is done at once", body = Accepted),
        (status = 400, description = "The request means nothing, or the file is no picture", body = ErrorBody),
        (status = 404, description = "No such test image", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
    )
)]
pub async fn reconstruct(
    State(app): State<App>,
    mode: ResponseMode,
    body: JsonOrForm<ReconstructRequest>,
) -> Result<Response, ApiError> {
    answer(&app, mode, body.request, body.uploads).await
}

/// Interpolate
///
/// From one image to another through their latents; a line between two, a square among four.
#[utoipa::path(
    post,
    path = "/v1/interpolate",
    request_body(content((InterpolateRequest = "application/json"), (InterpolateForm = "multipart/form-data"))),
    responses(
        (status = 200, description = "The images; or events", content((Interpolation = "application/json"), (InterpolateEvent = "text/event-stream"))),
        (status = 202, description = "A job: there is more to do than is done at once", body = Accepted),
        (status = 400, description = "The request means nothing, or a file is no picture", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
    )
)]
pub async fn interpolate(
    State(app): State<App>,
    mode: ResponseMode,
    body: JsonOrForm<InterpolateRequest>,
) -> Result<Response, ApiError> {
    answer(&app, mode, body.request, body.uploads).await
}

impl FormRequest for EncodeRequest {
    const IMAGES: (&'static [usize], &'static str) = (&[1], "one file");
}

impl FormRequest for ReconstructRequest {
    const IMAGES: (&'static [usize], &'static str) = EncodeRequest::IMAGES;
}

impl FormRequest for InterpolateRequest {
    const IMAGES: (&'static [usize], &'static str) = (&[2, 4], "two files (a line) or four (a square)");
}
