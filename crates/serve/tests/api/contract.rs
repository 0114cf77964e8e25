//! Every response against the OpenAPI document.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use jsonschema::Validator;
use serde_json::{Value, json};
use skipstone::checkpoint::Model;
use skipstone_serve::{Guard, Service, Setup, app};

use crate::support::{Reply, finished, form, get, model, post, send, service, shared};

fn document() -> Value {
    serde_json::to_value(skipstone_serve::document()).unwrap()
}

/// A checker of `schema`, which may refer to the document's components.
fn checker(document: &Value, schema: &Value) -> Validator {
    let mut whole = schema.clone();
    whole["components"] = document["components"].clone();
    jsonschema::draft202012::new(&whole).unwrap_or_else(|e| panic!("{e}: {schema}"))
}

/// Checks a reply against what the document says about this operation and status.
#[track_caller]
fn conforms(document: &Value, method: &str, path: &str, reply: &Reply) {
    let operation = &document["paths"][path][method];
    assert!(operation.is_object(), "{method} {path} is not documented");
    let response = &operation["responses"][reply.status.as_str()];
    assert!(response.is_object(), "{method} {path}: {} is not documented: {:?}", reply.status, reply.body);
    let kind = reply.header("content-type").map(|kind| kind.split(';').next().unwrap().to_owned());
    let Some(content) = response.get("content").and_then(Value::as_object) else {
        assert!(reply.body.is_empty(), "{method} {path}: an undocumented body");
        return;
    };
    let kind = kind.expect("a body has a type");
    let content = content.get(&kind).unwrap_or_else(|| panic!("{method} {path}: {kind} is not documented"));
    if kind == "application/json" {
        let checker = checker(document, &content["schema"]);
        let errors: Vec<String> =
            checker.iter_errors(&reply.json()).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{method} {path}: {errors:?}\n{}", reply.json());
    }
}

#[test]
fn every_schema_of_the_document_is_one_and_every_reference_leads_somewhere() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        jsonschema::meta::validate(schema).unwrap_or_else(|e| panic!("{name}: {e}"));
        checker(&document, schema);
    }
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 40);
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn the_document_is_served_and_names_every_route() {
    shared(async |router| {
        let served = get(&router, "/v1/openapi.json").await.json();
        assert_eq!(served, document());
        let paths: Vec<&str> = served["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        for path in [
            "/v1/models",
            "/v1/sample",
            "/v1/sample.png",
            "/v1/stream",
            "/v1/encode",
            "/v1/reconstruct",
            "/v1/interpolate",
            "/v1/compare",
            "/v1/compare/stream",
            "/v1/test-images",
            "/v1/test-images/{file}",
            "/v1/jobs",
            "/v1/jobs/{id}",
            "/health",
            "/ready",
            "/metrics",
        ] {
            assert!(paths.contains(&path), "{path}: {paths:?}");
        }
    });
}

#[test]
fn what_a_job_may_be_asked_is_what_the_document_allows() {
    let document = document();
    let checker = checker(&document, &json!({"$ref": "#/components/schemas/JobRequest"}));
    for fits in [
        json!({"kind": "sample", "n": 1, "steps": 2}),
        json!({"kind": "encode", "test_image": 0}),
        json!({"kind": "reconstruct", "test_image": 0, "steps": [2]}),
        json!({"kind": "interpolate", "seeds": [1, 2]}),
        json!({"kind": "compare"}),
    ] {
        assert!(checker.is_valid(&fits), "{fits}");
    }
    for wrong in [
        json!({"n": 1}),
        json!({"kind": "dream"}),
        json!({"kind": "sample", "nn": 1}),
        json!({"kind": "encode"}),
        json!({"kind": "compare", "steps": 3}),
    ] {
        assert!(!checker.is_valid(&wrong), "{wrong}");
    }
}

#[test]
fn answers_are_as_documented() {
    shared(async |router| {
        let document = document();
        for path in ["/v1/models", "/v1/test-images", "/health", "/ready", "/metrics"] {
            let reply = get(&router, path).await;
            assert_eq!(reply.status, StatusCode::OK);
            conforms(&document, "get", path, &reply);
        }
        let small = json!({"n": 1, "steps": 2});
        for (path, body) in [
            ("/v1/sample", small.clone()),
            ("/v1/sample", json!({"n": 64, "steps": 900})),
            ("/v1/sample", json!({"n": 0})),
            ("/v1/sample", json!({"nn": 1})),
            ("/v1/interpolate", json!({"seeds": [1, 2], "points": 3, "steps": 2})),
            ("/v1/interpolate", json!({"seeds": [1, 2, 3, 4], "points": 2, "steps": 2})),
            ("/v1/interpolate", json!({"seeds": [1, 2], "at": [0.5], "steps": 2})),
            ("/v1/interpolate", json!({"seeds": [1, 2, 3]})),
            ("/v1/compare", json!({"steps": [1, 2], "eta": [0.0, 1.0], "n": 1})),
            ("/v1/compare", json!({"steps": []})),
            ("/v1/jobs", json!({"kind": "sample", "n": 1, "steps": 2})),
            ("/v1/jobs", json!({"kind": "compare", "steps": [1], "eta": [0.0], "n": 1})),
            ("/v1/jobs", json!({"kind": "interpolate", "seeds": [1, 2], "steps": 2})),
            ("/v1/jobs", json!({"kind": "dream"})),
            ("/v1/jobs", json!({"kind": "encode", "test_image": 1_000_000})),
            ("/v1/encode", json!({"test_image": 1_000_000, "steps": 2})),
            ("/v1/reconstruct", json!({"test_image": 1_000_000, "steps": [2]})),
        ] {
            let reply = post(&router, path, body.clone()).await;
            conforms(&document, "post", path, &reply);
            if reply.status == StatusCode::ACCEPTED {
                let job = reply.json()["job"].as_str().unwrap().to_owned();
                let reply = get(&router, &format!("/v1/jobs/{job}")).await;
                conforms(&document, "get", "/v1/jobs/{id}", &reply);
                if body["steps"] == json!(900) {
                    assert_eq!(crate::support::delete(&router, &format!("/v1/jobs/{job}")).await.status, 204);
                } else {
                    assert_eq!(finished(&router, &job).await["state"], "done");
                    conforms(&document, "get", "/v1/jobs/{id}", &get(&router, &format!("/v1/jobs/{job}")).await);
                }
            }
        }
        for (path, query) in [
            ("/v1/sample.png", "n=1&steps=2"),
            ("/v1/sample.png", "n=64&steps=1000"),
            ("/v1/sample.png", "n=x"),
            ("/v1/stream", "n=1&steps=2"),
            ("/v1/stream", "steps=0"),
            ("/v1/compare/stream", "steps=1,2&eta=0&n=1"),
            ("/v1/compare/stream", "steps=1,x"),
        ] {
            conforms(&document, "get", path, &get(&router, &format!("{path}?{query}")).await);
        }
        conforms(&document, "get", "/v1/jobs/{id}", &get(&router, "/v1/jobs/none").await);
        let reply = get(&router, "/v1/jobs/%ff").await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        conforms(&document, "get", "/v1/jobs/{id}", &reply);
        conforms(&document, "get", "/v1/test-images/{file}", &get(&router, "/v1/test-images/99999.png").await);
        conforms(&document, "get", "/v1/test-images/{file}", &get(&router, "/v1/test-images/x").await);
        let text = Request::post("/v1/sample").header("content-type", "text/plain").body(Body::from("{}")).unwrap();
        let reply = send(&router, text).await;
        assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        conforms(&document, "post", "/v1/sample", &reply);
    });
}

#[tokio::test]
async fn a_picture_s_tag_is_that_of_the_same_pixels() {
    let path = "/v1/sample.png?n=1&steps=2";
    let of = async |model: Model| {
        let service = Service::start(vec![("tiny".to_owned(), model)], Setup::default()).unwrap();
        let router = app(service);
        let first = get(&router, path).await;
        let tag = first.header("etag").unwrap().to_owned();
        let again = Request::get(path).header("if-none-match", &tag).body(Body::empty()).unwrap();
        let again = send(&router, again).await;
        assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0));
        (tag, first.body)
    };
    let same = of(model(false)).await;
    assert_eq!(of(model(false)).await, same);
    // The same weights under another schedule.
    let mut other = model(false);
    other.scheduler.beta_end *= 2.0;
    let other = of(other).await;
    assert_ne!(other.1, same.1);
    assert_ne!(other.0, same.0);
}

#[test]
fn pictures_that_are_brought_are_answered_as_documented() {
    shared(async |router| {
        let document = document();
        let png = crate::uploads::gradient(20, 30);
        for (path, fields, images) in [
            ("/v1/encode", vec![("steps", "2")], 1),
            ("/v1/reconstruct", vec![("steps", "2,3"), ("model", "classes"), ("class", "1")], 1),
            ("/v1/interpolate", vec![("steps", "2"), ("points", "3")], 2),
            ("/v1/interpolate", vec![("steps", "2"), ("at", "0.3,0.5")], 4),
        ] {
            let reply = send(&router, form(path, &fields, &vec![&png[..]; images])).await;
            assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
            conforms(&document, "post", path, &reply);
        }
    });
}

/// The data of events against the schemas their documentation names.
#[test]
fn events_are_as_documented() {
    shared(async |router| {
        let document = document();
        let schema = |name: &str| checker(&document, &json!({"$ref": format!("#/components/schemas/{name}")}));
        let compare = "/v1/compare/stream?steps=1,2&eta=0,1&n=1";
        for (path, schemas) in [
            ("/v1/stream?n=2&steps=3", [("plan", "PlanEvent"), ("step", "StepEvent"), ("done", "Sample")]),
            (compare, [("plan", "ComparePlan"), ("cell", "Cell"), ("done", "Comparison")]),
        ] {
            let events = crate::streams::events(&get(&router, path).await.body);
            for (name, schema_name) in schemas {
                let checker = schema(schema_name);
                let of_name: Vec<_> = events.iter().filter(|(event, _)| event == name).collect();
                assert!(!of_name.is_empty(), "{path}: no {name}");
                for (_, data) in of_name {
                    let errors: Vec<String> = checker.iter_errors(data).map(|e| e.to_string()).collect();
                    assert!(errors.is_empty(), "{path} {name}: {errors:?}");
                }
            }
        }
    });
}

#[tokio::test]
async fn whom_the_guard_turns_away_is_answered_as_documented() {
    let document = document();
    let guard = Guard::open().with_token("correct-horse-battery").with_hosts(["localhost".to_owned()]);
    let router = app(service(Setup { guard, ..Setup::default() }));
    for (header, value, status) in [
        ("authorization", "Bearer nothing", StatusCode::UNAUTHORIZED),
        ("origin", "http://elsewhere.example", StatusCode::FORBIDDEN),
        ("host", "elsewhere.example", StatusCode::MISDIRECTED_REQUEST),
    ] {
        for path in ["/v1/models", "/v1/sample.png", "/metrics"] {
            let request = Request::get(path).header(header, value).body(Body::empty()).unwrap();
            let reply = send(&router, request).await;
            assert_eq!(reply.status, status, "{path}");
            conforms(&document, "get", path, &reply);
        }
    }
}
