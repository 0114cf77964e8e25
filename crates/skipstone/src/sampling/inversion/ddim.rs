use ndarray::Array4;

use super::{Run, moved};
use crate::error::Result;
use crate::sampling::denoiser::Denoiser;

/// x₀ → x_T along the plan's steps in reverse.
pub(super) fn encode<D: Denoiser + ?Sized>(run: &mut Run<'_, D>, x0: &Array4<f32>) -> Result<Array4<f64>> {
    let mut x = x0.mapv(f64::from);
    for step in run.plan.steps().iter().rev() {
        let denoised = run.ask_below(&x, step)?;
        x = moved(&denoised, step.from);
        run.step_done(step.t, step.s);
    }
    Ok(x)
}
