//! Training: a recipe, a trainer that makes steps, and a run that keeps their results in a folder. A training learns from
//! data alone, or from a teacher (distillation).

mod distill;
mod feed;
mod loss_scale;
mod objective;
mod recipe;
mod run;
mod same;
mod state;
mod trainer;

pub mod curve;
pub mod events;

pub use recipe::{
    DataRecipe, Decay, DiffusionRecipe, DistillRecipe, DistillWeight, EmaRecipe, LossWeight, ModelRecipe,
    OptimizerKind, OptimizerRecipe, Recipe, Round, StudentPrediction, Sum, TeacherSolver, TrainRecipe,
};
pub use run::{Event, RankReport, Run};
pub use trainer::{StepReport, Trainer};
