//! Listening, and shutting down without losing accepted work.

mod write_timeout;

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
use write_timeout::WriteTimeout;

/// How the server handles connections and shuts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Most open connections. Further ones wait to be accepted.
    pub connections: usize,
    /// Longest time for the head of a request to arrive, also on a connection that is kept open.
    pub header_timeout: Duration,
    /// Longest time that a response waits for a client that reads nothing.
    pub write_timeout: Duration,
    /// Longest time for accepted work to end after shutdown begins.
    pub grace: Duration,
    /// How long results of jobs can be fetched afterwards; never longer than `grace`.
    pub fetch_grace: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections: 512,
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            fetch_grace: Duration::from_secs(5),
        }
    }
}

/// The outcome of a shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Tasks that did not end within the grace period. Their callers got an error.
    pub abandoned: usize,
    /// Results of jobs that no caller fetched.
    pub unfetched: usize,
}

/// Serves until `stop`. Then the service refuses new work, finishes accepted work or sends an error to its callers, and
/// still answers requests for results for a moment. A listener that fails is tried again.
pub async fn serve(
    listener: TcpListener,
    service: App,
    options: ServerOptions,
    stop: impl Future<Output = ()>,
) -> ShutdownReport {
    let router = app(service.clone());
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(options.connections.max(1)));
    let mut evict = tokio::time::interval(Duration::from_secs(30));
    let mut end = pin!(async {
        stop.await;
        shut_down(&service, &options).await
    });
    let report = loop {
        let connection = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        tokio::select! {
            report = &mut end => break report,
            _ = evict.tick() => service.jobs.evict(),
            (accepted, place) = connection => match accepted {
                Ok((stream, _)) => {
                    // Events are small and should arrive at once.
                    let _ = stream.set_nodelay(true);
                    let connection = connection_of(stream, router.clone(), &options);
                    let connection = graceful.watch(connection);
                    tokio::spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!("connection: {error}");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Too many open files, or the client has gone already. Neither lasts.
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
    report
}

fn connection_of(
    stream: tokio::net::TcpStream,
    router: Router,
    options: &ServerOptions,
) -> http1::Connection<TokioIo<WriteTimeout<tokio::net::TcpStream>>, TowerToHyperService<Router>> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(64 << 10)
        .serve_connection(
            TokioIo::new(WriteTimeout::new(stream, options.write_timeout)),
            TowerToHyperService::new(router),
        )
}

/// Waits for accepted work. Work that does not end in time is cancelled, and its callers get an error.
async fn shut_down(service: &App, options: &ServerOptions) -> ShutdownReport {
    let until = Instant::now() + options.grace;
    service.drain();
    tracing::info!("shutting down: no new work; waiting for what was accepted");
    while !service.is_idle() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let abandoned: Vec<_> = service.models.iter().flat_map(|model| model.worker.abandon()).collect();
    for task in &abandoned {
        tracing::warn!(task = %task.id, kind = task.kind, "not done within the grace period; ended");
    }
    let until = Instant::now() + options.fetch_grace.min(options.grace);
    while !service.jobs.unfetched().is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let unfetched = service.jobs.unfetched();
    for task in &unfetched {
        tracing::warn!(task = %task.id, kind = task.kind, "its result was never fetched");
    }
    ShutdownReport { abandoned: abandoned.len(), unfetched: unfetched.len() }
}
