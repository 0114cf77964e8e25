//! Training: a recipe, a trainer that makes steps, and a run that keeps their results in a folder.

mod feed;
mod loss_scale;
mod recipe;
mod run;
mod same;
mod state;
mod trainer;

pub mod curve;
pub mod events;

pub use recipe::{
    DataRecipe, Decay, DiffusionRecipe, EmaRecipe, LossWeight, ModelRecipe, OptimizerKind, OptimizerRecipe, Recipe,
    Sum, TrainRecipe,
};
pub use run::{Event, RankReport, Run};
pub use trainer::{StepReport, Trainer};
