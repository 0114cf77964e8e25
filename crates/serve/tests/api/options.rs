//! The library's options over HTTP: all of them, described once, with the library's defaults.

use axum::http::StatusCode;
use serde_json::{Value, json};
use skipstone::engine::{self, EngineOptions, Precision};
use skipstone::sampling::options::{FIELDS, Kind, Noise, Request, SAMPLE, of};
use skipstone_serve::{Setup, app};

use crate::support::{alone, get, model, picture, post, shared, two_models};

#[test]
fn every_option_is_a_field_of_sampling_a_parameter_and_part_of_the_form() {
    let document = skipstone_serve::document();
    let fields = &document["components"]["schemas"]["SampleRequest"]["properties"];
    let parameters = document["paths"]["/v1/sample.png"]["get"]["parameters"].as_array().unwrap();
    shared(async |router| {
        let models = get(&router, "/v1/models").await.json();
        let offered = models["options"].as_array().unwrap();
        for field in &FIELDS {
            let (name, told) = (field.about.name, field.about.sentence());
            assert_eq!(fields[name]["description"], told, "{name}");
            let parameter = parameters.iter().find(|parameter| parameter["name"] == name).unwrap();
            assert_eq!(parameter["description"], told, "{name}");
            let option = offered.iter().find(|option| option["name"] == name).unwrap();
            assert_eq!(option["help"], field.about.help);
            if let Kind::Name(names) = field.about.kind {
                assert_eq!(option["choices"], json!(names()));
                let mut known = names().into_iter().map(Value::from).collect::<Vec<_>>();
                assert_eq!(parameter["schema"]["enum"], json!(known), "{name}");
                known.push(Value::Null);
                assert_eq!(fields[name]["enum"], json!(known), "{name}");
            }
        }
        assert_eq!(offered.len(), of(SAMPLE).count());
    });
}

#[test]
fn an_empty_request_is_the_command_without_flags() {
    shared(async |router| {
        let sample = post(&router, "/v1/sample", json!({"n": 2})).await.json();
        assert_eq!(sample["times"].as_array().unwrap().len(), 50);
        assert_eq!(picture(&sample["png"]), alone(model(false), &Request::default(), 0, 2));
        assert_eq!(sample["command"], "skipstone sample --model tiny -n 2");
        let line = post(&router, "/v1/interpolate", json!({"seeds": [1, 2], "points": 2})).await.json();
        assert_eq!(line["calls"], 50);
    });
}

#[test]
fn explicit_times_thresholds_and_noise_on_the_last_step_are_the_library_s() {
    shared(async |router| {
        let text = json!({
            "times": [900, 400, 30], "eta": 1, "final_sigma": 0.05, "clip": "rederive-eps", "threshold": [0.9, 1.5],
        });
        let wanted: Request = serde_json::from_value(text.clone()).unwrap();
        assert_eq!((wanted.noise.clone(), wanted.final_sigma), (Noise::Eta(1.0), Some(0.05)));
        let mut body = text;
        body["n"] = json!(2);
        let sample = post(&router, "/v1/sample", body).await.json();
        assert_eq!(picture(&sample["png"]), alone(model(false), &wanted, 0, 2), "{sample}");
        let flags = "--eta 1 --final-sigma 0.05 --times 900,400,30 --clip rederive-eps --threshold 0.9,1.5";
        assert_eq!(sample["command"], format!("skipstone sample --model tiny -n 2 {flags}"));
        let query = "n=2&times=900,400,30&eta=1&final_sigma=0.05&clip=rederive-eps&threshold=0.9,1.5";
        let png = get(&router, &format!("/v1/sample.png?{query}")).await;
        assert_eq!(png.body, crate::support::decoded(&sample["png"]));
        let sigmas = post(&router, "/v1/sample", json!({"n": 1, "times": [900, 30], "sigma": [0.05, 0]})).await.json();
        let wanted =
            Request { times: Some(vec![900, 30]), noise: Noise::Vector(vec![0.05, 0.0]), ..Request::default() };
        assert_eq!(picture(&sigmas["png"]), alone(model(false), &wanted, 0, 1), "{sigmas}");
    });
}

#[test]
fn what_cannot_be_had_here_is_said() {
    shared(async |router| {
        for (path, body, field, expected) in [
            ("/v1/sample", json!({"precision": "f16"}), "precision", "computes in f32"),
            ("/v1/sample", json!({"precision": "f8"}), "precision", "expected f32, f16 or bf16"),
            ("/v1/sample", json!({"times": [3], "steps": 1}), "times", "cannot be used with steps"),
            ("/v1/sample", json!({"times": vec![1; 1001]}), "times", "expected 1 to 1000 timesteps, found 1001"),
            (
                "/v1/sample",
                json!({"steps": 500, "restart": [0, 998, 3]}),
                "restart",
                "the run has 1997 steps; expected at most 1000",
            ),
            (
                "/v1/compare",
                json!({"steps": [1000], "restart": [0, 999, 1000]}),
                "restart",
                "at most 100000 are possible",
            ),
            ("/v1/sample", json!({"threshold": [0.9, 1.5], "clip": "off"}), "threshold", "keep-eps or rederive-eps"),
            ("/v1/compare", json!({"sigma": "hat"}), "sigma", "unknown field"),
            ("/v1/interpolate", json!({"seeds": [1, 2], "seed": 3}), "seed", "did you mean \"seeds\"?"),
            (
                "/v1/interpolate",
                json!({"model": "classes", "seeds": [1, 2], "class": [0, 1]}),
                "class",
                "expected one class for all points",
            ),
        ] {
            let reply = post(&router, path, body.clone()).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}: {:?}", reply.body);
            let (_, message, found) = reply.error();
            assert!(message.contains(expected), "{body}: {message}");
            assert_eq!(found.unwrap_or_default(), field, "{body}: {message}");
        }
        let stated = json!({"n": 1, "steps": 2, "precision": Precision::F32});
        assert_eq!(post(&router, "/v1/sample", stated).await.status, StatusCode::OK);
    });
}

#[tokio::test]
async fn a_service_in_another_precision_says_so_and_makes_the_pictures_of_its_command() {
    // A processor that gains nothing from bf16 computes in f32, and the service says that instead.
    let engine = EngineOptions { precision: Precision::Bf16, ..EngineOptions::on_threads(1) };
    let precision = engine::precision(&engine).unwrap();
    let router = app(two_models(Setup { engine, ..Setup::default() }));
    let models = get(&router, "/v1/models").await.json();
    assert_eq!(models["models"][0]["precision"], precision.name());
    let flag = if precision.is_exact() { String::new() } else { format!(" --precision {precision}") };
    let sample = post(&router, "/v1/sample", json!({"n": 3, "steps": 4, "precision": precision})).await.json();
    assert_eq!(sample["command"], format!("skipstone sample --model tiny -n 3 --steps 4{flag}"));
    let wanted = Request { steps: Some(4), precision, ..Request::default() };
    assert_eq!(picture(&sample["png"]), alone(model(false), &wanted, 0, 3), "{sample}");
    let body = json!({"seeds": [1, 2], "points": 3, "steps": 4});
    let between = post(&router, "/v1/interpolate", body).await.json();
    assert!(between["command"].as_str().unwrap().contains(&flag), "{between}");
    let reply = post(&router, "/v1/sample", json!({"precision": "f16"})).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(reply.error().1.contains(&format!("computes in {precision}")), "{:?}", reply.error());
}
