//! Solvers of the deterministic process: one ordinary differential equation, one network, several ways to step.
//!
//! With η = 0 the generative process is the ODE dx̄ = ε̂(x̄/√(σ_ve² + 1)) dσ_ve in x̄ = x/√a and σ_ve = √((1−a)/a)
//! (DDIM Eq. 14). DDIM is its Euler method; the others reach the same images in fewer network calls, or (`ve-euler`)
//! show what a different Euler method costs. Which one is best depends on how few calls there are.

mod methods;

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use ndarray::Array4;

use crate::denoiser::{Clip, Denoised};
use crate::error::{Error, Result};
use crate::schedule::NoiseLevel;
use crate::sigma::Step;

/// How a deterministic run steps from one time to the next.
///
/// ```
/// use skipstone::solver::Solver;
/// let heun: Solver = "heun".parse()?;
/// assert_eq!((heun.order(), heun.calls(10)), (2, 19));
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Solver {
    /// DDIM (Eq. 12 with σ = 0): Euler in σ_ve, order 1. The only one that can inject noise.
    #[default]
    Ddim,
    /// Euler on the probability flow of the VE-SDE as Proposition 1 writes it, in σ_ve²; order 1.
    VeEuler,
    /// Heun's method (Karras et al., arXiv 2206.00364, Alg. 1); order 2. Two calls a step, one for the last: 2S − 1.
    Heun,
    /// Adams–Bashforth of order 2 on variable steps, as Liu et al. (arXiv 2202.09778) use it on even ones.
    AdamsBashforth2,
    /// Adams–Bashforth of order 3; its first two steps are of orders 1 and 2.
    AdamsBashforth3,
    /// Adams–Bashforth of order 4; its first three steps are of orders 1, 2 and 3.
    AdamsBashforth4,
    /// DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, Alg. 2): multistep in log σ_ve on x̂₀; order 2.
    DpmPlusPlus2M,
}

impl Solver {
    /// Every solver, in the order the command line lists them.
    pub const ALL: [Self; 7] = [
        Self::Ddim,
        Self::VeEuler,
        Self::Heun,
        Self::AdamsBashforth2,
        Self::AdamsBashforth3,
        Self::AdamsBashforth4,
        Self::DpmPlusPlus2M,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::VeEuler => "ve-euler",
            Self::Heun => "heun",
            Self::AdamsBashforth2 => "ab2",
            Self::AdamsBashforth3 => "ab3",
            Self::AdamsBashforth4 => "ab4",
            Self::DpmPlusPlus2M => "dpm++2m",
        }
    }

    /// The power of the step size with which the error falls.
    pub const fn order(self) -> usize {
        match self {
            Self::Ddim | Self::VeEuler => 1,
            Self::Heun | Self::AdamsBashforth2 | Self::DpmPlusPlus2M => 2,
            Self::AdamsBashforth3 => 3,
            Self::AdamsBashforth4 => 4,
        }
    }

    /// Network calls of a run of so many steps.
    pub const fn calls(self, steps: usize) -> usize {
        match self {
            Self::Heun => (2 * steps).saturating_sub(1),
            _ => steps,
        }
    }

    /// Refuses a run that this solver cannot make.
    ///
    /// # Errors
    /// For every solver but DDIM: steps that inject noise, a start at zero SNR where σ_ve is infinite, and clipping
    /// that leaves ε̂ untouched for a solver that follows ε̂ alone.
    pub fn check(self, steps: &[Step], clip: Clip) -> Result<()> {
        if self == Self::Ddim {
            return Ok(());
        }
        if steps.iter().any(|step| step.sigma != 0.0 || step.coefficients.z != 0.0) {
            return Err(Error::argument(format!(
                "solver {self}: follows the deterministic process, so it needs eta = 0; leave the noise out, or choose \
                 solver ddim"
            )));
        }
        if let Some(step) = steps.iter().find(|step| step.from.alpha_bar == 0.0) {
            return Err(Error::argument(format!(
                "solver {self}: sigma_ve = sqrt((1 - a)/a) is infinite at t = {} (zero terminal SNR); choose solver \
                 ddim, or times below it",
                step.t.get()
            )));
        }
        if matches!(clip, Clip::KeepEps(_)) && self != Self::DpmPlusPlus2M {
            return Err(Error::argument(format!(
                "solver {self}: follows the predicted noise alone, which clip keep-eps leaves as it is; choose clip off \
                 or rederive-eps"
            )));
        }
        Ok(())
    }
}

impl fmt::Display for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Solver {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|solver| solver.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::argument(format!("solver \"{name}\": expected one of {names}"))
        })
    }
}

/// A solver under way: what it remembers of earlier steps.
#[derive(Clone, Debug)]
pub(crate) struct Stepper {
    solver: Solver,
    /// Earlier network views, the latest first: ε̂ for Adams–Bashforth, x̂₀ for DPM-Solver++.
    past: VecDeque<Array4<f32>>,
}

impl Stepper {
    /// At the start of a run.
    pub(crate) fn new(solver: Solver) -> Self {
        Self { solver, past: VecDeque::new() }
    }

    /// x_s of the last of `steps`, those made so far and the one to make, from x_t and the network's views there.
    /// `again` asks the network at a predicted x_s.
    pub(crate) fn step(
        &mut self,
        steps: &[Step],
        x_t: &Array4<f32>,
        denoised: &Denoised,
        again: impl FnOnce(&Array4<f32>, NoiseLevel) -> Result<Denoised>,
    ) -> Result<Array4<f32>> {
        let at = &steps[steps.len() - 1];
        let order = self.solver.order();
        Ok(match self.solver {
            Solver::Ddim => crate::sampler::step(denoised, at.coefficients, None),
            Solver::VeEuler => methods::ve_euler(at, x_t, &denoised.eps),
            Solver::Heun => methods::heun(at, x_t, &denoised.eps, |x_s| Ok(again(x_s, at.to)?.eps))?,
            Solver::AdamsBashforth2 | Solver::AdamsBashforth3 | Solver::AdamsBashforth4 => {
                self.remember(&denoised.eps, order);
                methods::adams_bashforth(steps, x_t, &self.past)
            }
            Solver::DpmPlusPlus2M => {
                self.remember(&denoised.x0, order);
                methods::dpm_plus_plus_2m(steps, x_t, &self.past)
            }
        })
    }

    fn remember(&mut self, view: &Array4<f32>, most: usize) {
        self.past.push_front(view.clone());
        self.past.truncate(most);
    }
}

#[cfg(test)]
mod tests;
