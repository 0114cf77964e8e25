//! The service on a socket: readers who stop reading, and going down.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;
use skipstone_serve::server::{ServerOptions, ShutdownReport, serve};
use skipstone_serve::{App, Setup, app};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::support::{delete, get, post, service, soon};

/// Serves until the sender is dropped.
async fn listen(
    service: App,
    listening: ServerOptions,
) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<ShutdownReport>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(serve(listener, service, listening, async move {
        let _ = stopped.await;
    }));
    (address, stop, server)
}

/// The status line of a request on a connection of its own.
fn status(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_reading_loses_the_connection() {
    let listening =
        ServerOptions { connections: 1, write_timeout: Duration::from_millis(200), ..ServerOptions::default() };
    let (address, stop, server) = listen(service(Setup::default()), listening).await;
    spawn_blocking(move || {
        let mut greedy = TcpStream::connect(address).unwrap();
        // More than any socket holds, and nothing of it is read.
        let requests = "GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
        greedy.write_all(requests.as_bytes()).unwrap();
        // The only place is free again.
        assert_eq!(status(address, "/health"), "HTTP/1.1 200 OK");
    })
    .await
    .unwrap();
    drop(stop);
    assert_eq!(server.await.unwrap(), ShutdownReport::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_with_the_grace_can_be_fetched_still() {
    let service = service(Setup { runners: 1, ..Setup::default() });
    let router = app(service.clone());
    let listening = ServerOptions { grace: Duration::from_millis(700), ..ServerOptions::default() };
    let (_, stop, server) = listen(service.clone(), listening).await;
    let reply = post(&router, "/v1/jobs", json!({"kind": "sample", "n": 64, "steps": 1000})).await;
    let path = format!("/v1/jobs/{}", reply.json()["job"].as_str().unwrap());
    soon("it runs", || service.models[0].worker.load() == (0, 1)).await;
    drop(stop);
    let told = tokio::spawn(async move {
        while get(&router, &path).await.json()["state"] != "failed" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert_eq!(server.await.unwrap(), ShutdownReport { abandoned: 1, unfetched: 0 });
    told.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cancelled_is_nothing_that_nobody_fetched() {
    let service = service(Setup { runners: 1, ..Setup::default() });
    let router = app(service.clone());
    let mut jobs = Vec::new();
    for _ in 0..2 {
        let reply = post(&router, "/v1/jobs", json!({"kind": "sample", "n": 64, "steps": 1000})).await;
        jobs.push(format!("/v1/jobs/{}", reply.json()["job"].as_str().unwrap()));
    }
    soon("one runs", || service.models[0].worker.load() == (1, 1)).await;
    for job in jobs {
        assert_eq!(delete(&router, &job).await.status, StatusCode::NO_CONTENT);
    }
    soon("both are over", || service.is_idle()).await;
    assert!(service.jobs.unfetched().is_empty());
    post(&router, "/v1/jobs", json!({"kind": "sample", "n": 1, "steps": 1})).await;
    soon("its result is there", || service.jobs.unfetched().len() == 1).await;
}
