use serde::Serialize;
use utoipa::ToSchema;

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorInfo,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorInfo {
    /// A code for programs: bad_request, not_found, too_many_requests, …
    #[schema(example = "bad_request")]
    pub code: String,
    /// A message for people.
    #[schema(example = "steps: expected 1 to 1000, found 0")]
    pub message: String,
    /// The field that caused the error.
    pub field: Option<String>,
    /// The request's id, as in the log.
    pub request_id: String,
}
