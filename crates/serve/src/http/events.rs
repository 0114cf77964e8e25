//! Server-sent events: telling one reader, event by event, what becomes of one task.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, KeepAliveStream, Sse};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::answer::Leave;
use super::error::ApiError;
use crate::api::{QueuedEvent, StepEvent, grid_png};
use crate::core::Phase;
use crate::work::{Frame, News, Plan};

/// What a reader reads.
pub type Events = ReceiverStream<Result<Event, Infallible>>;

/// Events that may wait for the connection.
const WAITING: usize = 8;

/// The reader has gone.
#[derive(Clone, Copy, Debug)]
struct Gone;

/// The events of a task: `plan`, what there is to see, `done` or `error`.
pub fn stream(
    leave: Leave,
    plan: Plan,
    mut news: mpsc::UnboundedReceiver<News>,
    request_id: String,
) -> Sse<KeepAliveStream<Events>> {
    let (teller, events) = Teller::new(leave, request_id);
    tokio::spawn(async move {
        // Whoever has gone need not be told; dropping the teller ends the work.
        let _ = teller.all(&plan, &mut news).await;
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// Tells; when it is dropped, or its reader goes, the task ends.
struct Teller {
    to: mpsc::Sender<Result<Event, Infallible>>,
    leave: Leave,
    request_id: String,
}

impl Teller {
    fn new(leave: Leave, request_id: String) -> (Self, Events) {
        let (to, events) = mpsc::channel(WAITING);
        (Self { to, leave, request_id }, ReceiverStream::new(events))
    }

    async fn all(&self, plan: &Plan, news: &mut mpsc::UnboundedReceiver<News>) -> Result<(), Gone> {
        self.event("plan", plan).await?;
        let of = self.leave.task().calls as usize;
        while let Some(news) = self.next(news).await? {
            match news {
                News::Step(frame) => self.step(frame, of).await?,
                News::Row(row) => self.event("row", &row).await?,
                News::Cell(cell) => self.event("cell", &cell).await?,
            }
        }
        match self.leave.task().over().await {
            Phase::Done(answer) => self.event("done", &*answer).await,
            Phase::Failed(failure) => self.error(failure.into()).await,
            Phase::Queued | Phase::Running | Phase::Cancelled => self.error(ApiError::shutting_down()).await,
        }
    }

    /// Waits for the next piece of news; meanwhile, once a second, tells how many come first.
    async fn next(&self, news: &mut mpsc::UnboundedReceiver<News>) -> Result<Option<News>, Gone> {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                biased;
                () = self.to.closed() => return Err(Gone),
                news = news.recv() => return Ok(news),
                _ = every.tick() => {
                    if let Some(position) = self.leave.position() {
                        self.event("queued", &QueuedEvent { position }).await?;
                    }
                }
            }
        }
    }

    async fn step(&self, frame: Frame, of: usize) -> Result<(), Gone> {
        // Compressing a picture takes longer than a connection's thread may be kept.
        let made = tokio::task::spawn_blocking(move || {
            let Frame { call, t, columns, seconds, .. } = frame;
            let png = grid_png(&frame.x0, columns, &[]).ok()?;
            Some(StepEvent { call, of, t: t.index(), png, seconds })
        });
        match made.await {
            Ok(Some(step)) => self.event("step", &step).await,
            // An x̂₀ without a picture: the end will say what is wrong.
            Ok(None) | Err(_) => Ok(()),
        }
    }

    async fn error(&self, error: ApiError) -> Result<(), Gone> {
        if let Some(internal) = &error.internal {
            tracing::error!(request_id = %self.request_id, "{internal}");
        }
        self.event("error", &error.body(&self.request_id)).await
    }

    async fn event(&self, name: &str, data: &impl Serialize) -> Result<(), Gone> {
        let event = Event::default().event(name).json_data(data).map_err(|_| Gone)?;
        self.to.send(Ok(event)).await.map_err(|_| Gone)
    }
}
