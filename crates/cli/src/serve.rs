//! `skipstone serve`: the page and the HTTP API.

use std::env::VarError;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use skipstone::io::checkpoint::{LoadOptions, Model};
use skipstone::io::files;
use skipstone_serve::core::{Retention, name_of};
use skipstone_serve::server::{ServerOptions, ShutdownReport, serve};
use skipstone_serve::{CARRIED, Guard, Limits, Service, Setup};
use tokio::net::TcpListener;

use crate::common::{Machine, WeightsName, load_model, weights_choice};
use crate::failure::{Done, Usage, emit, say};
use crate::interrupt;

/// Longest file that may hold a token.
const MOST_TOKEN: u64 = 4096;
/// Shortest token that is worth asking for.
const LEAST_TOKEN: usize = 16;

/// Serve the page and the HTTP API
#[derive(Args, Debug)]
#[command(after_help = "\
Open the address that is printed in a browser, or ask it: GET /v1/openapi.json describes every request. Ctrl-C or SIGTERM \
stops: no new work is taken, what was accepted is finished and can be fetched within --grace. A second Ctrl-C ends at once. \
A line for every request goes to stderr; RUST_LOG=warn silences them.

The service listens on this machine alone unless told otherwise. Where others can reach it, give a token: requests then \
need `Authorization: Bearer TOKEN`, and the page asks for it. There is no encryption: put a proxy that has it in front.

Examples:
  The model inside           skipstone serve
  Your own                   skipstone serve --model runs/clothes/model --model faces/ --carried
  For others, with a token   SKIPSTONE_TOKEN=$(openssl rand -hex 24) skipstone serve --listen 0.0.0.0:8080
  Behind a proxy             skipstone serve --token-file token.txt --allow-host diffusion.example.org
  A picture                  curl -o six.png 'http://127.0.0.1:8080/v1/sample.png?n=6&steps=20&seed=3'")]
pub struct ServeArguments {
    /// Address and port to listen on; port 0 is any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Model: a diffusers folder or a weight file, once for each; requests call it by its name [default: the one carried
    /// inside]
    #[arg(long, value_name = "DIR|FILE")]
    model: Vec<PathBuf>,
    /// Serve the model carried inside as well
    #[arg(long)]
    carried: bool,
    /// Which weights to take [default: ema where there are both]
    #[arg(long, value_enum)]
    weights: Option<WeightsName>,
    /// File with the token that requests must bring; the environment variable SKIPSTONE_TOKEN does the same
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name under which the service may be asked, beside this machine's own; once for each
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    #[command(flatten)]
    most: Most,
    /// Requests worked on together by one model; their images share network calls
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    together: u16,
    /// Minutes for which results of jobs are kept
    #[arg(long, value_name = "MIN", default_value_t = 15)]
    keep: u64,
    /// Seconds that work under way has to end when the service is stopped
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(..=86_400))]
    grace: u64,
    /// Print the address as a JSON line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

/// What one request may ask for.
#[derive(Args, Debug)]
struct Most {
    /// Most images of one request
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_images: u32,
    /// Most steps of one run
    #[arg(long, value_name = "S", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    max_steps: u32,
    /// Most pixels, in millions: of an uploaded picture, and of all images of one request
    #[arg(long, value_name = "MPX", default_value_t = 16)]
    max_pixels: u64,
    /// Most megabytes of an upload
    #[arg(long, value_name = "MB", default_value_t = 8)]
    max_upload: usize,
    /// Most requests that wait for one model; more are told to come again
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_queue: usize,
    /// Images times network calls up to which an answer comes at once; above, it is a job
    #[arg(long, value_name = "N", default_value_t = 2048)]
    max_sync: u64,
}

impl Most {
    fn limits(&self) -> Limits {
        Limits {
            n: self.max_images as usize,
            steps: self.max_steps as usize,
            pixels: self.max_pixels.saturating_mul(1_000_000),
            upload_bytes: self.max_upload.saturating_mul(1_000_000),
            queue: self.max_queue,
            sync: self.max_sync,
        }
    }
}

/// Runs the command.
pub fn run(arguments: &ServeArguments) -> anyhow::Result<Done> {
    let guard = guard(arguments)?;
    if arguments.most.max_queue == 0 {
        return Err(Usage("--max-queue: expected at least 1, found 0".to_owned()).into());
    }
    let engine = arguments.machine.start()?;
    // Before the models: whoever has the port, it is known at once.
    let listener = std::net::TcpListener::bind(arguments.listen).with_context(|| {
        format!("cannot listen on {}; is another program there? choose another port with --listen", arguments.listen)
    })?;
    let address = listener.local_addr().context("the socket has no address")?;
    listener.set_nonblocking(true).context("the socket cannot be shared")?;
    let setup = Setup {
        limits: arguments.most.limits(),
        runners: arguments.together.into(),
        retention: Retention { time: Duration::from_secs(arguments.keep.saturating_mul(60)), ..Retention::default() },
        guard,
        engine,
    };
    let service = Service::start(models(arguments)?, setup)?;
    greet(arguments, &service, address, engine.threads)?;
    // A thread for connections and one for what they compress: the arithmetic has its own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let report = runtime.context("cannot start the threads")?.block_on(async {
        let listener = TcpListener::from_std(listener).context("the socket cannot be used")?;
        let options = ServerOptions { grace: Duration::from_secs(arguments.grace), ..ServerOptions::default() };
        anyhow::Ok(serve(listener, service, options, asked_to_stop()).await)
    })?;
    report_shutdown(report);
    Ok(Done::Finished)
}

fn models(arguments: &ServeArguments) -> anyhow::Result<Vec<(String, Model)>> {
    let options = LoadOptions { weights: weights_choice(arguments.weights), ..LoadOptions::default() };
    let mut models = Vec::new();
    for (path, name) in arguments.model.iter().zip(names(&arguments.model)) {
        models.push((name, load_model(Some(path), &options)?));
    }
    if models.is_empty() || arguments.carried {
        models.push((CARRIED.to_owned(), load_model(None, &options)?));
    }
    Ok(models)
}

/// What requests call these models: the name of each, or that of the folder around it where several have the same.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let own: Vec<String> = paths.iter().map(|path| name_of(path)).collect();
    let around = |path: &Path| path.canonicalize().ok()?.parent().map(name_of);
    let named = paths.iter().zip(&own).map(|(path, name)| {
        let alone = own.iter().filter(|other| *other == name).count() == 1;
        if alone { name.clone() } else { around(path).unwrap_or_else(|| name.clone()) }
    });
    named.collect()
}

/// Who may ask.
fn guard(arguments: &ServeArguments) -> anyhow::Result<Guard> {
    let mut guard = Guard::open();
    if let Some(token) = token(arguments.token_file.as_deref())? {
        guard = guard.with_token(&token);
    }
    let ip = arguments.listen.ip();
    if ip.is_loopback() || !arguments.allow_host.is_empty() {
        let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter().chain([ip.to_string()]);
        guard = guard.with_hosts(own.chain(arguments.allow_host.iter().cloned()));
    }
    if !ip.is_loopback() && !guard.has_token() {
        say(format_args!(
            "warning: {ip} can be reached from elsewhere and there is no token: whoever reaches it may use it; \
             see --token-file"
        ));
    }
    Ok(guard)
}

/// The token of the file, or of the environment.
fn token(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let (text, place) = match (file, std::env::var("SKIPSTONE_TOKEN")) {
        (Some(path), _) => {
            let bytes = files::read(path, MOST_TOKEN)?;
            let text = String::from_utf8(bytes).with_context(|| format!("{}: no text", path.display()))?;
            (text, path.display().to_string())
        }
        (None, Ok(text)) => (text, "SKIPSTONE_TOKEN".to_owned()),
        (None, Err(VarError::NotPresent)) => return Ok(None),
        (None, Err(VarError::NotUnicode(_))) => {
            return Err(
                Usage("SKIPSTONE_TOKEN: expected letters, digits and signs, found something else".to_owned()).into()
            );
        }
    };
    let token = text.trim();
    // What a header can carry.
    let plain = |b: u8| b.is_ascii_graphic() && !b"\",;\\".contains(&b);
    if token.len() < LEAST_TOKEN || !token.bytes().all(plain) {
        return Err(Usage(format!(
            "{place}: expected a token of at least {LEAST_TOKEN} letters, digits and signs in one word"
        ))
        .into());
    }
    Ok(Some(token.to_owned()))
}

fn greet(arguments: &ServeArguments, service: &Service, address: SocketAddr, threads: usize) -> anyhow::Result<()> {
    for model in &service.models {
        let [c, h, w] = model.shape();
        say(format_args!(
            "{}: {}, {h}×{w}×{c}, {:.1} ms per network call with {threads} thread(s)",
            model.id,
            count(model.parameters),
            model.ms_per_call
        ));
    }
    if arguments.json {
        let models: Vec<&str> = service.models.iter().map(|model| model.id.as_str()).collect();
        emit(json!({"url": format!("http://{address}/"), "models": models}))?;
    } else {
        emit(format_args!("listening on http://{address}/"))?;
    }
    Ok(())
}

fn count(parameters: usize) -> String {
    format!("{:.1} million parameters", parameters as f64 / 1e6)
}

/// Ends at Ctrl-C, SIGTERM or SIGHUP.
async fn asked_to_stop() {
    while !interrupt::asked() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    say("stopping: finishing what was accepted (again Ctrl-C: at once)");
}

fn report_shutdown(report: ShutdownReport) {
    match report {
        ShutdownReport { abandoned: 0, unfetched: 0 } => say("stopped: everything that was accepted is done"),
        ShutdownReport { abandoned, unfetched } => say(format_args!(
            "stopped: {abandoned} request(s) had to be ended and were told so, {unfetched} result(s) were never fetched"
        )),
    }
}
