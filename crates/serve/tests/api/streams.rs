//! Images as they come to be.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use skipstone_serve::{Setup, app};
use tower::ServiceExt;

use crate::support::{Reply, form, get, picture, post, posted, send, service, shared, soon};

/// The events of a whole stream.
pub fn events(body: &[u8]) -> Vec<(String, Value)> {
    let text = std::str::from_utf8(body).unwrap();
    let blocks = text.split("\n\n").filter(|block| block.contains("event:"));
    let field = |block: &str, name: &str| -> String {
        let lines = block.lines().filter_map(|line| line.strip_prefix(name).map(|rest| rest.trim_start().to_owned()));
        lines.collect::<Vec<_>>().join("\n")
    };
    blocks.map(|block| (field(block, "event:"), serde_json::from_str(&field(block, "data:")).unwrap())).collect()
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "queued").collect();
    names.dedup();
    names
}

fn of<'a>(events: &'a [(String, Value)], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|(event, _)| event == name).map(|(_, data)| data).collect()
}

/// The reply to a request that asks for events.
pub async fn streamed(router: &axum::Router, mut request: Request<Body>) -> Reply {
    request.headers_mut().insert(header::ACCEPT, "text/event-stream".parse().unwrap());
    let reply = send(router, request).await;
    assert!(reply.header("content-type").unwrap().starts_with("text/event-stream"), "{reply:?}");
    reply
}

#[test]
fn a_stream_shows_the_plan_every_step_and_the_same_picture_as_the_answer() {
    shared(async |router| {
        let reply = get(&router, "/v1/stream?n=3&steps=6&eta=0.5&seed=2").await;
        let seen = events(&reply.body);
        assert_eq!(names(&seen), ["plan", "step", "done"]);
        let plan = of(&seen, "plan")[0];
        assert_eq!(plan["rows"].as_array().unwrap().len(), 6);
        assert_eq!((plan["rows"][5]["s"].clone(), plan["rows"][5]["alpha_s"].as_f64()), (Value::Null, Some(1.0)));
        let steps = of(&seen, "step");
        assert_eq!(steps.iter().map(|step| step["call"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        let times: Vec<&Value> = steps.iter().map(|step| &step["t"]).collect();
        assert_eq!(times, plan["times"].as_array().unwrap().iter().collect::<Vec<_>>());
        let done = of(&seen, "done")[0];
        let answer = post(&router, "/v1/sample", json!({"n": 3, "steps": 6, "eta": 0.5, "seed": 2})).await.json();
        assert_eq!(done["png"], answer["png"]);
        assert_eq!(done["command"], plan["command"]);
        // Landing on clean data without noise, the last x̂₀ is the image.
        assert_eq!(picture(&steps[5]["png"]), picture(&done["png"]));
        assert_ne!(picture(&steps[0]["png"]), picture(&done["png"]));
        // A tile is where the plan says.
        let (tile, last) = (&plan["tile"], picture(&done["png"]));
        let at = |name: &str| tile[name].as_u64().unwrap() as usize;
        assert_eq!(last.width(), at("gutter") + 2 * (at("width") + at("gutter")));
    });
}

#[test]
fn whatever_is_posted_but_for_encoding_can_be_watched() {
    shared(async |router| {
        let body = json!({"seeds": [1, 2, 3, 4], "points": 3, "steps": 4});
        let seen = events(&streamed(&router, posted("/v1/interpolate", &body)).await.body);
        assert_eq!(names(&seen), ["plan", "step", "done"]);
        assert_eq!(of(&seen, "plan")[0]["columns"], 3);
        let answer = post(&router, "/v1/interpolate", body).await.json();
        assert_eq!(of(&seen, "done")[0]["tiles"], answer["tiles"]);

        let png = crate::uploads::gradient(8, 8);
        let request = || form("/v1/reconstruct", &[("steps", "2,5")], &[&png]);
        let seen = events(&streamed(&router, request()).await.body);
        assert_eq!(names(&seen), ["plan", "row", "done"]);
        let answer = send(&router, request()).await.json();
        let rows: Vec<&Value> = of(&seen, "row");
        assert_eq!(rows, answer["rows"].as_array().unwrap().iter().collect::<Vec<_>>());
        assert_eq!(of(&seen, "plan")[0]["original"], answer["original"]);

        let mut encode = form("/v1/encode", &[("steps", "2")], &[&png]);
        encode.headers_mut().insert(header::ACCEPT, "text/event-stream".parse().unwrap());
        assert_eq!(send(&router, encode).await.header("content-type"), Some("application/json"));

        let seen = events(&streamed(&router, posted("/v1/sample", &json!({"n": 1, "steps": 3}))).await.body);
        assert_eq!(names(&seen), ["plan", "step", "done"]);

        let body = json!({"steps": [2, 3], "eta": [0.0, 1.0], "n": 2, "seed": 4});
        let seen = events(&streamed(&router, posted("/v1/compare", &body)).await.body);
        assert_eq!(names(&seen), ["plan", "cell", "done"]);
        let answer = post(&router, "/v1/compare", body).await.json();
        let pixels = |cell: &Value| (cell["steps"].clone(), cell["eta"].clone(), cell["png"].clone());
        let cells: Vec<_> = of(&seen, "cell").into_iter().map(pixels).collect();
        assert_eq!(cells, answer["cells"].as_array().unwrap().iter().map(pixels).collect::<Vec<_>>());
        // A cell is what sampling makes.
        let alone = post(&router, "/v1/sample", json!({"n": 2, "steps": 3, "eta": 1.0, "seed": 4})).await.json();
        assert_eq!(picture(&answer["cells"][3]["png"]), picture(&alone["png"]));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_the_connection_frees_the_worker() {
    let service = service(Setup { runners: 1, ..Setup::default() });
    let router = app(service.clone());
    let request = Request::get("/v1/stream?n=64&steps=1000").body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    soon("the work runs", || service.models[0].worker.load() == (0, 1)).await;
    // One that waits behind it, and leaves first.
    let second = Request::get("/v1/stream?n=64&steps=1000").body(Body::empty()).unwrap();
    let waiting = router.clone().oneshot(second).await.unwrap();
    assert_eq!(service.models[0].worker.load(), (1, 1));
    drop(waiting);
    soon("its place is free", || service.models[0].worker.load() == (0, 1)).await;
    drop(response);
    soon("the worker is free", || service.is_idle()).await;
    let small = post(&router, "/v1/sample", json!({"n": 1, "steps": 1})).await;
    assert_eq!(small.status, StatusCode::OK);
    let metrics = String::from_utf8(get(&router, "/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("skipstone_tasks_total{kind=\"sample\",state=\"cancelled\"} 2"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_hears_how_many_come_first() {
    let service = service(Setup { runners: 1, ..Setup::default() });
    let router = app(service.clone());
    let long = post(&router, "/v1/jobs", json!({"kind": "sample", "n": 64, "steps": 1000})).await.json();
    let long = format!("/v1/jobs/{}", long["job"].as_str().unwrap());
    soon("the work runs", || service.models[0].worker.load() == (0, 1)).await;
    let next = tokio::spawn({
        let router = router.clone();
        async move { get(&router, "/v1/stream?n=1&steps=2").await }
    });
    soon("the next waits", || service.models[0].worker.load() == (1, 1)).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(crate::support::delete(&router, &long).await.status, StatusCode::NO_CONTENT);
    let seen = events(&next.await.unwrap().body);
    assert_eq!(of(&seen, "queued")[0]["position"], 0);
    assert_eq!(names(&seen), ["plan", "step", "done"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_hangs_up_has_cancelled() {
    let service = service(Setup { runners: 1, ..Setup::default() });
    let router = app(service.clone());
    let call = tokio::spawn({
        let router = router.clone();
        async move { post(&router, "/v1/sample", json!({"n": 2, "steps": 1000})).await }
    });
    soon("the work runs", || service.models[0].worker.load() == (0, 1)).await;
    call.abort();
    soon("the worker is free", || service.is_idle()).await;
}
