//! Every response against the OpenAPI document.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use jsonschema::Validator;
use serde_json::{Value, json};
use skipstone::io::checkpoint::Model;
use skipstone_serve::{Guard, Service, Setup, app, document};

use crate::streams::{events, streamed};
use crate::support::{Reply, finished, form, get, model, post, posted, send, service, shared, soon};

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
    let instances = match kind.as_str() {
        "application/json" => vec![reply.json()],
        "text/event-stream" => {
            let all = events(&reply.body);
            all.iter().for_each(|(event, data)| data_conforms(document, &content["schema"], event, data));
            all.into_iter().map(|(event, data)| json!({"event": event, "data": data.to_string()})).collect()
        }
        _ => return,
    };
    let checker = checker(document, &content["schema"]);
    for instance in instances {
        let errors: Vec<String> =
            checker.iter_errors(&instance).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{method} {path}: {errors:?}\n{instance}");
    }
}

/// Checks the JSON in an event's data, which validators of JSON Schema do not look into.
#[track_caller]
fn data_conforms(document: &Value, schema: &Value, event: &str, data: &Value) {
    let name = schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
    let variants = document["components"]["schemas"][name]["oneOf"].as_array().unwrap();
    let named = |variant: &&Value| variant["properties"]["event"]["enum"] == json!([event]);
    let variant = variants.iter().find(named).unwrap_or_else(|| panic!("{name} has no event {event}"));
    let described = &variant["properties"]["data"];
    assert_eq!(described["contentMediaType"], "application/json");
    assert!(checker(document, &described["contentSchema"]).is_valid(data), "{name} {event}: {data}");
    assert!(!checker(document, &described["contentSchema"]).is_valid(&json!({})), "{name} {event} allows anything");
}

/// The query parameters of every operation: path, name, schema.
fn query_parameters(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "query" {
                    let name = parameter["name"].as_str().unwrap().to_owned();
                    found.push((path.clone(), name, parameter["schema"].clone()));
                }
            }
        }
    }
    found
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

/// Whatever can be watched, and the events that come.
#[test]
fn streams_are_as_documented() {
    shared(async |router| {
        let document = document();
        let png = crate::uploads::gradient(8, 8);
        let seeds = json!({"seeds": [1, 2], "points": 3, "steps": 2});
        for (path, request, expected) in [
            ("/v1/sample", posted("/v1/sample", &json!({"n": 2, "steps": 3})), ["plan", "step", "done"]),
            ("/v1/interpolate", posted("/v1/interpolate", &seeds), ["plan", "step", "done"]),
            ("/v1/reconstruct", form("/v1/reconstruct", &[("steps", "2,3")], &[&png]), ["plan", "row", "done"]),
            ("/v1/compare", posted("/v1/compare", &json!({"steps": [1, 2], "n": 1})), ["plan", "cell", "done"]),
        ] {
            let reply = streamed(&router, request).await;
            conforms(&document, "post", path, &reply);
            let mut names: Vec<String> = events(&reply.body).into_iter().map(|(name, _)| name).collect();
            names.retain(|name| name != "queued");
            names.dedup();
            assert_eq!(names, expected, "{path}");
        }
        // The schema of the events of one kind of work allows no others.
        let sample = checker(&document, &json!({"$ref": "#/components/schemas/SampleEvent"}));
        assert!(sample.is_valid(&json!({"event": "queued", "data": "{\"position\": 1}"})));
        for wrong in [
            json!("event: queued"),
            json!({"event": "queued", "data": {"position": 1}}),
            json!({"event": "row", "data": "{}"}),
            json!({"data": "{}"}),
        ] {
            assert!(!sample.is_valid(&wrong), "{wrong}");
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_before_the_work_and_instead_of_an_answer_are_as_documented() {
    let service = service(Setup { runners: 1, ..Setup::default() });
    let router = app(service.clone());
    let long = json!({"kind": "sample", "n": 64, "steps": 1000});
    assert_eq!(post(&router, "/v1/jobs", long).await.status, StatusCode::ACCEPTED);
    soon("the job runs", || service.models[0].worker.load() == (0, 1)).await;
    let watcher = tokio::spawn({
        let router = router.clone();
        async move { get(&router, "/v1/stream?n=1&steps=2").await }
    });
    soon("the stream waits", || service.models[0].worker.load() == (1, 1)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    service.models[0].worker.abandon();
    let reply = watcher.await.unwrap();
    let names: Vec<String> = events(&reply.body).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["plan", "queued", "error"]);
    conforms(&document(), "get", "/v1/stream", &reply);
    soon("the worker is free", || service.is_idle()).await;
}

#[test]
fn a_query_parameter_is_neither_null_nor_empty_in_the_document_and_in_truth() {
    shared(async |router| {
        let document = document();
        let parameters = query_parameters(&document);
        assert!(parameters.len() > 30);
        for (path, name, schema) in parameters {
            let checker = checker(&document, &schema);
            for value in [Value::Null, json!("")] {
                assert!(!checker.is_valid(&value), "{path} {name}: {schema} allows {value}");
            }
            for value in ["", "null"] {
                let reply = get(&router, &format!("{path}?{name}={value}")).await;
                assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path}?{name}={value}");
            }
        }
    });
}

#[test]
fn null_and_empty_names_in_json_are_accepted_where_the_document_allows_them() {
    shared(async |router| {
        let document = document();
        for (path, name, base) in [
            ("/v1/sample", "SampleRequest", json!({"n": 1, "steps": 1})),
            ("/v1/encode", "EncodeRequest", json!({"test_image": 0, "steps": 1})),
            ("/v1/reconstruct", "ReconstructRequest", json!({"test_image": 0, "steps": [1]})),
            ("/v1/interpolate", "InterpolateRequest", json!({"seeds": [1, 2], "points": 2, "steps": 1})),
            ("/v1/compare", "CompareRequest", json!({"steps": [1], "eta": [0.0], "n": 1})),
        ] {
            let properties = &document["components"]["schemas"][name]["properties"];
            for (field, schema) in properties.as_object().unwrap() {
                let checker = checker(&document, schema);
                for value in [Value::Null, json!(""), json!([])] {
                    let mut body = base.clone();
                    body[field] = value.clone();
                    let reply = post(&router, path, body.clone()).await;
                    if reply.status == StatusCode::NOT_FOUND {
                        // The test images are not installed, and the request was checked no further.
                        continue;
                    }
                    let accepted = reply.status != StatusCode::BAD_REQUEST;
                    assert_eq!(accepted, checker.is_valid(&value), "{path} {body}: {:?}", reply.body);
                }
            }
        }
    });
}

#[test]
fn a_form_s_field_is_no_null_in_the_document_and_in_truth() {
    shared(async |router| {
        let document = document();
        let png = crate::uploads::gradient(8, 8);
        for (path, name, images) in [
            ("/v1/encode", "EncodeForm", 1),
            ("/v1/reconstruct", "ReconstructForm", 1),
            ("/v1/interpolate", "InterpolateForm", 2),
        ] {
            let schema = &document["components"]["schemas"][name];
            assert_eq!(schema["additionalProperties"], false, "{name}");
            for (field, schema) in schema["properties"].as_object().unwrap() {
                assert!(!checker(&document, schema).is_valid(&Value::Null), "{name} {field}: {schema}");
                if field != "image" {
                    let reply = send(&router, form(path, &[(field, "null")], &vec![&png[..]; images])).await;
                    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path} {field}");
                }
            }
            let reply = send(&router, form(path, &[("colour", "red")], &vec![&png[..]; images])).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path}");
        }
    });
}

#[test]
fn no_two_operations_have_the_same_id() {
    let document = document();
    let items = document["paths"].as_object().unwrap().values();
    let operations = items.flat_map(|item| item.as_object().unwrap().values());
    let mut ids: Vec<&str> = operations.map(|operation| operation["operationId"].as_str().unwrap()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), count), (17, 17));
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
