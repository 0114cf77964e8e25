//! Requests that bring a picture: a form, or JSON that names a test image.

use axum::body::Bytes;
use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{StatusCode, header};

use super::error::ApiError;
use super::extract::Body;
use crate::api::{Asked, of_text};

/// Fields of a form beside its pictures, and pictures.
const MOST_FIELDS: usize = 16;
/// Bytes of a field's name.
const MOST_NAME: usize = 64;
/// Bytes of a field that is no picture.
const MOST_TEXT: usize = 1 << 10;

/// One or the other.
#[derive(Debug)]
pub enum Brought<T> {
    /// `application/json`.
    Json(T),
    /// `multipart/form-data`.
    Form(Form),
}

/// A form's fields.
#[derive(Debug, Default)]
pub struct Form {
    /// The files called `image`, in order.
    pub images: Vec<Bytes>,
    fields: Vec<(String, String)>,
}

impl<S: Send + Sync, T: Asked> FromRequest<S> for Brought<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.to_ascii_lowercase().starts_with("multipart/form-data") {
            return Body::<T>::from_request(request, state).await.map(|Body(body)| Self::Json(body));
        }
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
                found.images.push(bytes);
                continue;
            }
            let text = String::from_utf8(bytes.to_vec()).ok().filter(|text| text.len() <= MOST_TEXT);
            match text {
                Some(text) => found.fields.push((name, text.trim().to_owned())),
                None => return Err(ApiError::bad(format!("{name:?}: expected at most {MOST_TEXT} bytes of text"))),
            }
        }
        Ok(Self::Form(found))
    }
}

fn refused(error: MultipartError) -> ApiError {
    let status = error.status();
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(status, "image: the upload is too long"),
        // Not what it says is wrong, but how it comes.
        _ if status.is_server_error() => ApiError::cut(),
        _ => ApiError::new(status, format!("the form cannot be read: {}", error.body_text())),
    }
}

impl Form {
    /// The only picture.
    ///
    /// # Errors
    /// None, or several.
    pub fn image(&mut self) -> Result<Bytes, ApiError> {
        match self.images.len() {
            1 => Ok(self.images.remove(0)),
            found => Err(ApiError::bad(format!("image: expected one file, found {found}"))),
        }
    }

    /// What its other fields say.
    ///
    /// # Errors
    /// What means nothing.
    pub fn read<T: Asked>(self) -> Result<T, ApiError> {
        of_text(self.fields, true).map_err(|e| ApiError::bad(e.message()))
    }
}
