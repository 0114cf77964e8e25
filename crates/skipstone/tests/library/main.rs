//! The library's tests through its public interface, in one program: as programs of their own they would take four times as long to
//! build.

mod common;
mod distillation;
mod golden;
mod golden_adm;
mod golden_bf16;
mod golden_blocks;
mod golden_data;
mod golden_inversion;
mod golden_official;
mod golden_paper;
mod golden_samples;
mod golden_solvers;
mod golden_solvers_diffusers;
mod golden_steps;
mod golden_unet;
mod recipes;
mod regressions;
mod robustness;
mod theorem_1;
mod training;
