//! `skipstone serve`: the web page and the HTTP API.

use std::env::VarError;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use skipstone::engine::{Device, EngineOptions};
use skipstone::io::checkpoint::Model;
use skipstone::io::files;
use skipstone::sampling::options::PRECISION;
use skipstone_serve::core::{Retention, name_of, split_name};
use skipstone_serve::guard::is_host;
use skipstone_serve::server::{ServerOptions, ShutdownReport, serve};
use skipstone_serve::{CARRIED, Guard, Limits, Service, Setup};
use tokio::net::TcpListener;

use crate::common::{EngineArguments, ForeignArguments, WeightsName, load_sized, precision, size};
use crate::failure::{Done, Usage, emit, say};
use crate::interrupt;
use crate::options::Flags;

/// Largest token file, in bytes.
const MAX_TOKEN_FILE: u64 = 4096;
/// Shortest token that is accepted.
const MIN_TOKEN: usize = 16;

/// Serve the web page and the HTTP API
#[derive(Args, Debug)]
#[command(after_help = "\
Open the printed address in a browser, or use the HTTP API: GET /v1/openapi.json describes every request. Ctrl-C or SIGTERM \
stops the service: it takes no new work, finishes accepted work and lets clients fetch it, all within --grace. A second \
Ctrl-C ends it at once. Every request is logged to stderr; RUST_LOG=warn turns that off.

By default, only this machine can reach the service. If others can reach it, set a token: requests then need \
`Authorization: Bearer TOKEN`, and the page asks for the token. The service does not encrypt: put a TLS proxy in front.

Examples:
  The built-in model
    skipstone serve
  Your own models and the built-in model
    skipstone serve --model runs/clothes/model --model faces/ --carried
  Two models under names of your own
    skipstone serve --model early=runs/a/model --model late=runs/b/model
  On the processor and on a graphics processor, which the page offers side by side
    skipstone serve --also-on gpu
  Open to the network, with a token
    SKIPSTONE_TOKEN=$(openssl rand -hex 24) skipstone serve --listen 0.0.0.0:8080
  Behind a proxy
    skipstone serve --token-file token.txt --allow-host diffusion.example.org
  Six images from a running service
    curl -o six.png 'http://127.0.0.1:8080/v1/sample.png?n=6&steps=20&seed=3'")]
pub struct ServeArguments {
    /// Address or name, and port to listen on; port 0 takes any free port
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Model to serve: a diffusers folder, a weight file, an ONNX file, or ORG/NAME[@REVISION] in the Hugging Face cache;
    /// repeat for several, which requests choose by name: that of the folder or file, or another one, as in NAME=MODEL
    /// [default: the built-in model]
    #[arg(long, value_name = "DIR|FILE|NAME")]
    model: Vec<PathBuf>,
    /// Also serve the built-in model
    #[arg(long)]
    carried: bool,
    /// Which weights to use [default: ema if the model has both]
    #[arg(long, value_enum)]
    weights: Option<WeightsName>,
    /// Size of the images of all models, one number or height x width [default: the size that each network has learnt]
    #[arg(long, value_name = "N|HxW", value_parser = size)]
    size: Option<[usize; 2]>,
    #[command(flatten)]
    foreign: ForeignArguments,
    /// File with the token that requests must send; alternative: the environment variable SKIPSTONE_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Host name that requests may use besides this machine's own names; repeat for several
    #[arg(long, value_name = "NAME", value_parser = host)]
    allow_host: Vec<String>,
    #[command(flatten)]
    limits: LimitArguments,
    /// Requests that one model works on at the same time; their images share network calls
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    together: u16,
    /// Minutes to keep the results of jobs
    #[arg(long, value_name = "MIN", default_value_t = 15)]
    keep: u64,
    /// Seconds that running work has to finish when the service is stopped
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(..=86_400))]
    grace: u64,
    /// Print the address as a JSON line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: Flags<PRECISION>,
    #[command(flatten)]
    engine: EngineArguments,
    /// Device on which the models are served as well, under names that requests choose: NAME@DEVICE; repeat for several
    #[arg(long, value_name = "DEVICE", value_parser = |name: &str| name.parse::<Device>())]
    also_on: Vec<Device>,
}

/// Limits of one request.
#[derive(Args, Debug)]
struct LimitArguments {
    /// Most images per request
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_images: u32,
    /// Most steps per run
    #[arg(long, value_name = "S", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    max_steps: u32,
    /// Most megapixels, both of an uploaded image and of all images of a request together
    #[arg(long, value_name = "MPX", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..))]
    max_pixels: u64,
    /// Most megabytes per upload
    #[arg(long, value_name = "MB", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    max_upload: u32,
    /// Most requests waiting for one model; further requests are told to retry later
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_queue: u32,
    /// Largest request answered directly, in images times network calls; larger ones must be sent as jobs
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..))]
    max_sync: u64,
}

impl LimitArguments {
    fn limits(&self) -> Limits {
        Limits {
            n: self.max_images as usize,
            steps: self.max_steps as usize,
            pixels: self.max_pixels.saturating_mul(1_000_000),
            upload_bytes: (self.max_upload as usize).saturating_mul(1_000_000),
            queue: self.max_queue as usize,
            sync: self.max_sync,
        }
    }
}

/// Runs the command.
pub fn run(arguments: &ServeArguments) -> anyhow::Result<Done> {
    let asked = arguments.run.request()?.precision;
    let engine = EngineOptions { precision: asked, ..arguments.engine.start()? };
    precision(&engine)?;
    // Before loading the models, so that a taken port is reported at once.
    let listener = bind(&arguments.listen)?;
    let address = listener.local_addr().context("cannot read the socket's address")?;
    let guard = guard(arguments, address.ip())?;
    listener.set_nonblocking(true).context("cannot make the socket non-blocking")?;
    let setup = Setup {
        limits: arguments.limits.limits(),
        runners: arguments.together.into(),
        retention: Retention { time: Duration::from_secs(arguments.keep.saturating_mul(60)), ..Retention::default() },
        guard,
        also_on: arguments.also_on.iter().map(|&device| EngineOptions { device, ..engine }).collect(),
        engine,
    };
    let service = Service::start(models(arguments)?, setup)?;
    announce(arguments, &service, address, engine.threads)?;
    // One thread for connections and one for compression: the engine has its own threads.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let report = runtime.context("cannot start the threads")?.block_on(async {
        let listener = TcpListener::from_std(listener).context("cannot use the socket")?;
        let options = ServerOptions { grace: Duration::from_secs(arguments.grace), ..ServerOptions::default() };
        anyhow::Ok(serve(listener, service, options, stop_requested()).await)
    })?;
    report_shutdown(report);
    Ok(Done::Finished)
}

/// Listens on this address, or on the first of a name's addresses that can be used.
fn bind(listen: &str) -> anyhow::Result<std::net::TcpListener> {
    let found = listen.to_socket_addrs().map_err(|error| {
        let example = "such as 127.0.0.1:8080 or localhost:8080";
        Usage(format!("--listen {listen}: expected an address or a name, and a port, {example} ({error})"))
    })?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    // Programs that try a single address of a name try an IPv4 one.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    std::net::TcpListener::bind(addresses.as_slice()).with_context(|| {
        format!("cannot listen on {listen}; is another program using the port? choose another port with --listen")
    })
}

/// Reads a name for `--allow-host`.
fn host(text: &str) -> Result<String, String> {
    if is_host(text) {
        Ok(text.to_owned())
    } else {
        Err("expected the name of a host, such as diffusion.example.org, with or without a port".to_owned())
    }
}

fn models(arguments: &ServeArguments) -> anyhow::Result<Vec<(String, Model)>> {
    if !arguments.foreign.is_empty() && (arguments.model.len() != 1 || arguments.carried) {
        let what = "--scheduler and --onnx: expected one --model that they are about; put scheduler_config.json beside the others";
        return Err(Usage(what.to_owned()).into());
    }
    let load = |path| load_sized(path, arguments.weights, arguments.size, &arguments.foreign);
    let mut models = Vec::new();
    for (name, path) in named(&arguments.model) {
        models.push((name, load(Some(path))?));
    }
    if models.is_empty() || arguments.carried {
        models.push((CARRIED.to_owned(), load(None)?));
    }
    Ok(models)
}

/// These models with their names in requests: the one given, else each file's or folder's own, or its parent folder's
/// where several have the same.
fn named(models: &[PathBuf]) -> Vec<(String, &Path)> {
    let models: Vec<_> = models.iter().map(|model| split_name(model)).collect();
    let own: Vec<String> =
        models.iter().map(|(given, path)| given.map_or_else(|| name_of(path), str::to_owned)).collect();
    let parent = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf()).parent().map(name_of);
    let named = models.iter().zip(&own).map(|(&(given, path), name)| {
        let is_clear = given.is_some() || own.iter().filter(|other| *other == name).count() == 1;
        let longer = if is_clear { None } else { parent(path) };
        (longer.unwrap_or_else(|| name.clone()), path)
    });
    named.collect()
}

/// Which requests are accepted by a service that listens on `ip`: the token and the host names.
fn guard(arguments: &ServeArguments, ip: IpAddr) -> anyhow::Result<Guard> {
    let mut guard = Guard::open();
    if let Some(token) = token(arguments.token_file.as_deref())? {
        guard = guard.with_token(&token);
    }
    if ip.is_loopback() || !arguments.allow_host.is_empty() {
        let listen = [ip.to_string(), arguments.listen.clone()];
        let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter().chain(listen);
        guard = guard.with_hosts(own.chain(arguments.allow_host.iter().cloned()));
    }
    if !ip.is_loopback() && !guard.has_token() {
        say(format_args!(
            "warning: {ip} can be reached from other machines and there is no token: anyone who reaches it can use the \
             service; set one with --token-file"
        ));
    }
    Ok(guard)
}

/// The token from the file or else from the environment.
fn token(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let (text, place) = match (file, std::env::var("SKIPSTONE_TOKEN")) {
        (Some(path), _) => {
            let bytes = files::read(path, MAX_TOKEN_FILE)?;
            let text = String::from_utf8(bytes)
                .with_context(|| format!("{}: expected a text file with a token", path.display()))?;
            (text, path.display().to_string())
        }
        (None, Ok(text)) => (text, "SKIPSTONE_TOKEN".to_owned()),
        (None, Err(VarError::NotPresent)) => return Ok(None),
        (None, Err(VarError::NotUnicode(_))) => {
            return Err(Usage(
                "SKIPSTONE_TOKEN: expected ASCII letters, digits and punctuation, found invalid text".to_owned(),
            )
            .into());
        }
    };
    let token = text.trim();
    // Characters that are safe in a header.
    let plain = |b: u8| b.is_ascii_graphic() && !b"\",;\\".contains(&b);
    if token.len() < MIN_TOKEN || !token.bytes().all(plain) {
        return Err(Usage(format!(
            "{place}: expected a token of at least {MIN_TOKEN} letters, digits and punctuation marks, without spaces and \
             without any of \" , ; \\"
        ))
        .into());
    }
    Ok(Some(token.to_owned()))
}

fn announce(arguments: &ServeArguments, service: &Service, address: SocketAddr, threads: usize) -> anyhow::Result<()> {
    for model in &service.models {
        let [c, h, w] = model.shape();
        say(format_args!(
            "{}: {}, {h}×{w}×{c}, {:.1} ms per network call on {} in {} with {threads} thread(s)",
            model.id,
            count(model.parameters),
            model.ms_per_call,
            model.device,
            model.precision
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

/// Completes at Ctrl-C, SIGTERM or SIGHUP.
async fn stop_requested() {
    while !interrupt::asked() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    say("stopping: finishing accepted work (press Ctrl-C again to end at once)");
}

fn report_shutdown(report: ShutdownReport) {
    match report {
        ShutdownReport { abandoned: 0, unfetched: 0 } => say("stopped: all accepted work is done"),
        ShutdownReport { abandoned, unfetched } => say(format_args!(
            "stopped: {abandoned} request(s) were cancelled and told so, {unfetched} result(s) were never fetched"
        )),
    }
}
