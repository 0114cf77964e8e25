//! The options that lay out a run of sampling: those of `sample`, and of `inspect`'s table.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use skipstone::denoiser::{Bound, Clip, DynamicThreshold};
use skipstone::engine::Precision;
use skipstone::generate::{ClipMode, Request, Settings, SpacingChoice, Variance};
use skipstone::schedule::Index;
use skipstone::sigma::NoiseScale;

use crate::failure::Usage;

/// What a conditional model is asked for.
#[derive(Args, Clone, Copy, Debug)]
pub struct ConditionArguments {
    /// Class of the images, for a class-conditional model
    #[arg(long, value_name = "K")]
    class: Option<usize>,
    /// Weight of classifier-free guidance, for a model trained with dropped classes; needs --class
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    guidance: Option<f64>,
}

impl ConditionArguments {
    /// Puts them into a request.
    pub fn apply(self, request: &mut Request) {
        (request.class, request.guidance) = (self.class, self.guidance);
    }

    /// The flags again, for a command that is to follow; empty or beginning with a space.
    pub fn words(self) -> String {
        let class = self.class.map(|class| format!(" --class {class}"));
        let guidance = self.guidance.map(|weight| format!(" --guidance {weight}"));
        class.unwrap_or_default() + &guidance.unwrap_or_default()
    }
}

/// How exactly a network is computed.
#[derive(Args, Clone, Copy, Debug)]
pub struct PrecisionArguments {
    /// Precision: f32, or f16 for speed (about three digits; bytes are not promised to be the same elsewhere)
    #[arg(long, value_name = "NAME", default_value_t, value_parser = |name: &str| name.parse::<Precision>())]
    pub precision: Precision,
}

/// Steps, noise, clipping.
#[derive(Args, Debug)]
pub struct RunArguments {
    /// Steps S; a list, 10,20,50, where the command says so [default: 50; reconstruct: the paper's seven]
    #[arg(long, value_name = "S", conflicts_with = "times", value_delimiter = ',')]
    pub steps: Option<Vec<usize>>,
    /// Noise per step, DDIM Eq. 16: 0 is DDIM (same latent, same image), 1 is DDPM [default: 0; likelihood: 1]
    #[arg(long, value_name = "ETA", conflicts_with = "sigmas", allow_negative_numbers = true)]
    pub eta: Option<f64>,
    /// Noise by name: hat is DDPM's larger variance, analytic the one that fits the network best (needs a calibration;
    /// --eta beneath it, 1 unless given)
    #[arg(long, value_name = "NAME", value_enum, conflicts_with = "sigmas")]
    pub sigma: Option<SigmaName>,
    /// Text file with one sigma per network call, in step order; # begins a comment
    #[arg(long, value_name = "FILE")]
    pub sigmas: Option<PathBuf>,
    /// Noise on the last step, none by default: needed to reproduce an image whose noise was encoded
    #[arg(long, value_name = "SIGMA", allow_negative_numbers = true)]
    pub final_sigma: Option<f64>,
    /// Which S of the model's T times: linear, quadratic, leading, trailing, linspace, official-uniform, official-quad or
    /// optimal (needs a calibration) [default: the model's, else linear; likelihood --method ode: quadratic]
    #[arg(long, value_name = "NAME", conflicts_with = "times")]
    pub spacing: Option<SpacingChoice>,
    /// Explicit network indices, strictly decreasing, for example 999,700,17
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub times: Option<Vec<u32>>,
    /// Clip the predicted image: off, keep-eps (diffusers) or rederive-eps [default: the model's, else off; encode, decode
    /// and reconstruct: off]
    #[arg(long, value_name = "HOW", value_parser = clip)]
    pub clip: Option<ClipMode>,
    /// Dynamic thresholding: quantile and largest bound; needs clipping on, for example 0.995,1.5
    #[arg(long, value_name = "RATIO,MAX", value_parser = threshold)]
    pub threshold: Option<DynamicThreshold>,
}

/// Noise that is no η.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SigmaName {
    /// DDPM's larger variance.
    Hat,
    /// The variance that fits the network best.
    Analytic,
}

/// Reads `--clip`.
pub fn clip(name: &str) -> Result<ClipMode, String> {
    match name {
        "off" => Ok(ClipMode::Off),
        "keep-eps" => Ok(ClipMode::KeepEps),
        "rederive-eps" => Ok(ClipMode::RederiveEps),
        _ => Err("expected off, keep-eps or rederive-eps".to_owned()),
    }
}

/// Reads `--threshold`.
pub fn threshold(text: &str) -> Result<DynamicThreshold, String> {
    let numbers =
        text.split_once(',').and_then(|(ratio, max)| Some((ratio.trim().parse().ok()?, max.trim().parse().ok()?)));
    let (ratio, max) = numbers.ok_or("expected two numbers, for example 0.995,1.5")?;
    Ok(DynamicThreshold { ratio, max })
}

impl RunArguments {
    /// What is asked for, with this seed.
    pub fn request(&self, seed: u64) -> anyhow::Result<Request> {
        match self.requests(seed, &[])?.as_slice() {
            [request] => Ok(request.clone()),
            _ => Err(Usage("--steps: expected one number here, found a list".to_owned()).into()),
        }
    }

    /// What is asked for, once for each number of steps in the list; without --steps and --times, for those of
    /// `default`.
    pub fn requests(&self, seed: u64, default: &[usize]) -> anyhow::Result<Vec<Request>> {
        let request = self.without_steps(seed)?;
        let steps = match &self.steps {
            Some(steps) => steps,
            None if default.is_empty() || self.times.is_some() => return Ok(vec![request]),
            None => default,
        };
        Ok(steps.iter().map(|&steps| Request { steps: Some(steps), ..request.clone() }).collect())
    }

    /// The flags that lay out these steps again, for a command that is to follow; those of a single run.
    pub fn words(&self, settings: &Settings) -> String {
        let mut words = match (settings.steps, settings.spacing) {
            (Some(steps), Some(spacing)) => format!("--steps {steps} --spacing {spacing}"),
            _ => {
                let times: Vec<String> = settings.times.iter().map(Index::to_string).collect();
                format!("--times {}", times.join(","))
            }
        };
        // The library's settings say what came of flag and model; the bound itself is the model's.
        let (clip, bound) = match settings.clip {
            Clip::Off => ("off", None),
            Clip::KeepEps(bound) => ("keep-eps", Some(bound)),
            Clip::RederiveEps(bound) => ("rederive-eps", Some(bound)),
        };
        words += &format!(" --clip {clip}");
        if let Some(Bound::Dynamic(by)) = bound {
            words += &format!(" --threshold {},{}", by.ratio, by.max);
        }
        words
    }

    fn without_steps(&self, seed: u64) -> anyhow::Result<Request> {
        let (scale, variance) = match (&self.sigmas, self.sigma, self.eta) {
            (Some(path), ..) => (NoiseScale::Vector(sigmas(path)?), Variance::Chosen),
            (None, Some(SigmaName::Hat), Some(_)) => {
                return Err(
                    Usage("--eta cannot be used with --sigma hat, which is no member of its family".into()).into()
                );
            }
            (None, Some(SigmaName::Hat), None) => (NoiseScale::Hat, Variance::Chosen),
            (None, Some(SigmaName::Analytic), eta) => (NoiseScale::Eta(eta.unwrap_or(1.0)), Variance::Analytic),
            (None, None, eta) => (NoiseScale::Eta(eta.unwrap_or(0.0)), Variance::Chosen),
        };
        Ok(Request {
            spacing: self.spacing,
            times: self.times.clone(),
            scale,
            variance,
            clip: self.clip,
            threshold: self.threshold,
            final_sigma: self.final_sigma,
            seed,
            ..Request::default()
        })
    }
}

fn sigmas(path: &Path) -> anyhow::Result<Vec<f64>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.split('#').next().unwrap_or("").trim()));
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(i, line)| {
            let wrong = || Usage(format!("{}: line {i}: expected a number, found \"{line}\"", path.display()));
            Ok(line.parse().map_err(|_| wrong())?)
        })
        .collect()
}
