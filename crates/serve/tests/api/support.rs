use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use serde_json::Value;
use skipstone::engine::EngineOptions;
use skipstone::io::checkpoint::{Model, SchedulerConfig, Weights};
use skipstone::io::image::{Layout, Picture, grid, near_square};
use skipstone::math::noise::{KeyedRng, Purpose};
use skipstone::sampling::generate::{Generator, Inputs};
use skipstone::sampling::options::Request as Wanted;
use skipstone::sampling::sampler::unobserved;
use skipstone::unet::{Config, Parameters, initialise};
use skipstone_serve::{App, Service, Setup, app};
use tower::ServiceExt;

/// A tiny network of 8×8 pixels; conditional on two classes and a null class where asked.
pub fn model(conditional: bool) -> Model {
    let config = Config { num_class_embeds: conditional.then_some(3), ..Config::smallest() };
    let mut rng = KeyedRng::new(1, Purpose::Weights, 0, 0);
    let mut gaussian = KeyedRng::new(1, Purpose::Weights, 1, 0);
    let mut parameters: Parameters =
        initialise(&config, || rng.next_f64(), || gaussian.next_gaussians()[0]).expect("a sensible config");
    let range = parameters.layout().get("conv_out.weight").expect("a last layer").range();
    for value in &mut parameters.data_mut()[range] {
        *value = 0.1 * (rng.next_f64() as f32 - 0.5);
    }
    Model {
        weights: Weights::Ema,
        null_class: conditional.then_some(2),
        file: "model".into(),
        ..Model::new(config, parameters, SchedulerConfig::default())
    }
}

/// A service of the tiny network.
pub fn service(setup: Setup) -> App {
    Service::start(vec![("tiny".to_owned(), model(false))], setup).expect("a service")
}

/// The same with a conditional model beside it.
pub fn two_models(setup: Setup) -> App {
    let models = vec![("tiny".to_owned(), model(false)), ("classes".to_owned(), model(true))];
    Service::start(models, setup).expect("a service")
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    /// The error's code, message and field.
    #[track_caller]
    pub fn error(&self) -> (String, String, Option<String>) {
        let error = &self.json()["error"];
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        (text("code").expect("a code"), text("message").expect("a message"), text("field"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Sends a request and reads all of the response.
pub async fn send(router: &Router, request: Request<Body>) -> Reply {
    let response = router.clone().oneshot(request).await.expect("a router does not fail");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 64 << 20).await.expect("a whole body");
    Reply { status: parts.status, headers: parts.headers, body }
}

pub async fn get(router: &Router, path: &str) -> Reply {
    send(router, Request::get(path).body(Body::empty()).expect("a request")).await
}

pub async fn delete(router: &Router, path: &str) -> Reply {
    send(router, Request::delete(path).body(Body::empty()).expect("a request")).await
}

pub fn posted(path: &str, body: &Value) -> Request<Body> {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(body.to_string())).expect("a request")
}

pub async fn post(router: &Router, path: &str, body: Value) -> Reply {
    send(router, posted(path, &body)).await
}

/// A form with these text fields and these files called `image`.
pub fn form(path: &str, fields: &[(&str, &str)], images: &[&[u8]]) -> Request<Body> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let head = format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(head.as_bytes());
    }
    for image in images {
        let head = "--edge\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\nContent-Type: \
                    image/png\r\n\r\n";
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(image);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--edge--\r\n");
    let request = Request::post(path).header(header::CONTENT_TYPE, "multipart/form-data; boundary=edge");
    request.body(Body::from(body)).expect("a request")
}

/// The bytes behind base64.
#[track_caller]
pub fn decoded(value: &Value) -> Vec<u8> {
    use base64::Engine;
    let text = value.as_str().expect("base64 text");
    base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
}

/// The picture in a JSON field.
#[track_caller]
pub fn picture(value: &Value) -> Picture {
    skipstone::io::image::decode_png(&decoded(value)).expect("a PNG").picture
}

/// What the library itself makes of a request, with a network of its own.
pub fn alone(model: Model, request: &Wanted, first: u64, n: usize) -> Picture {
    let generator =
        Generator::new(model, &EngineOptions::default(), request, Inputs::default(), first, n).expect("a generator");
    let images = generator.generate(first..first + n as u64, &mut unobserved).expect("images");
    let (_, _, h, w) = images.dim();
    grid(&images, near_square(n), &Layout::magnified(h, w)).expect("a grid")
}

/// Waits for something that is about to be so.
#[track_caller]
pub fn soon(what: &str, mut is_so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    let until = Instant::now() + Duration::from_secs(60);
    let what = what.to_owned();
    async move {
        while !is_so() {
            assert!(Instant::now() < until, "{caller}: still not so: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Waits for a job's end.
pub async fn finished(router: &Router, job: &str) -> Value {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let job = get(router, &format!("/v1/jobs/{job}")).await.json();
        if !matches!(job["state"].as_str(), Some("queued" | "running")) {
            return job;
        }
        assert!(Instant::now() < until, "still not over: {job}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The service most tests share: they change nothing in it.
pub static SHARED: LazyLock<(App, tokio::runtime::Runtime)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    (two_models(Setup::default()), runtime.expect("a runtime"))
});

/// Runs a test against the shared service.
pub fn shared<F: Future<Output = ()>>(test: impl FnOnce(Router) -> F) {
    let (service, runtime) = &*SHARED;
    runtime.block_on(test(app(Arc::clone(service))));
}
