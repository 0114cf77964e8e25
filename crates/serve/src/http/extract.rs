//! Request bodies and queries, and their error messages.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::Value;

use super::error::ApiError;
use crate::api::{ApiRequest, RequestKind};

/// Reads a body as JSON.
///
/// # Errors
/// The body is not JSON, or did not arrive whole.
pub async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Value, ApiError> {
    Json::from_request(request, state).await.map(|Json(body)| body).map_err(|e| rejected(&e))
}

/// Reads JSON as a request.
///
/// # Errors
/// The value is not a request of kind `K`.
pub fn parse<K: RequestKind>(value: Value) -> Result<ApiRequest<K>, ApiError> {
    match value {
        Value::Object(fields) => ApiRequest::of_json(fields).map_err(|e| ApiError::bad(e.message())),
        _ => Err(ApiError::bad("expected an object of the fields of a request")),
    }
}

fn rejected(rejection: &JsonRejection) -> ApiError {
    match rejection {
        JsonRejection::BytesRejection(e) if e.status() != StatusCode::PAYLOAD_TOO_LARGE => ApiError::cut(),
        _ => match refused(rejection.status(), &rejection.body_text()) {
            // The end came before any value began; within one, the message begins with the place.
            error if error.public.starts_with("EOF while parsing a value") => {
                ApiError::bad("the body is empty; send a JSON object, {} for the defaults")
            }
            error => error,
        },
    }
}

/// The parameters of a query.
#[derive(Debug)]
pub struct QueryParams<K>(pub ApiRequest<K>);

impl<S: Send + Sync, K: RequestKind> FromRequestParts<S> for QueryParams<K> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let texts = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let Query(texts) = texts.map_err(|e| refused(e.status(), &e.body_text()))?;
        ApiRequest::of_text(texts, false).map(Self).map_err(|e| ApiError::bad(e.message()))
    }
}

/// A rejection of the framework as an [`ApiError`], with status 400 for any invalid content.
fn refused(status: StatusCode, text: &str) -> ApiError {
    let status = if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status };
    let message = match text.split_once(": ") {
        Some((prefix, message)) if prefix.starts_with("Failed to") => message,
        _ => text,
    };
    ApiError::new(status, message)
}
