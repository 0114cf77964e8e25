//! Listening, and going down without losing what was accepted.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::http::app;
use crate::service::App;
use crate::stall::Stalls;

/// How connections are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Connections open at a time; more wait to be accepted.
    pub connections: usize,
    /// How long the head of a request may take to arrive, also on a connection kept open.
    pub head: Duration,
    /// How long a response may wait for a reader who takes nothing of it.
    pub stall: Duration,
    /// How long work under way may take to end once the service goes down.
    pub grace: Duration,
    /// How long results of jobs then wait to be fetched; never longer than the grace itself.
    pub linger: Duration,
}

impl Default for Listening {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            linger: Duration::from_secs(5),
        }
    }
}

/// How the service went down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Farewell {
    /// Tasks that had not ended within the grace; their callers were told.
    pub abandoned: usize,
    /// Results that nobody fetched.
    pub unfetched: usize,
}

/// Serves until `stop`, then finishes or reports what was accepted: new work is refused, what is under way goes on,
/// results can still be fetched for a moment. A listener that fails is tried again.
pub async fn serve(
    listener: TcpListener,
    service: App,
    listening: Listening,
    stop: impl Future<Output = ()>,
) -> Farewell {
    let router = app(service.clone());
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(listening.connections.max(1)));
    let mut tidy = tokio::time::interval(Duration::from_secs(30));
    let mut end = pin!(async {
        stop.await;
        go_down(&service, &listening).await
    });
    let farewell = loop {
        let connection = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        tokio::select! {
            farewell = &mut end => break farewell,
            _ = tidy.tick() => service.jobs.tidy(),
            (accepted, place) = connection => match accepted {
                Ok((stream, _)) => {
                    // Events are small and wanted at once.
                    let _ = stream.set_nodelay(true);
                    let connection = connection_of(stream, router.clone(), &listening);
                    let connection = graceful.watch(connection);
                    tokio::spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!("connection: {error}");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Too many open files, or a caller gone before it was greeted: neither lasts.
                    tracing::warn!("cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    };
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(Duration::from_secs(2)) => tracing::info!("closing connections still open"),
    }
    farewell
}

fn connection_of(
    stream: tokio::net::TcpStream,
    router: Router,
    listening: &Listening,
) -> http1::Connection<TokioIo<Stalls<tokio::net::TcpStream>>, TowerToHyperService<Router>> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(listening.head)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(Stalls::new(stream, listening.stall)), TowerToHyperService::new(router))
}

/// Waits for what was accepted; what does not end in time is ended and told.
async fn go_down(service: &App, listening: &Listening) -> Farewell {
    let until = Instant::now() + listening.grace;
    service.drain();
    tracing::info!("shutting down: no new work; waiting for what was accepted");
    while !service.is_idle() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let abandoned: Vec<_> = service.models.iter().flat_map(|model| model.worker.abandon()).collect();
    for task in &abandoned {
        tracing::warn!(task = %task.id, kind = task.kind, "not done within the grace period; ended");
    }
    let until = Instant::now() + listening.linger.min(listening.grace);
    while !service.jobs.unfetched().is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let unfetched = service.jobs.unfetched();
    for task in &unfetched {
        tracing::warn!(task = %task.id, kind = task.kind, "its result was never fetched");
    }
    Farewell { abandoned: abandoned.len(), unfetched: unfetched.len() }
}
