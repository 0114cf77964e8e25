//! Request bodies and queries, and messages about what is wrong with them.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// A JSON body.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        Json::<T>::from_request(request, state).await.map(|Json(body)| Self(body)).map_err(|e| rejected(&e))
    }
}

/// Reads JSON that the service itself has written: its errors name no line and column, which mean nothing to callers.
///
/// # Errors
/// It is no `T`.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    Json::<T>::from_bytes(text.as_bytes()).map(|Json(body)| body).map_err(|e| {
        let mut error = rejected(&e);
        if let Some(end) = error.public.rfind(" at line ") {
            error.public.truncate(end);
        }
        error
    })
}

fn rejected(rejection: &JsonRejection) -> ApiError {
    match rejection {
        JsonRejection::BytesRejection(e) if e.status() != StatusCode::PAYLOAD_TOO_LARGE => ApiError::cut(),
        _ => refused(rejection.status(), &rejection.body_text()),
    }
}

/// The parameters of a query.
#[derive(Debug)]
pub struct QueryParams<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let parsed = Query::<T>::try_from_uri(&parts.uri);
        parsed.map(|Query(fields)| Self(fields)).map_err(|e| refused(e.status(), &e.body_text()))
    }
}

/// A rejection of the framework as an [`ApiError`]: 400 for whatever is wrong with the content.
fn refused(status: StatusCode, text: &str) -> ApiError {
    let status = if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status };
    // "Failed to deserialize the JSON body into the target type: steps: invalid type …"
    let message = match text.split_once(": ") {
        Some((prefix, message)) if prefix.starts_with("Failed to") => message,
        _ => text,
    };
    let field = message.split_once(':').map(|(field, _)| field.to_owned());
    match unknown(message) {
        Some((name, message)) => ApiError { field: Some(name), ..ApiError::new(status, message) },
        None => {
            let plain =
                |field: &String| field.bytes().all(|b| b.is_ascii_lowercase() || b"_[]0123456789.".contains(&b));
            ApiError { field: field.filter(plain), ..ApiError::new(status, message) }
        }
    }
}

/// "unknown field `stpes`, expected one of `model`, …" with the field that was probably meant.
fn unknown(message: &str) -> Option<(String, String)> {
    let (_, list) = message.split_once("unknown field ")?;
    let mut names = list.split('`').skip(1).step_by(2);
    let name = names.next()?;
    let nearest = names.min_by_key(|known| strsim::damerau_levenshtein(known, name))?;
    Some((name.to_owned(), format!("unknown field \"{name}\"; did you mean \"{nearest}\"?")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_names_the_nearest() {
        let text = "Failed to deserialize query string: stpes: unknown field `stpes`, expected one of `n`, `steps`";
        let error = refused(StatusCode::BAD_REQUEST, text);
        assert_eq!(error.public, "unknown field \"stpes\"; did you mean \"steps\"?");
        assert_eq!(error.field.as_deref(), Some("stpes"));
    }

    #[test]
    fn a_wrong_type_names_its_field_and_is_a_bad_request() {
        let text = "Failed to deserialize the JSON body into the target type: eta: invalid type: string \"x\", expected \
                    f64 at line 1 column 11";
        let error = refused(StatusCode::UNPROCESSABLE_ENTITY, text);
        assert_eq!((error.status, error.field.as_deref()), (StatusCode::BAD_REQUEST, Some("eta")));
        assert!(error.public.starts_with("eta: invalid type"));
    }
}
