//! `/v1/jobs`: work without an open connection.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use serde_json::Value;

use super::answer::job;
use super::error::ApiError;
use super::extract::{body, parse};
use super::observe::RequestId;
use crate::api::{
    Accepted, CompareFields, EncodeFields, ErrorBody, InterpolateFields, Job, JobRequest, ReconstructFields,
    RequestKind, SampleFields,
};
use crate::core::{Phase, Task, Work};
use crate::service::App;
use crate::work::{WorkKind, prepare};

/// Create a job
#[utoipa::path(
    post,
    path = "/v1/jobs",
    request_body = JobRequest,
    responses(
        (status = 202, description = "Accepted", body = Accepted),
        (status = 400, description = "The request is invalid", body = ErrorBody),
        (status = 404, description = "There is no such test image", body = ErrorBody),
    )
)]
pub async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let request = body(request, &()).await?;
    job(&app, prepare_job(&app, request).await?)
}

/// Reads the fields of a job as those of its kind, so that an error names the field, and checks the request.
async fn prepare_job(app: &App, job: Value) -> Result<Work, ApiError> {
    let Value::Object(mut fields) = job else {
        return Err(ApiError::bad("expected an object of the fields of a job"));
    };
    let kind = fields.remove("kind");
    let rest = Value::Object(fields);
    match kind.as_ref().and_then(Value::as_str) {
        Some(SampleFields::NAME) => prepare_as::<SampleFields>(app, rest).await,
        Some(EncodeFields::NAME) => prepare_as::<EncodeFields>(app, rest).await,
        Some(ReconstructFields::NAME) => prepare_as::<ReconstructFields>(app, rest).await,
        Some(InterpolateFields::NAME) => prepare_as::<InterpolateFields>(app, rest).await,
        Some(CompareFields::NAME) => prepare_as::<CompareFields>(app, rest).await,
        _ => {
            let found = kind.map_or("none".to_owned(), |kind| kind.to_string());
            let kinds = "sample, encode, reconstruct, interpolate or compare";
            Err(ApiError::bad(format!("kind: expected {kinds}, found {found}")))
        }
    }
}

async fn prepare_as<K: WorkKind>(app: &App, fields: Value) -> Result<Work, ApiError> {
    Ok(prepare(app, parse::<K>(fields)?, Vec::new()).await?)
}

fn find(app: &App, id: &str) -> Result<Arc<Task>, ApiError> {
    app.jobs.get(id).ok_or_else(|| ApiError::not_found("there is no such job; results are kept for a limited time"))
}

/// Show a job
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, description = "The job's state", body = Job),
        (status = 404, description = "There is no such job; results are kept for a limited time", body = ErrorBody),
    )
)]
pub async fn show(
    State(app): State<App>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Path(id): Path<String>,
) -> Result<Json<Job>, ApiError> {
    let task = find(&app, &id)?;
    let phase = task.phase();
    let (state, position, is_finished) = (phase.name(), task.position(), phase.is_finished());
    let (result, error) = match phase {
        Phase::Done(answer) => (Some(answer), None),
        Phase::Failed(failure) => (None, Some(ApiError::from(failure).body(&request_id).error)),
        Phase::Queued | Phase::Running | Phase::Cancelled => (None, None),
    };
    // The job may have ended since, but this answer does not say so.
    if is_finished {
        app.jobs.mark_fetched(&id);
    }
    Ok(Json(Job { state, position, done_calls: task.done_calls(), calls: task.calls, result, error }))
}

/// Cancel a job
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 204, description = "The job ends at its next step, or had already ended"),
        (status = 404, description = "There is no such job", body = ErrorBody),
    )
)]
pub async fn cancel(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let task = find(&app, &id)?;
    task.cancel();
    if task.phase().is_finished() {
        app.jobs.mark_fetched(&id);
    }
    Ok(StatusCode::NO_CONTENT)
}
