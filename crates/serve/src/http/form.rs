//! Requests that bring images: a form, or JSON without any.

use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{StatusCode, header};

use super::error::ApiError;
use super::extract::JsonBody;
use crate::work::WorkRequest;

/// Most fields of a form, its images among them.
const MOST_FIELDS: usize = 16;
/// Most bytes of a field's name.
const MOST_NAME: usize = 64;
/// Most bytes of a field that is no image.
const MOST_TEXT: usize = 1 << 10;

/// A request that may come as a form with image files instead of JSON.
pub trait FormRequest: WorkRequest {
    /// The names of the form's fields.
    const FIELDS: &'static [&'static str];
    /// How many files called `image` the form may have, in numbers and in words.
    const IMAGES: (&'static [usize], &'static str);

    /// Reads the fields beside the images.
    ///
    /// # Errors
    /// A field that cannot be read.
    fn of_form(form: &mut Form) -> Result<Self, ApiError>;
}

/// A request that came as `application/json`, or as `multipart/form-data` with image files.
#[derive(Debug)]
pub struct JsonOrForm<R> {
    /// The request.
    pub request: R,
    /// The files of the form, in order.
    pub uploads: Vec<Vec<u8>>,
}

/// The fields of a form.
#[derive(Debug, Default)]
pub struct Form {
    /// The files called `image`, in order.
    images: Vec<Vec<u8>>,
    fields: Vec<(String, String)>,
}

impl<S: Send + Sync, R: FormRequest> FromRequest<S> for JsonOrForm<R> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.to_ascii_lowercase().starts_with("multipart/form-data") {
            let JsonBody(request) = JsonBody::<R>::from_request(request, state).await?;
            return Ok(Self { request, uploads: Vec::new() });
        }
        let mut form = Form::read(request, state).await?;
        let request = R::of_form(&mut form)?;
        let uploads = form.finish(R::FIELDS)?;
        let (expected, in_words) = R::IMAGES;
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

    /// The text of a field; an empty one counts as absent.
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

    /// The images, once every field has been read; `known` are the names of the form's fields.
    ///
    /// # Errors
    /// A field is left over: it came twice, or is unknown, and the message names the nearest known one.
    fn finish(self, known: &[&str]) -> Result<Vec<Vec<u8>>, ApiError> {
        let Some((name, _)) = self.fields.into_iter().next() else { return Ok(self.images) };
        if known.contains(&name.as_str()) {
            return Err(ApiError::bad(format!("{name}: given twice")));
        }
        let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, &name)).unwrap_or(&"image");
        let message = format!("unknown field \"{name}\"; did you mean \"{nearest}\"?");
        Err(ApiError { field: Some(name), ..ApiError::bad(message) })
    }
}

fn refused(error: MultipartError) -> ApiError {
    let status = error.status();
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(status, "image: the upload is too long"),
        // The content is not to blame, but how it arrived.
        _ if status.is_server_error() => ApiError::cut(),
        _ => ApiError::new(status, format!("the form cannot be read: {}", error.body_text())),
    }
}
