//! Progressive distillation (Salimans & Ho, arXiv 2202.00512): a student learns to land in one deterministic step where its
//! teacher lands in two, then teaches the next student.

use std::sync::Arc;

use ndarray::{Array4, Axis, Slice};

use super::objective::{Draws, Examples, Objective, Start};
use super::recipe::{Recipe, Round, trajectory};
use crate::engine::{self, EngineOptions, Network};
use crate::error::{Error, Result};
use crate::io::checkpoint::{Model, SchedulerConfig, process_hash};
use crate::io::data::Dataset;
use crate::math::process::{self, landing_x0};
use crate::math::schedule::{FinalLevel, NoiseLevel, Schedule, Time};
use crate::math::sigma::Coefficients;
use crate::math::trajectory::{Spacing, Trajectory};
use crate::objective::LossWeighting;
use crate::sampling::denoiser::{Condition, Denoiser, Guided, Prediction, check_finite};
use crate::unet::{self, Config, Parameters};

/// One step of the student and the teacher's steps that it replaces.
#[derive(Clone, Debug)]
struct Leap {
    from: NoiseLevel,
    to: NoiseLevel,
    /// The teacher's times, with the levels from which and to which each of its steps leads.
    path: Vec<(Time, NoiseLevel, NoiseLevel)>,
}

/// Learns the deterministic steps of a teacher.
struct Distillation {
    rounds: Vec<Round>,
    index: usize,
    /// As the student of this round is sampled.
    scheduler: SchedulerConfig,
    schedule: Schedule,
    weighting: LossWeighting,
    student: Config,
    teacher: Box<dyn Denoiser + Send + Sync>,
    /// Bytes of the teacher for n images: those of its network, and per image.
    bytes: (usize, usize),
    /// Rows that the teacher computes per image and step.
    rows: usize,
    /// The teacher's weights, if it is a former student.
    weights: Option<Parameters>,
    /// The student's times, from low to high noise, each with its step.
    times: Vec<Time>,
    leaps: Vec<Leap>,
}

/// What identifies a teacher: its network, the process that it was trained on, and where its last step ends.
pub(super) fn identity(teacher: &Model) -> Result<String> {
    let process = process_hash(teacher.scheduler.prediction_type, &teacher.scheduler.schedule()?);
    let end = match teacher.scheduler.final_level() {
        FinalLevel::Clean => "",
        FinalLevel::FirstTrained => ", ends at the first trained level",
    };
    Ok(format!("{} (process {process}{end})", teacher.hash))
}

/// The start of a distillation by a settled recipe ([`Recipe::for_teacher`]).
pub(super) fn start(recipe: &Recipe, data: &Dataset, mut teacher: Model, engine: &EngineOptions) -> Result<Start> {
    let Some(distill) = &recipe.distill else {
        return Err(Error::argument("the recipe has no section [distill]; read it with Recipe::parse_distillation"));
    };
    teacher.check_gradient().map_err(|e| e.within("a student starts from the weights of its teacher"))?;
    check_classes(&teacher, data)?;
    let config = Config { out_channels: teacher.config.image_channels(), ..teacher.config.clone() };
    let weights = student_weights(&config, &teacher.parameters)?;
    let scheduler = SchedulerConfig {
        clip_sample: Some(false),
        thresholding: false,
        prediction_type: distill.predicts(),
        timestep_spacing: Some(Spacing::Trailing),
        steps_offset: 0,
        variance_type: SchedulerConfig::default().variance_type,
        ..teacher.scheduler.clone()
    };
    let schedule = scheduler.schedule()?;
    schedule.check_prediction(teacher.scheduler.prediction_type)?;
    let null_class = teacher.null_class;
    let guided = (distill.guidance != 1.0)
        .then(|| {
            let reason = "distill.guidance: the teacher has no null class, so it cannot be guided; leave guidance out";
            null_class.ok_or_else(|| Error::argument(reason))
        })
        .transpose()?;
    let network = teacher.open(engine)?;
    let bytes = network_bytes(&*network);
    let (teacher, rows): (Box<dyn Denoiser + Send + Sync>, _) = match guided {
        Some(null) => (Box::new(Guided::new(network as Box<dyn Denoiser + Send + Sync>, distill.guidance, null)?), 2),
        None => (network, 1),
    };
    let mut objective = Distillation {
        rounds: distill.rounds(),
        index: 0,
        scheduler,
        schedule,
        weighting: distill.weighting(),
        student: config.clone(),
        teacher,
        bytes,
        rows,
        weights: None,
        times: Vec::new(),
        leaps: Vec::new(),
    };
    objective.lay_out()?;
    Ok(Start { config, weights: Some(weights), null_class, objective: Box::new(objective) })
}

/// Refuses data without classes for a conditional teacher, and classes that it does not know.
fn check_classes(teacher: &Model, data: &Dataset) -> Result<()> {
    let Some(known) = teacher.config.num_class_embeds else { return Ok(()) };
    let found = data.num_classes().ok_or_else(|| {
        Error::argument(format!(
            "the teacher is conditional, but {} has no classes; give a data set with the teacher's classes",
            data.name()
        ))
    })?;
    let known = teacher.null_class.map_or(known, |null| null.min(known));
    if found > known {
        return Err(Error::argument(format!(
            "the teacher knows {known} classes, but {} has {found}; give a data set with the teacher's classes",
            data.name()
        )));
    }
    Ok(())
}

/// The teacher's weights; of an output with variances, the half that predicts the mean.
fn student_weights(config: &Config, teacher: &Parameters) -> Result<Parameters> {
    let mut weights = Parameters::zeros(Arc::new(unet::layout(config)?));
    let layout = weights.layout().clone();
    for spec in layout.specs() {
        let values = teacher.get(&spec.name).filter(|values| values.len() >= spec.len());
        let values = values.ok_or_else(|| Error::data(format!("the teacher has no weights {}", spec.name)))?;
        weights.data_mut()[spec.range()].copy_from_slice(&values[..spec.len()]);
    }
    Ok(weights)
}

/// Bytes of a network: its weights, and the activations of an image.
fn network_bytes(network: &dyn Network) -> (usize, usize) {
    let cost = network.cost();
    (cost.weight_bytes, cost.activation_bytes)
}

impl Distillation {
    /// Lays out the steps of the round.
    fn lay_out(&mut self) -> Result<()> {
        let round = self.rounds[self.index];
        let trained = self.schedule.train_steps();
        let level = |t: Time| match t.index() {
            None => Ok(self.schedule.final_level(self.scheduler.final_level())),
            Some(_) => self.schedule.level(t),
        };
        let all = trajectory(round.teacher, trained)?;
        let per_leap = round.teacher / round.student;
        let mut steps = all.steps();
        let (mut times, mut leaps) = (Vec::new(), Vec::new());
        while steps.len() > 0 {
            let path: Vec<_> = steps.by_ref().take(per_leap).collect();
            let (first, last) = (path[0].0, path[path.len() - 1].1);
            let path = path.into_iter().map(|(t, s)| Ok((t, level(t)?, level(s)?))).collect::<Result<Vec<_>>>()?;
            let leap = Leap { from: level(first)?, to: level(last)?, path };
            if leap.from == leap.to {
                return Err(Error::argument(format!(
                    "distill.from: {} steps of the teacher, which ends at its first trained level (set_alpha_to_one: false in its \
                     scheduler), begin with one at that level, which leads nowhere; choose fewer",
                    round.teacher
                )));
            }
            times.push(first);
            leaps.push(leap);
        }
        if times != trajectory(round.student, trained)?.times() {
            return Err(Error::argument(format!(
                "distill.from: of the teacher's {} steps within {trained} timesteps, every second is none of {}; choose another \
                 number of steps",
                round.teacher, round.student
            )));
        }
        times.reverse();
        leaps.reverse();
        (self.times, self.leaps) = (times, leaps);
        self.scheduler.num_inference_steps = Some(round.student);
        Ok(())
    }

    /// The student's steps from these times.
    fn leaps_from(&self, times: &[Time]) -> Result<Vec<&Leap>> {
        let step = |t: &Time| {
            let found = self.times.binary_search(t).map(|i| &self.leaps[i]);
            found.map_err(|_| Error::argument(format!("t = {t} is no timestep of the student")))
        };
        times.iter().map(step).collect()
    }

    /// The outputs that the student should give at `x_t`: each leads to where the teacher's steps lead.
    fn teach(&self, x_t: &Array4<f32>, leaps: &[&Leap], conditions: &[Condition]) -> Result<Array4<f32>> {
        let own = self.teacher.prediction();
        let channels = Slice::from(..self.teacher.shape()[0]);
        let steps = leaps.first().map_or(0, |leap| leap.path.len());
        let mut x = x_t.clone();
        // Where each step lands, in f64: the target divides small differences of the last one.
        let mut landed: Array4<f64> = x.mapv(f64::from);
        for k in 0..steps {
            let times: Vec<Time> = leaps.iter().map(|leap| leap.path[k].0).collect();
            let out = self.teacher.predict(&x, &times, conditions)?;
            check_finite("the teacher's output", &out)?;
            // A learned variance lies behind the channels of the image.
            let out = out.slice_axis(Axis(1), channels);
            for (i, leap) in leaps.iter().enumerate() {
                let (_, from, to) = leap.path[k];
                let c = Coefficients::deterministic(to);
                let [of_x0, of_eps] = [own.as_type(Prediction::Sample, from)?, own.as_type(Prediction::Epsilon, from)?];
                let (of_x, of_out) = (c.x0 * of_x0.0 + c.eps * of_eps.0, c.x0 * of_x0.1 + c.eps * of_eps.1);
                let (x, out) = (x.index_axis(Axis(0), i), out.index_axis(Axis(0), i));
                ndarray::Zip::from(landed.index_axis_mut(Axis(0), i))
                    .and(x)
                    .and(out)
                    .for_each(|to, &x, &out| *to = of_x * f64::from(x) + of_out * f64::from(out));
            }
            x = landed.mapv(|value| value as f32);
        }
        let prediction = self.scheduler.prediction_type;
        let mut target = Array4::zeros(x_t.dim());
        for (i, leap) in leaps.iter().enumerate() {
            ndarray::Zip::from(target.index_axis_mut(Axis(0), i))
                .and(x_t.index_axis(Axis(0), i))
                .and(landed.index_axis(Axis(0), i))
                .for_each(|target, &x_t, &x_s| *target = leap.target(prediction, f64::from(x_t), x_s) as f32);
        }
        Ok(target)
    }
}

impl Leap {
    /// The output that the student should give at `x_t`, for its prediction type, if the teacher lands on `x_s`.
    fn target(&self, prediction: Prediction, x_t: f64, x_s: f64) -> f64 {
        let x0 = landing_x0(self.from, self.to, x_t, x_s);
        match prediction {
            Prediction::Sample => x0,
            // ε of a pair is (x_t − √a·x₀)/√(1−a).
            other => other.target(self.from, x0, (x_t - self.from.signal() * x0) / self.from.noise()),
        }
    }
}

impl Objective for Distillation {
    fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    fn times(&self) -> &[Time] {
        &self.times
    }

    fn examples(&self, draws: &Draws<'_>) -> Result<Examples> {
        let leaps = self.leaps_from(draws.times)?;
        let levels: Vec<NoiseLevel> = leaps.iter().map(|leap| leap.from).collect();
        let x_t = process::diffuse(draws.x0, draws.eps, &levels)?;
        let target = self.teach(&x_t, &leaps, draws.conditions)?;
        let weights = levels.iter().map(|level| self.weighting.at(self.scheduler.prediction_type, *level)).collect();
        Ok(Examples { x_t, target, weights })
    }

    fn preview(&self, _: usize) -> Result<Trajectory> {
        trajectory(self.rounds[self.index].student, self.schedule.train_steps())
    }

    /// The targets depend on the input alone, so nothing has to be kept from being learnt by heart.
    fn drops(&self) -> bool {
        false
    }

    fn round(&self) -> Option<Round> {
        Some(self.rounds[self.index])
    }

    fn teacher(&self) -> Option<&Parameters> {
        self.weights.as_ref()
    }

    fn begin(&mut self, index: usize, teacher: Parameters, engine: &EngineOptions) -> Result<()> {
        let network = engine::open(self.student.clone(), teacher.clone(), self.scheduler.prediction_type, engine)?;
        self.bytes = network_bytes(&*network);
        (self.teacher, self.rows) = (network, 1);
        (self.weights, self.index) = (Some(teacher), index);
        self.lay_out()
    }

    fn calls(&self, round: usize) -> usize {
        // Only the first teacher may be guided.
        let rows = if round == 0 { self.rows } else { 1 };
        let Round { teacher, student } = self.rounds[round];
        rows * teacher / student
    }

    fn bytes(&self, n: usize) -> usize {
        self.bytes.0 + self.bytes.1 * self.rows * n
    }
}

#[cfg(test)]
mod tests;
