//! `skipstone likelihood`: the likelihood of data under a model, in bits per dimension.

mod report;

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use skipstone::io::data::Dataset;
use skipstone::io::files;
use skipstone::io::image::write_png;
use skipstone::math::noise::{Purpose, Seeded};
use skipstone::math::schedule::Schedule;
use skipstone::math::trajectory::{Spacing, Trajectory};
use skipstone::objective::likelihood::{FlowOptions, Flowed, ProbeKind, conditions_of, dequantised, flow};
use skipstone::objective::{Elbo, ElboOptions, ElboTerm, default_sigma_1, elbo};
use skipstone::sampling::denoiser::{Condition, Denoiser, DifferentiableDenoiser};
use skipstone::sampling::generate::Settings;
use skipstone::sampling::options::{LAYOUT, Noise, SEED};
use skipstone::train::curve::labelled_curve;

use crate::common::{CommonArguments, ModelArguments, Work};
use crate::dataset::{ArrayArguments, DATA, SplitName, load_for};
use crate::failure::{Done, Usage, emit};
use crate::interrupt;
use crate::options::Flags;
use crate::output::check_results;

/// Batch size: fixed, so that sums have the same order on every machine.
const BATCH: usize = 32;
const NO_IMAGES: &str = "there are no images";
/// The options that choose the noise.
const NOISE: [&str; 2] = ["eta", "sigma"];

/// Measure the likelihood of data under a model, in bits per dimension
#[derive(Args, Debug)]
#[command(after_help = "\
elbo is the evidence lower bound of the sampler with noise, for any sigma above 0 and any timesteps. Its table shows the \
term of each step. Without --eta and --sigma it is DDPM's bound, eta 1.

ode is the likelihood of the deterministic sampler. Its errors are those of discretisation (double --steps to see it) \
and of the trace estimator (--probes 2 or more estimate it). Its default spacing is quadratic.

-o DIR keeps likelihood.json, the table as CSV and, for elbo, a plot of the terms.

Examples:
  The bound with 50 calls
    skipstone likelihood --data fashion-mnist --steps 50
  The bound with every step of DDPM
    skipstone likelihood --data fashion-mnist --steps 1000 -n 64 -o elbo/
  With the variance that fits the network best
    skipstone likelihood --data fashion-mnist --steps 20 --sigma analytic
  With the timesteps of the smallest bound
    skipstone likelihood --data fashion-mnist --steps 20 --spacing optimal
  The deterministic sampler
    skipstone likelihood --data fashion-mnist --method ode --steps 50 -n 16 --probes 2")]
pub struct LikelihoodArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[arg(long, value_name = "DATASET|DIR", help = DATA)]
    data: String,
    #[command(flatten)]
    arrays: ArrayArguments,
    /// Part of the data set
    #[arg(long, value_enum, default_value_t = SplitName::Test)]
    split: SplitName,
    /// Number of images, from the start of the data
    #[arg(short, allow_negative_numbers = true, value_name = "N", default_value_t = 256)]
    n: usize,
    #[command(flatten)]
    run: Flags<{ LAYOUT | SEED }>,
    /// What to measure
    #[arg(long, value_enum, default_value_t = Method::Elbo)]
    method: Method,
    /// Sigma of the decoder [default: sigma of DDPM's posterior at t = 2]
    #[arg(long, value_name = "SIGMA", allow_negative_numbers = true)]
    sigma_1: Option<f64>,
    /// Probes per image of the trace estimator, for --method ode
    #[arg(long, value_name = "K", default_value_t = 1)]
    probes: usize,
    /// Distribution of the probes: rademacher or gaussian
    #[arg(long, value_name = "KIND", default_value_t = ProbeKind::Rademacher)]
    probe: ProbeKind,
    /// Folder for likelihood.json, a CSV table and, for elbo, a plot of its terms
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArguments,
}

/// What `likelihood` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Evidence lower bound of the sampler with noise.
    Elbo,
    /// Likelihood of the deterministic sampler, by the probability-flow ODE.
    Ode,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Elbo => "elbo",
            Self::Ode => "ode",
        })
    }
}

/// The resolved arguments, without the network.
struct Task<'a> {
    arguments: &'a LikelihoodArguments,
    settings: Settings,
    schedule: Schedule,
    trajectory: Trajectory,
    data: Dataset,
    /// One per image, for a conditional model.
    conditions: Vec<Condition>,
}

/// Runs the command.
pub fn run(arguments: &LikelihoodArguments) -> anyhow::Result<Done> {
    check(arguments)?;
    if let Some(folder) = &arguments.output {
        check_results(folder, &arguments.data)?;
    }
    let engine = arguments.common.start()?;
    let mut model = arguments.model.load()?;
    if arguments.method == Method::Ode {
        model.check_gradient()?;
    }
    let mut request = arguments.run.request()?;
    if !arguments.run.has_any(&NOISE) {
        // η = 0 has no bound, so the default is DDPM's η.
        request.noise = Noise::Eta(1.0);
    }
    if arguments.method == Method::Ode && !arguments.run.has_any(&["times", "spacing"]) {
        // The field changes fastest near clean data, where even steps would be too coarse.
        request.spacing = Some(Spacing::Quadratic.into());
    }
    let (settings, _) = Settings::resolve(&model, &request)?;
    let schedule = model.scheduler.schedule()?;
    let trajectory = settings.trajectory(&schedule)?;
    let data = load_for(&model, &arguments.data, arguments.split, arguments.n, &arguments.arrays)?;
    let conditions = conditions_of(&model, &data, 0..data.len())?;
    let task = Task { arguments, settings, schedule, trajectory, data, conditions };
    if arguments.common.dry_run {
        return task.dry_run(model.flops()?);
    }
    if let Some(folder) = &arguments.output {
        files::create_dir(folder)?;
    }
    let report = match arguments.method {
        Method::Elbo => task.elbo(&model.open(&engine)?)?,
        Method::Ode => task.ode(&*model.open_differentiable(&engine)?)?,
    };
    task.conclude(&report)
}

fn check(arguments: &LikelihoodArguments) -> Result<(), Usage> {
    let run = &arguments.run;
    match arguments.method {
        _ if run.has_any(&["final_sigma"]) => {
            Err(Usage("--final-sigma: here the decoder sets the noise of the last step; use --sigma-1".into()))
        }
        Method::Ode if run.has_any(&NOISE) => Err(Usage(
            "--method ode: the deterministic sampler has no noise; leave --eta, --sigma and --sigmas out".into(),
        )),
        Method::Ode if run.has_any(&["clip", "threshold"]) => Err(Usage(
            "--method ode: the ODE uses the prediction without clipping; leave --clip and --threshold out".into(),
        )),
        Method::Ode if arguments.sigma_1.is_some() => {
            Err(Usage("--method ode: the ODE has no decoder; leave --sigma-1 out".into()))
        }
        Method::Elbo if arguments.probes != 1 || arguments.probe != ProbeKind::Rademacher => {
            Err(Usage("--probes, --probe: the bound needs no probes; leave them out, or set --method ode".into()))
        }
        Method::Ode if arguments.probes == 0 => Err(Usage("--probes: expected at least 1, found 0".into())),
        _ => Ok(()),
    }
}

/// The result in all its forms.
struct Report {
    json: Value,
    /// Lines to print without `--json`.
    lines: Vec<String>,
    csv_name: &'static str,
    csv: String,
    /// Points of the plot: network index and bits.
    plot: Option<Vec<(u64, f64)>>,
}

impl Task<'_> {
    /// The images in batches of `size`.
    fn batches(&self, size: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let n = self.data.len();
        (0..n).step_by(size).map(move |first| first..(first + size).min(n))
    }

    fn conditions(&self, images: &Range<usize>) -> &[Condition] {
        if self.conditions.is_empty() { &[] } else { &self.conditions[images.clone()] }
    }

    fn elbo(&self, network: &impl Denoiser) -> anyhow::Result<Report> {
        let sigma_1 = match self.arguments.sigma_1 {
            Some(sigma_1) => sigma_1,
            None => default_sigma_1(&self.schedule)?,
        };
        let options =
            ElboOptions { scale: self.settings.scale.clone(), sigma_1: Some(sigma_1), clip: self.settings.clip };
        let length = self.batches(BATCH).count() * self.trajectory.calls();
        let bar = crate::bars::bar("evaluating", 0, length as u64);
        let mut parts = Vec::new();
        for images in self.batches(BATCH) {
            let x0 = self.data.batch(images.clone())?;
            let mut noise =
                Seeded { seed: self.settings.seed, first_image: images.start as u64, purpose: Purpose::Likelihood };
            let conditions = self.conditions(&images);
            let mut see = |_: &ElboTerm| advance(&bar);
            parts.push(elbo(
                network,
                &self.schedule,
                &self.trajectory,
                &options,
                &x0,
                &mut noise,
                conditions,
                &mut see,
            )?);
        }
        bar.finish_and_clear();
        Ok(self.report_elbo(&Elbo::merged(parts).context(NO_IMAGES)?, sigma_1))
    }

    fn ode(&self, network: &dyn DifferentiableDenoiser) -> anyhow::Result<Report> {
        let (probes, seed) = (self.arguments.probes, self.settings.seed);
        let length = self.batches(BATCH).count() * self.trajectory.calls();
        let bar = crate::bars::bar("integrating", 0, length as u64);
        let mut parts = Vec::new();
        for images in self.batches(BATCH) {
            let first_image = images.start as u64;
            let x0 = dequantised(&self.data.batch(images.clone())?, seed, first_image);
            let options = FlowOptions { probes, kind: self.arguments.probe, seed, first_image };
            let conditions = self.conditions(&images);
            let mut see = |_| advance(&bar);
            parts.push(flow(network, &self.schedule, &self.trajectory, &options, &x0, conditions, &mut see)?);
        }
        bar.finish_and_clear();
        Ok(self.report_ode(&Flowed::merged(parts)?.context(NO_IMAGES)?))
    }

    fn name(&self) -> String {
        format!("{} ({}, first {})", self.data.name(), self.arguments.split, self.data.len())
    }

    fn dry_run(&self, flops: u64) -> anyhow::Result<Done> {
        // A backward pass costs twice a forward pass.
        let (calls, passes) = match self.arguments.method {
            Method::Elbo => (self.trajectory.calls(), 1.0),
            Method::Ode => (2 * self.trajectory.calls() * self.arguments.probes, 3.0),
        };
        let work = Work::of(passes * flops as f64 * (calls * self.data.len()) as f64);
        let output = self.arguments.output.as_ref().map(|path| path.display().to_string());
        let mut lines = vec![
            format!("data        {}", self.name()),
            format!("work        {calls} network calls per image, {work}"),
        ];
        lines.extend(output.as_ref().map(|output| format!("would write {output}")));
        let json = json!({"n": self.data.len(), "calls": calls, "gflop": work.json(), "output": output});
        self.arguments.common.finish_dry_run(&json, &lines)
    }

    fn conclude(&self, report: &Report) -> anyhow::Result<Done> {
        if let Some(folder) = &self.arguments.output {
            self.write(report, folder)?;
        }
        if self.arguments.common.json {
            emit(&report.json)?;
            return Ok(Done::Finished);
        }
        for line in &report.lines {
            emit(line)?;
        }
        if let Some(folder) = &self.arguments.output {
            emit(folder.display())?;
        }
        Ok(Done::Finished)
    }

    fn write(&self, report: &Report, folder: &Path) -> anyhow::Result<()> {
        files::write_bytes(&folder.join("likelihood.json"), format!("{:#}\n", report.json).as_bytes())?;
        files::write_bytes(&folder.join(report.csv_name), report.csv.as_bytes())?;
        if let Some(points) = &report.plot {
            let title = format!("bits per dimension by step, {} calls", self.trajectory.calls());
            let picture = labelled_curve(&title, ["time index of the call", "bits"], points)?;
            write_png(&folder.join("terms.png"), &picture, &[])?;
        }
        Ok(())
    }
}

fn advance(bar: &ProgressBar) -> ControlFlow<()> {
    bar.inc(1);
    interrupt::flow()
}
