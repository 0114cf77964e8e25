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
