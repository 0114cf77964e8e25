use ndarray::{Array4, Zip};

use super::{Affine, Edict, Run};
use crate::error::Result;
use crate::math::sigma::Step;
use crate::sampling::denoiser::Denoiser;

/// Moves the chain `x` by one step with ε̂ of the other chain at the step's timestep: `f`(x, ε̂) per element.
fn coupled<D: Denoiser + ?Sized>(
    run: &mut Run<'_, D>,
    step: &Step,
    x: &mut Array4<f64>,
    other: &Array4<f64>,
    f: impl Fn(f64, f64) -> f64,
) -> Result<()> {
    let eps = run.ask(other, step.t, step.from)?.eps;
    Zip::from(x).and(&eps).for_each(|x, &eps| *x = f(*x, f64::from(eps)));
    Ok(())
}

/// x₀ → (x_T, y_T). Both chains start at the image.
pub(super) fn encode<D: Denoiser + ?Sized>(
    run: &mut Run<'_, D>,
    x0: &Array4<f32>,
    by: Edict,
) -> Result<[Array4<f64>; 2]> {
    let p = by.mix;
    let mut x = x0.mapv(f64::from);
    let mut y = x.clone();
    for (i, step) in run.plan.steps().iter().enumerate().rev() {
        let c = Affine::of(step);
        let (first, second) = if i % 2 == 0 { (&mut x, &mut y) } else { (&mut y, &mut x) };
        // Unmix in reverse order: the second chain was mixed last.
        Zip::from(&mut *second).and(&*first).for_each(|y, &x| *y = (*y - (1.0 - p) * x) / p);
        Zip::from(&mut *first).and(&*second).for_each(|x, &y| *x = (*x - (1.0 - p) * y) / p);
        let undo = |x: f64, eps: f64| (x - c.eps * eps) / c.x;
        coupled(run, step, second, first, undo)?;
        coupled(run, step, first, second, undo)?;
        run.step_done(step.t, step.s);
    }
    Ok([x, y])
}

/// (x_T, y_T) → x₀, the mean of the two chains. If they started at the same image, they differ only by rounding.
pub(super) fn decode<D: Denoiser + ?Sized>(
    run: &mut Run<'_, D>,
    [x, y]: &[Array4<f64>; 2],
    by: Edict,
) -> Result<Array4<f64>> {
    let p = by.mix;
    let (mut x, mut y) = (x.clone(), y.clone());
    for (i, step) in run.plan.steps().iter().enumerate() {
        let c = Affine::of(step);
        let (first, second) = if i % 2 == 0 { (&mut x, &mut y) } else { (&mut y, &mut x) };
        let step_down = |x: f64, eps: f64| c.x * x + c.eps * eps;
        coupled(run, step, first, second, step_down)?;
        coupled(run, step, second, first, step_down)?;
        Zip::from(&mut *first).and(&*second).for_each(|x, &y| *x = p * *x + (1.0 - p) * y);
        Zip::from(&mut *second).and(&*first).for_each(|y, &x| *y = p * *y + (1.0 - p) * x);
        run.step_done(step.t, step.s);
    }
    Ok((x + y) / 2.0)
}
