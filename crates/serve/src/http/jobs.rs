//! `/v1/jobs`: work that nobody waits for with an open connection.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::answer::{Accepted, job};
use super::error::{ApiError, ErrorBody, ErrorInfo};
use super::extract::{body, parse};
use super::latents::of_test;
use super::observe::RequestId;
use crate::api::{CompareRequest, EncodeRequest, InterpolateRequest, ReconstructRequest, SampleRequest};
use crate::core::{Cancel, Phase, Served, Task, Worker};
use crate::service::App;
use crate::work::{Answer, CompareWork, SampleWork, Work};

/// What to do; `kind` says what the other fields mean.
#[derive(Clone, Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[serde(tag = "kind")]
pub enum JobRequest {
    /// Images out of noise.
    Sample(SampleRequest),
    /// The latent of a test image.
    Encode(EncodeRequest),
    /// A test image encoded and decoded.
    Reconstruct(ReconstructRequest),
    /// Images between seeds.
    Interpolate(InterpolateRequest),
    /// The same latents under several options.
    Compare(CompareRequest),
}

impl JobRequest {
    /// Reads the kind, then the fields as those of that kind: so a field that is wrong is told by its name.
    fn of(request: Value) -> Result<Self, ApiError> {
        let Value::Object(mut fields) = request else {
            return Err(ApiError::bad("expected an object of the fields of a job"));
        };
        let kind = fields.remove("kind");
        let rest = Value::Object(fields);
        Ok(match kind.as_ref().and_then(Value::as_str) {
            Some("sample") => Self::Sample(parse(rest)?),
            Some("encode") => Self::Encode(parse(rest)?),
            Some("reconstruct") => Self::Reconstruct(parse(rest)?),
            Some("interpolate") => Self::Interpolate(parse(rest)?),
            Some("compare") => Self::Compare(parse(rest)?),
            _ => {
                let found = kind.map_or("none".to_owned(), |kind| kind.to_string());
                return Err(ApiError::bad(format!(
                    "kind: expected sample, encode, reconstruct, interpolate or compare, found {found}"
                )));
            }
        })
    }
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

/// Take work as a job
#[utoipa::path(
    post,
    path = "/v1/jobs",
    request_body = JobRequest,
    responses(
        (status = 202, description = "Taken", body = Accepted),
        (status = 400, description = "The request means nothing", body = ErrorBody),
        (status = 404, description = "No such test image", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is no JSON", body = ErrorBody),
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (request, cancel) = (body(request, &()).await?, Cancel::new());
    let (served, work) = work_of(&app, JobRequest::of(request)?, &cancel).await?;
    job(&app, &served, work, cancel)
}

async fn work_of(app: &App, request: JobRequest, cancel: &Cancel) -> Result<(Arc<Served>, Box<dyn Work>), ApiError> {
    Ok(match request {
        JobRequest::Sample(request) => {
            let served = app.model(request.model.as_deref())?;
            let work = app.prepare(&served, cancel, move |s, l, c| SampleWork::new(s, &request, l, c)).await?;
            (served, Box::new(work))
        }
        JobRequest::Encode(request) => of_test(request, app, cancel).await?,
        JobRequest::Reconstruct(request) => of_test(request, app, cancel).await?,
        JobRequest::Interpolate(request) => {
            let (served, work) = request.of_seeds(app, cancel).await?;
            (served, Box::new(work))
        }
        JobRequest::Compare(request) => {
            let served = app.model(request.model.as_deref())?;
            let work = app.prepare(&served, cancel, move |s, l, c| CompareWork::new(s, &request, l, c)).await?;
            (served, Box::new(work))
        }
    })
}

fn find(app: &App, id: &str) -> Result<(Arc<Task>, Worker), ApiError> {
    app.jobs.get(id).ok_or_else(|| ApiError::not_found("no such job: results are kept for a while only"))
}

/// How a job stands
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    params(("id" = String, Path, description = "The job's name")),
    responses(
        (status = 200, description = "How it stands", body = Job),
        (status = 404, description = "No such job, or its result was kept for long enough", body = ErrorBody),
    )
)]
pub async fn show(
    State(app): State<App>,
    axum::Extension(RequestId(request_id)): axum::Extension<RequestId>,
    Path(id): Path<String>,
) -> Result<Json<Job>, ApiError> {
    let (task, worker) = find(&app, &id)?;
    let phase = task.phase();
    let (state, position, is_over) = (phase.name(), worker.position(&task), phase.is_over());
    let (result, error) = match phase {
        Phase::Done(answer) => (Some(answer), None),
        Phase::Failed(failure) => (None, Some(ApiError::from(failure).body(&request_id).error)),
        Phase::Queued | Phase::Running | Phase::Cancelled => (None, None),
    };
    // What it has come to since has not been told.
    if is_over {
        app.jobs.fetched(&id);
    }
    Ok(Json(Job { state, position, done_calls: task.done_calls(), calls: task.calls, result, error }))
}

/// Cancel a job
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    params(("id" = String, Path, description = "The job's name")),
    responses(
        (status = 204, description = "It ends at its next step, or had ended"),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
pub async fn cancel(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let (task, worker) = find(&app, &id)?;
    worker.cancel(&task);
    if task.phase().is_over() {
        app.jobs.fetched(&id);
    }
    Ok(StatusCode::NO_CONTENT)
}
