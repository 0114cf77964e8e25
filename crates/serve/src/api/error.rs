use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

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

/// How every request for work may be refused.
#[derive(Debug, IntoResponses)]
pub enum WorkRefused {
    /// The queue is full; see Retry-After
    #[response(status = 429)]
    QueueFull(ErrorBody),
    /// The service is shutting down
    #[response(status = 503)]
    ShuttingDown(ErrorBody),
}

/// How a JSON body may be refused.
#[derive(Debug, IntoResponses)]
pub enum JsonRefused {
    /// The body is too long
    #[response(status = 413)]
    TooLong(ErrorBody),
    /// The body is no JSON
    #[response(status = 415)]
    NoJson(ErrorBody),
}

/// How a form or a JSON body may be refused.
#[derive(Debug, IntoResponses)]
pub enum UploadRefused {
    /// The upload is too long
    #[response(status = 413)]
    TooLong(ErrorBody),
    /// Neither a form nor JSON
    #[response(status = 415)]
    NeitherFormNorJson(ErrorBody),
}
