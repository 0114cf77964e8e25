//! `/v1/test-images`: images to try the service with.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;

use super::error::ApiError;
use crate::api::{ErrorBody, TestImages};
use crate::service::App;

/// Count the test images
///
/// They are the test images of Fashion-MNIST, if the data set is installed.
#[utoipa::path(get, path = "/v1/test-images", responses((status = 200, description = "The number of test images", body = TestImages)))]
pub async fn count(State(app): State<App>) -> Result<Json<TestImages>, ApiError> {
    let count = app.images.test_count().await?;
    Ok(Json(TestImages { available: count.is_some(), count: count.unwrap_or(0) }))
}

/// A test image
#[utoipa::path(
    get,
    path = "/v1/test-images/{file}",
    params(("file" = String, Path, description = "The image's index with the extension .png", pattern = r"^[0-9]{1,5}\.png$", example = "0.png")),
    responses(
        (status = 200, description = "The image", content_type = "image/png"),
        (status = 404, description = "There is no such test image", body = ErrorBody),
    )
)]
pub async fn test_image(State(app): State<App>, Path(file): Path<String>) -> Result<impl IntoResponse, ApiError> {
    let number = file.strip_suffix(".png").and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| ApiError::not_found("test images are called 0.png, 1.png, …"))?;
    let png = app.images.test_png(number).await?;
    let caching = "public, max-age=86400";
    Ok(([(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, caching)], png))
}
