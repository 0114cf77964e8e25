//! Queues, jobs, overload, going down.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use skipstone_serve::core::Retention;
use skipstone_serve::{Limits, Setup, app};

use crate::support::{delete, finished, get, post, service, soon};

fn job_of(reply: &crate::support::Reply) -> String {
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{:?}", reply.body);
    reply.json()["job"].as_str().unwrap().to_owned()
}

/// More than any test waits for.
fn long() -> Value {
    json!({"kind": "sample", "n": 64, "steps": 1000})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_work_becomes_a_job_whose_result_is_the_answer() {
    let limits = Limits { sync: 10, ..Limits::default() };
    let service = service(Setup { limits, ..Setup::default() });
    let router = app(service.clone());
    let body = json!({"n": 3, "steps": 4, "seed": 9});
    let job = job_of(&post(&router, "/v1/sample", body.clone()).await);
    let done = finished(&router, &job).await;
    assert_eq!(
        (done["state"].as_str(), done["done_calls"].as_u64(), done["calls"].as_u64()),
        (Some("done"), Some(4), Some(4))
    );
    let at_once = app(crate::support::service(Setup::default()));
    assert_eq!(done["result"]["png"], post(&at_once, "/v1/sample", body).await.json()["png"]);
    // A picture by its address cannot be a job.
    let picture = get(&router, "/v1/sample.png?n=3&steps=4").await;
    assert!(picture.error().1.contains("at once at most 10"), "{:?}", picture.error());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_429_and_nothing_accepted_is_lost() {
    let limits = Limits { queue: 3, ..Limits::default() };
    let service = service(Setup { limits, runners: 1, ..Setup::default() });
    let router = app(service.clone());
    let first = job_of(&post(&router, "/v1/jobs", long()).await);
    soon("the first runs", || service.models[0].worker.load() == (0, 1)).await;
    let small = json!({"kind": "sample", "n": 2, "steps": 3});
    let mut accepted = Vec::new();
    for i in 0..3 {
        let job = job_of(&post(&router, "/v1/jobs", small.clone()).await);
        let shown = get(&router, &format!("/v1/jobs/{job}")).await.json();
        assert_eq!((shown["state"].as_str(), shown["position"].as_u64()), (Some("queued"), Some(i)));
        accepted.push(job);
    }
    for path in ["/v1/jobs", "/v1/sample"] {
        let body = if path == "/v1/jobs" { small.clone() } else { json!({"n": 2, "steps": 3}) };
        let reply = post(&router, path, body).await;
        assert_eq!((reply.status, reply.error().0.as_str()), (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"));
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=600).contains(&seconds));
    }
    assert_eq!(get(&router, "/v1/stream?n=1").await.status, StatusCode::TOO_MANY_REQUESTS);
    // A place that becomes free is given to the next.
    assert_eq!(delete(&router, &format!("/v1/jobs/{}", accepted.remove(1))).await.status, StatusCode::NO_CONTENT);
    accepted.push(job_of(&post(&router, "/v1/jobs", small).await));
    assert_eq!(delete(&router, &format!("/v1/jobs/{first}")).await.status, StatusCode::NO_CONTENT);
    for job in accepted {
        assert_eq!(finished(&router, &job).await["state"], "done");
    }
    assert_eq!(finished(&router, &first).await["state"], "cancelled");
    let metrics = String::from_utf8(get(&router, "/metrics").await.body.to_vec()).unwrap();
    for line in [
        "skipstone_refused_total 3",
        "skipstone_tasks_total{kind=\"sample\",state=\"done\"} 3",
        "skipstone_tasks_total{kind=\"sample\",state=\"cancelled\"} 2",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_forgotten_after_a_while_and_when_there_are_too_many() {
    let retention = Retention { time: Duration::from_secs(3600), count: 2, bytes: 1 << 20 };
    let service = service(Setup { retention, ..Setup::default() });
    let router = app(service.clone());
    let mut jobs = Vec::new();
    for seed in 0..4 {
        let job = job_of(&post(&router, "/v1/jobs", json!({"kind": "sample", "n": 1, "steps": 1, "seed": seed})).await);
        assert_eq!(finished(&router, &job).await["state"], "done");
        jobs.push(format!("/v1/jobs/{job}"));
    }
    let statuses = [get(&router, &jobs[0]).await.status, get(&router, &jobs[3]).await.status];
    assert_eq!(statuses, [StatusCode::NOT_FOUND, StatusCode::OK]);

    let retention = Retention { time: Duration::from_millis(1), ..Retention::default() };
    let router = app(crate::support::service(Setup { retention, ..Setup::default() }));
    let job = job_of(&post(&router, "/v1/jobs", json!({"kind": "sample", "n": 1, "steps": 1})).await);
    let path = format!("/v1/jobs/{job}");
    while get(&router, &path).await.status != StatusCode::NOT_FOUND {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_down_refuses_new_work_and_finishes_the_old() {
    let service = service(Setup { runners: 1, ..Setup::default() });
    let router = app(service.clone());
    let jobs = [60, 40, 2].map(|steps| json!({"kind": "sample", "n": 16, "steps": steps}));
    let mut accepted = Vec::new();
    for job in jobs {
        accepted.push(job_of(&post(&router, "/v1/jobs", job).await));
    }
    service.drain();
    assert_eq!(get(&router, "/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&router, "/health").await.status, StatusCode::OK);
    let reply = post(&router, "/v1/sample", json!({"n": 1, "steps": 1})).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.header("retry-after").is_some());
    for job in accepted {
        assert_eq!(finished(&router, &job).await["state"], "done");
    }
    soon("nothing is left", || service.is_idle()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_finished_is_told() {
    let service = service(Setup { runners: 1, ..Setup::default() });
    let router = app(service.clone());
    let running = job_of(&post(&router, "/v1/jobs", long()).await);
    soon("it runs", || service.models[0].worker.load() == (0, 1)).await;
    let waiting = job_of(&post(&router, "/v1/jobs", long()).await);
    let caller = tokio::spawn({
        let router = router.clone();
        async move { post(&router, "/v1/sample", json!({"n": 1, "steps": 2})).await }
    });
    let watcher = tokio::spawn({
        let router = router.clone();
        async move { get(&router, "/v1/stream?n=1&steps=2").await }
    });
    soon("all wait", || service.models[0].worker.load() == (3, 1)).await;
    service.drain();
    assert_eq!(service.models[0].worker.abandon().len(), 4);
    assert_eq!(caller.await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    let seen = crate::streams::events(&watcher.await.unwrap().body);
    let (name, data) = seen.last().unwrap();
    assert_eq!((name.as_str(), data["error"]["code"].as_str()), ("error", Some("service_unavailable")));
    for job in [running, waiting] {
        let job = finished(&router, &job).await;
        assert_eq!(
            (job["state"].as_str(), job["error"]["code"].as_str()),
            (Some("failed"), Some("service_unavailable"))
        );
    }
    soon("the worker is free", || service.is_idle()).await;
}
