//! Requests as a form with images, or as JSON.

use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{StatusCode, header};

use super::error::ApiError;
use super::extract::{body, parse};
use crate::api::{ApiRequest, RequestKind};

/// Most fields of a form, including its images.
const MOST_FIELDS: usize = 24;
/// Most bytes of a field's name.
const MOST_NAME: usize = 64;
/// Most bytes of a field other than an image.
const MOST_TEXT: usize = 1 << 10;

/// A request that came as `application/json`, or as `multipart/form-data` where its kind takes images.
#[derive(Debug)]
pub struct JsonOrForm<K> {
    /// The request.
    pub request: ApiRequest<K>,
    /// The images of the form, in order.
    pub uploads: Vec<Vec<u8>>,
}

/// The fields of a form.
#[derive(Debug, Default)]
struct Form {
    /// The files called `image`, in order.
    images: Vec<Vec<u8>>,
    fields: Vec<(String, String)>,
}

impl<S: Send + Sync, K: RequestKind> FromRequest<S> for JsonOrForm<K> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (expected, in_words) = K::IMAGES;
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if expected.is_empty() || !kind.to_ascii_lowercase().starts_with("multipart/form-data") {
            return Ok(Self { request: parse(body(request, state).await?)?, uploads: Vec::new() });
        }
        let Form { images: uploads, fields } = Form::read(request, state).await?;
        let request = ApiRequest::of_text(fields, true).map_err(|e| ApiError::bad(e.message()))?;
        if !expected.contains(&uploads.len()) {
            return Err(ApiError::bad(format!("image: expected {in_words}, found {}", uploads.len())));
        }
        Ok(Self { request, uploads })
    }
}

impl Form {
    async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Self, ApiError> {
        let form = Multipart::from_request(request, state).await;
        let mut form = form.map_err(|e| ApiError::new(e.status(), e.body_text()))?;
        let mut found = Form::default();
        while let Some(field) = form.next_field().await.map_err(refused)? {
            if found.images.len() + found.fields.len() >= MOST_FIELDS {
                return Err(ApiError::bad(format!("a form of more than {MOST_FIELDS} fields")));
            }
            let name = field.name().unwrap_or_default().to_owned();
            if name.len() > MOST_NAME {
                return Err(ApiError::bad(format!("a form's field has a name of more than {MOST_NAME} bytes")));
            }
            let bytes = field.bytes().await.map_err(refused)?;
            if name == "image" {
                found.images.push(bytes.into());
                continue;
            }
            let text = String::from_utf8(bytes.to_vec()).ok().filter(|text| text.len() <= MOST_TEXT);
            match text {
                Some(text) => found.fields.push((name, text.trim().to_owned())),
                None => return Err(ApiError::bad(format!("{name:?}: expected at most {MOST_TEXT} bytes of text"))),
            }
        }
        Ok(found)
    }
}

fn refused(error: MultipartError) -> ApiError {
    let status = error.status();
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(status, "image: the upload is too long"),
        // The fault is in the transfer, not in the content.
        _ if status.is_server_error() => ApiError::cut(),
        _ => ApiError::new(status, format!("the form cannot be read: {}", error.body_text())),
    }
}
