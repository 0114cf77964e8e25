//! `/v1/stream`: images as they come to be.

use axum::Extension;
use axum::extract::State;
use axum::response::sse::{KeepAlive, KeepAliveStream, Sse};
use tokio::sync::mpsc;

use super::answer::{Leave, submit};
use super::error::{ApiError, ErrorBody};
use super::events::{Events, Gone, Teller};
use super::extract::Fields;
use super::observe::RequestId;
use crate::api::{DoneEvent, PlanEvent, SampleRequest, StepEvent, grid_png};
use crate::core::{Cancel, Failure, Phase};
use crate::service::App;
use crate::work::{Answer, Frame, Frames, SampleWork};

/// Sample images and watch
///
/// Server-sent events: `plan` once, `queued` while others come first, `step` after each step (a reader who is too slow
/// misses some), then `done`, or `error` with the body of an error. Closing the connection ends the work.
#[utoipa::path(
    get,
    path = "/v1/stream",
    params(SampleRequest),
    responses(
        (status = 200, description = "Events; the data of each is JSON: PlanEvent, QueuedEvent, StepEvent, DoneEvent, ErrorBody",
         body = String, content_type = "text/event-stream"),
        (status = 400, description = "The request means nothing", body = ErrorBody),
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn stream(
    State(app): State<App>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Fields(request): Fields<SampleRequest>,
) -> Result<Sse<KeepAliveStream<Events>>, ApiError> {
    let (served, cancel) = (app.model(request.model.as_deref())?, Cancel::new());
    let work = SampleWork::new(served.clone(), &request, &app.limits, &cancel)?;
    let (frames, of_work) = Frames::channel(work.frame_bytes());
    let work = work.with_frames(frames);
    let plan = work.plan();
    let task = submit(&app, &served, Box::new(work), cancel)?;
    let (teller, events) = Teller::new(Leave::of(task, served), request_id);
    tokio::spawn(async move {
        // Whoever has gone need not be told; dropping the teller ends the work.
        let _ = tell(&teller, &plan, of_work).await;
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

async fn tell(teller: &Teller, plan: &PlanEvent, mut frames: mpsc::Receiver<Frame>) -> Result<(), Gone> {
    teller.event("plan", plan).await?;
    while let Some(frame) = teller.next(frames.recv()).await? {
        let (columns, of) = (plan.columns, plan.calls);
        // Compressing a picture takes longer than a connection's thread may be kept.
        let made = tokio::task::spawn_blocking(move || {
            let png = grid_png(&frame.x0, columns, &[]).ok()?;
            Some(StepEvent { call: frame.call, of, t: frame.t.index(), png, seconds: frame.seconds })
        });
        // An x̂₀ without a picture: the end will say what is wrong.
        if let Ok(Some(step)) = made.await {
            teller.event("step", &step).await?;
        }
    }
    match teller.over().await {
        Phase::Done(answer) => match &*answer {
            Answer::Sample(sample) => {
                let (seconds, calls) = (sample.seconds, sample.calls);
                let ddpm_seconds = seconds * f64::from(teller.served().timesteps) / calls.max(1) as f64;
                let done = DoneEvent { png: sample.png.clone(), seconds, calls, ddpm_seconds };
                teller.event("done", &done).await
            }
            _ => teller.failed(Phase::Failed(Failure::Internal("sampling gave another answer".to_owned()))).await,
        },
        phase => teller.failed(phase).await,
    }
}
