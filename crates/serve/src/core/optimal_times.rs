//! Spacing `optimal`: the optimal timesteps of a model for every number of steps.

use std::sync::OnceLock;

use skipstone::io::checkpoint::{Model, process_hash};
use skipstone::math::trajectory::BestTimes;
use skipstone::objective::calibration;
use skipstone::sampling::generate::Settings;
use skipstone::sampling::options::{Noise, Request, SpacingChoice};
use skipstone::sampling::sampler::Plan;

use super::failure::Failure;

/// The table of a model's optimal timesteps. Computing it takes long, so the first request for it does this for all.
pub struct OptimalTimes {
    most_steps: usize,
    table: OnceLock<Result<BestTimes, Failure>>,
}

/// A request for optimal timesteps, resolved.
pub struct Explicit {
    /// The same request with explicit timesteps.
    pub request: Request,
    /// Its settings and plan, as [`Settings::resolve`] returns them.
    pub run: (Settings, Plan),
}

impl OptimalTimes {
    /// An empty table for runs of at most `most_steps` steps.
    pub fn new(most_steps: usize) -> Self {
        Self { most_steps, table: OnceLock::new() }
    }

    /// Looks up the timesteps of a request. Returns `None` if the request does not ask for optimal timesteps, or if its
    /// number of steps is refused elsewhere.
    ///
    /// # Errors
    /// The model has no matching calibration, or the other options are not valid for it.
    pub fn resolve(&self, model: &Model, request: &Request) -> Result<Option<Explicit>, Failure> {
        if request.times.is_some() || request.spacing != Some(SpacingChoice::Optimal) {
            return Ok(None);
        }
        let schedule = model.scheduler.schedule()?;
        let (trained, most) = (schedule.train_steps(), schedule.train_steps() as usize);
        let steps = request.steps_of(model.scheduler.default_steps());
        let longest = most.min(self.most_steps);
        if !(1..=longest).contains(&steps) {
            return Ok(None);
        }
        let process = process_hash(model.scheduler.prediction_type, &schedule);
        let what = "spacing optimal";
        let calibration = calibration::required(model.calibration.as_ref(), what, &model.hash, &process, trained)?;
        let make = || Ok(calibration.best_times(&schedule, longest)?);
        let table = self.table.get_or_init(make).as_ref().map_err(Clone::clone)?;
        let times = table.trajectory(steps)?.times().iter().filter_map(|t| t.index()?.whole()).collect();
        let explicit = Request { times: Some(times), ..request.clone() };
        let (mut settings, plan) = Settings::resolve(model, &explicit)?;
        (settings.steps, settings.spacing) = (Some(steps), request.spacing.clone());
        settings.calibration = Some(calibration.hash());
        Ok(Some(Explicit { request: explicit, run: (settings, plan) }))
    }
}

/// Whether the model has a calibration for the analytic variance and optimal timesteps.
pub fn is_calibrated(model: &Model) -> bool {
    let request = Request {
        steps: Some(2),
        spacing: Some(SpacingChoice::Optimal),
        noise: Noise::Analytic { eta: 1.0 },
        ..Request::default()
    };
    model.calibration.is_some() && Settings::resolve(model, &request).is_ok()
}
