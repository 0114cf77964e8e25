use std::sync::Arc;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::answer::Answer;
use super::error::ErrorInfo;

/// A job was taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct Accepted {
    /// Its name, for `/v1/jobs/{id}`.
    pub job: String,
}

/// How a job stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct Job {
    /// queued, running, done, failed or cancelled.
    pub state: &'static str,
    /// How many wait before it, where it is queued.
    pub position: Option<usize>,
    /// Network calls made.
    pub done_calls: u64,
    /// Network calls of the whole job.
    pub calls: u64,
    /// What came of it, where it is done: the answer of its kind.
    #[serde(serialize_with = "answer")]
    #[schema(value_type = Option<Answer>)]
    pub result: Option<Arc<Answer>>,
    /// What went wrong, where it failed.
    pub error: Option<ErrorInfo>,
}

fn answer<S: Serializer>(answer: &Option<Arc<Answer>>, serializer: S) -> Result<S::Ok, S::Error> {
    answer.as_deref().serialize(serializer)
}
