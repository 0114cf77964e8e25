//! Errors of the API. The caller gets what helps the caller; the rest goes to the log.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::{ErrorBody, ErrorInfo};
use crate::core::Failure;

/// An error that becomes a response. The middleware writes the body, because it knows the request's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The status.
    pub status: StatusCode,
    /// The message for the caller.
    pub public: String,
    /// The field of the request that caused it.
    pub field: Option<String>,
    /// The message for the log.
    pub internal: Option<String>,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
}

/// Fields, besides the options, that a message may begin with.
const FIELDS: [&str; 9] = ["at", "first", "image", "kind", "model", "n", "points", "seeds", "test_image"];

/// The field named by a message: "steps: expected …", "solver ab2: …", "unknown field \"stepz\"; …".
fn field_of(message: &str) -> Option<&str> {
    if let Some(rest) = message.strip_prefix("unknown field \"") {
        return rest.split('"').next();
    }
    let word = message.split([':', ' ', '"']).next().unwrap_or_default();
    (FIELDS.contains(&word) || skipstone::sampling::options::find(word).is_some()).then_some(word)
}

impl ApiError {
    /// An error with this status.
    pub fn new(status: StatusCode, public: impl Into<String>) -> Self {
        let public = public.into();
        let field = field_of(&public).map(str::to_owned);
        Self { status, public, field, internal: None, retry_after: None }
    }

    /// The request is not valid.
    pub fn bad(public: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, public)
    }

    /// The body of the request stopped before its end.
    pub fn cut() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "the body of the request was cut short or arrived too slowly")
    }

    /// The requested thing does not exist.
    pub fn not_found(public: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, public)
    }

    /// A fault of the service, whose details go only to the log.
    pub fn internal(internal: impl Into<String>) -> Self {
        let internal = Some(internal.into());
        Self {
            internal,
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the service's log has the details")
        }
    }

    /// The service is shutting down.
    pub fn shutting_down() -> Self {
        let retry_after = Some(10);
        Self {
            retry_after,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "the service is shutting down; try again later")
        }
    }

    /// The code for programs.
    pub fn code(&self) -> String {
        let reason = self.status.canonical_reason().unwrap_or("error");
        reason.to_ascii_lowercase().replace([' ', '-'], "_")
    }

    /// The body, for the request with this id.
    pub fn body(&self, request_id: &str) -> ErrorBody {
        ErrorBody {
            error: ErrorInfo {
                code: self.code(),
                message: self.public.clone(),
                field: self.field.clone(),
                request_id: request_id.to_owned(),
            },
        }
    }

    /// The response, for the request with this id.
    pub fn render(&self, request_id: &str) -> Response {
        let mut response = (self.status, Json(self.body(request_id))).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(message) => Self::bad(message),
            Failure::Missing(message) => Self::not_found(message),
            Failure::NotFinite(message) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, message),
            Failure::Busy { retry_after } => Self {
                retry_after: Some(retry_after),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too many requests are waiting; try again later")
            },
            Failure::ShuttingDown => Self::shutting_down(),
            Failure::Internal(message) => Self::internal(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
