//! The options that lay out a run of sampling: those of `sample`, and of `inspect`'s table.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use skipstone::denoiser::DynamicThreshold;
use skipstone::generate::{ClipMode, Request, SpacingChoice, Variance};
use skipstone::sigma::NoiseScale;

use crate::failure::Usage;

/// Steps, noise, clipping.
#[derive(Args, Debug)]
pub struct RunArguments {
    /// Steps S [default: 50]
    #[arg(long, value_name = "S", conflicts_with = "times")]
    pub steps: Option<usize>,
    /// Noise per step, DDIM Eq. 16: 0 is DDIM (same latent, same image), 1 is DDPM [default: 0]
    #[arg(long, value_name = "ETA", conflicts_with = "sigmas", allow_negative_numbers = true)]
    pub eta: Option<f64>,
    /// Noise by name: hat is DDPM's larger variance, analytic the one that fits the network best (needs a calibration;
    /// --eta beneath it, 1 unless given)
    #[arg(long, value_name = "NAME", value_enum, conflicts_with = "sigmas")]
    pub sigma: Option<SigmaName>,
    /// Text file with one sigma per network call, in step order; # begins a comment
    #[arg(long, value_name = "FILE")]
    pub sigmas: Option<PathBuf>,
    /// Which S of the model's T times: linear, quadratic, leading, trailing, linspace, official-uniform, official-quad or
    /// optimal (needs a calibration) [default: the model's, else linear]
    #[arg(long, value_name = "NAME", conflicts_with = "times")]
    pub spacing: Option<SpacingChoice>,
    /// Explicit network indices, strictly decreasing, for example 999,700,17
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub times: Option<Vec<u32>>,
    /// Clip the predicted image: off, keep-eps (diffusers) or rederive-eps [default: the model's, else off]
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

fn clip(name: &str) -> Result<ClipMode, String> {
    match name {
        "off" => Ok(ClipMode::Off),
        "keep-eps" => Ok(ClipMode::KeepEps),
        "rederive-eps" => Ok(ClipMode::RederiveEps),
        _ => Err("expected off, keep-eps or rederive-eps".to_owned()),
    }
}

fn threshold(text: &str) -> Result<DynamicThreshold, String> {
    let numbers =
        text.split_once(',').and_then(|(ratio, max)| Some((ratio.trim().parse().ok()?, max.trim().parse().ok()?)));
    let (ratio, max) = numbers.ok_or("expected two numbers, for example 0.995,1.5")?;
    Ok(DynamicThreshold { ratio, max })
}

impl RunArguments {
    /// What is asked for, with the seed of `seed`.
    pub fn request(&self, seed: u64) -> anyhow::Result<Request> {
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
            steps: self.steps,
            spacing: self.spacing,
            times: self.times.clone(),
            scale,
            variance,
            clip: self.clip,
            threshold: self.threshold,
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
