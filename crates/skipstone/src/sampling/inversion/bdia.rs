use ndarray::Array4;

use super::{Bdia, Run, moved};
use crate::error::Result;
use crate::sampling::denoiser::Denoiser;

/// x₀ → (x_T, the state one step below it). The first step up has no earlier state, so it is plain DDIM.
pub(super) fn encode<D: Denoiser + ?Sized>(
    run: &mut Run<'_, D>,
    x0: &Array4<f32>,
    by: Bdia,
) -> Result<[Array4<f64>; 2]> {
    let steps = run.plan.steps();
    let last = &steps[steps.len() - 1];
    let mut below = x0.mapv(f64::from);
    let denoised = run.ask_below(&below, last)?;
    let mut here = moved(&denoised, last.from);
    run.step_done(last.t, last.s);
    for pair in steps.windows(2).rev() {
        let [up, down] = [&pair[0], &pair[1]];
        let denoised = run.ask(&here, down.t, down.from)?;
        let above = moved(&denoised, up.from) + (below - moved(&denoised, down.to)) / by.gamma;
        (below, here) = (here, above);
        run.step_done(up.t, up.s);
    }
    Ok([here, below])
}

/// (x_T, the state one step below it) → x₀. The pair already holds the first step down, which saves one call.
pub(super) fn decode<D: Denoiser + ?Sized>(
    run: &mut Run<'_, D>,
    [above, here]: &[Array4<f64>; 2],
    by: Bdia,
) -> Result<Array4<f64>> {
    let (mut above, mut here) = (above.clone(), here.clone());
    run.step = 1;
    for pair in run.plan.steps().windows(2) {
        let [up, down] = [&pair[0], &pair[1]];
        let denoised = run.ask(&here, down.t, down.from)?;
        let below = moved(&denoised, down.to) + (above - moved(&denoised, up.from)) * by.gamma;
        (above, here) = (here, below);
        run.step_done(down.t, down.s);
    }
    Ok(here)
}
