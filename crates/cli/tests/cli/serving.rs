//! The service as a person runs it: a process, a socket, signals.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use skipstone::io::image::read_png;
use skipstone::unet::Config;

use crate::support::{run, signal, skipstone, with_model, write_model};

/// A service that is ended when the test is.
struct Serving {
    child: Child,
    address: String,
    /// Reads what is said as it comes: a pipe that nobody empties stops who writes into it.
    said: Option<JoinHandle<String>>,
}

impl Serving {
    /// Starts `serve` on a free port with the model in `folder`.
    fn start(folder: &Path, arguments: &[&str], token: Option<&str>) -> Self {
        let all = [&["serve", "--listen", "127.0.0.1:0", "--model", "model", "--json"], arguments].concat();
        let mut command = skipstone(folder, &all);
        command.env_remove("SKIPSTONE_TOKEN").stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(token) = token {
            command.env("SKIPSTONE_TOKEN", token);
        }
        let mut child = command.spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let said = std::thread::spawn(move || {
            let mut said = String::new();
            stderr.read_to_string(&mut said).unwrap();
            said
        });
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let greeting: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let address =
            greeting["url"].as_str().unwrap().strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
        Self { child, address, said: Some(said) }
    }

    /// One request on a connection of its own: status and body.
    fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> (u16, Vec<u8>) {
        read_response(self.send(method, path, headers, body))
    }

    fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        headers.iter().for_each(|header| head += &format!("{header}\r\n"));
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.ask("POST", path, &["Content-Type: application/json"], body);
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// The sum of the metrics that begin so.
    fn metric(&self, start: &str) -> u64 {
        let metrics = String::from_utf8(self.ask("GET", "/metrics", &[], "").1).unwrap();
        let lines = metrics.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Waits until so many requests have been accepted.
    fn accepted(&self, count: u64) {
        let all = ["skipstone_running{", "skipstone_queued{", "skipstone_tasks_total{"];
        while all.iter().map(|start| self.metric(start)).sum::<u64>() < count {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn signal(&self, name: &str) {
        signal(name, self.child.id());
    }

    /// Waits for its end: exit code, what was said.
    fn ended(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        (status.code(), self.said.take().unwrap().join().unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of a response that ends with its connection.
fn read_response(mut stream: TcpStream) -> (u16, Vec<u8>) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    (status, bytes[end + 4..].to_vec())
}

/// The words of a command line of ours: no word in it needs quoting.
fn words(command: &Value) -> Vec<&str> {
    let command = command.as_str().unwrap();
    assert!(!command.contains(['\'', '"', '\\']), "{command}");
    command.strip_prefix("skipstone ").unwrap().split(' ').collect()
}

#[test]
fn the_command_that_comes_with_a_picture_makes_the_same_picture() {
    let folder = with_model();
    let at = folder.path();
    let serving = Serving::start(at, &[], None);
    for body in [
        r#"{"n": 5, "steps": 6, "seed": 3}"#,
        r#"{"n": 3, "steps": 9, "eta": 0.35, "first": 7, "spacing": "quadratic", "clip": "rederive-eps"}"#,
        r#"{"n": 2, "steps": 5, "sigma": "hat", "seed": 18446744073709551615}"#,
        r#"{"n": 4, "steps": 5, "solver": "dpm++2m"}"#,
    ] {
        let (status, sample) = serving.post("/v1/sample", body);
        assert_eq!(status, 200, "{sample}");
        run(at, &words(&sample["command"]), 0);
        let made = read_png(&at.join("samples.png")).unwrap();
        let query: Vec<String> = serde_json::from_str::<serde_json::Map<String, Value>>(body)
            .unwrap()
            .into_iter()
            .map(|(name, value)| format!("{name}={}", value.to_string().trim_matches('"').replace('+', "%2B")))
            .collect();
        let (status, png) = serving.ask("GET", &format!("/v1/sample.png?{}", query.join("&")), &[], "");
        assert_eq!(status, 200);
        // To the byte: pixels, and the options in its text.
        assert_eq!(png, std::fs::read(at.join("samples.png")).unwrap(), "{body}");
        assert!(made.text.iter().any(|(key, _)| key == "times"));
    }
    let (status, square) = serving.post("/v1/interpolate", r#"{"seeds": [1, 2, 3, 4], "points": 3, "steps": 4}"#);
    assert_eq!(status, 200, "{square}");
    run(at, &words(&square["command"]), 0);
    let made = read_png(&at.join("interpolation.png")).unwrap();
    let (_, row) = serving.post("/v1/interpolate", r#"{"seeds": [1, 2, 3, 4], "at": [0.5, 1.0], "steps": 4}"#);
    assert_eq!(square["tiles"][7], row["tiles"][0]);
    assert_eq!((made.picture.width(), made.picture.height()), (8 * 32, 8 * 32));
}

#[test]
fn a_class_and_guidance_go_into_the_command_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_model(at, &Config { num_class_embeds: Some(3), ..Config::smallest() }, Some(2));
    let serving = Serving::start(at, &[], None);
    let (_, sample) = serving.post("/v1/sample", r#"{"n": 2, "steps": 4, "class": 1, "guidance": -0.5}"#);
    run(at, &words(&sample["command"]), 0);
    let path = "/v1/sample.png?n=2&steps=4&class=1&guidance=-0.5";
    assert_eq!(serving.ask("GET", path, &[], "").1, std::fs::read(at.join("samples.png")).unwrap());
}

#[test]
fn a_signal_finishes_what_was_accepted_before_the_service_goes() {
    for name in ["INT", "TERM"] {
        let folder = with_model();
        let serving = Serving::start(folder.path(), &["--together", "1", "--grace", "60"], None);
        let body = r#"{"n": 16, "steps": 60}"#;
        let json = ["Content-Type: application/json"];
        let calls: Vec<TcpStream> = (0..4).map(|_| serving.send("POST", "/v1/sample", &json, body)).collect();
        let (status, job) = serving.post("/v1/jobs", r#"{"kind": "sample", "n": 16, "steps": 200}"#);
        assert_eq!(status, 202);
        serving.accepted(5);
        serving.signal(name);
        // Results can be fetched until they have been.
        let path = format!("/v1/jobs/{}", job["job"].as_str().unwrap());
        let until = Instant::now() + Duration::from_secs(50);
        loop {
            let (status, job) = serving.ask("GET", &path, &[], "");
            assert_eq!(status, 200);
            let job: Value = serde_json::from_slice(&job).unwrap();
            if job["state"] == "done" {
                break;
            }
            assert!(Instant::now() < until, "{job}");
            std::thread::sleep(Duration::from_millis(5));
        }
        for call in calls {
            assert_eq!(read_response(call).0, 200);
        }
        let (code, said) = serving.ended();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("stopped: all accepted work is done"), "{said}");
    }
}

#[test]
fn what_does_not_end_within_the_grace_is_told_so() {
    let folder = with_model();
    let serving = Serving::start(folder.path(), &["--together", "1", "--grace", "0", "--max-sync", "1000000"], None);
    let json = ["Content-Type: application/json"];
    let long = serving.send("POST", "/v1/sample", &json, r#"{"n": 64, "steps": 1000}"#);
    assert_eq!(serving.post("/v1/jobs", r#"{"kind": "sample", "n": 64, "steps": 1000}"#).0, 202);
    serving.accepted(2);
    serving.signal("TERM");
    let (code, said) = serving.ended();
    assert_eq!(read_response(long).0, 503);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 request(s) were cancelled and told so"), "{said}");
}

#[test]
fn a_service_that_was_killed_starts_again_and_gives_the_same_pixels() {
    let folder = with_model();
    let ask = |serving: &Serving| serving.ask("GET", "/v1/sample.png?n=2&steps=3&seed=1", &[], "");
    let mut serving = Serving::start(folder.path(), &[], None);
    let (status, before) = ask(&serving);
    assert_eq!(status, 200);
    let job = serving.post("/v1/jobs", r#"{"kind": "sample", "n": 64, "steps": 1000}"#).1;
    serving.child.kill().unwrap();
    serving.child.wait().unwrap();
    let serving = Serving::start(folder.path(), &[], None);
    assert_eq!(ask(&serving), (200, before));
    // Jobs live in memory: what was under way is asked for again.
    assert_eq!(serving.ask("GET", &format!("/v1/jobs/{}", job["job"].as_str().unwrap()), &[], "").0, 404);
}

#[test]
fn the_token_comes_from_the_environment_or_a_file_and_is_never_weak() {
    let folder = with_model();
    let at = folder.path();
    let serving = Serving::start(at, &[], Some("a-token-of-some-length"));
    assert_eq!(serving.ask("GET", "/v1/models", &[], "").0, 401);
    assert_eq!(serving.ask("GET", "/v1/models", &["Authorization: Bearer a-token-of-some-length"], "").0, 200);
    drop(serving);
    std::fs::write(at.join("token"), "another-token-of-length\n").unwrap();
    let serving = Serving::start(at, &["--token-file", "token"], Some("a-token-of-some-length"));
    assert_eq!(serving.ask("GET", "/v1/models", &["Authorization: Bearer a-token-of-some-length"], "").0, 401);
    assert_eq!(serving.ask("GET", "/v1/models", &["Authorization: Bearer another-token-of-length"], "").0, 200);
    drop(serving);
    for weak in ["short", "", "two words of a token"] {
        std::fs::write(at.join("token"), weak).unwrap();
        let (_, said) = run(at, &["serve", "--listen", "127.0.0.1:0", "--model", "model", "--token-file", "token"], 2);
        assert!(said.contains("token: expected a token of at least 16"), "{said}");
    }
}

#[test]
fn wrong_usage_and_a_taken_port_say_what_to_do() {
    let folder = with_model();
    let at = folder.path();
    let serving = Serving::start(at, &[], None);
    let (_, said) = run(at, &["serve", "--model", "model", "--listen", &serving.address], 1);
    assert!(said.contains("is another program using the port? choose another port with --listen"), "{said}");
    for (flag, value) in [
        ("--grace", "1000000000000"),
        ("--max-images", "0"),
        ("--max-steps", "0"),
        ("--max-pixels", "0"),
        ("--max-upload", "0"),
        ("--max-queue", "0"),
        ("--max-sync", "0"),
        ("--allow-host", ""),
        ("--allow-host", "a b"),
    ] {
        let (_, said) = run(at, &["serve", "--model", "model", "--listen", "127.0.0.1:0", flag, value], 2);
        assert!(said.contains(flag), "{said}");
    }
    for nowhere in ["8080", "localhost", "localhost:http"] {
        let (_, said) = run(at, &["serve", "--listen", nowhere], 2);
        assert!(said.contains("such as 127.0.0.1:8080 or localhost:8080"), "{said}");
    }
    let (_, said) = run(at, &["serve", "--model", "model", "--model", "./model", "--listen", "127.0.0.1:0"], 2);
    assert!(said.contains("two models have this name") && said.contains("--model NAME=PATH"), "{said}");
    assert!(run(at, &["serve", "--model", "none", "--listen", "127.0.0.1:0"], 1).1.contains("none"));
}

#[cfg(unix)]
#[test]
fn a_token_that_is_no_text_is_refused_and_not_taken_for_none() {
    use std::os::unix::ffi::OsStrExt;
    let folder = with_model();
    let mut command = skipstone(folder.path(), &["serve", "--model", "model", "--listen", "127.0.0.1:0"]);
    command.env("SKIPSTONE_TOKEN", std::ffi::OsStr::from_bytes(b"a-token-of-some-length-\xff"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("SKIPSTONE_TOKEN: expected ASCII letters"), "{said}");
}

#[test]
fn models_of_one_name_go_by_the_folder_around_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_models(at, &["clothes", "digits", "third"]);
    std::fs::rename(at.join("third/model"), at.join("alone")).unwrap();
    assert_eq!(served(at, &["clothes/model", "digits/model", "alone"]), ["clothes", "digits", "alone"]);
}

/// Writes a model into each of these folders, as `model`.
fn write_models(at: &Path, folders: &[&str]) {
    for folder in folders {
        std::fs::create_dir_all(at.join(folder)).unwrap();
        write_model(&at.join(folder), &Config::smallest(), None);
    }
}

/// The ids under which `serve` offers these models.
#[track_caller]
fn served(folder: &Path, models: &[&str]) -> Vec<String> {
    let mut command = skipstone(folder, &["serve", "--listen", "localhost:0", "--json"]);
    for model in models {
        command.args(["--model", *model]);
    }
    command.env_remove("SKIPSTONE_TOKEN").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let greeting: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    greeting["models"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[test]
fn models_in_folders_of_one_name_are_given_others() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_models(at, &["one/a", "two/a", "c=3"]);
    let same = ["serve", "--listen", "127.0.0.1:0", "--model", "one/a/model", "--model", "two/a/model"];
    let (_, said) = run(at, &same, 2);
    assert!(said.contains("model a: two models have this name") && said.contains("--model NAME=PATH"), "{said}");
    assert_eq!(served(at, &["first=one/a/model", "two/a/model"]), ["first", "model"]);
    // A path may have the sign itself, as may one that is named.
    assert_eq!(served(at, &["c=3/model", "third=c=3/model"]), ["model", "third"]);
}
