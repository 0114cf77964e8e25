//! Whatever else is going on: the same request, the same bytes.

use axum::http::StatusCode;
use serde_json::{Value, json};
use skipstone::engine::{Device, EngineOptions};
use skipstone::io::checkpoint::{Guide, Model};
use skipstone::sampling::options::{Noise, Request};
use skipstone::sampling::solver::Solver;
use skipstone_serve::{Service, Setup, app};

use crate::support::{alone, finished, get, model, picture, post, shared, soon, two_models};

#[test]
fn a_sample_is_what_the_library_makes_pixel_for_pixel() {
    shared(async |router| {
        let body = json!({"n": 5, "steps": 7, "eta": 0.4, "seed": 11, "first": 3, "spacing": "quadratic"});
        let reply = post(&router, "/v1/sample", body).await;
        assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
        let sample = reply.json();
        let wanted = Request {
            steps: Some(7),
            spacing: Some("quadratic".parse().unwrap()),
            noise: Noise::Eta(0.4),
            seed: 11,
            ..Request::default()
        };
        assert_eq!(picture(&sample["png"]), alone(model(false), &wanted, 3, 5));
        assert_eq!((sample["columns"].as_u64(), sample["n"].as_u64()), (Some(3), Some(5)));
        assert_eq!(
            sample["command"],
            "skipstone sample --model tiny -n 5 --steps 7 --eta 0.4 --spacing quadratic --seed 11 --first 3"
        );
        // The picture's address gives the same bytes.
        let png = get(&router, "/v1/sample.png?n=5&steps=7&eta=0.4&seed=11&first=3&spacing=quadratic").await;
        assert_eq!(png.header("content-type"), Some("image/png"));
        assert_eq!(png.body, crate::support::decoded(&sample["png"]));
    });
}

#[test]
fn guidance_classes_and_solvers_are_the_library_s_too() {
    shared(async |router| {
        let guided = json!({"model": "classes", "n": 2, "steps": 4, "class": 1, "guidance": 2.5});
        let reply = post(&router, "/v1/sample", guided).await.json();
        let wanted = Request { steps: Some(4), class: vec![1], guidance: Some(2.5), ..Request::default() };
        assert_eq!(picture(&reply["png"]), alone(model(true), &wanted, 0, 2));
        assert_eq!(reply["calls"], 8);
        let heun = post(&router, "/v1/sample", json!({"n": 2, "steps": 4, "solver": "heun"})).await.json();
        let wanted = Request { steps: Some(4), solver: Some(Solver::HEUN.into()), ..Request::default() };
        assert_eq!(picture(&heun["png"]), alone(model(false), &wanted, 0, 2));
        assert_eq!(heun["calls"], 7);
    });
}

#[test]
fn a_served_model_guides_another_one() {
    let models = || {
        let mut weak = model(false);
        let last = weak.parameters.layout().get("conv_out.weight").unwrap().range();
        weak.parameters.data_mut()[last].iter_mut().for_each(|weight| *weight *= 0.5);
        (model(false), Model::new(weak.config, weak.parameters, weak.scheduler))
    };
    let (strong, weak) = models();
    let served = vec![("strong".to_owned(), strong), ("weak".to_owned(), weak), ("classes".to_owned(), model(true))];
    let router = app(Service::start(served, Setup::default()).unwrap());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let body = json!({"n": 3, "steps": 4, "guidance": 2.5, "guide": "weak"});
        let reply = post(&router, "/v1/sample", body).await.json();
        let (strong, weak) = models();
        let wanted =
            Request { steps: Some(4), guidance: Some(2.5), guide: Some("weak".to_owned()), ..Request::default() };
        let pixels = alone(strong.guided_by(Guide::new(weak)).unwrap(), &wanted, 0, 3);
        assert_eq!(picture(&reply["png"]), pixels);
        assert_eq!(reply["calls"], 8);
        assert_eq!(reply["command"], "skipstone sample --model strong -n 3 --steps 4 --guidance 2.5 --guide weak");
        for (guide, expected) in [("week", "guide \"week\": not served"), ("classes", "expected the classes none")] {
            let reply = post(&router, "/v1/sample", json!({"n": 1, "guidance": 2, "guide": guide})).await;
            let (_, message, field) = reply.error();
            assert!(message.contains(expected) && field.as_deref() == Some("guide"), "{message}");
        }
        let reply = post(&router, "/v1/sample", json!({"n": 1, "guide": "weak"})).await;
        assert!(reply.error().1.contains("needs guidance"));
    });
}

/// Requests that agree in nothing.
fn crowd() -> Vec<Value> {
    let etas = [json!(0.0), json!(1.0), json!(0.3)];
    let mut all: Vec<Value> = (0..9)
        .map(|i: usize| json!({"n": 1 + i % 4, "steps": 3 + i, "eta": etas[i % 3], "seed": i, "first": i}))
        .collect();
    all.push(json!({"n": 40, "steps": 5, "sigma": "hat"}));
    all.push(json!({"n": 3, "steps": 6, "solver": "ab3"}));
    all.push(json!({"model": "classes", "n": 3, "steps": 6, "class": 0, "guidance": -1.0}));
    all.push(json!({"model": "classes", "n": 3, "steps": 5, "class": 1, "clip": "keep-eps"}));
    all.push(json!({"model": "classes", "n": 2, "steps": 7}));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_gets_the_bytes_that_each_would_get_alone() {
    let service = two_models(Setup { runners: 16, ..Setup::default() });
    let router = app(service.clone());
    let mut one_by_one = Vec::new();
    for body in crowd() {
        one_by_one.push(post(&router, "/v1/sample", body).await.json()["png"].clone());
    }
    let calls = |text: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with("skipstone_network_calls_total"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let text = async || String::from_utf8(get(&router, "/metrics").await.body.to_vec()).unwrap();
    let alone = calls(&text().await);
    for _ in 0..3 {
        let together: Vec<_> = crowd()
            .into_iter()
            .map(|body| {
                let router = router.clone();
                tokio::spawn(async move { post(&router, "/v1/sample", body).await.json()["png"].clone() })
            })
            .collect();
        for (together, alone) in together.into_iter().zip(&one_by_one) {
            assert_eq!(&together.await.unwrap(), alone);
        }
    }
    // They did share calls: three crowds together took fewer than three times the calls of one, one by one.
    let shared = calls(&text().await) - alone;
    assert!(shared < 2.5 * alone, "{shared} calls for three crowds, {alone} for one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_changes_nothing_for_who_stays() {
    let service = two_models(Setup::default());
    let router = app(service.clone());
    let body = json!({"n": 4, "steps": 60, "eta": 1.0, "seed": 5});
    let expected = post(&router, "/v1/sample", body.clone()).await.json()["png"].clone();
    for leaves_after in [1, 20] {
        let leaver = json!({"kind": "sample", "n": 30, "steps": 1000, "seed": 1});
        let leaver = post(&router, "/v1/jobs", leaver).await.json()["job"].as_str().unwrap().to_owned();
        let stays = tokio::spawn({
            let (router, body) = (router.clone(), body.clone());
            async move { post(&router, "/v1/sample", body).await.json()["png"].clone() }
        });
        let path = format!("/v1/jobs/{leaver}");
        while get(&router, &path).await.json()["done_calls"].as_u64() < Some(leaves_after) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(crate::support::delete(&router, &path).await.status, StatusCode::NO_CONTENT);
        assert_eq!(stays.await.unwrap(), expected);
        assert_eq!(finished(&router, &leaver).await["state"], "cancelled");
        soon("the worker is free", || service.is_idle()).await;
    }
}

#[tokio::test]
async fn a_model_on_two_devices_is_two_models_with_the_same_pictures() {
    // Where there is no graphics processor, this device is the processor as well.
    let also = EngineOptions { device: Device::Auto, ..EngineOptions::on_threads(1) };
    let router = app(two_models(Setup { also_on: vec![also], ..Setup::default() }));
    let models = get(&router, "/v1/models").await.json();
    let of = |field: &str| models["models"].as_array().unwrap().iter().map(|m| m[field].clone()).collect::<Vec<_>>();
    assert_eq!(of("id"), ["tiny", "classes", "tiny@auto", "classes@auto"]);
    assert_eq!(of("device"), ["cpu", "cpu", "auto", "auto"]);
    assert_eq!(of("name")[2], "tiny, on auto");
    let sample = async |model: &str| {
        let reply = post(&router, "/v1/sample", json!({"model": model, "n": 2, "steps": 3})).await;
        assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
        reply.json()
    };
    let (first, second) = (sample("tiny").await, sample("tiny@auto").await);
    let [first, other] = [&first, &second].map(|reply| picture(&reply["png"]).to_image());
    assert!((first - other).iter().all(|d| d.abs() <= 1.01 * 2.0 / 255.0), "the devices differ by more than rounding");
    assert_eq!(second["command"], "skipstone sample --model tiny --device auto -n 2 --steps 3");
}
