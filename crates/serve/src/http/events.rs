//! Telling one reader, event by event, what becomes of one task.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::Event;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::answer::Leave;
use super::error::ApiError;
use crate::api::QueuedEvent;
use crate::core::{Phase, Served};

/// What a reader reads.
pub type Events = ReceiverStream<Result<Event, Infallible>>;

/// Events that may wait for the connection.
const WAITING: usize = 8;

/// The reader has gone.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

/// Tells; when it is dropped, or its reader goes, the task ends.
pub struct Teller {
    to: mpsc::Sender<Result<Event, Infallible>>,
    leave: Leave,
    request_id: String,
}

impl Teller {
    /// A teller, and what its reader reads.
    pub fn new(leave: Leave, request_id: String) -> (Self, Events) {
        let (to, events) = mpsc::channel(WAITING);
        (Self { to, leave, request_id }, ReceiverStream::new(events))
    }

    /// Waits for the next piece of news; meanwhile, once a second, tells how many come first.
    pub async fn next<T>(&self, news: impl Future<Output = Option<T>>) -> Result<Option<T>, Gone> {
        let mut news = std::pin::pin!(news);
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                biased;
                () = self.to.closed() => return Err(Gone),
                news = &mut news => return Ok(news),
                _ = every.tick() => {
                    if let Some(position) = self.leave.position() {
                        self.event("queued", &QueuedEvent { position }).await?;
                    }
                }
            }
        }
    }

    /// The model at work.
    pub fn served(&self) -> &Served {
        self.leave.served()
    }

    /// Waits until the task is over.
    pub async fn over(&self) -> Phase {
        self.leave.task().over().await
    }

    /// Tells why there is no result.
    pub async fn failed(&self, phase: Phase) -> Result<(), Gone> {
        let error = match phase {
            Phase::Failed(failure) => ApiError::from(failure),
            _ => ApiError::shutting_down(),
        };
        if let Some(internal) = &error.internal {
            tracing::error!(request_id = %self.request_id, "{internal}");
        }
        self.event("error", &error.body(&self.request_id)).await
    }

    /// Tells one thing.
    pub async fn event(&self, name: &str, data: &impl Serialize) -> Result<(), Gone> {
        let event = Event::default().event(name).json_data(data).map_err(|_| Gone)?;
        self.to.send(Ok(event)).await.map_err(|_| Gone)
    }
}
