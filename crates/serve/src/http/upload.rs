//! Requests that bring a picture: a form, or JSON that names a test image.

use axum::body::Bytes;
use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::extract::Body;

/// Fields of a form beside its pictures, and pictures.
const MOST_FIELDS: usize = 16;
/// Bytes of a field's name.
const MOST_NAME: usize = 64;
/// Bytes of a field that is no picture.
const MOST_TEXT: usize = 1 << 10;

/// One or the other.
#[derive(Debug)]
pub enum Asked<T> {
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

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Asked<T> {
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

    /// The text of a field; an empty one is as if it were not there.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.fields.iter().position(|(field, _)| field == name)?;
        Some(self.fields.remove(at).1).filter(|text| !text.is_empty())
    }

    /// A field that is a number.
    ///
    /// # Errors
    /// Something else.
    pub fn number<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong = || ApiError::bad(format!("{name}: expected a number, found \"{text}\""));
        text.parse().map(Some).map_err(|_| wrong())
    }

    /// A field that lists numbers, as `10,20,50`.
    ///
    /// # Errors
    /// Something else.
    pub fn numbers<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<Vec<T>>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong = || ApiError::bad(format!("{name}: expected numbers between commas, found \"{text}\""));
        text.split(',').map(|word| word.trim().parse()).collect::<Result<_, _>>().map(Some).map_err(|_| wrong())
    }

    /// Refuses whatever has not been asked for; `known` are the fields there are.
    ///
    /// # Errors
    /// A field left over; the nearest known one is told.
    pub fn end(self, known: &[&str]) -> Result<(), ApiError> {
        let Some((name, _)) = self.fields.into_iter().next() else { return Ok(()) };
        if known.contains(&name.as_str()) {
            return Err(ApiError::bad(format!("{name}: given twice")));
        }
        let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, &name)).unwrap_or(&"image");
        let message = format!("unknown field \"{name}\"; did you mean \"{nearest}\"?");
        Err(ApiError { field: Some(name), ..ApiError::bad(message) })
    }
}
