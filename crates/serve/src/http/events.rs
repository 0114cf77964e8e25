//! Server-sent events: the stream of one task, for one reader.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{self, KeepAlive, KeepAliveStream, Sse};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::error::ApiError;
use crate::api::{Plan, QueuedEvent, StepEvent, grid_png};
use crate::core::{CancelOnDrop, Event, EventReceiver, Frame, Phase};

/// The events on the wire.
pub type Events = ReceiverStream<Result<sse::Event, Infallible>>;

/// Events that may wait for the connection.
const WAITING: usize = 8;

/// The reader has gone.
#[derive(Clone, Copy, Debug)]
struct Disconnected;

/// Streams the events of a task: `plan`, the events of its work, then `done` or `error`.
pub fn stream(
    task: CancelOnDrop,
    plan: Plan,
    mut events: EventReceiver,
    request_id: String,
) -> Sse<KeepAliveStream<Events>> {
    let (to, written) = mpsc::channel(WAITING);
    let writer = EventWriter { to, task, request_id };
    tokio::spawn(async move {
        // If the reader has gone, dropping the writer cancels the work.
        let _ = writer.write_all(&plan, &mut events).await;
    });
    Sse::new(ReceiverStream::new(written)).keep_alive(KeepAlive::default())
}

/// Writes a task's events. Dropping it cancels the task.
struct EventWriter {
    to: mpsc::Sender<Result<sse::Event, Infallible>>,
    task: CancelOnDrop,
    request_id: String,
}

impl EventWriter {
    async fn write_all(&self, plan: &Plan, events: &mut EventReceiver) -> Result<(), Disconnected> {
        self.event("plan", plan).await?;
        let of = self.task.0.calls as usize;
        while let Some(event) = self.next(events).await? {
            match event {
                Event::Step(frame) => self.step(frame, of).await?,
                Event::Row(row) => self.event("row", &row).await?,
                Event::Cell(cell) => self.event("cell", &cell).await?,
            }
        }
        match self.task.0.finished().await {
            Phase::Done(answer) => self.event("done", &*answer).await,
            Phase::Failed(failure) => self.error(failure.into()).await,
            Phase::Queued | Phase::Running | Phase::Cancelled => self.error(ApiError::shutting_down()).await,
        }
    }

    /// Waits for the next event. Meanwhile writes once a second how many tasks come first.
    async fn next(&self, events: &mut EventReceiver) -> Result<Option<Event>, Disconnected> {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                biased;
                () = self.to.closed() => return Err(Disconnected),
                event = events.recv() => return Ok(event),
                _ = every.tick() => {
                    if let Some(position) = self.task.0.position() {
                        self.event("queued", &QueuedEvent { position }).await?;
                    }
                }
            }
        }
    }

    async fn step(&self, frame: Frame, of: usize) -> Result<(), Disconnected> {
        // Compressing an image here would block the connection's thread for too long.
        let made = tokio::task::spawn_blocking(move || {
            let Frame { call, t, columns, seconds, .. } = frame;
            let png = grid_png(&frame.x0, columns, &[]).ok()?;
            Some(StepEvent { call, of, t: t.index(), png, seconds })
        });
        match made.await {
            Ok(Some(step)) => self.event("step", &step).await,
            // x̂₀ is not an image. The last event reports the reason.
            Ok(None) | Err(_) => Ok(()),
        }
    }

    async fn error(&self, error: ApiError) -> Result<(), Disconnected> {
        if let Some(internal) = &error.internal {
            tracing::error!(request_id = %self.request_id, "{internal}");
        }
        self.event("error", &error.body(&self.request_id)).await
    }

    async fn event(&self, name: &str, data: &impl Serialize) -> Result<(), Disconnected> {
        let event = sse::Event::default().event(name).json_data(data).map_err(|_| Disconnected)?;
        self.to.send(Ok(event)).await.map_err(|_| Disconnected)
    }
}
