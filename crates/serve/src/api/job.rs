use std::sync::Arc;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::answer::Answer;
use super::error::ErrorInfo;

/// A job was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Accepted {
    /// The job's id, for `/v1/jobs/{id}`.
    pub job: String,
}

/// The state of a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct Job {
    /// queued, running, done, failed or cancelled.
    pub state: &'static str,
    /// How many jobs come first, if it is queued.
    pub position: Option<usize>,
    /// Network calls made so far.
    pub done_calls: u64,
    /// Network calls of the whole job.
    pub calls: u64,
    /// The answer, once it is done.
    #[serde(serialize_with = "answer")]
    #[schema(value_type = Option<Answer>)]
    pub result: Option<Arc<Answer>>,
    /// The error, if it failed.
    pub error: Option<ErrorInfo>,
}

fn answer<S: Serializer>(answer: &Option<Arc<Answer>>, serializer: S) -> Result<S::Ok, S::Error> {
    answer.as_deref().serialize(serializer)
}
