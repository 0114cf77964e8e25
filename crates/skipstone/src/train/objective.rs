//! What a training teaches its network: noisy images, and the outputs that it should give for them.

use ndarray::Array4;

use super::recipe::{Recipe, Round};
use crate::engine::EngineOptions;
use crate::error::{Error, Result};
use crate::io::checkpoint::SchedulerConfig;
use crate::io::data::Dataset;
use crate::math::process;
use crate::math::schedule::{Schedule, Time};
use crate::math::trajectory::{Spacing, Trajectory};
use crate::objective::LossWeighting;
use crate::sampling::denoiser::Condition;
use crate::unet::{self, Config, Layout, ParameterSpec, Parameters};

/// Clean images with their noise: what a batch is made from. One time and, in a conditional network, one condition per image.
pub(super) struct Draws<'a> {
    pub x0: &'a Array4<f32>,
    pub eps: &'a Array4<f32>,
    pub times: &'a [Time],
    pub conditions: &'a [Condition],
}

/// A batch as the network sees it.
pub(super) struct Examples {
    pub x_t: Array4<f32>,
    /// The outputs to learn, of the images' shape.
    pub target: Array4<f32>,
    /// The weight of each image's squared error.
    pub weights: Vec<f64>,
}

/// An objective of a training.
pub(super) trait Objective: Send + Sync {
    /// How the model is sampled that learns this.
    fn scheduler(&self) -> &SchedulerConfig;

    /// The times that are drawn, each with the same probability, from low to high noise.
    fn times(&self) -> &[Time];

    /// Inputs and targets for these images.
    fn examples(&self, draws: &Draws<'_>) -> Result<Examples>;

    /// The times of a preview, `steps` of them if the objective leaves the choice.
    fn preview(&self, steps: usize) -> Result<Trajectory>;

    /// Whether the network drops activations while it learns, if its config says so.
    fn drops(&self) -> bool {
        true
    }

    /// The round, if this is a distillation.
    fn round(&self) -> Option<Round> {
        None
    }

    /// The teacher, if it is a former student.
    fn teacher(&self) -> Option<&Parameters> {
        None
    }

    /// Goes on to round `index`, in which the student of the round before teaches.
    fn begin(&mut self, index: usize, teacher: Parameters, engine: &EngineOptions) -> Result<()> {
        let _ = (index, teacher, engine);
        Ok(())
    }

    /// Calls of the teacher per image in round `round`.
    fn calls(&self, round: usize) -> usize {
        let _ = round;
        0
    }

    /// Bytes that a call of the teacher with `n` images takes.
    fn bytes(&self, n: usize) -> usize {
        let _ = n;
        0
    }
}

/// What a training starts from.
pub(super) struct Start {
    pub config: Config,
    pub weights: Option<Parameters>,
    pub null_class: Option<usize>,
    pub objective: Box<dyn Objective>,
}

/// Learns ε, x₀ or v of data.
struct Denoising {
    scheduler: SchedulerConfig,
    schedule: Schedule,
    weighting: LossWeighting,
    times: Vec<Time>,
}

/// The start of a training on data alone, from the weights `init` or from random ones.
pub(super) fn denoising(recipe: &Recipe, data: &Dataset, init: Option<Parameters>) -> Result<Start> {
    if recipe.distill.is_some() {
        return Err(Error::argument("the recipe has a section [distill]; a distillation needs a teacher"));
    }
    let classes = match (recipe.data.classes, data.num_classes()) {
        (false, _) => None,
        (true, Some(k)) => Some(k),
        (true, None) => {
            return Err(Error::argument(format!("data.classes = true, but {} has no classes", data.name())));
        }
    };
    let config = recipe.config(classes)?;
    if let Some(init) = &init {
        check_layout(init.layout(), &unet::layout(&config)?)?;
    }
    let scheduler = recipe.scheduler();
    let schedule = scheduler.schedule()?;
    let times = (1..=schedule.train_steps()).map(Time::new).collect();
    let objective = Denoising { scheduler, schedule, weighting: recipe.weighting(), times };
    let null_class = classes.filter(|_| recipe.data.class_dropout > 0.0);
    Ok(Start { config, weights: init, null_class, objective: Box::new(objective) })
}

/// Refuses initial weights of another architecture.
fn check_layout(found: &Layout, wanted: &Layout) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let named = |spec: Option<&ParameterSpec>| {
        spec.map_or("no more".to_owned(), |spec| format!("{} {:?}", spec.name, spec.shape))
    };
    let (mut ours, mut theirs) = (wanted.specs().iter(), found.specs().iter());
    let (mine, other) = loop {
        match (ours.next(), theirs.next()) {
            (Some(a), Some(b)) if (&a.name, &a.shape) == (&b.name, &b.shape) => {}
            differing => break differing,
        }
    };
    Err(Error::argument(format!(
        "the initial model has another architecture than the recipe: it has the weights {}, the recipe's network {}; set [model] as in \
         the model's unet/config.json",
        named(other),
        named(mine)
    )))
}

impl Objective for Denoising {
    fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    fn times(&self) -> &[Time] {
        &self.times
    }

    fn examples(&self, draws: &Draws<'_>) -> Result<Examples> {
        let prediction = self.scheduler.prediction_type;
        let levels = draws.times.iter().map(|t| self.schedule.level(*t)).collect::<Result<Vec<_>>>()?;
        Ok(Examples {
            x_t: process::diffuse(draws.x0, draws.eps, &levels)?,
            target: process::target(prediction, draws.x0, draws.eps, &levels)?,
            weights: levels.iter().map(|level| self.weighting.at(prediction, *level)).collect(),
        })
    }

    fn preview(&self, steps: usize) -> Result<Trajectory> {
        let times = self.schedule.train_steps();
        Trajectory::named(Spacing::Linear, steps.min(times as usize), times, 0)
    }
}
