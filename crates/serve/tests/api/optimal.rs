//! Optimal times: found once, beside the connections.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;
use skipstone::io::checkpoint::{Model, process_hash};
use skipstone::io::image::decode_png;
use skipstone::objective::calibration::Calibration;
use skipstone::sampling::options::{Request as Wanted, SpacingChoice};
use skipstone_serve::{App, Service, Setup, app};

use crate::support::{alone, delete, get, model, post};

/// A model with some calibration: errors that grow with time.
fn calibrated() -> Model {
    let model = model(false);
    let of_time = |f: fn(f64) -> f64| (1..=1000).map(|t| f(f64::from(t) / 1000.0)).collect();
    let calibration = Calibration {
        model: model.hash.clone(),
        process: process_hash(model.scheduler.prediction_type, &model.scheduler.schedule().unwrap()),
        provenance: BTreeMap::new(),
        sigma_1: 0.01,
        eps_squares: of_time(|t| 1.0 - 0.1 * (1.0 - t)),
        x0_errors: of_time(|t| 0.01 + t * t),
        decoder_nats: of_time(|t| 50.0 * t - 3.0),
        local_errors: None,
    };
    Model { calibration: Some(calibration), ..model }
}

fn service() -> App {
    Service::start(vec![("tiny".to_owned(), calibrated())], Setup::default()).expect("a service")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_from_the_table_are_those_of_the_library() {
    let router = app(service());
    for steps in [7, 1, 12] {
        let wanted = Wanted { steps: Some(steps), spacing: Some(SpacingChoice::Optimal), seed: 3, ..Wanted::default() };
        let reply = get(&router, &format!("/v1/sample.png?n=2&steps={steps}&spacing=optimal&seed=3")).await;
        assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
        let png = decode_png(&reply.body).unwrap();
        assert_eq!(png.picture, alone(calibrated(), &wanted, 0, 2), "{steps}");
        // What is written beside the pixels is what the command line writes.
        let text = |key: &str| png.text.iter().find(|(name, _)| name == key).map(|(_, text)| text.clone());
        assert_eq!((text("spacing").as_deref(), text("steps")), (Some("optimal"), Some(steps.to_string())));
        assert_eq!(text("calibration"), calibrated().calibration.map(|calibration| calibration.hash()));
    }
    for (steps, expected) in [(0, "expected 1 to 1000, found 0"), (1001, "expected 1 to 1000, found 1001")] {
        let reply = post(&router, "/v1/sample", json!({"spacing": "optimal", "steps": steps})).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.error().1.contains(expected), "{:?}", reply.error());
    }
}

/// On one thread: whatever holds it up holds up everything.
#[tokio::test]
async fn while_optimal_times_are_sought_others_are_answered() {
    let router = app(service());
    let body = json!({"spacing": "optimal", "steps": vec![1000; 64], "eta": [0], "n": 1});
    let compare = tokio::spawn({
        let router = router.clone();
        async move { post(&router, "/v1/compare", body).await }
    });
    // It has begun.
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(get(&router, "/health").await.status, StatusCode::OK);
    assert!(!compare.is_finished(), "the table takes longer than that");
    let reply = compare.await.unwrap();
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{:?}", reply.body);
    let job = format!("/v1/jobs/{}", reply.json()["job"].as_str().unwrap());
    assert_eq!(delete(&router, &job).await.status, StatusCode::NO_CONTENT);
}
