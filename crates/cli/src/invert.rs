//! Shared by `encode`, `decode` and `reconstruct`: the method's arguments, the progress bar, the report on convergence.

use std::ops::{ControlFlow, Range};

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use ndarray::{Array4, Axis, Slice};
use serde_json::{Value, json};
use skipstone::sampling::inversion::{Bdia, Calls, Convergence, Edict, FixedPoint, Method};

use crate::failure::{Usage, say};
use crate::interrupt;

/// The inversion methods.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum MethodName {
    /// Plain DDIM, the sampler's ODE run backwards: one call per step, error O(1/S)
    Ddim,
    /// Inverts DDIM steps by fixed-point iteration; exact where it converges
    FixedPoint,
    /// BDIA: exact with its own sampler, one call per step; latents are pairs
    Bdia,
    /// EDICT: exact with two coupled chains, two calls per step; latents are pairs
    Edict,
}

/// The inversion method and its parameters.
#[derive(Args, Debug)]
pub struct MethodArguments {
    /// Inversion method
    #[arg(long, value_enum, default_value = "ddim")]
    method: MethodName,
    /// Gamma of bdia, above 0 and at most 1 [default: 1]
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    gamma: Option<f64>,
    /// Mixing weight p of edict, above 0 and at most 1 [default: 0.93]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    mix: Option<f64>,
    /// Residual at which a step of fixed-point has converged, root mean square in network values [default: 1e-5]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    tolerance: Option<f64>,
    /// Most network calls per step of fixed-point [default: 30]
    #[arg(long, value_name = "N")]
    iterations: Option<usize>,
}

impl MethodArguments {
    /// The method with its parameters.
    pub fn method(&self) -> Result<Method, Usage> {
        let given = [
            (self.gamma.is_some(), "gamma", matches!(self.method, MethodName::Bdia)),
            (self.mix.is_some(), "mix", matches!(self.method, MethodName::Edict)),
            (self.tolerance.is_some(), "tolerance", matches!(self.method, MethodName::FixedPoint)),
            (self.iterations.is_some(), "iterations", matches!(self.method, MethodName::FixedPoint)),
        ];
        if let Some((_, flag, _)) = given.iter().find(|(given, _, fits)| *given && !fits) {
            let method = self.method.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
            return Err(Usage(format!("--{flag}: cannot be used with --method {method}")));
        }
        let (fixed, bdia, edict) = (FixedPoint::default(), Bdia::default(), Edict::default());
        Ok(match self.method {
            MethodName::Ddim => Method::Ddim,
            MethodName::FixedPoint => Method::FixedPoint(FixedPoint {
                tolerance: self.tolerance.unwrap_or(fixed.tolerance),
                iterations: self.iterations.unwrap_or(fixed.iterations),
            }),
            MethodName::Bdia => Method::Bdia(Bdia { gamma: self.gamma.unwrap_or(bdia.gamma) }),
            MethodName::Edict => Method::Edict(Edict { mix: self.mix.unwrap_or(edict.mix) }),
        })
    }

    /// The method's flags for a command to be printed.
    pub fn to_flags(&self) -> Result<String, Usage> {
        Ok(match self.method()? {
            Method::Ddim | Method::FixedPoint(_) => String::new(),
            Method::Bdia(by) => format!(" --method bdia --gamma {}", by.gamma),
            Method::Edict(by) => format!(" --method edict --mix {}", by.mix),
        })
    }
}

/// The images of a batch.
pub fn rows(all: &Array4<f32>, range: &Range<u64>) -> Array4<f32> {
    all.slice_axis(Axis(0), Slice::from(range.start as usize..range.end as usize)).to_owned()
}

/// An observer that moves the bar as a batch progresses, and stops at Ctrl-C.
pub fn watch(bar: &ProgressBar, before: u64) -> impl FnMut(Calls) -> ControlFlow<()> + '_ {
    move |calls| {
        bar.set_position(before + calls.step as u64);
        interrupt::flow()
    }
}

/// Convergence of every step, over all batches.
#[derive(Default)]
pub struct Report(Vec<Convergence>);

impl Report {
    /// Adds a batch.
    pub fn add(&mut self, batch: &[Convergence]) {
        if self.0.is_empty() {
            self.0 = batch.to_vec();
            return;
        }
        for (all, one) in self.0.iter_mut().zip(batch) {
            all.iterations = all.iterations.max(one.iterations);
            all.residual = all.residual.max(one.residual);
            all.unconverged += one.unconverged;
        }
    }

    /// Number of images that did not converge, summed over steps.
    pub fn unconverged(&self) -> usize {
        self.0.iter().map(|step| step.unconverged).sum()
    }

    /// The largest residual of any step.
    pub fn residual(&self) -> f64 {
        self.0.iter().map(|step| step.residual).fold(0.0, f64::max)
    }

    /// The convergence of every step as JSON.
    pub fn to_json(&self) -> Value {
        let step = |c: &Convergence| {
            json!({
                "t": c.t.index(), "s": c.s.index(), "iterations": c.iterations, "residual": c.residual,
                "unconverged": c.unconverged,
            })
        };
        self.0.iter().map(step).collect()
    }

    /// Warns on stderr about steps that did not converge.
    pub fn warn(&self, n: usize) {
        for step in self.0.iter().filter(|step| step.unconverged > 0) {
            let s = step.s.index().map_or("clean data".to_owned(), |s| format!("index {s}"));
            say(format_args!(
                "warning: from {s} to index {}: {} of {n} image(s) did not converge in {} iterations, \
                 residual up to {:.1e}",
                step.t.index().map_or_else(String::new, |index| index.to_string()),
                step.unconverged,
                step.iterations,
                step.residual
            ));
        }
    }
}

/// The most network calls for encoding one image, and for decoding it.
pub fn evaluations(method: &Method, steps: usize) -> (usize, usize) {
    match method {
        Method::Ddim => (steps, steps),
        Method::FixedPoint(by) => (1 + steps * by.iterations, steps),
        Method::Bdia(_) => (steps, steps.saturating_sub(1)),
        Method::Edict(_) => (2 * steps, 2 * steps),
    }
}
