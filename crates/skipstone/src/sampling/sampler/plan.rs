use crate::error::{Error, Result};
use crate::math::schedule::{FinalLevel, Schedule};
use crate::math::sigma::{NoiseScale, Step, table};
use crate::math::trajectory::Trajectory;
use crate::sampling::denoiser::{Clip, Prediction};
use crate::sampling::solver::{NoiseUse, Solver};

/// Everything about a run but the network and the noise: the scalars of every step, and the clipping.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    schedule: Schedule,
    steps: Vec<Step>,
    clip: Clip,
    solver: Solver,
}

impl Plan {
    /// The run over `trajectory` with noise by `scale`.
    ///
    /// # Errors
    /// A trajectory beyond the schedule, a σ outside its range (the step is named), a meaningless clip.
    pub fn new(
        schedule: &Schedule,
        trajectory: &Trajectory,
        scale: &NoiseScale,
        final_level: FinalLevel,
        clip: Clip,
    ) -> Result<Self> {
        clip.check()?;
        if final_level == FinalLevel::FirstTrained {
            tracing::info!("the last step lands on a of index 0 instead of 1, as the model's config asks");
        }
        let steps = table(schedule, trajectory, scale, final_level)?;
        Ok(Self { schedule: schedule.clone(), steps, clip, solver: Solver::DDIM })
    }

    /// Plain DDIM: η = 0, no clipping, landing on clean data.
    ///
    /// # Errors
    /// A trajectory beyond the schedule.
    pub fn ddim(schedule: &Schedule, trajectory: &Trajectory) -> Result<Self> {
        Self::new(schedule, trajectory, &NoiseScale::Eta(0.0), FinalLevel::Clean, Clip::Off)
    }

    /// The same run with noise σ₁·z on its last step: p_θ(x₀|x₁) = N(x̂₀, σ₁²I), DDIM Eq. 10. Its scale is free, as the
    /// image is the end of the run; 0 takes the noise away.
    ///
    /// # Errors
    /// A σ₁ that is not finite or below 0, or above it for a solver that takes no noise.
    pub fn with_final_sigma(mut self, sigma: f64) -> Result<Self> {
        if !(sigma.is_finite() && sigma >= 0.0) {
            return Err(Error::argument(format!("final sigma: expected a finite number of at least 0, found {sigma}")));
        }
        if let Some(last) = self.steps.last_mut() {
            last.coefficients.z = sigma;
        }
        self.solver.check(&self.steps, self.clip)?;
        Ok(self)
    }

    /// The steps in order, with their coefficients.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The same run stepped by `solver`, DDIM unless said otherwise.
    ///
    /// # Errors
    /// A run that this solver cannot make: see [`Solver::check`].
    pub fn with_solver(mut self, solver: Solver) -> Result<Self> {
        solver.check(&self.steps, self.clip)?;
        self.solver = solver;
        Ok(self)
    }

    /// How the run steps.
    pub fn solver(&self) -> Solver {
        self.solver
    }

    /// Refuses every solver but DDIM for `what`, which is made of its steps.
    pub(crate) fn check_ddim(&self, what: &str) -> Result<()> {
        if self.solver == Solver::DDIM {
            return Ok(());
        }
        Err(Error::argument(format!(
            "{what}: goes by the steps of ddim, found solver {}; choose solver ddim",
            self.solver
        )))
    }

    /// The number of network calls: one per step, but for solvers that make more.
    pub fn calls(&self) -> usize {
        self.solver.calls(self.steps.len())
    }

    /// The number of network calls made once `step` steps are done.
    pub fn calls_after(&self, step: usize) -> usize {
        // Only the last step may be cheaper than the others.
        if step < self.steps.len() { self.solver.calls(step + 1).saturating_sub(1) } else { self.calls() }
    }

    /// What is done to x̂₀.
    pub fn clip(&self) -> Clip {
        self.clip
    }

    /// The schedule the run goes through.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Whether the run draws no noise.
    pub fn is_deterministic(&self) -> bool {
        self.solver.scheme().noise != NoiseUse::Own && self.steps.iter().all(|step| step.coefficients.z == 0.0)
    }

    /// Refuses a parameterization without meaning under the schedule.
    ///
    /// # Errors
    /// ε-prediction at zero terminal SNR.
    pub fn check(&self, prediction: Prediction) -> Result<()> {
        self.schedule.check_prediction(prediction)
    }
}
