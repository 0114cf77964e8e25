//! Errors as the API tells them: to the caller what helps the caller, to the log the rest.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::core::{Failure, Refusal};

/// An error on its way to a response. The middleware writes the body, because it knows the request's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The status.
    pub status: StatusCode,
    /// What the caller is told.
    pub public: String,
    /// The field of the request that is to blame.
    pub field: Option<String>,
    /// What the log is told beside it.
    pub internal: Option<String>,
    /// When to come again, in seconds.
    pub retry_after: Option<u64>,
}

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorInfo,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorInfo {
    /// A word for programs: bad_request, not_found, too_many_requests, …
    #[schema(example = "bad_request")]
    pub code: String,
    /// A sentence for people.
    #[schema(example = "steps: expected 1 to 1000, found 0")]
    pub message: String,
    /// The field of the request that is to blame.
    pub field: Option<String>,
    /// What the log calls this request.
    pub request_id: String,
}

/// Fields that a message may begin with, beside the options.
const FIELDS: [&str; 9] = ["at", "first", "image", "kind", "model", "n", "points", "seeds", "test_image"];

/// The field that a message names: "steps: expected …", "solver ab2: …", "unknown field \"stepz\"; …".
fn field_of(message: &str) -> Option<&str> {
    if let Some(rest) = message.strip_prefix("unknown field \"") {
        return rest.split('"').next();
    }
    let word = message.split([':', ' ', '"']).next().unwrap_or_default();
    (FIELDS.contains(&word) || skipstone::options::find(word).is_some()).then_some(word)
}

impl ApiError {
    /// An error of this status.
    pub fn new(status: StatusCode, public: impl Into<String>) -> Self {
        let public = public.into();
        let field = field_of(&public).map(str::to_owned);
        Self { status, public, field, internal: None, retry_after: None }
    }

    /// What was asked for has no meaning.
    pub fn bad(public: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, public)
    }

    /// The body of a request has stopped before its end.
    pub fn cut() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "the body of the request stopped before its end, or came too slowly")
    }

    /// There is no such thing.
    pub fn not_found(public: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, public)
    }

    /// Our fault: the caller hears nothing of it.
    pub fn internal(internal: impl Into<String>) -> Self {
        let internal = Some(internal.into());
        Self {
            internal,
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here; the log says what")
        }
    }

    /// The service is going down.
    pub fn shutting_down() -> Self {
        let retry_after = Some(10);
        Self {
            retry_after,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "the service is shutting down; try again later")
        }
    }

    /// The queue had no place; `seconds` until it probably has.
    pub fn refused(refusal: Refusal, seconds: f64) -> Self {
        match refusal {
            Refusal::Closed => Self::shutting_down(),
            Refusal::Full => Self {
                retry_after: Some((seconds.ceil() as u64).clamp(1, 600)),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too many requests are waiting; try again later")
            },
        }
    }

    /// The word for programs.
    pub fn code(&self) -> String {
        let reason = self.status.canonical_reason().unwrap_or("error");
        reason.to_ascii_lowercase().replace([' ', '-'], "_")
    }

    /// The body, for the request called `request_id`.
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

    /// The response, for the request called `request_id`.
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
            Failure::Busy => Self::refused(Refusal::Full, 1.0),
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
