//! Recipes of distillations.

use super::{Decay, DistillRecipe, DistillWeight, Recipe, StudentPrediction, TeacherSolver};
use crate::error::{Error, Result};
use crate::io::checkpoint::Model;
use crate::math::trajectory::{Spacing, Trajectory};
use crate::objective::LossWeighting;
use crate::sampling::denoiser::Prediction;

impl TeacherSolver {
    /// Steps of the first teacher if nobody asks for others: as many, or the next number that halving leads to the student's.
    fn usual_steps(self) -> usize {
        match self {
            Self::Ddim => 32,
            Self::Heun => 8,
        }
    }
}

/// The usual probability of the null class, where the teacher has one.
const CLASS_DROPOUT: f64 = 0.1;

/// A round of a distillation: a student learns a teacher's deterministic steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Steps of the teacher.
    pub teacher: usize,
    /// Steps of the student: half of the teacher's, or as many in the round that only changes what the network predicts.
    pub student: usize,
}

impl DistillRecipe {
    /// The rounds, first to last. `from` and `conversion` have to be settled ([`Recipe::for_teacher`]).
    pub fn rounds(&self) -> Vec<Round> {
        let mut rounds = Vec::new();
        if self.conversion {
            rounds.push(Round { teacher: self.from, student: self.from });
        }
        let mut teacher = self.from;
        while teacher > self.steps {
            rounds.push(Round { teacher, student: teacher / 2 });
            teacher /= 2;
        }
        rounds
    }

    /// The loss weighting of the noise levels.
    pub fn weighting(&self) -> LossWeighting {
        match self.weighting {
            DistillWeight::TruncatedSnr => LossWeighting::TruncatedSnr,
            DistillWeight::SnrPlusOne => LossWeighting::SnrPlusOne,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let Self { steps, from, guidance, .. } = *self;
        if steps == 0 {
            return Err(Error::argument("distill.steps: expected at least 1, found 0"));
        }
        if from != 0 && !halves(from, steps) {
            let choices: Vec<String> = (1..5).filter_map(|i| Some(steps.checked_mul(1 << i)?.to_string())).collect();
            return Err(Error::argument(format!(
                "distill.from: halving {from} steps does not lead to {steps}; choose {}, … or another number of steps",
                choices.join(", ")
            )));
        }
        if !guidance.is_finite() {
            return Err(Error::argument(format!("distill.guidance: expected a finite weight, found {guidance}")));
        }
        Ok(())
    }

    /// Settles what depends on the teacher's `trained` timesteps, after checking that they allow these steps. `own` is the number
    /// of steps that the teacher itself was distilled for.
    fn settle(&mut self, trained: u32, own: Option<usize>) -> Result<()> {
        let (steps, most) = (self.steps, trained as usize);
        if steps == 0 || !most.is_multiple_of(steps) {
            // The first teacher needs twice as many.
            let leads = |n: usize| if self.from == 0 { 2 * n <= most } else { halves(self.from, n) };
            let near = (1..=most.min(steps.saturating_mul(4)))
                .filter(|&n| most.is_multiple_of(n) && n * 4 >= steps && leads(n));
            let near: Vec<String> = near.map(|n| n.to_string()).collect();
            return Err(Error::argument(format!(
                "distill.steps: {steps} does not divide the teacher's {most} timesteps, so diffusers would take other ones \
                 than the student learns; choose {}",
                if near.is_empty() {
                    "another number, and leave distill.from out".to_owned()
                } else {
                    format!("for example {}", near.join(", "))
                }
            )));
        }
        if let Some(own) = own {
            // Its predictions lead from each of its own times to the next, and nowhere else.
            if self.from != 0 && self.from != own {
                return Err(Error::argument(format!(
                    "distill.from: the teacher was distilled for {own} steps and cannot make {}; leave it out",
                    self.from
                )));
            }
            if !halves(own, steps) {
                return Err(Error::argument(format!(
                    "distill.steps: the teacher was distilled for {own} steps, and halving them does not lead to {steps}"
                )));
            }
            if self.solver != TeacherSolver::Ddim {
                return Err(Error::argument(format!(
                    "distill.solver: the teacher was distilled for {own} steps of ddim and knows no others; leave it out"
                )));
            }
            self.from = own;
        }
        if self.from == 0 {
            if steps > most / 2 {
                return Err(Error::argument(format!(
                    "distill.steps: the teacher has {most} trained timesteps, and {steps} steps are more than half of them"
                )));
            }
            self.from = 2 * steps;
            while self.from < self.solver.usual_steps() && 2 * self.from <= most {
                self.from *= 2;
            }
        }
        if self.from > most {
            return Err(Error::argument(format!(
                "distill.from: the teacher has {most} trained timesteps and cannot make {} steps; choose fewer",
                self.from
            )));
        }
        self.check()
    }
}

/// Whether halving `from` steps, at least once, leads to `steps`.
fn halves(from: usize, steps: usize) -> bool {
    from > steps && steps > 0 && from.is_multiple_of(steps) && (from / steps).is_power_of_two()
}

/// The timesteps of a student or its teacher: the trailing ones, which begin at T and which diffusers has too.
pub(in crate::train) fn trajectory(steps: usize, trained: u32) -> Result<Trajectory> {
    Trajectory::named(Spacing::Trailing, steps, trained, 0)
}

impl Recipe {
    /// The defaults of a distillation: its learning rate falls to 0 in every round.
    pub fn distillation() -> Self {
        let mut recipe = Self { distill: Some(DistillRecipe::default()), ..Self::default() };
        recipe.data.class_dropout = CLASS_DROPOUT;
        recipe.train.steps = 5000;
        recipe.optimizer.lr = 3e-4;
        recipe.optimizer.warmup = 100;
        recipe.optimizer.decay = Decay::Cosine;
        recipe.ema.decay = 0.999;
        recipe
    }

    /// Parses a recipe of a distillation, as [`parse`](Self::parse). It has no sections `model` and `diffusion`: those are
    /// the teacher's.
    ///
    /// ```
    /// use skipstone::train::Recipe;
    /// let recipe = Recipe::parse_distillation("[distill]\nsteps = 2", &["distill.from=8".into()])?;
    /// assert_eq!(recipe.distill.unwrap().rounds().last().unwrap().student, 2);
    /// # Ok::<(), skipstone::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_distillation(text: &str, overrides: &[String]) -> Result<Self> {
        Self::read(text, overrides, &Self::distillation())
    }

    /// The recipe with what it leaves to the teacher: the first number of steps, what the student predicts, whether a
    /// conversion comes first, and whether there are classes.
    ///
    /// # Errors
    /// It is no recipe of a distillation, the teacher does not have the timesteps for it, or it lacks the classes or the null
    /// class that the recipe asks for.
    pub fn for_teacher(mut self, teacher: &Model) -> Result<Self> {
        let Some(distill) = &mut self.distill else {
            return Err(Error::argument(
                "the recipe has no section [distill]; read it with Recipe::parse_distillation",
            ));
        };
        distill.settle(teacher.scheduler.schedule()?.train_steps(), teacher.scheduler.num_inference_steps)?;
        let own = teacher.scheduler.prediction_type;
        if distill.prediction == StudentPrediction::Auto {
            distill.prediction = match own {
                Prediction::Sample => StudentPrediction::Sample,
                Prediction::Epsilon | Prediction::Velocity => StudentPrediction::VPrediction,
            };
        }
        distill.conversion &= distill.predicts() != own;
        let classes = teacher.config.num_class_embeds.is_some();
        if self.data.classes && !classes {
            return Err(Error::argument("data.classes: the teacher is unconditional, so its student is; leave it out"));
        }
        self.data.classes = classes;
        if teacher.null_class.is_none() {
            if ![0.0, CLASS_DROPOUT].contains(&self.data.class_dropout) {
                return Err(Error::argument("data.class_dropout: the teacher has no null class; leave it out"));
            }
            self.data.class_dropout = 0.0;
        }
        Ok(self)
    }
}

impl DistillRecipe {
    /// The students' prediction type, once it is settled.
    pub(in crate::train) fn predicts(&self) -> Prediction {
        match self.prediction {
            StudentPrediction::Sample => Prediction::Sample,
            StudentPrediction::Auto | StudentPrediction::VPrediction => Prediction::Velocity,
        }
    }
}
