//! Samples a `Denoiser` that is not a network but a closed form.
//!
//! The data are images whose pixels are −1 or 1, each with probability 1/2. The best prediction of such a pixel from
//! x_t = √a·x₀ + √(1−a)·ε is E[x₀ | x_t] = tanh(√a·x_t/(1−a)).
//!
//! ```text
//! cargo run -p skipstone --example own_denoiser
//! ```

use ndarray::Array4;
use skipstone::Result;
use skipstone::math::noise::{Forbidden, initial_latent};
use skipstone::math::schedule::{BetaSchedule, Schedule, Time};
use skipstone::math::trajectory::{Spacing, Trajectory};
use skipstone::sampling::denoiser::{Condition, Denoiser, Prediction};
use skipstone::sampling::sampler::{Plan, sample, unobserved};

struct Coins {
    schedule: Schedule,
}

impl Denoiser for Coins {
    fn shape(&self) -> [usize; 3] {
        [1, 16, 16]
    }

    fn prediction(&self) -> Prediction {
        Prediction::Sample
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], _: &[Condition]) -> Result<Array4<f32>> {
        let mut x0 = x_t.clone();
        // Every row has its own time.
        for (mut image, &t) in x0.outer_iter_mut().zip(times) {
            let level = self.schedule.level(t)?;
            image.mapv_inplace(|x| (level.signal() * f64::from(x) / level.one_minus).tanh() as f32);
        }
        Ok(x0)
    }
}

fn main() -> Result<()> {
    let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
    let plan = Plan::ddim(&schedule, &Trajectory::named(Spacing::Linear, 20, 1000, 0)?)?;
    let coins = Coins { schedule };
    let x_t = initial_latent(0, 0, 64, coins.shape());
    // η = 0 draws no noise; the observer prints how x̂₀ sharpens.
    let x0 = sample(&coins, &plan, x_t, &mut Forbidden, &[], &mut |progress| {
        let decided = progress.x0.iter().filter(|x0| x0.abs() > 0.9).count() as f64 / progress.x0.len() as f64;
        println!("step {:>2}: {:>5.1} % of the pixels are decided", progress.step, 100.0 * decided);
        unobserved(progress)
    })?;
    let ones = x0.iter().filter(|&&x0| x0 > 0.0).count() as f64 / x0.len() as f64;
    println!("{:.1} % of the pixels are 1; expected 50 %", 100.0 * ones);
    Ok(())
}
