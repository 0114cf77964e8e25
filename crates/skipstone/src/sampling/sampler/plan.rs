use super::restart::{Jump, Restart};
use crate::error::{Error, Result};
use crate::math::schedule::{FinalLevel, Schedule};
use crate::math::sigma::{NoiseScale, Step, table};
use crate::math::trajectory::Trajectory;
use crate::sampling::denoiser::{Clip, Denoiser, Prediction};
use crate::sampling::solver::{NoiseUse, Solver};

/// A run without its network and noise: the scalars of every step, the solver and the clipping.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    schedule: Schedule,
    steps: Vec<Step>,
    clip: Clip,
    solver: Solver,
    /// Returns to more noise, in order.
    jumps: Vec<Jump>,
}

impl Plan {
    /// A DDIM run over `trajectory` with noise from `scale`.
    ///
    /// # Errors
    /// The trajectory goes beyond the schedule, a σ is outside its range (the message names the step), or `clip` is
    /// invalid.
    pub fn new(
        schedule: &Schedule,
        trajectory: &Trajectory,
        scale: &NoiseScale,
        final_level: FinalLevel,
        clip: Clip,
    ) -> Result<Self> {
        clip.check()?;
        if final_level == FinalLevel::FirstTrained {
            tracing::info!("the last step lands on a of index 0 instead of a = 1, as the model's config says");
        }
        let steps = table(schedule, trajectory, scale, final_level)?;
        Ok(Self { schedule: schedule.clone(), steps, clip, solver: Solver::DDIM, jumps: Vec::new() })
    }

    /// Plain DDIM: η = 0, no clipping, landing on clean data.
    ///
    /// # Errors
    /// The trajectory goes beyond the schedule.
    pub fn ddim(schedule: &Schedule, trajectory: &Trajectory) -> Result<Self> {
        Self::new(schedule, trajectory, &NoiseScale::Eta(0.0), FinalLevel::Clean, Clip::Off)
    }

    /// The same run with noise σ₁·z on its last step: p_θ(x₀|x₁) = N(x̂₀, σ₁²I), DDIM Eq. 10. No later step constrains σ₁;
    /// 0 removes the noise.
    ///
    /// # Errors
    /// σ₁ is negative or not finite, or positive with a solver that does not inject the run's noise.
    pub fn with_final_sigma(mut self, sigma: f64) -> Result<Self> {
        if !(sigma.is_finite() && sigma >= 0.0) {
            return Err(Error::argument(format!("final_sigma: expected a finite number of at least 0, found {sigma}")));
        }
        if let Some(last) = self.steps.last_mut() {
            last.coefficients.z = sigma;
        }
        self.solver.check(&self.steps, self.clip)?;
        Ok(self)
    }

    /// The σ₁ with which an image is encoded with its noise where none is given: the noise that remains at the last step,
    /// √(1 − a_t). Rounded to four digits, because whoever decodes repeats it.
    pub fn usual_final_sigma(&self) -> f64 {
        let level = self.steps.last().map_or(1.0, |step| step.from.noise());
        format!("{level:.3e}").parse().unwrap_or(level)
    }

    /// The steps in order, with their coefficients.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The same run with another solver.
    ///
    /// # Errors
    /// The solver does not support this run: see [`Solver::check`].
    pub fn with_solver(mut self, solver: Solver) -> Result<Self> {
        solver.check(&self.steps, self.clip)?;
        self.solver = solver;
        Ok(self)
    }

    /// The first of these solvers that supports this run, else DDIM, which supports every run.
    pub fn first_allowed(&self, solvers: &[Solver]) -> Solver {
        solvers.iter().copied().find(|solver| solver.check(&self.steps, self.clip).is_ok()).unwrap_or(Solver::DDIM)
    }

    /// The same run with some of its steps repeated; a deterministic run becomes a stochastic one. [`steps`](Self::steps)
    /// then has the repeated steps, too.
    ///
    /// # Errors
    /// The run injects noise by itself, it has been restarted already, or none of its steps lies between the timesteps.
    pub fn with_restart(mut self, restart: Restart) -> Result<Self> {
        if !self.is_deterministic() {
            return Err(Error::argument(
                "restart: needs a run without noise of its own; remove the noise, or choose another solver",
            ));
        }
        (self.steps, self.jumps) = restart.unroll(&self.steps)?;
        Ok(self)
    }

    /// The return to more noise before this step.
    pub(super) fn jump_before(&self, step: usize) -> Option<&Jump> {
        self.jumps.iter().find(|jump| jump.before == step)
    }

    /// The solver of the run.
    pub fn solver(&self) -> Solver {
        self.solver
    }

    /// Refuses every solver but DDIM for `what`, which depends on DDIM steps in their order.
    pub(crate) fn check_ddim(&self, what: &str) -> Result<()> {
        if !self.jumps.is_empty() {
            return Err(Error::argument(format!("{what}: cannot be used with restart; remove it")));
        }
        if self.solver == Solver::DDIM {
            return Ok(());
        }
        Err(Error::argument(format!(
            "{what}: needs the steps of ddim, found solver {}; choose solver ddim",
            self.solver
        )))
    }

    /// Whether a step takes its variance from the network.
    pub(crate) fn learns_variance(&self) -> bool {
        self.steps.iter().any(|step| step.coefficients.least_z.is_some())
    }

    /// Refuses a run with learned variances of a network that has none.
    pub(crate) fn check_variance<D: Denoiser + ?Sized>(&self, denoiser: &D) -> Result<()> {
        let (found, images) = (denoiser.output_channels(), denoiser.shape()[0]);
        if !self.learns_variance() || found == 2 * images {
            return Ok(());
        }
        Err(Error::argument(format!(
            "sigma learned: needs a network that learns its variance, with {} output channels, found {found}; choose eta or \
             another sigma",
            2 * images
        )))
    }

    /// The number of network calls: one per step, or more with some solvers.
    pub fn calls(&self) -> usize {
        self.solver.calls(self.steps.len())
    }

    /// The number of network calls made once `step` steps are done.
    pub fn calls_after(&self, step: usize) -> usize {
        // Only the last step may make fewer calls than the others.
        if step < self.steps.len() { self.solver.calls(step + 1).saturating_sub(1) } else { self.calls() }
    }

    /// Clipping of x̂₀.
    pub fn clip(&self) -> Clip {
        self.clip
    }

    /// The noise schedule of the run.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Whether no step of the run injects noise.
    pub fn is_deterministic(&self) -> bool {
        self.jumps.is_empty()
            && self.solver.scheme().noise != NoiseUse::Own
            && self.steps.iter().all(|step| step.coefficients.z == 0.0)
    }

    /// Refuses a prediction type that the schedule does not allow.
    ///
    /// # Errors
    /// ε-prediction at zero terminal SNR.
    pub fn check(&self, prediction: Prediction) -> Result<()> {
        self.schedule.check_prediction(prediction)
    }
}
