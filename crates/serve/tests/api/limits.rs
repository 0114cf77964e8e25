//! What may not be asked for, and how that is said.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::json;
use skipstone_serve::{Limits, Setup, app};

use crate::support::{delete, get, post, send, service, shared};

#[test]
fn what_means_nothing_is_400_with_the_field_and_what_was_expected() {
    shared(async |router| {
        for (body, field, expected) in [
            (json!({"n": 0}), "n", "expected 1 to 64, found 0"),
            (json!({"n": 65}), "n", "expected 1 to 64, found 65"),
            (json!({"n": -1}), "n", "n: expected a whole number of at least 1, found -1"),
            (json!({"n": 2.5}), "n", "n: expected a whole number of at least 1, found 2.5"),
            (json!({"first": "3"}), "first", "first: expected a whole number of at least 0, found \"3\""),
            (json!({"model": 3}), "model", "model: expected text, found 3"),
            (json!({"steps": 0}), "steps", "expected 1 to 1000, found 0"),
            (json!({"steps": 1001}), "steps", "expected 1 to 1000, found 1001"),
            (json!({"steps": "ten"}), "steps", "expected a whole number from 1"),
            (json!({"eta": -0.5}), "eta", "at least 0"),
            (json!({"eta": 0.5, "sigma": "hat"}), "eta", "cannot be combined with sigma hat"),
            (json!({"sigma": "hut"}), "sigma", "expected hat, analytic"),
            (json!({"sigma": "analytic"}), "sigma", "calibrate"),
            (json!({"solver": "huen"}), "solver", "expected one of"),
            (json!({"solver": "heun", "eta": 1}), "solver", "needs eta = 0"),
            (json!({"spacing": "uneven"}), "spacing", "expected one of"),
            (json!({"clip": "on"}), "clip", "expected one of off, keep-eps"),
            (json!({"class": 1}), "class", "unconditional"),
            (json!({"model": "classes", "class": 3}), "class", "expected 0 to 2, found 3"),
            (json!({"model": "classes", "guidance": 2.0}), "guidance", "needs a class"),
            (json!({"model": "clases"}), "model", "the nearest is \"classes\""),
            (json!({"sead": 1}), "sead", "did you mean \"seed\"?"),
            (json!({"seed": -1}), "seed", "expected a whole number from 0"),
            (json!({"first": u64::MAX}), "first", "overflows"),
            (json!({"times": []}), "times", "times: expected 1 to 1000 timesteps, found 0"),
            (json!({"times": [u64::MAX]}), "times", "times: expected"),
            (json!({"sigma": [0.1]}), "sigma", "sigma: expected one value per network call, 50, found 1"),
        ] {
            let reply = post(&router, "/v1/sample", body.clone()).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}: {:?}", reply.body);
            let (code, message, found) = reply.error();
            assert_eq!(code, "bad_request");
            assert!(message.contains(expected), "{body}: {message}");
            assert!(!["usize", "u64", "u32", "f64"].iter().any(|name| message.contains(name)), "{body}: {message}");
            assert_eq!(found.as_deref(), Some(field), "{body}: {message}");
        }
        for query in ["n=0", "steps=x", "eta=1&sigma=hat", "stepz=3", "seed=-1", "clip=on"] {
            for path in ["/v1/sample.png", "/v1/stream"] {
                let reply = get(&router, &format!("{path}?{query}")).await;
                assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{query}: {:?}", reply.body);
                assert!(reply.error().2.is_some(), "{query}: {:?}", reply.error());
            }
        }
        for body in ["", "{", "[]", "{\"n\": 1} more", "null"] {
            let request = Request::post("/v1/sample").header("content-type", "application/json");
            let reply = send(&router, request.body(Body::from(body)).unwrap()).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}: {:?}", reply.body);
        }
        for (body, is_empty) in [("", true), (" \n", true), ("{\"n\":", false), ("[", false)] {
            let request = Request::post("/v1/sample").header("content-type", "application/json");
            let message = send(&router, request.body(Body::from(body)).unwrap()).await.error().1;
            assert_eq!(message.starts_with("the body is empty; send a JSON object"), is_empty, "{body}: {message}");
        }
    });
}

#[tokio::test]
async fn the_default_number_of_images_is_within_the_limits_and_no_error_hides_another() {
    for (limits, n) in [
        (Limits::default(), 16_u64),
        (Limits { n: 8, ..Limits::default() }, 8),
        (Limits { pixels: 3 * 8 * 8, ..Limits::default() }, 3),
    ] {
        let router = app(service(Setup { limits, ..Setup::default() }));
        let sample = post(&router, "/v1/sample", json!({"steps": 1})).await.json();
        assert_eq!(sample["n"], n, "{sample}");
        assert_eq!(sample["command"], format!("skipstone sample --model tiny -n {n} --steps 1"));
        let picture = get(&router, "/v1/sample.png?steps=1").await;
        assert_eq!(picture.body, crate::support::decoded(&sample["png"]));
        let reply = get(&router, "/v1/sample.png?steps=0").await;
        assert_eq!(reply.error().2.as_deref(), Some("steps"), "{:?}", reply.body);
    }
}

#[test]
fn the_other_requests_have_limits_too() {
    shared(async |router| {
        let many: Vec<usize> = (1..=13).collect();
        for (path, body, expected) in [
            ("/v1/interpolate", json!({"seeds": [1, 2], "points": 1}), "at least 2"),
            ("/v1/interpolate", json!({"seeds": [1, 2], "points": 65}), "at most 64"),
            ("/v1/interpolate", json!({"seeds": [1, 2, 3, 4], "points": 9}), "at most 64"),
            ("/v1/interpolate", json!({"seeds": [1, 2, 3, 4], "points": usize::MAX}), "at most 64"),
            ("/v1/interpolate", json!({"seeds": [1], "points": 3}), "two ends (a line) or four"),
            ("/v1/interpolate", json!({"seeds": [1, 2], "at": [0.5, 0.5]}), "1 number(s)"),
            ("/v1/interpolate", json!({"seeds": [1, 2], "at": [1.5]}), "from 0 to 1"),
            ("/v1/interpolate", json!({"points": 3}), "missing field"),
            ("/v1/compare", json!({"steps": many, "eta": [0, 0.1, 0.2, 0.3, 0.4]}), "65 cells"),
            ("/v1/compare", json!({"steps": [1, 2000], "eta": [0]}), "found 2000"),
            ("/v1/compare", json!({"steps": [1], "eta": [-1]}), "at least 0"),
            ("/v1/compare", json!({"n": 65}), "found 65"),
            ("/v1/compare", json!({"steps": [1.5]}), "steps: expected whole numbers of at least 1, found [1.5]"),
            ("/v1/compare", json!({"eta": [true]}), "eta: expected numbers, found [true]"),
            ("/v1/interpolate", json!({"seeds": [1, -2]}), "seeds: expected whole numbers of at least 0, found [1,-2]"),
            ("/v1/compare", json!({"n": 6}), "12 cells of 6 are 72 images; expected at most 64 in all"),
        ] {
            let reply = post(&router, path, body.clone()).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}: {:?}", reply.body);
            assert!(reply.error().1.contains(expected), "{body}: {:?}", reply.error());
        }
        let png = crate::uploads::gradient(8, 8);
        let steps: Vec<String> = many.iter().map(usize::to_string).collect();
        let fields = [("steps", &*steps.join(","))];
        let reply = send(&router, crate::support::form("/v1/reconstruct", &fields, &[&png])).await;
        assert!(reply.error().1.contains("expected 1 to 12 numbers, found 13"), "{:?}", reply.error());
    });
}

#[test]
fn what_is_not_there_is_404_and_what_cannot_be_done_with_it_405() {
    shared(async |router| {
        for path in
            ["/v2/sample", "/assets/none.js", "/assets/../Cargo.toml", "/assets/%2e%2e/Cargo.toml", "/etc/passwd"]
        {
            let reply = get(&router, path).await;
            assert_eq!((reply.status, reply.error().0.as_str()), (StatusCode::NOT_FOUND, "not_found"), "{path}");
        }
        assert_eq!(get(&router, "/v1/jobs/0123").await.status, StatusCode::NOT_FOUND);
        assert_eq!(delete(&router, "/v1/jobs/0123").await.status, StatusCode::NOT_FOUND);
        let reply = delete(&router, "/v1/sample").await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(reply.header("allow"), Some("POST"));
        assert_eq!(reply.error().0, "method_not_allowed");
    });
}

#[test]
fn a_request_s_id_is_in_the_header_and_in_the_error() {
    shared(async |router| {
        let named = Request::get("/v1/jobs/x").header("x-request-id", "my-id.1").body(Body::empty()).unwrap();
        let reply = send(&router, named).await;
        assert_eq!(reply.header("x-request-id"), Some("my-id.1"));
        assert_eq!(reply.json()["error"]["request_id"], "my-id.1");
        let mut seen = Vec::new();
        for strange in ["a b", "x\"y", &"long".repeat(30)] {
            let request = Request::get("/health").header("x-request-id", strange).body(Body::empty()).unwrap();
            let id = send(&router, request).await.header("x-request-id").unwrap().to_owned();
            assert_eq!(id.len(), 16);
            assert!(!seen.contains(&id));
            seen.push(id);
        }
    });
}

#[test]
fn a_job_s_field_is_named_as_that_of_the_request_alone() {
    shared(async |router| {
        for (body, field, expected) in [
            (json!({"kind": "sample", "steps": "ten"}), "steps", "expected a whole number from 1"),
            (json!({"kind": "sample", "sead": 1}), "sead", "did you mean \"seed\"?"),
            (json!({"kind": "sample", "seed": -1}), "seed", "expected a whole number from 0"),
            (json!({"kind": "interpolate", "seeds": [1, 2], "at": [2.0]}), "at", "from 0 to 1"),
            (json!({"kind": "compare", "steps": 3}), "steps", "expected a list of numbers"),
            (json!({"kind": "compare", "steps": "3,x"}), "steps", "found \"x\""),
            (json!({"kind": "dream"}), "kind", "found \"dream\""),
            (json!({"n": 1}), "kind", "found none"),
        ] {
            let reply = post(&router, "/v1/jobs", body.clone()).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}: {:?}", reply.body);
            let (_, message, found) = reply.error();
            assert!(message.contains(expected) && !message.contains("column"), "{body}: {message}");
            assert_eq!(found.as_deref(), Some(field), "{body}: {message}");
        }
        assert_eq!(post(&router, "/v1/jobs", json!([1])).await.status, StatusCode::BAD_REQUEST);
    });
}
