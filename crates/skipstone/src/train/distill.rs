//! Progressive distillation (Salimans & Ho, arXiv 2202.00512): a student learns to land in one deterministic step where its
//! teacher lands in two, then teaches the next student. The first teacher may step by Heun's method instead of DDIM's.

use std::sync::Arc;

use ndarray::{Array4, Axis, Slice};

use super::objective::{Draws, Examples, Objective, Start};
use super::recipe::{Recipe, Round, TeacherSolver, trajectory};
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
    path: Vec<TeacherStep>,
}

/// A step of the teacher, from t to s.
#[derive(Clone, Copy, Debug)]
struct TeacherStep {
    t: Time,
    s: Time,
    from: NoiseLevel,
    to: NoiseLevel,
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
    /// Of the first teacher; students teach by DDIM.
    solver: TeacherSolver,
    teacher: Box<dyn Denoiser + Send + Sync>,
    /// Bytes of the teacher for n images: those of its network, and per image.
    bytes: (usize, usize),
    /// Rows that the teacher computes per image and call: two if it is guided.
    rows: usize,
    /// Rows that the first teacher computes per image and step.
    first: usize,
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
        solver: distill.solver,
        student: config.clone(),
        teacher,
        bytes,
        rows,
        first: if distill.solver == TeacherSolver::Heun { 2 * rows } else { rows },
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
            let step = |(t, s)| Ok(TeacherStep { t, s, from: level(t)?, to: level(s)? });
            let path = path.into_iter().map(step).collect::<Result<Vec<_>>>()?;
            let leap = Leap { from: level(first)?, to: level(last)?, path };
            if self.solver == TeacherSolver::Heun && leap.from.alpha_bar == 0.0 {
                return Err(Error::argument(format!(
                    "distill.solver: sigma_ve = sqrt((1 - a)/a) is infinite at t = {first} (zero terminal SNR), where heun cannot \
                     begin; choose ddim"
                )));
            }
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
        let length = leaps.first().map_or(0, |leap| leap.path.len());
        let mut x = x_t.clone();
        // Where each step lands, in f64: the target divides small differences of the last one.
        let mut landed: Array4<f64> = x.mapv(f64::from);
        for k in 0..length {
            let steps: Vec<TeacherStep> = leaps.iter().map(|leap| leap.path[k]).collect();
            landed = self.teachers_step(&x, &steps, conditions)?;
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

    /// Where one step of the teacher leads each image of `x`.
    fn teachers_step(&self, x: &Array4<f32>, steps: &[TeacherStep], conditions: &[Condition]) -> Result<Array4<f64>> {
        let times: Vec<Time> = steps.iter().map(|step| step.t).collect();
        let here = self.answers(x, &times, conditions)?;
        let mut landed = Array4::zeros(x.dim());
        for (i, step) in steps.iter().enumerate() {
            let c = Coefficients::deterministic(step.to);
            let ([x0, eps], [x0_of_out, eps_of_out]) = self.views(step.from)?;
            let (of_x, of_out) = (c.x0 * x0 + c.eps * eps, c.x0 * x0_of_out + c.eps * eps_of_out);
            ndarray::Zip::from(landed.index_axis_mut(Axis(0), i))
                .and(x.index_axis(Axis(0), i))
                .and(here.index_axis(Axis(0), i))
                .for_each(|to, &x, &out| *to = of_x * f64::from(x) + of_out * f64::from(out));
        }
        // Heun's method makes the step again with the mean of both slopes, unless it ends where networks are never called.
        let rows: Vec<usize> = (0..steps.len()).filter(|&i| steps[i].s != Time::CLEAN).collect();
        if self.solver == TeacherSolver::Ddim || rows.is_empty() {
            return Ok(landed);
        }
        let tried = landed.select(Axis(0), &rows).mapv(|value| value as f32);
        let times: Vec<Time> = rows.iter().map(|&i| steps[i].s).collect();
        let conditions: Vec<Condition> = rows.iter().filter_map(|&i| conditions.get(i).copied()).collect();
        let there = self.answers(&tried, &times, &conditions)?;
        for (row, &i) in rows.iter().enumerate() {
            let TeacherStep { from, to, .. } = steps[i];
            let ([_, eps], [_, eps_of_out]) = self.views(from)?;
            let ([_, eps_there], [_, eps_of_out_there]) = self.views(to)?;
            let half = 0.5 * to.signal() * (to.sigma_ve() - from.sigma_ve());
            ndarray::Zip::from(landed.index_axis_mut(Axis(0), i))
                .and(x.index_axis(Axis(0), i))
                .and(here.index_axis(Axis(0), i))
                .and(tried.index_axis(Axis(0), row))
                .and(there.index_axis(Axis(0), row))
                .for_each(|to, &x, &out, &tried, &out_there| {
                    let slope = eps * f64::from(x) + eps_of_out * f64::from(out);
                    let slope_there = eps_there * f64::from(tried) + eps_of_out_there * f64::from(out_there);
                    *to += half * (slope_there - slope);
                });
        }
        Ok(landed)
    }

    /// The teacher's outputs for images at these times.
    fn answers(&self, x: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        let out = self.teacher.predict(x, times, conditions)?;
        check_finite("the teacher's output", &out)?;
        // A learned variance lies behind the channels of the image.
        Ok(out.slice_axis_move(Axis(1), Slice::from(..self.teacher.shape()[0])))
    }

    /// x̂₀ and ε̂ of the teacher at a level: the factors of x in both, and those of its output.
    fn views(&self, level: NoiseLevel) -> Result<([f64; 2], [f64; 2])> {
        let own = self.teacher.prediction();
        let [x0, eps] = [own.as_type(Prediction::Sample, level)?, own.as_type(Prediction::Epsilon, level)?];
        Ok(([x0.0, eps.0], [x0.1, eps.1]))
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
        (self.weights, self.index, self.solver) = (Some(teacher), index, TeacherSolver::Ddim);
        self.lay_out()
    }

    fn calls(&self, round: usize) -> usize {
        // Only the first teacher may be guided, or step by another method than DDIM's.
        let of_step = if round == 0 { self.first } else { 1 };
        let Round { teacher, student } = self.rounds[round];
        of_step * teacher / student
    }

    fn bytes(&self, n: usize) -> usize {
        self.bytes.0 + self.bytes.1 * self.rows * n
    }
}

#[cfg(test)]
mod tests;
